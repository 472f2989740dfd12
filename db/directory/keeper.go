package directory

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"time"
)

const (
	// fillEvery is about how often spares are looked at without being told to.
	fillEvery = time.Minute
	// settleTime is about how long sign-ups are left to themselves before what they took is made good: their first requests come
	// first, and more sign-ups may follow, for the same batch. It also lets one process be before the others.
	settleTime = 200 * time.Millisecond

	firstRefill = time.Second
	lastRefill  = 5 * time.Minute
)

// keeper decides when spares are filled.
type keeper struct {
	fill func(context.Context) error
	// low reports whether so few are left that filling cannot wait.
	low func(context.Context) (bool, error)
	// taken tells that low may have changed.
	taken  <-chan struct{}
	once   bool // stop after fill has succeeded
	logger *slog.Logger
}

// run fills until ctx ends.
func (k *keeper) run(ctx context.Context) {
	delay := firstRefill
	for ctx.Err() == nil {
		err := k.fill(ctx)
		switch {
		case ctx.Err() != nil || err == nil && k.once:
			return
		case err != nil:
			pause := jitter(delay)
			k.logger.WarnContext(ctx, "spares cannot be kept; tenants are built when they sign up", "error", err, "next_try", pause)
			sleep(ctx, pause)
			delay = min(2*delay, lastRefill)
		default:
			delay = firstRefill
			k.wait(ctx)
		}
	}
}

// wait returns when it is time to fill, or ctx ends.
func (k *keeper) wait(ctx context.Context) {
	tick := time.NewTimer(jitter(fillEvery))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			return
		case <-k.taken:
		}
		sleep(ctx, jitter(settleTime))
		if low, err := k.low(ctx); low || err != nil {
			return // to fill, which meets the error too and knows what to do
		}
	}
}

// jitter is a random duration of d/2 to 3d/2, so that processes which did something at the same time do not do so again.
func jitter(d time.Duration) time.Duration { return d/2 + rand.N(d) }

// sleep waits for d or the end of ctx.
func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
