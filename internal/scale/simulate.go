package main

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
)

// model is what is assumed of companies and servers. Sizes are in MB, rates in requests a second, times in days.
type model struct {
	Tenants int     // that sign up in all
	Years   int     // that it takes them
	Surge   float64 // sign-ups a day in the end, as a multiple of those in the beginning
	Leaving float64 // the part of the tenants that leaves in a year
	Seed    uint64

	MedianMB, SpreadMB     float64 // of a grown tenant's size: lognormal, with this standard deviation of the logarithm
	MedianRate, SpreadRate float64 // of its requests a second, which hang together with the size
	GrowsIn                float64 // after so many days a tenant has 63 % of its size

	MaxTenants       int     // of a server that houses tenants by schema
	DiskMB, Rate     float64 // of such a server
	MaxDatabases     int     // of a server that gives each a database of its own
	OwnDiskMB        float64 // of such a server; its rate is the same
	OwnMB            float64 // a tenant of this size gets one
	AddAt            float64 // how full with tenants the servers that take newcomers may be, all together, before one is added
	CloseAt          float64 // how full of data, or busy, a server may be before it takes no newcomers
	RelieveAt        float64 // … before it gives its largest tenants away
	MovesPerDay      int
	RetireInYear     int // when the first server is emptied; 0 is never
	keptAfterLeaving int // days before a tenant that has left is purged
}

func defaultModel() model {
	return model{
		Tenants: 1_000_000, Years: 5, Surge: 5, Leaving: 0.15, Seed: 1,
		MedianMB: 5, SpreadMB: 2.3, MedianRate: 0.02, SpreadRate: 1.7, GrowsIn: 500,
		MaxTenants: 5000, DiskMB: 256 << 10, Rate: 2000, MaxDatabases: 200, OwnDiskMB: 2 << 20, OwnMB: 5 << 10,
		AddAt: 0.8, CloseAt: 0.7, RelieveAt: 0.85, MovesPerDay: 100, RetireInYear: 4, keptAfterLeaving: 30,
	}
}

func (m *model) flags(f *flag.FlagSet) {
	f.IntVar(&m.Tenants, "tenants", m.Tenants, "this `number` of tenants signs up in all")
	f.IntVar(&m.Years, "years", m.Years, "within this `number` of years")
	f.Uint64Var(&m.Seed, "seed", m.Seed, "choose all that is random by this `number`")
	f.Float64Var(&m.Surge, "surge", m.Surge, "sign-ups a day in the end, as a `multiple` of those in the beginning")
	f.Float64Var(&m.Leaving, "leaving", m.Leaving, "the `part` of the tenants that leaves in a year")
	f.Float64Var(&m.MedianMB, "median-mb", m.MedianMB, "the median of a grown tenant's size, in `MB`")
	f.Float64Var(&m.SpreadMB, "spread", m.SpreadMB, "the standard `deviation` of the logarithm of the size")
	f.IntVar(&m.MaxTenants, "max-tenants", m.MaxTenants, "this `number` of tenants fits on a server, by schema")
	f.Float64Var(&m.DiskMB, "disk-mb", m.DiskMB, "a server of tenants by schema holds so many `MB`")
	f.Float64Var(&m.OwnDiskMB, "own-disk-mb", m.OwnDiskMB, "a server of databases holds so many `MB`")
	f.Float64Var(&m.OwnMB, "own-mb", m.OwnMB, "a tenant of so many `MB` gets a database of its own")
	f.IntVar(&m.MovesPerDay, "moves", m.MovesPerDay, "at most this `number` of tenants is moved in a day")
	f.IntVar(&m.RetireInYear, "retire", m.RetireInYear, "empty the first server in this `year`; 0 for never")
}

func (m *model) validate() error {
	positive := []float64{
		float64(m.Tenants), float64(m.Years), m.Surge, m.MedianMB, m.SpreadMB, m.MedianRate, m.SpreadRate, m.GrowsIn, float64(m.MaxTenants),
		m.DiskMB, m.Rate, float64(m.MaxDatabases), m.OwnDiskMB, m.OwnMB, m.AddAt, m.CloseAt, m.RelieveAt,
	}
	if slices.Min(positive) <= 0 || m.MovesPerDay < 0 || m.Leaving < 0 || m.RetireInYear < 0 || m.Years > 100 {
		return errors.New("numbers must be greater than 0, and years at most 100; moves, leaving and retire may be 0")
	}
	return nil
}

