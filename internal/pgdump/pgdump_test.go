package pgdump_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/leasehold-go/leasehold/internal/pgdump"
	"github.com/leasehold-go/leasehold/internal/pgserver"
	"github.com/leasehold-go/leasehold/internal/pgtest"
)

// product is a schema with what is hard to move from one schema to another. It names the role it is for.
func product(role string) []string {
	return []string{`
CREATE TYPE status AS ENUM ('open', 'done');
CREATE DOMAIN cents AS bigint CHECK (VALUE >= 0);
CREATE SEQUENCE ticket_no START 1000;
CREATE TABLE tickets (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    no bigint NOT NULL DEFAULT nextval('ticket_no'),
    state status NOT NULL DEFAULT 'open',
    price cents NOT NULL DEFAULT 0,
    gross bigint GENERATED ALWAYS AS (price * 2) STORED,
    opened date NOT NULL DEFAULT current_date
);
COMMENT ON TABLE tickets IS 'What a customer asked. Lines -- of comment; and '' quotes.';
CREATE TABLE moves (id bigint, at date NOT NULL, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE moves_2025 PARTITION OF moves FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
CREATE FUNCTION count_open(s status) RETURNS bigint LANGUAGE sql STABLE BEGIN ATOMIC
    SELECT count(*) FROM tickets WHERE state = s;
END;
CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    NEW.opened := current_date;
    RETURN NEW;
END $$;
CREATE TRIGGER stamp BEFORE UPDATE ON tickets FOR EACH ROW WHEN (NEW.state = 'done'::status) EXECUTE FUNCTION stamp();
CREATE VIEW open_tickets AS SELECT t.*, count_open(t.state) AS others FROM tickets AS t WHERE state = 'open';
CREATE MATERIALIZED VIEW per_day AS SELECT opened, sum(price) AS total FROM tickets GROUP BY opened;
CREATE UNIQUE INDEX per_day_key ON per_day (opened);
CREATE INDEX tickets_open ON tickets (opened) WHERE state = 'open';
ALTER TABLE tickets ENABLE ROW LEVEL SECURITY;
CREATE POLICY theirs ON tickets TO ` + role + ` USING (state <> 'done');
GRANT SELECT ON tickets TO ` + role + `;
CREATE TABLE schema_migrations (version varchar PRIMARY KEY);
INSERT INTO schema_migrations VALUES ('20250101000000'), ('20250102000000');`,
		`DO $$ BEGIN EXECUTE format('CREATE FUNCTION home() RETURNS text LANGUAGE sql AS %L', format('SELECT %L::text', current_schema)); END $$`}
}

// The story: two tenants with the same migrations have the same dump, which can be loaded into a third schema.
func TestSchema(t *testing.T) {
	t.Parallel()
	roles(t, acmeRole, umbraRole, "tenant_role")
	url := pgtest.Database(t)
	conn := pgtest.Connect(t, url)
	pgtest.Exec(t, url, "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO "+acmeRole)
	house(t, conn, acme, product(acmeRole)...)
	house(t, conn, umbra, product(umbraRole)...)
	cfg := pgdump.Config{Conn: connConfig(t, url), Schema: acme, Role: acmeRole}
	first := dump(t, cfg)
	for _, word := range []string{acme, acmeRole, umbra, "Owner", "GRANT", "restrict", "pg_dump", "set_config", "Schema:"} {
		if strings.Contains(first, word) {
			t.Errorf("%q is in the dump", word)
		}
	}
	other := pgdump.Config{Conn: connConfig(t, url), Schema: umbra, Role: umbraRole}
	if diff := cmp.Diff(first, dump(t, other)); diff != "" {
		t.Errorf("two tenants: %s", diff)
	}

	house(t, conn, "loaded", first)
	loaded := dump(t, pgdump.Config{Conn: connConfig(t, url), Schema: "loaded", Role: "tenant_role"})
	if diff := cmp.Diff(first, loaded); diff != "" {
		t.Errorf("loaded again: %s", diff)
	}
	var home string
	if err := conn.QueryRow(t.Context(), "SELECT proconfig[1] FROM pg_proc WHERE oid = 'loaded.stamp'::regproc").Scan(&home); err != nil ||
		home != "search_path=loaded, pg_temp" {
		t.Errorf("the function's path is %q, %v", home, err)
	}

	cfg.Name, cfg.Role = "somebody", ""
	named := dump(t, cfg)
	pgtest.Exec(t, url, named)
	again := dump(t, pgdump.Config{Conn: connConfig(t, url), Schema: "somebody", Name: "somebody"})
	if diff := cmp.Diff(named, again); diff != "" {
		t.Errorf("with a name: %s", diff)
	}
}

