package tenantdb_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/db/tenantdb"
)

// A parityCase does something with a database and says what came of it. It leaves everything as it was.
type parityCase struct {
	name string
	run  func(ctx context.Context, db verbs) string
	// warmOnly leaves out the tenants that come later: the outcome has OIDs of the tenant's own in it, or has a test of its own.
	warmOnly bool
	// notInTx leaves out the transaction, for what cannot be done in one or costs pgx its connection.
	notInTx bool
}

// checkParity runs each case on pgx's own pool and on ours, in calls and in a transaction, and wants the same outcome: cold, when the
// statement gets its name, and warm; for the tenant that comes first, and for those that find what it has made known.
func checkParity(t *testing.T, cases []parityCase) {
	t.Helper()
	const first, second, third = 0, 1, 2 // tenants
	f := newFleet(t, 3)
	for i := range f.tenants {
		f.admin(t, i, parityTables)
	}
	plain := f.plain(t, first, pgx.QueryExecModeCacheStatement, nil)
	db := f.open(t, tenantdb.Config{MaxConns: 1}) // as pgx's: what its type map can encode depends on what its connection has encoded before
	// without takes the name of the tenant's schema out of an outcome.
	without := func(i int, out string) string {
		return strings.ReplaceAll(out, f.tenants[i].Placement.Schema, "SCHEMA")
	}
	inTx := func(ctx context.Context, db verbs, run func(ctx context.Context, db verbs) string) (out string) {
		tx, err := db.Begin(ctx)
		if err != nil {
			return show(err)
		}
		defer func() { out += "; " + show(tx.Rollback(ctx)) }()
		return run(ctx, tx)
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			ctx := f.ctx(t, first) // for pgx too, which does not care
			want := c.run(ctx, plain)
			wantLines(t, "pgx itself", c.run(ctx, plain), want)
			for _, use := range []string{"described", "named", "warm"} {
				wantLines(t, use, c.run(ctx, db), want)
			}
			if !c.warmOnly {
				wantLines(t, "cold for the tenant", without(second, c.run(f.ctx(t, second), db)), without(first, want))
			}
			if c.notInTx {
				return
			}
			want = inTx(ctx, plain, c.run)
			wantLines(t, "in a transaction", inTx(ctx, db, c.run), want)
			if !c.warmOnly {
				wantLines(t, "in a transaction, cold for the tenant", without(third, inTx(f.ctx(t, third), db, c.run)), without(first, want))
			}
		})
	}
	if n := db.Stat().InUse; n != 0 {
		t.Errorf("%d connections are still leased", n)
	}
	for i, tn := range f.tenants {
		mustOwn(t, f.ctx(t, i), db, tn)
	}
}

func wantLines(t *testing.T, what, got, want string) {
	t.Helper()
	if diff := cmp.Diff(strings.Split(want, "\n"), strings.Split(got, "\n")); diff != "" {
		t.Errorf("%s, pgx - and ours +:\n%s", what, diff)
	}
}

const parityTables = `
	CREATE TABLE notes (
		id int PRIMARY KEY,
		title varchar(20) NOT NULL CHECK (title <> 'bad'),
		price numeric(10, 2),
		tags text[] NOT NULL DEFAULT '{a,"b c"}',
		body jsonb,
		at timestamptz NOT NULL DEFAULT '2026-03-04 05:06:07.89+00'
	);
	INSERT INTO notes (id, title, price, body) VALUES (1, 'one', 1.50, '{"k": [1, null]}'), (2, 'two', NULL, NULL), (3, 'three', 3, '7');
	CREATE TABLE links (id int PRIMARY KEY, note int REFERENCES notes);
	CREATE VIEW cheap AS SELECT id, title AS name FROM notes WHERE price < 2;
	CREATE TABLE slow (id int CHECK (pg_sleep(60) IS NOT NULL));
	CREATE FUNCTION fail() RETURNS int LANGUAGE plpgsql AS
		$$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = 'P9999', DETAIL = 'a detail', HINT = 'a hint', COLUMN = 'c', CONSTRAINT = 'k'; END $$;`

// asking makes cases of statements that are read as pgx decodes them by itself.
func asking(queries ...string) (cases []parityCase) {
	for _, sql := range queries {
		cases = append(cases, parityCase{name: "ask " + sql, run: func(ctx context.Context, db verbs) string { return readAll(ctx, db, sql) }})
	}
	return cases
}

