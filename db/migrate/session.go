package migrate

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
)

const (
	// connectTimeout bounds a connection attempt whose configuration has no bound.
	connectTimeout = 15 * time.Second
	// closeTimeout bounds what is still said to the server after the work, or the context, has ended.
	closeTimeout = 5 * time.Second
	// lockPollMin and lockPollMax bound the pause between two looks at a lock that another runner holds.
	lockPollMin = 10 * time.Millisecond
	lockPollMax = 250 * time.Millisecond
)

// session is one connection to one target, and what is known of it. It is used by one goroutine at a time.
type session struct {
	// ctx is kept because dbmate, which stands between the caller and the connection, has none to pass on.
	ctx    context.Context
	target Target
	conn   *pgx.Conn
	log    *slog.Logger
	// scope is what the session was set to. Each file must leave it as it was.
	scope scope
	// table is the ledger, quoted and qualified.
	table        string
	ledgerExists bool
	// exposed is whether others than its owner have rights on the ledger.
	exposed bool
	// ledger holds the applied versions. While the lock is held it is the truth.
	ledger  map[string]bool
	locked  bool
	timeout string // lock_timeout, as PostgreSQL reads it

	// steps are the files still to be run; the first is in hand.
	steps   []*file
	started time.Time // when the file in hand was begun
	inTx    bool
	applied []string
}

// scope is what decides where the names in a file lead, and with whose rights.
type scope struct {
	path, user, sessionUser, backend string
}

const scopeColumns = `current_setting('search_path'), current_user::text, session_user::text, pg_backend_pid()::text`

// exposedExpr is whether table c has a grant to another than its owner. Rights of the owner alone leave relacl null or one item.
const exposedExpr = `exists (select from aclexplode(c.relacl) a where a.grantee <> c.relowner)`

// open connects to the target, sets up the session and reads the ledger. It changes nothing in the database.
func open(ctx context.Context, t Target, cfg Config) (*session, error) {
	if err := t.validate(); err != nil {
		return nil, err
	}
	s := &session{
		ctx:     ctx,
		target:  t,
		log:     cfg.Logger.With(slog.String("target", t.Name), slog.String("schema", t.Schema)),
		table:   pgx.Identifier{t.Schema, ledgerName}.Sanitize(),
		timeout: milliseconds(cfg.LockTimeout),
	}
	conn, err := pgx.ConnectConfig(ctx, s.connConfig())
	if err != nil {
		return nil, err
	}
	s.conn = conn
	err = s.setUp(cfg)
	if err == nil {
		err = s.readLedger()
	}
	if err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *session) connConfig() *pgx.ConnConfig {
	c := s.target.Conn.Copy()
	// Nothing is asked twice, so statements are not prepared.
	c.DefaultQueryExecMode = pgx.QueryExecModeExec
	c.StatementCacheCapacity, c.DescriptionCacheCapacity = 0, 0
	c.RuntimeParams["application_name"] = "leasehold migrate"
	if c.ConnectTimeout == 0 {
		c.ConnectTimeout = connectTimeout
	}
	c.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) {
		s.log.DebugContext(s.ctx, "notice", slog.String("message", n.Message), slog.String("code", n.Code))
	}
	// When the context ends, the server is told to stop and its answer is awaited: the connection is then still good for the
	// rollback, and nothing goes on unseen.
	c.BuildContextWatcherHandler = func(pc *pgconn.PgConn) ctxwatch.Handler {
		return &pgconn.CancelRequestContextWatcherHandler{Conn: pc, DeadlineDelay: closeTimeout}
	}
	return c
}

