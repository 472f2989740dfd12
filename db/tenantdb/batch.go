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
	c := call{ctx: h.e.tracer.context(ctx, h.bound), scope: s, lease: l}
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
	r := &batchResults{call: c, queued: b.QueuedQueries}
	if tr := c.lease.e.tracer.batch; tr != nil {
		r.ctx = tr.TraceBatchStart(c.ctx, c.lease.conn, pgx.TraceBatchStartData{Batch: b})
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
	call
	flight    flight
	queued    []*pgx.QueuedQuery
	shipments []shipment // nil when nothing was sent
	next      int
	current   *Rows // nil before the first
	started   time.Time
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
		q, err := r.parse(qq.SQL, qq.Arguments)
		if err != nil {
			return err
		}
		queries[i] = q
		times[q.sql]++
	}
	descs, err := r.describeAll(queries)
	if err != nil {
		return err
	}
	encoded := make([]pgx.ExtendedQueryBuilder, len(queries))
	for i, q := range queries {
		err := r.encode(&encoded[i], q, descs[i])
		if err != nil && descs[i] != nil && !errors.Is(err, errArguments) { // the column may have another type by now
			var asked []*description
			if asked, err = r.ask(q.sql); err != nil {
				return err
			}
			descs[i] = asked[0]
			err = r.encode(&encoded[i], q, descs[i])
		}
		if err != nil {
			return err
		}
	}
	if err := r.begin(&r.flight); err != nil {
		return err
	}
	r.shipments = make([]shipment, len(queries))
	for i, q := range queries {
		r.shipments[i] = r.flight.ship(statementKey{r.scope, q.sql}, descs[i], true, times[q.sql] > 1)
		r.flight.send(&r.shipments[i], &encoded[i], q.usualFormats())
	}
	return r.flight.depart()
}

// describeAll returns what this tenant's statements look like, asking for all unknown ones in one flight. Another tenant's
// descriptions are not tried: a batch that turned out wrong half-way could not be sent again.
func (r *batchResults) describeAll(queries []query) ([]*description, error) {
	descs := make([]*description, len(queries))
	unknown := make(map[string][]int)
	var ask []string
	for i, q := range queries {
		c := classify(q.sql)
		if err := checkClass(c, q.sql, r.tx != nil); err != nil {
			return nil, err
		}
		if q.undescribed {
			continue
		}
		if descs[i] = r.scope.own.get(q.sql); descs[i] != nil {
			continue
		}
		if unknown[q.sql] == nil {
			ask = append(ask, q.sql)
		}
		unknown[q.sql] = append(unknown[q.sql], i)
	}
	if len(ask) == 0 {
		return descs, nil
	}
	asked, err := r.ask(ask...)
	if err != nil {
		return nil, err
	}
	for i, sql := range ask {
		for _, at := range unknown[sql] {
			descs[at] = asked[i]
		}
	}
	return descs, nil
}

// Exec reads the result of the next query as Handle.Exec would.
func (r *batchResults) Exec() (pgconn.CommandTag, error) {
	return asTag(r.nextRows())
}

// Query reads the result of the next query as Handle.Query would. The rows end when the next result is asked for.
func (r *batchResults) Query() (pgx.Rows, error) {
	return asRows(r.nextRows())
}

// QueryRow reads the result of the next query as Handle.QueryRow would.
func (r *batchResults) QueryRow() pgx.Row {
	return asRow(r.nextRows())
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
	r.started = time.Now()
	if err := r.flight.receive(&r.shipments[i]); err != nil {
		r.forget(r.shipments[i].key.sql, err)
		return nil, r.done(i, pgconn.CommandTag{}, err)
	}
	r.current = &Rows{call: r.call, shipment: r.shipments[i], batch: r, index: i}
	return r.current, nil
}

// done notes the end of query i.
func (r *batchResults) done(i int, tag pgconn.CommandTag, err error) error {
	if r.err == nil {
		r.err = err
	}
	if tr := r.lease.e.tracer.batch; tr != nil {
		qq := r.queued[i]
		tr.TraceBatchQuery(r.ctx, r.lease.conn, pgx.TraceBatchQueryData{
			SQL: qq.SQL, Args: qq.Arguments, CommandTag: tag, Err: err, ReadStartTime: r.started})
	}
	return err
}

// Close reads what is left, calling the callbacks of the queries, waits for the commit and gives the connection back.
// Until it returned nil nothing is certain. It may be called again and returns the same.
func (r *batchResults) Close() (err error) {
	if r.closed {
		return r.err
	}
	defer func() { err = r.finish() }() // also when a callback panics
	for r.err == nil && r.next < len(r.shipments) {
		r.runNext()
	}
	return nil
}

// finish lands the flight and closes the books.
func (r *batchResults) finish() error {
	if r.current != nil {
		r.current.Close()
	}
	r.closed = true
	if r.shipments != nil {
		if err := r.flight.land(); r.err == nil {
			r.err = err
		}
		for i := r.next; i < len(r.shipments); i++ { // not read: the server may know the names, we do not
			if sh := &r.shipments[i]; sh.naming {
				r.lease.unneeded = append(r.lease.unneeded, sh.named.name)
			}
		}
	}
	r.err = r.settle(r.err)
	if r.tx == nil {
		defer r.lease.release(r.ctx) // also when the tracer panics
	}
	if tr := r.lease.e.tracer.batch; tr != nil {
		tr.TraceBatchEnd(r.ctx, r.lease.conn, pgx.TraceBatchEndData{Err: r.err})
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