// apart runs do in a savepoint if db is a transaction, so that its error is its own.
func apart(ctx context.Context, db verbs, do func(db verbs) error) error {
	if _, ok := db.(pgx.Tx); !ok {
		return do(db)
	}
	return pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error { return do(tx) })
}

// doing makes cases of statements of which the tag is shown, from Exec and from Query. Notes from number 10 on are made before and
// dropped after.
func doing(statements ...string) (cases []parityCase) {
	for _, sql := range statements {
		cases = append(cases, parityCase{name: "do " + sql, run: func(ctx context.Context, db verbs) string {
			const undo = "DELETE FROM notes WHERE id >= 10"
			_, err := db.Exec(ctx, "INSERT INTO notes (id, title) VALUES (90, 'nine'), (91, 'ten')")
			out := show(err)
			err = apart(ctx, db, func(db verbs) error {
				tag, err := db.Exec(ctx, sql)
				out += show(err, tag.String(), tag.RowsAffected(), tag.Insert(), tag.Update(), tag.Delete(), tag.Select())
				return err
			})
			_, undoErr := db.Exec(ctx, undo)
			out += show(err) + show(undoErr)
			_ = apart(ctx, db, func(db verbs) error {
				rows, _ := db.Query(ctx, sql)
				rows.Close()
				out += show(rows.Err(), rows.CommandTag().String())
				return rows.Err()
			})
			_, undoErr = db.Exec(ctx, undo)
			return out + show(undoErr)
		}})
	}
	return cases
}

func TestTagsAreThoseOfPgx(t *testing.T) {
	t.Parallel()
	checkParity(t, doing(
		"INSERT INTO notes (id, title) VALUES (10, 'x')", "INSERT INTO notes (id, title) VALUES (10, 'x'), (11, 'y') RETURNING id",
		"INSERT INTO notes SELECT * FROM notes WHERE false", "INSERT INTO notes (id, title) VALUES (1, 'x') ON CONFLICT DO NOTHING",
		"UPDATE notes SET title = title", "UPDATE notes SET title = 'z' WHERE id < 0", "DELETE FROM notes WHERE id >= 10",
		"SELECT * FROM notes", "SELECT FROM notes", "TABLE links", "VALUES (1), (2)",
		"WITH d AS (DELETE FROM notes WHERE id > 10 RETURNING id) SELECT * FROM d",
		"MERGE INTO notes n USING items i ON n.id = i.id + 89 WHEN MATCHED THEN DELETE", "SHOW work_mem", "", "-- nothing", "/* nothing */ ;",
		"EXPLAIN (COSTS OFF) DELETE FROM notes", "SELECT 1/0",
	))
}

// columns shows the columns of a result, without the format, which is chosen for speed.
func columns(ctx context.Context, q querier, sql string, args ...any) string {
	rows, err := q.Query(ctx, sql, args...)
	if err != nil {
		return show(err)
	}
	fields := slices.Clone(rows.FieldDescriptions())
	rows.Close()
	for i := range fields {
		fields[i].Format = 0
	}
	return show(rows.Err(), fields, rows.CommandTag().String())
}

func TestColumnsAreThoseOfPgx(t *testing.T) {
	t.Parallel()
	var cases []parityCase
	for _, sql := range []string{
		"SELECT * FROM notes", "SELECT id AS number, title, price * 2 FROM notes", "SELECT FROM notes", "SELECT n.*, l.* FROM notes n, links l",
		"SELECT tableoid, ctid, xmin IS NULL FROM notes", "SELECT * FROM cheap", "SELECT NULL, 1, 'x', 1.5, now(), ARRAY[1], ROW(1, 'a')",
		"SELECT id AS a, id AS a FROM notes", "UPDATE notes SET title = 'one' WHERE id = 1 RETURNING title, price", "SELECT mood, owner FROM items",
		"SELECT ''::varchar(7), 1::numeric(7, 3), 'x'::char(3), '1'::bit(4), 'x'::name, B'1'", "UPDATE links SET note = note",
		"SELECT $1::int AS a, $1::text AS \"B c\"", "SHOW work_mem", "EXPLAIN SELECT 1",
	} {
		cases = append(cases, parityCase{name: sql, warmOnly: true, run: func(ctx context.Context, db verbs) string {
			if len(sql) > 8 && sql[7] == '$' {
				return columns(ctx, db, sql, "7")
			}
			return columns(ctx, db, sql)
		}})
	}
	checkParity(t, cases)
}

type note struct {
	ID    int
	Title string
	Price *float64
}

