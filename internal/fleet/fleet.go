package fleet

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/leasehold-go/leasehold/db/tenant"
)

// Config says what to build, and where.
type Config struct {
	// AdminURL is the URL of a superuser or of the administrator, who owns the database and may create roles. Required. For
	// thousands of tenants on PostgreSQL 16 or newer take a superuser: the administrator becomes a member of each role that
	// it creates, and every grant walks all of its memberships.
	AdminURL string
	// Tenants is how many tenants to build. Required.
	Tenants int
	// Tables is how many tables each tenant has. Defaults to 1.
	Tables int
	// Rows is how many rows each table has, with the ids 1 to Rows. Defaults to 5.
	Rows int
	// TenantsPerLogin is how many tenants' roles one runtime login is a member of. Defaults to all of them, so that there is one
	// login.
	TenantsPerLogin int
	// OwnDatabases is how many of the tenants, the last ones, have a database of their own. Defaults to none.
	OwnDatabases int
	// Conns is how many connections build at once. Defaults to 2 for each CPU.
	Conns int
}

func (c Config) withDefaults() Config {
	if c.Tables == 0 {
		c.Tables = 1
	}
	if c.Rows == 0 {
		c.Rows = 5
	}
	if c.TenantsPerLogin == 0 {
		c.TenantsPerLogin = max(1, c.Tenants)
	}
	if c.Conns == 0 {
		c.Conns = 2 * runtime.GOMAXPROCS(0)
	}
	return c
}

func (c Config) validate() error {
	switch {
	case c.AdminURL == "":
		return errors.New("fleet: AdminURL is missing")
	case c.Tenants < 1:
		return fmt.Errorf("fleet: Tenants is %d; want at least 1", c.Tenants)
	case c.OwnDatabases < 0 || c.OwnDatabases > c.Tenants:
		return fmt.Errorf("fleet: OwnDatabases is %d; want 0 to %d, the number of tenants", c.OwnDatabases, c.Tenants)
	case c.Tables < 1, c.Rows < 1, c.TenantsPerLogin < 1, c.Conns < 1:
		return fmt.Errorf("fleet: Tables is %d, Rows %d, TenantsPerLogin %d, Conns %d; want at least 1 of each",
			c.Tables, c.Rows, c.TenantsPerLogin, c.Conns)
	}
	return nil
}

// password is that of every runtime login.
const password = "fleet"

// cleanupTimeout bounds what is done after a failure, when the caller's context may have ended.
const cleanupTimeout = time.Minute

// Fleet is a database with tenants in it. It is safe for concurrent use, as long as nobody writes to its fields.
type Fleet struct {
	// Tenants are the tenants, in the order of their slugs' numbers: co-0, co-1, …
	Tenants []*tenant.Tenant
	// Tables and Rows are what each tenant has.
	Tables, Rows int

	admin  *pgx.ConnConfig
	logins []string         // the first one is the default
	shared []*tenant.Tenant // those of Tenants that have no database of their own
}

// Build builds the tenants: each, or a few of the smallest, in one transaction of its own, over several connections.
func Build(ctx context.Context, cfg Config) (*Fleet, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	admin, err := pgx.ParseConfig(cfg.AdminURL)
	if err != nil {
		return nil, fmt.Errorf("fleet: %w", err)
	}
	f := &Fleet{Tables: cfg.Tables, Rows: cfg.Rows, admin: admin}
	prefix := "run_" + random()
	for i := range cfg.Tenants {
		tn, err := newTenant(i, admin.Database)
		if err != nil {
			return nil, err
		}
		n := i / cfg.TenantsPerLogin
		if n == len(f.logins) {
			f.logins = append(f.logins, fmt.Sprintf("%s_%d", prefix, n))
		}
		if n > 0 {
			tn.Placement.Login = f.logins[n]
		}
		if i >= cfg.Tenants-cfg.OwnDatabases {
			tn.Placement = tn.Placement.OwnDatabase(tn.Slug, tenant.DefaultCluster)
		}
		f.Tenants = append(f.Tenants, tn)
	}
	f.shared = f.Tenants[:cfg.Tenants-cfg.OwnDatabases]
	if err := f.build(ctx, cfg.Conns); err != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
		defer cancel()
		return nil, errors.Join(fmt.Errorf("fleet: build: %w", err), f.Drop(ctx))
	}
	return f, nil
}

func random() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

