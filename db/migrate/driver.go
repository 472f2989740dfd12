package migrate

import (
	"cmp"
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/url"
	"time"
	"unicode/utf8"

	"github.com/amacneil/dbmate/v2/pkg/dbmate"
	"github.com/amacneil/dbmate/v2/pkg/dbutil"
	"github.com/jackc/pgx/v5"
)

// scheme is the one under which dbmate finds the driver. No address is ever made of it.
const scheme = "leasehold-session"

func init() { dbmate.RegisterDriver(newDriver, scheme) }

// migrate lets dbmate run the steps that are due. It stops at the first that fails; then steps[0] is that one.
func (s *session) migrate() error {
	for len(s.steps) > 0 {
		first, due := s.steps[0], len(s.steps)
		db := dbmate.New(&url.URL{Scheme: scheme})
		db.AutoDumpSchema = false
		db.MigrationsDir = []string{"."}
		db.MigrationsTableName = ledgerName
		db.Log = dbmateLog{s}
		// It is shown what it is to run and nothing else: a long history would be read again for each target.
		var err error
		if first.back {
			db.FS = memFS{first.file}
			err = db.Rollback()
		} else {
			db.FS = filesOf(s.steps)
			err = db.Migrate()
		}
		if err != nil {
			return err
		}
		if len(s.steps) == due {
			return fmt.Errorf("%s was left out", first.Name)
		}
	}
	return nil
}

// filesOf shows the files of some steps.
func filesOf(steps []step) memFS {
	files := make(memFS, len(steps))
	for i, st := range steps {
		files[i] = st.file
	}
	return files
}

// dbmateLog carries the session to the driver: dbmate builds the driver itself, and passes its log on as it is. As a log it
// drops what it is told, since dbmate says "Applied" before it knows.
type dbmateLog struct{ s *session }

func (dbmateLog) Write(p []byte) (int, error) { return len(p), nil }

// ledgerDriver answers dbmate from what the session knows, and has it send through the session's connection.
type ledgerDriver struct{ s *session }

func newDriver(cfg dbmate.DriverConfig) dbmate.Driver {
	log, _ := cfg.Log.(dbmateLog)
	return ledgerDriver(log)
}

func (d ledgerDriver) unsupported(what string) error {
	return fmt.Errorf("%s: %w by this driver", what, errors.ErrUnsupported)
}

// Open returns a handle on the session's connection. Closing the handle leaves the connection as it is.
func (d ledgerDriver) Open() (*sql.DB, error) {
	if d.s == nil {
		return nil, d.unsupported("opening an address")
	}
	db := sql.OpenDB(connector(d))
	db.SetMaxOpenConns(1)
	return db, nil
}

func (d ledgerDriver) MigrationsTableExists(*sql.DB) (bool, error) { return true, nil }

// CreateMigrationsTable does nothing: the session made sure of the table when it took the lock.
func (d ledgerDriver) CreateMigrationsTable(*sql.DB) error { return nil }

// SelectMigrations ignores the limit, which dbmate never sets.
func (d ledgerDriver) SelectMigrations(*sql.DB, int) (map[string]bool, error) {
	return maps.Clone(d.s.ledger), nil
}

// InsertMigration records a file that ran without a transaction. One that ran in a transaction is recorded by its commit.
func (d ledgerDriver) InsertMigration(_ dbutil.Transaction, version string) error {
	return d.s.finish(version)
}

// DeleteMigration is InsertMigration for the way back.
func (d ledgerDriver) DeleteMigration(_ dbutil.Transaction, version string) error {
	return d.s.finish(version)
}

// finish checks that the file in hand left the transaction alone, and records it if there is none.
func (s *session) finish(version string) error {
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
	if s.inTx {
		return nil
	}
	// What has run outside a transaction is recorded even if the context has ended meanwhile: it would be run again.
	defer func(ctx context.Context) { s.ctx = ctx }(s.ctx)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.ctx), closeTimeout)
	defer cancel()
	s.ctx = ctx
	if err := s.record(); err != nil {
		return err
	}
	s.stepDone()
	return nil
}

// QueryError returns the error as it is: the session has put in the place and the statement.
func (d ledgerDriver) QueryError(_ string, err error) error { return err }

func (d ledgerDriver) Ping() error { return d.unsupported("ping") }
func (d ledgerDriver) DatabaseExists() (bool, error) {
	return false, d.unsupported("looking for a database")
}
func (d ledgerDriver) CreateDatabase() error { return d.unsupported("creating a database") }
func (d ledgerDriver) DropDatabase() error   { return d.unsupported("dropping a database") }
func (d ledgerDriver) DumpSchema(*sql.DB, ...string) ([]byte, error) {
	return nil, d.unsupported("dumping a schema")
}

// connector hands the session's one connection to database/sql, as often as it asks.
type connector struct{ s *session }

func (c connector) Connect(context.Context) (driver.Conn, error) { return sqlConn(c), nil }
func (c connector) Driver() driver.Driver                        { return c }
func (c connector) Open(string) (driver.Conn, error)             { return sqlConn(c), nil }

// sqlConn is as much of a database/sql connection as dbmate uses. All of it runs under the session's context, so that
// cancelling it reaches the server; database/sql only knows the empty context that dbmate's calls imply.
type sqlConn struct{ s *session }

func (c sqlConn) Prepare(string) (driver.Stmt, error) {
	return nil, fmt.Errorf("prepare: %w by this driver", errors.ErrUnsupported)
}

func (c sqlConn) Close() error { return nil }

// Begin only notes that there is to be a transaction: BEGIN travels with the file.
func (c sqlConn) Begin() (driver.Tx, error) {
	c.s.inTx = true
	return sqlTx(c), nil
}

