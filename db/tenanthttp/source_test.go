package tenanthttp_test

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	acme   = "acme.example.com"
	globex = "globex.example.com"
)

// THREATS 37: who may say which host was meant.
func TestForwardedHeaders(t *testing.T) {
	t.Parallel()
	const listed = "10.1.2.3:55555"
	mw := newMiddleware(t, nil, nil)
	for _, tc := range []struct {
		name, peer string
		headers    http.Header
		want       outcome
	}{
		{"none", listed, nil, outcome{200, "acme"}},
		{"X-Forwarded-Host", listed, http.Header{"X-Forwarded-Host": {globex}}, outcome{200, "globex"}},
		{"with a port", listed, http.Header{"X-Forwarded-Host": {globex + ":443"}}, outcome{200, "globex"}},
		{"to the apex", listed, http.Header{"X-Forwarded-Host": {"example.com"}}, outcome{200, "nobody"}},
		{"to an unknown tenant", listed, http.Header{"X-Forwarded-Host": {"nobody.example.com"}}, outcome{404, ""}},
		{"to a foreign host", listed, http.Header{"X-Forwarded-Host": {"example.org"}}, outcome{400, ""}},
		{"list", listed, http.Header{"X-Forwarded-Host": {globex + ", " + acme}}, outcome{400, ""}},
		{"list of equals", listed, http.Header{"X-Forwarded-Host": {acme + "," + acme}}, outcome{400, ""}},
		{"repeated", listed, http.Header{"X-Forwarded-Host": {globex, acme}}, outcome{400, ""}},
		{"repeated equals", listed, http.Header{"X-Forwarded-Host": {acme, acme}}, outcome{400, ""}},
		{"empty", listed, http.Header{"X-Forwarded-Host": {""}}, outcome{400, ""}},

		{"Forwarded", listed, http.Header{"Forwarded": {"host=" + globex}}, outcome{200, "globex"}},
		{"all parameters", listed, http.Header{"Forwarded": {`for="[2001:db8::1]:4711"; Proto=https;HOST="` + globex + `:443" ; by=_x`}}, outcome{200, "globex"}},
		{"port not quoted", listed, http.Header{"Forwarded": {"for=192.0.2.1;host=" + globex + ":443"}}, outcome{200, "globex"}},
		{"no host in it", listed, http.Header{"Forwarded": {"for=192.0.2.1;proto=https"}}, outcome{200, "acme"}},
		{"list without a host", listed, http.Header{"Forwarded": {"for=192.0.2.1, for=192.0.2.2", "for=192.0.2.3"}}, outcome{200, "acme"}},
		{"host in quotes of another", listed, http.Header{"Forwarded": {`for="x;host=` + globex + `"`}}, outcome{200, "acme"}},
		{"comma in quotes", listed, http.Header{"Forwarded": {`for="a,b";host=` + globex}}, outcome{200, "globex"}},
		{"empty header", listed, http.Header{"Forwarded": {""}}, outcome{200, "acme"}},
		{"host in the first of two", listed, http.Header{"Forwarded": {"host=" + globex + ", for=192.0.2.1"}}, outcome{400, ""}},
		{"host in the second of two", listed, http.Header{"Forwarded": {"for=192.0.2.1,host=" + globex}}, outcome{400, ""}},
		{"host in a repeated header", listed, http.Header{"Forwarded": {"host=" + globex, "for=192.0.2.1"}}, outcome{400, ""}},
		{"two hosts", listed, http.Header{"Forwarded": {"host=" + globex + ";host=" + globex}}, outcome{400, ""}},
		{"no equals sign", listed, http.Header{"Forwarded": {globex}}, outcome{400, ""}},
		{"no value", listed, http.Header{"Forwarded": {"host="}}, outcome{400, ""}},
		{"empty quotes", listed, http.Header{"Forwarded": {`host=""`}}, outcome{400, ""}},
		{"no name", listed, http.Header{"Forwarded": {"=x"}}, outcome{400, ""}},
		{"no separator", listed, http.Header{"Forwarded": {"for=a host=" + globex}}, outcome{400, ""}},
		{"space before the equals sign", listed, http.Header{"Forwarded": {"host =" + globex}}, outcome{400, ""}},
		{"open quotes", listed, http.Header{"Forwarded": {`host="` + globex}}, outcome{400, ""}},
		{"text behind quotes", listed, http.Header{"Forwarded": {`for="a"host=` + globex}}, outcome{400, ""}},
		{"backslash", listed, http.Header{"Forwarded": {`for="\";host=` + globex + `;x="y"`}}, outcome{400, ""}},

		{"both agree", listed, http.Header{"X-Forwarded-Host": {globex}, "Forwarded": {"host=" + globex}}, outcome{200, "globex"}},
		{"both differ", listed, http.Header{"X-Forwarded-Host": {acme}, "Forwarded": {"host=" + globex}}, outcome{400, ""}},
		{"one malformed", listed, http.Header{"X-Forwarded-Host": {acme}, "Forwarded": {"?"}}, outcome{400, ""}},

		{"IPv6 proxy", "[2001:db8::7]:443", http.Header{"X-Forwarded-Host": {globex}}, outcome{200, "globex"}},
		{"IPv4 proxy on an IPv6 socket", "[::ffff:10.1.0.1]:443", http.Header{"X-Forwarded-Host": {globex}}, outcome{200, "globex"}},
		{"proxy on the link", "[fe80::1%eth0]:443", http.Header{"X-Forwarded-Host": {globex}}, outcome{200, "globex"}},
		{"neighbour of a proxy", "10.2.0.1:443", http.Header{"X-Forwarded-Host": {globex}}, outcome{200, "acme"}},
		{"unlisted", "192.0.2.1:443", http.Header{"X-Forwarded-Host": {globex, acme}, "Forwarded": {"?", "host=" + globex}}, outcome{200, "acme"}},
		{"unlisted IPv6", "[2001:db9::7]:443", http.Header{"Forwarded": {"host=" + globex}}, outcome{200, "acme"}},
		{"peer without an address", "@", http.Header{"X-Forwarded-Host": {globex}}, outcome{200, "acme"}},
		{"peer without a port", "10.1.2.3", http.Header{"X-Forwarded-Host": {globex}}, outcome{200, "acme"}},
		{"claims to come from a proxy", "192.0.2.1:443", http.Header{"X-Forwarded-For": {"10.1.2.3"}, "X-Forwarded-Host": {globex}}, outcome{200, "acme"}},
		{"other spellings", listed, http.Header{"X_Forwarded_Host": {globex}, "X-Host": {globex}, "X-Original-Host": {globex}}, outcome{200, "acme"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			r := get(t, acme)
			r.RemoteAddr, r.Header = tc.peer, tc.headers
			if got := serve(mw.Handler(http.HandlerFunc(mark)), r); got != tc.want {
				t.Errorf("got %v, want %v", got, tc.want)
			}
		})
	}
}