// company is a tenant. What it needs grows towards a limit.
type company struct {
	born       int
	size, rate float64 // in the end
	home       int     // the index of its server; -1 before and after
	place      int     // its index among the server's members
	own        bool    // has, or waits for, a database of its own
	waiting    bool    // for a move
}

// gone says that a company is on no server.
const gone = -1

// server houses companies. Their needs on a day t are sums of s·(1 − e^((born − t)/growsIn)), so two numbers hold each of them.
type server struct {
	own                bool // a database each
	closed             bool // takes no newcomers, because of its data or its load
	draining           bool
	members            []int
	size, sizeThen     float64
	rate, rateThen     float64
	maxTenants         int
	diskMB             float64
	newcomers          int     // today
	highest, worstDisk float64 // parts of its maximum
}

// simulation is one run.
type simulation struct {
	model
	random    *rand.Rand
	days, day int
	companies []company
	servers   []*server
	leave     [][]int // companies by the day on which they are purged
	outgrow   [][]int // companies by the day on which they reach OwnMB
	queues    [3][]int
	living    int
	period    period
	report    []period
}

// The queues of companies that are to be moved, the most urgent first.
const (
	outgrown = iota
	relieved
	retiring
)

// period is what has happened since the last report, and how things stand.
type period struct {
	day, living, shared, own, closed    int
	minFill, medianFill, maxFill        float64 // with tenants, of servers by schema that are not draining
	medianDisk, worstDisk, worstRate    float64
	moves, mostMoves, longestQueue      int
	movedMB                             float64
	signUps, left, toOwn, mostNewcomers int
}

// simulate runs the model. The error is that of a model that cannot be, or of a rule that was broken.
func simulate(m model) (*simulation, error) {
	if err := m.validate(); err != nil {
		return nil, err
	}
	s := &simulation{model: m, random: rand.New(rand.NewPCG(m.Seed, 0)), days: m.Years * 365}
	s.companies = make([]company, 0, m.Tenants)
	s.leave, s.outgrow = make([][]int, s.days), make([][]int, s.days)
	s.addServer(false)
	for s.day = range s.days {
		before := s.period.moves
		s.purge()
		s.signUp()
		s.queues[outgrown] = append(s.queues[outgrown], s.outgrow[s.day]...)
		s.lookAfterServers()
		s.move()
		s.period.mostMoves = max(s.period.mostMoves, s.period.moves-before)
		s.look()
		if (s.day+1)*10/s.days > s.day*10/s.days {
			if err := s.check(); err != nil {
				return nil, fmt.Errorf("day %d: %w", s.day, err)
			}
			s.close()
		}
	}
	return s, nil
}

// grown is the part of its size that a company has by a day.
func (s *simulation) grown(c *company) float64 {
	return 1 - math.Exp(-float64(s.day-c.born)/s.GrowsIn)
}

// later is e^(born/growsIn), with which the sums of a server are kept.
func (s *simulation) later(c *company) float64 { return math.Exp(float64(c.born) / s.GrowsIn) }

func (s *simulation) disk(v *server) float64 {
	return (v.size - v.sizeThen*math.Exp(-float64(s.day)/s.GrowsIn)) / v.diskMB
}

func (s *simulation) load(v *server) float64 {
	return (v.rate - v.rateThen*math.Exp(-float64(s.day)/s.GrowsIn)) / s.Rate
}

func (v *server) fill() float64 { return float64(len(v.members)) / float64(v.maxTenants) }

func (s *simulation) addServer(own bool) int {
	v := &server{own: own, maxTenants: s.MaxTenants, diskMB: s.DiskMB}
	if own {
		v.maxTenants, v.diskMB = s.MaxDatabases, s.OwnDiskMB
	}
	s.servers = append(s.servers, v)
	return len(s.servers) - 1
}

// put houses a company that has no home.
func (s *simulation) put(i, at int) {
	c, v := &s.companies[i], s.servers[at]
	c.home, c.place = at, len(v.members)
	v.members = append(v.members, i)
	v.size, v.sizeThen = v.size+c.size, v.sizeThen+c.size*s.later(c)
	v.rate, v.rateThen = v.rate+c.rate, v.rateThen+c.rate*s.later(c)
}

