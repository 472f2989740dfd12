package directory

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/internal/controlsql"
)

const (
	// cleanupTime bounds the removal of what a creation has left behind. It does not count against the caller's context,
	// which may be what ended the creation.
	cleanupTime = 30 * time.Second
	// reserveTries bounds how often a name is fought for whose holders keep dying.
	reserveTries = 5
)

// Create makes a new tenant and returns it, active: its schema and role are there and all migrations of Config.Migrator are
// applied. The error is a *ValidationError if n is not acceptable, and ErrSlugTaken if the name belongs to somebody or is just
// being created. It is ErrNoCluster, ErrNoRoom or ErrClusterUnfit if n cannot be put anywhere. Whatever the error, no active tenant
// is left and, if the registry and the cluster can be reached, no schema, role, login or database: at most the record of what failed, and its
// events.
//
// A tenant that names no cluster gets a place on the one with most room. If that one cannot be reached it is passed over, which
// may take some seconds.
//
// If there is a spare that is where Config.Migrator's files lead, a tenant that is to live by schema on the default cluster gets
// it, in one transaction of a few short statements. Otherwise the tenant is built, which takes as long as its migrations do. Of
// those that are built, Config.MaxCreates are at once; others wait, as long as ctx allows.
func (d *Directory) Create(ctx context.Context, n NewTenant) (*tenant.Tenant, error) {
	n, slug, err := n.check()
	if err != nil {
		return nil, err
	}
	row, err := d.create(ctx, n, slug)
	if err != nil {
		return nil, fmt.Errorf("create tenant %q: %w", slug, err)
	}
	// Other processes hear of it; this one shall know before the caller does.
	d.cache.invalidate(string(slug))
	return d.fromRow(row), nil
}

func (d *Directory) create(ctx context.Context, n NewTenant, slug tenant.Slug) (controlsql.Tenant, error) {
	var none controlsql.Tenant
	if err := d.canCreate(); err != nil {
		return none, err
	}
	// Most names that are refused are refused here, at the price of one read.
	switch holder, err := d.queries.GetLivingTenant(ctx, slug); {
	case errors.Is(err, pgx.ErrNoRows):
		if n.wantsSpare() {
			if row, err := d.takeSpare(ctx, n, slug); !errors.Is(err, errToBeBuilt) {
				return row, err
			}
		}
	case err != nil:
		return none, err
	case holder.Status != tenant.Provisioning:
		return none, ErrSlugTaken
	}
	return d.build(ctx, n, slug, nil)
}

// build builds a tenant. fill, if there is one, fills its house before it is migrated.
func (d *Directory) build(ctx context.Context, n NewTenant, slug tenant.Slug, fill func(context.Context, controlsql.Tenant) error,
) (controlsql.Tenant, error) {
	var none controlsql.Tenant
	select {
	case d.creating <- struct{}{}:
		defer func() { <-d.creating }()
	case <-ctx.Done():
		return none, ctx.Err()
	}
	id, err := newID()
	if err != nil {
		return none, err
	}
	s, err := d.openSession(ctx)
	if err != nil {
		return none, err
	}
	c := &creation{d: d, session: s, id: id, wish: n.wish(), fill: fill}
	defer c.close()
	return c.run(ctx, n, slug)
}

// canCreate checks the part of the configuration that only the making of tenants and spares needs.
func (d *Directory) canCreate() error {
	if d.cfg.Migrator == nil {
		return errNoMigrator
	}
	return d.cfg.validateSecretKey()
}

var errNoMigrator = errors.New("directory: Config.Migrator is missing")

func newID() (tenant.ID, error) {
	id, err := uuid.NewV7()
	return tenant.ID(id), err
}

// creation is one tenant being made.
type creation struct {
	d       *Directory
	session *session // holds the creation lock
	id      tenant.ID
	wish    wish
	fill    func(context.Context, controlsql.Tenant) error // fills the house; nil for nothing
}

func (c *creation) close() { c.session.close() }

func (c *creation) run(ctx context.Context, n NewTenant, slug tenant.Slug) (controlsql.Tenant, error) {
	row, err := c.reserve(ctx, n, slug)
	if errors.Is(err, ErrSlugTaken) {
		return row, err
	}
	if err == nil {
		row, err = c.build(ctx, row)
	}
	if err != nil {
		return c.abandon(ctx, err)
	}
	return row, nil
}

// reserve inserts the tenant's row. The unique index on slugs of the living decides who wins.
func (c *creation) reserve(ctx context.Context, n NewTenant, slug tenant.Slug) (row controlsql.Tenant, err error) {
	s := c.session
	if err := s.q.Lock(ctx, creationLock(c.id)); err != nil {
		return row, err
	}
	for range reserveTries {
		row, err = c.insert(ctx, controlsql.InsertTenantParams{
			ID: c.id, Slug: slug, Company: n.Company, ContactName: n.ContactName, ContactEmail: n.ContactEmail,
			Status: tenant.Provisioning,
		})
		if !violates(err, "tenants_slug_living") {
			return row, err
		}
		freed, err := c.d.reclaimSlug(ctx, s, slug)
		if err != nil {
			return row, fmt.Errorf("remove what an earlier attempt has left: %w", err)
		}
		if !freed {
			return row, ErrSlugTaken
		}
	}
	return row, ErrSlugTaken
}

