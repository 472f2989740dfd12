package transfer_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/db/migrate"
	"github.com/leasehold-go/leasehold/db/migrations"
	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/internal/pgdump"
	"github.com/leasehold-go/leasehold/internal/pgtest"
	"github.com/leasehold-go/leasehold/internal/transfer"
)

// newer is the folder of a server's programs that come without a pg_dump, or "". Tenants are then moved to such a server.
var newer string

func TestMain(m *testing.M) {
	if job := os.Getenv(childEnv); job != "" {
		os.Exit(child(job))
	}
	if dir := os.Getenv(pgtest.BinEnv); dir != "" {
		if _, err := os.Stat(filepath.Join(dir, "pg_dump")); errors.Is(err, os.ErrNotExist) {
			newer = dir
			if err := os.Unsetenv(pgtest.BinEnv); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
		}
	}
	os.Exit(pgtest.Main(m))
}

// needPrograms ends a test where there is no pg_dump at all, as with a server that was fetched; CI has one.
func needPrograms(tb testing.TB, err error) {
	tb.Helper()
	if errors.Is(err, pgdump.ErrNoProgram) && os.Getenv("CI") == "" {
		tb.Skip(err)
	}
}

// names returns the names of a new tenant.
func names(tb testing.TB) tenant.Placement {
	tb.Helper()
	return tenant.NewPlacement(tenant.ID(uuid.New()), "acme", "default", "")
}

const password = "for-tests-only"

// house makes what a tenant lives in, as the registry does, in the database of an administrator's URL: role, login and schema. The login
// may not take the role yet. The roles stay; nobody else has their names.
func house(tb testing.TB, url string, p tenant.Placement) transfer.Place {
	tb.Helper()
	login := "l_" + strings.TrimPrefix(p.Role, "r_")
	for _, role := range []string{p.Role + " NOLOGIN NOINHERIT", login + " LOGIN NOINHERIT PASSWORD '" + password + "'"} {
		name, _, _ := strings.Cut(role, " ")
		pgtest.Exec(tb, url, "DO $$ BEGIN IF to_regrole('"+name+"') IS NULL THEN CREATE ROLE "+role+"; END IF; END $$")
	}
	config, err := pgx.ParseConfig(url)
	if err != nil {
		tb.Fatal(err)
	}
	pgtest.Exec(tb, url, "REVOKE ALL ON SCHEMA public FROM PUBLIC", "REVOKE CONNECT, TEMPORARY ON DATABASE "+config.Database+" FROM PUBLIC",
		"GRANT CONNECT ON DATABASE "+config.Database+" TO "+login)
	defaults := "ALTER DEFAULT PRIVILEGES IN SCHEMA " + p.Schema + " GRANT "
	pgtest.Exec(tb, url, "CREATE SCHEMA "+p.Schema, "REVOKE ALL ON SCHEMA "+p.Schema+" FROM PUBLIC",
		"GRANT USAGE ON SCHEMA "+p.Schema+" TO "+p.Role,
		defaults+"SELECT, INSERT, UPDATE, DELETE ON TABLES TO "+p.Role,
		defaults+"SELECT, USAGE, UPDATE ON SEQUENCES TO "+p.Role,
		defaults+"EXECUTE ON FUNCTIONS TO "+p.Role,
		defaults+"USAGE ON TYPES TO "+p.Role)
	return transfer.Place{Admin: config, Schema: p.Schema, Role: p.Role, Logins: []string{login}}
}

func grant(tb testing.TB, p transfer.Place) {
	tb.Helper()
	mustExec(tb, p, "GRANT "+p.Role+" TO "+p.Logins[0])
}

// apply brings a place up to date.
func apply(tb testing.TB, set *migrate.Set, p transfer.Place) {
	tb.Helper()
	if _, err := migrate.New(set, migrate.Config{}).Apply(tb.Context(), target(p)); err != nil {
		tb.Fatal(err)
	}
}

func target(p transfer.Place) migrate.Target {
	return migrate.Target{Schema: p.Schema, Role: p.Role, Conn: p.Admin}
}

func productSet(tb testing.TB) *migrate.Set {
	tb.Helper()
	set, err := migrate.Load(migrations.FS, "tenant")
	if err != nil {
		tb.Fatal(err)
	}
	return set
}

