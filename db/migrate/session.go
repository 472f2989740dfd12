package migrate

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
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

// session is one connection, the target that it is at, and what is known of that. It is used by one goroutine at a time.
type session struct {
	// ctx is kept because dbmate, which stands between the caller and the connection, has none to pass on.
	ctx  context.Context
	cfg  Config
	conn *pgx.Conn
	// stop is closed when nothing new is to be waited for.
	stop <-chan struct{}
	// visited counts the targets that the connection was at.
	visited int
	// citus is whether the server runs Citus.
	citus bool
	log   *slog.Logger
	visit
}

// visit is what a session knows of the target that it is at.
type visit struct {
	target Target
	// scope is what the session was set to. Each file must leave it as it was.
	scope scope
	// table is the ledger, quoted and qualified.
	table string
	ledgerState
	// ledger holds the applied versions. While the lock is held it is the truth.
	ledger map[string]bool
	// checksums holds those that the ledger has, in hexadecimal.
	checksums map[string]string
	locked    bool
	// clean is whether nothing has run that might have left something in the session.
	clean bool

	// steps are the files still to be run; the first is in hand.
	steps   []step
	started time.Time // when the file in hand was begun
	inTx    bool
	done    []string // the names of the files that were run
}

// ledgerState is what the catalogue says of a ledger.
type ledgerState struct {
	exists bool
	// exposed is whether others than its owner have rights on it.
	exposed bool
	// sums is whether it has a column for checksums, which dbmate does not make.
	sums bool
}

// step is one section of a file to be run.
type step struct {
	*file
	back bool // the down section
}

func (s step) section() *section {
	if s.back {
		return &s.down
	}
	return &s.up
}

// scope is what decides where the names in a file lead, and with whose rights.
type scope struct {
	path, user, sessionUser, backend string
}

const (
	scopeColumns = `current_setting('search_path'), ` + scopeRest
	scopeRest    = `current_user::text, session_user::text, pg_backend_pid()::text`
)

// exposedExpr is whether table c has a grant to another than its owner. Rights of the owner alone leave relacl null or one item.
const exposedExpr = `exists (select from aclexplode(c.relacl) a where a.grantee <> c.relowner)`

// dial connects to the target's database.
func dial(ctx context.Context, t Target, cfg Config, stop <-chan struct{}) (*session, error) {
	if err := t.validate(); err != nil {
		return nil, err
	}
	s := &session{ctx: ctx, cfg: cfg, stop: stop, log: cfg.Logger}
	conn, err := pgx.ConnectConfig(ctx, s.connConfig(t))
	if err != nil {
		return nil, err
	}
	s.conn = conn
	return s, nil
}

