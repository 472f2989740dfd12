package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/leasehold-go/leasehold/internal/fleet"
)

// config says what to run.
type config struct {
	Operations int
	Tenants    int
	Logins     int // runtime logins that the tenants are divided among
	Databases  int // tenants that have a database of their own
	Goroutines int
	Conns      int
	Seed       uint64
	Pooler     bool
	// SuperURL is the URL of the superuser of an empty database, on a server that serves nobody else.
	SuperURL string
	// Progress gets a line every few seconds. Required.
	Progress io.Writer
	// Patience is how long what has been given up may take to go away. Defaults to 20 seconds.
	Patience time.Duration
	// open opens the door to the tenants. Defaults to the product's.
	open func(ctx context.Context, s *site) (door, error)
}

func (c config) validate() error {
	switch {
	case c.Operations < 1, c.Goroutines < 1:
		return fmt.Errorf("-ops is %d, -goroutines %d; want at least 1 of each", c.Operations, c.Goroutines)
	case c.Logins < 1 || c.Logins > c.Tenants:
		return fmt.Errorf("-logins is %d; want 1 to the number of tenants", c.Logins)
	case c.Databases < 0 || c.Databases > c.Tenants:
		return fmt.Errorf("-databases is %d; want 0 to the number of tenants", c.Databases)
	case c.Databases > 0 && c.Pooler:
		return errors.New("-databases and -pooler do not go together: the pooler knows one database")
	case c.Databases > 0 && c.Conns < 4:
		return fmt.Errorf("-conns is %d; want at least 4, half of them for databases", c.Conns)
	case c.Tenants < 2, c.Conns < 2:
		return fmt.Errorf("-tenants is %d, -conns %d; want at least 2 of each", c.Tenants, c.Conns)
	}
	return nil
}

// standingRows is how many rows each house has before anything is inserted.
const standingRows = 8

// soak is a run. Its fields are set before the goroutines start, but for the counters and faults.
type soak struct {
	cfg      config
	root     context.Context // of all operations; it carries no tenant
	giveUp   context.CancelFunc
	site     *site
	door     door
	houses   []*house
	hot      []*house // those that are busy
	standing int
	weights  int

	done  atomic.Int64
	names atomic.Int64 // the most statements that a connection has had names for
	wrong atomic.Int64
	beats []*beat

	mu        sync.Mutex
	faults    int64
	wrongText []string // of the first wrong rows
	faultText []string // of the first other faults
}

const (
	// maxFaultText is how many wrong rows are told in full, and how many other faults.
	maxFaultText = 20
	// maxFaults is how many it takes to give up: no more can be learnt, and a door without connections takes for ever.
	maxFaults = 200
)

func (s *soak) fault(format string, args ...any) { s.record(&s.faultText, format, args...) }

// wrongRow is the fault of a row or a setting of another tenant.
func (s *soak) wrongRow(format string, args ...any) {
	s.wrong.Add(1)
	s.record(&s.wrongText, format, args...)
}

// record counts a fault, and keeps its text with those of its kind.
func (s *soak) record(texts *[]string, format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.faults++; s.faults == maxFaults {
		s.giveUp()
	}
	if len(*texts) < maxFaultText {
		*texts = append(*texts, fmt.Sprintf(format, args...))
	}
}

// beat wakes somebody after each so many operations.
type beat struct {
	every int64
	c     chan struct{}
}

// newBeat makes a beat of about so many times in a run, which comes every least to most operations.
func (s *soak) newBeat(times, least, most int) *beat {
	b := &beat{every: int64(min(max(s.cfg.Operations/times, least), most)), c: make(chan struct{}, 1)}
	s.beats = append(s.beats, b)
	return b
}

func (s *soak) tick(n int64) {
	for _, b := range s.beats {
		if n%b.every == 0 {
			select {
			case b.c <- struct{}{}:
			default: // it is at work
			}
		}
	}
}

func (s *soak) seeNames(n int64) {
	for most := s.names.Load(); n > most && !s.names.CompareAndSwap(most, n); most = s.names.Load() {
	}
}

// storm reports whether connections are to die young. Two fifths of the time they are.
func (s *soak) storm() bool {
	length := min(max(int64(s.cfg.Operations/50), 100), 20_000)
	return s.done.Load()/length%5 < 2
}

// run builds the tenants, runs all operations, looks at what is left and reports. The error is one that kept it from running;
// what it found is in the report.
func run(ctx context.Context, cfg config) (_ *report, err error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	if cfg.Patience == 0 {
		cfg.Patience = 20 * time.Second
	}
	if cfg.open == nil {
		cfg.open = openTenantDB
	}
	s := &soak{cfg: cfg, standing: standingRows}
	s.root, s.giveUp = context.WithCancel(ctx)
	defer s.giveUp()
	if err := s.build(ctx); err != nil {
		return nil, err
	}
	if cfg.Pooler {
		stop, err := s.site.throughPooler(ctx)
		if err != nil {
			return nil, err
		}
		defer stop()
	}
	return s.soak(ctx)
}

