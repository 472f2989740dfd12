package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
)

// grantPause is the time between two new roles: a busy day for sign-ups.
const grantPause = 250 * time.Millisecond

// stall is how many milliseconds a call may take at most while roles are granted.
const stall = 50

// roles measures what the calls of tenants take while roles for new tenants are made and granted: with one login that is a
// member of all roles, and with logins that are members of few.
func (b *bench) roles(ctx context.Context) error {
	columns := []column{{"tenants per login", 17, false}, {"quiet p50 ms", 12, false}, {"p99 ms", 8, false}, {"max ms", 8, false},
		{"granting p50 ms", 15, false}, {"p99 ms", 8, false}, {"max ms", 8, false}, {"p99, times quiet", 16, false}}
	tenants := b.maxTenants()
	var sites []*site
	for _, perLogin := range []int{tenants, min(b.perLogin, max(1, tenants/2))} {
		cfg := b.fleet()
		cfg.TenantsPerLogin = perLogin
		s, err := b.newSite(ctx, cfg, b.conns)
		if err != nil {
			return err
		}
		sites = append(sites, s)
	}
	if err := b.settle(ctx, sites[0]); err != nil {
		return err
	}
	b.printf("\n%d callers of %d tenants, each pausing %v after a call, over %d connections, while a role is made and granted every %v.\n",
		quietCallers, tenants, quietPause, b.conns, grantPause)
	b.printHead(columns)
	for i, s := range sites {
		c, err := b.rolesOne(ctx, s)
		if err != nil {
			return err
		}
		alone, granting := c.alone.of(0.5, 0.99, 1), c.flooded.of(0.5, 0.99, 1)
		b.printRow(columns, fmt.Sprint(s.tenantsPerLogin()), milliseconds(alone[0]), milliseconds(alone[1]), milliseconds(alone[2]),
			milliseconds(granting[0]), milliseconds(granting[1]), milliseconds(granting[2]), decimal(c.p99(), 2))
		if i > 0 {
			longest := float64(granting[2]) / float64(time.Millisecond)
			b.goals = append(b.goals, goal{"roles are granted, logins are bounded: the longest call, ms", longest, stall, true})
		}
	}
	return nil
}

// tenantsPerLogin counts the tenants of the default login.
func (s *site) tenantsPerLogin() int {
	n := 0
	for _, p := range s.places {
		if p.tenant.Placement.Login == "" {
			n++
		}
	}
	return n
}

func (b *bench) rolesOne(ctx context.Context, s *site) (calm, error) {
	var found calm
	c, err := openLeasehold(ctx, s)
	if err != nil {
		return found, err
	}
	defer c.close()
	workers := newWorkers(quietCallers, distUniform, s, len(s.places))
	warm := newWorkers(s.conns*b.perConn, distUniform, s, len(s.places))
	if _, err := round(ctx, warm, limit{time: b.warm, calls: warmTurns * len(s.places)}, 0, s.calls(c, modeRead)); err != nil {
		return found, err
	}
	measured := func() error {
		_, err := round(ctx, workers, limit{time: b.time, calls: b.calls}, quietPause, s.calls(c, modeRead))
		return err
	}
	if err := measured(); err != nil {
		return found, err
	}
	found.alone = collect(workers)
	if err := during(func(stop *atomic.Bool) error { return b.grant(ctx, s, stop) }, measured); err != nil {
		return found, err
	}
	found.flooded = collect(workers)
	return found, nil
}

// grant makes roles and grants them to the default login, one after the other, at least one, until it is to stop. Then it drops
// them.
func (b *bench) grant(ctx context.Context, s *site, stop *atomic.Bool) error {
	login := s.fleet.Runtime().User
	tick := time.NewTicker(grantPause)
	defer tick.Stop()
	return b.asAdmin(ctx, func(conn *pgx.Conn) error {
		made := []string{}
		var err error
		for err == nil && (len(made) == 0 || !stop.Load()) {
			name := fmt.Sprintf("%s_new_%d", login, len(made))
			if _, err = conn.Exec(ctx, fmt.Sprintf("CREATE ROLE %s NOLOGIN; GRANT %[1]s TO %s", name, login)); err != nil {
				break
			}
			made = append(made, name)
			select {
			case <-tick.C:
			case <-ctx.Done():
				err = ctx.Err()
			}
		}
		if len(made) == 0 {
			return err
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
		defer cancel()
		_, dropErr := conn.Exec(ctx, "DROP ROLE "+strings.Join(made, ", "))
		return errors.Join(err, dropErr)
	})
}
