package migrate_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/leasehold-go/leasehold/db/migrate"
	"github.com/leasehold-go/leasehold/internal/pgtest"
)

// sqlState is the SQLSTATE in err, or "".
func sqlState(err error) string {
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		return pgErr.Code
	}
	return ""
}

// place is where err says the fault is.
func where(err error) string {
	var e *migrate.Error
	if !errors.As(err, &e) {
		return fmt.Sprint(err)
	}
	return fmt.Sprintf("%s %s:%d:%d %s", e.Target, e.File, e.Line, e.Column, e.Statement)
}

// The cause survives the rollback, and leads to the place in the file.
func TestApplyError(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, file, state, where string
	}{
		{"no position", up("CREATE TABLE a ();\n\n  -- again\n  CREATE TABLE a\n  ();\nSELECT 1;"), "42P07", "1_a.sql:5:3 CREATE TABLE a\n  ()"},
		{"position", up("CREATE TABLE a ();\nSELECT 'ü',\n  größe FROM a;"), "42703", "1_a.sql:4:3 SELECT 'ü',\n  größe FROM a"},
		{"syntax, found before anything runs", up("CREATE TABLE a ();\nCREATE TABEL b ();"), "42601", "1_a.sql:3:8 CREATE TABEL b ()"},
		{"at run time", up("SELECT 1;; SELECT 1/0;"), "22012", "1_a.sql:2:12 SELECT 1/0"},
		{"windows line ends", "-- migrate:up\r\nSELECT 1;\r\nSELECT 1/0;\r\n-- migrate:down\r\n", "22012", "1_a.sql:3:1 SELECT 1/0"},
		{"inside a function", up("SELECT 1;\nDO $$ BEGIN RAISE EXCEPTION 'no'; END $$;"), "P0001", "1_a.sql:3:1 DO $$ BEGIN RAISE EXCEPTION 'no'; END $$"},
		{"after rows", up("SELECT generate_series(1, 1000);\nSELECT 1/g FROM generate_series(0, 9) g;"), "22012", "1_a.sql:3:1 SELECT 1/g FROM generate_series(0, 9) g"},
		{"without a transaction", alone("CREATE INDEX CONCURRENTLY IF NOT EXISTS a_i ON nowhere (id)"), "42P01", "1_a.sql:2:1 CREATE INDEX CONCURRENTLY IF NOT EXISTS a_i ON nowhere (id)"},
		{"at the commit", up(`CREATE TABLE p (id int PRIMARY KEY);
			CREATE TABLE c (id int REFERENCES p DEFERRABLE INITIALLY DEFERRED);
			INSERT INTO c VALUES (1);`), "23503", "1_a.sql:0:0 "},
		{"the session is ended", up("CREATE TABLE a ();\nSELECT pg_terminate_backend(pg_backend_pid());"), "57P01",
			"1_a.sql:3:1 SELECT pg_terminate_backend(pg_backend_pid())"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t, 1)
			var applied atomic.Bool
			log := &recorder{on: func(message string) { applied.Store(applied.Load() || message == "applied") }}
			m := migrate.New(load(t, map[string]string{"1_a.sql": tt.file}), migrate.Config{Logger: log.logger()})
			result, err := m.Apply(t.Context(), f.targets[0])
			if applied.Load() {
				t.Error("logged as applied (THREATS 55)")
			}
			if got := where(err); sqlState(err) != tt.state || got != "acme0 "+tt.where {
				t.Errorf("got %s, %s", sqlState(err), got)
			}
			if !errors.Is(err, result.Err) || len(result.Applied) > 0 || result.Target != "acme0" {
				t.Errorf("got %+v", result)
			}
			if diff := cmp.Diff([]string{"schema_migrations"}, f.tables(t, f.targets[0])); diff != "" {
				t.Error(diff)
			}
			f.checkQuiet(t)
		})
	}
}

