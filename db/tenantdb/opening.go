package tenantdb

import (
	"context"
	"slices"
	"time"
)

// switchAfter is how long a call waits before a connection of another login is closed for it, where that one is in use or belongs
// to another login's lanes: long against opening a connection.
const switchAfter = 100 * time.Millisecond

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
		if l.open < l.size && p.slots.left() {
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
	if p.closed || l.open >= l.size || !p.slots.left() {
		return
	}
	for _, t := range p.turns {
		if w := t.queue[0]; !w.dialing && t.held < p.share(t) && (l == t.home || l == t.second || w.roams) {
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
		s, err := p.dial(ctx, login)
		p.mu.Lock()
		defer p.mu.Unlock()
		if w != nil {
			w.dialing = false
		}
		switch {
		case err != nil:
			l.open--
			l.failed = time.Now()
			if !p.slots.refused(err) && w != nil && p.turns.quit(w) {
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

// reap closes connections that have lain idle for too long, or are too old.
func (p *lanes) reap() {
	reapEvery(p.ctx, min(p.cfg.MaxConnIdleTime, p.cfg.MaxConnLifetime), func(now time.Time) {
		p.closeIdle(func(s *session) bool { return s.expired(now) || now.Sub(s.idleSince) > p.cfg.MaxConnIdleTime })
	})
}

// reapEvery calls reap twice in the given time, but not more often than ten times a second nor less often than once a minute.
func reapEvery(ctx context.Context, d time.Duration, reap func(now time.Time)) {
	tick := time.NewTicker(min(max(d/2, 100*time.Millisecond), time.Minute))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			reap(now)
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
	p.turns.dismiss()
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
