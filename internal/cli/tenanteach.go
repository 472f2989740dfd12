package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/leasehold-go/leasehold/db/directory"
	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/internal/config"
)

// tenantEachCmd is leasehold tenant each.
type tenantEachCmd struct {
	config.Database `group:"Database"`

	Command []string `arg:"" help:"The program to run and its arguments, after --. Its environment says which tenant it runs for: LEASEHOLD_TENANT_ID, _SLUG, _COMPANY, _STATUS, _CLUSTER, _DATABASE, _SCHEMA. No other setting of Leasehold's is in it, and no password of libpq's."`

	Tenant      []string `name:"tenant" placeholder:"SUBDOMAIN" help:"Only this tenant; may be given several times. Defaults to all."`
	Status      string   `enum:"active,suspended,all" default:"active" help:"Only tenants in this state: ${enum} (${default})."`
	Parallel    int      `default:"1" placeholder:"N" help:"Tenants at a time (${default})."`
	MaxFailures *int     `placeholder:"N" help:"Begin no other tenant when so many have failed. Defaults to no limit."`
	Resume      string   `placeholder:"FILE" help:"Keep in this file what is done, and if it is there already, do what it says is left. After a kill -9 the tenants that were in hand are begun again."`
	Wait        duration `default:"10s" placeholder:"DURATION" help:"After an interrupt, how long programs have to end before they are killed (${default})."`
}

// Run runs the program for each tenant.
func (c *tenantEachCmd) Run(ctx context.Context, r *runner) (err error) {
	opts := directory.EachOptions{Parallel: c.Parallel, Statuses: statusesOf(c.Status)}
	if opts.MaxFailures, err = atLeastOne("--max-failures", c.MaxFailures); err != nil {
		return err
	}
	if _, err := atLeastOne("--parallel", &c.Parallel); err != nil {
		return err
	}
	if _, err := exec.LookPath(c.Command[0]); err != nil {
		return &config.Error{Setting: "the program", Err: err, Hint: "write it after --, such as: leasehold tenant each -- sh -c 'echo $LEASEHOLD_TENANT_SCHEMA'"}
	}
	dir, err := openDirectory(ctx, c.Database, keys{}, nil, r.quiet(ctx))
	if err != nil {
		return err
	}
	defer dir.Close()
	if opts.Tenants, err = findAll(ctx, dir, c.Tenant); err != nil {
		return err
	}
	resume, err := c.openResume(opts)
	if err != nil {
		return err
	}
	opts.Resume, opts.Stop = resume.kept.Checkpoint, resume.lost
	run := &eachRun{programs: programs{command: c.Command, env: childEnvironment(os.Environ()), wait: time.Duration(c.Wait)}, r: r}
	opts.Progress = func(p directory.EachProgress) {
		run.progress(p)
		resume.keep(p.Checkpoint)
	}
	stopSaying := context.AfterFunc(ctx, func() { run.say("ending the programs that run; after %v they are killed", time.Duration(c.Wait)) })
	defer stopSaying()
	report, err := dir.Each(ctx, opts, run.visit)
	keepErr := resume.close(report.Checkpoint)
	return errors.Join(run.report(report, err, c.Resume), keepErr)
}

// statusesOf reads --status.
func statusesOf(word string) []tenant.Status {
	if word == "all" {
		return []tenant.Status{tenant.Active, tenant.Suspended}
	}
	return []tenant.Status{tenant.Status(word)}
}

// findAll looks tenants up by their subdomains, or by their ids.
func findAll(ctx context.Context, dir *directory.Directory, names []string) (tenants []*tenant.Tenant, err error) {
	for _, name := range names {
		t, err := find(ctx, dir, name)
		if err != nil {
			return nil, err
		}
		tenants = append(tenants, t)
	}
	return tenants, nil
}

// openResume reads the file that says what is left. What a file was written for is what it is good for.
func (c *tenantEachCmd) openResume(opts directory.EachOptions) (*resumeFile, error) {
	cc, err := c.ConnConfig()
	if err != nil {
		return nil, err
	}
	task := eachTask{Command: c.Command, Registry: fmt.Sprintf("%s:%d/%s", cc.Host, cc.Port, cc.Database), Statuses: opts.Statuses}
	for _, t := range opts.Tenants {
		task.Tenants = append(task.Tenants, t.ID)
	}
	return openResumeFile(c.Resume, task)
}

// eachRun is one run of the command.
type eachRun struct {
	programs programs
	r        *runner

	mu sync.Mutex // held while something is printed
}

