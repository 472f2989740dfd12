package tenantdb

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/maypok86/otter/v2"

	"github.com/leasehold-go/leasehold/db/tenant"
)

// Open connects as the runtime login and checks that the login is fit for the task: it must have no power over the server
// (superuser, BYPASSRLS, REPLICATION, CREATEROLE, CREATEDB), own nothing and have been granted nothing in the database, and not
// inherit the rights of the roles that it is a member of. Behind a pooler its own search_path must be empty and the
// text forms of its results the usual ones (DateStyle, IntervalStyle, bytea_output, extra_float_digits); on a direct connection
// both are set. The returned DB is safe for concurrent use; Close it.
func Open(ctx context.Context, cfg Config) (*DB, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	e := &engine{
		cfg:    cfg,
		shared: newDescriptions(descriptionsShared),
		tracer: newTracer(cfg.ConnConfig.Tracer),
		pins:   newPins(cfg.MaxSessions, cfg.MaxSessionsPerTenant),

		closing: make(chan struct{}),
		fit:     make(map[door]bool),
		servers: make(map[string]*server),
	}
	var err error
	if e.scopes, err = otter.New(&otter.Options[tenant.ID, *scope]{MaximumSize: maxScopes}); err == nil {
		e.loads, err = otter.New(&otter.Options[loadKey, *load]{MaximumSize: maxScopes})
	}
	if err != nil {
		return nil, fmt.Errorf("tenantdb: %w", err)
	}
	e.life, e.end = context.WithCancel(context.WithoutCancel(ctx))
	e.nobody = &load{door: door{Cluster: cfg.Cluster, Strategy: tenant.SchemaStrategy}}
	if err := e.settle(e.nobody); err != nil {
		return nil, err
	}
	e.home = e.nobody.server
	// The first connection is made now, so that Open fails and not the first request.
	s, err := e.dial(ctx, e.home, e.nobody.door)
	if err != nil {
		e.close()
		return nil, err
	}
	e.home.shared.adopt(s, e.nobody)
	return &DB{Handle{e: e}}, nil
}

// dialTimeout bounds the opening of a connection in the background, what Config.Login takes included: until it ends, it has
// a place in a lane.
const dialTimeout = 30 * time.Second

// dial opens a connection through a door and prepares it. If the server does not take the password, which may just have been
// changed, it asks for the login once more.
func (e *engine) dial(ctx context.Context, sv *server, d door) (s *session, err error) {
	conn, err := e.connect(ctx, d)
	if pgErr := (*pgconn.PgError)(nil); errors.As(err, &pgErr) && pgErr.Code == codeInvalidPassword && !e.isHome(d) {
		conn, err = e.connect(ctx, d)
	}
	if err != nil {
		return nil, err
	}
	defer func() {
		if s == nil { // also after a panic of Config.RegisterTypes
			hangUp(conn)
		}
	}()
	if err = e.prepareSession(ctx, sv, conn); err == nil {
		err = e.checkLogin(ctx, d, conn)
	}
	switch {
	case err != nil && conn.IsClosed():
		return nil, fmt.Errorf("tenantdb: %w", connectError(err))
	case err != nil:
		return nil, err
	}
	return newSession(conn, sv, e.cfg, &e.working), nil
}

// loginError is an error of Config.Login: that of a tenant that does not live there any more, for instance.
type loginError struct{ err error }

func (e *loginError) Error() string { return e.err.Error() }
func (e *loginError) Unwrap() error { return e.err }

// isHome reports whether Config.ConnConfig leads through the door.
func (e *engine) isHome(d door) bool { return d == e.nobody.door }

// connect opens a connection through a door.
func (e *engine) connect(ctx context.Context, d door) (*pgx.Conn, error) {
	cc := e.cfg.ConnConfig
	if !e.isHome(d) {
		var err error
		if cc, err = e.cfg.Login(ctx, d); err == nil && cc == nil {
			err = errors.New("Config.Login returned nothing")
		}
		if err != nil {
			return nil, fmt.Errorf("tenantdb: login %s on cluster %q: %w", cmp.Or(d.Login, "(default)"), d.Cluster, &loginError{err})
		}
	}
	cc = cc.Copy()
	// Only our flights make named statements, and only for one tenant each: pgx must not make any that are keyed by SQL.
	cc.StatementCacheCapacity = 0
	cc.DescriptionCacheCapacity = 0
	cc.DefaultQueryExecMode = pgx.QueryExecModeDescribeExec
	cc.Tracer = connectTracer(e.cfg.ConnConfig.Tracer)
	delete(cc.RuntimeParams, "search_path")
	delete(cc.RuntimeParams, "role")
	conn, err := pgx.ConnectConfig(ctx, cc)
	if err != nil {
		return nil, fmt.Errorf("tenantdb: %w", connectError(err))
	}
	return conn, nil
}

// sessionTimeout bounds what is asked of a new connection: while it is made it counts, and nobody else can end it.
const sessionTimeout = 10 * time.Second

