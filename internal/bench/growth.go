package main

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/jackc/pgx/v5"
)

// memoryCap ends the growth of a way that would take the machine's memory.
const memoryCap = 6 << 30

// growth is how large the backends of a way have become.
type growth struct {
	visits  int // of a tenant, which are a call for each of its tables
	took    time.Duration
	end     memory
	largest int64 // of any backend at any time: ours are replaced before the end
	capped  bool
}

// memory visits tenants, each as often as the others, and watches the backends grow. A visit reads a row of every table of the
// tenant, one call after the other.
func (b *bench) memory(ctx context.Context) error {
	s, err := b.newSite(ctx, b.fleet(), b.conns)
	if err != nil {
		return err
	}
	b.printf("\n%d tenants with %d tables each, visited uniformly over %d connections; a MB is 2^20 bytes that a backend has for itself.\n",
		len(s.places), b.tables, b.conns)
	columns := []column{{"way", 9, true}, {"visits per tenant", 17, false}, {"calls/s", 7, false}, {"connections", 11, false},
		{"mean MB", 8, false}, {"max MB", 8, false}, {"largest seen MB", 15, false}, {"ended by", 8, true}}
	b.printHead(columns)
	reached := goal{what: fmt.Sprintf("%d tenants × %d tables: largest backend seen, MB", len(s.places), b.tables), got: math.NaN(), want: 64, atMost: true}
	for _, w := range []way{{wayQualified, openQualified}, {wayLeasehold, openLeasehold}} {
		g, err := b.grow(ctx, s, w)
		if err != nil {
			return fmt.Errorf("%s: %w", w.name, err)
		}
		by := "time"
		if g.capped {
			by = "memory"
		}
		b.printRow(columns, w.name, decimal(float64(g.visits)/float64(len(s.places)), 1),
			decimal(float64(g.visits*b.tables)/g.took.Seconds(), 0), fmt.Sprint(len(g.end)),
			megabytes(g.end.mean()), megabytes(g.end.max()), megabytes(g.largest), by)
		if w.name == wayLeasehold && g.largest > 0 {
			reached.got = float64(g.largest) / (1 << 20)
		}
	}
	b.goals = append(b.goals, reached)
	return nil
}

func (b *bench) grow(ctx context.Context, s *site, w way) (growth, error) {
	var g growth
	c, err := w.open(ctx, s)
	if err != nil {
		return g, err
	}
	defer c.close()
	workers := newWorkers(s.conns*b.perConn, distUniform, s, len(s.places))
	visit := func(ctx context.Context, w *worker) error {
		p := s.places[w.pick()]
		for table := range s.fleet.Tables {
			if err := c.call(ctx, p, op{mode: modeRead, table: table, id: w.id() + 1}); err != nil {
				return err
			}
		}
		return nil
	}
	return g, b.asAdmin(ctx, func(admin *pgx.Conn) error {
		for range b.rounds() {
			t, err := round(ctx, workers, b.round(), 0, visit)
			if err != nil {
				return err
			}
			collect(workers) // not needed
			g.visits += t.calls
			g.took += t.elapsed
			if g.end, err = backendMemory(ctx, admin, application(w.name)); err != nil {
				return err
			}
			g.largest = max(g.largest, g.end.max())
			if g.capped = g.end.sum() > memoryCap; g.capped {
				break
			}
		}
		return nil
	})
}
