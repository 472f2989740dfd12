package directory

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/internal/controlsql"
)

// eachPage is how many tenants' ids are read at a time.
const eachPage = 1000

var errExited = errors.New("the function ended its goroutine")

// round is one call of Each or Gather.
type round struct {
	d      *Directory
	opts   EachOptions
	fn     func(context.Context, *tenant.Tenant) error
	only   []tenant.ID // in order; what Tenants holds
	picked bool        // only these
	slots  chan struct{}
	// forget says that causes are not kept.
	forget bool
	// refused is told of tenants that fail because they were asked for and cannot be called; nil if nobody wants to know.
	refused func(context.Context, *tenant.Tenant, error)
	// enough is closed when why is set.
	enough chan struct{}

	telling sync.Mutex // held while Progress runs

	mu     sync.Mutex // guards what follows
	done   int
	failed []tenant.ID
	causes []*TenantError
	inHand map[tenant.ID]struct{}
	again  []tenant.ID // open ones that are to be begun
	after  tenant.ID   // the greatest that was begun
	why    error       // why no other is begun
}

func (d *Directory) newRound(opts EachOptions, fn func(context.Context, *tenant.Tenant) error) (*round, error) {
	opts = opts.withDefaults()
	if err := opts.validate(); err != nil {
		return nil, err
	}
	r := &round{
		d: d, opts: opts, fn: fn, slots: make(chan struct{}, opts.Parallel), enough: make(chan struct{}),
		inHand: map[tenant.ID]struct{}{}, after: opts.Resume.After,
	}
	r.only, r.picked = opts.only()
	r.again = slices.Clone(opts.Resume.Open)
	slices.SortFunc(r.again, compareIDs)
	r.again = slices.Compact(r.again)
	if r.picked {
		r.again = slices.DeleteFunc(r.again, func(id tenant.ID) bool { return !r.asked(id) })
	}
	return r, nil
}

func compareIDs(a, b tenant.ID) int { return bytes.Compare(a[:], b[:]) }

// asked reports whether a tenant is one of EachOptions.Tenants.
func (r *round) asked(id tenant.ID) bool {
	_, found := slices.BinarySearchFunc(r.only, id, compareIDs)
	return found
}

// run goes over the tenants and returns, when all that were begun are finished, why some were left out.
func (r *round) run(ctx context.Context) error {
	var working sync.WaitGroup
	for id, err := range r.ids(ctx) {
		if err != nil {
			r.end(ctx, err)
		}
		if !r.begin(ctx, id) {
			break
		}
		working.Go(func() {
			defer func() { <-r.slots }()
			r.visit(ctx, id)
		})
	}
	working.Wait()
	return r.why
}

// ids are those of the tenants to go over, in order. It ends with the first error.
func (r *round) ids(ctx context.Context) iter.Seq2[tenant.ID, error] {
	return func(yield func(tenant.ID, error) bool) {
		for _, id := range slices.Clone(r.again) {
			if !yield(id, nil) {
				return
			}
		}
		if r.picked {
			for _, id := range r.beyond() {
				if !yield(id, nil) {
					return
				}
			}
			return
		}
		for after := r.opts.Resume.After; ; {
			page, err := r.d.queries.ListTenantIDs(ctx, controlsql.ListTenantIDsParams{
				After: after, Statuses: r.statuses(), MaxRows: eachPage,
			})
			if err != nil {
				yield(tenant.ID{}, fmt.Errorf("directory: list tenants: %w", err))
				return
			}
			for _, id := range page {
				if !yield(id, nil) {
					return
				}
				after = id
			}
			if len(page) < eachPage {
				return
			}
		}
	}
}

// beyond are those of EachOptions.Tenants that were not begun.
func (r *round) beyond() []tenant.ID {
	i, found := slices.BinarySearchFunc(r.only, r.after, compareIDs)
	if found {
		i++
	}
	return r.only[i:]
}

func (r *round) statuses() []string {
	words := make([]string, len(r.opts.Statuses))
	for i, s := range r.opts.Statuses {
		words[i] = string(s)
	}
	return words
}

