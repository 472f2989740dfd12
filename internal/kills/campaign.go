package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// patience is how long a run that is not killed may take.
	patience = time.Minute
	// maxFaults is after how many faults there is no point in going on.
	maxFaults = 20
	// progressPause is the pause between two lines of progress.
	progressPause = 5 * time.Second
)

// campaign is one run of this program.
type campaign struct {
	config
	site   *site
	holder *pgx.Conn // keeps transactions open for which others wait
	wants  map[bool]state
	plan   *planner
	report *report
	story  []string // what happened in this round
}

// run kills until there were enough kills. The report is nil if it could not begin; it tells what was done if ctx ended.
func run(ctx context.Context, cfg config) (*report, error) {
	c, err := newCampaign(ctx, cfg)
	if err != nil {
		return nil, err
	}
	start := time.Now()
	err = c.run(ctx)
	c.report.took = time.Since(start)
	return c.report, errors.Join(err, c.close(ctx))
}

func newCampaign(ctx context.Context, cfg config) (*campaign, error) {
	whole, rolledBack, err := states()
	if err != nil {
		return nil, err
	}
	s, err := openSite(ctx, cfg, whole, rolledBack)
	if err != nil {
		return nil, err
	}
	holder, err := connect(ctx, cfg.SuperURL)
	if err != nil {
		return nil, errors.Join(err, s.close(ctx))
	}
	return &campaign{
		config: cfg, site: s, holder: holder, wants: map[bool]state{false: whole, true: rolledBack}, report: newReport(cfg),
	}, nil
}

func (c *campaign) close(ctx context.Context) error {
	return errors.Join(c.holder.Close(context.WithoutCancel(ctx)), c.site.close(ctx))
}

func (c *campaign) run(ctx context.Context) error {
	var totals [2]int64
	if err := c.site.reset(ctx); err != nil {
		return err
	}
	for i, way := range []bool{false, true} {
		var err error
		if totals[i], err = c.finish(ctx, round{back: way}); err != nil {
			return err
		}
	}
	if len(c.report.faults) > 0 { // without a kill
		return nil
	}
	c.plan = newPlanner(c.Seed, totals[0], totals[1])
	c.report.plan = c.plan
	_, _ = fmt.Fprintf(c.Progress, "a run has %d boundaries up, and %d back\n", totals[0], totals[1])
	shown := time.Now()
	for whole := false; c.report.killed() < int64(c.Kills) && len(c.report.faults) < maxFaults; {
		if time.Since(shown) > progressPause {
			shown = time.Now()
			_, _ = fmt.Fprintln(c.Progress, c.report.progress())
		}
		r := c.plan.next(whole)
		if !r.back {
			if err := c.site.reset(ctx); err != nil {
				return err
			}
		}
		faults := len(c.report.faults)
		if err := c.play(ctx, r); err != nil {
			return err
		}
		whole = !r.back && len(c.report.faults) == faults
	}
	return nil
}

// play plays one round.
func (c *campaign) play(ctx context.Context, r round) error {
	c.story = nil
	for i, s := range r.salvos {
		j := job{course: courseOf(r.back), workers: c.Workers}
		if r.back && i == 0 && len(s.at) == 1 {
			j.course = backLast
		}
		fire := c.fire
		if s.stall {
			fire = c.stall
		}
		if err := fire(ctx, r, j, s); err != nil {
			return err
		}
		if s.evict && !s.stall {
			if err := c.evict(ctx); err != nil {
				return err
			}
		}
	}
	_, err := c.finish(ctx, r)
	c.report.rounds[r.back]++
	return err
}

func courseOf(back bool) course {
	if back {
		return backToBase
	}
	return up
}

// finish runs without a kill, and inspects. It returns how many boundaries the run had.
func (c *campaign) finish(ctx context.Context, r round) (int64, error) {
	runCtx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	clock := &clock{}
	err := c.Migrate(runCtx, c.URL, job{course: courseOf(r.back), workers: c.Workers}, clock)
	if ctx.Err() != nil {
		return 0, ctx.Err()
	}
	c.report.finished++
	if err != nil {
		c.fault(r, fault{"", "the run that nobody killed: " + err.Error()})
	}
	faults, err := c.site.inspect(ctx, c.wants[r.back])
	if err != nil {
		return 0, err
	}
	c.report.inspected += tenants
	for _, f := range faults {
		c.fault(r, f)
	}
	if len(faults) > 0 { // what is left must not disturb the next round
		if err := c.evict(ctx); err != nil {
			return 0, err
		}
	}
	return clock.passed.Load(), nil
}

