package history_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/leasehold-go/leasehold/db/migrate"
	"github.com/leasehold-go/leasehold/internal/history"
	"github.com/leasehold-go/leasehold/internal/pgdump"
	"github.com/leasehold-go/leasehold/internal/pgtest"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }

func load(tb testing.TB, fsys fs.FS) *migrate.Set {
	tb.Helper()
	set, err := migrate.Load(fsys, history.Dir)
	if err != nil {
		tb.Fatal(err)
	}
	return set
}

func names(tb testing.TB) []string {
	tb.Helper()
	entries, err := fs.ReadDir(history.Files(), history.Dir)
	if err != nil {
		tb.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// fleet is a database with tenants.
type fleet struct {
	conn    *pgx.Conn
	config  *pgx.ConnConfig
	targets []migrate.Target
}

// newFleet makes n tenants, whose names are as the registry makes them.
func newFleet(tb testing.TB, n int) *fleet {
	tb.Helper()
	url := pgtest.Database(tb)
	config, err := pgx.ParseConfig(url)
	if err != nil {
		tb.Fatal(err)
	}
	f := &fleet{conn: pgtest.Connect(tb, url), config: config}
	for i := range n {
		schema := fmt.Sprintf("t_shop%[1]d_0d3k1m4f2hxxb4q7c8ivn2s0r%[1]d", i)
		f.targets = append(f.targets, migrate.Target{Name: fmt.Sprintf("shop%d", i), Schema: schema, Conn: config})
		f.exec(tb, "CREATE SCHEMA "+schema)
	}
	return f
}

func (f *fleet) exec(tb testing.TB, sql string) {
	tb.Helper()
	if _, err := f.conn.PgConn().Exec(tb.Context(), sql).ReadAll(); err != nil {
		tb.Fatalf("%s: %v", sql, err)
	}
}

// in sets the path of the connection to a tenant's schema, where an application would be.
func (f *fleet) in(tb testing.TB, t migrate.Target, sql string) {
	tb.Helper()
	f.exec(tb, "SET search_path TO "+t.Schema+", pg_temp;"+sql)
}

func (f *fleet) strings(tb testing.TB, t migrate.Target, sql string) []string {
	tb.Helper()
	f.in(tb, t, "")
	rows, err := f.conn.Query(tb.Context(), sql)
	if err != nil {
		tb.Fatal(err)
	}
	got, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		tb.Fatalf("%s: %v", sql, err)
	}
	return got
}

// shape is what the catalogue says of a tenant's schema, one thing a line. What was put back may stand in another order.
func (f *fleet) shape(tb testing.TB, t migrate.Target) []string {
	tb.Helper()
	lines := f.strings(tb, t, shapeQuery)
	for i := range lines {
		lines[i] = strings.ReplaceAll(lines[i], t.Schema+".", "")
	}
	return lines
}

// dump is what pg_dump says of it, or what the catalogue does if there is no pg_dump for this server.
func (f *fleet) dump(tb testing.TB, t migrate.Target) string {
	tb.Helper()
	text, err := pgdump.Schema(tb.Context(), pgdump.Config{Conn: f.config, Schema: t.Schema})
	if errors.Is(err, pgdump.ErrNoProgram) {
		return strings.Join(f.shape(tb, t), "\n")
	}
	if err != nil {
		tb.Fatal(err)
	}
	return string(text)
}

// causes is err with what happened to each target.
func causes(err error) error {
	var failed *migrate.FailedError
	if errors.As(err, &failed) {
		return errors.Join(failed.Unwrap()...)
	}
	return err
}

func (f *fleet) up(tb testing.TB, set *migrate.Set, targets ...migrate.Target) migrate.Report {
	tb.Helper()
	report, err := migrate.New(set, migrate.Config{Workers: 4}).Up(tb.Context(), targets, migrate.Options{})
	if err != nil {
		tb.Fatal(causes(err))
	}
	return report
}

// The story: a fleet is brought through the whole of the history at once, and stays as it is when it is asked again. A tenant
// that was left behind years ago arrives at the same schema.
func TestHistory(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 5)
	all := load(t, history.Files())
	behind := f.targets[4]
	f.up(t, load(t, history.First(119)), behind)

	report := f.up(t, all, f.targets...)
	if len(report.Applied) != 5 {
		t.Fatalf("got %+v", report)
	}
	want := names(t)
	for i, r := range report.Applied {
		if i == 4 {
			want = want[119:]
		}
		if diff := cmp.Diff(want, r.Applied); diff != "" {
			t.Errorf("%s: %s", r.Target, diff)
		}
	}
	if report := f.up(t, all, f.targets...); len(report.Current) != 5 {
		t.Errorf("again: %+v", report)
	}
	fresh := f.dump(t, f.targets[0])
	for _, target := range f.targets[1:] {
		if diff := cmp.Diff(fresh, f.dump(t, target)); diff != "" {
			t.Errorf("%s: %s", target.Name, diff)
		}
	}
	if strings.Contains(fresh, f.targets[0].Schema) {
		t.Error("the dump names the tenant's schema")
	}
	if invalid := f.strings(t, f.targets[0], "SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid"); len(invalid) > 0 {
		t.Errorf("invalid: %v", invalid)
	}
}

