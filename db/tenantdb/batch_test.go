package tenantdb_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/leasehold-go/leasehold/db/tenantdb"
)

// batching sends a batch and shows what use makes of its results, what Close says, twice, and what is in the table after.
func batching(name string, queue func(b *pgx.Batch, note func(string)), use func(br pgx.BatchResults, note func(string))) parityCase {
	return parityCase{name: name, run: func(ctx context.Context, db verbs) string {
		var out string
		note := func(s string) { out += "\n" + s }
		var b pgx.Batch
		queue(&b, note)
		err := apart(ctx, db, func(db verbs) error {
			br := db.SendBatch(ctx, &b)
			if use != nil {
				use(br, note)
			}
			err := br.Close()
			note("closed: " + show(err))
			note("closed again: " + show(br.Close()))
			if _, execErr := br.Exec(); execErr == nil {
				note("a closed batch answers")
			}
			return err
		})
		note(show(err))
		note(readAll(ctx, db, "SELECT id, note FROM links ORDER BY id"))
		_, err = db.Exec(ctx, "DELETE FROM links")
		note(show(err))
		return out
	}}
}

func alone(c parityCase) parityCase {
	c.notInTx = true
	return c
}

// queueAll queues statements without arguments or callbacks.
func queueAll(statements ...string) func(b *pgx.Batch, note func(string)) {
	return func(b *pgx.Batch, _ func(string)) {
		for _, sql := range statements {
			b.Queue(sql)
		}
	}
}

func execAll(n int) func(br pgx.BatchResults, note func(string)) {
	return func(br pgx.BatchResults, note func(string)) {
		for range n {
			tag, err := br.Exec()
			note(show(err, tag.String()))
		}
	}
}

const (
	link    = "INSERT INTO links VALUES (1, 1)"
	another = "INSERT INTO links VALUES (2, 2)"
)