// fire starts the processes of a salvo at once, and waits for all of them.
func (c *campaign) fire(ctx context.Context, r round, j job, s salvo) error {
	var (
		processes []*process
		outcomes  []outcome
		startErr  error
	)
	for _, j.at = range s.at {
		p, err := c.start(ctx, j)
		if err != nil {
			startErr = err
			break
		}
		processes = append(processes, p)
	}
	for _, p := range processes {
		outcomes = append(outcomes, p.wait())
	}
	if err := errors.Join(startErr, ctx.Err()); err != nil {
		return err
	}
	if len(outcomes) > 1 {
		c.report.together++
		c.tell("%d at once:", len(outcomes))
	}
	for _, o := range outcomes {
		c.note(r, o)
	}
	return nil
}

// stall starts one process and kills it when it waits for the end of a transaction.
func (c *campaign) stall(ctx context.Context, r round, j job, s salvo) (err error) {
	// With a snapshot in it, CONCURRENTLY waits for the transaction.
	if _, err := c.holder.PgConn().Exec(ctx, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1").ReadAll(); err != nil {
		return err
	}
	defer func() {
		_, endErr := c.holder.Exec(ctx, "ROLLBACK")
		err = errors.Join(err, endErr)
	}()
	p, err := c.start(ctx, j)
	if err != nil {
		return err
	}
	for waiting := false; err == nil && !waiting && !p.ended(); {
		if waiting, err = c.site.waiting(ctx); err == nil && !waiting {
			err = pause(ctx)
		}
	}
	killErr := p.cmd.Process.Kill()
	o := p.wait()
	if err = errors.Join(err, ctx.Err()); err != nil {
		return err
	}
	if killErr == nil && o.signalled && !o.told {
		o.kind, o.told = whileWaiting, true
	}
	c.note(r, o)
	if s.evict { // while it still waits
		return c.evict(ctx)
	}
	return nil
}

// evict ends what the dead have left on the server.
func (c *campaign) evict(ctx context.Context) error {
	invalid, err := c.site.evict(ctx)
	c.report.evictions++
	c.report.invalid += invalid
	c.tell("sessions ended, %d invalid indexes;", invalid)
	return err
}

func (c *campaign) tell(format string, args ...any) {
	c.story = append(c.story, fmt.Sprintf(format, args...))
}

// note counts the end of a process.
func (c *campaign) note(r round, o outcome) {
	switch {
	case o.told:
		c.report.kills[o.kind]++
		c.report.lives += o.took
		if o.kind == whileWaiting {
			c.tell("killed %s;", o.kind)
		} else {
			c.tell("killed at boundary %d, %s;", o.n, o.kind)
		}
	case o.err == nil:
		c.report.escaped++
		c.tell("came to its end;")
	default:
		c.tell("failed;")
		c.fault(r, fault{"", "a process that was not killed yet: " + o.err.Error()})
	}
}

// fault notes a fault, with what it takes to find it again.
func (c *campaign) fault(r round, f fault) {
	way := "up"
	if r.back {
		way = "back"
	}
	if f.tenant == "" {
		f.tenant = "the fleet"
	}
	story := strings.TrimSuffix(strings.Join(c.story, " "), ";")
	if story == "" {
		story = "no kill"
	}
	c.report.faults = append(c.report.faults, fmt.Sprintf("seed %d, %d workers, round %d, %s (%s): %s: %s",
		c.Seed, c.Workers, r.number, way, story, f.tenant, f.what))
}

// process is one that was started to be killed.
type process struct {
	cmd            *exec.Cmd
	cancel         context.CancelFunc
	started        time.Time
	stdout, stderr bytes.Buffer
	done           chan struct{}
	err            error // of cmd.Wait; to be read after done
	took           time.Duration
}

// start starts a process.
func (c *campaign) start(ctx context.Context, j job) (*process, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	p := &process{cancel: cancel, started: time.Now(), done: make(chan struct{})}
	p.cmd = exec.CommandContext(ctx, c.Program, j.args()...)
	p.cmd.Env = append(append(os.Environ(), c.Env...), urlEnv+"="+c.URL)
	p.cmd.Stdout, p.cmd.Stderr = &p.stdout, &p.stderr
	if err := p.cmd.Start(); err != nil {
		cancel()
		return nil, err
	}
	go func() {
		defer close(p.done)
		p.err = p.cmd.Wait()
		p.took = time.Since(p.started)
	}()
	return p, nil
}

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// outcome is how a process ended.
type outcome struct {
	signalled bool // by SIGKILL
	told      bool // it said where before it killed itself
	n         int64
	kind      boundary
	took      time.Duration
	err       error // it failed
}

// wait returns how the process ended.
func (p *process) wait() outcome {
	<-p.done
	p.cancel()
	o := outcome{took: p.took, err: p.err}
	status, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	o.signalled = ok && status.Signaled() && status.Signal() == syscall.SIGKILL
	if _, err := fmt.Sscan(p.stdout.String(), &o.n, (*int)(&o.kind)); err == nil {
		o.told = o.signalled
	}
	if o.err != nil {
		o.err = fmt.Errorf("%w after %s: %s", o.err, o.took.Round(time.Millisecond), strings.TrimSpace(p.stderr.String()))
	}
	return o
}
