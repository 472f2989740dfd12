package tenantdb

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/leasehold-go/leasehold/db/tenant"
)

// roamAfter is how long a call waits for its tenant's own lanes before any lane will do that is free. It is long against a
// query, which is worth waiting for because a connection that knows the tenant answers faster, and short against a transaction.
const roamAfter = 2 * time.Millisecond

// switchAfter is how long a call waits before a connection of another login is closed for it, where that one is in use or belongs
// to another login's lanes: long against opening a connection.
const switchAfter = 100 * time.Millisecond

// lanes share out the connections to a cluster. They are split into lanes, small pools: a tenant has a home lane, chosen by
// rendezvous hashing of its id. When that is busy it spills to a connection that knows the tenant already, or has room to learn
// of it: few connections ever see its tables, and where there are few tenants, nobody waits for nothing. Whoever waits, waits
// in its tenant's queue, and a connection that becomes free goes to the tenants in turn. A tenant holds at most its share. One
// lock guards it all; nothing is waited for under it.
type lanes struct {
	cfg  Config
	dial func(ctx context.Context, login string) (*session, error)
	// ctx is the engine's life. A connection outlasts the call that it was opened for.
	ctx     context.Context
	working *sync.WaitGroup // goroutines that open and close connections
	leased  sync.WaitGroup  // leases that are out

	mu  sync.Mutex
	all []*lane
	// logins are the runtime logins that were asked for, in that order. They divide the lanes.
	logins []string
	// turns are the tenants that wait, the one whose turn is next in front.
	turns []*load
	// patrols says that a goroutine looks after those who wait.
	patrols bool
	closed  bool
}

// lane is a small pool. Guarded by lanes.mu.
type lane struct {
	index, size int
	idle        []*session // the one used last is at the end
	open        int        // connections that are open or being opened
	moved       time.Time  // when a lease last ended
	failed      time.Time  // when a connection could last not be opened
	stat        LaneStat
}

// load is what one tenant has and wants. Guarded by lanes.mu, but for login.
type load struct {
	id    tenant.ID
	login string // "" is the default one

	divided      int // len(lanes.logins) when home and second were chosen
	home, second *lane
	held         int
	queue        []*waiter
}

// waiter is a call that waits for a connection.
type waiter struct {
	ctx     context.Context
	load    *load
	since   time.Time
	granted chan grant // of size 1
	roams   bool       // any lane will do
	dialing bool       // a connection is being opened for it
}

type grant struct {
	session *session
	err     error
}

func newLanes(ctx context.Context, cfg Config, working *sync.WaitGroup, dial func(context.Context, string) (*session, error)) *lanes {
	p := &lanes{cfg: cfg, ctx: ctx, dial: dial, working: working, all: make([]*lane, cfg.Lanes)}
	for i := range p.all {
		size := cfg.MaxConns / cfg.Lanes
		if i < cfg.MaxConns%cfg.Lanes {
			size++
		}
		p.all[i] = &lane{index: i, size: size}
	}
	working.Go(p.reap)
	return p
}

// acquire takes a connection for the tenant, waiting for one if it must.
func (p *lanes) acquire(ctx context.Context, t *load) (*session, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("context already done: %w", err)
	}
	for {
		s, w, err := p.take(ctx, t)
		if w != nil {
			s, err = p.wait(w)
		}
		if err != nil {
			return nil, err
		}
		if s.lives(ctx) {
			return s, nil
		}
		p.release(s, t, false)
	}
}

// take leases a connection that is free, or puts the call in the queue.
func (p *lanes) take(ctx context.Context, t *load) (*session, *waiter, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, nil, ErrClosed
	}
	p.place(t)
	if len(t.queue) == 0 && t.held < p.cfg.MaxConnsPerTenant {
		if s := p.pick(t, false); s != nil {
			if s.lane != t.home && t.home.open < t.home.size && time.Since(t.home.failed) > time.Second { // so that the next call finds it
				p.startDial(t.home, t.login, nil)
			}
			p.lend(s, t)
			return s, nil, nil
		}
	}
	w := &waiter{ctx: ctx, load: t, since: time.Now(), granted: make(chan grant, 1)}
	t.home.stat.Waits++
	t.queue = append(t.queue, w)
	if len(t.queue) == 1 {
		p.turns = append(p.turns, t)
	}
	if !p.patrols {
		p.patrols = true
		p.working.Go(p.patrol)
	}
	if t.held < p.cfg.MaxConnsPerTenant {
		p.raise(t, w, false)
	}
	return nil, w, nil
}

// wait waits until the call is granted a connection, gives up or is called off.
func (p *lanes) wait(w *waiter) (*session, error) {
	select {
	case g := <-w.granted:
		return g.session, g.err
	case <-w.ctx.Done():
	}
	why, ok := p.withdraw(w)
	if !ok {
		if g := <-w.granted; g.session != nil {
			p.release(g.session, w.load, true)
		}
	}
	return nil, fmt.Errorf("%w: %s: %w", ErrBusy, why, context.Cause(w.ctx))
}

