package directory

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/maypok86/otter/v2"
	"golang.org/x/sync/singleflight"

	"github.com/leasehold-go/leasehold/db/migrate"
	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/internal/controlsql"
)

// Directory is an open registry. Its methods are safe for concurrent use.
type Directory struct {
	cfg      Config
	pool     *pgxpool.Pool
	queries  *controlsql.Queries
	cache    *cache
	listener *listener
	// creating holds a token for each Create that builds, taking for each that takes a spare.
	creating, taking chan struct{}
	// taken tells KeepSpares that a spare may have been taken, here or by another process.
	taken          chan struct{}
	logins         *runtimeLogins
	sealer         *sealer
	administrators *administrators
	credentials    *otter.Cache[ownedDatabase, controlsql.GetCredentialRow]

	awaiting singleflight.Group // who waits for the end of a hold, by tenant

	closing sync.Once
}

// Open opens the registry and begins to listen for changes of tenants. The error is ErrNotMigrated if Migrate has to run
// first. The Directory outlives ctx; Close it.
func Open(ctx context.Context, cfg Config) (*Directory, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	if err := checkMigrated(ctx, cfg); err != nil {
		return nil, err
	}
	sealer, err := newSealer(cfg.secretKeys()...)
	if err != nil {
		return nil, err
	}
	pool, err := openPool(cfg)
	if err != nil {
		return nil, err
	}
	d := &Directory{
		cfg: cfg, pool: pool, queries: controlsql.New(pool), creating: make(chan struct{}, cfg.MaxCreates),
		taking: make(chan struct{}, (cfg.MaxConns+1)/2), taken: make(chan struct{}, 1),
		sealer: sealer, administrators: newAdministrators(), credentials: newCredentials(cfg.CacheSize),
	}
	installation, err := d.queries.GetInstallation(ctx)
	if err != nil {
		pool.Close()
		return nil, fmt.Errorf("directory: read the installation's id: %w", err)
	}
	d.logins = newRuntimeLogins(installation)
	d.cache, err = newCache(cacheConfig{
		load: d.find, size: cfg.CacheSize, negativeSize: cfg.NegativeCacheSize,
		ttl: cfg.CacheTTL, negativeTTL: cfg.NegativeCacheTTL, grace: cfg.Grace, readTimeout: cfg.ReadTimeout,
	})
	if err != nil {
		pool.Close()
		return nil, fmt.Errorf("directory: %w", err)
	}
	d.listener, err = listen(ctx, cfg.registryConn(), d.cache, d.wakeFiller, cfg.Logger, quietTime)
	if err != nil {
		d.cache.close()
		pool.Close()
		return nil, fmt.Errorf("directory: %w", err)
	}
	return d, nil
}

func openPool(cfg Config) (*pgxpool.Pool, error) {
	pc, err := pgxpool.ParseConfig(cfg.ConnConfig.ConnString())
	if err != nil {
		return nil, fmt.Errorf("directory: %w", err)
	}
	pc.ConnConfig = cfg.registryConn()
	pc.MaxConns = int32(min(cfg.MaxConns, math.MaxInt32))
	pc.MinConns, pc.MinIdleConns = 0, 0
	// A pool connects when it is asked to; ctx would only bound connections made in advance.
	pool, err := pgxpool.NewWithConfig(context.Background(), pc)
	if err != nil {
		return nil, fmt.Errorf("directory: %w", err)
	}
	return pool, nil
}

// Close stops listening and closes all connections. It waits for reads that are under way, no longer than
// Config.ReadTimeout. Calls that come later fail, except Resolve of a tenant that is known. A Create that is at work is not
// waited for.
func (d *Directory) Close() {
	d.closing.Do(func() {
		d.listener.close()
		d.pool.Close()
		d.cache.close()
	})
}

// Ping reports whether the registry answers.
func (d *Directory) Ping(ctx context.Context) error {
	if err := d.pool.Ping(ctx); err != nil {
		return fmt.Errorf("directory: %w", err)
	}
	return nil
}

