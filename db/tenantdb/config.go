package tenantdb

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/leasehold-go/leasehold/db/tenant"
)

// Pooler says what stands between us and PostgreSQL.
type Pooler string

const (
	// PoolerAuto finds out when the first connection is made, and logs once when it finds a pooler.
	PoolerAuto Pooler = ""
	// PoolerNone is a direct connection: one backend for each connection.
	PoolerNone Pooler = "none"
	// PoolerTransaction is a pooler that gives each transaction any backend, such as PgBouncer in transaction mode. Named
	// statements are not used; a call is still one flight.
	PoolerTransaction Pooler = "transaction"
)

// Config says how to reach the database. Only ConnConfig is required.
type Config struct {
	// ConnConfig is the runtime login: NOINHERIT, without rights of its own, member of the tenants' roles. It is copied. Its
	// Tracer, if it implements pgx's QueryTracer, BatchTracer or CopyFromTracer, is told of each caller's statement once, with
	// the tenant in the context; pgx's ConnectTracer works as usual.
	ConnConfig *pgx.ConnConfig
	// Cluster is the cluster that ConnConfig leads to. Defaults to tenant.DefaultCluster.
	Cluster string
	// Login says how to connect for tenants whose placement leads elsewhere than ConnConfig: to another login, to another cluster, or to
	// a database of their own; directory.LoginConn does. Of the placement the names of the cluster, the strategy, the database and the
	// login are given. It is called each time a connection is opened, and once more if the server did not take the password.
	// Defaults to none: such a tenant is an error.
	Login func(ctx context.Context, p tenant.Placement) (*pgx.ConnConfig, error)
	// Refresh is asked when a tenant's scope is refused, or Login returns an error, because the tenant has been moved or is being moved
	// just now; directory.Await does it. It waits for the end of the move, if there is one, and returns the tenant's current record. The
	// call is then sent once more, there. It returns nil if nothing has changed. Calls inside transactions do not ask it; Begin, SendBatch,
	// CopyFrom and InTx do, before anything of theirs was executed. It is called from many goroutines. Defaults to none: the
	// call returns that error.
	Refresh func(ctx context.Context, t *tenant.Tenant) (*tenant.Tenant, error)
	// MaxConns is the most connections that are open at once to the database that the tenants of a cluster share, for each cluster.
	// Defaults to 4 for each CPU.
	MaxConns int
	// Lanes is the number of small pools that MaxConns is divided into. A tenant's calls go to the connections of its home lane,
	// or of a second one when those are busy, so that a connection sees few tenants and its caches stay small and warm. More
	// lanes than connections are not possible. Defaults to one for each connection.
	Lanes int
	// MaxConnsPerTenant is a tenant's share: the most connections that it holds at once, so that a flood of calls from one
	// leaves the others room. Its further calls wait. As long as its calls take less than a millisecond it gets a quarter of that, but not less
	// than 2, and the rest only after a wait of 10 ms: brief calls need no more. Defaults to half of MaxConns, but not less than 2.
	MaxConnsPerTenant int
	// MaxSessions is the most connections that Acquire opens at once, on top of MaxConns. Defaults to a quarter of MaxConns, but not
	// less than 1.
	MaxSessions int
	// MaxSessionsPerTenant is a tenant's share of them: the most that Acquire opens at once for one tenant, whose further calls of it wait.
	// Defaults to half of MaxSessions, but not less than 2.
	MaxSessionsPerTenant int
	// MaxDatabaseConns is the most connections that are open at once to the databases of tenants' own, all of a cluster together.
	// There may be many more such tenants: a connection is closed, the one that has lain idle longest first, to make room for
	// another tenant's. Defaults to MaxConns.
	MaxDatabaseConns int
	// MaxConnsPerDatabase is the most connections that are open at once to one of these databases. Defaults to 4, or
	// half of MaxDatabaseConns if that is less.
	MaxConnsPerDatabase int
	// MaxDatabaseIdleTime is how long a connection to one of these databases may lie idle before it is closed. Defaults to 5 minutes.
	MaxDatabaseIdleTime time.Duration
	// MaxTenantsPerConn is how many distinct tenants a connection serves before it is replaced: the server process behind it
	// keeps in memory what it learnt of every table. Defaults to 500; at ten tables each 400 were measured as 30 MB and 700 as 50 to 82 MB.
	MaxTenantsPerConn int
	// MaxConnLifetime is how long a connection is used before it is replaced. Defaults to an hour.
	MaxConnLifetime time.Duration
	// MaxConnIdleTime is how long a connection may lie idle before it is closed. Defaults to 30 minutes.
	MaxConnIdleTime time.Duration
	// AcquireTimeout is how long a call waits for a free connection before it returns ErrBusy; an earlier deadline of the
	// call's own context wins. Defaults to 30 seconds.
	AcquireTimeout time.Duration
	// StatementCacheSize is how many named statements a connection holds at most, over all tenants. Defaults to 512.
	StatementCacheSize int
	// ExtensionSchema is a schema that every tenant has on its path after its own, for shared extensions. Defaults to none.
	ExtensionSchema string
	// Settings returns what else is set for a tenant's calls, such as statement_timeout, by name. It is part of the scope: set
	// with it, and gone with it. The names of the scope itself (search_path, role) and of what pgx relies on (client_encoding,
	// standard_conforming_strings, datestyle, intervalstyle, bytea_output, extra_float_digits) are refused, as are values with a quote or a backslash. It is called for every new record of
	// a tenant, from many goroutines, and should be quick. Defaults to none.
	Settings func(*tenant.Tenant) map[string]string
	// RegisterTypes tells a new connection's maps of types how values of built-in types are read and written, such as numeric
	// as a decimal of another library. A tenant's own types have other OIDs with each tenant: they travel as text, and must
	// not be registered. It is called twice for each connection. Defaults to none.
	RegisterTypes func(*pgtype.Map)
	// Pooler says whether a transaction pooler stands in between. Defaults to PoolerAuto.
	Pooler Pooler
	// Logger gets what an operator should know. Defaults to discarding it.
	Logger *slog.Logger
}

