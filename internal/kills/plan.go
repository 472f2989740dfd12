package main

import "math/rand/v2"

// round is one way of the fleet, and the kills on it.
type round struct {
	number uint64
	back   bool // down to the base, not up
	salvos []salvo
}

// salvo is what is started at one time, and awaited.
type salvo struct {
	// at are the boundaries at which processes kill themselves, one each; 0 for never.
	at []int64
	// stall says that the one process is killed when it waits for a transaction that is kept open for it.
	stall bool
	// evict says that the sessions of the dead are ended afterwards.
	evict bool
}

// planner chooses rounds. What it chooses depends on the seed and on how many boundaries a run has, and on nothing else.
type planner struct {
	seed   uint64
	rounds uint64
	sweeps map[bool]*sweep // by round.back
}

// newPlanner takes how many boundaries a run has.
func newPlanner(seed uint64, upTotal, backTotal int64) *planner {
	return &planner{seed: seed, sweeps: map[bool]*sweep{false: newSweep(upTotal, seed), true: newSweep(backTotal, seed)}}
}

// overhead is about how many boundaries a run has that finds nothing to do.
const overhead = 40

// next returns one round. A fleet that is whole is rolled back as often as it takes for both sweeps to come to their end together.
func (p *planner) next(whole bool) round {
	p.rounds++
	var (
		back      = whole && p.sweeps[true].share() <= p.sweeps[false].share()
		rng       = rand.New(rand.NewPCG(p.seed, p.rounds))
		sweep     = p.sweeps[back]
		at, swept = sweep.next()
		evict     = func() bool { return rng.IntN(4) == 0 }
		r         = round{number: p.rounds, back: back}
		somewhere = func(of int64) int64 { return 1 + rng.Int64N(max(of, overhead)) }
	)
	if !swept {
		at = somewhere(sweep.total)
	}
	r.salvos = append(r.salvos, salvo{at: []int64{at}, evict: evict()})
	for rng.IntN(6) == 0 {
		left := sweep.total - at // the first one has done about the rest
		s := salvo{at: []int64{somewhere(left)}, evict: evict()}
		switch kind := rng.IntN(9); {
		case kind < 3:
			s.stall, s.at[0], s.evict = true, 0, rng.IntN(3) > 0
		case kind < 5:
			s.at = append(s.at, somewhere(left))
		case kind < 7:
			s.at = append(s.at, 0)
		}
		r.salvos = append(r.salvos, s)
	}
	return r
}

// sweep goes once through the numbers from 1 to total, in an order in which the first few are spread as evenly as many.
type sweep struct {
	total, done, offset, step int64
}

// newSweep begins where the seed says. The step is the golden section of total, or the next number that has no divisor in common with
// it.
func newSweep(total int64, seed uint64) *sweep {
	s := &sweep{total: total, offset: int64(seed % uint64(total)), step: max(1, total*618/1000)}
	for gcd(s.step, total) != 1 {
		s.step++
	}
	return s
}

func gcd(a, b int64) int64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// share is how much of the sweep is done.
func (s *sweep) share() float64 { return float64(s.done) / float64(s.total) }

// next returns the next number, or false if there is none.
func (s *sweep) next() (int64, bool) {
	if s.done == s.total {
		return 0, false
	}
	n := 1 + (s.offset+s.done*s.step)%s.total
	s.done++
	return n, true
}
