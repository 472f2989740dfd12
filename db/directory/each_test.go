package directory

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/leasehold-go/leasehold/db/tenant"
)

// newFleet opens a Directory with n active tenants, co-1 to co-n in the order of their ids, that are rows and nothing else.
func newFleet(tb testing.TB, n int) (d *Directory, exec func(sql string, args ...any)) {
	tb.Helper()
	d, url := newDirectory(tb)
	conn := connectTo(tb, url)
	exec = func(sql string, args ...any) { mustExec(tb, conn, sql, args...) }
	exec(`INSERT INTO tenants (id, slug, company, contact_name, contact_email, status, cluster, strategy, database_name, schema_name, role_name)
		SELECT ('00000000-0000-7000-8000-' || lpad(to_hex(i), 12, '0'))::uuid, 'co-' || i, 'X', 'X', 'x@x.example', 'active', 'default',
			'schema', current_database(), 't_' || i, 'r_' || i FROM generate_series(1, $1::int) i`, n)
	return d, exec
}

// calls counts how often each tenant was called.
type calls struct {
	mu sync.Mutex
	of map[tenant.Slug]int // guarded by mu
}

func (c *calls) count(t *tenant.Tenant) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.of == nil {
		c.of = map[tenant.Slug]int{}
	}
	c.of[t.Slug]++
}

// wantOnce checks that the tenants co-1 to co-n got one call each, but for those that are excepted.
func (c *calls) wantOnce(tb testing.TB, n int, except ...tenant.Slug) {
	tb.Helper()
	want := map[tenant.Slug]int{}
	for i := range n {
		want[tenant.Slug(fmt.Sprintf("co-%d", i+1))] = 1
	}
	maps.DeleteFunc(want, func(s tenant.Slug, _ int) bool { return slices.Contains(except, s) })
	c.mu.Lock()
	defer c.mu.Unlock()
	if diff := cmp.Diff(want, c.of); diff != "" {
		tb.Errorf("calls (-want +got):\n%s", diff)
	}
}

func slugs(failed []*TenantError) []tenant.Slug {
	var list []tenant.Slug
	for _, f := range failed {
		list = append(list, f.Tenant.Slug)
	}
	slices.Sort(list)
	return list
}

// An operator goes over all tenants, over several pages of them, a few at a time.
func TestEach(t *testing.T) {
	t.Parallel()
	const n = 2*eachPage + 10
	d, exec := newFleet(t, n)
	exec(`UPDATE tenants SET status = 'suspended' WHERE slug = 'co-7'`)
	exec(`UPDATE tenants SET status = 'failed' WHERE slug = 'co-8'`)
	var (
		seen           calls
		inHand, most   atomic.Int64
		progress       int
		lastCheckpoint Checkpoint
	)
	opts := EachOptions{Parallel: 3, Progress: func(p EachProgress) {
		progress++
		lastCheckpoint = p.Checkpoint()
	}}
	report, err := d.Each(t.Context(), opts, func(ctx context.Context, tn *tenant.Tenant) error {
		for now := inHand.Add(1); ; {
			if m := most.Load(); now <= m || most.CompareAndSwap(m, now) {
				break
			}
		}
		defer inHand.Add(-1)
		if inside, err := tenant.FromContext(ctx); err != nil || inside != tn {
			t.Errorf("the context carries %v, %v", inside, err)
		}
		seen.count(tn)
		return nil
	})
	if err != nil || report.Done != n-2 || len(report.Failed) != 0 || report.NotReached != 0 || report.Unfinished != 0 {
		t.Errorf("report %+v, error %v", report, err)
	}
	seen.wantOnce(t, n, "co-7", "co-8")
	if m := most.Load(); m < 1 || m > 3 {
		t.Errorf("%d at a time, want at most 3", m)
	}
	if progress != n-2 || len(report.Checkpoint.Open) != 0 || report.Checkpoint.After != lastCheckpoint.After {
		t.Errorf("progress %d, last checkpoint %v, in the end %v", progress, lastCheckpoint, report.Checkpoint)
	}
	// Who goes on from the end meets nobody but newcomers.
	exec(`UPDATE tenants SET status = 'active' WHERE slug IN ('co-7', 'co-8')`)
	report, err = d.Each(t.Context(), EachOptions{Resume: report.Checkpoint}, func(context.Context, *tenant.Tenant) error { return nil })
	if err != nil || report.Done != 0 {
		t.Errorf("again: %+v, %v", report, err)
	}
}

