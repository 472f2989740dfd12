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
	closeAfter(t, db)
	return f, db
}

// keepBusy has a goroutine for each tenant send the statement so many times.
func keepBusy(t *testing.T, db *tenantdb.DB, f *fleets.Fleet, times int, sql string) {
	t.Helper()
	var wg sync.WaitGroup
	for _, tn := range f.Tenants {
		wg.Go(func() {
			for range times {
				if _, err := db.For(tn).Exec(t.Context(), sql); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

// Callers of two logins that keep all connections busy share them; they do not close each other's.
func TestTwoBusyLoginsKeepTheirConnections(t *testing.T) {
	t.Parallel()
	f, db := openLogins(t, fleets.Config{Tenants: 16, TenantsPerLogin: 8}, tenantdb.Config{MaxConns: 4})
	keepBusy(t, db, f, 100, "SELECT pg_sleep(0.001)")
	if created := db.Stat().Created; created > 400 {
		t.Errorf("1600 calls on 4 connections have opened %d", created)
	}
}

// Where there is so much to do that all logins wait for long, their connections are still used: one of them is exchanged each
// 100 ms, and not with every call.
func TestLoginsThatAllWaitForLongKeepTheirConnections(t *testing.T) {
	t.Parallel()
	f, db := openLogins(t, fleets.Config{Tenants: 64, TenantsPerLogin: 32}, tenantdb.Config{MaxConns: 4})
	began := time.Now()
	keepBusy(t, db, f, 30, "SELECT pg_sleep(0.01)")
	if created, most := db.Stat().Created, int64(20+time.Since(began)/(70*time.Millisecond)); created > most {
		t.Errorf("1920 calls on 4 connections have opened %d, want at most %d", created, most)
	}
}

// A tenant that holds its whole share leaves the other tenants of its login a connection, when there are free ones.
func TestAShareIsLessThanWhatALoginHas(t *testing.T) {
	t.Parallel()
	f, db := openLogins(t, fleets.Config{Tenants: 4, TenantsPerLogin: 2}, tenantdb.Config{MaxConns: 4})
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
