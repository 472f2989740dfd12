package migrate

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
)

// Report is what became of many targets. Each list is in the order of the targets given; each target is in one of them.
type Report struct {
	// Applied holds the targets that were brought up to date.
	Applied []Result
	// Current holds the targets that had nothing to do.
	Current []Result
	// Failed holds the targets that could not be brought up to date. Each has an Err, and may have Applied some files.
	Failed []Result
	// Unfinished holds the targets that were not reached, or broken off, when the context ended.
	Unfinished []Result
}

// Up brings many targets up to date, Config.Workers at a time, begun in the order given. A target that fails does not hold up
// the others. progress, if not nil, is called once for each target that is finished, as soon as it is, never by two goroutines
// at a time; workers wait for it.
//
// The error is a *FailedError if targets failed. If the context ended first, the error wraps the context's, and the report
// tells what was done until then.
func (m *Migrator) Up(ctx context.Context, targets []Target, progress func(Result)) (Report, error) {
	results := make([]Result, len(targets))
	done := make([]bool, len(targets))
	found := m.survey(ctx, targets)
	var mu sync.Mutex // serialises progress
	m.each(ctx, len(targets), func(i int) {
		result, err := m.applyFound(ctx, targets[i], found[i])
		results[i], done[i] = result, !interrupted(ctx, err)
		if done[i] && progress != nil {
			mu.Lock()
			defer mu.Unlock()
			progress(result)
		}
	})
	var report Report
	for i, r := range results {
		r.Target, r.Schema = cmp.Or(targets[i].Name, targets[i].Schema), targets[i].Schema
		switch {
		case !done[i]:
			report.Unfinished = append(report.Unfinished, r)
		case r.Err != nil:
			report.Failed = append(report.Failed, r)
		case len(r.Applied) > 0:
			report.Applied = append(report.Applied, r)
		default:
			report.Current = append(report.Current, r)
		}
	}
	return report, m.outcome(ctx, report.Failed, len(report.Unfinished), len(targets))
}

// applyFound applies what a survey found missing. It spares a target that lacks nothing a session of its own.
func (m *Migrator) applyFound(ctx context.Context, t Target, f finding) (Result, error) {
	if f.err == nil && !f.exposed && len(m.set.pending(f.ledger)) == 0 {
		return Result{Target: cmp.Or(t.Name, t.Schema), Schema: t.Schema}, nil
	}
	return m.Apply(ctx, t)
}

// outcome is the error of a call with many targets.
func (m *Migrator) outcome(ctx context.Context, failed []Result, unfinished, total int) error {
	var err error
	if len(failed) > 0 {
		err = &FailedError{Failed: failed, Total: total}
	}
	switch {
	case unfinished == 0:
		return err
	case err == nil:
		return fmt.Errorf("stopped with %d of %d targets unfinished: %w", unfinished, total, contextError(ctx))
	default:
		return fmt.Errorf("stopped with %d of %d targets unfinished: %w; %w", unfinished, total, contextError(ctx), err)
	}
}

// each calls do for 0 to n-1, in order, from several goroutines, until ctx ends. It returns when all calls have.
func (m *Migrator) each(ctx context.Context, n int, do func(i int)) {
	next := make(chan int)
	var wg sync.WaitGroup
	for range min(m.cfg.Workers, n) {
		wg.Go(func() {
			for i := range next {
				do(i)
			}
		})
	}
	for i := range n {
		if ctx.Err() != nil {
			break
		}
		next <- i
	}
	close(next)
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

// Status tells how far each target is, in the order given. It reads the ledgers of a thousand targets in one query, takes no lock
// and changes nothing; a target without a ledger has everything pending. Targets that could not be read have an Err; the error then is a *FailedError, or wraps the context's as
// that of Up does.
func (m *Migrator) Status(ctx context.Context, targets []Target) ([]TargetStatus, error) {
	statuses := make([]TargetStatus, len(targets))
	var (
		failed     []Result
		unfinished int
	)
	for i, f := range m.survey(ctx, targets) {
		t, s := targets[i], &statuses[i]
		t.Name = cmp.Or(t.Name, t.Schema)
		if f.err == nil {
			*s = m.set.status(f.ledger)
		}
		s.Target, s.Schema, s.Err = t.Name, t.Schema, t.wrap(ctx, f.err)
		switch {
		case interrupted(ctx, s.Err):
			unfinished++
		case s.Err != nil:
			failed = append(failed, Result{Target: s.Target, Schema: s.Schema, Err: s.Err})
		}
	}
	return statuses, m.outcome(ctx, failed, unfinished, len(targets))
}

// status compares the files with a ledger.
func (s *Set) status(ledger map[string]bool) TargetStatus {
	var st TargetStatus
	known := make(map[string]bool, len(s.files))
	for _, f := range s.files {
		known[f.Version] = true
		if ledger[f.Version] {
			st.Applied = append(st.Applied, f.Name)
		} else {
			st.Pending = append(st.Pending, f.Name)
		}
	}
	for version := range ledger {
		if !known[version] {
			st.Unknown = append(st.Unknown, version)
		}
	}
	slices.Sort(st.Unknown)
	return st
}
