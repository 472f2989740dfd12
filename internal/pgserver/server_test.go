package pgserver

import (
	"context"
	"errors"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// The user's story: a first start on a folder that is not there yet, work, stop, and the same again later. As root, the folder
// of t.TempDir is one that the server's user cannot enter, as a clone in root's home would be.
func TestStory(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "clone", ".leasehold")
	s := start(t, testConfig(dir))
	first := s.URL(Administrator, Database)
	exec1(t, first, `CREATE TABLE note (body text)`)
	exec1(t, first, `INSERT INTO note VALUES ('kept')`)
	assertMode(t, filepath.Join(dir, "postgres"), 0o700)
	assertMode(t, filepath.Join(dir, "postgres", "server.json"), 0o600)
	assertMode(t, filepath.Join(dir, "postgres", "server.log"), 0o600)
	assertEmpty(t, filepath.Join(dir, "postgres", stagingPrefix+"*"))
	stop(t, s)
	assertGone(t, dir)
	select {
	case <-s.Done():
	default:
		t.Error("Done is open after Stop")
	}

	again := start(t, testConfig(dir))
	if got := again.URL(Administrator, Database); got != first {
		t.Errorf("the URL was %s and is now %s", first, got)
	}
	if got := scan[string](t, first, `SELECT body FROM note`); got != "kept" {
		t.Errorf("body = %q", got)
	}
}

func TestOrdinaryUser(t *testing.T) {
	t.Parallel()
	credential, dir := ordinary(t)
	h := startHelper(t, dir, credential)
	first := h.url(t)
	exec1(t, first, `CREATE TABLE note (body text)`)
	h.stop(t)
	assertGone(t, dir)

	h = startHelper(t, dir, credential)
	if got := h.url(t); got != first {
		t.Errorf("the URL was %s and is now %s", first, got)
	}
	exec1(t, first, `INSERT INTO note VALUES ('kept')`)
	h.stop(t)
	assertGone(t, dir)
}

// What can be seen of a server, which its tests share.
func TestServer(t *testing.T) {
	t.Parallel()
	s := start(t, testConfig(t.TempDir()))
	for name, test := range map[string]func(*testing.T, *Server){
		"content":        testContent,
		"wrong password": testWrongPassword,
		"process group":  testOwnProcessGroup,
		"reload":         testReload,
	} {
		t.Run(name, func(t *testing.T) { test(t, s) })
	}
}

