package directory

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/db/migrate"
	"github.com/leasehold-go/leasehold/db/migrations"
	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/internal/controlsql"
	"github.com/leasehold-go/leasehold/internal/pgtest"
)

// keeping returns a configuration that keeps n spares.
func keeping(tb testing.TB, url string, n int, ups ...string) Config {
	tb.Helper()
	cfg := configOf(tb, url)
	cfg.Spares, cfg.Migrator = n, migratorOf(tb, ups...)
	return cfg
}

// mustFill fills and checks how many spares were finished.
func mustFill(tb testing.TB, d *Directory, want int) {
	tb.Helper()
	if n, err := d.FillSpares(tb.Context()); n != want || err != nil {
		tb.Fatalf("FillSpares = %d, %v, want %d", n, err, want)
	}
}

// listSpares reads all rows.
func listSpares(tb testing.TB, conn *pgx.Conn) []controlsql.Spare {
	tb.Helper()
	rows, err := controlsql.New(conn).ListSpares(tb.Context(), []string{stateBuilding, stateReady, stateReference})
	if err != nil {
		tb.Fatal(err)
	}
	return rows
}

func schemasOf(rows []controlsql.Spare) []string {
	schemas := make([]string, len(rows))
	for i, row := range rows {
		schemas[i] = row.SchemaName
	}
	return schemas
}

// wantSpares checks that there are n spares and no row besides, all of them fit to be taken by d.
func wantSpares(tb testing.TB, d *Directory, conn *pgx.Conn, n int) []controlsql.Spare {
	tb.Helper()
	rows := listSpares(tb, conn)
	if len(rows) != n {
		tb.Errorf("there are %d spares, want %d: %+v", len(rows), n, rows)
	}
	for _, row := range rows {
		err := pgx.BeginFunc(tb.Context(), conn, func(tx pgx.Tx) error {
			standing, err := d.inspect(tb.Context(), controlsql.New(tx), tx, row)
			if standing != migrate.Current || row.State != stateReady {
				tb.Errorf("%s is %s and %s", row.SchemaName, row.State, standing)
			}
			return err
		})
		if err != nil {
			tb.Error(err)
		}
	}
	return rows
}

// wantGone checks that nothing is left of rows that were dropped.
func wantGone(tb testing.TB, conn *pgx.Conn, rows ...controlsql.Spare) {
	tb.Helper()
	for _, row := range rows {
		if n := query[int](tb, conn, `SELECT (SELECT count(*) FROM pg_namespace WHERE nspname = $1)
			+ (SELECT count(*) FROM pg_roles WHERE rolname = $2) + (SELECT count(*) FROM spares WHERE id = $3)`,
			row.SchemaName, row.RoleName, row.ID); n != 0 {
			tb.Errorf("something of %s is left", row.SchemaName)
		}
	}
}