func batchCases() []parityCase {
	var (
		onRow   = func(row pgx.Row) error { var n int; return row.Scan(&n) }
		failing = errors.New("the caller's own")
	)
	return []parityCase{
		batching("nothing", queueAll(), nil),
		batching("read by none", queueAll(link, "SELECT 1", another), nil),
		batching("read in order", queueAll(link, "UPDATE links SET note = 2", "SELECT 1", "-- nothing"), execAll(4)),
		batching("read past the end", queueAll(link), execAll(2)),
		batching("an error in the middle", queueAll(link, "SELECT 1 / (id - 2) FROM notes", another), execAll(3)),
		batching("a syntax error in the middle", queueAll(link, "SELEC", another), execAll(1)),
		batching("an error that nobody reads", queueAll(link, "SELECT 1/0", another), nil),
		batching("a violation at the end", queueAll(link, "INSERT INTO links VALUES (3, 99)"), execAll(2)),
		batching("the same statement often", func(b *pgx.Batch, _ func(string)) {
			for i := range 20 {
				b.Queue("INSERT INTO links VALUES ($1, $2)", i, 1+i%3)
			}
		}, nil),
		alone(batching("too few arguments", func(b *pgx.Batch, _ func(string)) {
			b.Queue(link)
			b.Queue("SELECT $1::int")
		}, nil)),
		alone(batching("an argument that cannot be encoded", func(b *pgx.Batch, _ func(string)) {
			b.Queue(link)
			b.Queue("SELECT $1::int", struct{}{})
		}, nil)),
		batching("names", func(b *pgx.Batch, note func(string)) {
			b.Queue("INSERT INTO links VALUES (@id, @note)", pgx.NamedArgs{"id": 5, "note": 1})
			b.Queue("SELECT @id::int", pgx.StrictNamedArgs{"id": 6}).QueryRow(func(row pgx.Row) error {
				var n int
				err := row.Scan(&n)
				note(show(err, n))
				return err
			})
		}, nil),
		batching("mixed ways to read", queueAll("SELECT id FROM notes ORDER BY id", "SELECT 7", link, "SELECT id FROM notes WHERE id < 0", "SELECT 8, 9"),
			func(br pgx.BatchResults, note func(string)) {
				rows, err := br.Query()
				note(show(err, rows.Next())) // and leave the rest
				rows.Close()
				note(show(rows.Err(), rows.CommandTag().String(), len(rows.FieldDescriptions()), rows.FieldDescriptions()[0].Name))
				var n int
				note(show(br.QueryRow().Scan(&n), n))
				execAll(1)(br, note)
				note(show(br.QueryRow().Scan(&n), n))
				rows, _ = br.Query()
				values, err := pgx.CollectRows(rows, pgx.RowToMap)
				note(show(err, values))
			}),
		batching("an error of Scan", queueAll("SELECT 'x'", link), func(br pgx.BatchResults, note func(string)) {
			note(show(onRow(br.QueryRow())))
			_, err := br.Exec()
			note(fmt.Sprint("it goes on: ", err == nil))
		}),
		batching("Query of what fails", queueAll("SELECT 1 / (2 - id) FROM notes ORDER BY id", link), func(br pgx.BatchResults, note func(string)) {
			rows, _ := br.Query()
			values, err := pgx.CollectRows(rows, pgx.RowTo[int])
			note(show(err, len(values)))
			_, err = br.Exec()
			note(show(err))
		}),
		batching("callbacks", func(b *pgx.Batch, note func(string)) {
			b.Queue(link).Exec(func(tag pgconn.CommandTag) error { note(tag.String()); return nil })
			b.Queue("SELECT id FROM notes ORDER BY id").Query(func(rows pgx.Rows) error {
				ids, err := pgx.CollectRows(rows, pgx.RowTo[int])
				note(show(err, ids))
				return err
			})
			b.Queue("SELECT id FROM notes ORDER BY id").Query(func(rows pgx.Rows) error { note(fmt.Sprint(rows.Next())); return nil })
			b.Queue("SELECT 7").QueryRow(func(row pgx.Row) error { err := onRow(row); note(show(err)); return err })
			b.Queue(another)
		}, nil),
		batching("callbacks after some results were read", func(b *pgx.Batch, note func(string)) {
			b.Queue(link).Exec(func(pgconn.CommandTag) error { note("never"); return nil })
			b.Queue("SELECT 7").QueryRow(func(row pgx.Row) error { err := onRow(row); note(show(err)); return err })
		}, execAll(1)),
		batching("a callback that fails", func(b *pgx.Batch, note func(string)) {
			b.Queue(link).Exec(func(pgconn.CommandTag) error { return failing })
			b.Queue(another).Exec(func(pgconn.CommandTag) error { note("never"); return nil })
		}, nil),
		batching("a callback that finds no row", func(b *pgx.Batch, note func(string)) {
			b.Queue("SELECT 1 WHERE false").QueryRow(onRow)
			b.Queue(another).Exec(func(pgconn.CommandTag) error { note("never"); return nil })
		}, nil),
		batching("a callback of a query that fails", func(b *pgx.Batch, note func(string)) {
			b.Queue("SELECT 1/0").Exec(func(pgconn.CommandTag) error { note("never"); return nil })
			b.Queue("SELECT 1/0").Query(func(pgx.Rows) error { note("never"); return nil })
		}, nil),
	}
}

func TestBatchesDoWhatTheyDoWithPgx(t *testing.T) {
	t.Parallel()
	checkParity(t, batchCases())
}

