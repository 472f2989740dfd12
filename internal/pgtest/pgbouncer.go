package pgtest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/internal/daemon"
)

// PgBouncerEnv is the environment variable that names the pgbouncer program. Defaults to the one on PATH or in /usr/sbin.
const PgBouncerEnv = "LEASEHOLD_TEST_PGBOUNCER"

// PgBouncerOptions says how to run a pooler. The zero value is good.
type PgBouncerOptions struct {
	// PoolSize is default_pool_size: the number of server connections per login and database. Defaults to 1.
	PoolSize int
	// Users are logins of the server that may come through the pooler, with their passwords, beside the URL's own.
	Users map[string]string
	// Settings win over ours. Defaults to transaction pooling and what the tests need.
	Settings map[string]string
}

// PgBouncer starts a PgBouncer on 127.0.0.1 in front of the server of a URL, in transaction mode, and returns the URL with the
// pooler's port. It is stopped when tb ends. The login of the URL, and those in opts, log in with the password that they have
// on the server. If there is no PgBouncer on the machine the test is skipped, but fails if the environment variable CI is set.
func PgBouncer(tb testing.TB, databaseURL string, opts PgBouncerOptions) string {
	tb.Helper()
	program := findPgBouncer(tb)
	u, err := url.Parse(databaseURL)
	if err != nil {
		tb.Fatalf("pgtest: pgbouncer: %v", err)
	}
	credential, err := daemon.Credential()
	if err != nil {
		tb.Fatalf("pgtest: pgbouncer: %v", err)
	}
	const attempts = 3 // somebody else may take the port before the pooler has it
	for range attempts {
		port, portErr := freePort(tb.Context())
		if portErr != nil {
			tb.Fatalf("pgtest: pgbouncer: %v", portErr)
		}
		pooled := *u
		pooled.Host = net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
		if err = startPgBouncer(tb, program, credential, u, opts, port, pooled.String()); err == nil {
			return pooled.String()
		}
	}
	tb.Fatalf("pgtest: pgbouncer: %v", err)
	return ""
}

func findPgBouncer(tb testing.TB) string {
	tb.Helper()
	if program := os.Getenv(PgBouncerEnv); program != "" {
		return program
	}
	for _, name := range []string{"pgbouncer", "/usr/sbin/pgbouncer"} {
		if program, err := exec.LookPath(name); err == nil {
			return program
		}
	}
	const missing = "pgtest: pgbouncer is neither on PATH nor in /usr/sbin; install the package pgbouncer, or set " + PgBouncerEnv
	if os.Getenv("CI") != "" {
		tb.Fatal(missing)
	}
	tb.Skip(missing)
	return ""
}

func freePort(ctx context.Context) (int, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp4", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err := errors.Join(err, l.Close()); err != nil {
		return 0, err
	}
	return strconv.Atoi(port)
}

// startPgBouncer starts the pooler and waits until it lets the URL's login through.
func startPgBouncer(tb testing.TB, program string, credential *syscall.Credential, server *url.URL, opts PgBouncerOptions, port int, pooled string) error {
	tb.Helper()
	dir := tb.TempDir()
	cmd := exec.CommandContext(context.WithoutCancel(tb.Context()), program)
	name, closeAfter, err := daemon.HandOver(cmd, credential, dir)
	if err != nil {
		return err
	}
	defer closeAfter()
	ini, users := filepath.Join(dir, "pgbouncer.ini"), filepath.Join(dir, "users.txt")
	err = errors.Join(
		os.WriteFile(ini, []byte(pgBouncerINI(name, server, opts, port)), 0o600),
		os.WriteFile(users, []byte(pgBouncerUsers(server, opts)), 0o600),
	)
	if credential != nil {
		for _, path := range []string{dir, ini, users} {
			err = errors.Join(err, os.Chown(path, int(credential.Uid), int(credential.Gid)))
		}
	}
	if err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(dir, "log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	cmd.Args = append(cmd.Args, name+"/pgbouncer.ini")
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = log, log
	p, err := daemon.Start(cmd, credential, syscall.SIGTERM)
	if err != nil {
		return err
	}
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), cleanupTimeout)
		defer cancel()
		// SIGTERM is an immediate shutdown; SIGINT would wait for the clients.
		if err := p.Stop(ctx, syscall.SIGTERM); err != nil {
			tb.Errorf("pgtest: pgbouncer: %v", err)
		}
		if text, err := os.ReadFile(log.Name()); err == nil && tb.Failed() {
			tb.Logf("pgtest: the log of pgbouncer on port %d:\n%s", port, text)
		}
	})
	return awaitPgBouncer(tb.Context(), p, pooled)
}

func awaitPgBouncer(ctx context.Context, p *daemon.Process, pooled string) error {
	ctx, cancel := context.WithTimeout(ctx, cleanupTimeout)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		conn, err := pgx.Connect(ctx, pooled)
		if err == nil {
			return conn.Close(ctx)
		}
		select {
		case <-p.Done():
			return fmt.Errorf("it has ended: %w", errors.Join(p.Err(), err))
		case <-ctx.Done():
			return err
		case <-tick.C:
		}
	}
}

func pgBouncerINI(dir string, server *url.URL, opts PgBouncerOptions, port int) string {
	settings := map[string]string{
		"listen_addr":        "127.0.0.1",
		"listen_port":        strconv.Itoa(port),
		"unix_socket_dir":    "",
		"auth_type":          "scram-sha-256",
		"auth_file":          dir + "/users.txt",
		"pool_mode":          "transaction",
		"default_pool_size":  strconv.Itoa(max(opts.PoolSize, 1)),
		"max_client_conn":    "1000",
		"server_tls_sslmode": "disable",
	}
	maps.Copy(settings, opts.Settings)
	var b strings.Builder
	fmt.Fprintf(&b, "[databases]\n* = host=%s port=%s\n[pgbouncer]\n", server.Hostname(), server.Port())
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		fmt.Fprintf(&b, "%s = %s\n", name, settings[name])
	}
	return b.String()
}

// pgBouncerUsers is the pooler's list of logins. It holds the passwords as they are: the pooler needs them to log in to the
// server by SCRAM.
func pgBouncerUsers(server *url.URL, opts PgBouncerOptions) string {
	users := map[string]string{}
	maps.Copy(users, opts.Users)
	if password, ok := server.User.Password(); ok {
		users[server.User.Username()] = password
	}
	quote := func(s string) string { return `"` + strings.ReplaceAll(s, `"`, `""`) + `"` }
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(users)) {
		fmt.Fprintf(&b, "%s %s\n", quote(name), quote(users[name]))
	}
	return b.String()
}
