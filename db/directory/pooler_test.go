package directory

import (
	"errors"
	"net/url"
	"strconv"
	"sync"
	"testing"

	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/db/tenantdb"
	"github.com/leasehold-go/leasehold/internal/pgserver"
	"github.com/leasehold-go/leasehold/internal/pgtest"
)

func setPooler(tb testing.TB, d *Directory, cluster, pooler string) error {
	tb.Helper()
	return d.UpdateCluster(tb.Context(), cluster, ClusterChange{Pooler: &pooler})
}

// withoutLogin is a pooler's URL as a cluster has it.
func withoutLogin(tb testing.TB, in string) string {
	tb.Helper()
	u, err := url.Parse(in)
	if err != nil {
		tb.Fatal(err)
	}
	u.User, u.Path = nil, ""
	return u.String()
}

// The tenants of one server are reached through PgBouncer in transaction mode, and those of the other directly, by one program.
func TestAClusterBehindAPooler(t *testing.T) {
	t.Parallel()
	d, _ := newDirectory(t)
	far := pgtest.Start(t, pgserver.Config{}).URL(pgserver.Administrator, pgserver.Database)
	mustAddCluster(t, d, NewCluster{Name: "second", URL: far})
	here := mustHouse(t, d, on(tenant.DefaultCluster, company("here")))
	var there []*tenant.Tenant
	for _, slug := range []string{"a", "b", "c"} {
		there = append(there, mustHouse(t, d, on("second", company(slug))))
	}
	own := mustHouse(t, d, on("second", withDatabase("own")))
	there = append(there, own)
	users := map[string]string{}
	for _, tn := range there {
		cc, err := d.LoginConn(t.Context(), tn.Placement)
		if err != nil {
			t.Fatal(err)
		}
		users[cc.User] = cc.Password
	}
	pooler := pgtest.PgBouncer(t, far, pgtest.PgBouncerOptions{PoolSize: 1, Users: users})

	if err := setPooler(t, d, "second", withoutLogin(t, pooler)); err != nil {
		t.Fatal(err)
	}
	parsed, err := url.Parse(pooler)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range mustClusters(t, d) {
		if want := map[string]string{"second": parsed.Host}[c.Name]; c.Pooler != want || c.Err != nil {
			t.Errorf("the pooler of %s is %q, want %q; %v", c.Name, c.Pooler, want, c.Err)
		}
	}
	for _, tn := range append(there, here) {
		cc, err := d.LoginConn(t.Context(), tn.Placement)
		if err != nil {
			t.Fatal(err)
		}
		if pooled := strconv.Itoa(int(cc.Port)) == parsed.Port(); pooled != (tn != here) {
			t.Errorf("%s is reached at port %d", tn.Slug, cc.Port)
		}
	}
	db := openDB(t, d)
	var calls sync.WaitGroup
	for _, tn := range append(there, here) {
		for range 4 {
			calls.Go(func() {
				for range 20 {
					wantServed(t, db, tn)
				}
			})
		}
	}
	calls.Wait()
	for _, tn := range append(there, here) {
		s, err := db.Acquire(tenant.NewContext(t.Context(), tn))
		if refused := errors.Is(err, tenantdb.ErrRefused); refused != (tn != here) {
			t.Errorf("a session of %s: error = %v", tn.Slug, err)
		}
		if err == nil {
			s.Release()
		}
	}

	// Nobody is housed where the pooler does not know the login.
	if _, err := d.Create(t.Context(), on("second", withDatabase("late"))); !unreachable(err) {
		t.Errorf("a sign-up that the pooler does not let through: error = %v", err)
	}
	if _, err := d.Move(t.Context(), there[0].ID, MoveOptions{Strategy: tenant.DatabaseStrategy}); !unreachable(err) {
		t.Errorf("a move to where the pooler does not lead: error = %v", err)
	}
	wantServed(t, db, there[0])

	if err := setPooler(t, d, "second", ""); err != nil {
		t.Fatal(err)
	}
	direct := openDB(t, d)
	for _, tn := range there {
		s, err := direct.Acquire(tenant.NewContext(t.Context(), tn))
		if err != nil {
			t.Fatalf("%s without a pooler: %v", tn.Slug, err)
		}
		s.Release()
	}
}

func TestUnfitPoolersAreRefused(t *testing.T) {
	t.Parallel()
	d, _ := newDirectory(t)
	server := pgtest.Start(t, pgserver.Config{})
	far := server.URL(pgserver.Administrator, pgserver.Database)
	mustAddCluster(t, d, NewCluster{Name: "second", URL: far})
	acme := mustHouse(t, d, on("second", company("acme")))
	direct, err := d.LoginConn(t.Context(), acme.Placement)
	if err != nil {
		t.Fatal(err)
	}
	elsewhere := pgtest.Start(t, pgserver.Config{})
	admin := elsewhere.URL(pgserver.Administrator, pgserver.Database)
	pgtest.Exec(t, elsewhere.URL(pgserver.Superuser, "postgres"), "CREATE ROLE "+direct.User+" LOGIN PASSWORD '"+direct.Password+"'")
	for name, pooler := range map[string]string{
		"no URL":                "localhost:6432",
		"another scheme":        "http://localhost:6432",
		"a login":               "postgres://somebody@localhost:6432",
		"a password":            "postgres://localhost:6432/?password=canary-1",
		"a database":            "postgres://localhost:6432/other",
		"an option that is not": "postgres://localhost:6432?sslmode=perhaps",
		"nobody there":          "postgres://localhost:1",
		"a login that it lacks": withoutLogin(t, pgtest.PgBouncer(t, far, pgtest.PgBouncerOptions{})),
		"another server":        withoutLogin(t, pgtest.PgBouncer(t, admin, pgtest.PgBouncerOptions{Users: map[string]string{direct.User: direct.Password}})),
	} {
		if err := setPooler(t, d, "second", pooler); !errors.Is(err, ErrClusterUnfit) {
			t.Errorf("%s: error = %v, want %v", name, err, ErrClusterUnfit)
		}
	}
	if err := d.UpdateCluster(t.Context(), "second", ClusterChange{URL: far, Pooler: new("postgres://localhost:1")}); !errors.Is(err, ErrClusterUnfit) {
		t.Errorf("with a URL: error = %v, want %v", err, ErrClusterUnfit)
	}
	if err := setPooler(t, d, "third", ""); !errors.Is(err, ErrNoCluster) {
		t.Errorf("for a cluster that is not: error = %v, want %v", err, ErrNoCluster)
	}
	wantServed(t, openDB(t, d), acme)
}

// The registry's own cluster too: what programs connect as when they start leads through its pooler.
func TestTheDefaultClusterBehindAPooler(t *testing.T) {
	t.Parallel()
	d, registry := newDirectory(t)
	acme, globex := mustCreate(t, d, "acme"), mustCreate(t, d, "globex")
	direct := mustRuntimeConn(t, d)
	pooler := pgtest.PgBouncer(t, registry, pgtest.PgBouncerOptions{Users: map[string]string{direct.User: direct.Password}})
	if err := setPooler(t, d, tenant.DefaultCluster, withoutLogin(t, pooler)); err != nil {
		t.Fatal(err)
	}
	db := openDB(t, openDirectory(t, configOf(t, registry)))
	if _, err := db.Acquire(tenant.NewContext(t.Context(), acme)); !errors.Is(err, tenantdb.ErrRefused) {
		t.Errorf("a session: error = %v, want %v", err, tenantdb.ErrRefused)
	}
	for range 3 {
		wantServed(t, db, acme)
		wantServed(t, db, globex)
	}
}
