package tenanttest

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/db/directory"
	"github.com/leasehold-go/leasehold/db/migrate"
	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/db/tenantdb"
)

// Config says what New makes. Only Migrations is required.
type Config struct {
	// Migrations holds the tenants' migration files, such as os.DirFS("../db/migrations") or an embed.FS.
	Migrations fs.FS
	// Dir is the folder of the files in Migrations. Defaults to ".".
	Dir string
	// Tenants is how many tenants are made, with the subdomains company-1, company-2 and so on. Defaults to 3.
	Tenants int
	// Strategy is how they are housed. With tenant.DatabaseStrategy each has a database of its own, which takes longer to make.
	// Defaults to tenant.SchemaStrategy.
	Strategy tenant.Strategy
	// DB says how Fleet.DB is opened. Its ConnConfig, Login and Refresh are set by New. Defaults to what tenantdb.Config defaults to.
	DB tenantdb.Config
	// Directory says how Fleet.Directory is opened. Its ConnConfig, SecretKey and Migrator are set by New. Defaults to what
	// directory.Config defaults to.
	Directory directory.Config
	// Logger gets what the parts of Leasehold log. Defaults to discarding it.
	Logger *slog.Logger
}

// Fleet is a database with a registry and tenants, as a program has it in production. It is safe for concurrent use, and all of
// it goes when its test ends.
type Fleet struct {
	// DB runs queries inside tenants, as the runtime login.
	DB *tenantdb.DB
	// Directory is the registry. More tenants can be created in it.
	Directory *directory.Directory
	// Tenants are those that New has made, all active and migrated.
	Tenants []*tenant.Tenant
	// Administrator is how to connect as the login that owns the database and every tenant's schema, to set up a test and to
	// look at what is really there. It is not to be changed.
	Administrator *pgx.ConnConfig
}

// New makes a fleet for tb, and fails tb if that cannot be done. Each call makes a database of its own, so tests may run in
// parallel. The first call in a binary starts a server, which takes some seconds; see Main.
func New(tb testing.TB, cfg Config) *Fleet {
	tb.Helper()
	if cfg.Migrations == nil {
		tb.Fatal("tenanttest: Config.Migrations is missing; give it the folder of the tenants' migrations")
	}
	if cfg.Tenants < 0 {
		tb.Fatalf("tenanttest: Config.Tenants is %d", cfg.Tenants)
	}
	server := borrow(tb)
	f := &Fleet{}
	var err error
	if f.Administrator, err = newDatabase(tb, server); err == nil {
		err = f.open(tb, cfg)
	}
	if err != nil {
		tb.Fatalf("tenanttest: %v", err)
	}
	return f
}

// open makes the registry and the tenants, and opens both for use.
func (f *Fleet) open(tb testing.TB, cfg Config) error {
	tb.Helper()
	ctx := tb.Context()
	set, err := migrate.Load(cfg.Migrations, cmp.Or(cfg.Dir, "."))
	if err != nil {
		return fmt.Errorf("load the migrations: %w", err)
	}
	dc := cfg.Directory
	dc.ConnConfig, dc.Migrator = f.Administrator, migrate.New(set, migrate.Config{Logger: cfg.Logger})
	dc.SecretKey = make([]byte, 32)
	_, _ = rand.Read(dc.SecretKey) // never fails
	if dc.Logger == nil {
		dc.Logger = cfg.Logger
	}
	if _, err := directory.Migrate(ctx, dc); err != nil {
		return err
	}
	if f.Directory, err = directory.Open(ctx, dc); err != nil {
		return err
	}
	tb.Cleanup(f.Directory.Close)
	if f.Tenants, err = create(ctx, f.Directory, cfg.Strategy, cmp.Or(cfg.Tenants, 3)); err != nil {
		return err
	}
	if cfg.DB.ConnConfig, err = f.Directory.RuntimeConn(ctx); err != nil {
		return err
	}
	cfg.DB.Login, cfg.DB.Refresh = f.Directory.LoginConn, f.Directory.Await
	if cfg.DB.Logger == nil {
		cfg.DB.Logger = cfg.Logger
	}
	if f.DB, err = tenantdb.Open(ctx, cfg.DB); err != nil {
		return err
	}
	tb.Cleanup(func() {
		if !closesWithin(f.DB.Close, cleanupTimeout) {
			tb.Error("tenanttest: the connections of Fleet.DB are not all given back: rows were not closed, or a transaction or session not ended")
		}
	})
	return nil
}

// closesWithin reports whether closeDB returns in time. It waits for connections that a faulty test may never give back.
func closesWithin(closeDB func(), limit time.Duration) bool {
	done := make(chan struct{})
	go func() {
		closeDB()
		close(done)
	}()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-done:
		return true
	case <-timer.C:
		return false
	}
}

// create makes n tenants at once, as far as the directory lets them.
func create(ctx context.Context, dir *directory.Directory, strategy tenant.Strategy, n int) ([]*tenant.Tenant, error) {
	tenants, errs := make([]*tenant.Tenant, n), make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			tenants[i], errs[i] = dir.Create(ctx, directory.NewTenant{
				Company: fmt.Sprintf("Company %d", i+1), ContactName: "Test", ContactEmail: "test@example.com",
				Subdomain: fmt.Sprintf("company-%d", i+1), Strategy: strategy,
			})
		})
	}
	wg.Wait()
	return tenants, errors.Join(errs...)
}
