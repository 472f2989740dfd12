package tenantdb_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/leasehold-go/leasehold/db/tenant"
)

// plain returns pgx's own pool, held to tenant i by the settings that its sessions start with: what a caller would have who
// has only this one tenant. It is the measure for what ours should do. It has one connection: pgx remembers with each what it has
// encoded, and a [][]int that follows a []any there is refused.
func (f *fleet) plain(t *testing.T, i int, mode pgx.QueryExecMode, tracer pgx.QueryTracer) *pgxpool.Pool {
	t.Helper()
	pc, err := pgxpool.ParseConfig(f.url)
	if err != nil {
		t.Fatal(err)
	}
	cc := f.connConfig(t)
	cc.DefaultQueryExecMode, cc.Tracer = mode, tracer
	cc.RuntimeParams["search_path"] = `"` + f.tenants[i].Placement.Schema + `", pg_temp`
	cc.RuntimeParams["role"] = f.tenants[i].Placement.Role
	pc.ConnConfig, pc.MaxConns = cc, 1
	pool, err := pgxpool.NewWithConfig(t.Context(), pc)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// verbs is what a DB, a transaction, and pgx's own pool and transaction have in common.
type verbs interface {
	querier
	Begin(ctx context.Context) (pgx.Tx, error)
	SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults
	CopyFrom(ctx context.Context, table pgx.Identifier, columns []string, rows pgx.CopyFromSource) (int64, error)
}

// kind says which sort of error err is, by what a caller can ask of it. Errors that a caller cannot tell apart are "other".
func kind(err error) string {
	var pgErr *pgconn.PgError
	var scanErr pgx.ScanArgError
	switch {
	case err == nil:
		return "none"
	case errors.As(err, &pgErr):
		return fmt.Sprintf("%s %s at %d, column %q, constraint %q, detail %q", pgErr.Severity, pgErr.Code, pgErr.Position,
			pgErr.ColumnName, pgErr.ConstraintName, pgErr.Detail)
	case errors.As(err, &scanErr):
		return fmt.Sprintf("scan of column %d, %s", scanErr.ColumnIndex, scanErr.FieldName)
	}
	for _, known := range []error{
		pgx.ErrNoRows, pgx.ErrTooManyRows, pgx.ErrTxClosed, pgx.ErrTxCommitRollback, context.Canceled, context.DeadlineExceeded,
		errRollback, tenant.ErrNoTenant,
	} {
		if errors.Is(err, known) {
			return known.Error()
		}
	}
	return "other"
}

// show makes values and errors comparable: the values with their Go types.
func show(err error, values ...any) string {
	s := "error: " + kind(err)
	for _, v := range values {
		s += fmt.Sprintf("; %T %+v", v, v)
	}
	return s
}

// readAll runs a query and shows its rows as pgx decodes them by itself, its columns and its tag.
func readAll(ctx context.Context, q querier, sql string, args ...any) string {
	rows, err := q.Query(ctx, sql, args...)
	if err != nil {
		return show(err)
	}
	var all []any
	for rows.Next() {
		values, err := rows.Values()
		if err != nil {
			return show(err)
		}
		all = append(all, values...)
	}
	if rows.Err() != nil { // which pgx may tell sooner or later
		return show(rows.Err(), all...)
	}
	return show(nil, append(all, rows.CommandTag().String())...)
}
