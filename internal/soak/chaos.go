package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/db/tenant"
)

// unleash starts the landlord and the killer. stop ends them, and brings back what the landlord has hidden.
func (s *soak) unleash(ctx context.Context) (stop func() deeds, err error) {
	in, err := newInspector(ctx, s)
	if err != nil {
		return nil, err
	}
	conn, err := s.superuser(ctx)
	if err != nil {
		in.close()
		return nil, err
	}
	if err := s.allowTemporary(ctx, conn); err != nil {
		in.close()
		return nil, errors.Join(err, conn.Close(ctx))
	}
	l := &landlord{soak: s, conn: conn, rng: s.rng(1), beat: s.newBeat(400, 5, 500), wide: map[*house]bool{}}
	k := &killer{soak: s, in: in, rng: s.rng(2), beat: s.newBeat(1000, 20, 100)}
	quit := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { l.run(ctx, quit) })
	wg.Go(func() { k.run(ctx, quit) })
	return func() deeds {
		close(quit)
		wg.Wait()
		in.close()
		l.did.kills = k.sent
		return l.did
	}, nil
}

// follow acts at each beat until it is told to quit.
func (s *soak) follow(ctx context.Context, quit <-chan struct{}, b *beat, who string, act func(context.Context) error) {
	for {
		select {
		case <-quit:
			return
		case <-ctx.Done():
			return
		case <-b.c:
			if err := act(ctx); err != nil && ctx.Err() == nil {
				s.fault("the %s failed: %v", who, err)
			}
		}
	}
}

// superuser opens a connection that does not share the fate of the others, to the database that tenants share.
func (s *soak) superuser(ctx context.Context) (*pgx.Conn, error) {
	return s.superuserOf(ctx, s.site.fleet.Admin().Database)
}

func (s *soak) superuserOf(ctx context.Context, database string) (*pgx.Conn, error) {
	cc := s.site.fleet.Admin()
	cc.Database = database
	cc.DefaultQueryExecMode = pgx.QueryExecModeExec // each schema's statements are others
	return pgx.ConnectConfig(ctx, cc)
}

// allowTemporary lets some tenants make temporary tables, which none may at first. All would be too many for one list of rights.
func (s *soak) allowTemporary(ctx context.Context, conn *pgx.Conn) error {
	for _, h := range s.hot {
		database := pgx.Identifier{h.Placement.Database}.Sanitize()
		if _, err := conn.Exec(ctx, "GRANT TEMPORARY ON DATABASE "+database+" TO "+h.Placement.Role); err != nil {
			return err
		}
		h.temporary = true
	}
	return nil
}

// killShare is how many of a hundred connections the killer ends at least.
const killShare = 9

// killer ends backends: some share of those that were opened, and more in storms.
type killer struct {
	*soak
	in   *inspector
	rng  *rand.Rand
	beat *beat
	sent int64
}

func (k *killer) run(ctx context.Context, quit <-chan struct{}) {
	k.follow(ctx, quit, k.beat, "killer", k.strike)
}

