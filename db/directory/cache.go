package directory

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"

	"github.com/leasehold-go/leasehold/db/tenant"
)

// probeEvery is how often the registry is tried again while it cannot be reached. In between, known tenants are served
// without a try, so that an outage costs a request nothing.
const probeEvery = time.Second

// loadFunc reads from the registry the living tenant that a name leads to: a slug, or a domain, which has a dot in it. It returns a
// *tenant.MovedError or tenant.ErrNotFound if there is none; any other error means that the registry cannot answer.
type loadFunc func(ctx context.Context, name string) (*tenant.Tenant, error)

// cacheConfig has the fields of Config that bear on the cache.
type cacheConfig struct {
	load                    loadFunc
	size, negativeSize      int
	ttl, negativeTTL, grace time.Duration
	readTimeout             time.Duration
}

// cache maps slugs and domains to tenants. It knows no database, only a loadFunc.
//
// An entry is fresh for ttl after its last good read, and only within the epoch in which that read began. A fresh entry is the
// answer; a stale one is read again first, by one caller for all that wait. If that read fails, the stale entry is the
// answer until it is older than grace, when otter drops it.
//
// otter discards the result of a read when its key is invalidated meanwhile, so a read cannot put an old record back.
//
// A cache is safe for concurrent use.
type cache struct {
	load        loadFunc
	readTimeout time.Duration
	loader      otter.Loader[string, entry]
	positive    *otter.Cache[string, entry]
	negative    *otter.Cache[string, struct{}]

	// epoch grows when notifications may have been missed: what was read before is stale.
	epoch atomic.Uint64
	// changes grows before anything is invalidated. A read that finds nothing stays in the negative cache only if changes is
	// the same before and after.
	changes atomic.Uint64
	// probeAt is when the registry may be tried again, in Unix nanoseconds; 0 while it answers.
	probeAt atomic.Int64
}

// entry is the result of a read: a tenant, or where it has gone.
type entry struct {
	tenant *tenant.Tenant
	moved  *tenant.MovedError
	// epoch is that in which the read began.
	epoch uint64
}

func (e entry) answer() (*tenant.Tenant, error) {
	if e.moved != nil {
		return nil, e.moved
	}
	return e.tenant, nil
}

// absentError is the result of a read that found no tenant. otter takes it for its own ErrNotFound and keeps no entry.
type absentError entry

func (absentError) Error() string { return tenant.ErrNotFound.Error() }

func (absentError) Is(target error) bool { return target == otter.ErrNotFound }

func newCache(cfg cacheConfig) (*cache, error) {
	c := &cache{load: cfg.load, readTimeout: cfg.readTimeout}
	c.loader = otter.LoaderFunc[string, entry](c.read)
	var err error
	c.positive, err = otter.New(&otter.Options[string, entry]{
		MaximumSize:       cfg.size,
		ExpiryCalculator:  otter.ExpiryWriting[string, entry](cfg.grace),
		RefreshCalculator: otter.RefreshWriting[string, entry](cfg.ttl),
		Logger:            &otter.NoopLogger{},
	})
	if err != nil {
		return nil, err
	}
	c.negative, err = otter.New(&otter.Options[string, struct{}]{
		MaximumSize:      cfg.negativeSize,
		ExpiryCalculator: otter.ExpiryWriting[string, struct{}](cfg.negativeTTL),
		Logger:           &otter.NoopLogger{},
	})
	if err != nil {
		c.positive.StopAllGoroutines()
		return nil, err
	}
	return c, nil
}

// close stops the caches' own goroutines.
func (c *cache) close() {
	c.positive.StopAllGoroutines()
	c.negative.StopAllGoroutines()
}

// get returns what the loadFunc does.
func (c *cache) get(ctx context.Context, name string) (*tenant.Tenant, error) {
	if e, ok := c.positive.GetEntry(name); ok && c.fresh(e) {
		return e.Value.answer()
	}
	return c.getSlow(ctx, name)
}