// setUp binds the session to the schema, in one round trip. A path may name what does not exist, so the schema is looked for.
func (s *session) setUp(cfg Config) error {
	path := pgx.Identifier{s.target.Schema}.Sanitize()
	if ext := s.target.ExtensionSchema; ext != "" {
		path += ", " + pgx.Identifier{ext}.Sanitize()
	}
	path += ", pg_temp"
	batch := &pgx.Batch{}
	batch.Queue(`select set_config('search_path', $1, false), set_config('lock_timeout', $2, false), set_config('standard_conforming_strings', 'on', false)`,
		path, s.timeout)
	if cfg.StatementTimeout > 0 {
		batch.Queue(`select set_config('statement_timeout', $1, false)`, milliseconds(cfg.StatementTimeout))
	}
	batch.Queue(`select ` + scopeColumns).QueryRow(s.scope.scan)
	batch.Queue(`select c.oid is not null, `+exposedExpr+` from pg_catalog.pg_namespace n
		left join pg_catalog.pg_class c on c.relnamespace = n.oid and c.relname = $2 where n.nspname = $1`,
		s.target.Schema, ledgerName).QueryRow(func(row pgx.Row) error {
		err := row.Scan(&s.ledgerExists, &s.exposed)
		if errors.Is(err, pgx.ErrNoRows) {
			return fmt.Errorf("%w: %q in database %q", ErrSchemaMissing, s.target.Schema, s.conn.Config().Database)
		}
		return err
	})
	return s.conn.SendBatch(s.ctx, batch).Close()
}

func (c *scope) scan(row pgx.Row) error {
	return row.Scan(&c.path, &c.user, &c.sessionUser, &c.backend)
}

// readLedger reads the applied versions.
func (s *session) readLedger() (err error) {
	s.ledger = map[string]bool{}
	if s.ledgerExists {
		s.ledger, err = readVersions(s.ctx, s.conn, s.table)
	}
	return err
}

// readVersions reads what stands in a ledger.
func readVersions(ctx context.Context, q interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}, table string) (map[string]bool, error) {
	rows, err := q.Query(ctx, `select version from `+table)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", table, err)
	}
	ledger := map[string]bool{}
	var version string
	_, err = pgx.ForEachRow(rows, []any{&version}, func() error {
		ledger[version] = true
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", table, err)
	}
	return ledger, nil
}

// lock takes the advisory lock of the schema and looks at the ledger again. It asks and asks again instead of waiting inside the
// server, where it would hold a snapshot that a CREATE INDEX CONCURRENTLY of the lock's holder waits for.
func (s *session) lock(cfg Config) error {
	for pause := lockPollMin; ; pause = min(2*pause, lockPollMax) {
		if err := s.conn.QueryRow(s.ctx, `select pg_try_advisory_lock($1)`, lockKey(s.target.Schema)).Scan(&s.locked); err != nil {
			return err
		}
		if s.locked {
			break
		}
		if pause == lockPollMin {
			s.log.DebugContext(s.ctx, "waiting for another runner")
		}
		if err := sleep(s.ctx, jitter(pause)); err != nil {
			return err
		}
	}
	if err := s.setUp(cfg); err != nil {
		return err
	}
	return s.readLedger()
}

// lockKey is the key of the advisory lock of a schema. PostgreSQL itself keeps the locks of different databases apart.
func lockKey(schema string) int64 {
	sum := sha256.Sum256([]byte("leasehold migrate " + schema))
	return int64(binary.BigEndian.Uint64(sum[:8]))
}

// ensureLedger creates the ledger as dbmate would, and takes away what default privileges gave to others, in one transaction.
func (s *session) ensureLedger() error {
	if s.ledgerExists && !s.exposed {
		return nil
	}
	err := pgx.BeginFunc(s.ctx, s.conn, func(tx pgx.Tx) error {
		if !s.ledgerExists {
			if _, err := tx.Exec(s.ctx, `create table `+s.table+` (version varchar primary key)`); err != nil {
				return err
			}
		}
		return s.concealLedger()
	})
	if err != nil {
		return fmt.Errorf("create %s: %w", s.table, err)
	}
	s.ledgerExists, s.exposed = true, false
	return nil
}

// concealLedger revokes all rights on the ledger from all but its owner.
func (s *session) concealLedger() error {
	rows, err := s.conn.Query(s.ctx, `select distinct case a.grantee when 0 then 'PUBLIC' else quote_ident(pg_get_userbyid(a.grantee)) end
		from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace, aclexplode(c.relacl) a
		where n.nspname = $1 and c.relname = $2 and a.grantee <> c.relowner`, s.target.Schema, ledgerName)
	if err != nil {
		return err
	}
	grantees, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	for _, grantee := range grantees {
		if _, err := s.conn.Exec(s.ctx, `revoke all on table `+s.table+` from `+grantee+` cascade`); err != nil {
			return err
		}
	}
	return nil
}

