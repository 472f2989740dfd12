package tenanthttp_test

import (
	"errors"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/db/tenanthttp"
)

// parsed is an answer of Hosts.Parse. The zero value is a refusal.
type parsed struct {
	Slug tenant.Slug
	Apex bool
}

var (
	apexHost = parsed{Apex: true}
	refused  parsed
)

func newHosts(tb testing.TB) *tenanthttp.Hosts {
	tb.Helper()
	hosts, err := tenanthttp.NewHosts([]string{"example.com", "eu.example.com", "Localhost", "xn--bcher-kva.example.", "127.0.0.1", "::1"}, nil)
	if err != nil {
		tb.Fatal(err)
	}
	return hosts
}

// parse fails the test unless an error is a *HostError and comes alone.
func parse(tb testing.TB, hosts *tenanthttp.Hosts, host string) parsed {
	tb.Helper()
	slug, apex, err := hosts.Parse(host)
	got := parsed{slug, apex}
	if he, ok := errors.AsType[*tenanthttp.HostError](err); err != nil && (!ok || he.Host != host || he.Reason == "") {
		tb.Errorf("Parse(%q): error %#v is no complete *HostError", host, err)
	}
	if refusal := got == refused; refusal != (err != nil) {
		tb.Errorf("Parse(%q) = %v with error %v", host, got, err)
	}
	return got
}

var (
	label40 = strings.Repeat("a", 40)
	label63 = strings.Repeat("a", 63)
)

// hostTable is also the seed of FuzzParse.
var hostTable = map[string]parsed{
	// Tenants.
	"acme.example.com":           {Slug: "acme"},
	"acme.example.com:8080":      {Slug: "acme"},
	"acme.example.com:1":         {Slug: "acme"},
	"acme.example.com:65535":     {Slug: "acme"},
	"acme.example.com.":          {Slug: "acme"},
	"acme.example.com.:443":      {Slug: "acme"},
	"AcMe.EXAMPLE.com":           {Slug: "acme"},
	"acme.localhost":             {Slug: "acme"},
	"acme.localhost:8080":        {Slug: "acme"},
	"acme.xn--bcher-kva.example": {Slug: "acme"},
	"a.example.com":              {Slug: "a"},
	"7.example.com":              {Slug: "7"},
	"a-b-c.example.com":          {Slug: "a-b-c"},
	label40 + ".example.com":     {Slug: tenant.Slug(label40)},
	"admin.example.com":          {Slug: "admin"}, // reserved: for the middleware to turn away
	"pg-catalog.example.com":     {Slug: "pg-catalog"},
	// The longest base domain decides, whatever the order of the list.
	"acme.eu.example.com":   {Slug: "acme"},
	"eu.example.com":        apexHost,
	"www.eu.example.com":    apexHost,
	"a.acme.eu.example.com": refused,
	"us.example.com":        {Slug: "us"},
	"acme.us.example.com":   refused,
	// Apex.
	"example.com":       apexHost,
	"EXAMPLE.COM.:80":   apexHost,
	"www.example.com":   apexHost,
	"WWW.example.com":   apexHost,
	"localhost:8080":    apexHost,
	"www.localhost":     apexHost,
	"127.0.0.1":         apexHost,
	"127.0.0.1:8080":    apexHost,
	"[::1]":             apexHost,
	"[::1]:8080":        apexHost,
	"[0:0:0:0:0:0:0:1]": apexHost,
	// Nested subdomains.
	"www.acme.example.com": refused,
	"a.b.example.com":      refused,
	"acme.www.example.com": refused,
	// Not below a base domain.
	"":                              refused,
	"acme":                          refused,
	"com":                           refused,
	"acme.com":                      refused,
	"example.org":                   refused,
	"notexample.com":                refused,
	"acme.notexample.com":           refused,
	"acme-example.com":              refused,
	"acme.example.com.evil.org":     refused,
	"example.com.evil.org":          refused,
	"acme.example.comm":             refused,
	"evil.org?.example.com":         refused,
	"evil.org/.example.com":         refused,
	"evil.org#.example.com":         refused,
	`evil.org\.example.com`:         refused,
	"acme.example.com,example.com":  refused,
	"acme.example.com, example.com": refused,
	// Empty and over-long labels and names.
	".":                        refused,
	"..":                       refused,
	".example.com":             refused,
	"acme..example.com":        refused,
	"acme.example..com":        refused,
	"acme.example.com..":       refused,
	"..example.com":            refused,
	label40 + "a.example.com":  refused,
	label63 + ".example.com":   refused,
	label63 + "a.example.com":  refused,
	strings.Repeat("a.", 200):  refused,
	strings.Repeat("a", 1<<20): refused,
	strings.Repeat("a.", 122) + "example.com": refused, // 255
	// Hyphens.
	"-.example.com":           refused,
	"-acme.example.com":       refused,
	"acme-.example.com":       refused,
	"xn--bcher-kva.localhost": refused,
	"ac--me.example.com":      refused,
	// Bytes that no host name has. Several of these pass gorilla/mux (THREATS 36).
	"pg_catalog.example.com":   refused,
	"a;b.example.com":          refused,
	"a'b.example.com":          refused,
	"a\"b.example.com":         refused,
	"acme,beta.example.com":    refused,
	"*.example.com":            refused,
	"a+b.example.com":          refused,
	"a b.example.com":          refused,
	" acme.example.com":        refused,
	"acme.example.com ":        refused,
	"acme.example.com\t":       refused,
	"acme.example.com\r\nX: y": refused,
	"acme\x00.example.com":     refused,
	"acme%2eexample.com":       refused,
	"acme%00.example.com":      refused,
	"%61cme.example.com":       refused,
	"user@acme.example.com":    refused,
	"user:pw@acme.example.com": refused,
	"http://acme.example.com":  refused,
	"acme.example.com/":        refused,
	"\u00e4cme.example.com":    refused,
	"\u0430cme.example.com":    refused, // Cyrillic а
	"acme\u3002example.com":    refused, // ideographic full stop
	"acme\uff0eexample.com":    refused, // full-width full stop
	"\u212aelvin.example.com":  refused, // Kelvin sign, which Unicode folds to k
	"\u017fuper.example.com":   refused, // long s, which Unicode folds to s
	"acme\u00ad.example.com":   refused, // soft hyphen
	"\xff\xfe.example.com":     refused,
	"acme.example.com\u200b":   refused,
	// Ports.
	"acme.example.com:":        refused,
	"acme.example.com:0":       refused,
	"acme.example.com:00":      refused,
	"acme.example.com:65536":   refused,
	"acme.example.com:123456":  refused,
	"acme.example.com:http":    refused,
	"acme.example.com:-1":      refused,
	"acme.example.com:+80":     refused,
	"acme.example.com:80:80":   refused,
	"acme.example.com:80 ":     refused,
	"acme.example.com:8\uff10": refused,
	":8080":                    refused,
	":":                        refused,
	// Addresses that are not listed, or badly written.
	"127.0.0.2":          refused,
	"10.0.0.1:80":        refused,
	"127.1":              refused,
	"127.0.0.01":         refused,
	"0x7f000001":         refused,
	"2130706433":         refused,
	"acme.127.0.0.1":     refused,
	"www.127.0.0.1":      refused,
	"::1":                refused,
	"[::2]":              refused,
	"[::1":               refused,
	"::1]":               refused,
	"[::1]8080":          refused,
	"[::1]:":             refused,
	"[::1]:x":            refused,
	"[::1%25lo]":         refused,
	"[::1%lo]":           refused,
	"[127.0.0.1]":        refused,
	"[::ffff:127.0.0.1]": refused,
	"[]":                 refused,
	"[":                  refused,
	"[acme.example.com]": refused,
	"acme.[::1]":         refused,
	"[::1].example.com":  refused,
	"[v1.acme]":          refused,
}

