package directory

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/internal/controlsql"
)

// Sweep removes what creations have left whose process or connection is gone: their schemas and roles. The tenants are marked
// failed. So it does with references; half-made spares it leaves to FillSpares, which finishes them. It returns how many tenants
// and references there were. Those that are being made or used, by this process or another, are left alone. Run it when a server
// starts; it costs two reads when there is nothing to do. What cannot be removed does not hold up the rest; the error names it.
func (d *Directory) Sweep(ctx context.Context) (int, error) {
	rows, err := d.queries.ListProvisioningTenants(ctx)
	if err != nil {
		return 0, fmt.Errorf("directory: sweep: %w", err)
	}
	references, err := d.queries.ListSpares(ctx, []string{stateReference})
	if err != nil {
		return 0, fmt.Errorf("directory: sweep: %w", err)
	}
	if len(rows)+len(references) == 0 {
		return 0, nil
	}
	s, err := d.openSession(ctx)
	if err != nil {
		return 0, err
	}
	defer s.close()
	var (
		swept int
		errs  []error
	)
	for _, row := range rows {
		freed, err := d.reclaimIfDead(ctx, s, row.ID)
		if err != nil {
			errs = append(errs, fmt.Errorf("directory: sweep tenant %q: %w", row.Slug, err))
		}
		if freed {
			swept++
		}
		if s.conn.IsClosed() {
			return swept, errors.Join(errs...)
		}
	}
	n, err := d.sweepReferences(ctx, s, references)
	return swept + n, errors.Join(append(errs, err)...)
}

// reclaimSlug reports whether the slug is free now, having removed a holder that lost its creator.
func (d *Directory) reclaimSlug(ctx context.Context, s *session, slug tenant.Slug) (freed bool, err error) {
	holder, err := s.q.GetLivingTenant(ctx, slug)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return true, nil
	case err != nil:
		return false, err
	case holder.Status != tenant.Provisioning:
		return false, nil
	}
	return d.reclaimIfDead(ctx, s, holder.ID)
}

// reclaimIfDead reclaims the tenant if its creator is gone, and reports whether it was still to be done. The session keeps the
// creation lock until it is closed.
func (d *Directory) reclaimIfDead(ctx context.Context, s *session, id tenant.ID) (reclaimed bool, err error) {
	if alone, err := s.q.TryLock(ctx, creationLock(id)); err != nil || !alone {
		return false, err
	}
	row, err := reclaim(ctx, s, id, EventReclaimed, "")
	if err != nil || row.Status != tenant.Failed {
		return false, err
	}
	d.cache.invalidate(row.Slug)
	d.cfg.Logger.WarnContext(ctx, "removed a tenant whose creator is gone", "tenant", id.String(), "slug", string(row.Slug))
	return true, nil
}

// reclaim removes the schema and the role of a tenant that is being created, and marks it failed, in one transaction. A tenant
// with another status is returned as it is. The caller holds the creation lock; pgx.ErrNoRows means that there is no row.
func reclaim(ctx context.Context, s *session, id tenant.ID, kind EventKind, detail string) (row controlsql.Tenant, err error) {
	err = s.inTx(ctx, func(q *controlsql.Queries, tx pgx.Tx) error {
		row, err = q.GetTenantForUpdate(ctx, id)
		if err != nil || row.Status != tenant.Provisioning {
			return err
		}
		if err := q.TerminateMigrations(ctx, row.SchemaName); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, house{schema: row.SchemaName, role: row.RoleName}.dropSQL()); err != nil {
			return err
		}
		row, err = q.FinishProvisioning(ctx, controlsql.FinishProvisioningParams{Status: tenant.Failed, ID: id})
		if err != nil {
			return err
		}
		return appendEvent(ctx, q, id, kind, detail)
	})
	return row, err
}
