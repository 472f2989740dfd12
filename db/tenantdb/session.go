package tenantdb

import (
	"context"
	"reflect"
	"strconv"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/jackc/pgx/v5/pgtype"
)

// sessionKey is where a connection keeps its session among pgconn's custom data.
const sessionKey = "leasehold"

// session is what we know of one connection: which statements are parsed on it under which names. It says nothing of a
// current tenant, because there is none. It belongs to whoever leases the connection.
type session struct {
	conn    *pgx.Conn
	pg      *pgconn.PgConn
	fe      *pgproto3.Frontend
	watcher *ctxwatch.ContextWatcher
	// closing counts the goroutines that end connections; it is the engine's.
	closing *sync.WaitGroup
	// out is what the next flight will write. It is not pgconn's own buffer: pgconn appends its Terminate to that one when it
	// gives a connection up, and would write again what a background write has not yet finished.
	out    []byte
	outErr error
	// flying says that answers are still to be read.
	flying bool
	// scopeReady says that scopeName is parsed.
	scopeReady bool
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

func newSession(conn *pgx.Conn, statements int, closing *sync.WaitGroup) *session {
	pg := conn.PgConn()
	s := &session{
		conn: conn, pg: pg, fe: pg.Frontend(), closing: closing,
		watcher: ctxwatch.NewContextWatcher(conn.Config().BuildContextWatcherHandler(pg)),
	}
	s.statements = newLRU(statements, func(_ statementKey, st *statement) {
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
	s.closing.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), cancelTimeout)
		defer cancel()
		_ = s.pg.CancelRequest(ctx) // the server notices the closed connection in the end
	})
}
