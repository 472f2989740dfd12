package directory

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/internal/controlsql"
)

// purgeLock is the key of the lock that whoever purges holds.
var purgeLock = lockKey("purge")

const (
	// purgeEvery is about how often KeepPurging purges.
	purgeEvery = time.Hour
	// setPurgeTimeout gives up on what somebody else uses; the next purge tries again.
	setPurgeTimeout = "SET LOCAL lock_timeout = '5s'"
)

// Purge drops the data of all tenants whose deletion is due (see Delete): schema and role, or database, login and role. It returns
// those that are gone now. What cannot be dropped does not hold up the rest; the error names it. The error is ErrPurging if another
// process is at it.
//
// A purge that breaks off, however, is taken up by the next one, and cannot be undone: Delete, CancelDelete and Resume refuse the
// tenant from its beginning on. A schema is dropped in many transactions, so that no number of tables needs more locks than the
// server has: one drops at most 256 objects of the catalogue, of which a plain table has about ten. A single object that more than
// that are parts of is the exception, such as a foreign key that refers to a table with hundreds of partitions. Nothing is dropped
// while an object in another schema depends on the tenant's: the error names it.
//
// What is left of a tenant is its record with the status deleted, its id, its slugs, the names that its schema and role had, and its
// events. The company's name, the contact's name and e-mail address, and the passwords are overwritten; the domains are free.
func (d *Directory) Purge(ctx context.Context) ([]*tenant.Tenant, error) {
	s, err := d.openSession(ctx)
	if err != nil {
		return nil, err
	}
	defer s.close()
	switch alone, err := s.q.TryLock(ctx, purgeLock); {
	case err != nil:
		return nil, fmt.Errorf("directory: purge: %w", err)
	case !alone:
		return nil, ErrPurging
	}
	if err := s.q.DeleteOldFormerSlugs(ctx); err != nil {
		return nil, fmt.Errorf("directory: purge: %w", err)
	}
	rows, err := s.q.ListDeletions(ctx)
	if err != nil {
		return nil, fmt.Errorf("directory: purge: %w", err)
	}
	var (
		purged []*tenant.Tenant
		errs   []error
	)
	for _, r := range rows {
		if !r.IsDue && !r.Tenant.Purging {
			continue
		}
		t, err := d.purge(ctx, s, r.Tenant.ID)
		switch {
		case errors.Is(err, errNotDue):
		case err != nil:
			errs = append(errs, fmt.Errorf("purge tenant %q: %w", r.Tenant.Slug, err))
		default:
			purged = append(purged, t)
		}
		if s.conn.IsClosed() {
			break
		}
	}
	return purged, errors.Join(errs...)
}

// errNotDue says that a deletion was cancelled or put off just now.
var errNotDue = errors.New("the deletion is not due")

// purge drops one tenant. Each step can be repeated.
func (d *Directory) purge(ctx context.Context, s *session, id tenant.ID) (*tenant.Tenant, error) {
	if err := d.checkHouse(ctx, s, id); err != nil {
		return nil, err
	}
	row, err := d.startPurge(ctx, s, id)
	if err != nil {
		return nil, err
	}
	if err := d.dropOldCopy(ctx, id); err != nil {
		return nil, fmt.Errorf("end its move: %w", err)
	}
	if err := d.dropHouse(ctx, row); err != nil {
		return nil, err
	}
	return d.finishPurge(ctx, s, id)
}

// startPurge closes the way back.
func (d *Directory) startPurge(ctx context.Context, s *session, id tenant.ID) (row controlsql.Tenant, err error) {
	var names []string
	err = s.inTx(ctx, func(_ *controlsql.Queries, tx pgx.Tx) (err error) {
		row, names, err = d.changeIn(ctx, tx, id, func(q *controlsql.Queries, row controlsql.Tenant) (controlsql.Tenant, error) {
			if row.Purging {
				return row, nil
			}
			row, err := q.StartPurge(ctx, id)
			if errors.Is(err, pgx.ErrNoRows) {
				return row, errNotDue
			}
			if err != nil {
				return row, err
			}
			return row, appendEvent(ctx, q, id, EventPurgeStarted, "")
		})
		return err
	})
	d.forget(names)
	return row, err
}

// finishPurge leaves the tenant's record, and frees its slug and its domains.
func (d *Directory) finishPurge(ctx context.Context, s *session, id tenant.ID) (*tenant.Tenant, error) {
	var (
		row   controlsql.Tenant
		names []string
	)
	err := s.inTx(ctx, func(_ *controlsql.Queries, tx pgx.Tx) (err error) {
		row, names, err = d.changeIn(ctx, tx, id, func(q *controlsql.Queries, _ controlsql.Tenant) (controlsql.Tenant, error) {
			row, err := q.FinishPurge(ctx, id)
			if err != nil {
				return row, err
			}
			if err := q.DeleteDomainsOf(ctx, id); err != nil {
				return row, err
			}
			if err := q.DeleteFormerSlugsOf(ctx, id); err != nil {
				return row, err
			}
			return row, appendEvent(ctx, q, id, EventPurged, "")
		})
		return err
	})
	if err != nil {
		return nil, err
	}
	d.forget(names)
	return d.fromRow(row), nil
}

