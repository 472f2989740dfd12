package tenanttest

import (
	"context"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/leasehold-go/leasehold/internal/pgserver"
)

// binEnv is the environment variable that names the folder of PostgreSQL's programs.
const binEnv = "LEASEHOLD_TEST_POSTGRES_BIN"

// cleanupTimeout bounds what is done when a test's own context has ended.
const cleanupTimeout = 30 * time.Second

// shared is the test binary's server. Tests have no other place that all of them can reach.
var shared struct {
	mu     sync.Mutex
	server *pgserver.Server
	users  int // tests that have the server now, and Main
}

// Main runs the tests of a package and keeps the server of New from one to the next, which saves a second or two for each. It
// returns the exit status. The server starts when the first test asks for it.
//
//	func TestMain(m *testing.M) { os.Exit(tenanttest.Main(m)) }
func Main(m interface{ Run() int }) int {
	shared.mu.Lock()
	shared.users++
	shared.mu.Unlock()
	code := m.Run()
	if err := giveBack(); err != nil {
		fmt.Fprintln(os.Stderr, "tenanttest:", err)
		code = max(code, 1)
	}
	return code
}

// borrow returns the server until tb ends. The first to borrow starts it, and the last to end stops it.
func borrow(tb testing.TB) *pgserver.Server {
	tb.Helper()
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if shared.server == nil {
		server, err := pgserver.Start(context.WithoutCancel(tb.Context()), pgserver.Config{Ephemeral: true, BinDir: os.Getenv(binEnv)})
		if err != nil {
			tb.Fatalf("tenanttest: start PostgreSQL: %v", err)
		}
		shared.server = server
	}
	shared.users++
	tb.Cleanup(func() {
		if err := giveBack(); err != nil {
			tb.Errorf("tenanttest: %v", err)
		}
	})
	return shared.server
}

// giveBack stops the server if nobody else has it.
func giveBack() error {
	shared.mu.Lock()
	defer shared.mu.Unlock()
	shared.users--
	if shared.users > 0 || shared.server == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), cleanupTimeout)
	defer cancel()
	err := shared.server.Stop(ctx)
	shared.server = nil
	if err != nil {
		return fmt.Errorf("stop PostgreSQL: %w", err)
	}
	return nil
}
