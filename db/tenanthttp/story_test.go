package tenanthttp_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gorilla/mux"

	"github.com/leasehold-go/leasehold/db/tenant"
)

// newRouter is an application on gorilla/mux that marks every answer, its own 404 and 405 included.
func newRouter() *mux.Router {
	router := mux.NewRouter()
	router.HandleFunc("/", mark).Methods(http.MethodGet, http.MethodHead)
	router.NotFoundHandler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mark(w, r)
		w.WriteHeader(http.StatusNotFound)
	})
	router.MethodNotAllowedHandler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mark(w, r)
		w.WriteHeader(http.StatusMethodNotAllowed)
	})
	return router
}

// exchange sends raw bytes on a new connection and returns the answers to its requests, one per method.
func exchange(t *testing.T, addr, raw string, methods ...string) []outcome {
	t.Helper()
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, raw); err != nil {
		t.Fatal(err)
	}
	var got []outcome
	br := bufio.NewReader(conn)
	for _, method := range methods {
		res, err := http.ReadResponse(br, &http.Request{Method: method})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, res.Body); err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		got = append(got, outcome{res.StatusCode, res.Header.Get(marker)})
	}
	return got
}

// Two companies, a stranger and the apex share one connection, as they do behind a proxy (THREATS 17, 38).
func TestTwoCompaniesOnOneConnection(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(newMiddleware(t, nil, nil).Handler(newRouter()))
	defer server.Close()

	got := exchange(t, server.Listener.Addr().String(), ""+
		"GET / HTTP/1.1\r\nHost: acme.example.com\r\n\r\n"+
		"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n"+
		"GET / HTTP/1.1\r\nHost: GLOBEX.example.com.:8080\r\n\r\n"+
		"GET / HTTP/1.1\r\nHost: nobody.example.com\r\n\r\n"+
		"GET /nothing HTTP/1.1\r\nHost: acme.example.com\r\n\r\n"+
		"DELETE / HTTP/1.1\r\nHost: globex.example.com\r\n\r\n"+
		"GET /nothing HTTP/1.1\r\nHost: www.example.com\r\nConnection: close\r\n\r\n",
		"GET", "GET", "GET", "GET", "GET", "DELETE", "GET")
	want := []outcome{
		{200, "acme"}, {200, "nobody"}, {200, "globex"}, {404, ""}, {404, "acme"}, {405, "globex"}, {404, "nobody"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// THREATS 38: hung into the router, the middleware is not run for a 404 or a 405.
func TestWrappedRouterScopesItsErrors(t *testing.T) {
	t.Parallel()
	mw := newMiddleware(t, nil, nil)
	inside := newRouter()
	inside.Use(mw.Handler)
	wrapped := mw.Handler(newRouter())

	for _, tc := range []struct {
		name, method, path string
		wrapped, inside    outcome
	}{
		{"route", http.MethodGet, "/", outcome{200, "acme"}, outcome{200, "acme"}},
		{"404", http.MethodGet, "/nothing", outcome{404, "acme"}, outcome{404, "nobody"}},
		{"405", http.MethodDelete, "/", outcome{405, "acme"}, outcome{405, "nobody"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			request := func() *http.Request {
				r := httptest.NewRequestWithContext(t.Context(), tc.method, tc.path, nil)
				r.Host = "acme.example.com"
				return r
			}
			if got := serve(wrapped, request()); got != tc.wrapped {
				t.Errorf("wrapped: got %v, want %v", got, tc.wrapped)
			}
			if got := serve(inside, request()); got != tc.inside {
				t.Errorf("router.Use: got %v, want %v", got, tc.inside)
			}
		})
	}
}

// THREATS 42: nothing of a deleted tenant is left for the next one under its name.
func TestRecycledSubdomain(t *testing.T) {
	t.Parallel()
	r := newRegistry()
	var got []tenant.ID
	h := newMiddleware(t, r, nil).Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		served, err := tenant.FromContext(r.Context())
		if err != nil {
			t.Error(err)
			return
		}
		got = append(got, served.ID)
	}))
	old := r["acme"]
	serve(h, get(t, "acme.example.com"))
	delete(r, "acme")
	if o := serve(h, get(t, "acme.example.com")); o.Status != http.StatusNotFound {
		t.Errorf("after delete: status %d, want 404", o.Status)
	}
	next := &tenant.Tenant{ID: tenant.ID{15: 99}, Slug: "acme", Status: tenant.Active}
	r["acme"] = next
	serve(h, get(t, "acme.example.com"))
	if diff := cmp.Diff([]tenant.ID{old.ID, next.ID}, got); diff != "" {
		t.Error(diff)
	}
}
