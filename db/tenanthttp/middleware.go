package tenanthttp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/leasehold-go/leasehold/db/tenant"
)

// DefaultRetryAfter is how long clients are asked to wait after a 503 unless Config.RetryAfter says otherwise.
const DefaultRetryAfter = 5 * time.Second

// Resolver finds the tenant of a slug, in whatever state it is. An error that is tenant.ErrNotFound means that there is
// none, and a *tenant.MovedError that there is none and the tenant that had the slug has another one now; any other error means that
// the resolver cannot tell. It is called for each request to a tenant's host, from many goroutines, and should answer from a cache.
type Resolver interface {
	Resolve(ctx context.Context, slug tenant.Slug) (*tenant.Tenant, error)
}

// DomainResolver finds the tenant that has a domain of its own: a DNS name in lower-case ASCII that lies under no base domain. Its
// errors mean what those of a Resolver do, but that nothing has moved. It is called for each request to such a host, and anybody can
// think of names: it should answer from a cache that remembers unknown ones, and has a bound.
type DomainResolver interface {
	ResolveDomain(ctx context.Context, name string) (*tenant.Tenant, error)
}

// Config is what New needs besides the resolver.
type Config struct {
	// BaseDomains are the domains under which tenants have their subdomains, such as "example.com" or "localhost". Each is
	// a DNS name without scheme, port or wildcard; international names in their xn-- form. One may lie under another. An IP
	// address is an apex host: it has no subdomains. There is no default; at least one is needed.
	BaseDomains []string
	// ApexNames are the labels in front of a base domain that have no tenant: the application's own hosts. The empty string
	// stands for the base domain itself. A tenant with such a slug is out of reach, so use reserved ones. Defaults to "" and
	// "www" when nil.
	ApexNames []string
	// Domains finds the tenants of hosts that lie under no base domain. Defaults to none: such hosts are refused.
	Domains DomainResolver
	// TrustedProxies are the networks of the reverse proxies whose X-Forwarded-Host and Forwarded headers are believed.
	// Such a proxy must set or strip both. Defaults to none: the headers are ignored.
	TrustedProxies []netip.Prefix
	// Respond answers a refused request, for an application that has pages of its own. Retry-After and Cache-Control are set
	// by then. It may call the package's Respond for outcomes that it leaves alone. To keep 404s uniform it must not look
	// the slug up again. Defaults to the package's Respond.
	Respond func(w http.ResponseWriter, r *http.Request, outcome Outcome)
	// RetryAfter is the Retry-After of a 503, rounded up to whole seconds. Defaults to DefaultRetryAfter.
	RetryAfter time.Duration
	// Logger gets an Error for each request that fails on the resolver, and a Debug for each bad host. Defaults to none.
	Logger *slog.Logger
}

// Middleware finds the tenant of each request. It is immutable and safe for concurrent use.
type Middleware struct {
	resolver   Resolver
	domains    DomainResolver
	hosts      *Hosts
	proxies    []netip.Prefix
	respond    func(http.ResponseWriter, *http.Request, Outcome)
	retryAfter string
	log        *slog.Logger
}

// New returns a Middleware that asks resolver. The error joins all problems of cfg.
func New(resolver Resolver, cfg Config) (*Middleware, error) {
	var problems []error
	if resolver == nil {
		problems = append(problems, errors.New("tenanthttp: no resolver"))
	}
	hosts, err := NewHosts(cfg.BaseDomains, cfg.ApexNames)
	if err != nil {
		problems = append(problems, err)
	}
	for _, p := range cfg.TrustedProxies {
		if !p.IsValid() || p.Addr().Is4In6() {
			problems = append(problems, fmt.Errorf("tenanthttp: trusted proxy %v: want a network such as 10.0.0.0/8", p))
		}
	}
	switch {
	case cfg.RetryAfter < 0:
		problems = append(problems, fmt.Errorf("tenanthttp: RetryAfter %v is negative", cfg.RetryAfter))
	case cfg.RetryAfter == 0:
		cfg.RetryAfter = DefaultRetryAfter
	}
	if len(problems) > 0 {
		return nil, errors.Join(problems...)
	}
	if cfg.Respond == nil {
		cfg.Respond = Respond
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	seconds := (cfg.RetryAfter + time.Second - 1) / time.Second
	return &Middleware{
		resolver:   resolver,
		domains:    cfg.Domains,
		hosts:      hosts,
		proxies:    append([]netip.Prefix(nil), cfg.TrustedProxies...),
		respond:    cfg.Respond,
		retryAfter: strconv.FormatInt(int64(seconds), 10),
		log:        cfg.Logger,
	}, nil
}

// Handler returns a handler that finds the tenant and then calls next with it, or answers itself; see the package's table.
// next should be the whole router.
func (m *Middleware) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := tenant.FromContext(r.Context()); err == nil {
			r = r.WithContext(tenant.NewContext(r.Context(), nil))
		}
		host, t, outcome := m.identify(r)
		switch outcome {
		case admitted:
			next.ServeHTTP(w, admit(r, host, t))
		case moved:
			redirect(w, r, host)
		default:
			m.refuse(w, r, outcome)
		}
	})
}