func (c Config) withDefaults() Config {
	if c.MaxConns == 0 {
		c.MaxConns = 4 * runtime.GOMAXPROCS(0)
	}
	if c.Lanes == 0 {
		c.Lanes = c.MaxConns
	}
	if c.MaxConnsPerTenant == 0 {
		c.MaxConnsPerTenant = half(c.MaxConns)
	}
	if c.MaxSessions == 0 {
		c.MaxSessions = max(1, c.MaxConns/4)
	}
	if c.MaxSessionsPerTenant == 0 {
		c.MaxSessionsPerTenant = half(c.MaxSessions)
	}
	if c.Cluster == "" {
		c.Cluster = tenant.DefaultCluster
	}
	if c.MaxDatabaseConns == 0 {
		c.MaxDatabaseConns = c.MaxConns
	}
	if c.MaxConnsPerDatabase == 0 {
		c.MaxConnsPerDatabase = min(4, max(1, c.MaxDatabaseConns/2))
	}
	if c.MaxDatabaseIdleTime == 0 {
		c.MaxDatabaseIdleTime = 5 * time.Minute
	}
	if c.MaxTenantsPerConn == 0 {
		c.MaxTenantsPerConn = 500
	}
	if c.Login == nil {
		c.Login = func(context.Context, tenant.Placement) (*pgx.ConnConfig, error) {
			return nil, errors.New("Config.Login is not set; give it directory.LoginConn")
		}
	}
	if c.MaxConnLifetime == 0 {
		c.MaxConnLifetime = time.Hour
	}
	if c.MaxConnIdleTime == 0 {
		c.MaxConnIdleTime = 30 * time.Minute
	}
	if c.AcquireTimeout == 0 {
		c.AcquireTimeout = 30 * time.Second
	}
	if c.StatementCacheSize == 0 {
		c.StatementCacheSize = 512
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// half of what there is, but not less than 2, is a tenant's share.
func half(all int) int { return min(max(2, (all+1)/2), all) }

func (c Config) validate() error {
	switch {
	case c.ConnConfig == nil:
		return errors.New("tenantdb: ConnConfig is missing; give it the runtime login, made by pgx.ParseConfig or directory.RuntimeConn")
	case c.MaxConns < 1:
		return fmt.Errorf("tenantdb: MaxConns is %d; want at least 1", c.MaxConns)
	case c.Lanes < 1 || c.Lanes > c.MaxConns:
		return fmt.Errorf("tenantdb: Lanes is %d; want 1 to %d, the number of connections", c.Lanes, c.MaxConns)
	case c.MaxConnsPerTenant < 1 || c.MaxConnsPerTenant > c.MaxConns:
		return fmt.Errorf("tenantdb: MaxConnsPerTenant is %d; want 1 to %d, the number of connections", c.MaxConnsPerTenant, c.MaxConns)
	case c.MaxDatabaseConns < 1:
		return fmt.Errorf("tenantdb: MaxDatabaseConns is %d; want at least 1", c.MaxDatabaseConns)
	case c.MaxConnsPerDatabase < 1 || c.MaxConnsPerDatabase > c.MaxDatabaseConns:
		return fmt.Errorf("tenantdb: MaxConnsPerDatabase is %d; want 1 to %d, as MaxDatabaseConns allows", c.MaxConnsPerDatabase, c.MaxDatabaseConns)
	case c.MaxSessions < 1:
		return fmt.Errorf("tenantdb: MaxSessions is %d; want at least 1", c.MaxSessions)
	case c.MaxSessionsPerTenant < 1 || c.MaxSessionsPerTenant > c.MaxSessions:
		return fmt.Errorf("tenantdb: MaxSessionsPerTenant is %d; want 1 to %d, as MaxSessions allows", c.MaxSessionsPerTenant, c.MaxSessions)
	case c.MaxTenantsPerConn < 1:
		return fmt.Errorf("tenantdb: MaxTenantsPerConn is %d; want at least 1", c.MaxTenantsPerConn)
	case c.StatementCacheSize < 1:
		return fmt.Errorf("tenantdb: StatementCacheSize is %d; want at least 1", c.StatementCacheSize)
	case c.Pooler != PoolerAuto && c.Pooler != PoolerNone && c.Pooler != PoolerTransaction:
		return fmt.Errorf("tenantdb: Pooler is %q; want %q or %q, or nothing to find out", c.Pooler, PoolerNone, PoolerTransaction)
	}
	return nil
}
