package tenantdb_test

import (
	"context"
	"net/url"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/db/tenantdb"
	"github.com/leasehold-go/leasehold/db/tenanttest"
	"github.com/leasehold-go/leasehold/internal/pgtest"
)

// newMixedFleet is newFleet with more tenants, which have databases of their own.
func newMixedFleet(t testing.TB, shared, own int) *fleet {
	t.Helper()
	f := newFleet(t, shared)
	for range own {
		tn := newTenant(t, len(f.tenants), f.database(t))
		tn.Placement = tn.Placement.OwnDatabase(tn.Slug, tenant.DefaultCluster)
		p := tn.Placement
		pgtest.Exec(t, f.url, "CREATE DATABASE "+p.Database+" TEMPLATE template0 STRATEGY file_copy", "REVOKE ALL ON DATABASE "+p.Database+" FROM PUBLIC",
			"CREATE ROLE "+p.Login+" LOGIN NOINHERIT PASSWORD 'test'", "GRANT CONNECT ON DATABASE "+p.Database+" TO "+p.Login)
		f.tenants, f.own, f.logins = append(f.tenants, tn), f.own+1, append(f.logins, p.Login)
		pgtest.Exec(t, f.urlOf(t, tn), "REVOKE ALL ON SCHEMA public FROM PUBLIC", f.schemaSQL(tn))
	}
	return f
}

// urlOf is the administrator's way to a tenant's database.
func (f *fleet) urlOf(t testing.TB, tn *tenant.Tenant) string {
	t.Helper()
	u, err := url.Parse(f.url)
	if err != nil {
		t.Fatal(err)
	}
	u.Path = "/" + tn.Placement.Database
	return u.String()
}

// ownLogin leads to databases of tenants' own.
func (f *fleet) ownLogin(t testing.TB) func(context.Context, tenant.Placement) (*pgx.ConnConfig, error) {
	t.Helper()
	base := f.connConfig(t)
	return func(_ context.Context, p tenant.Placement) (*pgx.ConnConfig, error) {
		cc := base.Copy()
		cc.User, cc.Database = p.Login, p.Database
		return cc, nil
	}
}

// THREATS 1, 3, 5, 6, 7, 9, 10, 14 to 19, 25, 29, 46: the suite in databases of tenants' own: on every way, with connections that
// are fewer than the tenants, or never old, and beside tenants that share a database.
func TestIsolationInDatabasesOfTenantsOwn(t *testing.T) {
	t.Parallel()
	f := newMixedFleet(t, 1, 3)
	run := func(name string, tenants []*tenant.Tenant, cfg tenantdb.Config, way func(*tenantdb.DB) runFn) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg.Settings = scopeSettings
			db := f.open(t, cfg)
			target := f.target(t, db, min(cfg.MaxDatabaseConns, 4))
			target.Tenants, target.Workers, target.Rounds = tenants, 6, 3
			target.Run = way(db)
			tenanttest.Isolation(t, target)
			if st := databases(t, db); st.InUse != 0 || st.Waiting != 0 || st.Open > st.Max {
				t.Errorf("in the end: %+v", st)
			}
		})
	}
	for name := range ways(nil) {
		run(name, f.tenants[1:], tenantdb.Config{MaxConns: 1, MaxDatabaseConns: 4, MaxConnsPerDatabase: 4}, func(db *tenantdb.DB) runFn { return ways(db)[name] })
	}
	inContext := func(db *tenantdb.DB) runFn { return ways(db)["context"] }
	run("fewer connections than tenants", f.tenants[1:], tenantdb.Config{MaxConns: 1, MaxDatabaseConns: 2, MaxConnsPerDatabase: 2}, inContext)
	run("short lived", f.tenants[1:], tenantdb.Config{MaxConns: 1, MaxDatabaseConns: 4, MaxConnsPerDatabase: 4, MaxConnLifetime: 20 * time.Millisecond}, inContext)
	run("both strategies", f.tenants[:3], tenantdb.Config{MaxConns: 4, MaxDatabaseConns: 4, MaxConnsPerDatabase: 4}, inContext)
	run("session", f.tenants[2:], tenantdb.Config{MaxConns: 1, MaxDatabaseConns: 2, MaxSessions: 2}, session)
}
