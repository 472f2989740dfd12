package tenantdb

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// tenure is for how long a connection serves one tenant while others wait that have none: long against opening a connection, since
// where there are fewer connections than busy tenants, each change costs one.
const tenure = 50 * time.Millisecond

// patience is how long a call waits before another connection to a database that has one already is worth closing one of another
// tenant.
const patience = time.Second

// databases share out the connections to databases of tenants' own on one server. A connection serves one tenant all its life. All
// of them stand under one budget: where it is spent, the connection that has lain idle longest is closed for a tenant that has
// none, and if there is no idle one, the next to become free whose tenant has had its tenure. A tenant's calls that find no
// connection wait in its queue, and tenants that wait have their turns. One lock guards it all; nothing is waited for under it.
type databases struct {
	cfg     Config
	dial    func(context.Context, door) (*session, error)
	ctx     context.Context // the engine's life: a connection outlasts the call that it was opened for
	working *sync.WaitGroup // goroutines that open and close connections
	leased  sync.WaitGroup  // leases that are out

	mu sync.Mutex
	// open counts the connections that are open, being opened or being closed.
	open int
	// idle are the connections that are free, the one that was used last at the end.
	idle    []*session
	inUse   int
	turns   turns
	patrols bool // a goroutine looks after those who wait
	closed  bool
	slots   slots
	stat    PoolStat
}

func newDatabases(ctx context.Context, cfg Config, working *sync.WaitGroup, dial func(context.Context, door) (*session, error)) *databases {
	p := &databases{cfg: cfg, dial: dial, ctx: ctx, working: working}
	working.Go(p.reap)
	return p
}

func (p *databases) acquire(ctx context.Context, t *load) (*session, error) {
	return acquire(ctx, p, t)
}

func (p *databases) take(ctx context.Context, t *load) (*session, *waiter, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, nil, ErrClosed
	}
	if len(t.queue) == 0 {
		if s := p.pick(t); s != nil {
			p.lend(s, t)
			return s, nil, nil
		}
	}
	w := newWaiter(ctx, t)
	p.turns.join(w)
	p.raise(t)
	if !p.patrols {
		p.patrols = true
		p.working.Go(func() { patrol(p.cfg, p.lookAfter) })
	}
	return nil, w, nil
}

func (p *databases) withdraw(w *waiter) (why string, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.shortage(w.load), p.turns.quit(w)
}

// lookAfter ends waits that are too long, and lets tenants that have waited have another connection. It reports whether nobody waits.
func (p *databases) lookAfter(now time.Time) (done bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, t := range slices.Clone(p.turns) {
		p.turns.expire(t, now, p.cfg.AcquireTimeout, p.shortage)
		p.raise(t)
	}
	p.patrols = len(p.turns) > 0
	return !p.patrols
}

// shortage says why a tenant's calls wait.
func (p *databases) shortage(t *load) string {
	if t.held >= p.cfg.MaxConnsPerDatabase {
		return fmt.Sprintf("all %d connections to the tenant's database are in use", t.held)
	}
	return fmt.Sprintf("of %d connections to the databases of %q %d are in use, %d of them by this tenant, and %d are open or being opened%s",
		p.cfg.MaxDatabaseConns, t.door.Cluster, p.inUse, t.held, p.open, p.slots.shortage())
}

// pick takes the tenant's idle connection that was used last.
func (p *databases) pick(t *load) *session {
	for i := len(p.idle) - 1; i >= 0; i-- {
		s := p.idle[i]
		if s.door != t.door {
			continue
		}
		p.idle = slices.Delete(p.idle, i, i+1)
		now := time.Now()
		if s.expired(now) {
			p.discard(s)
			continue
		}
		s.idleFor = now.Sub(s.idleSince)
		s.since = now
		return s
	}
	return nil
}

// lend notes that the tenant holds the connection.
func (p *databases) lend(s *session, t *load) {
	p.leased.Add(1)
	p.inUse++
	p.stat.Leases++
	t.held++
	p.belongs(s, t)
}

// belongs counts the connection as the load's: a tenant whose record was forgotten and read again has a new load.
func (p *databases) belongs(s *session, t *load) {
	if s.owner != t {
		s.owner.open--
		t.open++
		s.owner = t
	}
}

// raise opens a connection for a tenant that waits, if it may have one: one at a time, so that those who wait for the first one
// do not all open one.
func (p *databases) raise(t *load) {
	if p.closed || len(t.queue) == 0 || t.opening || t.open >= p.cfg.MaxConnsPerDatabase {
		return
	}
	if p.open < p.cfg.MaxDatabaseConns && p.slots.left() {
		p.open++
		p.dialFor(t, nil)
		return
	}
	if len(p.idle) > 0 && p.needs(t) {
		oldest := p.idle[0]
		p.idle = slices.Delete(p.idle, 0, 1)
		p.replace(oldest, t)
	}
}