// withdraw takes a call out of the queue and says what it waited for. It reports false if the call was granted something.
func (p *lanes) withdraw(w *waiter) (why string, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	why = p.shortage(w.load)
	return why, p.unqueue(w)
}

// shortage says why a tenant's calls wait.
func (p *lanes) shortage(t *load) string {
	if t.held >= p.cfg.MaxConnsPerTenant {
		return fmt.Sprintf("the tenant holds all %d connections of its share", t.held)
	}
	var open, inUse int
	for _, l := range p.all {
		open += l.open
		inUse += l.stat.InUse
	}
	return fmt.Sprintf("of %d connections %d are in use, %d of them by this tenant, and %d are open or being opened", p.cfg.MaxConns, inUse,
		t.held, open)
}

// patrol looks after those who wait, for as long as there are any. One goroutine and its ticker cost less than a timer for
// each call.
func (p *lanes) patrol() {
	tick := time.NewTicker(min(roamAfter, max(p.cfg.AcquireTimeout, time.Millisecond)))
	defer tick.Stop()
	for now := range tick.C {
		if p.lookAfter(now) {
			return
		}
	}
}

// lookAfter ends waits that are too long, and lets calls roam whose lanes do not move. It reports whether nobody waits.
func (p *lanes) lookAfter(now time.Time) (done bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	free := slices.ContainsFunc(p.all, func(l *lane) bool { return len(l.idle) > 0 || l.open < l.size })
	for _, t := range slices.Clone(p.turns) {
		for len(t.queue) > 0 && now.Sub(t.queue[0].since) >= p.cfg.AcquireTimeout {
			w := t.queue[0]
			err := fmt.Errorf("%w: waited %s, %s", ErrBusy, p.cfg.AcquireTimeout, p.shortage(t))
			p.unqueue(w)
			w.granted <- grant{err: err}
		}
		if len(t.queue) == 0 || now.Sub(t.queue[0].since) < roamAfter || t.held >= p.cfg.MaxConnsPerTenant {
			continue
		}
		stuck := now.Sub(t.home.moved) >= roamAfter && now.Sub(t.second.moved) >= roamAfter
		t.queue[0].roams = t.queue[0].roams || stuck
		if free {
			p.serveFrom(t, true)
		}
	}
	p.patrols = len(p.turns) > 0
	return !p.patrols
}

// release ends a lease. A connection that is not reusable is closed, as is one that is too old or knows too many tenants.
func (p *lanes) release(s *session, t *load, reusable bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	defer p.leased.Done()
	now := time.Now()
	t.held--
	s.lane.stat.InUse--
	s.lane.moved = now
	switch {
	case !reusable, p.closed, s.expired(now):
		p.discard(s)
	case len(s.tenants) > p.cfg.MaxTenantsPerConn:
		s.lane.stat.Recycled++
		p.replace(s, s.login, nil) // it was in use, and will be again
	default:
		p.offer(s)
	}
	p.serve(t) // it may have waited for its share
}

// offer gives a free connection to the tenant whose turn it is, or keeps it. For a tenant of another login it is closed and
// another one opened, if that tenant has waited for long or nobody else wants it.
func (p *lanes) offer(s *session) {
	s.idleFor = 0
	var other *load
	for i, t := range p.turns {
		if p.closed || t.held >= p.cfg.MaxConnsPerTenant || !p.suits(s, t) {
			continue
		}
		if s.login != t.login {
			w := t.queue[0]
			if w.dialing {
				continue
			}
			if other == nil && s.lane == t.home {
				other = t
			}
			if time.Since(w.since) < switchAfter {
				continue
			}
			other = t
			break
		}
		p.turns = slices.Delete(p.turns, i, i+1)
		p.grant(t, s)
		if len(t.queue) > 0 {
			p.turns = append(p.turns, t) // its next turn comes after everybody else's
		}
		return
	}
	if other != nil {
		p.replace(s, other.login, other.queue[0])
		return
	}
	s.idleSince = time.Now()
	s.lane.idle = append(s.lane.idle, s)
}

// suits reports whether the call in front of the tenant's queue takes the connection.
func (p *lanes) suits(s *session, t *load) bool {
	return s.lane == t.home || s.login == t.login && p.welcomes(s, t) || t.queue[0].roams
}

// grant leases s to the call that has waited longest.
func (p *lanes) grant(t *load, s *session) {
	w := t.queue[0]
	t.queue = slices.Delete(t.queue, 0, 1)
	p.lend(s, t)
	w.granted <- grant{session: s}
}

