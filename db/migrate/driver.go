package migrate

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/url"
	"time"

	"github.com/amacneil/dbmate/v2/pkg/dbmate"
	"github.com/amacneil/dbmate/v2/pkg/dbutil"
	"github.com/jackc/pgx/v5"
)

const (
	// scheme is the one under which dbmate finds the driver. No address is ever made of it.
	scheme = "leasehold-session"
	// ledgerName is the table that dbmate uses if nobody tells it otherwise.
	ledgerName = "schema_migrations"
)

func init() { dbmate.RegisterDriver(newDriver, scheme) }

// migrate lets dbmate run the steps that are due. It stops at the first that fails; then steps[0] is that one.
func (s *session) migrate(set *Set) error {
	s.steps = set.pending(s.ledger)
	db := dbmate.New(&url.URL{Scheme: scheme})
	db.AutoDumpSchema = false
	db.FS = memFS(set.files)
	db.MigrationsDir = []string{"."}
	db.MigrationsTableName = ledgerName
	db.Log = dbmateLog{s}
	if err := db.Migrate(); err != nil {
		return err
	}
	if len(s.steps) > 0 {
		return fmt.Errorf("%s was left out", s.steps[0].Name)
	}
	return nil
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

// InsertMigration records a file in the transaction that ran it, if there is one: it is the session's only connection.
func (d ledgerDriver) InsertMigration(_ dbutil.Transaction, version string) error {
	err := d.s.record(version, `insert into `+d.s.table+` (version) select $1::varchar where `+scopeCondition)
	if err == nil && !d.s.inTx {
		d.s.done()
	}
	return err
}

func (d ledgerDriver) DeleteMigration(dbutil.Transaction, string) error {
	return d.unsupported("rollback")
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

func (c sqlConn) Begin() (driver.Tx, error) {
	tx, err := c.s.conn.Begin(c.s.ctx)
	if err != nil {
		return nil, err
	}
	c.s.inTx = true
	return sqlTx{c.s, tx}, nil
}

func (c sqlConn) ExecContext(_ context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	if len(args) > 0 {
		return nil, fmt.Errorf("arguments: %w by this driver", errors.ErrUnsupported)
	}
	return driver.ResultNoRows, c.s.run(query)
}

type sqlTx struct {
	s  *session
	tx pgx.Tx
}

func (t sqlTx) Commit() error {
	t.s.inTx = false
	if err := t.tx.Commit(t.s.ctx); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	t.s.done()
	return nil
}

// Rollback never fails: dbmate would report that in place of the cause. pgx closes a connection that could not roll back, which
// ends the transaction too. It is not bound to the session's context, since that may be why there is something to roll back.
func (t sqlTx) Rollback() error {
	t.s.inTx = false
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.s.ctx), closeTimeout)
	defer cancel()
	if err := t.tx.Rollback(ctx); err != nil {
		t.s.log.DebugContext(ctx, "rollback", slog.Any("error", err))
	}
	return nil
}

// run sends the section of the file in hand, as dbmate does: all of it as one simple query.
func (s *session) run(text string) error {
	if len(s.steps) == 0 || s.steps[0].up.text != text {
		return errors.New("dbmate sent another text than the one in hand")
	}
	s.started = time.Now()
	section := &s.steps[0].up
	if section.concurrently && !section.transaction {
		// It waits for transactions that have nothing to do with it while nobody waits for it. Giving up would only leave an
		// invalid index behind.
		if err := s.setLockTimeout("0"); err != nil {
			return err
		}
	}
	finished := 0
	results := s.conn.PgConn().Exec(s.ctx, text)
	for results.NextResult() {
		if _, err := results.ResultReader().Close(); err == nil {
			finished++
		}
	}
	if err := results.Close(); err != nil {
		return s.steps[0].locate(section, finished, err)
	}
	if section.concurrently && !section.transaction {
		return s.setLockTimeout(s.timeout)
	}
	return nil
}

func (s *session) setLockTimeout(value string) error {
	_, err := s.conn.Exec(s.ctx, `select set_config('lock_timeout', $1, false)`, value)
	return err
}

// done notes that the file in hand is applied and recorded for good.
func (s *session) done() {
	f := s.steps[0]
	s.steps = s.steps[1:]
	s.ledger[f.Version] = true
	s.applied = append(s.applied, f.Name)
	s.log.InfoContext(s.ctx, "applied", slog.String("file", f.Name), slog.Duration("duration", time.Since(s.started)))
}
