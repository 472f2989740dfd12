package tenantdb

import (
	"context"
	"io"
	"math/rand/v2"
	"reflect"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/leasehold-go/leasehold/db/tenant"
)

// session is what we know of one connection: which statements are parsed on it under which names. It says nothing of a
// current tenant, because there is none. It belongs to whoever leases the connection.
type session struct {
	conn    *pgx.Conn
	pg      *pgconn.PgConn
	fe      *pgproto3.Frontend
	watcher *ctxwatch.ContextWatcher
	// working counts goroutines; it is the engine's.
	working *sync.WaitGroup

	server *server

	// What follows is the pool's, and guarded by its lock.
	lane      *lane
	login     string // "" is the default one
	expires   time.Time
	idleSince time.Time
	idleFor   time.Duration // before it was leased
	lent      time.Time     // when the lease began
	tenants   map[tenant.ID]struct{}
	// Only where the tenant has a database of its own:
	door  door
	owner *load     // whose count of connections it is in
	since time.Time // when it was opened, or last free

	// What follows belongs to the lease.

	// out is what the next flight will write. It is not pgconn's own buffer: pgconn appends its Terminate to that one when it
	// gives a connection up, and would write again what a background write has not yet finished.
	out    []byte
	outErr error
	// flying says that answers are still to be read.
	flying bool
	// scopes are the names of the scope statements that are parsed.
	scopes     map[string]bool
	statements *lru[statementKey, *statement]
	// unneeded are names to be closed in the next flight.
	unneeded []string
	// names counts the names given; a name is never given twice, since the server may still know it after an error.
	names uint64

	// What follows is memory that calls use one after the other.
	args  pgx.ExtendedQueryBuilder
	bind  pgproto3.Bind
	plans []pgtype.ScanPlan
	types []reflect.Type

	// reads is the map of types that results are read with; arguments are written with the connection's own.
	reads *pgtype.Map
}

// statementKey says whose statement it is: the same SQL is another statement for another tenant, with types and a plan of
// its own.
type statementKey struct {
	scope *scope
	sql   string
}

// statement is what a connection knows of a tenant's statement. Seen once it has no name; when it comes again it gets one.
type statement struct {
	name string // "" while unnamed
	// desc is the description that the name was parsed with: arguments and results are coded by it and by no other.
	desc *description
	// fields are the columns in the formats that are asked for unless the caller says otherwise. Empty if there are none, or
	// if they are not known before the statement runs.
	fields []pgconn.FieldDescription
}

func newSession(conn *pgx.Conn, sv *server, cfg Config, working *sync.WaitGroup) *session {
	pg := conn.PgConn()
	life := cfg.MaxConnLifetime + rand.N(cfg.MaxConnLifetime/10+1) // so that not all of them end together
	s := &session{
		conn: conn, pg: pg, fe: pg.Frontend(), server: sv, working: working, reads: newReadMap(),
		expires: time.Now().Add(life), tenants: make(map[tenant.ID]struct{}), scopes: make(map[string]bool),
		watcher: ctxwatch.NewContextWatcher(conn.Config().BuildContextWatcherHandler(pg)),
	}
	if cfg.RegisterTypes != nil {
		cfg.RegisterTypes(conn.TypeMap())
		cfg.RegisterTypes(s.reads)
	}
	s.statements = newLRU(cfg.StatementCacheSize, func(_ statementKey, st *statement) {
		if st.name != "" {
			s.unneeded = append(s.unneeded, st.name)
		}
	})
	return s
}

func (s *session) newName() string {
	s.names++
	return "lh_" + strconv.FormatUint(s.names, 10)
}

// idle reports whether nothing is left on the connection.
func (s *session) idle() bool {
	return !s.flying && !s.pg.IsClosed() && !s.pg.IsBusy() && s.pg.TxStatus() == txIdle
}

// abort closes the connection at once, and has the server stop what it does for it.
func (s *session) abort() {
	if s.pg.IsClosed() {
		_ = s.pg.Conn().Close() // ends a write that nobody reads; pgconn asks the server by itself
		return
	}
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	_ = s.pg.Conn().Close()
	_ = s.pg.Close(ended) // only notes that it is closed
	s.working.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), cancelTimeout)
		defer cancel()
		_ = s.pg.CancelRequest(ctx) // the server notices the closed connection in the end
	})
}

func (s *session) expired(now time.Time) bool { return now.After(s.expires) }

// lives reports whether a connection that was just leased is still open. One that lay idle is looked at without a round trip;
// only one that looks broken is asked.
func (s *session) lives(ctx context.Context) bool {
	return s.idleFor < time.Second || quiet(s.pg.Conn()) || s.pg.Ping(ctx) == nil
}

const closeTimeout = 5 * time.Second

// close ends the connection in order, and waits no longer than closeTimeout.
func (s *session) close() { hangUp(s.conn) }

// hangUp waits until the server has hung up too: until then the connection has its place there.
func hangUp(conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	if pg := conn.PgConn(); !pg.IsClosed() && !pg.IsBusy() {
		pg.Frontend().Send(&pgproto3.Terminate{})
		if pg.Frontend().Flush() == nil && pg.Conn().SetReadDeadline(time.Now().Add(closeTimeout)) == nil {
			_, _ = io.Copy(io.Discard, pg.Conn())
		}
	}
	_ = conn.Close(ctx) // there is nobody left to tell
}
