package tenantdb_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/db/tenantdb"
	"github.com/leasehold-go/leasehold/internal/pgtest"
)

func one(ctx context.Context, q querier, sql string) string {
	rows, err := q.Query(ctx, sql)
	if err != nil {
		return "error: " + err.Error()
	}
	v, err := pgx.CollectOneRow(rows, func(r pgx.CollectableRow) ([]any, error) { return r.Values() })
	if err != nil {
		return "error: " + err.Error()
	}
	return fmt.Sprint(v...)
}

// A name keeps the parameter types that it was parsed with, whatever the description says now.
func TestAWriteAfterATypeChangeStoresWhatWasSaid(t *testing.T) {
	t.Parallel()
	for _, typ := range []string{"real", "bigint"} {
		f := newFleet(t, 1)
		db := f.open(t, tenantdb.Config{MaxConns: 1})
		const sql = "UPDATE items SET qty = $1 WHERE id = 1"
		for range 3 {
			if _, err := db.Exec(f.ctx(t, 0), sql, 5); err != nil {
				t.Fatal(err)
			}
		}
		f.admin(t, 0, "ALTER TABLE items ALTER qty TYPE "+typ)
		for _, v := range []int64{5_000_000_000, 7} {
			_, err := db.Exec(f.ctx(t, 0), sql, v)
			var got float64
			if err := db.QueryRow(f.ctx(t, 0), "SELECT qty::float8 FROM items WHERE id = 1").Scan(&got); err != nil {
				t.Fatal(err)
			}
			if err != nil || got != float64(v) {
				t.Errorf("%s: wrote %d, read %v; the write said %v", typ, v, got, err)
			}
		}
	}
}

// A result is asked for in the formats of one description and decoded in those of another.
func TestAReadAfterATypeChangeIsDecodedByItsOwnTypes(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	db := f.open(t, tenantdb.Config{MaxConns: 1})
	f.admin(t, 0, "ALTER TABLE items ADD code text NOT NULL DEFAULT '1234'; CREATE TABLE one (n int); INSERT INTO one VALUES (1)")
	read := func() string {
		return one(f.ctx(t, 0), db, "SELECT code FROM items WHERE id = 1") + " " + one(f.ctx(t, 0), db, "SELECT * FROM one")
	}
	if got := read(); got != "1234 1" {
		t.Fatal(got)
	}
	f.admin(t, 0, `ALTER TABLE items ALTER code DROP DEFAULT, ALTER code TYPE int USING code::int; ALTER TABLE one ADD j jsonb DEFAULT '{"a":1}'`)
	for i := range 4 {
		if got := read(); got != "1234 1 map[a:1]" {
			t.Errorf("read %d: %s", i, got)
		}
	}
}

// State of the session outlives the call.
func TestNoCallLeavesStateOfTheSession(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	const state = `SELECT coalesce(current_setting('app.note', true), ''), current_setting('default_transaction_read_only'),
		current_setting('TimeZone'), current_setting('statement_timeout'),
		(SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid())`
	for _, sql := range []string{
		"SELECT set_config('app.note', (SELECT owner FROM items LIMIT 1), false)", // a row of one tenant for the next
		"SELECT set_config('default_transaction_read_only', 'on', false)",
		"SELECT set_config('TimeZone', 'Asia/Tokyo', false)",
		"SELECT set_config('statement_timeout', '1s', false)",
		"SELECT pg_advisory_lock(42)",
		"-- a note\rSET statement_timeout = '3s'",
		"DO $$ BEGIN SET statement_timeout = '2s'; END $$",
	} {
		db := f.open(t, tenantdb.Config{MaxConns: 1})
		before := one(f.ctx(t, 1), db, state)
		_, _ = db.Exec(f.ctx(t, 0), sql)
		if after := one(f.ctx(t, 1), db, state); after != before {
			t.Errorf("%q: the other tenant finds %q, before %q", sql, after, before)
		}
	}
	for _, sql := range []string{"SELECT set_config('app.note', $1, true)", "SELECT set_config('app.note', 'x', TRUE)"} { // may stay
		args := []any{"x"}
		if !strings.Contains(sql, "$1") {
			args = nil
		}
		if _, err := f.open(t, tenantdb.Config{MaxConns: 1}).Exec(f.ctx(t, 0), sql, args...); err != nil {
			t.Errorf("%s: %v", sql, err)
		}
	}
}

