package tenantdb

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/leasehold-go/leasehold/db/tenant"
)

// mayRefresh reports whether a call outside a transaction ended as it does where the tenant is being moved, or was: the scope was refused,
// or there is no login for the place, so that nothing of the call was executed.
func (h Handle) mayRefresh(err error) bool {
	if err == nil || h.e.cfg.Refresh == nil {
		return false
	}
	_, noLogin := errors.AsType[*loginError](err)
	return noLogin || errors.Is(err, ErrScope)
}

// lookAgain tries the scope of a call that has not found its table: it may have been let in just before the tenant was moved away, and
// looked for the table after that. Then the error is that of the scope. The statement has failed as a whole, before its first row.
func (h Handle) lookAgain(ctx context.Context, err error) error {
	var pgErr *pgconn.PgError
	if h.e.cfg.Refresh == nil || !errors.As(err, &pgErr) || pgErr.Code != codeUndefinedTable {
		return err
	}
	if _, now := asTag(h.queryOnce(ctx, "SELECT 1", nil)); h.mayRefresh(now) {
		return now
	}
	return err
}

// refresh returns a handle under which such a call is to be sent once more, or the error that the call ends with.
func (h Handle) refresh(ctx context.Context, cause error) (Handle, error) {
	t := h.bound
	if t == nil {
		var err error
		if t, err = tenant.FromContext(ctx); err != nil {
			return h, err
		}
	}
	fresh, err := h.e.cfg.Refresh(ctx, t)
	switch {
	case err != nil:
		return h, fmt.Errorf("%w (its record could not be refreshed: %w)", cause, err)
	case fresh == nil:
		return h, cause
	case fresh.ID != t.ID:
		return h, fmt.Errorf("%w: Config.Refresh returned %s for %s", tenant.ErrMismatch, fresh.Slug, t.Slug)
	}
	return h.For(fresh), nil
}