func testContent(t *testing.T, s *Server) {
	conn := connect(t, s.URL(Superuser, Database))
	tests := []struct{ name, sql, want string }{
		{"encoding", `current_setting('server_encoding')`, "UTF8"},
		{"order of text", `(SELECT datcollate IN ('C', 'C.UTF-8') FROM pg_database WHERE datname = current_database())`, "true"},
		{"addresses", `current_setting('listen_addresses')`, "127.0.0.1"},
		{"sockets", `current_setting('unix_socket_directories')`, ""},
		{"version", `current_setting('server_version')`, s.Version()},
		{"port", `current_setting('port')`, strconv.Itoa(s.Port())},
		{"the administrator", `(SELECT (rolcanlogin, rolcreaterole, rolcreatedb, rolsuper, rolreplication, rolbypassrls)
			FROM pg_roles WHERE rolname = 'leasehold')`, "(t,t,t,f,f,f)"},
		{"the logins", `(SELECT string_agg(rolname, ' ' ORDER BY rolname) FROM pg_roles WHERE rolcanlogin)`, "leasehold postgres"},
		{"the database's owner", `(SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'leasehold')`, "leasehold"},
		{"verifiers", `(SELECT bool_and(rolpassword LIKE 'SCRAM-SHA-256$%') FROM pg_authid WHERE rolcanlogin)`, "true"},
		{"access", `(SELECT string_agg(DISTINCT auth_method, ' ') FROM pg_hba_file_rules)`, "scram-sha-256"},
		{"PUBLIC in schema public", `(SELECT string_agg(a.privilege_type, ' ') FROM pg_namespace, aclexplode(nspacl) a
			WHERE nspname = 'public' AND a.grantee = 0)`, "USAGE"},
		{"PUBLIC in database leasehold", `(SELECT string_agg(a.privilege_type, ' ' ORDER BY a.privilege_type)
			FROM pg_database, aclexplode(coalesce(datacl, acldefault('d', datdba))) a WHERE datname = 'leasehold' AND a.grantee = 0)`,
			"CONNECT TEMPORARY"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var got string
			if err := conn.QueryRow(t.Context(), `SELECT (`+test.sql+`)::text`).Scan(&got); err != nil {
				t.Fatal(err)
			}
			if got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func testWrongPassword(t *testing.T, s *Server) {
	for _, login := range []string{Superuser, Administrator} {
		for name, password := range map[string]*url.Userinfo{"wrong": url.UserPassword(login, "wrong"), "empty": url.UserPassword(login, "")} {
			t.Run(login+" "+name, func(t *testing.T) {
				u, err := url.Parse(s.URL(login, Database))
				if err != nil {
					t.Fatal(err)
				}
				u.User = password
				conn, err := pgx.Connect(t.Context(), u.String())
				if err == nil {
					_ = conn.Close(t.Context())
					t.Fatal("was let in")
				}
				if _, answered := errors.AsType[*pgconn.ConnectError](err); !answered {
					t.Errorf("got %v, want an error of the login", err)
				}
			})
		}
	}
}

// A Ctrl-C goes to the terminal's foreground process group, which must not be the server's.
func testOwnProcessGroup(t *testing.T, s *Server) {
	group, err := syscall.Getpgid(s.PID())
	if err != nil {
		t.Fatal(err)
	}
	if group != s.PID() {
		t.Errorf("the server %d is in the process group %d", s.PID(), group)
	}
}

// The server and the sessions that it has already must find their configuration file, also when they were handed the folder as
// a descriptor.
func testReload(t *testing.T, s *Server) {
	conn := connect(t, s.URL(Superuser, "postgres"))
	for _, sql := range []string{`ALTER SYSTEM SET work_mem = '7MB'`, `SELECT pg_reload_conf()`} {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	for got := ""; got != "7MB"; {
		// The wait is the server's, and the test's own deadline ends it.
		if err := conn.QueryRow(t.Context(), `SELECT current_setting('work_mem') FROM pg_sleep(0.01)`).Scan(&got); err != nil {
			t.Fatal(err)
		}
	}
	if got := scan[string](t, s.URL(Superuser, "postgres"), `SHOW work_mem`); got != "7MB" {
		t.Errorf("a new session has work_mem %s", got)
	}
}

func TestFolderInUse(t *testing.T) {
	t.Parallel()
	dir := prepared(t)
	h := startHelper(t, dir, nil)
	h.url(t)
	_, err := Start(t.Context(), testConfig(dir))
	got, ok := errors.AsType[*InUseError](err)
	if !ok {
		t.Fatalf("got %v, want an *InUseError", err)
	}
	want := &InUseError{Resource: "data folder", Name: dir, PID: h.cmd.Process.Pid, Command: commandOf(h.cmd.Process.Pid)}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if got.Hint() == "" {
		t.Error("no hint")
	}
	h.stop(t)
	start(t, testConfig(dir))
}

func TestPortInUse(t *testing.T) {
	t.Parallel()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	dir := prepared(t)
	cfg := testConfig(dir)
	cfg.Port = port
	_, err = Start(t.Context(), cfg)
	got, ok := errors.AsType[*InUseError](err)
	if !ok {
		t.Fatalf("got %v, want an *InUseError", err)
	}
	want := &InUseError{Resource: "port", Name: strconv.Itoa(port)}
	if runtime.GOOS == "linux" {
		want.PID, want.Command = os.Getpid(), commandOf(os.Getpid())
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	assertGone(t, dir)

	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if got := start(t, cfg).Port(); got != port {
		t.Errorf("port = %d, want %d", got, port)
	}
}

// The port of the last start is taken by someone else in between: another one will do.
func TestLastPortInUse(t *testing.T) {
	t.Parallel()
	dir := prepared(t)
	s := start(t, testConfig(dir))
	port := s.Port()
	stop(t, s)
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp4", "127.0.0.1:"+strconv.Itoa(port))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	if got := start(t, testConfig(dir)).Port(); got == port {
		t.Errorf("port = %d again", got)
	}
}

func TestStop(t *testing.T) {
	t.Parallel()
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	for name, ctx := range map[string]context.Context{"in time": t.Context(), "out of time": canceled} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := prepared(t)
			s := start(t, testConfig(dir))
			exec1(t, s.URL(Administrator, Database), `CREATE TABLE note (body text)`)
			// A client with an open transaction must not hold the server up.
			busy := connect(t, s.URL(Administrator, Database))
			if _, err := busy.Exec(t.Context(), `BEGIN; INSERT INTO note VALUES ('lost')`); err != nil {
				t.Fatal(err)
			}
			var callers sync.WaitGroup
			for range 3 {
				callers.Go(func() {
					if err := s.Stop(ctx); err != nil {
						t.Error(err)
					}
				})
			}
			callers.Wait()
			assertGone(t, dir)
			assertEmpty(t, filepath.Join(dir, "postgres", "data", "postmaster.pid"))
			s = start(t, testConfig(dir))
			if n := scan[int](t, s.URL(Administrator, Database), `SELECT count(*) FROM note`); n != 0 {
				t.Errorf("%d rows of a transaction that never ended", n)
			}
		})
	}
}

func TestPasswordsAreNowhereElse(t *testing.T) {
	t.Parallel()
	bin := recordingPrograms(t)
	cfg := testConfig(t.TempDir())
	cfg.BinDir = bin.dir
	cfg.Settings["log_statement"] = "all"
	cfg.Settings["log_min_duration_statement"] = "0"
	s := start(t, cfg)
	exec1(t, s.URL(Superuser, Database), `SELECT 'a statement that is logged'`)
	log, err := os.ReadFile(s.LogFile())
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(log), "a statement that is logged") {
		t.Fatal("the server logs no statements, so this test sees nothing")
	}
	arguments := bin.recorded(t)
	for _, program := range []string{"initdb", "postgres"} {
		if !strings.Contains(arguments, program+" -D ") {
			t.Fatalf("no %s was recorded, so this test sees nothing", program)
		}
	}
	var verifiers []string
	if err := connect(t, s.URL(Superuser, "postgres")).QueryRow(t.Context(),
		`SELECT array_agg(rolpassword) FROM pg_authid WHERE rolpassword IS NOT NULL`).Scan(&verifiers); err != nil {
		t.Fatal(err)
	}
	if len(verifiers) != 2 {
		t.Fatalf("%d verifiers", len(verifiers))
	}
	for _, secret := range append(verifiers, s.state.SuperuserPassword, s.state.AdministratorPassword) {
		if strings.Contains(string(log), secret) {
			t.Error("a secret is in the server's log")
		}
		if strings.Contains(arguments, secret) {
			t.Error("a secret is in the arguments or the environment of a program")
		}
	}
}

