package tenanthttp_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/db/tenanthttp"
)

// The truth table of the package comment.
func TestTruthTable(t *testing.T) {
	t.Parallel()
	type answer struct {
		Outcome                  outcome
		RetryAfter, CacheControl string
	}
	ran := func(served string) answer { return answer{outcome{200, served}, "", ""} }
	refusal := func(status int, retryAfter string) answer { return answer{outcome{status, ""}, retryAfter, "no-store"} }

	errDown := errors.New("connection refused")
	resolver := resolverFunc(func(ctx context.Context, slug tenant.Slug) (*tenant.Tenant, error) {
		acme := newRegistry()["acme"]
		switch slug {
		case "www", "admin":
			return nil, errors.New("a reserved slug was asked for")
		case "down":
			return nil, errDown
		case "down-with-tenant":
			return acme, errDown
		case "neither":
			return nil, nil
		case "other":
			return acme, nil
		case "strange":
			return &tenant.Tenant{Slug: slug, Status: "archived"}, nil
		case "stateless":
			return &tenant.Tenant{Slug: slug}, nil
		case "gone-with-tenant":
			return acme, tenant.ErrNotFound
		}
		return newRegistry().Resolve(ctx, slug)
	})
	h := newMiddleware(t, resolver, func(cfg *tenanthttp.Config) { cfg.RetryAfter = 1500 * time.Millisecond }).
		Handler(http.HandlerFunc(mark))

	for _, tc := range []struct {
		name, host string
		want       answer
	}{
		{"active", "acme.example.com", ran("acme")},
		{"active, other base domain", "globex.localhost:8080", ran("globex")},
		{"apex", "example.com", ran("nobody")},
		{"www", "www.example.com", ran("nobody")},
		{"never existed", "nobody.example.com", refusal(404, "")},
		{"reserved", "admin.example.com", refusal(404, "")},
		{"failed", "failed.example.com", refusal(404, "")},
		{"deleted", "deleted.example.com", refusal(404, "")},
		{"not found, with a tenant", "gone-with-tenant.example.com", refusal(404, "")},
		{"suspended", "suspended.example.com", refusal(403, "")},
		{"deleting", "deleting.example.com", refusal(410, "")},
		{"provisioning", "provisioning.example.com", refusal(503, "2")},
		{"bad host", "a.b.example.com", refusal(400, "")},
		{"foreign host", "acme.example.org", refusal(400, "")},
		{"no host", "", refusal(400, "")},
		{"resolver down", "down.example.com", refusal(503, "2")},
		{"resolver down, with a tenant", "down-with-tenant.example.com", refusal(503, "2")},
		{"neither tenant nor error", "neither.example.com", refusal(503, "2")},
		{"another tenant", "other.example.com", refusal(503, "2")},
		{"unknown status", "strange.example.com", refusal(503, "2")},
		{"no status", "stateless.example.com", refusal(503, "2")},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			rec := httptest.NewRecorder()
			h.ServeHTTP(rec, get(t, tc.host))
			got := answer{outcome{rec.Code, rec.Header().Get(marker)}, rec.Header().Get("Retry-After"), rec.Header().Get("Cache-Control")}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// A visitor cannot tell a name that is free from one that is not (THREATS 42).
func TestUniform404(t *testing.T) {
	t.Parallel()
	h := newMiddleware(t, nil, nil).Handler(http.HandlerFunc(mark))
	for _, accept := range []string{"text/html", "application/json"} {
		var want string
		for _, slug := range []string{"nobody", "admin", "failed", "deleted"} {
			r := get(t, slug+".example.com")
			r.Header.Set("Accept", accept)
			rec := httptest.NewRecorder()
			h.ServeHTTP(rec, r)
			var raw bytes.Buffer
			if err := rec.Result().Write(&raw); err != nil {
				t.Fatal(err)
			}
			if want == "" {
				want = raw.String()
			}
			if got := raw.String(); got != want || !strings.HasPrefix(got, "HTTP/1.1 404 ") {
				t.Errorf("%s, %s: got\n%s\nwant\n%s", slug, accept, got, want)
			}
		}
	}
}

func TestRespond(t *testing.T) {
	t.Parallel()
	const (
		text    = "This account is suspended.\n"
		problem = `{"type":"about:blank","title":"Forbidden","status":403,"detail":"This account is suspended."}` + "\n"
	)
	h := newMiddleware(t, nil, nil).Handler(http.HandlerFunc(mark))
	for _, tc := range []struct {
		name, contentType, body string
		accept                  []string
	}{
		{"no preference", "text/plain; charset=utf-8", text, nil},
		{"anything", "text/plain; charset=utf-8", text, []string{"*/*"}},
		{"browser", "text/plain; charset=utf-8", text, []string{"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}},
		{"json", "application/problem+json", problem, []string{"application/json"}},
		{"problem", "application/problem+json", problem, []string{"Application/Problem+JSON; q=0.9"}},
		{"json in a list", "application/problem+json", problem, []string{"text/plain", "application/xml, application/json;q=0.5"}},
		{"another json", "text/plain; charset=utf-8", text, []string{"application/jsonp"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			r := get(t, "suspended.example.com")
			r.Header["Accept"] = tc.accept
			rec := httptest.NewRecorder()
			h.ServeHTTP(rec, r)
			want := []string{tc.contentType, tc.body}
			if diff := cmp.Diff(want, []string{rec.Header().Get("Content-Type"), rec.Body.String()}); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// What went wrong is for the log; the client gets the same sentence whatever it was.
func TestResolverErrorsStayInTheLog(t *testing.T) {
	t.Parallel()
	const secret = "dial 10.9.8.7: password authentication failed"
	for _, tc := range []struct {
		name  string
		ctx   func(context.Context) context.Context
		level string
	}{
		{"down", func(ctx context.Context) context.Context { return ctx }, "ERROR"},
		{"client gone", func(ctx context.Context) context.Context {
			ctx, cancel := context.WithCancel(ctx)
			cancel()
			return ctx
		}, "DEBUG"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			var logged bytes.Buffer
			h := newMiddleware(t, resolverFunc(func(context.Context, tenant.Slug) (*tenant.Tenant, error) {
				return nil, errors.New(secret)
			}), func(cfg *tenanthttp.Config) {
				cfg.Logger = slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug}))
			}).Handler(http.HandlerFunc(mark))
			rec := httptest.NewRecorder()
			h.ServeHTTP(rec, get(t, "acme.example.com").WithContext(tc.ctx(t.Context())))
			if rec.Code != http.StatusServiceUnavailable || rec.Header().Get("Retry-After") != "5" {
				t.Errorf("got status %d, Retry-After %q", rec.Code, rec.Header().Get("Retry-After"))
			}
			if body := rec.Body.String(); strings.Contains(body, "10.9.8.7") || strings.Contains(body, "acme") {
				t.Errorf("the body tells too much: %q", body)
			}
			if line := logged.String(); !strings.Contains(line, secret) || !strings.Contains(line, "level="+tc.level) ||
				!strings.Contains(line, "slug=acme") {
				t.Errorf("logged %q, want level %s, the slug and the cause", line, tc.level)
			}
		})
	}
}

// THREATS 17: a tenant that was there before reaches nobody.
func TestTenantFromOutsideIsCleared(t *testing.T) {
	t.Parallel()
	intruder := &tenant.Tenant{Slug: "intruder", Status: tenant.Active}
	inContext := func(ctx context.Context) tenant.Slug {
		if found, err := tenant.FromContext(ctx); err == nil {
			return found.Slug
		}
		return ""
	}
	type seen struct{ Resolver, Next, Respond tenant.Slug }
	for _, tc := range []struct {
		host string
		want seen
	}{
		{"acme.example.com", seen{Next: "acme"}},
		{"example.com", seen{}},
		{"nobody.example.com", seen{}},
		{"suspended.example.com", seen{}},
		{"a.b.example.com", seen{}},
	} {
		t.Run(tc.host, func(t *testing.T) {
			t.Parallel()
			var got seen
			h := newMiddleware(t, resolverFunc(func(ctx context.Context, slug tenant.Slug) (*tenant.Tenant, error) {
				got.Resolver = inContext(ctx)
				return newRegistry().Resolve(ctx, slug)
			}), func(cfg *tenanthttp.Config) {
				cfg.Respond = func(_ http.ResponseWriter, r *http.Request, _ tenanthttp.Outcome) {
					got.Respond = inContext(r.Context())
				}
			}).Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got.Next = inContext(r.Context()) }))
			h.ServeHTTP(httptest.NewRecorder(), get(t, tc.host).WithContext(tenant.NewContext(t.Context(), intruder)))
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestRespondHook(t *testing.T) {
	t.Parallel()
	h := newMiddleware(t, resolverFunc(func(ctx context.Context, slug tenant.Slug) (*tenant.Tenant, error) {
		if slug == "down" {
			return nil, errors.New("down")
		}
		return newRegistry().Resolve(ctx, slug)
	}), func(cfg *tenanthttp.Config) {
		cfg.Respond = func(w http.ResponseWriter, _ *http.Request, o tenanthttp.Outcome) {
			w.Header().Set("X-Outcome", o.String())
			w.WriteHeader(o.Status())
		}
	}).Handler(http.HandlerFunc(mark))
	for _, tc := range []struct{ host, want, retryAfter string }{
		{"acme.example.com", "", ""},
		{"a.b.example.com", "bad host", ""},
		{"nobody.example.com", "unknown", ""},
		{"suspended.example.com", "suspended", ""},
		{"provisioning.example.com", "provisioning", "5"},
		{"down.example.com", "unavailable", "5"},
	} {
		t.Run(tc.host, func(t *testing.T) {
			t.Parallel()
			rec := httptest.NewRecorder()
			h.ServeHTTP(rec, get(t, tc.host))
			got := []string{rec.Header().Get("X-Outcome"), rec.Header().Get("Retry-After")}
			if diff := cmp.Diff([]string{tc.want, tc.retryAfter}, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestPanicsPass(t *testing.T) {
	t.Parallel()
	h := newMiddleware(t, nil, nil).Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
	defer func() {
		if got := recover(); got != http.ErrAbortHandler { //nolint:errorlint // the very value must come through
			t.Errorf("recovered %v, want http.ErrAbortHandler", got)
		}
	}()
	h.ServeHTTP(httptest.NewRecorder(), get(t, "acme.example.com"))
	t.Error("the panic was swallowed")
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	bases := []string{"example.com"}
	for _, tc := range []struct {
		name     string
		resolver tenanthttp.Resolver
		cfg      tenanthttp.Config
	}{
		{"no resolver", nil, tenanthttp.Config{BaseDomains: bases}},
		{"no base domain", registry{}, tenanthttp.Config{}},
		{"bad base domain", registry{}, tenanthttp.Config{BaseDomains: []string{"example.com:8080"}}},
		{"bad apex name", registry{}, tenanthttp.Config{BaseDomains: bases, ApexNames: []string{"a.b"}}},
		{"zero proxy", registry{}, tenanthttp.Config{BaseDomains: bases, TrustedProxies: []netip.Prefix{{}}}},
		{"IPv4 in IPv6 proxy", registry{}, tenanthttp.Config{BaseDomains: bases,
			TrustedProxies: []netip.Prefix{netip.MustParsePrefix("::ffff:10.0.0.0/104")}}},
		{"negative RetryAfter", registry{}, tenanthttp.Config{BaseDomains: bases, RetryAfter: -1}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			if mw, err := tenanthttp.New(tc.resolver, tc.cfg); err == nil || mw != nil {
				t.Errorf("got %v, %v; want an error and nothing else", mw, err)
			}
		})
	}
}

// The caller may reuse the slice that it configured with.
func TestConfigIsCopied(t *testing.T) {
	t.Parallel()
	proxies := []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}
	h := newMiddleware(t, nil, func(cfg *tenanthttp.Config) { cfg.TrustedProxies = proxies }).Handler(http.HandlerFunc(mark))
	proxies[0] = netip.MustParsePrefix("0.0.0.0/0")
	r := get(t, "acme.example.com")
	r.RemoteAddr = "192.0.2.1:1234"
	r.Header.Set("X-Forwarded-Host", "globex.example.com")
	if got, want := serve(h, r), (outcome{200, "acme"}); got != want {
		t.Errorf("got %v, want %v", got, want)
	}
}

// BenchmarkHandler is what the middleware adds to a request: one copy of it, one context value.
func BenchmarkHandler(b *testing.B) {
	h := newMiddleware(b, nil, nil).Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	w, r := httptest.NewRecorder(), get(b, "acme.example.com:8080")
	b.ReportAllocs()
	for b.Loop() {
		h.ServeHTTP(w, r)
	}
}
