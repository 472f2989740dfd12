package migrate_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/db/migrate"
	"github.com/leasehold-go/leasehold/internal/pgtest"
)

// What a reviewer who meant harm has found: each of these once lost data, ran a file twice, or ran it elsewhere.

// A target that could not be read is left alone, however good its connection is a moment later.
func TestRollbackLeavesAloneWhatItCannotRead(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	m := migrate.New(load(t, reversible()), migrate.Config{Workers: 1})
	if _, err := m.Up(t.Context(), f.targets, migrate.Options{}); err != nil {
		t.Fatal(err)
	}
	before := f.ledger(t, f.targets[0])
	database := f.targets[0].Conn.Database
	limit := func(n int) { f.exec(t, fmt.Sprintf("ALTER DATABASE %s CONNECTION LIMIT %d", database, n)) }
	for _, back := range []migrate.Back{{Last: 1}, {To: "1"}} {
		limit(1)
		report, err := m.Rollback(t.Context(), f.targets, back, migrate.Options{Progress: func(migrate.Result) { limit(-1) }})
		limit(-1)
		if sqlState(err) != "53300" || len(report.Applied)+len(report.Current) > 0 {
			t.Errorf("%+v: got %v, %+v", back, err, report)
		}
		for _, target := range f.targets {
			if diff := cmp.Diff(before, f.ledger(t, target)); diff != "" {
				t.Errorf("%+v: %s: %s", back, target.Name, diff)
			}
		}
	}
}

// A rollback that was broken off is repeated by its place. Its number would mean others by then.
func TestARollbackThatWasBrokenOffIsRepeatedByItsPlace(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 3)
	m := migrate.New(load(t, reversible()), migrate.Config{})
	if _, err := m.Up(t.Context(), f.targets, migrate.Options{}); err != nil {
		t.Fatal(err)
	}
	f.exec(t, "CREATE VIEW t_1.uses AS SELECT FROM t_1.b")
	report, err := m.Rollback(t.Context(), f.targets, migrate.Back{Last: 3}, migrate.Options{})
	if sqlState(err) != "2BP01" || report.To != "1" {
		t.Fatalf("got %v, to %q", err, report.To)
	}
	f.exec(t, "DROP VIEW t_1.uses")
	for range 2 {
		if _, err := m.Rollback(t.Context(), f.targets, migrate.Back{To: report.To}, migrate.Options{}); err != nil {
			t.Fatal(err)
		}
		for _, target := range f.targets {
			if diff := cmp.Diff([]string{"1"}, f.ledger(t, target)); diff != "" {
				t.Errorf("%s: %s", target.Name, diff)
			}
		}
	}
	if report, err := m.Rollback(t.Context(), f.targets, migrate.Back{Last: 2}, migrate.Options{}); err == nil || report.To != "" {
		t.Errorf("more than there are: %v, to %q", err, report.To)
	}
}

// A file without a down section that another runner applies meanwhile is not taken for one that was rolled back.
func TestRollbackLooksForTheWayBackUnderTheLock(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	files := reversible()
	last := up("CREATE TABLE d ();")
	if _, err := migrate.New(load(t, files), migrate.Config{}).Up(t.Context(), f.targets, migrate.Options{}); err != nil {
		t.Fatal(err)
	}
	files["5_d.sql"] = last
	m := migrate.New(load(t, files), migrate.Config{Workers: 1})
	report, err := m.Rollback(t.Context(), f.targets, migrate.Back{To: "1"}, migrate.Options{Progress: func(r migrate.Result) {
		if r.Target == "acme0" {
			if _, err := m.Apply(t.Context(), f.targets[1]); err != nil {
				t.Error(err)
			}
		}
	}})
	if !errors.Is(err, migrate.ErrNoWayBack) || len(report.Applied) != 1 {
		t.Errorf("got %v, %+v", err, report)
	}
	if diff := cmp.Diff([]string{"1", "2", "3", "4", "5"}, f.ledger(t, f.targets[1])); diff != "" {
		t.Error(diff)
	}
}

