package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/leasehold-go/leasehold/db/tenant"
)

func testHouse() *house { return newHouse(&tenant.Tenant{Slug: "acme"}) }

// what an audit finds when exactly these effects are there.
func foundOf(effects ...effect) found {
	f := found{standing: standingRows, present: map[int32]bool{}}
	for _, e := range effects {
		f.added += e.added
		for _, b := range e.blocks {
			f.rows += int64(b.n)
			f.idSum += b.idSum()
			for i := range b.n {
				f.present[b.first+i] = true
			}
		}
	}
	return f
}

func TestAnAuditComparesWritesWithTheBooks(t *testing.T) {
	t.Parallel()
	increment, insert := effect{added: 1}, effect{blocks: []block{{1000, 1}}}
	both := effect{added: 2, blocks: []block{{1010, 3}}}
	part := effect{added: 2, blocks: []block{{1010, 2}}}
	for name, tc := range map[string]struct {
		committed, unknown, undone, open []effect
		there                            []effect
		faults                           int
	}{
		"nothing":                         {},
		"what was acknowledged":           {committed: []effect{increment, insert, both}, there: []effect{increment, insert, both}},
		"a lost increment":                {committed: []effect{increment, increment}, there: []effect{increment}, faults: 1},
		"a doubled increment":             {committed: []effect{increment}, there: []effect{increment, increment}, faults: 1},
		"a lost row":                      {committed: []effect{insert}, faults: 1},
		"a lost write of both":            {committed: []effect{both}, faults: 2},
		"what failed is not there":        {undone: []effect{increment, both}},
		"what failed is there":            {undone: []effect{insert}, there: []effect{insert}, faults: 1},
		"an increment that failed":        {undone: []effect{increment}, there: []effect{increment}, faults: 1},
		"unknown and there":               {unknown: []effect{increment, both}, there: []effect{increment, both}},
		"unknown and not there":           {unknown: []effect{increment, both}},
		"unknown and torn":                {unknown: []effect{both}, there: []effect{part}, faults: 2},
		"rows without their increments":   {unknown: []effect{both}, there: []effect{{blocks: both.blocks}}, faults: 1},
		"increments without their rows":   {unknown: []effect{both}, there: []effect{{added: 2}}, faults: 1},
		"unknown and doubled":             {unknown: []effect{increment}, there: []effect{increment, increment}, faults: 1},
		"under way and there, or not yet": {open: []effect{increment, both, insert}, there: []effect{both}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := testHouse()
			for o, effects := range map[outcome][]effect{committed: tc.committed, unknown: tc.unknown, undone: tc.undone} {
				for _, e := range effects {
					ticket := h.newTicket()
					ticket.intend(e.added, e.blocks...)
					ticket.close(o)
				}
			}
			for _, e := range tc.open {
				h.newTicket().intend(e.added, e.blocks...)
			}
			sure, doubts := h.snapshot()
			if faults := h.compare(sure, doubts, foundOf(tc.there...), standingRows); len(faults) != tc.faults {
				t.Errorf("%d faults, want %d: %v", len(faults), tc.faults, faults)
			}
		})
	}
}

func TestAnAuditFindsStrangersAndMissingRows(t *testing.T) {
	t.Parallel()
	h := testHouse()
	sure, doubts := h.snapshot()
	f := foundOf()
	f.foreign = 1
	f.standing--
	if faults := h.compare(sure, doubts, f, standingRows); len(faults) != 2 {
		t.Errorf("got %v", faults)
	}
}

// A write that lasts longer than the schema may have gone into the one before, into the one after, or nowhere.
func TestBooksAreOfOneSchema(t *testing.T) {
	t.Parallel()
	h := testHouse()
	write := func(id int32) *ticket {
		ticket := h.newTicket()
		ticket.intend(1, block{id, 1})
		return ticket
	}
	write(1000).close(committed)
	across := write(1001)
	h.closeBooks()
	between := write(1002)
	h.openBooks()
	across.close(committed)
	between.close(committed)
	write(1003).close(committed)

	sure, doubts := h.snapshot()
	want := []effect{{1, []block{{1001, 1}}}, {1, []block{{1002, 1}}}}
	if diff := cmp.Diff(want, doubts, cmp.AllowUnexported(effect{}, block{})); diff != "" {
		t.Error(diff)
	}
	if sure.rows != 1 || sure.idSum != 1003 || sure.added != 1 {
		t.Errorf("got %+v", sure)
	}
}

