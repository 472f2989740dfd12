package tenant_test

import (
	"errors"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/leasehold-go/leasehold/db/tenant"
)

var label40 = strings.Repeat("a", 40)

// slugTable says what ParseSlug makes of a string; "" is a refusal. It is also the seed of FuzzSlug.
var slugTable = map[string]tenant.Slug{
	"a":           "a",
	"7":           "7",
	"42":          "42",
	"acme":        "acme",
	"ACME":        "acme",
	"aCmE-2":      "acme-2",
	"a-b-c":       "a-b-c",
	"ab-c":        "ab-c",
	"abc--d":      "abc--d",
	"a--b":        "a--b",
	label40:       tenant.Slug(label40),
	"www":         "www", // reserved, but a slug
	"xn--bcher":   "",
	"XN--bcher":   "",
	"ab--c":       "",
	"":            "",
	"-":           "",
	"-a":          "",
	"a-":          "",
	label40 + "a": "",
	"a.b":         "",
	"a_b":         "",
	"a b":         "",
	" a":          "",
	"a\n":         "",
	"a\x00":       "",
	"a;b":         "",
	"a'b":         "",
	`a"b`:         "",
	"a,b":         "",
	"pg_catalog":  "",
	"\u00e4":      "",
	"\u0430cme":   "", // Cyrillic а
	"\u212a":      "", // Kelvin sign, which Unicode folds to k
	"\u017f":      "", // long s, which Unicode folds to s
	"\u0130":      "", // I with a dot, which lowers to i and a combining dot
	"\uff41cme":   "", // full-width a
	"a\u00ad":     "", // soft hyphen
	"\xff":        "",
}

// parseSlug returns "" for a refusal, and fails the test unless that is a whole *SlugError.
func parseSlug(t *testing.T, parse func(string) (tenant.Slug, error), s string) tenant.Slug {
	t.Helper()
	slug, err := parse(s)
	if se, ok := errors.AsType[*tenant.SlugError](err); err != nil && (!ok || slug != "" || se.Reason == "") {
		t.Errorf("%q: got %q and error %#v, want a *SlugError alone", s, slug, err)
	}
	if err == nil && slug == "" {
		t.Errorf("%q: got neither a slug nor an error", s)
	}
	return slug
}

func TestParseSlug(t *testing.T) {
	t.Parallel()
	for s, want := range slugTable {
		t.Run(strconv.QuoteToASCII(s), func(t *testing.T) {
			t.Parallel()
			if got := parseSlug(t, tenant.ParseSlug, s); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}

func TestNewSlug(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]tenant.Slug{
		"acme":          "acme",
		" \tAcme\r\n ":  "acme",
		"\u00a0acme":    "acme",
		"www":           "",
		"WWW":           "",
		" admin ":       "",
		"leasehold":     "",
		"www-acme":      "www-acme",
		"a cme":         "",
		"   ":           "",
		"\u200bacme":    "", // zero-width space is no white space
		label40 + "   ": tenant.Slug(label40),
	} {
		t.Run(strconv.QuoteToASCII(s), func(t *testing.T) {
			t.Parallel()
			if got := parseSlug(t, tenant.NewSlug, s); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}

// asciiFold is the only equality that two spellings of one name may have, written without the package's help.
func asciiFold(s string) string {
	b := []byte(s)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c + 32
		}
	}
	return string(b)
}

// THREATS 27: two names share a slug exactly if they differ in nothing but the case of ASCII letters, and for NewSlug in
// surrounding white space.
func FuzzSlug(f *testing.F) {
	for s := range slugTable {
		f.Add(s, strings.ToUpper(s))
		f.Add(s, " "+s+"\t")
		f.Add(s, s+"a")
		f.Add(s, "acme")
	}
	form := regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$`)
	f.Fuzz(func(t *testing.T, a, b string) {
		for _, rule := range []struct {
			parse     func(string) (tenant.Slug, error)
			canonical func(string) string
		}{
			{tenant.ParseSlug, asciiFold},
			{tenant.NewSlug, func(s string) string { return asciiFold(strings.TrimSpace(s)) }},
		} {
			slugA, slugB := parseSlug(t, rule.parse, a), parseSlug(t, rule.parse, b)
			same := rule.canonical(a) == rule.canonical(b)
			if same != (slugA == slugB) && (slugA != "" || slugB != "") {
				t.Errorf("%q became %q and %q became %q", a, slugA, b, slugB)
			}
			if slugA == "" {
				continue
			}
			if string(slugA) != rule.canonical(a) || !form.MatchString(string(slugA)) {
				t.Errorf("%q became %q", a, slugA)
			}
			if again := parseSlug(t, rule.parse, string(slugA)); again != slugA {
				t.Errorf("%q became %q, and that %q", a, slugA, again)
			}
		}
	})
}

// Not parallel: testing.AllocsPerRun counts for the whole process.
func TestParseSlugDoesNotAllocate(t *testing.T) {
	if allocs := testing.AllocsPerRun(100, func() {
		if _, err := tenant.ParseSlug("acme-invoicing-24"); err != nil {
			t.Error(err)
		}
	}); allocs != 0 {
		t.Errorf("%v allocations, want none", allocs)
	}
}
