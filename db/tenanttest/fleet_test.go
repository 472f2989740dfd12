package tenanttest_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/db/directory"
	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/db/tenantdb"
	"github.com/leasehold-go/leasehold/db/tenanttest"
)

// connect opens a connection that is closed when t ends.
func connect(t *testing.T, cc *pgx.ConnConfig) *pgx.Conn {
	t.Helper()
	conn, err := pgx.ConnectConfig(t.Context(), cc)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(t.Context()) })
	return conn
}

func TestNewMakesTenantsThatCanBeUsed(t *testing.T) {
	t.Parallel()
	f := tenanttest.New(t, tenanttest.Config{
		Migrations: notes, Tenants: 2, DB: tenantdb.Config{MaxConns: 3}, Directory: directory.Config{TenantsPerLogin: 1},
	})
	if len(f.Tenants) != 2 || f.DB.Stat().Max != 3 {
		t.Fatalf("%d tenants, %d connections; want 2 and 3", len(f.Tenants), f.DB.Stat().Max)
	}
	if a, b := f.Tenants[0].Placement.Login, f.Tenants[1].Placement.Login; a == b {
		t.Errorf("both tenants have the login %q", a)
	}
	for i, tn := range f.Tenants {
		found, err := f.Directory.Resolve(t.Context(), tn.Slug)
		if err != nil || found.ID != tn.ID || found.Status != tenant.Active {
			t.Errorf("%s resolves to %v, %v", tn.Slug, found, err)
		}
		if err := addNote(t.Context(), f.DB.For(tn), string(tn.Slug)); err != nil {
			t.Error(err)
		}
		list, err := listNotes(tenant.NewContext(t.Context(), f.Tenants[i]), f.DB)
		if diff := cmp.Diff([]string{string(tn.Slug)}, list); diff != "" || err != nil {
			t.Errorf("%s (-want +got):\n%s%v", tn.Slug, diff, err)
		}
		// What the administrator sees is what is there.
		list, err = reachNotes(t.Context(), connect(t, f.Administrator), tn)
		if diff := cmp.Diff([]string{string(tn.Slug)}, list); diff != "" || err != nil {
			t.Errorf("%s, as the administrator (-want +got):\n%s%v", tn.Slug, diff, err)
		}
	}
	third, err := f.Directory.Create(t.Context(), directory.NewTenant{
		Company: "Third", ContactName: "Ann", ContactEmail: "ann@example.com", Subdomain: "third",
	})
	if err != nil {
		t.Fatal(err)
	}
	if list, err := listNotes(t.Context(), f.DB.For(third)); len(list) != 0 || err != nil {
		t.Errorf("a new tenant: %v, %v", list, err)
	}
}

// A fleet is gone when its test has ended, with every role that was made for it.
func TestNothingIsLeftOfAFleet(t *testing.T) {
	t.Parallel()
	keeper := newNotes(t) // so that the server stays
	const roles = "SELECT rolname::text FROM pg_roles WHERE rolname !~ '^pg_' ORDER BY 1"
	var database, login string
	var role string
	t.Run("fleet", func(t *testing.T) {
		f := newNotes(t)
		database, login, role = f.Administrator.Database, runtimeLogin(t, f).User, f.Tenants[0].Placement.Role
		if _, err := f.Directory.Create(t.Context(), directory.NewTenant{
			Company: "More", ContactName: "Ann", ContactEmail: "ann@example.com", Subdomain: "more",
		}); err != nil {
			t.Fatal(err)
		}
		names := queryStrings(t, f.Administrator, roles)
		if !names[login] || !names[role] {
			t.Errorf("roles %v lack %s or %s", names, login, role)
		}
	})
	names := queryStrings(t, keeper.Administrator, roles)
	if names[login] || names[role] {
		t.Errorf("roles of the fleet are left: %v", names)
	}
	for name := range names {
		if len(name) > 7 && name[:7] == "r_more_" {
			t.Errorf("the role %s of a tenant that the test made is left", name)
		}
	}
	if queryStrings(t, keeper.Administrator, "SELECT datname::text FROM pg_database")[database] {
		t.Errorf("the database %s is left", database)
	}
}

// The same with databases of tenants' own, which are databases of the server.
func TestNothingIsLeftOfAFleetOfDatabases(t *testing.T) {
	t.Parallel()
	keeper := newNotes(t)
	const names = "SELECT datname::text FROM pg_database UNION SELECT rolname FROM pg_roles"
	var made []string
	t.Run("fleet", func(t *testing.T) {
		f := tenanttest.New(t, tenanttest.Config{Migrations: notes, Tenants: 2, Strategy: tenant.DatabaseStrategy})
		more, err := f.Directory.Create(t.Context(), directory.NewTenant{
			Company: "More", ContactName: "Ann", ContactEmail: "ann@example.com", Subdomain: "own", Strategy: tenant.DatabaseStrategy,
		})
		if err != nil {
			t.Fatal(err)
		}
		there := queryStrings(t, f.Administrator, names)
		for _, tn := range append(f.Tenants, more) {
			p := tn.Placement
			made = append(made, p.Database, p.Role, p.Login)
			if err := addNote(t.Context(), f.DB.For(tn), string(tn.Slug)); err != nil {
				t.Error(err)
			}
			if p.Database == f.Administrator.Database || !there[p.Database] || !there[p.Role] || !there[p.Login] {
				t.Errorf("%+v is not housed in a database of its own", p)
			}
		}
	})
	there := queryStrings(t, keeper.Administrator, names)
	for _, name := range made {
		if there[name] {
			t.Errorf("%s is left", name)
		}
	}
}

// Without Main in TestMain the last test to end stops the server and removes its folder.
func TestNothingIsLeftWithoutMain(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run", "^TestNewMakesTenantsThatCanBeUsed$", "-test.v") //nolint:gosec // itself
	cmd.Env = append(os.Environ(), withoutMain+"=1", "TMPDIR="+dir)
	out, err := cmd.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("--- PASS: TestNewMakesTenantsThatCanBeUsed")) {
		t.Errorf("%v\n%s", err, out)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) > 0 {
		t.Errorf("left in the temporary folder: %v, %v", left, err)
	}
}

func queryStrings(t *testing.T, cc *pgx.ConnConfig, sql string) map[string]bool {
	t.Helper()
	rows, err := connect(t, cc).Query(t.Context(), sql)
	if err != nil {
		t.Fatal(err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	set := map[string]bool{}
	for _, s := range list {
		set[s] = true
	}
	return set
}

// failing is a testing.TB that notes that it has failed and goes no further.
type failing struct {
	testing.TB
	failed bool
}

var errFatal = errors.New("fatal")

func (f *failing) Fatal(...any)          { f.failed = true; panic(errFatal) }
func (f *failing) Fatalf(string, ...any) { f.failed = true; panic(errFatal) }

func TestNewFailsTheTestThatItCannotServe(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]tenanttest.Config{
		"no migrations":     {},
		"no folder":         {Migrations: notes, Dir: "missing"},
		"a broken file":     {Migrations: fstest.MapFS{"20260101000000_x.sql": {Data: []byte("-- migrate:up\nCREATE TABLE (")}}},
		"a negative number": {Migrations: notes, Tenants: -1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tb := &failing{TB: t}
			func() {
				defer func() {
					if p := recover(); p != nil && p != any(errFatal) {
						panic(p)
					}
				}()
				tenanttest.New(tb, cfg)
			}()
			if !tb.failed {
				t.Error("it did not fail")
			}
		})
	}
}
