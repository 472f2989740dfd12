package cli_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/leasehold-go/leasehold/internal/pgtest"
)

// A spare that another release has made is told apart, and is nobody's fault.
func TestSparesOfAnotherRelease(t *testing.T) {
	t.Parallel()
	settings := []string{"LEASEHOLD_DATABASE_URL=" + pgtest.Database(t), "LEASEHOLD_SECRET_KEY=" + secretKey}
	succeed(t, settings, "migrate", "control")
	serve := start(t, settings, append([]string{"serve", "--spares=1"}, anyPort...)...)
	eventually(t, "there is a spare", func() bool {
		status := decode[struct{ Spares struct{ Current int } }](t, succeed(t, settings, "migrate", "status", "--json"))
		return status.Spares.Current == 1
	})
	serve.stop(syscall.SIGTERM)

	dir := copyMigrations(t)
	const file = "-- migrate:up\nCREATE TABLE late ();\n-- migrate:down\nDROP TABLE late;\n"
	if err := os.WriteFile(filepath.Join(dir, "20990101000000_late.sql"), []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	newer := append([]string{"LEASEHOLD_MIGRATIONS=" + dir}, settings...)
	shows := func(settings []string, command, want string) {
		t.Helper()
		if out := succeed(t, settings, "migrate", command); !strings.HasSuffix(out, want) {
			t.Errorf("migrate %s: got\n%s\nwant %s", command, out, want)
		}
	}
	shows(newer, "status", "0 tenants, 0 current\nspares: 1, 0 current, 1 behind\n")
	shows(newer, "check", "0 checked, 0 as the migrations make them; spares that are not current, left out: 1\n")
	shows(newer, "up", "0 migrated, 0 current, 0 failed; spares: 1 migrated, 0 current, 0 failed\n")
	shows(newer, "check", "1 checked, 1 as the migrations make them\n")
	shows(settings, "status",
		"0 tenants, 0 current\nspares: 1, 0 current, 1 ahead: made by a newer release, which will use what it made; nothing to do here\n")
	shows(settings, "check", "0 checked, 0 as the migrations make them; spares that are not current, left out: 1\n")
	if r := run(t, settings, "migrate", "up"); r.code != 0 || r.stderr != "" {
		t.Errorf("migrate up: status %d\n%s", r.code, r.stderr)
	}
}
