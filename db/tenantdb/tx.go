package tenantdb

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/leasehold-go/leasehold/db/tenant"
)

// Begin starts a transaction with the server's default modes. See BeginTx.
func (h Handle) Begin(ctx context.Context) (pgx.Tx, error) { return h.BeginTx(ctx, pgx.TxOptions{}) }

// BeginTx starts a transaction in a tenant, scope included, in one round trip. The tenant is that of ctx (or of the bound
// handle) and never changes: a later call on the transaction with a context that carries another one returns
// tenant.ErrMismatch.
//
// The transaction holds its connection until Commit or Rollback; one of them must be called. Begin on it sets a savepoint.
// Its Conn returns nil and its Prepare is refused: statements are prepared by themselves, for one tenant each. As with pgx, a
// cancelled context breaks the transaction, and a transaction is not safe for concurrent use.
//
// The statement that sets the scope takes the snapshot of a repeatable-read or serializable transaction. Say the modes
// in opts; SET TRANSACTION comes too late.
func (h Handle) BeginTx(ctx context.Context, opts pgx.TxOptions) (pgx.Tx, error) {
	if err := checkOptions(opts); err != nil {
		return nil, err
	}
	tx, err := h.beginOnce(ctx, opts)
	if !h.mayRefresh(err) {
		return tx, err
	}
	if h, err = h.refresh(ctx, err); err != nil {
		return nil, err
	}
	return h.beginOnce(ctx, opts)
}

func (h Handle) beginOnce(ctx context.Context, opts pgx.TxOptions) (pgx.Tx, error) {
	s, l, err := h.lease(ctx)
	if err != nil {
		return nil, err
	}
	return begin(ctx, s, l, opts)
}

func checkOptions(opts pgx.TxOptions) error {
	if opts.BeginQuery != "" || opts.CommitQuery != "" {
		return fmt.Errorf("%w: BeginQuery and CommitQuery; say the modes in the other options", ErrRefused)
	}
	return nil
}

// begin starts a transaction on a leased connection. On error the lease is over.
func begin(ctx context.Context, s *scope, l *lease, opts pgx.TxOptions) (pgx.Tx, error) {
	opts.BeginQuery = beginSQL(opts) + s.beginSQL
	inner, err := l.conn.BeginTx(ctx, opts)
	if err != nil {
		if l.pg.TxStatus() == txFailed { // BEGIN has worked, what came after has not
			err = scopeError(s, err)
		}
		l.release(ctx) // which closes a connection that is not idle
		return nil, err
	}
	return &Tx{transaction: &transaction{scope: s, lease: l}, inner: inner}, nil
}

// InTx runs fn in a transaction in the tenant of ctx and commits it. If fn returns an error or panics, or ctx is cancelled,
// the transaction is rolled back. The transaction must not be used after fn returns.
func (h Handle) InTx(ctx context.Context, fn func(tx pgx.Tx) error) error {
	return pgx.BeginFunc(ctx, h, fn)
}

// beginSQL spells opts. Commands sent together without parameters go as one simple query, which is one round trip.
func beginSQL(opts pgx.TxOptions) string {
	parts := []string{"BEGIN"}
	if opts.IsoLevel != "" {
		parts = append(parts, "ISOLATION LEVEL", string(opts.IsoLevel))
	}
	if opts.AccessMode != "" {
		parts = append(parts, string(opts.AccessMode))
	}
	if opts.DeferrableMode != "" {
		parts = append(parts, string(opts.DeferrableMode))
	}
	return strings.Join(parts, " ")
}

// transaction is what a Tx and the savepoints in it share.
type transaction struct {
	scope *scope
	lease *lease
	// lost says that the server's transaction ended without us: nothing may run any more.
	lost bool
}

// Tx is a transaction in one tenant, or a savepoint in one. It is not safe for concurrent use.
type Tx struct {
	*transaction
	// inner knows how to end and to nest transactions; statements do not go through it.
	inner pgx.Tx
	outer *Tx // nil for the transaction itself
	ended bool
}

var _ pgx.Tx = (*Tx)(nil)

// open reports whether neither the transaction nor any savepoint around has ended.
func (tx *Tx) open() bool {
	for level := tx; level != nil; level = level.outer {
		if level.ended || tx.lost {
			return false
		}
	}
	return true
}

