package directory

import (
	"context"
	"iter"

	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/db/tenant"
)

// TxBeginner begins transactions in the tenant that their context carries, and in its scope. A *tenantdb.DB is one.
type TxBeginner interface {
	BeginTx(ctx context.Context, opts pgx.TxOptions) (pgx.Tx, error)
}

// GatherOptions say which tenants Gather asks, and how. The zero value asks all active ones, come what may.
type GatherOptions struct {
	// Statuses, Tenants and Parallel are those of EachOptions. Parallel is also how many connections are used.
	Statuses []tenant.Status
	Tenants  []*tenant.Tenant
	Parallel int
	// MaxFailures is how many tenants may fail before no other is asked. Defaults to any number.
	MaxFailures int
}

// TenantRow is one row of a tenant's, with the tenant that it is of.
type TenantRow[T any] struct {
	// Tenant is shared between the rows and must not be changed.
	Tenant *tenant.Tenant
	Row    T
}

// Gather asks each tenant the same thing, several at a time, and streams the answers, for operators: reports, audits, searches
// for whom a fault has struck. It is the one way to read across tenants, and still each query runs inside one tenant's scope, by
// its role, on db. The query is what sqlc has generated, on the transaction that it is given:
//
//	overdue := directory.Gather(ctx, dir, db, directory.GatherOptions{},
//		func(ctx context.Context, tx pgx.Tx) ([]invoicing.Invoice, error) {
//			return invoicing.New(tx).ListOverdueInvoices(ctx, 30)
//		})
//	for r, err := range overdue {
//		if failed := (*directory.TenantError)(nil); errors.As(err, &failed) {
//			log.Print(failed) // this tenant could not be asked; the others go on
//			continue
//		} else if err != nil {
//			return err // the end: not all were asked
//		}
//		fmt.Println(r.Tenant.Slug, r.Row.Number, r.Row.Due)
//	}
//
// The transaction is read only and repeatable read: a statement that writes fails with SQLSTATE 25006, and several statements see
// one state of that tenant. There is no state that all tenants are seen in: each is asked when its turn comes. What PostgreSQL
// allows in a read-only transaction (advisory locks, NOTIFY, functions that call out) is allowed here.
//
// The rows of one tenant come together, the tenants in the order in which they answer. Memory is bounded by what Parallel tenants
// answer: limit the query. A reader that is slow holds no connection. What is guaranteed about tenants that come and go is what
// Each guarantees.
//
// A tenant whose query fails, or panics, gives no rows but a *TenantError, with Tenant set beside it; the others go on. Any other
// error is the last thing to come, without a Tenant: the context's, that of the registry, or ErrTooManyFailures. If there is
// none, all tenants were asked. The reader may break at any time: what is under way is cancelled, and has ended when the loop
// has. Gather does nothing before it is ranged over, and asks all anew each time that it is.
func Gather[T any](
	ctx context.Context, d *Directory, db TxBeginner, opts GatherOptions, query func(ctx context.Context, tx pgx.Tx) ([]T, error),
) iter.Seq2[TenantRow[T], error] {
	return func(yield func(TenantRow[T], error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		answers := make(chan answer[T])
		r, err := d.newRound(EachOptions{Statuses: opts.Statuses, Tenants: opts.Tenants, Parallel: opts.Parallel, MaxFailures: opts.MaxFailures},
			func(ctx context.Context, t *tenant.Tenant) error { return ask(ctx, db, t, query, answers) })
		if err != nil {
			cancel()
			yield(TenantRow[T]{}, err)
			return
		}
		r.forget = true
		// Those that are not there are not asked, and have to be told of all the same.
		r.refused = func(ctx context.Context, t *tenant.Tenant, err error) {
			answer[T]{tenant: t, err: err}.send(ctx, answers)
		}
		var why error
		go func() {
			defer close(answers)
			why = r.run(ctx)
		}()
		defer func() {
			cancel()
			for range answers { // until the last one has ended
			}
		}()
		for a := range answers {
			if !a.yield(yield) {
				return
			}
		}
		if why != nil {
			yield(TenantRow[T]{}, why)
		}
	}
}

// answer is what one tenant says.
type answer[T any] struct {
	tenant *tenant.Tenant
	rows   []T
	err    error
}

// ask asks one tenant, and hands its answer over, be it a panic's.
func ask[T any](
	ctx context.Context, db TxBeginner, t *tenant.Tenant, query func(context.Context, pgx.Tx) ([]T, error), answers chan<- answer[T],
) (err error) {
	a := answer[T]{tenant: t, err: errExited}
	defer func() {
		if v := recover(); v != nil {
			a.err = panicError(v)
		}
		a.send(ctx, answers)
		err = a.err
	}()
	a.err = pgx.BeginTxFunc(ctx, db, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) (err error) {
		a.rows, err = query(ctx, tx)
		return err
	})
	return a.err
}

// send hands the answer over. When the context ends, only the end is told of.
func (a answer[T]) send(ctx context.Context, answers chan<- answer[T]) {
	if a.err != nil && ctx.Err() != nil {
		return
	}
	select {
	case answers <- a:
	case <-ctx.Done():
	}
}

// yield reports whether the reader wants more.
func (a answer[T]) yield(yield func(TenantRow[T], error) bool) bool {
	if a.err != nil {
		return yield(TenantRow[T]{Tenant: a.tenant}, &TenantError{Tenant: a.tenant, Err: a.err})
	}
	for _, row := range a.rows {
		if !yield(TenantRow[T]{Tenant: a.tenant, Row: row}, nil) {
			return false
		}
	}
	return true
}
