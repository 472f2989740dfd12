package main

import (
	"fmt"
	"io"
	"time"
)

// report is what was done and found.
type report struct {
	cfg       config
	took      time.Duration
	plan      *planner // nil if it did not come to one
	kills     [boundaries]int64
	lives     time.Duration // of all that were killed
	rounds    map[bool]int64
	escaped   int64 // processes that came to their end before their boundary
	finished  int64 // runs that nobody killed
	together  int64 // salvos of more than one process
	evictions int64
	invalid   int64 // indexes that were met
	inspected int64
	faults    []string
}

func newReport(cfg config) *report { return &report{cfg: cfg, rounds: map[bool]int64{}} }

func (r *report) killed() (n int64) {
	for _, kills := range r.kills {
		n += kills
	}
	return n
}

func (r *report) progress() string {
	return fmt.Sprintf("%d of %d kills, %d rounds, %d faults", r.killed(), r.cfg.Kills, r.rounds[false]+r.rounds[true], len(r.faults))
}

func (r *report) err() error {
	if len(r.faults) > 0 {
		return fmt.Errorf("%d faults", len(r.faults))
	}
	return nil
}

// write writes the report. Errors of w are not reported.
func (r *report) write(w io.Writer) {
	line := func(name, format string, args ...any) {
		_, _ = fmt.Fprintf(w, "%-11s"+format+"\n", append([]any{name}, args...)...)
	}
	_, _ = fmt.Fprintf(w, "seed %d, %d tenants, %d workers, %s\n", r.cfg.Seed, tenants, r.cfg.Workers, r.took.Round(time.Second/10))
	line("kills", "%d, after %s on average", r.killed(), (r.lives / time.Duration(max(1, r.killed()))).Round(time.Millisecond))
	for b, n := range r.kills {
		line("", "%5d %s", n, boundary(b))
	}
	line("rounds", "%d up, %d back", r.rounds[false], r.rounds[true])
	if r.plan != nil {
		up, back := r.plan.sweeps[false], r.plan.sweeps[true]
		line("boundaries", "%d of %d up and %d of %d back were aimed at in turn, others at random", up.done, up.total, back.done, back.total)
	}
	line("runs", "%d: %d killed, %d that came to their end beside or before a kill, %d that nobody was to kill",
		r.killed()+r.escaped+r.finished, r.killed(), r.escaped, r.finished)
	line("", "%d times two at once; %d times the sessions of the dead were ended, which left %d invalid indexes",
		r.together, r.evictions, r.invalid)
	line("tenants", "%d checked", r.inspected)
	line("faults", "%d", len(r.faults))
	for _, f := range r.faults {
		_, _ = fmt.Fprintf(w, "fault: %s\n", f)
	}
}
