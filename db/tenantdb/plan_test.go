package tenantdb_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/db/tenantdb"
	"github.com/leasehold-go/leasehold/internal/pgtest"
)

// THREATS 19: each tenant's enum is a type of its own, with the same name and other labels.
func TestTenantLocalEnumsOnOneConnection(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 3)
	db := f.open(t, tenantdb.Config{MaxConns: 1})
	check := func(i int, q querier) error {
		own := "only-" + string(f.tenants[i].Slug)
		var got string
		err := q.QueryRow(f.ctx(t, i), "SELECT mood FROM items WHERE id = $1 AND mood = $2", 1, own).Scan(&got)
		if err == nil && got != own {
			err = fmt.Errorf("mood %q", got)
		}
		if err != nil {
			return err
		}
		if _, err := q.Exec(f.ctx(t, i), "UPDATE items SET mood = $2 WHERE id = $1", 2, "calm"); err != nil {
			return err
		}
		_, err = q.Exec(f.ctx(t, i), "UPDATE items SET mood = $2 WHERE id = $1", 2, own)
		return err
	}
	for range 4 {
		for i := range f.tenants {
			if err := check(i, db); err != nil {
				t.Fatalf("%s: %v", f.tenants[i].Slug, err)
			}
			if err := db.InTx(f.ctx(t, i), func(tx pgx.Tx) error { return check(i, tx) }); err != nil {
				t.Fatalf("%s, in a transaction: %v", f.tenants[i].Slug, err)
			}
			_, err := db.Exec(f.ctx(t, i), "UPDATE items SET mood = $2 WHERE id = $1", 3, "only-nobody")
			wantCode(t, err, "22P02")
			var b pgx.Batch
			for range 2 {
				b.Queue("UPDATE items SET mood = $1 WHERE id = 4", "only-"+string(f.tenants[i].Slug))
				b.Queue("SELECT mood FROM items WHERE mood = $1", "only-"+string(f.tenants[i].Slug))
			}
			if err := db.SendBatch(f.ctx(t, i), &b).Close(); err != nil {
				t.Fatalf("%s, in a batch: %v", f.tenants[i].Slug, err)
			}
		}
	}
}

// THREATS 21: half the fleet is migrated, before and while its statements are warm.
func TestDriftBetweenTenantsFailsNoCall(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 4)
	db := f.open(t, tenantdb.Config{MaxConns: 1})
	const big = int64(5_000_000_000)
	use := func(i int, value int64) {
		t.Helper()
		var got int64
		if _, err := db.Exec(f.ctx(t, i), "UPDATE items SET qty = $1 WHERE id = 1", value); err != nil {
			t.Fatalf("tenant %d: update: %v", i, err)
		}
		if err := db.QueryRow(f.ctx(t, i), "SELECT qty FROM items WHERE qty = $1", value).Scan(&got); err != nil || got != value {
			t.Fatalf("tenant %d: got %d, %v; want %d", i, got, err, value)
		}
		var row struct {
			ID   int
			Qty  int64
			Rest []any
		}
		rows, err := db.Query(f.ctx(t, i), "SELECT * FROM items WHERE id = 1")
		if err != nil {
			t.Fatalf("tenant %d: star: %v", i, err)
		}
		values, err := pgx.CollectOneRow(rows, func(r pgx.CollectableRow) ([]any, error) { return r.Values() })
		if err != nil || fmt.Sprint(values[0]) != "1" {
			t.Fatalf("tenant %d: star: %v, %v (%v)", i, values, err, row)
		}
	}
	f.admin(t, 0, "ALTER TABLE items ALTER qty TYPE bigint") // before anything is known
	for range 4 {
		use(0, big)
		use(1, 7)
		use(2, 7)
		use(3, 7)
	}
	f.admin(t, 1, "ALTER TABLE items ALTER qty TYPE bigint") // while warm
	for range 4 {
		use(1, big)
		use(0, big)
		use(2, 8)
	}
	f.admin(t, 2, "ALTER TABLE items ADD extra text DEFAULT 'x', ALTER qty TYPE numeric")
	for range 4 {
		use(2, big)
		use(3, 9)
	}
	f.admin(t, 3, "ALTER TABLE items ALTER owner TYPE varchar(40), DROP COLUMN mood")
	for range 4 {
		use(3, 10)
		mustOwn(t, f.ctx(t, 3), db, f.tenants[3])
	}
}

