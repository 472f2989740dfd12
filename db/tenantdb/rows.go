package tenantdb

import (
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
)

// Rows are the result of a query. They own their lease until they are closed, which reading to the end does by itself. Like
// all pgx.Rows they are not safe for concurrent use.
type Rows struct {
	pgx.Rows // reads the result
	finish   func(tag pgconn.CommandTag, err error) error
	err      error
	closed   bool
}

// Close reads what is left, waits for the server to confirm the commit and gives the connection back. It may be called again.
func (r *Rows) Close() {
	if r.closed {
		return
	}
	r.closed = true
	r.Rows.Close()
	r.err = r.finish(r.CommandTag(), r.Rows.Err())
}

// Err returns what went wrong, once the rows are closed: while reading, or at the commit.
func (r *Rows) Err() error {
	if r.closed {
		return r.err
	}
	return r.Rows.Err()
}

// Next goes to the next row. It closes the rows when there is none.
func (r *Rows) Next() bool {
	if r.closed {
		return false
	}
	if r.Rows.Next() {
		return true
	}
	r.Close()
	return false
}

// Scan reads the current row. An error closes the rows.
func (r *Rows) Scan(dest ...any) error {
	err := r.Rows.Scan(dest...)
	if err != nil {
		r.Close()
	}
	return err
}

// Values returns the current row decoded. An error closes the rows.
func (r *Rows) Values() ([]any, error) {
	values, err := r.Rows.Values()
	if err != nil {
		r.Close()
	}
	return values, err
}

// Conn returns nil: a connection is not handed out, since what is done on it directly is in no tenant.
func (r *Rows) Conn() *pgx.Conn { return nil }

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

// errRows are rows that were never there.
type errRows struct{ err error }

func failedRows(err error) pgx.Rows { return errRows{err} }

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

// unexpected is the error for an answer that the protocol does not allow here.
func unexpected(got any) error {
	return fmt.Errorf("tenantdb: unexpected answer %T from the server", got)
}
