package tenant

import (
	"fmt"
	"slices"
	"strings"
)

// MaxSlugLen is the longest slug, in bytes, which are characters here.
const MaxSlugLen = 40

// Slug is a tenant's subdomain in canonical form: lower-case ASCII letters, digits and inner hyphens, 1 to MaxSlugLen. A
// string is made a Slug by ParseSlug, or for a new tenant by NewSlug, and only by them.
type Slug string

// SlugError says why a string is not a slug. Its message is fit to be shown to the person who typed it.
type SlugError struct {
	// Input is what was given.
	Input string
	// Reason completes the sentence "The subdomain …".
	Reason string
}

func (e *SlugError) Error() string { return fmt.Sprintf("subdomain %q %s", e.Input, e.Reason) }

// reservedSlugs may not be taken by a tenant: hosts that a product needs for itself, that mail and browsers look up
// unasked, or that would deceive a visitor. Sorted.
var reservedSlugs = []string{
	"account", "accounts", "admin", "administrator", "api", "app", "apps", "assets", "auth", "autoconfig", "autodiscover",
	"billing", "blog", "cdn", "cname", "console", "dashboard", "demo", "dev", "dns", "docs", "email", "ftp", "git", "help",
	"hostmaster", "imap", "info", "internal", "leasehold", "localhost", "login", "logout", "mail", "media", "metrics", "mx",
	"ns", "ns1", "ns2", "oauth", "pop", "pop3", "postgres", "postmaster", "register", "root", "secure", "security", "signin",
	"signup", "smtp", "sso", "staging", "static", "status", "support", "system", "test", "webmail", "webmaster", "wpad", "ww",
	"www", "www1", "www2",
}

// ParseSlug brings s to canonical form and checks it. Upper-case ASCII is lowered; everything else must already fit. It
// does not allocate when s is canonical. The error is a *SlugError.
//
// Reserved names pass: a host that names one is simply unknown. NewSlug refuses them.
func ParseSlug(s string) (Slug, error) {
	upper := false
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9':
		case 'A' <= c && c <= 'Z':
			upper = true
		case c == '-':
			if i == 0 || i == len(s)-1 {
				return "", &SlugError{s, "may not begin or end with a hyphen"}
			}
			if i == 3 && s[2] == '-' {
				return "", &SlugError{s, `may not have hyphens in third and fourth place, which mark encoded names such as "xn--"`}
			}
		default:
			return "", &SlugError{s, "may hold only the letters a to z, digits, and hyphens between them"}
		}
	}
	switch {
	case s == "":
		return "", &SlugError{s, "is missing"}
	case len(s) > MaxSlugLen:
		return "", &SlugError{s, fmt.Sprintf("may be at most %d characters long", MaxSlugLen)}
	case upper:
		s = strings.ToLower(s)
	}
	return Slug(s), nil
}

// NewSlug is ParseSlug for a name that somebody wants to take: surrounding white space is forgiven, reserved names are
// refused.
func NewSlug(s string) (Slug, error) {
	slug, err := ParseSlug(strings.TrimSpace(s))
	if err != nil {
		return "", err
	}
	if slug.Reserved() {
		return "", &SlugError{s, "is reserved; choose another one"}
	}
	return slug, nil
}

// Reserved reports whether no tenant may take the slug.
func (s Slug) Reserved() bool {
	_, found := slices.BinarySearch(reservedSlugs, string(s))
	return found
}