// Resolve returns the living tenant that has the slug, whatever its status: active, suspended, deleting, or provisioning. The
// error is tenant.ErrNotFound if there is none; it is a *tenant.MovedError if there is none and a tenant that was renamed still
// has a right to the slug. Any other error means that the registry cannot be reached and the tenant is not known from before.
//
// The answer comes from a cache; see the package comment for how old it may be. The *Tenant is shared and must not be
// changed.
func (d *Directory) Resolve(ctx context.Context, slug tenant.Slug) (*tenant.Tenant, error) {
	return d.cache.get(ctx, string(slug))
}

// BySlug is Resolve without the cache: one read of the registry.
func (d *Directory) BySlug(ctx context.Context, slug tenant.Slug) (*tenant.Tenant, error) {
	row, err := d.queries.FindTenant(ctx, slug)
	switch {
	case err != nil:
		return nil, fmt.Errorf("tenant %s: %w", slug, notFound(err))
	case row.Slug != slug:
		return nil, fmt.Errorf("tenant %s: %w", slug, &tenant.MovedError{From: slug, To: row.Slug})
	}
	return d.fromRow(row), nil
}

// find is the cache's loadFunc.
func (d *Directory) find(ctx context.Context, name string) (*tenant.Tenant, error) {
	if strings.Contains(name, ".") {
		return d.byDomain(ctx, name)
	}
	return d.BySlug(ctx, tenant.Slug(name))
}

// ByID reads the tenant that has the id, be it living or not. The error is tenant.ErrNotFound if there never was one.
func (d *Directory) ByID(ctx context.Context, id tenant.ID) (*tenant.Tenant, error) {
	row, err := d.queries.GetTenant(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("tenant %s: %w", id, notFound(err))
	}
	return d.fromRow(row), nil
}

// ListOptions say which tenants List returns. The zero value is the first page of all tenants.
type ListOptions struct {
	// Status keeps only tenants that have it. Defaults to any status.
	Status tenant.Status
	// After is the last tenant of the page before; only its Slug and ID are used. Defaults to the first page.
	After *tenant.Tenant
	// Limit is how many tenants are returned at most. Defaults to 100.
	Limit int
}

// List reads a page of tenants, in the order of their slugs. Slugs of tenants that failed or were deleted may come more than
// once. The last page is the one with fewer than Limit tenants.
func (d *Directory) List(ctx context.Context, opts ListOptions) ([]*tenant.Tenant, error) {
	setDefault(&opts.Limit, 100)
	if opts.Limit < 0 {
		return nil, fmt.Errorf("directory: the limit of a list is %d", opts.Limit)
	}
	params := controlsql.ListTenantsParams{Status: string(opts.Status), MaxRows: int32(min(opts.Limit, math.MaxInt32))}
	if opts.After != nil {
		params.AfterSlug, params.AfterID = opts.After.Slug, opts.After.ID
	}
	rows, err := d.queries.ListTenants(ctx, params)
	if err != nil {
		return nil, fmt.Errorf("directory: list tenants: %w", err)
	}
	tenants := make([]*tenant.Tenant, len(rows))
	for i, row := range rows {
		tenants[i] = d.fromRow(row)
	}
	return tenants, nil
}

// Targets reads what is to be migrated: the schemas of all tenants that are active or suspended, or deleting and not being purged
// yet, in the order of their slugs.
// A tenant that is being created migrates itself. For spares see SpareTargets, which is to be called before.
func (d *Directory) Targets(ctx context.Context) ([]migrate.Target, error) {
	rows, err := d.queries.ListServedTenants(ctx)
	if err != nil {
		return nil, fmt.Errorf("directory: list tenants: %w", err)
	}
	targets := make([]migrate.Target, len(rows))
	administrators := map[string]*pgx.ConnConfig{}
	for i, row := range rows {
		admin := administrators[row.Cluster]
		if admin == nil {
			if admin, err = d.administrator(ctx, row.Cluster); err != nil {
				return nil, err
			}
			administrators[row.Cluster] = admin
		}
		targets[i] = target(row, admin)
	}
	return targets, nil
}

