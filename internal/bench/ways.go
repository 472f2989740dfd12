package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/db/tenantdb"
)

// way is one way to reach a tenant's rows. All are given the same number of connections.
type way struct {
	name string
	open func(ctx context.Context, s *site) (client, error)
}

// client is a way with its connections.
type client struct {
	// call does one call for a tenant. It is safe for concurrent use.
	call  func(ctx context.Context, p *place, o op) error
	close func()
	// state says what the way knows of its own connections. It may be nil.
	state func() string
}

// op is one call on the row with the given id of the table with the given number: modeRead, modeWrite or modeHold.
type op struct {
	mode      string
	table, id int
}

// What the ways are called. Results are looked up by these names.
const (
	wayBare      = "bare"
	wayQualified = "qualified"
	waySetQuery  = "set-query"
	waySetLocal  = "set-local"
	wayPrepConn  = "prepconn"
	wayLeasehold = "leasehold"
)

// ways are in the order of the table.
var ways = []way{
	{wayBare, openBare},
	{wayQualified, openQualified},
	{waySetQuery, openSetQuery},
	{waySetLocal, openSetLocal},
	{wayPrepConn, openPrepConn},
	{wayLeasehold, openLeasehold},
}

var errWrongTenant = errors.New("a row of another tenant was read")

// querier is what every way has in common.
type querier interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// do runs the statement of an op. Its type parameter spares the ways that hand it a small value an allocation.
func do[Q querier](ctx context.Context, q Q, p *place, o op, sql string, id int) error {
	if o.mode != modeRead {
		tag, err := q.Exec(ctx, sql, id)
		if err == nil && tag.RowsAffected() != 1 {
			err = fmt.Errorf("%s: row %d: %d rows, want 1", p.slug, id, tag.RowsAffected())
		}
		return err
	}
	var gotID, qty int
	var owner, mood string
	if err := q.QueryRow(ctx, sql, id).Scan(&gotID, &owner, &mood, &qty); err != nil {
		return err
	}
	if gotID != id || owner != p.slug {
		return fmt.Errorf("%w: %s asked for row %d and got row %d of %s", errWrongTenant, p.slug, id, gotID, owner)
	}
	return nil
}

// bare is a product without tenants: one table for everybody. No other way can be faster.
func openBare(ctx context.Context, s *site) (client, error) {
	pool, err := s.pool(ctx, wayBare, nil)
	if err != nil {
		return client{}, err
	}
	return client{close: pool.Close, call: func(ctx context.Context, p *place, o op) error {
		return do(ctx, pool, p, o, s.bare.of(o), p.first+o.id)
	}}, nil
}

// qualified names the tenant's schema in the SQL. It is the bar: nothing holds such a call to its tenant, and nothing is
// spent on it.
func openQualified(ctx context.Context, s *site) (client, error) {
	pool, err := s.pool(ctx, wayQualified, nil)
	if err != nil {
		return client{}, err
	}
	return client{close: pool.Close, call: func(ctx context.Context, p *place, o op) error {
		return do(ctx, pool, p, o, p.qualified.of(o), o.id)
	}}, nil
}

// set-query sets the path of the session and then asks. The path stays on the connection.
func openSetQuery(ctx context.Context, s *site) (client, error) {
	pool, err := s.pool(ctx, waySetQuery, nil)
	if err != nil {
		return client{}, err
	}
	return client{close: pool.Close, call: func(ctx context.Context, p *place, o op) error {
		conn, err := pool.Acquire(ctx)
		if err != nil {
			return err
		}
		defer conn.Release()
		if _, err := conn.Exec(ctx, p.setPath); err != nil {
			return err
		}
		return do(ctx, conn, p, o, s.plain.of(o), o.id)
	}}, nil
}

