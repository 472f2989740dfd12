package tenantdb

import (
	"errors"
	"fmt"
	"reflect"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/jackc/pgx/v5/pgtype"
)

// Rows are the result of a query, read from the connection as they are asked for. They own their lease until they are
// closed, which reading to the end does by itself. Like all pgx.Rows they are not safe for concurrent use.
type Rows struct {
	call
	flight   flight
	shipment shipment
	// sent says that the scope was set and the statement is being answered.
	sent bool
	// batch is set for one result of several: the flight is the batch's, and its end too.
	batch *batchResults
	index int

	values [][]byte // nil between rows; valid until the next message
	tag    pgconn.CommandTag
	err    error
	// ended says that the result is read to its end or has failed; closed, that the call is over too.
	ended, closed bool
	planned       bool
}

var _ pgx.Rows = (*Rows)(nil)

// current returns the flight that the rows are read from.
func (r *Rows) current() *flight {
	if r.batch != nil {
		return &r.batch.flight
	}
	return &r.flight
}

// read goes to the next row, or to the end of the result.
func (r *Rows) read() bool {
	if r.ended {
		return false
	}
	r.values = nil
	f := r.current()
	msg, err := f.next()
	if err != nil {
		r.fail(err)
		return false
	}
	switch msg := msg.(type) {
	case *pgproto3.DataRow:
		r.values = msg.Values
		if len(r.values) == len(r.shipment.fields) {
			return true
		}
		r.fail(f.breakOff(fmt.Errorf("tenantdb: a row of %d values for %d columns", len(r.values), len(r.shipment.fields))))
	case *pgproto3.CommandComplete:
		r.tag, r.ended = pgconn.NewCommandTag(string(msg.CommandTag)), true
	case *pgproto3.EmptyQueryResponse:
		r.ended = true
	default:
		r.fail(f.unexpected(msg))
	}
	return false
}

// fail notes the first error. The result is over with an error of the connection, not with one of scanning.
func (r *Rows) fail(err error) {
	if r.err == nil {
		r.err = err
	}
	if r.current().over {
		r.ended = true
	}
}

// Next goes to the next row. It closes the rows when there is none.
func (r *Rows) Next() bool {
	if r.closed {
		return false
	}
	if r.read() {
		return true
	}
	r.Close()
	return false
}

// Close reads what is left, waits for the server to confirm the commit and gives the connection back. It may be called again.
func (r *Rows) Close() {
	if r.closed {
		return
	}
	r.closed = true
	for !r.ended {
		r.read()
	}
	r.values = nil
	if r.batch != nil {
		if r.index == len(r.batch.shipments)-1 { // the last result is a success only when the commit is
			if err := r.batch.flight.land(); r.err == nil {
				r.err = err
			}
		}
		r.err = r.batch.done(r.index, r.tag, r.err)
		return
	}
	if err := r.flight.land(); r.err == nil {
		r.err = err
	}
	r.err = r.end(r.tag, r.err)
}

// Err returns what went wrong: while reading, while scanning or, once the rows are closed, at the commit.
func (r *Rows) Err() error { return r.err }

// CommandTag returns the tag of the statement once the rows are closed.
func (r *Rows) CommandTag() pgconn.CommandTag { return r.tag }

// FieldDescriptions returns the columns. They must not be changed.
func (r *Rows) FieldDescriptions() []pgconn.FieldDescription { return r.shipment.fields }

// RawValues returns the current row as it came. It is valid until the next call of Next or Close.
func (r *Rows) RawValues() [][]byte { return r.values }

// TypeMap returns the map of types that the rows are read with. It knows built-in types only, because it serves all tenants.
func (r *Rows) TypeMap() *pgtype.Map { return r.lease.reads }

// Conn returns nil: a connection is not handed out, since what is done on it directly is in no tenant.
func (r *Rows) Conn() *pgx.Conn { return nil }

// Scan reads the current row. An error closes the rows.
func (r *Rows) Scan(dest ...any) error {
	err := r.scan(dest)
	if err != nil {
		r.fail(err)
		r.Close()
	}
	return err
}

var errNoRow = errors.New("tenantdb: there is no current row; call Next first")

