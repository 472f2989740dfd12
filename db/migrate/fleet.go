package migrate

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Report is what became of many targets. Each list is in the order of the targets given; each target is in one of them.
type Report struct {
	// Applied holds the targets that were brought up to date, or rolled back.
	Applied []Result
	// Current holds the targets that had nothing to do.
	Current []Result
	// Failed holds the targets that could not be brought up to date. Each has an Err, and may have Applied some files.
	Failed []Result
	// Ahead is how many targets have versions that no file has: a newer release was there, or these are the wrong files.
	Ahead int
	// To is the place that a Rollback goes back to, as Back.To takes it.
	To string
	// Unfinished holds the targets that were not begun, or were broken off because the context ended.
	Unfinished []Result
}

// Options are how one call goes over many targets. The zero value goes over all of them, come what may.
type Options struct {
	// Canary is how many of the targets that need work come first, by themselves. The others are begun only if all of these go well.
	// Defaults to none.
	Canary Share
	// MaxFailures is how many targets may fail before no other is begun. Defaults to any number.
	MaxFailures int
	// Stop, when it is closed, lets the targets in hand be finished and no other be begun. Whoever waits for another runner, or to try
	// again, gives up. Defaults to never.
	Stop <-chan struct{}
	// Surveyed is called before the first target is begun, with how far each is, in the order given, as Status tells it. Defaults to
	// nothing.
	Surveyed func([]TargetStatus)
	// Progress is called once for each target that is finished, as soon as it is, never by two goroutines at a time; workers wait for
	// it. Defaults to nothing.
	Progress func(Result)
}

// Share is a number of targets, or a part of all. Its zero value is none.
type Share struct {
	// Count counts if it is not 0.
	Count int
	// Percent is rounded up to whole targets.
	Percent float64
}

// ParseShare reads "3" and "2.5%".
func ParseShare(s string) (Share, error) {
	if number, ok := strings.CutSuffix(s, "%"); ok {
		if p, err := strconv.ParseFloat(number, 64); err == nil && p >= 0 && p <= 100 {
			return Share{Percent: p}, nil
		}
	} else if n, err := strconv.Atoi(s); err == nil && n >= 0 {
		return Share{Count: n}, nil
	}
	return Share{}, fmt.Errorf("%q is neither a number of tenants nor a percentage from 0%% to 100%%", s)
}

// of is the share of n.
func (s Share) of(n int) int {
	if s.Count > 0 {
		return min(s.Count, n)
	}
	return int(math.Ceil(float64(n) * s.Percent / 100))
}

// Up brings many targets up to date, Config.Workers at a time, begun in the order given. A target that fails does not hold up
// the others, unless the options say so; it stays as it was before the file that failed.
//
// The error is a *FailedError if targets failed. If targets were left out, the error also says why: it wraps the context's error,
// [ErrStopped], [ErrCanary] or [ErrTooManyFailures]. The report tells what was done until then; running again goes on from there.
func (m *Migrator) Up(ctx context.Context, targets []Target, opts Options) (Report, error) {
	return m.run(ctx, targets, opts, m.survey(ctx, targets, opts.Stop), m.set.forward, false)
}

// Back is how far to roll back.
type Back struct {
	// Last is how many migrations: the last ones of those that at least one of the targets has.
	Last int
	// To is the version or the name of the file that is to be the last one left; "0" leaves none. It counts if Last is 0.
	To string
}

// Rollback runs the down sections of the last migrations, the newest first, with the same care as Up: locks, checks, one transaction
// with the ledger, options. Which migrations these are is decided once, for all targets: a target that does not have them is left
// alone, so that a fleet that was migrated in part comes back to one state. Result.Applied names the files that were rolled back.
//
// A rollback that was broken off is repeated with Back.To, which Report.To tells: by then the last migrations may be others. A target
// that cannot be read fails and is left alone; if the migrations are to be counted, nothing is begun then.
//
// The error is that of Up, or one about back; [ErrNoWayBack] if a file has no down section, in which case nothing is changed anywhere.
func (m *Migrator) Rollback(ctx context.Context, targets []Target, back Back, opts Options) (Report, error) {
	found := m.survey(ctx, targets, opts.Stop)
	to, undo, err := m.undo(targets, found, back)
	if err != nil {
		return Report{}, err
	}
	report, err := m.run(ctx, targets, opts, found, m.set.backward(undo), true)
	report.To = to
	return report, err
}