// take takes a company from its home.
func (s *simulation) take(i int) {
	c := &s.companies[i]
	v := s.servers[c.home]
	last := v.members[len(v.members)-1]
	v.members[c.place], s.companies[last].place = last, c.place
	v.members = v.members[:len(v.members)-1]
	v.size, v.sizeThen = v.size-c.size, v.sizeThen-c.size*s.later(c)
	v.rate, v.rateThen = v.rate-c.rate, v.rateThen-c.rate*s.later(c)
	c.home = gone
}

// leastFull is the rule of db/directory: of the servers that take tenants and have room, the one with the least part of its
// max_tenants; of equals the oldest. It is gone if there is none.
func (s *simulation) leastFull() int {
	best := gone
	for i, v := range s.servers {
		if !v.own && !v.closed && !v.draining && len(v.members) < v.maxTenants && (best == gone || v.fill() < s.servers[best].fill()) {
			best = i
		}
	}
	return best
}

// destination is where the operator moves a company to: the server that has most to spare of what it is shortest of. It is gone
// if the company would make every one of them give tenants away.
func (s *simulation) destination(c *company, from int) int {
	best, least := gone, s.RelieveAt
	for i, v := range s.servers {
		if i == from || v.own != c.own || v.draining || len(v.members) >= v.maxTenants {
			continue
		}
		// As if it were grown: it is to stay.
		if used := max(v.fill(), s.disk(v)+c.size/v.diskMB, s.load(v)+c.rate/s.Rate); used < least {
			best, least = i, used
		}
	}
	return best
}

func (s *simulation) purge() {
	for _, i := range s.leave[s.day] {
		s.take(i)
		s.living--
		s.period.left++
	}
}

// signUp brings the day's newcomers.
func (s *simulation) signUp() {
	by := func(day int) int {
		part := float64(day) / float64(s.days)
		if s.Surge != 1 {
			part = (math.Pow(s.Surge, part) - 1) / (s.Surge - 1)
		}
		return int(math.Round(part * float64(s.Tenants)))
	}
	for range by(s.day+1) - by(s.day) {
		size, rate := s.random.NormFloat64(), s.random.NormFloat64()
		c := company{
			born: s.day, home: gone,
			size: s.MedianMB * math.Exp(s.SpreadMB*size),
			rate: s.MedianRate * math.Exp(s.SpreadRate*(size/2+rate*math.Sqrt(0.75))),
		}
		i := len(s.companies)
		s.companies = append(s.companies, c)
		at := s.leastFull()
		if at == gone {
			at = s.addServer(false)
		}
		s.put(i, at)
		s.living++
		s.servers[at].newcomers++
		s.period.signUps++
		s.plan(i)
	}
}

// plan notes when a company will leave, and when it will have outgrown its neighbours.
func (s *simulation) plan(i int) {
	c := &s.companies[i]
	leaves := s.days
	if s.Leaving > 0 {
		stays := s.random.ExpFloat64() * 365 / -math.Log1p(-min(s.Leaving, 0.999999))
		leaves = int(min(float64(s.day)+stays, float64(s.days))) + s.keptAfterLeaving
	}
	if leaves < s.days {
		s.leave[leaves] = append(s.leave[leaves], i)
	}
	if c.size > s.OwnMB {
		day := c.born + int(math.Ceil(-s.GrowsIn*math.Log1p(-s.OwnMB/c.size)))
		if day < min(s.days, leaves) {
			s.outgrow[day] = append(s.outgrow[day], i)
		}
	}
}

// lookAfterServers closes and opens servers, chooses who is to be moved, and adds servers.
func (s *simulation) lookAfterServers() {
	if s.RetireInYear > 0 && s.day == (s.RetireInYear-1)*365 && !s.servers[0].draining {
		s.servers[0].draining = true
		for _, i := range s.servers[0].members {
			s.wait(i, retiring)
		}
	}
	var room, taken int
	for _, v := range s.servers {
		used := max(s.disk(v), s.load(v))
		v.closed = used >= s.CloseAt
		if used >= s.RelieveAt && !v.draining && len(v.members) > 1 { // one that is too large by itself needs another machine
			s.relieve(v)
		}
		if !v.own && !v.closed && !v.draining {
			room, taken = room+v.maxTenants, taken+len(v.members)
		}
	}
	if float64(taken) >= s.AddAt*float64(room) {
		s.addServer(false)
	}
}

