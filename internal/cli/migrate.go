package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/leasehold-go/leasehold/db/directory"
	"github.com/leasehold-go/leasehold/db/migrate"
	"github.com/leasehold-go/leasehold/internal/config"
)

// migrateCmd is leasehold migrate.
type migrateCmd struct {
	Up       migrateUpCmd       `cmd:"" help:"Apply what is pending to every tenant."`
	Status   migrateStatusCmd   `cmd:"" help:"Show how far the tenants are."`
	Check    migrateCheckCmd    `cmd:"" help:"Compare what the tenants have with what the migrations make."`
	Rollback migrateRollbackCmd `cmd:"" help:"Take the last migrations back."`
	Redo     migrateRedoCmd     `cmd:"" help:"Take the last migrations back and apply them again, while they are being written."`
	New      migrateNewCmd      `cmd:"" help:"Make an empty migration file."`
	Dump     migrateDumpCmd     `cmd:"" help:"Write down what the migrations make, for review."`
	Control  migrateControlCmd  `cmd:"" help:"Set up the registry, or bring it up to date."`
}

// fleet are the flags of commands that work on many tenants.
type fleet struct {
	config.Database `group:"Database"`
	config.Secret   `group:"Database"`
	migrationsFlag

	Tenant  []string `name:"tenant" placeholder:"SUBDOMAIN" help:"Only this tenant; may be given several times. ${without_tenant}"`
	Workers *int     `placeholder:"N" help:"Tenants at a time, each with a connection. Defaults to a quarter of the connections that the server has to spare, 8 at most."`
}

// openFleet is what a command works on: the tenants that were asked for, and the spares if all were.
type openFleet struct {
	dir     *directory.Directory // to be closed
	m       *migrate.Migrator
	tenants []migrate.Target
	spares  []migrate.Target
}

// all are the targets, tenants first.
func (c *openFleet) all() []migrate.Target { return slices.Concat(c.tenants, c.spares) }

// open returns the targets that were asked for.
func (f *fleet) open(ctx context.Context, r *runner, cfg migrate.Config) (c *openFleet, err error) {
	c = &openFleet{}
	if cfg.Workers, err = atLeastOne("--workers", f.Workers); err != nil {
		return nil, err
	}
	cfg.Logger = r.quiet(ctx)
	if c.m, err = f.migrator(cfg); err != nil {
		return nil, err
	}
	secret, err := optionalKeysOf(f.Secret)
	if err != nil {
		return nil, err
	}
	if c.dir, err = openDirectory(ctx, f.Database, secret, c.m, cfg.Logger); err != nil {
		return nil, err
	}
	if err := c.choose(ctx, f.Tenant); err != nil {
		c.dir.Close()
		return nil, err
	}
	return c, nil
}

// choose reads the targets: the tenants with the given names, or all.
func (c *openFleet) choose(ctx context.Context, names []string) error {
	spares, err := c.dir.SpareTargets(ctx) // first, so that none is missed that becomes a tenant meanwhile
	if err != nil {
		return err
	}
	targets, err := c.dir.Targets(ctx)
	if err != nil {
		return err
	}
	index := func(schema string) int {
		return slices.IndexFunc(targets, func(t migrate.Target) bool { return t.Schema == schema })
	}
	if len(names) == 0 {
		c.tenants = targets
		c.spares = slices.DeleteFunc(spares, func(s migrate.Target) bool { return index(s.Schema) >= 0 })
		return nil
	}
	for _, name := range names {
		t, err := find(ctx, c.dir, name)
		if err != nil {
			return err
		}
		i := index(t.Placement.Schema)
		if i < 0 {
			return fmt.Errorf("tenant %s is %s and is not migrated", t.Slug, t.Status)
		}
		c.tenants = append(c.tenants, targets[i])
	}
	return nil
}

// rollout are the flags of commands that change many tenants.
type rollout struct {
	fleet

	Canary           string   `placeholder:"N|P%" help:"So many tenants first, by themselves; the others only if all went well."`
	MaxFailures      *int     `placeholder:"N" help:"Begin no other tenant when so many have failed. Defaults to no limit."`
	LockTimeout      duration `default:"2s" placeholder:"DURATION" help:"How long a statement waits for a lock before its file is rolled back and tried again (${default})."`
	StatementTimeout duration `placeholder:"DURATION" help:"How long a statement may take, such as 30s. Defaults to what the server says."`
	Report           string   `placeholder:"FILE" help:"Write the report to this file too, as JSON."`
}

// options reads the flags.
func (c *rollout) options() (opts migrate.Options, err error) {
	if opts.MaxFailures, err = atLeastOne("--max-failures", c.MaxFailures); err != nil || c.Canary == "" {
		return opts, err
	}
	if opts.Canary, err = migrate.ParseShare(c.Canary); err != nil {
		return opts, &config.Error{Setting: "--canary", Err: err, Hint: "write it as 5 or as 2%"}
	}
	return opts, nil
}

