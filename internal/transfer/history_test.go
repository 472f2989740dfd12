package transfer_test

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/leasehold-go/leasehold/db/migrate"
	"github.com/leasehold-go/leasehold/internal/history"
	"github.com/leasehold-go/leasehold/internal/pgserver"
	"github.com/leasehold-go/leasehold/internal/pgtest"
	"github.com/leasehold-go/leasehold/internal/transfer"
)

// shop fills what two hundred migrations have made: partitions, arrays, composite values, ranges, domains, generated columns, tables
// without a key.
const shop = `
INSERT INTO customers (name, email, phone) SELECT 'Ada ' || n, 'ada' || n || '@example.com', '+49 30 1234' || n FROM generate_series(1, 40) n;
INSERT INTO products (sku, title, description, price_cents, grams, ean)
	SELECT 'sku' || n, E'tab\tand \\.', 'blue', n * 100, n, '4000000000' || 100 + n FROM generate_series(1, 10) n;
INSERT INTO categories (parent_id, name) VALUES (NULL, 'all'), (1, 'some');
INSERT INTO product_categories SELECT id, 2 FROM products;
INSERT INTO contacts (customer_id, kind, value) SELECT id, 'email', email FROM customers;
INSERT INTO orders (customer_id, ship_to, note, placed_at)
	SELECT id, ROW('Main "St"', '10115', 'Berlin', 'DE')::postal_address, E'a\nb', '2019-02-01'::timestamptz + id * interval '60 days' FROM customers;
INSERT INTO order_lines (order_id, placed_at, line_no, product_id, quantity, unit_cents) SELECT id, placed_at, 1, 1 + id % 10, 3, 250 FROM orders;
INSERT INTO payments (order_id, placed_at, method, amount_cents) SELECT id, placed_at, 'card', 750 FROM orders;
INSERT INTO warehouses (code, address) VALUES ('B', ROW('Dock', '20457', 'Hamburg', 'DE')::postal_address);
INSERT INTO stock_moves (product_id, warehouse_id, delta, reason) SELECT id, 1, 5, 'first' FROM products;
INSERT INTO webhooks (url, events) VALUES ('https://example.com', '{paid,"a,b",NULL}');
INSERT INTO carts (session) SELECT gen_random_uuid() FROM generate_series(1, 5);
INSERT INTO tickets (customer_id, title) SELECT id, 'help' FROM customers;
INSERT INTO ticket_messages SELECT id, 1, 'please' FROM tickets;
INSERT INTO invoice_numbers (name, numbers) VALUES ('2025', '[1,100)');
INSERT INTO subscriptions (customer_id, product_id, every) SELECT id, 1, '7 days' FROM customers;
INSERT INTO points (customer_id, amount) SELECT id, 10 FROM customers;
REFRESH MATERIALIZED VIEW sales_by_day;
REFRESH MATERIALIZED VIEW customer_value;
CREATE TABLE "Odd ""Name" ("Key one" text COLLATE "C", k2 numeric, "order" text[], PRIMARY KEY ("Key one", k2));
INSERT INTO "Odd ""Name" SELECT 'k' || n, n + 0.50, ARRAY['x', NULL] FROM generate_series(1, 9) n;
GRANT SELECT ON "Odd ""Name" TO PUBLIC;
CREATE TABLE loose (a integer, b text[], c integer GENERATED ALWAYS AS (a * 2) STORED, d bigint GENERATED ALWAYS AS IDENTITY);
INSERT INTO loose (a, b) SELECT n % 3, ARRAY['x', NULL] FROM generate_series(1, 9) n;
CREATE TABLE alike (a integer);
INSERT INTO alike SELECT n % 3 FROM generate_series(1, 9) n;
CREATE TABLE nothing ();
INSERT INTO nothing DEFAULT VALUES`

