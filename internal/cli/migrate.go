package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/leasehold-go/leasehold/db/directory"
	"github.com/leasehold-go/leasehold/db/migrate"
	"github.com/leasehold-go/leasehold/internal/config"
)

// migrateCmd is leasehold migrate.
type migrateCmd struct {
	Up      migrateUpCmd      `cmd:"" help:"Apply what is pending to every tenant."`
	Status  migrateStatusCmd  `cmd:"" help:"Show how far the tenants are."`
	New     migrateNewCmd     `cmd:"" help:"Make an empty migration file."`
	Control migrateControlCmd `cmd:"" help:"Set up the registry, or bring it up to date."`
}

// fleet are the flags of commands that work on many tenants.
type fleet struct {
	config.Database `group:"Database"`
	migrationsFlag

	Tenant  []string `name:"tenant" placeholder:"SUBDOMAIN" help:"Only this tenant; may be given several times. Defaults to all."`
	Workers int      `default:"4" placeholder:"N" help:"Tenants at a time, each with a connection (${default})."`
}

// open returns the migrator and the targets that were asked for.
func (f *fleet) open(ctx context.Context, r *runner) (*migrate.Migrator, []migrate.Target, error) {
	if f.Workers < 1 {
		return nil, nil, &config.Error{Setting: "--workers", Err: fmt.Errorf("is %d", f.Workers), Hint: "write 1 or more"}
	}
	logger := r.quiet(ctx)
	m, err := f.migrator(migrate.Config{Workers: f.Workers, Logger: logger})
	if err != nil {
		return nil, nil, err
	}
	dir, err := openDirectory(ctx, f.Database, nil, m, logger)
	if err != nil {
		return nil, nil, err
	}
	defer dir.Close()
	targets, err := dir.Targets(ctx)
	if err != nil || len(f.Tenant) == 0 {
		return m, targets, err
	}
	var chosen []migrate.Target
	for _, name := range f.Tenant {
		t, err := find(ctx, dir, name)
		if err != nil {
			return nil, nil, err
		}
		i := slices.IndexFunc(targets, func(target migrate.Target) bool { return target.Schema == t.Placement.Schema })
		if i < 0 {
			return nil, nil, fmt.Errorf("tenant %s is %s and is not migrated", t.Slug, t.Status)
		}
		chosen = append(chosen, targets[i])
	}
	return m, chosen, nil
}

type migrateUpCmd struct{ fleet }

// Run migrates.
func (c *migrateUpCmd) Run(ctx context.Context, r *runner) error {
	m, targets, err := c.open(ctx, r)
	if err != nil {
		return err
	}
	p := r.newProgress(len(targets))
	report, err := m.Up(ctx, targets, migrate.Options{Progress: p.done})
	p.stop()
	if printErr := r.print(newReportView(report), func(w io.Writer) { writeReport(w, report) }); printErr != nil {
		return printErr
	}
	var failed *migrate.FailedError
	if errors.As(err, &failed) {
		r.showFailed(failed, "run the same command again; the others are done")
		return &reportedError{err}
	}
	return err
}

// showFailed prints a line for each tenant that failed, and what to do when the causes are mended.
func (r *runner) showFailed(failed *migrate.FailedError, then string) {
	for _, f := range failed.Failed {
		_, _ = fmt.Fprintf(r.Err, "leasehold: %s\n", describe(f.Err))
	}
	_, _ = fmt.Fprintf(r.Err, "leasehold: %d of %d tenants failed — mend the cause and %s\n", len(failed.Failed), failed.Total, then)
}

func writeReport(w io.Writer, report migrate.Report) {
	_, _ = fmt.Fprintf(w, "%d migrated, %d current, %d failed", len(report.Applied), len(report.Current), len(report.Failed))
	if n := len(report.Unfinished); n > 0 {
		_, _ = fmt.Fprintf(w, ", %d not reached", n)
	}
	_, _ = fmt.Fprintln(w)
}

// resultView is what became of one tenant, for --json.
type resultView struct {
	Tenant     string   `json:"tenant"`
	Schema     string   `json:"schema"`
	Applied    []string `json:"applied"`
	DurationMS int64    `json:"duration_ms"`
	Error      string   `json:"error,omitempty"`
}

type reportView struct {
	Applied    []resultView `json:"applied"`
	Current    []resultView `json:"current"`
	Failed     []resultView `json:"failed"`
	Unfinished []resultView `json:"unfinished"`
}

func newReportView(r migrate.Report) reportView {
	views := func(results []migrate.Result) []resultView {
		vs := make([]resultView, len(results))
		for i, res := range results {
			vs[i] = resultView{Tenant: res.Target, Schema: res.Schema, Applied: append([]string{}, res.Applied...), DurationMS: res.Duration.Milliseconds()}
			if res.Err != nil {
				vs[i].Error = res.Err.Error()
			}
		}
		return vs
	}
	return reportView{Applied: views(r.Applied), Current: views(r.Current), Failed: views(r.Failed), Unfinished: views(r.Unfinished)}
}

type migrateStatusCmd struct{ fleet }

// statusView is how far the fleet is.
type statusView struct {
	Tenants  int           `json:"tenants"`
	Current  int           `json:"current"`
	Versions []versionRow  `json:"versions"`
	Behind   []behindView  `json:"behind"`
	Unread   []unreadView  `json:"unread"`
	Unknown  []unknownView `json:"unknown"`
}

