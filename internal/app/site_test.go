package app_test

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/db/directory"
	"github.com/leasehold-go/leasehold/db/migrate"
	"github.com/leasehold-go/leasehold/db/migrations"
	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/db/tenantdb"
	"github.com/leasehold-go/leasehold/db/tenanthttp"
	"github.com/leasehold-go/leasehold/internal/app"
	"github.com/leasehold-go/leasehold/internal/pgtest"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }

// today is the day on which the tests take place.
var today = time.Date(2026, 3, 2, 15, 4, 5, 0, time.UTC)

// site is the whole product on a database of its own, as the composition root puts it together.
type site struct {
	handler http.Handler
	app     http.Handler // the handler without the host middleware
	db      *tenantdb.DB
	dir     *directory.Directory
	url     string // the administrator's
	logs    *lockedBuffer
}

func newSite(t *testing.T) *site {
	t.Helper()
	ctx := t.Context()
	s := &site{url: pgtest.Database(t), logs: &lockedBuffer{}}
	administrator, err := pgx.ParseConfig(s.url)
	must(t, err)
	set, err := migrate.Load(migrations.FS, "tenant")
	must(t, err)
	cfg := directory.Config{
		ConnConfig:  administrator,
		SecretKey:   []byte("a key for tests only"),
		Migrator:    migrate.New(set, migrate.Config{}),
		TXTResolver: s,
	}
	_, err = directory.Migrate(ctx, cfg)
	must(t, err)
	s.dir, err = directory.Open(ctx, cfg)
	must(t, err)
	t.Cleanup(s.dir.Close)
	login, err := s.dir.RuntimeConn(ctx)
	must(t, err)
	s.db, err = tenantdb.Open(ctx, tenantdb.Config{ConnConfig: login, Login: s.dir.LoginConn, Refresh: s.dir.Await, MaxConns: 6})
	must(t, err)
	t.Cleanup(s.db.Close)
	hosts, err := tenanthttp.New(s.dir, tenanthttp.Config{
		BaseDomains: []string{"example.com"}, Domains: s.dir, Respond: app.Refuse,
	})
	must(t, err)
	s.app, err = app.New(app.Config{
		Database:  s.db,
		Signup:    s.dir,
		PublicURL: func(slug tenant.Slug) string { return "https://" + string(slug) + ".example.com" },
		Now:       func() time.Time { return today },
		Logger:    slog.New(slog.NewTextHandler(s.logs, nil)),
	})
	must(t, err)
	s.handler = hosts.Handler(s.app)
	return s
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// company is one company's host on a site.
type company struct {
	*site
	host string
	t    *tenant.Tenant
}

// signUp makes a company named after its subdomain: "Acme Ltd" for acme.
func (s *site) signUp(t *testing.T, subdomain string) company {
	t.Helper()
	name := strings.ToUpper(subdomain[:1]) + subdomain[1:] + " Ltd"
	return s.create(t, directory.NewTenant{Company: name, ContactEmail: "ann@" + subdomain + ".example", Subdomain: subdomain})
}

func (s *site) create(t *testing.T, n directory.NewTenant) company {
	t.Helper()
	n.ContactName = "Ann Arbor"
	created, err := s.dir.Create(t.Context(), n)
	must(t, err)
	return company{s, n.Subdomain + ".example.com", created}
}

// newCompany is a site with one company.
func newCompany(t *testing.T) company {
	t.Helper()
	return newSite(t).signUp(t, "acme")
}

// reply is a response that was read.
type reply struct {
	t      *testing.T
	what   string
	status int
	header http.Header
	body   string
}

// send sends a request to a host. Headers are given as pairs.
func (s *site) send(t *testing.T, method, host, path, body string, headers ...string) reply {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), method, "http://"+host+path, strings.NewReader(body))
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := serve(s.handler, r)
	return reply{t, method + " " + host + path, w.Code, w.Header(), w.Body.String()}
}

func (c company) get(t *testing.T, path string) reply {
	t.Helper()
	return c.send(t, http.MethodGet, c.host, path, "")
}

// api sends JSON.
func (c company) api(t *testing.T, method, path, body string) reply {
	t.Helper()
	return c.send(t, method, c.host, path, body, "Content-Type", "application/json")
}

// form sends a form as a browser does from the same page. Values are given as pairs.
func (c company) form(t *testing.T, path string, values ...string) reply {
	t.Helper()
	return c.send(t, http.MethodPost, c.host, path, encodeForm(values...),
		"Content-Type", "application/x-www-form-urlencoded", "Sec-Fetch-Site", "same-origin")
}

// want checks the status.
func (r reply) want(status int) reply {
	r.t.Helper()
	if r.status != status {
		r.t.Fatalf("%s: status %d, want %d; body:\n%s", r.what, r.status, status, r.body)
	}
	return r
}

// wantJSON checks the body, whatever its spelling.
func (r reply) wantJSON(want string) reply {
	r.t.Helper()
	if diff := cmp.Diff(anyJSON(r.t, want), anyJSON(r.t, r.body)); diff != "" {
		r.t.Errorf("%s: body (-want +got):\n%s", r.what, diff)
	}
	return r
}

// wantProblem checks a problem document and which fields it complains about.
func (r reply) wantProblem(status int, fields ...string) reply {
	r.t.Helper()
	r.want(status)
	if got := r.header.Get("Content-Type"); got != "application/problem+json" {
		r.t.Errorf("%s: content type %q", r.what, got)
	}
	var p struct {
		Type, Title, Detail string
		Status              int
		Errors              map[string]string
	}
	must(r.t, json.Unmarshal([]byte(r.body), &p))
	if p.Type != "about:blank" || p.Title != http.StatusText(status) || p.Status != status || p.Detail == "" {
		r.t.Errorf("%s: problem %s", r.what, r.body)
	}
	for _, field := range fields {
		if p.Errors[field] == "" {
			r.t.Errorf("%s: no message for %s in %s", r.what, field, r.body)
		}
	}
	if len(p.Errors) != len(fields) {
		r.t.Errorf("%s: messages for %d fields, want %d: %s", r.what, len(p.Errors), len(fields), r.body)
	}
	return r
}

func decode[T any](r reply) T {
	r.t.Helper()
	var v T
	if err := json.Unmarshal([]byte(r.body), &v); err != nil {
		r.t.Fatalf("%s: %v in %s", r.what, err, r.body)
	}
	return v
}

// anyJSON keeps numbers as they are written.
func anyJSON(t *testing.T, text string) any {
	t.Helper()
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.UseNumber()
	var v any
	if err := decoder.Decode(&v); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return v
}

func serve(h http.Handler, r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// lockedBuffer keeps a log that several goroutines write and the test reads.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
