package migrate_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/leasehold-go/leasehold/db/migrate"
)

// failing is a product whose second file fails in the schemas where the table no exists.
func failing() map[string]string {
	return map[string]string{
		"1_a.sql": up("CREATE TABLE a (n int);"),
		"2_b.sql": up("CREATE TABLE b ();\nDO $$ BEGIN IF to_regclass('no') IS NOT NULL THEN RAISE EXCEPTION 'no'; END IF; END $$;"),
	}
}

func names(results []migrate.Result) []string {
	var out []string
	for _, r := range results {
		out = append(out, r.Target)
	}
	return out
}

// The canaries come first, by themselves; the others only if all went well. What is current is no canary.
func TestCanariesComeFirst(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 6)
	m := migrate.New(load(t, failing()), migrate.Config{Workers: 3})
	if _, err := m.Up(t.Context(), f.targets[:1], migrate.Options{}); err != nil {
		t.Fatal(err)
	}
	f.exec(t, "CREATE TABLE t_2.no ()")
	opts := migrate.Options{Canary: migrate.Share{Percent: 21}} // of five: two
	report, err := m.Up(t.Context(), f.targets, opts)
	var failed *migrate.FailedError
	if !errors.Is(err, migrate.ErrCanary) || !errors.As(err, &failed) || failed.Total != 6 {
		t.Errorf("error = %v", err)
	}
	got := [][]string{names(report.Current), names(report.Applied), names(report.Failed), names(report.Unfinished)}
	if diff := cmp.Diff([][]string{{"acme0"}, {"acme1"}, {"acme2"}, {"acme3", "acme4", "acme5"}}, got); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"a", "no", "schema_migrations"}, f.tables(t, f.targets[2])); diff != "" {
		t.Errorf("the tenant that failed is not as it was before the file: %s", diff)
	}
	if tables := f.tables(t, f.targets[3]); len(tables) > 0 {
		t.Errorf("a tenant that was held back has %v", tables)
	}
	// The cause is mended, and the same command goes on.
	f.exec(t, "DROP TABLE t_2.no")
	report, err = m.Up(t.Context(), f.targets, migrate.Options{Canary: migrate.Share{Count: 1}})
	if err != nil || len(report.Applied) != 4 || len(report.Current) != 2 {
		t.Errorf("again: %v, %d applied, %d current", err, len(report.Applied), len(report.Current))
	}
	f.checkQuiet(t)
}

// Once so many have failed, no other is begun; those in hand are finished.
func TestFailuresHaveABudget(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 8)
	for i := 1; i < 8; i++ {
		f.exec(t, fmt.Sprintf("CREATE TABLE t_%d.no ()", i))
	}
	m := migrate.New(load(t, failing()), migrate.Config{Workers: 1})
	report, err := m.Up(t.Context(), f.targets, migrate.Options{MaxFailures: 3})
	if !errors.Is(err, migrate.ErrTooManyFailures) {
		t.Errorf("error = %v", err)
	}
	got := []int{len(report.Applied), len(report.Failed), len(report.Unfinished)}
	if diff := cmp.Diff([]int{1, 3, 4}, got); diff != "" {
		t.Error(diff)
	}
}

// Who asks to stop gets the targets in hand finished, and a report.
func TestStopFinishesWhatIsInHand(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 4)
	stop := make(chan struct{})
	var once sync.Once
	log := &recorder{on: func(message string) {
		if message == "applied" { // the first file of the first target
			once.Do(func() { close(stop) })
		}
	}}
	m := migrate.New(load(t, failing()), migrate.Config{Workers: 1, Logger: log.logger()})
	report, err := m.Up(t.Context(), f.targets, migrate.Options{Stop: stop})
	if !errors.Is(err, migrate.ErrStopped) {
		t.Errorf("error = %v", err)
	}
	if diff := cmp.Diff([]short{{"acme0", []string{"1_a.sql", "2_b.sql"}, false}}, shorten(report.Applied)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"acme1", "acme2", "acme3"}, names(report.Unfinished)); diff != "" {
		t.Error(diff)
	}
	f.checkQuiet(t)
}

// Who waits for another runner when asked to stop has nothing in hand.
func TestStopEndsTheWaitForAnotherRunner(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	stop := make(chan struct{})
	var once sync.Once
	waiting := migrate.New(load(t, product()), migrate.Config{Logger: (&recorder{on: func(message string) {
		if message == "waiting for another runner" {
			once.Do(func() { close(stop) })
		}
	}}).logger()})
	var asked sync.Once
	holder := &recorder{on: func(message string) {
		if message != "applied" {
			return
		}
		asked.Do(func() {
			report, err := waiting.Up(t.Context(), f.targets, migrate.Options{Stop: stop})
			if !errors.Is(err, migrate.ErrStopped) || len(report.Unfinished) != 1 {
				t.Errorf("got %v, %+v", err, report)
			}
		})
	}}
	if _, err := migrate.New(load(t, product()), migrate.Config{Logger: holder.logger()}).Apply(t.Context(), f.targets[0]); err != nil {
		t.Fatal(err)
	}
	f.checkQuiet(t)
}

func TestParseShare(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]migrate.Share{"0": {}, "3": {Count: 3}, "5%": {Percent: 5}, "0.5%": {Percent: 0.5}, "100%": {Percent: 100}} {
		if got, err := migrate.ParseShare(in); err != nil || got != want {
			t.Errorf("%q: got %v, %v", in, got, err)
		}
	}
	for _, in := range []string{"", "-1", "%", "101%", "-5%", "1.5", "many", "NaN%"} {
		if got, err := migrate.ParseShare(in); err == nil {
			t.Errorf("%q: got %v", in, got)
		}
	}
}

// Nothing that a file left in the session reaches the next one: THREATS 53.
func TestNothingStaysInTheSessionForTheNextTarget(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 3)
	set := load(t, map[string]string{
		"1_a.sql": up(`CREATE TABLE seen AS SELECT current_setting('work_mem') AS work_mem, current_setting('lock_timeout') AS lock_timeout,
			to_regclass('pg_temp.left_behind') IS NULL AS clean, coalesce(current_setting('app.note', true), '') AS note,
			(SELECT count(*) FROM pg_prepared_statements WHERE name = 'left_behind') AS statements,
			(SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()) AS locks,
			current_setting('search_path') AS path;`),
		"2_b.sql": up(`DO $$ BEGIN
				PERFORM set_config('work_mem', '77MB', false), set_config('lock_timeout', '77s', false), set_config('app.note', 'left', false);
				CREATE TEMP TABLE left_behind (); EXECUTE 'PREPARE left_behind AS SELECT 1'; PERFORM pg_advisory_lock(77);
			END $$;`),
	})
	if _, err := migrate.New(set, migrate.Config{Workers: 1}).Up(t.Context(), f.targets, migrate.Options{}); err != nil {
		t.Fatal(err)
	}
	const seen = `SELECT concat_ws('|', work_mem, lock_timeout, clean, note, statements, locks, path) FROM t_%d.seen`
	want := []string{`4MB|2s|t||0|1|"t_0", pg_temp`, `4MB|2s|t||0|1|"t_1", pg_temp`, `4MB|2s|t||0|1|"t_2", pg_temp`}
	var got []string
	for i := range f.targets {
		got = append(got, f.strings(t, fmt.Sprintf(seen, i))...)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	f.checkQuiet(t)
}
