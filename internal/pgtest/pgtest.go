// Package pgtest gives tests a real PostgreSQL server, and each test a database of its own.
//
// # Guarantees
//
//   - One server per test binary, started when the first test asks for it, and stopped by [Main]. It is fast and keeps
//     nothing; see [pgserver.Config.Ephemeral]. It needs no set-up, runs as root or not, and listens on 127.0.0.1 only.
//   - [Database] is a new, empty database each time, so tests may run in parallel. It is dropped when its test ends.
//   - [Main] fails the run if a goroutine is left when all tests are done.
//   - A test that cannot get its server fails. None is skipped; only [PgBouncer] may, on a machine without it, outside CI.
//
// # Not guaranteed
//
// Roles, and the settings of roles, belong to the whole server: tests in one binary see each other's. A role that a test
// creates needs a name that no other test uses, and stays after the test unless the test drops it. Dropping the database first
// removes what the role owned there. Advisory locks and NOTIFY are held to one database by PostgreSQL itself.
//
// # Environment
//
// LEASEHOLD_TEST_POSTGRES_BIN is the folder of the programs (initdb, postgres) to run. Defaults to what [pgserver] finds.
// LEASEHOLD_TEST_PGBOUNCER is the pgbouncer program. Defaults to the one on PATH, else in /usr/sbin.
//
// # Use
//
//	func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }
//
//	func TestInvoices(t *testing.T) {
//		t.Parallel()
//		url := pgtest.Database(t)                                   // the administrator's
//		pgtest.Exec(t, url, `CREATE TABLE invoice (id bigint)`)
//		conn := pgtest.Connect(t, url)                              // closed when t ends
//		…
//	}
//
// A test that must stop or restart a server takes one of its own with [Start]. A test behind a pooler puts one in front of its
// database with [PgBouncer].
package pgtest

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/leasehold-go/leasehold/internal/pgserver"
)

// BinEnv is the environment variable that names the folder of PostgreSQL's programs.
const BinEnv = "LEASEHOLD_TEST_POSTGRES_BIN"

// cleanupTimeout bounds what is done when a test's own context has ended.
const cleanupTimeout = 30 * time.Second

// shared is the test binary's server. A test helper has no other place that all tests of a binary can reach.
var shared struct {
	running atomic.Bool // Main is at work, and will stop the server
	mu      sync.Mutex
	server  *pgserver.Server
	err     error
}

var databases atomic.Int64

// Main runs the tests, stops the server if a test has started it, and looks for goroutines that were left behind. It returns
// the exit status for TestMain.
func Main(m interface{ Run() int }) int {
	shared.running.Store(true)
	code := m.Run()
	shared.running.Store(false)
	if err := stopShared(); err != nil {
		fmt.Fprintln(os.Stderr, "pgtest:", err)
		code = max(code, 1)
	}
	if code != 0 {
		return code
	}
	if err := goleak.Find(); err != nil {
		fmt.Fprintln(os.Stderr, "pgtest:", err)
		return 1
	}
	return 0
}

func stopShared() error {
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if shared.server == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), cleanupTimeout)
	defer cancel()
	err := shared.server.Stop(ctx)
	shared.server = nil
	return err
}

// Server returns the test binary's server. Other tests use it too: do not stop it.
func Server(tb testing.TB) *pgserver.Server {
	tb.Helper()
	if !shared.running.Load() {
		tb.Fatal("pgtest: add func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }, which stops the server")
	}
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if shared.server == nil && shared.err == nil {
		// The server outlives the test that is the first to ask for it.
		shared.server, shared.err = pgserver.Start(context.WithoutCancel(tb.Context()),
			pgserver.Config{Ephemeral: true, BinDir: os.Getenv(BinEnv)})
	}
	if shared.err != nil {
		tb.Fatalf("pgtest: start PostgreSQL: %v", shared.err)
	}
	return shared.server
}

