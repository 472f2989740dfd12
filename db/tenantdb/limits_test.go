package tenantdb_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/leasehold-go/leasehold/db/tenantdb"
	"github.com/leasehold-go/leasehold/internal/pgtest"
)

// THREATS 30: what a statement can do that sets the role at run time, and what it cannot. The first half is the documented limit.
func TestTheScopeIsNoSandbox(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	db := f.open(t, tenantdb.Config{MaxConns: 1})
	ctx := f.ctx(t, 0)
	admin, err := pgx.ParseConfig(f.url)
	if err != nil {
		t.Fatal(err)
	}
	a, b := f.tenants[0].Placement, f.tenants[1].Placement
	// run executes SQL that is put together in the database, in a transaction that is undone, and reads what comes out.
	run := func(then string, statements ...string) (string, error) {
		var out string
		err := db.InTx(ctx, func(tx pgx.Tx) error {
			var block strings.Builder
			for _, sql := range statements {
				fmt.Fprintf(&block, "EXECUTE %s; ", quote(sql))
			}
			if _, err := tx.Exec(ctx, "DO $$ BEGIN "+block.String()+"END $$"); err != nil {
				return err
			}
			return errors.Join(tx.QueryRow(ctx, then).Scan(&out), errRollback)
		})
		if errors.Is(err, errRollback) && kind(err) == errRollback.Error() {
			err = nil
		}
		return out, err
	}
	for name, c := range map[string]struct {
		statements []string
		then, want string
	}{
		"another tenant's rows":           {[]string{"SET LOCAL ROLE " + b.Role}, "SELECT owner FROM " + b.Schema + ".items LIMIT 1", "co-1"},
		"for the session, too":            {[]string{"SET ROLE " + b.Role}, "SELECT owner FROM " + b.Schema + ".items LIMIT 1", "co-1"},
		"by set_config":                   {[]string{"SELECT set_config(concat('ro', 'le'), '" + b.Role + "', true)"}, "SELECT current_user::text", b.Role},
		"the login itself":                {[]string{"RESET ROLE"}, "SELECT current_user::text", f.login},
		"the login's password":            {[]string{"RESET ROLE", "ALTER ROLE CURRENT_USER PASSWORD 'mine'"}, "SELECT current_user::text", f.login},
		"the path of the transaction":     {[]string{"SET LOCAL search_path = pg_catalog"}, "SELECT current_setting('search_path')", "pg_catalog"},
		"the path that the session keeps": {[]string{"SET search_path = pg_catalog"}, "SELECT current_setting('search_path')", "pg_catalog"},
	} {
		if got, err := run(c.then, c.statements...); err != nil || got != c.want {
			t.Errorf("%s: %q, %v; want %q: the limit is not what is documented", name, got, err, c.want)
		}
		for i, tn := range f.tenants { // and it ends with the transaction
			mustHold(t, f.ctx(t, i), db, tn)
		}
		wantBare(t, f, db)
	}
	for name, c := range map[string]struct {
		statements []string
		code       string
	}{
		"the administrator":        {[]string{"SET LOCAL ROLE " + admin.User}, "42501"},
		"the administrator, later": {[]string{"RESET ROLE", "SET LOCAL ROLE " + admin.User}, "42501"},
		"another session":          {[]string{"SET SESSION AUTHORIZATION " + admin.User}, "42501"},
		"the own rows as nobody":   {[]string{"RESET ROLE", "SELECT FROM " + a.Schema + ".items"}, "42501"},
		"a grant":                  {[]string{"GRANT " + a.Role + " TO " + b.Role}, "42501"},
		"a grant as the login":     {[]string{"RESET ROLE", "GRANT " + a.Role + " TO " + b.Role}, "42501"},
		"a table":                  {[]string{"CREATE TABLE " + a.Schema + ".x ()"}, "42501"},
		"a role":                   {[]string{"RESET ROLE", "CREATE ROLE x"}, "42501"},
		"rights":                   {[]string{"RESET ROLE", "ALTER ROLE CURRENT_USER CREATEROLE"}, "42501"},
		"a file":                   {[]string{"COPY " + a.Schema + ".items TO '/tmp/x'"}, "42501"},
		"a program":                {[]string{"COPY " + a.Schema + ".items TO PROGRAM 'true'"}, "42501"},
		"the end of the scope":     {[]string{"COMMIT"}, "0A000"},
	} {
		_, err := run("SELECT ''", c.statements...)
		var pgErr *pgconn.PgError
		if !errors.As(err, &pgErr) || pgErr.Code != c.code {
			t.Errorf("%s: got %v, want SQLSTATE %s", name, err, c.code)
		}
		mustHold(t, f.ctx(t, 1), db, f.tenants[1])
	}
	// What it leaves to the session by committing is found by no call, because each brings its own.
	err = db.InTx(ctx, func(tx pgx.Tx) error {
		return second(tx.Exec(ctx, "DO $$ BEGIN SET search_path = "+b.Schema+"; SET ROLE "+b.Role+"; END $$"))
	})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		for i, tn := range f.tenants {
			mustHold(t, f.ctx(t, i), db, tn)
			if err := db.InTx(f.ctx(t, i), func(tx pgx.Tx) error { mustHold(t, f.ctx(t, i), tx, tn); return nil }); err != nil {
				t.Error(err)
			}
		}
	}
}

