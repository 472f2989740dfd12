package app_test

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/leasehold-go/leasehold/db/directory"
	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/db/tenantdb"
	"github.com/leasehold-go/leasehold/internal/app"
)

// What a browser says about where a request comes from decides whether it may change anything.
func TestCrossOrigin(t *testing.T) {
	t.Parallel()
	c := newCompany(t)
	tests := []struct {
		name    string
		headers []string
		allowed bool
	}{
		{"from a sibling subdomain", []string{"Sec-Fetch-Site", "same-site", "Origin", "http://globex.example.com"}, false},
		{"from another site", []string{"Sec-Fetch-Site", "cross-site", "Origin", "https://evil.example"}, false},
		{"from a sibling, old browser", []string{"Origin", "http://globex.example.com"}, false},
		{"from nowhere", []string{"Origin", "null"}, false},
		{"from the page itself", []string{"Sec-Fetch-Site", "same-origin", "Origin", "http://acme.example.com"}, true},
		{"from the page itself, old browser", []string{"Origin", "http://acme.example.com"}, true},
		{"typed by the person", []string{"Sec-Fetch-Site", "none"}, true},
		{"not a browser", nil, true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			json := append([]string{"Content-Type", "application/json"}, test.headers...)
			r := c.send(t, http.MethodPost, c.host, "/api/customers", `{"name":"A","email":"a@b"}`, json...)
			form := append([]string{"Content-Type", "application/x-www-form-urlencoded"}, test.headers...)
			f := c.send(t, http.MethodPost, c.host, "/customers", "name=A&email=a%40b", form...)
			if test.allowed {
				r.want(http.StatusCreated)
				f.want(http.StatusSeeOther)
			} else {
				r.wantProblem(http.StatusForbidden)
				f.want(http.StatusForbidden).document().check("Acme Ltd")
			}
			c.send(t, http.MethodGet, c.host, "/invoices", "", test.headers...).want(http.StatusOK)
		})
	}
	c.send(t, http.MethodPost, "example.com", "/signup", "company=x", "Content-Type", "application/x-www-form-urlencoded",
		"Sec-Fetch-Site", "same-site").want(http.StatusForbidden)
}

func TestHeaders(t *testing.T) {
	t.Parallel()
	c := newCompany(t)
	const policy = "default-src 'self'; object-src 'none'; base-uri 'none'; frame-ancestors 'none'; form-action 'self'"
	for _, test := range []struct{ host, path, policy string }{
		{c.host, "/invoices", policy},
		{c.host, "/nothing", policy},
		{c.host, "/api/customers", policy},
		// Sign-up redirects to the new company, and browsers ask form-action about redirects.
		{"example.com", "/", policy + " https://*.example.com"},
		{"example.com", "/nothing", policy + " https://*.example.com"},
	} {
		r := c.send(t, http.MethodGet, test.host, test.path, "")
		for name, want := range map[string]string{
			"Content-Security-Policy": test.policy,
			"X-Content-Type-Options":  "nosniff",
			"Referrer-Policy":         "same-origin",
			"Cache-Control":           "no-store",
		} {
			if got := r.header.Get(name); got != want {
				t.Errorf("%s: %s %q, want %q", r.what, name, got, want)
			}
		}
	}
	if r := c.send(t, http.MethodHead, c.host, "/invoices", ""); r.status != http.StatusOK {
		t.Errorf("HEAD: %d", r.status)
	}
}

// brokenDatabase answers every call with one error.
type brokenDatabase struct {
	app.Database
	err error
}

func (b brokenDatabase) Exec(context.Context, string, ...any) (pgconn.CommandTag, error) {
	return pgconn.CommandTag{}, b.err
}

type brokenSignup struct{ err error }

func (b brokenSignup) Create(context.Context, directory.NewTenant) (*tenant.Tenant, error) {
	return nil, b.err
}

