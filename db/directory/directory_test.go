package directory

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/db/migrate"
	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/internal/pgtest"
)

func TestTwoCompaniesSignUpAndCannotReadEachOther(t *testing.T) {
	t.Parallel()
	bothWays(t, 2, twoCompaniesSignUp)
}

func twoCompaniesSignUp(t *testing.T, url string) {
	d := openDirectory(t, configOf(t, url))
	acme, globex := mustCreate(t, d, "acme"), mustCreate(t, d, " Globex ")

	login, err := d.RuntimeConn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.ConnectConfig(t.Context(), login)
	if err != nil {
		t.Fatal(err)
	}
	defer closeConn(conn)

	for _, own := range []*tenant.Tenant{acme, globex} {
		other := acme
		if own == acme {
			other = globex
		}
		table := pgx.Identifier{own.Placement.Schema, "notes"}.Sanitize()
		foreign := pgx.Identifier{other.Placement.Schema, "notes"}.Sanitize()

		mustExec(t, conn, "SET ROLE "+own.Placement.Role)
		mustExec(t, conn, "INSERT INTO "+table+" (body) VALUES ($1)", string(own.Slug))
		if got := query[string](t, conn, "SELECT "+pgx.Identifier{own.Placement.Schema, "shout"}.Sanitize()+"(body) || mood FROM "+table); got == "" {
			t.Errorf("%s does not read its own row", own.Slug)
		}
		wantState(t, conn, "42501", "SELECT * FROM "+foreign)
		wantState(t, conn, "42501", "INSERT INTO "+foreign+" (body) VALUES ('x')")
		wantState(t, conn, "42501", "SELECT * FROM leasehold.tenants")
		wantState(t, conn, "42501", "SELECT * FROM "+pgx.Identifier{own.Placement.Schema, "schema_migrations"}.Sanitize())
		wantState(t, conn, "42501", "CREATE TABLE "+pgx.Identifier{own.Placement.Schema, "mine"}.Sanitize()+" (i int)")
		wantState(t, conn, "42501", "DROP TABLE "+table)
		wantState(t, conn, "42501", "CREATE TABLE public.mine (i int)")
		wantState(t, conn, "42501", "CREATE TEMP TABLE mine (i int)")
		mustExec(t, conn, "RESET ROLE")
		wantState(t, conn, "42501", "SELECT * FROM "+table)
	}
}

