package tenantdb

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/leasehold-go/leasehold/db/tenant"
)

// server is a cluster as the engine sees it: what stands before it, whether it answers, and the pools of connections to it.
type server struct {
	name    string
	pooled  atomic.Bool // a transaction pooler stands in between
	outage  outage
	shared  *lanes     // to the database that its tenants share
	private *databases // to databases of tenants' own
}

// pool is where a tenant's connections come from, and go back to.
type pool interface {
	acquire(ctx context.Context, t *load) (*session, error)
	release(s *session, t *load, reusable bool)
	// close turns away who waits, closes what is idle, and waits until every lease is over.
	close()
}

// door is what of a placement decides where a connection leads: the cluster, the strategy, the database and the login. Where the
// database is shared, its name is left out.
type door = tenant.Placement

// doorOf returns the door to a tenant. The default login of a shared database is the one without a name.
func doorOf(p tenant.Placement, cfg Config) door {
	d := door{Cluster: p.Cluster, Strategy: p.Strategy, Login: p.Login}
	if d.Cluster == "" {
		d.Cluster = cfg.Cluster
	}
	switch {
	case p.Strategy == tenant.DatabaseStrategy:
		d.Database = p.Database
	case d.Cluster == cfg.Cluster && p.Login == cfg.ConnConfig.User:
		d.Login = ""
	}
	return d
}

// server returns the server of a cluster, which it makes at the first use.
func (e *engine) server(cluster string) (*server, error) {
	e.serverMu.Lock()
	defer e.serverMu.Unlock()
	if sv := e.servers[cluster]; sv != nil {
		return sv, nil
	}
	if e.servers == nil {
		return nil, ErrClosed
	}
	sv := &server{name: cluster}
	sv.pooled.Store(e.cfg.Pooler == PoolerTransaction)
	sv.shared = newLanes(e.life, e.cfg, &e.working, func(ctx context.Context, login string) (*session, error) {
		return e.dialSafely(ctx, sv, door{Cluster: cluster, Strategy: tenant.SchemaStrategy, Login: login})
	})
	sv.private = newDatabases(e.life, e.cfg, &e.working, func(ctx context.Context, d door) (*session, error) {
		return e.dialSafely(ctx, sv, d)
	})
	e.servers[cluster] = sv
	return sv, nil
}

// settle gives a load its pool.
func (e *engine) settle(t *load) error {
	sv, err := e.server(t.door.Cluster)
	if err != nil {
		return err
	}
	t.server, t.pool = sv, sv.shared
	if t.door.Strategy == tenant.DatabaseStrategy {
		t.pool = sv.private
	}
	return nil
}

// closeServers closes the pools of all servers, and waits for their leases to be over. No server is made after it.
func (e *engine) closeServers() {
	e.serverMu.Lock()
	servers := e.servers
	e.servers = nil
	e.serverMu.Unlock()
	var closing sync.WaitGroup
	for _, sv := range servers {
		closing.Go(sv.shared.close)
		closing.Go(sv.private.close)
	}
	closing.Wait()
}

// dialSafely dials for as long as the engine is open, and no longer than dialTimeout. A panic of Config.Login or of a hook is an
// error: in the background nobody could recover from it. While nobody answers at the server's address, one call in a second tries it.
func (e *engine) dialSafely(caller context.Context, sv *server, d door) (s *session, err error) {
	ctx, cancel := context.WithTimeout(caller, dialTimeout)
	defer cancel()
	defer context.AfterFunc(e.life, cancel)()
	if err := sv.outage.enter(); err != nil {
		return nil, err
	}
	defer func() {
		if v := recover(); v != nil {
			s, err = nil, fmt.Errorf("tenantdb: panic while a connection was opened: %v", v)
		}
		sv.outage.leave(err, over(caller) || e.life.Err() != nil)
	}()
	return e.dial(ctx, sv, d)
}

// over reports whether a context has ended. The network has a clock of its own for the deadline, and may be ahead of the context.
func over(ctx context.Context) bool {
	deadline, ok := ctx.Deadline()
	return ctx.Err() != nil || ok && !time.Now().Before(deadline)
}

// retryAfter is how long a server that did not answer is left alone.
const retryAfter = time.Second

// outage remembers that a server does not answer, so that its tenants' calls fail at once and do not each wait for the network. It
// takes nothing but a connection that works to end it.
type outage struct {
	mu    sync.Mutex
	err   error     // why the server could last not be reached; nil while it answers
	after time.Time // when it may be tried again
}

// enter returns the error of the last attempt, if it is too early for another one.
func (o *outage) enter() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case o.err == nil:
		return nil
	case time.Now().Before(o.after):
		return o.err
	}
	o.after = time.Now().Add(retryAfter) // for all the others
	return nil
}

// leave notes how an attempt ended. One that its caller has given up says nothing about the server.
func (o *outage) leave(err error, givenUp bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case err == nil:
		o.err = nil
	case !givenUp && isOutage(err):
		o.err, o.after = anybodys(err), time.Now().Add(retryAfter)
	}
}

// anybodys is what an outage says to others than the one who met it: nothing of that one's login and database.
func anybodys(err error) error {
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		return fmt.Errorf("connect: %w: %w", ErrUnavailable, pgErr)
	}
	var netErr *net.OpError
	errors.As(err, &netErr) // as isOutage has seen
	return fmt.Errorf("connect: %w: %w", ErrUnavailable, netErr)
}

// isOutage reports whether nobody answers at the server's address, or it says that it is not open yet. A connection that is lost, or gets
// no further, once the server was reached is no outage: it may be the fault of one database or of one tenant.
func isOutage(err error) bool {
	if !errors.Is(err, ErrUnavailable) {
		return false
	}
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		return pgErr.Code == codeCannotConnectNow
	}
	var netErr *net.OpError
	return errors.As(err, &netErr) && netErr.Op == "dial"
}

// fullFor is how long no connection is opened to a server that had no slot for one, but in place of one that is closed. Calls wait
// meanwhile: somebody else has the slots, and gives them back some time.
const fullFor = 100 * time.Millisecond

// slots remembers that a server had none left. The lock of the pool guards it.
type slots struct{ none time.Time }

// refused reports whether that is what an error of opening a connection says.
func (s *slots) refused(err error) bool {
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) || pgErr.Code != codeTooManyConnections {
		return false
	}
	s.none = time.Now().Add(fullFor)
	return true
}

func (s *slots) left() bool { return s.none.IsZero() || time.Now().After(s.none) }

// shortage is what is added to the reason why a call waits.
func (s *slots) shortage() string {
	if s.left() {
		return ""
	}
	return "; the server takes no more of them"
}

// connectError dresses an error of connecting: a server that says nothing, or that it takes no connections now, is unavailable; any
// other answer is about the login or the database.
func connectError(err error) error {
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		switch pgErr.Code {
		case codeCannotConnectNow, codeAdminShutdown, codeCrashShutdown, codeTooManyConnections:
		default:
			return fmt.Errorf("connect: %w", err)
		}
	}
	return fmt.Errorf("connect: %w: %w", ErrUnavailable, err)
}