// newBroken is the app alone, over a database and a registry that fail with err.
func newBroken(t *testing.T, err error, guard func(http.Handler) http.Handler) *site {
	t.Helper()
	s := &site{logs: &lockedBuffer{}}
	handler, newErr := app.New(app.Config{
		Database:  brokenDatabase{err: err},
		Signup:    brokenSignup{err},
		PublicURL: func(slug tenant.Slug) string { return "http://" + string(slug) + ".localhost:8080" },
		Guard:     guard,
		Logger:    slog.New(slog.NewTextHandler(s.logs, nil)),
	})
	must(t, newErr)
	acme := &tenant.Tenant{Slug: "acme", Company: "Acme Ltd"}
	s.handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.Host, "acme.") {
			r = r.WithContext(tenant.NewContext(r.Context(), acme))
		}
		handler.ServeHTTP(w, r)
	})
	return s
}

// The table of errors, for those that do not come from a request alone.
func TestFaults(t *testing.T) {
	t.Parallel()
	const secret = "password=hunter2"
	_, refusal := pgconn.Connect(t.Context(), "postgres://127.0.0.1:1/nobody?sslmode=disable")
	tests := []struct {
		name   string
		err    error
		status int
	}{
		{"no connection in time", tenantdb.ErrBusy, 503},
		{"no server", tenantdb.ErrUnavailable, 503},
		{"schema missing", tenantdb.ErrSchemaMissing, 503},
		{"deadline", context.DeadlineExceeded, 503},
		{"server starts", &pgconn.PgError{Code: "57P03"}, 503},
		{"server stops", &pgconn.PgError{Code: "57P01"}, 503},
		{"too many connections", &pgconn.PgError{Code: "53300"}, 503},
		{"serialization", &pgconn.PgError{Code: "40001"}, 503},
		{"connect", refusal, 503},
		{"value does not fit", &pgconn.PgError{Code: "22003"}, 422},
		{"check", &pgconn.PgError{Code: "23514"}, 422},
		{"no right", &pgconn.PgError{Code: "42501"}, 500},
		{"no tenant", tenant.ErrNoTenant, 500},
		{"anything", errors.New(secret), 500},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := newBroken(t, errors.Join(test.err, errors.New(secret)), nil)
			c := company{site: s, host: "acme.localhost"}
			for _, r := range []reply{
				c.api(t, http.MethodDelete, "/api/customers/1", "").wantProblem(test.status),
				c.form(t, "/customers/1/delete").want(test.status),
				c.send(t, http.MethodPost, "localhost", "/signup", `{}`, "Content-Type", "application/json").wantProblem(test.status),
			} {
				if got := r.header.Get("Retry-After"); (got != "") != (test.status == 503) {
					t.Errorf("%s: Retry-After %q", r.what, got)
				}
				if strings.Contains(r.body, secret) {
					t.Errorf("%s tells the client: %s", r.what, r.body)
				}
			}
			if !strings.Contains(s.logs.String(), secret) {
				t.Errorf("the cause is not in the log:\n%s", s.logs)
			}
		})
	}
}

func TestSignupAnswers(t *testing.T) {
	t.Parallel()
	invalid := &directory.ValidationError{Fields: map[string]string{
		"company": "The company name is missing.", "subdomain": "The subdomain is reserved; choose another one.",
	}}
	tests := []struct {
		name   string
		err    error
		status int
		fields []string
	}{
		{"taken", directory.ErrSlugTaken, 409, []string{"subdomain"}},
		{"invalid", invalid, 422, []string{"company", "subdomain"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := newBroken(t, test.err, nil)
			s.send(t, http.MethodPost, "localhost", "/signup", `{"company":"A","subdomain":"a"}`, "Content-Type", "application/json").
				wantProblem(test.status, test.fields...)
			typed := encodeForm("company", "<A>", "contact_name", "Ann", "contact_email", "ann@x.example", "subdomain", "a")
			d := s.send(t, http.MethodPost, "localhost", "/signup", typed, "Content-Type", "application/x-www-form-urlencoded").
				want(test.status).document()
			d.check("")
			for _, field := range test.fields {
				d.wantError(field)
			}
			if got := d.values().Encode(); got != typed {
				t.Errorf("typed %s, shown again %s", typed, got)
			}
		})
	}
	s := newBroken(t, invalid, nil)
	s.send(t, http.MethodPost, "localhost", "/signup", `{"company":"A","slug":"a"}`, "Content-Type", "application/json").
		wantProblem(http.StatusBadRequest)
	s.send(t, http.MethodPost, "localhost", "/signup", "").want(http.StatusUnsupportedMediaType)
	s.send(t, http.MethodDelete, "localhost", "/signup", "").want(http.StatusMethodNotAllowed)
}

