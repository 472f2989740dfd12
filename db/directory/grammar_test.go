package directory

import (
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/db/tenant"
)

// checker answers whether a CHECK constraint of the registry, taken from the catalogue as it stands, accepts a text.
func checker(tb testing.TB, column, constraint string) func(tb testing.TB, s string) bool {
	tb.Helper()
	conn := connectTo(tb, registryURL(tb))
	def := query[string](tb, conn, `SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = $1`, constraint)
	expr, ok := strings.CutPrefix(def, "CHECK ")
	if !ok {
		tb.Fatalf("%s is no CHECK: %s", constraint, def)
	}
	sql := `SELECT ` + expr + ` FROM (SELECT $1::text COLLATE "C" AS ` + pgx.Identifier{column}.Sanitize() + `) AS t`
	return func(tb testing.TB, s string) bool {
		tb.Helper()
		if !utf8.ValidString(s) || strings.Contains(s, "\x00") {
			return false // PostgreSQL has no such text
		}
		return query[bool](tb, conn, sql, s)
	}
}

var slugSeeds = []string{
	"", "a", "acme", "acme-ltd", "a-b-c", "9lives", "-a", "a-", "a--b", "ab--c", "xn--acme", "--", "a\n", "a\nb", "Acme", "ACME", "äcme",
	"аcme", "acme.", "a.b", "a_b", "a b", "a,b", "a'b", `a"b`, "a;b", "a\x00", "a\xff", "İstanbul", "ﬀ", strings.Repeat("a", 40),
	strings.Repeat("a", 41), strings.Repeat("ü", 20), "public", "pg_catalog", "ſ", "K", "ａcme", "a\u200bb",
}

// THREATS 27: what the Go rule calls a canonical slug, and nothing else, may stand in the registry.
func FuzzSlugRuleIsTheSameInGoAndSQL(f *testing.F) {
	accepts := checker(f, "slug", "tenants_slug_grammar")
	for _, s := range slugSeeds {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		slug, err := tenant.ParseSlug(s)
		canonical := err == nil && string(slug) == s
		if inSQL := accepts(t, s); inSQL != canonical {
			t.Errorf("%q: Go says %v (%v), SQL says %v", s, canonical, err, inSQL)
		}
		if err == nil && !accepts(t, string(slug)) {
			t.Errorf("%q: SQL refuses the canonical form %q", s, slug)
		}
	})
}

// THREATS 26 and 28.
func FuzzNameRuleIsTheSameInGoAndSQL(f *testing.F) {
	schema := checker(f, "schema_name", "tenants_schema_name_grammar")
	role := checker(f, "role_name", "tenants_role_name_grammar")
	spareSchema := checker(f, "schema_name", "spares_schema_name_grammar")
	spareRole := checker(f, "role_name", "spares_role_name_grammar")
	for _, s := range append(slices.Clone(slugSeeds), "t_acme", "_", "_9", "9_", "pg_", "pg_acme", "PG_acme", "pgacme", "a, b, public",
		"leasehold", "information_schema", strings.Repeat("a", 63), strings.Repeat("a", 64), "$user", `"$user"`, "a$b") {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		valid := tenant.Placement{Strategy: tenant.SchemaStrategy, Schema: s, Role: s}.Validate() == nil
		if got := role(t, s); got != valid {
			t.Errorf("role %q: Go says %v, SQL says %v", s, valid, got)
		}
		// A tenant's schema may not be one that others need, because it may be dropped.
		valid = valid && !slices.Contains([]string{"leasehold", "public", "information_schema"}, s)
		if got := schema(t, s); got != valid {
			t.Errorf("schema %q: Go says %v, SQL says %v", s, valid, got)
		}
		if spareSchema(t, s) != schema(t, s) || spareRole(t, s) != role(t, s) {
			t.Errorf("%q: the rules for the names of spares are not those for tenants", s)
		}
	})
}

func TestTheRegistryRefusesARowThatBreaksARule(t *testing.T) {
	t.Parallel()
	d, url := newDirectory(t)
	acme := mustCreate(t, d, "acme")
	mustCreate(t, d, "globex")
	admin := connectTo(t, url)
	const check, unique, foreign = "23514", "23505", "23503"
	for _, tc := range []struct{ name, want, assignment string }{
		{"slug in upper case", check, `slug = 'Globex'`},
		{"slug with a hyphen at its end", check, `slug = 'globex-'`},
		{"slug of another tenant", unique, `slug = 'acme'`},
		{"schema of another tenant", unique, `schema_name = '` + acme.Placement.Schema + `'`},
		{"role of another tenant", unique, `role_name = '` + acme.Placement.Role + `'`},
		{"schema that is a list", check, `schema_name = 'a, b, public'`},
		{"schema that would be cut", check, `schema_name = repeat('a', 64)`},
		{"schema of the registry", check, `schema_name = 'leasehold'`},
		{"schema of the system", check, `schema_name = 'pg_catalog'`},
		{"role in upper case", check, `role_name = 'R_globex'`},
		{"unknown status", check, `status = 'paused'`},
		{"unknown strategy", check, `strategy = 'cluster'`},
		{"unknown cluster", foreign, `cluster = 'elsewhere'`},
		{"no company", check, `company = ''`},
		{"long contact", check, `contact_name = repeat('ü', 201)`},
		{"no address", check, `contact_email = ''`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			wantState(t, admin, tc.want, `UPDATE tenants SET `+tc.assignment+` WHERE slug = 'globex'`)
		})
	}
	wantState(t, admin, check, `INSERT INTO installation (singleton) VALUES (false)`)
	wantState(t, admin, unique, `INSERT INTO installation DEFAULT VALUES`)
}