// A company signs up and gets what was made ahead of time. Nobody could tell before that it was there.
func TestASignUpTakesASpare(t *testing.T) {
	t.Parallel()
	url := registryURL(t)
	d, admin := openDirectory(t, keeping(t, url, 3)), connectTo(t, url)
	mustFill(t, d, 3)
	spares := wantSpares(t, d, admin, 3)
	if list, err := d.List(t.Context(), ListOptions{}); len(list) != 0 || err != nil {
		t.Errorf("List = %v, %v, want nothing", list, err)
	}
	if targets, err := d.Targets(t.Context()); len(targets) != 0 || err != nil {
		t.Errorf("Targets = %v, %v, want none", targets, err)
	}
	for _, row := range spares {
		if got, err := d.ByID(t.Context(), row.ID); !errors.Is(err, tenant.ErrNotFound) {
			t.Errorf("ByID of a spare = %v, %v", got, err)
		}
	}
	if _, err := d.Resolve(t.Context(), "spare"); !errors.Is(err, tenant.ErrNotFound) {
		t.Errorf("Resolve of nobody: %v", err)
	}

	acme := mustCreate(t, d, "Acme")
	want := &tenant.Tenant{
		ID: acme.ID, Slug: "acme", Company: "The Acme company", ContactName: "Ann", ContactEmail: "ann@example.com",
		Status: tenant.Active, Generation: 1, CreatedAt: acme.CreatedAt, UpdatedAt: acme.UpdatedAt,
		Placement: tenant.NewPlacement(acme.ID, "spare", tenant.DefaultCluster, d.cfg.ConnConfig.Database),
	}
	if diff := cmp.Diff(want, acme); diff != "" {
		t.Errorf("Create (-want +got):\n%s", diff)
	}
	if acme.ID != spares[0].ID || acme.Placement.Schema != spares[0].SchemaName {
		t.Errorf("the tenant %s is not the oldest spare, %s", acme.ID, spares[0].ID)
	}
	if got, err := d.Resolve(t.Context(), "acme"); err != nil || !cmp.Equal(got, acme) {
		t.Errorf("Resolve = %+v, %v", got, err)
	}
	if diff := cmp.Diff([]EventKind{EventStarted, EventActivated}, kinds(t, d, acme.ID)); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	mustExec(t, admin, "INSERT INTO "+notesOf(acme)+" (body) VALUES ('acme')")
	if err := readNote(t.Context(), connectAs(t, d, ""), acme); err != nil {
		t.Error(err)
	}
	if rest := wantSpares(t, d, admin, 2); !slices.Equal(schemasOf(rest), schemasOf(spares[1:])) {
		t.Errorf("the spares that are left: %v, want %v", schemasOf(rest), schemasOf(spares[1:]))
	}
	if targets, err := d.Targets(t.Context()); len(targets) != 1 || err != nil {
		t.Errorf("Targets = %v, %v, want the tenant", targets, err)
	}
	mustFill(t, d, 1)
	mustFill(t, d, 0)
	wantSpares(t, d, admin, 3)
	wantNothingLeft(t, url, acme)
}

// rightsIn describes a role and everybody's rights in a schema, without the names of the two.
func rightsIn(tb testing.TB, admin *pgx.Conn, schema, role string) string {
	tb.Helper()
	described := query[string](tb, admin, `SELECT string_agg(line, E'\n' ORDER BY line) FROM (
		SELECT 'schema ' || n.nspacl::text FROM pg_namespace n WHERE n.nspname = $1
		UNION ALL SELECT c.relname || ' ' || coalesce(c.relacl::text, '') FROM pg_class c WHERE c.relnamespace = to_regnamespace($1)
		UNION ALL SELECT d.defaclobjtype::text || ' ' || d.defaclacl::text FROM pg_default_acl d WHERE d.defaclnamespace = to_regnamespace($1)
		UNION ALL SELECT p.proname || ' ' || coalesce(p.proacl::text, '') FROM pg_proc p WHERE p.pronamespace = to_regnamespace($1)
		UNION ALL SELECT 'role ' || concat_ws(' ', r.rolsuper, r.rolinherit, r.rolcreaterole, r.rolcreatedb, r.rolcanlogin, r.rolreplication,
			r.rolbypassrls, r.rolconfig) FROM pg_roles r WHERE r.rolname = $2
		UNION ALL SELECT 'member ' || m.member::regrole::text || ' ' || m.admin_option FROM pg_auth_members m WHERE m.roleid = to_regrole($2)
	) AS lines (line)`, schema, role)
	return strings.NewReplacer(role, "ROLE", schema, "SCHEMA").Replace(described)
}

// A tenant from a spare has what a tenant has that was built.
func TestASpareIsLikeWhatIsBuilt(t *testing.T) {
	t.Parallel()
	url := registryURL(t)
	d, admin := openDirectory(t, configOf(t, url)), connectTo(t, url)
	built := mustCreate(t, d, "built")
	fillTo(t, configOf(t, url), 1)
	taken := mustCreate(t, d, "taken")
	want := rightsIn(t, admin, built.Placement.Schema, built.Placement.Role)
	if diff := cmp.Diff(want, rightsIn(t, admin, taken.Placement.Schema, taken.Placement.Role)); diff != "" || !strings.Contains(want, "notes {") || !strings.Contains(want, "member leasehold_run_") {
		t.Errorf("rights (-built +from a spare):\n%s%s", diff, want)
	}
}