// sessionSQL asks what has to be true of every connection.
const sessionSQL = `SELECT pg_catalog.pg_backend_pid(), pg_catalog.current_setting('search_path') IN ('', '""')
	AND pg_catalog.current_setting('datestyle') LIKE 'ISO%' AND pg_catalog.current_setting('intervalstyle') = 'postgres'
	AND pg_catalog.current_setting('bytea_output') = 'hex' AND pg_catalog.current_setting('extra_float_digits')::int >= 1, r.rolname,
	current_user <> session_user OR r.rolsuper OR r.rolbypassrls OR r.rolcreaterole OR r.rolcreatedb OR r.rolreplication,
	r.rolinherit AND pg_catalog.current_setting('server_version_num')::int < 160000
	FROM pg_catalog.pg_roles r WHERE r.rolname = session_user`

// baseSQL is the session's state under all scopes: no path, and the text forms that pgx reads. A result whose types are not
// known yet comes as text.
const baseSQL = `SELECT pg_catalog.set_config('search_path', '', false), pg_catalog.set_config('datestyle', 'ISO', false),
	pg_catalog.set_config('intervalstyle', 'postgres', false), pg_catalog.set_config('bytea_output', 'hex', false),
	pg_catalog.set_config('extra_float_digits', '1', false)`

// prepareSession runs once for each new connection: it sets the base state, checks the login and finds out about poolers.
func (e *engine) prepareSession(ctx context.Context, sv *server, conn *pgx.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, sessionTimeout) // pgx bounds the connecting, not this
	defer cancel()
	var pid uint32
	var fit, mighty, inherits bool
	var login string
	err := conn.QueryRow(ctx, sessionSQL, pgx.QueryExecModeExec).Scan(&pid, &fit, &login, &mighty, &inherits)
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
	if pid != conn.PgConn().PID() && e.cfg.Pooler == PoolerAuto && !sv.pooled.Swap(true) {
		e.cfg.Logger.WarnContext(ctx, "a transaction pooler stands before PostgreSQL: named statements are off",
			"cluster", sv.name, "hint", "tenantdb.Config.Pooler says so in advance")
	}
	switch {
	case fit:
	case sv.pooled.Load(): // a setting of the session would stay on a backend that is not ours alone
		name := pgx.Identifier{login}.Sanitize()
		return fmt.Errorf("tenantdb: the base search_path of login %q is not empty, or its results have another form than ISO dates, postgres "+
			"intervals, hex bytea and all digits of floats; run: ALTER ROLE %s SET search_path = ''; ALTER ROLE %[2]s SET datestyle = 'ISO'; "+
			"ALTER ROLE %[2]s SET intervalstyle = 'postgres'; ALTER ROLE %[2]s SET bytea_output = 'hex'; ALTER ROLE %[2]s SET extra_float_digits = 1",
			login, name)
	default:
		if _, err := conn.Exec(ctx, baseSQL); err != nil {
			return err
		}
	}
	return nil
}

// checkLogin asks once for each login what is too dear to ask of each connection.
func (e *engine) checkLogin(ctx context.Context, d door, conn *pgx.Conn) error {
	login := conn.Config().User
	e.fitMu.Lock()
	fit := e.fit[d]
	e.fitMu.Unlock()
	if fit {
		return nil
	}
	var version int
	err := conn.QueryRow(ctx, "SELECT pg_catalog.current_setting('server_version_num')::int", pgx.QueryExecModeExec).Scan(&version)
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
		return fmt.Errorf("tenantdb: the login %q owns something in this database or was granted rights there, so a statement that "+
			"left its tenant could still read it; REVOKE them, and grant to the tenants' roles instead", login)
	}
	if version >= 160000 {
		var inherits bool
		if err := conn.QueryRow(ctx, inheritsSQL, pgx.QueryExecModeExec).Scan(&inherits); err != nil {
			return fmt.Errorf("tenantdb: %w", err)
		}
		if inherits {
			return fmt.Errorf("tenantdb: the login %q inherits the rights of a role; grant tenant roles to it WITH INHERIT FALSE", login)
		}
	}
	e.fitMu.Lock()
	defer e.fitMu.Unlock()
	if len(e.fit) == 0 {
		warnOfOldServer(ctx, e.cfg.Logger, version)
	}
	if len(e.fit) >= maxScopes { // asking again does no harm
		clear(e.fit)
	}
	e.fit[d] = true
	return nil
}

// warnOfOldServer says so if the server is open to attacks on what the scope stands on.
func warnOfOldServer(ctx context.Context, log *slog.Logger, version int) {
	if fixed := missesFixes(version); fixed != "" {
		log.WarnContext(ctx, "the server lacks fixes for roles and row security (CVE-2023-2455, CVE-2024-10976, CVE-2024-10978)",
			"hint", "upgrade it to PostgreSQL "+fixed+" or newer")
	}
}

// missesFixes returns the first release with the fixes that matter to roles, if the given one is older.
func missesFixes(version int) string {
	fixed := map[int]int{15: 9, 16: 5, 17: 1}
	major, minor := version/10000, version%10000
	if minor < fixed[major] {
		return fmt.Sprintf("%d.%d", major, fixed[major])
	}
	return ""
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