// THREATS 52: nothing is created for a name that is wrong, and no name is a list.
func TestApplyNeedsTheSchema(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	m := migrate.New(load(t, product()), migrate.Config{})
	before := f.strings(t, "select nspname::text from pg_namespace order by 1")
	for _, schema := range []string{"nowhere", "t_0, public", "t_0,public", "T_0", `"t_0"`, "", "pg_catalog", "pg_temp", strings.Repeat("t", 64)} {
		_, err := m.Apply(t.Context(), f.target(t, "acme", schema))
		var e *migrate.Error
		if !errors.As(err, &e) || e.Target != "acme" || e.Schema != schema {
			t.Errorf("%q: got %v", schema, err)
		}
		if missing := errors.Is(err, migrate.ErrSchemaMissing); missing != (schema == "nowhere") {
			t.Errorf("%q: got %v", schema, err)
		}
	}
	if _, err := m.Apply(t.Context(), migrate.Target{Schema: "t_0"}); err == nil {
		t.Error("a target without Conn was accepted")
	}
	if diff := cmp.Diff(before, f.strings(t, "select nspname::text from pg_namespace order by 1")); diff != "" {
		t.Error(diff)
	}
	if tables := f.strings(t, "select tablename::text from pg_tables where schemaname !~ '^pg_|^information_schema$'"); len(tables) > 0 {
		t.Errorf("created %v", tables)
	}
}

// THREATS 53: what the static check cannot see is noticed before the file is recorded.
func TestApplyHoldsTheScope(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, sql string }{
		{"path", "SELECT set_config('search' || '_path', 'public', false);"},
		{"path for the transaction", "SELECT set_config('search' || '_path', 'public', true);"},
		{"path in a block", "DO $$ BEGIN SET LOCAL search_path = public; END $$;"},
		{"path by way of a view", "UPDATE pg_settings SET setting = 'public' WHERE name = 'search_path';"},
		{"role", "DO $$ BEGIN EXECUTE 'CREATE ROLE ' || current_database() || '_r'; EXECUTE 'GRANT ' || current_database() || '_r TO CURRENT_USER';" +
			" EXECUTE 'SET ROLE ' || current_database() || '_r'; END $$;"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t, 1)
			m := migrate.New(load(t, map[string]string{
				"1_a.sql": up("CREATE TABLE a ();"),
				"2_b.sql": up("CREATE TABLE b ();\n" + tt.sql),
				"3_c.sql": up("CREATE TABLE c ();"),
			}), migrate.Config{})
			result, err := m.Apply(t.Context(), f.targets[0])
			if got := where(err); !errors.Is(err, migrate.ErrScopeChanged) || got != "acme0 2_b.sql:0:0 " {
				t.Errorf("got %v", err)
			}
			if diff := cmp.Diff([]string{"1_a.sql"}, result.Applied); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff([]string{"a", "schema_migrations"}, f.tables(t, f.targets[0])); diff != "" {
				t.Error(diff)
			}
		})
	}
	t.Run("without a transaction", func(t *testing.T) {
		t.Parallel()
		f := newFleet(t, 1)
		m := migrate.New(load(t, map[string]string{"1_a.sql": alone("DO $$ BEGIN PERFORM set_config('search' || '_path', 'public', false); END $$")}), migrate.Config{})
		if _, err := m.Apply(t.Context(), f.targets[0]); !errors.Is(err, migrate.ErrScopeChanged) {
			t.Errorf("got %v", err)
		}
		if ledger := f.ledger(t, f.targets[0]); len(ledger) > 0 {
			t.Errorf("recorded %v", ledger)
		}
	})
}