// build builds the tenants.
func (s *soak) build(ctx context.Context) error {
	started := time.Now()
	n := s.cfg.Tenants
	f, err := fleet.Build(ctx, fleet.Config{
		AdminURL: s.cfg.SuperURL, Tenants: n, TenantsPerLogin: (n + s.cfg.Logins - 1) / s.cfg.Logins, Rows: s.standing,
		OwnDatabases: s.cfg.Databases,
	})
	if err != nil {
		return err
	}
	for _, t := range f.Tenants {
		s.houses = append(s.houses, newHouse(t))
	}
	hot := min(16, 1+n/10)
	for i := range hot {
		s.hot = append(s.hot, s.houses[i*n/hot]) // of all logins
	}
	for _, k := range kinds {
		s.weights += k.weight
	}
	s.site = newSite(f, s.cfg)
	_, _ = fmt.Fprintf(s.cfg.Progress, "%d tenants built in %s\n", n, time.Since(started).Round(time.Second))
	return nil
}

// soak runs all operations and reports.
func (s *soak) soak(ctx context.Context) (_ *report, err error) {
	in, err := newInspector(ctx, s)
	if err != nil {
		return nil, err
	}
	defer in.close()
	goroutines := runtime.NumGoroutine()
	if s.door, err = s.cfg.open(ctx, s.site); err != nil {
		return nil, err
	}
	stop, err := s.unleash(s.root)
	if err != nil {
		s.door.Close()
		return nil, err
	}
	r := s.work()
	r.deeds = stop()
	if r.interrupted = s.root.Err() != nil; r.interrupted {
		s.closeDoor()
		r.sum(s)
		return r, nil
	}
	if err := in.quiet(ctx, s); err != nil {
		return nil, err
	}
	if n := s.door.inUse(); n != 0 {
		s.fault("%d connections are still leased", n)
	}
	r.evicted = s.door.evicted()
	s.closeDoor()
	if r.sessions, err = in.look(ctx, s); err != nil {
		return nil, err
	}
	if err := s.auditAll(ctx, in.conn); err != nil {
		return nil, err
	}
	s.checkGoroutines(goroutines)
	r.sum(s)
	return r, nil
}

// closeDoor closes the door, which waits for leased connections. It waits for a time only.
func (s *soak) closeDoor() {
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		s.door.Close()
	}()
	select {
	case <-closed:
	case <-time.After(s.cfg.Patience):
		s.fault("it cannot be closed: %d connections are leased", s.door.inUse())
	}
}

// work runs the workers and adds up what they counted.
func (s *soak) work() *report {
	workers := make([]*worker, s.cfg.Goroutines)
	stop := s.showProgress()
	defer stop()
	started := time.Now()
	var wg sync.WaitGroup
	for i := range workers {
		workers[i] = &worker{soak: s, id: i}
		ops := s.cfg.Operations / len(workers)
		if i < s.cfg.Operations%len(workers) {
			ops++
		}
		wg.Go(func() { workers[i].run(ops) })
	}
	wg.Wait()
	r := &report{cfg: s.cfg, took: time.Since(started), count: make([][classes]int64, len(kinds))}
	for _, w := range workers {
		for k := range w.count {
			for cl, n := range w.count[k] {
				r.count[k][cl] += n
			}
		}
	}
	return r
}

// progressEvery is the time between two lines of progress.
const progressEvery = 5 * time.Second

// showProgress tells how far the run is until it is stopped.
func (s *soak) showProgress() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		t := time.NewTicker(progressEvery)
		defer t.Stop()
		started := time.Now()
		for {
			select {
			case <-ctx.Done():
				return
			case <-t.C:
				n := s.done.Load()
				_, _ = fmt.Fprintf(s.cfg.Progress, "%d of %d operations, %.0f/s, %d wrong rows\n",
					n, s.cfg.Operations, float64(n)/time.Since(started).Seconds(), s.wrong.Load())
			}
		}
	})
	return func() {
		cancel()
		wg.Wait()
	}
}

// rng returns random numbers for somebody who is no worker.
func (s *soak) rng(who uint64) *rand.Rand { return rand.New(rand.NewPCG(s.cfg.Seed, 1<<63|who)) }

// eventually waits until something is true, if it ever is.
func (s *soak) eventually(ctx context.Context, what func() (bool, error)) (bool, error) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	end := time.After(s.cfg.Patience)
	for {
		if ok, err := what(); ok || err != nil {
			return ok, err
		}
		select {
		case <-ctx.Done():
			return false, ctx.Err()
		case <-end:
			return false, nil
		case <-tick.C:
		}
	}
}

// checkGoroutines waits until no more goroutines run than before the door was opened.
func (s *soak) checkGoroutines(base int) {
	ok, _ := s.eventually(context.Background(), func() (bool, error) { return runtime.NumGoroutine() <= base, nil })
	if !ok {
		stacks := make([]byte, 1<<16)
		stacks = stacks[:runtime.Stack(stacks, true)]
		s.fault("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), base, stacks)
	}
}
