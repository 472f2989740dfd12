package directory

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/db/migrate"
	"github.com/leasehold-go/leasehold/db/migrations"
	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/db/tenantdb"
	"github.com/leasehold-go/leasehold/internal/pgtest"
)

// citusEnv holds the URL of a Citus coordinator's database that tests may use, as docs/citus.md has it. Without it the tests here run on
// PostgreSQL alone.
const citusEnv = "LEASEHOLD_TEST_CITUS_URL"

// otherClusters are the clusters under test beside the default one, one of each kind that can be had.
func otherClusters(tb testing.TB) []NewCluster {
	tb.Helper()
	clusters := []NewCluster{{Name: "other", Kind: PostgresCluster, URL: pgtest.Database(tb)}}
	if url := os.Getenv(citusEnv); url != "" {
		clusters = append(clusters, NewCluster{Name: "citus", Kind: CitusCluster, URL: url})
	}
	return clusters
}

// productMigrator returns a Migrator of the sample product's files, and more of the given names and texts.
func productMigrator(tb testing.TB, more map[string]string) *migrate.Migrator {
	tb.Helper()
	files := fstest.MapFS{}
	names, err := fs.Glob(migrations.FS, "tenant/*.sql")
	if err != nil || len(names) == 0 {
		tb.Fatalf("files %v, %v", names, err)
	}
	for _, name := range names {
		text, err := fs.ReadFile(migrations.FS, name)
		if err != nil {
			tb.Fatal(err)
		}
		files[name] = &fstest.MapFile{Data: text}
	}
	for name, text := range more {
		files["tenant/"+name] = &fstest.MapFile{Data: []byte(text)}
	}
	set, err := migrate.Load(files, "tenant")
	if err != nil {
		tb.Fatal(err)
	}
	return migrate.New(set, migrate.Config{LockTimeout: -1})
}

// moreFiles come after the product's: what a later release might bring.
var moreFiles = map[string]string{
	"20990101000000_phone.sql": "-- migrate:up\nALTER TABLE customers ADD COLUMN phone text;\n" +
		"CREATE VIEW phones AS SELECT id, phone FROM customers;\n-- migrate:down\nDROP VIEW phones;\nALTER TABLE customers DROP COLUMN phone;\n",
	"20990101000002_backfill.sql": "-- migrate:up\nDO $$ BEGIN UPDATE customers SET phone = '1' WHERE phone IS NULL; END $$;\n" +
		"-- migrate:down\nDO $$ BEGIN UPDATE customers SET phone = NULL; END $$;\n",
	"20990101000001_phone_index.sql": "-- migrate:up transaction:false\nCREATE INDEX CONCURRENTLY IF NOT EXISTS customers_by_phone ON customers (phone);\n" +
		"-- migrate:down transaction:false\nDROP INDEX CONCURRENTLY IF EXISTS customers_by_phone;\n",
}

// A tenant's life is the same on a cluster of any kind: it is created, serves the sample product, is kept from others, migrated,
// compared, moved between nodes if there are any, and purged.
func TestATenantsLifeOnAClusterOfEachKind(t *testing.T) {
	t.Parallel()
	for _, cluster := range otherClusters(t) {
		t.Run(string(cluster.Kind), func(t *testing.T) {
			t.Parallel()
			url := registryURL(t)
			cfg := configOf(t, url)
			cfg.Migrator = productMigrator(t, nil)
			d := openDirectory(t, cfg)
			mustAddCluster(t, d, cluster)
			dropLoginsAtEnd(t, d, cluster)
			acme, globex := mustLive(t, d, cluster, "acme"), mustLive(t, d, cluster, "globex")
			db := openDB(t, d)
			for _, one := range []*tenant.Tenant{acme, globex} {
				wantInvoicing(t, db, one, cluster.Kind)
			}
			wantApart(t, d, db, acme, globex)

			cfg.Migrator = productMigrator(t, moreFiles)
			later := openDirectory(t, cfg)
			wantMigrated(t, later)
			if cluster.Kind == CitusCluster {
				wantMovable(t, d, db, acme, globex)
			}
			wantServing(t, db, acme)
			mustDelete(t, d, acme)
			mustDelete(t, d, globex)
			if purged, err := d.Purge(t.Context()); err != nil || len(purged) != 2 {
				t.Errorf("Purge: %d tenants, %v", len(purged), err)
			}
			wantNoTraces(t, d, pgtest.Connect(t, cluster.URL))
		})
	}
}