// identify returns the host and the tenant of a request that may go on, the tenant being nil on an apex host; or the host to which
// the request has to go instead, if the outcome is moved.
func (m *Middleware) identify(r *http.Request) (host string, t *tenant.Tenant, outcome Outcome) {
	ctx := r.Context()
	host, err := m.requestHost(r)
	if err != nil {
		m.log.DebugContext(ctx, "request refused", "reason", err)
		return "", nil, BadHost
	}
	slug, domain, apex, err := m.hosts.read(host)
	if domain != "" && m.domains == nil {
		err = &HostError{host, foreignReason}
	}
	switch {
	case err != nil:
		m.log.DebugContext(ctx, "request refused", "reason", err)
		return "", nil, BadHost
	case apex:
		return host, nil, admitted
	case domain != "":
		t, err := m.domains.ResolveDomain(ctx, domain)
		t, outcome = m.judge(ctx, "domain", domain, t, err)
		return host, t, outcome
	case slug.Reserved():
		return "", nil, Unknown
	}
	t, err = m.resolver.Resolve(ctx, slug)
	if gone, ok := errors.AsType[*tenant.MovedError](err); ok && gone.From == slug && gone.To != slug && gone.To != "" {
		return string(gone.To) + host[len(slug):], nil, moved
	}
	if err == nil && t != nil && t.Slug != slug {
		m.log.ErrorContext(ctx, "the resolver returned another tenant than was asked for", "slug", string(slug), "got", string(t.Slug))
		return "", nil, Unavailable
	}
	t, outcome = m.judge(ctx, "slug", string(slug), t, err)
	return host, t, outcome
}

// judge says what a resolver's answer means for the request. The tenant is nil unless the outcome is admitted.
func (m *Middleware) judge(ctx context.Context, kind, name string, t *tenant.Tenant, err error) (*tenant.Tenant, Outcome) {
	switch {
	case errors.Is(err, tenant.ErrNotFound):
		return nil, Unknown
	case err != nil && ctx.Err() != nil:
		m.log.DebugContext(ctx, "the client left before its tenant was found", kind, name, "error", err)
		return nil, Unavailable
	case err != nil:
		m.log.ErrorContext(ctx, "cannot resolve the tenant", kind, name, "error", err)
		return nil, Unavailable
	case t == nil:
		m.log.ErrorContext(ctx, "the resolver returned neither a tenant nor an error", kind, name)
		return nil, Unavailable
	}
	switch t.Status {
	case tenant.Active:
		return t, admitted
	case tenant.Suspended:
		return nil, Suspended
	case tenant.Provisioning:
		return nil, Provisioning
	case tenant.Deleting:
		return nil, Deleting
	case tenant.Failed, tenant.Deleted:
		return nil, Unknown
	}
	m.log.ErrorContext(ctx, "the tenant has a status that is not known", kind, name, "status", string(t.Status))
	return nil, Unavailable
}

// redirect sends a request to the same address on another host. A location without a scheme keeps that of the client, which a proxy
// may hide from us. The client sends the same method and the same body again. Nothing may remember the answer: the name may belong to
// somebody else one day.
func redirect(w http.ResponseWriter, r *http.Request, host string) {
	target := r.URL.RequestURI()
	if !strings.HasPrefix(target, "/") { // OPTIONS *
		target = "/"
	}
	header := w.Header()
	header.Set("Cache-Control", "no-store")
	header.Set("Location", "//"+host+target)
	w.WriteHeader(http.StatusPermanentRedirect)
}

// admit returns the request as next shall see it.
func admit(r *http.Request, host string, t *tenant.Tenant) *http.Request {
	if t == nil && host == r.Host {
		return r
	}
	ctx := r.Context()
	if t != nil {
		ctx = tenant.NewContext(ctx, t)
	}
	r = r.WithContext(ctx)
	if host != r.Host {
		r.Host = host
		if r.URL.Host != "" { // absolute form: routers look here first
			u := *r.URL
			u.Host = host
			r.URL = &u
		}
	}
	return r
}

func (m *Middleware) refuse(w http.ResponseWriter, r *http.Request, outcome Outcome) {
	w.Header().Set("Cache-Control", "no-store")
	if outcome.Status() == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", m.retryAfter)
	}
	m.respond(w, r, outcome)
}