type versionRow struct {
	File    string `json:"file"`
	Applied int    `json:"applied"`
	Pending int    `json:"pending"`
}

type behindView struct {
	Tenant  string   `json:"tenant"`
	Pending []string `json:"pending"`
}

type unreadView struct {
	Tenant string `json:"tenant"`
	Error  string `json:"error"`
}

type unknownView struct {
	Tenant   string   `json:"tenant"`
	Versions []string `json:"versions"`
}

// Run shows the state of the fleet.
func (c *migrateStatusCmd) Run(ctx context.Context, r *runner) error {
	m, targets, err := c.open(ctx, r)
	if err != nil {
		return err
	}
	statuses, err := m.Status(ctx, targets)
	var failed *migrate.FailedError
	if err != nil && !errors.As(err, &failed) {
		return err
	}
	view := newStatusView(statuses)
	if printErr := r.print(view, func(w io.Writer) { view.write(w) }); printErr != nil {
		return printErr
	}
	return err
}

func newStatusView(statuses []migrate.TargetStatus) statusView {
	v := statusView{Tenants: len(statuses), Versions: []versionRow{}, Behind: []behindView{}, Unread: []unreadView{}, Unknown: []unknownView{}}
	rows := map[string]*versionRow{}
	row := func(file string) *versionRow {
		if rows[file] == nil {
			rows[file] = &versionRow{File: file}
		}
		return rows[file]
	}
	for _, s := range statuses {
		if s.Err != nil {
			v.Unread = append(v.Unread, unreadView{s.Target, s.Err.Error()})
			continue
		}
		for _, file := range s.Applied {
			row(file).Applied++
		}
		for _, file := range s.Pending {
			row(file).Pending++
		}
		if len(s.Unknown) > 0 {
			v.Unknown = append(v.Unknown, unknownView{s.Target, s.Unknown})
		}
		if len(s.Pending) > 0 {
			v.Behind = append(v.Behind, behindView{s.Target, s.Pending})
		} else {
			v.Current++
		}
	}
	for _, r := range slices.SortedFunc(maps.Values(rows), func(a, b *versionRow) int { return cmp.Compare(a.File, b.File) }) {
		v.Versions = append(v.Versions, *r)
	}
	return v
}

func (v statusView) write(w io.Writer) {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "MIGRATION\tAPPLIED\tPENDING")
	for _, r := range v.Versions {
		_, _ = fmt.Fprintf(table, "%s\t%d\t%d\n", r.File, r.Applied, r.Pending)
	}
	_ = table.Flush()
	_, _ = fmt.Fprintf(w, "%d tenants, %d current\n", v.Tenants, v.Current)
	for _, b := range v.Behind {
		_, _ = fmt.Fprintf(w, "behind: %s, %d pending from %s\n", b.Tenant, len(b.Pending), b.Pending[0])
	}
	for _, u := range v.Unknown {
		_, _ = fmt.Fprintf(w, "ahead: %s has versions that no file here has: %v\n", u.Tenant, u.Versions)
	}
	for _, u := range v.Unread {
		_, _ = fmt.Fprintf(w, "unread: %s\n", u.Error) // it begins with the tenant
	}
}

type migrateNewCmd struct {
	Name    string `arg:"" help:"What it does, such as add_due_date."`
	Dir     string `default:"db/migrations/tenant" placeholder:"DIR" help:"The folder (${default})."`
	Control bool   `help:"Make one for the registry: in db/migrations/control."`
}

// Run makes the file.
func (c *migrateNewCmd) Run(r *runner) error {
	dir := c.Dir
	if c.Control {
		dir = "db/migrations/control"
	}
	path, err := migrate.NewFile(dir, c.Name, time.Now())
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%w — run this at the top of the project, or name the folder: --dir DIR", err)
	}
	if err != nil {
		return err
	}
	return r.print(map[string]string{"file": path}, func(w io.Writer) {
		_, _ = fmt.Fprintf(w, "created %s\nwrite it, run task generate, then task migrate-tenants\n", filepath.ToSlash(path))
	})
}

type migrateControlCmd struct {
	config.Database `group:"Database"`
	config.Secret   `group:"Database"`

	SetSecretKey bool `help:"Make the given secret key the one that counts, from now on. Processes that run with another one must be started again."`
}

// Run migrates the registry.
func (c *migrateControlCmd) Run(ctx context.Context, r *runner) error {
	conn, err := c.ConnConfig()
	if err != nil {
		return err
	}
	res, err := directory.Migrate(ctx, directory.Config{ConnConfig: conn, Logger: r.quiet(ctx)})
	if err != nil {
		return err
	}
	if c.SetSecretKey {
		if err := c.setSecretKey(ctx, r); err != nil {
			return err
		}
	}
	view := newReportView(migrate.Report{Applied: []migrate.Result{res}}).Applied[0]
	return r.print(view, func(w io.Writer) {
		if len(res.Applied) == 0 {
			_, _ = fmt.Fprintln(w, "the registry is up to date")
			return
		}
		_, _ = fmt.Fprintf(w, "migrated the registry, up to %s\n", res.Applied[len(res.Applied)-1])
	})
}

func (c *migrateControlCmd) setSecretKey(ctx context.Context, r *runner) error {
	key, err := c.Key()
	if err != nil {
		return err
	}
	dir, err := openDirectory(ctx, c.Database, key, nil, r.quiet(ctx))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.SetRuntimePassword(ctx)
}
