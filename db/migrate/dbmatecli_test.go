package migrate_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/leasehold-go/leasehold/db/migrate"
)

// dbmateEnv names the dbmate program.
const dbmateEnv = "LEASEHOLD_TEST_DBMATE"

// findDbmate returns the dbmate program. In CI it is built if nobody names it, which takes minutes and loads much; elsewhere the test is
// skipped then.
func findDbmate(tb testing.TB) string {
	tb.Helper()
	if program := os.Getenv(dbmateEnv); program != "" {
		return program
	}
	if os.Getenv("CI") == "" {
		tb.Skipf("%s does not name the dbmate program; .ci/run shows how to build it", dbmateEnv)
	}
	program, err := buildDbmate(tb.Context(), tb.TempDir())
	if err != nil {
		tb.Fatalf("%s does not name the dbmate program, and it cannot be built: %v", dbmateEnv, err)
	}
	return program
}

// buildDbmate builds dbmate's own command line in its own module, whose versions are those that it is released with.
func buildDbmate(ctx context.Context, dir string) (string, error) {
	source, err := run(exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "github.com/amacneil/dbmate/v2"))
	if err != nil {
		return "", err
	}
	program := filepath.Join(dir, "dbmate")
	build := exec.CommandContext(ctx, "go", "build", "-o", program, ".")
	build.Dir = strings.TrimSpace(source)
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off", "GOFLAGS=-mod=readonly")
	_, err = run(build)
	return program, err
}

// run returns what a program prints.
func run(cmd *exec.Cmd) (string, error) {
	out, err := cmd.Output()
	var exitErr *exec.ExitError
	if errors.As(err, &exitErr) {
		err = errors.Join(err, errors.New(string(exitErr.Stderr)))
	}
	return string(out), err
}

// dbmate is dbmate's command line, used as docs/migrations.md says.
type dbmate struct {
	program, url, home, folder string
}

// on runs a command on one tenant.
func (d *dbmate) on(tb testing.TB, t migrate.Target, command string) string {
	tb.Helper()
	cmd := exec.CommandContext(tb.Context(), d.program, "--migrations-dir", d.folder, "--no-dump-schema", command)
	cmd.Dir = d.home
	cmd.Env = []string{"DATABASE_URL=" + d.url + "&search_path=" + t.Schema}
	out, err := run(cmd)
	if err != nil {
		tb.Fatalf("dbmate %s: %v", command, err)
	}
	return out
}

// status returns the files that dbmate calls applied, and those that it calls pending.
func (d *dbmate) status(tb testing.TB, t migrate.Target) (applied, pending []string) {
	tb.Helper()
	for line := range strings.Lines(d.on(tb, t, "status")) {
		line = strings.TrimSpace(line)
		if name, ok := strings.CutPrefix(line, "[X] "); ok {
			applied = append(applied, name)
		} else if name, ok := strings.CutPrefix(line, "[ ] "); ok {
			pending = append(pending, name)
		}
	}
	return applied, pending
}

func (d *dbmate) write(tb testing.TB, files map[string]string) *migrate.Set {
	tb.Helper()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(d.folder, name), []byte(text), 0o600); err != nil {
			tb.Fatal(err)
		}
	}
	set, err := migrate.Load(os.DirFS(d.folder), ".")
	if err != nil {
		tb.Fatal(err)
	}
	return set
}

// checkSame compares what both say of a tenant.
func (d *dbmate) checkSame(tb testing.TB, set *migrate.Set, t migrate.Target, wantApplied, wantPending []string) {
	tb.Helper()
	applied, pending := d.status(tb, t)
	got := []migrate.TargetStatus{{Target: t.Name, Schema: t.Schema, Applied: applied, Pending: pending}}
	want := []migrate.TargetStatus{{Target: t.Name, Schema: t.Schema, Applied: wantApplied, Pending: wantPending}}
	if diff := cmp.Diff(want, got); diff != "" {
		tb.Errorf("dbmate says: %s", diff)
	}
	statuses, err := migrate.New(set, migrate.Config{}).Status(tb.Context(), []migrate.Target{t})
	if err != nil {
		tb.Fatal(err)
	}
	if diff := cmp.Diff(want, statuses); diff != "" {
		tb.Errorf("we say: %s", diff)
	}
}

