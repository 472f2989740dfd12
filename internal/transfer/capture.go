package transfer

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

const (
	// triggerName is what our triggers are called. They fire after the tenant's own.
	triggerName = "zz_leasehold_capture"
	// tableLockTimeout is how long a statement waits for a table that others use, while all who come after it wait for the statement.
	tableLockTimeout = 300 * time.Millisecond
	// tablePatience is for how long a table is tried again and again.
	tablePatience = 2 * time.Minute
)

// capture notes what changes at the source: for each table with a key the keys of rows that change, for the others the rows that are
// added and removed. All of it lies in a schema that the tenant's role has no rights in. Tables go by their place in the list.
type capture struct {
	place  Place
	tables []table
}

func (c capture) schema() string { return CaptureSchema(c.place.Schema) }

// log is the quoted name of the table with the notes on the i-th table.
func (c capture) log(i int) string {
	return pgx.Identifier{c.schema(), "log_" + strconv.Itoa(i)}.Sanitize()
}

// added is the column that says of a noted row whether it was added or removed.
const added = "leasehold_added"

// noted are the columns of the notes on a table; there are none if the table has no column, and then it is only marked.
func (t table) noted() string {
	switch {
	case len(t.key) > 0:
		return quoteAll(t.key, "")
	case len(t.columns) > 0:
		return quoteAll(t.columns, "") + ", " + added
	default:
		return ""
	}
}

// notes is an empty relation with these columns.
func (t table) notes(p Place) string {
	if len(t.key) > 0 {
		return "select " + quoteAll(t.key, "") + " from " + p.name(t.name) + " with no data"
	}
	return "select " + quoteAll(t.columns, "") + ", true as " + added + " from " + p.name(t.name) + " with no data"
}

// marks is the quoted name of the table that says which tables are to be copied anew.
func (c capture) marks() string { return pgx.Identifier{c.schema(), "marks"}.Sanitize() }

// install makes the triggers. All changes that are committed after it are noted.
func (c capture) install(ctx context.Context, s *session) error {
	if err := s.run(ctx, "create schema "+quote(c.schema()), "revoke all on schema "+quote(c.schema())+" from public",
		"create table "+c.marks()+" (n integer not null)"); err != nil {
		return err
	}
	for i, t := range c.tables {
		if err := s.contend(ctx, c.installSQL(i, t)...); err != nil {
			return fmt.Errorf("watch %s: %w", t.name, err)
		}
	}
	return nil
}

// installSQL makes what notes the changes of one table. The function runs with the rights of its owner, whoever makes the change.
func (c capture) installSQL(i int, t table) []string {
	function := pgx.Identifier{c.schema(), "note_" + strconv.Itoa(i)}.Sanitize() + "()"
	mark := "insert into " + c.marks() + " values (" + strconv.Itoa(i) + ");"
	var statements []string
	if t.noted() != "" {
		statements = append(statements, "create table "+c.log(i)+" as "+t.notes(c.place))
	}
	body := "if tg_op = 'TRUNCATE' then " + mark + " return null; end if;\n" + c.noteSQL(i, t, mark)
	on := " on " + c.place.name(t.name)
	return append(statements,
		"create function "+function+" returns trigger language plpgsql security definer set search_path to "+quote(c.place.Schema)+", pg_temp as "+
			"$leasehold$ begin\n"+body+"\nreturn null; end $leasehold$",
		"revoke all on function "+function+" from public",
		"create trigger "+triggerName+" after insert or update or delete"+on+" for each row execute function "+function,
		"create trigger "+triggerName+"_all after truncate"+on+" for each statement execute function "+function,
		// Also in sessions that take part in a replication.
		"alter table"+strings.TrimPrefix(on, " on")+" enable always trigger "+triggerName+", enable always trigger "+triggerName+"_all")
}

// noteSQL is what the function does about a row.
func (c capture) noteSQL(i int, t table, mark string) string {
	insert := "insert into " + c.log(i) + " values ("
	switch {
	case len(t.key) > 0:
		// As images: an operator of the key's own type need not be on the path, and texts depend on the settings of whoever writes.
		same := "row(" + quoteAll(t.key, "old.") + ")::record *= row(" + quoteAll(t.key, "new.") + ")::record"
		return "if tg_op <> 'INSERT' then " + insert + quoteAll(t.key, "old.") + "); end if;\n" +
			"if tg_op = 'INSERT' then " + insert + quoteAll(t.key, "new.") + ");\n" +
			"elsif tg_op = 'UPDATE' then if not (" + same + ") then " + insert + quoteAll(t.key, "new.") + "); end if; end if;"
	case len(t.columns) > 0:
		return "if tg_op <> 'INSERT' then " + insert + quoteAll(t.columns, "old.") + ", false); end if;\n" +
			"if tg_op <> 'DELETE' then " + insert + quoteAll(t.columns, "new.") + ", true); end if;"
	default:
		return mark
	}
}

