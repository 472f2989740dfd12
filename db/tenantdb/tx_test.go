package tenantdb_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/leasehold-go/leasehold/db/tenantdb"
)

// THREATS 6, the case of django-tenants#1262.
func TestARolledBackSavepointKeepsTheTenant(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	db := f.open(t, tenantdb.Config{MaxConns: 1})
	ctx := f.ctx(t, 0)
	err := db.InTx(ctx, func(tx pgx.Tx) error {
		for range 3 {
			inner, err := tx.Begin(ctx)
			if err != nil {
				return err
			}
			if _, err := inner.Exec(ctx, "UPDATE items SET qty = 9 WHERE id = 1"); err != nil {
				return err
			}
			if _, err := inner.Exec(ctx, "SELECT 1/0"); err == nil {
				return errors.New("division by zero succeeded")
			}
			if err := inner.Rollback(ctx); err != nil {
				return err
			}
			if err := checkOwner(ctx, tx, f.tenants[0], 1); err != nil {
				return fmt.Errorf("after the rollback: %w", err)
			}
			if _, err := inner.Exec(ctx, "SELECT 1"); !errors.Is(err, pgx.ErrTxClosed) {
				return fmt.Errorf("a rolled back savepoint still works: %w", err)
			}
		}
		released, err := tx.Begin(ctx)
		if err != nil {
			return err
		}
		if err := released.Commit(ctx); err != nil {
			return err
		}
		return checkOwner(ctx, tx, f.tenants[0], 2)
	})
	if err != nil {
		t.Fatal(err)
	}
	wantBare(t, f, db)
	mustOwn(t, f.ctx(t, 1), db, f.tenants[1])
}

// THREATS 5, 6: whatever is done with transactions on one connection, each statement sees its own tenant's rows.
func TestRandomTransactionSequences(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 4)
	db := f.open(t, tenantdb.Config{MaxConns: 1})
	for seed := range uint64(150) {
		rng := rand.New(rand.NewPCG(seed, 1))
		i := rng.IntN(len(f.tenants))
		if err := randomTransaction(f.ctx(t, i), rng, db, f, i); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		j := rng.IntN(len(f.tenants))
		mustOwn(t, f.ctx(t, j), db, f.tenants[j])
	}
	wantBare(t, f, db)
	if n := db.Stat().InUse; n != 0 {
		t.Errorf("%d connections are still leased", n)
	}
}

func randomTransaction(ctx context.Context, rng *rand.Rand, db *tenantdb.DB, f *fleet, i int) error {
	tx, err := db.Begin(ctx)
	if err != nil {
		return err
	}
	defer tx.Rollback(ctx)
	stack := []pgx.Tx{tx}
	for range rng.IntN(20) {
		top := stack[len(stack)-1]
		switch rng.IntN(6) {
		case 0:
			inner, err := top.Begin(ctx)
			if err != nil {
				return err
			}
			stack = append(stack, inner)
		case 1:
			if len(stack) == 1 {
				continue
			}
			end := top.Commit
			if rng.IntN(2) == 0 {
				end = top.Rollback
			}
			if err := end(ctx); err != nil {
				return err
			}
			stack = stack[:len(stack)-1]
		case 2: // an error poisons the innermost savepoint, whose rollback heals the transaction
			inner, err := top.Begin(ctx)
			if err != nil {
				return err
			}
			if _, err := inner.Exec(ctx, "SELECT 1/0"); err == nil {
				return errors.New("division by zero succeeded")
			}
			if err := inner.Rollback(ctx); err != nil {
				return err
			}
		case 3:
			if _, err := top.Exec(ctx, "UPDATE items SET qty = qty + 1 WHERE owner = $1", string(f.tenants[i].Slug)); err != nil {
				return err
			}
		default:
			if err := checkOwner(ctx, top, f.tenants[i], rng.IntN(rowsPerTenant)+1); err != nil {
				return err
			}
		}
	}
	if rng.IntN(2) == 0 {
		return tx.Commit(ctx)
	}
	return tx.Rollback(ctx)
}

// THREATS 10.
func TestAPanicInATransactionLeavesNothing(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	db := f.open(t, tenantdb.Config{MaxConns: 1})
	panics := func(run func()) (caught any) {
		defer func() { caught = recover() }()
		run()
		return nil
	}
	for range 5 {
		caught := panics(func() {
			_ = db.InTx(f.ctx(t, 0), func(tx pgx.Tx) error {
				if _, err := tx.Exec(f.ctx(t, 0), "UPDATE items SET owner = 'stolen'"); err != nil {
					t.Error(err)
				}
				panic("boom")
			})
		})
		if caught != "boom" {
			t.Fatalf("the panic did not come through: %v", caught)
		}
		mustOwn(t, f.ctx(t, 1), db, f.tenants[1])
		mustOwn(t, f.ctx(t, 0), db, f.tenants[0])
	}
	var b pgx.Batch
	b.Queue("SELECT owner FROM items").Query(func(pgx.Rows) error { panic("boom") })
	if caught := panics(func() { _ = db.SendBatch(f.ctx(t, 0), &b).Close() }); caught != "boom" {
		t.Fatalf("the panic in a batch did not come through: %v", caught)
	}
	mustOwn(t, f.ctx(t, 1), db, f.tenants[1])
	for range 3 {
		if caught := panics(func() { _, _ = db.Exec(f.ctx(t, 0), "SELECT $1::text", bomb{}) }); caught != "boom" {
			t.Fatalf("the panic of an argument did not come through: %v", caught)
		}
	}
	wantBare(t, f, db)
}

