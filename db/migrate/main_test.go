package migrate_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/db/migrate"
	"github.com/leasehold-go/leasehold/internal/pgtest"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }

// fleet is a database with a few tenants.
type fleet struct {
	url     string
	conn    *pgx.Conn
	targets []migrate.Target
}

// newFleet makes n tenants, acme0 in schema t_0 and so on.
func newFleet(tb testing.TB, n int) *fleet {
	tb.Helper()
	f := &fleet{url: pgtest.Database(tb)}
	f.conn = pgtest.Connect(tb, f.url)
	for i := range n {
		f.targets = append(f.targets, f.target(tb, fmt.Sprintf("acme%d", i), fmt.Sprintf("t_%d", i)))
		f.exec(tb, fmt.Sprintf("CREATE SCHEMA t_%d", i))
	}
	return f
}

func (f *fleet) target(tb testing.TB, name, schema string) migrate.Target {
	tb.Helper()
	config, err := pgx.ParseConfig(f.url)
	if err != nil {
		tb.Fatal(err)
	}
	return migrate.Target{Name: name, Schema: schema, Conn: config}
}

func (f *fleet) exec(tb testing.TB, sql string) {
	tb.Helper()
	if _, err := f.conn.Exec(tb.Context(), sql); err != nil {
		tb.Fatalf("%s: %v", sql, err)
	}
}

func (f *fleet) strings(tb testing.TB, sql string, args ...any) []string {
	tb.Helper()
	rows, err := f.conn.Query(tb.Context(), sql, args...)
	if err != nil {
		tb.Fatalf("%s: %v", sql, err)
	}
	got, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		tb.Fatalf("%s: %v", sql, err)
	}
	return got
}

func (f *fleet) tables(tb testing.TB, t migrate.Target) []string {
	tb.Helper()
	return f.strings(tb, `select tablename::text from pg_tables where schemaname = $1 order by 1`, t.Schema)
}

// ledger asks as dbmate's own command line does.
func (f *fleet) ledger(tb testing.TB, t migrate.Target) []string {
	tb.Helper()
	return f.strings(tb, `select version from `+t.Schema+`.schema_migrations order by version`)
}

// checkQuiet waits until no session of the package is left in the database, and finds no lock of one.
func (f *fleet) checkQuiet(tb testing.TB) {
	tb.Helper()
	f.exec(tb, `do $$ begin
		for i in 1..500 loop
			perform pg_stat_clear_snapshot();
			exit when not exists (select from pg_stat_activity where datname = current_database() and application_name = 'leasehold migrate');
			perform pg_sleep(0.01);
		end loop; end $$`)
	left := f.strings(tb, `select query from pg_stat_activity where datname = current_database() and application_name = 'leasehold migrate'
		union all select mode from pg_locks where locktype = 'advisory' and database = (select oid from pg_database where datname = current_database())`)
	if len(left) > 0 {
		tb.Errorf("left behind: %v", left)
	}
}

// recorder keeps what is logged, and calls on for each record.
type recorder struct {
	on func(message string)

	mu   sync.Mutex // guards text
	text bytes.Buffer
}

func (r *recorder) logger() *slog.Logger {
	return slog.New(&recorderHandler{r, slog.NewTextHandler(r, &slog.HandlerOptions{Level: slog.LevelDebug})})
}

func (r *recorder) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.Write(p)
}

func (r *recorder) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.String()
}

type recorderHandler struct {
	r *recorder
	slog.Handler
}

func (h *recorderHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &recorderHandler{h.r, h.Handler.WithAttrs(attrs)}
}

func (h *recorderHandler) Handle(ctx context.Context, record slog.Record) error {
	if h.r.on != nil {
		h.r.on(record.Message)
	}
	return h.Handler.Handle(ctx, record)
}
