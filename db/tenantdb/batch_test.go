package tenantdb_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
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
