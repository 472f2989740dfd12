package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"time"
)

// What a run must have done to count.
const (
	minCancelled = 10.0 // percent of the operations
	minKilled    = 5.0  // percent of the connections that were opened
	// coverFrom is how many operations it takes for every kind, and every class of error that needs no luck, to occur.
	coverFrom = 50_000
)

// report is what a run has found.
type report struct {
	cfg         config
	took        time.Duration
	count       [][classes]int64 // by kind
	sessions    sessions
	deeds       deeds
	interrupted bool
	evicted     int64 // connections that made room for another tenant's

	operations int64
	byClass    [classes]int64
	wrong      int64 // rows
	names      int64
	faults     int64
	faultText  []string // the wrong rows first
	unmet      []string // quotas
}

// sum adds up, once everything is over.
func (r *report) sum(s *soak) {
	for _, of := range r.count {
		for cl, n := range of {
			r.operations += n
			r.byClass[cl] += n
		}
	}
	if !r.interrupted {
		r.checkConnections(s)
		r.checkQuotas()
	}
	r.wrong, r.names, r.faults, r.faultText = s.wrong.Load(), s.names.Load(), s.faults, slices.Concat(s.wrongText, s.faultText)
}

// checkConnections finds connections that were lost without a kill, and those that were thrown away without a reason. Behind a
// pooler the server knows the pooler's connections only.
func (r *report) checkConnections(s *soak) {
	if s.cfg.Pooler {
		return
	}
	// Who is killed ends one operation at most. The server does not count those that were killed before they were ready.
	if n, killed := r.byClass[terminated], max(r.sessions.killed, r.deeds.kills); n > killed {
		s.fault("%d operations lost their connection, and only %d backends were killed", n, killed)
	}
	visits := 2 * (r.deeds.drifts + r.deeds.renames + r.deeds.drops) // of the landlord, to databases of tenants' own
	reasons := r.evicted + visits + r.sessions.killed + r.byClass[cancelledFlying] + r.byClass[late] + r.byClass[panicked] + r.ofKind("session of one's own")
	if most := reasons + r.operations/20 + 100; r.sessions.opened > most { // there are others, such as age and many tenants
		s.fault("%d connections were opened, and there was reason for %d", r.sessions.opened, most)
	}
}

// ofKind returns how many operations of a kind there were.
func (r *report) ofKind(name string) (n int64) {
	for i, k := range kinds {
		if k.name == name {
			for _, of := range r.count[i] {
				n += of
			}
		}
	}
	return n
}

func percent(part, whole int64) float64 {
	if whole == 0 {
		return 0
	}
	return 100 * float64(part) / float64(whole)
}

// cancelled is how many operations were ended by a cancel. Those that a deadline ended are not among them.
func (r *report) cancelled() int64 { return r.byClass[cancelledWaiting] + r.byClass[cancelledFlying] }

func (r *report) checkQuotas() {
	unmet := func(format string, args ...any) { r.unmet = append(r.unmet, fmt.Sprintf(format, args...)) }
	if p := percent(r.cancelled(), r.operations); p < minCancelled {
		unmet("%.1f%% of the operations were cancelled, want %.0f%%", p, minCancelled)
	}
	if p := percent(r.sessions.killed, r.sessions.opened); p < minKilled {
		unmet("%.1f%% of the connections were killed, want %.0f%%", p, minKilled)
	}
	if r.operations < coverFrom {
		return
	}
	for i, k := range kinds {
		if r.count[i][fine]+r.count[i][provoked]+r.count[i][deferred]+r.count[i][denied]+r.count[i][noTenant]+r.count[i][mismatch]+
			r.count[i][refused]+r.count[i][panicked] == 0 {
			unmet("no operation of the kind %q has come to its own end", k.name)
		}
	}
	if r.deeds.drifts == 0 || r.deeds.renames == 0 || r.deeds.drops == 0 {
		unmet("the landlord has not done all that it does")
	}
	for _, cl := range []class{cancelledWaiting, cancelledFlying, busy, late, panicked, terminated, serialization, schemaMissing, deferred} {
		if r.byClass[cl] == 0 {
			unmet("no operation has ended with %q", classNames[cl])
		}
	}
}

// err says in one line what was found, or returns nil.
func (r *report) err() error {
	switch {
	case r.wrong > 0:
		return fmt.Errorf("%d wrong rows", r.wrong)
	case r.faults > 0:
		return fmt.Errorf("%d faults", r.faults)
	case r.interrupted:
		return errors.New("interrupted: nothing was found so far")
	case len(r.unmet) > 0:
		return errors.New("nothing was found, but the run was too gentle to count")
	}
	return nil
}

// write writes the report for a person to read.
func (r *report) write(w io.Writer) {
	p := func(format string, args ...any) { _, _ = fmt.Fprintf(w, format+"\n", args...) }
	way := "direct"
	if r.cfg.Pooler {
		way = "through PgBouncer"
	}
	p("seed %d, %d tenants of %d logins, %d with a database, %d goroutines, %d connections, %s", r.cfg.Seed, r.cfg.Tenants, r.cfg.Logins,
		r.cfg.Databases, r.cfg.Goroutines, r.cfg.Conns, way)
	p("")
	p("%-44s %12d", "wrong rows", r.wrong)
	p("%-44s %12d", "faults: wrong rows, lost or doubled writes,", r.faults)
	p("%-44s", "  unexpected errors, anything left behind")
	p("")
	p("%-44s %12d", "operations", r.operations)
	for _, k := range kinds {
		p("  %-42s %12d", k.name, r.ofKind(k.name))
	}
	p("")
	p("%-44s %12d", "operations that ended in an error", r.operations-r.byClass[fine])
	for cl := fine + 1; cl < classes; cl++ {
		p("  %-42s %12d", classNames[cl], r.byClass[cl])
	}
	p("")
	p("%-44s %12d %6.1f%%", "operations cancelled", r.cancelled(), percent(r.cancelled(), r.operations))
	p("%-44s %12d", "connections opened", r.sessions.opened)
	p("%-44s %12d %6.1f%%", "connections killed", r.sessions.killed, percent(r.sessions.killed, r.sessions.opened))
	p("%-44s %12d", "named statements on a connection, at most", r.names)
	p("%-44s %12d", "columns that changed their type", r.deeds.drifts)
	p("%-44s %12d", "schemas renamed away", r.deeds.renames)
	p("%-44s %12d", "schemas dropped", r.deeds.drops)
	p("%-44s %12d", "  of them never built anew", r.deeds.retired)
	p("%-44s %12.0f", "operations per second", float64(r.operations)/r.took.Seconds())
	p("%-44s %12s", "time", r.took.Round(time.Second))
	for _, text := range r.faultText {
		p("\nfault: %s", text)
	}
	if more := r.faults - int64(len(r.faultText)); more > 0 {
		p("\nand %d more", more)
	}
	for _, text := range r.unmet {
		p("\nquota: %s", text)
	}
}
