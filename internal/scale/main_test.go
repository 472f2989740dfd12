package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestCommandLine(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		args           []string
		code           int
		stdout, stderr string
	}{
		"nothing":         {nil, exitUsage, "", "usage: scale"},
		"what is not":     {[]string{"guess"}, exitUsage, "", "usage: scale"},
		"help":            {[]string{"simulate", "-h"}, exitDone, "", "-tenants"},
		"arguments":       {[]string{"simulate", "more"}, exitUsage, "", "usage: scale"},
		"not growing":     {[]string{"measure", "-tenants", "9,3"}, exitUsage, "", "want growing numbers"},
		"no tables":       {[]string{"measure", "-tables", "0"}, exitFailed, "", "want at least one"},
		"no tenants":      {[]string{"simulate", "-tenants", "0"}, exitFailed, "", "scale: numbers"},
		"few tenants":     {[]string{"simulate", "-tenants", "100", "-years", "1"}, exitDone, "Worst in all: ", ""},
		"servers, listed": {[]string{"simulate", "-tenants", "100", "-years", "1", "-each"}, exitDone, "| 1 | schemas |", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var stdout, stderr bytes.Buffer
			code := command(t.Context(), test.args, &stdout, &stderr)
			if code != test.code || !strings.Contains(stdout.String(), test.stdout) || !strings.Contains(stderr.String(), test.stderr) {
				t.Errorf("status %d\n%s%s", code, &stdout, &stderr)
			}
		})
	}
}

// It measures, and leaves nothing behind.
func TestMeasure(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	var stdout, stderr bytes.Buffer
	args := []string{"measure", "-tenants", "2,5", "-tables", "2", "-visits", "1,5,10", "-databases", "2", "-registry", "10,1500"}
	if code := command(t.Context(), args, &stdout, &stderr); code != exitDone {
		t.Fatalf("status %d\n%s", code, &stderr)
	}
	text := stdout.String()
	for _, want := range []string{
		"2 tables with 3 indexes for each tenant", "| tenants, a schema each | 0 | 2 | 5 |", "| tenants that one connection has served | 1 | 5 |",
		"| a database each, 2 of them |", "| tenants in the registry | 10 | 1,500 |",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing in\n%s", want, text)
		}
	}
	for line := range strings.Lines(text) {
		if strings.Contains(line, "|  |  |") {
			t.Errorf("a row without numbers: %s", line)
		}
	}
	if left, err := filepath.Glob(filepath.Join(os.TempDir(), "leasehold-*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// An interrupt stops the servers.
func TestMeasureIsInterrupted(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	ctx, cancel := context.WithCancel(t.Context())
	var stdout bytes.Buffer
	log := &interrupter{cancel: cancel}
	if code := command(ctx, []string{"measure", "-registry", "200"}, &stdout, log); code != exitFailed {
		t.Errorf("status %d", code)
	}
	if left, err := filepath.Glob(filepath.Join(os.TempDir(), "leasehold-*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// interrupter is a log that ends the run with its first line.
type interrupter struct{ cancel context.CancelFunc }

func (i *interrupter) Write(p []byte) (int, error) {
	i.cancel()
	return len(p), nil
}
