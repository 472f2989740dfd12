package directory

import (
	"context"
	"fmt"
	"time"

	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/internal/controlsql"
)

// DefaultKeepSlug is how long it is usual that a slug leads to the tenant that had it.
const DefaultKeepSlug = 90 * 24 * time.Hour

// Rename gives a tenant another slug. For as long as keep says the old one leads to the tenant, see Resolve, and nobody else can have
// it; with 0 it is free at once. The tenant itself can always have it back. All slugs that the tenant had lead to the new one. The
// names of its schema and role stay, and show the slug that it had first.
//
// A tenant that has the slug already is left as it is. The error is a *tenant.SlugError if the slug is not acceptable,
// ErrSlugTaken if it belongs to somebody or leads to somebody, a *StatusError if the tenant is neither active nor suspended.
func (d *Directory) Rename(ctx context.Context, id tenant.ID, to string, keep time.Duration) (*tenant.Tenant, error) {
	slug, err := tenant.NewSlug(to)
	if err != nil {
		return nil, err
	}
	if keep < 0 {
		return nil, fmt.Errorf("directory: a slug is to be kept for %v", keep)
	}
	return d.change(ctx, id, func(q *controlsql.Queries, row controlsql.Tenant) (controlsql.Tenant, error) {
		switch {
		case row.Slug == slug:
			return row, nil
		case row.Status != tenant.Active && row.Status != tenant.Suspended:
			return row, refuse(row, "renamed")
		}
		return rename(ctx, q, row, slug, keep)
	})
}

func rename(ctx context.Context, q *controlsql.Queries, row controlsql.Tenant, to tenant.Slug, keep time.Duration) (controlsql.Tenant, error) {
	from := row.Slug
	// That of the old slug too: whoever waits to take it shall see that it is kept.
	if err := q.LockSlugs(ctx, []string{string(from), string(to)}); err != nil {
		return row, err
	}
	row, err := q.RenameTenant(ctx, controlsql.RenameTenantParams{Slug: to, ID: row.ID})
	if violates(err, "tenants_slug_living") {
		return row, ErrSlugTaken
	}
	if err != nil {
		return row, err
	}
	// Of the tenant's own, or of somebody whose time is over.
	if err := q.DeleteFormerSlug(ctx, to); err != nil {
		return row, err
	}
	if keep > 0 {
		err := q.KeepFormerSlug(ctx, controlsql.KeepFormerSlugParams{Slug: from, TenantID: row.ID, KeepSeconds: keep.Seconds()})
		if err != nil {
			return row, err
		}
	}
	return row, appendEvent(ctx, q, row.ID, EventRenamed, fmt.Sprintf("from %s to %s", from, to))
}
