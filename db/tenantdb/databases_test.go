package tenantdb_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/db/tenantdb"
	fleets "github.com/leasehold-go/leasehold/internal/fleet"
	"github.com/leasehold-go/leasehold/internal/pgserver"
	"github.com/leasehold-go/leasehold/internal/pgtest"
)

// buildOwn builds a fleet whose last tenants have databases of their own. It is dropped when t ends.
func buildOwn(t testing.TB, url string, tenants, own int) *fleets.Fleet {
	t.Helper()
	f, err := fleets.Build(t.Context(), fleets.Config{AdminURL: url, Tenants: tenants, OwnDatabases: own})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Drop(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	return f
}

// openOwn builds such a fleet in the tests' server and opens it.
func openOwn(t testing.TB, tenants, own int, cfg tenantdb.Config) (*fleets.Fleet, *tenantdb.DB) {
	t.Helper()
	f := buildOwn(t, pgtest.SuperURL(t, pgtest.Database(t)), tenants, own)
	return f, openFleet(t, f, cfg)
}

func openFleet(t testing.TB, f *fleets.Fleet, cfg tenantdb.Config) *tenantdb.DB {
	t.Helper()
	cfg.ConnConfig = f.Runtime()
	if cfg.Login == nil {
		cfg.Login = f.Login
	}
	db, err := tenantdb.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	closeAfter(t, db)
	return db
}

// databases are the numbers of the connections to databases of tenants' own.
func databases(t testing.TB, db *tenantdb.DB) tenantdb.PoolStat {
	t.Helper()
	for _, c := range db.Stat().Clusters {
		if c.Name == tenant.DefaultCluster {
			return c.Databases
		}
	}
	t.Fatal("there is no default cluster")
	return tenantdb.PoolStat{}
}

// A tenant with a database of its own is served as any other is, beside tenants that share one, by the same calls.
func TestTenantsOfBothStrategiesSideBySide(t *testing.T) {
	t.Parallel()
	f, db := openOwn(t, 4, 2, tenantdb.Config{MaxConns: 4})
	for _, tn := range f.Tenants {
		ctx := tenant.NewContext(t.Context(), tn)
		mustOwn(t, ctx, db, tn)
		var database, role string
		if err := db.QueryRow(ctx, "SELECT current_database(), current_user").Scan(&database, &role); err != nil {
			t.Fatal(err)
		}
		if database != tn.Placement.Database || role != tn.Placement.Role {
			t.Errorf("%s is served in %s as %s, want %s and %s", tn.Slug, database, role, tn.Placement.Database, tn.Placement.Role)
		}
		err := db.InTx(ctx, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, "INSERT INTO items (id, mood) VALUES (100, $1)", "only-"+string(tn.Slug)); err != nil {
				return err
			}
			return checkOwner(ctx, tx, tn, 100)
		})
		if err != nil {
			t.Error(err)
		}
		batch := &pgx.Batch{}
		batch.Queue("SELECT owner FROM items WHERE id = 100").QueryRow(func(row pgx.Row) error {
			var owner string
			if err := row.Scan(&owner); err != nil || owner != string(tn.Slug) {
				return fmt.Errorf("read %q, %w", owner, err)
			}
			return nil
		})
		if err := db.SendBatch(ctx, batch).Close(); err != nil {
			t.Error(err)
		}
		n, err := db.CopyFrom(ctx, pgx.Identifier{"items"}, []string{"id"}, pgx.CopyFromRows([][]any{{200}, {201}}))
		if err != nil || n != 2 {
			t.Errorf("copied %d rows: %v", n, err)
		}
		s, err := db.Acquire(ctx)
		if err != nil {
			t.Fatal(err)
		}
		mustOwn(t, ctx, s, tn)
		s.Release()
	}
}