func (c sqlConn) ExecContext(_ context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	if len(args) > 0 {
		return nil, fmt.Errorf("arguments: %w by this driver", errors.ErrUnsupported)
	}
	return driver.ResultNoRows, c.s.run(query)
}

type sqlTx struct{ s *session }

// Commit leaves no transaction behind, however it ends.
func (t sqlTx) Commit() error {
	if err := t.s.commit(); err != nil {
		_ = t.Rollback()
		return err
	}
	t.s.inTx = false
	t.s.stepDone()
	return nil
}

// Rollback never fails: dbmate would report that in place of the cause. A connection that could not roll back is closed, which
// ends the transaction too. It is not bound to the session's context, since that may be why there is something to roll back.
func (t sqlTx) Rollback() error {
	t.s.inTx = false
	if t.s.conn.IsClosed() || t.s.conn.PgConn().TxStatus() == 'I' {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.s.ctx), closeTimeout)
	defer cancel()
	if _, err := t.s.conn.Exec(ctx, "rollback"); err != nil {
		t.s.log.DebugContext(ctx, "rollback", slog.Any("error", err))
		_ = t.s.conn.Close(ctx)
	}
	return nil
}

// begin precedes a file that runs in a transaction.
const begin = "begin;\n"

// run sends the section of the step in hand, as dbmate does: all of it as one simple query.
func (s *session) run(text string) error {
	if len(s.steps) == 0 || s.steps[0].section().text != text {
		return errors.New("dbmate sent another text than the one in hand")
	}
	s.started = time.Now()
	if err := s.refresh(); err != nil {
		return err
	}
	section := s.steps[0].section()
	s.clean = section.tame
	if section.transaction {
		return s.send(begin)
	}
	if !section.concurrently {
		return s.send("")
	}
	// It waits for transactions that have nothing to do with it while nobody waits for it. Giving up would only leave an invalid
	// index behind.
	if err := s.setLockTimeout("0"); err != nil {
		return err
	}
	if err := s.dropInvalidIndex(section.index); err != nil {
		return err
	}
	if err := s.send(""); err != nil || section.index == "" {
		return err
	}
	if invalid, err := s.invalidIndex(section.index); err != nil || invalid {
		return cmp.Or(err, errInvalidIndex)
	}
	return nil
}

// errInvalidIndex reports what should not be: the statement succeeded, and the index is of no use.
var errInvalidIndex = errors.New("the index is invalid; run again")

// send sends the section of the step in hand behind a prefix, which is one statement or none.
func (s *session) send(prefix string) error {
	if s.citus {
		return s.sendEach(prefix)
	}
	section := s.steps[0].section()
	finished := 0
	results := s.conn.PgConn().Exec(s.ctx, prefix+section.text)
	for results.NextResult() {
		if _, err := results.ResultReader().Close(); err == nil {
			finished++
		}
	}
	err := results.Close()
	if err == nil {
		return nil
	}
	if prefix != "" {
		finished = max(finished-1, 0)
	}
	return s.steps[0].locate(section, finished, len(prefix), err)
}

// sendEach is send with a query for each statement: for some of them, as CREATE INDEX, Citus hands the whole text of the query on to its
// workers, which take one statement.
func (s *session) sendEach(prefix string) error {
	if prefix != "" {
		if _, err := s.script(prefix); err != nil {
			return err
		}
	}
	section := s.steps[0].section()
	for n, st := range section.statements {
		if _, err := s.script(section.text[st.start:st.end]); err != nil {
			return s.steps[0].locate(section, n, -utf8.RuneCountInString(section.text[:st.start]), err)
		}
	}
	return nil
}

// setLockTimeout holds for the file in hand: refresh sets it back.
func (s *session) setLockTimeout(value string) error {
	_, err := s.conn.Exec(s.ctx, `select set_config('lock_timeout', $1, false)`, value)
	return err
}

// dropInvalidIndex removes what a CREATE INDEX CONCURRENTLY that was broken off has left under the name, which IF NOT EXISTS would
// take for the index. Nobody else is at work on it: the lock is held.
func (s *session) dropInvalidIndex(name string) error {
	if name == "" {
		return nil
	}
	if invalid, err := s.invalidIndex(name); err != nil || !invalid {
		return err
	}
	index := pgx.Identifier{s.target.Schema, name}.Sanitize()
	if _, err := s.conn.Exec(s.ctx, "drop index concurrently if exists "+index); err != nil {
		return fmt.Errorf("drop the invalid index %s: %w", index, err)
	}
	s.log.WarnContext(s.ctx, "dropped an invalid index that was left behind", slog.String("index", index))
	return nil
}

// invalidIndex reports whether the schema has an invalid index of that name, which the server cuts to its length.
func (s *session) invalidIndex(name string) (invalid bool, err error) {
	err = s.conn.QueryRow(s.ctx, `select exists (select from pg_catalog.pg_index i join pg_catalog.pg_class c on c.oid = i.indexrelid
		where c.relnamespace = (select oid from pg_catalog.pg_namespace where nspname = $1) and c.relname = $2::name and not i.indisvalid)`,
		s.target.Schema, name).Scan(&invalid)
	return invalid, err
}

// stepDone notes that the step in hand is done and recorded for good.
func (s *session) stepDone() {
	st := s.steps[0]
	s.steps = s.steps[1:]
	message := "applied"
	if st.back {
		message = "rolled back"
		delete(s.ledger, st.Version)
	} else {
		s.ledger[st.Version] = true
	}
	s.done = append(s.done, st.Name)
	s.log.InfoContext(s.ctx, message, slog.String("file", st.Name), slog.Duration("duration", time.Since(s.started)))
}