// checkDrift compares the definitions, owners and rights of a place with what the migrations make.
func checkDrift(tb testing.TB, set *migrate.Set, p transfer.Place) {
	tb.Helper()
	mustExec(tb, p, "DROP TABLE IF EXISTS visits") // of the tests' own
	reference := house(tb, pgtest.Database(tb), names(tb))
	apply(tb, set, reference)
	drifts, err := migrate.New(set, migrate.Config{}).Check(tb.Context(), target(reference), []migrate.Target{target(p)})
	if err != nil {
		tb.Fatal(err)
	}
	for _, d := range drifts {
		if d.Err != nil || len(d.Differences) > 0 {
			tb.Errorf("%s: %v %+v", p.Schema, d.Err, d.Differences)
		}
	}
}

// connect opens a connection of the administrator in a place, whose names need no schema.
func connect(tb testing.TB, p transfer.Place) *pgx.Conn {
	tb.Helper()
	config := p.Admin.Copy()
	config.RuntimeParams["search_path"] = p.Schema
	config.DefaultQueryExecMode = pgx.QueryExecModeExec
	conn, err := pgx.ConnectConfig(tb.Context(), config)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = conn.Close(context.WithoutCancel(tb.Context())) })
	return conn
}

func mustExec(tb testing.TB, p transfer.Place, sql ...string) {
	tb.Helper()
	conn := connect(tb, p)
	for _, s := range sql {
		if _, err := conn.PgConn().Exec(tb.Context(), s).ReadAll(); err != nil {
			tb.Fatalf("%s: %v", s, err)
		}
	}
}

// read returns the one value that a query has.
func read[T any](tb testing.TB, p transfer.Place, sql string) (value T) {
	tb.Helper()
	if err := connect(tb, p).QueryRow(tb.Context(), sql).Scan(&value); err != nil {
		tb.Fatalf("%s: %v", sql, err)
	}
	return value
}

// fill gives a tenant of the product some rows.
func fill(tb testing.TB, p transfer.Place, customers int) {
	tb.Helper()
	mustExec(tb, p, fmt.Sprintf(`INSERT INTO customers (name, email) SELECT 'Ada ' || n, 'ada' || n || '@example.com' FROM generate_series(1, %d) n;
		INSERT INTO invoices (customer_id, currency) SELECT id, 'EUR' FROM customers;
		INSERT INTO invoice_lines (invoice_id, position, description, quantity, unit_price_cents)
			SELECT id, p, E'tab\t, quote '' and \\ back, line
end ' || '\.', 1.5, 999 FROM invoices, generate_series(1, 3) p;
		UPDATE invoices SET status = 'issued', issued_on = '2026-01-05', due_on = '2026-02-05' WHERE id %% 2 = 0;
		INSERT INTO payments (invoice_id, amount_cents, paid_on) SELECT id, 100, '2026-01-06' FROM invoices WHERE status = 'issued'`, customers))
}

// content is all that is in the tables and sequences of a place.
func content(tb testing.TB, p transfer.Place) map[string]string {
	tb.Helper()
	conn := connect(tb, p)
	rows, err := conn.Query(tb.Context(), `SELECT relname::text, relkind::text FROM pg_class WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'S', 'm')`)
	if err != nil {
		tb.Fatal(err)
	}
	relations, err := pgx.CollectRows(rows, pgx.RowToStructByPos[struct{ Name, Kind string }])
	if err != nil {
		tb.Fatal(err)
	}
	all := map[string]string{}
	for _, r := range relations {
		sql := `SELECT count(*) || ' ' || coalesce(md5(string_agg((t.*)::text, '|' ORDER BY (t.*)::text COLLATE "C")), '') FROM ONLY ` + pgx.Identifier{r.Name}.Sanitize() + ` t`
		if r.Kind == "S" {
			sql = `SELECT last_value || ' ' || is_called FROM ` + pgx.Identifier{r.Name}.Sanitize()
		}
		var text string
		if err := conn.QueryRow(tb.Context(), sql).Scan(&text); err != nil {
			tb.Fatalf("%s: %v", r.Name, err)
		}
		all[r.Name] = text
	}
	return all
}