// journey takes targets somewhere, and says so.
type journey struct {
	words  words
	travel func(ctx context.Context, m *migrate.Migrator, targets []migrate.Target, opts migrate.Options) (migrate.Report, error)
}

// run opens the fleet and takes it through journeys, one after the other as long as all goes well. If the command is interrupted,
// the tenants in hand are finished.
func (c *rollout) run(ctx context.Context, r *runner, journeys ...journey) (err error) {
	opts, err := c.options()
	if err != nil {
		return err
	}
	file, err := newReportFile(c.Report)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.close()) }()
	stopSaying := context.AfterFunc(ctx, func() {
		_, _ = fmt.Fprintln(r.Err, "leasehold: finishing the tenants in hand; a second interrupt ends the command at once, which is safe")
	})
	defer stopSaying()
	fleet, err := c.open(ctx, r, migrate.Config{LockTimeout: time.Duration(c.LockTimeout), StatementTimeout: time.Duration(c.StatementTimeout)})
	if err != nil {
		return err
	}
	defer fleet.dir.Close()
	opts.Stop = ctx.Done()
	ctx = context.WithoutCancel(ctx)
	var (
		targets = fleet.all()
		report  migrate.Report
		words   words
		start   = time.Now()
	)
	if err := file.write(reportView{Started: start.UTC(), Stopped: "the command did not come to its end"}); err != nil {
		return err
	}
	for i, j := range journeys {
		words = j.words
		var p *progress
		opts.Surveyed = func(statuses []migrate.TargetStatus) {
			if i == 0 { // before there is a bar
				r.warn(statuses[:len(fleet.tenants)], len(journeys) == 1 && words == forwards)
			}
			p = r.newProgress(len(targets), words)
		}
		opts.Progress = func(result migrate.Result) { p.done(result) }
		report, err = j.travel(ctx, fleet.m, targets, opts)
		if p != nil {
			p.stop()
		}
		if err != nil {
			break
		}
	}
	if err != nil && len(report.Failed)+len(report.Unfinished) == 0 { // nothing was begun
		return err
	}
	view := newReportView(report, fleet, start, err)
	if writeErr := file.write(view); writeErr != nil {
		return errors.Join(err, writeErr)
	}
	if printErr := r.print(view, func(w io.Writer) { view.write(w, words) }); printErr != nil || err == nil {
		return printErr
	}
	return c.showOutcome(r, report, len(targets), words, err)
}

// warn says of which tenants the files may not be what they need. Those that cannot be read are left to who migrates them.
func (r *runner) warn(statuses []migrate.TargetStatus, forwards bool) {
	view := newStatusView(statuses)
	writeSome(r.Err, "leasehold: ahead", view.ahead(), func(g group) string { return "leasehold: " + g.ahead() })
	if forwards {
		writeSome(r.Err, "leasehold: out of order", view.outOfOrder(), func(g group) string {
			return "leasehold: " + g.outOfOrder() + " — it is run all the same; leasehold migrate check shows afterwards whether the order matters"
		})
	}
}

// showOutcome says what went wrong and what to do about it.
func (c *rollout) showOutcome(r *runner, report migrate.Report, targets int, words words, err error) error {
	then := words.then
	if report.To != "" { // by now the last migrations may be others
		then = fmt.Sprintf("run: leasehold migrate rollback --to %s %s%s", report.To, c.chosen(), words.afterwards)
	}
	var failed *migrate.FailedError
	if errors.As(err, &failed) {
		r.showFailed(failed, then)
	}
	switch n := len(report.Unfinished); n {
	case 0:
	case 1:
		_, _ = fmt.Fprintf(r.Err, "leasehold: 1 of %s was left out: %s — %s\n", tenants(targets), whyLeftOut(err), then)
	default:
		_, _ = fmt.Fprintf(r.Err, "leasehold: %d of %s were left out: %s — %s\n", n, tenants(targets), whyLeftOut(err), then)
	}
	return &reportedError{err}
}

// chosen are the flags that name the same tenants again.
func (c *rollout) chosen() string {
	if len(c.Tenant) == 0 {
		return "--all"
	}
	return "--tenant " + strings.Join(c.Tenant, " --tenant ")
}

func whyLeftOut(err error) string {
	switch {
	case errors.Is(err, migrate.ErrCanary):
		return "a canary failed"
	case errors.Is(err, migrate.ErrTooManyFailures):
		return "as many failed as --max-failures allows"
	case errors.Is(err, migrate.ErrStopped):
		return "the command was interrupted"
	}
	return err.Error()
}

