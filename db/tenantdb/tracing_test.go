package tenantdb_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/exaring/otelpgx"
	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/db/tenantdb"
)

// recorder is a tracer of everything that notes what it is told, and in which tenant.
type recorder struct {
	mu     sync.Mutex
	events []string // guarded by mu
	next   int      // guarded by mu
}

type recorderKey struct{}

func (r *recorder) note(ctx context.Context, format string, args ...any) {
	slug := "nobody"
	if tn, err := tenant.FromContext(ctx); err == nil {
		slug = string(tn.Slug)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, slug+": "+fmt.Sprintf(format, args...))
}

// start numbers what begins, so that it is seen which start an end belongs to.
func (r *recorder) start(ctx context.Context) context.Context {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.next++
	return context.WithValue(ctx, recorderKey{}, r.next)
}

func (r *recorder) take() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	events := r.events
	r.events, r.next = nil, 0
	return events
}

// begun says whether the context of an end is the one that its start has returned.
func begun(ctx context.Context) bool { _, ok := ctx.Value(recorderKey{}).(int); return ok }

func (r *recorder) TraceQueryStart(ctx context.Context, conn *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	r.note(ctx, "query %s %v, config %v", data.SQL, data.Args, conn.Config() != nil)
	return r.start(ctx)
}

func (r *recorder) TraceQueryEnd(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryEndData) {
	r.note(ctx, "query end %v %s %s", begun(ctx), data.CommandTag, kind(data.Err))
}

func (r *recorder) TraceBatchStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceBatchStartData) context.Context {
	r.note(ctx, "batch of %d", data.Batch.Len())
	return r.start(ctx)
}

func (r *recorder) TraceBatchQuery(ctx context.Context, _ *pgx.Conn, data pgx.TraceBatchQueryData) {
	r.note(ctx, "batch query %v %s %v %s %s, timed %v", begun(ctx), data.SQL, data.Args, data.CommandTag, kind(data.Err), !data.ReadStartTime.IsZero())
}

func (r *recorder) TraceBatchEnd(ctx context.Context, _ *pgx.Conn, data pgx.TraceBatchEndData) {
	r.note(ctx, "batch end %v %s", begun(ctx), kind(data.Err))
}

func (r *recorder) TraceCopyFromStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceCopyFromStartData) context.Context {
	r.note(ctx, "copy %v %v", data.TableName, data.ColumnNames)
	return r.start(ctx)
}

func (r *recorder) TraceCopyFromEnd(ctx context.Context, _ *pgx.Conn, data pgx.TraceCopyFromEndData) {
	r.note(ctx, "copy end %v %s %s", begun(ctx), data.CommandTag, kind(data.Err))
}

// traceCase is a use of which each statement is one event.
type traceCase struct {
	name string
	use  func(ctx context.Context, db verbs)
}