// usable returns nil if a statement may be sent under ctx.
func (tx *Tx) usable(ctx context.Context) error {
	if !tx.open() {
		return pgx.ErrTxClosed
	}
	if tx.lease.flying {
		return errConnBusy
	}
	if t, err := tenant.FromContext(ctx); err == nil && t.ID != tx.scope.tenant.ID {
		return fmt.Errorf("%w: %s and %s", tenant.ErrMismatch, t.Slug, tx.scope.tenant.Slug)
	}
	return nil
}

// Begin sets a savepoint, which the returned transaction releases or rolls back to. The tenant's scope is older than the
// savepoint, so it stays in either case.
func (tx *Tx) Begin(ctx context.Context) (pgx.Tx, error) {
	if err := tx.usable(ctx); err != nil {
		return nil, err
	}
	inner, err := tx.inner.Begin(ctx)
	if err != nil {
		return nil, err
	}
	return &Tx{transaction: tx.transaction, inner: inner, outer: tx}, nil
}

// Commit commits the transaction or releases the savepoint. The error of a deferred constraint comes out here. All rows must
// be closed by then; if not, the transaction is rolled back by closing its connection, and Commit returns an error.
func (tx *Tx) Commit(ctx context.Context) error { return tx.finish(ctx, tx.inner.Commit) }

// Rollback undoes the transaction, or what happened since the savepoint. After Commit it does nothing but return
// pgx.ErrTxClosed, so it may be deferred.
func (tx *Tx) Rollback(ctx context.Context) error { return tx.finish(ctx, tx.inner.Rollback) }

func (tx *Tx) finish(ctx context.Context, how func(context.Context) error) error {
	if tx.ended {
		return pgx.ErrTxClosed
	}
	open := tx.open()
	tx.ended = true
	if tx.outer == nil {
		defer tx.lease.release(ctx)
	}
	switch {
	case !open:
		return pgx.ErrTxClosed
	case tx.lease.flying: // what is still to be read would be taken for the answer
		tx.lease.abort()
		return errConnBusy
	}
	err := how(ctx)
	var pgErr *pgconn.PgError
	if err != nil && tx.outer != nil && !errors.As(err, &pgErr) {
		tx.lease.abort() // what was to be undone is not, and must not be committed with the rest
	}
	return err
}

func (tx *Tx) call(ctx context.Context) call {
	return call{ctx: tx.lease.e.tracer.context(ctx, tx.scope.tenant), scope: tx.scope, lease: tx.lease, tx: tx.transaction}
}

// Exec is Handle.Exec inside the transaction.
func (tx *Tx) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	return asTag(tx.query(ctx, sql, args))
}

// Query is Handle.Query inside the transaction. The rows must be closed before the next statement.
func (tx *Tx) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	return asRows(tx.query(ctx, sql, args))
}

// QueryRow is Handle.QueryRow inside the transaction.
func (tx *Tx) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	return asRow(tx.query(ctx, sql, args))
}

func (tx *Tx) query(ctx context.Context, sql string, args []any) (*Rows, error) {
	if err := tx.usable(ctx); err != nil {
		return nil, err
	}
	return tx.call(ctx).query(sql, args)
}

// LargeObjects returns pgx's handle on a transaction that is closed: its methods return pgx.ErrTxClosed. Large objects belong to
// the database and not to a schema; they are not dropped, moved or exported with the tenant. Who needs them all the same calls
// lo_create and its kin in SQL, where the tenant's role owns what it creates.
func (tx *Tx) LargeObjects() pgx.LargeObjects {
	var b pgx.Batch
	b.BeginTx(pgx.TxOptions{})
	return pgx.FailedBatchResults(&b, pgx.ErrTxClosed).Tx().LargeObjects()
}

// Prepare is refused: a name would live on the connection, for the next tenant to find. Statements are prepared by
// themselves.
func (tx *Tx) Prepare(context.Context, string, string) (*pgconn.StatementDescription, error) {
	return nil, fmt.Errorf("%w: Prepare; statements are prepared by themselves", ErrRefused)
}

// Conn returns nil: a connection is not handed out, since what is done on it directly is in no tenant.
func (tx *Tx) Conn() *pgx.Conn { return nil }
