package migrate_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/leasehold-go/leasehold/db/migrate"
)

const (
	customers = "20260101000000_customers.sql"
	invoices  = "20260102000000_invoices.sql"
	index     = "20260103000000_index.sql"
	notes     = "20260104000000_notes.sql"
)

func product() map[string]string {
	return map[string]string{
		customers: up("CREATE TYPE tier AS ENUM ('free', 'paid');\nCREATE TABLE customers (id bigint PRIMARY KEY, tier tier NOT NULL);"),
		invoices:  up("CREATE TABLE invoices (id bigint PRIMARY KEY, customer bigint REFERENCES customers);\nCREATE VIEW open AS SELECT * FROM invoices;"),
		index:     alone("CREATE INDEX CONCURRENTLY IF NOT EXISTS invoices_customer ON invoices (customer);"),
	}
}

// short is what a test looks at in a result.
type short struct {
	Target  string
	Applied []string
	Failed  bool
}

func shorten(results []migrate.Result) []short {
	var out []short
	for _, r := range results {
		out = append(out, short{r.Target, r.Applied, r.Err != nil})
	}
	return out
}

// The story: a fleet is brought up to date, stays so, and gets one more file.
func TestUp(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 5)
	files := product()
	all := []string{customers, invoices, index}
	m := migrate.New(load(t, files), migrate.Config{Workers: 3})

	seen := map[string]int{}
	report, err := m.Up(t.Context(), f.targets, migrate.Options{Progress: func(r migrate.Result) { seen[r.Target]++ }})
	if err != nil {
		t.Fatal(err)
	}
	want := []short{{"acme0", all, false}, {"acme1", all, false}, {"acme2", all, false}, {"acme3", all, false}, {"acme4", all, false}}
	if diff := cmp.Diff(want, shorten(report.Applied)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[string]int{"acme0": 1, "acme1": 1, "acme2": 1, "acme3": 1, "acme4": 1}, seen); diff != "" {
		t.Error(diff)
	}
	for _, target := range f.targets {
		if diff := cmp.Diff([]string{"customers", "invoices", "schema_migrations"}, f.tables(t, target)); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff([]string{"20260101000000", "20260102000000", "20260103000000"}, f.ledger(t, target)); diff != "" {
			t.Error(diff)
		}
	}

	report, err = m.Up(t.Context(), f.targets, migrate.Options{})
	if err != nil || len(report.Current) != 5 || len(report.Applied)+len(report.Failed)+len(report.Unfinished) > 0 {
		t.Errorf("again: %+v, %v", report, err)
	}

	files[notes] = up("ALTER TABLE customers ADD note text;")
	m = migrate.New(load(t, files), migrate.Config{})
	f.exec(t, "INSERT INTO t_1.schema_migrations VALUES ('20991231000000')")
	if _, err := m.Apply(t.Context(), f.targets[0]); err != nil {
		t.Fatal(err)
	}
	statuses, err := m.Status(t.Context(), f.targets[:2])
	if err != nil {
		t.Fatal(err)
	}
	wantStatus := []migrate.TargetStatus{
		{Target: "acme0", Schema: "t_0", Applied: append(all, notes)},
		{Target: "acme1", Schema: "t_1", Applied: all, Pending: []string{notes}, Unknown: []string{"20991231000000"}},
	}
	if diff := cmp.Diff(wantStatus, statuses); diff != "" {
		t.Error(diff)
	}
	report, err = m.Up(t.Context(), f.targets, migrate.Options{})
	if err != nil || len(report.Current) != 1 || len(report.Applied) != 4 {
		t.Errorf("one more file: %+v, %v", report, err)
	}
	f.checkQuiet(t)
	if _, err := os.Stat("db"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a schema was dumped (THREATS 55): %v", err)
	}
}

// A tenant that fails is named with place, statement and cause; the others go on; running again resumes.
func TestUpWithFailures(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 4)
	f.exec(t, "CREATE VIEW t_1.open AS SELECT 1; DROP SCHEMA t_3")
	m := migrate.New(load(t, product()), migrate.Config{Workers: 2})
	all := []string{customers, invoices, index}

	report, err := m.Up(t.Context(), f.targets, migrate.Options{})
	var failed *migrate.FailedError
	if !errors.As(err, &failed) {
		t.Fatalf("got %v", err)
	}
	if diff := cmp.Diff([]short{{"acme1", []string{customers}, true}, {"acme3", nil, true}}, shorten(failed.Failed)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]short{{"acme0", all, false}, {"acme2", all, false}}, shorten(report.Applied)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(shorten(failed.Failed), shorten(report.Failed)); diff != "" {
		t.Error(diff)
	}
	var e *migrate.Error
	var pgErr *pgconn.PgError
	if !errors.As(report.Failed[0].Err, &e) || !errors.As(e, &pgErr) {
		t.Fatalf("got %v", report.Failed[0].Err)
	}
	e.Err = nil
	want := &migrate.Error{Target: "acme1", Schema: "t_1", File: invoices, Line: 3, Column: 1, Statement: "CREATE VIEW open AS SELECT * FROM invoices"}
	if diff := cmp.Diff(want, e); diff != "" || pgErr.Code != "42P07" {
		t.Errorf("%s %s", pgErr.Code, diff)
	}
	if !errors.Is(err, migrate.ErrSchemaMissing) {
		t.Errorf("acme3: %v", err)
	}
	if diff := cmp.Diff([]string{"customers", "schema_migrations"}, f.tables(t, f.targets[1])); diff != "" {
		t.Errorf("the file is not rolled back: %s", diff)
	}
	statuses, err := m.Status(t.Context(), f.targets)
	if !errors.As(err, &failed) || len(failed.Failed) != 1 || !errors.Is(statuses[3].Err, migrate.ErrSchemaMissing) {
		t.Errorf("status: %v, %v", statuses, err)
	}

	f.exec(t, "DROP VIEW t_1.open; CREATE SCHEMA t_3")
	report, err = m.Up(t.Context(), f.targets, migrate.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]short{{"acme1", []string{invoices, index}, false}, {"acme3", all, false}}, shorten(report.Applied)); diff != "" {
		t.Error(diff)
	}
	f.checkQuiet(t)
}

