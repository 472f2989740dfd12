package directory

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/internal/controlsql"
	"github.com/leasehold-go/leasehold/internal/hostname"
)

// TXTResolver looks up the TXT records of a DNS name. *net.Resolver is one.
type TXTResolver interface {
	LookupTXT(ctx context.Context, name string) ([]string, error)
}

// txtLabel stands in front of a domain in the name of the record that verifies it.
const txtLabel = "_leasehold."

// Domain is a host name of a tenant's own, outside the base domains.
type Domain struct {
	// Name is canonical: lower-case ASCII, without a dot at its end.
	Name string
	// Record is the name of the TXT record that verifies the domain, and Token what must stand in it.
	Record, Token string
	// VerifiedAt is when the domain was verified. Until then it is zero, and the domain leads nowhere.
	VerifiedAt time.Time
	CreatedAt  time.Time
}

// DomainError says why a string cannot be a tenant's domain. Its message is fit to be shown to the person who typed it.
type DomainError struct {
	// Input is what was given.
	Input string
	// Reason completes the sentence "The domain …".
	Reason string
}

func (e *DomainError) Error() string { return fmt.Sprintf("domain %q %s", e.Input, e.Reason) }

// UnverifiedError reports a domain whose TXT record does not hold the token.
type UnverifiedError struct {
	Domain Domain
	// Found is what the record holds; nothing if there is none.
	Found []string
}

func (e *UnverifiedError) Error() string {
	found := "does not exist"
	if len(e.Found) > 0 {
		found = fmt.Sprintf("holds %.200q", e.Found)
	}
	return fmt.Sprintf("domain %s: the TXT record %s %s", e.Domain.Name, e.Domain.Record, found)
}

// ParseDomain brings a domain to canonical form and checks it: a DNS name in ASCII with at least two labels, international names in
// their xn-- form, that is none of the base domains and lies under none of them. The error is a *DomainError.
func ParseDomain(s string, baseDomains []string) (string, error) {
	name, reason := hostname.Canonical(strings.TrimSpace(s))
	switch {
	case strings.ContainsFunc(s, func(r rune) bool { return r >= 0x80 }):
		reason = "may hold ASCII characters only; write an international name in its xn-- form"
	case reason != "":
	case !strings.Contains(name, "."):
		reason = "has no dot"
	case hostname.EndsInNumber(name):
		reason = "ends in a number, as an address does"
	case len(txtLabel)+len(name) > hostname.MaxLen:
		reason = "is too long"
	}
	for _, base := range baseDomains {
		if base, bad := hostname.Canonical(base); bad == "" && reason == "" && hostname.IsUnder(name, base) {
			reason = "lies under " + base + ", which has the tenants' subdomains; rename the tenant instead"
		}
	}
	if reason != "" {
		return "", &DomainError{s, reason}
	}
	return name, nil
}

// ResolveDomain is Resolve for a domain, in canonical form: it returns the living tenant that has verified it.
func (d *Directory) ResolveDomain(ctx context.Context, name string) (*tenant.Tenant, error) {
	if !strings.Contains(name, ".") { // which would be a slug
		return nil, fmt.Errorf("domain %q: %w", name, tenant.ErrNotFound)
	}
	return d.cache.get(ctx, name)
}

func (d *Directory) byDomain(ctx context.Context, name string) (*tenant.Tenant, error) {
	row, err := d.queries.GetTenantOfDomain(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("domain %s: %w", name, notFound(err))
	}
	return d.fromRow(row), nil
}

// MaxDomains is how many domains a tenant may have, those included that it has only claimed.
const MaxDomains = 100

// AddDomain claims a domain for a tenant. It leads nowhere, and others may claim it too, until the token that is returned stands in
// its TXT record and VerifyDomain has seen it. A claim that is there already is returned. The error is a *DomainError if the name
// is not acceptable, see ParseDomain and Config.BaseDomains; ErrDomainTaken if another tenant has verified it;
// ErrTooManyDomains if the tenant has MaxDomains; a *StatusError if it is neither active nor suspended.
func (d *Directory) AddDomain(ctx context.Context, id tenant.ID, name string) (Domain, error) {
	name, err := ParseDomain(name, d.cfg.BaseDomains)
	if err != nil {
		return Domain{}, err
	}
	var claim controlsql.Domain
	_, err = d.change(ctx, id, func(q *controlsql.Queries, row controlsql.Tenant) (controlsql.Tenant, error) {
		if row.Status != tenant.Active && row.Status != tenant.Suspended {
			return row, refuse(row, "given a domain")
		}
		owner, err := q.GetDomainOwner(ctx, name)
		if err == nil && owner != id {
			return row, ErrDomainTaken
		}
		if err != nil && !errors.Is(err, pgx.ErrNoRows) {
			return row, err
		}
		key := controlsql.GetDomainParams{Name: name, TenantID: id}
		if claim, err = q.GetDomain(ctx, key); !errors.Is(err, pgx.ErrNoRows) {
			return row, err
		}
		switch n, err := q.CountDomains(ctx, id); {
		case err != nil:
			return row, err
		case n >= MaxDomains:
			return row, ErrTooManyDomains
		}
		if claim, err = q.InsertDomain(ctx, controlsql.InsertDomainParams(key)); err != nil {
			return row, err
		}
		return row, appendEvent(ctx, q, id, EventDomainAdded, name)
	})
	return fromDomain(claim), err
}