// What the function does wrong is one tenant's failure.
func TestEachFailures(t *testing.T) {
	t.Parallel()
	d, _ := newFleet(t, 20)
	errBad := errors.New("bad")
	fn := func(_ context.Context, tn *tenant.Tenant) error {
		switch tn.Slug {
		case "co-3":
			return errBad
		case "co-5":
			panic(errBad)
		case "co-7":
			panic("no error")
		case "co-9":
			runtime.Goexit()
		}
		return nil
	}
	report, err := d.Each(t.Context(), EachOptions{Parallel: 1}, fn)
	first, ok := errors.AsType[*TenantError](err)
	if !ok || first.Tenant.Slug != "co-3" || !errors.Is(err, errBad) {
		t.Errorf("error = %v", err)
	}
	if diff := cmp.Diff([]tenant.Slug{"co-3", "co-5", "co-7", "co-9"}, slugs(report.Failed)); diff != "" || report.Done != 16 {
		t.Errorf("%d done, failed %s", report.Done, diff)
	}
	if !errors.Is(report.Failed[1], errBad) {
		t.Errorf("what a panic was given is lost: %v", report.Failed[1])
	}
	// Those that failed come again, and nobody else.
	var seen calls
	again, err := d.Each(t.Context(), EachOptions{Resume: report.Checkpoint}, func(_ context.Context, tn *tenant.Tenant) error {
		seen.count(tn)
		return nil
	})
	if diff := cmp.Diff(map[tenant.Slug]int{"co-3": 1, "co-5": 1, "co-7": 1, "co-9": 1}, seen.of); diff != "" || err != nil || again.Done != 4 {
		t.Errorf("again: %+v, %v: %s", again, err, diff)
	}
}

// A call that is ended early says exactly what is left, and another one does that.
func TestEachIsEndedAndGoesOn(t *testing.T) {
	t.Parallel()
	errBad := errors.New("bad")
	stop := make(chan struct{})
	ended, cancel := context.WithCancelCause(t.Context())
	errWhy := errors.New("enough")
	tests := map[string]struct {
		ctx  context.Context
		opts EachOptions
		fn   func(i int64) error // called for the i-th, counted from 1
		want error
		// What the report says; the rest was not reached.
		done, failed, unfinished int
	}{
		"failures": {
			ctx: t.Context(), opts: EachOptions{Parallel: 1, MaxFailures: 2}, want: ErrTooManyFailures, done: 4, failed: 2,
			fn: func(i int64) error {
				if i%3 == 0 {
					return errBad
				}
				return nil
			},
		},
		"stop": {
			ctx: t.Context(), opts: EachOptions{Parallel: 1, Stop: stop}, want: ErrStopped, done: 5,
			fn: func(i int64) error {
				if i == 5 {
					close(stop)
				}
				return nil
			},
		},
		"context": {
			ctx: ended, opts: EachOptions{Parallel: 1}, want: errWhy, done: 4, unfinished: 1,
			fn: func(i int64) error {
				if i == 5 {
					cancel(errWhy)
					return errBad // of any kind
				}
				return nil
			},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d, _ := newFleet(t, 12)
			var (
				seen  calls
				begun atomic.Int64
			)
			report, err := d.Each(test.ctx, test.opts, func(_ context.Context, tn *tenant.Tenant) error {
				err := test.fn(begun.Add(1))
				if err == nil {
					seen.count(tn)
				}
				return err
			})
			if !errors.Is(err, test.want) {
				t.Errorf("error = %v, want %v", err, test.want)
			}
			got := []int{report.Done, len(report.Failed), report.Unfinished, report.NotReached}
			want := []int{test.done, test.failed, test.unfinished, 12 - test.done - test.failed - test.unfinished}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("done, failed, unfinished, not reached: %s", diff)
			}
			text, err := json.Marshal(report.Checkpoint)
			if err != nil {
				t.Fatal(err)
			}
			var kept Checkpoint
			if err := json.Unmarshal(text, &kept); err != nil {
				t.Fatal(err)
			}
			if _, err := d.Each(t.Context(), EachOptions{Resume: kept}, func(_ context.Context, tn *tenant.Tenant) error {
				seen.count(tn)
				return nil
			}); err != nil {
				t.Error(err)
			}
			seen.wantOnce(t, 12)
		})
	}
}

