package tenantdb

// Stat are numbers of connections, of all lanes together and of each. They are of one moment.
type Stat struct {
	Max     int   // that may be open at once
	Open    int   // that are open, or being opened
	InUse   int   // that are leased
	Waiting int   // calls that wait for one
	Created int64 // that were ever opened
	// Sessions are open through Acquire, and not among the others.
	Sessions int
	Lanes    []LaneStat
}

// LaneStat are the numbers of one lane.
type LaneStat struct {
	Max   int // connections that may be open at once
	Open  int // that are open, or being opened
	Idle  int // that are free
	InUse int // that are leased
	// Tenants is how many distinct tenants its open connections have served, on the average over those that are idle.
	Tenants  int
	Leases   int64 // how often a connection was leased
	Spills   int64 // of those, for a tenant whose home is another lane
	Waits    int64 // calls that had to wait and whose home this is
	Opened   int64 // connections that were ever opened
	Recycled int64 // of those, closed because they had served too many tenants
}

// Stat says how the connections are used at this moment.
func (db *DB) Stat() Stat {
	st := db.e.lanes.report()
	st.Sessions = len(db.e.pins)
	return st
}

func (p *lanes) report() Stat {
	p.mu.Lock()
	defer p.mu.Unlock()
	st := Stat{Max: p.cfg.MaxConns, Lanes: make([]LaneStat, len(p.all))}
	for i, l := range p.all {
		ls := l.stat
		ls.Max, ls.Open, ls.Idle = l.size, l.open, len(l.idle)
		for _, s := range l.idle {
			ls.Tenants += len(s.tenants)
		}
		ls.Tenants /= max(len(l.idle), 1)
		st.Lanes[i] = ls
		st.Open += ls.Open
		st.InUse += ls.InUse
		st.Created += ls.Opened
	}
	for _, t := range p.turns {
		st.Waiting += len(t.queue)
	}
	return st
}
