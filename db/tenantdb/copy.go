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

// copyFrom copies rows in a transaction of its own.
func copyFrom(ctx context.Context, b beginner, table pgx.Identifier, columns []string, rows pgx.CopyFromSource) (n int64, err error) {
	err = pgx.BeginFunc(ctx, b, func(tx pgx.Tx) error {
		n, err = tx.CopyFrom(ctx, table, columns, rows)
		return err
	})
	if err != nil {
		return 0, err
	}
	return n, nil
}

// CopyFrom is Handle.CopyFrom inside the transaction.
func (tx *Tx) CopyFrom(ctx context.Context, table pgx.Identifier, columns []string, rows pgx.CopyFromSource) (int64, error) {
	if err := tx.usable(ctx); err != nil {
		return 0, err
	}
	c := tx.call(ctx)
	conn := c.lease.conn
	tr := c.lease.e.tracer.copy
	if tr != nil {
		c.ctx = tr.TraceCopyFromStart(c.ctx, conn, pgx.TraceCopyFromStartData{TableName: table, ColumnNames: columns})
	}
	c.lease.flying = true // for a source that asks the same transaction
	n, err := tx.inner.CopyFrom(c.ctx, table, columns, rows)
	c.lease.flying = false
	if err = c.settle(err); errors.Is(err, ErrRefused) {
		n = 0
	}
	if tr != nil {
		tr.TraceCopyFromEnd(c.ctx, conn, pgx.TraceCopyFromEndData{CommandTag: pgconn.NewCommandTag(fmt.Sprintf("COPY %d", n)), Err: err})
	}
	return n, err
}