// undo returns the files that are to be rolled back, and the place before them.
func (m *Migrator) undo(targets []Target, found []finding, back Back) (to string, undo []*file, err error) {
	var ledgers []map[string]bool
	for i, f := range found {
		if f.err != nil && back.Last > 0 {
			return "", nil, fmt.Errorf("which migrations are the last is not known, name the one to go back to: %s cannot be read: %w", targets[i].name(), f.err)
		}
		ledgers = append(ledgers, f.ledger)
	}
	switch to = back.To; {
	case back.Last < 0 || back.Last == 0 && back.To == "":
		return "", nil, errors.New("roll back how many migrations?")
	case back.Last > 0:
		if to, err = m.set.beforeLast(back.Last, ledgers); err != nil {
			return "", nil, err
		}
	}
	if undo, err = m.set.after(to); err != nil {
		return "", nil, err
	}
	for _, f := range undo {
		applied := slices.ContainsFunc(ledgers, func(ledger map[string]bool) bool { return ledger[f.Version] })
		if applied && len(f.down.statements) == 0 {
			return "", nil, fmt.Errorf("%w: %s has no down section", ErrNoWayBack, f.Name)
		}
	}
	return to, undo, nil
}

// run takes the targets where a course leads, given what a survey found. Those that it could not read are tried again, unless all must
// have been read.
func (m *Migrator) run(ctx context.Context, targets []Target, opts Options, found []finding, c course, allRead bool) (Report, error) {
	if opts.Surveyed != nil {
		opts.Surveyed(m.statuses(ctx, targets, found))
	}
	r := &run{m: m, targets: targets, opts: opts, found: found, course: c, results: make([]Result, len(targets)), done: make([]bool, len(targets))}
	var work []int
	for i, f := range found {
		steps, err := c(f.ledger)
		switch {
		case f.err != nil && allRead:
			r.finish(ctx, i, Result{Err: targets[i].wrap(ctx, f.err)})
		case f.err == nil && err == nil && len(steps) == 0 && !f.exposed:
			r.finish(ctx, i, Result{})
		default:
			work = append(work, i)
		}
	}
	if len(work) > 0 {
		r.workers = m.workers(ctx, targets[work[0]])
		canaries, failures := opts.Canary.of(len(work)), r.failures
		r.wave(ctx, work[:canaries])
		if r.failures > failures && r.why == nil {
			r.why = ErrCanary
		}
		r.wave(ctx, work[canaries:])
	}
	return r.report()
}

// run is one call of Up or Rollback.
type run struct {
	m       *Migrator
	targets []Target
	opts    Options
	found   []finding
	course  course
	workers int

	mu       sync.Mutex // guards what follows, and serialises Progress
	results  []Result
	done     []bool
	failures int
	why      error // why no further target is begun
}

// wave goes over some targets.
func (r *run) wave(ctx context.Context, indexes []int) {
	workers := make([]*worker, min(r.workers, len(indexes)))
	for n := range workers {
		workers[n] = &worker{ctx: ctx, m: r.m, stop: r.opts.Stop}
	}
	visit := func(n, i int) {
		at := indexes[i]
		t := r.targets[at]
		t.Name = t.name()
		start := time.Now()
		applied, err := workers[n].visit(t, r.course, r.found[at].ledgerState)
		r.finish(ctx, at, Result{Applied: applied, Duration: time.Since(start), Err: t.wrap(ctx, err)})
	}
	// A worker that is done gives back the lock of the last target at once: other runners may wait for it, and others of ours for them.
	each(len(workers), len(indexes), func() bool { return r.mayBegin(ctx) }, visit, func(n int) { workers[n].close() })
}

// mayBegin reports whether one more target may be begun.
func (r *run) mayBegin(ctx context.Context) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.notice(ctx)
	return r.why == nil
}

// notice notes that the context has ended, or that the run was asked to stop. The caller holds mu.
func (r *run) notice(ctx context.Context) {
	if r.why != nil {
		return
	}
	select {
	case <-ctx.Done():
		r.why = contextError(ctx)
	case <-r.opts.Stop:
		r.why = ErrStopped
	default:
	}
}

// finish notes what became of a target.
func (r *run) finish(ctx context.Context, i int, result Result) {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := r.targets[i]
	result.Target, result.Schema = t.name(), t.Schema
	r.results[i] = result
	if interrupted(ctx, result.Err) || errors.Is(result.Err, ErrStopped) {
		r.notice(ctx)
		return
	}
	r.done[i] = true
	if result.Err != nil {
		if r.failures++; r.failures == r.opts.MaxFailures && r.why == nil {
			r.why = fmt.Errorf("%w: %d", ErrTooManyFailures, r.failures)
		}
	}
	if r.opts.Progress != nil {
		r.opts.Progress(result)
	}
}