// A comment hides WITH HOLD.
func TestNoCursorIsHeldForTheNextTenant(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	db := f.open(t, tenantdb.Config{MaxConns: 1})
	_ = db.InTx(f.ctx(t, 0), func(tx pgx.Tx) error {
		_, err := tx.Exec(f.ctx(t, 0), "DECLARE c CURSOR WITH /* kept */ HOLD FOR SELECT owner FROM items")
		return err
	})
	_ = db.InTx(f.ctx(t, 1), func(tx pgx.Tx) error {
		var owner string
		err := tx.QueryRow(f.ctx(t, 1), "FETCH 1 FROM c").Scan(&owner)
		if err == nil {
			t.Errorf("%s fetched %s's row", f.tenants[1].Slug, owner)
		}
		return err
	})
}

// DO and CALL may commit: what follows has no scope, and the batch is not all or nothing.
func TestAProcedureCannotCommitTheScopeAway(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	db := f.open(t, tenantdb.Config{MaxConns: 1})
	var b pgx.Batch
	b.Queue("INSERT INTO items (id) VALUES (302)")
	b.Queue("DO $$ BEGIN COMMIT; END $$")
	b.Queue("SELECT current_user::text").QueryRow(func(row pgx.Row) error {
		var user string
		err := row.Scan(&user)
		if user != f.tenants[0].Placement.Role {
			t.Errorf("a statement ran as %s", user)
		}
		return err
	})
	b.Queue("SELECT 1/0")
	err := db.SendBatch(f.ctx(t, 0), &b).Close()
	if n := one(f.ctx(t, 0), db, "SELECT count(*) FROM items WHERE id = 302"); n != "0" {
		t.Errorf("the batch says %v, and its row is there", err)
	}
}

// A savepoint that could not be rolled back is committed with the rest.
func TestASavepointThatCannotBeRolledBackIsNotCommitted(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	for name, leave := range map[string]func(ctx context.Context, inner pgx.Tx, cancel func()) pgx.Rows{
		"rows open": func(ctx context.Context, inner pgx.Tx, _ func()) pgx.Rows {
			rows, _ := inner.Query(ctx, "SELECT id FROM items")
			return rows
		},
		"cancelled": func(_ context.Context, _ pgx.Tx, cancel func()) pgx.Rows { cancel(); return nil },
	} {
		db := f.open(t, tenantdb.Config{MaxConns: 1})
		tx, err := db.Begin(f.ctx(t, 0))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(f.ctx(t, 0))
		var rows pgx.Rows
		_ = pgx.BeginFunc(ctx, tx, func(inner pgx.Tx) error {
			if _, err := inner.Exec(ctx, "INSERT INTO items (id) VALUES (400)"); err != nil {
				t.Error(err)
			}
			rows = leave(ctx, inner, cancel)
			return errors.New("undo this")
		})
		if rows != nil {
			rows.Close()
		}
		err = tx.Commit(f.ctx(t, 0))
		cancel()
		if n := one(f.ctx(t, 0), db, "SELECT count(*) FROM items WHERE id = 400"); n != "0" {
			t.Errorf("%s: Commit says %v, and the savepoint's row is there", name, err)
		}
		f.admin(t, 0, "DELETE FROM items WHERE id = 400")
	}
}

// What cannot be encoded is not sent, and the answer is waited for.
func TestWhatCannotBeEncodedIsAnErrorAtOnce(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	db := f.open(t, tenantdb.Config{MaxConns: 1})
	args := make([]any, 70_001)
	args[0] = pgx.QueryExecModeExec
	ctx, cancel := context.WithTimeout(f.ctx(t, 0), time.Minute)
	defer cancel()
	if _, err := db.Exec(ctx, "SELECT 1", args...); err == nil || ctx.Err() != nil {
		t.Errorf("only the deadline ended the call: %v", err)
	}
}

