package tenantdb

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/db/tenant"
)

// tracer is the caller's tracer, taken apart. Its fields are nil where the caller does not listen.
type tracer struct {
	query pgx.QueryTracer
	batch pgx.BatchTracer
	copy  pgx.CopyFromTracer
}

func newTracer(t pgx.QueryTracer) tracer {
	tr := tracer{query: t}
	tr.batch, _ = t.(pgx.BatchTracer)
	tr.copy, _ = t.(pgx.CopyFromTracer)
	return tr
}

// context returns ctx with the tenant in it, for tracers to see also when the handle is bound.
func (t tracer) context(ctx context.Context, bound *tenant.Tenant) context.Context {
	if t.query == nil {
		return ctx
	}
	if _, err := tenant.FromContext(ctx); err == nil {
		return ctx
	}
	return tenant.NewContext(ctx, bound)
}

// connectOnly passes the making of connections on to the caller's tracer and keeps from it what we send ourselves.
type connectOnly struct{ pgx.ConnectTracer }

func (connectOnly) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	return ctx
}
func (connectOnly) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

func connectTracer(t pgx.QueryTracer) pgx.QueryTracer {
	if ct, ok := t.(pgx.ConnectTracer); ok {
		return connectOnly{ct}
	}
	return nil
}
