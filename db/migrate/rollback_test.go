package migrate_test

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/leasehold-go/leasehold/db/migrate"
)

func both(up, down string) string {
	return "-- migrate:up\n" + up + "\n-- migrate:down\n" + down + "\n"
}

func reversible() map[string]string {
	return map[string]string{
		"1_a.sql": both("CREATE TABLE a (n int);", "DROP TABLE a;"),
		"2_b.sql": both("CREATE TABLE b ();", "DROP TABLE b;"),
		"3_i.sql": "-- migrate:up transaction:false\nCREATE INDEX CONCURRENTLY IF NOT EXISTS a_n ON a (n);\n" +
			"-- migrate:down transaction:false\nDROP INDEX CONCURRENTLY IF EXISTS a_n;\n",
		"4_c.sql": both("CREATE TABLE c ();", "DROP TABLE c;"),
	}
}

// Which migrations are rolled back is decided once for the fleet: a tenant that was behind is not taken further back than the others.
func TestRollbackBringsAFleetToOneState(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 3)
	files := reversible()
	m := migrate.New(load(t, files), migrate.Config{Workers: 2})
	last := files["4_c.sql"]
	delete(files, "4_c.sql")
	behind := migrate.New(load(t, files), migrate.Config{})
	if _, err := behind.Apply(t.Context(), f.targets[1]); err != nil {
		t.Fatal(err)
	}
	files["4_c.sql"] = last
	for _, i := range []int{0, 2} {
		if _, err := m.Apply(t.Context(), f.targets[i]); err != nil {
			t.Fatal(err)
		}
	}
	check := func(report migrate.Report, err error, applied, current []string, ledger ...string) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([][]string{applied, current}, [][]string{names(report.Applied), names(report.Current)}); diff != "" {
			t.Error(diff)
		}
		for _, target := range f.targets {
			if diff := cmp.Diff(ledger, f.ledger(t, target)); diff != "" {
				t.Errorf("%s: %s", target.Name, diff)
			}
		}
	}
	report, err := m.Rollback(t.Context(), f.targets, migrate.Back{Last: 1}, migrate.Options{})
	check(report, err, []string{"acme0", "acme2"}, []string{"acme1"}, "1", "2", "3")
	report, err = m.Rollback(t.Context(), f.targets, migrate.Back{Last: 2}, migrate.Options{})
	check(report, err, []string{"acme0", "acme1", "acme2"}, nil, "1")
	if diff := cmp.Diff([]string{"3_i.sql", "2_b.sql"}, report.Applied[0].Applied); diff != "" {
		t.Error(diff)
	}
	for _, target := range f.targets {
		if diff := cmp.Diff([]string{"a", "schema_migrations"}, f.tables(t, target)); diff != "" {
			t.Errorf("%s: %s", target.Name, diff)
		}
	}
	// To a place is the same however often it is said.
	for range 2 {
		if report, err := m.Rollback(t.Context(), f.targets, migrate.Back{To: "1_a.sql"}, migrate.Options{}); err != nil || len(report.Current) != 3 {
			t.Errorf("to where they are: %+v, %v", report, err)
		}
	}
	if report, err := m.Up(t.Context(), f.targets, migrate.Options{}); err != nil || len(report.Applied) != 3 {
		t.Errorf("forward again: %+v, %v", report, err)
	}
	if report, err = m.Rollback(t.Context(), f.targets, migrate.Back{To: "0"}, migrate.Options{Canary: migrate.Share{Count: 1}}); err != nil || len(report.Applied[0].Applied) != 4 {
		t.Errorf("to the beginning: %+v, %v", report, err)
	}
	f.checkQuiet(t)
}

