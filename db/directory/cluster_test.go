package directory

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/leasehold-go/leasehold/db/migrate"
	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/db/tenantdb"
	"github.com/leasehold-go/leasehold/internal/pgserver"
	"github.com/leasehold-go/leasehold/internal/pgtest"
)

func mustClusters(tb testing.TB, d *Directory) []Cluster {
	tb.Helper()
	clusters, err := d.Clusters(tb.Context())
	if err != nil {
		tb.Fatal(err)
	}
	return clusters
}

// wantClusters compares all but addresses and errors.
func wantClusters(tb testing.TB, d *Directory, want ...Cluster) {
	tb.Helper()
	if diff := cmp.Diff(want, mustClusters(tb, d), cmpopts.IgnoreFields(Cluster{}, "Address", "Err")); diff != "" {
		tb.Errorf("clusters (-want +got):\n%s", diff)
	}
}

// One database is one cluster: a tenant that is moved from it to itself would be lost.
func TestADatabaseIsOneClusterOnly(t *testing.T) {
	t.Parallel()
	d, _ := newDirectory(t)
	server := pgtest.Start(t, pgserver.Config{})
	pgtest.Exec(t, server.URL(pgserver.Superuser, "postgres"), `CREATE DATABASE another OWNER `+pgserver.Administrator)
	one, another := server.URL(pgserver.Administrator, pgserver.Database), server.URL(pgserver.Administrator, "another")
	alias := strings.Replace(one, "127.0.0.1", "localhost", 1)
	mustAddCluster(t, d, NewCluster{Name: "one", URL: one})
	for _, url := range []string{one, alias} {
		if err := d.AddCluster(t.Context(), NewCluster{Name: "same", URL: url}); !errors.Is(err, ErrClusterUnfit) {
			t.Errorf("AddCluster of the same database: error = %v, want %v", err, ErrClusterUnfit)
		}
	}
	mustAddCluster(t, d, NewCluster{Name: "another", URL: another})
	if err := d.UpdateCluster(t.Context(), "one", ClusterChange{URL: alias}); err != nil {
		t.Errorf("another address of its own: %v", err)
	}
}

// withUser is a URL for another login.
func withUser(tb testing.TB, in, user, password string) string {
	tb.Helper()
	u, err := url.Parse(in)
	if err != nil {
		tb.Fatal(err)
	}
	u.User = url.UserPassword(user, password)
	return u.String()
}

