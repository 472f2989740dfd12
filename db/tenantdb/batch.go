package tenantdb

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// SendBatch sends all queries of b, scope included, in one round trip and one implicit transaction: all of them take effect
// or none. Statements that the process has never met before are described first, in one more round trip for all of them. The
// results must be read in order and closed; Close returns the error of the commit. A batch must not begin a transaction
// by itself (pgx.Batch.BeginTx): use InTx.
func (h Handle) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	r, err := h.sendBatchOnce(ctx, b)
	if h.mayRefresh(err) {
		if h, err = h.refresh(ctx, err); err != nil {
			return pgx.FailedBatchResults(b, err)
		}
		r, err = h.sendBatchOnce(ctx, b)
	}
	if r == nil {
		return pgx.FailedBatchResults(b, err)
	}
	return r
}

// sendBatchOnce returns the error with which a batch has failed before its first result, also beside results that have it.
func (h Handle) sendBatchOnce(ctx context.Context, b *pgx.Batch) (pgx.BatchResults, error) {
	s, l, err := h.lease(ctx)
	if err != nil {
		return nil, err
	}
	r := call{ctx: h.e.tracer.context(ctx, h.bound), scope: s, lease: l}.sendBatch(b)
	return r, r.err
}

// SendBatch is Handle.SendBatch inside the transaction.
func (tx *Tx) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	if err := tx.usable(ctx); err != nil {
		return pgx.FailedBatchResults(b, err)
	}
	return tx.call(ctx).sendBatch(b)
}

func (c call) sendBatch(b *pgx.Batch) *batchResults {
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

// send puts all queries on one flight and sends it; once more, if a description turns out not to fit before anything is
// executed.
func (r *batchResults) send() error {
	queries := make([]query, len(r.queued))
	for i, qq := range r.queued {
		q, err := r.parse(qq.SQL, qq.Arguments)
		if err != nil {
			return err
		}
		if err := checkClass(classify(q.sql), q.sql, r.tx != nil, r.lease.pinned); err != nil {
			return err
		}
		queries[i] = q
	}
	err := r.fly(queries)
	if !r.flight.unfit || r.lease.pg.IsClosed() {
		return err
	}
	if r.tx != nil {
		if err := r.flight.uncheck(r.ctx, r.lease.session); err != nil {
			return err
		}
	}
	asked := make(map[string]bool, len(queries))
	var ask []string
	for _, q := range queries {
		if !q.undescribed && !asked[q.sql] {
			asked[q.sql] = true
			ask = append(ask, q.sql)
		}
	}
	if _, err := r.ask(ask...); err != nil {
		return err
	}
	return r.fly(queries)
}

// fly sends all queries and reads up to the first result. Descriptions that may not fit are checked first.
func (r *batchResults) fly(queries []query) error {
	r.flight, r.shipments = flight{}, nil
	known, err := r.describeAll(queries)
	if err != nil {
		return err
	}
	encoded := make([]pgx.ExtendedQueryBuilder, len(queries))
	times := make(map[string]int, len(queries))
	for i, q := range queries {
		times[q.sql]++
		err := r.encode(&encoded[i], q, known[i].desc, !known[i].sure)
		if err != nil && known[i].desc != nil && !errors.Is(err, errArguments) { // the column may have another type by now
			var asked []*description
			if asked, err = r.ask(q.sql); err != nil {
				return err
			}
			known[i] = knowledge{asked[0], true}
			err = r.encode(&encoded[i], q, asked[0], false)
		}
		if err != nil {
			return err
		}
	}
	if err := r.begin(&r.flight); err != nil {
		return err
	}
	var checks []check
	for i, q := range queries {
		if known[i].desc != nil && !known[i].sure {
			checks = append(checks, check{q.sql, known[i].desc})
		}
	}
	if len(checks) > 0 && r.lease.pg.TxStatus() != txFailed {
		r.flight.check(r.tx != nil, checks)
	}
	r.shipments = make([]shipment, len(queries))
	for i, q := range queries {
		r.shipments[i] = r.flight.ship(statementKey{r.scope, q.sql}, known[i].desc, known[i].sure, times[q.sql] > 1)
		r.flight.send(&r.shipments[i], &encoded[i], q.usualFormats())
	}
	if err := r.flight.depart(); err != nil {
		return err
	}
	return r.flight.readChecks()
}

// knowledge is what is known of a statement before it is sent.
type knowledge struct {
	desc *description // nil if it is to travel undescribed
	sure bool
}

// describeAll returns what is known of the statements. If there is one that nobody has met, all of which the tenant has no
// description of its own are asked for, in one flight.
func (r *batchResults) describeAll(queries []query) ([]knowledge, error) {
	known := make([]knowledge, len(queries))
	unsure := make(map[string][]int)
	var ask []string
	all := true
	for i, q := range queries {
		if q.undescribed {
			known[i].sure = true
			continue
		}
		known[i].desc, known[i].sure = r.known(q.sql)
		if known[i].sure {
			continue
		}
		all = all && known[i].desc != nil && q.byOID == nil && !known[i].desc.hasRecords() // formats by type need the types
		if unsure[q.sql] == nil {
			ask = append(ask, q.sql)
		}
		unsure[q.sql] = append(unsure[q.sql], i)
	}
	if all {
		return known, nil
	}
	asked, err := r.ask(ask...)
	if err != nil {
		return nil, err
	}
	for i, sql := range ask {
		for _, at := range unsure[sql] {
			known[at] = knowledge{asked[i], true}
		}
	}
	return known, nil
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
	r.learn(&r.shipments[i])
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
