package directory

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/internal/controlsql"
)

// What can happen to a tenant after it was created.
const (
	// EventRenamed: it has another slug. The detail names both.
	EventRenamed EventKind = "renamed"
	// EventSuspended: it is not served until it is resumed. The detail is the reason that was given.
	EventSuspended EventKind = "suspended"
	// EventResumed: it is served again. The detail is the reason that was given.
	EventResumed EventKind = "resumed"
	// EventDeleteStarted: it is to be deleted, at the time in the detail.
	EventDeleteStarted EventKind = "delete.started"
	// EventDeleteCancelled: it is what it was before.
	EventDeleteCancelled EventKind = "delete.cancelled"
	// EventPurgeStarted: its data is being dropped. There is no way back.
	EventPurgeStarted EventKind = "purge.started"
	// EventPurged: nothing of it is left but its record.
	EventPurged EventKind = "purge.finished"
	// EventDomainAdded: it has claimed the domain in the detail.
	EventDomainAdded EventKind = "domain.added"
	// EventDomainVerified: the domain in the detail leads to it.
	EventDomainVerified EventKind = "domain.verified"
	// EventDomainRemoved: the domain in the detail has nothing to do with it any more.
	EventDomainRemoved EventKind = "domain.removed"
)

// StatusError reports a change that a tenant's status does not allow.
type StatusError struct {
	// Action is what was asked for, such as "renamed".
	Action string
	// Status is the tenant's.
	Status tenant.Status
	// Purging says that the tenant's data is being dropped already.
	Purging bool
}

func (e *StatusError) Error() string {
	if e.Purging {
		return fmt.Sprintf("a tenant that is being purged cannot be %s", e.Action)
	}
	return fmt.Sprintf("a tenant with the status %q cannot be %s", e.Status, e.Action)
}

func refuse(row controlsql.Tenant, action string) error {
	return &StatusError{Action: action, Status: row.Status, Purging: row.Purging}
}

// Suspend makes a tenant answer nobody until it is resumed; its data stays as it is. Every Directory hears of it. One that is
// suspended already is left as it is. The error is a *StatusError if the tenant is neither active nor suspended, and
// tenant.ErrNotFound if there is none. The reason stays in the event log for ever, so write nothing about people into it.
func (d *Directory) Suspend(ctx context.Context, id tenant.ID, reason string) (*tenant.Tenant, error) {
	return d.setStatus(ctx, id, tenant.Active, tenant.Suspended, "suspended", EventSuspended, reason)
}

// Resume undoes Suspend, in the same way. One that is active already is left as it is.
func (d *Directory) Resume(ctx context.Context, id tenant.ID, reason string) (*tenant.Tenant, error) {
	return d.setStatus(ctx, id, tenant.Suspended, tenant.Active, "resumed", EventResumed, reason)
}

func (d *Directory) setStatus(ctx context.Context, id tenant.ID, from, to tenant.Status, action string, kind EventKind, reason string,
) (*tenant.Tenant, error) {
	return d.change(ctx, id, func(q *controlsql.Queries, row controlsql.Tenant) (controlsql.Tenant, error) {
		switch row.Status {
		case to:
			return row, nil
		case from:
		default:
			return row, refuse(row, action)
		}
		row, err := q.SetStatus(ctx, controlsql.SetStatusParams{Status: to, ID: id})
		if err != nil {
			return row, err
		}
		return row, appendEvent(ctx, q, id, kind, reason)
	})
}

// DefaultDeleteGrace is how long a tenant is kept after Delete unless DeleteOptions.Grace says otherwise.
const DefaultDeleteGrace = 30 * 24 * time.Hour

// DeleteOptions say how a tenant is deleted. The zero value is what is usual.
type DeleteOptions struct {
	// Grace is how long the tenant is kept, not served, before Purge may drop it. Defaults to DefaultDeleteGrace.
	Grace time.Duration
	// Now lets the next Purge drop the tenant. Grace must be zero then.
	Now bool
}

// Deletion is a tenant that is to be deleted.
type Deletion struct {
	Tenant *tenant.Tenant
	// After is when Purge may drop it.
	After time.Time
	// Due says that this time has come, by the server's clock.
	Due bool
	// Purging says that Purge has begun and was broken off, or is at work: there is no way back.
	Purging bool
}