func TestClustersAreAddedChangedAndRemoved(t *testing.T) {
	t.Parallel()
	d, registry := newDirectory(t)
	second := pgtest.Database(t)
	byDefault := Cluster{Name: "default", Kind: PostgresCluster, Strategy: tenant.SchemaStrategy}
	wantClusters(t, d, byDefault)
	mustAddCluster(t, d, NewCluster{Name: "second", URL: second, Strategy: tenant.DatabaseStrategy, MaxTenants: 2})
	wanted := Cluster{Name: "second", Kind: PostgresCluster, Strategy: tenant.DatabaseStrategy, MaxTenants: 2}
	wantClusters(t, d, byDefault, wanted)
	for _, c := range mustClusters(t, d) {
		if c.Err != nil || c.Address == "" || strings.Contains(c.Address, "@") {
			t.Errorf("%+v", c)
		}
	}
	if open := query[bool](t, pgtest.Connect(t, second), `SELECT EXISTS (SELECT FROM pg_database, aclexplode(datacl) WHERE datname = current_database()
		AND grantee = 0)`); open {
		t.Error("the database is open to everybody")
	}
	if shown := query[bool](t, connectTo(t, registry), `SELECT position('postgres' in encode(encrypted_url, 'escape')) > 0 FROM clusters WHERE name = 'second'`); shown {
		t.Error("the URL can be read")
	}

	acme := mustHouse(t, d, on("second", company("acme")))
	if acme.Placement.Cluster != "second" || acme.Placement.Strategy != tenant.DatabaseStrategy {
		t.Errorf("%+v", acme.Placement)
	}
	wanted.Tenants = 1
	wantClusters(t, d, byDefault, wanted)
	if err := d.RemoveCluster(t.Context(), "second"); !errors.Is(err, ErrClusterInUse) {
		t.Errorf("RemoveCluster: error = %v, want %v", err, ErrClusterInUse)
	}
	zero := 0
	if err := d.UpdateCluster(t.Context(), "second", ClusterChange{Strategy: tenant.SchemaStrategy, MaxTenants: &zero}); err != nil {
		t.Fatal(err)
	}
	wanted.Strategy, wanted.MaxTenants = tenant.SchemaStrategy, 0
	wantClusters(t, d, byDefault, wanted)
	five := 5
	if err := d.UpdateCluster(t.Context(), "default", ClusterChange{Strategy: tenant.DatabaseStrategy, MaxTenants: &five}); err != nil {
		t.Fatal(err)
	}
	if err := d.SetDraining(t.Context(), "default", true); err != nil {
		t.Fatal(err)
	}
	byDefault.Strategy, byDefault.MaxTenants, byDefault.Draining = tenant.DatabaseStrategy, 5, true
	wantClusters(t, d, byDefault, wanted)

	mustExec(t, connectTo(t, registry), `UPDATE tenants SET status = 'deleted' WHERE slug = 'acme'`)
	if err := d.RemoveCluster(t.Context(), "second"); err != nil {
		t.Errorf("one on which only the dead have lived: %v", err)
	}
	wantClusters(t, d, byDefault)
	if gone, err := d.ByID(t.Context(), acme.ID); err != nil || gone.Placement.Cluster != "second" {
		t.Errorf("the record of the dead: %+v, %v", gone, err)
	}
	mustAddCluster(t, d, NewCluster{Name: "second", URL: second})
}

func TestUnfitClustersAreRefused(t *testing.T) {
	t.Parallel()
	d, registry := newDirectory(t)
	good := pgtest.Database(t)
	super := pgtest.SuperURL(t, good)
	suffix := strings.ReplaceAll(d.logins.prefix[len("leasehold_run_"):], "_", "")
	role := func(attributes string) string {
		name := fmt.Sprintf("unfit_%s_%s", suffix, strings.ToLower(strings.ReplaceAll(attributes, " ", "_")))
		pgtest.Exec(t, super, `CREATE ROLE `+name+` LOGIN PASSWORD 'canary-1' `+attributes)
		return withUser(t, good, name, "canary-1")
	}
	parsed, err := url.Parse(good)
	if err != nil {
		t.Fatal(err)
	}
	host := parsed.Host
	for _, tc := range []struct {
		name    string
		cluster NewCluster
		want    error
	}{
		{"no name", NewCluster{URL: good}, ErrClusterUnfit},
		{"a bad name", NewCluster{Name: "Second", URL: good}, ErrClusterUnfit},
		{"a long name", NewCluster{Name: strings.Repeat("a", 41), URL: good}, ErrClusterUnfit},
		{"a name that is taken", NewCluster{Name: "default", URL: good}, ErrClusterExists},
		{"an unknown kind", NewCluster{Name: "x", URL: good, Kind: "mysql"}, ErrClusterUnfit},
		{"an unknown strategy", NewCluster{Name: "x", URL: good, Strategy: "table"}, ErrClusterUnfit},
		{"fewer than no tenants", NewCluster{Name: "x", URL: good, MaxTenants: -1}, ErrClusterUnfit},
		{"no URL", NewCluster{Name: "x"}, ErrClusterUnfit},
		{"no database", NewCluster{Name: "x", URL: "postgres://leasehold:canary-1@" + host}, ErrClusterUnfit},
		{"a slash in the password", NewCluster{Name: "x", URL: "postgres://leasehold:canary-1/x@" + host + "/db"}, ErrClusterUnfit},
		{"an @ in the password", NewCluster{Name: "x", URL: "postgres://leasehold:x@canary-1@" + host + "/db"}, ErrClusterUnfit},
		{"a # in the password", NewCluster{Name: "x", URL: "postgres://leasehold:x#canary-1@" + host + "/db"}, nil},
		{"a control character", NewCluster{Name: "x", URL: "postgres://leasehold:canary-1\x01@" + host + "/db"}, nil},
		{"the registry", NewCluster{Name: "x", URL: registry}, ErrClusterUnfit},
		{"no roles", NewCluster{Name: "x", URL: role("CREATEDB")}, ErrClusterUnfit},
		{"not the owner", NewCluster{Name: "x", URL: role("CREATEDB CREATEROLE")}, ErrClusterUnfit},
		{"no databases", NewCluster{Name: "x", URL: role("CREATEROLE"), Strategy: tenant.DatabaseStrategy}, ErrClusterUnfit},
		{"the wrong password", NewCluster{Name: "x", URL: withUser(t, good, pgserver.Administrator, "canary-1")}, nil},
		{"nobody there", NewCluster{Name: "x", URL: "postgres://leasehold:canary-1@127.0.0.1:1/x"}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			err := d.AddCluster(t.Context(), tc.cluster)
			if err == nil || tc.want != nil && !errors.Is(err, tc.want) {
				t.Errorf("error = %v, want %v", err, tc.want)
			}
			if err != nil && strings.Contains(err.Error(), "canary") {
				t.Errorf("the error shows the password: %v", err)
			}
			if n := query[int](t, connectTo(t, registry), `SELECT count(*) FROM clusters`); n != 1 {
				t.Errorf("%d clusters", n)
			}
		})
	}
}