// collecting shows what one of pgx's helpers makes of a query.
func collecting[T any](name, sql string, collect func(pgx.Rows, pgx.RowToFunc[T]) (T, error), fn pgx.RowToFunc[T]) parityCase {
	return parityCase{name: name + " of " + sql, run: func(ctx context.Context, db verbs) string {
		rows, err := db.Query(ctx, sql)
		if err != nil {
			return show(err)
		}
		v, err := collect(rows, fn)
		return show(err, v, rows.CommandTag().String())
	}}
}

// all is pgx.CollectRows as a function to one value.
func all[T any](fn pgx.RowToFunc[T]) func(pgx.Rows, pgx.RowToFunc[string]) (string, error) {
	return func(rows pgx.Rows, _ pgx.RowToFunc[string]) (string, error) {
		values, err := pgx.CollectRows(rows, fn)
		return fmt.Sprintf("%T %+v", values, values), err
	}
}

func deref(row pgx.CollectableRow) (note, error) {
	n, err := pgx.RowToAddrOfStructByName[note](row)
	if err != nil {
		return note{}, err
	}
	n.Price = nil // an address, which is never the same
	return *n, nil
}

func TestHelpersDoWhatTheyDoWithPgx(t *testing.T) {
	t.Parallel()
	const ordered = " FROM notes WHERE id < 3 ORDER BY id"
	cases := []parityCase{
		collecting("RowTo", "SELECT id"+ordered, all(pgx.RowTo[int]), nil),
		collecting("RowTo, a wrong type", "SELECT title"+ordered, all(pgx.RowTo[int]), nil),
		collecting("RowTo, two columns", "SELECT id, title"+ordered, all(pgx.RowTo[int]), nil),
		collecting("RowToMap", "SELECT id, title, price, tags, body"+ordered, all(pgx.RowToMap), nil),
		collecting("RowToStructByPos", "SELECT id, title, NULL::float8"+ordered, all(pgx.RowToStructByPos[note]), nil),
		collecting("RowToStructByPos, too few", "SELECT id"+ordered, all(pgx.RowToStructByPos[note]), nil),
		collecting("RowToStructByName", "SELECT title, NULL AS price, id"+ordered, all(pgx.RowToStructByName[note]), nil),
		collecting("RowToStructByName, one missing", "SELECT title, id"+ordered, all(pgx.RowToStructByName[note]), nil),
		collecting("RowToStructByNameLax", "SELECT title, id"+ordered, all(pgx.RowToStructByNameLax[note]), nil),
		collecting("RowToAddrOfStructByName", "SELECT title, price, id"+ordered, all(deref), nil),
		collecting("CollectRows, none", "SELECT id FROM notes WHERE id < 0", all(pgx.RowTo[int]), nil),
		collecting("CollectRows, an error on the way", "SELECT 1 / (2 - id) FROM notes ORDER BY id", all(pgx.RowTo[int]), nil),
		collecting("CollectOneRow", "SELECT id"+ordered, pgx.CollectOneRow[int], pgx.RowTo[int]),
		collecting("CollectOneRow, none", "SELECT id FROM notes WHERE id < 0", pgx.CollectOneRow[int], pgx.RowTo[int]),
		collecting("CollectExactlyOneRow", "SELECT id FROM notes WHERE id = 1", pgx.CollectExactlyOneRow[int], pgx.RowTo[int]),
		collecting("CollectExactlyOneRow, two", "SELECT id"+ordered, pgx.CollectExactlyOneRow[int], pgx.RowTo[int]),
		{name: "ForEachRow", run: func(ctx context.Context, db verbs) string {
			rows, _ := db.Query(ctx, "SELECT id, title FROM notes ORDER BY id")
			var n, sum int
			var title, titles string
			tag, err := pgx.ForEachRow(rows, []any{&n, &title}, func() error {
				sum += n
				titles += title
				return nil
			})
			return show(err, sum, titles, tag.String())
		}},
		{name: "ForEachRow, an error of the caller", run: func(ctx context.Context, db verbs) string {
			rows, _ := db.Query(ctx, "SELECT id FROM notes ORDER BY id")
			var n int
			tag, err := pgx.ForEachRow(rows, []any{&n}, func() error { return errRollback })
			return show(err, n, tag.String())
		}},
		{name: "rows by hand", run: func(ctx context.Context, db verbs) string {
			rows, err := db.Query(ctx, "SELECT id, title FROM notes ORDER BY id")
			if err != nil {
				return show(err)
			}
			var out string
			for rows.Next() {
				var id int
				err := rows.Scan(&id, nil)
				out += show(err, id, len(rows.RawValues()), rows.Err())
			}
			rows.Close()
			_, err = rows.Values()
			return out + show(rows.Err(), rows.CommandTag().String(), rows.Next(), err != nil)
		}},
		{name: "rows closed early", run: func(ctx context.Context, db verbs) string {
			rows, err := db.Query(ctx, "SELECT generate_series(1, 1000)")
			if err != nil {
				return show(err)
			}
			first := rows.Next()
			rows.Close()
			rows.Close()
			return show(rows.Err(), first, rows.Next(), rows.CommandTag().String())
		}},
		{name: "an error of Scan ends the rows", run: func(ctx context.Context, db verbs) string {
			rows, err := db.Query(ctx, "SELECT title FROM notes ORDER BY id")
			if err != nil || !rows.Next() {
				return show(err)
			}
			var n int
			err = rows.Scan(&n)
			return show(err) + show(rows.Err(), rows.Next())
		}},
		{name: "QueryRow of many", run: func(ctx context.Context, db verbs) string {
			var n int
			err := db.QueryRow(ctx, "SELECT generate_series(1, 1000)").Scan(&n)
			return show(err, n)
		}},
		{name: "QueryRow that writes and returns nothing", run: func(ctx context.Context, db verbs) string {
			var n int
			return show(db.QueryRow(ctx, "UPDATE notes SET title = title").Scan(&n))
		}},
	}
	checkParity(t, append(cases, asking("SELECT * FROM notes ORDER BY id", "SELECT ARRAY[[1, 2], [3, 4]]", "SELECT FROM notes")...))
}