// THREATS 57: what makes every session walk its memberships happens once for a batch, and not at all when somebody signs up.
func TestSignUpsChangeNoMembershipAndABatchDoesOnce(t *testing.T) {
	t.Parallel()
	url := registryURL(t)
	const batch = 7
	d, admin := openDirectory(t, keeping(t, url, batch)), connectTo(t, url)
	mustFill(t, d, batch)
	ofBatch := func() string {
		return query[string](t, admin, `SELECT concat(
			(SELECT count(*) || ' ' || count(DISTINCT m.xmin::text) || ' ' || min(m.xmin::text) FROM pg_auth_members m
				JOIN pg_roles r ON r.oid = m.roleid JOIN pg_roles l ON l.oid = m.member
				WHERE starts_with(l.rolname, $1) AND r.rolname <> ALL ($2)),
			' ', (SELECT count(*) || ' ' || count(DISTINCT n.xmin::text) || ' ' || min(n.xmin::text) FROM pg_namespace n WHERE n.nspname LIKE 't\_spare\_%'))`,
			d.logins.prefix, []string{})
	}
	before := ofBatch()
	xmin := strings.Fields(before)[2]
	if want := fmt.Sprintf("%d 1 %s %d 1 %s", batch, xmin, batch, xmin); before != want {
		t.Errorf("memberships and schemas, their transactions: %q, want all of one: %q", before, want)
	}
	var signUps sync.WaitGroup
	for i := range batch {
		signUps.Go(func() {
			tn, err := d.Create(t.Context(), company(fmt.Sprintf("c%d", i)))
			if err != nil || !strings.HasPrefix(tn.Placement.Schema, "t_spare_") {
				t.Errorf("Create = %+v, %v", tn, err)
			}
		})
	}
	signUps.Wait()
	if after := ofBatch(); after != before {
		t.Errorf("after the sign-ups: %q, before: %q", after, before)
	}
	wantSpares(t, d, admin, 0)
}

// A batch is bounded, however many are wanted.
func TestManySparesAreMadeInBoundedBatches(t *testing.T) {
	t.Parallel()
	url := registryURL(t)
	cfg := keeping(t, url, maxBatch+1)
	cfg.TenantsPerLogin = maxBatch - 1
	d, admin := openDirectory(t, cfg), connectTo(t, url)
	mustFill(t, d, maxBatch+1)
	wantSpares(t, d, admin, maxBatch+1)
	sizes := query[[]int](t, admin, `SELECT array_agg(n ORDER BY n) FROM (SELECT count(*)::int FROM spares GROUP BY xmin::text) AS rows (n)`)
	batches := query[[]int](t, admin, `SELECT array_agg(n ORDER BY n) FROM (
		SELECT count(*)::int FROM pg_namespace WHERE nspname LIKE 't\_spare\_%' GROUP BY xmin::text) AS rows (n)`)
	if diff := cmp.Diff([]int{1, maxBatch}, batches); diff != "" || len(sizes) != maxBatch+1 {
		t.Errorf("batches (-want +got):\n%srows, each finished by itself: %v", diff, sizes)
	}
	if diff := cmp.Diff(map[int32]int{0: maxBatch - 1, 1: 2}, memberships(t, d, admin)); diff != "" {
		t.Errorf("memberships by login (-want +got):\n%s", diff)
	}
}

