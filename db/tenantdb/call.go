package tenantdb

import (
	"context"
	"errors"
	"fmt"
	"math"
	"reflect"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
)

// call is the work of one caller on one leased connection: inside tx if that is set, else in a flight of its own, whose end
// is the end of the lease.
type call struct {
	ctx   context.Context
	scope *scope
	lease *lease
	tx    *transaction
}

// query is a statement with everything that the caller said about it.
type query struct {
	sql     string
	args    []any
	formats pgx.QueryResultFormats
	byOID   pgx.QueryResultFormatsByOID
	// undescribed asks for pgx.QueryExecModeExec: parameters as text, their types guessed by the server.
	undescribed bool
}

// usualFormats reports whether the caller left the formats of the result to us.
func (q *query) usualFormats() bool { return q.formats == nil && q.byOID == nil && !q.undescribed }

// parse takes pgx's leading options out of args.
func (c *call) parse(sql string, args []any) (query, error) {
	q := query{sql: sql}
	var rewriter pgx.QueryRewriter
options:
	for len(args) > 0 {
		switch arg := args[0].(type) {
		case pgx.QueryResultFormats:
			q.formats = arg
		case pgx.QueryResultFormatsByOID:
			q.byOID = arg
		case pgx.QueryExecMode:
			if arg == pgx.QueryExecModeSimpleProtocol {
				return q, fmt.Errorf("%w: the simple protocol; leave the QueryExecMode out", ErrRefused)
			}
			q.undescribed = arg == pgx.QueryExecModeExec
		case pgx.QueryRewriter:
			rewriter = arg
		default:
			break options
		}
		args = args[1:]
	}
	q.args = args
	if rewriter != nil {
		var err error
		if q.sql, q.args, err = rewriter.RewriteQuery(c.ctx, c.lease.conn, sql, args); err != nil {
			return q, fmt.Errorf("rewrite query failed: %w", err)
		}
	}
	return q, nil
}

// query runs one statement up to its first row. On error the call is over.
func (c call) query(sql string, args []any) (*Rows, error) {
	r := &Rows{call: c}
	handedOver := false
	defer r.rescue(&handedOver)
	if tr := c.lease.e.tracer.query; tr != nil {
		r.ctx = tr.TraceQueryStart(c.ctx, c.lease.conn, pgx.TraceQueryStartData{SQL: sql, Args: args})
	}
	err := r.start(sql, args)
	handedOver = true
	if err != nil {
		return nil, r.end(pgconn.CommandTag{}, err)
	}
	return r, nil
}

// rescue gives the connection back when code of the caller's (a rewriter, an argument's own encoding) panics before
// anybody else answers for the lease.
func (c *call) rescue(handedOver *bool) {
	if !*handedOver && c.tx == nil {
		c.lease.release(c.ctx)
	}
}

// end closes the books of a call whose flight is over: it looks at the state in which the connection is, tells the tracer
// and gives the connection back.
func (c *call) end(tag pgconn.CommandTag, err error) error {
	err = c.settle(err)
	if c.tx == nil {
		defer c.lease.release(c.ctx) // also when the tracer panics
	}
	if tr := c.lease.e.tracer.query; tr != nil {
		tr.TraceQueryEnd(c.ctx, c.lease.conn, pgx.TraceQueryEndData{CommandTag: tag, Err: err})
	}
	return err
}

// settle checks that the call has neither opened nor ended a transaction behind our back.
func (c *call) settle(err error) error {
	idle := c.lease.pg.TxStatus() == txIdle
	switch {
	case c.lease.pg.IsClosed() || c.lease.flying:
	case c.tx == nil && !idle && err == nil:
		err = fmt.Errorf("%w: the statement left a transaction open; it was rolled back; use Begin", ErrRefused)
	case c.tx != nil && idle:
		c.tx.lost = true
		if err == nil {
			err = fmt.Errorf("%w: the statement ended its transaction; use Commit or Rollback", ErrRefused)
		}
	}
	return err
}

// start sends the statement and reads up to the first row; once more, if what we knew of the statement turns out to be out of
// date. On error the flight is over.
func (r *Rows) start(sql string, args []any) error {
	q, err := r.parse(sql, args)
	if err != nil {
		return err
	}
	for attempt := 0; ; attempt++ {
		desc, sure, err := r.describe(q, attempt > 0)
		if err != nil {
			return err
		}
		again := true // a value that does not fit its type may fit the one that the column has now
		if err = r.encode(&r.lease.args, q, desc, !sure); err == nil {
			if err = r.fly(q, desc, sure); err == nil {
				return nil
			}
			again, err = r.mayRepeat(desc, sure, err)
		}
		if attempt > 0 || !again || errors.Is(err, errArguments) {
			return err
		}
	}
}

// forget drops what is known of a statement that the server refused to start for a reason which an outdated description can
// have. It costs a round trip, and spares the tenant from the same error for ever where nothing can be sent again.
func (c *call) forget(sql string, err error) {
	switch {
	case planIsStale(err): // a migration: other statements of the tenant may be out of date without an error
		c.scope.own.clear()
	case typesDisagree(err, false):
		c.scope.own.remove(sql)
	}
}

var errArguments = errors.New("wrong number of arguments")

// mayRepeat reports whether a statement that fly could not start is to be described anew and sent again: the error is one that
// an outdated description causes. Inside a transaction the error has ended it, unless it came out of a check, from which there is
// a way back. The error that it returns is the caller's if there is no repeat.
func (r *Rows) mayRepeat(desc *description, sure bool, err error) (bool, error) {
	switch outdated := planIsStale(err) || typesDisagree(err, sure); {
	case desc == nil || !r.sent:
		return false, err
	case r.lease.pg.IsClosed(): // because the call was called off or the connection lost, which then is why it is not repeated
		if outdated {
			err = fmt.Errorf("%w: %w", pgconn.ErrConnClosed, err)
		}
		return false, becauseOf(r.ctx, err)
	case r.tx == nil:
		return r.flight.unfit || outdated, err
	case !r.flight.unfit:
		return false, err
	}
	if back := r.flight.uncheck(r.ctx, r.lease.session); back != nil {
		return false, fmt.Errorf("%w: %w", errMisfit, back)
	}
	return true, err
}