// Versions are compared as numbers, also those that no file here has.
func TestRollbackKnowsWhatComesAfter(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	m := migrate.New(load(t, reversible()), migrate.Config{})
	if _, err := m.Apply(t.Context(), f.targets[0]); err != nil {
		t.Fatal(err)
	}
	f.exec(t, "INSERT INTO t_0.schema_migrations VALUES ('10')")
	if _, err := m.Rollback(t.Context(), f.targets, migrate.Back{Last: 1}, migrate.Options{}); !errors.Is(err, migrate.ErrNoWayBack) {
		t.Errorf("under a newer one: %v", err)
	}
	f.exec(t, "UPDATE t_0.schema_migrations SET version = '0' WHERE version = '10'")
	if _, err := m.Rollback(t.Context(), f.targets, migrate.Back{Last: 1}, migrate.Options{}); err != nil {
		t.Errorf("above an older one: %v", err)
	}
}

// Behind a pooler, what is set for one tenant would be found by another.
func TestMigrationsAreRefusedBehindAPooler(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	config, err := pgx.ParseConfig(pgtest.PgBouncer(t, f.url, pgtest.PgBouncerOptions{PoolSize: 1}))
	if err != nil {
		t.Fatal(err)
	}
	for i := range f.targets {
		f.targets[i].Conn = config
	}
	report, err := migrate.New(load(t, product()), migrate.Config{}).Up(t.Context(), f.targets, migrate.Options{})
	if !errors.Is(err, migrate.ErrPooler) || len(report.Failed) != 2 {
		t.Errorf("got %v, %+v", err, report)
	}
	for _, target := range f.targets {
		if tables := f.tables(t, target); len(tables) > 0 {
			t.Errorf("%s has %v", target.Name, tables)
		}
	}
}

// After anything but plain DDL a target gets a connection of its own, and so does one whose session begins otherwise.
func TestOnlyPlainDDLSharesAConnection(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		sql   string
		opens int64 // besides that of the survey
	}{
		"plain":    {"CREATE TABLE a (n int); CREATE VIEW v AS SELECT * FROM a; ALTER TABLE a ADD m int; CREATE INDEX ON a (m);", 1},
		"a call":   {"CREATE TABLE a (n int); SELECT now();", 3},
		"a block":  {"DO $$ BEGIN NULL; END $$;", 3},
		"a copy":   {"CREATE TABLE a AS SELECT 1;", 3},
		"a row":    {"CREATE TABLE a (n int); INSERT INTO a VALUES (1);", 3},
		"a SET":    {"SET LOCAL app.actor = '7';", 3},
		"an empty": {"CREATE TEMP TABLE a (n int);", 3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t, 3)
			opened := f.counted()
			m := migrate.New(load(t, map[string]string{"1_a.sql": up(tt.sql)}), migrate.Config{Workers: 1})
			if _, err := m.Up(t.Context(), f.targets, migrate.Options{}); err != nil {
				t.Fatal(err)
			}
			if n := opened.Load() - 1; n != tt.opens {
				t.Errorf("%d connections were opened, want %d", n, tt.opens)
			}
		})
	}
	t.Run("parameters", func(t *testing.T) {
		t.Parallel()
		f := newFleet(t, 2)
		for i := range f.targets {
			f.targets[i].Conn = f.targets[i].Conn.Copy()
			f.targets[i].Conn.RuntimeParams["app.tenant"] = f.targets[i].Name
		}
		set := load(t, map[string]string{"1_a.sql": up("CREATE TABLE a (who text DEFAULT current_setting('app.tenant'));"),
			"2_b.sql": up("INSERT INTO a DEFAULT VALUES;")})
		if _, err := migrate.New(set, migrate.Config{Workers: 1}).Up(t.Context(), f.targets, migrate.Options{}); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{"acme0", "acme1"}, f.strings(t, "SELECT who FROM t_0.a UNION ALL SELECT who FROM t_1.a")); diff != "" {
			t.Error(diff)
		}
	})
}

// A tenant that gets its files at one go gets what one gets that had them one by one.
func TestNothingStaysInTheSessionForTheNextFile(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	set := load(t, map[string]string{
		"1_a.sql": up("SELECT set_config('timezone', 'Asia/Tokyo', false), set_config('lock_timeout', '0', false); CREATE TEMP TABLE batch (n int);"),
		"2_b.sql": up("CREATE TABLE seen AS SELECT current_setting('timezone') <> 'Asia/Tokyo' AS zone, current_setting('lock_timeout') AS lock_timeout; CREATE TABLE batch (n int);"),
		"3_c.sql": alone("DO $$ BEGIN PERFORM set_config('lock_timeout', '0', false); END $$"),
		"4_d.sql": up("UPDATE seen SET lock_timeout = lock_timeout || current_setting('lock_timeout');"),
	})
	if _, err := migrate.New(set, migrate.Config{}).Apply(t.Context(), f.targets[0]); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"true 2s2s"}, f.strings(t, "SELECT zone || ' ' || lock_timeout FROM t_0.seen")); diff != "" {
		t.Error(diff)
	}
}