func (k *killer) strike(ctx context.Context) error {
	st, err := k.in.sessions(ctx)
	if err != nil {
		return err
	}
	victims := (st.opened*killShare+99)/100 - k.sent
	if k.storm() && k.rng.IntN(8) == 0 {
		victims = max(victims, 1)
	}
	if victims <= 0 {
		return nil
	}
	tag, err := k.in.conn.Exec(ctx, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
		WHERE datname = ANY($1) AND usename = ANY($2) ORDER BY random() LIMIT $3`, k.site.databases, k.site.logins, min(victims, 2))
	k.sent += tag.RowsAffected()
	return err
}

// landlord changes the tenants' schemas while they are in use.
type landlord struct {
	*soak
	conn *pgx.Conn
	rng  *rand.Rand
	beat *beat
	// away are houses whose schemas are gone, the longest first, each with the way to bring it back.
	away []absence
	wide map[*house]bool // those whose column is a bigint
	did  deeds
}

// deeds are what the landlord and the killer have done.
type deeds struct{ drifts, renames, drops, retired, kills int64 }

type absence struct {
	house  *house
	comeUp func(ctx context.Context, h *house) error
}

func (l *landlord) run(ctx context.Context, quit <-chan struct{}) {
	defer l.leave()
	l.follow(ctx, quit, l.beat, "landlord", l.act)
}

// leave brings back every schema that was renamed or dropped for a time, and hangs up.
func (l *landlord) leave() {
	ctx, cancel := context.WithTimeout(context.Background(), l.cfg.Patience)
	defer cancel()
	for len(l.away) > 0 && !l.conn.IsClosed() { // closed if the run was interrupted
		if err := l.bringBack(ctx); err != nil {
			l.fault("the landlord failed: %v", err)
			break
		}
	}
	_ = l.conn.Close(ctx)
}

// maxAway and maxRetired are how many tenants are away for a time, or for ever.
func (l *landlord) maxAway() int      { return min(10, 1+len(l.houses)/20) }
func (l *landlord) maxRetired() int64 { return min(10, int64(len(l.houses)/20)) }

// act does one thing to one tenant.
func (l *landlord) act(ctx context.Context) error {
	if len(l.away) > 0 && (len(l.away) >= l.maxAway() || l.rng.IntN(3) == 0) {
		return l.bringBack(ctx)
	}
	from := l.houses
	if l.rng.IntN(3) == 0 {
		from = l.hot
	}
	h := from[l.rng.IntN(len(from))]
	switch n := l.rng.IntN(100); {
	case h.look().gone:
		return nil
	case n < 45:
		return l.change(ctx, h, false, l.drift)
	case n < 65:
		return l.sendAway(ctx, h, l.hide, l.unhide)
	case n < 97 || l.did.retired >= l.maxRetired() || h.temporary:
		return l.sendAway(ctx, h, l.raze, l.rebuild)
	}
	if err := l.change(ctx, h, true, l.raze); err != nil || !h.look().gone {
		return err
	}
	l.did.retired++
	return nil
}

// change changes a schema, which callers can see that look before and after. If it is too busy, it stays as it is.
func (l *landlord) change(ctx context.Context, h *house, gone bool, how func(context.Context, *house) error) error {
	was := h.look().gone
	h.beginChange()
	err := how(ctx, h)
	switch sqlstate(err) {
	case lockNotAvailable, deadlock, serializationCode:
		h.endChange(was)
		return nil
	}
	h.endChange(gone)
	return err
}

func (l *landlord) sendAway(ctx context.Context, h *house, how, back func(context.Context, *house) error) error {
	err := l.change(ctx, h, true, how)
	if err == nil && h.look().gone {
		l.away = append(l.away, absence{h, back})
	}
	return err
}

func (l *landlord) bringBack(ctx context.Context) error {
	a := l.away[0]
	err := l.change(ctx, a.house, false, a.comeUp)
	if err == nil && !a.house.look().gone {
		l.away = l.away[1:]
	}
	return err
}

// patience is how long the landlord waits for a lock, in PostgreSQL's words.
const patience = "SET LOCAL lock_timeout = '2s'; "

// visit calls do with a connection to the house's database.
func (s *soak) visit(ctx context.Context, h *house, shared *pgx.Conn, do func(conn *pgx.Conn) error) error {
	if h.Placement.Strategy == tenant.SchemaStrategy {
		return do(shared)
	}
	conn, err := s.superuserOf(ctx, h.Placement.Database)
	if err != nil {
		return err
	}
	err = do(conn)
	return errors.Join(err, conn.Close(context.WithoutCancel(ctx)))
}

// exec runs several statements in one transaction.
func (l *landlord) exec(ctx context.Context, h *house, sql string) error {
	return l.visit(ctx, h, l.conn, func(conn *pgx.Conn) error {
		_, err := conn.PgConn().Exec(ctx, patience+sql).ReadAll()
		return err
	})
}

// drift changes the type of a column to bigint, and the next time back.
func (l *landlord) drift(ctx context.Context, h *house) error {
	to := "bigint"
	if l.wide[h] {
		to = "int"
	}
	err := l.exec(ctx, h, "ALTER TABLE "+h.Placement.Schema+".items ALTER qty TYPE "+to)
	if err == nil {
		l.wide[h] = !l.wide[h]
		l.did.drifts++
	}
	return err
}

func (l *landlord) hide(ctx context.Context, h *house) error {
	err := l.exec(ctx, h, "ALTER SCHEMA "+h.Placement.Schema+" RENAME TO "+h.awayName())
	if err == nil {
		l.did.renames++
	}
	return err
}

func (l *landlord) unhide(ctx context.Context, h *house) error {
	return l.exec(ctx, h, "ALTER SCHEMA "+h.awayName()+" RENAME TO "+h.Placement.Schema)
}

// raze audits a schema under lock and drops it.
func (l *landlord) raze(ctx context.Context, h *house) error {
	var old *books
	err := l.visit(ctx, h, l.conn, func(conn *pgx.Conn) error {
		return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
			if _, err := tx.Conn().PgConn().Exec(ctx, patience+"LOCK TABLE "+h.Placement.Schema+".items").ReadAll(); err != nil {
				return err
			}
			if err := l.audit(ctx, tx, h); err != nil {
				return err
			}
			closed := h.closeBooks()
			old = &closed
			_, err := tx.Exec(ctx, "DROP SCHEMA "+h.Placement.Schema+" CASCADE")
			return err
		})
	})
	switch {
	case err == nil:
		l.wide[h] = false
		l.did.drops++
	case old != nil:
		h.reopenBooks(*old)
	}
	return err
}

// rebuild makes a schema as internal/fleet does.
func (l *landlord) rebuild(ctx context.Context, h *house) error {
	err := l.exec(ctx, h, strings.NewReplacer("SCHEMA_", h.Placement.Schema, "ROLE_", h.Placement.Role, "SLUG_", string(h.Slug),
		"LABEL_", h.label, "ROWS_", strconv.Itoa(l.standing)).Replace(`
		CREATE SCHEMA SCHEMA_;
		GRANT USAGE ON SCHEMA SCHEMA_ TO ROLE_;
		SET LOCAL search_path = SCHEMA_;
		CREATE TYPE mood AS ENUM ('calm', 'LABEL_');
		CREATE TABLE items (
			id int PRIMARY KEY,
			owner text NOT NULL DEFAULT 'SLUG_',
			mood mood NOT NULL DEFAULT 'LABEL_',
			qty int NOT NULL DEFAULT 0,
			parent int REFERENCES items DEFERRABLE INITIALLY DEFERRED
		);
		GRANT SELECT, INSERT, UPDATE, DELETE ON items TO ROLE_;
		INSERT INTO items (id) SELECT generate_series(1, ROWS_);`))
	if err == nil {
		h.openBooks()
	}
	return err
}