// What cannot be rolled back is refused before anything is.
func TestRollbackIsRefused(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	files := reversible()
	files["3_i.sql"] = up("CREATE TABLE i ();")
	m := migrate.New(load(t, files), migrate.Config{})
	if _, err := m.Up(t.Context(), f.targets, migrate.Options{}); err != nil {
		t.Fatal(err)
	}
	before := f.ledger(t, f.targets[0])
	for name, back := range map[string]migrate.Back{
		"no down section": {Last: 2}, "no down section on the way": {To: "1"}, "nothing": {}, "less than nothing": {Last: -1}, "nowhere": {To: "7"},
	} {
		report, err := m.Rollback(t.Context(), f.targets, back, migrate.Options{})
		if err == nil || errors.Is(err, migrate.ErrNoWayBack) != (back.Last == 2 || back.To == "1") || !cmp.Equal(report, migrate.Report{}) {
			t.Errorf("%s: got %v, %+v", name, err, report)
		}
	}
	// A newer release was at one of them.
	f.exec(t, "INSERT INTO t_1.schema_migrations VALUES ('5')")
	report, err := m.Rollback(t.Context(), f.targets, migrate.Back{Last: 1}, migrate.Options{})
	if !errors.Is(err, migrate.ErrNoWayBack) || len(report.Failed) != 1 || report.Failed[0].Target != "acme1" {
		t.Errorf("got %v, %+v", err, report)
	}
	if diff := cmp.Diff(append(before, "5"), f.ledger(t, f.targets[1])); diff != "" {
		t.Error(diff)
	}
}

// A down section that fails leaves the tenant as it was, and is named.
func TestRollbackThatFails(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	m := migrate.New(load(t, reversible()), migrate.Config{})
	if _, err := m.Up(t.Context(), f.targets, migrate.Options{}); err != nil {
		t.Fatal(err)
	}
	f.exec(t, "CREATE VIEW t_1.uses AS SELECT FROM t_1.b")
	report, err := m.Rollback(t.Context(), f.targets, migrate.Back{To: "1"}, migrate.Options{})
	if got := where(report.Failed[0].Err); sqlState(err) != "2BP01" || got != "acme1 2_b.sql:4:1 DROP TABLE b" {
		t.Errorf("got %s, %v", got, err)
	}
	if diff := cmp.Diff([]string{"4_c.sql", "3_i.sql"}, report.Failed[0].Applied); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"1", "2"}, f.ledger(t, f.targets[1])); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"1"}, f.ledger(t, f.targets[0])); diff != "" {
		t.Error(diff)
	}
	f.checkQuiet(t)
}

// The ledger keeps what a file was when it was applied.
func TestTheLedgerKeepsChecksums(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	f.exec(t, "CREATE TABLE t_1.schema_migrations (version varchar PRIMARY KEY)") // dbmate's
	files := reversible()
	if _, err := migrate.New(load(t, files), migrate.Config{}).Up(t.Context(), f.targets, migrate.Options{}); err != nil {
		t.Fatal(err)
	}
	for i := range f.targets {
		got := f.strings(t, fmt.Sprintf("SELECT encode(checksum, 'hex') FROM t_%d.schema_migrations ORDER BY version", i))
		var want []string
		for _, name := range []string{"1_a.sql", "2_b.sql", "3_i.sql", "4_c.sql"} {
			want = append(want, fmt.Sprintf("%x", sha256.Sum256([]byte(files[name]))))
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	}
}

// A CREATE INDEX CONCURRENTLY that was broken off, before or after the index became valid, is safe to resume.
func TestAnIndexThatWasBrokenOffIsBuiltAgain(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	m := migrate.New(load(t, map[string]string{
		"1_a.sql": up("CREATE TABLE a (n int);"),
		"2_i.sql": alone(`CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS "A_n" ON a (n)`),
	}), migrate.Config{})
	first := migrate.New(load(t, map[string]string{"1_a.sql": up("CREATE TABLE a (n int);")}), migrate.Config{})
	if _, err := first.Up(t.Context(), f.targets, migrate.Options{}); err != nil {
		t.Fatal(err)
	}
	f.exec(t, "INSERT INTO t_0.a VALUES (1), (1)")
	f.exec(t, `CREATE UNIQUE INDEX "A_n" ON t_1.a (n)`) // done, and not recorded
	report, err := m.Up(t.Context(), f.targets, migrate.Options{})
	if sqlState(err) != "23505" || len(report.Applied) != 1 {
		t.Fatalf("got %v", err)
	}
	const invalid = `SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid`
	if left := f.strings(t, invalid); len(left) != 1 {
		t.Fatalf("invalid: %v, so this shows nothing", left)
	}
	f.exec(t, "DELETE FROM t_0.a")
	if _, err := m.Up(t.Context(), f.targets, migrate.Options{}); err != nil {
		t.Fatal(err)
	}
	if left := f.strings(t, invalid); len(left) > 0 {
		t.Errorf("invalid: %v", left)
	}
	if built := f.strings(t, `SELECT n.nspname::text FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE relname = 'A_n' ORDER BY 1`); len(built) != 2 {
		t.Errorf("built in %v", built)
	}
}
