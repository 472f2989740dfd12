package pgserver

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"
)

const (
	// helperEnv makes the test binary run a server and nothing else: for DataDir, or "" for an ephemeral one.
	helperEnv = "PGSERVER_TEST_HELPER"
	// binEnv names the programs to test with.
	binEnv = "LEASEHOLD_TEST_POSTGRES_BIN"
)

func TestMain(m *testing.M) {
	if dir, isHelper := os.LookupEnv(helperEnv); isHelper {
		if err := help(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if dir := template.dir; dir != "" {
			_ = os.RemoveAll(dir)
		}
		os.Exit(code)
	}))
}

// template is a folder with a stopped server, which prepared copies: that is several times cheaper than another cluster.
var template struct {
	once sync.Once
	dir  string
	err  error
}

func makeTemplate() (err error) {
	if template.dir, err = os.MkdirTemp("", "pgserver-test-"); err != nil {
		return err
	}
	ctx := context.Background()
	s, err := Start(ctx, testConfig(template.dir))
	if err != nil {
		return err
	}
	if err := s.Stop(ctx); err != nil {
		return err
	}
	s.state.Port = 0 // every copy is to have its own
	return s.folder.saveState(s.state)
}

// prepared returns a folder that has been started and stopped before.
func prepared(t *testing.T) string {
	t.Helper()
	template.once.Do(func() { template.err = makeTemplate() })
	if template.err != nil {
		t.Fatal(template.err)
	}
	dir := t.TempDir()
	if out, err := exec.CommandContext(t.Context(), "cp", "-Rp", filepath.Join(template.dir, "postgres"), dir).CombinedOutput(); err != nil {
		t.Fatalf("cp: %v: %s", err, out)
	}
	return dir
}

// help runs a server, tells its URL, and stops it when its input ends. Its log goes to stderr.
func help(dir string) error {
	ctx := context.Background()
	cfg := testConfig(dir)
	cfg.Ephemeral = dir == ""
	cfg.Logger = slog.New(slog.NewTextHandler(os.Stderr, nil))
	s, err := Start(ctx, cfg)
	if err != nil {
		return err
	}
	fmt.Println(s.URL(Administrator, Database))
	_, err = io.Copy(io.Discard, os.Stdin)
	return errors.Join(err, s.Stop(ctx))
}

func testConfig(dir string) Config {
	return Config{DataDir: dir, BinDir: os.Getenv(binEnv), Settings: map[string]string{"fsync": "off", "shared_buffers": "16MB"}}
}

// A helper is another process that runs a server.
type helper struct {
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stdout *bufio.Reader
	stderr *bufio.Reader
}

// startHelper starts another process with a server on dir. With a credential it runs as that user.
func startHelper(t *testing.T, dir string, credential *syscall.Credential, env ...string) *helper {
	t.Helper()
	self := "/proc/self/exe" // good for a user who cannot enter the folder of the test binary
	if _, err := os.Stat(self); err != nil {
		if self, err = os.Executable(); err != nil {
			t.Fatal(err)
		}
	}
	h := &helper{cmd: exec.CommandContext(t.Context(), self)}
	h.cmd.Env = append(append(os.Environ(), helperEnv+"="+dir), env...)
	h.cmd.Dir = "/"
	h.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: credential}
	var err, outErr, errErr error
	var stdout, stderr io.Reader
	h.stdin, err = h.cmd.StdinPipe()
	stdout, outErr = h.cmd.StdoutPipe()
	stderr, errErr = h.cmd.StderrPipe()
	if err := errors.Join(err, outErr, errErr, h.cmd.Start()); err != nil {
		t.Fatal(err)
	}
	h.stdout, h.stderr = bufio.NewReader(stdout), bufio.NewReader(stderr)
	t.Cleanup(func() {
		_ = h.cmd.Process.Kill()
		_ = h.cmd.Wait()
	})
	return h
}

// url waits for the server, and returns its URL.
func (h *helper) url(t *testing.T) string {
	t.Helper()
	line, err := h.stdout.ReadString('\n')
	if err != nil {
		rest, _ := io.ReadAll(h.stderr)
		t.Fatalf("the helper has not started its server: %v\n%s", err, rest)
	}
	return strings.TrimSpace(line)
}

// stop lets the helper stop its server in order.
func (h *helper) stop(t *testing.T) {
	t.Helper()
	if err := h.stdin.Close(); err != nil {
		t.Fatal(err)
	}
	rest, _ := io.ReadAll(h.stderr)
	if err := h.cmd.Wait(); err != nil {
		t.Fatalf("helper: %v\n%s", err, rest)
	}
}

// kill is kill -9.
func (h *helper) kill(t *testing.T) {
	t.Helper()
	if err := h.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := h.cmd.Wait(); !errors.As(err, &exit) {
		t.Fatalf("wait for the killed helper: %v", err)
	}
}

// start starts a server which is stopped when t ends.
func start(t *testing.T, cfg Config) *Server {
	t.Helper()
	s, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(t, s) })
	return s
}

func stop(t *testing.T, s *Server) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := s.Stop(ctx); err != nil {
		t.Errorf("stop: %v", err)
	}
}

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func exec1(t *testing.T, url, sql string) {
	t.Helper()
	conn := connect(t, url)
	if _, err := conn.Exec(t.Context(), sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	if err := conn.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func scan[T any](t *testing.T, url, sql string) T {
	t.Helper()
	conn := connect(t, url)
	var v T
	if err := conn.QueryRow(t.Context(), sql).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	if err := conn.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	return v
}

// openDir is a folder that every user can enter, unlike t.TempDir.
func openDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "pgserver-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// ordinary returns the credential of a user who is not root, and a folder of that user. If we are not root, that is us.
func ordinary(t *testing.T) (*syscall.Credential, string) {
	t.Helper()
	dir := openDir(t)
	if os.Geteuid() != 0 {
		return nil, dir
	}
	nobody, err := user.Lookup("nobody")
	if err != nil {
		t.Fatal(err)
	}
	uid, uidErr := strconv.Atoi(nobody.Uid)
	gid, gidErr := strconv.Atoi(nobody.Gid)
	if err := errors.Join(uidErr, gidErr, os.Chown(dir, uid, gid)); err != nil {
		t.Fatal(err)
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, dir
}

func assertMode(t *testing.T, path string, want fs.FileMode) {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Error(err)
		return
	}
	if got := info.Mode().Perm(); got != want {
		t.Errorf("%s has mode %o, want %o", path, got, want)
	}
}

func assertEmpty(t *testing.T, glob string) {
	t.Helper()
	found, err := filepath.Glob(glob)
	if err != nil {
		t.Fatal(err)
	}
	if len(found) > 0 {
		t.Errorf("left behind: %q", found)
	}
}

func assertGone(t *testing.T, dir string) {
	t.Helper()
	left, err := serverProcesses(filepath.Join(dir, "postgres", "data"))
	if err != nil {
		t.Fatal(err)
	}
	if len(left) > 0 {
		t.Errorf("processes %v are left", left)
	}
}
