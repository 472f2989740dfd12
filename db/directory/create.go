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
// being created. Whatever the error, no active tenant is left and, if the database can be reached, no schema and no role: only
// the record of what failed, and its events.
//
// At most Config.MaxCreates calls work at once; others wait, as long as ctx allows.
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
	d.cache.invalidate(slug)
	return d.fromRow(row), nil
}

func (d *Directory) create(ctx context.Context, n NewTenant, slug tenant.Slug) (controlsql.Tenant, error) {
	var none controlsql.Tenant
	if d.cfg.Migrator == nil {
		return none, errors.New("directory: Config.Migrator is missing")
	}
	if err := d.cfg.validateSecretKey(); err != nil {
		return none, err
	}
	// Most names that are refused are refused here, at the price of one read.
	if holder, err := d.queries.GetLivingTenant(ctx, slug); err == nil && holder.Status != tenant.Provisioning {
		return none, ErrSlugTaken
	} else if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return none, err
	}
	select {
	case d.creating <- struct{}{}:
		defer func() { <-d.creating }()
	case <-ctx.Done():
		return none, ctx.Err()
	}
	id, err := uuid.NewV7()
	if err != nil {
		return none, err
	}
	s, err := d.openSession(ctx)
	if err != nil {
		return none, err
	}
	c := &creation{d: d, session: s, id: tenant.ID(id)}
	defer c.close()
	return c.run(ctx, n, slug)
}

// creation is one tenant being made.
type creation struct {
	d       *Directory
	session *session // holds the creation lock
	id      tenant.ID
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
	p := tenant.NewPlacement(c.id, slug, tenant.DefaultCluster, s.conn.Config().Database)
	if err := p.Validate(); err != nil {
		return row, err
	}
	for range reserveTries {
		row, err = c.insert(ctx, controlsql.InsertTenantParams{
			ID: c.id, Slug: slug, Company: n.Company, ContactName: n.ContactName, ContactEmail: n.ContactEmail,
			Cluster: p.Cluster, Strategy: p.Strategy, DatabaseName: p.Database, SchemaName: p.Schema, RoleName: p.Role,
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

// insert adds the tenant's row, with the number of the runtime login that it gets. All creations take turns here, and only here.
func (c *creation) insert(ctx context.Context, params controlsql.InsertTenantParams) (row controlsql.Tenant, err error) {
	err = c.session.inTx(ctx, func(q *controlsql.Queries, tx pgx.Tx) error {
		if err := q.LockTransaction(ctx, reservationLock); err != nil {
			return err
		}
		// Whoever is just giving the name to another tenant, perhaps by hand, holds up this creation and not for long the others.
		if _, err := tx.Exec(ctx, "SET LOCAL lock_timeout = '2s'"); err != nil {
			return err
		}
		params.LoginNo, err = q.ChooseLogin(ctx, int64(c.d.cfg.TenantsPerLogin))
		if err != nil {
			return err
		}
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
	if err := c.house(ctx, row); err != nil {
		return row, err
	}
	result, err := c.d.cfg.Migrator.Apply(ctx, c.d.target(row))
	if err != nil {
		return row, fmt.Errorf("migrate: %w", err)
	}
	if err := appendEvent(ctx, c.session.q, c.id, EventMigrated, fmt.Sprintf("%d files", len(result.Applied))); err != nil {
		return row, err
	}
	err = c.session.inTx(ctx, func(q *controlsql.Queries, _ pgx.Tx) (err error) {
		row, err = q.FinishProvisioning(ctx, controlsql.FinishProvisioningParams{Status: tenant.Active, ID: c.id})
		if errors.Is(err, pgx.ErrNoRows) {
			return errors.New("somebody else has ended the creation")
		}
		if err != nil {
			return err
		}
		return appendEvent(ctx, q, c.id, EventActivated, "")
	})
	return row, err
}

// house makes the tenant's role, of which its runtime login becomes a member, and its empty schema.
func (c *creation) house(ctx context.Context, row controlsql.Tenant) error {
	if err := c.d.ensureLogin(ctx, row.LoginNo, loginFit, false); err != nil {
		return err
	}
	version, err := c.session.q.ServerVersion(ctx)
	if err != nil {
		return err
	}
	return c.session.inTx(ctx, func(q *controlsql.Queries, tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, houseSQL(row, c.d.loginName(row.LoginNo), version)); err != nil {
			return fmt.Errorf("create the schema and the role: %w", err)
		}
		return appendEvent(ctx, q, c.id, EventHoused, fmt.Sprintf("schema %s, role %s", row.SchemaName, row.RoleName))
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
	if c.session.conn.IsClosed() {
		s, err := c.d.openSession(ctx)
		if err != nil {
			return row, err
		}
		c.session = s
		if err := s.q.Lock(ctx, creationLock(c.id)); err != nil {
			return row, err
		}
	}
	return reclaim(ctx, c.session, c.id, EventFailed, cause.Error())
}

// inheritOptionVersion is the first version of PostgreSQL in which a membership itself says whether rights are inherited.
const inheritOptionVersion = 160000

// houseSQL makes a tenant's role, with one login as its only member, and empty schema: the role may use the schema and whatever tables, sequences, functions and
// types the administrator's login will create in it, and may create nothing itself.
func houseSQL(row controlsql.Tenant, login string, version int32) string {
	schema, role := pgx.Identifier{row.SchemaName}.Sanitize(), pgx.Identifier{row.RoleName}.Sanitize()
	options := ""
	if version >= inheritOptionVersion {
		options = " WITH INHERIT FALSE, SET TRUE"
	}
	defaults := "ALTER DEFAULT PRIVILEGES IN SCHEMA " + schema + " GRANT "
	return strings.Join([]string{
		"CREATE ROLE " + role + " NOLOGIN NOINHERIT NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS",
		"GRANT " + role + " TO " + pgx.Identifier{login}.Sanitize() + options,
		"CREATE SCHEMA " + schema,
		"REVOKE ALL ON SCHEMA " + schema + " FROM PUBLIC",
		"GRANT USAGE ON SCHEMA " + schema + " TO " + role,
		defaults + "SELECT, INSERT, UPDATE, DELETE ON TABLES TO " + role,
		defaults + "SELECT, USAGE, UPDATE ON SEQUENCES TO " + role,
		defaults + "EXECUTE ON FUNCTIONS TO " + role,
		defaults + "USAGE ON TYPES TO " + role,
	}, ";\n")
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
