package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"runtime"
	"runtime/pprof"
	"strconv"

	"github.com/jackc/pgx/v5"
)

// scenario is what is the same for all ways in some lines of the table.
type scenario struct {
	net     string
	tenants int
	dist    string
	mode    string
}

// result is what was measured of one way in one scenario.
type result struct {
	rates  []float64 // calls per second, by round
	total  tally
	took   latencies
	memory memory
}

// over returns how many times faster than another way this one was: the median of the rounds' ratios. It is NaN if either
// was not measured.
func (r *result) over(other *result) float64 {
	if r == nil || other == nil {
		return math.NaN()
	}
	ratios := make([]float64, len(r.rates))
	for i := range r.rates {
		ratios[i] = r.rates[i] / other.rates[i]
	}
	return median(ratios)
}

// results are found by scenario and by the name of the way.
type results map[scenario]map[string]*result

// leaseholdOver returns how many times faster than another way ours was.
func (r results) leaseholdOver(way string, s scenario) float64 {
	return r[s][wayLeasehold].over(r[s][way])
}

var tableColumns = []column{
	{"net", 6, true}, {"tenants", 7, false}, {"spread", 7, true}, {"call", 5, true}, {"way", 9, true}, {"calls/s", 7, false},
	{"of qualified", 12, false}, {"leasehold is", 12, false}, {"p50 ms", 7, false}, {"p99 ms", 7, false},
	{"allocs", 6, false}, {"bytes", 6, false}, {"backend MB", 10, false}, {"worst", 6, false},
}

// table compares the ways in all scenarios.
func (b *bench) table(ctx context.Context) (err error) {
	s, err := b.newSite(ctx, b.fleet(), b.conns)
	if err != nil {
		return err
	}
	if err := b.settle(ctx, s); err != nil {
		return err
	}
	if b.profile != "" {
		file, err := os.Create(b.profile)
		if err != nil {
			return err
		}
		defer func() { _ = file.Close() }()
		if err := pprof.StartCPUProfile(file); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	found := results{}
	for _, net := range b.nets {
		if err := b.tableOver(ctx, s, net, found); err != nil {
			return err
		}
	}
	b.tableGoals(found)
	return nil
}

// tableOver prints the part of the table that belongs to one net.
func (b *bench) tableOver(ctx context.Context, s *site, net string, found results) (err error) {
	if net == netDelay {
		if s, err = s.behind(ctx, b.delay, b.delayConns); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, s.proxy.close()) }()
	}
	there, err := s.roundTrip(ctx)
	if err != nil {
		return err
	}
	b.printf("\n%s: %d connections and %d goroutines for each way, on %d processors; the empty statement takes %s ms.\n",
		net, s.conns, s.conns*b.perConn, runtime.GOMAXPROCS(0), milliseconds(there))
	b.printHead(tableColumns)
	for _, tenants := range b.tenants {
		for _, dist := range b.dists {
			if err := b.group(ctx, s, scenario{net: net, tenants: tenants, dist: dist}, found); err != nil {
				return fmt.Errorf("%s, %d tenants, %s: %w", net, tenants, dist, err)
			}
		}
	}
	return nil
}

// group measures reads and writes on new connections of every way.
func (b *bench) group(ctx context.Context, s *site, at scenario, found results) error {
	clients := make([]client, len(b.ways))
	for i, w := range b.ways {
		c, err := w.open(ctx, s)
		if err != nil {
			return fmt.Errorf("%s: %w", w.name, err)
		}
		defer c.close()
		clients[i] = c
	}
	return b.asAdmin(ctx, func(admin *pgx.Conn) error {
		for _, at.mode = range b.modes {
			for i, w := range b.ways {
				if err := b.warmUp(ctx, s, w.name, clients[i], at); err != nil {
					return fmt.Errorf("%s: %w", w.name, err)
				}
			}
			if err := b.measure(ctx, s, clients, at, admin, found); err != nil {
				return err
			}
			b.printResults(at, found[at])
		}
		for i, c := range clients {
			if c.state != nil {
				b.logf("%s, %d tenants, %s: %s has %s", at.net, at.tenants, at.dist, b.ways[i].name, c.state())
			}
		}
		return nil
	})
}

// warmUp has a way make calls of the scenario's mode until each of its connections should have met each tenant, or for as long as it
// may. Distance does not matter to that.
func (b *bench) warmUp(ctx context.Context, s *site, way string, c client, at scenario) error {
	if s.proxy != nil {
		s.proxy.setDelay(0)
		defer s.proxy.setDelay(b.delay)
	}
	workers := newWorkers(s.conns*b.perConn, at.dist, s, at.tenants)
	l := limit{time: b.warm, calls: max(1, 2*s.conns*at.tenants/len(workers))}
	t, err := round(ctx, workers, l, 0, s.calls(c, at.mode))
	if want := l.calls * len(workers); t.calls < want && err == nil {
		b.logf("%s, %d tenants, %s, %s: %s had %d of %d calls to warm up in %v; give it more with -warm", at.net, at.tenants, at.dist, at.mode, way, t.calls, want, b.warm)
	}
	return err
}

func (b *bench) measure(ctx context.Context, s *site, clients []client, at scenario, admin *pgx.Conn, found results) error {
	found[at] = map[string]*result{}
	workers := make([][]*worker, len(clients))
	for i, w := range b.ways {
		workers[i] = newWorkers(s.conns*b.perConn, at.dist, s, at.tenants)
		found[at][w.name] = &result{}
	}
	for turn := range b.rounds() {
		for i := range clients {
			i = (i + turn) % len(clients) // nobody always comes after the same one
			t, err := round(ctx, workers[i], b.round(), 0, s.calls(clients[i], at.mode))
			if err != nil {
				return fmt.Errorf("%s: %w", b.ways[i].name, err)
			}
			r := found[at][b.ways[i].name]
			r.rates = append(r.rates, t.rate())
			r.total.add(t)
		}
	}
	for i, w := range b.ways {
		r := found[at][w.name]
		r.took = collect(workers[i])
		var err error
		if r.memory, err = backendMemory(ctx, admin, application(w.name)); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) printResults(at scenario, found map[string]*result) {
	for _, w := range b.ways {
		r := found[w.name]
		p := r.took.of(0.5, 0.99)
		b.printRow(tableColumns, at.net, strconv.Itoa(at.tenants), at.dist, at.mode, w.name,
			decimal(median(r.rates), 0), decimal(r.over(found[wayQualified]), 2), decimal(found[wayLeasehold].over(r), 2),
			milliseconds(p[0]), milliseconds(p[1]),
			decimal(float64(r.total.mallocs)/float64(r.total.calls), 1), decimal(float64(r.total.bytes)/float64(r.total.calls), 0),
			megabytes(r.memory.mean()), megabytes(r.memory.max()))
	}
}

func (b *bench) tableGoals(found results) {
	direct := func(tenants int) scenario { return scenario{netDirect, tenants, distUniform, modeRead} }
	far := scenario{netDelay, 100, distUniform, modeRead}
	b.goals = append(b.goals,
		goal{"100 tenants, uniform, read, direct: throughput, of qualified", found.leaseholdOver(wayQualified, direct(100)), 0.95, false},
		goal{"5,000 tenants, uniform, read, direct: throughput, of qualified", found.leaseholdOver(wayQualified, direct(5000)), 2, false},
		goal{"100 tenants, uniform, read, delay: throughput, of set-query", found.leaseholdOver(waySetQuery, far), 1.9, false},
		goal{"100 tenants, uniform, read, delay: throughput, of set-local", found.leaseholdOver(waySetLocal, far), 3.5, false},
	)
}
