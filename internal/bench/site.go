package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/db/tenantdb"
	"github.com/leasehold-go/leasehold/internal/fleet"
)

// site is a fleet, and how the ways reach it.
type site struct {
	fleet  *fleet.Fleet
	places []*place
	plain  statements      // what is written when something else says where the table is
	bare   statements      // the table that belongs to everybody
	conns  int             // that each way may have
	ours   tenantdb.Config // what ours is told but for the connections
	proxy  *proxy          // in between; nil for a direct connection
}

// place is a tenant with all that a call needs made ready, so that no way pays for the making.
type place struct {
	tenant    *tenant.Tenant
	slug      string
	schema    string
	first     int // what to add to an id in the table that belongs to everybody
	setPath   string
	qualified statements
}

// statements are the SQL of the calls.
type statements struct {
	read  []string // by the number of the table
	write string
	hold  string
}

func (s *statements) of(o op) string {
	switch o.mode {
	case modeWrite:
		return s.write
	case modeHold:
		return s.hold
	}
	return s.read[o.table]
}

// newStatements writes the SQL of the calls with a prefix before the names of the tables.
func newStatements(prefix string, tables int) statements {
	var s statements
	for i := range tables {
		s.read = append(s.read, "SELECT id, owner, mood::text, qty FROM "+prefix+fleet.TableName(i)+" WHERE id = $1")
	}
	s.write = "UPDATE " + prefix + fleet.TableName(0) + " SET qty = qty + 1 WHERE id = $1"
	// In the list of results it sleeps for the one row, wherever the planner would put it among the conditions.
	s.hold = "SELECT pg_catalog.pg_sleep(0.02) FROM " + prefix + fleet.TableName(0) + " WHERE id = $1"
	return s
}

// newSite builds a fleet and the table that belongs to everybody.
func (b *bench) newSite(ctx context.Context, cfg fleet.Config, conns int) (*site, error) {
	start := time.Now()
	cfg.AdminURL = b.url
	f, err := fleet.Build(ctx, cfg)
	if err != nil {
		return nil, err
	}
	b.fleets = append(b.fleets, f)
	if err := b.letIn(ctx, f); err != nil {
		return nil, err
	}
	s := &site{fleet: f, conns: conns, ours: tenantdb.Config{Lanes: b.lanes, MaxTenantsPerConn: b.perBackend}, plain: newStatements("", f.Tables), bare: newStatements("bare.", 1)}
	for i, tn := range f.Tenants {
		schema := tn.Placement.Schema
		s.places = append(s.places, &place{
			tenant: tn, slug: string(tn.Slug), schema: schema, first: i * f.Rows,
			setPath: "SET search_path TO " + schema, qualified: newStatements(schema+".", f.Tables),
		})
	}
	b.logf("built %d tenants with %d tables of %d rows in %.1f s", len(f.Tenants), f.Tables, f.Rows, time.Since(start).Seconds())
	return s, nil
}

// appLogin is the login of the baselines: an application's, with the rights that it needs on every tenant's tables. A superuser
// would be spared the checks that every application's calls go through.
const appLogin = "bench_app"

// grantsAtOnce is how many tenants' tables are opened to appLogin in one transaction: each takes locks until its end.
const grantsAtOnce = 50

// letIn makes appLogin and lets it into the fleet's schemas.
func (b *bench) letIn(ctx context.Context, f *fleet.Fleet) error {
	return b.asAdmin(ctx, func(conn *pgx.Conn) error {
		var exists bool
		if err := conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = $1)", appLogin).Scan(&exists); err != nil {
			return err
		}
		if !exists {
			if _, err := conn.Exec(ctx, "CREATE ROLE "+appLogin+" LOGIN PASSWORD '"+f.Runtime().Password+"'"); err != nil {
				return err
			}
		}
		if _, err := conn.Exec(ctx, "GRANT CONNECT ON DATABASE "+pgx.Identifier{f.Admin().Database}.Sanitize()+" TO "+appLogin); err != nil {
			return err
		}
		for group := range slices.Chunk(f.Tenants, grantsAtOnce) {
			var sql strings.Builder
			for _, tn := range group {
				schema := tn.Placement.Schema
				_, _ = fmt.Fprintf(&sql, "GRANT USAGE ON SCHEMA %s TO %s;", schema, appLogin)
				for i := range f.Tables { // ALL TABLES IN SCHEMA would read the whole of pg_class for each tenant
					_, _ = fmt.Fprintf(&sql, "GRANT SELECT, UPDATE ON %s.%s TO %s;", schema, fleet.TableName(i), appLogin)
				}
			}
			if _, err := conn.Exec(ctx, sql.String()); err != nil {
				return err
			}
		}
		return nil
	})
}

