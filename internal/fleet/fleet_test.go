package fleet_test

import (
	"context"
	"errors"
	"os"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/db/tenantdb"
	"github.com/leasehold-go/leasehold/internal/fleet"
	"github.com/leasehold-go/leasehold/internal/pgtest"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }

// leftSQL counts what is left of a fleet in the server and in the database.
const leftSQL = `SELECT (SELECT count(*) FROM pg_roles WHERE rolname = ANY($1)), (SELECT count(*) FROM pg_namespace WHERE nspname = ANY($2))`

// left returns how many of the fleet's roles, with its logins, and of its schemas there are.
func left(t *testing.T, f *fleet.Fleet) [2]int {
	t.Helper()
	roles, schemas := []string{}, []string{}
	for _, tn := range f.Tenants {
		if cc, err := f.Login(t.Context(), tn.Placement); err != nil {
			t.Fatal(err)
		} else if !slices.Contains(roles, cc.User) {
			roles = append(roles, cc.User)
		}
		roles, schemas = append(roles, tn.Placement.Role), append(schemas, tn.Placement.Schema)
	}
	var n [2]int
	conn := connect(t, f.Admin())
	if err := conn.QueryRow(t.Context(), leftSQL, roles, schemas).Scan(&n[0], &n[1]); err != nil {
		t.Fatal(err)
	}
	return n
}

