package tenantdb_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/db/tenantdb"
)

const loadGoroutines = 8

// checkLoad runs call for random tenants from many goroutines and returns how many calls saw another tenant's row, and how
// many failed otherwise.
func checkLoad(f *fleet, calls int, call func(rng *rand.Rand, tn *tenant.Tenant) error) (wrong, failed int64) {
	var wg sync.WaitGroup
	var w, e atomic.Int64
	for g := range loadGoroutines {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(g), 7))
			for range calls {
				err := call(rng, f.tenants[rng.IntN(len(f.tenants))])
				switch {
				case errors.Is(err, errWrongTenant):
					w.Add(1)
				case err != nil:
					e.Add(1)
				}
			}
		})
	}
	wg.Wait()
	return w.Load(), e.Load()
}

// THREATS 2: the check finds the fault of a wrapper that sets the path on one checkout and queries on another, and finds
// none in ours.
func TestTheLoadCheckFindsTwoCheckouts(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 10)
	cc, err := pgxpool.ParseConfig(f.url)
	if err != nil {
		t.Fatal(err)
	}
	cc.MaxConns = 4
	unsafe, err := pgxpool.NewWithConfig(t.Context(), cc)
	if err != nil {
		t.Fatal(err)
	}
	defer unsafe.Close()
	wrong, _ := checkLoad(f, 50, func(rng *rand.Rand, tn *tenant.Tenant) error {
		if _, err := unsafe.Exec(t.Context(), "SET search_path = "+tn.Placement.Schema); err != nil {
			return err
		}
		return checkOwner(t.Context(), unsafe, tn, rng.IntN(rowsPerTenant)+1)
	})
	if wrong == 0 {
		t.Error("the check did not find the fault that it is here to find")
	}
	db := f.open(t, tenantdb.Config{MaxConns: 4})
	wrong, failed := checkLoad(f, 50, func(rng *rand.Rand, tn *tenant.Tenant) error {
		return checkOwner(tenant.NewContext(t.Context(), tn), db, tn, rng.IntN(rowsPerTenant)+1)
	})
	if wrong != 0 || failed != 0 {
		t.Errorf("%d wrong rows, %d errors", wrong, failed)
	}
}

// THREATS 4: what holds for a connection holds from its first call.
func TestShortLivedConnections(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 10)
	db := f.open(t, tenantdb.Config{MaxConns: 4, MaxConnLifetime: time.Millisecond})
	wrong, failed := checkLoad(f, 60, func(rng *rand.Rand, tn *tenant.Tenant) error {
		return checkOwner(tenant.NewContext(t.Context(), tn), db, tn, rng.IntN(rowsPerTenant)+1)
	})
	if wrong != 0 || failed != 0 {
		t.Errorf("%d wrong rows, %d errors", wrong, failed)
	}
	if created := db.Stat().Created; created < 10 {
		t.Errorf("only %d connections were made: the test did not test", created)
	}
}

// THREATS 9: cancels at random moments, with both of pgx's ways to carry them out.
func TestRandomCancels(t *testing.T) {
	t.Parallel()
	handlers := map[string]func(*pgconn.PgConn) ctxwatch.Handler{
		"deadline": nil,
		"cancel request": func(c *pgconn.PgConn) ctxwatch.Handler {
			return &pgconn.CancelRequestContextWatcherHandler{Conn: c, DeadlineDelay: time.Second}
		},
	}
	for name, handler := range handlers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t, 10)
			cc := f.connConfig(t)
			if handler != nil {
				cc.BuildContextWatcherHandler = handler
			}
			db := f.open(t, tenantdb.Config{ConnConfig: cc, MaxConns: 4})
			var cancelled atomic.Int64
			wrong, failed := checkLoad(f, 60, func(rng *rand.Rand, tn *tenant.Tenant) error {
				ctx := tenant.NewContext(t.Context(), tn)
				if rng.IntN(3) == 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, time.Duration(rng.IntN(3000))*time.Microsecond)
					defer cancel()
				}
				err := randomCall(ctx, rng, db, tn)
				if ctx.Err() != nil {
					cancelled.Add(1)
					if !errors.Is(err, errWrongTenant) {
						return nil // an error is right, and so is a success that came just in time
					}
				}
				return err
			})
			if wrong != 0 || failed != 0 {
				t.Errorf("%d wrong rows, %d errors of calls that were not cancelled", wrong, failed)
			}
			if n := cancelled.Load(); n < loadGoroutines*60/10 {
				t.Errorf("only %d calls were cancelled", n)
			}
			if n := db.Stat().InUse; n != 0 {
				t.Errorf("%d connections are still leased", n)
			}
		})
	}
}

