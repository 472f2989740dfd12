package main

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/db/tenantdb"
)

// querier is what every way to reach a tenant has: a DB, a handle, a transaction, a savepoint, a session.
type querier interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
	SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults
	CopyFrom(ctx context.Context, table pgx.Identifier, columns []string, rows pgx.CopyFromSource) (int64, error)
	Begin(ctx context.Context) (pgx.Tx, error)
}

// handle is a querier with which transactions are begun.
type handle interface {
	querier
	BeginTx(ctx context.Context, opts pgx.TxOptions) (pgx.Tx, error)
	InTx(ctx context.Context, fn func(tx pgx.Tx) error) error
}

// session is a connection of one's own.
type session interface {
	querier
	WaitForNotification(ctx context.Context) (*pgconn.Notification, error)
	Release()
}

// door is what is soaked. The tenant is in the context.
type door interface {
	handle
	// bound returns a handle that is bound to a tenant.
	bound(t *tenant.Tenant) handle
	// pin opens a session in the tenant of ctx.
	pin(ctx context.Context) (session, error)
	// inUse returns how many connections are leased.
	inUse() int
	// evicted counts connections that were closed to make room for another tenant's.
	evicted() int64
	Close()
}

// tenantDoor is the door that the product has.
type tenantDoor struct{ *tenantdb.DB }

func (d tenantDoor) bound(t *tenant.Tenant) handle { return d.For(t) }

func (d tenantDoor) pin(ctx context.Context) (session, error) { return d.Acquire(ctx) }

func (d tenantDoor) inUse() int {
	n := 0
	for _, c := range d.Stat().Clusters {
		n += c.Shared.InUse + c.Databases.InUse
	}
	return n
}

func (d tenantDoor) evicted() (n int64) {
	for _, c := range d.Stat().Clusters {
		n += c.Databases.Evicted
	}
	return n
}

// openTenantDB opens the door to a site.
func openTenantDB(ctx context.Context, s *site) (door, error) {
	cc, err := s.login(ctx, tenant.Placement{})
	if err != nil {
		return nil, err
	}
	cc.Tracer = trigger{}
	sessions := max(1, s.conns/8)
	cfg := tenantdb.Config{ConnConfig: cc, Login: s.login, MaxConns: s.conns - sessions, MaxSessions: sessions}
	if len(s.databases) > 1 {
		cfg.MaxDatabaseConns = cfg.MaxConns / 2
		cfg.MaxConns -= cfg.MaxDatabaseConns
	}
	if s.pooled {
		cfg.Pooler = tenantdb.PoolerTransaction
	}
	db, err := tenantdb.Open(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return tenantDoor{db}, nil
}
