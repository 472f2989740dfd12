package directory

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"testing"
	"testing/fstest"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/db/migrate"
	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/internal/pgtest"
)

func TestMain(m *testing.M) {
	if url := os.Getenv(victimEnv); url != "" {
		if os.Getenv(victimStepEnv) != "" {
			os.Exit(stepVictim(url))
		}
		os.Exit(victim(url))
	}
	os.Exit(pgtest.Main(m))
}

// notesSQL has one of each kind of object that a tenant's role has rights on.
const notesSQL = `-- migrate:up
CREATE TYPE mood AS ENUM ('glad', 'sad');
CREATE TABLE notes (id bigserial PRIMARY KEY, body text NOT NULL, mood mood NOT NULL DEFAULT 'glad');
CREATE FUNCTION shout(text) RETURNS text LANGUAGE sql AS 'SELECT upper($1)';
-- migrate:down
DROP TABLE notes;
DROP TYPE mood;
DROP FUNCTION shout;
`

// migratorOf returns a Migrator of files with the given up sections, numbered from 1, or with notesSQL alone. It waits for locks
// for ever, so that a test can hold it up.
func migratorOf(tb testing.TB, ups ...string) *migrate.Migrator {
	tb.Helper()
	m, err := newMigrator(ups...)
	if err != nil {
		tb.Fatal(err)
	}
	return m
}

func newMigrator(ups ...string) (*migrate.Migrator, error) {
	files := fstest.MapFS{"tenant/20260101000000_notes.sql": {Data: []byte(notesSQL)}}
	for i, up := range ups {
		name := "tenant/2026020100000" + strconv.Itoa(i) + "_extra.sql"
		files[name] = &fstest.MapFile{Data: []byte("-- migrate:up\n" + up + "\n-- migrate:down\nSELECT 1;\n")}
	}
	set, err := migrate.Load(files, "tenant")
	if err != nil {
		return nil, err
	}
	return migrate.New(set, migrate.Config{LockTimeout: -1}), nil
}

var testKey = []byte("0123456789abcdef0123456789abcdef")

// configOf returns a configuration whose cache is never read again by time alone.
func configOf(tb testing.TB, url string) Config {
	tb.Helper()
	cc, err := pgx.ParseConfig(url)
	if err != nil {
		tb.Fatal(err)
	}
	return Config{
		ConnConfig: cc, SecretKey: testKey, Migrator: migratorOf(tb), CacheTTL: 24 * time.Hour, NegativeCacheTTL: 24 * time.Hour,
	}
}

// registryURL returns the URL of a new database with an empty registry.
func registryURL(tb testing.TB) string {
	tb.Helper()
	url := pgtest.Database(tb)
	if _, err := Migrate(tb.Context(), configOf(tb, url)); err != nil {
		tb.Fatal(err)
	}
	return url
}

func openDirectory(tb testing.TB, cfg Config) *Directory {
	tb.Helper()
	d, err := Open(tb.Context(), cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(d.Close)
	return d
}

// newDirectory opens a Directory over a registry of its own.
func newDirectory(tb testing.TB) (d *Directory, url string) {
	tb.Helper()
	url = registryURL(tb)
	return openDirectory(tb, configOf(tb, url)), url
}

func company(subdomain string) NewTenant {
	return NewTenant{Company: "The " + subdomain + " company", ContactName: "Ann", ContactEmail: "ann@example.com", Subdomain: subdomain}
}

func mustCreate(tb testing.TB, d *Directory, subdomain string) *tenant.Tenant {
	tb.Helper()
	created, err := d.Create(tb.Context(), company(subdomain))
	if err != nil {
		tb.Fatal(err)
	}
	return created
}

// fillTo makes n spares, for tenants to be, under the given configuration.
func fillTo(tb testing.TB, cfg Config, n int) {
	tb.Helper()
	cfg.Spares = n
	d, err := Open(tb.Context(), cfg)
	if err != nil {
		tb.Fatal(err)
	}
	defer d.Close()
	if _, err := d.FillSpares(tb.Context()); err != nil {
		tb.Fatal(err)
	}
}

// bothWays runs a test of Create on a registry without spares and on one that has some.
func bothWays(t *testing.T, spares int, test func(t *testing.T, url string)) {
	t.Helper()
	for name, n := range map[string]int{"built": 0, "from spares": spares} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := registryURL(t)
			fillTo(t, configOf(t, url), n)
			test(t, url)
		})
	}
}