// mustLive creates a tenant on a cluster that others use too; whatever comes, it is purged when tb ends.
func mustLive(tb testing.TB, d *Directory, cluster NewCluster, slug string) *tenant.Tenant {
	tb.Helper()
	created, err := d.Create(tb.Context(), on(cluster.Name, company(slug)))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		ctx := context.Background()
		if t, err := d.ByID(ctx, created.ID); err != nil || t.Status == tenant.Deleted {
			return
		}
		_, err := d.Delete(ctx, created.ID, DeleteOptions{Now: true})
		if _, purgeErr := d.Purge(ctx); err != nil || purgeErr != nil {
			tb.Error(err, purgeErr)
		}
	})
	return created
}

// dropLoginsAtEnd drops the runtime logins from a server that outlives the test.
func dropLoginsAtEnd(tb testing.TB, d *Directory, cluster NewCluster) {
	tb.Helper()
	if cluster.Kind != CitusCluster {
		return
	}
	tb.Cleanup(func() {
		ctx := context.Background()
		conn, err := pgx.Connect(ctx, cluster.URL)
		if err != nil {
			tb.Error(err)
			return
		}
		defer closeConn(conn)
		login := pgx.Identifier{d.loginName(defaultLogin)}.Sanitize()
		_, err = conn.Exec(ctx, "REVOKE CONNECT ON DATABASE "+pgx.Identifier{conn.Config().Database}.Sanitize()+" FROM "+login+"; DROP ROLE "+login)
		if err != nil {
			tb.Error(err)
		}
	})
}

// wantInvoicing does with a tenant what the sample product does: enum, view, functions, triggers, a deferred foreign key, identity
// and generated columns, a batch, COPY, and transactions.
func wantInvoicing(tb testing.TB, db *tenantdb.DB, t *tenant.Tenant, kind ClusterKind) {
	tb.Helper()
	ctx := tenant.NewContext(tb.Context(), t)
	q := db.For(t)
	var customer, invoice int64
	mustScan(tb, q.QueryRow(ctx, `INSERT INTO customers (name, email) VALUES ($1, 'ann@example.com') RETURNING id`, string(t.Slug)), &customer)
	mustScan(tb, q.QueryRow(ctx, `INSERT INTO invoices (customer_id, currency) VALUES ($1, 'EUR') RETURNING id`, customer), &invoice)
	batch := &pgx.Batch{}
	for position := range 3 {
		batch.Queue(`INSERT INTO invoice_lines (invoice_id, position, description, quantity, unit_price_cents) VALUES ($1, $2, 'work', 2, 50)`,
			invoice, position+1)
	}
	if err := q.SendBatch(ctx, batch).Close(); err != nil {
		tb.Fatal(err)
	}
	if n, err := q.CopyFrom(ctx, pgx.Identifier{"customers"}, []string{"name", "email"},
		pgx.CopyFromRows([][]any{{"Bob", "bob@example.com"}, {"Cyd", "cyd@example.com"}})); n != 2 || err != nil {
		tb.Fatalf("COPY: %d, %v", n, err)
	}
	var number, status string
	mustScan(tb, q.QueryRow(ctx, `UPDATE invoices SET status = $2::invoice_status, issued_on = '2026-01-01', due_on = '2026-02-01' WHERE id = $1
		RETURNING number`, invoice, "issued"), &number)
	for range 3 { // by name, from the second on
		if _, err := q.Exec(ctx, `INSERT INTO payments (invoice_id, amount_cents, paid_on) VALUES ($1, 100, '2026-01-02')`, invoice); err != nil {
			tb.Fatalf("pay: %v", err)
		}
	}
	var total, paid int64
	mustScan(tb, q.QueryRow(ctx, `SELECT i.status::text, total_cents, paid_cents FROM invoices i JOIN invoice_totals ON invoice_id = i.id
		WHERE i.id = $1`, invoice), &status, &total, &paid)
	if number != "INV-2026-0001" || status != "paid" || total != 300 || paid != 300 {
		tb.Errorf("%s: number %s, %s, %d of %d paid", t.Slug, number, status, paid, total)
	}
	_, err := q.Exec(ctx, `INSERT INTO payments (invoice_id, amount_cents, paid_on) VALUES ($1, 100, '2026-01-02')`, invoice)
	if sqlState(err) != "23514" {
		tb.Errorf("a payment too many: %v", err)
	}
	// The deferred foreign key fails the commit. Of a transaction with several statements, Citus does not say why.
	const forNobody = `INSERT INTO invoices (customer_id, currency) VALUES (999999, 'EUR')`
	if _, err := q.Exec(ctx, forNobody); sqlState(err) != codeForeignKeyViolation {
		tb.Errorf("an invoice for nobody: %v", err)
	}
	want := codeForeignKeyViolation
	if kind == CitusCluster {
		want = "XX000"
	}
	err = db.InTx(ctx, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, forNobody)
		return err
	})
	if sqlState(err) != want {
		tb.Errorf("an invoice for nobody in a transaction: %v, want SQLSTATE %s", err, want)
	}
	err = db.InTx(ctx, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `INSERT INTO invoices (customer_id, currency) VALUES ($1, 'EUR')`, customer); err != nil {
			return err
		}
		return errNotDue
	})
	if !errors.Is(err, errNotDue) {
		tb.Errorf("a transaction that is rolled back: %v", err)
	}
	wantServing(tb, db, t)
}