// failing makes cases of statements that fail, with everything that the error says.
func failing(statements ...string) (cases []parityCase) {
	for _, sql := range statements {
		cases = append(cases, parityCase{name: sql, run: func(ctx context.Context, db verbs) string {
			detail := func(err error) string {
				var e *pgconn.PgError
				if !errors.As(err, &e) {
					return show(err)
				}
				return fmt.Sprintf("%+v", pgconn.PgError{
					Severity: e.Severity, SeverityUnlocalized: e.SeverityUnlocalized, Code: e.Code, Message: e.Message, Detail: e.Detail, Hint: e.Hint,
					Position: e.Position, Where: e.Where, SchemaName: e.SchemaName, TableName: e.TableName, ColumnName: e.ColumnName,
					DataTypeName: e.DataTypeName, ConstraintName: e.ConstraintName,
				})
			}
			run := func(what func(db verbs) error) string {
				var out string
				err := apart(ctx, db, func(db verbs) error {
					err := what(db)
					out = detail(err)
					return err
				})
				return out + " and " + kind(err) + "\n"
			}
			return run(func(db verbs) error { return second(db.Exec(ctx, sql)) }) +
				run(func(db verbs) error {
					rows, _ := db.Query(ctx, sql)
					_, err := pgx.CollectRows(rows, pgx.RowToMap)
					return err
				}) +
				run(func(db verbs) error { return db.QueryRow(ctx, sql).Scan(nil) })
		}})
	}
	return cases
}

func TestErrorsAreThoseOfPgx(t *testing.T) {
	t.Parallel()
	checkParity(t, failing(
		"SELEC 1", "SELECT 1 +", "SELECT id,\n  nonsense FROM notes", "SELECT * FROM nowhere", "SELECT 'é', nonsense", "SELECT 1/0",
		"SELECT 1 / (3 - id) FROM notes ORDER BY id", "INSERT INTO notes (id, title) VALUES (1, 'again')", "INSERT INTO notes (id) VALUES (9)",
		"INSERT INTO notes (id, title) VALUES (9, 'bad')", "INSERT INTO notes (id, title) VALUES (9, repeat('x', 21))", "INSERT INTO links VALUES (1, 99)",
		"DELETE FROM notes WHERE id = 'x'", "SELECT 'x'::int", "SELECT 2147483647 + 1", "SELECT fail()", "SELECT title + 1 FROM notes", "CREATE TABLE t ()",
		"DROP TABLE notes", "TRUNCATE notes", "SELECT * FROM pg_authid", "SELECT nofunction(1)", "UPDATE cheap SET name = 'bad'", "SELECT (SELECT id FROM notes)",
	))
}

// arguing shows what a statement with arguments gives.
func arguing(name, sql string, args ...any) parityCase {
	return parityCase{name: name, run: func(ctx context.Context, db verbs) string {
		var out string
		err := apart(ctx, db, func(db verbs) error {
			out = readAll(ctx, db, sql, args...)
			if out[:11] != "error: none" {
				return errRollback // what failed has to be undone
			}
			return nil
		})
		return out + "; " + show(err)
	}}
}

