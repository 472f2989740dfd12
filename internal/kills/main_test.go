package main

import (
	"bytes"
	"context"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/leasehold-go/leasehold/internal/pgtest"
)

// naiveEnv makes the process that is killed a naive one.
const naiveEnv = "KILLS_TEST_NAIVE"

// The test binary is also the process that is killed.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == childFlag {
		migrate := migrateFleet
		if os.Getenv(naiveEnv) != "" {
			migrate = migrateNaively
		}
		os.Exit(child(context.Background(), os.Args[2:], migrate, os.Stdout, os.Stderr))
	}
	os.Exit(pgtest.Main(m))
}

func TestCommandLine(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		args string
		want int
	}{
		"help":                     {"-h", exitClean},
		"an unknown flag":          {"-what", exitUsage},
		"no kills":                 {"-kills 0", exitUsage},
		"no workers":               {"-workers 0", exitUsage},
		"a stray argument":         {"-kills 1 fast", exitUsage},
		"not even a number":        {"-seed x", exitUsage},
		"a child without a job":    {"-child", exitFault},
		"a child with a wrong job": {"-child up two 1", exitFault},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var stdout, stderr bytes.Buffer
			if got := command(t.Context(), strings.Fields(tc.args), &stdout, &stderr); got != tc.want {
				t.Errorf("exit status %d, want %d: %s", got, tc.want, stderr.String())
			}
			if stdout.Len() != 0 || stderr.Len() == 0 {
				t.Errorf("stdout %q, stderr %q", stdout.String(), stderr.String())
			}
		})
	}
}

// All of it, on a server of its own.
func TestCommand(t *testing.T) {
	t.Parallel()
	var stdout, stderr bytes.Buffer
	if got := command(t.Context(), strings.Fields("-kills 2 -seed 1"), &stdout, &stderr); got != exitClean {
		t.Errorf("exit status %d: %s", got, stderr.String())
	}
	want := regexp.MustCompile(`(?m)^PostgreSQL \d+.*, seed 1, .*\nkills +[2-9],(.*\n)+faults +0\n\z`)
	if text := stdout.String(); !want.MatchString(text) {
		t.Errorf("the report is %q", text)
	}
}

// watched is what a person sees on stderr. It calls seen when a text comes by.
type watched struct {
	want string
	seen func()
	text strings.Builder
}

func (w *watched) Write(p []byte) (int, error) {
	w.text.Write(p)
	if strings.Contains(w.text.String(), w.want) {
		w.seen()
	}
	return len(p), nil
}

// Ctrl-C ends the run and its server, and is no fault; what is left running is found by TestMain.
func TestCommandInterrupted(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var stdout bytes.Buffer
	stderr := &watched{want: "boundaries", seen: cancel}
	got := command(ctx, strings.Fields("-kills 1000000 -seed 1"), &stdout, stderr)
	if got != exitFault || !regexp.MustCompile(`(?m)^faults +0$`).MatchString(stdout.String()) {
		t.Errorf("exit status %d, report %q, stderr %q", got, stdout.String(), stderr.text.String())
	}
}