// What is behind is brought up to date; what is ahead waits for the program that made it so; what has been changed is replaced.
func TestOnlyASpareThatIsCurrentIsTaken(t *testing.T) {
	t.Parallel()
	url := registryURL(t)
	const later = "CREATE TABLE later (i int);"
	before, after := openDirectory(t, keeping(t, url, 2)), openDirectory(t, keeping(t, url, 2, later))
	admin := connectTo(t, url)
	mustFill(t, before, 2)
	spares := wantSpares(t, before, admin, 2)
	fromSpare := func(tn *tenant.Tenant) bool { return strings.HasPrefix(tn.Placement.Schema, "t_spare_") }

	if tn := mustCreate(t, after, "behind"); fromSpare(tn) {
		t.Errorf("it got a spare that is behind: %s", tn.Placement.Schema)
	}
	mustFill(t, after, 0)
	if diff := cmp.Diff(schemasOf(spares), schemasOf(wantSpares(t, after, admin, 2))); diff != "" {
		t.Errorf("the spares were not kept (-want +got):\n%s", diff)
	}
	if tn := mustCreate(t, before, "ahead"); fromSpare(tn) {
		t.Errorf("it got a spare that a newer program has migrated: %s", tn.Placement.Schema)
	}
	mustFill(t, before, 0)
	wantSpares(t, after, admin, 2)
	current := mustCreate(t, after, "current")
	if !fromSpare(current) {
		t.Errorf("it did not get a spare: %s", current.Placement.Schema)
	}
	mustExec(t, admin, "SELECT i FROM "+pgx.Identifier{current.Placement.Schema, "later"}.Sanitize())

	edited := openDirectory(t, keeping(t, url, 1, "CREATE TABLE later (i bigint);"))
	if tn := mustCreate(t, edited, "edited"); fromSpare(tn) {
		t.Errorf("it got a spare that an older form of a file was applied to: %s", tn.Placement.Schema)
	}
	mustFill(t, edited, 1)
	wantGone(t, admin, spares[1])
	wantSpares(t, edited, admin, 1)
}