// Whichever checkpoint is the last one that was kept when a process dies: it and the rest are everybody, and what it has done
// stays done.
func TestEachGoesOnFromAnyCheckpoint(t *testing.T) {
	t.Parallel()
	const n = 24
	d, _ := newFleet(t, n)
	type moment struct {
		checkpoint Checkpoint
		failed     []tenant.Slug
	}
	var (
		moments []moment
		failed  []tenant.Slug
	)
	opts := EachOptions{Parallel: 5, Progress: func(p EachProgress) {
		if p.Err != nil {
			failed = append(failed, p.Tenant.Slug)
		}
		moments = append(moments, moment{p.Checkpoint(), slices.Clone(failed)})
	}}
	_, err := d.Each(t.Context(), opts, func(_ context.Context, tn *tenant.Tenant) error {
		if len(tn.Slug) == len("co-9") {
			return errors.New("a failure")
		}
		runtime.Gosched()
		return nil
	})
	if err == nil || len(moments) != n {
		t.Fatalf("error %v, %d moments", err, len(moments))
	}
	for i, m := range moments {
		var seen calls
		report, err := d.Each(t.Context(), EachOptions{Resume: m.checkpoint}, func(_ context.Context, tn *tenant.Tenant) error {
			seen.count(tn)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, slug := range m.failed {
			if seen.of[slug] != 1 {
				t.Errorf("moment %d: %s had failed and got %d calls", i, slug, seen.of[slug])
			}
		}
		// What was done by then is neither open nor beyond.
		var done int
		for k := range n {
			var id tenant.ID
			id[6], id[8], id[15] = 0x70, 0x80, byte(k+1)
			isDone := compareIDs(id, m.checkpoint.After) <= 0 && !slices.Contains(m.checkpoint.Open, id)
			slug := tenant.Slug(fmt.Sprintf("co-%d", k+1))
			if calls := seen.of[slug]; isDone == (calls == 1) || calls > 1 {
				t.Errorf("moment %d: %s done: %v, calls: %d", i, slug, isDone, calls)
			}
			if isDone {
				done++
			}
		}
		if done < i+1-len(m.failed)-opts.Parallel || report.Done != n-done {
			t.Errorf("moment %d: %d done before, %d after", i, done, report.Done)
		}
	}
}

// Tenants change while they are gone over.
func TestEachWhileTenantsChange(t *testing.T) {
	t.Parallel()
	d, exec := newFleet(t, 30)
	var seen calls
	report, err := d.Each(t.Context(), EachOptions{Parallel: 1}, func(_ context.Context, tn *tenant.Tenant) error {
		switch tn.Slug {
		case "co-10":
			exec(`UPDATE tenants SET slug = 'zz-20' WHERE slug = 'co-20'`) // forwards and backwards in the alphabet
			exec(`UPDATE tenants SET slug = 'aa-21' WHERE slug = 'co-21'`)
			exec(`UPDATE tenants SET slug = 'zz-1' WHERE slug = 'co-1'`)
			exec(`UPDATE tenants SET status = 'deleted' WHERE slug = 'co-22'`)
			exec(`UPDATE tenants SET status = 'suspended' WHERE slug = 'co-23'`)
			exec(`UPDATE tenants SET schema_name = 't_moved' WHERE slug = 'co-24'`)
		case "co-24":
			if tn.Placement.Schema != "t_moved" {
				t.Errorf("it is taken for where it was: %+v", tn.Placement)
			}
		case "zz-20":
			tn = &tenant.Tenant{Slug: "co-20"}
		case "aa-21":
			tn = &tenant.Tenant{Slug: "co-21"}
		}
		seen.count(tn)
		return nil
	})
	if err != nil || report.Done != 28 {
		t.Errorf("report %+v, error %v", report, err)
	}
	seen.wantOnce(t, 30, "co-22", "co-23")
}

// Those that are asked for by name fail if they cannot be called.
func TestEachOfSome(t *testing.T) {
	t.Parallel()
	d, exec := newFleet(t, 9)
	tenants, err := d.List(t.Context(), ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	exec(`UPDATE tenants SET status = 'suspended' WHERE slug = 'co-2'`)
	picked := []*tenant.Tenant{tenants[3], tenants[1], tenants[0], tenants[3], {ID: tenant.ID{0xff}, Slug: "nobody"}}
	opts := EachOptions{Tenants: picked}
	var seen calls
	fn := func(_ context.Context, tn *tenant.Tenant) error {
		seen.count(tn)
		return nil
	}
	report, err := d.Each(t.Context(), opts, fn)
	if !errors.Is(report.Failed[len(report.Failed)-1], tenant.ErrNotFound) && !errors.Is(err, tenant.ErrNotFound) {
		t.Errorf("error = %v", err)
	}
	if diff := cmp.Diff([]tenant.Slug{"co-2", "nobody"}, slugs(report.Failed)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[tenant.Slug]int{"co-1": 1, "co-4": 1}, seen.of); diff != "" {
		t.Error(diff)
	}
	opts.Statuses, opts.Resume = []tenant.Status{tenant.Active, tenant.Suspended}, report.Checkpoint
	if _, err := d.Each(t.Context(), opts, fn); !errors.Is(err, tenant.ErrNotFound) || seen.of["co-2"] != 1 || len(seen.of) != 3 {
		t.Errorf("error %v, calls %v", err, seen.of)
	}
	// Stopped before it begins, it has not reached one of them.
	stopped := make(chan struct{})
	close(stopped)
	report, err = d.Each(t.Context(), EachOptions{Tenants: picked, Stop: stopped}, fn)
	if !errors.Is(err, ErrStopped) || report.NotReached != 4 {
		t.Errorf("report %+v, error %v", report, err)
	}
}

// When the registry is lost, the call ends, and says what it does not know.
func TestEachWithoutRegistry(t *testing.T) {
	t.Parallel()
	d, _ := newFleet(t, 9)
	var seen calls
	report, err := d.Each(t.Context(), EachOptions{Parallel: 1}, func(_ context.Context, tn *tenant.Tenant) error {
		seen.count(tn)
		if tn.Slug == "co-4" {
			d.Close()
		}
		return nil
	})
	if err == nil || report.Done != 4 || report.Unfinished != 1 || report.NotReached != -1 {
		t.Errorf("report %+v, error %v", report, err)
	}
	if _, failed := errors.AsType[*TenantError](err); failed {
		t.Errorf("a tenant was blamed: %v", err)
	}
	d2 := openDirectory(t, d.cfg)
	if _, err := d2.Each(t.Context(), EachOptions{Resume: report.Checkpoint}, func(_ context.Context, tn *tenant.Tenant) error {
		seen.count(tn)
		return nil
	}); err != nil {
		t.Error(err)
	}
	seen.wantOnce(t, 9)
}

func TestEachRefusesOptions(t *testing.T) {
	t.Parallel()
	d, _ := newFleet(t, 1)
	for name, opts := range map[string]EachOptions{
		"a status that is not served": {Statuses: []tenant.Status{tenant.Active, tenant.Deleted}},
		"none at a time":              {Parallel: -1},
		"fewer failures than none":    {MaxFailures: -1},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := d.Each(t.Context(), opts, func(context.Context, *tenant.Tenant) error {
				t.Error("called")
				return nil
			})
			if err == nil {
				t.Error("no error")
			}
		})
	}
}