// setNameTimeout is for the transaction that takes a name: whoever is just giving the name to another tenant, perhaps by hand,
// holds up this creation and not for long the others.
const setNameTimeout = "SET LOCAL lock_timeout = '2s'"

// insert adds the tenant's row, with a place.
func (c *creation) insert(ctx context.Context, params controlsql.InsertTenantParams) (row controlsql.Tenant, err error) {
	err = c.session.inTx(ctx, func(q *controlsql.Queries, tx pgx.Tx) error {
		p, err := c.d.findPlace(ctx, q, c.wish, c.id, params.Slug)
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, setNameTimeout); err != nil {
			return err
		}
		params.Cluster, params.Strategy, params.DatabaseName = p.Cluster, p.Strategy, p.Database
		params.SchemaName, params.RoleName, params.LoginNo, params.EncryptedPassword = p.Schema, p.Role, p.loginNo, p.password
		row, err = q.InsertTenant(ctx, params)
		if err != nil {
			return err
		}
		return appendEvent(ctx, q, c.id, EventStarted, "")
	})
	return row, err
}

// build does the work between the reservation and the first request that is served.
func (c *creation) build(ctx context.Context, row controlsql.Tenant) (controlsql.Tenant, error) {
	row, err := c.house(ctx, row)
	if err != nil {
		return row, err
	}
	if c.fill != nil {
		if err := c.fill(ctx, row); err != nil {
			return row, err
		}
	}
	admin, err := c.d.administrator(ctx, row.Cluster)
	if err != nil {
		return row, err
	}
	result, err := c.d.cfg.Migrator.Apply(ctx, target(row, admin))
	if err != nil {
		return row, fmt.Errorf("migrate: %w", err)
	}
	if err := appendEvent(ctx, c.session.q, c.id, EventMigrated, fmt.Sprintf("%d files", len(result.Applied))); err != nil {
		return row, err
	}
	err = c.session.inTx(ctx, func(q *controlsql.Queries, _ pgx.Tx) (err error) {
		row, err = q.FinishProvisioning(ctx, controlsql.FinishProvisioningParams{Status: tenant.Active, ID: c.id})
		if errors.Is(err, pgx.ErrNoRows) {
			return errOvertaken
		}
		if err != nil {
			return err
		}
		return appendEvent(ctx, q, c.id, EventActivated, "")
	})
	return row, err
}

// houseAtHome makes the tenant's role, of which its runtime login becomes a member, and its empty schema.
func (c *creation) houseAtHome(ctx context.Context, row controlsql.Tenant) error {
	if err := c.d.ensureLogin(ctx, atDefault(row.LoginNo), loginFit, false); err != nil {
		return err
	}
	version, err := c.session.q.ServerVersion(ctx)
	if err != nil {
		return err
	}
	return c.session.inTx(ctx, func(q *controlsql.Queries, tx pgx.Tx) error {
		h := house{schema: row.SchemaName, role: row.RoleName, login: c.d.loginName(row.LoginNo)}
		if _, err := tx.Exec(ctx, h.createSQL(version)); err != nil {
			return fmt.Errorf("create the schema and the role: %w", err)
		}
		return appendEvent(ctx, q, c.id, EventHoused, h.String())
	})
}

// abandon removes what was built and marks the tenant failed. If the tenant turns out to be active, because only the
// confirmation of the last commit was lost, it is returned as if nothing had happened.
func (c *creation) abandon(ctx context.Context, cause error) (controlsql.Tenant, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
	defer cancel()
	row, err := c.remove(ctx, cause)
	if err != nil && c.session.conn.IsClosed() {
		// The connection had been lost before, and this was how it became known.
		row, err = c.remove(ctx, cause)
	}
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return row, cause // nothing had been reserved
	case err != nil:
		c.d.cfg.Logger.WarnContext(ctx, "a broken-off tenant is left until the next sweep, or the next use of its name",
			"tenant", c.id.String(), "error", err)
		return row, fmt.Errorf("%w (what was built could not be removed yet: %w)", cause, err)
	case row.Status == tenant.Active:
		return row, nil
	}
	return row, cause
}

// remove is reclaim under the creation's own lock, over a new connection if the old one is gone.
func (c *creation) remove(ctx context.Context, cause error) (row controlsql.Tenant, err error) {
	if c.session, err = c.d.regain(ctx, c.session, creationLock(c.id)); err != nil {
		return row, err
	}
	return c.d.reclaim(ctx, c.session, c.id, EventFailed, cause.Error())
}

// maxDetail bounds what an event keeps of an error, in bytes.
const maxDetail = 4000

func appendEvent(ctx context.Context, q *controlsql.Queries, id tenant.ID, kind EventKind, detail string) error {
	detail = strings.ReplaceAll(detail, "\x00", "")
	if len(detail) > maxDetail {
		detail = detail[:maxDetail] + "…"
	}
	return q.AppendEvent(ctx, controlsql.AppendEventParams{
		TenantID: id, Kind: string(kind), Detail: strings.ToValidUTF8(detail, "\uFFFD"),
	})
}