// A write whose caller has gone may wait for the schema's lock, and go into the next one after all. It does not wait twice.
func TestAWriteMayComeLate(t *testing.T) {
	t.Parallel()
	h := testHouse()
	ticket := h.newTicket()
	ticket.intend(1, block{1000, 1})
	ticket.close(unknown)
	for era, want := range []int{1, 1, 0} {
		if _, doubts := h.snapshot(); len(doubts) != want {
			t.Errorf("era %d: %d in doubt, want %d", era, len(doubts), want)
		}
		h.closeBooks()
		h.openBooks()
	}
}

func TestBooksOfASchemaThatWasNotDroppedAfterAll(t *testing.T) {
	t.Parallel()
	h := testHouse()
	write := func() *ticket {
		ticket := h.newTicket()
		ticket.intend(1)
		return ticket
	}
	write().close(committed)
	across := write()
	old := h.closeBooks()
	across.close(committed)
	h.reopenBooks(old)
	write().close(committed)
	if sure, doubts := h.snapshot(); sure.added != 2 || len(doubts) != 1 {
		t.Errorf("sure of %d, %d in doubt; want 2 and 1", sure.added, len(doubts))
	}
}

func TestChooseDependsOnTheSeedAlone(t *testing.T) {
	t.Parallel()
	s := &soak{}
	for range 40 {
		s.houses = append(s.houses, testHouse())
	}
	s.hot = s.houses[:4]
	for _, k := range kinds {
		s.weights += k.weight
	}
	choices := func(seed uint64) (all []plan) {
		for k := range uint64(2000) {
			p := s.choose(rand.New(rand.NewPCG(seed, k)))
			if p.house == p.other {
				t.Fatal("the other tenant is the same")
			}
			all = append(all, p)
		}
		return all
	}
	same := cmp.Comparer(func(a, b plan) bool { return a == b })
	first := choices(1)
	if !cmp.Equal(first, choices(1), same) {
		t.Error("one seed has chosen differently")
	}
	if cmp.Equal(first, choices(2), same) {
		t.Error("two seeds have chosen the same")
	}
	seen := map[string]bool{}
	for _, p := range first {
		seen[p.kind.name] = true
	}
	if len(seen) != len(kinds) {
		t.Errorf("%d kinds of %d were chosen", len(seen), len(kinds))
	}
}

func TestQuotas(t *testing.T) {
	t.Parallel()
	full := func() *report {
		r := &report{count: make([][classes]int64, len(kinds)), sessions: sessions{opened: 1e5, killed: 5e4}, deeds: deeds{1, 1, 1, 1, 0}}
		for i := range kinds {
			for cl := range other {
				r.count[i][cl] = 1000
			}
			r.count[i][wrongRow] = 0
		}
		return r
	}
	for name, tc := range map[string]struct {
		change func(*report)
		unmet  bool
	}{
		"all met":           {func(*report) {}, false},
		"too few cancelled": {func(r *report) { r.byClass[fine] = 1; r.count[0][fine] = 1e7 }, true},
		"too few killed":    {func(r *report) { r.sessions.opened, r.sessions.killed = 1e6, 4e4 }, true},
		"none opened":       {func(r *report) { r.sessions = sessions{} }, true},
		"lost without kill": {func(r *report) { r.count[0][terminated] = 5e4 }, true},
		"thrown away":       {func(r *report) { r.sessions.opened, r.sessions.killed = 1e6, 5e4 }, true},
		"a kind never ran":  {func(r *report) { r.count[3] = [classes]int64{} }, true},
		"nothing conflicted": {func(r *report) {
			for i := range kinds {
				r.count[i][serialization] = 0
			}
		}, true},
		"nothing was dropped": {func(r *report) { r.deeds.drops = 0 }, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := full()
			tc.change(r)
			r.sum(&soak{})
			if (r.err() != nil) != tc.unmet {
				t.Errorf("got %v, unmet %v", r.err(), r.unmet)
			}
		})
	}
}

func TestOutcomes(t *testing.T) {
	t.Parallel()
	failed := &pgconn.PgError{Severity: "ERROR", SeverityUnlocalized: "ERROR", Code: foreignKey}
	fatal := &pgconn.PgError{Severity: "FATAL", SeverityUnlocalized: "FATAL", Code: adminShutdown}
	for name, tc := range map[string]struct {
		err  error
		sent bool
		want outcome
	}{
		"no error":                {nil, true, committed},
		"the server rolled back":  {fmt.Errorf("x: %w", failed), true, undone},
		"the backend was ended":   {fatal, true, unknown},
		"ended before the commit": {fatal, false, undone},
		"no tenant":               {tenant.ErrNoTenant, true, undone},
		"anything else":           {errors.New("x"), true, unknown},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := outcomeOf(tc.err, tc.sent); got != tc.want {
				t.Errorf("got %d, want %d", got, tc.want)
			}
		})
	}
}