// What the file looks like.
func TestSchemaText(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	house(t, pgtest.Connect(t, url), acme, `CREATE TABLE notes (body text DEFAULT 'none'::text);
		CREATE FUNCTION f() RETURNS void LANGUAGE sql SET search_path FROM CURRENT AS $$ DELETE FROM notes $$;
		CREATE TABLE schema_migrations (version varchar PRIMARY KEY); INSERT INTO schema_migrations VALUES ('1'), ('2')`)
	const body = `SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SET check_function_bodies = false;
{{path}}
--
-- Name: f(); Type: FUNCTION
--

CREATE FUNCTION {{.}}f() RETURNS void
    LANGUAGE sql
    SET search_path {{current}}
    AS $$ DELETE FROM notes $$;


--
-- Name: notes; Type: TABLE
--

CREATE TABLE {{.}}notes (
    body text DEFAULT 'none'::text
);


--
-- Name: schema_migrations; Type: TABLE
--

CREATE TABLE {{.}}schema_migrations (
    version character varying NOT NULL
);


--
-- Name: schema_migrations schema_migrations_pkey; Type: CONSTRAINT
--

ALTER TABLE ONLY {{.}}schema_migrations
    ADD CONSTRAINT schema_migrations_pkey PRIMARY KEY (version);


--
-- Dbmate schema migrations
--

INSERT INTO {{.}}schema_migrations (version) VALUES
    ('1'),
    ('2');
`
	unqualified := strings.NewReplacer("{{.}}", "", "{{path}}\n", "\n", "{{current}}", "FROM CURRENT")
	named := strings.NewReplacer("{{.}}", "demo.", "{{path}}\n", `SELECT pg_catalog.set_config('search_path', '', false);

--
-- Name: demo; Type: SCHEMA
--

CREATE SCHEMA demo;


`, "{{current}}", "TO 'demo', 'pg_temp'")
	cfg := pgdump.Config{Conn: connConfig(t, url), Schema: acme}
	want := "-- The schema of one tenant. Load it into an empty schema that is the first of the search_path.\n\n" + unqualified.Replace(body)
	if diff := cmp.Diff(want, dump(t, cfg)); diff != "" {
		t.Error(diff)
	}
	cfg.Name = "demo"
	if diff := cmp.Diff("-- The schema of one tenant.\n\n"+named.Replace(body), dump(t, cfg)); diff != "" {
		t.Errorf("with a name: %s", diff)
	}
}

