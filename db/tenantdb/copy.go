package tenantdb

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// CopyFrom copies rows into a table of the tenant through COPY, in a transaction of its own: all of them or none. It
// returns the number of rows. An unqualified table name is looked up in the tenant's schema. It takes four round trips.
func (h Handle) CopyFrom(ctx context.Context, table pgx.Identifier, columns []string, rows pgx.CopyFromSource) (int64, error) {
	return copyFrom(ctx, h, table, columns, rows)
}

// beginner starts transactions.
type beginner interface {
	Begin(ctx context.Context) (pgx.Tx, error)
}

// copyFrom copies rows in a transaction of its own. For a tracer it ends with the commit.
func copyFrom(ctx context.Context, b beginner, table pgx.Identifier, columns []string, rows pgx.CopyFromSource) (n int64, err error) {
	begun, err := b.Begin(ctx)
	if err != nil {
		return 0, err
	}
	tx := begun.(*Tx)
	ctx, done := tx.traceCopy(ctx, table, columns)
	defer func() { done(n, err) }()
	err = pgx.BeginFunc(ctx, started{tx}, func(pgx.Tx) error {
		n, err = tx.copyFrom(ctx, table, columns, rows)
		return err
	})
	if err != nil {
		return 0, err
	}
	return n, nil
}

// started is a transaction that has begun.
type started struct{ tx *Tx }

func (s started) Begin(context.Context) (pgx.Tx, error) { return s.tx, nil }

// CopyFrom is Handle.CopyFrom inside the transaction.
func (tx *Tx) CopyFrom(ctx context.Context, table pgx.Identifier, columns []string, rows pgx.CopyFromSource) (n int64, err error) {
	if err := tx.usable(ctx); err != nil {
		return 0, err
	}
	ctx, done := tx.traceCopy(ctx, table, columns)
	defer func() { done(n, err) }()
	return tx.copyFrom(ctx, table, columns, rows)
}

// traceCopy tells the tracer of a copy, and returns how to tell of its end.
func (tx *Tx) traceCopy(ctx context.Context, table pgx.Identifier, columns []string) (context.Context, func(n int64, err error)) {
	c := tx.call(ctx)
	tr, conn := c.lease.e.tracer.copy, c.lease.conn
	if tr == nil {
		return c.ctx, func(int64, error) {}
	}
	ctx = tr.TraceCopyFromStart(c.ctx, conn, pgx.TraceCopyFromStartData{TableName: table, ColumnNames: columns})
	return ctx, func(n int64, err error) {
		end := pgx.TraceCopyFromEndData{Err: err}
		if err == nil {
			end.CommandTag = pgconn.NewCommandTag(fmt.Sprintf("COPY %d", n))
		}
		tr.TraceCopyFromEnd(ctx, conn, end)
	}
}

func (tx *Tx) copyFrom(ctx context.Context, table pgx.Identifier, columns []string, rows pgx.CopyFromSource) (int64, error) {
	c := tx.call(ctx)
	c.lease.flying = true // for a source that asks the same transaction
	n, err := tx.inner.CopyFrom(ctx, table, columns, rows)
	c.lease.flying = false
	var pgErr *pgconn.PgError
	if err != nil && !errors.As(err, &pgErr) { // pgx may say only that its pipe or its connection is closed
		err = becauseOf(ctx, err)
	}
	if err = c.settle(err); errors.Is(err, ErrRefused) {
		n = 0
	}
	return n, err
}
