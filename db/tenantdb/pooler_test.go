package tenantdb_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/db/tenantdb"
	"github.com/leasehold-go/leasehold/internal/pgtest"
)

// bounced returns how the runtime login connects through a PgBouncer in transaction mode.
func (f *fleet) bounced(t *testing.T, poolSize int) *pgx.ConnConfig {
	t.Helper()
	pgtest.Exec(t, f.url, "ALTER ROLE "+f.login+" SET search_path = ''") // as the directory makes its runtime login
	users := map[string]string{f.login: "test"}
	for _, tn := range f.tenants[len(f.tenants)-f.own:] {
		users[tn.Placement.Login] = "test"
		pgtest.Exec(t, f.url, "ALTER ROLE "+tn.Placement.Login+" SET search_path = ''")
	}
	u := pgtest.PgBouncer(t, f.url, pgtest.PgBouncerOptions{PoolSize: poolSize, Users: users})
	cc, err := pgx.ParseConfig(u)
	if err != nil {
		t.Fatal(err)
	}
	cc.User, cc.Password = f.login, "test"
	return cc
}

// THREATS 11, 12: more callers than backends, in transaction mode; and the way that leaks there, which shows that the check
// can see it.
func TestThroughPgBouncerInTransactionMode(t *testing.T) {
	t.Parallel()
	for _, poolSize := range []int{1, 4} {
		t.Run(fmt.Sprint(poolSize), func(t *testing.T) {
			t.Parallel()
			f := newFleet(t, 10)
			cc := f.bounced(t, poolSize)
			db := f.open(t, tenantdb.Config{ConnConfig: cc, MaxConns: 8})
			if !db.Pooled() {
				t.Fatal("the pooler was not found out")
			}
			wrong, failed := checkLoad(f, 60, func(rng *rand.Rand, tn *tenant.Tenant) error {
				return randomCall(tenant.NewContext(t.Context(), tn), rng, db, tn)
			})
			if wrong != 0 || failed != 0 {
				t.Errorf("%d wrong rows, %d errors", wrong, failed)
			}
			if pids := backends(t, f, db); pids > poolSize {
				t.Errorf("%d backends served, want at most %d: the pooler did not pool", pids, poolSize)
			}
			if wrong := sessionSetThrough(t, f, cc); wrong == 0 {
				t.Error("SET on the session did not leak: the check cannot see what it is here to see")
			}
			for i, tn := range f.tenants {
				mustOwn(t, f.ctx(t, i), db, tn)
			}
		})
	}
}

// backends counts the server processes that serve many calls from all connections.
func backends(t *testing.T, f *fleet, db *tenantdb.DB) int {
	t.Helper()
	pids := map[int]bool{}
	for i := range 50 {
		var pid int
		if err := db.QueryRow(f.ctx(t, i%len(f.tenants)), "SELECT pg_backend_pid()").Scan(&pid); err != nil {
			t.Fatal(err)
		}
		pids[pid] = true
	}
	return len(pids)
}

// sessionSetThrough does what is commonly done, and returns how many rows of other tenants it read.
func sessionSetThrough(t *testing.T, f *fleet, cc *pgx.ConnConfig) (wrong int64) {
	t.Helper()
	pc, err := pgxpool.ParseConfig(cc.ConnString())
	if err != nil {
		t.Fatal(err)
	}
	admin, err := pgx.ParseConfig(f.url)
	if err != nil {
		t.Fatal(err)
	}
	pc.ConnConfig = cc.Copy()
	pc.ConnConfig.User, pc.ConnConfig.Password = admin.User, admin.Password // which may read every schema
	pc.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeExec
	pc.MaxConns = 8
	pool, err := pgxpool.NewWithConfig(t.Context(), pc)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	wrong, _ = checkLoad(f, 60, func(rng *rand.Rand, tn *tenant.Tenant) error {
		conn, err := pool.Acquire(t.Context())
		if err != nil {
			return err
		}
		defer conn.Release()
		if _, err := conn.Exec(t.Context(), "SET search_path = "+tn.Placement.Schema); err != nil {
			return err
		}
		return checkOwner(t.Context(), conn, tn, rng.IntN(rowsPerTenant)+1)
	})
	return wrong
}

func TestAPoolerModeThatWasSaidNeedsNoFindingOut(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	cc := f.bounced(t, 1)
	db := f.open(t, tenantdb.Config{ConnConfig: cc, MaxConns: 2, Pooler: tenantdb.PoolerTransaction})
	for range 3 {
		for i, tn := range f.tenants {
			mustOwn(t, f.ctx(t, i), db, tn)
			err := db.InTx(f.ctx(t, i), func(tx pgx.Tx) error {
				if err := checkOwner(f.ctx(t, i), tx, tn, 1); err != nil {
					return err
				}
				_, err := tx.CopyFrom(f.ctx(t, i), pgx.Identifier{"items"}, []string{"id"}, pgx.CopyFromRows([][]any{{500}}))
				return errors.Join(err, errRollback)
			})
			if !errors.Is(err, errRollback) {
				t.Fatal(err)
			}
		}
	}
	pgtest.Exec(t, f.url, "ALTER ROLE "+f.login+" RESET search_path")
	cc = f.bouncedAnew(t, cc)
	if _, err := tenantdb.Open(context.WithoutCancel(t.Context()), tenantdb.Config{ConnConfig: cc, Pooler: tenantdb.PoolerTransaction}); err == nil {
		t.Error("a login whose base path is not empty was accepted behind a pooler")
	}
}

var errRollback = errors.New("roll back")

// bouncedAnew is a pooler whose backends have not been connected yet, without the setting of the login.
func (f *fleet) bouncedAnew(t *testing.T, like *pgx.ConnConfig) *pgx.ConnConfig {
	t.Helper()
	u := pgtest.PgBouncer(t, f.url, pgtest.PgBouncerOptions{Users: map[string]string{f.login: "test"}})
	cc, err := pgx.ParseConfig(u)
	if err != nil {
		t.Fatal(err)
	}
	cc.User, cc.Password = like.User, like.Password
	return cc
}