func connect(t *testing.T, cc *pgx.ConnConfig) *pgx.Conn {
	t.Helper()
	conn, err := pgx.ConnectConfig(t.Context(), cc)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// item is a row of every table.
type item struct {
	ID          int
	Owner, Mood string
	Qty         int
	Parent      *int
}

// A caller builds a fleet as the administrator or as a superuser, opens it, finds in each tenant its own rows, and drops it.
func TestFleet(t *testing.T) {
	t.Parallel()
	for name, url := range map[string]func(database string) string{
		"administrator": func(database string) string { return database },
		"superuser":     func(database string) string { return pgtest.SuperURL(t, database) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, err := fleet.Build(t.Context(), fleet.Config{AdminURL: url(pgtest.Database(t)), Tenants: 45, Tables: 3, Rows: 2})
			if err != nil {
				t.Fatal(err)
			}
			db, err := tenantdb.Open(t.Context(), tenantdb.Config{ConnConfig: f.Runtime(), MaxConns: 2})
			if err != nil {
				t.Fatal(err)
			}
			for _, tn := range f.Tenants {
				for i := range f.Tables {
					checkTable(t, db.For(tn), tn, fleet.TableName(i))
				}
			}
			db.Close()
			if diff := cmp.Diff([2]int{46, 45}, left(t, f)); diff != "" {
				t.Fatal(diff)
			}
			for _, when := range []string{"first", "again"} {
				if err := f.Drop(t.Context()); err != nil {
					t.Fatalf("drop %s: %v", when, err)
				}
			}
			if diff := cmp.Diff([2]int{}, left(t, f)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func checkTable(t *testing.T, db tenantdb.Handle, tn *tenant.Tenant, table string) {
	t.Helper()
	rows, err := db.Query(t.Context(), "SELECT id, owner, mood::text AS mood, qty, parent FROM "+table+" ORDER BY id")
	if err != nil {
		t.Fatal(err)
	}
	got, err := pgx.CollectRows(rows, pgx.RowToStructByName[item])
	if err != nil {
		t.Fatal(err)
	}
	slug := string(tn.Slug)
	if diff := cmp.Diff([]item{{ID: 1, Owner: slug, Mood: "only-" + slug}, {ID: 2, Owner: slug, Mood: "only-" + slug}}, got); diff != "" {
		t.Fatalf("%s, %s: %s", slug, table, diff)
	}
	// The reference is checked at the commit only: within the transaction a row may point to one that comes later.
	if _, err := db.Exec(t.Context(), "UPDATE "+table+" SET parent = 99 WHERE id = 1"); sqlState(err) != "23503" {
		t.Fatalf("%s, %s: got error %v, want SQLSTATE 23503", slug, table, err)
	}
}

func sqlState(err error) string {
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok {
		return pgErr.Code
	}
	return ""
}

// With bounded logins each tenant's role is that of its own login, and no other one's.
func TestTenantsPerLogin(t *testing.T) {
	t.Parallel()
	f, err := fleet.Build(t.Context(), fleet.Config{AdminURL: pgtest.Database(t), Tenants: 5, TenantsPerLogin: 2})
	if err != nil {
		t.Fatal(err)
	}
	logins := map[string]int{}
	for _, tn := range f.Tenants {
		cc, err := f.Login(t.Context(), tn.Placement)
		if err != nil {
			t.Fatal(err)
		}
		logins[cc.User]++
		conn := connect(t, cc)
		for _, other := range f.Tenants {
			_, err := conn.Exec(t.Context(), "SET ROLE "+other.Placement.Role)
			if own := other.Placement.Login == tn.Placement.Login; own != (err == nil) {
				t.Errorf("%s's login takes the role of %s: got error %v", tn.Slug, other.Slug, err)
			}
		}
		if err := conn.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if len(logins) != 3 || logins[f.Runtime().User] != 2 {
		t.Errorf("got tenants by login %v, want 2, 2 and 1, of which the default login has 2", logins)
	}
	if _, err := f.Login(t.Context(), tenant.Placement{Login: f.Admin().User}); err == nil {
		t.Error("the administrator's login is given out as a runtime login")
	}
	if err := f.Drop(t.Context()); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff([2]int{}, left(t, f)); diff != "" {
		t.Error(diff)
	}
}

// The runtime login reads nothing without a tenant's role, and has no path.
func TestRuntimeLoginHasNoRights(t *testing.T) {
	t.Parallel()
	f, err := fleet.Build(t.Context(), fleet.Config{AdminURL: pgtest.Database(t), Tenants: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Drop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	conn := connect(t, f.Runtime())
	for sql, want := range map[string]string{
		"SELECT FROM items": "42P01",
		"SELECT FROM " + f.Tenants[0].Placement.Schema + ".items": "42501",
		"CREATE TEMP TABLE x ()":                                  "42501",
		"CREATE SCHEMA x":                                         "42501",
	} {
		if _, err := conn.Exec(t.Context(), sql); sqlState(err) != want {
			t.Errorf("%s: got error %v, want SQLSTATE %s", sql, err, want)
		}
	}
}

// Not parallel: it compares the roles of the whole server before and after.
func TestFailedBuildLeavesNothing(t *testing.T) {
	url := pgtest.Database(t)
	conn := pgtest.Connect(t, url)
	const allSQL = "SELECT (SELECT count(*) FROM pg_roles), (SELECT count(*) FROM pg_namespace)"
	var before, after [2]int
	if err := conn.QueryRow(t.Context(), allSQL).Scan(&before[0], &before[1]); err != nil {
		t.Fatal(err)
	}
	// The server refuses one of the last tenants, when others are there for good.
	pgtest.Exec(t, pgtest.SuperURL(t, url), `
		CREATE FUNCTION public.refuse() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
			IF EXISTS (SELECT FROM pg_event_trigger_ddl_commands() WHERE object_identity LIKE 't\_co\_43\_%') THEN
				RAISE EXCEPTION USING ERRCODE = 'LH001';
			END IF;
		END $$`,
		`CREATE EVENT TRIGGER refuse ON ddl_command_end WHEN TAG IN ('CREATE SCHEMA') EXECUTE FUNCTION public.refuse()`)
	if _, err := fleet.Build(t.Context(), fleet.Config{AdminURL: url, Tenants: 45, Conns: 1}); sqlState(err) != "LH001" {
		t.Fatalf("got error %v, want SQLSTATE LH001", err)
	}
	if err := conn.QueryRow(t.Context(), allSQL).Scan(&after[0], &after[1]); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, after); diff != "" {
		t.Error(diff)
	}
}

func TestConfigIsChecked(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]fleet.Config{
		"no URL":           {Tenants: 1},
		"a broken URL":     {AdminURL: "postgres://:bad", Tenants: 1},
		"no tenants":       {AdminURL: "postgres://127.0.0.1"},
		"negative rows":    {AdminURL: "postgres://127.0.0.1", Tenants: 1, Rows: -1},
		"negative tables":  {AdminURL: "postgres://127.0.0.1", Tenants: 1, Tables: -1},
		"negative logins":  {AdminURL: "postgres://127.0.0.1", Tenants: 1, TenantsPerLogin: -1},
		"negative workers": {AdminURL: "postgres://127.0.0.1", Tenants: 1, Conns: -1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if f, err := fleet.Build(t.Context(), cfg); err == nil || f != nil {
				t.Errorf("got %v, %v; want an error alone", f, err)
			}
		})
	}
}
