package main

import (
	"bytes"
	"context"
	"net"
	"os"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/leasehold-go/leasehold/internal/pgtest"
)

// small is a campaign of some seconds.
func small(t *testing.T) config {
	t.Helper()
	url := pgtest.Database(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return config{
		Kills: 40, Seed: 1, Workers: 2, URL: url, SuperURL: pgtest.SuperURL(t, url),
		Program: self, Migrate: migrateFleet, Progress: t.Output(),
	}
}

func mustRun(t *testing.T, cfg config) *report {
	t.Helper()
	r, err := run(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	r.write(&text)
	t.Log(text.String())
	return r
}

func mustNewCampaign(t *testing.T, cfg config) *campaign {
	t.Helper()
	c, err := newCampaign(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return c
}

// Whatever is killed, running again makes it good.
func TestMigrationsConverge(t *testing.T) {
	t.Parallel()
	r := mustRun(t, small(t))
	if err := r.err(); err != nil {
		t.Error(err)
	}
	if r.killed() < 40 || slices.Contains(r.kills[:whileWaiting], 0) || r.rounds[false] == 0 || r.rounds[true] == 0 {
		t.Error("not everything was done")
	}
}

// The rounds that a small run may come without.
func TestRareRounds(t *testing.T) {
	t.Parallel()
	c := mustNewCampaign(t, small(t))
	for _, tc := range []struct {
		name   string
		back   bool
		salvos []salvo
		did    func(r *report) bool
	}{
		{"an invalid index is left", false, []salvo{{at: []int64{0}, stall: true, evict: true}},
			func(r *report) bool { return r.kills[whileWaiting] == 1 && r.invalid > 0 }},
		{"the dead finish an index on the way back", true, []salvo{{at: []int64{0}, stall: true}},
			func(r *report) bool { return r.kills[whileWaiting] == 2 }},
		{"nothing is left to wait for", false, []salvo{{at: []int64{0}}, {at: []int64{0}, stall: true}},
			func(r *report) bool { return r.kills[whileWaiting] == 2 && r.escaped == 2 }},
		{"two at once, back, and both are killed", true, []salvo{{at: []int64{100, 150}, evict: true}},
			func(r *report) bool { return r.together == 1 && r.killed() == 4 }},
		{"two at once, and one is killed", false, []salvo{{at: []int64{60, 0}}},
			func(r *report) bool { return r.together == 2 && r.killed() == 5 && r.escaped == 3 }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if !tc.back {
				if err := c.site.reset(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if err := c.play(t.Context(), round{back: tc.back, salvos: tc.salvos}); err != nil {
				t.Fatal(err)
			}
			if err := c.report.err(); err != nil || !tc.did(c.report) {
				t.Errorf("it did not go that way: %q, %v; kills %d, faults %q", c.story, err, c.report.kills, c.report.faults)
			}
		})
	}
}

// A process that fails, or is killed by somebody else, is a fault.
func TestFailedProcesses(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		j    job
		kill bool
	}{
		"an unknown course":      {job{course: "sideways", workers: 1}, false},
		"killed by someone else": {job{course: up, workers: 1}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := &campaign{config: small(t), report: newReport(config{})}
			p, err := c.start(t.Context(), tc.j)
			if err != nil {
				t.Fatal(err)
			}
			if tc.kill {
				if err := p.cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
			c.note(round{}, p.wait())
			if c.report.err() == nil || c.report.killed() != 0 {
				t.Errorf("%d kills, faults %q", c.report.killed(), c.report.faults)
			}
		})
	}
}

// What is wrong with a tenant is found, and so is what was left on the server.
func TestInspection(t *testing.T) {
	t.Parallel()
	cfg := small(t)
	c := mustNewCampaign(t, cfg)
	s, whole, rolledBack := c.site, c.wants[false], c.wants[true]
	for _, tc := range []struct {
		name, sql string
		want      string // the tenant that has the fault
	}{
		{"nothing", "", ""},
		{"a file ran twice", "INSERT INTO kills_1.runs (what) VALUES ('05 up')", "kills_1"},
		{"a file did not run", "DELETE FROM kills_1.runs WHERE what = '05 up'", "kills_1"},
		{"a count too many", "UPDATE kills_1.counter SET n = n + 1", "kills_1"},
		{"a file is not in the ledger", "DELETE FROM kills_2.schema_migrations WHERE version = '04'", "kills_2"},
		{"a version of no file", "INSERT INTO kills_2.schema_migrations VALUES ('10')", "kills_2"},
		{"another file", `UPDATE kills_2.schema_migrations SET checksum = '\x00' WHERE version = '04'`, "kills_2"},
		{"an invalid index", "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'kills_0.orders_by_number'::regclass", "kills_0"},
		{"no index", "DROP INDEX kills_0.orders_by_number", "kills_0"},
		{"a column too many", "ALTER TABLE kills_0.lines ADD extra int", "kills_0"},
		{"rights on the ledger", "GRANT SELECT ON kills_0.schema_migrations TO PUBLIC", "kills_0"},
		{"no ledger", "DROP TABLE kills_0.schema_migrations", "kills_0"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s.migrate(t, up, 0)
			if err := s.exec(t.Context(), tc.sql); err != nil {
				t.Fatal(err)
			}
			found := s.found(t, whole)
			if tc.want == "" && len(found) > 0 || tc.want != "" && !slices.Equal(slices.Compact(found), []string{tc.want}) {
				t.Errorf("found in %q, want %q", found, tc.want)
			}
		})
	}
	t.Run("the way back", func(t *testing.T) {
		s.migrate(t, up, 0)
		s.migrate(t, backLast, 1)
		if found := s.found(t, rolledBack); len(found) > 0 {
			t.Errorf("found in %q", found)
		}
		if found := s.found(t, whole); !slices.Equal(slices.Compact(found), []string{"kills_0", "kills_1", "kills_2"}) {
			t.Errorf("what is not whole was found in %q", found)
		}
	})
	t.Run("a session with a lock", func(t *testing.T) {
		s.migrate(t, up, 0)
		if left, err := s.left(t.Context()); len(left) != 0 || err != nil { // which waits until it is quiet
			t.Fatalf("left is %q, %v, want nothing", left, err)
		}
		conn := pgtest.Connect(t, cfg.URL)
		if _, err := conn.Exec(t.Context(), "SELECT pg_advisory_lock(1)"); err != nil {
			t.Fatal(err)
		}
		s.patience = 0
		if left, err := s.left(t.Context()); len(left) != 2 || err != nil {
			t.Errorf("left is %q, %v, want a session and its lock", left, err)
		}
	})
}

// migrate takes the fleet along a course, which begins with a new one if nothing is standing.
func (s *site) migrate(t *testing.T, c course, standing int) {
	t.Helper()
	if standing == 0 {
		if err := s.reset(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := migrateFleet(t.Context(), s.url, job{course: c, workers: 2}, &clock{}); err != nil {
		t.Fatal(err)
	}
}

// found inspects, and returns the tenants that have faults, once for each fault.
func (s *site) found(t *testing.T, want state) []string {
	t.Helper()
	faults, err := s.inspect(t.Context(), want)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range faults {
		t.Log(f.tenant, f.what)
		names = append(names, f.tenant)
	}
	slices.Sort(names)
	return names
}

func TestClock(t *testing.T) {
	t.Parallel()
	for want := range whileWaiting {
		t.Run(want.String(), func(t *testing.T) {
			t.Parallel()
			var struck []boundary
			c := &clock{at: 4 + int64(want) + 1, strike: func(_ int64, b boundary) { struck = append(struck, b) }}
			server, client := net.Pipe()
			defer func() { _ = server.Close() }()
			conn, err := c.dial(func(context.Context, string, string) (net.Conn, error) { return client, nil })(t.Context(), "", "")
			if err != nil {
				t.Fatal(err)
			}
			go func() { // an echo
				b := make([]byte, 1)
				for range 2 {
					_, _ = server.Read(b)
					_, _ = server.Write(b)
				}
			}()
			b := make([]byte, 1)
			for range 2 {
				if _, err := conn.Write(b); err != nil {
					t.Fatal(err)
				}
				if _, err := conn.Read(b); err != nil {
					t.Fatal(err)
				}
			}
			if err := conn.Close(); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]boundary{want}, struck); diff != "" || c.passed.Load() != 8 {
				t.Errorf("%d boundaries; want - and got +:\n%s", c.passed.Load(), diff)
			}
		})
	}
}

func TestPlan(t *testing.T) {
	t.Parallel()
	const upTotal, backTotal = 97, 60
	aims := map[bool]map[int64]int{false: {}, true: {}}
	p, again := newPlanner(7, upTotal, backTotal), newPlanner(7, upTotal, backTotal)
	whole := false
	for range upTotal + backTotal {
		r := p.next(whole)
		if diff := cmp.Diff(r, again.next(whole), cmp.AllowUnexported(round{}, salvo{})); diff != "" {
			t.Fatal(diff)
		}
		aims[r.back][r.salvos[0].at[0]]++
		if r.back && !whole {
			t.Fatal("a fleet is rolled back that is not whole")
		}
		whole = !r.back
	}
	for back, total := range map[bool]int64{false: upTotal, true: backTotal} {
		for at := int64(1); at <= total; at++ {
			if aims[back][at] != 1 {
				t.Errorf("boundary %d was aimed at %d times (back: %t)", at, aims[back][at], back)
			}
		}
	}
	if r := p.next(true); r.salvos[0].at[0] < 1 || r.salvos[0].at[0] > upTotal {
		t.Errorf("after all boundaries: %v", r)
	}
	first, other := newPlanner(7, upTotal, backTotal), newPlanner(8, upTotal, backTotal)
	if cmp.Equal(first.next(false), other.next(false), cmp.AllowUnexported(round{}, salvo{})) {
		t.Error("another seed chooses the same")
	}
}

func TestJobArguments(t *testing.T) {
	t.Parallel()
	want := job{course: backLast, workers: 3, at: 77}
	args := want.args()
	got, err := parseJob(args[1:])
	if err != nil || got != want || args[0] != childFlag {
		t.Errorf("%q is read as %+v, %v", args, got, err)
	}
}
