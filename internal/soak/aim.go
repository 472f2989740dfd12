package main

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/db/tenant"
)

// ending is how the context of an operation ends.
type ending uint8

const (
	natural          ending = iota
	cancelAnywhere          // some time after the call, most of which is spent waiting for a connection
	cancelInFlight          // some time after a statement was sent
	deadlineAnywhere        // like cancelAnywhere, by a deadline
)

// marksman ends contexts. It learns how long operations take, so that about six in ten of its shots hit.
type marksman struct {
	reach, flight time.Duration
}

func newMarksman() marksman {
	return marksman{reach: 5 * time.Millisecond, flight: 500 * time.Microsecond}
}

// learn adjusts the range after a shot: it is in balance at six hits in ten.
func (m *marksman) learn(e ending, hit bool) {
	d := &m.reach
	switch e {
	case natural:
		return
	case cancelInFlight:
		d = &m.flight
	}
	if hit {
		*d += *d / 50
	} else {
		*d -= *d / 33
	}
	*d = min(max(*d, 10*time.Microsecond), time.Second)
}

// shot is the end of one operation's context.
type shot struct {
	cancel context.CancelFunc
	after  time.Duration
	skip   int  // statements that are let pass
	spares bool // does not strike what was sent
	timer  *time.Timer
}

// aim returns the context for an operation in a tenant, and what must be called when it is over. In a calm, only what waits
// for a connection is cancelled, so that connections live.
func (m *marksman) aim(root context.Context, p plan, calm bool) (context.Context, func()) {
	ctx := tenant.NewContext(root, p.house.Tenant)
	s := &shot{skip: p.skip, spares: calm}
	switch p.ending {
	case cancelAnywhere:
		ctx, s.cancel = context.WithCancel(ctx)
		s.timer = time.AfterFunc(time.Duration(p.moment*float64(m.reach)), s.cancel)
	case deadlineAnywhere:
		return context.WithTimeout(ctx, time.Duration(p.moment*float64(m.reach)))
	case cancelInFlight:
		ctx, s.cancel = context.WithCancel(ctx)
		s.after = time.Duration(p.moment * float64(m.flight))
	default:
		return ctx, func() {}
	}
	return context.WithValue(ctx, shotKey{}, s), s.stop
}

type shotKey struct{}

// fire is called when a statement is about to be sent. One goroutine calls it and stop.
func (s *shot) fire() {
	switch {
	case s.timer == nil && s.skip == 0:
		s.timer = time.AfterFunc(s.after, s.cancel)
	case s.timer == nil:
		s.skip--
	case s.spares:
		s.timer.Stop()
	}
}

func (s *shot) stop() {
	if s.timer != nil {
		s.timer.Stop()
	}
	s.cancel()
}

// trigger is a tracer that fires the shot of an operation when its statement is about to be sent.
type trigger struct{}

var (
	_ pgx.QueryTracer    = trigger{}
	_ pgx.BatchTracer    = trigger{}
	_ pgx.CopyFromTracer = trigger{}
)

func pull(ctx context.Context) context.Context {
	if s, ok := ctx.Value(shotKey{}).(*shot); ok {
		s.fire()
	}
	return ctx
}

func (trigger) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	return pull(ctx)
}

func (trigger) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

func (trigger) TraceBatchStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceBatchStartData) context.Context {
	return pull(ctx)
}

func (trigger) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}

func (trigger) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData) {}

func (trigger) TraceCopyFromStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceCopyFromStartData) context.Context {
	return pull(ctx)
}

func (trigger) TraceCopyFromEnd(context.Context, *pgx.Conn, pgx.TraceCopyFromEndData) {}
