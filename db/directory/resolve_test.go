package directory

import (
	"errors"
	"testing"
	"time"

	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/internal/pgserver"
	"github.com/leasehold-go/leasehold/internal/pgtest"
)

// resolveUntil resolves again and again until the answer is the one that is waited for.
func resolveUntil(tb testing.TB, d *Directory, slug tenant.Slug, wanted func(*tenant.Tenant, error) bool) {
	tb.Helper()
	waitFor(tb, "Resolve gives the new answer", func() bool {
		got, err := d.Resolve(tb.Context(), slug)
		return wanted(got, err)
	})
}

func gone(_ *tenant.Tenant, err error) bool { return errors.Is(err, tenant.ErrNotFound) }

func hasStatus(status tenant.Status) func(*tenant.Tenant, error) bool {
	return func(got *tenant.Tenant, err error) bool { return err == nil && got.Status == status }
}

func connectAndSuspend(tb testing.TB, url string, slug tenant.Slug) {
	tb.Helper()
	mustExec(tb, connectTo(tb, url), `UPDATE tenants SET status = 'suspended' WHERE slug = $1`, slug)
}

// The caches of these directories are never read again by time alone, so only a notification can bring the change.
func TestAChangeReachesEveryReplica(t *testing.T) {
	t.Parallel()
	url := registryURL(t)
	one, two := openDirectory(t, configOf(t, url)), openDirectory(t, configOf(t, url))
	admin := connectTo(t, url)
	mustCreate(t, one, "acme")
	both := func(slug tenant.Slug, wanted func(*tenant.Tenant, error) bool) {
		t.Helper()
		resolveUntil(t, one, slug, wanted)
		resolveUntil(t, two, slug, wanted)
	}
	both("acme", hasStatus(tenant.Active))

	mustExec(t, admin, `UPDATE tenants SET status = 'suspended' WHERE slug = 'acme'`)
	both("acme", hasStatus(tenant.Suspended))
	mustExec(t, admin, `UPDATE tenants SET status = 'active' WHERE slug = 'acme'`)
	both("acme", hasStatus(tenant.Active))

	both("acme-ltd", gone)
	mustExec(t, admin, `UPDATE tenants SET slug = 'acme-ltd' WHERE slug = 'acme'`)
	both("acme", gone)
	both("acme-ltd", hasStatus(tenant.Active))

	mustExec(t, admin, `UPDATE tenants SET status = 'failed' WHERE slug = 'acme-ltd'`)
	both("acme-ltd", gone)
}

// THREATS 42.
func TestARecycledSubdomainDoesNotServeTheOldTenant(t *testing.T) {
	t.Parallel()
	url := registryURL(t)
	one, two := openDirectory(t, configOf(t, url)), openDirectory(t, configOf(t, url))
	admin := connectTo(t, url)
	old := mustCreate(t, one, "acme")
	resolveUntil(t, two, "acme", hasStatus(tenant.Active))

	mustExec(t, admin, `UPDATE tenants SET status = 'deleted' WHERE slug = 'acme'`)
	recycled := mustCreate(t, one, "acme")
	if recycled.ID == old.ID || recycled.Placement.Schema == old.Placement.Schema || recycled.Placement.Role == old.Placement.Role {
		t.Errorf("the new tenant shares something with the old: %+v, %+v", recycled, old)
	}
	if got, err := one.Resolve(t.Context(), "acme"); err != nil || got.ID != recycled.ID {
		t.Errorf("the creator resolves %+v, %v", got, err)
	}
	seen := false
	resolveUntil(t, two, "acme", func(got *tenant.Tenant, err error) bool {
		if err == nil && seen && got.ID == old.ID {
			t.Error("the old tenant came back")
		}
		seen = seen || err == nil && got.ID == recycled.ID
		return seen && got.Status == tenant.Active
	})
	gone, err := one.ByID(t.Context(), old.ID)
	if err != nil || gone.Status != tenant.Deleted {
		t.Errorf("the old record: %+v, %v", gone, err)
	}
}

