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
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/db/directory"
	"github.com/leasehold-go/leasehold/db/migrate"
	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/db/tenantdb"
	"github.com/leasehold-go/leasehold/internal/pgserver"
)

// Config says what New makes. Only Migrations is required.
type Config struct {
	// Migrations holds the tenants' migration files, such as os.DirFS("../db/migrations") or an embed.FS.
	Migrations fs.FS
	// Dir is the folder of the files in Migrations. Defaults to ".".
	Dir string
	// Tenants is how many tenants are made, with the subdomains company-1, company-2 and so on. Defaults to 3.
	Tenants int
	// DB says how Fleet.DB is opened. Its ConnConfig and Login are set by New. Defaults to what tenantdb.Config defaults to.
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

// fleets counts the databases made, to name them.
var fleets atomic.Int64

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
	if f.Tenants, err = create(ctx, f.Directory, cmp.Or(cfg.Tenants, 3)); err != nil {
		return err
	}
	if cfg.DB.ConnConfig, err = f.Directory.RuntimeConn(ctx); err != nil {
		return err
	}
	cfg.DB.Login = f.Directory.LoginConn
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
func create(ctx context.Context, dir *directory.Directory, n int) ([]*tenant.Tenant, error) {
	tenants, errs := make([]*tenant.Tenant, n), make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			tenants[i], errs[i] = dir.Create(ctx, directory.NewTenant{
				Company: fmt.Sprintf("Company %d", i+1), ContactName: "Test", ContactEmail: "test@example.com",
				Subdomain: fmt.Sprintf("company-%d", i+1),
			})
		})
	}
	wg.Wait()
	return tenants, errors.Join(errs...)
}

// newDatabase creates a database that the administrator owns. It is dropped when tb ends, with the roles that were made for it.
func newDatabase(tb testing.TB, server *pgserver.Server) (*pgx.ConnConfig, error) {
	tb.Helper()
	name := fmt.Sprintf("fleet_%d", fleets.Add(1))
	super := server.URL(pgserver.Superuser, "postgres")
	create := "CREATE DATABASE " + name + " OWNER " + pgserver.Administrator + " TEMPLATE template0 STRATEGY file_copy"
	if err := onServer(tb.Context(), super, func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, create)
		return err
	}); err != nil {
		return nil, fmt.Errorf("create a database: %w", err)
	}
	tb.Cleanup(func() {
		if err := onServer(context.Background(), super, func(ctx context.Context, conn *pgx.Conn) error {
			return dropDatabase(ctx, conn, name)
		}); err != nil {
			tb.Errorf("tenanttest: drop the database %s: %v", name, err)
		}
	})
	return pgx.ParseConfig(server.URL(pgserver.Administrator, name))
}

func onServer(ctx context.Context, url string, work func(context.Context, *pgx.Conn) error) (err error) {
	ctx, cancel := context.WithTimeout(ctx, cleanupTimeout)
	defer cancel()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }()
	return work(ctx, conn)
}

// rolesSQL finds the roles that have something in a database or may connect to it. Roles belong to the whole server and stay
// when the database goes.
const rolesSQL = `SELECT DISTINCT r.rolname::text FROM pg_database d
	JOIN pg_shdepend s ON s.dbid = d.oid OR s.classid = 'pg_database'::regclass AND s.objid = d.oid
	JOIN pg_roles r ON s.refclassid = 'pg_authid'::regclass AND r.oid = s.refobjid
	WHERE d.datname = $1 AND r.rolname <> ALL ($2)`

func dropDatabase(ctx context.Context, conn *pgx.Conn, name string) error {
	rows, err := conn.Query(ctx, rolesSQL, name, []string{pgserver.Superuser, pgserver.Administrator})
	if err != nil {
		return err
	}
	roles, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	if _, err := conn.Exec(ctx, "DROP DATABASE "+name+" WITH (FORCE)"); err != nil {
		return err
	}
	for _, role := range roles {
		if _, err := conn.Exec(ctx, "DROP ROLE "+pgx.Identifier{role}.Sanitize()); err != nil {
			return err
		}
	}
	return nil
}