func TestFiles(t *testing.T) {
	t.Parallel()
	all := names(t)
	if len(all) != 200 {
		t.Errorf("%d files", len(all))
	}
	if diff := cmp.Diff(all, names(t)); diff != "" {
		t.Errorf("a second call: %s", diff)
	}
	first, err := fs.ReadDir(history.First(7), history.Dir)
	if err != nil || len(first) != 7 || first[6].Name() != all[6] {
		t.Errorf("got %v, %v", first, err)
	}
	var oneWay int
	for _, name := range all {
		text, err := fs.ReadFile(history.Files(), history.Dir+"/"+name)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(string(text), "-- migrate:down\n") {
			oneWay++
			if !strings.Contains(string(text), "ADD VALUE") {
				t.Errorf("%s has no way back", name)
			}
		}
	}
	if oneWay == 0 {
		t.Error("every file has a way back")
	}
}

// What is in the shop when the year 2023 begins.
const goods = `
INSERT INTO staff (id, login, full_name) VALUES (1, 'kim', 'Kim Mori');
INSERT INTO customers (id, name, email, phone, tier) VALUES
	(1, 'Ada', 'ada@example.com', '+49 30 1234', 'gold'), (2, 'Ben', NULL, '030 5678', 'standard'), (3, 'Cem', 'cem@example.com', NULL, 'standard');
INSERT INTO products (id, sku, title, price_cents, weight) VALUES (1, 'A-1', 'Kettle', 2999, 1200), (2, 'B-2', 'Cup', 450, NULL);
INSERT INTO warehouses (id, code, address) VALUES (1, 'HAM', ROW('Kai 1', '20457', 'Hamburg', 'DE'));
INSERT INTO stock_moves (product_id, warehouse_id, delta, reason) VALUES (1, 1, 10, 'bought'), (1, 1, -3, 'sold'), (2, 1, 40, 'bought');
INSERT INTO coupons VALUES ('SPRING', 15, '2022-03-01', '2022-06-01');
INSERT INTO orders (id, customer_id, status, placed_at, coupon) VALUES
	(1, 1, 'shipped', '2021-05-04 10:00:00Z', NULL), (2, 2, 'paid', '2022-04-01 10:00:00Z', 'SPRING'), (3, 1, 'cancelled', '2022-12-31 10:00:00Z', NULL);
INSERT INTO order_lines (order_id, placed_at, line_no, product_id, quantity, unit_cents) VALUES
	(1, '2021-05-04 10:00:00Z', 1, 1, 2, 2999), (2, '2022-04-01 10:00:00Z', 1, 2, 6, 450);
INSERT INTO payments (order_id, placed_at, method, amount_cents) VALUES (1, '2021-05-04 10:00:00Z', 'paypal', 5998);
INSERT INTO tickets (id, customer_id, subject, assigned_to) VALUES (1, 1, 'Where is it?', 1);
INSERT INTO webhook_deliveries (id, webhook_id, body) SELECT i, i, '{"n": 1}' FROM generate_series(1, 8) AS i;`

