package tenantdb_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/db/tenantdb"
)

// ended shows what each verb of a transaction says that has ended.
func ended(ctx context.Context, tx pgx.Tx) string {
	var b pgx.Batch
	b.Queue("SELECT 1")
	var n int
	rows, queryErr := tx.Query(ctx, "SELECT 1")
	return show(second(tx.Exec(ctx, "SELECT 1"))) + show(queryErr) + show(rows.Err()) + show(tx.QueryRow(ctx, "SELECT 1").Scan(&n)) +
		show(tx.SendBatch(ctx, &b).Close()) + show(second(tx.CopyFrom(ctx, pgx.Identifier{"links"}, []string{"id"}, pgx.CopyFromRows(nil)))) +
		show(second(tx.Begin(ctx))) + show(tx.Commit(ctx)) + show(tx.Rollback(ctx))
}

// linking makes a case of transactions, with what is in the table after.
func linking(name string, run func(ctx context.Context, db verbs, note func(...any))) parityCase {
	return parityCase{name: name, run: func(ctx context.Context, db verbs) string {
		var out string
		err := apart(ctx, db, func(db verbs) error {
			run(ctx, db, func(values ...any) { out += "\n" + fmt.Sprint(values...) })
			return nil
		})
		out += "\n" + show(err) + "\n" + readAll(ctx, db, "SELECT id FROM links ORDER BY id")
		_, err = db.Exec(ctx, "DELETE FROM links")
		return out + "\n" + show(err)
	}}
}

func mustBegin(ctx context.Context, db interface {
	Begin(ctx context.Context) (pgx.Tx, error)
},
) pgx.Tx {
	tx, err := db.Begin(ctx)
	if err != nil {
		panic(err)
	}
	return tx
}

func add(ctx context.Context, q querier, id int) string {
	tag, err := q.Exec(ctx, "INSERT INTO links VALUES ($1)", id)
	return show(err, tag.String())
}

func TestTransactionsDoWhatTheyDoWithPgx(t *testing.T) {
	t.Parallel()
	ends := map[string]func(tx pgx.Tx, ctx context.Context) error{"commit": pgx.Tx.Commit, "rollback": pgx.Tx.Rollback}
	cases := []parityCase{
		linking("a transaction that failed", func(ctx context.Context, db verbs, note func(...any)) {
			tx := mustBegin(ctx, db)
			note(add(ctx, tx, 1), show(second(tx.Exec(ctx, "SELECT 1/0"))), add(ctx, tx, 2))
			note(show(second(tx.Begin(ctx))))
			note(show(tx.Rollback(ctx)), ended(ctx, tx))
		}),
		linking("three levels, the middle one undone", func(ctx context.Context, db verbs, note func(...any)) {
			a := mustBegin(ctx, db)
			b := mustBegin(ctx, a)
			c := mustBegin(ctx, b)
			note(add(ctx, a, 1), add(ctx, b, 2), add(ctx, c, 3))
			note(show(c.Commit(ctx)), show(b.Rollback(ctx)), add(ctx, a, 4), show(a.Commit(ctx)))
		}),
		linking("an error in the innermost", func(ctx context.Context, db verbs, note func(...any)) {
			a := mustBegin(ctx, db)
			b := mustBegin(ctx, a)
			c := mustBegin(ctx, b)
			note(add(ctx, b, 2), show(second(c.Exec(ctx, "SELECT nonsense"))), add(ctx, c, 3))
			note(show(c.Rollback(ctx)), add(ctx, b, 4), show(b.Commit(ctx)), show(a.Commit(ctx)))
		}),
		linking("a savepoint released after an error", func(ctx context.Context, db verbs, note func(...any)) {
			a := mustBegin(ctx, db)
			b := mustBegin(ctx, a)
			note(show(second(b.Exec(ctx, "SELECT nonsense"))), show(b.Commit(ctx)), add(ctx, a, 1), show(a.Rollback(ctx)))
		}),
		linking("one savepoint after the other", func(ctx context.Context, db verbs, note func(...any)) {
			a := mustBegin(ctx, db)
			for i := range 6 {
				b := mustBegin(ctx, a)
				note(add(ctx, b, i))
				note(show([]func(context.Context) error{b.Commit, b.Rollback}[i%2](ctx)), ended(ctx, b))
			}
			note(show(a.Commit(ctx)))
		}),
		linking("BeginFunc", func(ctx context.Context, db verbs, note func(...any)) {
			note(show(pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
				note(add(ctx, tx, 1))
				note(show(pgx.BeginFunc(ctx, tx, func(inner pgx.Tx) error {
					note(add(ctx, inner, 2))
					return errRollback
				})))
				return pgx.BeginFunc(ctx, tx, func(inner pgx.Tx) error { note(add(ctx, inner, 3)); return nil })
			})))
			note(show(pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error { note(add(ctx, tx, 4)); return errRollback })))
		}),
		linking("COPY and a batch in a savepoint", func(ctx context.Context, db verbs, note func(...any)) {
			a := mustBegin(ctx, db)
			b := mustBegin(ctx, a)
			n, err := b.CopyFrom(ctx, pgx.Identifier{"links"}, []string{"id"}, pgx.CopyFromRows([][]any{{1}, {2}}))
			var batch pgx.Batch
			batch.Queue("INSERT INTO links VALUES (3)")
			note(show(err, n), show(b.SendBatch(ctx, &batch).Close()), show(b.Commit(ctx)))
			b = mustBegin(ctx, a)
			batch = pgx.Batch{}
			batch.Queue("INSERT INTO links VALUES (4)")
			batch.Queue("INSERT INTO links VALUES (3)")
			note(show(b.SendBatch(ctx, &batch).Close()), add(ctx, b, 5), show(b.Rollback(ctx)), show(a.Commit(ctx)))
		}),
	}
	for name, end := range ends {
		cases = append(cases, alone(linking("ended by "+name, func(ctx context.Context, db verbs, note func(...any)) {
			tx := mustBegin(ctx, db)
			inner := mustBegin(ctx, tx)
			note(add(ctx, tx, 1), add(ctx, inner, 2), show(end(tx, ctx)), ended(ctx, tx), ended(ctx, inner))
		})), alone(linking("swallowed error, "+name, func(ctx context.Context, db verbs, note func(...any)) {
			tx := mustBegin(ctx, db)
			note(add(ctx, tx, 1), show(second(tx.Exec(ctx, "SELECT 1/0"))), show(end(tx, ctx)), ended(ctx, tx))
		})))
	}
	checkParity(t, append(cases, alone(linking("BeginFunc that swallows an error", func(ctx context.Context, db verbs, note func(...any)) {
		note(show(pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
			note(add(ctx, tx, 1), show(second(tx.Exec(ctx, "SELECT 1/0"))))
			return nil
		})))
	}))))
}