func traceCases() []traceCase {
	exec := func(sql string, args ...any) func(ctx context.Context, db verbs) {
		return func(ctx context.Context, db verbs) { _, _ = db.Exec(ctx, sql, args...) }
	}
	batch := func(queue ...string) func(ctx context.Context, db verbs) {
		return func(ctx context.Context, db verbs) {
			var b pgx.Batch
			for _, sql := range queue {
				b.Queue(sql)
			}
			_ = db.SendBatch(ctx, &b).Close()
		}
	}
	copies := func(table string, rows ...[]any) func(ctx context.Context, db verbs) {
		return func(ctx context.Context, db verbs) {
			_, _ = db.CopyFrom(ctx, pgx.Identifier{table}, []string{"id"}, pgx.CopyFromRows(rows))
			_, _ = db.Exec(ctx, "DELETE FROM items WHERE id >= 100")
		}
	}
	return []traceCase{
		{"Exec", exec("UPDATE items SET qty = $1", 3)},
		{"Exec, no arguments", exec("UPDATE items SET qty = 3")},
		{"Exec, an error", exec("SELECT 1/0")},
		{"Exec, a syntax error", exec("SELEC $1", 1)},
		{"Exec, too many arguments", exec("SELECT $1::int", 1, 2)},
		{"Exec, names", exec("SELECT @a::int", pgx.NamedArgs{"a": 1})},
		{"Exec, a name that is missing", exec("SELECT @a::int", pgx.StrictNamedArgs{})},
		{"Exec, options", exec("SELECT $1::int", pgx.QueryExecModeDescribeExec, 1)},
		{"a comment kept", exec("-- name: Find :one\nSELECT 1", pgx.QueryExecModeExec)},
		{"Query", func(ctx context.Context, db verbs) {
			rows, _ := db.Query(ctx, "SELECT owner FROM items WHERE id < $1", 4)
			_, _ = pgx.CollectRows(rows, pgx.RowTo[string])
		}},
		{"Query, closed early", func(ctx context.Context, db verbs) {
			rows, _ := db.Query(ctx, "SELECT owner FROM items")
			rows.Next()
			rows.Close()
			rows.Close()
		}},
		{"Query, an error on the way", func(ctx context.Context, db verbs) {
			rows, _ := db.Query(ctx, "SELECT 1 / (3 - id) FROM items ORDER BY id")
			_, _ = pgx.CollectRows(rows, pgx.RowTo[int])
		}},
		{"QueryRow", func(ctx context.Context, db verbs) { _ = db.QueryRow(ctx, "SELECT owner FROM items").Scan(new(string)) }},
		{"QueryRow, none", func(ctx context.Context, db verbs) { _ = db.QueryRow(ctx, "SELECT 1 WHERE false").Scan(new(int)) }},
		{"QueryRow, a wrong type", func(ctx context.Context, db verbs) { _ = db.QueryRow(ctx, "SELECT 'x'").Scan(new(int)) }},
		{"batch", batch("UPDATE items SET qty = 3", "SELECT owner FROM items")},
		{"batch, an error", batch("UPDATE items SET qty = 3", "SELECT 1/0", "SELECT 1")},
		{"batch, a syntax error", batch("SELECT 1", "SELEC")},
		{"batch, callbacks", func(ctx context.Context, db verbs) {
			var b pgx.Batch
			b.Queue("SELECT id FROM items").Query(func(rows pgx.Rows) error { rows.Next(); return nil })
			b.Queue("SELECT $1::int", 7).QueryRow(func(row pgx.Row) error { return row.Scan(new(int)) })
			_ = db.SendBatch(ctx, &b).Close()
		}},
		{"copy", copies("items", []any{100}, []any{101})},
		{"copy, nothing", copies("items")},
		{"copy, an error", copies("items", []any{100}, []any{1})},
		{"transaction", func(ctx context.Context, db verbs) {
			_ = pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
				for _, use := range []func(context.Context, verbs){exec("UPDATE items SET qty = $1", 4), batch("SELECT 1"), copies("items", []any{100})} {
					use(ctx, tx)
				}
				return pgx.BeginFunc(ctx, tx, func(inner pgx.Tx) error {
					exec("SELECT nonsense")(ctx, inner)
					return errRollback
				})
			})
		}},
	}
}

// ownWords drops what pgx itself says for a transaction, and the end of a batch that it tells twice: one event for each of the
// caller's statements is left.
func ownWords(events []string) []string {
	var left []string
	for i := 0; i < len(events); i++ {
		if i > 0 && events[i] == events[i-1] && strings.Contains(events[i], ": batch end ") {
			continue
		}
		words := strings.Fields(strings.SplitAfterN(events[i], ": ", 2)[1])
		if words[0] == "query" && slices.Contains([]string{"begin", "commit", "rollback", "savepoint", "release"}, words[1]) {
			i++ // its end
			continue
		}
		left = append(left, events[i])
	}
	return left
}

// openTraced opens the fleet on one connection, with a tracer.
func openTraced(t *testing.T, f *fleet) (*tenantdb.DB, *recorder) {
	t.Helper()
	r := &recorder{}
	cc := f.connConfig(t)
	cc.Tracer = r
	return f.open(t, tenantdb.Config{ConnConfig: cc, MaxConns: 1}), r
}