// dropHouse drops what the tenant lives in. With a database of its own that is a few statements, whatever is in it.
func (d *Directory) dropHouse(ctx context.Context, row controlsql.Tenant) error {
	site, err := d.openSite(ctx, row.Cluster, row.ID)
	if err != nil {
		return err
	}
	defer site.close()
	if row.Strategy == tenant.DatabaseStrategy {
		return ownHouseOf(row).drop(ctx, site)
	}
	// A migration that is under way would fill again what is emptied.
	if err := site.q.TerminateMigrations(ctx, row.SchemaName); err != nil {
		return fmt.Errorf("end its migration: %w", err)
	}
	if err := emptySchema(ctx, site, row.SchemaName); err != nil {
		return err
	}
	home := house{schema: row.SchemaName, role: row.RoleName}
	if err := inBatch(ctx, site, home.dropSchemaSQL()); err != nil {
		return err
	}
	if err := releaseRole(ctx, site, row.RoleName); err != nil {
		return err
	}
	return inBatch(ctx, site, home.dropSQL())
}

// checkHouse makes sure, before a purge begins, that there is something to be dropped. Where nothing of the tenant is, its cluster's
// URL leads to the wrong server: to call it purged would leave all its data on the right one.
func (d *Directory) checkHouse(ctx context.Context, s *session, id tenant.ID) error {
	row, err := s.q.GetTenant(ctx, id)
	if err != nil || row.Purging {
		return err
	}
	site, err := d.connectTo(ctx, row.Cluster)
	if err != nil {
		return err
	}
	defer site.close()
	names := controlsql.IsThereParams{SchemaName: row.SchemaName, RoleName: row.RoleName}
	if row.Strategy == tenant.DatabaseStrategy {
		names.SchemaName, names.DatabaseName = "", row.DatabaseName
	}
	there, err := site.q.IsThere(ctx, names)
	if err == nil && !there {
		err = fmt.Errorf("nothing of it is on the cluster %q: is its URL that of another server? If all was dropped by hand, "+
			"create the role %s there", row.Cluster, row.RoleName)
	}
	return err
}

// purgeRounds is how often a schema is looked at again for what was created meanwhile.
const purgeRounds = 5

// emptySchema drops all that is in a schema, a part at a time, unless something in another schema depends on it.
func emptySchema(ctx context.Context, site *session, schema string) error {
	return dropContents(ctx, site, schema, func() error {
		outsiders, err := site.q.ListOutsiders(ctx, schema)
		if err != nil {
			return fmt.Errorf("look for what depends on its schema: %w", err)
		}
		if len(outsiders) > 0 {
			return fmt.Errorf("nothing was dropped, because what stands in another schema depends on it: %s", strings.Join(outsiders, ", "))
		}
		return nil
	})
}

// emptyUnused is emptySchema for a schema that nobody was ever served from: whatever depends on it goes, too.
func emptyUnused(ctx context.Context, site *session, schema string) error {
	return dropContents(ctx, site, schema, func() error { return nil })
}

// dropContents drops all that is in a schema, in many transactions, as long as a check allows of it.
func dropContents(ctx context.Context, site *session, schema string, check func() error) error {
	for range purgeRounds {
		if err := check(); err != nil {
			return err
		}
		plan, err := newPurgePlan(ctx, site.q, schema)
		if err != nil {
			return fmt.Errorf("read its schema: %w", err)
		}
		batches := plan.batches(maxPurgeObjects)
		if len(batches) == 0 {
			return nil
		}
		for _, batch := range batches {
			if err := inBatch(ctx, site, strings.Join(batch, ";\n")); err != nil {
				return err
			}
		}
	}
	return errors.New("its schema does not become empty: somebody goes on creating in it")
}

// inBatch runs statements in one transaction.
func inBatch(ctx context.Context, site *session, statements string) error {
	return site.inTx(ctx, func(_ *controlsql.Queries, tx pgx.Tx) error {
		_, err := tx.Exec(ctx, setPurgeTimeout+";\n"+statements)
		return err
	})
}

// KeepPurging purges about once in an hour until ctx ends. Of all processes that do, one is at it at a time.
func (d *Directory) KeepPurging(ctx context.Context) {
	for {
		sleep(ctx, jitter(purgeEvery))
		if ctx.Err() != nil {
			return
		}
		purged, err := d.Purge(ctx)
		for _, t := range purged {
			d.cfg.Logger.InfoContext(ctx, "purged a tenant", "tenant", t.ID.String(), "slug", string(t.Slug))
		}
		if err != nil && !errors.Is(err, ErrPurging) && ctx.Err() == nil {
			d.cfg.Logger.WarnContext(ctx, "not every tenant that is due could be purged", "error", err, "next_try", "within two hours")
		}
	}
}