// copying copies rows and shows the outcome and what is in the table after.
func copying(name string, table pgx.Identifier, columns []string, source func() pgx.CopyFromSource) parityCase {
	return parityCase{name: name, run: func(ctx context.Context, db verbs) string {
		var out string
		err := apart(ctx, db, func(db verbs) error {
			n, err := db.CopyFrom(ctx, table, columns, source())
			out = show(err, n)
			return err
		})
		out += "\n" + show(err) + "\n" + readAll(ctx, db, "SELECT id, note FROM links ORDER BY id") +
			readAll(ctx, db, "SELECT id, title, price, tags, body FROM notes WHERE id > 9 ORDER BY id") + readAll(ctx, db, "SELECT id, mood FROM items WHERE id > 9")
		for _, undo := range []string{"DELETE FROM links", "DELETE FROM notes WHERE id > 9", "DELETE FROM items WHERE id > 9"} {
			_, err := db.Exec(ctx, undo)
			out += show(err)
		}
		return out
	}}
}

func TestCopyDoesWhatItDoesWithPgx(t *testing.T) {
	t.Parallel()
	rows := func(rows ...[]any) func() pgx.CopyFromSource {
		return func() pgx.CopyFromSource { return pgx.CopyFromRows(rows) }
	}
	links, ids := pgx.Identifier{"links"}, []string{"id", "note"}
	checkParity(t, []parityCase{
		copying("rows", links, ids, rows([]any{1, 1}, []any{2, nil}, []any{"3", int64(3)})),
		copying("no rows", links, ids, rows()),
		copying("a slice", links, ids, func() pgx.CopyFromSource {
			return pgx.CopyFromSlice(100, func(i int) ([]any, error) { return []any{i, 1 + i%3}, nil })
		}),
		copying("an error of the source", links, ids, func() pgx.CopyFromSource {
			return pgx.CopyFromSlice(3, func(i int) ([]any, error) { return []any{i, 1}, map[int]error{2: errRollback}[i] })
		}),
		copying("a value that cannot be encoded", links, ids, rows([]any{1, 1}, []any{2, "two"})),
		copying("a row that is too short", links, ids, rows([]any{1, 1}, []any{2})),
		copying("a row that exists", links, ids, rows([]any{1, 1}, []any{1, 2})),
		copying("a reference to nothing", links, ids, rows([]any{1, 99})),
		copying("no such table", pgx.Identifier{"nowhere"}, ids, rows([]any{1, 1})),
		copying("no such column", links, []string{"id", "nothing"}, rows([]any{1, 1})),
		copying("no columns", links, nil, rows([]any{1, 1})),
		copying("many types", pgx.Identifier{"notes"}, []string{"id", "title", "price", "tags", "body"},
			rows([]any{10, "ten", "1.25", []string{"x", "y z"}, map[string]any{"a": []int{1}}}, []any{11, cents(750), 7.5, []string{}, nil})),
		copying("a type of the tenant's own", pgx.Identifier{"items"}, []string{"id", "mood"}, rows([]any{10, "calm"})),
		copying("no value of it", pgx.Identifier{"items"}, []string{"id", "mood"}, rows([]any{10, "never"})),
	})
}

// The flight in pgconn's buffer is written again with the Terminate of a connection that pgconn gives up.
func TestABrokenLargeBatchIsNotSentTwice(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	f.admin(t, 0, "CREATE SEQUENCE runs; GRANT ALL ON SEQUENCE runs TO "+f.tenants[0].Placement.Role)
	cc := f.connConfig(t)
	cc.BuildFrontend = func(r io.Reader, w io.Writer) *pgproto3.Frontend {
		fe := pgproto3.NewFrontend(r, w)
		fe.SetMaxBodyLen(1 << 20)
		return fe
	}
	db := f.open(t, tenantdb.Config{ConnConfig: cc, MaxConns: 1})
	var b pgx.Batch
	b.Queue("INSERT INTO items (id) SELECT 1000 + nextval('runs')")
	b.Queue("SELECT repeat('x', 60000000)") // the client stops reading here
	for range 400 {
		b.Queue("SELECT length($1::text)", strings.Repeat("y", 100_000))
	}
	if err := db.SendBatch(f.ctx(t, 0), &b).Close(); err == nil {
		t.Fatal("a message that is too long was read")
	}
	super := superConn(t, f)
	for alive := true; alive; { // until the server has done with the connection that was given up
		err := super.QueryRow(t.Context(), "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE usename = $1)", f.login).Scan(&alive)
		if err != nil {
			t.Fatal(err)
		}
	}
	if got := one(f.ctx(t, 0), db, "SELECT last_value, (SELECT count(*) FROM items WHERE id > 1000) FROM runs"); got != "1 0" {
		t.Errorf("runs, committed rows: %s; want 1 0", got)
	}
}

