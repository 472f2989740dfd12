package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// small is a model of some servers, short of disk and with more coming and going than the default one.
func small(seed uint64) model {
	m := defaultModel()
	m.Tenants, m.Years, m.Seed = 4000, 2, seed
	m.MaxTenants, m.MaxDatabases = 200, 10
	m.DiskMB, m.OwnDiskMB, m.OwnMB = 4<<10, 40<<10, 1<<10
	m.MovesPerDay, m.RetireInYear, m.Leaving = 15, 2, 0.4
	return m
}

func run(tb testing.TB, m model) *simulation {
	tb.Helper()
	s, err := simulate(m)
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

func printed(s *simulation) string {
	var b strings.Builder
	s.write(&b, true)
	return b.String()
}

// Whatever comes: each tenant is in one place, no server has more than its maximum, and no day more moves than are allowed. The
// simulation itself checks the first two at the end of each period.
func TestRulesHold(t *testing.T) {
	t.Parallel()
	for seed := range uint64(20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			m := small(seed)
			s := run(t, m)
			if err := s.check(); err != nil {
				t.Error(err)
			}
			worst := s.worst()
			if worst.maxFill > 1 || worst.mostMoves > m.MovesPerDay {
				t.Errorf("fill %v, %d moves in a day", worst.maxFill, worst.mostMoves)
			}
			if len(s.companies) != m.Tenants || len(s.report) != 10 || s.report[9].day != s.days {
				t.Errorf("%d tenants, %d periods, the last one until day %d", len(s.companies), len(s.report), s.report[9].day)
			}
			// It is a run in which something happens.
			moved, left, own := 0, 0, 0
			for _, p := range s.report {
				moved, left, own = moved+p.moves, left+p.left, own+p.toOwn
			}
			if moved < 100 || left < 500 || own == 0 || len(s.servers) < 10 {
				t.Errorf("%d moved, %d left, %d to databases of their own, %d servers", moved, left, own, len(s.servers))
			}
			if first := s.servers[0]; len(first.members) != 0 || !first.draining {
				t.Errorf("the server that was to be retired has %d tenants", len(first.members))
			}
		})
	}
}

// A rule that is broken is found.
func TestCheckFindsFaults(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]func(s *simulation){
		"two places":  func(s *simulation) { s.servers[1].members = append(s.servers[1].members, s.servers[2].members[0]) },
		"no place":    func(s *simulation) { v := s.servers[1]; v.members = v.members[:len(v.members)-1] },
		"too many":    func(s *simulation) { s.servers[1].maxTenants = len(s.servers[1].members) - 1 },
		"wrong sum":   func(s *simulation) { s.servers[1].size += 10 },
		"wrong count": func(s *simulation) { s.living++ },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := run(t, small(1))
			fault(s)
			if s.check() == nil {
				t.Error("not found")
			}
		})
	}
}

func TestSeedDecides(t *testing.T) {
	t.Parallel()
	first := printed(run(t, small(7)))
	if diff := cmp.Diff(first, printed(run(t, small(7)))); diff != "" {
		t.Errorf("the same seed gives another run: %s", diff)
	}
	if first == printed(run(t, small(8))) {
		t.Error("another seed gives the same run")
	}
}

// Moves are what keeps disks from being full.
func TestMovesKeepDisksFree(t *testing.T) {
	t.Parallel()
	m := small(3)
	if worst := run(t, m).worst().worstDisk; worst > 1 {
		t.Errorf("with moves the worst disk is at %v", worst)
	}
	m.MovesPerDay = 0
	if worst := run(t, m).worst().worstDisk; worst <= 1 {
		t.Errorf("without moves the worst disk is at %v", worst)
	}
}

// A million tenants are well inside the limits.
func TestMillion(t *testing.T) {
	t.Parallel()
	s := run(t, defaultModel())
	worst := s.worst()
	if worst.maxFill > 0.85 || worst.worstDisk > 1 || worst.worstRate > 1 || len(s.companies) != 1_000_000 {
		t.Errorf("fill %v, disk %v, load %v, %d tenants", worst.maxFill, worst.worstDisk, worst.worstRate, len(s.companies))
	}
	if err := s.check(); err != nil {
		t.Error(err)
	}
}

func TestModelsThatCannotBe(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(*model){
		"no tenants":     func(m *model) { m.Tenants = 0 },
		"no years":       func(m *model) { m.Years = 0 },
		"too many years": func(m *model) { m.Years = 101 },
		"no disk":        func(m *model) { m.DiskMB = 0 },
		"moves back":     func(m *model) { m.MovesPerDay = -1 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := small(1)
			spoil(&m)
			if _, err := simulate(m); err == nil {
				t.Error("no error")
			}
		})
	}
}