// changes is what happens while it is carried over.
const changes = `
UPDATE customers SET name = 'Eve' WHERE id % 5 = 0;
DELETE FROM tickets WHERE id % 3 = 0;
DELETE FROM contacts WHERE id = 1;
INSERT INTO contacts (id, customer_id, kind, value) VALUES (1, 2, 'phone', '+49 30 99');
UPDATE orders SET note = 'moved', placed_at = placed_at + interval '300 days' WHERE id IN (SELECT id FROM orders ORDER BY id DESC LIMIT 3)
	AND NOT EXISTS (SELECT FROM order_lines l WHERE l.order_id = orders.id);
INSERT INTO orders (customer_id, placed_at) VALUES (1, '2025-07-02');
UPDATE orders SET placed_at = '2019-03-03' WHERE placed_at = '2025-07-02';
TRUNCATE carts;
INSERT INTO carts (session) VALUES (gen_random_uuid());
INSERT INTO points (customer_id, amount) VALUES (1, 7);
UPDATE "Odd ""Name" SET "Key one" = 'k9' || k2 WHERE k2 > 5;
UPDATE "Odd ""Name" SET k2 = 1.5 WHERE k2 = 2.5;
UPDATE loose SET a = 7 WHERE d = 4;
DELETE FROM loose WHERE d = 5;
INSERT INTO loose (a) VALUES (NULL), (NULL);
DELETE FROM alike WHERE ctid IN (SELECT ctid FROM alike WHERE a = 1 LIMIT 2);
INSERT INTO alike VALUES (2), (3), (3);
DELETE FROM alike WHERE ctid IN (SELECT ctid FROM alike WHERE a = 3 LIMIT 1);
INSERT INTO nothing DEFAULT VALUES;
DELETE FROM stock_moves WHERE id = 1;
INSERT INTO stock_moves (product_id, warehouse_id, delta, reason) VALUES (1, 1, -2, 'later')`

func historySet(tb testing.TB) *migrate.Set {
	tb.Helper()
	set, err := migrate.Load(history.Files(), history.Dir)
	if err != nil {
		tb.Fatal(err)
	}
	return set
}

// withoutViews leaves out what is as old as its last refresh.
func withoutViews(all map[string]string) map[string]string {
	delete(all, "sales_by_day")
	delete(all, "customer_value")
	return all
}

// checkShop is checkDrift for the shop, which has tables of its own.
func checkShop(tb testing.TB, p transfer.Place) {
	tb.Helper()
	if !read[bool](tb, p, `SELECT has_table_privilege('public', '"Odd ""Name"', 'SELECT') AND NOT has_table_privilege('public', 'orders', 'SELECT')`) {
		tb.Error("rights were not carried over")
	}
	mustExec(tb, p, `DROP TABLE "Odd ""Name", loose, alike, nothing`)
	checkDrift(tb, historySet(tb), p)
}

// What a long history leaves is moved to another server, which is a newer one if the tests have one, while it changes in all ways.
func TestMoveALongHistory(t *testing.T) {
	t.Parallel()
	other := pgtest.Start(t, pgserver.Config{BinDir: newer})
	p := names(t)
	source := house(t, pgtest.Database(t), p)
	dest := house(t, other.URL(pgserver.Administrator, pgserver.Database), p)
	grant(t, source)
	apply(t, historySet(t), source)
	mustExec(t, source, shop)
	m := transfer.Move{Source: source, Target: dest, Switch: done}
	changed := false
	m.Before = func(_ context.Context, step transfer.Step) error {
		if step == transfer.StepIndex && !changed {
			changed = true
			mustExec(t, source, changes)
		}
		if step == transfer.StepHold {
			mustExec(t, source, "UPDATE customers SET name = 'Zoe' WHERE id = 7", "INSERT INTO points (customer_id, amount) VALUES (2, 1)",
				"UPDATE alike SET a = 4 WHERE a = 2", "DELETE FROM loose WHERE a IS NULL")
		}
		return nil
	}
	if err := run(t, m); err != nil {
		t.Fatal(err)
	}
	old := source
	old.Schema = transfer.OldSchema(source.Schema)
	if diff := cmp.Diff(withoutViews(content(t, old)), withoutViews(content(t, dest))); diff != "" {
		t.Error(diff)
	}
	if newer == "" { // definitions read differently from one version to the next
		if other.Version() == pgtest.Server(t).Version() {
			checkShop(t, dest)
		}
	}
	if n := read[int](t, dest, "SELECT count(*) FROM pg_constraint WHERE contype = 'f' AND NOT convalidated AND conparentid = 0"); n != 0 {
		t.Errorf("%d foreign keys are not validated", n)
	}
	mustExec(t, dest, "REFRESH MATERIALIZED VIEW sales_by_day", "INSERT INTO customers (name) VALUES ('Bo')")
}

// The same is exported and imported under another name.
func TestExportALongHistory(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	source, dest := house(t, url, names(t)), house(t, url, names(t))
	apply(t, historySet(t), source)
	mustExec(t, source, shop)
	file := filepath.Join(t.TempDir(), "shop")
	_, err := transfer.Export(t.Context(), source, file, acme)
	needPrograms(t, err)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := transfer.Import(t.Context(), file, dest); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(content(t, source), content(t, dest)); diff != "" {
		t.Error(diff)
	}
	checkShop(t, dest)
}