// With -race: the background write and pgconn's Close share a buffer.
func TestACancelledLargeBatchRacesWithNothing(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	db := f.open(t, tenantdb.Config{MaxConns: 1})
	for range 3 {
		var b pgx.Batch
		b.Queue("SELECT pg_sleep(1)")
		for range 300 {
			b.Queue("SELECT length($1::text)", strings.Repeat("y", 100_000))
		}
		ctx, cancel := context.WithTimeout(f.ctx(t, 0), 200*time.Millisecond)
		_ = db.SendBatch(ctx, &b).Close()
		cancel()
	}
}

// sqlc's :batchexec ignores what Close returns.
func TestTheLastResultOfABatchKnowsOfTheCommit(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	db := f.open(t, tenantdb.Config{MaxConns: 1})
	for round := range 2 {
		var b pgx.Batch
		for i := range 3 {
			b.Queue("INSERT INTO items (id, parent) VALUES ($1, 999)", 200+i)
		}
		br := db.SendBatch(f.ctx(t, 0), &b)
		var errs error
		for range 3 {
			_, err := br.Exec()
			errs = errors.Join(errs, err)
		}
		_ = br.Close()
		if errs == nil {
			t.Errorf("round %d: every result was a success; nothing was committed", round)
		}
	}
}

// A COPY that nobody reads waits for data.
func TestACopyInABatchDoesNotWaitForData(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	db := f.open(t, tenantdb.Config{MaxConns: 1})
	ctx, cancel := context.WithTimeout(f.ctx(t, 0), time.Minute)
	defer cancel()
	var b pgx.Batch
	b.Queue("SELECT 1").QueryRow(func(pgx.Row) error { return errors.New("enough") })
	b.Queue("COPY items FROM STDIN")
	if err := db.SendBatch(ctx, &b).Close(); ctx.Err() != nil {
		t.Errorf("only the deadline ended the call: %v", err)
	}
}

// Names that a broken-off batch has given are never closed.
func TestABrokenOffBatchLeavesNoNames(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	db := f.open(t, tenantdb.Config{MaxConns: 1, StatementCacheSize: 4})
	for range 40 {
		var b pgx.Batch
		b.Queue("SELECT 1").QueryRow(func(pgx.Row) error { return errors.New("enough") })
		b.Queue("SELECT 2 FROM items")
		b.Queue("SELECT 2 FROM items")
		_ = db.SendBatch(f.ctx(t, 0), &b).Close()
	}
	_, _ = db.Exec(f.ctx(t, 0), "SELECT 1")
	var named int
	err := db.QueryRow(f.ctx(t, 0), "SELECT count(*) FROM pg_prepared_statements WHERE name <> 'lh_scope'").Scan(&named)
	if err != nil || named > 5 {
		t.Errorf("%d named statements, %v; want at most 5", named, err)
	}
}

func TestABatchsErrorComesInItsPlace(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	db := f.open(t, tenantdb.Config{MaxConns: 1})
	for range 2 { // new to the connection, and known to it
		for i := range f.tenants {
			var b pgx.Batch
			b.Queue("SELECT 7")
			b.Queue("SELECT 1/$1::int", 0)
			results := db.SendBatch(f.ctx(t, i), &b)
			var n int
			if err := results.QueryRow().Scan(&n); err != nil || n != 7 {
				t.Errorf("tenant %d: the first result is %d, %v; want 7", i, n, err)
			}
			wantCode(t, second(results.Exec()), "22012")
			wantCode(t, results.Close(), "22012")
		}
	}
}
