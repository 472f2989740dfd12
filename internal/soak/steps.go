package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// A step is a piece of work that succeeds in any place: by itself, in a transaction, in a savepoint, in a session.
type step func(c *call, ctx context.Context, q querier) error

// steps are those that transactions are made of.
var steps = []step{
	(*call).read, (*call).list, (*call).closeEarly, (*call).byMood, (*call).whoAmI,
	(*call).increment, (*call).increment, (*call).insert, (*call).batch, (*call).copyIn,
}

const (
	readSQL   = "SELECT owner, mood FROM items WHERE id = $1"
	listSQL   = "SELECT id, owner, mood, qty FROM items WHERE id <= $1 ORDER BY id"
	streamSQL = "SELECT i.owner, repeat(i.owner, 40) FROM items i, generate_series(1, 40) WHERE i.id <= $1"
	slowSQL   = "SELECT owner, mood FROM items, pg_sleep($2) WHERE id = $1"
	moodSQL   = "SELECT owner, mood FROM items WHERE mood = $1 AND id = $2"
	whoSQL    = `SELECT current_user::text, current_schema()::text, coalesce(current_setting('app.note', true), ''),
		current_setting('statement_timeout')`
	incrementSQL = "UPDATE items SET qty = qty + $1 WHERE id = $2 AND owner = $3"
	returningSQL = "UPDATE items SET qty = qty + 1 WHERE id = $1 RETURNING owner, mood"
	insertSQL    = "INSERT INTO items (id, owner, mood, qty, parent) VALUES ($1, $2, $3, $4, $5) RETURNING owner, mood"
)

// readRow reads one row of whom and what.
func (c *call) readRow(row pgx.Row) error {
	var owner, mood string
	if err := row.Scan(&owner, &mood); err != nil {
		return err
	}
	return c.checkRow(owner, mood)
}

func (c *call) read(ctx context.Context, q querier) error {
	return c.readRow(q.QueryRow(ctx, readSQL, c.id()))
}

// list reads all standing rows.
func (c *call) list(ctx context.Context, q querier) error {
	rows, err := q.Query(ctx, listSQL, c.soak.standing)
	if err != nil {
		return err
	}
	var id int
	var owner, mood string
	var qty int64
	n := 0
	_, err = pgx.ForEachRow(rows, []any{&id, &owner, &mood, &qty}, func() error {
		if n++; n != id {
			return fmt.Errorf("%w: id %d in place %d", errShort, id, n)
		}
		return c.checkRow(owner, mood)
	})
	if err == nil && n != c.soak.standing {
		return fmt.Errorf("%w: %d of %d", errShort, n, c.soak.standing)
	}
	return err
}

// closeEarly reads the head of a large result.
func (c *call) closeEarly(ctx context.Context, q querier) error {
	rows, err := q.Query(ctx, streamSQL, c.soak.standing)
	if err != nil {
		return err
	}
	defer rows.Close()
	for range c.rng.IntN(4) {
		if !rows.Next() {
			break
		}
		var owner string
		if err := rows.Scan(&owner, nil); err != nil {
			return err
		}
		if err := c.checkOwner(owner); err != nil {
			return err
		}
	}
	rows.Close()
	return rows.Err()
}

// slow reads a row that takes its time, to be hit by what happens meanwhile.
func (c *call) slow(ctx context.Context, q querier) error {
	return c.readRow(q.QueryRow(ctx, slowSQL, c.id(), 0.001))
}

// byMood looks for a row by a value that exists in this tenant's enum only.
func (c *call) byMood(ctx context.Context, q querier) error {
	return c.readRow(q.QueryRow(ctx, moodSQL, c.house.label, c.id()))
}