// target says how to migrate a tenant as the administrator of its cluster. Targets in one database share a ConnConfig, which
// nobody changes.
func target(row controlsql.Tenant, admin *pgx.ConnConfig) migrate.Target {
	return migrate.Target{
		Name: string(row.Slug), Schema: row.SchemaName, Conn: inDatabase(admin, databaseOf(row)), Role: row.RoleName,
	}
}

// EventKind says what happened to a tenant.
type EventKind string

// What can happen to a tenant while it is created, in this order: started, passed over, housed, migrated, activated; or failed or
// reclaimed, from any of them. One that was made from a spare is started and activated at once.
const (
	// EventStarted: its name is reserved.
	EventStarted EventKind = "create.started"
	// EventPassedOver: the cluster that was chosen cannot be reached, so it gets a place on another. The detail names both, and the
	// cause.
	EventPassedOver EventKind = "create.passed_over"
	// EventHoused: its role and its empty schema are there; with the strategy database its database and its login too. The detail
	// names them.
	EventHoused EventKind = "create.housed"
	// EventMigrated: all migrations are applied.
	EventMigrated EventKind = "create.migrated"
	// EventActivated: it is served. The detail says if it was made from a spare, and names the spare's schema and role.
	EventActivated EventKind = "create.activated"
	// EventFailed: its creator met an error, which is the detail, and removed what was built.
	EventFailed EventKind = "create.failed"
	// EventReclaimed: its creator was gone, and somebody else removed what was built.
	EventReclaimed EventKind = "create.reclaimed"
)

// What can happen to a tenant with a database of its own.
const (
	// EventPasswordRotated: its login has got another password.
	EventPasswordRotated EventKind = "password.rotated"
)

// Event is one line of the event log.
type Event struct {
	// ID grows with each event, in the order in which they were written for one tenant.
	ID       int64
	TenantID tenant.ID
	At       time.Time
	Kind     EventKind
	// Detail is for the operator: a cause, or names. It may be empty.
	Detail string
}

// Events reads all that happened to a tenant, oldest first. There are none if the id belongs to nobody.
func (d *Directory) Events(ctx context.Context, id tenant.ID) ([]Event, error) {
	rows, err := d.queries.ListEvents(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("tenant %s: read events: %w", id, err)
	}
	events := make([]Event, len(rows))
	for i, row := range rows {
		events[i] = Event{ID: row.ID, TenantID: row.TenantID, At: row.At, Kind: EventKind(row.Kind), Detail: row.Detail}
	}
	return events, nil
}

// notFound translates the absence of a row.
func notFound(err error) error {
	if errors.Is(err, pgx.ErrNoRows) {
		return tenant.ErrNotFound
	}
	return err
}

func (d *Directory) fromRow(row controlsql.Tenant) *tenant.Tenant {
	return &tenant.Tenant{
		ID:           row.ID,
		Slug:         row.Slug,
		Company:      row.Company,
		ContactName:  row.ContactName,
		ContactEmail: row.ContactEmail,
		Status:       row.Status,
		Placement:    d.placement(row),
		Generation:   row.Generation,
		CreatedAt:    row.CreatedAt,
		UpdatedAt:    row.UpdatedAt,
	}
}

func (d *Directory) placement(row controlsql.Tenant) tenant.Placement {
	p := tenant.Placement{
		Cluster:  row.Cluster,
		Strategy: row.Strategy,
		Database: row.DatabaseName,
		Schema:   row.SchemaName,
		Role:     row.RoleName,
	}
	switch {
	case row.Strategy == tenant.DatabaseStrategy:
		p.Login = ownLogin(row.RoleName)
	case row.LoginNo != defaultLogin:
		p.Login = d.loginName(row.LoginNo)
	}
	return p
}