func TestChangesOfClustersThatAreRefused(t *testing.T) {
	t.Parallel()
	d, _ := newDirectory(t)
	mustAddCluster(t, d, NewCluster{Name: "second", URL: pgtest.Database(t)})
	minus := -1
	for _, tc := range []struct {
		name   string
		change func() error
		want   error
	}{
		{"of nobody", func() error { return d.UpdateCluster(t.Context(), "x", ClusterChange{}) }, ErrNoCluster},
		{"draining of nobody", func() error { return d.SetDraining(t.Context(), "x", true) }, ErrNoCluster},
		{"removal of nobody", func() error { return d.RemoveCluster(t.Context(), "x") }, ErrNoCluster},
		{"removal of the default one", func() error { return d.RemoveCluster(t.Context(), "default") }, ErrClusterInUse},
		{"the URL of the default one", func() error {
			return d.UpdateCluster(t.Context(), "default", ClusterChange{URL: pgtest.Database(t)})
		}, ErrClusterUnfit},
		{"another database", func() error {
			return d.UpdateCluster(t.Context(), "second", ClusterChange{URL: pgtest.Database(t)})
		}, ErrClusterUnfit},
		{"a strategy", func() error { return d.UpdateCluster(t.Context(), "second", ClusterChange{Strategy: "x"}) }, ErrClusterUnfit},
		{"a bound", func() error { return d.UpdateCluster(t.Context(), "second", ClusterChange{MaxTenants: &minus}) }, ErrClusterUnfit},
		{"a tenant of nobody's", func() error { _, err := d.Create(t.Context(), on("x", company("acme"))); return err }, ErrNoCluster},
	} {
		if err := tc.change(); !errors.Is(err, tc.want) {
			t.Errorf("%s: error = %v, want %v", tc.name, err, tc.want)
		}
	}
	strange := company("acme")
	strange.Strategy = "table"
	_, err := d.Create(t.Context(), strange)
	if invalid, ok := errors.AsType[*ValidationError](err); !ok || invalid.Fields["strategy"] == "" {
		t.Errorf("a strategy that there is not: error = %v", err)
	}
}

