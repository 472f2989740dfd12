package cli_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/goleak"

	"github.com/leasehold-go/leasehold/db/migrations"
	"github.com/leasehold-go/leasehold/internal/cli"
	"github.com/leasehold-go/leasehold/internal/pgtest"
)

// The test binary is the leasehold command as well: under that name on PATH it runs cli.Main, as cmd/leasehold does.
func TestMain(m *testing.M) {
	testscript.Main(tests{m}, map[string]func(){"leasehold": leasehold})
}

type tests struct{ m *testing.M }

func (t tests) Run() int { return pgtest.Main(t.m) }

// exitLeak is the exit status of a command that left a goroutine behind.
const exitLeak = 97

func leasehold() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	code := cli.Main(ctx, os.Args[1:], cli.Streams{Out: os.Stdout, Err: os.Stderr, In: os.Stdin})
	stop()
	if err := goleak.Find(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = exitLeak
	}
	os.Exit(code)
}

// patience is how long a test waits for something that has to come.
const patience = time.Minute

// eventually returns when the condition holds, and fails the test if it never does.
func eventually(tb testing.TB, what string, condition func() bool) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), patience)
	defer cancel()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for !condition() {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			tb.Fatalf("%s: not within %v", what, patience)
		}
	}
}

// environment is that of a process that has no settings but the given ones.
func environment(settings ...string) []string {
	var env []string
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "LEASEHOLD_") {
			env = append(env, v)
		}
	}
	// leasehold dev takes the first PostgreSQL on PATH: the one that is to be tested on.
	if bin := os.Getenv(pgtest.BinEnv); bin != "" {
		env = append(env, "PATH="+os.Getenv("PATH")+string(filepath.ListSeparator)+bin)
	}
	return append(env, settings...)
}

// transcript collects what a process writes.
type transcript struct {
	mu      sync.Mutex
	text    []byte        // guarded by mu
	written chan struct{} // guarded by mu; closed by the next Write
}

func newTranscript() *transcript { return &transcript{written: make(chan struct{})} }

func (t *transcript) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, p...)
	close(t.written)
	t.written = make(chan struct{})
	return len(p), nil
}

func (t *transcript) read() (string, <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.text), t.written
}

func (t *transcript) String() string {
	text, _ := t.read()
	return text
}

// process is a leasehold command that runs beside the test. It has ended when the test has.
type process struct {
	tb             testing.TB
	cmd            *exec.Cmd
	stdout, stderr *transcript
	done           chan struct{} // closed when it has ended
}

// start starts a leasehold command with the given settings and arguments.
func start(tb testing.TB, settings []string, args ...string) *process {
	tb.Helper()
	p := &process{tb: tb, stdout: newTranscript(), stderr: newTranscript(), done: make(chan struct{})}
	// The test's context ends before its cleanups run; the process is to be stopped in order.
	p.cmd = exec.CommandContext(context.WithoutCancel(tb.Context()), "leasehold", args...)
	p.cmd.Env = environment(settings...)
	p.cmd.Stdout, p.cmd.Stderr = p.stdout, p.stderr
	if err := p.cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	go func() {
		defer close(p.done)
		_ = p.cmd.Wait() // how it ended is in its ProcessState
	}()
	tb.Cleanup(func() {
		p.signal(os.Interrupt)
		select {
		case <-p.done:
		case <-time.After(patience):
			tb.Errorf("leasehold %v does not stop", args)
			p.signal(os.Kill)
			<-p.done
		}
		if tb.Failed() {
			tb.Logf("leasehold %v, %v, wrote:\n%s%s", args, p.cmd.ProcessState, p.stdout, p.stderr)
		}
	})
	return p
}

// signal sends a signal; it does nothing to a process that has ended.
func (p *process) signal(sig os.Signal) {
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.tb.Errorf("signal %v: %v", sig, err)
	}
}

// await waits until what the process has written to t is as it should be, and returns it.
func (p *process) await(t *transcript, ready func(string) bool) string {
	p.tb.Helper()
	ctx, cancel := context.WithTimeout(p.tb.Context(), patience)
	defer cancel()
	for {
		text, more := t.read()
		if ready(text) {
			return text
		}
		select {
		case <-more:
		case <-p.done:
			if text, _ := t.read(); ready(text) {
				return text
			}
			p.tb.Fatalf("leasehold %v ended with %v", p.cmd.Args[1:], p.cmd.ProcessState)
		case <-ctx.Done():
			p.tb.Fatalf("leasehold %v: not ready within %v", p.cmd.Args[1:], patience)
		}
	}
}