func (e *eachRun) say(format string, args ...any) {
	e.mu.Lock()
	defer e.mu.Unlock()
	_, _ = fmt.Fprintf(e.r.Err, "leasehold: "+format+"\n", args...)
}

// visit runs the program for one tenant. With --json, standard output is for the report alone.
func (e *eachRun) visit(ctx context.Context, t *tenant.Tenant) error {
	prefix := string(t.Slug) + ": "
	out := &lineWriter{w: e.r.Out, mu: &e.mu, prefix: prefix}
	if e.r.json {
		out.w = e.r.Err
	}
	errs := &lineWriter{w: e.r.Err, mu: &e.mu, prefix: prefix}
	err := e.programs.run(ctx, t, out, errs)
	out.end()
	errs.end()
	if err != nil && ctx.Err() != nil {
		e.say("%s: broken off", t.Slug)
	}
	return err
}

func (e *eachRun) progress(p directory.EachProgress) {
	if p.Err != nil {
		e.say("%s: %s", p.Tenant.Slug, oneLine(p.Err.Error()))
	}
}

// eachView is the report, for --json.
type eachView struct {
	Done       int               `json:"done"`
	Failed     []eachFailureView `json:"failed"`
	Unfinished int               `json:"unfinished"`
	NotReached int               `json:"not_reached"` // -1 if it is not known
	Stopped    string            `json:"stopped,omitempty"`
}

type eachFailureView struct {
	ID        tenant.ID   `json:"id"`
	Subdomain tenant.Slug `json:"subdomain"`
	Error     string      `json:"error"`
	// ExitStatus is -1 if the program did not exit by itself, or was not begun.
	ExitStatus int `json:"exit_status"`
}

// report says what became of all tenants. The error is that of Each. Lines of tenants that failed are printed by then.
func (e *eachRun) report(report directory.EachReport, err error, file string) error {
	view := eachView{Done: report.Done, Failed: []eachFailureView{}, Unfinished: report.Unfinished, NotReached: report.NotReached}
	for _, f := range report.Failed {
		view.Failed = append(view.Failed, eachFailureView{f.Tenant.ID, f.Tenant.Slug, oneLine(f.Err.Error()), exitStatus(f.Err)})
	}
	left := report.Unfinished > 0 || report.NotReached != 0
	if left {
		view.Stopped = whyStopped(err)
	}
	if e.r.json {
		if printErr := e.r.print(view, nil); printErr != nil {
			return errors.Join(printErr, err)
		}
	} else {
		view.write(e.r.Err)
	}
	if err == nil {
		return nil
	}
	switch {
	case left && file != "":
		e.say("%s — run the same command again; what is done stays done", view.Stopped)
	case left:
		e.say("%s — with --resume FILE a run can be gone on with", view.Stopped)
	case len(report.Failed) > 0 && file != "":
		e.say("%d failed — mend the cause and run the same command again; only these are left", len(report.Failed))
	case len(report.Failed) == 0:
		return err
	}
	return &reportedError{err}
}

// whyStopped puts the cause into the words of the command line.
func whyStopped(err error) string {
	switch {
	case errors.Is(err, directory.ErrTooManyFailures):
		return "stopped: as many failed as --max-failures allows"
	case errors.Is(err, context.Canceled):
		return "stopped: the command was interrupted"
	}
	return "stopped: " + oneLine(err.Error())
}

func (v eachView) write(w io.Writer) {
	_, _ = fmt.Fprintf(w, "%d done, %d failed", v.Done, len(v.Failed))
	if v.Unfinished > 0 {
		_, _ = fmt.Fprintf(w, ", %d broken off", v.Unfinished)
	}
	switch {
	case v.NotReached > 0:
		_, _ = fmt.Fprintf(w, ", %d not reached", v.NotReached)
	case v.NotReached < 0:
		_, _ = fmt.Fprint(w, ", others not reached")
	}
	_, _ = fmt.Fprintln(w)
}

// libpqSecrets are the variables by which libpq, and the administrator's connection, may be given a password or a key.
var libpqSecrets = []string{"PGPASSWORD", "PGPASSFILE", "PGSERVICE", "PGSERVICEFILE", "PGSSLKEY", "PGSSLPASSWORD"}

// childEnvironment leaves out what reaches the registry: the administrator's URL, the secret key, every other setting of ours,
// and passwords of libpq's.
func childEnvironment(env []string) []string {
	return slices.DeleteFunc(slices.Clone(env), func(variable string) bool {
		name, _, _ := strings.Cut(variable, "=")
		return strings.HasPrefix(name, "LEASEHOLD_") || slices.Contains(libpqSecrets, name)
	})
}