// VerifyDomain looks for the token of a tenant's claim in the domain's TXT record. If it is there, the domain leads to the tenant
// from now on. Of those that claim a domain the first to verify it gets it; the error of the others is ErrDomainTaken, until it is
// removed. A domain that is verified is not looked up again. The error is ErrNoDomain if the tenant has not claimed the domain, and
// an *UnverifiedError if the token is not there; any other error means that it could not be found out.
func (d *Directory) VerifyDomain(ctx context.Context, id tenant.ID, name string) (Domain, error) {
	claim, err := d.claim(ctx, id, name)
	if err != nil || claim.VerifiedAt != nil {
		return fromDomain(claim), err
	}
	if err := d.lookUp(ctx, fromDomain(claim)); err != nil {
		return fromDomain(claim), err
	}
	verified, token := claim, claim.Token
	_, err = d.change(ctx, id, func(q *controlsql.Queries, row controlsql.Tenant) (controlsql.Tenant, error) {
		if row.Status != tenant.Active && row.Status != tenant.Suspended {
			return row, refuse(row, "given a domain")
		}
		verified, err = q.VerifyDomain(ctx, controlsql.VerifyDomainParams{Name: claim.Name, TenantID: id, Token: token})
		if violates(err, "domains_verified") {
			return row, ErrDomainTaken
		}
		if err != nil {
			return row, err
		}
		return row, appendEvent(ctx, q, id, EventDomainVerified, claim.Name)
	})
	if err != nil {
		return fromDomain(claim), err
	}
	d.cache.invalidate(claim.Name)
	return fromDomain(verified), nil
}

// RemoveDomain takes a domain, or the claim to one, from a tenant. The error is ErrNoDomain if it has
// neither.
func (d *Directory) RemoveDomain(ctx context.Context, id tenant.ID, name string) error {
	claim, err := d.claim(ctx, id, name)
	if err != nil {
		return err
	}
	_, err = d.change(ctx, id, func(q *controlsql.Queries, row controlsql.Tenant) (controlsql.Tenant, error) {
		n, err := q.DeleteDomain(ctx, controlsql.DeleteDomainParams{Name: claim.Name, TenantID: id})
		if err != nil || n == 0 {
			return row, err
		}
		return row, appendEvent(ctx, q, id, EventDomainRemoved, claim.Name)
	})
	return err
}

// Domains reads what domains a tenant has or claims, in the order of their names.
func (d *Directory) Domains(ctx context.Context, id tenant.ID) ([]Domain, error) {
	rows, err := d.queries.ListDomains(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("tenant %s: list its domains: %w", id, err)
	}
	domains := make([]Domain, len(rows))
	for i, row := range rows {
		domains[i] = fromDomain(row)
	}
	return domains, nil
}

// claim reads a tenant's claim.
func (d *Directory) claim(ctx context.Context, id tenant.ID, name string) (row controlsql.Domain, err error) {
	if name, err = ParseDomain(name, nil); err != nil {
		return row, err
	}
	row, err = d.queries.GetDomain(ctx, controlsql.GetDomainParams{Name: name, TenantID: id})
	if errors.Is(err, pgx.ErrNoRows) {
		err = ErrNoDomain
	}
	if err != nil {
		return row, fmt.Errorf("domain %s: %w", name, err)
	}
	return row, nil
}

// lookUp checks a domain's TXT record.
func (d *Directory) lookUp(ctx context.Context, claim Domain) error {
	// The dot at the end keeps the resolver from trying the name below its own search domains.
	found, err := d.cfg.TXTResolver.LookupTXT(ctx, claim.Record+".")
	if dnsErr := (*net.DNSError)(nil); errors.As(err, &dnsErr) && dnsErr.IsNotFound {
		found, err = nil, nil
	}
	switch {
	case err != nil:
		return fmt.Errorf("domain %s: look up the TXT record %s: %w", claim.Name, claim.Record, err)
	case !slices.ContainsFunc(found, func(s string) bool { return strings.TrimSpace(s) == claim.Token }):
		return &UnverifiedError{Domain: claim, Found: found}
	}
	return nil
}

func fromDomain(row controlsql.Domain) Domain {
	domain := Domain{Name: row.Name, Record: txtLabel + row.Name, Token: row.Token, CreatedAt: row.CreatedAt}
	if row.VerifiedAt != nil {
		domain.VerifiedAt = *row.VerifiedAt
	}
	return domain
}