// THREATS 46: there may be many more databases than connections, and the server never has more than the budget.
func TestTwoHundredDatabasesOnTwentyConnections(t *testing.T) {
	t.Parallel()
	const tenants, conns, rounds = 200, 20, 3
	// The server has room for these, for the default login's one, and for three superusers. One more is refused.
	server := pgtest.Start(t, pgserver.Config{Settings: map[string]string{"max_connections": strconv.Itoa(conns + 1 + 3)}})
	f := buildOwn(t, server.URL(pgserver.Superuser, pgserver.Database), tenants, tenants)
	db := openFleet(t, f, tenantdb.Config{MaxConns: 1, MaxDatabaseConns: conns})
	var g errgroup.Group
	for _, tn := range f.Tenants {
		ctx := tenant.NewContext(t.Context(), tn)
		g.Go(func() error {
			for range rounds {
				if err := checkOwner(ctx, db, tn, 1); err != nil {
					return err
				}
				if _, err := db.Exec(ctx, "UPDATE items SET qty = qty + 1 WHERE id = 1"); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
	for _, tn := range f.Tenants {
		var qty int
		if err := db.For(tn).QueryRow(t.Context(), "SELECT qty FROM items WHERE id = 1").Scan(&qty); err != nil || qty != rounds {
			t.Errorf("%s: counted %d, %v; want %d", tn.Slug, qty, err, rounds)
		}
	}
	if st := databases(t, db); st.Max != conns || st.Open > conns || st.Evicted == 0 || st.Waiting != 0 {
		t.Errorf("%+v", st)
	}
}

// Those who come while a database's first connection is being opened wait for it, and do not all open one.
func TestADatabaseIsOpenedOnce(t *testing.T) {
	t.Parallel()
	f := buildOwn(t, pgtest.SuperURL(t, pgtest.Database(t)), 1, 1)
	var opening, most atomic.Int32
	gate := make(chan struct{})
	db := openFleet(t, f, tenantdb.Config{MaxConns: 8, Login: func(ctx context.Context, p tenant.Placement) (*pgx.ConnConfig, error) {
		for n := opening.Add(1); ; {
			old := most.Load()
			if n <= old || most.CompareAndSwap(old, n) {
				break
			}
		}
		<-gate
		defer opening.Add(-1)
		return f.Login(ctx, p)
	}})
	tn := f.Tenants[0]
	ctx := tenant.NewContext(t.Context(), tn)
	var g errgroup.Group
	for range 16 {
		g.Go(func() error { return checkOwner(ctx, db, tn, 1) })
	}
	eventually(t, func() bool { return databases(t, db).Waiting == 16 })
	close(gate)
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
	if most.Load() != 1 {
		t.Errorf("%d connections were being opened at once", most.Load())
	}
	if st := databases(t, db); st.Created > 4 {
		t.Errorf("%d connections to one database", st.Created)
	}
}

// When the budget is spent, the database that nobody has used for longest makes room.
func TestTheDatabaseUsedLeastRecentlyMakesRoom(t *testing.T) {
	t.Parallel()
	f, db := openOwn(t, 3, 3, tenantdb.Config{MaxConns: 1, MaxDatabaseConns: 2})
	a, b, c := db.For(f.Tenants[0]), db.For(f.Tenants[1]), db.For(f.Tenants[2])
	ofA, ofB := backend(t, t.Context(), a), backend(t, t.Context(), b)
	if again := backend(t, t.Context(), a); again != ofA {
		t.Fatalf("tenant a was served by backend %d and then by %d", ofA, again)
	}
	_ = backend(t, t.Context(), c)
	if again := backend(t, t.Context(), a); again != ofA {
		t.Errorf("tenant a's connection made room, and not b's")
	}
	if again := backend(t, t.Context(), b); again == ofB {
		t.Errorf("b's connection is still there")
	}
	if st := databases(t, db); st.Evicted != 2 || st.Open != 2 || st.Created != 4 {
		t.Errorf("%+v", st)
	}
}

func TestIdleDatabasesAreClosed(t *testing.T) {
	t.Parallel()
	f, db := openOwn(t, 2, 2, tenantdb.Config{MaxConns: 2, MaxDatabaseIdleTime: time.Millisecond})
	for range 2 {
		for _, tn := range f.Tenants {
			mustOwn(t, tenant.NewContext(t.Context(), tn), db, tn)
		}
		eventually(t, func() bool { return databases(t, db).Open == 0 })
	}
}

// A call that waits in vain is told so, and those that hold the connections are not disturbed.
func TestADatabaseThatGetsNoConnectionIsToldSo(t *testing.T) {
	t.Parallel()
	f, db := openOwn(t, 2, 2, tenantdb.Config{MaxConns: 1, MaxDatabaseConns: 1, AcquireTimeout: 2 * time.Second})
	ctx := tenant.NewContext(t.Context(), f.Tenants[0])
	var tx pgx.Tx
	var err error
	eventually(t, func() bool { // to open a connection may take longer than the wait
		tx, err = db.Begin(ctx)
		return !errors.Is(err, tenantdb.ErrBusy)
	})
	if err != nil {
		t.Fatal(err)
	}
	other := tenant.NewContext(t.Context(), f.Tenants[1])
	if err := checkOwner(other, db, f.Tenants[1], 1); !errors.Is(err, tenantdb.ErrBusy) {
		t.Errorf("got %v, want ErrBusy", err)
	}
	if err := lateInTheQueue(other, t, db); !errors.Is(err, tenantdb.ErrBusy) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want ErrBusy and the deadline", err)
	}
	if err := checkOwner(ctx, tx, f.Tenants[0], 1); err != nil {
		t.Error(err)
	}
	if err := tx.Commit(ctx); err != nil {
		t.Error(err)
	}
	eventually(t, func() bool { return checkOwner(other, db, f.Tenants[1], 1) == nil })
	if st := databases(t, db); st.Waiting != 0 || st.Open != 1 || st.InUse != 0 {
		t.Errorf("%+v", st)
	}
}

// A tenant that keeps its connection busy gives it up in time for one that has none.
func TestABusyDatabaseGivesWay(t *testing.T) {
	t.Parallel()
	f, db := openOwn(t, 2, 2, tenantdb.Config{MaxConns: 1, MaxDatabaseConns: 1})
	stop := make(chan struct{})
	var busy sync.WaitGroup
	for range 4 {
		busy.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := checkOwner(t.Context(), db.For(f.Tenants[0]), f.Tenants[0], 1); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for range 5 {
		if err := checkOwner(t.Context(), db.For(f.Tenants[1]), f.Tenants[1], 1); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	busy.Wait()
}

// A second connection to a database is worth another tenant's idle one, after a wait.
func TestADatabaseGetsItsSecondConnectionInTheEnd(t *testing.T) {
	t.Parallel()
	f, db := openOwn(t, 2, 2, tenantdb.Config{MaxConns: 1, MaxDatabaseConns: 2, MaxConnsPerDatabase: 2})
	ctx := tenant.NewContext(t.Context(), f.Tenants[0])
	tx, err := db.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	mustOwn(t, t.Context(), db.For(f.Tenants[1]), f.Tenants[1])
	mustOwn(t, ctx, db, f.Tenants[0])
	if err := tx.Rollback(ctx); err != nil {
		t.Error(err)
	}
	if st := databases(t, db); st.Evicted != 1 {
		t.Errorf("%+v", st)
	}
}

// A password that was changed while a connection was being opened is asked for again.
func TestALoginIsAskedForAgain(t *testing.T) {
	t.Parallel()
	f := buildOwn(t, pgtest.SuperURL(t, pgtest.Database(t)), 2, 2)
	var asked atomic.Int32
	db := openFleet(t, f, tenantdb.Config{MaxConns: 2, Login: func(ctx context.Context, p tenant.Placement) (*pgx.ConnConfig, error) {
		cc, err := f.Login(ctx, p)
		if n := asked.Add(1); n == 1 || p.Login == f.Tenants[1].Placement.Login {
			cc.Password = "an old one"
		}
		return cc, err
	}})
	mustOwn(t, t.Context(), db.For(f.Tenants[0]), f.Tenants[0])
	if asked.Load() != 2 {
		t.Errorf("asked %d times, want 2", asked.Load())
	}
	wantCode(t, checkOwner(t.Context(), db.For(f.Tenants[1]), f.Tenants[1], 1), "28P01")
	if asked.Load() != 4 {
		t.Errorf("asked %d times, want 4: a password that is wrong is tried twice", asked.Load())
	}
	if errors.Is(checkOwner(t.Context(), db.For(f.Tenants[1]), f.Tenants[1], 1), tenantdb.ErrUnavailable) {
		t.Error("a wrong password counts as a server that is away")
	}
}

// A tenant whose record was read anew, or that was moved, is served where its record says.
func TestATenantMovesToADatabaseOfItsOwn(t *testing.T) {
	t.Parallel()
	f, db := openOwn(t, 2, 1, tenantdb.Config{MaxConns: 2})
	shared, own := f.Tenants[0], f.Tenants[1]
	mustOwn(t, t.Context(), db.For(shared), shared)
	mustOwn(t, t.Context(), db.For(own), own)
	again := *own
	again.Generation++
	before := backend(t, t.Context(), db.For(own))
	if after := backend(t, t.Context(), db.For(&again)); after != before {
		t.Error("a record that was read again has another connection")
	}
	moved := *shared // as if it had been moved into the other one's database
	moved.Placement = own.Placement
	if err := checkOwner(t.Context(), db.For(&moved), own, 1); err != nil {
		t.Error(err)
	}
	mustOwn(t, t.Context(), db.For(shared), shared)
}

// A cluster that is down takes down its tenants only, of both strategies, and recovers by itself.
func TestAClusterThatIsDownTakesDownItsTenantsOnly(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	server := pgtest.Start(t, pgserver.Config{DataDir: dir})
	here, db, there := twoClusters(t, server.URL(pgserver.Superuser, pgserver.Database), tenantdb.Config{MaxConns: 8})
	all := func(ctx context.Context) error {
		for _, tn := range there.Tenants {
			if err := checkOwner(ctx, db.For(tn), tn, 1); err != nil {
				return err
			}
		}
		return nil
	}
	if err := all(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := server.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i, tn := range there.Tenants {
		eventually(t, func() bool { // the first call may still find a connection that was open
			err := checkOwner(t.Context(), db.For(tn), tn, 1)
			if other := there.Tenants[(i+1)%len(there.Tenants)]; err != nil && strings.Contains(err.Error(), string(other.Slug)) {
				t.Errorf("%s is told of %s: %v", tn.Slug, other.Slug, err)
			}
			return errors.Is(err, tenantdb.ErrUnavailable)
		})
	}
	for _, tn := range here.Tenants {
		mustOwn(t, t.Context(), db.For(tn), tn)
	}
	pgtest.Start(t, pgserver.Config{DataDir: dir})
	eventually(t, func() bool { return all(t.Context()) == nil })
	// From now on as many connections are opened at once as are wanted.
	var g errgroup.Group
	txs := make([]pgx.Tx, len(there.Tenants))
	for i, tn := range there.Tenants {
		g.Go(func() (err error) {
			txs[i], err = db.For(tn).Begin(t.Context())
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	for _, tx := range txs {
		if err := tx.Rollback(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

// twoClusters builds a fleet in the tests' server and one in another, each with tenants of both strategies, behind one DB.
func twoClusters(t *testing.T, url string, cfg tenantdb.Config) (here *fleets.Fleet, db *tenantdb.DB, there *fleets.Fleet) {
	t.Helper()
	here = buildOwn(t, pgtest.SuperURL(t, pgtest.Database(t)), 2, 1)
	there, err := fleets.Build(t.Context(), fleets.Config{AdminURL: url, Tenants: 9, OwnDatabases: 1})
	if err != nil {
		t.Fatal(err)
	}
	for _, tn := range there.Tenants {
		tn.Placement.Cluster = "two"
	}
	cfg.Login = func(ctx context.Context, p tenant.Placement) (*pgx.ConnConfig, error) {
		if p.Cluster == "two" {
			return there.Login(ctx, p)
		}
		return here.Login(ctx, p)
	}
	return here, openFleet(t, here, cfg), there
}
