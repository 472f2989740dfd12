package directory

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/internal/controlsql"
)

// Sweep removes what creations have left whose process or connection is gone: their schemas, roles, logins and databases. The
// tenants are marked failed. So it does with references; half-made spares it leaves to FillSpares, which finishes them. It
// returns how many tenants and references there were. Those that are being made or used, by this process or another, are left
// alone. Run it when a server starts; it costs two reads when there is nothing to do. What cannot be removed does not hold up the
// rest; the error names it.
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
		down  = map[string]bool{} // clusters that could not be reached
	)
	for _, row := range rows {
		if down[row.Cluster] {
			errs = append(errs, fmt.Errorf("directory: sweep tenant %q: cluster %q could not be reached", row.Slug, row.Cluster))
			continue
		}
		freed, err := d.reclaimIfDead(ctx, s, row.ID)
		if err != nil {
			errs = append(errs, fmt.Errorf("directory: sweep tenant %q: %w", row.Slug, err))
			down[row.Cluster] = unreachable(err)
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
	row, err := d.reclaim(ctx, s, id, EventReclaimed, "")
	if err != nil || row.Status != tenant.Failed {
		return false, err
	}
	d.cache.invalidate(string(row.Slug))
	d.cfg.Logger.WarnContext(ctx, "removed a tenant whose creator is gone", "tenant", id.String(), "slug", string(row.Slug))
	return true, nil
}

// reclaim removes what there is of a tenant that is being created, and marks it failed. A tenant with another status is returned
// as it is. The caller holds the creation lock; pgx.ErrNoRows means that there is no row. If the tenant's cluster cannot be
// reached, all stays as it is.
func (d *Directory) reclaim(ctx context.Context, s *session, id tenant.ID, kind EventKind, detail string,
) (row controlsql.Tenant, err error) {
	row, err = s.q.GetTenantForUpdate(ctx, id) // waits for what is about to be committed
	if err != nil || row.Status != tenant.Provisioning {
		return row, err
	}
	where, site := row, s
	if !atHome(where) {
		if site, err = d.openSite(ctx, where.Cluster, id); err != nil {
			return row, err
		}
		defer site.close() // when the row says that the tenant failed
	}
	if where.Strategy == tenant.SchemaStrategy {
		// An import may have filled it with more tables than one transaction can lock.
		if err := emptyHalfMade(ctx, site, where.SchemaName); err != nil {
			return row, fmt.Errorf("empty its schema: %w", err)
		}
	}
	err = s.inTx(ctx, func(q *controlsql.Queries, tx pgx.Tx) error {
		row, err = q.GetTenantForUpdate(ctx, id)
		if err != nil || row.Status != tenant.Provisioning {
			return err
		}
		switch {
		case row.Cluster != where.Cluster || row.DatabaseName != where.DatabaseName:
			return errors.New("its place was changed meanwhile")
		case site == s:
			err = tearDown(ctx, tx, row)
		default:
			err = tearDownAt(ctx, site, row)
		}
		if err != nil {
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

// emptyHalfMade empties a schema whose maker is gone. A migration that is under way would fill it again.
func emptyHalfMade(ctx context.Context, site *session, schema string) error {
	if err := site.q.TerminateMigrations(ctx, schema); err != nil {
		return err
	}
	return emptyUnused(ctx, site, schema)
}

// tearDown removes the empty schema and the role of a tenant in the database of the transaction, as far as they are there.
func tearDown(ctx context.Context, tx pgx.Tx, row controlsql.Tenant) error {
	_, err := tx.Exec(ctx, house{schema: row.SchemaName, role: row.RoleName}.dropSQL())
	return err
}

// tearDownAt removes what there is of a tenant at a site.
func tearDownAt(ctx context.Context, site *session, row controlsql.Tenant) error {
	if row.Strategy == tenant.DatabaseStrategy {
		return ownHouseOf(row).drop(ctx, site)
	}
	return site.inTx(ctx, func(_ *controlsql.Queries, tx pgx.Tx) error { return tearDown(ctx, tx, row) })
}