// whoAmI checks the scope itself, and that no setting of an earlier transaction is left.
func (c *call) whoAmI(ctx context.Context, q querier) error {
	var user, note, timeout string
	var schema pgtype.Text
	err := q.QueryRow(ctx, whoSQL).Scan(&user, &schema, &note, &timeout)
	nowhere := !schema.Valid || strings.HasPrefix(schema.String, "pg_temp") || schema.String == c.house.awayName()
	switch {
	case sqlstate(err) == lackOfPrivilege: // with no schema before it, pg_temp is the first
		return fmt.Errorf("%w: %w", errNowhere, err)
	case err != nil:
		return err
	case user != c.house.Placement.Role:
		return c.house.wrong("current_user", user)
	case !nowhere && schema.String != c.house.Placement.Schema:
		return c.house.wrong("current_schema", schema.String)
	case note != "" && (note != string(c.house.Slug) || !c.dirty):
		return c.house.wrong("app.note", note)
	case timeout != "0" && !c.dirty:
		return c.house.wrong("statement_timeout", timeout)
	case nowhere:
		return errNowhere
	}
	return nil
}

// increment adds one to a row, in one of two ways.
func (c *call) increment(ctx context.Context, q querier) error {
	c.intend(1)
	if c.rng.IntN(2) == 0 {
		return c.readRow(q.QueryRow(ctx, returningSQL, c.id()))
	}
	tag, err := q.Exec(ctx, incrementSQL, 1, c.id(), string(c.house.Slug))
	if err != nil {
		return err
	}
	if tag.RowsAffected() != 1 {
		return c.house.wrong("an update", tag.String())
	}
	return nil
}

// newRow returns the arguments of insertSQL for a row with a new id.
func (c *call) newRow() []any {
	id := c.house.newIDs(1)
	c.intend(0, block{id, 1})
	var parent *int
	if c.rng.IntN(2) == 0 {
		p := c.id()
		parent = &p
	}
	return []any{id, string(c.house.Slug), c.house.label, 1, parent}
}

func (c *call) insert(ctx context.Context, q querier) error {
	return c.readRow(q.QueryRow(ctx, insertSQL, c.newRow()...))
}

// batch sends reads and writes together. Its results are read one by one, by callbacks, in part, or not at all.
func (c *call) batch(ctx context.Context, q querier) error {
	var b pgx.Batch
	byCallback := c.rng.IntN(2) == 0
	for range 1 + c.rng.IntN(3) {
		qq := c.queueOne(&b)
		if byCallback {
			qq.QueryRow(c.readRow)
		}
	}
	br := q.SendBatch(ctx, &b)
	if !byCallback {
		for range c.rng.IntN(b.Len() + 1) {
			if err := c.readRow(br.QueryRow()); err != nil {
				_ = br.Close() // the first error is the one to tell
				return err
			}
		}
	}
	return br.Close()
}

// queueOne queues one statement that returns whom and what.
func (c *call) queueOne(b *pgx.Batch) *pgx.QueuedQuery {
	switch c.rng.IntN(4) {
	case 0:
		return b.Queue(moodSQL, c.house.label, c.id())
	case 1:
		return b.Queue(insertSQL, c.newRow()...)
	case 2:
		c.intend(1)
		return b.Queue(returningSQL, c.id())
	}
	return b.Queue(readSQL, c.id())
}

var (
	itemsTable   = pgx.Identifier{"items"}
	itemsColumns = []string{"id", "owner", "qty", "parent"}
)

// copyIn copies some rows in. The enum has its default: pgx copies no type that it does not know.
func (c *call) copyIn(ctx context.Context, q querier) error {
	n := int32(1 + c.rng.IntN(10))
	first := c.house.newIDs(n)
	c.intend(0, block{first, n})
	return c.copyRows(ctx, q, first, n, nil)
}

func (c *call) copyRows(ctx context.Context, q querier, first, n int32, parent *int) error {
	copied, err := q.CopyFrom(ctx, itemsTable, itemsColumns, pgx.CopyFromSlice(int(n), func(i int) ([]any, error) {
		return []any{first + int32(i), string(c.house.Slug), i, parent}, nil
	}))
	if err == nil && copied != int64(n) {
		return fmt.Errorf("%w: %d of %d copied", errShort, copied, n)
	}
	return err
}