// connectTo opens a connection with the registry on its path.
func connectTo(tb testing.TB, url string) *pgx.Conn {
	tb.Helper()
	return pgtest.Connect(tb, url+"&search_path=leasehold")
}

func query[T any](tb testing.TB, conn *pgx.Conn, sql string, args ...any) T {
	tb.Helper()
	rows, err := conn.Query(tb.Context(), sql, args...)
	if err != nil {
		tb.Fatalf("%s: %v", sql, err)
	}
	v, err := pgx.CollectExactlyOneRow(rows, pgx.RowTo[T])
	if err != nil {
		tb.Fatalf("%s: %v", sql, err)
	}
	return v
}

func mustExec(tb testing.TB, conn *pgx.Conn, sql string, args ...any) {
	tb.Helper()
	if _, err := conn.Exec(tb.Context(), sql, args...); err != nil {
		tb.Fatalf("%s: %v", sql, err)
	}
}

func wantState(tb testing.TB, conn *pgx.Conn, want, sql string) {
	tb.Helper()
	_, err := conn.Exec(tb.Context(), sql)
	if got := sqlState(err); got != want {
		tb.Errorf("%s: error = %v, want SQLSTATE %s", sql, err, want)
	}
}

// waitFor looks at a condition again and again until it holds.
func waitFor(tb testing.TB, what string, holds func() bool) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), time.Minute)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-ctx.Done():
			tb.Fatal("waited in vain until " + what)
		case <-tick.C:
		}
	}
}

func kinds(tb testing.TB, d *Directory, id tenant.ID) []EventKind {
	tb.Helper()
	events, err := d.Events(tb.Context(), id)
	if err != nil {
		tb.Fatal(err)
	}
	list := make([]EventKind, len(events))
	for i, e := range events {
		list[i] = e.Kind
		if e.TenantID != id || e.At.IsZero() || (i > 0 && e.ID <= events[i-1].ID) {
			tb.Errorf("event %d is out of order: %+v", i, e)
		}
	}
	return list
}

// wantNothingLeft checks that no tenant but the given ones has a row among the living, a schema, or a role. Spares do not count.
func wantNothingLeft(tb testing.TB, url string, living ...*tenant.Tenant) {
	tb.Helper()
	conn := connectTo(tb, url)
	schemas, ids := []string{}, []tenant.ID{}
	for _, t := range living {
		schemas, ids = append(schemas, t.Placement.Schema), append(ids, t.ID)
	}
	if left := query[[]string](tb, conn, `SELECT coalesce(array_agg(nspname::text), '{}') FROM pg_namespace
		WHERE nspname LIKE 't\_%' AND nspname <> ALL ($1) AND nspname NOT IN (SELECT schema_name FROM spares)`, schemas); len(left) > 0 {
		tb.Errorf("schemas are left: %v", left)
	}
	if left := query[[]string](tb, conn, `SELECT coalesce(array_agg(role_name), '{}') FROM tenants JOIN pg_roles ON rolname = role_name
		WHERE id <> ALL ($1)`, ids); len(left) > 0 {
		tb.Errorf("roles are left: %v", left)
	}
	if left := query[[]string](tb, conn, `SELECT coalesce(array_agg(slug || ' ' || status), '{}') FROM tenants
		WHERE status NOT IN ('failed', 'deleted') AND id <> ALL ($1)`, ids); len(left) > 0 {
		tb.Errorf("tenants are left: %v", left)
	}
}

// holdLock takes an advisory lock that a migration waits for, and returns the connection that has it.
func holdLock(tb testing.TB, url string) *pgx.Conn {
	tb.Helper()
	conn := pgtest.Connect(tb, url)
	mustExec(tb, conn, `SELECT pg_advisory_lock($1)`, heldLock)
	return conn
}

const heldLock = 7

// waitingSQL holds a lock on its schema while it waits for heldLock.
var waitingSQL = fmt.Sprintf("CREATE TABLE more (i int);\nSELECT pg_advisory_xact_lock(%d);", heldLock)

// waitUntilMigrating waits until a migration waits for heldLock, and returns its server process.
func waitUntilMigrating(tb testing.TB, url string) (pid int) {
	tb.Helper()
	conn := pgtest.Connect(tb, url)
	waitFor(tb, "a migration is under way", func() bool {
		pid = query[int](tb, conn, `SELECT coalesce(max(pid), 0) FROM pg_locks JOIN pg_database d ON d.oid = database
			WHERE datname = current_database() AND locktype = 'advisory' AND classid = 0 AND objid = $1 AND NOT granted`, heldLock)
		return pid != 0
	})
	return pid
}
