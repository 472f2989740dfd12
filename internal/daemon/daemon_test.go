package daemon

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"go.uber.org/goleak"
)

// helperEnv makes the test binary start a shell script as a daemon and wait for its own end.
const helperEnv = "DAEMON_TEST_HELPER"

func TestMain(m *testing.M) {
	if script, isHelper := os.LookupEnv(helperEnv); isHelper {
		cmd := exec.CommandContext(context.Background(), "/bin/sh", "-c", script)
		cmd.Stdin, cmd.Stdout = os.Stdin, os.Stdout
		p, err := Start(cmd, nil, syscall.SIGTERM)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		_ = p.Err()
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// waits is a script that is ready, and then waits for input that never comes.
const waits = `echo ready; read x`

// pipes gives cmd an input that never ends, and returns what reads its output. Nobody but cmd holds the other end of that.
func pipes(t *testing.T, cmd *exec.Cmd, start func() error) *bufio.Reader {
	t.Helper()
	stdin, keep, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	output, stdout, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = keep.Close(), output.Close() })
	cmd.Stdin, cmd.Stdout = stdin, stdout
	if err := errors.Join(start(), stdin.Close(), stdout.Close()); err != nil {
		t.Fatal(err)
	}
	reader := bufio.NewReader(output)
	if line, err := reader.ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("the program says %q, %v", line, err)
	}
	return reader
}

func start(t *testing.T, script string) *Process {
	t.Helper()
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), "/bin/sh", "-c", script)
	var p *Process
	pipes(t, cmd, func() (err error) {
		p, err = Start(cmd, nil, syscall.SIGKILL)
		return err
	})
	t.Cleanup(func() {
		if err := p.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return p
}

func TestStop(t *testing.T) {
	t.Parallel()
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	tests := []struct {
		name    string
		script  string
		ctx     context.Context
		signals []syscall.Signal
		want    string // how the program ends
	}{
		{"obeys", `trap 'exit 3' TERM; ` + waits, t.Context(), []syscall.Signal{syscall.SIGTERM}, "exit status 3"},
		{"obeys the second", `trap '' TERM; ` + waits, canceled, []syscall.Signal{syscall.SIGTERM, syscall.SIGHUP}, "signal: hangup"},
		{"obeys none", `trap '' TERM; ` + waits, canceled, []syscall.Signal{syscall.SIGTERM}, "signal: killed"},
		{"is asked for nothing", waits, t.Context(), nil, "signal: killed"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			p := start(t, test.script)
			for range 2 {
				if err := p.Stop(test.ctx, test.signals...); err != nil {
					t.Fatal(err)
				}
				select {
				case <-p.Done():
				default:
					t.Fatal("Done is open after Stop")
				}
			}
			exit, ok := errors.AsType[*exec.ExitError](p.Err())
			if !ok {
				t.Fatalf("got %v, want an *exec.ExitError", p.Err())
			}
			if got := exit.String(); got != test.want {
				t.Errorf("%s, want %s", got, test.want)
			}
		})
	}
}

func TestEndsByItself(t *testing.T) {
	t.Parallel()
	p := start(t, "echo ready")
	if err := p.Err(); err != nil {
		t.Error(err)
	}
	if err := p.Stop(t.Context(), syscall.SIGTERM); err != nil {
		t.Error(err)
	}
}

func TestStartFails(t *testing.T) {
	t.Parallel()
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), "/nonexistent")
	if _, err := Start(cmd, nil, syscall.SIGKILL); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v, want os.ErrNotExist", err)
	}
}

// A Ctrl-C goes to the terminal's foreground process group, which must not be the program's.
func TestOwnProcessGroup(t *testing.T) {
	t.Parallel()
	p := start(t, waits)
	group, err := syscall.Getpgid(p.PID())
	if err != nil {
		t.Fatal(err)
	}
	if group != p.PID() {
		t.Errorf("the program %d is in the process group %d", p.PID(), group)
	}
}

// A program of another user reads a folder that lies where that user cannot enter.
func TestHandOver(t *testing.T) {
	t.Parallel()
	credential, err := Credential()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "closed", "ours")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("ready\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if credential != nil {
		uid, gid := int(credential.Uid), int(credential.Gid)
		if err := errors.Join(os.Chown(dir, uid, gid), os.Chown(file, uid, gid)); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), "/bin/cat")
	cmd.Dir = "/"
	name, closeAfter, err := HandOver(cmd, credential, dir)
	if err != nil {
		t.Fatal(err)
	}
	defer closeAfter()
	cmd.Args = append(cmd.Args, name+"/file")
	pipes(t, cmd, func() error {
		p, err := Start(cmd, credential, syscall.SIGKILL)
		if err == nil {
			err = p.Err()
		}
		return err
	})
}
