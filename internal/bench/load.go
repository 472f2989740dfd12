package main

import (
	"context"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// seed makes every way and every run do the same calls.
const seed = 20260301

// zipfExponent is how steep the Zipf distribution is: at 100 tenants the busiest has a quarter of the calls.
const zipfExponent = 1.1

// newPicker returns a function that picks one of n numbers: each as often as the others, or by Zipf's law the small ones
// more often. It is for one goroutine, and picks the same each time for the same stream.
func newPicker(dist string, n int, stream uint64) func() int {
	random := rand.New(rand.NewPCG(seed, stream))
	if dist == distZipf {
		zipf := rand.NewZipf(random, zipfExponent, 1, uint64(n-1))
		return func() int { return int(zipf.Uint64()) }
	}
	return func() int { return random.IntN(n) }
}

// worker is one goroutine that calls.
type worker struct {
	pick  func() int // a tenant
	table func() int
	id    func() int
	took  latencies
}

// newWorkers returns workers that call the first tenants of a site.
func newWorkers(n int, dist string, s *site, tenants int) []*worker {
	all := make([]*worker, n)
	for i := range all {
		stream := uint64(3 * i)
		all[i] = &worker{
			pick:  newPicker(dist, tenants, stream),
			table: newPicker(distUniform, s.fleet.Tables, stream+1),
			id:    newPicker(distUniform, s.fleet.Rows, stream+2),
			took:  make(latencies, 0, 1<<12),
		}
	}
	return all
}

// limit says when a round ends: after a time, after a number of calls of each worker, or when stop is set. Zero means no limit.
type limit struct {
	time  time.Duration
	calls int
	stop  *atomic.Bool
}

// tally is what was counted in one round.
type tally struct {
	calls          int
	elapsed        time.Duration
	mallocs, bytes uint64 // of the whole process
}

// rate returns calls per second.
func (t tally) rate() float64 { return float64(t.calls) / t.elapsed.Seconds() }

func (t *tally) add(u tally) {
	t.calls += u.calls
	t.elapsed += u.elapsed
	t.mallocs += u.mallocs
	t.bytes += u.bytes
}

// round has the workers call until the limit, each one call after the other, with a pause in between if there is one, and adds
// to what each took. The first error ends the round for all.
func round(ctx context.Context, workers []*worker, l limit, pause time.Duration, call func(context.Context, *worker) error) (tally, error) {
	ctx, cancel := context.WithCancelCause(ctx) // a request's context can be cancelled too
	defer cancel(nil)
	var calls atomic.Int64
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	start := time.Now()
	var work sync.WaitGroup
	for _, w := range workers {
		work.Go(func() {
			n, err := w.run(ctx, start, l, pause, call)
			calls.Add(int64(n))
			if err != nil {
				cancel(err)
			}
		})
	}
	work.Wait()
	elapsed := time.Since(start)
	runtime.ReadMemStats(&after)
	return tally{int(calls.Load()), elapsed, after.Mallocs - before.Mallocs, after.TotalAlloc - before.TotalAlloc}, context.Cause(ctx)
}

func (w *worker) run(ctx context.Context, start time.Time, l limit, pause time.Duration, call func(context.Context, *worker) error) (int, error) {
	var timer *time.Timer
	if pause > 0 {
		timer = time.NewTimer(pause)
		defer timer.Stop()
	}
	now := time.Now()
	for n := 0; ; n++ {
		if l.time > 0 && now.Sub(start) >= l.time || l.calls > 0 && n >= l.calls || l.stop != nil && l.stop.Load() || ctx.Err() != nil {
			return n, nil
		}
		if timer != nil {
			timer.Reset(pause)
			select {
			case <-timer.C:
			case <-ctx.Done():
				return n, nil
			}
			now = time.Now()
		}
		if err := call(ctx, w); err != nil {
			return n, err
		}
		end := time.Now()
		w.took = append(w.took, end.Sub(now))
		now = end
	}
}

// calls returns a worker's call of a way.
func (s *site) calls(c client, mode string) func(context.Context, *worker) error {
	return func(ctx context.Context, w *worker) error {
		o := op{mode: mode, id: w.id() + 1}
		if mode == modeRead {
			o.table = w.table()
		}
		return c.call(ctx, s.places[w.pick()], o)
	}
}

// collect takes the latencies out of the workers.
func collect(workers []*worker) latencies {
	var all latencies
	for _, w := range workers {
		all = append(all, w.took...)
		w.took = w.took[:0]
	}
	return all
}