func TestFailedStart(t *testing.T) {
	t.Parallel()
	dir := prepared(t)
	cfg := testConfig(dir)
	cfg.Settings["work_mem"] = "nonsense"
	_, err := Start(t.Context(), cfg)
	failure, ok := errors.AsType[*StartError](err)
	if !ok {
		t.Fatalf("got %v, want a *StartError", err)
	}
	if failure.Program != "postgres" || !strings.Contains(failure.LogTail, "work_mem") {
		t.Errorf("the error does not say what was wrong: %+v", failure)
	}
	if strings.Contains(failure.Error(), "\n") {
		t.Errorf("more than one line: %q", failure.Error())
	}
	assertGone(t, dir)
	start(t, testConfig(dir))
}

func TestStartWithEndedContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	dir := prepared(t)
	if _, err := Start(ctx, testConfig(dir)); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
	assertGone(t, dir)
	start(t, testConfig(dir))
}

func TestConfigValidate(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		cfg  Config
		ok   bool
	}{
		{"folder", Config{DataDir: "x"}, true},
		{"ephemeral", Config{Ephemeral: true}, true},
		{"an extension's setting", Config{DataDir: "x", Settings: map[string]string{"auto_explain.log_analyze": "on"}}, true},
		{"zero", Config{}, false},
		{"ephemeral in a folder", Config{Ephemeral: true, DataDir: "x"}, false},
		{"negative port", Config{DataDir: "x", Port: -1}, false},
		{"port too high", Config{DataDir: "x", Port: 65536}, false},
		{"relative BinDir", Config{DataDir: "x", BinDir: "bin"}, false},
		{"negative timeout", Config{DataDir: "x", StartTimeout: -1}, false},
		{"listen elsewhere", Config{DataDir: "x", Settings: map[string]string{"listen_addresses": "*"}}, false},
		{"listen elsewhere, in capitals", Config{DataDir: "x", Settings: map[string]string{"Listen_Addresses": "*"}}, false},
		{"another access file", Config{DataDir: "x", Settings: map[string]string{"hba_file": "/x"}}, false},
		{"no name", Config{DataDir: "x", Settings: map[string]string{"": "x"}}, false},
		{"a name that is more", Config{DataDir: "x", Settings: map[string]string{"a=b -c x": "y"}}, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if err := test.cfg.validate(); (err == nil) != test.ok {
				t.Errorf("got %v", err)
			}
		})
	}
}