// app returns how the baselines connect.
func (s *site) app() *pgx.ConnConfig {
	cc := s.fleet.Runtime()
	cc.User = appLogin
	return cc
}

// bareSQL makes the table that belongs to everybody, with as many rows as all tenants have, and leaves the catalogs in the order
// that autovacuum would bring them to, so that it has less to do while we measure.
const bareSQL = `
	DROP SCHEMA IF EXISTS bare CASCADE;
	CREATE SCHEMA bare;
	CREATE TYPE bare.mood AS ENUM ('calm', 'only');
	CREATE TABLE bare.items (
		id int PRIMARY KEY,
		owner text NOT NULL,
		mood bare.mood NOT NULL DEFAULT 'only',
		qty int NOT NULL DEFAULT 0,
		parent int REFERENCES bare.items DEFERRABLE INITIALLY DEFERRED
	);
	INSERT INTO bare.items (id, owner) SELECT id, 'co-' || (id - 1) / ROWS_ FROM pg_catalog.generate_series(1, TENANTS_ * ROWS_) AS id;
	GRANT USAGE ON SCHEMA bare TO ` + appLogin + `; GRANT SELECT, UPDATE ON bare.items TO ` + appLogin

// settle makes the table that belongs to everybody and tidies up after the building.
func (b *bench) settle(ctx context.Context, s *site) error {
	return b.asAdmin(ctx, func(conn *pgx.Conn) error {
		for _, sql := range []string{
			strings.NewReplacer("ROWS_", strconv.Itoa(s.fleet.Rows), "TENANTS_", strconv.Itoa(len(s.places))).Replace(bareSQL),
			"VACUUM ANALYZE", "CHECKPOINT",
		} {
			if _, err := conn.Exec(ctx, sql); err != nil {
				return err
			}
		}
		return nil
	})
}

// asAdmin connects as the superuser.
func (b *bench) asAdmin(ctx context.Context, do func(conn *pgx.Conn) error) error {
	conn, err := pgx.Connect(ctx, b.url)
	if err != nil {
		return err
	}
	return errors.Join(do(conn), conn.Close(context.WithoutCancel(ctx)))
}

// behind puts a proxy with the given delay in front of the site's server. It returns a copy of the site; close its proxy.
func (s *site) behind(ctx context.Context, delay time.Duration, conns int) (*site, error) {
	cc := s.fleet.Admin()
	p, err := startProxy(ctx, net.JoinHostPort(cc.Host, strconv.Itoa(int(cc.Port))), delay)
	if err != nil {
		return nil, err
	}
	far := *s
	far.proxy, far.conns = p, conns
	return &far, nil
}

// roundTrip returns the median time of a statement that asks for nothing, which is the time that the way there and back takes.
func (s *site) roundTrip(ctx context.Context) (time.Duration, error) {
	conn, err := pgconn.ConnectConfig(ctx, &s.route(s.fleet.Admin(), "ping").Config)
	if err != nil {
		return 0, fmt.Errorf("round trip: %w", err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	const times = 51
	var took latencies
	for range times {
		start := time.Now()
		if err := conn.Exec(ctx, "").Close(); err != nil {
			return 0, fmt.Errorf("round trip: %w", err)
		}
		took = append(took, time.Since(start))
	}
	return took.of(0.5)[0], nil
}
