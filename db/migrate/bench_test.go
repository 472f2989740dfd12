package migrate_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/db/migrate"
	"github.com/leasehold-go/leasehold/internal/pgserver"
	"github.com/leasehold-go/leasehold/internal/pgtest"
)

// schemas makes schemas prefix_0 to prefix_n-1, each with a table and a ledger, and returns them as targets.
func (f *fleet) schemas(tb testing.TB, prefix string, n int) []migrate.Target {
	tb.Helper()
	f.exec(tb, fmt.Sprintf(`DO $$ BEGIN FOR i IN 0..%d LOOP
		EXECUTE format('CREATE SCHEMA %[2]s_%%s', i);
		EXECUTE format('CREATE TABLE %[2]s_%%s.invoices (id bigint PRIMARY KEY, note text)', i);
		EXECUTE format('CREATE TABLE %[2]s_%%s.schema_migrations (version varchar PRIMARY KEY, checksum bytea)', i);
		EXECUTE format('INSERT INTO %[2]s_%%s.schema_migrations VALUES (''20260101000000''), (''20260102000000''), (''20260103000000'')', i);
		IF i %% 200 = 0 THEN COMMIT; END IF;
	END LOOP; END $$`, n-1, prefix))
	targets := make([]migrate.Target, n)
	for i := range targets {
		targets[i] = f.target(tb, fmt.Sprintf("%s%d", prefix, i), fmt.Sprintf("%s_%d", prefix, i))
	}
	return targets
}

// BenchmarkUp applies one migration to a thousand tenants, beside the same SQL sent bare over as many connections. The server is one
// that waits for the disk.
func BenchmarkUp(b *testing.B) {
	const workers = 4
	tenants := 1000
	if testing.Short() {
		tenants = 50
	}
	for name, sql := range map[string]string{
		"column":     "ALTER TABLE invoices ADD COLUMN c%d int;",
		"constraint": "ALTER TABLE invoices ADD COLUMN d%[1]d int NOT NULL DEFAULT 0 CONSTRAINT d%[1]d CHECK (d%[1]d >= 0); CREATE INDEX i%[1]d ON invoices (d%[1]d);",
		"table":      "CREATE TABLE t%d (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, customer bigint NOT NULL, note text NOT NULL DEFAULT '');",
	} {
		b.Run(name, func(b *testing.B) {
			server := pgtest.Start(b, pgserver.Config{Settings: map[string]string{"fsync": "on"}})
			f := &fleet{url: server.URL(pgserver.Superuser, pgserver.Database)}
			f.conn = pgtest.Connect(b, f.url)
			ours, bare := f.schemas(b, "o", tenants), f.schemas(b, "b", tenants)
			files := product()
			var took [2]time.Duration
			round := 0
			for b.Loop() {
				round++
				text := fmt.Sprintf(sql, round)
				files[fmt.Sprintf("2026020100%04d_more.sql", round)] = up(text)
				m := migrate.New(load(b, files), migrate.Config{Workers: workers})
				start := time.Now()
				if report, err := m.Up(b.Context(), ours, migrate.Options{}); err != nil || len(report.Applied) != tenants {
					b.Fatal(err, len(report.Applied))
				}
				took[0] += time.Since(start)
				start = time.Now()
				sendBare(b, bare, workers, text)
				took[1] += time.Since(start)
			}
			perTenant := func(d time.Duration) float64 { return d.Seconds() * 1000 / float64(round*tenants) }
			b.ReportMetric(perTenant(took[0]), "leasehold-ms/tenant")
			b.ReportMetric(perTenant(took[1]), "bare-ms/tenant")
			b.ReportMetric(took[0].Seconds()/took[1].Seconds(), "x-bare")
		})
	}
}

// sendBare sends the SQL to every target, over so many connections, and records nothing.
func sendBare(tb testing.TB, targets []migrate.Target, connections int, sql string) {
	tb.Helper()
	var (
		next atomic.Int64
		wg   sync.WaitGroup
	)
	for range connections {
		wg.Go(func() {
			conn, err := pgx.ConnectConfig(tb.Context(), targets[0].Conn)
			if err != nil {
				tb.Error(err)
				return
			}
			defer conn.Close(tb.Context()) //nolint:errcheck // nothing is left on it
			for {
				i := int(next.Add(1)) - 1
				if i >= len(targets) {
					return
				}
				if _, err := conn.PgConn().Exec(tb.Context(), "SET search_path = "+targets[i].Schema+";\n"+sql).ReadAll(); err != nil {
					tb.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}
