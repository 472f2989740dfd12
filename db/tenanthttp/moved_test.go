package tenanthttp_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/db/tenanthttp"
)

// renamed is a Resolver of a tenant that was acme and is globex now.
var renamed = resolverFunc(func(ctx context.Context, slug tenant.Slug) (*tenant.Tenant, error) {
	switch slug {
	case "acme":
		return nil, fmt.Errorf("tenant acme: %w", &tenant.MovedError{From: slug, To: "globex"})
	case "circle":
		return nil, &tenant.MovedError{From: slug, To: slug}
	case "nowhere":
		return nil, &tenant.MovedError{From: slug}
	case "another":
		return nil, &tenant.MovedError{From: "acme", To: "globex"}
	}
	return newRegistry().Resolve(ctx, slug)
})

func TestARenamedTenantIsFoundUnderItsNewHost(t *testing.T) {
	t.Parallel()
	h := newMiddleware(t, renamed, nil).Handler(http.HandlerFunc(mark))
	for _, tc := range []struct{ name, method, host, target, want string }{
		{"path and query", "GET", "acme.example.com", "/invoices/7?a=b&c=%2F+x", "//globex.example.com/invoices/7?a=b&c=%2F+x"},
		{"nothing", "GET", "acme.example.com", "/", "//globex.example.com/"},
		{"empty query", "GET", "acme.example.com", "/x?", "//globex.example.com/x?"},
		{"port", "GET", "acme.localhost:8080", "/x", "//globex.localhost:8080/x"},
		{"upper case", "GET", "ACME.Example.com", "/X", "//globex.Example.com/X"},
		{"root dot", "GET", "acme.example.com.", "/x", "//globex.example.com./x"},
		{"escaped path", "GET", "acme.example.com", "/a%2Fb%0d%0aSet-Cookie:x", "//globex.example.com/a%2Fb%0d%0aSet-Cookie:x"},
		{"two slashes", "GET", "acme.example.com", "//evil.example/x", "//globex.example.com//evil.example/x"},
		{"post", "POST", "acme.example.com", "/customers", "//globex.example.com/customers"},
		{"head", "HEAD", "acme.example.com", "/x", "//globex.example.com/x"},
		{"asterisk", "OPTIONS", "acme.example.com", "*", "//globex.example.com/"},
		{"absolute form", "GET", "acme.example.com", "http://acme.example.com/x?y", "//globex.example.com/x?y"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			raw := tc.method + " " + tc.target + " HTTP/1.1\r\nHost: " + tc.host + "\r\n\r\n"
			r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(raw)))
			if err != nil {
				t.Fatal(err)
			}
			rec := httptest.NewRecorder()
			h.ServeHTTP(rec, r.WithContext(t.Context()))
			if rec.Code != http.StatusPermanentRedirect || rec.Header().Get("Location") != tc.want || rec.Header().Get(marker) != "" {
				t.Errorf("%d %q, want 308 %q", rec.Code, rec.Header().Get("Location"), tc.want)
			}
			if got := rec.Header().Get("Cache-Control"); got != "no-store" {
				t.Errorf("Cache-Control %q", got)
			}
		})
	}
}

func TestAMoveThatMakesNoSenseIsNotFollowed(t *testing.T) {
	t.Parallel()
	h := newMiddleware(t, renamed, nil).Handler(http.HandlerFunc(mark))
	for _, slug := range []string{"circle", "nowhere", "another"} {
		if diff := cmp.Diff(outcome{404, ""}, serve(h, get(t, slug+".example.com"))); diff != "" {
			t.Errorf("%s: %s", slug, diff)
		}
	}
}

// A client that follows the redirect arrives with its method and its body.
func TestNoBodyIsLostOnTheWayToTheNewHost(t *testing.T) {
	t.Parallel()
	h := newMiddleware(t, renamed, nil).Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprintf(w, "%s %s %s: ", r.Method, r.Host, r.URL)
		_, _ = io.Copy(w, r.Body)
	}))
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", server.Listener.Addr().String())
	}}
	t.Cleanup(transport.CloseIdleConnections)
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://acme.example.com:8080/x?y=z", strings.NewReader("the body"))
	if err != nil {
		t.Fatal(err)
	}
	response, err := (&http.Client{Transport: transport}).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if want := "PUT globex.example.com:8080 /x?y=z: the body"; string(body) != want || err != nil {
		t.Errorf("arrived: %q (%v), want %q", body, err, want)
	}
}

// domainsFunc is a DomainResolver.
type domainsFunc func(ctx context.Context, name string) (*tenant.Tenant, error)

func (f domainsFunc) ResolveDomain(ctx context.Context, name string) (*tenant.Tenant, error) {
	return f(ctx, name)
}

func TestDomains(t *testing.T) {
	t.Parallel()
	registry := newRegistry()
	domains := domainsFunc(func(_ context.Context, name string) (*tenant.Tenant, error) {
		switch name {
		case "billing.acme.org":
			return registry["acme"], nil
		case "xn--bcher-kva.example":
			return registry["globex"], nil
		case "suspended.org":
			return registry["suspended"], nil
		case "deleting.org":
			return registry["deleting"], nil
		case "deleted.org":
			return registry["deleted"], nil
		case "down.org":
			return nil, errors.New("connection refused")
		case "neither.org":
			return nil, nil
		case "unknown.org":
			return nil, tenant.ErrNotFound
		}
		return registry["acme"], fmt.Errorf("asked for %q", name)
	})
	with := newMiddleware(t, nil, func(cfg *tenanthttp.Config) { cfg.Domains = domains }).Handler(http.HandlerFunc(mark))
	without := newMiddleware(t, nil, nil).Handler(http.HandlerFunc(mark))
	for _, tc := range []struct {
		host string
		want outcome
	}{
		{"billing.acme.org", outcome{200, "acme"}},
		{"Billing.ACME.org.:8443", outcome{200, "acme"}},
		{"xn--bcher-kva.example", outcome{200, "globex"}},
		{"suspended.org", outcome{403, ""}},
		{"deleting.org", outcome{410, ""}},
		{"deleted.org", outcome{404, ""}},
		{"unknown.org", outcome{404, ""}},
		{"down.org", outcome{503, ""}},
		{"neither.org", outcome{503, ""}},
		// These are not asked for.
		{"acme.example.com", outcome{200, "acme"}},
		{"a.b.example.com", outcome{400, ""}},
		{"example.com", outcome{200, "nobody"}},
		{"single", outcome{400, ""}},
		{"10.0.0.1", outcome{400, ""}},
		{"127.1", outcome{400, ""}},
		{"[::1]", outcome{400, ""}},
		{"b\u00fccher.example", outcome{400, ""}},
		{"a_b.example", outcome{400, ""}},
		{"billing.acme.org:0", outcome{400, ""}},
	} {
		if diff := cmp.Diff(tc.want, serve(with, get(t, tc.host))); diff != "" {
			t.Errorf("%s: %s", tc.host, diff)
		}
		if strings.Contains(tc.host, ".org") && serve(without, get(t, tc.host)).Status != 400 {
			t.Errorf("%s is answered without Config.Domains", tc.host)
		}
	}
}