func (s *session) connConfig(t Target) *pgx.ConnConfig {
	c := t.Conn.Copy()
	// Nothing is asked twice, so statements are not prepared.
	c.DefaultQueryExecMode = pgx.QueryExecModeExec
	c.StatementCacheCapacity, c.DescriptionCacheCapacity = 0, 0
	c.RuntimeParams["application_name"] = "leasehold migrate"
	c.RuntimeParams["client_encoding"] = "UTF8" // what literal makes is read in no other way
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

// script sends statements as one simple query: one round trip, and one transaction unless they say otherwise. It returns the
// results of those that were finished, also with an error.
func (s *session) script(statements ...string) ([]*pgconn.Result, error) {
	results, err := s.conn.PgConn().Exec(s.ctx, strings.Join(statements, ";\n")).ReadAll()
	for i, r := range results {
		if r.Err != nil {
			return results[:i], err
		}
	}
	return results, err
}

var escapes = strings.NewReplacer(`\`, `\\`, `'`, `''`)

// literal quotes a string so that it means the same whatever standard_conforming_strings says.
func literal(s string) string { return "E'" + escapes.Replace(s) + "'" }

// forget makes a session that was at another target as good as new. It is what the documentation of PostgreSQL gives as the
// meaning of DISCARD ALL, which cannot travel with other statements.
var forget = append([]string{"select pg_advisory_unlock_all()"}, forgetKeepingLocks...)

var forgetKeepingLocks = []string{
	"close all", "set session authorization default", "reset all", "deallocate all", "unlisten *", "discard plans", "discard temp", "discard sequences",
}

// refresh makes the session what it was when it came to the target, after a file that may have left something in it.
func (s *session) refresh() error {
	if s.clean {
		return nil
	}
	_, err := s.script(append(slices.Clone(forgetKeepingLocks), s.settings(false))...)
	if err == nil {
		s.clean = true
	}
	return err
}

// enter binds the session to a target: it forgets the last one, sets search_path to the schema, and reads the ledger. With lock it
// takes the schema's lock before it reads. What is known of a ledger that exists is taken on trust, save its content, and then
// all of this is one round trip.
func (s *session) enter(t Target, lock bool, known ledgerState) error {
	s.visit = visit{target: t, clean: true, table: pgx.Identifier{t.Schema, ledgerName}.Sanitize()}
	s.log = s.cfg.Logger.With(slog.String("target", t.Name), slog.String("schema", t.Schema))
	err := s.look(lock, known)
	if notThere(err) {
		err = s.look(lock, ledgerState{})
	}
	s.visited++
	if err != nil || !lock || s.locked {
		return err
	}
	if err := s.waitForLock(); err != nil {
		return err
	}
	return s.look(false, ledgerState{})
}

// look does what enter says, without waiting for the lock.
func (s *session) look(lock bool, known ledgerState) error {
	var statements []string
	if s.visited > 0 && !s.locked {
		statements = append(statements, forget...)
	}
	statements = append(statements, s.settings(lock))
	if known.exists {
		statements = append(statements, s.versions(known.sums))
	} else {
		statements = append(statements, findLedger(s.target.Schema))
	}
	results, err := s.script(statements...)
	if err != nil {
		return err
	}
	found, row := results[len(results)-1], results[len(results)-2].Rows[0]
	s.locked, s.citus, s.scope = s.locked || isTrue(row[0]), isTrue(row[1]), newScope(row[2:])
	if pid := strconv.FormatUint(uint64(s.conn.PgConn().PID()), 10); s.scope.backend != pid {
		return ErrPooler
	}
	if known.exists {
		s.ledgerState = known
		s.keep(found)
		return nil
	}
	if len(found.Rows) == 0 {
		return fmt.Errorf("%w: %q in database %q", ErrSchemaMissing, s.target.Schema, s.conn.Config().Database)
	}
	s.ledgerState = ledgerState{exists: isTrue(found.Rows[0][0]), exposed: isTrue(found.Rows[0][1]), sums: isTrue(found.Rows[0][2])}
	s.ledger = map[string]bool{}
	if !s.exists {
		return nil
	}
	if results, err = s.script(s.versions(s.sums)); err != nil {
		return fmt.Errorf("read %s: %w", s.table, err)
	}
	s.keep(results[0])
	return nil
}

// settings is the statement that sets the session up. Its columns are whether the lock was taken, whether this is Citus, and the scope. A path may name what
// does not exist, so the schema is looked for afterwards.
func (s *session) settings(lock bool) string {
	path := pgx.Identifier{s.target.Schema}.Sanitize()
	if ext := s.target.ExtensionSchema; ext != "" {
		path += ", " + pgx.Identifier{ext}.Sanitize()
	}
	locked := "false"
	if lock {
		locked = fmt.Sprintf("pg_try_advisory_lock(%d)", lockKey(s.target.Schema))
	}
	var columns []string
	set := func(name, value string) {
		columns = append(columns, "set_config("+literal(name)+", "+literal(value)+", false)")
	}
	set("search_path", path+", pg_temp")
	columns[0] = locked + ", current_setting('citus.version', true) is not null, " + columns[0] + ", " + scopeRest
	set("lock_timeout", milliseconds(s.cfg.LockTimeout))
	set("standard_conforming_strings", "on")
	if s.cfg.StatementTimeout > 0 {
		set("statement_timeout", milliseconds(s.cfg.StatementTimeout))
	}
	return "select " + strings.Join(columns, ", ")
}

func isTrue(value []byte) bool { return string(value) == "t" }

func newScope(row [][]byte) scope {
	return scope{path: string(row[0]), user: string(row[1]), sessionUser: string(row[2]), backend: string(row[3])}
}

// waitForLock takes the advisory lock of the schema. It asks and asks again instead of waiting inside the server, where it would
// hold a snapshot that a CREATE INDEX CONCURRENTLY of the lock's holder waits for.
func (s *session) waitForLock() error {
	s.log.DebugContext(s.ctx, "waiting for another runner")
	for pause := lockPollMin; ; pause = min(2*pause, lockPollMax) {
		if err := s.sleep(jitter(pause)); err != nil {
			return err
		}
		if err := s.conn.QueryRow(s.ctx, `select pg_try_advisory_lock($1)`, lockKey(s.target.Schema)).Scan(&s.locked); err != nil || s.locked {
			return err
		}
	}
}

// lockKey is the key of the advisory lock of a schema. PostgreSQL itself keeps the locks of different databases apart.
func lockKey(schema string) int64 {
	sum := sha256.Sum256([]byte("leasehold migrate " + schema))
	return int64(binary.BigEndian.Uint64(sum[:8]))
}

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

// sleep waits for d, or until it is not worth while any more.
func (s *session) sleep(d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-s.ctx.Done():
		return s.ctx.Err()
	case <-s.stop:
		return ErrStopped
	case <-timer.C:
		return nil
	}
}