// A description that fitted when the statement was described may be overtaken before the statement gets its name.
func TestDriftBetweenTheFirstUseAndTheSecond(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	db := f.open(t, tenantdb.Config{MaxConns: 1})
	for i, change := range []string{"TYPE bigint USING 5000000000", "TYPE text USING 'five'", "TYPE timestamptz USING 'epoch'"} {
		sql := fmt.Sprintf("SELECT qty, %d AS n FROM items WHERE id = 1", i)
		read := func() string {
			rows, err := db.Query(f.ctx(t, 0), sql)
			if err != nil {
				t.Fatal(err)
			}
			values, err := pgx.CollectOneRow(rows, func(r pgx.CollectableRow) ([]any, error) { return r.Values() })
			if err != nil {
				t.Fatalf("after %s: %v", change, err)
			}
			return fmt.Sprintf("%T", values[0])
		}
		before := read()
		f.admin(t, 0, "ALTER TABLE items ALTER qty DROP DEFAULT, ALTER qty "+change)
		if after := read(); after == before {
			t.Errorf("after %s: still a %s", change, after)
		}
	}
}

// Inside a transaction an error cannot be taken back, so what another tenant's statement looks like is checked first.
func TestDriftInsideATransaction(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 3)
	db := f.open(t, tenantdb.Config{MaxConns: 1})
	f.admin(t, 1, "ALTER TABLE items ALTER qty TYPE bigint")
	f.admin(t, 2, "ALTER TABLE items ALTER qty DROP DEFAULT, ALTER qty TYPE text")
	for range 3 {
		for i, value := range []any{7, int64(5_000_000_000), "seven"} {
			err := db.InTx(f.ctx(t, i), func(tx pgx.Tx) error {
				if _, err := tx.Exec(f.ctx(t, i), "UPDATE items SET qty = $1", value); err != nil {
					return err
				}
				var got string
				err := tx.QueryRow(f.ctx(t, i), "SELECT qty::text FROM items WHERE qty = $1 LIMIT 1", value).Scan(&got)
				if err == nil && got != fmt.Sprint(value) {
					err = fmt.Errorf("got %s, want %v", got, value)
				}
				return err
			})
			if err != nil {
				t.Fatalf("tenant %d: %v", i, err)
			}
		}
	}
}

// A plan that goes stale inside a transaction is the transaction's error, as it is with pgx, and is gone in the next one.
func TestAStalePlanInATransactionIsReportedOnceAndForgotten(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	db := f.open(t, tenantdb.Config{MaxConns: 1})
	ctx := f.ctx(t, 0)
	const sql = "SELECT qty FROM items WHERE id = 1"
	var qty int64
	read := func(tx pgx.Tx) error { return tx.QueryRow(ctx, sql).Scan(&qty) }
	for range 3 {
		if err := db.InTx(ctx, read); err != nil {
			t.Fatal(err)
		}
	}
	err := db.InTx(ctx, func(tx pgx.Tx) error {
		f.admin(t, 0, "ALTER TABLE items ALTER qty TYPE bigint")
		return read(tx)
	})
	wantCode(t, err, "0A000")
	for range 3 {
		if err := db.InTx(ctx, read); err != nil {
			t.Fatal(err)
		}
	}
}

// An error that looks as if a plan were out of date, but comes from a statement that was running: what it did that no
// rollback undoes must not be done twice.
func TestAStatementThatStartedIsNotSentAgain(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	db := f.open(t, tenantdb.Config{MaxConns: 1})
	f.admin(t, 0, `CREATE SEQUENCE runs;
		GRANT ALL ON SEQUENCE runs TO `+f.tenants[0].Placement.Role+`;
		CREATE FUNCTION fail(code text) RETURNS int LANGUAGE plpgsql AS $$
		BEGIN PERFORM nextval('runs'); RAISE EXCEPTION USING ERRCODE = code; END $$`)
	runs := int64(0)
	for range 3 {
		for _, code := range []string{"0A000", "26000", "42804", "42883", "22P02", "08P01"} {
			_, err := db.Exec(f.ctx(t, 0), "SELECT fail($1)", code)
			wantCode(t, err, code)
			runs++
			var got int64
			if err := db.QueryRow(f.ctx(t, 0), "SELECT last_value FROM runs").Scan(&got); err != nil || got != runs {
				t.Fatalf("%s: it ran %d times, %v; want %d", code, got, err, runs)
			}
		}
	}
}

// Every single call is one round trip, warm or cold; only a statement that the process never met takes two.
func TestRoundTripsAreCountedOnTheWire(t *testing.T) {
	t.Parallel()
	for name, pooler := range map[string]tenantdb.Pooler{"direct": tenantdb.PoolerNone, "for a pooler": tenantdb.PoolerTransaction} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			countRoundTrips(t, pooler)
		})
	}
}

