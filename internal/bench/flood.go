package main

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

const (
	// quietCallers and quietPause make a load that leaves the machine and the connections mostly free.
	quietCallers = 4
	quietPause   = 5 * time.Millisecond
	// floodPerConn is how many goroutines of the one tenant that floods there are for each connection: 64 by default.
	floodPerConn = 4
	// warmTurns are so many rounds of all tenants before anything is measured.
	warmTurns = 2
)

// calm is what quiet tenants saw alone and in the flood, and how much of the flood came through.
type calm struct {
	alone, flooded latencies
	flood          tally
}

// p99 returns the quotient of the 99th percentiles: 2 is twice as slow as in quiet times.
func (c calm) p99() float64 { return float64(c.flooded.of(0.99)[0]) / float64(c.alone.of(0.99)[0]) }

// flood measures what the calls of quiet tenants take while another one floods, on the same connections. A flood that holds
// connections without using the processor shows how they are shared out. A flood of reads also takes the processors, which
// nobody here can share out: client and server have the same few.
func (b *bench) flood(ctx context.Context) error {
	cfg := b.fleet()
	cfg.Tenants = max(2, cfg.Tenants) // one of them floods
	s, err := b.newSite(ctx, cfg, b.conns)
	if err != nil {
		return err
	}
	if err := b.settle(ctx, s); err != nil {
		return err
	}
	b.printf("\n%d callers of %d quiet tenants, each pausing %v after a call; one tenant floods from %d goroutines; %d connections.\n",
		quietCallers, len(s.places)-1, quietPause, floodPerConn*s.conns, s.conns)
	columns := []column{{"flood of", 8, true}, {"way", 9, true}, {"quiet p50 ms", 12, false}, {"p99 ms", 8, false}, {"flooded p50 ms", 14, false},
		{"p99 ms", 8, false}, {"p99, times quiet", 16, false}, {"flood calls/s", 13, false}}
	b.printHead(columns)
	for _, mode := range []string{modeHold, modeRead} {
		for _, w := range []way{{wayQualified, openQualified}, {wayLeasehold, openLeasehold}} {
			c, err := b.floodOne(ctx, s, w, mode)
			if err != nil {
				return fmt.Errorf("%s: %w", w.name, err)
			}
			alone, flooded := c.alone.of(0.5, 0.99), c.flooded.of(0.5, 0.99)
			b.printRow(columns, mode, w.name, milliseconds(alone[0]), milliseconds(alone[1]), milliseconds(flooded[0]), milliseconds(flooded[1]),
				decimal(c.p99(), 2), decimal(c.flood.rate(), 0))
			if w.name == wayLeasehold {
				b.goals = append(b.goals, goal{"flood of " + mode + ": p99 of the others, times quiet", c.p99(), 2, true})
			}
		}
	}
	return nil
}

// quietWorkers call all tenants but the first, which floods.
func quietWorkers(s *site) []*worker {
	workers := newWorkers(quietCallers, distUniform, s, len(s.places)-1)
	for _, w := range workers {
		pick := w.pick
		w.pick = func() int { return pick() + 1 }
	}
	return workers
}

// floodOne has quiet and flood take turns.
func (b *bench) floodOne(ctx context.Context, s *site, w way, mode string) (calm, error) {
	var found calm
	c, err := w.open(ctx, s)
	if err != nil {
		return found, err
	}
	defer c.close()
	warm := newWorkers(s.conns*b.perConn, distUniform, s, len(s.places))
	if _, err := round(ctx, warm, limit{time: b.warm, calls: warmTurns * len(s.places)}, 0, s.calls(c, modeRead)); err != nil {
		return found, err
	}
	quiet, flood := quietWorkers(s), newWorkers(floodPerConn*s.conns, distUniform, s, 1)
	for range b.rounds() {
		if _, err := round(ctx, quiet, b.round(), quietPause, s.calls(c, modeRead)); err != nil {
			return found, err
		}
		found.alone = append(found.alone, collect(quiet)...)
		var t tally
		err := during(func(stop *atomic.Bool) (err error) {
			t, err = round(ctx, flood, limit{stop: stop}, 0, s.calls(c, mode))
			return err
		}, func() error {
			_, err := round(ctx, quiet, b.round(), quietPause, s.calls(c, modeRead))
			return err
		})
		if err != nil {
			return found, err
		}
		found.flood.add(t)
		found.flooded = append(found.flooded, collect(quiet)...)
		collect(flood) // not needed
	}
	return found, nil
}

// during runs noise for as long as measured takes.
func during(noise func(stop *atomic.Bool) error, measured func() error) error {
	var stop atomic.Bool
	ended := make(chan error, 1)
	go func() { ended <- noise(&stop) }()
	err := measured()
	stop.Store(true)
	return errors.Join(err, <-ended)
}