// Names in a file mean the schema, and behind it only the extensions'.
func TestApplyPath(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	f.exec(t, "CREATE SCHEMA ext; CREATE FUNCTION ext.one() RETURNS int LANGUAGE sql AS 'SELECT 1'; CREATE FUNCTION public.two() RETURNS int LANGUAGE sql AS 'SELECT 2'")
	set := load(t, map[string]string{"1_a.sql": up("CREATE TABLE a AS SELECT one(), current_setting('search_path') AS path;")})
	m := migrate.New(set, migrate.Config{})
	if _, err := m.Apply(t.Context(), f.targets[0]); sqlState(err) != "42883" {
		t.Errorf("without the extensions: %v", err)
	}
	target := f.targets[0]
	target.Name, target.ExtensionSchema = "", "ext"
	result, err := m.Apply(t.Context(), target)
	if err != nil || result.Target != "t_0" {
		t.Fatalf("got %v, %v", result, err)
	}
	if diff := cmp.Diff([]string{`"t_0", "ext", pg_temp`}, f.strings(t, "select path from t_0.a")); diff != "" {
		t.Error(diff)
	}
	target.ExtensionSchema = "ext, public"
	if _, err := m.Apply(t.Context(), target); err == nil {
		t.Error("a list of extension schemas was accepted")
	}
	two := migrate.New(load(t, map[string]string{"1_a.sql": up("SELECT 1;"), "2_b.sql": up("SELECT two();")}), migrate.Config{})
	if _, err := two.Apply(t.Context(), f.targets[0]); sqlState(err) != "42883" {
		t.Errorf("public is on the path: %v", err)
	}
}

