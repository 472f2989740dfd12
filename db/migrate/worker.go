package migrate

import (
	"context"
	"maps"

	"github.com/jackc/pgx/v5"
)

const (
	// maxVisits is how many targets a connection visits: the server process behind it remembers the tables of each.
	maxVisits = 200
	// maxWorkers bounds how many targets are worked on at a time, if nobody says how many.
	maxWorkers = 8
)

// workers is how many targets to work on at a time. If the server cannot be asked, the targets will fail with the reason.
func (m *Migrator) workers(ctx context.Context, t Target) int {
	if m.cfg.Workers > 0 {
		return m.cfg.Workers
	}
	s, err := dial(ctx, t, m.cfg, nil)
	if err != nil {
		return 1
	}
	defer s.close()
	var spare int
	if err := s.conn.QueryRow(ctx, `select least(
			current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
				- (select count(*) from pg_catalog.pg_stat_activity where backend_type = 'client backend'),
			(select nullif(datconnlimit, -1) from pg_catalog.pg_database where datname = current_database()),
			(select nullif(rolconnlimit, -1) from pg_catalog.pg_roles where rolname = current_user))::int`).Scan(&spare); err != nil {
		return 1
	}
	return min(max(spare/4, 1), maxWorkers)
}

// worker goes from target to target, on one connection as long as that lasts. It is used by one goroutine at a time.
type worker struct {
	ctx  context.Context
	m    *Migrator
	stop <-chan struct{}
	s    *session // nil if there is none
}

// visit takes a target where the course leads. A connection on which something went wrong does not see another target.
func (w *worker) visit(t Target, c course, known ledgerState) (done []string, err error) {
	if err := t.validate(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			w.close()
		}
	}()
	if !w.reenter(t, known) {
		w.close()
		if w.s, err = dial(w.ctx, t, w.m.cfg, w.stop); err != nil {
			return nil, err
		}
		if err := w.s.arrive(t, known); err != nil {
			return nil, err
		}
	}
	return w.s.travel(w.m.set, c)
}

// reenter goes to a target on the connection that there is, and reports whether that is as good as a new one. It is not after anything
// but plain DDL: a setting that was never there comes back as an empty one, and a function outside the tenants' schemas stays
// compiled for the tables of the tenant that called it first.
func (w *worker) reenter(t Target, known ledgerState) bool {
	if w.s == nil || w.s.conn.IsClosed() || !w.s.clean || t.ExtensionSchema != "" || w.s.visited >= maxVisits || !alike(w.s.target.Conn, t.Conn) {
		return false
	}
	before := w.s.scope
	if err := w.s.enter(t, true, known); err != nil {
		return false // the new one will say what is wrong
	}
	return w.s.scope.user == before.user && w.s.scope.sessionUser == before.sessionUser && w.s.scope.backend == before.backend
}

// close ends the connection, if there is one.
func (w *worker) close() {
	if w.s != nil {
		w.s.close()
		w.s = nil
	}
}

// alike reports whether two configurations lead to sessions that begin alike.
func alike(a, b *pgx.ConnConfig) bool {
	return databaseOf(a) == databaseOf(b) && maps.Equal(a.RuntimeParams, b.RuntimeParams)
}

// database is what one connection can reach.
type database struct {
	host, name, user string
	port             uint16
}

func databaseOf(c *pgx.ConnConfig) database {
	return database{c.Host, c.Database, c.User, c.Port}
}