// THREATS 48. A file that ran twice would fail: none of them may be run twice.
func TestConcurrentRunners(t *testing.T) {
	t.Parallel()
	const runners = 8
	f := newFleet(t, 6)
	files := product()
	files[notes] = alone("CREATE INDEX CONCURRENTLY IF NOT EXISTS invoices_some ON invoices (id) WHERE customer > 0;")
	set := load(t, files)

	var (
		wg      sync.WaitGroup
		mu      sync.Mutex
		applied = map[string][]string{}
	)
	for range runners {
		wg.Go(func() {
			report, err := migrate.New(set, migrate.Config{Workers: 3}).Up(t.Context(), f.targets, migrate.Options{})
			if err != nil {
				for _, r := range report.Failed {
					t.Error(r.Err)
				}
			}
			mu.Lock()
			defer mu.Unlock()
			for _, r := range report.Applied {
				applied[r.Target] = append(applied[r.Target], r.Applied...)
			}
		})
	}
	wg.Wait()
	all := []string{customers, invoices, index, notes}
	for _, target := range f.targets {
		if diff := cmp.Diff(all, applied[target.Name]); diff != "" {
			t.Errorf("%s: %s", target.Name, diff)
		}
		if got := len(f.ledger(t, target)); got != len(all) {
			t.Errorf("%s: %d versions", target.Name, got)
		}
	}
	if invalid := f.strings(t, "select indexrelid::regclass::text from pg_index where not indisvalid"); len(invalid) > 0 {
		t.Errorf("invalid: %v", invalid)
	}
	f.checkQuiet(t)
}

// The context ends while the second target is at work: what is done is reported, nothing is left behind.
func TestUpCancelled(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 4)
	f.exec(t, "CREATE TABLE t_1.slow ()")
	set := load(t, map[string]string{
		"1_a.sql": up("CREATE TABLE a ();"),
		"2_b.sql": up("CREATE TABLE b ();\nDO $$ BEGIN IF to_regclass('slow') IS NOT NULL THEN RAISE NOTICE 'here'; PERFORM pg_sleep(600); END IF; END $$;"),
	})
	errStopped := errors.New("stopped by hand")
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	log := &recorder{on: func(message string) {
		if message == "notice" {
			cancel(errStopped)
		}
	}}
	m := migrate.New(set, migrate.Config{Workers: 1, Logger: log.logger()})
	report, err := m.Up(ctx, f.targets, migrate.Options{})
	if !errors.Is(err, context.Canceled) || !errors.Is(err, errStopped) {
		t.Errorf("got %v", err)
	}
	var failed *migrate.FailedError
	if errors.As(err, &failed) || len(report.Failed)+len(report.Current) > 0 {
		t.Errorf("failed: %v", err)
	}
	if diff := cmp.Diff([]short{{"acme0", []string{"1_a.sql", "2_b.sql"}, false}}, shorten(report.Applied)); diff != "" {
		t.Error(diff)
	}
	want := []short{{"acme1", []string{"1_a.sql"}, true}, {"acme2", nil, false}, {"acme3", nil, false}}
	got := shorten(report.Unfinished)
	for i := range got {
		got[i].Failed = got[i].Target == "acme1" && report.Unfinished[i].Err != nil
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	f.checkQuiet(t)
	if diff := cmp.Diff([]string{"1"}, f.ledger(t, f.targets[1])); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"a", "schema_migrations", "slow"}, f.tables(t, f.targets[1])); diff != "" {
		t.Error(diff)
	}
	statuses, err := m.Status(ctx, f.targets[:1])
	if !errors.Is(err, context.Canceled) || !errors.Is(statuses[0].Err, context.Canceled) {
		t.Errorf("status: %v, %v", statuses, err)
	}
}

func TestUpNothing(t *testing.T) {
	t.Parallel()
	m := migrate.New(load(t, product()), migrate.Config{})
	if report, err := m.Up(t.Context(), nil, migrate.Options{}); err != nil || !cmp.Equal(report, migrate.Report{}) {
		t.Errorf("got %v, %v", report, err)
	}
}
