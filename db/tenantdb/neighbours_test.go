package tenantdb_test

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/db/tenantdb"
	"github.com/leasehold-go/leasehold/internal/pgtest"
)

// One database that lets nobody in does not make its server one that is away.
func TestOneDatabaseThatHangsIsNoOutage(t *testing.T) {
	t.Parallel()
	hole, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0") // takes connections, and never says a word
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = hole.Close() })
	f := buildOwn(t, pgtest.SuperURL(t, pgtest.Database(t)), 3, 2)
	hung := f.Tenants[2]
	db := openFleet(t, f, tenantdb.Config{MaxConns: 1, MaxDatabaseConns: 4, Login: func(ctx context.Context, p tenant.Placement) (*pgx.ConnConfig, error) {
		cc, err := f.Login(ctx, p)
		if p.Login == hung.Placement.Login {
			cc.Port, cc.ConnectTimeout = uint16(hole.Addr().(*net.TCPAddr).Port), 20*time.Millisecond //nolint:errcheck,forcetypeassert,gosec // it is
		}
		return cc, err
	}})
	if err := checkOwner(t.Context(), db.For(hung), hung, 1); !errors.Is(err, tenantdb.ErrUnavailable) {
		t.Fatalf("got %v, want ErrUnavailable", err)
	}
	mustOwn(t, t.Context(), db.For(f.Tenants[1]), f.Tenants[1])
	s, err := db.For(f.Tenants[0]).Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Release()
	mustOwn(t, t.Context(), s, f.Tenants[0])
}

// A hook that panics leaves no connection on the server that nobody counts.
func TestAPanicInRegisterTypesLeavesNoConnection(t *testing.T) {
	t.Parallel()
	var bad atomic.Bool
	f, db := openOwn(t, 2, 1, tenantdb.Config{MaxConns: 2, RegisterTypes: func(*pgtype.Map) {
		if bad.Load() {
			panic("a type that cannot be registered")
		}
	}})
	bad.Store(true)
	for range 3 {
		if err := checkOwner(t.Context(), db.For(f.Tenants[1]), f.Tenants[1], 1); err == nil {
			t.Fatal("no error")
		}
	}
	super := pgtest.Connect(t, pgtest.SuperURL(t, "postgres"))
	eventually(t, func() bool {
		var n int
		err := super.QueryRow(t.Context(), "SELECT count(*) FROM pg_stat_activity WHERE datname = $1", f.Tenants[1].Placement.Database).Scan(&n)
		return err == nil && n == 0
	})
}

// Half of the connections to databases are out of one tenant's reach, unless somebody says otherwise.
func TestOneTenantLeavesOthersConnectionsToTheirDatabases(t *testing.T) {
	t.Parallel()
	f, db := openOwn(t, 2, 2, tenantdb.Config{MaxConns: 4, AcquireTimeout: time.Minute})
	hot := tenant.NewContext(t.Context(), f.Tenants[0])
	for range 2 {
		tx, err := db.Begin(hot)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = tx.Rollback(hot) }()
	}
	if err := lateInTheQueue(hot, t, db); !errors.Is(err, tenantdb.ErrBusy) {
		t.Errorf("a third connection: got %v, want ErrBusy", err)
	}
	mustOwn(t, t.Context(), db.For(f.Tenants[1]), f.Tenants[1])
}

// An old record of a tenant and its current one count together, also when they lead to different places and take turns.
func TestTwoRecordsOfATenantHaveOneShare(t *testing.T) {
	t.Parallel()
	f := buildOwn(t, pgtest.SuperURL(t, pgtest.Database(t)), 2, 1)
	db := openFleet(t, f, tenantdb.Config{MaxConns: 4, MaxConnsPerDatabase: 1, Login: func(ctx context.Context, p tenant.Placement) (*pgx.ConnConfig, error) {
		return f.Login(ctx, tenant.Placement{Cluster: tenant.DefaultCluster, Strategy: p.Strategy, Database: p.Database, Login: p.Login})
	}})
	old := f.Tenants[1]
	moved := *old
	moved.Placement.Cluster, moved.Generation = "other", old.Generation+1
	ctx := tenant.NewContext(t.Context(), old)
	tx, err := db.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(ctx) }()
	mustOwn(t, t.Context(), db.For(&moved), old)
	if err := lateInTheQueue(ctx, t, db); !errors.Is(err, tenantdb.ErrBusy) {
		t.Errorf("a second connection: got %v, want ErrBusy", err)
	}
}