// serve grants the tenant's calls what is free.
func (p *lanes) serve(t *load) { p.serveFrom(t, false) }

// serveFrom grants the tenant's calls what is free, anywhere if it says so.
func (p *lanes) serveFrom(t *load, anywhere bool) {
	for !p.closed && len(t.queue) > 0 && t.held < p.cfg.MaxConnsPerTenant {
		w := t.queue[0]
		s := p.pick(t, anywhere || w.roams)
		if s == nil {
			p.raise(t, w, anywhere)
			return
		}
		p.grant(t, s)
		if len(t.queue) == 0 {
			p.turns = slices.DeleteFunc(p.turns, func(other *load) bool { return other == t })
		}
	}
}

// unqueue reports whether the call was still in the queue.
func (p *lanes) unqueue(w *waiter) bool {
	t := w.load
	i := slices.Index(t.queue, w)
	if i < 0 {
		return false
	}
	t.queue = slices.Delete(t.queue, i, i+1)
	if len(t.queue) == 0 {
		p.turns = slices.DeleteFunc(p.turns, func(other *load) bool { return other == t })
	}
	return true
}

// lend notes that the tenant holds the connection.
func (p *lanes) lend(s *session, t *load) {
	p.leased.Add(1)
	t.held++
	st := &s.lane.stat
	st.InUse++
	st.Leases++
	if s.lane != t.home {
		st.Spills++
	}
	s.tenants[t.id] = struct{}{}
}

// pick takes an idle connection for the tenant: one of its home lane, or else one of another lane that is good for it, the
// second lane first.
func (p *lanes) pick(t *load, anywhere bool) *session {
	if s := p.takeIdle(t.home, t, true); s != nil {
		return s
	}
	if s := p.takeIdle(t.second, t, anywhere); s != nil {
		return s
	}
	for i := range p.all {
		if s := p.takeIdle(p.all[(t.second.index+i)%len(p.all)], t, anywhere); s != nil {
			return s
		}
	}
	return nil
}

func (p *lanes) takeIdle(l *lane, t *load, anyhow bool) *session {
	for i := len(l.idle) - 1; i >= 0; i-- {
		s := l.idle[i]
		if s.login != t.login || !anyhow && !p.welcomes(s, t) {
			continue
		}
		l.idle = slices.Delete(l.idle, i, i+1)
		now := time.Now()
		if s.expired(now) {
			p.discard(s)
			continue
		}
		s.idleFor = now.Sub(s.idleSince)
		return s
	}
	return nil
}

// welcomes reports whether a connection that is not at the tenant's home may serve it at no great cost: it knows the tenant,
// or knows few. Most of what it may know is for those who are at home there.
func (p *lanes) welcomes(s *session, t *load) bool {
	if len(s.tenants) < p.cfg.MaxTenantsPerConn/4 {
		return true
	}
	_, known := s.tenants[t.id]
	return known
}

// raise opens a connection for the call where there is room for one.
func (p *lanes) raise(t *load, w *waiter, anywhere bool) {
	if w.dialing {
		return
	}
	candidates := []*lane{t.home, t.second}
	if anywhere || w.roams {
		candidates = append(append(candidates, p.lanesOf(t.login)...), p.all...)
	}
	for _, l := range candidates {
		if l.open < l.size {
			p.startDial(l, t.login, w)
			return
		}
		for i, s := range l.idle {
			if s.login != t.login && (l == t.home || l == t.second || time.Since(w.since) >= switchAfter) {
				l.idle = slices.Delete(l.idle, i, i+1)
				p.replace(s, t.login, w)
				return
			}
		}
	}
}

// refill opens a connection in place of one that is gone, if somebody waits for one of the lane.
func (p *lanes) refill(l *lane) {
	if p.closed || l.open >= l.size {
		return
	}
	for _, t := range p.turns {
		if w := t.queue[0]; !w.dialing && t.held < p.cfg.MaxConnsPerTenant && (l == t.home || l == t.second || w.roams) {
			p.startDial(l, t.login, w)
			return
		}
	}
}

// discard closes a connection, in the background. It counts until it is closed, so that there are never more than allowed.
func (p *lanes) discard(s *session) {
	p.working.Go(func() {
		s.close()
		p.mu.Lock()
		defer p.mu.Unlock()
		s.lane.open--
		p.refill(s.lane)
	})
}

// replace closes a connection and opens another one in its place.
func (p *lanes) replace(s *session, login string, w *waiter) { p.dialFor(s.lane, login, w, s) }

// startDial opens a connection in the background. It goes to whose turn it is then; its error goes to the call that wanted it.
func (p *lanes) startDial(l *lane, login string, w *waiter) {
	l.open++
	p.dialFor(l, login, w, nil)
}

