package cli_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/leasehold-go/leasehold/internal/pgtest"
)

// Who stops a migration gets the tenants in hand finished, and told how to go on.
func TestAnInterruptFinishesTheTenantsInHand(t *testing.T) {
	t.Parallel()
	databaseURL := pgtest.Database(t)
	settings := []string{"LEASEHOLD_DATABASE_URL=" + databaseURL, "LEASEHOLD_SECRET_KEY=" + secretKey}
	succeed(t, settings, "migrate", "control")
	for _, name := range []string{"acme", "globex", "hooli"} {
		succeed(t, settings, "tenant", "create", name, "--company=X", "--contact-name=X", "--contact-email=x@x.example")
	}
	dir := copyMigrations(t)
	const file = "-- migrate:up\nSELECT pg_advisory_xact_lock(77);\nCREATE TABLE late ();\n-- migrate:down\nDROP TABLE late;\n"
	if err := os.WriteFile(filepath.Join(dir, "20990101000000_late.sql"), []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	settings = append(settings, "LEASEHOLD_MIGRATIONS="+dir)

	conn := pgtest.Connect(t, databaseURL)
	if _, err := conn.Exec(t.Context(), "SELECT pg_advisory_lock(77)"); err != nil {
		t.Fatal(err)
	}
	p := start(t, settings, "migrate", "up", "--workers=1", "--lock-timeout=1m")
	eventually(t, "the first tenant is in hand", func() (waits bool) {
		err := conn.QueryRow(t.Context(), "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted)").Scan(&waits)
		return err == nil && waits
	})
	p.signal(syscall.SIGTERM)
	if _, err := conn.Exec(t.Context(), "SELECT pg_sleep(0.3), pg_advisory_unlock(77)"); err != nil {
		t.Fatal(err)
	}
	r := p.wait()
	if r.code != 1 || r.stdout != "1 migrated, 0 current, 0 failed, 2 not reached\n" ||
		!strings.Contains(r.stderr, "leasehold: 2 of 3 tenants were left out: the command was interrupted — run the same command again; what is done stays done\n") {
		t.Errorf("status %d\n%s\n%s", r.code, r.stdout, r.stderr)
	}
	if out := succeed(t, settings, "migrate", "up"); out != "2 migrated, 1 current, 0 failed\n" {
		t.Errorf("again: %s", out)
	}
}
