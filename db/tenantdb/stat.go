package tenantdb

import (
	"maps"
	"slices"
)

// Stat are numbers of connections. They are of one moment. What comes first is about the lanes of the cluster that Config.ConnConfig
// leads to, of all together and of each.
type Stat struct {
	Max     int   // that may be open at once
	Open    int   // that are open, or being opened
	InUse   int   // that are leased
	Waiting int   // calls that wait for one
	Created int64 // that were ever opened
	// Sessions are open through Acquire, and not among the others.
	Sessions int
	Lanes    []LaneStat
	// Clusters are all clusters that were in use, by name.
	Clusters []ClusterStat
}

// ClusterStat are the numbers of one cluster.
type ClusterStat struct {
	Name      string
	Shared    PoolStat // connections to the database that its tenants share
	Databases PoolStat // connections to the databases of tenants' own, all together
}

// PoolStat are the numbers of connections that stand under one budget.
type PoolStat struct {
	Max     int   // that may be open at once
	Open    int   // that are open, or being opened
	InUse   int   // that are leased
	Waiting int   // calls that wait for one
	Leases  int64 // how often one was leased
	Created int64 // that were ever opened
	Evicted int64 // of those, closed to make room for another tenant's
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
	st := db.e.home.shared.report()
	st.Sessions = len(db.e.pins.all)
	db.e.serverMu.Lock()
	defer db.e.serverMu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(db.e.servers)) {
		sv := db.e.servers[name]
		st.Clusters = append(st.Clusters, ClusterStat{Name: name, Shared: sv.shared.report().total(), Databases: sv.private.report()})
	}
	return st
}

// total sums up the lanes.
func (st Stat) total() PoolStat {
	total := PoolStat{Max: st.Max, Open: st.Open, InUse: st.InUse, Waiting: st.Waiting, Created: st.Created}
	for _, l := range st.Lanes {
		total.Leases += l.Leases
	}
	return total
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
	st.Waiting = p.turns.waiting()
	return st
}
