package directory

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/db/tenantdb"
	"github.com/leasehold-go/leasehold/internal/pgserver"
	"github.com/leasehold-go/leasehold/internal/pgtest"
)

// withDatabase is a company that is to have a database of its own.
func withDatabase(subdomain string) NewTenant {
	n := company(subdomain)
	n.Strategy = tenant.DatabaseStrategy
	return n
}

// on says on which cluster a company is to be.
func on(cluster string, n NewTenant) NewTenant {
	n.Cluster = cluster
	return n
}

// mustHouse creates a tenant whose database, if it has one on the shared server, is dropped when tb ends.
func mustHouse(tb testing.TB, d *Directory, n NewTenant) *tenant.Tenant {
	tb.Helper()
	created, err := d.Create(tb.Context(), n)
	if err != nil {
		tb.Fatal(err)
	}
	dropAtEnd(tb, created)
	return created
}

func dropAtEnd(tb testing.TB, t *tenant.Tenant) {
	tb.Helper()
	if t.Placement.Strategy != tenant.DatabaseStrategy {
		return
	}
	super := pgtest.SuperURL(tb, "postgres")
	tb.Cleanup(func() {
		conn, err := pgx.Connect(context.Background(), super)
		if err != nil {
			tb.Error(err)
			return
		}
		defer closeConn(conn)
		if _, err := conn.Exec(context.Background(), `DROP DATABASE IF EXISTS `+t.Placement.Database+` WITH (FORCE)`); err != nil {
			tb.Error(err)
		}
	})
}

// mustAddCluster adds a cluster.
func mustAddCluster(tb testing.TB, d *Directory, n NewCluster) {
	tb.Helper()
	if err := d.AddCluster(tb.Context(), n); err != nil {
		tb.Fatal(err)
	}
}

// connectFor connects as a tenant's login.
func connectFor(tb testing.TB, d *Directory, p tenant.Placement) *pgx.Conn {
	tb.Helper()
	conn, err := dialFor(tb.Context(), d, p)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { closeConn(conn) })
	return conn
}

// dialFor connects as the data layer does: it asks once more if the password is not taken.
func dialFor(ctx context.Context, d *Directory, p tenant.Placement) (*pgx.Conn, error) {
	cc, err := d.LoginConn(ctx, p)
	if err != nil {
		return nil, err
	}
	conn, err := pgx.ConnectConfig(ctx, cc)
	if sqlState(err) == codeInvalidPassword {
		if cc, err = d.LoginConn(ctx, p); err != nil {
			return nil, err
		}
		conn, err = pgx.ConnectConfig(ctx, cc)
	}
	return conn, err
}

// traces lists what there is on a server of the tenants of the registry, but for the given ones.
func traces(tb testing.TB, d *Directory, server *pgx.Conn, but ...*tenant.Tenant) []string {
	tb.Helper()
	all, err := d.List(tb.Context(), ListOptions{Limit: 1000})
	if err != nil {
		tb.Fatal(err)
	}
	names := []string{}
	for _, t := range all {
		if slices.ContainsFunc(but, func(b *tenant.Tenant) bool { return b.ID == t.ID }) {
			continue
		}
		names = append(names, t.Placement.Schema, t.Placement.Role, ownLogin(t.Placement.Role))
		if t.Placement.Strategy == tenant.DatabaseStrategy {
			names = append(names, t.Placement.Database)
		}
	}
	return query[[]string](tb, server, `SELECT coalesce(array_agg(name::text), '{}') FROM (
		SELECT rolname AS name FROM pg_roles UNION ALL SELECT datname FROM pg_database UNION ALL SELECT nspname FROM pg_namespace) all_names
		WHERE name::text = ANY ($1)`, names)
}

func wantNoTraces(tb testing.TB, d *Directory, server *pgx.Conn, but ...*tenant.Tenant) {
	tb.Helper()
	if left := traces(tb, d, server, but...); len(left) > 0 {
		tb.Errorf("left on the server: %v", left)
	}
}

// wantServed checks that a tenant's rows can be written and read through the data layer.
func wantServed(tb testing.TB, db *tenantdb.DB, t *tenant.Tenant) {
	tb.Helper()
	if err := serve(tb.Context(), db, t); err != nil {
		tb.Errorf("%s: %v", t.Slug, err)
	}
}

func serve(ctx context.Context, db *tenantdb.DB, t *tenant.Tenant) error {
	ctx = tenant.NewContext(ctx, t)
	if _, err := db.Exec(ctx, "INSERT INTO notes (body) VALUES ($1)", string(t.Slug)); err != nil {
		return err
	}
	var others int
	if err := db.QueryRow(ctx, "SELECT count(*) FROM notes WHERE body <> $1", string(t.Slug)).Scan(&others); err != nil {
		return err
	}
	if others > 0 {
		return errors.New("there are others' rows")
	}
	return nil
}