// THREATS 35. What others can see of pg_dump holds no password, and the socket is nobody else's.
func TestNoPassword(t *testing.T) {
	url := pgtest.Database(t)
	house(t, pgtest.Connect(t, url), acme, "CREATE TABLE notes ()")
	cfg := pgdump.Config{Conn: connConfig(t, url), Schema: acme}
	want := dump(t, cfg)
	password := cfg.Conn.Password
	if password == "" {
		t.Fatal("the connection has no password, so this test sees nothing")
	}
	t.Setenv("PGPASSWORD", password)
	t.Setenv("LEASEHOLD_DATABASE_URL", url)

	cfg.BinDir = fake(t, `tr '\0' '\n' </proc/$$/cmdline >cmdline
tr '\0' '\n' </proc/$$/environ >environ
ls -la "$PGHOST" >folder
echo "$PGHOST" >host
exec `+real(t)+` "$@"`)
	if diff := cmp.Diff(want, dump(t, cfg)); diff != "" {
		t.Error(diff)
	}
	for name, must := range map[string]string{"cmdline": "--schema=", "environ": "PGHOST=", "folder": ".s.PGSQL."} {
		text := read(t, cfg.BinDir, name)
		if !strings.Contains(text, must) {
			t.Fatalf("%s is %q, so this test sees nothing", name, text)
		}
		if strings.Contains(text, password) {
			t.Errorf("%s holds the password", name)
		}
	}
	if mode := strings.Fields(read(t, cfg.BinDir, "folder"))[2]; mode != "drwx------" {
		t.Errorf("the folder has mode %s", mode)
	}
	if _, err := os.Stat(read(t, cfg.BinDir, "host")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the folder is still there: %v", err)
	}
}

// The context ends while pg_dump waits for a table that a migration is changing.
func TestCancel(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	conn := pgtest.Connect(t, url)
	house(t, conn, acme, "CREATE TABLE notes ()")
	cfg := pgdump.Config{Conn: connConfig(t, url), Schema: acme}
	dump(t, cfg)
	cfg.BinDir = fake(t, "echo $$ >pid; echo $PGHOST >host; exec "+real(t)+` "$@"`)
	if _, err := conn.Exec(t.Context(), "BEGIN; LOCK TABLE notes"); err != nil {
		t.Fatal(err)
	}
	errStopped := errors.New("stopped by hand")
	ctx, cancel := context.WithCancelCause(t.Context())
	ended := make(chan error)
	go func() {
		_, err := pgdump.Schema(ctx, cfg)
		ended <- err
	}()
	await(t, url, "wait_event_type = 'Lock'", true)
	cancel(errStopped)
	if err := <-ended; !errors.Is(err, context.Canceled) || !errors.Is(err, errStopped) {
		t.Errorf("got %v", err)
	}
	pid, err := strconv.Atoi(read(t, cfg.BinDir, "pid"))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("pg_dump is still there: %v", err)
	}
	if _, err := os.Stat(read(t, cfg.BinDir, "host")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
	await(t, url, "true", false) // the lock is still held, so only the cancel can have ended it
}

// await waits until the database has, or has no more, a session of a dump that fits.
func await(tb testing.TB, url, condition string, want bool) {
	tb.Helper()
	pgtest.Exec(tb, url, `DO $$ BEGIN
		FOR i IN 1..2000 LOOP
			PERFORM pg_stat_clear_snapshot();
			IF EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'leasehold dump'
				AND `+condition+`) = `+strconv.FormatBool(want)+` THEN RETURN; END IF;
			PERFORM pg_sleep(0.01);
		END LOOP;
		RAISE 'waited in vain'; END $$`)
}

