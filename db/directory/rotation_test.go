package directory

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/internal/pgtest"
)

// THREATS 35 and the promise of LoginConn: passwords are changed all the time, and nobody who opens connections notices.
func TestPasswordsAreRotatedWithoutAFailedConnection(t *testing.T) {
	t.Parallel()
	d, url := newDirectory(t)
	acme := mustHouse(t, d, withDatabase("acme"))
	other := openDirectory(t, configOf(t, url))
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var openers sync.WaitGroup
	var opened [3]atomic.Int64
	for i := range opened {
		dir := []*Directory{d, other}[i%2]
		openers.Go(func() {
			for ctx.Err() == nil {
				conn, err := dialFor(t.Context(), dir, acme.Placement)
				if err != nil {
					t.Errorf("connection %d: %v", opened[i].Load(), err)
					return
				}
				closeConn(conn)
				opened[i].Add(1)
			}
		})
	}
	passwords := map[string]bool{}
	for round := range 12 {
		if err := []*Directory{d, other}[round%2].RotatePassword(t.Context(), acme.ID); err != nil {
			t.Fatal(err)
		}
		var before [3]int64 // from here on, since who connects asks again once, and not once for each of two rotations
		for i := range opened {
			before[i] = opened[i].Load()
		}
		cc, err := d.LoginConn(t.Context(), acme.Placement)
		if err != nil {
			t.Fatal(err)
		}
		passwords[cc.Password] = true
		waitFor(t, "everybody has connected since", func() bool {
			for i := range opened {
				if opened[i].Load() < before[i]+2 && !t.Failed() {
					return false
				}
			}
			return true
		})
	}
	stop()
	openers.Wait()
	if len(passwords) != 12 {
		t.Errorf("%d passwords in 12 rounds", len(passwords))
	}
	log := kinds(t, d, acme.ID)
	if n := len(log); n != 4+12 || log[n-1] != EventPasswordRotated {
		t.Errorf("events: %v", log)
	}
}

func TestManyRotateAtOnce(t *testing.T) {
	t.Parallel()
	d, url := newDirectory(t)
	acme := mustHouse(t, d, withDatabase("acme"))
	other := openDirectory(t, configOf(t, url))
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			if err := []*Directory{d, other}[i%2].RotatePassword(t.Context(), acme.ID); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	connectFor(t, d, acme.Placement)
	if half := query[bool](t, connectTo(t, url), `SELECT next_encrypted_password IS NOT NULL FROM tenants`); half {
		t.Error("a change is not complete")
	}
}

func TestOnlyTenantsWithAPasswordCanRotateIt(t *testing.T) {
	t.Parallel()
	d, url := newDirectory(t)
	acme := mustCreate(t, d, "acme")
	if err := d.RotatePassword(t.Context(), acme.ID); !errors.Is(err, ErrNoPassword) {
		t.Errorf("by schema: error = %v, want %v", err, ErrNoPassword)
	}
	if err := d.RotatePassword(t.Context(), tenant.ID{1}); !errors.Is(err, tenant.ErrNotFound) {
		t.Errorf("nobody: error = %v, want %v", err, tenant.ErrNotFound)
	}
	globex := mustHouse(t, d, withDatabase("globex"))
	mustExec(t, connectTo(t, url), `UPDATE tenants SET status = 'deleted' WHERE slug = 'globex'`)
	if err := d.RotatePassword(t.Context(), globex.ID); !errors.Is(err, ErrNoPassword) {
		t.Errorf("deleted: error = %v, want %v", err, ErrNoPassword)
	}
	for name, p := range map[string]tenant.Placement{
		"deleted": globex.Placement, "never there": globex.Placement.OwnDatabase("globex", tenant.DefaultCluster),
	} {
		if _, err := d.LoginConn(t.Context(), p); !errors.Is(err, ErrRuntimeLogin) {
			t.Errorf("%s: error = %v, want %v", name, err, ErrRuntimeLogin)
		}
	}
	stale := globex.Placement
	mustExec(t, connectTo(t, url), `UPDATE tenants SET status = 'active' WHERE slug = 'globex'`)
	stale.Login = "l_somebody_else"
	if _, err := d.LoginConn(t.Context(), stale); !errors.Is(err, ErrRuntimeLogin) {
		t.Errorf("another login: error = %v, want %v", err, ErrRuntimeLogin)
	}
}

