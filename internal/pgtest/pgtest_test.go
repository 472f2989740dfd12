package pgtest_test

import (
	"errors"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/leasehold-go/leasehold/internal/pgserver"
	"github.com/leasehold-go/leasehold/internal/pgtest"
)

// helperEnv makes the test binary run a set of tests of its own making under Main.
const helperEnv = "PGTEST_TEST_HELPER"

func TestMain(m *testing.M) {
	if what, isHelper := os.LookupEnv(helperEnv); isHelper {
		os.Exit(pgtest.Main(fakeTests(what)))
	}
	os.Exit(pgtest.Main(m))
}

type fakeTests string

func (f fakeTests) Run() int {
	switch f {
	case "fail":
		return 3
	case "leak":
		go func() { select {} }()
	}
	return 0
}

func TestMainStatus(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for what, want := range map[string]int{"pass": 0, "fail": 3, "leak": 1} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			cmd := exec.CommandContext(t.Context(), self)
			cmd.Env = append(os.Environ(), helperEnv+"="+what)
			err := cmd.Run()
			if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
				t.Fatal(err)
			}
			if got := cmd.ProcessState.ExitCode(); got != want {
				t.Errorf("exit status %d, want %d", got, want)
			}
		})
	}
}

func TestDatabase(t *testing.T) {
	t.Parallel()
	database := pgtest.Database(t)
	pgtest.Exec(t, database, `CREATE TABLE public.note (id int)`, `INSERT INTO note VALUES (1); INSERT INTO note VALUES (2)`)
	var n int
	var user, super string
	if err := pgtest.Connect(t, database).QueryRow(t.Context(), `SELECT count(*), current_user::text FROM note`).Scan(&n, &user); err != nil {
		t.Fatal(err)
	}
	if n != 2 || user != pgserver.Administrator {
		t.Errorf("got %d rows as %s", n, user)
	}
	for name, of := range map[string]string{"a URL": database, "a name": nameOf(t, database)} {
		if err := pgtest.Connect(t, pgtest.SuperURL(t, of)).QueryRow(t.Context(),
			`SELECT count(*), current_setting('is_superuser') FROM note`).Scan(&n, &super); err != nil {
			t.Fatal(err)
		}
		if n != 2 || super != "on" {
			t.Errorf("by %s: got %d rows, superuser %s", name, n, super)
		}
	}
}

func nameOf(t *testing.T, database string) string {
	t.Helper()
	u, err := url.Parse(database)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimPrefix(u.Path, "/")
}

func TestDatabasesAreSeparateAndGoAway(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	seen := map[string]bool{}
	t.Run("group", func(t *testing.T) {
		for range 4 {
			t.Run("one", func(t *testing.T) {
				t.Parallel()
				database := pgtest.Database(t)
				mu.Lock()
				seen[database] = true
				mu.Unlock()
				pgtest.Exec(t, database, `CREATE TABLE public.note (id int)`)
				// A connection that a test has left open must not keep the database.
				conn, err := pgx.Connect(t.Context(), database)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = conn.PgConn().Conn().Close() })
			})
		}
	})
	if len(seen) != 4 {
		t.Errorf("%d databases for 4 tests", len(seen))
	}
	for database := range seen {
		conn, err := pgx.Connect(t.Context(), database)
		if err == nil {
			_ = conn.Close(t.Context())
		}
		if gone, ok := errors.AsType[*pgconn.PgError](err); !ok || gone.Code != "3D000" {
			t.Errorf("got %v, want 3D000", err)
		}
	}
}

// How a test restarts a server.
func TestStart(t *testing.T) {
	t.Parallel()
	cfg := pgserver.Config{DataDir: t.TempDir()}
	server := pgtest.Start(t, cfg)
	database := server.URL(pgserver.Administrator, pgserver.Database)
	pgtest.Exec(t, database, `CREATE TABLE note (id int)`)
	if err := server.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if conn, err := pgx.Connect(t.Context(), database); err == nil {
		_ = conn.Close(t.Context())
		t.Error("the server has not stopped")
	}
	cfg.Port = server.Port()
	pgtest.Start(t, cfg)
	pgtest.Exec(t, database, `INSERT INTO note VALUES (1)`)
}

func TestPgBouncer(t *testing.T) {
	t.Parallel()
	database := pgtest.Database(t)
	pooled := pgtest.PgBouncer(t, database, pgtest.PgBouncerOptions{PoolSize: 1})
	if pooled == database {
		t.Fatal("the URL has not changed")
	}
	// Two clients, one server connection: it serves one transaction after the other.
	var pids [2]int
	for i := range pids {
		conn := pgtest.Connect(t, pooled)
		if err := conn.QueryRow(t.Context(), `SELECT pg_backend_pid()`, pgx.QueryExecModeExec).Scan(&pids[i]); err != nil {
			t.Fatal(err)
		}
		if int(conn.PgConn().PID()) == pids[i] {
			t.Error("this is the server's own connection")
		}
	}
	if pids[0] != pids[1] {
		t.Errorf("two server connections: %v", pids)
	}
}

func TestPgBouncerUsersAndPoolSize(t *testing.T) {
	t.Parallel()
	database := pgtest.Database(t)
	pgtest.Exec(t, pgtest.SuperURL(t, database), `CREATE ROLE pgtest_pooled LOGIN PASSWORD 'it''s "so"'`)
	pooled, err := url.Parse(pgtest.PgBouncer(t, database, pgtest.PgBouncerOptions{
		PoolSize: 2,
		Users:    map[string]string{"pgtest_pooled": `it's "so"`},
		Settings: map[string]string{"query_wait_timeout": "20"},
	}))
	if err != nil {
		t.Fatal(err)
	}
	pooled.User = url.UserPassword("pgtest_pooled", `it's "so"`)
	var pids [2]int
	for i := range pids {
		tx, err := pgtest.Connect(t, pooled.String()).Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := tx.QueryRow(t.Context(), `SELECT pg_backend_pid()`, pgx.QueryExecModeExec).Scan(&pids[i]); err != nil {
			t.Fatal(err)
		}
	}
	if pids[0] == pids[1] {
		t.Error("two transactions at once on one server connection")
	}
	pooled.User = url.UserPassword("pgtest_pooled", "wrong")
	if conn, err := pgx.Connect(t.Context(), pooled.String()); err == nil {
		_ = conn.Close(t.Context())
		t.Error("a wrong password is let through")
	}
}
