package directory

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/leasehold-go/leasehold/db/tenant"
)

var errRegistryDown = errors.New("registry down")

// registry stands for the database behind a cache.
type registry struct {
	mu    sync.Mutex
	rows  map[string]*tenant.Tenant
	err   error
	reads atomic.Int64
	// reading, if set, runs between the moment a row is read and the moment it is returned.
	reading func(context.Context)
}

func (r *registry) load(ctx context.Context, slug string) (*tenant.Tenant, error) {
	r.reads.Add(1)
	r.mu.Lock()
	t, err, reading := r.rows[slug], r.err, r.reading
	r.mu.Unlock()
	if reading != nil {
		reading(ctx)
	}
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case err != nil:
		return nil, err
	case t == nil:
		return nil, tenant.ErrNotFound
	}
	return t, nil
}

func (r *registry) set(slug string, t *tenant.Tenant) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.rows == nil {
		r.rows = map[string]*tenant.Tenant{}
	}
	r.rows[slug] = t
}

func (r *registry) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err = err
}

func (r *registry) during(f func(context.Context)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reading = f
}

const (
	testTTL         = 30 * time.Second
	testNegativeTTL = 5 * time.Second
	testGrace       = 15 * time.Minute
	testReadTimeout = 3 * time.Second
)

// elapse lets a synctest bubble's time pass.
func elapse(d time.Duration) { <-time.After(d) }

// cacheOf must be called inside a synctest bubble: the caches' goroutines stop with it.
func cacheOf(t testing.TB, r *registry) *cache {
	t.Helper()
	c, err := newCache(cacheConfig{
		load: r.load, size: 1000, negativeSize: 100,
		ttl: testTTL, negativeTTL: testNegativeTTL, grace: testGrace, readTimeout: testReadTimeout,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.close)
	return c
}

func wantTenant(t *testing.T, c *cache, slug string, want *tenant.Tenant) {
	t.Helper()
	got, err := c.get(t.Context(), slug)
	if err != nil {
		t.Fatalf("get(%q): %v", slug, err)
	}
	if got != want {
		t.Fatalf("get(%q) = generation %d, want %d", slug, got.Generation, want.Generation)
	}
}

func wantErr(t *testing.T, c *cache, slug string, want error) {
	t.Helper()
	if _, err := c.get(t.Context(), slug); !errors.Is(err, want) {
		t.Fatalf("get(%q) error = %v, want %v", slug, err, want)
	}
}

func (r *registry) wantReads(t *testing.T, want int64) {
	t.Helper()
	if got := r.reads.Load(); got != want {
		t.Fatalf("the registry was read %d times, want %d", got, want)
	}
}

func TestCacheReadsAgainAfterTTL(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		first, second := &tenant.Tenant{Generation: 1}, &tenant.Tenant{Generation: 2}
		r := &registry{}
		r.set("acme", first)
		c := cacheOf(t, r)

		wantTenant(t, c, "acme", first)
		r.set("acme", second)
		elapse(testTTL - time.Nanosecond)
		wantTenant(t, c, "acme", first)
		r.wantReads(t, 1)

		elapse(time.Nanosecond)
		wantTenant(t, c, "acme", second)
		r.wantReads(t, 2)
	})
}

func TestCacheRemembersAbsenceForNegativeTTL(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		acme := &tenant.Tenant{Generation: 1}
		r := &registry{}
		c := cacheOf(t, r)

		wantErr(t, c, "acme", tenant.ErrNotFound)
		wantErr(t, c, "acme", tenant.ErrNotFound)
		r.wantReads(t, 1)

		r.set("acme", acme)
		elapse(testNegativeTTL)
		wantTenant(t, c, "acme", acme)
	})
}

func TestCacheForgetsATenantThatIsGone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &registry{}
		r.set("acme", &tenant.Tenant{})
		c := cacheOf(t, r)
		if _, err := c.get(t.Context(), "acme"); err != nil {
			t.Fatal(err)
		}

		r.set("acme", nil)
		elapse(testTTL)
		wantErr(t, c, "acme", tenant.ErrNotFound)
		// Gone means gone: the grace is for a registry that cannot answer.
		r.fail(errRegistryDown)
		elapse(testNegativeTTL)
		wantErr(t, c, "acme", errRegistryDown)
	})
}

func TestCacheIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &registry{}
		c := cacheOf(t, r)
		for i := range 5000 {
			known := fmt.Sprintf("known-%d", i)
			r.set(known, &tenant.Tenant{})
			if _, err := c.get(t.Context(), known); err != nil {
				t.Fatal(err)
			}
			wantErr(t, c, fmt.Sprintf("unknown-%d", i), tenant.ErrNotFound)
		}
		synctest.Wait()
		c.positive.CleanUp()
		c.negative.CleanUp()
		if got := c.positive.EstimatedSize(); got > 1000 {
			t.Errorf("%d known tenants are kept, want at most 1000", got)
		}
		if got := c.negative.EstimatedSize(); got > 100 {
			t.Errorf("%d unknown names are kept, want at most 100", got)
		}
	})
}

func TestCacheServesKnownTenantsWithinGraceWhenTheRegistryIsDown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		acme := &tenant.Tenant{Generation: 1}
		r := &registry{}
		r.set("acme", acme)
		c := cacheOf(t, r)
		wantTenant(t, c, "acme", acme)

		r.fail(errRegistryDown)
		elapse(testTTL)
		wantTenant(t, c, "acme", acme)
		wantErr(t, c, "globex", errRegistryDown)

		elapse(testGrace - testTTL - time.Nanosecond)
		wantTenant(t, c, "acme", acme)
		elapse(time.Nanosecond)
		wantErr(t, c, "acme", errRegistryDown)

		r.fail(nil)
		wantTenant(t, c, "acme", acme)
	})
}

func TestCacheGraceCountsFromTheLastGoodRead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		acme := &tenant.Tenant{Generation: 1}
		r := &registry{}
		r.set("acme", acme)
		c := cacheOf(t, r)
		wantTenant(t, c, "acme", acme)
		elapse(testGrace - time.Second)
		wantTenant(t, c, "acme", acme)

		r.fail(errRegistryDown)
		elapse(testGrace - time.Second)
		wantTenant(t, c, "acme", acme)
		elapse(time.Second)
		wantErr(t, c, "acme", errRegistryDown)
	})
}

func TestCacheProbesADownRegistryOnceInAWhile(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		acme := &tenant.Tenant{Generation: 1}
		r := &registry{}
		r.set("acme", acme)
		c := cacheOf(t, r)
		wantTenant(t, c, "acme", acme)

		r.fail(errRegistryDown)
		elapse(testTTL)
		before := r.reads.Load()
		for range 100 {
			wantTenant(t, c, "acme", acme)
		}
		r.wantReads(t, before+1)
		elapse(probeEvery)
		for range 100 {
			wantTenant(t, c, "acme", acme)
		}
		r.wantReads(t, before+2)

		newer := &tenant.Tenant{Generation: 2}
		r.fail(nil)
		r.set("acme", newer)
		elapse(probeEvery)
		wantTenant(t, c, "acme", newer)
	})
}

func TestCacheWaitsForASilentRegistryOnlyOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		acme := &tenant.Tenant{Generation: 1}
		r := &registry{}
		r.set("acme", acme)
		r.set("globex", acme)
		c := cacheOf(t, r)
		wantTenant(t, c, "acme", acme)
		wantTenant(t, c, "globex", acme)

		r.during(func(ctx context.Context) { <-ctx.Done() })
		elapse(testTTL)
		start := time.Now()
		wantTenant(t, c, "acme", acme)
		if waited := time.Since(start); waited != testReadTimeout {
			t.Errorf("the first caller waited %v, want %v", waited, testReadTimeout)
		}
		wantTenant(t, c, "globex", acme)
		if waited := time.Since(start); waited != testReadTimeout {
			t.Errorf("the second caller waited too: %v", waited-testReadTimeout)
		}
	})
}

func TestCacheDeduplicatesReads(t *testing.T) {
	t.Parallel()
	for _, state := range []string{"missing", "stale"} {
		t.Run(state, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				acme := &tenant.Tenant{Generation: 1}
				r := &registry{}
				r.set("acme", acme)
				c := cacheOf(t, r)
				if state == "stale" {
					wantTenant(t, c, "acme", acme)
					elapse(testTTL)
				}
				before := r.reads.Load()
				release := make(chan struct{})
				r.during(func(context.Context) { <-release })

				var callers sync.WaitGroup
				for range 50 {
					callers.Go(func() {
						if got, err := c.get(t.Context(), "acme"); err != nil || got != acme {
							t.Errorf("get = %v, %v", got, err)
						}
					})
				}
				synctest.Wait()
				r.wantReads(t, before+1)
				close(release)
				callers.Wait()
				r.wantReads(t, before+1)
			})
		})
	}
}