// begin waits until one more may be in hand, and notes that the tenant is. It reports whether it may be begun.
func (r *round) begin(ctx context.Context, id tenant.ID) bool {
	select {
	case r.slots <- struct{}{}:
	case <-ctx.Done():
	case <-r.opts.Stop:
	case <-r.enough:
	}
	select { // one of them may have come with the slot
	case <-ctx.Done():
		r.end(ctx, ctx.Err())
	case <-r.opts.Stop:
		r.end(ctx, ErrStopped)
	default:
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.why != nil {
		return false
	}
	if len(r.again) > 0 {
		r.again = r.again[1:]
	} else {
		r.after = id
	}
	r.inHand[id] = struct{}{}
	return true
}

// end notes why no other tenant is begun, unless there is a reason already. The end of the context is behind any error that
// follows it.
func (r *round) end(ctx context.Context, why error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.endLocked(ctx, why)
}

func (r *round) endLocked(ctx context.Context, why error) {
	if r.why != nil {
		return
	}
	if ctx.Err() != nil {
		why = ctx.Err()
		if cause := context.Cause(ctx); !errors.Is(cause, why) {
			why = fmt.Errorf("%w: %w", why, cause)
		}
	}
	r.why = why
	close(r.enough)
}

// visit reads one tenant and calls the function for it.
func (r *round) visit(ctx context.Context, id tenant.ID) {
	start := time.Now()
	switch t, err := r.d.ByID(ctx, id); {
	case errors.Is(err, tenant.ErrNotFound):
		r.refuse(ctx, &tenant.Tenant{ID: id, Slug: r.slugOf(id)}, tenant.ErrNotFound, start)
	case err != nil: // it stays in hand
		r.end(ctx, err)
	case !slices.Contains(r.opts.Statuses, t.Status):
		r.refuse(ctx, t, fmt.Errorf("it is %s", t.Status), start)
	default:
		r.call(ctx, t, start)
	}
}

func (r *round) call(ctx context.Context, t *tenant.Tenant, start time.Time) {
	err := errExited
	defer func() {
		if v := recover(); v != nil {
			err = panicError(v)
		}
		r.finish(ctx, t, err, time.Since(start))
	}()
	err = r.fn(tenant.NewContext(ctx, t), t)
}

// refuse passes over a tenant that is not to be called. It fails if it was asked for.
func (r *round) refuse(ctx context.Context, t *tenant.Tenant, why error, start time.Time) {
	if !r.picked {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.inHand, t.ID)
		return
	}
	if r.refused != nil {
		r.refused(ctx, t, why)
	}
	r.finish(ctx, t, why, time.Since(start))
}

// slugOf is what the caller knows a tenant as.
func (r *round) slugOf(id tenant.ID) tenant.Slug {
	i := slices.IndexFunc(r.opts.Tenants, func(t *tenant.Tenant) bool { return t.ID == id })
	if i < 0 {
		return ""
	}
	return r.opts.Tenants[i].Slug
}

// panicError makes an error of what a panic was given.
func panicError(v any) error {
	if err, ok := v.(error); ok {
		return fmt.Errorf("panic: %w\n%s", err, debug.Stack())
	}
	return fmt.Errorf("panic: %v\n%s", v, debug.Stack())
}

// finish notes what became of a tenant. One that was broken off stays in hand.
func (r *round) finish(ctx context.Context, t *tenant.Tenant, err error, took time.Duration) {
	if !r.note(ctx, t, err) || r.opts.Progress == nil {
		return
	}
	r.telling.Lock()
	defer r.telling.Unlock()
	r.opts.Progress(EachProgress{Tenant: t, Err: err, Duration: took, Checkpoint: r.checkpoint})
}

// note reports whether the tenant is finished.
func (r *round) note(ctx context.Context, t *tenant.Tenant, err error) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil && ctx.Err() != nil {
		r.endLocked(ctx, err)
		return false
	}
	delete(r.inHand, t.ID)
	if err == nil {
		r.done++
		return true
	}
	r.failed = append(r.failed, t.ID)
	if !r.forget {
		r.causes = append(r.causes, &TenantError{Tenant: t, Err: err})
	}
	if len(r.failed) == r.opts.MaxFailures {
		r.endLocked(ctx, fmt.Errorf("%w: %d", ErrTooManyFailures, len(r.failed)))
	}
	return true
}

// checkpoint says how far the round has come.
func (r *round) checkpoint() Checkpoint {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := Checkpoint{After: r.after, Open: slices.Concat([]tenant.ID{}, r.failed, r.again)}
	for id := range r.inHand {
		c.Open = append(c.Open, id)
	}
	slices.SortFunc(c.Open, compareIDs)
	return c
}

// notReached counts the tenants that were not begun. The context may have ended.
func (r *round) notReached(ctx context.Context) int {
	if r.picked {
		return len(r.again) + len(r.beyond())
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.d.cfg.ReadTimeout)
	defer cancel()
	n, err := r.d.queries.CountTenantsAfter(ctx, controlsql.CountTenantsAfterParams{After: r.after, Statuses: r.statuses()})
	if err != nil {
		return -1
	}
	return len(r.again) + int(n)
}