// THREATS 51: a statement does not wait for ever, and what lost is tried again.
func TestApplyLockTimeout(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	f.exec(t, "CREATE TABLE t_0.a ()")
	set := load(t, map[string]string{"1_a.sql": up("CREATE TABLE b ();\nALTER TABLE a ADD b int;")})

	reader, err := pgtest.Connect(t, f.url).Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := reader.Exec(t.Context(), "SELECT FROM t_0.a"); err != nil { // ACCESS SHARE
		t.Fatal(err)
	}
	retries := 0
	log := &recorder{on: func(message string) { retries++ }}
	cfg := migrate.Config{LockTimeout: 20 * time.Millisecond, LockRetries: 2, Logger: log.logger()}
	_, err = migrate.New(set, cfg).Apply(t.Context(), f.targets[0])
	if got := where(err); sqlState(err) != "55P03" || got != "acme0 1_a.sql:3:1 ALTER TABLE a ADD b int" || retries != 2 {
		t.Errorf("got %v after %d retries", err, retries)
	}
	cfg.LockRetries = -1
	if _, err = migrate.New(set, cfg).Apply(t.Context(), f.targets[0]); sqlState(err) != "55P03" || retries != 2 {
		t.Errorf("got %v after %d retries", err, retries)
	}

	var once sync.Once
	log = &recorder{on: func(string) {
		once.Do(func() {
			if err := reader.Rollback(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}}
	cfg.LockRetries, cfg.Logger = 100, log.logger()
	result, err := migrate.New(set, cfg).Apply(t.Context(), f.targets[0])
	if err != nil || len(result.Applied) != 1 {
		t.Errorf("got %v, %v", result, err)
	}
}

// An index is built behind a transaction that is older than the lock timeout, which would leave it invalid.
func TestApplyConcurrentlyIgnoresLockTimeout(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	f.exec(t, "CREATE TABLE t_0.a (id int)")
	set := load(t, map[string]string{
		"1_a.sql": alone("CREATE INDEX CONCURRENTLY IF NOT EXISTS a_i ON a (id)"),
		"2_b.sql": up("CREATE TABLE b AS SELECT current_setting('lock_timeout') AS v"),
	})
	writer, err := pgtest.Connect(t, f.url).Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := writer.Exec(t.Context(), "INSERT INTO t_0.a VALUES (1)"); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := migrate.New(set, migrate.Config{LockTimeout: 5 * time.Millisecond}).Apply(t.Context(), f.targets[0])
		done <- err
	}()
	// It has waited for long enough when a hundred timeouts have passed.
	if _, err := writer.Exec(t.Context(), `do $$ begin
		loop perform pg_stat_clear_snapshot();
			exit when exists (select from pg_stat_activity where datname = current_database() and query like '%CONCURRENTLY%'
				and wait_event_type = 'Lock' and clock_timestamp() - state_change > '500 ms');
			exit when clock_timestamp() - now() > '20 s';
			perform pg_sleep(0.01);
		end loop; end $$`); err != nil {
		t.Fatal(err)
	}
	if err := writer.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff([]string{"5ms"}, f.strings(t, "select v from t_0.b")); diff != "" {
		t.Error(diff)
	}
}

func TestApplyStatementTimeout(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	m := migrate.New(load(t, map[string]string{"1_a.sql": up("SELECT pg_sleep(600);")}), migrate.Config{StatementTimeout: time.Nanosecond})
	if _, err := m.Apply(t.Context(), f.targets[0]); sqlState(err) != "57014" || errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// A runner that waits for another one's lock can be called off.
func TestApplyCancelledInTheQueue(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	queued := &recorder{on: func(message string) { cancel() }}
	waiting := migrate.New(load(t, product()), migrate.Config{Logger: queued.logger()})
	var once sync.Once
	holder := &recorder{on: func(message string) {
		once.Do(func() { // the first file is being run
			if _, err := waiting.Apply(ctx, f.targets[0]); !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
		})
	}}
	files := product()
	files[customers] = up("DO $$ BEGIN RAISE NOTICE 'here'; END $$; CREATE TABLE customers (id int PRIMARY KEY);")
	if _, err := migrate.New(load(t, files), migrate.Config{Logger: holder.logger()}).Apply(t.Context(), f.targets[0]); err != nil {
		t.Fatal(err)
	}
	f.checkQuiet(t)
}

// Only its owner may read or write the ledger, whatever is granted by default, by a file, or by hand.
func TestLedgerIsOutOfReach(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	role := f.strings(t, "select current_database() || '_tenant'")[0]
	f.exec(t, fmt.Sprintf(`CREATE ROLE %[1]s NOLOGIN; GRANT USAGE ON SCHEMA t_0 TO %[1]s;
		ALTER DEFAULT PRIVILEGES IN SCHEMA t_0 GRANT ALL ON TABLES TO %[1]s, PUBLIC`, role))
	rights := func() []string {
		return f.strings(t, `select c.relname || ' ' || p from pg_class c, unnest('{SELECT,INSERT,UPDATE,DELETE,TRUNCATE,REFERENCES,TRIGGER}'::text[]) p
			where relnamespace = 't_0'::regnamespace and relkind = 'r' and p in ('SELECT', 'INSERT', 'TRUNCATE') and has_table_privilege($1, c.oid, p) order by 1`, role)
	}
	files := map[string]string{"1_a.sql": up("CREATE TABLE a ();")}
	onlyA := []string{"a INSERT", "a SELECT", "a TRUNCATE"}

	apply := func(want int) {
		t.Helper()
		result, err := migrate.New(load(t, files), migrate.Config{}).Apply(t.Context(), f.targets[0])
		if err != nil || len(result.Applied) != want {
			t.Fatalf("got %v, %v", result, err)
		}
		if diff := cmp.Diff(onlyA, rights()); diff != "" {
			t.Error(diff)
		}
	}
	apply(1)
	files["2_b.sql"] = up("GRANT ALL ON ALL TABLES IN SCHEMA t_0 TO PUBLIC;")
	files["3_c.sql"] = alone("DO $$ BEGIN GRANT ALL ON ALL TABLES IN SCHEMA t_0 TO " + role + " WITH GRANT OPTION; END $$")
	apply(2)
	f.exec(t, "GRANT SELECT ON t_0.schema_migrations TO "+role)
	apply(0)
	pgtest.Exec(t, pgtest.SuperURL(t, f.url), "DROP OWNED BY "+role, "DROP ROLE "+role)
}

// dbmate's own command line works on the same ledger: its statements, word for word.
func TestLedgerIsDbmates(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	const create = "create table if not exists t_0.schema_migrations (version varchar primary key)"
	f.exec(t, create)
	f.exec(t, "insert into t_0.schema_migrations (version) values ('20260101000000')")
	f.exec(t, "set search_path = t_0; create table customers (id bigint primary key); reset search_path")
	m := migrate.New(load(t, product()), migrate.Config{})
	report, err := m.Up(t.Context(), f.targets, migrate.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{invoices, index}, report.Applied[0].Applied); diff != "" {
		t.Error(diff)
	}
	f.exec(t, create)
	const describe = `select concat_ws(' ', attname, format_type(atttypid, atttypmod), attnotnull, pg_get_indexdef(indexrelid))
		from pg_attribute left join pg_index on indrelid = attrelid where attrelid = $1::regclass and attnum > 0`
	want := f.strings(t, describe, "t_0.schema_migrations")
	got := f.strings(t, describe, "t_1.schema_migrations")
	want[0] = strings.ReplaceAll(want[0], "t_0", "t_1")
	want = []string{want[0], "checksum bytea f " + strings.SplitN(want[0], " t ", 2)[1]} // which may be missing, and says nothing to dbmate
	if diff := cmp.Diff(want, got[:2]); diff != "" {
		t.Error(diff)
	}
}

// No password is in what is said about a target that cannot be reached, refuses, or fails.
func TestNoPasswordIsTold(t *testing.T) {
	t.Parallel()
	const canary = "c4n4ry-in-the-p4ssword"
	f := newFleet(t, 1)
	m := func(log *recorder, sql string) *migrate.Migrator {
		return migrate.New(load(t, map[string]string{"1_a.sql": up(sql)}), migrate.Config{Logger: log.logger()})
	}
	wrong := f.target(t, "wrong", "t_0")
	wrong.Conn.Password = canary
	unreachable := f.target(t, "unreachable", "t_0")
	unreachable.Conn.Password, unreachable.Conn.Port = canary, 1
	for _, target := range []migrate.Target{wrong, unreachable} {
		log := &recorder{}
		report, err := m(log, "SELECT 1").Up(t.Context(), []migrate.Target{target}, migrate.Options{})
		if err == nil || len(report.Failed) != 1 {
			t.Fatalf("%s: got %v", target.Name, err)
		}
		if text := fmt.Sprintf("%v %+v %v %s", err, report, report.Failed[0].Err, log); strings.Contains(text, canary) || !strings.Contains(text, target.Name) {
			t.Errorf("got %s", text)
		}
	}
	log := &recorder{}
	_, err := m(log, "SELECT 1/0").Apply(t.Context(), f.targets[0])
	password := f.targets[0].Conn.Password
	if text := fmt.Sprintf("%v %+v %s", err, err, log); err == nil || password == "" || strings.Contains(text, password) {
		t.Errorf("got %s", text)
	}
}

// An operator who points the command at another product's tenants, or gives the wrong folder, changes nothing there.
func TestTenantsOfAnotherProductAreLeftAlone(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	ours := migrate.New(load(t, map[string]string{"1_ours.sql": up("CREATE TABLE ours (id int);")}), migrate.Config{})
	if _, err := ours.Apply(t.Context(), f.targets[0]); err != nil {
		t.Fatal(err)
	}
	before := f.tables(t, f.targets[0])
	theirs := migrate.New(load(t, map[string]string{"2_theirs.sql": up("CREATE TABLE theirs (id int);")}), migrate.Config{})
	if _, err := theirs.Apply(t.Context(), f.targets[0]); !errors.Is(err, migrate.ErrForeign) {
		t.Errorf("error = %v, want %v", err, migrate.ErrForeign)
	}
	if diff := cmp.Diff(before, f.tables(t, f.targets[0])); diff != "" {
		t.Error(diff)
	}
}