// bomb is an argument that panics when it is encoded.
type bomb struct{}

func (bomb) TextValue() (pgtype.Text, error) { panic("boom") }

// THREATS 18: an error that only the commit finds is the error of the call.
func TestADeferredConstraintFailsTheCall(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	db := f.open(t, tenantdb.Config{MaxConns: 2})
	ctx := f.ctx(t, 0)
	const violate = "INSERT INTO items (id, parent) VALUES ($1, 999)"
	ways := map[string]func(id int) error{
		"Exec": func(id int) error {
			_, err := db.Exec(ctx, violate, id)
			return err
		},
		"QueryRow": func(id int) error {
			var got int
			return db.QueryRow(ctx, violate+" RETURNING id", id).Scan(&got)
		},
		"Query": func(id int) error {
			rows, err := db.Query(ctx, violate+" RETURNING id", id)
			if err != nil {
				return fmt.Errorf("too early: %w", err)
			}
			_, err = pgx.CollectRows(rows, pgx.RowTo[int])
			return err
		},
		"SendBatch": func(id int) error {
			var b pgx.Batch
			b.Queue("SELECT 1")
			b.Queue(violate, id)
			return db.SendBatch(ctx, &b).Close()
		},
		"CopyFrom": func(id int) error {
			n, err := db.CopyFrom(ctx, pgx.Identifier{"items"}, []string{"id", "parent"}, pgx.CopyFromRows([][]any{{id, 999}}))
			if n != 0 {
				return fmt.Errorf("%d rows are said to be copied", n)
			}
			return err
		},
		"InTx": func(id int) error {
			return db.InTx(ctx, func(tx pgx.Tx) error {
				_, err := tx.Exec(ctx, violate, id)
				if err != nil {
					return fmt.Errorf("too early: %w", err)
				}
				return nil
			})
		},
	}
	for name, way := range ways {
		for round := range 3 {
			t.Run(fmt.Sprint(name, round), func(t *testing.T) { wantCode(t, way(200+round), "23503") })
		}
	}
	var n int
	if err := db.QueryRow(ctx, "SELECT count(*) FROM items").Scan(&n); err != nil || n != rowsPerTenant {
		t.Errorf("%d rows, %v; want %d", n, err, rowsPerTenant)
	}
}

func TestTransactionModesAndEnds(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	db := f.open(t, tenantdb.Config{MaxConns: 1})
	ctx := f.ctx(t, 0)
	tx, err := db.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.Serializable, AccessMode: pgx.ReadOnly, DeferrableMode: pgx.NotDeferrable})
	if err != nil {
		t.Fatal(err)
	}
	var iso string
	if err := tx.QueryRow(ctx, "SHOW transaction_isolation").Scan(&iso); err != nil || iso != "serializable" {
		t.Errorf("isolation %q, %v", iso, err)
	}
	_, err = tx.Exec(ctx, "UPDATE items SET qty = 1")
	wantCode(t, err, "25006")
	if err := tx.Commit(ctx); !errors.Is(err, pgx.ErrTxCommitRollback) {
		t.Errorf("commit of a failed transaction: got %v, want ErrTxCommitRollback", err)
	}
	for verb, err := range map[string]error{
		"Commit": tx.Commit(ctx), "Rollback": tx.Rollback(ctx), "Exec": second(tx.Exec(ctx, "SELECT 1")),
		"Query": second(tx.Query(ctx, "SELECT 1")), "Begin": second(tx.Begin(ctx)),
	} {
		if !errors.Is(err, pgx.ErrTxClosed) {
			t.Errorf("%s after the end: got %v, want ErrTxClosed", verb, err)
		}
	}
	if tx.Conn() != nil {
		t.Error("a transaction hands out its connection")
	}
	if n := db.Stat().InUse; n != 0 {
		t.Errorf("%d connections are still leased", n)
	}
}

// A call that is cancelled takes the transaction with it, also when the transaction's own context lives on.
func TestACancelledCallEndsItsTransaction(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	db := f.open(t, tenantdb.Config{MaxConns: 1})
	for range 5 {
		ctx := f.ctx(t, 0)
		tx, err := db.Begin(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := cancelledAsleep(ctx, t, f, tx); !errors.Is(err, context.Canceled) {
			t.Fatalf("got %v, want Canceled", err)
		}
		if err := checkOwner(ctx, tx, f.tenants[0], 1); err == nil {
			t.Error("the transaction still answers")
		}
		if err := tx.Commit(ctx); err == nil {
			t.Error("the transaction was committed")
		}
		mustOwn(t, f.ctx(t, 1), db, f.tenants[1])
	}
}

func TestATransactionWithOpenRowsIsBusy(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	db := f.open(t, tenantdb.Config{MaxConns: 1})
	ctx := f.ctx(t, 0)
	tx, err := db.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	rows, err := tx.Query(ctx, "SELECT generate_series(1, 100000)")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(ctx, "SELECT 1"); err == nil {
		t.Error("a second statement was sent while rows are open")
	}
	if _, err := tx.Begin(ctx); err == nil {
		t.Error("a savepoint was sent while rows are open")
	}
	if !rows.Next() {
		t.Fatal(rows.Err())
	}
	if err := tx.Commit(ctx); err == nil {
		t.Error("a transaction was committed while its rows are open")
	}
	rows.Close()
	if rows.Err() == nil {
		t.Error("the rows of a transaction that is gone ended well")
	}
	mustOwn(t, f.ctx(t, 1), db, f.tenants[1])
	wantBare(t, f, db)
}

func second[T any](_ T, err error) error { return err }