func TestOptionsMeanWhatTheyMeanToPgx(t *testing.T) {
	t.Parallel()
	const sql = "SELECT id, title, price, tags, body, at FROM notes WHERE id <= $1 ORDER BY id"
	cases := []parityCase{
		arguing("NamedArgs", "SELECT @a::int, @b::text, '@a', @a::int", pgx.NamedArgs{"a": 1, "b": "x", "unused": 3}),
		arguing("NamedArgs, one missing", "SELECT @a::int, @b::text", pgx.NamedArgs{"a": 1}),
		arguing("StrictNamedArgs", "SELECT @a::int, @b::text", pgx.StrictNamedArgs{"a": 1, "b": nil}),
		arguing("StrictNamedArgs, one missing", "SELECT @a::int, @b::text", pgx.StrictNamedArgs{"a": 1}),
		arguing("StrictNamedArgs, one too many", "SELECT @a::int", pgx.StrictNamedArgs{"a": 1, "b": 2}),
		arguing("NamedArgs, a wrong type", "SELECT @a::int", pgx.NamedArgs{"a": "x"}),
		arguing("StructArgs", "SELECT @id::int, @title::text", pgx.StructArgs(note{ID: 7, Title: "seven"})),
		arguing("formats, text", sql, pgx.QueryResultFormats{pgx.TextFormatCode}, 3),
		arguing("formats, one for each", sql, pgx.QueryResultFormats{1, 0, 1, 0, 1, 1}, 3),
		arguing("formats by OID", sql, pgx.QueryResultFormatsByOID{23: 1, 1184: 0}, 3),
		arguing("formats and mode", sql, pgx.QueryExecModeCacheDescribe, pgx.QueryResultFormats{0}, 3),
		arguing("too few arguments", sql), arguing("too many arguments", sql, 1, 2), arguing("no parameters at all", "SELECT 1", 1),
		arguing("a parameter that means nothing", "SELECT $1", "x"), arguing("the same one twice", "SELECT $1::int + $1::int", 2),
		arguing("a gap", "SELECT $2::int", 1, 2), arguing("null where none may be", "INSERT INTO notes (id, title) VALUES ($1, $2)", 9, nil),
	}
	for _, mode := range []pgx.QueryExecMode{
		pgx.QueryExecModeCacheStatement, pgx.QueryExecModeCacheDescribe, pgx.QueryExecModeDescribeExec, pgx.QueryExecModeExec,
	} {
		cases = append(cases,
			arguing(mode.String(), sql, mode, 3), arguing(mode.String()+", text", "SELECT $1::text, $2::text[]", mode, "x", []string{"a", `b"`}),
			arguing(mode.String()+", a wrong type", sql, mode, "x"), arguing(mode.String()+", a null", "SELECT $1::int", mode, nil),
			arguing(mode.String()+", no arguments", "SELECT 1", mode), arguing(mode.String()+", an error", "SELECT 1/$1::int", mode, 0),
			arguing(mode.String()+", names", "SELECT @a::int", mode, pgx.NamedArgs{"a": 1}),
			arguing(mode.String()+", syntax", "SELECT $1::int +", mode, 1), arguing(mode.String()+", types of its own", "SELECT mood FROM items WHERE mood = $1", mode, "calm"),
		)
	}
	checkParity(t, cases)
}

// What the server says on the way comes out where pgx's caller expects it.
func TestNoticesReachTheCallersHandler(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	var notices []string
	cc := f.connConfig(t)
	cc.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) { notices = append(notices, n.Code+" "+n.Message) }
	db := f.open(t, tenantdb.Config{ConnConfig: cc, MaxConns: 1})
	err := db.InTx(f.ctx(t, 0), func(tx pgx.Tx) error {
		for range 2 {
			if _, err := tx.Exec(f.ctx(t, 0), "DO $$ BEGIN RAISE NOTICE 'hello'; END $$"); err != nil {
				return err
			}
		}
		return nil
	})
	if want := []string{"00000 hello", "00000 hello"}; err != nil || !slices.Equal(notices, want) {
		t.Errorf("notices %q, %v; want %q", notices, err, want)
	}
	if _, err := db.Exec(tenant.NewContext(t.Context(), f.tenants[0]), "SELECT 1"); err != nil {
		t.Error(err)
	}
}
