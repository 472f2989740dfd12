package tenantdb

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// SendBatch sends all queries of b, scope included, in one round trip and one implicit transaction: all of them take effect
// or none. The first time a tenant meets a statement it is described first, in one more round trip for all of them. The
// results must be read in order and closed; Close returns the error of the commit. A batch must not begin a transaction
// by itself (pgx.Batch.BeginTx): use InTx.
func (h Handle) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	s, l, err := h.lease(ctx)
	if err != nil {
		return pgx.FailedBatchResults(b, err)
	}
	c := call{ctx: h.e.tracer.context(ctx, s), scope: s, lease: l}
	return c.sendBatch(b)
}

// SendBatch is Handle.SendBatch inside the transaction.
func (tx *Tx) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	if err := tx.usable(ctx); err != nil {
		return pgx.FailedBatchResults(b, err)
	}
	return tx.call(ctx).sendBatch(b)
}

func (c call) sendBatch(b *pgx.Batch) pgx.BatchResults {
	r := &batchResults{c: c, queued: b.QueuedQueries}
	if tr := c.lease.e.tracer.batch; tr != nil {
		r.c.ctx = tr.TraceBatchStart(c.ctx, c.lease.session.conn, pgx.TraceBatchStartData{Batch: b})
	}
	handedOver := false
	defer c.rescue(&handedOver)
	if len(b.QueuedQueries) > 0 {
		r.err = r.send()
	}
	handedOver = true
	if r.err != nil {
		_ = r.Close() // the error is in r and comes out of every method
	}
	return r
}

// batchResults are the answers to a batch, in the order of its queries.
type batchResults struct {
	c         call
	queued    []*pgx.QueuedQuery
	shipments []shipment
	f         *flight // nil when nothing was sent
	next      int
	current   *Rows // nil before the first
	err       error // the first one
	closed    bool
}

var _ pgx.BatchResults = (*batchResults)(nil)

var (
	errBatchClosed = errors.New("batch already closed")
	errBatchEnd    = errors.New("no more results in batch")
)

// send puts all queries on one flight and sends it.
func (r *batchResults) send() error {
	queries := make([]query, len(r.queued))
	times := make(map[string]int, len(r.queued))
	for i, qq := range r.queued {
		q, err := r.c.parse(qq.SQL, qq.Arguments)
		if err != nil {
			return err
		}
		queries[i] = q
		times[q.sql]++
	}
	descs, err := r.describe(queries)
	if err != nil {
		return err
	}
	encoded := make([]pgx.ExtendedQueryBuilder, len(queries))
	for i, q := range queries {
		if err := r.c.encode(&encoded[i], q, descs[i]); err != nil {
			return err
		}
	}
	f := r.c.newFlight()
	r.f = f
	for i, q := range queries {
		sh := f.ship(statementKey{r.c.scope, q.sql}, descs[i], true, times[q.sql] > 1)
		f.send(sh, &encoded[i])
		r.shipments = append(r.shipments, sh)
	}
	return f.depart()
}

// describe returns what this tenant's statements look like, asking for all unknown ones in one flight.
func (r *batchResults) describe(queries []query) ([]*description, error) {
	descs := make([]*description, len(queries))
	unknown := make(map[string]*description)
	var ask []string
	inTx := r.c.tx != nil
	for i, q := range queries {
		if q.undescribed {
			if err := checkClass(classify(q.sql), q.sql, inTx); err != nil {
				return nil, err
			}
			continue
		}
		if desc := r.c.scope.own.get(q.sql); desc != nil {
			if err := checkClass(desc.class, q.sql, inTx); err != nil {
				return nil, err
			}
			descs[i] = desc
			continue
		}
		if err := checkClass(classify(q.sql), q.sql, inTx); err != nil {
			return nil, err
		}
		if _, asked := unknown[q.sql]; !asked {
			unknown[q.sql] = nil
			ask = append(ask, q.sql)
		}
	}
	if len(ask) == 0 {
		return descs, nil
	}
	sds, err := r.c.ask(ask...)
	if err != nil {
		return nil, err
	}
	for i, sql := range ask {
		unknown[sql] = newDescription(sds[i], classify(sql))
		r.c.remember(sql, unknown[sql])
	}
	for i, q := range queries {
		if descs[i] == nil && !q.undescribed {
			descs[i] = unknown[q.sql]
		}
	}
	return descs, nil
}

