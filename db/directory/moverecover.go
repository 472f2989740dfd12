package directory

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/db/migrate"
	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/internal/controlsql"
	"github.com/leasehold-go/leasehold/internal/transfer"
)

// errSwitched says that a move cannot be undone any more.
var errSwitched = errors.New("it has taken effect")

// abort undoes a move that has not been switched. From its first step on the move cannot be switched. It may be called again after an
// error.
func (m *moving) abort(ctx context.Context, cause error) (err error) {
	if m.session, err = m.d.regain(ctx, m.session, moveLock(m.id)); err != nil {
		return err
	}
	n, err := m.session.q.AbortMove(ctx, m.id)
	if err != nil && m.session.conn.IsClosed() {
		// The connection had been lost before, and this was how it became known.
		if m.session, err = m.d.regain(ctx, m.session, moveLock(m.id)); err != nil {
			return err
		}
		n, err = m.session.q.AbortMove(ctx, m.id)
	}
	switch {
	case err != nil:
		return err
	case n == 0:
		if _, err := m.session.q.GetMove(ctx, m.id); errors.Is(err, pgx.ErrNoRows) {
			return nil // somebody else has undone it
		}
		return errSwitched
	}
	if err := m.lift(ctx); err != nil {
		return err
	}
	if _, err := m.session.q.SetMoveHolding(ctx, controlsql.SetMoveHoldingParams{TenantID: m.id}); err != nil {
		return err
	}
	if err := m.d.dropCopy(ctx, m.target(), m.row.SchemaName); err != nil {
		return fmt.Errorf("drop the copy: %w", err)
	}
	return m.end(ctx, EventMoveFailed, cause.Error())
}

// lift serves the tenant where it was.
func (m *moving) lift(ctx context.Context) error {
	t, err := m.transfer(ctx)
	if err != nil {
		return err
	}
	err = t.Abort(ctx)
	if errors.Is(err, migrate.ErrSchemaMissing) {
		row, readErr := m.session.q.GetTenant(ctx, m.id)
		if readErr == nil && row.Status == tenant.Deleted {
			return nil
		}
	}
	return err
}

// end forgets the move.
func (m *moving) end(ctx context.Context, kind EventKind, detail string) error {
	err := m.session.inTx(ctx, func(q *controlsql.Queries, _ pgx.Tx) error {
		if err := q.DeleteMove(ctx, m.id); err != nil {
			return err
		}
		return appendEvent(ctx, q, m.id, kind, detail)
	})
	if err == nil {
		m.move = controlsql.Move{}
	}
	return err
}

// finish does what a move that was broken off after its switch has left.
func (m *moving) finish(ctx context.Context) error {
	if m.move.Finished {
		return nil
	}
	t, err := m.transfer(ctx)
	if err != nil {
		return err
	}
	if err := t.Finish(ctx); err != nil {
		return err
	}
	m.move.Finished = true
	return m.session.q.FinishMove(ctx, m.id)
}

// confirm drops what is left at the old place.
func (m *moving) confirm(ctx context.Context) error {
	if err := m.finish(ctx); err != nil {
		return err
	}
	if err := m.release(ctx); err != nil {
		return fmt.Errorf("free the old copy: %w", err)
	}
	if err := m.d.dropCopy(ctx, m.source(), transfer.OldSchema(m.row.SchemaName)); err != nil {
		return fmt.Errorf("drop the old copy: %w", err)
	}
	return m.end(ctx, EventMoveConfirmed, "")
}

// release lets the old copy be dropped. That of a database goes with the database.
func (m *moving) release(ctx context.Context) error {
	if m.move.OldStrategy == tenant.DatabaseStrategy {
		return nil
	}
	place, err := m.d.transferPlace(ctx, m.source())
	if err != nil {
		return err
	}
	return place.Release(ctx)
}

// settle does what is to be done about a move whose mover is gone.
func (m *moving) settle(ctx context.Context) error {
	switch {
	case m.move.State == "":
		return nil
	case MoveState(m.move.State) != MoveSwitched:
		return m.abort(ctx, errBrokenOff)
	case m.row.Status == tenant.Deleted:
		return m.confirm(ctx)
	default:
		return m.finish(ctx)
	}
}

// dropOldCopy ends the moves of a tenant that is being purged.
func (d *Directory) dropOldCopy(ctx context.Context, id tenant.ID) error {
	m, err := d.openMove(ctx, id)
	if err != nil {
		return err
	}
	defer m.close()
	if MoveState(m.move.State) == MoveSwitched {
		return m.confirm(ctx)
	}
	return m.settle(ctx)
}