// Tracers are told what pgx tells them, of the caller's statements and of nothing else, whatever we send: cold, described anew, named.
func TestTracersAreToldWhatPgxTellsThem(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	theirs := &recorder{}
	plain := f.plain(t, 1, pgx.QueryExecModeCacheStatement, theirs)
	db, ours := openTraced(t, f)
	if events := ours.take(); len(events) != 0 {
		t.Errorf("while opening: %q", events)
	}
	ctx := f.ctx(t, 1)
	for _, c := range traceCases() {
		t.Run(c.name, func(t *testing.T) {
			c.use(ctx, plain)
			want := ownWords(theirs.take())
			if len(want) < 2 {
				t.Fatalf("pgx says %q", want)
			}
			for range 3 {
				c.use(ctx, db)
				if diff := cmp.Diff(want, ours.take()); diff != "" {
					t.Errorf("in a context, pgx - and ours +:\n%s", diff)
				}
				c.use(f.ctx(t, 0), db)
				for _, event := range ours.take() {
					if !strings.HasPrefix(event, "co-0: ") {
						t.Errorf("another tenant's event: %s", event)
					}
				}
			}
			c.use(t.Context(), db.For(f.tenants[1]))
			if diff := cmp.Diff(want, ours.take()); diff != "" {
				t.Errorf("bound, pgx - and ours +:\n%s", diff)
			}
		})
	}
}

// What pgx tells in words of its own, or never ends, is told here in the caller's words, and ended.
func TestTracersAreToldTheCallersOwnWords(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	db, ours := openTraced(t, f)
	ctx := f.ctx(t, 0)
	var b pgx.Batch
	b.Queue("SELECT @n::int", pgx.NamedArgs{"n": 8})
	if err := db.SendBatch(ctx, &b).Close(); err != nil {
		t.Error(err)
	}
	want := []string{"co-0: batch of 1", "co-0: batch query true SELECT @n::int [map[n:8]] SELECT 1 none, timed true", "co-0: batch end true none"}
	if diff := cmp.Diff(want, ours.take()); diff != "" {
		t.Error(diff)
	}
	_, err := db.CopyFrom(ctx, pgx.Identifier{"nowhere"}, []string{"id"}, pgx.CopyFromRows(nil))
	wantCode(t, err, "42P01")
	if events := ours.take(); len(events) != 2 || events[0] != "co-0: copy [nowhere] [id]" || !strings.HasPrefix(events[1], "co-0: copy end true ") {
		t.Errorf("a copy to nowhere: %q", events)
	}
}

// A statement that was described anew is one event, without the error that nobody but us has seen.
func TestAStatementThatWasSentTwiceIsOneEvent(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	db, ours := openTraced(t, f)
	const sql = "SELECT qty FROM items WHERE id = 1"
	read := func() {
		t.Helper()
		if err := db.QueryRow(f.ctx(t, 0), sql).Scan(new(int64)); err != nil {
			t.Fatal(err)
		}
		want := []string{"co-0: query " + sql + " [], config true", "co-0: query end true SELECT 1 none"}
		if diff := cmp.Diff(want, ours.take()); diff != "" {
			t.Error(diff)
		}
	}
	for range 3 {
		read()
	}
	f.admin(t, 0, "ALTER TABLE items ALTER qty TYPE bigint")
	read()
}

// A call that is refused before it has a connection is no event: there is nothing that was sent, and no connection to tell of.
func TestACallWithoutTenantIsNoEvent(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	db, ours := openTraced(t, f)
	for _, c := range traceCases() {
		if c.name != "transaction" {
			c.use(t.Context(), db)
		}
	}
	if events := ours.take(); len(events) != 0 {
		t.Errorf("%q", events)
	}
}

// span is what matters of an otel span.
type span struct {
	Name, SQL string
	Failed    bool
	State     string // SQLSTATE
	Parent    string
}

