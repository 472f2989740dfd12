// Command mutants plants faults in db/tenantdb, one at a time, and runs its tests on each: a test suite that proves isolation
// must fail on every one of them. A fault that no test notices is a test that is missing.
//
// It changes no file: the go command is given an overlay (go help build, -overlay). The test that is known to notice a fault runs
// first (killers.go); if that one does not, all of them. It ends with a line such as "30 of 30 killed", and with status 0 only
// if all were.
//
//	go run ./internal/mutants            // from the top of the module; about ten seconds for each
//	go run ./internal/mutants -run batch // only those whose name contains "batch"
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

const (
	pkg = "./db/tenantdb"
	// timeout bounds the tests of one mutant: a fault that makes them hang is found too.
	timeout = 10 * time.Minute
	// oneTest bounds the test that is known to notice a fault: some faults are noticed by what never ends.
	oneTest = time.Minute
)

func main() {
	only := flag.String("run", "", "plant only the faults whose name contains `text`")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Stdout, *only)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, w io.Writer, only string) error {
	killed, total := 0, 0
	for _, m := range mutants {
		if !strings.Contains(m.name, only) {
			continue
		}
		total++
		by, err := m.try(ctx)
		switch {
		case err != nil:
			return fmt.Errorf("%s: %w", m.name, err)
		case by == "":
			_, _ = fmt.Fprintf(w, "SURVIVED  %s\n", m.name)
		default:
			killed++
			_, _ = fmt.Fprintf(w, "killed    %-60s %s\n", m.name, by)
		}
	}
	_, _ = fmt.Fprintf(w, "%d of %d killed\n", killed, total)
	if killed < total {
		return errors.New("a fault survived: a test is missing")
	}
	return nil
}

// mutant is one fault: in file, old is replaced by new. old stands there exactly once.
type mutant struct{ name, file, old, new string }

// try runs the tests on the mutant and returns what noticed it, or "".
func (m mutant) try(ctx context.Context) (by string, err error) {
	dir, err := os.MkdirTemp("", "leasehold-mutant-")
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	overlay, err := m.overlay(dir)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	binary := filepath.Join(dir, "mutant.test")
	if out, err := exec.CommandContext(ctx, "go", "test", "-c", "-vet=off", "-overlay", overlay, "-o", binary, pkg).CombinedOutput(); err != nil {
		return "", fmt.Errorf("it does not compile: %s", bytes.TrimSpace(out))
	}
	if first := killers[m.name]; first != "" {
		if by, err := runTests(ctx, binary, oneTest, "-test.run", "^"+first+"$"); by != "" || err != nil {
			return by, err
		}
	}
	return runTests(ctx, binary, timeout/2)
}

// runTests runs tests until one fails, or for the given time, and returns its name. It returns "" if none does.
func runTests(ctx context.Context, binary string, limit time.Duration, args ...string) (string, error) {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	out := &watch{seen: func() { stop(errNoticed) }}
	cmd := exec.CommandContext(ctx, binary, append(args, "-test.timeout", limit.String())...)
	cmd.Dir = pkg
	cmd.Stdout, cmd.Stderr = out, out
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return "", nil
	case errors.Is(context.Cause(ctx), context.Canceled):
		return "", context.Cause(ctx)
	case context.Cause(ctx) != nil, errors.As(err, &exit): // a test failed, or hung
		return culprit(out.buf.Bytes()), nil
	}
	return "", err
}

var errNoticed = errors.New("a test has failed")

// watch collects what tests print, and calls seen when one of them has failed.
type watch struct {
	buf  bytes.Buffer
	seen func()
}

func (w *watch) Write(p []byte) (int, error) {
	w.buf.Write(p)
	if failed.Match(w.buf.Bytes()) {
		w.seen()
	}
	return len(p), nil
}

var failed = regexp.MustCompile(`(?m)^\s*--- FAIL: (\S+)|^(panic: .*)`)

// culprit names the test that failed first.
func culprit(out []byte) string {
	if m := failed.FindSubmatch(out); m != nil {
		return string(m[1]) + string(m[2])
	}
	return "the end of the run: " + lastLine(out)
}

func lastLine(out []byte) string {
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	return lines[len(lines)-1]
}

// overlay writes the changed file and the go command's description of it.
func (m mutant) overlay(dir string) (string, error) {
	original, err := filepath.Abs(filepath.Join(pkg, m.file))
	if err != nil {
		return "", err
	}
	source, err := os.ReadFile(original)
	if err != nil {
		return "", err
	}
	if n := strings.Count(string(source), m.old); n != 1 {
		return "", fmt.Errorf("its place stands %d times in %s; bring it up to date with the code", n, m.file)
	}
	changed := filepath.Join(dir, m.file)
	if err := os.WriteFile(changed, []byte(strings.Replace(string(source), m.old, m.new, 1)), 0o600); err != nil {
		return "", err
	}
	description, err := json.Marshal(map[string]map[string]string{"Replace": {original: changed}})
	if err != nil {
		return "", err
	}
	file := filepath.Join(dir, "overlay.json")
	return file, os.WriteFile(file, description, 0o600)
}