// A read that is under way when the record changes must not leave the old record behind, in whichever state it began.
func TestCacheDoesNotPutAnOldRecordBack(t *testing.T) {
	t.Parallel()
	older, newer := &tenant.Tenant{Generation: 1}, &tenant.Tenant{Generation: 2}
	for _, tc := range []struct {
		name          string
		before, after *tenant.Tenant
		stale         bool
		change        func(*cache)
	}{
		{"missing, then changed", older, newer, false, func(c *cache) { c.invalidate("acme") }},
		{"stale, then changed", older, newer, true, func(c *cache) { c.invalidate("acme") }},
		{"absent, then created", nil, newer, false, func(c *cache) { c.invalidate("acme") }},
		{"missing, then deleted", older, nil, false, func(c *cache) { c.invalidate("acme") }},
		{"stale, then deleted", older, nil, true, func(c *cache) { c.invalidate("acme") }},
		{"missing, then notifications missed", older, newer, false, (*cache).expireAll},
		{"stale, then notifications missed", older, newer, true, (*cache).expireAll},
		{"absent, then notifications missed", nil, newer, false, (*cache).expireAll},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := &registry{}
				r.set("acme", tc.before)
				c := cacheOf(t, r)
				if tc.stale {
					wantTenant(t, c, "acme", tc.before)
					elapse(testTTL)
				}
				release := make(chan struct{})
				r.during(func(context.Context) { <-release })
				reader := make(chan struct{})
				go func() {
					defer close(reader)
					_, err := c.get(t.Context(), "acme")
					if err != nil && !errors.Is(err, tenant.ErrNotFound) {
						t.Errorf("the reader that was crossed: %v", err)
					}
				}()
				synctest.Wait()

				r.set("acme", tc.after)
				r.during(nil)
				tc.change(c)
				// Whoever asks after the change gets the change, also while the old read is still under way.
				want := func() {
					t.Helper()
					if tc.after == nil {
						wantErr(t, c, "acme", tenant.ErrNotFound)
					} else {
						wantTenant(t, c, "acme", tc.after)
					}
				}
				asker := make(chan struct{})
				go func() {
					defer close(asker)
					want()
				}()
				synctest.Wait()
				close(release)
				<-reader
				<-asker
				want()
			})
		})
	}
}

func TestCacheDoesNotServeAChangedRecordInGrace(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &registry{}
		acme := &tenant.Tenant{}
		r.set("acme", acme)
		c := cacheOf(t, r)
		wantTenant(t, c, "acme", acme)
		r.fail(errRegistryDown)

		c.expireAll()
		wantTenant(t, c, "acme", acme)
		c.invalidate("acme")
		wantErr(t, c, "acme", errRegistryDown)
	})
}

func TestCacheCallerMayGiveUp(t *testing.T) {
	t.Parallel()
	for _, state := range []string{"missing", "stale"} {
		t.Run(state, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				acme := &tenant.Tenant{}
				r := &registry{}
				r.set("acme", acme)
				c := cacheOf(t, r)
				if state == "stale" {
					wantTenant(t, c, "acme", acme)
					elapse(testTTL)
				}
				release := make(chan struct{})
				r.during(func(context.Context) { <-release })

				ctx, cancel := context.WithCancel(t.Context())
				gaveUp := make(chan error)
				go func() {
					_, err := c.get(ctx, "acme")
					gaveUp <- err
				}()
				synctest.Wait()
				cancel()
				synctest.Wait()
				close(release)
				if err := <-gaveUp; !errors.Is(err, context.Canceled) {
					t.Errorf("error = %v, want %v", err, context.Canceled)
				}
				// That somebody gave up does not mean that the registry is down.
				if at := c.probeAt.Load(); at != 0 {
					t.Error("the registry is taken to be down")
				}
				r.during(nil)
				wantTenant(t, c, "acme", acme)
			})
		})
	}
}

func TestCachedGetDoesNotAllocate(t *testing.T) {
	r := &registry{}
	r.set("acme", &tenant.Tenant{})
	c := cacheOf(t, r)
	ctx := t.Context()
	if n := testing.AllocsPerRun(1000, func() {
		if _, err := c.get(ctx, "acme"); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}

func BenchmarkResolveCached(b *testing.B) {
	r := &registry{}
	slugs := make([]string, 1000)
	for i := range slugs {
		slugs[i] = fmt.Sprintf("company-%d", i)
		r.set(slugs[i], &tenant.Tenant{Slug: tenant.Slug(slugs[i])})
	}
	c := cacheOf(b, r)
	ctx := b.Context()
	for _, slug := range slugs {
		if _, err := c.get(ctx, slug); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if _, err := c.get(ctx, slugs[i%len(slugs)]); err != nil {
			b.Fatal(err)
		}
		i++
	}
}