// The internal name of a service, by which its proxy calls it, need not be a host of ours.
func TestForwardedHostReplacesTheHost(t *testing.T) {
	t.Parallel()
	type hosts struct{ Host, URLHost string }
	for _, tc := range []struct {
		name, target string
		want         hosts
	}{
		{"origin form", "/", hosts{globex, ""}},
		{"absolute form", "http://backend:8080/", hosts{globex, globex}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			var got hosts
			h := newMiddleware(t, nil, nil).Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				got = hosts{r.Host, r.URL.Host}
			}))
			r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, tc.target, nil)
			r.Host = "backend:8080"
			before := *r.URL
			r.RemoteAddr = "10.1.2.3:55555"
			r.Header.Set("X-Forwarded-Host", globex)
			serve(h, r)
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
			if r.Host != "backend:8080" || *r.URL != before {
				t.Errorf("the caller's request was changed: host %q, URL %v", r.Host, r.URL)
			}
		})
	}
}

// Over HTTP/1 net/http leaves one host in a request; other handlers may not.
func TestRequestsThatNameTwoHosts(t *testing.T) {
	t.Parallel()
	h := newMiddleware(t, nil, nil).Handler(http.HandlerFunc(mark))
	for _, tc := range []struct {
		name   string
		url    url.URL
		header []string
		want   outcome
	}{
		{"one", url.URL{Path: "/"}, nil, outcome{200, "acme"}},
		{"the same", url.URL{Scheme: "http", Host: acme, Path: "/"}, []string{acme}, outcome{200, "acme"}},
		{"as for CONNECT", url.URL{Host: acme}, nil, outcome{200, "acme"}},
		{"another in the URL", url.URL{Scheme: "http", Host: globex, Path: "/"}, nil, outcome{400, ""}},
		{"another spelling in the URL", url.URL{Scheme: "http", Host: acme + ":80", Path: "/"}, nil, outcome{400, ""}},
		{"another in the header", url.URL{Path: "/"}, []string{globex}, outcome{400, ""}},
		{"two in the header", url.URL{Path: "/"}, []string{acme, acme}, outcome{400, ""}},
		{"user", url.URL{Scheme: "http", Host: acme, User: url.User("x"), Path: "/"}, nil, outcome{400, ""}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			r := get(t, acme)
			r.URL = &tc.url
			if tc.header != nil {
				r.Header["Host"] = tc.header
			}
			if got := serve(h, r); got != tc.want {
				t.Errorf("got %v, want %v", got, tc.want)
			}
		})
	}
}