// describe returns what is known of a statement, and whether that is sure to fit this tenant. What is not known is asked,
// which takes a round trip; anew asks in any case. It returns nil for a statement that is to travel undescribed.
func (c *call) describe(q query, anew bool) (desc *description, sure bool, err error) {
	if q.undescribed {
		return nil, true, checkClass(classify(q.sql), q.sql, c.tx != nil, c.lease.pinned)
	}
	if !anew {
		desc, sure = c.known(q.sql)
		if desc != nil && (sure || q.byOID == nil && !desc.hasRecords()) { // formats by type need the types
			return desc, sure, checkClass(desc.class, q.sql, c.tx != nil, c.lease.pinned)
		}
	}
	if err := checkClass(classify(q.sql), q.sql, c.tx != nil, c.lease.pinned); err != nil {
		return nil, false, err
	}
	descs, err := c.ask(q.sql)
	if err != nil {
		return nil, false, err
	}
	return descs[0], true, nil
}

// known returns a description without asking: the tenant's own, or else another tenant's, which may turn out wrong.
func (c *call) known(sql string) (desc *description, sure bool) {
	if desc := c.scope.own.get(sql); desc != nil {
		return desc, true
	}
	return c.lease.e.shared.get(sql), false
}

// ask has the server describe statements, in one flight, and remembers what it says.
func (c *call) ask(sqls ...string) ([]*description, error) {
	var f flight
	if err := c.begin(&f); err != nil {
		return nil, err
	}
	descs, err := f.ask(sqls)
	if err != nil {
		return nil, err
	}
	for i, desc := range descs {
		c.scope.own.put(sqls[i], desc)
		c.lease.e.shared.put(sqls[i], desc)
	}
	return descs, nil
}

// begin starts a flight for the call: with a scope, or inside the transaction that has it.
func (c *call) begin(f *flight) error {
	sc := c.scope
	if c.tx != nil {
		sc = nil
	}
	return f.begin(c.ctx, c.lease.session, sc, c.lease.server.pooled.Load())
}

// encode writes the arguments into b and chooses the formats of the result. Where a wrong description must not do harm, the
// result is asked for as text, which fits any number of columns.
func (c *call) encode(b *pgx.ExtendedQueryBuilder, q query, desc *description, careful bool) error {
	var sd *pgconn.StatementDescription
	if desc != nil {
		if sd = desc.sd; len(sd.ParamOIDs) != len(q.args) {
			return fmt.Errorf("%w: expected %d, got %d", errArguments, len(sd.ParamOIDs), len(q.args))
		}
	}
	if sd != nil {
		if err := checkFractions(sd.ParamOIDs, q.args); err != nil {
			return err
		}
	}
	if err := b.Build(c.lease.conn.TypeMap(), sd, q.args); err != nil {
		return err
	}
	switch {
	case q.formats != nil:
		b.ResultFormats = append(b.ResultFormats[:0], q.formats...)
	case careful:
		b.ResultFormats = b.ResultFormats[:0]
	case q.byOID != nil && desc != nil:
		b.ResultFormats = b.ResultFormats[:0]
		for i := range sd.Fields {
			b.ResultFormats = append(b.ResultFormats, q.byOID[sd.Fields[i].DataTypeOID])
		}
	}
	return nil
}

// fly sends the encoded statement and reads what comes before the first row. On error the flight is over, and nothing of the
// statement was executed.
func (r *Rows) fly(q query, desc *description, sure bool) error {
	r.flight, r.sent = flight{}, false
	if err := r.begin(&r.flight); err != nil {
		return err
	}
	if desc != nil && !sure && r.lease.pg.TxStatus() != txFailed {
		r.flight.check(r.tx != nil, []check{{q.sql, desc}})
	}
	r.shipment = r.flight.ship(statementKey{r.scope, q.sql}, desc, sure, false)
	r.flight.send(&r.shipment, &r.lease.args, q.usualFormats())
	if err := r.flight.depart(); err != nil {
		return err
	}
	r.sent = true
	err := r.flight.readChecks()
	if err == nil {
		err = r.flight.receive(&r.shipment)
	}
	if err != nil {
		r.forget(q.sql, err)
		return err
	}
	r.learn(&r.shipment)
	return nil
}

// learn remembers a description that turned out to fit the tenant.
func (c *call) learn(sh *shipment) {
	if sh.desc != nil && (!sh.sure || sh.describes && !sh.desc.describes(sh.fields)) { // the latter after a migration
		c.scope.own.put(sh.key.sql, sh.desc.withColumns(sh.fields))
	}
}

// checkFractions refuses what pgx would cut off: a number with a fraction for a column of whole numbers. The column may have
// been one of fractions for this tenant, which describing the statement anew tells.
func checkFractions(oids []uint32, args []any) error {
	for i, oid := range oids {
		if oid != pgtype.Int2OID && oid != pgtype.Int4OID && oid != pgtype.Int8OID {
			continue
		}
		v := reflect.ValueOf(args[i])
		for v.Kind() == reflect.Pointer && !v.IsNil() {
			v = v.Elem()
		}
		if v.CanFloat() && v.Float() != math.Trunc(v.Float()) {
			return fmt.Errorf("failed to encode args[%d]: %v is not a whole number", i, v.Float())
		}
	}
	return nil
}
