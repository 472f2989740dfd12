package tenantdb

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/maypok86/otter/v2"

	"github.com/leasehold-go/leasehold/db/tenant"
)

// maxScopes bounds how many tenants an engine remembers. One that was forgotten is made again from its *tenant.Tenant.
const maxScopes = 1 << 16

// DB runs queries inside the tenant that their context carries. It is safe for concurrent use.
type DB struct{ Handle }

// Close waits until every connection is given back and closes them. Calls made after it return ErrClosed.
func (db *DB) Close() { db.e.close() }

// Ping reports whether a connection can be had and answers. It is in no tenant and reads nothing.
func (db *DB) Ping(ctx context.Context) error {
	l, err := db.e.acquire(ctx)
	if err != nil {
		return err
	}
	defer l.release(ctx)
	return l.pg.Ping(ctx)
}

// Stat says how the connections are used at this moment.
func (db *DB) Stat() Stat {
	s := db.e.pool.Stat()
	return Stat{Max: cap(db.e.slots), Open: int(s.TotalConns()), InUse: int(s.AcquiredConns()), Created: s.NewConnsCount()}
}

// Stat are numbers of connections.
type Stat struct {
	Max     int   // that may be open at once
	Open    int   // that are open, or being opened
	InUse   int   // that are leased
	Created int64 // that were ever opened
}

// engine is what all handles of one DB share.
type engine struct {
	cfg    Config
	pool   *pgxpool.Pool
	slots  chan struct{} // one element for each connection in use
	scopes *otter.Cache[tenant.ID, *scope]
	shared *descriptions // only universal ones
	tracer tracer
	pooled atomic.Bool // a transaction pooler stands in between

	closed  atomic.Bool
	closing sync.WaitGroup // connections on their way out
}

func (e *engine) close() {
	e.closed.Store(true)
	e.pool.Close()
	e.closing.Wait()
	e.scopes.StopAllGoroutines()
}

// scopeOf returns the scope of a tenant.
func (e *engine) scopeOf(t *tenant.Tenant) (*scope, error) {
	if s, ok := e.scopes.GetIfPresent(t.ID); ok && s.fits(t) {
		return s, nil
	}
	s, err := newScope(t, e.cfg.ExtensionSchema)
	if err != nil {
		return nil, err
	}
	e.scopes.Set(t.ID, s)
	return s, nil
}

// Handle has the methods that generated code asks for. A DB is a Handle that takes the tenant from the context of each
// call; For returns one that is bound. It is a small value, safe for concurrent use, and good for as long as its DB is open.
type Handle struct {
	e     *engine
	bound *tenant.Tenant // nil: the context says
}

// For returns a handle bound to t, for work that has no request: jobs, commands, tests. A call whose context carries
// another tenant than t returns tenant.ErrMismatch.
func (h Handle) For(t *tenant.Tenant) Handle { return Handle{e: h.e, bound: t} }

// scope returns the scope of a call, or why there is none.
func (h Handle) scope(ctx context.Context) (*scope, error) {
	t, err := tenant.FromContext(ctx)
	switch {
	case h.bound == nil && err != nil:
		return nil, err
	case h.bound != nil && err == nil && t.ID != h.bound.ID:
		return nil, fmt.Errorf("%w: %s and %s", tenant.ErrMismatch, t.Slug, h.bound.Slug)
	case h.bound != nil:
		t = h.bound
	}
	return h.e.scopeOf(t)
}

// lease returns the scope of a call and a connection for it.
func (h Handle) lease(ctx context.Context) (*scope, *lease, error) {
	s, err := h.scope(ctx)
	if err != nil {
		return nil, nil, err
	}
	l, err := h.e.acquire(ctx)
	return s, l, err
}

// Exec runs one statement in one round trip and returns its command tag. See the package comment for what is guaranteed.
// Unlike pgx it takes no string of several statements: SendBatch is for those.
func (h Handle) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	return asTag(h.query(ctx, sql, args))
}

// Query runs a query in one round trip. The returned rows hold their connection until they are read to the end or closed;
// Err after that includes the error of the commit. The rows are never nil; on error they carry it too.
//
// Of pgx's leading arguments it takes QueryRewriter (such as pgx.NamedArgs), QueryResultFormats, QueryResultFormatsByOID, and
// every QueryExecMode but QueryExecModeSimpleProtocol, which is refused. The caching modes mean what they always mean here.
func (h Handle) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	return asRows(h.query(ctx, sql, args))
}

// QueryRow is Query for at most one row; every error comes out of Scan, pgx.ErrNoRows if there is no row. Scan must be
// called: it gives the connection back.
func (h Handle) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	return asRow(h.query(ctx, sql, args))
}

func (h Handle) query(ctx context.Context, sql string, args []any) (*Rows, error) {
	s, l, err := h.lease(ctx)
	if err != nil {
		return nil, err
	}
	c := call{scope: s, lease: l, ctx: h.e.tracer.context(ctx, h.bound)}
	return c.query(sql, args)
}
