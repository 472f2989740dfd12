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

// misfit is a statement that the first tenant has made known, and whose description does not fit the second one.
const misfit = "UPDATE items SET qty = qty + $1 WHERE id = $2"

// openMisfit opens two tenants through connections that wrap makes, which set failed when the guard has failed.
func openMisfit(t *testing.T, wrap func(conn net.Conn, failed *atomic.Bool) net.Conn) (*fleet, *tenantdb.DB) {
	t.Helper()
	f := newFleet(t, 2)
	f.admin(t, 1, "ALTER TABLE items ALTER qty TYPE bigint")
	db := openWrapped(t, f, wrap)
	if _, err := db.Exec(f.ctx(t, 0), misfit, 1, 1); err != nil {
		t.Fatal(err)
	}
	return f, db
}

// openWrapped opens f through one connection that wrap makes, which must come to set failed.
func openWrapped(t *testing.T, f *fleet, wrap func(conn net.Conn, failed *atomic.Bool) net.Conn) *tenantdb.DB {
	t.Helper()
	cc := f.connConfig(t)
	dial := cc.DialFunc
	failed := new(atomic.Bool)
	cc.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return wrap(conn, failed), nil
	}
	t.Cleanup(func() {
		if !failed.Load() {
			t.Error("the error that was waited for has not come: the test does not test")
		}
	})
	return f.open(t, tenantdb.Config{ConnConfig: cc, MaxConns: 1})
}

// The error by which the engine tells itself that a description does not fit is not the caller's, also when the connection is
// lost with it.
func TestTheGuardsErrorIsNotTheCallers(t *testing.T) {
	t.Parallel()
	f, db := openMisfit(t, func(conn net.Conn, failed *atomic.Bool) net.Conn {
		return &cutAfterError{conn, "22012", failed}
	})
	_, err := db.Exec(f.ctx(t, 1), misfit, 1, 1)
	var pgErr *pgconn.PgError
	if err == nil || errors.As(err, &pgErr) {
		t.Errorf("got %v, want that the connection is gone; the statement divides nothing", err)
	}
}

// Where the way back to the transaction is cut off, the caller is told by what.
func TestAMisfitThatCannotBeUndoneSaysWhy(t *testing.T) {
	t.Parallel()
	f, db := openMisfit(t, func(conn net.Conn, failed *atomic.Bool) net.Conn { return &muteAfterError{conn, failed} })
	tx, err := db.Begin(f.ctx(t, 1))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(t.Context()) }()
	if _, err = tx.Exec(f.ctx(t, 1), misfit, 1, 1); !errors.Is(err, os.ErrDeadlineExceeded) {
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

// cutAfterError loses the connection after the first error of a code.
type cutAfterError struct {
	net.Conn
	code string
	cut  *atomic.Bool
}

func (c *cutAfterError) Read(b []byte) (int, error) {
	if c.cut.Load() {
		return 0, io.EOF
	}
	n, err := c.Conn.Read(b)
	if bytes.Contains(b[:n], []byte("C"+c.code+"\x00")) {
		c.cut.Store(true)
		if ready := bytes.LastIndex(b[:n], []byte("Z\x00\x00\x00\x05")); ready >= 0 {
			n = ready
		}
	}
	return n, err
}

// A statement whose plan was out of date would have been sent again. If the connection is lost, the caller is told that, and not the
// error of the plan alone, which is none of the caller's.
func TestAStalePlanWhoseConnectionIsLostSaysSo(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	db := openWrapped(t, f, func(conn net.Conn, failed *atomic.Bool) net.Conn {
		if failed.Load() {
			return conn
		}
		return &cutAfterError{conn, "0A000", failed}
	})
	read := func() error {
		var qty int64
		return db.QueryRow(f.ctx(t, 0), "SELECT qty FROM items WHERE id = $1", 1).Scan(&qty)
	}
	for range 3 { // it gets a name
		if err := read(); err != nil {
			t.Fatal(err)
		}
	}
	f.admin(t, 0, "ALTER TABLE items ALTER qty TYPE bigint")
	if err := read(); !errors.Is(err, pgconn.ErrConnClosed) {
		t.Errorf("got %v (%T), want pgconn.ErrConnClosed", err, err)
	}
	if err := read(); err != nil {
		t.Errorf("the next one: %v", err)
	}
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
