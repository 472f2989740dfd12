package history

import (
	"fmt"
	"strings"
)

// year2022 forgets old visits, rewards customers, and indexes a partitioned table without stopping it.
func (w *writer) year2022() {
	w.year(2022)
	w.partition("orders", "orders_2022_h1", "2022-01-01", "2022-07-01")
	w.partition("orders", "orders_2022_h2", "2022-07-01", "2023-01-01")
	w.partition("audit_log", "audit_log_2022", "2022-01-01", "2023-01-01")
	w.partition("page_views", "page_views_2022_q1", "2022-01-01", "2022-04-01")
	w.put("detach_page_views_2021_q1", `ALTER TABLE page_views DETACH PARTITION page_views_2021_q1 CONCURRENTLY;`, withoutTransaction, `
ALTER TABLE page_views ATTACH PARTITION page_views_2021_q1 FOR VALUES FROM ('2021-01-01 00:00:00+00') TO ('2021-04-01 00:00:00+00');
ALTER TABLE page_views_2021_q1 DROP CONSTRAINT page_views_2021_q1_at_check;`, "")
	w.add("drop_page_views_2021_q1", `DROP TABLE page_views_2021_q1;`, `
CREATE TABLE page_views_2021_q1 (LIKE page_views INCLUDING INDEXES);
ALTER TABLE page_views_2021_q1 ADD CHECK (at IS NOT NULL AND at >= '2021-01-01 00:00:00+00' AND at < '2021-04-01 00:00:00+00');`)
	w.add("create_points", `
CREATE TABLE points (
    customer_id bigint NOT NULL REFERENCES customers (id) ON DELETE CASCADE,
    earned_at timestamptz NOT NULL DEFAULT now(),
    amount integer NOT NULL
);`, `DROP TABLE points;`)
	w.add("create_points_of", `
CREATE FUNCTION points_of(customer bigint) RETURNS bigint
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT coalesce(sum(CASE WHEN amount > 0 THEN amount ELSE 0 END), 0) FROM points WHERE customer_id = customer;
END;`, `DROP FUNCTION points_of(bigint);`)
	w.index("points_customer", "points", "(customer_id, earned_at)")
	w.add("create_customer_tier", `CREATE TYPE customer_tier AS ENUM ('standard', 'gold');`, `DROP TYPE customer_tier;`)
	w.replace(replaced{"customers", "vip boolean DEFAULT false", "tier customer_tier",
		"CASE WHEN vip THEN 'gold'::customer_tier ELSE 'standard' END", "tier = 'gold'"})
	w.add("default_customers_tier", `ALTER TABLE customers ALTER tier SET DEFAULT 'standard';`, `ALTER TABLE customers ALTER tier DROP DEFAULT;`)
	w.indexOrders2022()
	w.add("add_country_to_postal_address", `ALTER TYPE postal_address ADD ATTRIBUTE country text;`,
		`ALTER TYPE postal_address DROP ATTRIBUTE country;`)
	w.add("fill_country", `UPDATE warehouses SET address.country = 'DE' WHERE (address).country IS NULL;`, `SELECT 1; -- it goes with the attribute`)
	w.add("create_active_products", `
ALTER TABLE products ADD retired_at timestamptz;
CREATE VIEW active_products AS SELECT id, sku, title FROM products WHERE retired_at IS NULL;
CREATE RULE active_products_retire AS ON DELETE TO active_products
DO INSTEAD UPDATE products SET retired_at = now() WHERE id = OLD.id;`, `
DROP VIEW active_products;
ALTER TABLE products DROP retired_at;`)
}

// indexOrders2022 builds an index on a partitioned table: PostgreSQL builds none concurrently there, so each partition gets
// one by itself, and they are put together in the end.
func (w *writer) indexOrders2022() {
	w.add("index_orders_status", `CREATE INDEX orders_status ON ONLY orders (status, placed_at);`, `DROP INDEX orders_status;`)
	var attach, detach strings.Builder
	for year := 2019; year <= 2022; year++ {
		for half := 1; half <= 2; half++ {
			table := fmt.Sprintf("orders_%d_h%d", year, half)
			w.index(table+"_status", table, "(status, placed_at)")
			fmt.Fprintf(&attach, "ALTER INDEX orders_status ATTACH PARTITION %s_status;\n", table)
			fmt.Fprintf(&detach, "CREATE INDEX %[1]s_status ON %[1]s (status, placed_at);\n", table)
		}
	}
	// An index cannot be detached, only built anew.
	w.add("attach_orders_status", attach.String(), "DROP INDEX orders_status;\nCREATE INDEX orders_status ON ONLY orders (status, placed_at);\n"+detach.String())
}