func (c *cache) fresh(e otter.Entry[string, entry]) bool {
	return e.RefreshableAtNano > e.SnapshotAtNano && c.current(e.Value)
}

func (c *cache) current(e entry) bool { return e.epoch == c.epoch.Load() }

// getSlow goes round again only when the epoch has moved on during a read, so that the read may have missed a change.
func (c *cache) getSlow(ctx context.Context, name string) (*tenant.Tenant, error) {
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		stale, known := c.positive.GetEntry(name)
		if known && c.fresh(stale) {
			return stale.Value.answer()
		}
		if !known {
			if _, absent := c.negative.GetIfPresent(name); absent {
				return nil, tenant.ErrNotFound
			}
		} else if !c.mayTry() {
			return stale.Value.answer()
		}

		e, err := c.readOnce(ctx, name, known)
		absent, isAbsent := errors.AsType[absentError](err)
		switch {
		case err == nil && c.current(e):
			return e.answer()
		case isAbsent && c.current(entry(absent)):
			return nil, tenant.ErrNotFound
		case err == nil || isAbsent:
			continue
		case !known || ctx.Err() != nil:
			return nil, err
		}
		// The entry is looked up again: it may have been invalidated, or its grace may have ended, during the read.
		if last, ok := c.positive.GetEntry(name); ok {
			return last.Value.answer()
		}
		return nil, err
	}
}

// readOnce reads the name, or waits for the read that is under way.
func (c *cache) readOnce(ctx context.Context, name string, known bool) (entry, error) {
	if !known {
		return c.positive.Get(ctx, name, c.loader)
	}
	select {
	case result := <-c.positive.Refresh(ctx, name, c.loader):
		return result.Value, result.Err
	case <-ctx.Done():
		return entry{}, ctx.Err()
	}
}

// mayTry reports whether a caller that could be served without the registry should try it. While the registry cannot be
// reached, one caller in each probeEvery should.
func (c *cache) mayTry() bool {
	at := c.probeAt.Load()
	if at == 0 {
		return true
	}
	now := time.Now()
	return now.UnixNano() >= at && c.probeAt.CompareAndSwap(at, now.Add(probeEvery).UnixNano())
}

// read is otter's loader.
func (c *cache) read(ctx context.Context, name string) (entry, error) {
	epoch, changes := c.epoch.Load(), c.changes.Load()
	readCtx, cancel := context.WithTimeout(ctx, c.readTimeout)
	defer cancel()
	t, err := c.load(readCtx, name)
	moved, isMoved := errors.AsType[*tenant.MovedError](err)
	switch {
	case err == nil, isMoved:
		c.probeAt.Store(0)
		return entry{tenant: t, moved: moved, epoch: epoch}, nil
	case errors.Is(err, tenant.ErrNotFound):
		c.probeAt.Store(0)
		c.rememberAbsent(name, changes)
		return entry{}, absentError{epoch: epoch}
	case ctx.Err() == nil:
		c.probeAt.Store(time.Now().Add(probeEvery).UnixNano())
	}
	return entry{}, err
}

// rememberAbsent looks at changes after it has written. An invalidation counts before it deletes, so either it is seen here,
// or its deletion comes after the write.
func (c *cache) rememberAbsent(name string, changes uint64) {
	c.negative.Set(name, struct{}{})
	if c.changes.Load() != changes {
		c.negative.Invalidate(name)
	}
}

// invalidate forgets where the name leads, because a record has changed.
func (c *cache) invalidate(name string) {
	c.changes.Add(1)
	c.negative.Invalidate(name)
	c.positive.Invalidate(name)
}

// expireAll makes every entry stale, because changes may have been missed. Entries keep their grace.
func (c *cache) expireAll() {
	c.changes.Add(1)
	c.epoch.Add(1)
	c.negative.InvalidateAll()
}
