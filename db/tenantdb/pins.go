package tenantdb

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/leasehold-go/leasehold/db/tenant"
)

// pins are the rights to have a session of one's own: so many for all tenants, and of those so many for each. Who waits for its
// tenant's share does not stand in the queue of all.
type pins struct {
	all  chan struct{}
	each int // a tenant's share

	mu      sync.Mutex
	tenants map[tenant.ID]*share // of those that have a session or wait for one
}

type share struct {
	held  chan struct{}
	users int // that hold a right or wait for it
}

func newPins(all, each int) *pins {
	return &pins{all: make(chan struct{}, all), each: each, tenants: make(map[tenant.ID]*share)}
}

// join returns a tenant's share, which is kept until leave.
func (p *pins) join(id tenant.ID) *share {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.tenants[id]
	if s == nil {
		s = &share{held: make(chan struct{}, p.each)}
		p.tenants[id] = s
	}
	s.users++
	return s
}

func (p *pins) leave(id tenant.ID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.tenants[id].users--; p.tenants[id].users == 0 {
		delete(p.tenants, id)
	}
}

// pin waits for the right to open a session in a tenant, first among those of the tenant and then among all, in the order of their
// coming. The right must be given back with unpin, once.
func (e *engine) pin(ctx context.Context, id tenant.ID) (unpin func(), err error) {
	if err := e.home.shared.pin(); err != nil {
		return nil, err
	}
	timer := time.NewTimer(e.cfg.AcquireTimeout)
	defer timer.Stop()
	enter := func(held chan struct{}, full string) error {
		select {
		case held <- struct{}{}:
			return nil
		case <-timer.C:
			return fmt.Errorf("%w: waited %s, %s", ErrBusy, e.cfg.AcquireTimeout, full)
		case <-e.closing:
			return ErrClosed
		case <-ctx.Done():
			return fmt.Errorf("%w: %s: %w", ErrBusy, full, context.Cause(ctx))
		}
	}
	p := e.pins
	leave := func() {
		p.leave(id)
		e.home.shared.leased.Done()
	}
	mine := p.join(id)
	if err := enter(mine.held, fmt.Sprintf("the tenant's share of %d sessions is in use; Config.MaxSessionsPerTenant sets it", p.each)); err != nil {
		leave()
		return nil, err
	}
	if err := enter(p.all, fmt.Sprintf("all %d sessions are in use; Config.MaxSessions sets their number", cap(p.all))); err != nil {
		<-mine.held
		leave()
		return nil, err
	}
	return func() {
		<-p.all
		<-mine.held
		leave()
	}, nil
}