// A file that gives the lock away, in whatever roundabout way, is not recorded.
func TestAFileMayNotGiveTheLockAway(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	set := load(t, map[string]string{"1_a.sql": up("CREATE TABLE a (); DO $$ BEGIN PERFORM pg_advisory_unlock_all(); END $$;")})
	if _, err := migrate.New(set, migrate.Config{}).Apply(t.Context(), f.targets[0]); err == nil {
		t.Error("it was applied")
	}
	if diff := cmp.Diff([]string{"schema_migrations"}, f.tables(t, f.targets[0])); diff != "" {
		t.Error(diff)
	}
}

// Other files that have the same versions are another product's.
func TestTheSameVersionsAreNotTheSameFiles(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	ours := map[string]string{"1_a.sql": both("CREATE TABLE a ();", "DROP TABLE a;"), "2_b.sql": both("CREATE TABLE b ();", "DROP TABLE b;")}
	theirs := map[string]string{"1_x.sql": both("CREATE TABLE x ();", "DROP TABLE IF EXISTS a;"), "2_y.sql": both("CREATE TABLE y ();", "DROP TABLE IF EXISTS b;"), "3_z.sql": up("CREATE TABLE z ();")}
	if _, err := migrate.New(load(t, ours), migrate.Config{}).Apply(t.Context(), f.targets[0]); err != nil {
		t.Fatal(err)
	}
	m := migrate.New(load(t, theirs), migrate.Config{})
	if _, err := m.Up(t.Context(), f.targets, migrate.Options{}); !errors.Is(err, migrate.ErrForeign) {
		t.Errorf("up: %v", err)
	}
	if _, err := m.Rollback(t.Context(), f.targets, migrate.Back{Last: 1}, migrate.Options{}); !errors.Is(err, migrate.ErrForeign) {
		t.Errorf("rollback: %v", err)
	}
	if diff := cmp.Diff([]string{"a", "b", "schema_migrations"}, f.tables(t, f.targets[0])); diff != "" {
		t.Error(diff)
	}
	// One file that was changed is for Check to tell.
	ours["1_a.sql"] += "-- a remark\n"
	ours["3_c.sql"] = up("CREATE TABLE c ();")
	if _, err := migrate.New(load(t, ours), migrate.Config{}).Up(t.Context(), f.targets, migrate.Options{}); err != nil {
		t.Error(err)
	}
}

// What reaches out of the schema is refused before anything runs.
func TestLoadRefusesOtherSchemas(t *testing.T) {
	t.Parallel()
	for _, sql := range []string{
		"CREATE TABLE public.users (id int)", "CREATE TABLE IF NOT EXISTS t_1.stolen (id int)", `INSERT INTO "t_1".stolen VALUES (1)`, "UPDATE ONLY public.users SET a = 1",
		"DELETE FROM t_1.users", "TRUNCATE TABLE t_1.users", "ALTER TABLE IF EXISTS ONLY public.users ADD b int", "DROP TABLE IF EXISTS public.users CASCADE",
		"CREATE UNIQUE INDEX IF NOT EXISTS i ON public.users (id)", "CREATE OR REPLACE FUNCTION public.f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
		"CREATE TRIGGER t BEFORE UPDATE ON public.users EXECUTE FUNCTION f()", "CREATE MATERIALIZED VIEW public.m AS SELECT 1", "ALTER TYPE public.e ADD VALUE 'x'",
		"DROP SCHEMA t_1 CASCADE", "CREATE SCHEMA other", "ALTER SCHEMA t_1 RENAME TO t_2", "CREATE EXTENSION IF NOT EXISTS pgcrypto",
		"TRUNCATE schema_migrations", "DELETE FROM schema_migrations", "SELECT pg_advisory_unlock_all()", "SELECT pg_advisory_unlock(7)",
	} {
		if _, err := migrate.Load(folder(map[string]string{"1_a.sql": up(sql + ";")}), "m"); len(places(err)) != 1 || places(err)[0].Line != 2 {
			t.Errorf("%s: %v", sql, err)
		}
	}
	for _, sql := range []string{
		"UPDATE a SET n = b.n FROM b WHERE b.id = a.id", "INSERT INTO a SELECT b.id FROM b", "CREATE VIEW v AS SELECT a.n FROM a", "DELETE FROM a USING b WHERE a.id = b.id",
		"CREATE INDEX ON a (n)", "CREATE INDEX ON ONLY a (n)", "ALTER TABLE a ADD COLUMN at timestamptz DEFAULT pg_catalog.now()", "CREATE EXTENSION IF NOT EXISTS citext SCHEMA extensions",
		"COMMENT ON COLUMN a.n IS 'public.users'", "SELECT public.f()", "CREATE TABLE a (n int REFERENCES b (n) ON UPDATE CASCADE)", "DROP FUNCTION IF EXISTS f(public.citext)",
		"CREATE TRIGGER t AFTER INSERT OR UPDATE OF n ON a FOR EACH ROW EXECUTE FUNCTION f()",
	} {
		if _, err := migrate.Load(folder(map[string]string{"1_a.sql": up(sql + ";")}), "m"); err != nil {
			t.Errorf("%s: %v", sql, err)
		}
	}
}