// needs reports whether a connection for the tenant is worth closing another tenant's.
func (p *databases) needs(t *load) bool {
	return t.open == 0 || !t.opening && t.open < p.cfg.MaxConnsPerDatabase && time.Since(t.queue[0].since) >= patience
}

// replace closes a connection and opens one for another tenant in its place.
func (p *databases) replace(s *session, t *load) {
	p.stat.Evicted++
	s.owner.open--
	p.dialFor(t, s)
}

// dialFor opens a connection for a tenant that has its place in the budget already, having closed the one that had it before.
func (p *databases) dialFor(t *load, before *session) {
	t.opening = true
	t.open++
	p.stat.Created++
	ctx := p.ctx
	if len(t.queue) > 0 {
		ctx = context.WithoutCancel(t.queue[0].ctx) // for tracers
	}
	p.working.Go(func() {
		if before != nil {
			before.close()
		}
		s, err := p.dial(ctx, t.door)
		p.mu.Lock()
		defer p.mu.Unlock()
		t.opening = false
		if err != nil {
			t.open--
			p.open--
			if !p.slots.refused(err) {
				p.fail(t, err)
			}
			p.serve()
			return
		}
		s.door, s.owner, s.since = t.door, t, time.Now()
		if p.closed {
			p.discard(s)
			return
		}
		p.offer(s)
		p.serve()
	})
}

// fail tells the tenant's calls why there is no connection: all of them if each would meet the same error, or the one that has
// waited longest if somebody has ended the connection while it was made.
func (p *databases) fail(t *load, err error) {
	one := errors.Is(err, ErrUnavailable) && !isOutage(err)
	for len(t.queue) > 0 {
		w := t.queue[0]
		p.turns.quit(w)
		w.granted <- grant{err: err}
		if one {
			return
		}
	}
}

// release ends a lease. A connection that is not reusable is closed, as is one that is too old.
func (p *databases) release(s *session, t *load, reusable bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	defer p.leased.Done()
	t.held--
	p.inUse--
	if !reusable || p.closed || s.expired(time.Now()) {
		p.discard(s)
		return
	}
	p.offer(s)
}

// offer gives a free connection to its tenant's next call, or its place to a tenant that waits and has none, or keeps it.
func (p *databases) offer(s *session) {
	s.idleFor = 0
	mine := p.turns.first(func(t *load) bool { return t.door == s.door })
	if mine == nil || time.Since(s.since) >= tenure {
		if other := p.turns.first(p.needs); other != nil && other != mine && !p.closed {
			if mine != nil {
				p.turns.putLast(mine)
			}
			p.replace(s, other)
			return
		}
	}
	if mine != nil {
		w := p.turns.serve(mine)
		p.lend(s, mine)
		w.granted <- grant{session: s}
		return
	}
	s.idleSince = time.Now()
	p.idle = append(p.idle, s)
}

// serve gives what there is to those who wait.
func (p *databases) serve() {
	for _, t := range slices.Clone(p.turns) {
		for len(t.queue) > 0 {
			s := p.pick(t)
			if s == nil {
				p.raise(t)
				break
			}
			w := p.turns.serve(t)
			p.lend(s, t)
			w.granted <- grant{session: s}
		}
	}
}

// discard closes a connection, in the background. It counts until it is closed, so that there are never more than allowed.
func (p *databases) discard(s *session) {
	s.owner.open--
	p.working.Go(func() {
		s.close()
		p.mu.Lock()
		defer p.mu.Unlock()
		p.open--
		p.serve()
	})
}

// closeIdle closes the idle connections that are due.
func (p *databases) closeIdle(due func(*session) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.idle = slices.DeleteFunc(p.idle, func(s *session) bool {
		if !due(s) {
			return false
		}
		p.discard(s)
		return true
	})
}

// reap closes connections that have lain idle for too long, or are too old.
func (p *databases) reap() {
	reapEvery(p.ctx, min(p.cfg.MaxDatabaseIdleTime, p.cfg.MaxConnLifetime), func(now time.Time) {
		p.closeIdle(func(s *session) bool { return s.expired(now) || now.Sub(s.idleSince) > p.cfg.MaxDatabaseIdleTime })
	})
}

// close turns away who waits, closes what is idle, and waits until every lease is over.
func (p *databases) close() {
	p.mu.Lock()
	p.closed = true
	p.turns.dismiss()
	p.mu.Unlock()
	p.closeIdle(func(*session) bool { return true })
	p.leased.Wait()
}

func (p *databases) report() PoolStat {
	p.mu.Lock()
	defer p.mu.Unlock()
	st := p.stat
	st.Max, st.Open, st.InUse, st.Waiting = p.cfg.MaxDatabaseConns, p.open, p.inUse, p.turns.waiting()
	return st
}
