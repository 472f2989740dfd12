package tenanthttp

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/leasehold-go/leasehold/db/tenant"
)

// The limits of RFC 1035, in bytes, for a name without its root dot.
const (
	maxHostLen  = 253
	maxLabelLen = 63
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
	name, reason := canonicalName(domain)
	if reason != "" {
		return fmt.Errorf("tenanthttp: base domain %q %s; want a name such as example.com, without scheme, port or wildcard",
			domain, reason)
	}
	// Resolvers and browsers read a name that ends in a number as an IPv4 address, in one of its many spellings.
	if last := name[strings.LastIndexByte(name, '.')+1:]; strings.Trim(last, "0123456789") == "" {
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
	if strings.HasPrefix(host, "[") {
		return h.parseIPv6(host)
	}
	name := host
	if i := strings.IndexByte(host, ':'); i >= 0 {
		if !validPort(host[i+1:]) {
			return "", false, &HostError{host, "has a bad port"}
		}
		name = host[:i]
	}
	name, reason := canonicalName(name)
	if reason != "" {
		return "", false, &HostError{host, reason}
	}
	for _, base := range h.names {
		label, found := strings.CutSuffix(name, base)
		switch {
		case !found:
			continue
		case label == "":
		case label[len(label)-1] == '.':
			label = label[:len(label)-1]
		default:
			continue // notexample.com
		}
		return h.parseLabel(host, label)
	}
	if addr, err := netip.ParseAddr(name); err == nil && slices.Contains(h.addrs, addr) {
		return "", true, nil
	}
	return "", false, &HostError{host, "lies under no base domain"}
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
func (h *Hosts) parseIPv6(host string) (tenant.Slug, bool, error) {
	literal, port, closed := strings.Cut(host[1:], "]")
	if port != "" && (port[0] != ':' || !validPort(port[1:])) {
		return "", false, &HostError{host, "has a bad port"}
	}
	addr, err := netip.ParseAddr(literal)
	if !closed || err != nil || !addr.Is6() {
		return "", false, &HostError{host, "is no IPv6 address"}
	}
	if !slices.Contains(h.addrs, addr) {
		return "", false, &HostError{host, "lies under no base domain"}
	}
	return "", true, nil
}

// canonicalName returns the DNS name in lower case and without its root dot; or the reason why it is none.
func canonicalName(name string) (canonical, reason string) {
	name = strings.TrimSuffix(name, ".")
	if len(name) > maxHostLen {
		return "", "is too long"
	}
	upper, start := false, 0
	for i := 0; i <= len(name); i++ {
		if i == len(name) || name[i] == '.' {
			switch label := name[start:i]; {
			case label == "":
				return "", "has an empty label"
			case len(label) > maxLabelLen:
				return "", "has a label that is too long"
			case label[0] == '-', label[len(label)-1] == '-':
				return "", "has a label that begins or ends with a hyphen"
			}
			start = i + 1
			continue
		}
		switch c := name[i]; {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-':
		case 'A' <= c && c <= 'Z':
			upper = true
		default:
			return "", "holds a character that host names do not have"
		}
	}
	if upper {
		name = strings.ToLower(name)
	}
	return name, ""
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