// beginner can begin a transaction in a mode.
type beginner interface {
	BeginTx(ctx context.Context, opts pgx.TxOptions) (pgx.Tx, error)
}

func TestModesMeanWhatTheyMeanToPgx(t *testing.T) {
	t.Parallel()
	var cases []parityCase
	for _, opts := range []pgx.TxOptions{
		{}, {IsoLevel: pgx.ReadCommitted}, {IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, {IsoLevel: pgx.Serializable, AccessMode: pgx.ReadWrite},
		{IsoLevel: pgx.Serializable, AccessMode: pgx.ReadOnly, DeferrableMode: pgx.Deferrable}, {AccessMode: pgx.ReadOnly, DeferrableMode: pgx.NotDeferrable},
		{IsoLevel: "no level at all"},
	} {
		cases = append(cases, parityCase{name: fmt.Sprintf("%+v", opts), notInTx: true, run: func(ctx context.Context, db verbs) string {
			var modes, added string
			err := pgx.BeginTxFunc(ctx, db.(beginner), opts, func(tx pgx.Tx) error {
				modes = readAll(ctx, tx, `SELECT current_setting('transaction_isolation'), current_setting('transaction_read_only'),
					current_setting('transaction_deferrable')`)
				added = add(ctx, tx, 1)
				return errRollback
			})
			return modes + "\n" + added + "\n" + show(err)
		}})
	}
	checkParity(t, cases)
}

// What two transactions do to each other is told as it is: nothing is run again behind the caller's back.
func TestSerializationFailuresSurface(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	db := f.open(t, tenantdb.Config{MaxConns: 3})
	ctx := f.ctx(t, 0)
	begin := func(level pgx.TxIsoLevel) pgx.Tx {
		t.Helper()
		tx, err := db.BeginTx(ctx, pgx.TxOptions{IsoLevel: level})
		if err != nil {
			t.Fatal(err)
		}
		return tx
	}
	// skew reads what the other writes.
	skew := func(tx pgx.Tx, id int) error {
		var sum int
		if err := tx.QueryRow(ctx, "SELECT sum(qty) FROM items").Scan(&sum); err != nil {
			return err
		}
		return second(tx.Exec(ctx, "UPDATE items SET qty = $1 WHERE id = $2", sum+1, id))
	}
	t.Run("at the commit", func(t *testing.T) {
		a, b := begin(pgx.Serializable), begin(pgx.Serializable)
		if err := errors.Join(skew(a, 1), skew(b, 2), a.Commit(ctx)); err != nil {
			t.Fatal(err)
		}
		wantCode(t, b.Commit(ctx), "40001")
	})
	t.Run("at a statement", func(t *testing.T) {
		a, b := begin(pgx.RepeatableRead), begin(pgx.RepeatableRead)
		if err := errors.Join(skew(a, 1), a.Commit(ctx)); err != nil {
			t.Fatal(err)
		}
		err := skew(b, 1)
		wantCode(t, err, "40001")
		if err := b.Commit(ctx); !errors.Is(err, pgx.ErrTxCommitRollback) {
			t.Errorf("got %v, want ErrTxCommitRollback", err)
		}
	})
	mustOwn(t, f.ctx(t, 1), db, f.tenants[1])
}

// THREATS 18: a single call is a transaction too, and its commit can fail for another's sake. Its rows are read while the other
// commits.
func TestASerializationFailureOfASingleCallsCommitSurfaces(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	cc := f.connConfig(t)
	cc.RuntimeParams["default_transaction_isolation"] = "serializable"
	db := f.open(t, tenantdb.Config{ConnConfig: cc, MaxConns: 2})
	ctx := f.ctx(t, 0)
	for range 3 { // undescribed, unnamed and named
		rows, err := db.Query(ctx, `WITH w AS (UPDATE items SET qty = (SELECT sum(qty) FROM items) + 1 WHERE id = 1 RETURNING id)
			SELECT w.id, repeat('x', 1000) FROM w, generate_series(1, 20000)`)
		if err != nil || !rows.Next() {
			t.Fatal(err, rows.Err())
		}
		if _, err := db.Exec(ctx, "UPDATE items SET qty = (SELECT sum(qty) FROM items) + 1 WHERE id = 2"); err != nil {
			t.Fatal(err)
		}
		rows.Close()
		wantCode(t, rows.Err(), "40001")
		if tag := rows.CommandTag().String(); tag != "SELECT 20000" {
			t.Errorf("tag %q: the error came before the commit, which is not what this test is about", tag)
		}
		var qty int
		if err := db.QueryRow(ctx, "SELECT qty FROM items WHERE id = 1").Scan(&qty); err != nil || qty != 0 {
			t.Errorf("qty %d, %v; the write was said to have failed", qty, err)
		}
	}
}

// A call ends with its context, and says so in the words of the context.
func TestContextsEndCallsAsWithPgx(t *testing.T) {
	t.Parallel()
	ways := map[string]func(ctx context.Context, db verbs) error{
		"Exec":     func(ctx context.Context, db verbs) error { return second(db.Exec(ctx, "SELECT pg_sleep(60)")) },
		"QueryRow": func(ctx context.Context, db verbs) error { return db.QueryRow(ctx, "SELECT pg_sleep(60)").Scan(nil) },
		"Query": func(ctx context.Context, db verbs) error {
			rows, _ := db.Query(ctx, "SELECT 1 UNION ALL SELECT 2 FROM pg_sleep(60)")
			_, err := pgx.CollectRows(rows, pgx.RowTo[int])
			return err
		},
		"SendBatch": func(ctx context.Context, db verbs) error {
			var b pgx.Batch
			b.Queue("SELECT 1")
			b.Queue("SELECT pg_sleep(60)")
			return db.SendBatch(ctx, &b).Close()
		},
		"CopyFrom": func(ctx context.Context, db verbs) error {
			err := second(db.CopyFrom(ctx, pgx.Identifier{"slow"}, []string{"id"}, pgx.CopyFromRows([][]any{{1}})))
			if _, ours := db.(*tenantdb.DB); !ours && err != nil && ctx.Err() != nil {
				err = ctx.Err() // pgx itself says now and then only that its pipe is closed
			}
			return err
		},
		"Begin": func(ctx context.Context, db verbs) error {
			return pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error { return second(tx.Exec(ctx, "SELECT pg_sleep(60)")) })
		},
	}
	var cases []parityCase
	for name, way := range ways {
		cases = append(cases, parityCase{name: name + ", cancelled", notInTx: true, run: func(ctx context.Context, db verbs) string {
			ctx, cancel := context.WithCancel(ctx)
			stop := time.AfterFunc(5*time.Millisecond, cancel)
			defer stop.Stop()
			return show(way(ctx, db))
		}}, parityCase{name: name + ", late", notInTx: true, run: func(ctx context.Context, db verbs) string {
			ctx, cancel := context.WithTimeout(ctx, 5*time.Millisecond)
			defer cancel()
			return show(way(ctx, db))
		}}, parityCase{name: name + ", cancelled before", notInTx: true, run: func(ctx context.Context, db verbs) string {
			ctx, cancel := context.WithCancel(ctx)
			cancel()
			return show(way(ctx, db))
		}})
	}
	checkParity(t, cases)
}