func mustScan(tb testing.TB, row pgx.Row, into ...any) {
	tb.Helper()
	if err := row.Scan(into...); err != nil {
		tb.Fatal(err)
	}
}

// wantServing checks what wantInvoicing has left.
func wantServing(tb testing.TB, db *tenantdb.DB, t *tenant.Tenant) {
	tb.Helper()
	var customers []string
	var invoices int
	mustScan(tb, db.For(t).QueryRow(tb.Context(), `SELECT (SELECT array_agg(name ORDER BY id) FROM customers), (SELECT count(*) FROM invoices)`),
		&customers, &invoices)
	if diff := cmp.Diff([]string{string(t.Slug), "Bob", "Cyd"}, customers); diff != "" || invoices != 1 {
		tb.Errorf("%s: %d invoices, customers (-want +got):\n%s", t.Slug, invoices, diff)
	}
}

// wantApart checks that no tenant reaches another one by a qualified name, in the data layer's flight and with the role set by hand.
func wantApart(tb testing.TB, d *Directory, db *tenantdb.DB, tenants ...*tenant.Tenant) {
	tb.Helper()
	for _, who := range tenants {
		conn := connectFor(tb, d, who.Placement)
		for _, whose := range tenants {
			customers := pgx.Identifier{whose.Placement.Schema, "customers"}.Sanitize()
			for _, sql := range []string{
				`SELECT count(*) FROM ` + customers, `UPDATE ` + customers + ` SET name = name`, `DELETE FROM ` + customers + ` WHERE id < 0`,
				`SELECT count(*) FROM customers c JOIN ` + customers + ` o ON o.id = c.id`, `SELECT nextval('` + whose.Placement.Schema + `.customers_id_seq')`,
			} {
				_, err := db.For(who).Exec(tb.Context(), sql)
				if state := sqlState(err); (who == whose && err != nil) || (who != whose && state != "42501") {
					tb.Errorf("%s: %s: %v", who.Slug, sql, err)
				}
			}
			for _, role := range []string{"NONE", who.Placement.Role} {
				mustExec(tb, conn, `SET ROLE `+role)
				if who != whose || role == "NONE" {
					wantState(tb, conn, "42501", `SELECT count(*) FROM `+customers)
				}
			}
		}
		mustExec(tb, conn, `SET ROLE `+who.Placement.Role)
		wantState(tb, conn, "42501", `SELECT count(*) FROM `+who.Placement.Schema+`.schema_migrations`)
		wantState(tb, conn, "42501", `CREATE TABLE `+who.Placement.Schema+`.mine (i int)`)
		wantState(tb, conn, "42501", `CREATE TEMP TABLE mine (i int)`)
	}
}

// wantMigrated applies what is pending to all tenants, and finds no drift then; takes the last files back, and applies them again.
func wantMigrated(tb testing.TB, d *Directory) {
	tb.Helper()
	ctx, m := tb.Context(), d.cfg.Migrator
	targets, err := d.Targets(ctx)
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := m.Up(ctx, targets, migrate.Options{}); err != nil {
		tb.Fatal(err)
	}
	reference, drop, err := d.Reference(ctx)
	if err != nil {
		tb.Fatal(err)
	}
	defer func() {
		if err := drop(context.WithoutCancel(ctx)); err != nil {
			tb.Error(err)
		}
	}()
	drifts, err := m.Check(ctx, reference, targets)
	if err != nil {
		tb.Fatal(err)
	}
	for _, drift := range drifts {
		for _, difference := range drift.Differences {
			tb.Errorf("drift of %s: %s", drift.Target, difference)
		}
	}
	if report, err := m.Rollback(ctx, targets, migrate.Back{Last: len(moreFiles)}, migrate.Options{}); err != nil {
		tb.Fatalf("%+v, %v", report, err)
	}
	if report, err := m.Up(ctx, targets, migrate.Options{}); err != nil {
		tb.Fatalf("%+v, %v", report, err)
	}
}

