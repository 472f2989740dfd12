package tenantdb

import (
	"context"
	"encoding/binary"
	"slices"
	"sync"
	"time"

	"github.com/leasehold-go/leasehold/db/tenant"
)

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

	// brief is what a lease takes less than where a tenant gets but a part of its share. It is a field for tests.
	brief time.Duration

	mu  sync.Mutex
	all []*lane
	// logins are the runtime logins that were asked for, in that order. They divide the lanes.
	logins []string
	// switched is when a connection was last closed for a login that had waited for long. It happens once in switchAfter: else,
	// where everybody waits that long, all would do nothing but open connections.
	switched time.Time
	turns    turns
	// patrols says that a goroutine looks after those who wait.
	patrols bool
	closed  bool
	slots   slots
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

// load is what one tenant has and wants. Guarded by the lock of its pool, but for what comes first, which does not change.
type load struct {
	id     tenant.ID
	door   door
	login  string // the door's; "" is the default one
	server *server
	pool   pool

	divided      int // len(lanes.logins) when home and second were chosen
	home, second *lane
	held         int
	pace         time.Duration // how long a lease takes, of late
	queue        []*waiter

	// Only where the tenant has a database of its own:
	open    int  // connections that are open or being opened
	opening bool // one is being opened
}

func newLanes(ctx context.Context, cfg Config, working *sync.WaitGroup, dial func(context.Context, string) (*session, error)) *lanes {
	p := &lanes{brief: time.Millisecond, cfg: cfg, ctx: ctx, dial: dial, working: working, all: make([]*lane, cfg.Lanes)}
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

// release ends a lease. A connection that is not reusable is closed, as is one that is too old or knows too many tenants.
func (p *lanes) release(s *session, t *load, reusable bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	defer p.leased.Done()
	now := time.Now()
	t.held--
	t.pace += (now.Sub(s.lent) - t.pace) / 8
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
	for _, t := range p.turns {
		if p.closed || t.held >= p.share(t) || !p.suits(s, t) {
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
			if now := time.Now(); now.Sub(w.since) < switchAfter || now.Sub(p.switched) < switchAfter {
				continue
			}
			p.switched = time.Now()
			other = t
			break
		}
		p.grant(p.turns.serve(t), s)
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

// share is how many connections the tenant may hold without having waited. Where calls are brief, few connections do all that can
// be done at once, and more would only take the processors from the others; the whole share is for calls that take long.
func (p *lanes) share(t *load) int {
	if t.pace < p.brief {
		return max(min(2, p.cfg.MaxConnsPerTenant), p.cfg.MaxConnsPerTenant/4)
	}
	return p.cfg.MaxConnsPerTenant
}

// grant leases s to a call that has waited.
func (p *lanes) grant(w *waiter, s *session) {
	p.lend(s, w.load)
	w.granted <- grant{session: s}
}

// serve grants the tenant's calls what is free.
func (p *lanes) serve(t *load) { p.serveFrom(t, false) }

// serveFrom grants the tenant's calls what is free, anywhere if it says so.
func (p *lanes) serveFrom(t *load, anywhere bool) {
	share := p.share(t)
	if anywhere {
		share = p.cfg.MaxConnsPerTenant
	}
	for !p.closed && len(t.queue) > 0 && t.held < share {
		w := t.queue[0]
		s := p.pick(t, anywhere || w.roams)
		if s == nil {
			p.raise(t, w, anywhere)
			return
		}
		p.turns.quit(w)
		p.grant(w, s)
	}
}

// lend notes that the tenant holds the connection.
func (p *lanes) lend(s *session, t *load) {
	p.leased.Add(1)
	s.lent = time.Now()
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