func TestSignupForm(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	apex := company{site: s, host: "example.com"}
	form := []string{"company", "Acme & Sons", "contact_name", "Ann", "contact_email", "ann@x.example", "subdomain", " ACME "}
	r := apex.form(t, "/signup", form...).want(http.StatusSeeOther)
	if got := r.header.Get("Location"); got != "https://acme.example.com/" {
		t.Errorf("redirected to %q", got)
	}
	s.send(t, http.MethodGet, "acme.example.com", "/invoices", "").want(http.StatusOK).document().check("Acme & Sons")
	apex.form(t, "/signup", form...).want(http.StatusConflict).document().wantError("subdomain")
	d := apex.form(t, "/signup", "company", "", "subdomain", "www").want(http.StatusUnprocessableEntity).document()
	for _, field := range []string{"company", "contact_name", "contact_email", "subdomain"} {
		d.wantError(field)
	}
}

// Guard sees all that is asked of a company, with its tenant, and nothing of the apex.
func TestGuard(t *testing.T) {
	t.Parallel()
	var seen []string
	s := newBroken(t, errors.New("never reached"), func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			c, err := tenant.FromContext(r.Context())
			if err != nil {
				t.Error(err)
				return
			}
			seen = append(seen, string(c.Slug)+r.URL.Path)
			if r.URL.Path == "/nothing" {
				next.ServeHTTP(w, r)
				return
			}
			w.WriteHeader(http.StatusUnauthorized)
		})
	})
	s.send(t, http.MethodGet, "acme.localhost", "/api/customers", "").want(http.StatusUnauthorized)
	s.send(t, http.MethodGet, "acme.localhost", "/nothing", "").want(http.StatusNotFound)
	s.send(t, http.MethodGet, "localhost", "/", "").want(http.StatusOK)
	if got := strings.Join(seen, " "); got != "acme/api/customers acme/nothing" {
		t.Errorf("the guard saw %s", got)
	}
}

func TestNewNeedsItsParts(t *testing.T) {
	t.Parallel()
	url := func(tenant.Slug) string { return "" }
	for _, cfg := range []app.Config{
		{Signup: brokenSignup{}, PublicURL: url},
		{Database: brokenDatabase{}, PublicURL: url},
		{Database: brokenDatabase{}, Signup: brokenSignup{}},
	} {
		if _, err := app.New(cfg); err == nil {
			t.Errorf("accepted %+v", cfg)
		}
	}
}

func TestAdmin(t *testing.T) {
	t.Parallel()
	var failure error
	var logs lockedBuffer
	h := app.AdminHandler(func(ctx context.Context) error {
		if _, bounded := ctx.Deadline(); !bounded {
			t.Error("the check may take for ever")
		}
		return failure
	}, slog.New(slog.NewTextHandler(&logs, nil)))
	s := &site{handler: h}
	s.send(t, http.MethodGet, "localhost", "/healthz", "").want(http.StatusOK).wantJSON(`{"status":"ok"}`)
	s.send(t, http.MethodGet, "localhost", "/readyz", "").want(http.StatusOK).wantJSON(`{"status":"ok"}`)
	failure = errors.New("registry at 10.0.0.7 is down")
	s.send(t, http.MethodGet, "localhost", "/healthz", "").want(http.StatusOK)
	s.send(t, http.MethodGet, "localhost", "/readyz", "").want(http.StatusServiceUnavailable).wantJSON(`{"status":"unavailable"}`)
	if !strings.Contains(logs.String(), "10.0.0.7") {
		t.Errorf("the cause is not in the log: %s", logs.String())
	}
	s.send(t, http.MethodPost, "localhost", "/healthz", "").want(http.StatusMethodNotAllowed)
	s.send(t, http.MethodGet, "localhost", "/", "").want(http.StatusNotFound)
}