// report sorts the results.
func (r *run) report() (Report, error) {
	var report Report
	for i, result := range r.results {
		t := r.targets[i]
		result.Target, result.Schema = t.name(), t.Schema // not set where none was begun
		switch {
		case !r.done[i]:
			report.Unfinished = append(report.Unfinished, result)
		case result.Err != nil:
			report.Failed = append(report.Failed, result)
		case len(result.Applied) > 0:
			report.Applied = append(report.Applied, result)
		default:
			report.Current = append(report.Current, result)
		}
	}
	for _, f := range r.found {
		if len(r.m.set.unknown(f.ledger)) > 0 {
			report.Ahead++
		}
	}
	return report, outcome(report.Failed, len(report.Unfinished), len(r.targets), r.why)
}

// outcome is the error of a call with many targets, and why some of them were left out.
func outcome(failed []Result, unfinished, total int, why error) error {
	var err error
	if len(failed) > 0 {
		err = &FailedError{Failed: failed, Total: total}
	}
	switch {
	case unfinished == 0:
		return err
	case err == nil:
		return fmt.Errorf("stopped with %d of %d targets unfinished: %w", unfinished, total, why)
	default:
		return fmt.Errorf("stopped with %d of %d targets unfinished: %w; %w", unfinished, total, why, err)
	}
}

// each calls do for 0 to n-1, begun in order, from several goroutines, as long as it may, and done at the end of each goroutine. Both
// are told which goroutine calls. It returns when all calls have.
func each(goroutines, n int, may func() bool, do func(goroutine, i int), done func(goroutine int)) {
	var (
		next atomic.Int64
		wg   sync.WaitGroup
	)
	for g := range min(goroutines, n) {
		wg.Go(func() {
			defer done(g)
			for may() {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				do(g, i)
			}
		})
	}
	wg.Wait()
}

// TargetStatus is how far one target is.
type TargetStatus struct {
	// Target and Schema are the Target's.
	Target, Schema string
	// Applied holds the names of the files that the ledger knows, in order.
	Applied []string
	// Pending holds the names of the files that Up would apply, in order.
	Pending []string
	// Unknown holds the versions in the ledger that no file has, sorted: a newer program was here, or a file was removed.
	Unknown []string
	// Err is nil or an *Error; the lists are then empty.
	Err error
}

// Status tells how far each target is, in the order given. It reads the ledgers of some hundred targets in one query, takes no lock
// and changes nothing; a target without a ledger has everything pending. Targets that could not be read have an Err; the error then is
// a *FailedError, or wraps the context's as that of Up does.
func (m *Migrator) Status(ctx context.Context, targets []Target) ([]TargetStatus, error) {
	statuses := m.statuses(ctx, targets, m.survey(ctx, targets, nil))
	var (
		failed     []Result
		unfinished int
	)
	for _, s := range statuses {
		switch {
		case interrupted(ctx, s.Err):
			unfinished++
		case s.Err != nil:
			failed = append(failed, Result{Target: s.Target, Schema: s.Schema, Err: s.Err})
		}
	}
	return statuses, outcome(failed, unfinished, len(targets), contextError(ctx))
}

// statuses says what a survey has found.
func (m *Migrator) statuses(ctx context.Context, targets []Target, found []finding) []TargetStatus {
	statuses := make([]TargetStatus, len(targets))
	for i, f := range found {
		t, s := targets[i], &statuses[i]
		t.Name = t.name()
		if f.err == nil {
			*s = m.set.status(f.ledger)
		}
		s.Target, s.Schema, s.Err = t.Name, t.Schema, t.wrap(ctx, f.err)
	}
	return statuses
}

// status compares the files with a ledger.
func (s *Set) status(ledger map[string]bool) TargetStatus {
	st := TargetStatus{Unknown: s.unknown(ledger)}
	for _, f := range s.files {
		if ledger[f.Version] {
			st.Applied = append(st.Applied, f.Name)
		} else {
			st.Pending = append(st.Pending, f.Name)
		}
	}
	return st
}

// unknown returns the versions in a ledger that no file has, sorted.
func (s *Set) unknown(ledger map[string]bool) []string {
	var versions []string
	for version := range ledger {
		if s.byVersion[version] == nil {
			versions = append(versions, version)
		}
	}
	slices.Sort(versions)
	return versions
}