// Sign-ups go where there is most room, and nowhere else.
func TestSignUpsGoToTheLeastFullCluster(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name     string
		home     int // MaxTenants of default and second; -1 is draining
		second   int
		want     string // one letter for each
		strategy tenant.Strategy
	}{
		{"without bounds, by number", 0, 0, "dsdsds", ""},
		{"by share", 2, 4, "dssds", ""},
		{"until all are full", 1, 2, "dss!", ""},
		{"one with a bound, by number", 2, 0, "dsdsss", ""},
		{"not to one that drains", -1, 0, "sss", ""},
		{"not to one that drains, until the other is full", -1, 2, "ss!", ""},
		{"databases", 0, 2, "dsds", tenant.DatabaseStrategy},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			url := registryURL(t)
			fillTo(t, configOf(t, url), 2)
			d := openDirectory(t, configOf(t, url))
			mustAddCluster(t, d, NewCluster{Name: "second", URL: pgtest.Database(t)})
			for name, bound := range map[string]int{"default": tc.home, "second": tc.second} {
				if bound < 0 {
					if err := d.SetDraining(t.Context(), name, true); err != nil {
						t.Fatal(err)
					}
				} else if err := d.UpdateCluster(t.Context(), name, ClusterChange{MaxTenants: &bound}); err != nil {
					t.Fatal(err)
				}
			}
			var got strings.Builder
			for i := range tc.want {
				n := company(fmt.Sprintf("c%d", i))
				n.Strategy = tc.strategy
				created, err := d.Create(t.Context(), n)
				switch {
				case errors.Is(err, ErrNoRoom):
					got.WriteString("!")
					continue
				case err != nil:
					t.Fatal(err)
				}
				dropAtEnd(t, created)
				got.WriteString(created.Placement.Cluster[:1])
			}
			if got.String() != tc.want {
				t.Errorf("placed on %s, want %s", got.String(), tc.want)
			}
		})
	}
}

func TestConcurrentSignUpsOverfillNoCluster(t *testing.T) {
	t.Parallel()
	url := registryURL(t)
	fillTo(t, configOf(t, url), 3)
	replicas := []*Directory{openDirectory(t, configOf(t, url)), openDirectory(t, configOf(t, url))}
	mustAddCluster(t, replicas[0], NewCluster{Name: "second", URL: pgtest.Database(t), MaxTenants: 4})
	four := 4
	if err := replicas[0].UpdateCluster(t.Context(), "default", ClusterChange{MaxTenants: &four}); err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	refused := make(chan error, 12)
	for i := range 12 {
		all.Go(func() {
			_, err := replicas[i%2].Create(t.Context(), company(fmt.Sprintf("c%d", i)))
			if errors.Is(err, ErrNoRoom) {
				refused <- err
			} else if err != nil {
				t.Errorf("Create: %v", err)
			}
		})
	}
	all.Wait()
	if len(refused) != 4 {
		t.Errorf("%d were refused, want 4", len(refused))
	}
	for _, c := range mustClusters(t, replicas[0]) {
		if c.Tenants != 4 {
			t.Errorf("%s has %d tenants, want 4", c.Name, c.Tenants)
		}
	}
}