// dialFor opens a connection that has its place in the lane already, having closed the one that had it before.
func (p *lanes) dialFor(l *lane, login string, w *waiter, before *session) {
	l.stat.Opened++
	ctx := p.ctx
	if w != nil {
		w.dialing = true
		ctx = context.WithoutCancel(w.ctx) // for tracers
	}
	p.working.Go(func() {
		if before != nil {
			before.close()
		}
		s, err := p.dialSafely(ctx, login)
		p.mu.Lock()
		defer p.mu.Unlock()
		if w != nil {
			w.dialing = false
		}
		switch {
		case err != nil:
			l.open--
			l.failed = time.Now()
			if w != nil && p.unqueue(w) {
				w.granted <- grant{err: err}
			}
			p.refill(l)
		case p.closed:
			l.open--
			p.working.Go(s.close)
		default:
			s.lane, s.login = l, login
			p.offer(s)
		}
	})
}

// dialSafely dials for as long as the lanes are open, and no longer than dialTimeout. A panic of Config.Login or of a hook is an
// error: on this goroutine nobody could recover from it.
func (p *lanes) dialSafely(ctx context.Context, login string) (s *session, err error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	defer context.AfterFunc(p.ctx, cancel)()
	defer func() {
		if v := recover(); v != nil {
			s, err = nil, fmt.Errorf("tenantdb: panic while a connection was opened: %v", v)
		}
	}()
	return p.dial(ctx, login)
}

// place chooses a tenant's lanes. When a login appears that was not known before, the lanes are divided anew.
func (p *lanes) place(t *load) {
	if t.divided == len(p.logins) && t.home != nil {
		return
	}
	if !slices.Contains(p.logins, t.login) {
		p.logins = append(p.logins, t.login)
	}
	t.divided, t.home, t.second = len(p.logins), nil, nil
	var best, next uint64
	for _, l := range p.lanesOf(t.login) {
		switch score := rendezvous(t.id, l.index); {
		case t.home == nil || score >= best:
			t.second, next = t.home, best
			t.home, best = l, score
		case t.second == nil || score > next:
			t.second, next = l, score
		}
	}
	if t.second == nil {
		t.second = t.home
	}
}

// lanesOf returns the lanes that a login's tenants live in: those of one login are no other's, as long as there are enough.
func (p *lanes) lanesOf(login string) []*lane {
	parts := min(len(p.logins), len(p.all))
	mine := slices.Index(p.logins, login) % parts
	var lanes []*lane
	for i := mine; i < len(p.all); i += parts {
		lanes = append(lanes, p.all[i])
	}
	return lanes
}

// rendezvous scores a lane for a tenant: highest random weight, by D. Thaler and C. Ravishankar. The mixing is that of
// SplitMix64.
func rendezvous(id tenant.ID, lane int) uint64 {
	mix := func(x uint64) uint64 {
		x ^= x >> 30
		x *= 0xbf58476d1ce4e5b9
		x ^= x >> 27
		x *= 0x94d049bb133111eb
		return x ^ x>>31
	}
	h := mix(uint64(lane+1) * 0x9e3779b97f4a7c15)
	h = mix(h ^ binary.BigEndian.Uint64(id[:8]))
	return mix(h ^ binary.BigEndian.Uint64(id[8:]))
}

// reap closes connections that have lain idle for too long, or are too old.
func (p *lanes) reap() {
	every := max(min(p.cfg.MaxConnIdleTime, p.cfg.MaxConnLifetime)/2, 100*time.Millisecond)
	tick := time.NewTicker(min(every, time.Minute))
	defer tick.Stop()
	for {
		select {
		case <-p.ctx.Done():
			return
		case now := <-tick.C:
			p.closeIdle(func(s *session) bool { return s.expired(now) || now.Sub(s.idleSince) > p.cfg.MaxConnIdleTime })
		}
	}
}

// closeIdle closes the idle connections that are due.
func (p *lanes) closeIdle(due func(*session) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range p.all {
		l.idle = slices.DeleteFunc(l.idle, func(s *session) bool {
			if !due(s) {
				return false
			}
			p.discard(s)
			return true
		})
	}
}

// close turns away who waits, closes what is idle, and waits until every lease is over.
func (p *lanes) close() {
	p.mu.Lock()
	p.closed = true
	for _, t := range p.turns {
		for _, w := range t.queue {
			w.granted <- grant{err: ErrClosed}
		}
		t.queue = nil
	}
	p.turns = nil
	p.mu.Unlock()
	p.closeIdle(func(*session) bool { return true })
	p.leased.Wait()
}

// adopt takes in a connection that was opened outside.
func (p *lanes) adopt(s *session, t *load) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.place(t)
	s.lane = t.home
	s.lane.open++
	s.lane.stat.Opened++
	p.offer(s)
}

// pin counts a connection outside the lanes as leased.
func (p *lanes) pin() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return ErrClosed
	}
	p.leased.Add(1)
	return nil
}
