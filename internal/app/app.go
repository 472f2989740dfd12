package app

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/db/directory"
	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/internal/tenantsql"
)

// Database is what the app asks of *tenantdb.DB. It takes the tenant from the context of each call.
type Database interface {
	tenantsql.DBTX
	// InTx runs f in one transaction of the context's tenant: commits if f returns nil, else rolls back. A nil error means
	// that the commit was confirmed.
	InTx(ctx context.Context, f func(tx pgx.Tx) error) error
}

// Signup is what the app asks of *directory.Directory.
type Signup interface {
	// Create makes a new tenant and returns when it can be served.
	Create(ctx context.Context, n directory.NewTenant) (*tenant.Tenant, error)
}

// Config configures New.
type Config struct {
	// Database reaches the tenants' data. Required.
	Database Database
	// Signup makes new tenants. Required.
	Signup Signup
	// PublicURL returns where people find a company, without a path: "https://acme.example.com". Required.
	PublicURL func(tenant.Slug) string
	// Guard wraps everything that a company's host serves, inside the cross-origin check and outside the router, so that it
	// sees unknown paths as well. It finds the tenant in the request's context. This is the place for people's accounts: who
	// is signed in, and what they may do. Defaults to letting everyone in.
	Guard func(http.Handler) http.Handler
	// Now tells the time. Defaults to time.Now.
	Now func() time.Time
	// Logger receives what went wrong inside. Defaults to discarding.
	Logger *slog.Logger
}

func (c Config) withDefaults() Config {
	if c.Guard == nil {
		c.Guard = func(h http.Handler) http.Handler { return h }
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

func (c Config) validate() error {
	switch {
	case c.Database == nil:
		return errors.New("app: Config.Database is missing")
	case c.Signup == nil:
		return errors.New("app: Config.Signup is missing")
	case c.PublicURL == nil:
		return errors.New("app: Config.PublicURL is missing")
	}
	return nil
}

// app holds what handlers share. It is immutable after New and safe for concurrent use.
type app struct {
	books
	signup    Signup
	publicURL func(tenant.Slug) string
	log       *slog.Logger
	pages     *pageSet
}

// New returns the handler of every host: the apex where the request's context carries no tenant, else that tenant's company.
// It is safe for concurrent use.
func New(cfg Config) (http.Handler, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	pages, err := loadPages()
	if err != nil {
		return nil, err
	}
	a := &app{
		books:     books{db: cfg.Database, now: cfg.Now},
		signup:    cfg.Signup,
		publicURL: cfg.PublicURL,
		log:       cfg.Logger,
		pages:     pages,
	}
	apex := a.apexRouter()
	company := cfg.Guard(a.companyRouter())
	hosts := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := tenant.FromContext(r.Context()); err != nil {
			apex.ServeHTTP(w, r)
			return
		}
		company.ServeHTTP(w, r)
	})
	return a.secured(hosts), nil
}

// AdminHandler returns the handler of the admin listener: /healthz answers as long as the process does; /readyz answers 200
// when ready returns nil within two seconds, else 503. The error goes to the log (nil discards) and not to the client.
func AdminHandler(ready func(context.Context) error, logger *slog.Logger) http.Handler {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) {
		writeJSON(w, http.StatusOK, health{"ok"})
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), readyTimeout)
		defer cancel()
		if err := ready(ctx); err != nil {
			logger.WarnContext(r.Context(), "not ready", "error", err)
			writeJSON(w, http.StatusServiceUnavailable, health{"unavailable"})
			return
		}
		writeJSON(w, http.StatusOK, health{"ok"})
	})
	return mux
}

const readyTimeout = 2 * time.Second

type health struct {
	Status string `json:"status"`
}
