package directory

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// channel is what the registry's triggers notify, with one slug or domain.
	channel = "leasehold_tenants"

	// quietTime is the usual listener.quiet.
	quietTime = 30 * time.Second
	// answerTime bounds an attempt to connect, and the wait for a sign of life.
	answerTime = 5 * time.Second

	firstRetry = 100 * time.Millisecond
	lastRetry  = 10 * time.Second
)

// listener keeps a connection that hears of each change of a tenant and makes the cache forget it. It has one goroutine, which
// close ends.
type listener struct {
	connConfig *pgx.ConnConfig
	cache      *cache
	changed    func() // called after each change, and must not block
	logger     *slog.Logger
	// quiet is how long a silent connection is trusted before it is asked whether it still lives.
	quiet  time.Duration
	cancel context.CancelFunc
	done   sync.WaitGroup
}

// listen returns when the first connection listens. The listener outlives ctx.
func listen(ctx context.Context, connConfig *pgx.ConnConfig, c *cache, changed func(), logger *slog.Logger, quiet time.Duration,
) (*listener, error) {
	l := &listener{connConfig: connConfig, cache: c, changed: changed, logger: logger, quiet: quiet}
	conn, err := l.connect(ctx)
	if err != nil {
		return nil, err
	}
	runCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	l.cancel = cancel
	l.done.Go(func() { l.run(runCtx, conn) })
	return l, nil
}

func (l *listener) close() {
	l.cancel()
	l.done.Wait()
}

// connect returns a connection that listens. What changed before it did so may have been missed, so the cache is expired.
func (l *listener) connect(ctx context.Context) (*pgx.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	conn, err := pgx.ConnectConfig(ctx, l.connConfig)
	if err != nil {
		return nil, err
	}
	if _, err := conn.Exec(ctx, "LISTEN "+channel); err != nil {
		closeConn(conn)
		return nil, err
	}
	l.cache.expireAll()
	return conn, nil
}

// run listens until ctx ends, over as many connections as that takes.
func (l *listener) run(ctx context.Context, conn *pgx.Conn) {
	for {
		err := l.receive(ctx, conn)
		closeConn(conn)
		if ctx.Err() != nil {
			return
		}
		l.logger.WarnContext(ctx, "no longer listening for changes of tenants; they are noticed by time only", "error", err)
		if conn = l.reconnect(ctx); conn == nil {
			return
		}
		l.logger.InfoContext(ctx, "listening for changes of tenants again")
	}
}

// receive handles notifications until the connection breaks or ctx ends.
func (l *listener) receive(ctx context.Context, conn *pgx.Conn) error {
	for {
		waitCtx, cancel := context.WithTimeout(ctx, l.quiet)
		n, err := conn.WaitForNotification(waitCtx)
		cancel()
		switch {
		case err == nil:
			l.cache.invalidate(n.Payload)
			l.changed()
		case ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded):
			if err := ping(ctx, conn); err != nil {
				return err
			}
		default:
			return err
		}
	}
}

func ping(ctx context.Context, conn *pgx.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	return conn.Ping(ctx)
}

// reconnect tries until it succeeds, with growing pauses. It returns nil when ctx ends.
func (l *listener) reconnect(ctx context.Context) *pgx.Conn {
	pause := time.NewTimer(0)
	defer pause.Stop()
	for delay := firstRetry; ; delay = min(2*delay, lastRetry) {
		select {
		case <-ctx.Done():
			return nil
		case <-pause.C:
		}
		conn, err := l.connect(ctx)
		if err == nil {
			return conn
		}
		l.logger.DebugContext(ctx, "the registry cannot be reached", "error", err, "next_try", delay)
		pause.Reset(delay)
	}
}

// closeConn closes a connection politely if the server takes it, and in any case.
func closeConn(conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), answerTime)
	defer cancel()
	_ = conn.Close(ctx) // there is nothing to do about a connection that does not close well
}
