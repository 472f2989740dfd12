package main

import (
	"context"
	"math"
	"runtime"
)

// allocRuns is how often allocations are counted over allocCalls calls. The least counts: what else the process does in the
// meantime can only add.
const allocRuns, allocCalls = 10, 500

// allocs counts what one warm QueryRow allocates, with nothing else going on.
func (b *bench) allocs(ctx context.Context) error {
	s, err := b.newSite(ctx, b.fleet(), 1)
	if err != nil {
		return err
	}
	columns := []column{{"one QueryRow of four columns", 31, true}, {"way", 9, true}, {"allocs", 6, false}, {"bytes", 6, false}}
	b.printHead(columns)
	cancellable, cancel := context.WithCancel(ctx)
	defer cancel()
	contexts := []struct {
		name string
		ctx  context.Context
	}{
		{"context.Background", context.Background()},
		{"a context that can be cancelled", cancellable},
	}
	worst := math.Inf(-1)
	for _, c := range contexts {
		var plain float64
		for _, w := range []way{{wayQualified, openQualified}, {wayLeasehold, openLeasehold}} {
			allocs, bytes, err := b.allocsOf(c.ctx, s, w)
			if err != nil {
				return err
			}
			b.printRow(columns, c.name, w.name, decimal(allocs, 1), decimal(bytes, 0))
			if w.name == wayQualified {
				plain = allocs
			} else {
				worst = max(worst, allocs-plain)
			}
		}
	}
	b.goals = append(b.goals, goal{"allocations of a QueryRow more than plain pgx has", worst, 2, true})
	return nil
}

func (b *bench) allocsOf(ctx context.Context, s *site, w way) (allocs, bytes float64, err error) {
	c, err := w.open(ctx, s)
	if err != nil {
		return 0, 0, err
	}
	defer c.close()
	calls := allocCalls
	if b.calls > 0 {
		calls = b.calls
	}
	allocs, bytes = math.Inf(1), math.Inf(1)
	for range allocRuns { // the first ones are the warm-up
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range calls {
			if err := c.call(ctx, s.places[0], op{mode: modeRead, id: 1}); err != nil {
				return 0, 0, err
			}
		}
		runtime.ReadMemStats(&after)
		allocs = min(allocs, float64(after.Mallocs-before.Mallocs)/float64(calls))
		bytes = min(bytes, float64(after.TotalAlloc-before.TotalAlloc)/float64(calls))
	}
	return allocs, bytes, nil
}
