package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// reader is what an audit needs.
type reader interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// audit compares a schema with its books. Nobody may be writing to it.
func (s *soak) audit(ctx context.Context, q reader, h *house) error {
	table := h.Placement.Schema + ".items"
	var f found
	err := q.QueryRow(ctx, `SELECT count(*) FILTER (WHERE id < $1), count(*) FILTER (WHERE owner <> $2 OR mood::text NOT IN ('calm', $3)),
		coalesce(sum(qty) FILTER (WHERE id < $1), 0)::bigint, count(*) FILTER (WHERE id >= $1), coalesce(sum(id) FILTER (WHERE id >= $1), 0)
		FROM `+table, firstID, string(h.Slug), h.label).Scan(&f.standing, &f.foreign, &f.added, &f.rows, &f.idSum)
	if err != nil {
		return fmt.Errorf("audit of %s: %w", h.Slug, err)
	}
	sure, doubts := h.snapshot()
	var ids []int32
	for _, e := range doubts {
		for _, b := range e.blocks {
			for i := range b.n {
				ids = append(ids, b.first+i)
			}
		}
	}
	if f.present, err = present(ctx, q, table, ids); err != nil {
		return fmt.Errorf("audit of %s: %w", h.Slug, err)
	}
	for _, text := range h.compare(sure, doubts, f, s.standing) {
		s.fault("audit: %s", text)
	}
	s.wrong.Add(f.foreign)
	return nil
}

// present returns which of the ids are there.
func present(ctx context.Context, q reader, table string, ids []int32) (map[int32]bool, error) {
	there := map[int32]bool{}
	if len(ids) == 0 {
		return there, nil
	}
	rows, err := q.Query(ctx, "SELECT id FROM "+table+" WHERE id = ANY($1)", ids)
	if err != nil {
		return nil, err
	}
	var id int32
	_, err = pgx.ForEachRow(rows, []any{&id}, func() error {
		there[id] = true
		return nil
	})
	return there, err
}

// temporaries counts what sessions have left in a database.
const temporaries = "SELECT count(*) FROM pg_class WHERE relpersistence = 't'"

// auditAll audits every schema that is there.
func (s *soak) auditAll(ctx context.Context, conn *pgx.Conn) error {
	for _, h := range s.houses {
		if h.look().gone {
			continue
		}
		err := s.visit(ctx, h, conn, func(conn *pgx.Conn) error {
			return errors.Join(s.audit(ctx, conn, h), s.awaitNone(ctx, conn, "temporary objects are left in the database of "+string(h.Slug), temporaries))
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// inspector asks the server what goes on in it. It is not safe for concurrent use.
type inspector struct {
	conn      *pgx.Conn
	databases []string
	logins    []string
	before    sessions
}

// sessions are the server's own numbers of the connections to the databases.
type sessions struct{ opened, killed int64 }

func newInspector(ctx context.Context, s *soak) (*inspector, error) {
	conn, err := s.superuser(ctx)
	if err != nil {
		return nil, err
	}
	in := &inspector{conn: conn, databases: s.site.databases, logins: s.site.logins}
	in.before, err = in.sessions(ctx)
	return in, err
}

func (in *inspector) close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = in.conn.Close(ctx)
}

func (in *inspector) sessions(ctx context.Context) (st sessions, err error) {
	err = in.conn.QueryRow(ctx, "SELECT sum(sessions)::bigint, sum(sessions_killed)::bigint FROM pg_stat_database WHERE datname = ANY($1)", in.databases).Scan(&st.opened, &st.killed)
	return sessions{st.opened - in.before.opened, st.killed - in.before.killed}, err
}

// quiet waits until no backend of the door's is at work, and notes those that stay.
func (in *inspector) quiet(ctx context.Context, s *soak) error {
	const atWork = "SELECT count(*) FROM pg_stat_activity WHERE datname = ANY($1) AND usename = ANY($2) AND state <> 'idle'"
	return s.awaitNone(ctx, in.conn, "backends are still at work or in a transaction", atWork, in.databases, in.logins)
}

// look waits for the door's backends to end, notes what they have left, and returns how many there were.
func (in *inspector) look(ctx context.Context, s *soak) (sessions, error) {
	if !s.site.pooled { // a pooler keeps its own
		const all = "SELECT count(*) FROM pg_stat_activity WHERE datname = ANY($1) AND usename = ANY($2)"
		if err := s.awaitNone(ctx, in.conn, "backends have not ended", all, in.databases, in.logins); err != nil {
			return sessions{}, err
		}
	}
	for what, sql := range map[string]string{
		"advisory locks are held":     "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'",
		"temporary objects are left":  temporaries,
		"prepared transactions exist": "SELECT count(*) FROM pg_prepared_xacts",
	} {
		if err := s.awaitNone(ctx, in.conn, what, sql); err != nil {
			return sessions{}, err
		}
	}
	return in.sessions(ctx)
}

// awaitNone waits until a count is zero. If it stays above, that is a fault.
func (s *soak) awaitNone(ctx context.Context, conn *pgx.Conn, what, sql string, args ...any) error {
	var n int
	none, err := s.eventually(ctx, func() (bool, error) {
		err := conn.QueryRow(ctx, sql, args...).Scan(&n)
		return n == 0, err
	})
	if err == nil && !none {
		s.fault("%d %s", n, what)
	}
	return err
}