// Exec reads the result of the next query as Handle.Exec would.
func (r *batchResults) Exec() (pgconn.CommandTag, error) {
	rows, err := r.nextRows()
	if err != nil {
		return pgconn.CommandTag{}, err
	}
	rows.Close()
	return rows.CommandTag(), rows.Err()
}

// Query reads the result of the next query as Handle.Query would. The rows end when the next result is asked for.
func (r *batchResults) Query() (pgx.Rows, error) {
	rows, err := r.nextRows()
	if err != nil {
		return failedRows(err), err
	}
	return rows, nil
}

// QueryRow reads the result of the next query as Handle.QueryRow would.
func (r *batchResults) QueryRow() pgx.Row {
	rows, err := r.nextRows()
	if err != nil {
		return row{failedRows(err)}
	}
	return row{rows}
}

func (r *batchResults) nextRows() (*Rows, error) {
	if r.current != nil {
		r.current.Close()
	}
	switch {
	case r.err != nil:
		return nil, r.err
	case r.closed:
		return nil, errBatchClosed
	case r.next >= len(r.shipments):
		return nil, errBatchEnd
	}
	i := r.next
	r.next++
	started := time.Now()
	rr, err := r.f.receive(r.shipments[i])
	if err != nil {
		return nil, r.done(i, started, pgconn.CommandTag{}, err)
	}
	r.current = &Rows{
		Rows: pgx.RowsFromResultReader(r.c.lease.session.conn.TypeMap(), rr),
		finish: func(tag pgconn.CommandTag, err error) error {
			return r.done(i, started, tag, err)
		},
	}
	return r.current, nil
}

// done notes the end of query i.
func (r *batchResults) done(i int, started time.Time, tag pgconn.CommandTag, err error) error {
	if r.err == nil {
		r.err = err
	}
	if tr := r.c.lease.e.tracer.batch; tr != nil {
		qq := r.queued[i]
		tr.TraceBatchQuery(r.c.ctx, r.c.lease.session.conn, pgx.TraceBatchQueryData{
			SQL: qq.SQL, Args: qq.Arguments, CommandTag: tag, Err: err, ReadStartTime: started})
	}
	return err
}

// Close reads what is left, calling the callbacks of the queries, waits for the commit and gives the connection back.
// Until it returned nil nothing is certain. It may be called again and returns the same.
func (r *batchResults) Close() (err error) {
	if r.closed {
		return r.err
	}
	defer func() { err = r.end() }() // also when a callback panics
	for r.err == nil && r.next < len(r.shipments) {
		r.runNext()
	}
	return nil
}

// end lands the flight and closes the books.
func (r *batchResults) end() error {
	if r.current != nil {
		r.current.Close()
	}
	r.closed = true
	if r.f != nil {
		if err := r.f.land(); r.err == nil {
			r.err = err
		}
	}
	r.err = r.c.settle(r.err)
	if tr := r.c.lease.e.tracer.batch; tr != nil {
		tr.TraceBatchEnd(r.c.ctx, r.c.lease.session.conn, pgx.TraceBatchEndData{Err: r.err})
	}
	if r.c.tx == nil {
		r.c.lease.release(r.c.ctx)
	}
	return r.err
}

// runNext reads the next result through its callback, if it has one.
func (r *batchResults) runNext() {
	fn := r.queued[r.next].Fn
	if fn == nil {
		_, _ = r.Exec() // its error is in r.err
		return
	}
	before := r.next
	if err := fn(r); err != nil && r.err == nil {
		r.err = err
	}
	if r.next == before {
		_, _ = r.Exec() // the callback read nothing
	}
}

// Tx returns nil: a batch does not begin a transaction.
func (r *batchResults) Tx() pgx.Tx { return nil }