func TestParse(t *testing.T) {
	t.Parallel()
	hosts := newHosts(t)
	for _, host := range slices.Sorted(maps.Keys(hostTable)) {
		want := hostTable[host]
		t.Run(strconv.Quote(host[:min(len(host), 80)]), func(t *testing.T) {
			t.Parallel()
			if got := parse(t, hosts, host); got != want {
				t.Errorf("got %+v, want %+v", got, want)
			}
		})
	}
}

func TestHostErrorIsShort(t *testing.T) {
	t.Parallel()
	_, _, err := newHosts(t).Parse(strings.Repeat("a", 1<<20))
	if err == nil || len(err.Error()) > 200 {
		t.Errorf("got a message of %d bytes, want it cut", len(err.Error()))
	}
}

func TestApexNames(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		apex []string
		want map[string]parsed
	}{
		{"default", nil, map[string]parsed{"example.com": apexHost, "www.example.com": apexHost, "app.example.com": {Slug: "app"}}},
		{"none", []string{}, map[string]parsed{"example.com": refused, "www.example.com": {Slug: "www"}, "127.0.0.1": apexHost}},
		{"own", []string{"App"}, map[string]parsed{"example.com": refused, "app.example.com": apexHost, "www.example.com": {Slug: "www"}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			hosts, err := tenanthttp.NewHosts([]string{"example.com", "127.0.0.1"}, tc.apex)
			if err != nil {
				t.Fatal(err)
			}
			got := map[string]parsed{}
			for host := range tc.want {
				got[host] = parse(t, hosts, host)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestNewHostsRefuses(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name        string
		bases, apex []string
	}{
		{"nothing", nil, nil},
		{"empty name", []string{""}, nil},
		{"root", []string{"."}, nil},
		{"port", []string{"example.com:8080"}, nil},
		{"scheme", []string{"https://example.com"}, nil},
		{"wildcard", []string{"*.example.com"}, nil},
		{"leading dot", []string{".example.com"}, nil},
		{"space", []string{"example.com "}, nil},
		{"list in one string", []string{"example.com,example.org"}, nil},
		{"underscore", []string{"my_site.com"}, nil},
		{"hyphen", []string{"example-.com"}, nil},
		{"non-ASCII", []string{"b\u00fccher.example"}, nil},
		{"long label", []string{label63 + "a.com"}, nil},
		{"long name", []string{strings.Repeat("a.", 126) + "com"}, nil},
		{"short IPv4", []string{"127.1"}, nil},
		{"number", []string{"2130706433"}, nil},
		{"IPv6 in brackets", []string{"[::1]"}, nil},
		{"IPv6 zone", []string{"fe80::1%eth0"}, nil},
		{"IPv4 in IPv6", []string{"::ffff:127.0.0.1"}, nil},
		{"one bad among good", []string{"example.com", "-"}, nil},
		{"apex name with a dot", []string{"example.com"}, []string{"www.app"}},
		{"apex name with a space", []string{"example.com"}, []string{" www"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			if hosts, err := tenanthttp.NewHosts(tc.bases, tc.apex); err == nil || hosts != nil {
				t.Errorf("got %v, %v; want an error and nothing else", hosts, err)
			}
		})
	}
}

// tenantHost is the oracle of FuzzParse: the same rule as the parser's, written as one expression over the whole input.
var tenantHost = regexp.MustCompile(
	`^(([a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?)\.)?(?:eu\.example\.com|example\.com|localhost|xn--bcher-kva\.example)\.?(?::([0-9]{1,5}))?$`)

var addressHost = regexp.MustCompile(`^(?:127\.0\.0\.1\.?|\[[0:]*:0{0,3}1\])(?::([0-9]{1,5}))?$`)

// expect says what Parse must return, or ok false where the oracle is not exact (spellings of IPv6 addresses).
func expect(host string) (want parsed, ok bool) {
	lower := strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			r += 'a' - 'A'
		}
		return r
	}, host)
	badPort := func(s string) bool {
		n, _ := strconv.Atoi(s)
		return s != "" && (n < 1 || n > 65535)
	}
	if m := addressHost.FindStringSubmatch(lower); m != nil {
		return apexHost, !badPort(m[1]) && lower[0] != '['
	}
	m := tenantHost.FindStringSubmatch(lower)
	switch {
	case strings.HasPrefix(lower, "["):
		return refused, false
	case m == nil || badPort(m[3]):
		return refused, true
	case m[1] == "" || m[2] == "www":
		return apexHost, true
	case m[2] == "eu" && strings.HasPrefix(lower, "eu.example.com"):
		return apexHost, true
	case len(m[2]) > 3 && m[2][2:4] == "--":
		return refused, true
	}
	return parsed{Slug: tenant.Slug(m[2])}, true
}

