package tenant

import (
	"slices"
	"testing"
)

// Reserved searches the list by halves, so an entry out of order would be free to take.
func TestReservedSlugs(t *testing.T) {
	t.Parallel()
	if !slices.IsSorted(reservedSlugs) {
		t.Error("the list is not sorted")
	}
	if len(slices.Compact(slices.Clone(reservedSlugs))) != len(reservedSlugs) {
		t.Error("the list holds a name twice")
	}
	for _, name := range reservedSlugs {
		if slug, err := ParseSlug(name); err != nil || string(slug) != name || !slug.Reserved() {
			t.Errorf("%q: ParseSlug gives %q, %v; Reserved gives %v", name, slug, err, slug.Reserved())
		}
		if slug, err := NewSlug(name); err == nil {
			t.Errorf("%q can be taken, as %q", name, slug)
		}
	}
	for _, name := range []string{"www", "api", "admin", "mail", "static"} {
		if !Slug(name).Reserved() {
			t.Errorf("%q is not reserved", name)
		}
	}
	for _, name := range []string{"", "acme", "ww-w", "zzz"} {
		if Slug(name).Reserved() {
			t.Errorf("%q is reserved", name)
		}
	}
}
