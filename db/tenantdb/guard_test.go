package tenantdb_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/leasehold-go/leasehold/db/tenantdb"
)

// The error by which the engine tells itself that a description does not fit is not the caller's, also when the connection is
// lost with it.
func TestTheGuardsErrorIsNotTheCallers(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	f.admin(t, 1, "ALTER TABLE items ALTER qty TYPE bigint")
	cc := f.connConfig(t)
	dial := cc.DialFunc
	cut := new(atomic.Bool)
	cc.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		return &cutAfterError{Conn: conn, cut: cut}, err
	}
	db := f.open(t, tenantdb.Config{ConnConfig: cc, MaxConns: 1})
	const sql = "UPDATE items SET qty = qty + $1 WHERE id = $2"
	if _, err := db.Exec(f.ctx(t, 0), sql, 1, 1); err != nil {
		t.Fatal(err)
	}
	_, err := db.Exec(f.ctx(t, 1), sql, 1, 1)
	var pgErr *pgconn.PgError
	if !cut.Load() {
		t.Fatal("the guard has not failed: the test does not test")
	}
	if errors.As(err, &pgErr) {
		t.Errorf("the statement divides nothing: %v", err)
	}
}

// Where the way back to the transaction is cut off, the caller is told by what.
func TestAMisfitThatCannotBeUndoneSaysWhy(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	f.admin(t, 1, "ALTER TABLE items ALTER qty TYPE bigint")
	cc := f.connConfig(t)
	dial := cc.DialFunc
	cut := new(atomic.Bool)
	cc.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		return &muteAfterError{Conn: conn, cut: cut}, err
	}
	db := f.open(t, tenantdb.Config{ConnConfig: cc, MaxConns: 1})
	const sql = "UPDATE items SET qty = qty + $1 WHERE id = $2"
	if _, err := db.Exec(f.ctx(t, 0), sql, 1, 1); err != nil {
		t.Fatal(err)
	}
	tx, err := db.Begin(f.ctx(t, 1))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(t.Context()) }()
	_, err = tx.Exec(f.ctx(t, 1), sql, 1, 1)
	if !cut.Load() {
		t.Fatal("the guard has not failed: the test does not test")
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("got %v, want what stood in the way", err)
	}
}

// muteAfterError sends nothing any more after the first division by zero, as after a deadline.
type muteAfterError struct {
	net.Conn
	cut *atomic.Bool
}

func (c *muteAfterError) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if bytes.Contains(b[:n], []byte("C22012\x00")) {
		c.cut.Store(true)
	}
	return n, err
}

func (c *muteAfterError) Write(b []byte) (int, error) {
	if c.cut.Load() {
		return 0, os.ErrDeadlineExceeded
	}
	return c.Conn.Write(b)
}

// cutAfterError loses the connection after the first division by zero.
type cutAfterError struct {
	net.Conn
	cut *atomic.Bool
}

func (c *cutAfterError) Read(b []byte) (int, error) {
	if c.cut.Load() {
		return 0, io.EOF
	}
	n, err := c.Conn.Read(b)
	if bytes.Contains(b[:n], []byte("C22012\x00")) {
		c.cut.Store(true)
		if ready := bytes.LastIndex(b[:n], []byte("Z\x00\x00\x00\x05")); ready >= 0 {
			n = ready
		}
	}
	return n, err
}

// What comes after the loss of a connection says so as pgx does.
func TestAfterALostConnectionErrorsSaySo(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	db := f.open(t, tenantdb.Config{MaxConns: 1})
	tx, err := db.Begin(f.ctx(t, 0))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(t.Context()) }()
	inner, err := tx.Begin(f.ctx(t, 0))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(f.ctx(t, 0))
	cancel()
	_ = inner.Rollback(ctx) // cut off: the connection is given up
	_, execErr := tx.Exec(f.ctx(t, 0), "SELECT 1")
	if !errors.Is(execErr, pgconn.ErrConnClosed) {
		t.Errorf("Exec: got %v (%T), want pgconn.ErrConnClosed", execErr, execErr)
	}
	if err := tx.Commit(f.ctx(t, 0)); err == nil {
		t.Error("the commit has worked")
	}
}