// otelpgx works: one span for each query, batch and copy, with the caller's SQL, below the caller's span, and failed if it failed.
func TestOtelpgxWorks(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	exporter := tracetest.NewInMemoryExporter()
	provider := trace.NewTracerProvider(trace.WithSyncer(exporter))
	t.Cleanup(func() { _ = provider.Shutdown(context.WithoutCancel(t.Context())) })
	cc := f.connConfig(t)
	cc.Tracer = otelpgx.NewTracer(otelpgx.WithTracerProvider(provider), otelpgx.WithIncludeQueryParameters())
	db := f.open(t, tenantdb.Config{ConnConfig: cc, MaxConns: 1})

	spans := func(use func(ctx context.Context)) []span {
		t.Helper()
		exporter.Reset()
		ctx, request := provider.Tracer("test").Start(f.ctx(t, 0), "request")
		use(ctx)
		request.End()
		names := map[any]string{}
		stubs := exporter.GetSpans()
		for _, s := range stubs {
			names[s.SpanContext.SpanID()] = s.Name
		}
		var out []span
		for _, s := range stubs {
			if s.Name == "request" {
				continue
			}
			attrs := attribute.NewSet(s.Attributes...)
			sql, _ := attrs.Value("db.query.text")
			state, _ := attrs.Value("pgx.sql_state")
			if database, ok := attrs.Value("db.namespace"); s.Name != "SELECT" && (!ok || database.AsString() != f.database(t)) && sql.AsString() == "" {
				t.Errorf("%s: the connection is not told: %v", s.Name, s.Attributes)
			}
			out = append(out, span{s.Name, sql.AsString(), s.Status.Code == codes.Error, state.AsString(), names[s.Parent.SpanID()]})
		}
		return out
	}
	for _, c := range []struct {
		name string
		use  func(ctx context.Context)
		want []span
	}{
		{"Exec", func(ctx context.Context) { _, _ = db.Exec(ctx, "UPDATE items SET qty = $1", 1) },
			[]span{{"UPDATE", "UPDATE items SET qty = $1", false, "", "request"}}},
		{"QueryRow", func(ctx context.Context) { _ = checkOwner(ctx, db, f.tenants[0], 1) },
			[]span{{"SELECT", "SELECT owner FROM items WHERE id = $1", false, "", "request"}}},
		{"no row", func(ctx context.Context) { _ = checkOwner(ctx, db, f.tenants[0], -1) },
			[]span{{"SELECT", "SELECT owner FROM items WHERE id = $1", false, "", "request"}}},
		{"error", func(ctx context.Context) { _, _ = db.Exec(ctx, "SELECT 1/0") }, []span{{"SELECT", "SELECT 1/0", true, "22012", "request"}}},
		{"error of the commit", func(ctx context.Context) { _, _ = db.Exec(ctx, "INSERT INTO items (id, parent) VALUES (200, 999)") },
			[]span{{"INSERT", "INSERT INTO items (id, parent) VALUES (200, 999)", true, "23503", "request"}}},
		{"refused", func(ctx context.Context) { _, _ = db.Exec(ctx, "SET role none") }, []span{{"SET", "SET role none", true, "", "request"}}},
		{"batch", func(ctx context.Context) {
			var b pgx.Batch
			b.Queue("SELECT 1")
			b.Queue("SELECT 1/0")
			_ = db.SendBatch(ctx, &b).Close()
		}, []span{{"SELECT", "SELECT 1", false, "", "batch start"}, {"SELECT", "SELECT 1/0", true, "22012", "batch start"}, {"batch start", "", true, "22012", "request"}}},
		{"copy", func(ctx context.Context) {
			_, _ = db.CopyFrom(ctx, pgx.Identifier{"items"}, []string{"id"}, pgx.CopyFromRows([][]any{{300}}))
		}, []span{{`copy_from "items"`, "", false, "", "request"}}},
		{"copy, an error", func(ctx context.Context) {
			_, _ = db.CopyFrom(ctx, pgx.Identifier{"items"}, []string{"id"}, pgx.CopyFromRows([][]any{{1}}))
		}, []span{{`copy_from "items"`, "", true, "23505", "request"}}},
		{"copy, an error of the commit", func(ctx context.Context) {
			_, _ = db.CopyFrom(ctx, pgx.Identifier{"items"}, []string{"id", "parent"}, pgx.CopyFromRows([][]any{{300, 999}}))
		}, []span{{`copy_from "items"`, "", true, "23503", "request"}}},
	} {
		for _, use := range []string{"first", "second"} {
			if diff := cmp.Diff(c.want, spans(c.use)); diff != "" {
				t.Errorf("%s, %s use: %s", c.name, use, diff)
			}
			f.admin(t, 0, "DELETE FROM items WHERE id >= 200")
		}
	}
}