// After a migration an outdated description fails the same calls for ever.
func TestDriftIsFoundOutOnce(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	db := f.open(t, tenantdb.Config{MaxConns: 1})
	ctx := f.ctx(t, 0)
	batch := func(i int, sql string, args ...any) error {
		var b pgx.Batch
		b.Queue(sql, args...)
		return db.SendBatch(f.ctx(t, i), &b).Close()
	}
	ways := map[string]func() error{
		"enum": func() error { return second(db.Exec(ctx, "UPDATE items SET mood = $1 WHERE id = 1", "calm")) },
		"transaction": func() error {
			return db.InTx(ctx, func(tx pgx.Tx) error { return second(tx.Exec(ctx, "SELECT *, 0 FROM items")) })
		},
		"batch": func() error { return batch(0, "SELECT *, 1 FROM items") },
	}
	for name, way := range ways {
		for range 3 {
			if err := way(); err != nil {
				t.Fatal(name, err)
			}
		}
	}
	f.admin(t, 0, `CREATE TYPE mood2 AS ENUM ('calm', 'wild', 'only-co-0'); ALTER TABLE items ADD extra text,
		ALTER mood DROP DEFAULT, ALTER mood TYPE mood2 USING mood::text::mood2; DROP TYPE mood; ALTER TYPE mood2 RENAME TO mood`)
	for name, way := range ways {
		for range 3 {
			_ = way() // one error may be the way to find out
		}
		if err := way(); err != nil {
			t.Errorf("%s: for ever: %v", name, err)
		}
	}
	// Another tenant's description, adopted by a call, in a batch.
	f.admin(t, 1, "ALTER TABLE items ALTER qty TYPE bigint")
	const sql = "UPDATE items SET qty = $1 WHERE id = 1"
	for i := range 2 {
		if _, err := db.Exec(f.ctx(t, i), sql, 7); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := batch(1, sql, int64(5_000_000_000)); err != nil {
			t.Error(err)
		}
	}
}

// Another tenant's description makes a value smaller, without an error.
func TestAFractionIsNeverCutOff(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	db := f.open(t, tenantdb.Config{MaxConns: 1})
	f.admin(t, 1, "ALTER TABLE items ALTER qty TYPE double precision")
	const sql = "UPDATE items SET qty = $1 WHERE id = 1"
	_, _ = db.Exec(f.ctx(t, 0), sql, 5)
	_, err := db.Exec(f.ctx(t, 1), sql, 7.25)
	if got := one(f.ctx(t, 1), db, "SELECT qty FROM items WHERE id = 1"); got != "7.25" {
		t.Errorf("wrote 7.25, read %s; the write said %v", got, err)
	}
}

// The scope's own name is lost, and the connection is of no use to anybody for the rest of its life.
func TestALostScopeStatementIsParsedAgain(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	db := f.open(t, tenantdb.Config{MaxConns: 1})
	mustOwn(t, f.ctx(t, 1), db, f.tenants[1])
	_ = db.InTx(f.ctx(t, 0), func(tx pgx.Tx) error {
		_, err := tx.Exec(f.ctx(t, 0), "DO $$ BEGIN EXECUTE 'DEALLOCATE ALL'; END $$")
		return err
	})
	_ = checkOwner(f.ctx(t, 1), db, f.tenants[1], 1) // one may find it out
	if err := checkOwner(f.ctx(t, 1), db, f.tenants[1], 1); err != nil {
		t.Error(err)
	}
}

// BeginQuery and CommitQuery pass the guard by.
func TestCallersOwnBeginAndCommitAreRefused(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	db := f.open(t, tenantdb.Config{MaxConns: 1})
	for _, o := range []pgx.TxOptions{
		{BeginQuery: "SELECT 1"}, {BeginQuery: "BEGIN; SET statement_timeout = '11s'"}, {CommitQuery: "COMMIT; SET statement_timeout = '12s'"},
	} {
		if tx, err := db.BeginTx(f.ctx(t, 0), o); err == nil {
			var user string
			_ = tx.QueryRow(f.ctx(t, 0), "SELECT current_user::text").Scan(&user)
			if user != f.tenants[0].Placement.Role {
				t.Errorf("%+v: a statement ran as %s", o, user)
			}
			_ = tx.Commit(f.ctx(t, 0))
		}
		if got := one(f.ctx(t, 1), db, "SHOW statement_timeout"); got != "0" {
			t.Errorf("%+v: the next tenant has statement_timeout %s", o, got)
		}
	}
}