// wait waits until the process has ended.
func (p *process) wait() result {
	p.tb.Helper()
	select {
	case <-p.done:
	case <-time.After(patience):
		p.tb.Fatalf("leasehold %v: not ended within %v", p.cmd.Args[1:], patience)
	}
	return result{p.cmd.ProcessState.ExitCode(), p.stdout.String(), p.stderr.String()}
}

// stop sends a signal and expects the process to end with status 0 and without a word on standard error.
func (p *process) stop(sig os.Signal) {
	p.tb.Helper()
	p.signal(sig)
	if r := p.wait(); r.code != 0 {
		p.tb.Fatalf("after %v it ended with status %d:\n%s", sig, r.code, r.stderr)
	}
}

// result is what became of a command.
type result struct {
	code           int
	stdout, stderr string
}

// run runs a leasehold command to its end.
func run(tb testing.TB, settings []string, args ...string) result {
	tb.Helper()
	return start(tb, settings, args...).wait()
}

// succeed runs a command that must succeed, and returns what it prints.
func succeed(tb testing.TB, settings []string, args ...string) string {
	tb.Helper()
	r := run(tb, settings, args...)
	if r.code != 0 {
		tb.Fatalf("leasehold %v: status %d\n%s", args, r.code, r.stderr)
	}
	return r.stdout
}

// failure reports what is wrong with how a command failed. It must say one line, on standard error, that is free of secrets.
func (r result) failure(code int, secrets ...string) error {
	var problems []error
	if r.code != code {
		problems = append(problems, fmt.Errorf("exit status %d, want %d", r.code, code))
	}
	if r.stdout != "" {
		problems = append(problems, errors.New("it wrote to standard output"))
	}
	line, rest, whole := strings.Cut(r.stderr, "\n")
	if !whole || rest != "" || !strings.HasPrefix(line, "leasehold: ") {
		problems = append(problems, errors.New("standard error is not one line that begins with leasehold:"))
	}
	return errors.Join(append(problems, r.betrayal(secrets...))...)
}

// betrayal reports a secret in what a command wrote.
func (r result) betrayal(secrets ...string) error {
	for _, secret := range secrets {
		if secret != "" && strings.Contains(r.stdout+r.stderr, secret) {
			return errors.New("a secret was shown")
		}
	}
	return nil
}

// decode reads a command's output, which must be one JSON value and nothing else.
func decode[T any](tb testing.TB, text string) T {
	tb.Helper()
	var v T
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		tb.Fatalf("%v in:\n%s", err, text)
	}
	return v
}

// copyMigrations writes the tenants' migrations that are built in to a new folder, where a test can add to them.
func copyMigrations(tb testing.TB) string {
	tb.Helper()
	dir := filepath.Join(tb.TempDir(), "migrations")
	if err := writeMigrations(dir); err != nil {
		tb.Fatal(err)
	}
	return dir
}

func writeMigrations(dir string) error {
	files, err := fs.Sub(migrations.FS, "tenant")
	if err != nil {
		return err
	}
	return os.CopyFS(dir, files)
}

// postmaster returns the process id and the port of the server in a data folder of leasehold dev.
func postmaster(tb testing.TB, data string) (pid, port int) {
	tb.Helper()
	content, err := os.ReadFile(filepath.Join(data, "postgres", "data", "postmaster.pid"))
	if err != nil {
		tb.Fatal(err)
	}
	lines := strings.Split(string(content), "\n")
	if len(lines) < 4 {
		tb.Fatalf("postmaster.pid: %q", content)
	}
	pid, pidErr := strconv.Atoi(lines[0])
	port, portErr := strconv.Atoi(lines[3])
	if err := errors.Join(pidErr, portErr); err != nil {
		tb.Fatal(err)
	}
	return pid, port
}

// alive reports whether there is a process of that id.
func alive(pid int) bool { return !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) }
