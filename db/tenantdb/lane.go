package tenantdb

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// lease is the use of one connection by one call, transaction or result set. It ends once.
type lease struct {
	e    *engine
	conn *pgxpool.Conn
	*session
	once sync.Once
}

// acquire takes a free connection, waiting for one if it must.
func (e *engine) acquire(ctx context.Context) (*lease, error) {
	if e.closed.Load() {
		return nil, ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("context already done: %w", err)
	}
	if err := e.takeSlot(ctx); err != nil {
		return nil, err
	}
	conn, err := e.pool.Acquire(ctx)
	if err != nil {
		<-e.slots
		if e.closed.Load() {
			return nil, ErrClosed
		}
		return nil, err
	}
	s, ok := conn.Conn().PgConn().CustomData()[sessionKey].(*session)
	if !ok {
		panic("tenantdb: a connection without a session came out of the pool")
	}
	return &lease{e: e, conn: conn, session: s}, nil
}

// takeSlot waits for the right to use a connection. There are as many slots as connections, so that the wait happens here,
// first come first served, with an error of ours when it takes too long.
func (e *engine) takeSlot(ctx context.Context) error {
	select {
	case e.slots <- struct{}{}:
		return nil
	default:
	}
	timer := time.NewTimer(e.cfg.AcquireTimeout)
	defer timer.Stop()
	select {
	case e.slots <- struct{}{}:
		return nil
	case <-timer.C:
		return fmt.Errorf("%w: waited %s, all %d are in use", ErrBusy, e.cfg.AcquireTimeout, cap(e.slots))
	case <-ctx.Done():
		return fmt.Errorf("%w: all %d are in use: %w", ErrBusy, cap(e.slots), context.Cause(ctx))
	}
}

// release ends the lease. The connection goes back to the pool only if nothing is left on it: it is open, idle, outside any
// transaction, and no cancel can still be under way to it. Otherwise it is closed.
func (l *lease) release(ctx context.Context) {
	l.once.Do(func() {
		if ctx.Err() == nil && l.idle() {
			l.conn.Release()
		} else {
			l.destroy()
		}
		<-l.e.slots
	})
}

// destroy closes the connection without making the caller wait for the server's answer.
func (l *lease) destroy() {
	l.e.closing.Add(1) // before the pool lets go of it, so that close waits for one of the two
	conn := l.conn.Hijack()
	go func() {
		defer l.e.closing.Done()
		ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
		defer cancel()
		_ = conn.Close(ctx) // there is nobody left to tell
	}()
}

const closeTimeout = 5 * time.Second

// The transaction states that the server reports with ReadyForQuery.
const (
	txIdle   = 'I'
	txOpen   = 'T'
	txFailed = 'E'
)
