package tenantdb_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/db/tenantdb"
)

// benchTenants is how many tenants the benchmarks visit: LEASEHOLD_BENCH_TENANTS, or 100.
func benchTenants(b *testing.B) int {
	b.Helper()
	s := os.Getenv("LEASEHOLD_BENCH_TENANTS")
	if s == "" {
		return 100
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 {
		b.Fatalf("LEASEHOLD_BENCH_TENANTS is %q; want a number of tenants", s)
	}
	return n
}

const benchConns = 16

// BenchmarkCall reads one row in a random tenant in the ways there are, each with as many connections. qualified is the bar: SQL
// qualified by hand on a plain pool, which holds a call to nothing. Only ratios within one run mean something.
func BenchmarkCall(b *testing.B) {
	f := newFleet(b, benchTenants(b))
	b.Run("qualified", func(b *testing.B) { f.benchQualified(b) })
	b.Run("set-then-query", func(b *testing.B) { f.benchSetThenQuery(b) })
	b.Run("begin-set-local", func(b *testing.B) { f.benchSetLocal(b) })
	b.Run("leasehold", func(b *testing.B) { f.benchLeasehold(b) })
}

const benchSQL = "SELECT id, owner, qty, mood::text FROM %sitems WHERE id = $1"

// scanItem reads a row and checks whose it is.
func scanItem(row pgx.Row, tn *tenant.Tenant) error {
	var id, qty int32
	var owner, mood string
	if err := row.Scan(&id, &owner, &qty, &mood); err != nil {
		return err
	}
	if owner != string(tn.Slug) {
		return errWrongTenant
	}
	return nil
}

// run calls read for random tenants from 16 goroutines.
func (f *fleet) run(b *testing.B, read func(ctx context.Context, tn *tenant.Tenant, id int) error) {
	b.Helper()
	ctx := context.Background()
	for _, tn := range f.tenants { // nobody pays for the first time
		if err := read(ctx, tn, 1); err != nil {
			b.Fatal(err)
		}
	}
	b.SetParallelism(8)
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := read(ctx, f.tenants[rand.IntN(len(f.tenants))], rand.IntN(rowsPerTenant)+1); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

// adminPool is a plain pool with the administrator's login, which may read every schema.
func (f *fleet) adminPool(b *testing.B) *pgxpool.Pool {
	b.Helper()
	pc, err := pgxpool.ParseConfig(f.url)
	if err != nil {
		b.Fatal(err)
	}
	pc.MaxConns = benchConns
	pool, err := pgxpool.NewWithConfig(b.Context(), pc)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(pool.Close)
	return pool
}

func (f *fleet) benchQualified(b *testing.B) {
	b.Helper()
	pool := f.adminPool(b)
	sql := make(map[*tenant.Tenant]string, len(f.tenants))
	for _, tn := range f.tenants {
		sql[tn] = fmt.Sprintf(benchSQL, tn.Placement.Schema+".")
	}
	f.run(b, func(ctx context.Context, tn *tenant.Tenant, id int) error {
		return scanItem(pool.QueryRow(ctx, sql[tn], id), tn)
	})
}

func (f *fleet) benchSetThenQuery(b *testing.B) {
	b.Helper()
	pool := f.adminPool(b)
	sql := fmt.Sprintf(benchSQL, "")
	f.run(b, func(ctx context.Context, tn *tenant.Tenant, id int) error {
		return pool.AcquireFunc(ctx, func(conn *pgxpool.Conn) error {
			if _, err := conn.Exec(ctx, "SET search_path TO "+tn.Placement.Schema); err != nil {
				return err
			}
			return scanItem(conn.QueryRow(ctx, sql, id), tn)
		})
	})
}

func (f *fleet) benchSetLocal(b *testing.B) {
	b.Helper()
	pool := f.adminPool(b)
	sql := fmt.Sprintf(benchSQL, "")
	f.run(b, func(ctx context.Context, tn *tenant.Tenant, id int) error {
		return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, "SELECT set_config('search_path', $1, true)", tn.Placement.Schema); err != nil {
				return err
			}
			return scanItem(tx.QueryRow(ctx, sql, id), tn)
		})
	})
}

func (f *fleet) benchLeasehold(b *testing.B) {
	b.Helper()
	db := f.open(b, tenantdb.Config{MaxConns: benchConns})
	sql := fmt.Sprintf(benchSQL, "")
	f.run(b, func(ctx context.Context, tn *tenant.Tenant, id int) error {
		return scanItem(db.For(tn).QueryRow(ctx, sql, id), tn)
	})
}

// BenchmarkOwnDatabases is BenchmarkCall in databases of tenants' own. pool-each is the bar: a plain pool of one connection for each
// database, with names qualified by hand. scarce has one connection for four databases, which is what the budget is for: it pays for
// opening connections.
func BenchmarkOwnDatabases(b *testing.B) {
	const own = 16
	mixed := newMixedFleet(b, 1, own)
	f := *mixed
	f.tenants = mixed.tenants[1:]
	sql := fmt.Sprintf(benchSQL, "")
	ours := func(b *testing.B, conns int) {
		b.Helper()
		db := f.open(b, tenantdb.Config{MaxConns: 1, MaxDatabaseConns: conns, MaxConnsPerDatabase: 1})
		f.run(b, func(ctx context.Context, tn *tenant.Tenant, id int) error {
			return scanItem(db.For(tn).QueryRow(ctx, sql, id), tn)
		})
		b.ReportMetric(float64(databases(b, db).Created)/float64(b.N), "conns/op")
	}
	b.Run("pool-each", func(b *testing.B) {
		pools, qualified := map[*tenant.Tenant]*pgxpool.Pool{}, map[*tenant.Tenant]string{}
		for _, tn := range f.tenants {
			pc, err := pgxpool.ParseConfig(f.urlOf(b, tn))
			if err != nil {
				b.Fatal(err)
			}
			pc.MaxConns = 1
			if pools[tn], err = pgxpool.NewWithConfig(b.Context(), pc); err != nil {
				b.Fatal(err)
			}
			b.Cleanup(pools[tn].Close)
			qualified[tn] = fmt.Sprintf(benchSQL, tn.Placement.Schema+".")
		}
		f.run(b, func(ctx context.Context, tn *tenant.Tenant, id int) error {
			return scanItem(pools[tn].QueryRow(ctx, qualified[tn], id), tn)
		})
	})
	b.Run("leasehold", func(b *testing.B) { ours(b, own) })
	b.Run("scarce", func(b *testing.B) { ours(b, own/4) })
}
