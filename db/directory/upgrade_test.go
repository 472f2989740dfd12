package directory

import (
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/db/migrate"
	"github.com/leasehold-go/leasehold/db/migrations"
	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/internal/pgtest"
)

// loginsMigration is the file that came with the second runtime login.
const loginsMigration = "20261122050000_assign_runtime_logins.sql"

// oldRelease is a registry that only the release before there were several logins has seen.
type oldRelease struct {
	url   string
	login string // the one runtime login
	admin *pgx.Conn
}

func newOldRelease(tb testing.TB) *oldRelease {
	tb.Helper()
	url := pgtest.Database(tb)
	cfg := configOf(tb, url)
	if err := prepareSchema(tb.Context(), cfg); err != nil {
		tb.Fatal(err)
	}
	entries, err := migrations.FS.ReadDir("control")
	if err != nil {
		tb.Fatal(err)
	}
	files := fstest.MapFS{}
	for _, entry := range entries {
		if entry.Name() < loginsMigration {
			files["control/"+entry.Name()] = &fstest.MapFile{Data: controlFile(tb, entry.Name())}
		}
	}
	set, err := migrate.Load(files, "control")
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := migrate.New(set, migrate.Config{}).Apply(tb.Context(), registryTarget(cfg)); err != nil {
		tb.Fatal(err)
	}
	r := &oldRelease{url: url, admin: connectTo(tb, url)}
	r.login = "leasehold_run_" + query[string](tb, r.admin, `SELECT left(id::text, 8) FROM installation`) + "_0"
	runAll(tb, r.admin, `CREATE ROLE `+r.login+` LOGIN NOINHERIT; ALTER ROLE `+r.login+` SET search_path = '';
		GRANT CONNECT ON DATABASE `+query[string](tb, r.admin, `SELECT quote_ident(current_database())`)+` TO `+r.login)
	if err := pgx.BeginFunc(tb.Context(), r.admin, func(tx pgx.Tx) error {
		return setPassword(tb.Context(), tx, r.login, cfg.SecretKey)
	}); err != nil {
		tb.Fatal(err)
	}
	return r
}

func controlFile(tb testing.TB, name string) []byte {
	tb.Helper()
	content, err := migrations.FS.ReadFile("control/" + name)
	if err != nil {
		tb.Fatal(err)
	}
	return content
}

// runAll runs several statements as one transaction.
func runAll(tb testing.TB, conn *pgx.Conn, sql string) {
	tb.Helper()
	if _, err := conn.PgConn().Exec(tb.Context(), sql).ReadAll(); err != nil {
		tb.Fatalf("%s: %v", sql, err)
	}
}

// create makes a tenant as that release does.
func (r *oldRelease) create(tb testing.TB, slug tenant.Slug) {
	tb.Helper()
	id, err := uuid.NewV7()
	if err != nil {
		tb.Fatal(err)
	}
	p := tenant.NewPlacement(tenant.ID(id), slug, tenant.DefaultCluster, r.admin.Config().Database)
	mustExec(tb, r.admin, `INSERT INTO tenants (
			id, slug, company, contact_name, contact_email, status, cluster, strategy, database_name, schema_name, role_name
		) VALUES ($1, $2, 'C', 'Ann', 'ann@example.com', 'active', $3, $4, $5, $6, $7)`,
		id, slug, p.Cluster, p.Strategy, p.Database, p.Schema, p.Role)
	version := query[int32](tb, r.admin, `SELECT current_setting('server_version_num')::int`)
	runAll(tb, r.admin, house{schema: p.Schema, role: p.Role, login: r.login}.createSQL(version))
	target := migrate.Target{Name: string(slug), Schema: p.Schema, Conn: configOf(tb, r.url).ConnConfig}
	if _, err := migratorOf(tb).Apply(tb.Context(), target); err != nil {
		tb.Fatal(err)
	}
}

// Who was there keeps the login that there was, also beyond the bound; who comes now gets another.
func TestTenantsOfTheReleaseBeforeKeepTheirLogin(t *testing.T) {
	t.Parallel()
	r := newOldRelease(t)
	r.create(t, "acme")
	r.create(t, "globex")
	if result, err := Migrate(t.Context(), configOf(t, r.url)); err != nil || len(result.Applied) == 0 {
		t.Fatalf("Migrate = %+v, %v", result, err)
	}
	r.create(t, "initech") // that release still runs
	d := openDirectory(t, crowded(t, r.url, 2))
	hooli := mustCreate(t, d, "hooli")
	if want := d.loginName(1); hooli.Placement.Login != want {
		t.Errorf("the new tenant's login is %q, want %q", hooli.Placement.Login, want)
	}
	if login := mustRuntimeConn(t, d).User; login != r.login {
		t.Errorf("the default login is %q, want %q", login, r.login)
	}
	tenants := []*tenant.Tenant{hooli}
	for _, slug := range []tenant.Slug{"acme", "globex", "initech"} {
		got, err := d.Resolve(t.Context(), slug)
		if err != nil {
			t.Fatal(err)
		}
		if got.Placement.Login != "" {
			t.Errorf("%s has the login %q, want the default one", slug, got.Placement.Login)
		}
		tenants = append(tenants, got)
	}
	for _, tn := range tenants {
		mustExec(t, r.admin, "INSERT INTO "+notesOf(tn)+" (body) VALUES ($1)", string(tn.Slug))
		if err := readNote(t.Context(), connectAs(t, d, tn.Placement.Login), tn); err != nil {
			t.Errorf("%s: %v", tn.Slug, err)
		}
	}
	wantMemberships(t, d, r.admin, map[int32]int{0: 3, 1: 1}, tenants...)
}

func TestSeveralLoginsCannotBeMigratedAway(t *testing.T) {
	t.Parallel()
	url := registryURL(t)
	_, down, found := strings.Cut(string(controlFile(t, loginsMigration)), "-- migrate:down")
	if !found {
		t.Fatal("there is no down section")
	}
	createMany(t, openDirectory(t, crowded(t, url, 1)), 0, 2)
	admin := connectTo(t, url)
	wantState(t, admin, "55000", down)
	mustExec(t, admin, `UPDATE tenants SET status = 'deleted' WHERE slug = 'c1'`)
	runAll(t, admin, down)
	wantState(t, admin, "42703", `SELECT login_no FROM tenants`)
}