func TestChangesMissedWhileNotListeningAreNoticed(t *testing.T) {
	t.Parallel()
	d, url := newDirectory(t)
	mustCreate(t, d, "acme")
	resolveUntil(t, d, "acme", hasStatus(tenant.Active))

	// Connected to this database, so that it may still write when nobody else may connect any more.
	super, outside := pgtest.Connect(t, pgtest.SuperURL(t, url)), pgtest.Connect(t, pgtest.SuperURL(t, "postgres"))
	database := query[string](t, super, `SELECT quote_ident(current_database())`)
	mustExec(t, outside, `ALTER DATABASE `+database+` ALLOW_CONNECTIONS false`)
	if n := query[int](t, super, `SELECT count(pg_terminate_backend(pid, 10000)) FROM pg_stat_activity
		WHERE datname = current_database() AND query LIKE 'LISTEN%'`); n != 1 {
		t.Errorf("%d connections listened, want 1", n)
	}
	mustExec(t, super, `UPDATE leasehold.tenants SET status = 'suspended' WHERE slug = 'acme'`)
	mustExec(t, outside, `ALTER DATABASE `+database+` ALLOW_CONNECTIONS true`)
	resolveUntil(t, d, "acme", hasStatus(tenant.Suspended))

	mustExec(t, super, `UPDATE leasehold.tenants SET status = 'active' WHERE slug = 'acme'`)
	resolveUntil(t, d, "acme", hasStatus(tenant.Active))
}

func TestAQuietListenerIsAskedAndGoesOnListening(t *testing.T) {
	t.Parallel()
	url := registryURL(t)
	d := openDirectory(t, configOf(t, url))
	mustCreate(t, d, "acme")
	resolveUntil(t, d, "acme", hasStatus(tenant.Active))

	l, err := listen(t.Context(), d.cfg.registryConn(), d.cache, d.wakeFiller, d.cfg.Logger, time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	d.listener.close() // the impatient one is alone now
	epoch := d.cache.epoch.Load()
	connectAndSuspend(t, url, "acme")
	resolveUntil(t, d, "acme", hasStatus(tenant.Suspended))
	if d.cache.epoch.Load() != epoch {
		t.Error("the listener had to connect again")
	}
}

// awaitNotifications returns when d has heard of all changes that were committed before. One that came later would make it
// forget what it knows, and rightly so.
func awaitNotifications(t *testing.T, d *Directory) {
	t.Helper()
	const marker = "marker"
	d.cache.negative.Set(marker, struct{}{})
	if _, err := d.pool.Exec(t.Context(), "NOTIFY "+channel+", '"+marker+"'"); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the notification arrives", func() bool {
		_, there := d.cache.negative.GetIfPresent(marker)
		return !there
	})
}

func TestKnownTenantsAreServedWhileTheServerIsDown(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	server := pgtest.Start(t, pgserver.Config{DataDir: dir})
	url := server.URL(pgserver.Administrator, pgserver.Database)
	if _, err := Migrate(t.Context(), configOf(t, url)); err != nil {
		t.Fatal(err)
	}
	cfg := configOf(t, url)
	cfg.CacheTTL = 1 // so that each Resolve wants to read
	d := openDirectory(t, cfg)
	acme := mustCreate(t, d, "acme")
	awaitNotifications(t, d)
	resolveUntil(t, d, "acme", hasStatus(tenant.Active))

	if err := server.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 100 {
		if got, err := d.Resolve(t.Context(), "acme"); err != nil || got.ID != acme.ID {
			t.Fatalf("Resolve = %+v, %v", got, err)
		}
	}
	if _, err := d.Resolve(t.Context(), "globex"); err == nil || errors.Is(err, tenant.ErrNotFound) {
		t.Errorf("Resolve of an unknown tenant: error = %v, want one that is not ErrNotFound", err)
	}
	if err := d.Ping(t.Context()); err == nil {
		t.Error("Ping succeeded")
	}

	pgtest.Start(t, pgserver.Config{DataDir: dir})
	waitFor(t, "the registry answers", func() bool { return d.Ping(t.Context()) == nil })
	connectAndSuspend(t, url, "acme")
	resolveUntil(t, d, "acme", hasStatus(tenant.Suspended))
	resolveUntil(t, d, "globex", gone)
}
