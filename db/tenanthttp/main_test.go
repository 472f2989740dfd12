package tenanthttp_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"

	"go.uber.org/goleak"

	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/db/tenanthttp"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// registry is a Resolver with fixed content.
type registry map[tenant.Slug]*tenant.Tenant

func (r registry) Resolve(_ context.Context, slug tenant.Slug) (*tenant.Tenant, error) {
	if t, ok := r[slug]; ok {
		return t, nil
	}
	return nil, tenant.ErrNotFound
}

// newRegistry holds a tenant in each state, under the state's name, and two active ones.
func newRegistry() registry {
	r := registry{}
	for i, t := range []tenant.Tenant{
		{Slug: "acme", Status: tenant.Active},
		{Slug: "globex", Status: tenant.Active},
		{Slug: "suspended", Status: tenant.Suspended},
		{Slug: "provisioning", Status: tenant.Provisioning},
		{Slug: "deleting", Status: tenant.Deleting},
		{Slug: "failed", Status: tenant.Failed},
		{Slug: "deleted", Status: tenant.Deleted},
	} {
		t.ID = tenant.ID{15: byte(i + 1)}
		r[t.Slug] = &t
	}
	return r
}

// resolverFunc is a Resolver that misbehaves as a test needs it to.
type resolverFunc func(ctx context.Context, slug tenant.Slug) (*tenant.Tenant, error)

func (f resolverFunc) Resolve(ctx context.Context, slug tenant.Slug) (*tenant.Tenant, error) {
	return f(ctx, slug)
}

// newMiddleware serves example.com and localhost. A nil resolver stands for newRegistry.
func newMiddleware(tb testing.TB, resolver tenanthttp.Resolver, change func(*tenanthttp.Config)) *tenanthttp.Middleware {
	tb.Helper()
	if resolver == nil {
		resolver = newRegistry()
	}
	cfg := tenanthttp.Config{
		BaseDomains: []string{"example.com", "localhost"},
		TrustedProxies: []netip.Prefix{
			netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("2001:db8::/32"), netip.MustParsePrefix("fe80::/64"),
		},
	}
	if change != nil {
		change(&cfg)
	}
	mw, err := tenanthttp.New(resolver, cfg)
	if err != nil {
		tb.Fatal(err)
	}
	return mw
}

// marker is the header in which tests read whom a request was served for.
const marker = "X-Served-For"

// mark sets the marker to the tenant's slug, or to "nobody".
func mark(w http.ResponseWriter, r *http.Request) {
	served := "nobody"
	if t, err := tenant.FromContext(r.Context()); err == nil {
		served = string(t.Slug)
	}
	w.Header().Set(marker, served)
}

// outcome is what a test compares: the status, and whom next ran for ("" if it did not run).
type outcome struct {
	Status int
	For    string
}

func serve(h http.Handler, r *http.Request) outcome {
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, r)
	return outcome{rec.Code, rec.Header().Get(marker)}
}

// get is a request as net/http's server makes it: origin form, host in Host only.
func get(tb testing.TB, host string) *http.Request {
	tb.Helper()
	r := httptest.NewRequestWithContext(tb.Context(), http.MethodGet, "/", nil)
	r.Host = host
	return r
}