// wantMovable checks that tenants are in distributed schemas, which can be moved from node to node and are served there, and which Citus
// spreads again.
func wantMovable(tb testing.TB, d *Directory, db *tenantdb.DB, t, neighbour *tenant.Tenant) {
	tb.Helper()
	ctx := tb.Context()
	nodes, err := d.Rebalance(ctx, t.Placement.Cluster)
	if err != nil || len(nodes) < 2 {
		tb.Fatalf("Rebalance: %v, %v; want two nodes or more", nodes, err)
	}
	s, err := d.openCoordinator(ctx, t.Placement.Cluster)
	if err != nil {
		tb.Fatal(err)
	}
	defer s.close()
	if _, err := d.Create(ctx, on(t.Placement.Cluster, withDatabase("own"))); !errors.Is(err, ErrClusterUnfit) {
		tb.Errorf("a database of its own on Citus: %v, want ErrClusterUnfit", err)
	}
	for _, node := range append(nodes, nodes[0]) {
		for range 2 { // the second has nothing to do
			if err := d.MoveToNode(ctx, t.ID, node.Address); err != nil {
				tb.Fatal(err)
			}
		}
		if at, err := nodeOf(ctx, s.conn, t.Placement.Schema); at != node.Address || err != nil {
			tb.Errorf("it is at %q, %v, want %q", at, err, node.Address)
		}
		wantServing(tb, db, t)
	}
	if err := d.MoveToNode(ctx, neighbour.ID, nodes[0].Address); err != nil {
		tb.Fatal(err)
	}
	crowded, err := readNodes(ctx, s.conn)
	if err != nil {
		tb.Fatal(err)
	}
	spread, err := d.Rebalance(ctx, t.Placement.Cluster)
	if err != nil || spread[0].Schemas >= crowded[0].Schemas {
		tb.Errorf("Rebalance: %v, %v; was %v", spread, err, crowded)
	}
	wantServing(tb, db, t)
	wantServing(tb, db, neighbour)
	if err := d.MoveToNode(ctx, t.ID, "127.0.0.1:1"); err == nil {
		tb.Error("it was moved to a node that does not exist")
	}
	events, err := d.Events(ctx, t.ID)
	if err != nil {
		tb.Fatal(err)
	}
	if last := events[len(events)-1]; last.Kind != EventNodeMoved || last.Detail != nodes[0].Address {
		tb.Errorf("the last event is %+v", last)
	}
	unfit := NewCluster{Name: "worker", Kind: CitusCluster, URL: atAddress(tb, s.conn.Config().ConnString(), nodes[0].Address)}
	if err := d.AddCluster(ctx, unfit); !errors.Is(err, ErrClusterUnfit) {
		tb.Errorf("AddCluster with a worker: %v", err)
	}
}

// atAddress is a URL with another host and port.
func atAddress(tb testing.TB, url, address string) string {
	tb.Helper()
	before, rest, ok := strings.Cut(url, "@")
	_, path, found := strings.Cut(rest, "/")
	if !ok || !found {
		tb.Fatal("the URL is not of the form postgres://login@host:port/database")
	}
	return before + "@" + address + "/" + path
}

// What is no Citus cluster is not taken for one.
func TestACitusClusterNeedsCitus(t *testing.T) {
	t.Parallel()
	d, _ := newDirectory(t)
	url := pgtest.Database(t)
	for name, n := range map[string]NewCluster{
		"no extension":          {Name: "east", Kind: CitusCluster, URL: url},
		"databases of tenants'": {Name: "east", Kind: CitusCluster, URL: url, Strategy: tenant.DatabaseStrategy},
	} {
		if err := d.AddCluster(t.Context(), n); !errors.Is(err, ErrClusterUnfit) {
			t.Errorf("%s: AddCluster = %v, want ErrClusterUnfit", name, err)
		}
	}
	mustAddCluster(t, d, NewCluster{Name: "east", URL: url})
	if _, err := d.Rebalance(t.Context(), "east"); !errors.Is(err, ErrNotCitus) {
		t.Errorf("Rebalance = %v, want ErrNotCitus", err)
	}
	if _, err := d.Rebalance(t.Context(), "west"); !errors.Is(err, ErrNoCluster) {
		t.Errorf("Rebalance of none = %v, want ErrNoCluster", err)
	}
	acme := mustHouse(t, d, on("east", company("acme")))
	if err := d.MoveToNode(t.Context(), acme.ID, "127.0.0.1:5432"); !errors.Is(err, ErrNotCitus) {
		t.Errorf("MoveToNode = %v, want ErrNotCitus", err)
	}
}