func (r *Rows) scan(dest []any) error {
	if r.values == nil && len(r.shipment.fields) > 0 {
		return errNoRow
	}
	if len(dest) == 1 {
		if scanner, ok := dest[0].(pgx.RowScanner); ok {
			return scanner.ScanRow(r)
		}
	}
	fields := r.shipment.fields
	if len(fields) != len(dest) {
		return fmt.Errorf("number of field descriptions must equal number of destinations, got %d and %d", len(fields), len(dest))
	}
	// A type that appears twice in a row is planned for once. The plans lie in the session, which has one reader at a time.
	s := r.lease.session
	if !r.planned {
		s.plans, s.types = s.plans[:0], s.types[:0]
		r.planned = true
	}
	for i, d := range dest {
		if i >= len(s.types) {
			s.plans, s.types = append(s.plans, nil), append(s.types, nil)
		}
		if d == nil {
			continue
		}
		if t := reflect.TypeOf(d); s.types[i] != t {
			s.plans[i], s.types[i] = s.reads.PlanScan(fields[i].DataTypeOID, fields[i].Format, d), t
		}
		if err := s.plans[i].Scan(r.values[i], d); err != nil {
			return pgx.ScanArgError{ColumnIndex: i, FieldName: fields[i].Name, Err: err}
		}
	}
	return nil
}

// Values returns the current row decoded: columns of types that the map does not know as text, or as bytes if they came in
// binary. An error closes the rows.
func (r *Rows) Values() ([]any, error) {
	if r.values == nil && len(r.shipment.fields) > 0 {
		return nil, errNoRow
	}
	values := make([]any, len(r.values))
	for i, raw := range r.values {
		v, err := decode(r.lease.reads, &r.shipment.fields[i], raw)
		if err != nil {
			r.fail(err)
			r.Close()
			return nil, err
		}
		values[i] = v
	}
	return values, nil
}

func decode(m *pgtype.Map, field *pgconn.FieldDescription, raw []byte) (any, error) {
	if raw == nil {
		return nil, nil
	}
	if t, ok := m.TypeForOID(field.DataTypeOID); ok {
		return t.Codec.DecodeValue(m, field.DataTypeOID, field.Format, raw)
	}
	if field.Format == pgx.TextFormatCode {
		return string(raw), nil
	}
	return append([]byte{}, raw...), nil
}

// row is a pgx.Row on rows.
type row struct{ rows pgx.Rows }

func (r row) Scan(dest ...any) error {
	defer r.rows.Close()
	if err := r.rows.Err(); err != nil {
		return err
	}
	for _, d := range dest {
		if _, ok := d.(*pgtype.DriverBytes); ok {
			return errors.New("tenantdb: a *pgtype.DriverBytes points into a buffer that is gone after QueryRow; use Query")
		}
	}
	if !r.rows.Next() {
		if err := r.rows.Err(); err != nil {
			return err
		}
		return pgx.ErrNoRows
	}
	if err := r.rows.Scan(dest...); err != nil {
		return err
	}
	r.rows.Close() // waits for the commit
	return r.rows.Err()
}

// asTag is what Exec makes of a query.
func asTag(rows *Rows, err error) (pgconn.CommandTag, error) {
	if err != nil {
		return pgconn.CommandTag{}, err
	}
	rows.Close()
	return rows.CommandTag(), rows.Err()
}

// asRows is what Query makes of a query: rows are never nil.
func asRows(rows *Rows, err error) (pgx.Rows, error) {
	if err != nil {
		return errRows{err}, err
	}
	return rows, nil
}

// asRow is what QueryRow makes of a query: the error waits for Scan.
func asRow(rows *Rows, err error) pgx.Row {
	if err != nil {
		return row{errRows{err}}
	}
	return row{rows}
}

// errRows are rows that were never there.
type errRows struct{ err error }

func (r errRows) Close()                                       {}
func (r errRows) Err() error                                   { return r.err }
func (r errRows) CommandTag() pgconn.CommandTag                { return pgconn.CommandTag{} }
func (r errRows) FieldDescriptions() []pgconn.FieldDescription { return nil }
func (r errRows) Next() bool                                   { return false }
func (r errRows) Scan(...any) error                            { return r.err }
func (r errRows) Values() ([]any, error)                       { return nil, r.err }
func (r errRows) RawValues() [][]byte                          { return nil }
func (r errRows) TypeMap() *pgtype.Map                         { return nil }
func (r errRows) Conn() *pgx.Conn                              { return nil }
