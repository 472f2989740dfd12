package cli_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/leasehold-go/leasehold/internal/pgtest"
)

// Who finds a tenant's table locked is told what to look for and what to do.
func TestALostLockIsExplained(t *testing.T) {
	t.Parallel()
	databaseURL := pgtest.Database(t)
	dir := copyMigrations(t)
	settings := []string{"LEASEHOLD_DATABASE_URL=" + databaseURL, "LEASEHOLD_SECRET_KEY=" + secretKey}
	succeed(t, settings, "migrate", "control")
	succeed(t, settings, "tenant", "create", "acme", "--company=X", "--contact-name=X", "--contact-email=x@x.example")
	settings = append(settings, "LEASEHOLD_MIGRATIONS="+dir)
	const file = "-- migrate:up\nALTER TABLE customers ADD COLUMN late int;\n-- migrate:down\nALTER TABLE customers DROP COLUMN late;\n"
	if err := os.WriteFile(filepath.Join(dir, "20990101000000_late.sql"), []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}

	conn := pgtest.Connect(t, databaseURL)
	var schema string
	if err := conn.QueryRow(t.Context(), "SELECT schema_name FROM leasehold.tenants").Scan(&schema); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(t.Context(), "BEGIN; LOCK TABLE "+schema+".customers"); err != nil {
		t.Fatal(err)
	}
	r := run(t, settings, "migrate", "up", "--lock-timeout=10ms")
	if _, err := conn.Exec(t.Context(), "ROLLBACK"); err != nil {
		t.Fatal(err)
	}
	const advice = ` in "ALTER TABLE customers ADD COLUMN late int" — another transaction holds a lock on what this needs; ` +
		"SELECT pid, xact_start, query FROM pg_stat_activity ORDER BY xact_start LIMIT 5 shows the oldest ones: run it again when that is over, " +
		"or let it wait longer: --lock-timeout 10s\nleasehold: 1 of 1 tenant failed — mend the cause"
	if r.code != 1 || !strings.Contains(r.stderr, advice) {
		t.Errorf("status %d:\n%s", r.code, r.stderr)
	}
	if out := succeed(t, settings, "migrate", "up"); out != "1 migrated, 0 current, 0 failed\n" {
		t.Errorf("again: %s", out)
	}
}