func TestCreateResolveAndRead(t *testing.T) {
	t.Parallel()
	d, url := newDirectory(t)
	if _, err := d.Resolve(t.Context(), "acme"); !errors.Is(err, tenant.ErrNotFound) {
		t.Fatalf("Resolve before Create: %v", err)
	}
	d.listener.close() // the creator knows what it has created without being told
	acme := mustCreate(t, d, "Acme")
	want := &tenant.Tenant{
		ID: acme.ID, Slug: "acme", Company: "The Acme company", ContactName: "Ann", ContactEmail: "ann@example.com",
		Status: tenant.Active, Generation: 2, CreatedAt: acme.CreatedAt, UpdatedAt: acme.UpdatedAt,
		Placement: tenant.NewPlacement(acme.ID, "acme", tenant.DefaultCluster, d.cfg.ConnConfig.Database),
	}
	if diff := cmp.Diff(want, acme); diff != "" {
		t.Errorf("Create (-want +got):\n%s", diff)
	}
	if acme.ID[6]>>4 != 7 {
		t.Errorf("id %s is not of version 7", acme.ID)
	}
	for name, read := range map[string]func() (*tenant.Tenant, error){
		"Resolve": func() (*tenant.Tenant, error) { return d.Resolve(t.Context(), "acme") },
		"BySlug":  func() (*tenant.Tenant, error) { return d.BySlug(t.Context(), "acme") },
		"ByID":    func() (*tenant.Tenant, error) { return d.ByID(t.Context(), acme.ID) },
	} {
		got, err := read()
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(acme, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	wantKinds := []EventKind{EventStarted, EventHoused, EventMigrated, EventActivated}
	if diff := cmp.Diff(wantKinds, kinds(t, d, acme.ID)); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	wantNothingLeft(t, url, acme)

	if _, err := d.BySlug(t.Context(), "globex"); !errors.Is(err, tenant.ErrNotFound) {
		t.Errorf("BySlug of nobody: %v", err)
	}
	if _, err := d.ByID(t.Context(), tenant.ID{1}); !errors.Is(err, tenant.ErrNotFound) {
		t.Errorf("ByID of nobody: %v", err)
	}
	if err := d.Ping(t.Context()); err != nil {
		t.Errorf("Ping: %v", err)
	}
}

func TestListAndTargets(t *testing.T) {
	t.Parallel()
	d, url := newDirectory(t)
	admin := connectTo(t, url)
	for i := range 5 {
		mustCreate(t, d, fmt.Sprintf("c%d", i))
	}
	mustExec(t, admin, `UPDATE tenants SET status = 'suspended' WHERE slug = 'c1'`)
	mustExec(t, admin, `UPDATE tenants SET status = 'deleted' WHERE slug = 'c2'`)
	mustExec(t, admin, `UPDATE tenants SET status = 'provisioning' WHERE slug = 'c3'`)
	mustCreate(t, d, "c2") // a second record of that slug

	list := func(opts ListOptions) (slugs []string) {
		t.Helper()
		for {
			page, err := d.List(t.Context(), opts)
			if err != nil {
				t.Fatal(err)
			}
			for _, tn := range page {
				slugs = append(slugs, string(tn.Slug))
				opts.After = tn
			}
			if len(page) == 0 || opts.Limit == 0 {
				return slugs
			}
		}
	}
	for _, tc := range []struct {
		name string
		opts ListOptions
		want []string
	}{
		{"all", ListOptions{}, []string{"c0", "c1", "c2", "c2", "c3", "c4"}},
		{"pages", ListOptions{Limit: 1}, []string{"c0", "c1", "c2", "c2", "c3", "c4"}},
		{"active", ListOptions{Status: tenant.Active, Limit: 2}, []string{"c0", "c2", "c4"}},
		{"deleted", ListOptions{Status: tenant.Deleted}, []string{"c2"}},
		{"failed", ListOptions{Status: tenant.Failed}, nil},
	} {
		if diff := cmp.Diff(tc.want, list(tc.opts)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tc.name, diff)
		}
	}
	if _, err := d.List(t.Context(), ListOptions{Limit: -1}); err == nil {
		t.Error("a negative limit is accepted")
	}

	targets, err := d.Targets(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, target := range targets {
		names = append(names, target.Name)
	}
	if diff := cmp.Diff([]string{"c0", "c1", "c2", "c4"}, names); diff != "" {
		t.Errorf("targets (-want +got):\n%s", diff)
	}
	report, err := migratorOf(t, "CREATE TABLE later (i int);").Up(t.Context(), targets, migrate.Options{})
	if err != nil || len(report.Applied) != len(targets) {
		t.Errorf("Up over Targets: %+v, %v", report, err)
	}
}

func TestOpenSaysThatTheRegistryMustBeMigrated(t *testing.T) {
	t.Parallel()
	t.Run("no schema", func(t *testing.T) {
		t.Parallel()
		_, err := Open(t.Context(), configOf(t, pgtest.Database(t)))
		if !errors.Is(err, ErrNotMigrated) {
			t.Errorf("error = %v, want %v", err, ErrNotMigrated)
		}
	})
	t.Run("empty schema", func(t *testing.T) {
		t.Parallel()
		url := pgtest.Database(t)
		pgtest.Exec(t, url, `CREATE SCHEMA leasehold`)
		if _, err := Open(t.Context(), configOf(t, url)); !errors.Is(err, ErrNotMigrated) {
			t.Errorf("error = %v, want %v", err, ErrNotMigrated)
		}
	})
	t.Run("behind", func(t *testing.T) {
		t.Parallel()
		url := registryURL(t)
		pgtest.Exec(t, url, `DELETE FROM leasehold.schema_migrations`)
		if _, err := Open(t.Context(), configOf(t, url)); !errors.Is(err, ErrNotMigrated) {
			t.Errorf("error = %v, want %v", err, ErrNotMigrated)
		}
	})
	t.Run("ahead", func(t *testing.T) {
		t.Parallel()
		url := registryURL(t)
		pgtest.Exec(t, url, `INSERT INTO leasehold.schema_migrations VALUES ('99990101000000')`)
		openDirectory(t, configOf(t, url))
	})
}

func TestOpenRefusesABadConfig(t *testing.T) {
	t.Parallel()
	url := registryURL(t)
	for name, change := range map[string]func(*Config){
		"no connection": func(c *Config) { c.ConnConfig = nil },
		"negative size": func(c *Config) { c.CacheSize = -1 },
		"negative time": func(c *Config) { c.Grace = -1 },
	} {
		cfg := configOf(t, url)
		change(&cfg)
		if d, err := Open(t.Context(), cfg); err == nil {
			d.Close()
			t.Errorf("%s: accepted", name)
		}
	}
	cfg := configOf(t, url)
	cfg.Migrator = nil
	if _, err := openDirectory(t, cfg).Create(t.Context(), company("acme")); err == nil {
		t.Error("Create without a Migrator succeeded")
	}
	for _, key := range [][]byte{nil, testKey[:15]} {
		cfg := configOf(t, url)
		cfg.SecretKey = key
		d := openDirectory(t, cfg)
		if _, err := d.Create(t.Context(), company("acme")); err == nil {
			t.Errorf("Create with a key of %d bytes succeeded", len(key))
		}
		if _, err := d.RuntimeConn(t.Context()); err == nil {
			t.Errorf("RuntimeConn with a key of %d bytes succeeded", len(key))
		}
	}
}

func TestDirectoryOutlivesTheContextOfOpen(t *testing.T) {
	t.Parallel()
	url := registryURL(t)
	ctx, cancel := context.WithCancel(t.Context())
	d, err := Open(ctx, configOf(t, url))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	cancel()
	acme := mustCreate(t, d, "acme")
	resolveUntil(t, d, "acme", func(got *tenant.Tenant, err error) bool { return err == nil && got.ID == acme.ID })
	connectAndSuspend(t, url, "acme")
	resolveUntil(t, d, "acme", func(got *tenant.Tenant, err error) bool { return err == nil && got.Status == tenant.Suspended })
}

func TestClosedDirectory(t *testing.T) {
	t.Parallel()
	d, _ := newDirectory(t)
	mustCreate(t, d, "acme")
	awaitNotifications(t, d)
	if _, err := d.Resolve(t.Context(), "acme"); err != nil {
		t.Fatal(err)
	}
	d.Close()
	d.Close()
	if _, err := d.Resolve(t.Context(), "acme"); err != nil {
		t.Errorf("Resolve of a known tenant: %v", err)
	}
	if _, err := d.Resolve(t.Context(), "globex"); err == nil || errors.Is(err, tenant.ErrNotFound) {
		t.Errorf("Resolve of an unknown tenant: error = %v, want one that is not ErrNotFound", err)
	}
	if _, err := d.Create(t.Context(), company("globex")); err == nil {
		t.Error("Create succeeded")
	}
}

func TestResolveCachedDoesNotAllocate(t *testing.T) {
	d, _ := newDirectory(t)
	mustCreate(t, d, "acme")
	awaitNotifications(t, d)
	ctx := t.Context()
	if _, err := d.Resolve(ctx, "acme"); err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(1000, func() {
		if _, err := d.Resolve(ctx, "acme"); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}

func TestMigrateIsSafeToRepeat(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	const runners = 8
	results := make(chan migrate.Result, runners)
	for range runners {
		go func() {
			result, err := Migrate(t.Context(), configOf(t, url))
			if err != nil {
				t.Errorf("Migrate: %v", err)
			}
			results <- result
		}()
	}
	applied := 0
	for range runners {
		applied += len((<-results).Applied)
	}
	if applied == 0 {
		t.Error("nobody applied anything")
	}
	result, err := Migrate(t.Context(), configOf(t, url))
	if err != nil || len(result.Applied) != 0 {
		t.Errorf("Migrate again: %+v, %v", result, err)
	}
	admin := connectTo(t, url)
	if n := query[int](t, admin, `SELECT count(*) FROM installation`); n != 1 {
		t.Errorf("%d installations, want 1", n)
	}
}

func TestMigrateRefusesASchemaOfSomebodyElse(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	pgtest.Exec(t, pgtest.SuperURL(t, url), `CREATE SCHEMA leasehold; GRANT ALL ON SCHEMA leasehold TO PUBLIC`)
	if _, err := Migrate(t.Context(), configOf(t, url)); err == nil {
		t.Error("Migrate used a schema that another role may have prepared")
	}
}

// THREATS 31 and 34.
func TestMigrateLocksTheDatabaseDown(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	super := pgtest.Connect(t, pgtest.SuperURL(t, url))
	mustExec(t, super, `GRANT CREATE ON SCHEMA public TO PUBLIC`) // as databases from before PostgreSQL 15 have it
	stranger := "stranger_to_" + query[string](t, super, `SELECT current_database()`)
	mustExec(t, super, `CREATE ROLE `+stranger)
	if _, err := Migrate(t.Context(), configOf(t, url)); err != nil {
		t.Fatal(err)
	}
	for _, right := range []string{
		`has_database_privilege($1, current_database(), 'CONNECT')`,
		`has_database_privilege($1, current_database(), 'TEMPORARY')`,
		`has_schema_privilege($1, 'public', 'CREATE')`,
		`has_schema_privilege($1, 'leasehold', 'USAGE')`,
	} {
		if query[bool](t, super, `SELECT `+right, stranger) {
			t.Errorf("a stranger: %s", right)
		}
	}
}