func TestErrors(t *testing.T) {
	t.Parallel()
	roles(t, "dump_weak")
	url := pgtest.Database(t)
	house(t, pgtest.Connect(t, url), acme, "CREATE TABLE notes ()")
	pgtest.Exec(t, pgtest.SuperURL(t, url), "ALTER ROLE dump_weak LOGIN PASSWORD 'weak-canary'", "GRANT USAGE ON SCHEMA "+acme+" TO dump_weak")
	good := pgdump.Config{Conn: connConfig(t, url), Schema: acme}
	dump(t, good)
	with := func(change func(*pgdump.Config)) pgdump.Config {
		cfg := good
		cfg.Conn = good.Conn.Copy()
		change(&cfg)
		return cfg
	}
	var (
		pgErr   *pgconn.PgError
		exitErr *exec.ExitError
	)
	tests := []struct {
		name string
		cfg  pgdump.Config
		is   func(error) bool
		says string
	}{
		{"no such schema", with(func(c *pgdump.Config) { c.Schema = umbra }), func(err error) bool { return errors.Is(err, pgdump.ErrSchemaMissing) }, umbra},
		{"not a schema's name", with(func(c *pgdump.Config) { c.Schema = `x" --schema="y` }), nil, "schema name"},
		{"not a name", with(func(c *pgdump.Config) { c.Name = "a.b" }), nil, "schema name"},
		{"not a role's name", with(func(c *pgdump.Config) { c.Role = "none" }), nil, "role name"},
		{"no connection", pgdump.Config{Schema: acme}, nil, "Conn"},
		{"wrong password", with(func(c *pgdump.Config) { c.Conn.Password = "wrong-canary" }),
			func(err error) bool { return errors.As(err, &pgErr) && pgErr.Code == "28P01" }, "leasehold"},
		{"not allowed", with(func(c *pgdump.Config) { c.Conn.User, c.Conn.Password = "dump_weak", "weak-canary" }),
			func(err error) bool { return errors.As(err, &exitErr) }, "permission denied"},
		{"no program", with(func(c *pgdump.Config) { c.BinDir = t.TempDir() }),
			func(err error) bool { return errors.Is(err, pgdump.ErrNoProgram) }, "install postgresql-client-"},
		{"old program", with(func(c *pgdump.Config) { c.BinDir = fakeVersion(t, "9.6", "exit 1") }),
			func(err error) bool { return errors.Is(err, pgdump.ErrNoProgram) }, "has version 9)"},
		{"not a program", with(func(c *pgdump.Config) { c.BinDir = fakeVersion(t, "(no version)", "exit 1") }),
			func(err error) bool { return errors.Is(err, pgdump.ErrNoProgram) }, "does not tell its version"},
		{"fails at once", with(func(c *pgdump.Config) { c.BinDir = fake(t, "echo 'it  is\nbroken' >&2; exit 3") }),
			func(err error) bool { return errors.As(err, &exitErr) && exitErr.ExitCode() == 3 }, "it is broken"},
		{"does nothing", with(func(c *pgdump.Config) { c.BinDir = fake(t, "exit 0") }), nil, "did not connect"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			text, err := pgdump.Schema(t.Context(), test.cfg)
			if err == nil || text != nil {
				t.Fatalf("got %q, %v", text, err)
			}
			if test.is != nil && !test.is(err) || !strings.Contains(err.Error(), test.says) {
				t.Errorf("got %v", err)
			}
			if strings.Contains(err.Error(), "canary") || strings.Contains(err.Error(), "\n") {
				t.Errorf("it holds the password, or more than a line: %q", err)
			}
		})
	}
}

// A pg_dump of an older version than the server's is refused before it is tried. The server is newer if there is one to test on.
func TestServerNewer(t *testing.T) {
	t.Parallel()
	server, version := pgtest.Server(t), "14.9"
	if newer != "" {
		server = pgtest.Start(t, pgserver.Config{BinDir: newer, Ephemeral: true})
		version = pgtest.Server(t).Version()
	}
	url := server.URL(pgserver.Administrator, pgserver.Database)
	pgtest.Exec(t, url, "CREATE SCHEMA IF NOT EXISTS "+acme)
	ran := filepath.Join(t.TempDir(), "ran")
	_, err := pgdump.Schema(t.Context(), pgdump.Config{Conn: connConfig(t, url), Schema: acme, BinDir: fakeVersion(t, version, "touch "+ran)})
	major, _, _ := strings.Cut(server.Version(), ".")
	if !errors.Is(err, pgdump.ErrNoProgram) || !strings.Contains(err.Error(), "install postgresql-client-"+major) {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(ran); !errors.Is(err, os.ErrNotExist) {
		t.Error("it was tried")
	}
	if newer == "" {
		return
	}
	if _, err := pgdump.Schema(t.Context(), pgdump.Config{Conn: connConfig(t, url), Schema: acme}); !errors.Is(err, pgdump.ErrNoProgram) {
		t.Errorf("the machine's own: %v", err)
	}
}