// Rights on the database itself, and a role that the login starts with, are not seen.
func TestOpenRefusesRightsOnTheDatabaseItself(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	super, database := pgtest.SuperURL(t, f.url), f.database(t)
	for _, sql := range [][2]string{
		{"GRANT CREATE, TEMPORARY ON DATABASE " + database + " TO " + f.login, "REVOKE CREATE, TEMPORARY ON DATABASE " + database + " FROM " + f.login},
		{"ALTER ROLE " + f.login + " SET role = " + f.tenants[0].Placement.Role, "ALTER ROLE " + f.login + " RESET role"},
		{"ALTER DATABASE " + database + " OWNER TO " + f.login, "ALTER DATABASE " + database + " OWNER TO CURRENT_USER"},
	} {
		pgtest.Exec(t, super, sql[0])
		if db, err := tenantdb.Open(t.Context(), tenantdb.Config{ConnConfig: f.connConfig(t), MaxConns: 1}); err == nil {
			t.Errorf("accepted after %s", sql[0])
			db.Close()
		}
		pgtest.Exec(t, super, sql[1])
	}
}

// A source of COPY that asks its own transaction writes into the COPY.
func TestACopySourceThatAsksItsTransactionIsToldItIsBusy(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	db := f.open(t, tenantdb.Config{MaxConns: 1})
	ctx := f.ctx(t, 0)
	err := db.InTx(ctx, func(tx pgx.Tx) error {
		n := 0
		_, err := tx.CopyFrom(ctx, pgx.Identifier{"items"}, []string{"id"}, pgx.CopyFromFunc(func() ([]any, error) {
			if n++; n > 2 {
				return nil, nil
			}
			if _, err := tx.Exec(ctx, "SELECT 1"); err == nil {
				return nil, errors.New("it was answered")
			}
			return []any{500 + n}, nil
		}))
		return err
	})
	if err != nil {
		t.Errorf("got %v; pgx says conn busy to the source and goes on", err)
	}
}

// Large objects would go past the transaction's checks.
func TestLargeObjectsAreNotHandedOut(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	db := f.open(t, tenantdb.Config{MaxConns: 1})
	err := db.InTx(f.ctx(t, 0), func(tx pgx.Tx) error {
		lo := tx.LargeObjects()
		if _, err := lo.Create(f.ctx(t, 0), 0); !errors.Is(err, pgx.ErrTxClosed) {
			t.Errorf("got %v, want ErrTxClosed", err)
		}
		return checkOwner(f.ctx(t, 0), tx, f.tenants[0], 1)
	})
	if err != nil {
		t.Error(err)
	}
}

type endTracer struct {
	slugs []tenant.Slug
	boom  bool
}

func (tr *endTracer) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	tn, _ := tenant.FromContext(ctx)
	tr.slugs = append(tr.slugs, tn.Slug)
	return ctx
}

func (tr *endTracer) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {
	if tr.boom {
		panic("boom")
	}
}

// A tracer sees a tenant that has been renamed under its old name; one that panics costs a connection.
func TestTracersSeeTheTenantOfTheHandleAndMayPanic(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	cc := f.connConfig(t)
	tr := &endTracer{}
	cc.Tracer = tr
	db, err := tenantdb.Open(t.Context(), tenantdb.Config{ConnConfig: cc, MaxConns: 1})
	if err != nil {
		t.Fatal(err)
	}
	renamed := *f.tenants[0]
	renamed.Slug = "new-name"
	_, _ = db.For(f.tenants[0]).Exec(t.Context(), "SELECT 1")
	_, _ = db.For(&renamed).Exec(t.Context(), "SELECT 1")
	if tr.slugs[1] != "new-name" {
		t.Errorf("the tracer saw %s", tr.slugs)
	}
	tr.boom = true
	func() {
		defer func() { _ = recover() }()
		_, _ = db.Exec(f.ctx(t, 0), "SELECT 1")
	}()
	if n := db.Stat().InUse; n != 0 {
		t.Fatalf("%d connections are leased for ever", n) // Close would wait for them
	}
	db.Close()
}

// Errors: a cancel with a cause is still a cancel, and a BEGIN that PostgreSQL does not understand is no ErrScope.
func TestACancelWithACauseIsACancel(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	db := f.open(t, tenantdb.Config{MaxConns: 1})
	ctx, cancel := context.WithCancelCause(f.ctx(t, 0))
	time.AfterFunc(50*time.Millisecond, func() { cancel(errors.New("the client left")) })
	if _, err := db.Exec(ctx, "SELECT pg_sleep(5)"); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
	if _, err := db.BeginTx(f.ctx(t, 0), pgx.TxOptions{IsoLevel: "nonsense"}); errors.Is(err, tenantdb.ErrScope) {
		t.Errorf("a syntax error is called %v", err)
	}
}