// A cluster's runtime logins are counted by themselves.
func TestRuntimeLoginsOfAnotherCluster(t *testing.T) {
	t.Parallel()
	url := registryURL(t)
	d := openDirectory(t, crowded(t, url, 2))
	second := pgtest.Start(t, pgserver.Config{})
	mustAddCluster(t, d, NewCluster{Name: "second", URL: second.URL(pgserver.Administrator, pgserver.Database)})
	mustHouse(t, d, on("second", withDatabase("own"))) // which has no runtime login
	var far, near []string
	var tenants []*tenant.Tenant
	for i := range 3 {
		a, b := mustHouse(t, d, on("second", company(fmt.Sprintf("far-%d", i)))), mustHouse(t, d, on(tenant.DefaultCluster, company(fmt.Sprintf("near-%d", i))))
		far, near, tenants = append(far, a.Placement.Login), append(near, b.Placement.Login), append(tenants, a, b)
	}
	want := []string{"", "", d.loginName(1)}
	if diff := cmp.Diff([][]string{want, want}, [][]string{far, near}); diff != "" {
		t.Errorf("logins (-want +got):\n%s", diff)
	}
	there := pgtest.Connect(t, second.URL(pgserver.Administrator, pgserver.Database))
	if diff := cmp.Diff(map[int32]int{0: 2, 1: 1}, memberships(t, d, there)); diff != "" {
		t.Errorf("memberships there (-want +got):\n%s", diff)
	}
	cfg := configOf(t, url)
	cfg.OldSecretKeys, cfg.SecretKey = [][]byte{cfg.SecretKey}, []byte("the new secret key, of 32 bytes.")
	fresh := openDirectory(t, cfg)
	if _, err := fresh.Reseal(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := fresh.SetRuntimePassword(t.Context()); err != nil {
		t.Fatal(err)
	}
	cfg.OldSecretKeys = nil
	db := openDB(t, openDirectory(t, cfg))
	for _, tn := range tenants {
		wantServed(t, db, tn)
	}
}

// One server is down: its tenants are not served, and nobody else notices. It comes back: so do they.
func TestAClusterThatIsDown(t *testing.T) {
	t.Parallel()
	d, registry := newDirectory(t)
	dir := t.TempDir()
	second := pgtest.Start(t, pgserver.Config{DataDir: dir})
	far := second.URL(pgserver.Administrator, pgserver.Database)
	mustAddCluster(t, d, NewCluster{Name: "second", URL: far})
	here := []*tenant.Tenant{mustHouse(t, d, on(tenant.DefaultCluster, company("here"))), mustHouse(t, d, on(tenant.DefaultCluster, withDatabase("here-own")))}
	there := []*tenant.Tenant{mustHouse(t, d, on("second", company("there"))), mustHouse(t, d, on("second", withDatabase("there-own")))}
	db := openDB(t, d)
	for _, tn := range append(here, there...) {
		wantServed(t, db, tn)
	}
	createMany(t, d, 0, 1) // there, where there are fewer
	killInTheMiddleOf(t, registry, far, "second")
	admin := connectTo(t, registry)
	mustExec(t, admin, `INSERT INTO tenants (id, slug, company, contact_name, contact_email, status, cluster, strategy, database_name, schema_name, role_name)
		SELECT gen_random_uuid(), 'left', company, contact_name, contact_email, 'provisioning', cluster, strategy, database_name, 't_left', 'r_left'
		FROM tenants WHERE slug = 'here'`)
	createHere := func(slug string) { mustHouse(t, d, on(tenant.DefaultCluster, company(slug))) }
	createHere("more")
	createHere("and-more")
	if err := second.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}

	for _, c := range mustClusters(t, d) {
		if down := c.Name == "second"; down != (c.Err != nil) || down != unreachable(c.Err) {
			t.Errorf("%+v", c)
		}
	}
	for _, tn := range here {
		wantServed(t, db, tn)
	}
	for _, tn := range there {
		waitFor(t, "it is known that the cluster is down", func() bool { // an open connection may break first
			err := serve(t.Context(), db, tn)
			if err == nil {
				t.Fatalf("%s is served", tn.Slug)
			}
			return errors.Is(err, tenantdb.ErrUnavailable)
		})
	}
	elsewhere, err := d.Create(t.Context(), company("initech"))
	if err != nil {
		t.Fatal(err)
	}
	wantServed(t, db, elsewhere)
	if got := kinds(t, d, elsewhere.ID); elsewhere.Placement.Cluster != tenant.DefaultCluster || got[1] != EventPassedOver {
		t.Errorf("on cluster %s: %v", elsewhere.Placement.Cluster, got)
	}
	next, err := d.Create(t.Context(), company("umbrella"))
	if err != nil {
		t.Fatal(err)
	}
	if got := kinds(t, d, next.ID); next.Placement.Cluster != tenant.DefaultCluster || got[1] == EventPassedOver {
		t.Errorf("the next sign-up, on cluster %s, has tried again: %v", next.Placement.Cluster, got)
	}
	if _, err := d.Create(t.Context(), on("second", company("globex"))); !unreachable(err) {
		t.Errorf("a sign-up for that cluster: error = %v", err)
	}
	if n, err := d.Sweep(t.Context()); n != 1 || !unreachable(err) {
		t.Errorf("Sweep = %d, %v, want 1 and what cannot be reached", n, err)
	}
	if _, err := d.Create(t.Context(), company("acme")); !unreachable(err) {
		t.Errorf("the name of a creation that was broken off there: error = %v", err)
	}

	second = pgtest.Start(t, pgserver.Config{DataDir: dir})
	if back := second.URL(pgserver.Administrator, pgserver.Database); back != far {
		t.Fatalf("the server is back at another address: %s, not %s", back, far)
	}
	for _, tn := range there {
		waitFor(t, "the tenants there are served again", func() bool { return serve(t.Context(), db, tn) == nil })
	}
	// The failed creation that could not be cleaned up and the killed one.
	waitFor(t, "the dead is swept", func() bool {
		if _, err := d.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		_, err := d.BySlug(t.Context(), "acme")
		return errors.Is(err, tenant.ErrNotFound)
	})
	living, err := d.List(t.Context(), ListOptions{Status: tenant.Active})
	if err != nil {
		t.Fatal(err)
	}
	wantNoTraces(t, d, pgtest.Connect(t, far), living...)
	mustHouse(t, d, on("second", company("acme")))
	targets, err := d.Targets(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if report, err := d.cfg.Migrator.Up(t.Context(), targets, migrate.Options{}); err != nil || len(report.Failed) > 0 {
		t.Errorf("Up = %+v, %v", report, err)
	}
}

// A URL of a server where the cluster's tenants are not is refused; if the registry has one all the same, nobody is called purged.
func TestAClusterKeepsToTheServerOfItsTenants(t *testing.T) {
	t.Parallel()
	d, registry := newDirectory(t)
	right := pgtest.Database(t)
	parsed, err := url.Parse(right)
	if err != nil {
		t.Fatal(err)
	}
	database := strings.TrimPrefix(parsed.Path, "/")
	server := pgtest.Start(t, pgserver.Config{})
	pgtest.Exec(t, server.URL(pgserver.Superuser, "postgres"), `CREATE DATABASE `+database+` OWNER `+pgserver.Administrator)
	wrong := server.URL(pgserver.Administrator, database)
	mustAddCluster(t, d, NewCluster{Name: "second", URL: right})
	acme, own := mustHouse(t, d, on("second", company("acme"))), mustHouse(t, d, on("second", withDatabase("own")))

	for name, to := range map[string]string{"another server": wrong, "another login": pgtest.SuperURL(t, right)} {
		if err := d.UpdateCluster(t.Context(), "second", ClusterChange{URL: to}); !errors.Is(err, ErrClusterUnfit) {
			t.Errorf("%s: error = %v, want %v", name, err, ErrClusterUnfit)
		}
	}
	if err := d.UpdateCluster(t.Context(), "second", ClusterChange{URL: right}); err != nil {
		t.Errorf("the same server: %v", err)
	}

	mustDelete(t, d, acme)
	mustDelete(t, d, own)
	admin := connectTo(t, registry)
	mustExec(t, admin, `UPDATE clusters SET encrypted_url = $1 WHERE name = 'second'`, mustSeal(t, d.sealer, ownerOfURL("second"), wrong))
	if purged, err := d.Purge(t.Context()); err == nil || len(purged) > 0 {
		t.Errorf("Purge where they are not: %d, %v", len(purged), err)
	}
	if begun := query[int](t, admin, `SELECT count(*) FROM tenants WHERE purging`); begun > 0 {
		t.Errorf("%d purges have begun", begun)
	}
	if err := d.UpdateCluster(t.Context(), "second", ClusterChange{URL: right}); err != nil {
		t.Fatal(err)
	}
	if purged, err := d.Purge(t.Context()); err != nil || len(purged) != 2 {
		t.Errorf("Purge where they are: %d, %v", len(purged), err)
	}
	wantNoTraces(t, d, pgtest.Connect(t, right))

	// Without tenants it may be any server, and what was seen of the logins there says nothing of those here.
	if err := d.UpdateCluster(t.Context(), "second", ClusterChange{URL: wrong}); err != nil {
		t.Fatal(err)
	}
	fresh, err := d.Create(t.Context(), on("second", company("fresh")))
	if err != nil {
		t.Fatal(err)
	}
	connectFor(t, d, fresh.Placement)
}