// dbmate's own command line works on a tenant that we migrated, and the other way round. THREATS 52: it stays in the tenant's schema.
func TestDbmateCommandLine(t *testing.T) {
	t.Parallel()
	program := findDbmate(t)
	f := newFleet(t, 3)
	d := &dbmate{program: program, url: f.url, home: t.TempDir(), folder: t.TempDir()}
	files := product()
	files[index] = "-- migrate:up transaction:false\nCREATE INDEX CONCURRENTLY IF NOT EXISTS invoices_customer ON invoices (customer);\n" +
		"-- migrate:down transaction:false\nDROP INDEX CONCURRENTLY IF EXISTS invoices_customer;\n"
	set := d.write(t, files)
	ours, theirs, other := f.targets[0], f.targets[1], f.targets[2]
	three, four := []string{customers, invoices, index}, []string{customers, invoices, index, notes}

	if _, err := migrate.New(set, migrate.Config{}).Apply(t.Context(), ours); err != nil {
		t.Fatal(err)
	}
	d.checkSame(t, set, ours, three, nil)
	d.checkSame(t, set, theirs, nil, three)
	d.on(t, theirs, "up")
	d.checkSame(t, set, theirs, three, nil)

	files[notes] = "-- migrate:up\nCREATE TABLE notes (body text);\n-- migrate:down\nDROP TABLE notes;\n"
	set = d.write(t, files)
	m := migrate.New(set, migrate.Config{})
	for _, tenant := range []migrate.Target{ours, theirs} {
		d.checkSame(t, set, tenant, three, []string{notes})
		d.on(t, tenant, "up")
		d.checkSame(t, set, tenant, four, nil)
		d.on(t, tenant, "rollback")
		d.checkSame(t, set, tenant, three, []string{notes})

		result, err := m.Apply(t.Context(), tenant)
		if diff := cmp.Diff([]string{notes}, result.Applied); err != nil || diff != "" {
			t.Errorf("%v: %s", err, diff)
		}
		d.checkSame(t, set, tenant, four, nil)
		if _, err := m.Rollback(t.Context(), []migrate.Target{tenant}, migrate.Back{Last: 1}, migrate.Options{}); err != nil {
			t.Fatal(err)
		}
		d.checkSame(t, set, tenant, three, []string{notes})
		d.on(t, tenant, "migrate")
		d.checkSame(t, set, tenant, four, nil)
		d.on(t, tenant, "rollback")
		d.on(t, tenant, "rollback")
		d.checkSame(t, set, tenant, three[:2], []string{index, notes})
	}
	report, err := m.Up(t.Context(), f.targets[:2], migrate.Options{})
	if diff := cmp.Diff([]short{{"acme0", four[2:], false}, {"acme1", four[2:], false}}, shorten(report.Applied)); err != nil || diff != "" {
		t.Errorf("%v: %s", err, diff)
	}
	for _, tenant := range f.targets[:2] {
		if diff := cmp.Diff([]string{"customers", "invoices", "notes", "schema_migrations"}, f.tables(t, tenant)); diff != "" {
			t.Error(diff)
		}
	}
	if got := f.tables(t, other); len(got) > 0 {
		t.Errorf("another tenant has got %v", got)
	}
	if got := f.strings(t, "SELECT nspname::text FROM pg_namespace WHERE nspname !~ '^(pg_|t_|information_schema$|public$)'"); len(got) > 0 {
		t.Errorf("schemas were made: %v", got)
	}
	if _, err := os.Stat(filepath.Join(d.home, "db")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a schema was dumped: %v", err)
	}
}
