package app_test

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/leasehold-go/leasehold/db/tenanthttp"
	"github.com/leasehold-go/leasehold/internal/app"
)

func TestRefuse(t *testing.T) {
	t.Parallel()
	outcomes := []tenanthttp.Outcome{
		tenanthttp.BadHost, tenanthttp.Unknown, tenanthttp.Suspended, tenanthttp.Deleting, tenanthttp.Provisioning,
		tenanthttp.Unavailable,
	}
	for _, outcome := range outcomes {
		s := &site{handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { app.Refuse(w, r, outcome) })}
		page := s.send(t, http.MethodGet, "a.example", "/x", "", "Accept", "text/html,application/xhtml+xml,*/*;q=0.8").
			want(outcome.Status())
		page.document()
		if other := s.send(t, http.MethodGet, "b.example", "/y", "", "Accept", "text/html"); other.body != page.body {
			t.Errorf("%s: hosts differ:\n%s\n%s", outcome, page.body, other.body)
		}
		s.send(t, http.MethodGet, "a.example", "/", "", "Accept", "application/json").wantProblem(outcome.Status())
		plain := httptest.NewRecorder()
		app.Refuse(plain, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", http.NoBody), outcome)
		if got := plain.Header().Get("Content-Type"); got != "text/plain; charset=utf-8" || plain.Code != outcome.Status() {
			t.Errorf("%s without Accept: %d, %q", outcome, plain.Code, got)
		}
	}
}