func countRoundTrips(t *testing.T, pooler tenantdb.Pooler) {
	t.Helper()
	f := newFleet(t, 3)
	pgtest.Exec(t, f.url, "ALTER ROLE "+f.login+" SET search_path = ''")
	var w wire
	cc := f.connConfig(t)
	w.watch(cc)
	db := f.open(t, tenantdb.Config{ConnConfig: cc, MaxConns: 1, Pooler: pooler})
	trips := func(what string, want int64, run func() error) {
		t.Helper()
		before := w.roundTrips.Load()
		if err := run(); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if got := w.roundTrips.Load() - before; got != want {
			t.Errorf("%s: %d round trips, want %d", what, got, want)
		}
	}
	read := func(i int) func() error { return func() error { return checkOwner(f.ctx(t, i), db, f.tenants[i], 1) } }
	trips("never met", 2, read(0))
	trips("met once: it gets a name", 1, read(0))
	trips("warm", 1, read(0))
	trips("cold for its tenant", 1, read(1))
	trips("warm for the second tenant", 1, read(1))
	mood := func(i int) func() error {
		return func() error { return second(db.Exec(f.ctx(t, i), "UPDATE items SET mood = $1", "calm")) }
	}
	trips("a type of the tenant's own, never met", 2, mood(0))
	trips("another tenant's type of that name", 1, mood(1))
	trips("a type of the tenant's own, warm", 1, mood(1))
	trips("a write", 2, func() error { return second(db.Exec(f.ctx(t, 0), "UPDATE items SET qty = 1")) })
	trips("a warm write", 1, func() error { return second(db.Exec(f.ctx(t, 0), "UPDATE items SET qty = 1")) })

	var tx pgx.Tx
	trips("begin and scope", 1, func() (err error) { tx, err = db.Begin(f.ctx(t, 0)); return err })
	trips("in a transaction", 1, func() error { return checkOwner(f.ctx(t, 0), tx, f.tenants[0], 1) })
	trips("commit", 1, func() error { return tx.Commit(f.ctx(t, 0)) })
	trips("begin and scope, cold for its tenant", 1, func() (err error) { tx, err = db.Begin(f.ctx(t, 2)); return err })
	trips("in a transaction, cold for its tenant", 1, func() error { return checkOwner(f.ctx(t, 2), tx, f.tenants[2], 1) })
	trips("a tenant's own type, cold for its tenant", 1, func() error {
		return second(tx.Exec(f.ctx(t, 2), "UPDATE items SET mood = $1", "only-co-2"))
	})
	trips("rollback", 1, func() error { return tx.Rollback(f.ctx(t, 2)) })

	batch := func(i int, q interface {
		SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults
	}) func() error {
		return func() error {
			var b pgx.Batch
			for range 20 {
				b.Queue("UPDATE items SET qty = $1, mood = $2", 3, "calm")
				b.Queue("SELECT owner FROM items WHERE id = $1", 1)
			}
			return q.SendBatch(f.ctx(t, i), &b).Close()
		}
	}
	trips("a batch with something never met", 2, batch(0, db))
	trips("a batch", 1, batch(0, db))
	trips("a batch, cold for its tenant", 1, batch(1, db))
	trips("a batch, warm for its tenant", 1, batch(1, db))
	trips("begin", 1, func() (err error) { tx, err = db.Begin(f.ctx(t, 2)); return err })
	trips("a batch in a transaction, cold for its tenant", 1, batch(2, tx))
	trips("a batch in a transaction", 1, batch(2, tx))
	trips("commit", 1, func() error { return tx.Commit(f.ctx(t, 2)) })

	db.Reset() // new connections
	if _, err := db.Exec(f.ctx(t, 2), "SELECT 1"); err != nil {
		t.Fatal(err)
	}
	trips("cold for its connection", 1, read(0))
	trips("cold for both", 1, read(2))
}

func TestNamedStatementsAreBoundedPerConnection(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 5)
	db := f.open(t, tenantdb.Config{MaxConns: 1, StatementCacheSize: 4})
	for range 3 {
		for i := range f.tenants {
			for n := range 3 {
				var got int
				sql := fmt.Sprintf("SELECT %d FROM items WHERE id = $1", n)
				for range 2 {
					if err := db.QueryRow(f.ctx(t, i), sql, 1).Scan(&got); err != nil || got != n {
						t.Fatalf("got %d, %v", got, err)
					}
				}
			}
		}
	}
	mustOwn(t, f.ctx(t, 0), db, f.tenants[0]) // carries the last names to be closed
	db.RawConn(t, func(ctx context.Context, conn *pgx.Conn) {
		var named int
		if err := conn.QueryRow(ctx, "SELECT count(*) FROM pg_prepared_statements WHERE name <> 'lh_scope'").Scan(&named); err != nil {
			t.Fatal(err)
		}
		if named < 1 || named > 4+1 { // one may wait to be closed
			t.Errorf("%d named statements; want 1 to 5", named)
		}
	})
}