// A known tenant can be connected to while the registry is away.
func TestPasswordsAreKnownWithoutTheRegistry(t *testing.T) {
	t.Parallel()
	d, url := newDirectory(t)
	mustAddCluster(t, d, NewCluster{Name: "second", URL: pgtest.Database(t)})
	known := []*tenant.Tenant{
		mustHouse(t, d, withDatabase("acme")), mustHouse(t, d, on("second", withDatabase("globex"))), mustHouse(t, d, on("second", company("hooli"))),
	}
	other := openDirectory(t, configOf(t, url))
	for _, tn := range known {
		connectFor(t, other, tn.Placement)
	}
	unknown := mustHouse(t, d, withDatabase("initech"))
	other.pool.Close()
	for _, tn := range known {
		connectFor(t, other, tn.Placement)
	}
	if _, err := other.LoginConn(t.Context(), unknown.Placement); err == nil {
		t.Error("a password that was never read is known")
	}
}

// The secret key is changed while processes run: at each step everybody who has the keys of the step can connect as every login.
func TestTheSecretKeyIsChangedWithoutAStop(t *testing.T) {
	t.Parallel()
	url := registryURL(t)
	oldKey, newKey := testKey, []byte("the new secret key, of 32 bytes.")
	open := func(key []byte, old ...[]byte) *Directory {
		cfg := configOf(t, url)
		cfg.SecretKey, cfg.OldSecretKeys = key, old
		return openDirectory(t, cfg)
	}
	before, both, after := open(oldKey), open(newKey, oldKey), open(newKey)
	mustAddCluster(t, before, NewCluster{Name: "second", URL: pgtest.Database(t)})
	tenants := []*tenant.Tenant{
		mustHouse(t, before, on(tenant.DefaultCluster, company("home"))), mustHouse(t, before, on(tenant.DefaultCluster, withDatabase("own"))),
		mustHouse(t, before, on("second", company("far"))), mustHouse(t, before, on("second", withDatabase("far-own"))),
	}
	// One is in the middle of a change of its password.
	next := mustSeal(t, before.sealer, ownerOfPassword(tenants[1].ID), "to be")
	mustExec(t, connectTo(t, url), `UPDATE tenants SET next_encrypted_password = $1 WHERE slug = 'own'`, next)
	all := func(what string, d *Directory) {
		t.Helper()
		for _, tn := range tenants {
			if conn, err := dialFor(t.Context(), d, tn.Placement); err != nil {
				t.Errorf("%s, %s: %v", what, tn.Slug, err)
			} else {
				closeConn(conn)
			}
		}
		mustRuntimeConn(t, d)
	}
	none := func(what string, d *Directory) {
		t.Helper()
		for _, tn := range tenants {
			if _, err := d.LoginConn(t.Context(), tn.Placement); !errors.Is(err, ErrSecretKey) {
				t.Errorf("%s, %s: error = %v, want %v", what, tn.Slug, err, ErrSecretKey)
			}
		}
	}
	all("the old key", before)
	all("both keys, before", both)
	none("the new key, before", after)
	if _, err := after.Reseal(t.Context()); !errors.Is(err, ErrSecretKey) {
		t.Errorf("Reseal without the old key: error = %v, want %v", err, ErrSecretKey)
	}

	tenants = append(tenants, mustHouse(t, both, on("second", withDatabase("between"))))
	if n, err := both.Reseal(t.Context()); n != 3 || err != nil {
		t.Errorf("Reseal = %d, %v, want 3", n, err)
	}
	all("both keys, half way", both)
	if err := both.SetRuntimePassword(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n, err := both.Reseal(t.Context()); n != 0 || err != nil {
		t.Errorf("Reseal again = %d, %v, want 0", n, err)
	}
	all("both keys, after", both)
	all("the new key, after", after)
	none("the old key, after", open(oldKey))
	if err := after.RotatePassword(t.Context(), tenants[1].ID); err != nil {
		t.Error(err)
	}
	if cc, err := after.LoginConn(t.Context(), tenants[1].Placement); err != nil || cc.Password != "to be" {
		t.Errorf("the change that was begun: %v", err)
	}
}

// Whoever has lost the key can set passwords with a new one.
func TestALostKeyIsReplaced(t *testing.T) {
	t.Parallel()
	url := registryURL(t)
	d := openDirectory(t, configOf(t, url))
	second := pgtest.Database(t)
	mustAddCluster(t, d, NewCluster{Name: "second", URL: second})
	tenants := []*tenant.Tenant{mustHouse(t, d, on("second", withDatabase("acme"))), mustHouse(t, d, on("second", company("globex")))}
	mustExec(t, connectTo(t, url), `UPDATE tenants SET next_encrypted_password = encrypted_password WHERE slug = 'acme'`)
	cfg := configOf(t, url)
	cfg.SecretKey = []byte("the new secret key, of 32 bytes.")
	fresh := openDirectory(t, cfg)
	// Nobody does so by mistake.
	for name, spoil := range map[string]func() error{
		"a cluster's URL":     func() error { return fresh.UpdateCluster(t.Context(), "second", ClusterChange{URL: second}) },
		"a password":          func() error { return fresh.RotatePassword(t.Context(), tenants[0].ID) },
		"a new cluster":       func() error { return fresh.AddCluster(t.Context(), NewCluster{Name: "third", URL: second}) },
		"a tenant's password": func() error { _, err := fresh.Create(t.Context(), on("default", withDatabase("hooli"))); return err },
	} {
		if err := spoil(); !errors.Is(err, ErrSecretKey) {
			t.Errorf("%s with another key: error = %v, want %v", name, err, ErrSecretKey)
		}
	}
	for _, tn := range tenants {
		connectFor(t, d, tn.Placement)
	}
	if err := fresh.UpdateCluster(t.Context(), "second", ClusterChange{URL: second, LostKey: true}); err != nil {
		t.Fatal(err)
	}
	if err := fresh.ReplacePassword(t.Context(), tenants[0].ID); err != nil {
		t.Fatal(err)
	}
	if n, err := fresh.Reseal(t.Context()); n != 0 || err != nil {
		t.Errorf("Reseal = %d, %v, want 0", n, err)
	}
	if err := fresh.SetRuntimePassword(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, tn := range tenants {
		connectFor(t, fresh, tn.Placement)
	}
	if diff := cmp.Diff([]EventKind{EventStarted, EventHoused, EventMigrated, EventActivated, EventPasswordRotated}, kinds(t, d, tenants[0].ID)); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

// Somebody with a newer key has begun to change a password, and the server has it already: whoever has the older key only cannot open
// it, and must not throw it away.
func TestAPasswordThatCannotBeOpenedIsNotThrownAway(t *testing.T) {
	t.Parallel()
	url := registryURL(t)
	older := openDirectory(t, configOf(t, url))
	acme := mustHouse(t, older, withDatabase("acme"))
	cfg := configOf(t, url)
	cfg.SecretKey, cfg.OldSecretKeys = []byte("the new secret key, of 32 bytes."), [][]byte{testKey}
	newer := openDirectory(t, cfg)

	row, err := newer.queries.GetTenant(t.Context(), acme.ID)
	if err != nil {
		t.Fatal(err)
	}
	_, verifier, err := newer.nextPassword(t.Context(), row, false)
	if err != nil {
		t.Fatal(err)
	}
	pgtest.Exec(t, url, "ALTER ROLE "+acme.Placement.Login+" PASSWORD '"+verifier+"'")
	if err := older.RotatePassword(t.Context(), acme.ID); !errors.Is(err, ErrSecretKey) {
		t.Errorf("error = %v, want %v", err, ErrSecretKey)
	}
	connectFor(t, newer, acme.Placement)

	garbage := []byte("no secret of ours")
	conn := connectTo(t, url)
	mustExec(t, conn, `UPDATE tenants SET next_encrypted_password = $1`, garbage)
	if err := newer.ReplacePassword(t.Context(), acme.ID); err == nil || errors.Is(err, ErrSecretKey) {
		t.Errorf("what is in no known form was replaced, or is called a matter of keys: %v", err)
	}
	if kept := query[[]byte](t, conn, `SELECT next_encrypted_password FROM tenants`); string(kept) != string(garbage) {
		t.Errorf("it was thrown away: %q", kept)
	}
}