// THREATS 27, 36.
func FuzzParse(f *testing.F) {
	for host := range hostTable {
		if len(host) < 1000 {
			f.Add(host)
		}
	}
	hosts := newHosts(f)
	slugForm := regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$`)
	f.Fuzz(func(t *testing.T, host string) {
		got := parse(t, hosts, host)
		if want, exact := expect(host); exact && got != want {
			t.Errorf("Parse(%q) = %+v, want %+v", host, got, want)
		}
		if got.Slug == "" {
			return
		}
		if !slugForm.MatchString(string(got.Slug)) {
			t.Errorf("Parse(%q) returned slug %q", host, got.Slug)
		}
		if again := parse(t, hosts, string(got.Slug)+".localhost"); again != got {
			t.Errorf("Parse(%q) = %+v, but its slug is read again as %+v", host, got, again)
		}
	})
}

// Not parallel: testing.AllocsPerRun counts for the whole process.
func TestParseDoesNotAllocate(t *testing.T) {
	hosts := newHosts(t)
	for _, host := range []string{"acme.example.com", "acme.eu.example.com:8080", "acme.localhost.", "www.example.com", "example.com:443"} {
		allocs := testing.AllocsPerRun(100, func() {
			if _, _, err := hosts.Parse(host); err != nil {
				t.Error(err)
			}
		})
		if allocs != 0 {
			t.Errorf("Parse(%q): %v allocations, want none", host, allocs)
		}
	}
}

// BenchmarkParseAndResolve is host → tenant without HTTP: the parser and a resolver that answers from memory.
func BenchmarkParseAndResolve(b *testing.B) {
	hosts, resolver := newHosts(b), newRegistry()
	b.ReportAllocs()
	for b.Loop() {
		slug, _, err := hosts.Parse("acme.example.com:8080")
		if err != nil {
			b.Fatal(err)
		}
		if _, err := resolver.Resolve(b.Context(), slug); err != nil {
			b.Fatal(err)
		}
	}
}