// forget takes out of the notes what the transaction's snapshot has of them: a copy of the same snapshot has those changes in it, and
// the rows of tables without a key would come twice.
func (c capture) forget(ctx context.Context, s *session) error {
	statements := []string{"delete from " + c.marks()}
	for i, t := range c.tables {
		if t.noted() != "" {
			statements = append(statements, "delete from "+c.log(i))
		}
	}
	return s.run(ctx, statements...)
}

// contend runs statements in one transaction that need a lock which others hold up, until it gets it.
func (s *session) contend(ctx context.Context, statements ...string) error {
	all := append([]string{"set local lock_timeout = '" + strconv.FormatInt(tableLockTimeout.Milliseconds(), 10) + "ms'"}, statements...)
	var lost error
	err := poll(ctx, tablePatience, func() (bool, error) {
		lost = s.run(ctx, all...)
		if notNow(lost) {
			return false, s.shoo(ctx)
		}
		return true, lost
	})
	return errors.Join(err, lostOnly(lost))
}

// shoo sends autovacuum away from the tables of the session's schema, which else may be at a large one for hours: it ends when somebody
// has waited for its lock for deadlock_timeout. Those who read and write do not wait behind who waits for such a lock.
func (s *session) shoo(ctx context.Context) error {
	rows, err := s.Query(ctx, `select c.oid::regclass::text from pg_locks l join pg_class c on c.oid = l.relation
		join pg_namespace n on n.oid = relnamespace and nspname = any ($1) join pg_database d on d.oid = l.database and datname = current_database()
		where l.mode = 'ShareUpdateExclusiveLock' and l.granted and l.pid <> pg_backend_pid() and relkind = 'r'`,
		[]string{s.place.Schema, OldSchema(s.place.Schema)})
	if err != nil {
		return err
	}
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	for _, table := range tables {
		err := s.run(ctx, `select set_config('lock_timeout', least(setting::integer + 500, 5000)::text, true) from pg_settings where name = 'deadlock_timeout'`,
			"lock table only "+table+" in share update exclusive mode")
		if err != nil && !notNow(err) {
			return err
		}
	}
	return nil
}

func lostOnly(err error) error {
	if notNow(err) {
		return fmt.Errorf("%w: %w", ErrHeld, err)
	}
	return nil
}

const (
	codeLockNotAvailable = "55P03"
	codeDeadlock         = "40P01"
)

// notNow reports an error of losing a contest for a lock.
func notNow(err error) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) && (pgErr.Code == codeLockNotAvailable || pgErr.Code == codeDeadlock)
}

// removeCapture takes away all that install has made, as far as it is there, in the schema that is now called so.
func (s *session) removeCapture(ctx context.Context, schema string) error {
	if there, err := s.hasSchema(ctx, schema); err != nil || !there {
		return err
	}
	rows, err := s.Query(ctx, `select format('drop trigger %I on %s', tgname, tgrelid::regclass) from pg_trigger t join pg_proc p on p.oid = tgfoid
		where pronamespace = $1::regnamespace and not tgisinternal and tgparentid = 0 order by 1`, quote(schema))
	if err != nil {
		return err
	}
	drops, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	for _, drop := range drops {
		if err := s.contend(ctx, drop); err != nil {
			return err
		}
	}
	return s.dropCapture(ctx, schema)
}

// dropCapture drops the schema of a capture, a few things at a time, so that no transaction takes many locks.
func (s *session) dropCapture(ctx context.Context, schema string) error {
	rows, err := s.Query(ctx, `select case when c.oid is null then format('drop function %s', d.objid::regprocedure) else format('drop table %s', c.oid::regclass) end
		from pg_depend d left join pg_class c on d.classid = 'pg_class'::regclass and c.oid = d.objid and c.relkind = 'r'
		where refclassid = 'pg_namespace'::regclass and refobjid = $1::regnamespace and (c.oid is not null or d.classid = 'pg_proc'::regclass)`, quote(schema))
	if err != nil {
		return err
	}
	drops, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	for len(drops) > 0 {
		n := min(len(drops), batchSize)
		if err := s.run(ctx, strings.Join(drops[:n], ";\n")); err != nil {
			return err
		}
		drops = drops[n:]
	}
	return s.run(ctx, "drop schema "+quote(schema)+" cascade")
}
