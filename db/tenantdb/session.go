package tenantdb

import (
	"strconv"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// sessionKey is where a connection keeps its session among pgconn's custom data.
const sessionKey = "leasehold"

// session is what we know of one connection: which statements are parsed on it under which names. It says nothing of a
// current tenant, because there is none. It belongs to whoever leases the connection.
type session struct {
	conn *pgx.Conn
	pg   *pgconn.PgConn
	// scopeReady says that scopeName is parsed.
	scopeReady bool
	statements *lru[statementKey, *statement]
	// closing are names to be closed in the next flight.
	closing []string
	// names counts the names given; a name is never given twice, since the server may still know it after an error.
	names uint64
	args  pgx.ExtendedQueryBuilder
}

// statementKey says whose statement it is: the same SQL is another statement for another tenant, with types and a plan of
// its own.
type statementKey struct {
	scope *scope
	sql   string
}

// statement is what a connection knows of a tenant's statement. Seen once it has no name; when it comes again it gets one.
type statement struct {
	sd *pgconn.StatementDescription // nil while unnamed
}

func newSession(conn *pgx.Conn, statements int) *session {
	s := &session{conn: conn, pg: conn.PgConn()}
	s.statements = newLRU(statements, func(_ statementKey, st *statement) {
		if st.sd != nil {
			s.closing = append(s.closing, st.sd.Name)
		}
	})
	return s
}

func (s *session) newName() string {
	s.names++
	return "lh_" + strconv.FormatUint(s.names, 10)
}