// showFailed prints a line for each cause, with the tenants that failed for it, and what to do when the causes are mended.
func (r *runner) showFailed(failed *migrate.FailedError, then string) {
	causes := newGroups(failed.Failed, func(f migrate.Result) group {
		cause := describe(f.Err)
		if e := (*migrate.Error)(nil); errors.As(f.Err, &e) {
			cause = strings.TrimPrefix(cause, e.Target+": ")
		}
		if lostToALock(f.Err) {
			cause += ", or let it wait longer: --lock-timeout 10s"
		}
		return group{tenants: []string{f.Target}, what: []string{cause}}
	})
	for _, g := range causes {
		_, _ = fmt.Fprintf(r.Err, "leasehold: %s: %s\n", someOf(g.tenants, named), g.what[0])
	}
	_, _ = fmt.Fprintf(r.Err, "leasehold: %d of %s failed — mend the cause and %s\n", len(failed.Failed), tenants(failed.Total), then)
}

type migrateUpCmd struct {
	rollout `set:"without_tenant=Defaults to all."`
}

// Run migrates.
func (c *migrateUpCmd) Run(ctx context.Context, r *runner) error {
	return c.run(ctx, r, journey{forwards, up})
}

func up(ctx context.Context, m *migrate.Migrator, targets []migrate.Target, opts migrate.Options) (migrate.Report, error) {
	return m.Up(ctx, targets, opts)
}

// backward are the flags of commands that lose data.
type backward struct {
	rollout `set:"without_tenant=For all tenants say --all."`

	Last *int `arg:"" optional:"" help:"How many migrations, counted from the last that any of the tenants has (1)."`
	All  bool `help:"All tenants. It must be said: what a migration has added is lost with its data."`
}

// last is how many migrations, 1 if that was not said.
func (c *backward) last() (int, error) {
	n, err := atLeastOne("LAST", c.Last)
	switch {
	case err != nil:
		return 0, err
	case c.All && len(c.Tenant) > 0:
		return 0, &config.Error{Setting: "--all", Err: errors.New("contradicts --tenant"), Hint: "write one of the two"}
	case !c.All && len(c.Tenant) == 0:
		return 0, &config.Error{Setting: "--all", Err: errors.New("say whose"), Hint: "write --tenant SUBDOMAIN, or --all for every tenant"}
	}
	return max(n, 1), nil
}

func (c *backward) run(ctx context.Context, r *runner, words words, b migrate.Back, then ...journey) error {
	back := func(ctx context.Context, m *migrate.Migrator, targets []migrate.Target, opts migrate.Options) (migrate.Report, error) {
		return m.Rollback(ctx, targets, b, opts)
	}
	return c.rollout.run(ctx, r, append([]journey{{words, back}}, then...)...)
}

type migrateRollbackCmd struct {
	backward

	To string `placeholder:"VERSION" help:"Take back all that come after this version or file instead; 0 for all."`
}

// Run rolls back.
func (c *migrateRollbackCmd) Run(ctx context.Context, r *runner) error {
	last, err := c.last()
	switch {
	case err != nil:
		return err
	case c.To != "" && c.Last != nil:
		return &config.Error{Setting: "--to", Err: errors.New("contradicts the number"), Hint: "write one of the two"}
	case c.To != "":
		return c.run(ctx, r, backwards, migrate.Back{To: c.To})
	}
	return c.run(ctx, r, backwards, migrate.Back{Last: last})
}

type migrateRedoCmd struct{ backward }

// Run rolls back and migrates again.
func (c *migrateRedoCmd) Run(ctx context.Context, r *runner) error {
	last, err := c.last()
	if err != nil {
		return err
	}
	return c.run(ctx, r, thereAnd, migrate.Back{Last: last}, journey{backAgain, up})
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

	SetSecretKey bool `help:"Make the given secret key the one that counts, from now on: for the runtime logins, and for what the registry keeps encrypted. Needs the old one too if there is such. Processes that know another one only must be started again."`
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
	view := newResultView(res, false)
	return r.print(view, func(w io.Writer) {
		if len(res.Applied) == 0 {
			_, _ = fmt.Fprintln(w, "the registry is up to date")
			return
		}
		_, _ = fmt.Fprintf(w, "migrated the registry, up to %s\n", res.Applied[len(res.Applied)-1])
	})
}

func (c *migrateControlCmd) setSecretKey(ctx context.Context, r *runner) error {
	secret, err := keysOf(c.Secret)
	if err != nil {
		return err
	}
	dir, err := openDirectory(ctx, c.Database, secret, nil, r.quiet(ctx))
	if err != nil {
		return err
	}
	defer dir.Close()
	if _, err := dir.Reseal(ctx); err != nil {
		return err
	}
	return dir.SetRuntimePassword(ctx)
}
