package directory

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/leasehold-go/leasehold/db/tenant"
)

// Why Each and Gather left tenants out; compare with errors.Is. The context's own error is another reason.
var (
	// ErrStopped reports that EachOptions.Stop was closed before all tenants were begun.
	ErrStopped = errors.New("asked to stop")
	// ErrTooManyFailures reports that no other tenant was begun because MaxFailures had failed.
	ErrTooManyFailures = errors.New("too many failures")
)

// TenantError is what went wrong with one tenant of many.
type TenantError struct {
	// Tenant is as it was when its turn came. It is never nil.
	Tenant *tenant.Tenant
	// Err is the cause.
	Err error
}

func (e *TenantError) Error() string { return string(e.Tenant.Slug) + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *TenantError) Unwrap() error { return e.Err }

// Checkpoint says how far Each has come, so that another call, in another process if need be, can go on. The zero value is the
// beginning. It can be kept as JSON.
type Checkpoint struct {
	// After is the greatest id of a tenant that was begun.
	After tenant.ID `json:"after"`
	// Open holds the ids up to After that are not done: those that failed, were broken off, or are in hand. There are as many as
	// failed, and at most Parallel more.
	Open []tenant.ID `json:"open"`
}

// EachOptions say which tenants Each goes over, and how. The zero value goes over all active ones, come what may.
type EachOptions struct {
	// Statuses are those of the tenants to go over; only tenant.Active and tenant.Suspended can be among them, because nobody
	// else's schema is sure to be there. Defaults to tenant.Active alone.
	Statuses []tenant.Status
	// Tenants are the only ones to go over; only their IDs are used. One that is not there any more, or has none of the Statuses,
	// fails. Defaults to all.
	Tenants []*tenant.Tenant
	// Parallel is how many tenants are in hand at a time. Defaults to 4.
	Parallel int
	// MaxFailures is how many tenants may fail before no other is begun. Defaults to any number.
	MaxFailures int
	// Resume is where another call with the same Statuses and Tenants came to. What was open there comes first. Defaults to the
	// beginning.
	Resume Checkpoint
	// Stop, when it is closed, lets the tenants in hand be finished and no other be begun. Defaults to never.
	Stop <-chan struct{}
	// Progress is called once for each tenant that is done or has failed, as soon as it has, never by two goroutines at a time;
	// those that finish meanwhile wait for it. Defaults to nothing.
	Progress func(EachProgress)
}

// EachProgress tells what became of one tenant.
type EachProgress struct {
	Tenant   *tenant.Tenant
	Err      error // nil if it is done
	Duration time.Duration
	// Checkpoint says how far the call has come by now. It may be called at any time, from any goroutine, also when Each has
	// returned.
	Checkpoint func() Checkpoint
}

// EachReport says what became of all tenants. A tenant that had been deleted, or had another status, when its turn came is in
// none of the numbers, unless it was asked for by EachOptions.Tenants.
type EachReport struct {
	// Done is how many the function returned nil for.
	Done int
	// Failed are the others that it returned for, in the order in which they failed. All are kept: where a million may fail, set
	// MaxFailures.
	Failed []*TenantError
	// Unfinished is how many were begun and are neither: the context ended, or the registry could not be asked for them.
	Unfinished int
	// NotReached is how many were not begun, as far as the registry knows now: -1 if it could not be asked.
	NotReached int
	// Checkpoint is for EachOptions.Resume. It takes up those that failed, those unfinished and those not reached.
	Checkpoint Checkpoint
}

// Each calls fn for each tenant, several at a time, in the order in which they were created, with the tenant in fn's context. The
// tenants are read from the registry page by page and never are all in memory; each one is read again when its turn comes, so
// that fn gets what is true then.
//
// A tenant that has one of the Statuses from beginning to end gets exactly one call, however often it is renamed or moved
// meanwhile. One that is created meanwhile, or changes its status, gets one call or none. One whose record says, when its turn
// comes, that it was deleted gets none; a call in hand is not interrupted. If the process dies, what was in hand, or finished
// after the last Checkpoint that was kept, is begun again by the call that resumes: at least once.
//
// A tenant fails if fn returns an error or panics, and does not hold up the others. When ctx ends, so do the contexts of the
// calls in hand, and Each returns when they have returned. Those that return an error by then were broken off: they are
// Unfinished, whatever the error is, and those that return nil are done.
//
// The report is exact also if there is an error. The error is nil if nothing failed and nothing was left out. Otherwise it
// wraps the first *TenantError, and says why tenants were left out: it wraps the context's error, [ErrStopped],
// [ErrTooManyFailures], or that of the registry.
func (d *Directory) Each(ctx context.Context, opts EachOptions, fn func(context.Context, *tenant.Tenant) error) (EachReport, error) {
	r, err := d.newRound(opts, fn)
	if err != nil {
		return EachReport{}, err
	}
	why := r.run(ctx)
	report := EachReport{Done: r.done, Failed: r.causes, Unfinished: len(r.inHand), Checkpoint: r.checkpoint()}
	if why != nil {
		report.NotReached = r.notReached(ctx)
	}
	return report, report.outcome(why)
}

// outcome is the error of a call.
func (r EachReport) outcome(why error) error {
	var failed error
	if n := len(r.Failed); n > 0 {
		failed = fmt.Errorf("%d of %d tenants failed; the first: %w", n, n+r.Done, r.Failed[0])
	}
	switch {
	case why == nil:
		return failed
	case failed == nil:
		return fmt.Errorf("not all tenants were reached: %w", why)
	}
	return fmt.Errorf("not all tenants were reached: %w; %w", why, failed)
}

// withDefaults fills in what was not said.
func (o EachOptions) withDefaults() EachOptions {
	setDefault(&o.Parallel, 4)
	if len(o.Statuses) == 0 {
		o.Statuses = []tenant.Status{tenant.Active}
	}
	return o
}

func (o EachOptions) validate() error {
	for _, s := range o.Statuses {
		if s != tenant.Active && s != tenant.Suspended {
			return fmt.Errorf("directory: the status of the tenants to go over is %q; want %q or %q", s, tenant.Active, tenant.Suspended)
		}
	}
	if o.Parallel < 1 || o.MaxFailures < 0 {
		return fmt.Errorf("directory: Parallel is %d and MaxFailures %d; want at least 1 and at least 0", o.Parallel, o.MaxFailures)
	}
	return nil
}

// only returns the ids of Tenants in order, and whether there are such.
func (o EachOptions) only() (ids []tenant.ID, given bool) {
	for _, t := range o.Tenants {
		ids = append(ids, t.ID)
	}
	slices.SortFunc(ids, compareIDs)
	return slices.Compact(ids), o.Tenants != nil
}
