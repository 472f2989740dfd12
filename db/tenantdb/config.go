package tenantdb

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/maypok86/otter/v2"

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
	// MaxConns is the most connections that are open at once. Defaults to 4 for each CPU.
	MaxConns int
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
	// Pooler says whether a transaction pooler stands in between. Defaults to PoolerAuto.
	Pooler Pooler
	// Logger gets what an operator should know. Defaults to discarding it.
	Logger *slog.Logger
}

func (c Config) withDefaults() Config {
	if c.MaxConns == 0 {
		c.MaxConns = 4 * runtime.GOMAXPROCS(0)
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

func (c Config) validate() error {
	switch {
	case c.ConnConfig == nil:
		return errors.New("tenantdb: ConnConfig is missing; give it the runtime login, made by pgx.ParseConfig or directory.RuntimeConn")
	case c.MaxConns < 1:
		return fmt.Errorf("tenantdb: MaxConns is %d; want at least 1", c.MaxConns)
	case c.StatementCacheSize < 1:
		return fmt.Errorf("tenantdb: StatementCacheSize is %d; want at least 1", c.StatementCacheSize)
	case c.Pooler != PoolerAuto && c.Pooler != PoolerNone && c.Pooler != PoolerTransaction:
		return fmt.Errorf("tenantdb: Pooler is %q; want %q or %q, or nothing to find out", c.Pooler, PoolerNone, PoolerTransaction)
	}
	return nil
}

// Open connects as the runtime login and checks that the login is fit for the task: it must have no power over the server
// (superuser, BYPASSRLS, REPLICATION, CREATEROLE, CREATEDB), own nothing and have been granted nothing in the database, and not
// inherit the rights of the roles that it is a member of. Behind a pooler its own search_path must be empty; on a direct
// connection it is emptied. The returned DB is safe for concurrent use; Close it.
func Open(ctx context.Context, cfg Config) (*DB, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	e := &engine{
		cfg:    cfg,
		shared: newDescriptions(descriptionsShared),
		slots:  make(chan struct{}, cfg.MaxConns),
		tracer: newTracer(cfg.ConnConfig.Tracer),
	}
	e.pooled.Store(cfg.Pooler == PoolerTransaction)
	var err error
	e.scopes, err = otter.New(&otter.Options[tenant.ID, *scope]{MaximumSize: maxScopes})
	if err != nil {
		return nil, fmt.Errorf("tenantdb: %w", err)
	}
	if e.pool, err = e.newPool(); err != nil {
		return nil, err
	}
	if err := e.checkLogin(ctx); err != nil {
		e.close()
		return nil, err
	}
	return &DB{Handle{e: e}}, nil
}

func (e *engine) newPool() (*pgxpool.Pool, error) {
	cc := e.cfg.ConnConfig.Copy()
	// Only our flights make named statements, and only for one tenant each: pgx must not make any that are keyed by SQL.
	cc.StatementCacheCapacity = 0
	cc.DescriptionCacheCapacity = 0
	cc.DefaultQueryExecMode = pgx.QueryExecModeDescribeExec
	cc.Tracer = connectTracer(cc.Tracer)
	delete(cc.RuntimeParams, "search_path")
	delete(cc.RuntimeParams, "role")

	pc, err := pgxpool.ParseConfig(cc.ConnString())
	if err != nil {
		return nil, fmt.Errorf("tenantdb: %w", err)
	}
	pc.ConnConfig = cc
	pc.MaxConns = int32(min(e.cfg.MaxConns, 1<<20))
	pc.MinConns, pc.MinIdleConns = 0, 0
	pc.MaxConnLifetime = e.cfg.MaxConnLifetime
	pc.MaxConnLifetimeJitter = e.cfg.MaxConnLifetime / 10
	pc.MaxConnIdleTime = e.cfg.MaxConnIdleTime
	pc.AfterConnect = e.prepareSession
	// A connection that lay idle is looked at without a round trip; only one that looks broken is asked.
	pc.ShouldPing = func(_ context.Context, p pgxpool.ShouldPingParams) bool {
		return p.IdleDuration > time.Second && !quiet(p.Conn.PgConn().Conn())
	}
	pool, err := pgxpool.NewWithConfig(context.Background(), pc)
	if err != nil {
		return nil, fmt.Errorf("tenantdb: %w", err)
	}
	return pool, nil
}

// sessionTimeout bounds what is asked of a new connection: while it is made it counts, and nobody else can end it.
const sessionTimeout = 10 * time.Second

// sessionSQL asks what has to be true of every connection.
const sessionSQL = `SELECT pg_catalog.pg_backend_pid(), pg_catalog.current_setting('search_path') IN ('', '""'), r.rolname,
	current_user <> session_user OR r.rolsuper OR r.rolbypassrls OR r.rolcreaterole OR r.rolcreatedb OR r.rolreplication,
	r.rolinherit AND pg_catalog.current_setting('server_version_num')::int < 160000
	FROM pg_catalog.pg_roles r WHERE r.rolname = session_user`

// prepareSession runs once for each new connection: it empties the base path, checks the login and finds out about poolers.
func (e *engine) prepareSession(ctx context.Context, conn *pgx.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, sessionTimeout) // pgx bounds the connecting, not this
	defer cancel()
	var pid uint32
	var emptyPath, mighty, inherits bool
	var login string
	err := conn.QueryRow(ctx, sessionSQL, pgx.QueryExecModeExec).Scan(&pid, &emptyPath, &login, &mighty, &inherits)
	if err != nil {
		return err
	}
	switch {
	case mighty:
		return fmt.Errorf("tenantdb: the login %q is a superuser, bypasses row security, replicates, creates roles or databases, or takes another role: nothing "+
			"would hold a statement that left its tenant; use a login without rights", login)
	case inherits:
		return fmt.Errorf("tenantdb: the login %q inherits the rights of every tenant role; run: ALTER ROLE %s NOINHERIT",
			login, pgx.Identifier{login}.Sanitize())
	}
	if pid != conn.PgConn().PID() && e.cfg.Pooler == PoolerAuto && !e.pooled.Swap(true) {
		e.cfg.Logger.WarnContext(ctx, "a transaction pooler stands before PostgreSQL: named statements are off",
			"hint", "set the pooler mode to transaction to say so")
	}
	switch {
	case emptyPath:
	case e.pooled.Load(): // a setting of the session would stay on a backend that is not ours alone
		return fmt.Errorf("tenantdb: the base search_path of login %q is not empty; run: ALTER ROLE %s SET search_path = ''",
			login, pgx.Identifier{login}.Sanitize())
	default:
		if _, err := conn.Exec(ctx, "SELECT pg_catalog.set_config('search_path', '', false)"); err != nil {
			return err
		}
	}
	conn.PgConn().CustomData()[sessionKey] = newSession(conn, e.cfg.StatementCacheSize, &e.closing)
	return nil
}

// checkLogin makes the first connection, so that Open fails and not the first request, and asks what is too dear to ask of
// each connection.
func (e *engine) checkLogin(ctx context.Context) error {
	conn, err := e.pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("tenantdb: connect: %w", err)
	}
	defer conn.Release()
	var version int
	err = conn.QueryRow(ctx, "SELECT pg_catalog.current_setting('server_version_num')::int", pgx.QueryExecModeExec).Scan(&version)
	if err != nil {
		return fmt.Errorf("tenantdb: %w", err)
	}
	if version < 150000 {
		return fmt.Errorf("tenantdb: PostgreSQL 15 or newer is required; the server says %d", version)
	}
	var owns bool
	if err := conn.QueryRow(ctx, ownRightsSQL, pgx.QueryExecModeExec).Scan(&owns); err != nil {
		return fmt.Errorf("tenantdb: %w", err)
	}
	if owns {
		return errors.New("tenantdb: the login owns something in this database or was granted rights there, so a statement that " +
			"left its tenant could still read it; REVOKE them, and grant to the tenants' roles instead")
	}
	if version < 160000 {
		return nil
	}
	var inherits bool
	if err := conn.QueryRow(ctx, inheritsSQL, pgx.QueryExecModeExec).Scan(&inherits); err != nil {
		return fmt.Errorf("tenantdb: %w", err)
	}
	if inherits {
		return errors.New("tenantdb: the login inherits the rights of a role; grant tenant roles to it WITH INHERIT FALSE")
	}
	return nil
}

const (
	// ownRightsSQL reports what the login owns or was granted in this database. CONNECT does not count.
	ownRightsSQL = `SELECT pg_catalog.has_database_privilege(session_user, current_database(), 'CREATE')
		OR pg_catalog.has_database_privilege(session_user, current_database(), 'TEMPORARY')
		OR EXISTS (SELECT FROM pg_catalog.pg_shdepend d JOIN pg_catalog.pg_roles r ON r.oid = d.refobjid
		WHERE d.refclassid = 'pg_catalog.pg_authid'::regclass AND r.rolname = session_user AND d.deptype IN ('o', 'a')
		AND d.dbid = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()))`
	// inheritsSQL is for PostgreSQL 16 and newer, where each membership says whether it is inherited.
	inheritsSQL = `SELECT EXISTS (SELECT FROM pg_catalog.pg_auth_members m JOIN pg_catalog.pg_roles r ON r.oid = m.member
		WHERE r.rolname = session_user AND m.inherit_option)`
)