// set-local sets the path for a transaction.
func openSetLocal(ctx context.Context, s *site) (client, error) {
	pool, err := s.pool(ctx, waySetLocal, nil)
	if err != nil {
		return client{}, err
	}
	return client{close: pool.Close, call: func(ctx context.Context, p *place, o op) error {
		return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, "SELECT set_config('search_path', $1, true)", p.schema); err != nil {
				return err
			}
			return do(ctx, tx, p, o, s.plain.of(o), o.id)
		})
	}}, nil
}

type placeKey struct{}

// prepconn has the pool set the path whenever a connection is acquired.
func openPrepConn(ctx context.Context, s *site) (client, error) {
	pool, err := s.pool(ctx, wayPrepConn, func(ctx context.Context, conn *pgx.Conn) (bool, error) {
		p, ok := ctx.Value(placeKey{}).(*place)
		if !ok {
			return true, tenant.ErrNoTenant
		}
		_, err := conn.Exec(ctx, p.setPath)
		return err == nil, err
	})
	if err != nil {
		return client{}, err
	}
	return client{close: pool.Close, call: func(ctx context.Context, p *place, o op) error {
		return do(context.WithValue(ctx, placeKey{}, p), pool, p, o, s.plain.of(o), o.id)
	}}, nil
}

// leasehold is ours, with its defaults: the only way here that takes the tenant's role.
func openLeasehold(ctx context.Context, s *site) (client, error) {
	db, err := s.leasehold(ctx)
	if err != nil {
		return client{}, err
	}
	return client{close: db.Close, state: func() string { return lanes(db.Stat()) }, call: func(ctx context.Context, p *place, o op) error {
		return do(ctx, db.For(p.tenant), p, o, s.plain.of(o), o.id)
	}}, nil
}

// lanes sums up how well connections and tenants have kept together.
func lanes(st tenantdb.Stat) string {
	var leases, spills, waits, recycled int64
	for _, l := range st.Lanes {
		leases, spills, waits, recycled = leases+l.Leases, spills+l.Spills, waits+l.Waits, recycled+l.Recycled
	}
	return fmt.Sprintf("%d lanes, %d leases, %d of them spilled, %d after waiting; %d connections opened, %d recycled", len(st.Lanes), leases, spills, waits,
		st.Created, recycled)
}

// application is the application_name of a way's connections.
func application(way string) string { return "bench-" + way }

// pool opens a plain pool as the administrator, who may read every schema and takes no role.
func (s *site) pool(ctx context.Context, way string, prepare func(context.Context, *pgx.Conn) (bool, error)) (*pgxpool.Pool, error) {
	cc := s.app()
	pc, err := pgxpool.ParseConfig(cc.ConnString())
	if err != nil {
		return nil, err
	}
	pc.ConnConfig = s.route(cc, way)
	pc.MaxConns = int32(s.conns)
	pc.PrepareConn = prepare
	// A connection lies idle while other ways have their turn. A ping after that is not what is measured.
	pc.ShouldPing = func(context.Context, pgxpool.ShouldPingParams) bool { return false }
	return pgxpool.NewWithConfig(ctx, pc)
}

func (s *site) leasehold(ctx context.Context) (*tenantdb.DB, error) {
	cfg := s.ours
	cfg.ConnConfig, cfg.MaxConns = s.route(s.fleet.Runtime(), wayLeasehold), s.conns
	cfg.Login = func(ctx context.Context, p tenant.Placement) (*pgx.ConnConfig, error) {
		cc, err := s.fleet.Login(ctx, p)
		if err != nil {
			return nil, err
		}
		return s.route(cc, wayLeasehold), nil
	}
	return tenantdb.Open(ctx, cfg)
}

// route sends a connection through the proxy, if there is one.
func (s *site) route(cc *pgx.ConnConfig, way string) *pgx.ConnConfig {
	cc.RuntimeParams["application_name"] = application(way)
	if s.proxy != nil {
		cc.Host, cc.Port = s.proxy.addr().IP.String(), uint16(s.proxy.addr().Port)
	}
	return cc
}