// Delete takes a tenant out of service at once and has Purge drop its data when the grace is over. Until then nothing is lost:
// CancelDelete brings it back, nobody else can have its slug, and migrations include it. One that is to be deleted already gets
// the new time. The error is a *StatusError if the tenant is neither active nor suspended nor to be deleted, or is being purged.
//
// It makes no copy of the data. Export what may be asked for later.
func (d *Directory) Delete(ctx context.Context, id tenant.ID, opts DeleteOptions) (Deletion, error) {
	switch {
	case opts.Grace < 0:
		return Deletion{}, fmt.Errorf("directory: the grace of a deletion is %v", opts.Grace)
	case opts.Now && opts.Grace != 0:
		return Deletion{}, errors.New("directory: a deletion has a grace or is to be done now, not both")
	case !opts.Now:
		setDefault(&opts.Grace, DefaultDeleteGrace)
	}
	var after time.Time
	t, err := d.change(ctx, id, func(q *controlsql.Queries, row controlsql.Tenant) (controlsql.Tenant, error) {
		switch row.Status {
		case tenant.Active, tenant.Suspended, tenant.Deleting:
		default:
			return row, refuse(row, "deleted")
		}
		if row.Purging {
			return row, refuse(row, "deleted")
		}
		row, err := q.SetDeletion(ctx, controlsql.SetDeletionParams{ID: id, GraceSeconds: opts.Grace.Seconds()})
		if err != nil {
			return row, err
		}
		after = *row.DeleteAfter
		return row, appendEvent(ctx, q, id, EventDeleteStarted, after.UTC().Format(time.RFC3339))
	})
	return Deletion{Tenant: t, After: after, Due: opts.Now}, err
}

// CancelDelete makes a tenant that is to be deleted what it was before, active or suspended. One that is active or suspended is left
// as it is. The error is a *StatusError otherwise, and as soon as a purge has begun.
func (d *Directory) CancelDelete(ctx context.Context, id tenant.ID) (*tenant.Tenant, error) {
	return d.change(ctx, id, func(q *controlsql.Queries, row controlsql.Tenant) (controlsql.Tenant, error) {
		switch {
		case row.Status == tenant.Active, row.Status == tenant.Suspended:
			return row, nil
		case row.Status != tenant.Deleting, row.Purging:
			return row, refuse(row, "kept")
		}
		row, err := q.CancelDeletion(ctx, id)
		if err != nil {
			return row, err
		}
		return row, appendEvent(ctx, q, id, EventDeleteCancelled, "")
	})
}

// Deletions reads all tenants that are to be deleted, those that are due first.
func (d *Directory) Deletions(ctx context.Context) ([]Deletion, error) {
	rows, err := d.queries.ListDeletions(ctx)
	if err != nil {
		return nil, fmt.Errorf("directory: list the tenants that are to be deleted: %w", err)
	}
	list := make([]Deletion, len(rows))
	for i, r := range rows {
		list[i] = Deletion{Tenant: d.fromRow(r.Tenant), After: *r.Tenant.DeleteAfter, Due: r.IsDue, Purging: r.Tenant.Purging}
	}
	return list, nil
}

// change runs f on a tenant's row, which nobody else changes meanwhile, in one transaction. When it is committed this Directory has
// forgotten the record; the others hear of it.
func (d *Directory) change(ctx context.Context, id tenant.ID,
	f func(q *controlsql.Queries, row controlsql.Tenant) (controlsql.Tenant, error),
) (*tenant.Tenant, error) {
	label := id.String()
	var stale []string
	var row controlsql.Tenant
	err := pgx.BeginFunc(ctx, d.pool, func(tx pgx.Tx) (err error) {
		row, stale, err = d.changeIn(ctx, tx, id, f)
		if row.Slug != "" {
			label = string(row.Slug)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("tenant %s: %w", label, notFound(err))
	}
	d.forget(stale)
	return d.fromRow(row), nil
}

// changeIn is change within a transaction. It returns the names that led to the tenant before or lead to it now.
func (d *Directory) changeIn(ctx context.Context, tx pgx.Tx, id tenant.ID,
	f func(q *controlsql.Queries, row controlsql.Tenant) (controlsql.Tenant, error),
) (row controlsql.Tenant, names []string, err error) {
	if _, err := tx.Exec(ctx, setNameTimeout); err != nil {
		return row, nil, err
	}
	q := d.queries.WithTx(tx)
	if row, err = q.GetTenantForUpdate(ctx, id); err != nil {
		return row, nil, err
	}
	if names, err = q.ListNamesOf(ctx, id); err != nil {
		return row, nil, err
	}
	before := row
	if row, err = f(q, row); err != nil {
		return before, nil, err
	}
	return row, append(names, string(before.Slug), string(row.Slug)), nil
}

// forget makes this Directory read the names again. The caller shall see what has changed, and notifications take their time.
func (d *Directory) forget(names []string) {
	for _, name := range names {
		d.cache.invalidate(name)
	}
}
