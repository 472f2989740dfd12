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

// loadFunc reads a living tenant from the registry. It returns tenant.ErrNotFound if there is none; any other error means
// that the registry cannot answer.
type loadFunc func(context.Context, tenant.Slug) (*tenant.Tenant, error)

// cacheConfig has the fields of Config that bear on the cache.
type cacheConfig struct {
	load                    loadFunc
	size, negativeSize      int
	ttl, negativeTTL, grace time.Duration
	readTimeout             time.Duration
}

// cache maps slugs to tenants. It knows no database, only a loadFunc.
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
	loader      otter.Loader[tenant.Slug, entry]
	positive    *otter.Cache[tenant.Slug, entry]
	negative    *otter.Cache[tenant.Slug, struct{}]

	// epoch grows when notifications may have been missed: what was read before is stale.
	epoch atomic.Uint64
	// changes grows before anything is invalidated. A read that finds nothing stays in the negative cache only if changes is
	// the same before and after.
	changes atomic.Uint64
	// probeAt is when the registry may be tried again, in Unix nanoseconds; 0 while it answers.
	probeAt atomic.Int64
}

// entry is the result of a read.
type entry struct {
	tenant *tenant.Tenant
	// epoch is that in which the read began.
	epoch uint64
}

// absentError is the result of a read that found no tenant. otter takes it for its own ErrNotFound and keeps no entry.
type absentError entry

func (absentError) Error() string { return tenant.ErrNotFound.Error() }

func (absentError) Is(target error) bool { return target == otter.ErrNotFound }

func newCache(cfg cacheConfig) (*cache, error) {
	c := &cache{load: cfg.load, readTimeout: cfg.readTimeout}
	c.loader = otter.LoaderFunc[tenant.Slug, entry](c.read)
	var err error
	c.positive, err = otter.New(&otter.Options[tenant.Slug, entry]{
		MaximumSize:       cfg.size,
		ExpiryCalculator:  otter.ExpiryWriting[tenant.Slug, entry](cfg.grace),
		RefreshCalculator: otter.RefreshWriting[tenant.Slug, entry](cfg.ttl),
		Logger:            &otter.NoopLogger{},
	})
	if err != nil {
		return nil, err
	}
	c.negative, err = otter.New(&otter.Options[tenant.Slug, struct{}]{
		MaximumSize:      cfg.negativeSize,
		ExpiryCalculator: otter.ExpiryWriting[tenant.Slug, struct{}](cfg.negativeTTL),
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

// get returns the living tenant that has the slug, or tenant.ErrNotFound.
func (c *cache) get(ctx context.Context, slug tenant.Slug) (*tenant.Tenant, error) {
	if e, ok := c.positive.GetEntry(slug); ok && c.fresh(e) {
		return e.Value.tenant, nil
	}
	return c.getSlow(ctx, slug)
}

func (c *cache) fresh(e otter.Entry[tenant.Slug, entry]) bool {
	return e.RefreshableAtNano > e.SnapshotAtNano && c.current(e.Value)
}

func (c *cache) current(e entry) bool { return e.epoch == c.epoch.Load() }

// getSlow goes round again only when the epoch has moved on during a read, so that the read may have missed a change.
func (c *cache) getSlow(ctx context.Context, slug tenant.Slug) (*tenant.Tenant, error) {
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		stale, known := c.positive.GetEntry(slug)
		if known && c.fresh(stale) {
			return stale.Value.tenant, nil
		}
		if !known {
			if _, absent := c.negative.GetIfPresent(slug); absent {
				return nil, tenant.ErrNotFound
			}
		} else if !c.mayTry() {
			return stale.Value.tenant, nil
		}

		e, err := c.readOnce(ctx, slug, known)
		absent, isAbsent := errors.AsType[absentError](err)
		switch {
		case err == nil && c.current(e):
			return e.tenant, nil
		case isAbsent && c.current(entry(absent)):
			return nil, tenant.ErrNotFound
		case err == nil || isAbsent:
			continue
		case !known || ctx.Err() != nil:
			return nil, err
		}
		// The entry is looked up again: it may have been invalidated, or its grace may have ended, during the read.
		if last, ok := c.positive.GetEntry(slug); ok {
			return last.Value.tenant, nil
		}
		return nil, err
	}
}

// readOnce reads the slug, or waits for the read that is under way.
func (c *cache) readOnce(ctx context.Context, slug tenant.Slug, known bool) (entry, error) {
	if !known {
		return c.positive.Get(ctx, slug, c.loader)
	}
	select {
	case result := <-c.positive.Refresh(ctx, slug, c.loader):
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
func (c *cache) read(ctx context.Context, slug tenant.Slug) (entry, error) {
	epoch, changes := c.epoch.Load(), c.changes.Load()
	readCtx, cancel := context.WithTimeout(ctx, c.readTimeout)
	defer cancel()
	t, err := c.load(readCtx, slug)
	switch {
	case err == nil:
		c.probeAt.Store(0)
		return entry{tenant: t, epoch: epoch}, nil
	case errors.Is(err, tenant.ErrNotFound):
		c.probeAt.Store(0)
		c.rememberAbsent(slug, changes)
		return entry{}, absentError{epoch: epoch}
	case ctx.Err() == nil:
		c.probeAt.Store(time.Now().Add(probeEvery).UnixNano())
	}
	return entry{}, err
}

// rememberAbsent looks at changes after it has written. An invalidation counts before it deletes, so either it is seen here,
// or its deletion comes after the write.
func (c *cache) rememberAbsent(slug tenant.Slug, changes uint64) {
	c.negative.Set(slug, struct{}{})
	if c.changes.Load() != changes {
		c.negative.Invalidate(slug)
	}
}

// invalidate forgets what is known of the slug, because the record has changed.
func (c *cache) invalidate(slug tenant.Slug) {
	c.changes.Add(1)
	c.negative.Invalidate(slug)
	c.positive.Invalidate(slug)
}

// expireAll makes every entry stale, because changes may have been missed. Entries keep their grace.
func (c *cache) expireAll() {
	c.changes.Add(1)
	c.epoch.Add(1)
	c.negative.InvalidateAll()
}
