package tenantdb

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
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
		if q.sql, q.args, err = rewriter.RewriteQuery(c.ctx, c.lease.session.conn, sql, args); err != nil {
			return q, fmt.Errorf("rewrite query failed: %w", err)
		}
	}
	return q, nil
}

// query runs one statement up to its first row. On error the call is over.
func (c call) query(sql string, args []any) (*Rows, error) {
	handedOver := false
	defer c.rescue(&handedOver)
	if tr := c.lease.e.tracer.query; tr != nil {
		c.ctx = tr.TraceQueryStart(c.ctx, c.lease.session.conn, pgx.TraceQueryStartData{SQL: sql, Args: args})
	}
	f, rr, err := c.start(sql, args)
	handedOver = true
	if err != nil {
		return nil, c.end(pgconn.CommandTag{}, err)
	}
	return &Rows{
		Rows: pgx.RowsFromResultReader(c.lease.session.conn.TypeMap(), rr),
		finish: func(tag pgconn.CommandTag, err error) error {
			if landErr := f.land(); err == nil {
				err = landErr
			}
			return c.end(tag, err)
		},
	}, nil
}

// rescue gives the connection back when code of the caller's (a rewriter, an argument's own encoding) panics before
// anybody else answers for the lease.
func (c *call) rescue(handedOver *bool) {
	if !*handedOver && c.tx == nil {
		c.lease.release(c.ctx)
	}
}

// end closes the books of a call whose flight has landed: it looks at the state in which the connection is, tells the tracer
// and gives the connection back.
func (c *call) end(tag pgconn.CommandTag, err error) error {
	err = c.settle(err)
	if tr := c.lease.e.tracer.query; tr != nil {
		tr.TraceQueryEnd(c.ctx, c.lease.session.conn, pgx.TraceQueryEndData{CommandTag: tag, Err: err})
	}
	if c.tx == nil {
		c.lease.release(c.ctx)
	}
	return err
}

