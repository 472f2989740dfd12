package cli_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/leasehold-go/leasehold/internal/pgtest"
)

// threeTenants makes acme, globex and hooli, and returns the settings that lead to them.
func threeTenants(tb testing.TB) []string {
	tb.Helper()
	settings := []string{"LEASEHOLD_DATABASE_URL=" + pgtest.Database(tb), "LEASEHOLD_SECRET_KEY=" + secretKey}
	succeed(tb, settings, "migrate", "control")
	for _, name := range []string{"acme", "globex", "hooli"} {
		succeed(tb, settings, "tenant", "create", name, "--company=X", "--contact-name=X", "--contact-email=x@x.example")
	}
	return settings
}

var pidLine = regexp.MustCompile(`(?m)^globex: pid (\d+)$`)

// pidOf waits until the program that runs for globex has said its process id.
func pidOf(tb testing.TB, p *process) int {
	tb.Helper()
	text := p.await(p.stdout, pidLine.MatchString)
	pid, err := strconv.Atoi(pidLine.FindStringSubmatch(text)[1])
	if err != nil {
		tb.Fatal(err)
	}
	return pid
}

// Who interrupts tenant each ends the programs that run, in order.
func TestAnInterruptEndsThePrograms(t *testing.T) {
	t.Parallel()
	settings := threeTenants(t)
	const hang = `[ $LEASEHOLD_TENANT_SLUG = globex ] || exit 0; echo pid $$; `
	tests := map[string]struct{ program, says string }{
		"that obey":     {`trap "echo in order; exit 0" TERM; ` + hang + `sleep 3600 & wait`, "globex: in order\n"},
		"that must die": {`trap "" TERM; ` + hang + `while :; do sleep 3600; done`, ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(t.TempDir(), "resume.json")
			p := start(t, settings, "tenant", "each", "--wait=300ms", "--resume", file, "--", "sh", "-c", test.program)
			pid := pidOf(t, p)
			p.signal(os.Interrupt)
			r := p.wait()
			if r.code != 1 || !strings.HasSuffix(r.stdout, test.says) ||
				!strings.Contains(r.stderr, "leasehold: globex: broken off\n1 done, 0 failed, 1 broken off, 1 not reached\nleasehold: stopped: the command was interrupted — run the same command again") {
				t.Errorf("status %d\n%s\n%s", r.code, r.stdout, r.stderr)
			}
			eventually(t, "the whole group has ended", func() bool { return !alive(-pid) })
		})
	}
}

// After kill -9 the same command goes on. What was in hand is begun again.
func TestAKilledRunIsGoneOnWith(t *testing.T) {
	t.Parallel()
	settings := threeTenants(t)
	dir := t.TempDir()
	file, log := filepath.Join(dir, "resume.json"), filepath.Join(dir, "log")
	args := []string{"tenant", "each", "--resume", file, "--", "sh", "-c",
		`echo $LEASEHOLD_TENANT_SLUG >>"$0"; [ $LEASEHOLD_TENANT_SLUG = globex ] && mkdir "$0.once" 2>/dev/null || exit 0; echo pid $$; exec sleep 3600`, log}
	p := start(t, settings, args...)
	pid := pidOf(t, p)
	t.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGKILL) })
	eventually(t, "acme is known to be done", func() bool {
		var kept struct{ After string }
		text, err := os.ReadFile(file)
		return err == nil && json.Unmarshal(text, &kept) == nil && kept.After != "00000000-0000-0000-0000-000000000000"
	})
	p.signal(os.Kill)
	p.wait()
	if r := run(t, settings, args...); r.code != 0 || !strings.HasSuffix(r.stderr, "2 done, 0 failed\n") {
		t.Errorf("again: status %d\n%s", r.code, r.stderr)
	}
	text, err := os.ReadFile(log)
	if err != nil || string(text) != "acme\nglobex\nglobex\nhooli\n" {
		t.Errorf("runs: %q, %v", text, err)
	}
	left, err := filepath.Glob(file + "*")
	if err != nil || len(left) != 1 {
		t.Errorf("files: %v, %v", left, err)
	}
}
