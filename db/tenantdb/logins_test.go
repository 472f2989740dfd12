package tenantdb_test

import (
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/db/tenantdb"
	fleets "github.com/leasehold-go/leasehold/internal/fleet"
	"github.com/leasehold-go/leasehold/internal/pgtest"
)

// openLogins builds a fleet whose tenants have several runtime logins, and opens it.
func openLogins(t *testing.T, want fleets.Config, cfg tenantdb.Config) (*fleets.Fleet, *tenantdb.DB) {
	t.Helper()
	want.AdminURL = pgtest.SuperURL(t, pgtest.Database(t))
	f, err := fleets.Build(t.Context(), want)
	if err != nil {
		t.Fatal(err)
	}
	cfg.ConnConfig, cfg.Login = f.Runtime(), f.Login
	db, err := tenantdb.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	return f, db
}

// Callers of two logins that keep all connections busy share them; they do not close each other's.
func TestTwoBusyLoginsKeepTheirConnections(t *testing.T) {
	t.Parallel()
	f, db := openLogins(t, fleets.Config{Tenants: 16, TenantsPerLogin: 8}, tenantdb.Config{MaxConns: 4})
	var wg sync.WaitGroup
	for _, tn := range f.Tenants {
		wg.Go(func() {
			for range 100 {
				if _, err := db.For(tn).Exec(t.Context(), "SELECT pg_sleep(0.001)"); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if created := db.Stat().Created; created > 400 {
		t.Errorf("1600 calls on 4 connections have opened %d", created)
	}
}

// A tenant that holds its whole share leaves the other tenants of its login a connection, when there are free ones.
func TestAShareIsLessThanWhatALoginHas(t *testing.T) {
	t.Parallel()
	f, db := openLogins(t, fleets.Config{Tenants: 4, TenantsPerLogin: 2}, tenantdb.Config{MaxConns: 4, AcquireTimeout: time.Second})
	for _, tn := range f.Tenants { // both logins are known from here on
		if _, err := db.For(tn).Exec(t.Context(), "SELECT 1"); err != nil {
			t.Fatal(err)
		}
	}
	greedy, neighbour := f.Tenants[2], f.Tenants[3] // of the second login
	for range 2 {                                   // MaxConnsPerTenant: half of 4
		tx, err := db.For(greedy).BeginTx(tenant.NewContext(t.Context(), greedy), pgx.TxOptions{})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = tx.Rollback(t.Context()) }()
	}
	if _, err := db.For(neighbour).Exec(t.Context(), "SELECT 1"); err != nil {
		t.Errorf("2 of 4 connections are idle: %v", err)
	}
}