// relieve chooses the tenants that a server has to give away, those that weigh most first, until it takes newcomers again.
func (s *simulation) relieve(v *server) {
	weight := func(i int) float64 {
		c := &s.companies[i]
		return s.grown(c) * max(c.size/v.diskMB, c.rate/s.Rate)
	}
	disk, load := s.disk(v), s.load(v)
	for _, i := range v.members {
		if c := &s.companies[i]; c.waiting {
			disk, load = disk-s.grown(c)*c.size/v.diskMB, load-s.grown(c)*c.rate/s.Rate
		}
	}
	if max(disk, load) < s.CloseAt {
		return
	}
	heaviest := slices.SortedFunc(slices.Values(v.members), func(a, b int) int { return cmp.Or(-cmp.Compare(weight(a), weight(b)), cmp.Compare(a, b)) })
	for _, i := range heaviest {
		if max(disk, load) < s.CloseAt {
			return
		}
		if c := &s.companies[i]; !c.waiting {
			disk, load = disk-s.grown(c)*c.size/v.diskMB, load-s.grown(c)*c.rate/s.Rate
			s.wait(i, relieved)
		}
	}
}

func (s *simulation) wait(i, queue int) {
	if c := &s.companies[i]; !c.waiting {
		c.waiting = true
		s.queues[queue] = append(s.queues[queue], i)
	}
}

// move moves those that wait, as many as a day allows.
func (s *simulation) move() {
	left := s.MovesPerDay
	for q := range s.queues {
		for len(s.queues[q]) > 0 && left > 0 {
			i := s.queues[q][0]
			s.queues[q] = s.queues[q][1:]
			c := &s.companies[i]
			c.waiting = false
			if c.home == gone {
				continue
			}
			if q == outgrown {
				c.own = true
				s.period.toOwn++
			}
			at := s.destination(c, c.home)
			if at == gone {
				at = s.addServer(c.own)
			}
			s.take(i)
			s.put(i, at)
			left--
			s.period.moves++
			s.period.movedMB += s.grown(c) * c.size
		}
	}
}

// look notes what is worst today.
func (s *simulation) look() {
	waiting := 0
	for _, q := range s.queues {
		waiting += len(q)
	}
	s.period.longestQueue = max(s.period.longestQueue, waiting)
	for _, v := range s.servers {
		disk := s.disk(v)
		v.highest, v.worstDisk = max(v.highest, v.fill()), max(v.worstDisk, disk)
		s.period.mostNewcomers = max(s.period.mostNewcomers, v.newcomers)
		v.newcomers = 0
		s.period.worstDisk, s.period.worstRate = max(s.period.worstDisk, disk), max(s.period.worstRate, s.load(v))
	}
}

// close ends a period.
func (s *simulation) close() {
	p := s.period
	p.day, p.living = s.day+1, s.living
	var fills, disks []float64
	for _, v := range s.servers {
		switch {
		case v.own:
			p.own++
		case !v.draining:
			p.shared++
			fills, disks = append(fills, v.fill()), append(disks, s.disk(v))
		}
		if v.closed && !v.own {
			p.closed++
		}
	}
	slices.Sort(fills)
	slices.Sort(disks)
	p.minFill, p.medianFill, p.maxFill = fills[0], fills[len(fills)/2], fills[len(fills)-1]
	p.medianDisk = disks[len(disks)/2]
	s.report = append(s.report, p)
	s.period = period{}
}

// check looks for rules that were broken: each company is in exactly one place or has left, and no server has more than its
// maximum.
func (s *simulation) check() error {
	housed := 0
	for at, v := range s.servers {
		if len(v.members) > v.maxTenants {
			return fmt.Errorf("server %d has %d tenants of %d", at, len(v.members), v.maxTenants)
		}
		housed += len(v.members)
		var size float64
		for place, i := range v.members {
			c := &s.companies[i]
			if c.home != at || c.place != place || c.own != v.own {
				return fmt.Errorf("tenant %d is on server %d, and says that it is on %d", i, at, c.home)
			}
			size += s.grown(c) * c.size
		}
		if math.Abs(size/v.diskMB-s.disk(v)) > 1e-6 {
			return fmt.Errorf("server %d holds %g MB, and its sum says %g", at, size, s.disk(v)*v.diskMB)
		}
	}
	if housed != s.living {
		return fmt.Errorf("%d tenants are housed of %d", housed, s.living)
	}
	return nil
}
