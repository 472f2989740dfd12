package tenantdb

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// roamAfter is how long a call waits for its tenant's own lanes before any lane will do that is free. It is long against a
// query, which is worth waiting for because a connection that knows the tenant answers faster, and short against a transaction.
const roamAfter = 10 * time.Millisecond

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

func newWaiter(ctx context.Context, t *load) *waiter {
	return &waiter{ctx: ctx, load: t, since: time.Now(), granted: make(chan grant, 1)}
}

// turns are the tenants that wait, each with its queue, the one whose turn is next in front.
type turns []*load

// join puts a call at the end of its tenant's queue.
func (ts *turns) join(w *waiter) {
	t := w.load
	t.queue = append(t.queue, w)
	if len(t.queue) == 1 {
		*ts = append(*ts, t)
	}
}

// quit takes a call out of its tenant's queue, and reports whether it was still there.
func (ts *turns) quit(w *waiter) bool {
	t := w.load
	i := slices.Index(t.queue, w)
	if i < 0 {
		return false
	}
	t.queue = slices.Delete(t.queue, i, i+1)
	if len(t.queue) == 0 {
		*ts = slices.DeleteFunc(*ts, func(other *load) bool { return other == t })
	}
	return true
}

// serve takes the call out that has waited longest of the tenant's. The tenant's next turn comes after everybody else's.
func (ts *turns) serve(t *load) *waiter {
	w := t.queue[0]
	ts.quit(w)
	if len(t.queue) > 0 {
		ts.putLast(t)
	}
	return w
}

// putLast moves a tenant to the end.
func (ts *turns) putLast(t *load) {
	*ts = append(slices.DeleteFunc(*ts, func(other *load) bool { return other == t }), t)
}

// first returns the tenant in front of those for whom ok holds, or nil.
func (ts turns) first(ok func(*load) bool) *load {
	if i := slices.IndexFunc(ts, ok); i >= 0 {
		return ts[i]
	}
	return nil
}

// waiting counts the calls.
func (ts turns) waiting() int {
	n := 0
	for _, t := range ts {
		n += len(t.queue)
	}
	return n
}

// expire turns away those calls of a tenant that have waited for too long, and says what for.
func (ts *turns) expire(t *load, now time.Time, limit time.Duration, shortage func(*load) string) {
	for len(t.queue) > 0 && now.Sub(t.queue[0].since) >= limit {
		w := t.queue[0]
		err := fmt.Errorf("%w: waited %s, %s", ErrBusy, limit, shortage(t))
		ts.quit(w)
		w.granted <- grant{err: err}
	}
}

// dismiss turns away all who wait.
func (ts *turns) dismiss() {
	for _, t := range *ts {
		for _, w := range t.queue {
			w.granted <- grant{err: ErrClosed}
		}
		t.queue = nil
	}
	*ts = nil
}

// queued is a pool whose callers may have to wait.
type queued interface {
	pool
	// take leases a connection that is free, or puts the call in the queue.
	take(ctx context.Context, t *load) (*session, *waiter, error)
	// withdraw takes a call out of the queue and says what it waited for. It reports false if the call was granted something.
	withdraw(w *waiter) (why string, ok bool)
}

// acquire takes a connection for the tenant, waiting for one if it must.
func acquire(ctx context.Context, p queued, t *load) (*session, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("context already done: %w", err)
	}
	for {
		s, w, err := p.take(ctx, t)
		if w != nil {
			s, err = wait(p, w)
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

func (p *lanes) acquire(ctx context.Context, t *load) (*session, error) { return acquire(ctx, p, t) }

func (p *lanes) take(ctx context.Context, t *load) (*session, *waiter, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, nil, ErrClosed
	}
	p.place(t)
	if len(t.queue) == 0 && t.held < p.share(t) {
		if s := p.pick(t, false); s != nil {
			if s.lane != t.home && t.home.open < t.home.size && time.Since(t.home.failed) > time.Second { // so that the next call finds it
				p.startDial(t.home, t.login, nil)
			}
			p.lend(s, t)
			return s, nil, nil
		}
	}
	w := newWaiter(ctx, t)
	t.home.stat.Waits++
	p.turns.join(w)
	if !p.patrols {
		p.patrols = true
		p.working.Go(func() { patrol(p.cfg, p.lookAfter) })
	}
	if t.held < p.share(t) {
		p.raise(t, w, t.pace >= p.brief) // brief calls wait for a connection that knows the tenant
	}
	return nil, w, nil
}

// wait waits until the call is granted a connection, gives up or is called off.
func wait(p queued, w *waiter) (*session, error) {
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

func (p *lanes) withdraw(w *waiter) (why string, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	why = p.shortage(w.load)
	return why, p.turns.quit(w)
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
	return fmt.Sprintf("of %d connections %d are in use, %d of them by this tenant, and %d are open or being opened%s", p.cfg.MaxConns, inUse,
		t.held, open, p.slots.shortage())
}

// patrol looks after those who wait, for as long as there are any. One goroutine and its ticker cost less than a timer for
// each call.
func patrol(cfg Config, lookAfter func(now time.Time) (done bool)) {
	tick := time.NewTicker(min(roamAfter, max(cfg.AcquireTimeout, time.Millisecond)))
	defer tick.Stop()
	for now := range tick.C {
		if lookAfter(now) {
			return
		}
	}
}

// lookAfter ends waits that are too long, lets calls roam whose lanes do not move, and gives tenants that have waited their whole
// share. It reports whether nobody waits.
func (p *lanes) lookAfter(now time.Time) (done bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	free := slices.ContainsFunc(p.all, func(l *lane) bool { return len(l.idle) > 0 || l.open < l.size })
	for _, t := range slices.Clone(p.turns) {
		p.turns.expire(t, now, p.cfg.AcquireTimeout, p.shortage)
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
