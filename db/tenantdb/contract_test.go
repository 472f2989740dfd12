package tenantdb_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/db/tenantdb"
	"github.com/leasehold-go/leasehold/internal/pgtest"
)

func superConn(t *testing.T, f *fleet) *pgx.Conn {
	t.Helper()
	return pgtest.Connect(t, pgtest.SuperURL(t, f.url))
}

// What pgx promises its callers holds here too, inside and outside of a transaction.
func TestThePgxContract(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	db := f.open(t, tenantdb.Config{MaxConns: 2})
	ctx := f.ctx(t, 0)
	check := func(t *testing.T, q querier, savepoint func(func(q querier) error) error) {
		t.Helper()
		type item struct {
			ID    int
			Owner string
		}
		rows, err := q.Query(ctx, "SELECT id, owner FROM items WHERE id = ANY(@ids) ORDER BY id", pgx.NamedArgs{"ids": []int{1, 2}})
		if err != nil {
			t.Fatal(err)
		}
		if got := rows.FieldDescriptions(); len(got) != 2 || got[1].Name != "owner" {
			t.Errorf("fields %v", got)
		}
		items, err := pgx.CollectRows(rows, pgx.RowToStructByName[item])
		if diff := cmp.Diff([]item{{1, "co-0"}, {2, "co-0"}}, items); err != nil || diff != "" {
			t.Errorf("%v %s", err, diff)
		}
		if tag := rows.CommandTag(); tag.String() != "SELECT 2" {
			t.Errorf("tag %s", tag)
		}
		var n int
		if err := q.QueryRow(ctx, "SELECT id FROM items WHERE id = -1").Scan(&n); !errors.Is(err, pgx.ErrNoRows) {
			t.Errorf("got %v, want ErrNoRows", err)
		}
		for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeCacheStatement, pgx.QueryExecModeCacheDescribe,
			pgx.QueryExecModeDescribeExec, pgx.QueryExecModeExec} {
			var owner string
			if err := q.QueryRow(ctx, "SELECT owner FROM items WHERE id = $1", mode, 1).Scan(&owner); err != nil || owner != "co-0" {
				t.Errorf("%s: %q, %v", mode, owner, err)
			}
		}
		for _, format := range []int16{pgx.TextFormatCode, pgx.BinaryFormatCode} {
			rows, err := q.Query(ctx, "SELECT id FROM items WHERE id = $1", pgx.QueryResultFormats{format}, 1)
			if err != nil {
				t.Fatal(err)
			}
			if got := rows.FieldDescriptions()[0].Format; got != format {
				t.Errorf("format %d, want %d", got, format)
			}
			rows.Close()
		}
		if _, err := q.Exec(ctx, "SELECT $1::int", "not a number", "too many"); err == nil {
			t.Error("two arguments for one parameter were accepted")
		}
		if err := q.QueryRow(ctx, "SELECT $1::int", struct{}{}).Scan(&n); err == nil {
			t.Error("an argument that cannot be encoded was accepted")
		}
		if err := q.QueryRow(ctx, "SELECT owner FROM items LIMIT 1").Scan(&n); err == nil {
			t.Error("text was scanned into an int")
		}
		err = savepoint(func(q querier) error {
			_, err := q.Exec(ctx, "SELECT id, nonsense FROM items")
			return err
		})
		wantCode(t, err, "42703")
		if pgErr := (*pgconn.PgError)(nil); !errors.As(err, &pgErr) || pgErr.Position != 12 {
			t.Errorf("position %v, want 12", err)
		}
	}
	t.Run("call", func(t *testing.T) {
		check(t, db, func(f func(querier) error) error { return f(db) })
	})
	t.Run("bound", func(t *testing.T) {
		check(t, db.For(f.tenants[0]), func(run func(querier) error) error { return run(db.For(f.tenants[0])) })
	})
	t.Run("transaction", func(t *testing.T) {
		err := pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
			check(t, tx, func(run func(querier) error) error {
				return pgx.BeginFunc(ctx, tx, func(inner pgx.Tx) error { return run(inner) })
			})
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
}

func TestBatchResultsComeInOrder(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	db := f.open(t, tenantdb.Config{MaxConns: 1})
	ctx := f.ctx(t, 0)
	for range 3 {
		var b pgx.Batch
		b.Queue("UPDATE items SET qty = $1 WHERE id = 1", 42)
		b.Queue("SELECT qty FROM items WHERE id = 1")
		b.Queue("SELECT id FROM items ORDER BY id")
		b.Queue("SELECT @n::int", pgx.NamedArgs{"n": 6})
		br := db.SendBatch(ctx, &b)
		if tag, err := br.Exec(); err != nil || tag.RowsAffected() != 1 {
			t.Fatalf("%v, %v", tag, err)
		}
		var qty, n int
		if err := br.QueryRow().Scan(&qty); err != nil || qty != 42 {
			t.Fatalf("%d, %v", qty, err)
		}
		rows, err := br.Query()
		if err != nil {
			t.Fatal(err)
		}
		ids, err := pgx.CollectRows(rows, pgx.RowTo[int])
		if diff := cmp.Diff([]int{1, 2, 3, 4, 5}, ids); err != nil || diff != "" {
			t.Fatalf("%v %s", err, diff)
		}
		if err := br.QueryRow().Scan(&n); err != nil || n != 6 {
			t.Fatalf("%d, %v", n, err)
		}
		if _, err := br.Exec(); err == nil {
			t.Error("a fifth result of four queries")
		}
		if err := br.Close(); err != nil {
			t.Fatal(err)
		}
	}

	var calls []string
	var b pgx.Batch
	b.Queue("UPDATE items SET qty = 1").Exec(func(tag pgconn.CommandTag) error {
		calls = append(calls, tag.String())
		return nil
	})
	b.Queue("SELECT 1/0").QueryRow(func(row pgx.Row) error {
		calls = append(calls, "second")
		var n int
		return row.Scan(&n)
	})
	b.Queue("SELECT 1").Query(func(pgx.Rows) error {
		calls = append(calls, "third")
		return nil
	})
	wantCode(t, db.SendBatch(ctx, &b).Close(), "22012")
	if diff := cmp.Diff([]string{"UPDATE 5", "second"}, calls); diff != "" {
		t.Error(diff)
	}
	var qty int
	if err := db.QueryRow(ctx, "SELECT qty FROM items WHERE id = 1").Scan(&qty); err != nil || qty != 42 {
		t.Errorf("qty %d, %v: the batch was not all or nothing", qty, err)
	}
	if err := db.SendBatch(ctx, &pgx.Batch{}).Close(); err != nil {
		t.Errorf("an empty batch: %v", err)
	}
	b = pgx.Batch{}
	b.Queue("SELECT $1::int", 1)
	b.Queue("SELECT $1::int", struct{}{})
	if err := db.SendBatch(ctx, &b).Close(); err == nil {
		t.Error("an argument that cannot be encoded was accepted")
	}
	if created := db.Stat().Created; created != 1 {
		t.Errorf("%d connections were made: an error of the client cost one", created)
	}
}

// Neither side may wait for the other to read: more is sent here than any socket holds, and more is answered.
func TestALargeBatchIsSentAndReadAtOnce(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	db := f.open(t, tenantdb.Config{MaxConns: 1})
	var b pgx.Batch
	const n = 60_000
	seen := 0
	for range n {
		b.Queue("SELECT repeat('x', 1000)").QueryRow(func(row pgx.Row) error {
			var s string
			if err := row.Scan(&s); err != nil || len(s) != 1000 {
				return fmt.Errorf("%d bytes: %w", len(s), err)
			}
			seen++
			return nil
		})
	}
	if err := db.SendBatch(f.ctx(t, 0), &b).Close(); err != nil || seen != n {
		t.Fatalf("%d of %d results, %v", seen, n, err)
	}
	if err := db.Ping(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestCopyFromIsAllOrNothing(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	db := f.open(t, tenantdb.Config{MaxConns: 1})
	n, err := db.CopyFrom(f.ctx(t, 0), pgx.Identifier{"items"}, []string{"id", "qty"}, pgx.CopyFromRows([][]any{{100, 1}, {101, 2}}))
	if err != nil || n != 2 {
		t.Fatalf("%d, %v", n, err)
	}
	_, err = db.CopyFrom(f.ctx(t, 0), pgx.Identifier{"items"}, []string{"id"}, pgx.CopyFromRows([][]any{{102}, {1}}))
	wantCode(t, err, "23505")
	for i, want := range []int{rowsPerTenant + 2, rowsPerTenant} {
		var count int
		if err := db.QueryRow(f.ctx(t, i), "SELECT count(*) FROM items").Scan(&count); err != nil || count != want {
			t.Errorf("tenant %d has %d rows, %v; want %d", i, count, err, want)
		}
	}
}

// traced is a tracer that notes what it is told.
type traced struct{ events *[]string }

func (tr traced) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	tr.note(ctx, "start "+data.SQL)
	return context.WithValue(ctx, traced{}, data.SQL)
}

func (tr traced) TraceQueryEnd(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryEndData) {
	tr.note(ctx, "end "+ctx.Value(traced{}).(string)+" "+data.CommandTag.String())
}

func (tr traced) note(ctx context.Context, event string) {
	slug := tenant.Slug("nobody")
	if tn, err := tenant.FromContext(ctx); err == nil {
		slug = tn.Slug
	}
	*tr.events = append(*tr.events, string(slug)+": "+event)
}

func TestTracersSeeTheCallersStatementOnce(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	var events []string
	cc := f.connConfig(t)
	cc.Tracer = traced{&events}
	db := f.open(t, tenantdb.Config{ConnConfig: cc, MaxConns: 1})
	if _, err := db.For(f.tenants[0]).Exec(t.Context(), "UPDATE items SET qty = $1", 1); err != nil {
		t.Fatal(err)
	}
	err := db.InTx(f.ctx(t, 0), func(tx pgx.Tx) error {
		_, err := tx.Exec(f.ctx(t, 0), "SELECT 1/0")
		return err
	})
	wantCode(t, err, "22012")
	want := []string{"co-0: start UPDATE items SET qty = $1", "co-0: end UPDATE items SET qty = $1 UPDATE 5",
		"co-0: start SELECT 1/0", "co-0: end SELECT 1/0 "}
	if diff := cmp.Diff(want, events); diff != "" {
		t.Error(diff)
	}
}
