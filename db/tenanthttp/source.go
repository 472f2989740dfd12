package tenanthttp

import (
	"net/http"
	"net/netip"
	"strings"
)

// requestHost returns the one host that the request names, not parsed yet, or a *HostError if it names more than one.
func (m *Middleware) requestHost(r *http.Request) (string, error) {
	if err := checkSources(r); err != nil {
		return "", err
	}
	if len(m.proxies) == 0 || !m.trusts(r.RemoteAddr) {
		return r.Host, nil
	}
	forwarded, found, ok := forwardedHost(r.Header["Forwarded"])
	if !ok {
		return "", &HostError{r.Host, "comes with a Forwarded header that is malformed or names a host in a list"}
	}
	switch x := r.Header["X-Forwarded-Host"]; {
	case len(x) > 1:
		return "", &HostError{r.Host, "comes with several X-Forwarded-Host headers"}
	case len(x) == 1 && found && x[0] != forwarded:
		return "", &HostError{forwarded, "differs between Forwarded and X-Forwarded-Host"}
	case len(x) == 1:
		return x[0], nil // a list of hosts fails in Parse: there is no comma in a host name
	case found:
		return forwarded, nil
	}
	return r.Host, nil
}

// checkSources refuses a request whose own parts name different hosts. Over HTTP/1 net/http has settled the matter before
// (see RFC 9112, 3.2.2), but over HTTP/2 :authority, :path and a Host header can each name one, and so can a request that
// another handler has changed.
func checkSources(r *http.Request) error {
	switch hosts := r.Header["Host"]; {
	case len(hosts) > 1:
		return &HostError{r.Host, "comes with several Host headers"}
	case len(hosts) == 1 && hosts[0] != r.Host:
		return &HostError{r.Host, "differs from the Host header"}
	case r.URL.Host != "" && r.URL.Host != r.Host:
		return &HostError{r.Host, "differs from the request line"}
	case r.URL.Host == "" && r.URL.Scheme != "":
		return &HostError{r.Host, "comes with a request line that has a scheme and no host"}
	case r.URL.User != nil:
		return &HostError{r.Host, "comes with user information"}
	}
	return nil
}

// trusts reports whether the peer is a listed proxy. A peer without an IP address, as on a Unix socket, is not.
func (m *Middleware) trusts(remoteAddr string) bool {
	peer, err := netip.ParseAddrPort(remoteAddr)
	if err != nil {
		return false
	}
	addr := peer.Addr().Unmap().WithZone("")
	for _, p := range m.proxies {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}

// forwardedHost looks for a host parameter in Forwarded header fields (RFC 7239). Each proxy on the way appends an element,
// and nothing tells which of them wrote which, so a host counts only where there is one element with one host: ok is false
// for every other header with a host, and for one that cannot be read. A quoted value may hold no backslash.
func forwardedHost(fields []string) (host string, found, ok bool) {
	rest := strings.Join(fields, ",")
	lists := false
	for {
		rest = strings.TrimLeft(rest, " \t;")
		if rest == "" {
			return host, found, !lists || !found
		}
		if rest[0] == ',' {
			lists, rest = true, rest[1:]
			continue
		}
		name, after, isPair := strings.Cut(rest, "=")
		if !isPair || name == "" || strings.ContainsAny(name, " \t,;\"") {
			return "", false, false
		}
		var value string
		if value, rest, ok = forwardedValue(after); !ok {
			return "", false, false
		}
		if strings.EqualFold(name, "host") {
			if found {
				return "", false, false
			}
			host, found = value, true
		}
	}
}

// forwardedValue cuts a token or a quoted string off s, up to the separator behind it. Tokens may hold colons and brackets:
// many proxies do not quote a host with a port.
func forwardedValue(s string) (value, rest string, ok bool) {
	if quoted, isQuoted := strings.CutPrefix(s, `"`); isQuoted {
		value, rest, ok = strings.Cut(quoted, `"`)
		if !ok || strings.Contains(value, `\`) {
			return "", "", false
		}
	} else {
		end := strings.IndexAny(s, " \t,;\"")
		if end < 0 {
			end = len(s)
		}
		value, rest = s[:end], s[end:]
	}
	rest = strings.TrimLeft(rest, " \t")
	return value, rest, value != "" && (rest == "" || rest[0] == ';' || rest[0] == ',')
}