// What was in the shop before is still there after the years, in its new form.
func TestDataSurvives(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	shop := f.targets[0]
	f.up(t, load(t, history.First(116)), shop)
	f.in(t, shop, goods)
	f.up(t, load(t, history.Files()), shop)
	tests := []struct {
		name, sql string
		want      []string
	}{
		{"customers", "SELECT concat_ws('|', name, email, phone, tier) FROM customers ORDER BY id",
			[]string{"Ada|ada@example.com|+49 30 1234|gold", "Ben|030 5678|standard", "Cem|cem@example.com|standard"}},
		{"weight becomes grams", "SELECT concat_ws('|', sku, price_cents, grams) FROM products ORDER BY id", []string{"A-1|2999|1200", "B-2|450|0"}},
		{"subject becomes title", "SELECT title FROM tickets", []string{"Where is it?"}},
		{"percent becomes rate", "SELECT rate::text FROM coupons", []string{"0.1500"}},
		{"orders have events", "SELECT concat_ws('|', order_id, status, at AT TIME ZONE 'UTC') FROM order_events ORDER BY order_id",
			[]string{"1|shipped|2021-05-04 10:00:00", "2|paid|2022-04-01 10:00:00", "3|cancelled|2022-12-31 10:00:00"}},
		{"shipped orders have shipments", "SELECT order_id::text FROM shipments", []string{"1"}},
		{"stock is totalled", "SELECT concat_ws('|', product_id, quantity) FROM stock_totals ORDER BY 1", []string{"1|7", "2|40"}},
		{"deliveries wait in the outbox", "SELECT body->>'webhook' FROM outbox ORDER BY id", []string{"1", "2", "3", "4", "5", "6", "7", "8"}},
		{"sales", "SELECT concat_ws('|', day, pieces, revenue_cents) FROM sales_by_day ORDER BY day", []string{"2021-05-04|2|5998", "2022-04-01|6|2700"}},
		{"partitions", "SELECT tableoid::regclass::text FROM orders ORDER BY id", []string{"orders_2021_h1", "orders_2022_h1", "orders_2022_h2"}},
		{"order total", "SELECT order_total(id)::text FROM orders ORDER BY id", []string{"5998", "2700", "0"}},
	}
	for _, test := range tests {
		if diff := cmp.Diff(test.want, f.strings(t, shop, test.sql)); diff != "" {
			t.Errorf("%s: %s", test.name, diff)
		}
	}
	f.in(t, shop, "INSERT INTO stock_moves (product_id, warehouse_id, delta, reason) VALUES (1, 1, 5, 'bought'), (2, 1, -1, 'broken')")
	if diff := cmp.Diff([]string{"1|12", "2|39"}, f.strings(t, shop, "SELECT concat_ws('|', product_id, quantity) FROM stock_totals ORDER BY 1")); diff != "" {
		t.Errorf("the triggers: %s", diff)
	}
}

// One tenant has data that the 150th file does not accept. It stays there and is named; the others go on; when the data is
// mended it follows.
func TestOneTenantFails(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 4)
	bad := f.targets[2]
	f.up(t, load(t, history.First(148)), bad)
	f.in(t, bad, "INSERT INTO customers (name, phone) VALUES ('Dot', '030-1234'), ('Eve', 'ask her sister')")
	m := migrate.New(load(t, history.Files()), migrate.Config{Workers: 4})
	report, err := m.Up(t.Context(), f.targets, migrate.Options{})
	var (
		failed *migrate.FailedError
		where  *migrate.Error
		pgErr  *pgconn.PgError
	)
	if !errors.As(err, &failed) || len(failed.Failed) != 1 || len(report.Applied) != 3 {
		t.Fatalf("got %v", err)
	}
	all := names(t)
	if diff := cmp.Diff(all[148:149], report.Failed[0].Applied); diff != "" {
		t.Error(diff)
	}
	if !errors.As(err, &where) || !errors.As(where, &pgErr) || pgErr.Code != "23514" {
		t.Fatalf("got %v", err)
	}
	got := *where
	got.Err = nil
	want := migrate.Error{Target: "shop2", Schema: bad.Schema, File: all[149], Line: 2, Column: 1,
		Statement: "ALTER TABLE customers VALIDATE CONSTRAINT customers_phone_check"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	statuses, err := m.Status(t.Context(), f.targets)
	if err != nil || len(statuses[2].Applied) != 149 || len(statuses[2].Pending) != 51 || len(statuses[1].Pending) != 0 {
		t.Errorf("got %+v, %v", statuses[2], err)
	}
	if diff := cmp.Diff([]string{"2"}, f.strings(t, bad, "SELECT count(*)::text FROM customers")); diff != "" {
		t.Errorf("it still serves: %s", diff)
	}

	f.in(t, bad, "UPDATE customers SET phone = NULL WHERE name = 'Eve'")
	report = f.up(t, load(t, history.Files()), f.targets...)
	if len(report.Current) != 3 || len(report.Applied) != 1 || len(report.Applied[0].Applied) != 51 {
		t.Errorf("mended: %+v", report)
	}
	if diff := cmp.Diff(f.dump(t, f.targets[0]), f.dump(t, bad)); diff != "" {
		t.Errorf("mended: %s", diff)
	}
}