// ConfirmMove drops what a move has left at the old place. There is no way back after it. It may be called again after an error. The
// error is ErrNoMove if the tenant has no old copy, ErrMoving if it is still being moved.
func (d *Directory) ConfirmMove(ctx context.Context, id tenant.ID) error {
	m, err := d.openMove(ctx, id)
	if err != nil {
		return fmt.Errorf("confirm the move of tenant %s: %w", id, err)
	}
	defer m.close()
	if MoveState(m.move.State) != MoveSwitched {
		return fmt.Errorf("confirm the move of tenant %q: %w", m.row.Slug, ErrNoMove)
	}
	if err := m.confirm(ctx); err != nil {
		return fmt.Errorf("confirm the move of tenant %q: %w", m.row.Slug, err)
	}
	return nil
}

// CancelMove ends a move that is under way. If the process that moves is alive it stops before its next step and undoes the move;
// CancelMove does not wait for it. Otherwise CancelMove undoes it. The error is ErrNoMove if there is none, or if it has taken effect
// already: then the tenant can be moved back.
func (d *Directory) CancelMove(ctx context.Context, id tenant.ID) error {
	n, err := d.queries.AbortMove(ctx, id)
	switch {
	case err != nil:
		return fmt.Errorf("cancel the move of tenant %s: %w", id, err)
	case n == 0:
		return fmt.Errorf("cancel the move of tenant %s: %w", id, ErrNoMove)
	}
	if err := d.settleMove(ctx, id); err != nil && !errors.Is(err, ErrMoving) {
		return fmt.Errorf("cancel the move of tenant %s: %w", id, err)
	}
	return nil
}

// settleMove is settle for a move that nobody is at work on; else the error is ErrMoving.
func (d *Directory) settleMove(ctx context.Context, id tenant.ID) error {
	m, err := d.openMove(ctx, id)
	if err != nil {
		return err
	}
	defer m.close()
	return m.settle(ctx)
}

// RecoverMoves takes up the moves whose process is gone: those that were not switched are undone, the others finished. It returns how
// many there were. Moves that are under way are left alone, and old copies are kept, but for those of tenants that are deleted. Run it
// when a server starts; it costs one read when there is nothing to do. What cannot be done does not hold up the rest; the error names it.
func (d *Directory) RecoverMoves(ctx context.Context) (int, error) {
	moves, err := d.queries.ListMoves(ctx)
	if err != nil {
		return 0, fmt.Errorf("directory: list moves: %w", err)
	}
	var (
		settled int
		errs    []error
	)
	for _, row := range moves {
		if row.Move.Finished && row.Tenant.Status != tenant.Deleted {
			continue
		}
		switch err := d.settleMove(ctx, row.Tenant.ID); {
		case errors.Is(err, ErrMoving):
		case err != nil:
			errs = append(errs, fmt.Errorf("directory: recover the move of tenant %q: %w", row.Tenant.Slug, err))
		default:
			settled++
		}
	}
	return settled, errors.Join(errs...)
}

const (
	// awaitPoll is the pause between two looks at a move that holds calls.
	awaitPoll = 20 * time.Millisecond
	// awaitRecover is how long a hold lasts before it is looked whether the process that moves is alive.
	awaitRecover = time.Second
	// awaitTime bounds a wait for the end of a hold.
	awaitTime = time.Minute
)

// Await returns the current record of a tenant whose scope was refused, as soon as its calls are not held any more. It is what
// tenantdb.Config.Refresh asks for. If the process that moves the tenant is gone, the move is undone or finished. All who wait for a
// tenant share one look at the registry. It waits a minute at most; then the error is ErrMoving.
func (d *Directory) Await(ctx context.Context, t *tenant.Tenant) (*tenant.Tenant, error) {
	result := d.awaiting.DoChan(t.ID.String(), func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), awaitTime)
		defer cancel()
		return d.await(ctx, t.ID)
	})
	select {
	case r := <-result:
		if r.Err != nil {
			return nil, r.Err
		}
		return r.Val.(*tenant.Tenant), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (d *Directory) await(ctx context.Context, id tenant.ID) (*tenant.Tenant, error) {
	tick := time.NewTicker(awaitPoll)
	defer tick.Stop()
	look := time.Now().Add(awaitRecover)
	for {
		now, err := d.queries.GetWhereabouts(ctx, id)
		if err != nil {
			return nil, fmt.Errorf("tenant %s: %w", id, notFound(err))
		}
		if !now.Holding {
			d.forget([]string{string(now.Tenant.Slug)})
			return d.fromRow(now.Tenant), nil
		}
		if time.Now().After(look) {
			if err := d.settleMove(ctx, id); err != nil && !errors.Is(err, ErrMoving) {
				d.cfg.Logger.WarnContext(ctx, "a move that was broken off cannot be taken up", "tenant", id.String(), "error", err)
			}
			look = time.Now().Add(awaitRecover)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("tenant %s: %w: %w", id, ErrMoving, ctx.Err())
		case <-tick.C:
		}
	}
}