// randomCall reads one row in one of the ways there are, slowly enough to be hit by a cancel.
func randomCall(ctx context.Context, rng *rand.Rand, db *tenantdb.DB, tn *tenant.Tenant) error {
	id := rng.IntN(rowsPerTenant) + 1
	switch rng.IntN(4) {
	case 0:
		return db.InTx(ctx, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, "UPDATE items SET qty = qty + 1 WHERE id = $1", id); err != nil {
				return err
			}
			return checkOwner(ctx, tx, tn, id)
		})
	case 1:
		var b pgx.Batch
		var err error
		b.Queue("SELECT pg_sleep(0.0005)")
		b.Queue("UPDATE items SET qty = $1 WHERE id = $2", 1, id) // twice, so that it is worth a name
		b.Queue("UPDATE items SET qty = $1 WHERE id = $2", 2, id)
		b.Queue("SELECT owner FROM items WHERE id = $1", id).QueryRow(func(row pgx.Row) error {
			var owner string
			if err := row.Scan(&owner); err != nil {
				return err
			}
			if owner != string(tn.Slug) {
				err = errWrongTenant
			}
			return err
		})
		return db.SendBatch(ctx, &b).Close()
	case 2:
		var owner string
		if err := db.QueryRow(ctx, "SELECT owner FROM items, pg_sleep(0.001) WHERE id = $1", id).Scan(&owner); err != nil {
			return err
		}
		if owner != string(tn.Slug) {
			return errWrongTenant
		}
		return nil
	}
	return checkOwner(ctx, db, tn, id)
}

func TestConnectionsThatTheServerClosedAreReplaced(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	db := f.open(t, tenantdb.Config{MaxConns: 1})
	mustOwn(t, f.ctx(t, 0), db, f.tenants[0])
	f.admin(t, 0, "SELECT 1")
	conn := superConn(t, f)
	if _, err := conn.Exec(t.Context(), "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1", f.login); err != nil {
		t.Fatal(err)
	}
	// The first call may find the connection broken; it says so, and the next one has another.
	_ = checkOwner(f.ctx(t, 0), db, f.tenants[0], 1)
	mustOwn(t, f.ctx(t, 0), db, f.tenants[0])
}

func TestACallThatFindsNoFreeConnectionSaysSo(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	db := f.open(t, tenantdb.Config{MaxConns: 1, AcquireTimeout: 10 * time.Millisecond})
	tx, err := db.Begin(f.ctx(t, 0))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec(f.ctx(t, 0), "SELECT 1"); !errors.Is(err, tenantdb.ErrBusy) {
		t.Errorf("got %v, want ErrBusy", err)
	}
	patient := f.open(t, tenantdb.Config{MaxConns: 1})
	held, err := patient.Begin(f.ctx(t, 0))
	if err != nil {
		t.Fatal(err)
	}
	if err := lateInTheQueue(f.ctx(t, 0), t, patient); !errors.Is(err, tenantdb.ErrBusy) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want ErrBusy and DeadlineExceeded", err)
	}
	if err := held.Rollback(f.ctx(t, 0)); err != nil {
		t.Fatal(err)
	}
	if err := tx.Rollback(f.ctx(t, 0)); err != nil {
		t.Fatal(err)
	}
	mustOwn(t, f.ctx(t, 0), db, f.tenants[0])
	db.Close()
	if _, err := db.Exec(f.ctx(t, 0), "SELECT 1"); !errors.Is(err, tenantdb.ErrClosed) {
		t.Errorf("after Close: got %v, want ErrClosed", err)
	}
}
