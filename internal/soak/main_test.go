package main

import (
	"bytes"
	"context"
	"strings"
	"sync"
	"testing"
)

func TestCommandLine(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		args string
		want int
	}{
		"help":              {"-h", exitClean},
		"an unknown flag":   {"-what", exitUsage},
		"no operations":     {"-ops 0", exitUsage},
		"one tenant":        {"-tenants 1", exitUsage},
		"too many logins":   {"-tenants 5 -logins 6", exitUsage},
		"one connection":    {"-conns 1", exitUsage},
		"no goroutines":     {"-goroutines 0", exitUsage},
		"a stray argument":  {"-ops 1 fast", exitUsage},
		"not even a number": {"-seed x", exitUsage},
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

// watched is what a person sees on stderr. It calls seen when a text comes by.
type watched struct {
	mu   sync.Mutex
	text strings.Builder
	want string
	seen func()
}

func (w *watched) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.text.Write(p)
	if strings.Contains(w.text.String(), w.want) {
		w.seen()
	}
	return len(p), nil
}

// Ctrl-C ends the run and its server; what is left running or lying about is found by TestMain.
func TestCommandInterrupted(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stderr := &watched{want: "tenants built", seen: cancel}
	var stdout bytes.Buffer
	got := command(ctx, strings.Fields("-ops 100000000 -tenants 10 -goroutines 4 -conns 2 -seed 1"), &stdout, stderr)
	if got != exitFault || !strings.Contains(stderr.text.String(), "soak: ") {
		t.Errorf("exit status %d, stderr %q", got, stderr.text.String())
	}
}
