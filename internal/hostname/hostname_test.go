package hostname_test

import (
	"strings"
	"testing"

	"github.com/leasehold-go/leasehold/internal/hostname"
)

func TestCanonical(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("a.", 126) + "a" // 253 bytes
	for _, tc := range []struct{ name, want, reason string }{
		{"example.com", "example.com", ""},
		{"Shop.Example.COM.", "shop.example.com", ""},
		{"xn--bcher-kva.example", "xn--bcher-kva.example", ""},
		{"localhost", "localhost", ""},
		{long, long, ""},
		{long + "a", "", "is too long"},
		{strings.Repeat("a", 63) + ".com", strings.Repeat("a", 63) + ".com", ""},
		{strings.Repeat("a", 64) + ".com", "", "has a label that is too long"},
		{"", "", "has an empty label"},
		{".", "", "has an empty label"},
		{"a..b", "", "has an empty label"},
		{"-a.com", "", "has a label that begins or ends with a hyphen"},
		{"a-.com", "", "has a label that begins or ends with a hyphen"},
		{"bücher.example", "", "holds a character that host names do not have"},
		{"a_b.example", "", "holds a character that host names do not have"},
		{"example.com:80", "", "holds a character that host names do not have"},
	} {
		if got, reason := hostname.Canonical(tc.name); got != tc.want || reason != tc.reason {
			t.Errorf("Canonical(%q) = %q, %q; want %q, %q", tc.name, got, reason, tc.want, tc.reason)
		}
	}
}

func TestEndsInNumber(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]bool{"127.0.0.1": true, "1": true, "a.0": true, "a.0x": false, "1.example": false, "example.c0m": false} {
		if got := hostname.EndsInNumber(name); got != want {
			t.Errorf("EndsInNumber(%q) = %v", name, got)
		}
	}
}

func TestIsUnder(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, domain string
		want         bool
	}{
		{"example.com", "example.com", true},
		{"a.example.com", "example.com", true},
		{"a.b.example.com", "example.com", true},
		{"notexample.com", "example.com", false},
		{"com", "example.com", false},
		{"example.com.org", "example.com", false},
	} {
		if got := hostname.IsUnder(tc.name, tc.domain); got != tc.want {
			t.Errorf("IsUnder(%q, %q) = %v", tc.name, tc.domain, got)
		}
	}
}
