package tenantdb_test

import (
	"context"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/db/tenantdb"
)

const (
	streamRows  = 20_000
	streamWidth = 10_000 // bytes; 200 MB in all
	// streamHeap is how much more may be live in the client while it streams: the buffers of a connection, with room to spare.
	streamHeap = 16 << 20
)

// heapGrowth returns a function that says by how many bytes the live heap has grown.
func heapGrowth() func() int64 {
	live := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := live()
	return func() int64 { return live() - before }
}

// awaitState waits until the server says of the fleet's only connection in use that it is in the given state.
func awaitState(ctx context.Context, t *testing.T, super *pgx.Conn, login, condition string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		var found bool
		err := super.QueryRow(ctx, "SELECT count(*) > 0 FROM pg_stat_activity, pg_sleep(0.01) WHERE usename = $1 AND "+condition, login).Scan(&found)
		if err != nil {
			t.Fatalf("the server never said %s: %v", condition, err)
		}
		if found {
			return
		}
	}
}

// cancelledAsleep returns the error of a call that is cancelled once the server runs it: one whose context ends before it is sent
// leaves its transaction as it was.
func cancelledAsleep(ctx context.Context, t *testing.T, f *fleet, q querier) error {
	t.Helper()
	super := superConn(t, f)
	short, cancel := context.WithCancel(ctx)
	defer cancel()
	failed := make(chan error, 1)
	go func() {
		_, err := q.Exec(short, "SELECT pg_sleep(600)")
		failed <- err
	}()
	awaitState(ctx, t, super, f.login, "state = 'active' AND query = 'SELECT pg_sleep(600)'")
	cancel()
	return <-failed
}

// A large result is read as it comes: the client holds one row of it, and the server waits for the client. Not parallel, since the
// heap is everybody's.
func TestALargeResultIsStreamed(t *testing.T) {
	f := newFleet(t, 2)
	super := superConn(t, f)
	db := f.open(t, tenantdb.Config{MaxConns: 2})
	const sql = "SELECT owner, repeat('x', $1) FROM items, generate_series(1, $2) WHERE id = 1"
	read := func(t *testing.T, rows pgx.Rows, err error, atOnce func()) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		defer rows.Close()
		grown := heapGrowth()
		n := 0
		for rows.Next() {
			if owner := rows.RawValues()[0]; string(owner) != "co-0" || len(rows.RawValues()[1]) != streamWidth {
				t.Fatalf("row %d: %d bytes of %s", n, len(rows.RawValues()[1]), owner)
			}
			if n == 0 {
				atOnce()
			}
			if n++; n%4000 == 0 {
				if bytes := grown(); bytes > streamHeap {
					t.Errorf("after %d rows %d bytes more are live", n, bytes)
				}
			}
		}
		if rows.Err() != nil || n != streamRows {
			t.Errorf("%d rows, %v", n, rows.Err())
		}
	}
	waits := func() { awaitState(t.Context(), t, super, f.login, "state = 'active' AND wait_event = 'ClientWrite'") }
	ctx := f.ctx(t, 0)
	for _, what := range []string{"described", "named"} {
		t.Run(what, func(t *testing.T) {
			rows, err := db.Query(ctx, sql, streamWidth, streamRows)
			read(t, rows, err, func() {
				waits()
				mustOwn(t, f.ctx(t, 1), db, f.tenants[1]) // and nobody else waits
			})
		})
	}
	t.Run("transaction", func(t *testing.T) {
		err := db.InTx(ctx, func(tx pgx.Tx) error {
			rows, err := tx.Query(ctx, sql, streamWidth, streamRows)
			read(t, rows, err, waits)
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
	t.Run("batch", func(t *testing.T) {
		var b pgx.Batch
		b.Queue("SELECT 1")
		b.Queue(sql, streamWidth, streamRows)
		br := db.SendBatch(ctx, &b)
		if _, err := br.Exec(); err != nil {
			t.Fatal(err)
		}
		rows, err := br.Query()
		read(t, rows, err, waits)
		if err := br.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Run("given up", func(t *testing.T) {
		ctx, cancel := context.WithCancel(ctx)
		rows, err := db.Query(ctx, sql, streamWidth, streamRows)
		if err != nil || !rows.Next() {
			t.Fatal(err, rows.Err())
		}
		waits()
		grown := heapGrowth()
		cancel()
		rows.Close()
		if rows.Err() == nil {
			t.Error("a result that was given up ended well")
		}
		if bytes := grown(); bytes > streamHeap {
			t.Errorf("%d bytes more are live: the rest was read", bytes)
		}
		awaitState(t.Context(), t, super, f.login, "NOT EXISTS (SELECT FROM pg_stat_activity a WHERE a.usename = $1 AND a.state = 'active')")
		mustOwn(t, f.ctx(t, 1), db, f.tenants[1])
	})
}

// A COPY takes rows as they are made: the server has rows before the source has given the last, and the client holds one.
func TestALargeCopyIsStreamed(t *testing.T) {
	f := newFleet(t, 1)
	f.admin(t, 0, "CREATE UNLOGGED TABLE big (body text)")
	super := superConn(t, f)
	db := f.open(t, tenantdb.Config{MaxConns: 1})
	body := strings.Repeat("x", streamWidth)
	grown := heapGrowth()
	n, seen := 0, int64(0)
	copied, err := db.CopyFrom(f.ctx(t, 0), pgx.Identifier{"big"}, []string{"body"}, pgx.CopyFromFunc(func() ([]any, error) {
		switch n++; {
		case n > streamRows/4:
			return nil, nil
		case n%1000 == 0:
			if bytes := grown(); bytes > streamHeap {
				t.Errorf("after %d rows %d bytes more are live", n, bytes)
			}
			if err := super.QueryRow(t.Context(), "SELECT coalesce(max(tuples_processed), 0) FROM pg_stat_progress_copy WHERE datname = current_database()").Scan(&seen); err != nil {
				return nil, err
			}
		}
		return []any{body}, nil
	}))
	if err != nil || copied != streamRows/4 {
		t.Fatalf("%d rows, %v", copied, err)
	}
	if seen == 0 {
		t.Error("the server had no row before the source had given the last")
	}
}
