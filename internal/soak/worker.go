package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// plan is one operation before it is run. It depends on the seed only.
type plan struct {
	kind   *kind
	number int // of the kind
	house  *house
	other  *house // never the same
	ending ending
	moment float64 // of the ending, from 0 to 1 of the marksman's reach
	skip   int     // statements before a cancel in flight
}

// Parts of a hundred operations whose context is made to end. Six in ten of them are hit.
const (
	anywherePart = 18
	deadlinePart = 4
	inFlightPart = 10 // in storms only
)

// choose returns the operation that a random number stands for.
func (s *soak) choose(rng *rand.Rand) plan {
	weight := rng.IntN(s.weights)
	p := plan{moment: rng.Float64(), skip: rng.IntN(3)}
	for i := range kinds {
		if weight -= kinds[i].weight; weight < 0 {
			p.kind, p.number = &kinds[i], i
			break
		}
	}
	i, n := rng.IntN(len(s.houses)), len(s.houses)
	p.house = s.houses[i]
	switch hot := rng.IntN(3) == 0; {
	case p.kind.hot:
		p.house = s.hot[i%min(2, len(s.hot))]
	case hot:
		p.house = s.hot[i%len(s.hot)]
	}
	if p.other = s.houses[rng.IntN(n)]; p.other == p.house {
		p.other = s.houses[(i+1)%n]
	}
	if p.other == p.house {
		p.other = s.houses[(i+2)%n]
	}
	switch part := rng.IntN(100); {
	case part < anywherePart:
		p.ending = cancelAnywhere
	case part < anywherePart+deadlinePart:
		p.ending = deadlineAnywhere
	case part < anywherePart+deadlinePart+inFlightPart:
		p.ending = cancelInFlight
	}
	return p
}

// worker runs its share of the operations, one after the other.
type worker struct {
	*soak
	id    int
	aim   marksman
	count [][classes]int64 // by kind
}

func (w *worker) run(ops int) {
	w.aim = newMarksman()
	w.count = make([][classes]int64, len(kinds))
	pcg := rand.NewPCG(0, 0)
	rng := rand.New(pcg)
	for k := range ops {
		pcg.Seed(w.cfg.Seed, uint64(w.id)<<40|uint64(k))
		if !w.do(rng) {
			return
		}
	}
}

// do runs one operation and judges it. It reports false when the soak was interrupted.
func (w *worker) do(rng *rand.Rand) bool {
	p := w.choose(rng)
	calm := !w.storm()
	if p.ending == cancelInFlight && calm {
		p.ending = natural
	}
	c := &call{soak: w.soak, rng: rng, house: p.house, other: p.other}
	around := circumstances{unrepeatable: p.kind.unrepeatable, homeless: p.kind.homeless, pooled: w.site.pooled, before: p.house.look()}
	ctx, over := w.aim.aim(w.root, p, calm)
	err := c.attempt(ctx, p.kind)
	around.cancelled, around.expired = endOf(ctx)
	around.cancelled = around.cancelled || c.spoilt
	over()
	c.settle(err)
	around.after = p.house.look()
	around.homeless = around.homeless || c.class == panicked || c.class == refused // before anything was sent
	if w.root.Err() != nil {
		return false
	}
	cl := around.judge(err)
	if cl == fine {
		cl = c.class
	}
	w.aim.learn(p.ending, cl == cancelledWaiting || cl == cancelledFlying || cl == busy || cl == late)
	w.count[p.number][cl]++
	switch cl {
	case wrongRow:
		w.wrongRow("%s of %s, %s: %v", p.kind.name, p.house.Slug, around, err)
	case other:
		w.fault("%s of %s, %s: %s", p.kind.name, p.house.Slug, around, describe(err))
	}
	w.tick(w.done.Add(1))
	return true
}

// describe returns an error with what tells errors apart.
func describe(err error) string {
	switch code := sqlstate(err); {
	case err == nil:
		return "an answer from a schema that is not there"
	case code != "":
		return fmt.Sprintf("%v (SQLSTATE %s, %T)", err, code, err)
	}
	return fmt.Sprintf("%v (%T)", err, err)
}

// endOf says how a context has ended. A deadline is past by the clock: what waits by the clock may notice before the context.
func endOf(ctx context.Context) (cancelled, expired bool) {
	deadline, ok := ctx.Deadline()
	return errors.Is(ctx.Err(), context.Canceled), ok && !time.Now().Before(deadline)
}

// attempt runs the operation and catches its panic.
func (c *call) attempt(ctx context.Context, k *kind) (err error) {
	defer func() {
		switch v := recover(); v {
		case nil:
		case errBoom:
			c.class, err = panicked, nil
		default:
			err = fmt.Errorf("%w: %v", errPanicked, v)
		}
	}()
	return k.run(c, ctx)
}
