package tenantdb

import (
	"context"
	"fmt"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/maypok86/otter/v2"

	"github.com/leasehold-go/leasehold/db/tenant"
)

// maxScopes bounds how many tenants an engine remembers. One that was forgotten is made again from its *tenant.Tenant.
const maxScopes = 1 << 16

// DB runs queries inside the tenant that their context carries. It is safe for concurrent use.
type DB struct{ Handle }

// Close waits until every connection is given back and closes them. Calls made after it return ErrClosed.
func (db *DB) Close() { db.e.close() }

// Ping reports whether a connection to the cluster of Config.ConnConfig can be had and answers. It is in no tenant and reads nothing.
func (db *DB) Ping(ctx context.Context) error {
	l, err := db.e.acquire(ctx, db.e.nobody)
	if err != nil {
		return err
	}
	defer l.release(ctx)
	return l.pg.Ping(ctx)
}

// engine is what all handles of one DB share.
type engine struct {
	cfg    Config
	life   context.Context // ends when the engine is closed
	home   *server         // where Config.ConnConfig leads
	nobody *load           // of calls that are in no tenant
	pins   *pins           // rights to have a Session
	scopes *otter.Cache[tenant.ID, *scope]
	loads  *otter.Cache[loadKey, *load]
	shared *descriptions // with built-in types only
	tracer tracer

	serverMu sync.Mutex
	servers  map[string]*server // by cluster; guarded by serverMu, nil when closed

	scopeMu sync.Mutex // held while a scope is put among scopes

	fitMu sync.Mutex
	fit   map[door]bool // logins that were checked, and where; guarded by fitMu

	closing chan struct{}      // closed when close begins
	end     context.CancelFunc // ends what runs in the background
	working sync.WaitGroup     // goroutines that open, end or look after connections
	ending  sync.Once
}

func (e *engine) close() {
	e.ending.Do(func() {
		close(e.closing)
		e.closeServers()
		e.end()
		e.working.Wait()
		e.scopes.StopAllGoroutines()
		e.loads.StopAllGoroutines()
	})
}

// scopeOf returns the scope of a tenant.
func (e *engine) scopeOf(t *tenant.Tenant) (*scope, error) {
	old, ok := e.scopes.GetIfPresent(t.ID)
	if ok && old.tenant == t {
		return old, nil
	}
	s, err := newScope(t, e.cfg)
	if err != nil {
		return nil, err
	}
	// Under a lock: two loads of one tenant would count its share twice.
	e.scopeMu.Lock()
	defer e.scopeMu.Unlock()
	if s.load, err = e.loadOf(s.load); err != nil {
		return nil, err
	}
	switch old, ok := e.scopes.GetIfPresent(t.ID); {
	case ok && old.holdsLike(s):
		return old, nil
	case ok && old.tenant.Generation > t.Generation: // somebody has kept an old record
		return s, nil
	}
	e.scopes.Set(t.ID, s)
	return s, nil
}

// loadKey says whose load it is, and where.
type loadKey struct {
	id   tenant.ID
	door door
}

// loadOf returns the load that all records of a tenant share which lead to the same place: the one given, if it is the first.
func (e *engine) loadOf(t *load) (*load, error) {
	key := loadKey{t.id, t.door}
	if old, ok := e.loads.GetIfPresent(key); ok {
		return old, nil
	}
	if err := e.settle(t); err != nil {
		return nil, err
	}
	e.loads.Set(key, t)
	return t, nil
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
	l, err := h.e.acquire(ctx, s.load)
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
	rows, err := h.queryOnce(ctx, sql, args)
	if err != nil {
		err = h.lookAgain(ctx, err)
	}
	if !h.mayRefresh(err) {
		return rows, err
	}
	if h, err = h.refresh(ctx, err); err != nil {
		return nil, err
	}
	return h.queryOnce(ctx, sql, args)
}

func (h Handle) queryOnce(ctx context.Context, sql string, args []any) (*Rows, error) {
	s, l, err := h.lease(ctx)
	if err != nil {
		return nil, err
	}
	c := call{scope: s, lease: l, ctx: h.e.tracer.context(ctx, h.bound)}
	return c.query(sql, args)
}