// record writes or removes the version of the file in hand with the given statement, which takes the version as $1 and holds
// scopeCondition. It does so only if the file left the scope and the transaction as they were.
func (s *session) record(version, statement string) error {
	if len(s.steps) == 0 || s.steps[0].Version != version {
		return fmt.Errorf("version %s is not the one in hand", version)
	}
	want := byte('I')
	if s.inTx {
		want = 'T'
	}
	if got := s.conn.PgConn().TxStatus(); got != want {
		return fmt.Errorf("%w: the state of the transaction is %q, not %q", ErrScopeChanged, got, want)
	}
	var (
		now      scope
		recorded bool
		batch    = &pgx.Batch{}
	)
	batch.Queue(`select ` + scopeColumns).QueryRow(now.scan)
	batch.Queue(statement, version, s.scope.path, s.scope.user, s.scope.sessionUser, s.scope.backend).Exec(
		func(tag pgconn.CommandTag) error {
			recorded = tag.RowsAffected() == 1
			return nil
		})
	batch.Queue(`select `+exposedExpr+` from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
		where n.nspname = $1 and c.relname = $2`, s.target.Schema, ledgerName).QueryRow(func(row pgx.Row) error {
		return row.Scan(&s.exposed)
	})
	err := s.conn.SendBatch(s.ctx, batch).Close()
	if now != s.scope && now != (scope{}) {
		return fmt.Errorf("%w: %s", ErrScopeChanged, s.scope.difference(now))
	}
	if err != nil {
		return fmt.Errorf("record in %s: %w", s.table, err)
	}
	if !recorded {
		return fmt.Errorf("record in %s: no row was changed", s.table)
	}
	if s.exposed {
		if err := s.concealLedger(); err != nil {
			return fmt.Errorf("revoke rights on %s: %w", s.table, err)
		}
		s.exposed = false
	}
	return nil
}

// scopeCondition holds, in SQL, if the scope is the one whose parts are $2 to $5.
const scopeCondition = `current_setting('search_path') = $2 and current_user::text = $3 and session_user::text = $4 and pg_backend_pid()::text = $5`

// difference tells where now is not what it was.
func (c scope) difference(now scope) string {
	switch {
	case now.path != c.path:
		return fmt.Sprintf("search_path is %q, was %q", now.path, c.path)
	case now.user != c.user:
		return fmt.Sprintf("current_user is %q, was %q", now.user, c.user)
	case now.sessionUser != c.sessionUser:
		return fmt.Sprintf("session_user is %q, was %q", now.sessionUser, c.sessionUser)
	default:
		return fmt.Sprintf("server process is %s, was %s; a pooler in transaction mode cannot be used here", now.backend, c.backend)
	}
}

// close gives the lock back and ends the session. When it returns, the server has been told.
func (s *session) close() {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.ctx), closeTimeout)
	defer cancel()
	if s.locked && !s.conn.IsClosed() {
		// The end of the session frees the lock too, but only when the server has come to it.
		if _, err := s.conn.Exec(ctx, `select pg_advisory_unlock_all()`); err != nil {
			s.log.DebugContext(ctx, "unlock", slog.Any("error", err))
		}
	}
	if err := s.conn.Close(ctx); err != nil {
		s.log.DebugContext(ctx, "close", slog.Any("error", err))
	}
	select {
	case <-s.conn.PgConn().CleanupDone():
	case <-ctx.Done():
	}
}

// milliseconds is d as PostgreSQL's timeouts are written. What is shorter than one does not become 0, which means no limit.
func milliseconds(d time.Duration) string {
	if d <= 0 {
		return "0"
	}
	return strconv.FormatInt(max(d.Milliseconds(), 1), 10)
}

// jitter is a random duration of d/2 to 3d/2, so that runners that met once do not meet again and again.
func jitter(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return d/2 + rand.N(d)
}

// sleep waits for d or the end of ctx.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