// The last thirty go back, on a tenant with data, and forward again.
func TestRollback(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	set, before := load(t, history.Files()), load(t, history.First(170))
	f.up(t, before, f.targets...)
	old := f.dump(t, f.targets[1])
	shop := f.targets[0]
	f.in(t, shop, `INSERT INTO customers (id, name) VALUES (1, 'Ada');
		INSERT INTO orders (id, customer_id, status, placed_at) VALUES (1, 1, 'shipped', '2024-02-01 10:00:00Z');
		INSERT INTO coupons VALUES ('MAY', 5, '2024-05-01', '2024-06-01');`)
	f.up(t, set, f.targets...)
	dumps := []string{f.dump(t, shop), f.dump(t, f.targets[1])}

	m := migrate.New(set, migrate.Config{Workers: 4})
	report, err := m.Rollback(t.Context(), f.targets, migrate.Back{Last: 30}, migrate.Options{})
	if err != nil || len(report.Applied) != 2 || len(report.Applied[0].Applied) != 30 {
		t.Fatalf("got %+v, %v", report, err)
	}
	if diff := cmp.Diff([]string{"5"}, f.strings(t, shop, "SELECT percent::text FROM coupons")); diff != "" {
		t.Errorf("the data: %s", diff)
	}
	f.exec(t, "CREATE SCHEMA t_reference")
	reference := shop
	reference.Name, reference.Schema = "reference", "t_reference"
	f.up(t, before, reference)
	for _, target := range f.targets {
		if diff := cmp.Diff(f.shape(t, reference), f.shape(t, target)); diff != "" {
			t.Errorf("%s is not what it was: %s", target.Name, diff)
		}
	}
	if old == dumps[1] {
		t.Error("the last thirty change nothing")
	}
	f.up(t, set, f.targets...)
	for i, target := range f.targets {
		if diff := cmp.Diff(dumps[i], f.dump(t, target)); diff != "" {
			t.Errorf("%s, forward again: %s", target.Name, diff)
		}
	}
	if _, err := m.Rollback(t.Context(), f.targets, migrate.Back{Last: 100}, migrate.Options{}); !errors.Is(err, migrate.ErrNoWayBack) {
		t.Errorf("over a new value of an enum: %v", err)
	}
	if diff := cmp.Diff(dumps[0], f.dump(t, shop)); diff != "" {
		t.Errorf("something was changed: %s", diff)
	}
}

// Each down section takes back just what its up section did.
func TestEachWayBack(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	shop := f.targets[0]
	m := migrate.New(load(t, history.Files()), migrate.Config{})
	before := f.shape(t, shop)
	for n, name := range names(t) {
		f.up(t, load(t, history.First(n+1)), shop)
		after := f.shape(t, shop)
		_, err := m.Rollback(t.Context(), f.targets, migrate.Back{Last: 1}, migrate.Options{})
		if errors.Is(err, migrate.ErrNoWayBack) {
			before = after
			continue
		}
		if err != nil {
			t.Fatalf("%s: %v", name, causes(err))
		}
		got := f.shape(t, shop)
		if n == 0 { // the ledger stays
			before = got
		}
		if diff := cmp.Diff(before, got); diff != "" {
			t.Errorf("%s leaves: %s", name, diff)
		}
		before = after // the next step brings it there again
	}
}

func BenchmarkHistory(b *testing.B) {
	f := newFleet(b, 0)
	set := load(b, history.Files())
	m := migrate.New(set, migrate.Config{})
	for i := 0; b.Loop(); i++ {
		schema := fmt.Sprintf("t_bench_%d", i)
		f.exec(b, "CREATE SCHEMA "+schema)
		if _, err := m.Apply(b.Context(), migrate.Target{Schema: schema, Conn: f.config}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Milliseconds())/float64(b.N)/200, "ms/file")
}
