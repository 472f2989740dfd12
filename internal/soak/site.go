package main

import (
	"context"
	"maps"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/internal/fleet"
)

// site is where the door leads to.
type site struct {
	fleet  *fleet.Fleet
	logins []string // the runtime logins, and those of tenants with a database of their own
	// databases are those that the tenants are in.
	databases []string
	conns     int
	// pooler is the port of a PgBouncer, or 0.
	pooler uint16
	pooled bool
}

func newSite(f *fleet.Fleet, cfg config) *site {
	logins, databases := map[string]bool{f.Runtime().User: true}, map[string]bool{f.Admin().Database: true}
	for _, t := range f.Tenants {
		databases[t.Placement.Database] = true
		if t.Placement.Login != "" {
			logins[t.Placement.Login] = true
		}
	}
	return &site{
		fleet: f, logins: slices.Sorted(maps.Keys(logins)), databases: slices.Sorted(maps.Keys(databases)), conns: cfg.Conns, pooled: cfg.Pooler,
	}
}

// login returns how to connect for a tenant.
func (s *site) login(ctx context.Context, p tenant.Placement) (*pgx.ConnConfig, error) {
	cc, err := s.fleet.Login(ctx, p)
	if err == nil && s.pooler != 0 {
		cc.Port = s.pooler
	}
	return cc, err
}