func quote(sql string) string { return "'" + strings.ReplaceAll(sql, "'", "''") + "'" }

// THREATS 33: what has no schema belongs to everybody in the database, or to the role that made it.
func TestWhatHasNoSchemaIsShared(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	db := f.open(t, tenantdb.Config{MaxConns: 1, MaxSessions: 1})
	a, b := f.ctx(t, 0), f.ctx(t, 1)
	ask := func(ctx context.Context, sql string, args ...any) (out string, err error) {
		err = db.QueryRow(ctx, sql, args...).Scan(&out)
		return out, err
	}
	t.Run("large objects belong to the role that made them", func(t *testing.T) {
		oid, err := ask(a, "SELECT lo_from_bytea(0, 'secret')::text")
		if err != nil {
			t.Fatal(err)
		}
		if got, err := ask(a, "SELECT convert_from(lo_get($1::text::oid), 'UTF8')", oid); err != nil || got != "secret" {
			t.Errorf("its own tenant: %q, %v", got, err)
		}
		for _, sql := range []string{"SELECT lo_get($1::text::oid)::text", "SELECT lo_put($1::text::oid, 0, 'x')::text", "SELECT lo_unlink($1::text::oid)::text"} {
			_, err := ask(b, sql, oid)
			wantCode(t, err, "42501")
		}
		if got, err := ask(b, "SELECT count(*)::text FROM pg_largeobject_metadata WHERE oid = $1::text::oid", oid); err != nil || got != "1" {
			t.Errorf("that it exists: %q, %v; everybody can tell", got, err)
		}
	})
	t.Run("advisory locks are numbers that all share", func(t *testing.T) {
		two := f.open(t, tenantdb.Config{MaxConns: 2})
		err := two.InTx(a, func(tx pgx.Tx) error {
			mine, theirs := f.tenants[0].ID.LockKey("jobs"), f.tenants[1].ID.LockKey("jobs")
			if _, err := tx.Exec(a, "SELECT pg_advisory_xact_lock(42), pg_advisory_xact_lock($1)", mine); err != nil {
				return err
			}
			var shared, own bool
			err := two.QueryRow(b, "SELECT pg_try_advisory_xact_lock(42), pg_try_advisory_xact_lock($1)", theirs).Scan(&shared, &own)
			if shared || !own {
				t.Errorf("the same number is free %v, a number of its own %v; want false and true", shared, own)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	})
	t.Run("a notification is heard by all who listen", func(t *testing.T) {
		s := acquire(t, b, db)
		mustExec(t, b, s, "LISTEN jobs")
		mustExec(t, a, db, "SELECT pg_notify('jobs', 'of co-0')")
		if n, err := s.WaitForNotification(t.Context()); err != nil || n.Payload != "of co-0" {
			t.Errorf("%+v, %v", n, err)
		}
	})
	t.Run("the catalogue is open, the rows are not", func(t *testing.T) {
		f.admin(t, 0, "ANALYZE items")
		for range 3 {
			mustExec(t, a, db, "SELECT owner /* a note of co-0 */ FROM items WHERE owner = $1", "a value of co-0")
		}
		schema, role := f.tenants[0].Placement.Schema, f.tenants[0].Placement.Role
		for _, c := range []struct{ what, sql, want string }{
			{"databases", "SELECT count(*) > 1 FROM pg_database", "true"},
			{"its schema", "SELECT count(*) FROM pg_namespace WHERE nspname = '" + schema + "'", "1"},
			{"its role", "SELECT count(*) FROM pg_roles WHERE rolname = '" + role + "'", "1"},
			{"its tables", "SELECT count(*) FROM pg_class WHERE relname = 'items' AND relnamespace = '" + schema + "'::regnamespace", "1"},
			{"how many rows they have", "SELECT reltuples FROM pg_class WHERE relname = 'items' AND relnamespace = '" + schema + "'::regnamespace", fmt.Sprint(rowsPerTenant)},
			{"its types", "SELECT count(*) FROM pg_enum WHERE enumlabel = 'only-co-0'", "1"},
			{"its defaults", "SELECT count(*) FROM pg_attrdef WHERE pg_get_expr(adbin, adrelid) LIKE '''co-0''%'", "1"},
			{"its statements on this connection", "SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE '%a note of ' || 'co-0%'", "1"},
			{"their values", "SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE '%a value of ' || 'co-0%'", "0"},
			{"what it runs at this moment", "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%of ' || 'co-0%'", "0"},
			{"samples of its rows", "SELECT count(*) FROM pg_stats WHERE schemaname = '" + schema + "'", "0"},
		} {
			if got, err := ask(b, "SELECT ("+c.sql+")::text"); err != nil || got != c.want {
				t.Errorf("%s: %q, %v; want %s", c.what, got, err, c.want)
			}
		}
		for _, sql := range []string{"SELECT rolpassword FROM pg_authid", "SELECT * FROM pg_statistic", "SELECT pg_read_file('PG_VERSION')", "SELECT pg_ls_dir('.')",
			"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '" + adminName(t, f) + "'", "SELECT pg_reload_conf()"} {
			_, err := db.Exec(b, sql)
			wantCode(t, err, "42501")
		}
	})
	for i, tn := range f.tenants {
		mustHold(t, f.ctx(t, i), db, tn)
	}
}

// adminName keeps a connection of the administrator's open while t runs, and returns who that is.
func adminName(t *testing.T, f *fleet) string {
	t.Helper()
	return pgtest.Connect(t, f.url).Config().User
}

// THREATS 22: what a shared function names without a schema is looked up on its caller's path, though its plan is kept.
func TestASharedFunctionReadsItsCallersTenant(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 3)
	pgtest.Exec(t, f.url, `CREATE SCHEMA ext`, `GRANT USAGE ON SCHEMA ext TO PUBLIC`, `SET check_function_bodies = off; SET search_path = ext;
		CREATE FUNCTION owner_sql(n int) RETURNS text STABLE LANGUAGE sql AS 'SELECT owner FROM items WHERE id = n';
		CREATE FUNCTION owner_plpgsql(n int) RETURNS text STABLE LANGUAGE plpgsql AS 'DECLARE o text; BEGIN SELECT owner INTO o FROM items WHERE id = n; RETURN o; END';
		CREATE FUNCTION owner_dynamic(n int) RETURNS text STABLE LANGUAGE plpgsql AS 'DECLARE o text; BEGIN EXECUTE ''SELECT owner FROM items WHERE id = $1'' INTO o USING n; RETURN o; END'`)
	db := f.open(t, tenantdb.Config{MaxConns: 1, ExtensionSchema: "ext"})
	for range 8 { // longer than the server takes to settle for a plan
		for i, tn := range f.tenants {
			for _, fn := range []string{"owner_sql", "owner_plpgsql", "owner_dynamic"} {
				var owner string
				if err := db.QueryRow(f.ctx(t, i), "SELECT "+fn+"($1)", 1).Scan(&owner); err != nil || owner != string(tn.Slug) {
					t.Fatalf("%s: %s got %q, %v", fn, tn.Slug, owner, err)
				}
			}
		}
	}
}
