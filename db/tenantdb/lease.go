package tenantdb

import (
	"context"
	"sync"
)

// lease is the use of one connection by one call, transaction or result set. It ends once.
type lease struct {
	e    *engine
	load *load
	*session
	once sync.Once
	// pinned says that the connection outlasts the call: it is a Session's.
	pinned bool
}

// acquire takes a free connection for the tenant, waiting for one if it must.
func (e *engine) acquire(ctx context.Context, t *load) (*lease, error) {
	s, err := t.pool.acquire(ctx, t)
	if err != nil {
		return nil, err
	}
	return &lease{e: e, load: t, session: s}, nil
}

// release ends the lease. The connection goes back to its lane only if nothing is left on it: it is open, idle, outside any
// transaction, and no cancel can still be under way to it. Otherwise it is closed.
func (l *lease) release(ctx context.Context) {
	if l.pinned {
		if !l.idle() {
			l.abort()
		}
		return
	}
	l.once.Do(func() { l.load.pool.release(l.session, l.load, ctx.Err() == nil && l.idle()) })
}

// The transaction states that the server reports with ReadyForQuery.
const (
	txIdle   = 'I'
	txOpen   = 'T'
	txFailed = 'E'
)