// A statement without a transaction that was finished is recorded, though its context ended with it.
func TestWhatRanOutsideATransactionIsRecorded(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	f.exec(t, "CREATE TABLE t_0.runs (at timestamptz)")
	set := load(t, map[string]string{"1_a.sql": alone("DO $$ BEGIN INSERT INTO runs VALUES (now()); COMMIT; END $$;")})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	target := f.targets[0]
	target.Conn = target.Conn.Copy()
	dial := target.Conn.DialFunc
	target.Conn.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		return &listener{conn, func(p []byte) {
			if bytes.Contains(p, []byte("C\x00\x00\x00\x07DO\x00")) { // it is done
				cancel()
			}
		}}, err
	}
	m := migrate.New(set, migrate.Config{})
	if _, err := m.Apply(ctx, target); err != nil {
		t.Error(err)
	}
	if _, err := m.Apply(t.Context(), f.targets[0]); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff([]string{"1"}, f.strings(t, "SELECT count(*)::text FROM t_0.runs")); diff != "" || ctx.Err() == nil {
		t.Errorf("%v: %s", ctx.Err(), diff)
	}
}

// listener calls on with all that is read.
type listener struct {
	net.Conn
	on func(p []byte)
}

func (l *listener) Read(p []byte) (int, error) {
	n, err := l.Conn.Read(p)
	l.on(p[:n])
	return n, err
}

// The name of an index is that which the server makes of it.
func TestAnInvalidIndexIsFoundByItsName(t *testing.T) {
	t.Parallel()
	for _, name := range []string{strings.Repeat("x", 70), "ÄRGER_IDX", "Plain_Idx", `"Quoted"`, `"a""b"`} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t, 1)
			f.exec(t, "CREATE TABLE t_0.a (id int); INSERT INTO t_0.a VALUES (1), (1)")
			m := migrate.New(load(t, map[string]string{"1_a.sql": alone("CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS " + name + " ON a (id);")}), migrate.Config{})
			if _, err := m.Apply(t.Context(), f.targets[0]); sqlState(err) != "23505" {
				t.Fatalf("got %v", err)
			}
			f.exec(t, "TRUNCATE t_0.a")
			if _, err := m.Apply(t.Context(), f.targets[0]); err != nil {
				t.Error(err)
			}
			if diff := cmp.Diff([]string{"true"}, f.strings(t, "SELECT indisvalid::text FROM pg_index WHERE indrelid = 't_0.a'::regclass")); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// A ledger that somebody has locked holds up its own tenant only.
func TestALockedLedgerHoldsUpNobodyElse(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 3)
	m := migrate.New(load(t, map[string]string{"1_a.sql": up("CREATE TABLE a ();")}), migrate.Config{LockTimeout: 50 * time.Millisecond, LockRetries: 1})
	if _, err := m.Up(t.Context(), f.targets[1:], migrate.Options{}); err != nil {
		t.Fatal(err)
	}
	f.exec(t, "BEGIN; LOCK TABLE t_1.schema_migrations")
	report, err := m.Up(t.Context(), f.targets, migrate.Options{})
	if sqlState(err) != "55P03" {
		t.Errorf("got %v", err)
	}
	if diff := cmp.Diff([][]string{{"acme0"}, {"acme2"}, {"acme1"}}, [][]string{names(report.Applied), names(report.Current), names(report.Failed)}); diff != "" {
		t.Error(diff)
	}
	f.exec(t, "ROLLBACK")
	f.checkQuiet(t)
}