func openDB(tb testing.TB, d *Directory) *tenantdb.DB {
	tb.Helper()
	db, err := tenantdb.Open(tb.Context(), tenantdb.Config{ConnConfig: mustRuntimeConn(tb, d), Login: d.LoginConn, MaxConns: 4})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(db.Close)
	return db
}

// A tenant with a database of its own lives like any other.
func TestATenantWithADatabaseOfItsOwn(t *testing.T) {
	t.Parallel()
	d, url := newDirectory(t)
	acme := mustHouse(t, d, withDatabase("acme"))
	p := acme.Placement
	if err := p.Validate(); err != nil || p.Strategy != tenant.DatabaseStrategy || p.Cluster != tenant.DefaultCluster || acme.Status != tenant.Active {
		t.Fatalf("%+v, %v", acme, err)
	}
	if want := p.OwnDatabase(acme.Slug, p.Cluster).Login; p.Login != want {
		t.Errorf("the login is %q, want %q", p.Login, want)
	}
	globex := mustCreate(t, d, "globex")
	for _, other := range []*Directory{d, openDirectory(t, configOf(t, url))} {
		db := openDB(t, other)
		wantServed(t, db, acme)
		wantServed(t, db, globex)
	}
	if diff := cmp.Diff([]EventKind{EventStarted, EventHoused, EventMigrated, EventActivated}, kinds(t, d, acme.ID)); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	for name, read := range map[string]func() (*tenant.Tenant, error){
		"Resolve": func() (*tenant.Tenant, error) { return d.Resolve(t.Context(), "acme") },
		"BySlug":  func() (*tenant.Tenant, error) { return d.BySlug(t.Context(), "acme") },
		"ByID":    func() (*tenant.Tenant, error) { return d.ByID(t.Context(), acme.ID) },
	} {
		got, err := read()
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(acme, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// What a database of a tenant's own is like: closed to everybody else, and like its cluster's.
func TestADatabaseOfATenantsOwnIsClosed(t *testing.T) {
	t.Parallel()
	d, url := newDirectory(t)
	acme := mustHouse(t, d, withDatabase("acme"))
	admin := connectTo(t, url)
	if got := query[string](t, admin, `SELECT coalesce(string_agg(coalesce(r.rolname, 'PUBLIC') || ' ' || privilege_type, ', ' ORDER BY 1), '')
		FROM pg_database d, aclexplode(d.datacl) LEFT JOIN pg_roles r ON r.oid = grantee
		WHERE datname = $1 AND grantee <> datdba`, acme.Placement.Database); got != acme.Placement.Login+" CONNECT" {
		t.Errorf("rights on the database: %s", got)
	}
	if differ := query[bool](t, admin, `SELECT count(DISTINCT (encoding, datcollate, datctype, datlocprovider)) > 1 OR bool_or(NOT datallowconn)
		FROM pg_database WHERE datname IN (current_database(), $1)`, acme.Placement.Database); differ {
		t.Error("the database is not like that of its cluster")
	}
	conn := connectFor(t, d, acme.Placement)
	if path := query[string](t, conn, `SELECT current_setting('search_path')`); path != `""` {
		t.Errorf("search_path = %s", path)
	}
	for _, sql := range []string{
		`SELECT * FROM ` + notesOf(acme), `CREATE SCHEMA mine`, `CREATE TEMP TABLE mine (i int)`, `CREATE TABLE public.mine (i int)`,
		`CREATE ROLE own_mine`, `CREATE DATABASE own_mine`, `SET ROLE ` + pgserver.Administrator,
	} {
		wantState(t, conn, "42501", sql)
	}
	mustExec(t, conn, `SET ROLE `+acme.Placement.Role)
	mustExec(t, conn, `INSERT INTO `+notesOf(acme)+` (body) VALUES ('x')`)
	wantState(t, conn, "42501", `CREATE TABLE `+acme.Placement.Schema+`.mine (i int)`)
	wantState(t, conn, "42501", `DROP TABLE `+notesOf(acme))
	wantState(t, conn, "42501", `SELECT * FROM `+acme.Placement.Schema+`.schema_migrations`)
}

// watcher is a tracer that looks before each statement.
type watcher struct{ look func() }

func (w watcher) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	w.look()
	return ctx
}

func (watcher) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// At no moment of its making can others connect to a database of a tenant's own.
func TestADatabaseIsNeverOpenToEverybody(t *testing.T) {
	t.Parallel()
	url := registryURL(t)
	conn := connectTo(t, url)
	var looked, seen, closed int
	var looking sync.Mutex
	cfg := configOf(t, url)
	cfg.ConnConfig.Tracer = watcher{func() {
		looking.Lock()
		defer looking.Unlock()
		looked++
		seen += query[int](t, conn, `SELECT count(*) FROM tenants JOIN pg_database ON datname = database_name WHERE strategy = 'database'`)
		closed += query[int](t, conn, `SELECT count(*) FROM tenants JOIN pg_database ON datname = database_name WHERE strategy = 'database'
			AND (NOT datallowconn OR NOT EXISTS (SELECT FROM aclexplode(coalesce(datacl, acldefault('d', datdba))) WHERE grantee = 0))`)
	}}
	mustHouse(t, openDirectory(t, cfg), withDatabase("acme"))
	if seen < 5 || closed != seen {
		t.Errorf("looked %d times: the database was there %d times, and closed %d times", looked, seen, closed)
	}
}

// A house is torn down though its tenant is connected, by an administrator who is no superuser.
func TestADatabaseInUseIsDropped(t *testing.T) {
	t.Parallel()
	d, url := newDirectory(t)
	acme := mustHouse(t, d, withDatabase("acme"))
	conn := connectFor(t, d, acme.Placement)
	row, err := d.queries.GetTenant(t.Context(), acme.ID)
	if err != nil {
		t.Fatal(err)
	}
	site, err := d.openSite(t.Context(), acme.Placement.Cluster, acme.ID)
	if err != nil {
		t.Fatal(err)
	}
	defer site.close()
	for range 2 { // the second has nothing to do
		if err := tearDownAt(t.Context(), site, row); err != nil {
			t.Fatal(err)
		}
	}
	if err := conn.Ping(t.Context()); err == nil {
		t.Error("the tenant is still connected")
	}
	wantNoTraces(t, d, connectTo(t, url))
}

// N logins on N databases: each can connect to its own, and 0 of the others; and 0 of the others' tables can be read.
func TestEveryLoginOnEveryDatabase(t *testing.T) {
	t.Parallel()
	d, _ := newDirectory(t)
	mustAddCluster(t, d, NewCluster{Name: "second", URL: pgtest.Database(t)})
	var tenants []*tenant.Tenant
	for _, slug := range []string{"a", "b", "c"} {
		tenants = append(tenants, mustHouse(t, d, withDatabase("own-"+slug)), mustHouse(t, d, on(tenant.DefaultCluster, company("schema-"+slug))))
	}
	tenants = append(tenants, mustHouse(t, d, on("second", withDatabase("own-d"))), mustHouse(t, d, on("second", company("schema-d"))))
	var connected, refused, unread int
	for _, who := range tenants {
		cc, err := d.LoginConn(t.Context(), who.Placement)
		if err != nil {
			t.Fatal(err)
		}
		for _, whose := range tenants {
			there := cc.Copy()
			there.Database = whose.Placement.Database
			conn, err := pgx.ConnectConfig(t.Context(), there)
			shared := who.Placement.Strategy == tenant.SchemaStrategy && whose.Placement.Strategy == tenant.SchemaStrategy
			switch state := sqlState(err); {
			case err == nil && (who == whose || shared):
				connected++
				defer closeConn(conn)
			case err == nil:
				t.Errorf("%s connects to the database of %s", who.Slug, whose.Slug)
				defer closeConn(conn)
			case state != "42501":
				t.Errorf("%s in the database of %s: error = %v, want SQLSTATE 42501", who.Slug, whose.Slug, err)
			default:
				refused++
			}
		}
		conn := connectFor(t, d, who.Placement)
		for _, role := range []string{"NONE", who.Placement.Role} {
			mustExec(t, conn, `SET ROLE `+role)
			for _, whose := range tenants {
				_, err := conn.Exec(t.Context(), `SELECT * FROM `+notesOf(whose))
				state := sqlState(err)
				switch {
				case who == whose && role != "NONE":
					if err != nil {
						t.Errorf("%s cannot read its own: %v", who.Slug, err)
					}
				case state != "42501" && state != "42P01" || state == "42P01" && who.Placement.Database == whose.Placement.Database:
					t.Errorf("%s as %s reads %s: error = %v", who.Slug, role, whose.Slug, err)
				default:
					unread++
				}
			}
		}
	}
	// Both clusters are on one server, so their runtime logins are the same.
	if connected != 4+16 || refused != 64-20 || unread != 2*64-8 {
		t.Errorf("%d connected, %d refused, %d reads refused", connected, refused, unread)
	}
}
