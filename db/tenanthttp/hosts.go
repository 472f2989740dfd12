package tenanthttp

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/internal/hostname"
)

// HostError says why a host is not one of ours. It is for the log: its message repeats what the client sent.
type HostError struct {
	// Host is what was given.
	Host string
	// Reason completes the sentence "The host …".
	Reason string
}

func (e *HostError) Error() string { return fmt.Sprintf("host %.100q %s", e.Host, e.Reason) }

// Hosts knows the base domains and reads host names against them. It is immutable and safe for concurrent use.
type Hosts struct {
	names []string     // canonical, longest first, so that eu.example.com is tried before example.com
	addrs []netip.Addr // listed IP addresses: each is an apex with nothing below it
	apex  []string     // labels, "" for the base domain itself
}

// NewHosts returns the Hosts for the given base domains. See the fields of the same names in Config for what is valid and
// for the default of apexNames. The error joins all problems.
func NewHosts(baseDomains, apexNames []string) (*Hosts, error) {
	if apexNames == nil {
		apexNames = []string{"", "www"}
	}
	if len(baseDomains) == 0 {
		return nil, errors.New("tenanthttp: no base domain")
	}
	h := &Hosts{}
	var problems []error
	for _, domain := range baseDomains {
		if err := h.addBase(domain); err != nil {
			problems = append(problems, err)
		}
	}
	for _, name := range apexNames {
		if name != "" {
			slug, err := tenant.ParseSlug(name)
			if err != nil {
				problems = append(problems, fmt.Errorf("tenanthttp: apex name: %w", err))
			}
			name = string(slug)
		}
		h.apex = append(h.apex, name)
	}
	if len(problems) > 0 {
		return nil, errors.Join(problems...)
	}
	slices.SortStableFunc(h.names, func(a, b string) int { return len(b) - len(a) })
	return h, nil
}

func (h *Hosts) addBase(domain string) error {
	if addr, err := netip.ParseAddr(domain); err == nil {
		if addr.Zone() != "" || addr.Is4In6() {
			return fmt.Errorf("tenanthttp: base domain %q: want the address without a zone, IPv4 as IPv4", domain)
		}
		h.addrs = append(h.addrs, addr)
		return nil
	}
	name, reason := hostname.Canonical(domain)
	if reason != "" {
		return fmt.Errorf("tenanthttp: base domain %q %s; want a name such as example.com, without scheme, port or wildcard",
			domain, reason)
	}
	if hostname.EndsInNumber(name) {
		return fmt.Errorf("tenanthttp: base domain %q ends in a number but is no IP address", domain)
	}
	h.names = append(h.names, name)
	return nil
}

// Parse reads host as it stands in a request: a name or an address, and perhaps a port. It returns the slug, canonical but
// not looked up; or apex, for a host that has no tenant by design; or a *HostError. It does not allocate when the name is
// lower-case and valid.
//
// Upper-case ASCII, a port from 1 to 65535 and one trailing dot are accepted. The longest base domain that fits decides.
// Below it there may be one label, which is a slug or an apex name. Refused are: hosts under no base domain, nested
// subdomains (a.b.example.com), labels that are empty or longer than 63 bytes, names longer than 253, any byte that is not
// a letter, digit, hyphen or dot in ASCII, and IP addresses that are not listed as base domains.
func (h *Hosts) Parse(host string) (slug tenant.Slug, apex bool, err error) {
	slug, foreign, apex, err := h.read(host)
	if foreign != "" {
		return "", false, &HostError{host, foreignReason}
	}
	return slug, apex, err
}

const foreignReason = "lies under no base domain"

// read is Parse, but that a name which lies under no base domain and can be somebody's domain is returned, canonical, as foreign.
func (h *Hosts) read(host string) (slug tenant.Slug, foreign string, apex bool, err error) {
	if strings.HasPrefix(host, "[") {
		apex, err = h.parseIPv6(host)
		return "", "", apex, err
	}
	name := host
	if i := strings.IndexByte(host, ':'); i >= 0 {
		if !validPort(host[i+1:]) {
			return "", "", false, &HostError{host, "has a bad port"}
		}
		name = host[:i]
	}
	name, reason := hostname.Canonical(name)
	if reason != "" {
		return "", "", false, &HostError{host, reason}
	}
	for _, base := range h.names {
		if !hostname.IsUnder(name, base) {
			continue
		}
		slug, apex, err = h.parseLabel(host, strings.TrimSuffix(strings.TrimSuffix(name, base), "."))
		return slug, "", apex, err
	}
	switch addr, err := netip.ParseAddr(name); {
	case err == nil && slices.Contains(h.addrs, addr):
		return "", "", true, nil
	case hostname.EndsInNumber(name), !strings.Contains(name, "."):
		return "", "", false, &HostError{host, foreignReason}
	}
	return "", name, false, nil
}

// parseLabel reads what stands in front of the base domain.
func (h *Hosts) parseLabel(host, label string) (tenant.Slug, bool, error) {
	switch {
	case slices.Contains(h.apex, label):
		return "", true, nil
	case label == "":
		return "", false, &HostError{host, "is a base domain, which is not served"}
	case strings.Contains(label, "."):
		return "", false, &HostError{host, "is a nested subdomain"}
	}
	slug, err := tenant.ParseSlug(label)
	if se, ok := errors.AsType[*tenant.SlugError](err); ok {
		return "", false, &HostError{host, "names no subdomain: it " + se.Reason}
	}
	return slug, false, err
}

// parseIPv6 reads an address in brackets.
func (h *Hosts) parseIPv6(host string) (apex bool, err error) {
	literal, port, closed := strings.Cut(host[1:], "]")
	if port != "" && (port[0] != ':' || !validPort(port[1:])) {
		return false, &HostError{host, "has a bad port"}
	}
	addr, err := netip.ParseAddr(literal)
	if !closed || err != nil || !addr.Is6() {
		return false, &HostError{host, "is no IPv6 address"}
	}
	if !slices.Contains(h.addrs, addr) {
		return false, &HostError{host, foreignReason}
	}
	return true, nil
}

// validPort reports whether s is a TCP port in decimal digits.
func validPort(s string) bool {
	if len(s) == 0 || len(s) > 5 {
		return false
	}
	n := 0
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
		n = n*10 + int(s[i]-'0')
	}
	return 0 < n && n <= 65535
}