func newTenant(i int, database string) (*tenant.Tenant, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return nil, fmt.Errorf("fleet: %w", err)
	}
	slug := tenant.Slug(fmt.Sprintf("co-%d", i))
	now := time.Now()
	return &tenant.Tenant{
		ID: tenant.ID(id), Slug: slug, Company: string(slug), Status: tenant.Active, Generation: 1, CreatedAt: now, UpdatedAt: now,
		Placement: tenant.NewPlacement(tenant.ID(id), slug, tenant.DefaultCluster, database),
	}, nil
}

func (f *Fleet) build(ctx context.Context, conns int) error {
	if err := f.run(ctx, f.admin, f.Tenants[:1], func([]*tenant.Tenant) string { return f.preludeSQL() }); err != nil {
		return err
	}
	if err := f.inParallel(ctx, conns, f.tenantSQL); err != nil {
		return err
	}
	for _, tn := range f.Tenants[len(f.shared):] { // one at a time: each copies the template
		if err := f.buildDatabase(ctx, tn); err != nil {
			return err
		}
	}
	return nil
}

const (
	// chunkTables is how many tables one connection makes or drops before it is replaced: a backend remembers each that it
	// has met, and with too many of them slows down.
	chunkTables = 1000
	// commitTables is how many tables are made or dropped in one transaction: each takes about ten locks, which the server
	// has room for by the thousand.
	commitTables = 20
)

// inParallel runs the SQL for all tenants on several connections.
func (f *Fleet) inParallel(ctx context.Context, conns int, sql func([]*tenant.Tenant) string) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(conns)
	for chunk := range slices.Chunk(f.shared, max(1, chunkTables/f.Tables)) {
		g.Go(func() error { return f.run(ctx, f.admin, chunk, sql) })
	}
	return g.Wait()
}

// run runs the SQL for some tenants on one connection, in transactions of a bounded size.
func (f *Fleet) run(ctx context.Context, admin *pgx.ConnConfig, tenants []*tenant.Tenant, sql func([]*tenant.Tenant) string) (err error) {
	conn, err := pgx.ConnectConfig(ctx, admin.Copy())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }()
	for group := range slices.Chunk(tenants, max(1, commitTables/f.Tables)) {
		// A string of several statements is one implicit transaction.
		if _, err := conn.PgConn().Exec(ctx, sql(group)).ReadAll(); err != nil {
			return err
		}
	}
	return nil
}

// Drop drops the tenants' schemas, their roles and the runtime logins. Roles belong to the server: dropping the database
// leaves them. No session of a runtime login may be in a transaction. What is gone already is no error.
func (f *Fleet) Drop(ctx context.Context) error {
	if err := f.inParallel(ctx, 2, f.dropSQL); err != nil {
		return fmt.Errorf("fleet: drop: %w", err)
	}
	for _, tn := range f.Tenants[len(f.shared):] {
		if err := f.dropDatabase(ctx, tn); err != nil {
			return fmt.Errorf("fleet: drop: %w", err)
		}
	}
	if err := f.run(ctx, f.admin, f.Tenants[:1], func([]*tenant.Tenant) string { return f.dropLoginsSQL() }); err != nil {
		return fmt.Errorf("fleet: drop: %w", err)
	}
	return nil
}

// Admin returns how the administrator connects. The caller may change it.
func (f *Fleet) Admin() *pgx.ConnConfig { return f.admin.Copy() }

// Runtime returns how the default runtime login connects. The caller may change it.
func (f *Fleet) Runtime() *pgx.ConnConfig { return f.as(f.logins[0]) }

// Login returns how to connect for a tenant, by the names in its placement: as a runtime login, "" meaning the default one, or to the
// tenant's own database. The caller may change it.
func (f *Fleet) Login(_ context.Context, p tenant.Placement) (*pgx.ConnConfig, error) {
	switch {
	case p.Strategy == tenant.DatabaseStrategy:
		cc := f.as(p.Login)
		cc.Database = p.Database
		return cc, nil
	case p.Login == "":
		return f.Runtime(), nil
	case slices.Contains(f.logins, p.Login):
		return f.as(p.Login), nil
	}
	return nil, fmt.Errorf("fleet: no runtime login %q", p.Login)
}

func (f *Fleet) as(login string) *pgx.ConnConfig {
	cc := f.admin.Copy()
	cc.User, cc.Password = login, password
	return cc
}

// loginOf returns the login that may take a tenant's role.
func (f *Fleet) loginOf(tn *tenant.Tenant) string {
	if tn.Placement.Login == "" {
		return f.logins[0]
	}
	return tn.Placement.Login
}