// Several processes fill and sign up tenants at once.
func TestManyFillAndManyTake(t *testing.T) {
	t.Parallel()
	url := registryURL(t)
	const keep, creates = 4, 24
	var replicas []*Directory
	for range 3 {
		cfg := keeping(t, url, keep)
		cfg.TenantsPerLogin = 5
		replicas = append(replicas, openDirectory(t, cfg))
	}
	admin, watcher := connectTo(t, url), connectTo(t, url)
	var fillers, all sync.WaitGroup
	ctx, stop := context.WithCancel(t.Context())
	for _, d := range replicas {
		fillers.Go(func() {
			for ctx.Err() == nil {
				if _, err := d.FillSpares(t.Context()); err != nil {
					t.Errorf("FillSpares: %v", err)
				}
			}
		})
	}
	fillers.Go(func() {
		for ctx.Err() == nil {
			var n int
			if err := watcher.QueryRow(t.Context(), `SELECT count(*) FROM spares`).Scan(&n); err != nil || n > keep {
				t.Errorf("there are %d spares, %v", n, err)
			}
		}
	})
	tenants := make([]*tenant.Tenant, creates)
	for i := range creates {
		all.Go(func() {
			var err error
			if tenants[i], err = replicas[i%3].Create(t.Context(), company(fmt.Sprintf("c%d", i))); err != nil {
				t.Errorf("Create: %v", err)
			}
		})
	}
	all.Wait()
	stop()
	fillers.Wait()
	if t.Failed() {
		return
	}
	if _, err := replicas[0].FillSpares(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantSpares(t, replicas[0], admin, keep)
	wantNothingLeft(t, url, tenants...)
	schemas := map[string]bool{}
	for _, tn := range tenants {
		if schemas[tn.Placement.Schema] {
			t.Errorf("%s has the schema of another", tn.Slug)
		}
		schemas[tn.Placement.Schema] = true
	}
	total := 0
	for login, n := range memberships(t, replicas[0], admin) {
		if total += n; n > 5 {
			t.Errorf("login %d is a member of %d roles, want at most 5", login, n)
		}
	}
	if total != creates+keep {
		t.Errorf("the logins are members of %d roles, want %d", total, creates+keep)
	}
}

func TestSparesTurnedOffAreRemoved(t *testing.T) {
	t.Parallel()
	url := registryURL(t)
	on, off := openDirectory(t, keeping(t, url, 2)), openDirectory(t, configOf(t, url))
	admin := connectTo(t, url)
	mustFill(t, on, 2)
	acme := mustCreate(t, off, "acme")
	spares := wantSpares(t, on, admin, 1)
	// A row that somebody has written by hand does not make a tenant a spare.
	mustExec(t, admin, `INSERT INTO spares (id, state, schema_name, role_name, login_no)
		SELECT gen_random_uuid(), 'ready', schema_name, 'r_of_nobody', 0 FROM tenants`)
	cfg := configOf(t, url)
	cfg.Migrator, cfg.SecretKey = nil, nil // which it takes nothing of
	if err := openDirectory(t, cfg).KeepSpares(t.Context()); err != nil {
		t.Errorf("KeepSpares: %v", err)
	}
	wantGone(t, admin, spares...)
	if err := pgtest.Connect(t, url).QueryRow(t.Context(), "SELECT FROM "+notesOf(acme)+" LIMIT 0").Scan(); !errors.Is(err, pgx.ErrNoRows) {
		t.Errorf("the tenant's table: %v", err)
	}
	globex := mustCreate(t, on, "globex")
	if got, err := on.ByID(t.Context(), acme.ID); err != nil || !cmp.Equal(got, acme) {
		t.Errorf("the tenant is %+v, %v", got, err)
	}
	wantNothingLeft(t, url, acme, globex)
}

func TestSparesAreMigratedWithTheFleet(t *testing.T) {
	t.Parallel()
	url := registryURL(t)
	const later = "CREATE TABLE later (i int);"
	before, after := openDirectory(t, keeping(t, url, 2)), openDirectory(t, keeping(t, url, 2, later))
	admin := connectTo(t, url)
	mustFill(t, before, 2)
	spares := listSpares(t, admin)
	mustExec(t, admin, `INSERT INTO spares (id, state, schema_name, role_name, login_no) VALUES
		(gen_random_uuid(), 'building', 't_a', 'r_a', 0), (gen_random_uuid(), 'reference', 't_b', 'r_b', 0)`)
	targets, err := after.SpareTargets(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var got, want []string
	for _, target := range targets {
		got = append(got, target.Name+" "+target.Schema+" "+target.Role)
	}
	for _, row := range spares {
		want = append(want, "spare "+row.SchemaName+" "+row.SchemaName+" "+row.RoleName)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("targets (-want +got):\n%s", diff)
	}
	report, err := after.cfg.Migrator.Up(t.Context(), targets, migrate.Options{})
	if err != nil || len(report.Applied) != 2 {
		t.Errorf("Up = %+v, %v", report, err)
	}
	if acme := mustCreate(t, after, "acme"); acme.ID != spares[0].ID {
		t.Errorf("the tenant is %s, want the spare %s", acme.ID, spares[0].ID)
	}
}

func TestSparesNeedAMigratorAndAKey(t *testing.T) {
	t.Parallel()
	url := registryURL(t)
	for name, change := range map[string]func(*Config){
		"no migrator": func(cfg *Config) { cfg.Migrator = nil },
		"no key":      func(cfg *Config) { cfg.SecretKey = nil },
	} {
		cfg := keeping(t, url, 1)
		change(&cfg)
		d := openDirectory(t, cfg)
		if _, err := d.FillSpares(t.Context()); err == nil {
			t.Errorf("%s: FillSpares succeeds", name)
		}
		if err := d.KeepSpares(t.Context()); err == nil {
			t.Errorf("%s: KeepSpares succeeds", name)
		}
	}
	cfg := keeping(t, url, -1)
	if _, err := Open(t.Context(), cfg); err == nil {
		t.Error("a negative number of spares is accepted")
	}
}

func TestSparesCannotBeMigratedAway(t *testing.T) {
	t.Parallel()
	url := registryURL(t)
	content, err := migrations.FS.ReadFile("control/20261124090000_create_spares.sql")
	if err != nil {
		t.Fatal(err)
	}
	_, down, found := strings.Cut(string(content), "-- migrate:down")
	if !found {
		t.Fatal("there is no down section")
	}
	d, admin := openDirectory(t, keeping(t, url, 1)), connectTo(t, url)
	mustFill(t, d, 1)
	wantState(t, admin, "55000", down)
	fillTo(t, configOf(t, url), 0)
	runAll(t, admin, down)
	wantState(t, admin, "42P01", `SELECT FROM spares`)
}