// settle checks that the call has neither opened nor ended a transaction behind our back.
func (c *call) settle(err error) error {
	idle := c.lease.pg.TxStatus() == txIdle
	switch {
	case c.lease.pg.IsClosed() || c.lease.pg.IsBusy():
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

// start sends the statement, once more if the server says that what we know of it is out of date, and reads up to the first
// row. On error the flight has landed.
func (c *call) start(sql string, args []any) (*flight, *pgconn.ResultReader, error) {
	q, err := c.parse(sql, args)
	if err != nil {
		return nil, nil, err
	}
	anew := false
	for {
		desc, sure, err := c.describe(q, anew)
		if err != nil {
			return nil, nil, err
		}
		if err := c.encode(&c.lease.args, q, desc); err != nil {
			if sure {
				return nil, nil, err
			}
			anew = true // the types were another tenant's
			continue
		}
		f, rr, err := c.fly(q, desc, sure)
		if err == nil {
			return f, rr, nil
		}
		if anew || !c.mayRepeat(desc, sure, err) {
			return nil, nil, err
		}
		anew = true
	}
}

// mayRepeat reports whether a failed statement is to be described anew and sent again. It is, if the error is one that an
// outdated description causes, and if sending again is safe: outside a transaction every error of the server has undone
// the whole flight, unless the statement is one that can commit by itself.
func (c *call) mayRepeat(desc *description, sure bool, err error) bool {
	if c.tx != nil || desc == nil || desc.class == procedural || c.lease.pg.IsClosed() {
		return false
	}
	return planIsStale(err) || typesDisagree(err) && (!sure || c.outdated(desc, err))
}

// outdated reports whether a description that did fit this tenant can have been overtaken by a migration.
func (c *call) outdated(desc *description, err error) bool {
	var pgErr *pgconn.PgError
	return asPgError(err, &pgErr) && pgErr.Code == codeProtocolViolation && len(desc.fields) > 0
}

// describe returns what is known of a statement, and whether that is sure to fit this tenant. What is not known is asked,
// which takes a round trip; anew asks in any case. It returns nil for a statement that is to travel undescribed.
func (c *call) describe(q query, anew bool) (desc *description, sure bool, err error) {
	if q.undescribed {
		return nil, true, checkClass(classify(q.sql), q.sql, c.tx != nil)
	}
	if !anew {
		if desc, sure = c.known(q.sql); desc != nil {
			return desc, sure, checkClass(desc.class, q.sql, c.tx != nil)
		}
	}
	class := classify(q.sql)
	if err := checkClass(class, q.sql, c.tx != nil); err != nil {
		return nil, false, err
	}
	sds, err := c.ask(q.sql)
	if err != nil {
		return nil, false, err
	}
	desc = newDescription(sds[0], class)
	c.remember(q.sql, desc)
	return desc, true, nil
}

// known returns a description without asking. Another tenant's will do only outside a transaction, where finding it wrong
// costs nothing.
func (c *call) known(sql string) (desc *description, sure bool) {
	if desc := c.scope.own.get(sql); desc != nil {
		return desc, true
	}
	if c.tx == nil {
		return c.lease.e.shared.get(sql), false
	}
	return nil, false
}

func (c *call) remember(sql string, desc *description) {
	c.scope.own.put(sql, desc)
	if desc.universal() {
		c.lease.e.shared.put(sql, desc)
	}
}

// ask has the server describe statements, in one flight.
func (c *call) ask(sqls ...string) ([]*pgconn.StatementDescription, error) {
	f := c.newFlight()
	for _, sql := range sqls {
		f.p.SendPrepare("", sql, nil)
	}
	if err := f.depart(); err != nil {
		f.abandon()
		return nil, err
	}
	sds := make([]*pgconn.StatementDescription, len(sqls))
	for i := range sds {
		if err := expect(f.p, &sds[i]); err != nil {
			f.abandon()
			return nil, err
		}
	}
	return sds, f.land()
}

func (c *call) newFlight() *flight {
	sc := c.scope
	if c.tx != nil {
		sc = nil
	}
	return newFlight(c.ctx, c.lease.session, sc, c.lease.e.pooled.Load())
}

// encode writes the arguments into b and chooses the formats of the result.
func (c *call) encode(b *pgx.ExtendedQueryBuilder, q query, desc *description) error {
	var sd *pgconn.StatementDescription
	if desc != nil {
		if len(desc.params) != len(q.args) {
			return fmt.Errorf("expected %d arguments, got %d", len(desc.params), len(q.args))
		}
		sd = desc.statement("", q.sql)
	}
	if err := b.Build(c.lease.session.conn.TypeMap(), sd, q.args); err != nil {
		return err
	}
	switch {
	case q.formats != nil:
		b.ResultFormats = append(b.ResultFormats[:0], q.formats...)
	case q.byOID != nil && desc != nil:
		b.ResultFormats = b.ResultFormats[:0]
		for i := range desc.fields {
			b.ResultFormats = append(b.ResultFormats, q.byOID[desc.fields[i].DataTypeOID])
		}
	}
	return nil
}

// fly sends the encoded statement and reads up to the first row. On error the flight has landed.
func (c *call) fly(q query, desc *description, sure bool) (*flight, *pgconn.ResultReader, error) {
	f := c.newFlight()
	sh := f.ship(statementKey{c.scope, q.sql}, desc, sure, false)
	f.send(sh, &c.lease.args)
	if err := f.depart(); err != nil {
		f.abandon()
		return nil, nil, err
	}
	rr, err := f.receive(sh)
	if err != nil {
		f.abandon()
		return nil, nil, err
	}
	if desc != nil && !sure {
		c.scope.own.put(q.sql, &description{params: desc.params, fields: cloneFields(rr.FieldDescriptions()), class: desc.class})
	}
	return f, rr, nil
}

// cloneFields copies what pgconn will overwrite.
func cloneFields(fields []pgconn.FieldDescription) []pgconn.FieldDescription {
	return append([]pgconn.FieldDescription(nil), fields...)
}