// Start starts a server for this test alone, which is stopped when tb ends unless the test has stopped it. It keeps its data in
// cfg.DataDir, so that the test can stop it and start it again on the same folder, with the same port and passwords. It is as
// fast as an ephemeral one, and survives the kill of its process but not a power cut. DataDir defaults to a folder that is removed
// when tb ends.
func Start(tb testing.TB, cfg pgserver.Config) *pgserver.Server {
	tb.Helper()
	if cfg.DataDir == "" && !cfg.Ephemeral {
		cfg.DataDir = tb.TempDir()
	}
	if cfg.BinDir == "" {
		cfg.BinDir = os.Getenv(BinEnv)
	}
	settings := map[string]string{"fsync": "off", "shared_buffers": "16MB"}
	for name, value := range cfg.Settings {
		settings[name] = value
	}
	cfg.Settings = settings
	server, err := pgserver.Start(tb.Context(), cfg)
	if err != nil {
		tb.Fatalf("pgtest: start PostgreSQL: %v", err)
	}
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), cleanupTimeout)
		defer cancel()
		if err := server.Stop(ctx); err != nil {
			tb.Errorf("pgtest: stop PostgreSQL: %v", err)
		}
	})
	return server
}

// Database creates a database that the login "leasehold" owns, and returns its URL for that login. When t ends the database
// is dropped, whoever is still connected. The URL is logged if tb has failed.
func Database(tb testing.TB) string {
	tb.Helper()
	server := Server(tb)
	name := fmt.Sprintf("test_%d", databases.Add(1))
	ctx, cancel := context.WithTimeout(tb.Context(), cleanupTimeout)
	defer cancel()
	// Nobody is ever connected to template0, which would make the copy fail. Copying its files is quick without fsync.
	if err := run(ctx, server.URL(pgserver.Superuser, "postgres"),
		`CREATE DATABASE `+name+` OWNER `+pgserver.Administrator+` TEMPLATE template0 STRATEGY file_copy`); err != nil {
		tb.Fatalf("pgtest: %v", err)
	}
	databaseURL := server.URL(pgserver.Administrator, name)
	tb.Cleanup(func() {
		if tb.Failed() {
			tb.Logf("pgtest: the database was %s", databaseURL)
		}
		ctx, cancel := context.WithTimeout(context.Background(), cleanupTimeout)
		defer cancel()
		if err := run(ctx, server.URL(pgserver.Superuser, "postgres"), `DROP DATABASE IF EXISTS `+name+` WITH (FORCE)`); err != nil {
			tb.Errorf("pgtest: %v", err)
		}
	})
	return databaseURL
}

// SuperURL returns the URL for the superuser of the database that a URL of Database, or a name, stands for.
func SuperURL(tb testing.TB, database string) string {
	tb.Helper()
	name := database
	if strings.Contains(database, "://") {
		u, err := url.Parse(database)
		if err != nil {
			tb.Fatalf("pgtest: %v", err)
		}
		name = strings.TrimPrefix(u.Path, "/")
	}
	return Server(tb).URL(pgserver.Superuser, name)
}

// Connect opens a connection that is closed when tb ends.
func Connect(tb testing.TB, databaseURL string) *pgx.Conn {
	tb.Helper()
	conn, err := pgx.Connect(tb.Context(), databaseURL)
	if err != nil {
		tb.Fatalf("pgtest: connect: %v", err)
	}
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), cleanupTimeout)
		defer cancel()
		_ = conn.Close(ctx) // the test may have broken or closed it on purpose
	})
	return conn
}

// Exec runs each of the statements on one connection of its own. A string may hold several statements, which then are one
// implicit transaction.
func Exec(tb testing.TB, databaseURL string, sql ...string) {
	tb.Helper()
	if err := run(tb.Context(), databaseURL, sql...); err != nil {
		tb.Fatalf("pgtest: %v", err)
	}
}

func run(ctx context.Context, databaseURL string, sql ...string) (err error) {
	conn, err := pgx.Connect(ctx, databaseURL)
	if err != nil {
		return err
	}
	defer func() {
		if closeErr := conn.Close(ctx); err == nil {
			err = closeErr
		}
	}()
	for _, statement := range sql {
		if _, err := conn.PgConn().Exec(ctx, statement).ReadAll(); err != nil {
			return fmt.Errorf("%s: %w", statement, err)
		}
	}
	return nil
}
