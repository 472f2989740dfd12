package tenanttest

import (
	"context"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/db/tenant"
)

// scopeSQL asks the server what a call is held to. It is one text for all tenants, as a program's own queries are.
const scopeSQL = `SELECT pg_catalog.current_database()::text, coalesce(pg_catalog.current_schema()::text, ''),
	pg_catalog.current_setting('search_path'), current_user::text,
	array(SELECT coalesce(pg_catalog.current_setting(n, true), '') FROM pg_catalog.unnest($1::text[]) AS n)`

// scope is what a call saw of itself.
type scope struct {
	database, schema, path, role string
	settings                     []string
}

func (s *scope) scan(row pgx.Row) error {
	return row.Scan(&s.database, &s.schema, &s.path, &s.role, &s.settings)
}

func readScope(ctx context.Context, db DBTX, settings []string) (s scope, err error) {
	err = s.scan(db.QueryRow(ctx, scopeSQL, settings))
	return s, err
}

func (s scope) equal(other scope) bool {
	return s.database == other.database && s.schema == other.schema && s.path == other.path && s.role == other.role &&
		slices.Equal(s.settings, other.settings)
}

// part is one thing that a scope is made of.
type part struct {
	name string
	of   func(scope) string
	// said is what a tenant's record, or the target, says it should be; nil or "" if nothing is said.
	said func(*tenant.Tenant) string
	// binding parts are what is said, and the others what they were at first: a role may be shared by all tenants.
	binding bool
}

func parts(names []string, settings func(*tenant.Tenant) map[string]string) []part {
	list := []part{
		{"schema", func(s scope) string { return s.schema }, func(t *tenant.Tenant) string { return t.Placement.Schema }, true},
		{"role", func(s scope) string { return s.role }, func(t *tenant.Tenant) string { return t.Placement.Role }, false},
		{"database", func(s scope) string { return s.database }, func(t *tenant.Tenant) string { return t.Placement.Database }, false},
		{"search_path", func(s scope) string { return s.path }, nil, false},
	}
	for i, name := range names {
		list = append(list, part{
			"setting " + name, func(s scope) string { return s.settings[i] }, func(t *tenant.Tenant) string { return settings(t)[name] }, true,
		})
	}
	return list
}

// says returns what is said of a part of t.
func (p part) says(t *tenant.Tenant) string {
	if p.said == nil {
		return ""
	}
	return p.said(t)
}

// judgeScope looks for parts of what tenant i saw that are not its own, or not what they were.
func (t *trial[D]) judgeScope(i int, got scope) {
	for _, p := range t.parts {
		saw := p.of(got)
		owner := t.ownerOf(p, saw)
		if want, known := t.expected(i, p); known && saw != want || !known && owner >= 0 && owner != i {
			t.leak(i, p.name, saw, owner)
		}
	}
}

// expected returns what a part must be for tenant i.
func (t *trial[D]) expected(i int, p part) (string, bool) {
	if said := p.says(t.target.Tenants[i]); p.binding && said != "" {
		return said, true
	}
	if t.scopes != nil {
		return p.of(t.scopes[i]), true
	}
	return "", false
}

// ownerOf returns the tenant that a value belongs to, or -1 if it belongs to none or to several.
func (t *trial[D]) ownerOf(p part, value string) int {
	owner := -1
	for j, tn := range t.target.Tenants {
		if value != "" && value == p.says(tn) || t.scopes != nil && value == p.of(t.scopes[j]) {
			if owner >= 0 {
				return -1
			}
			owner = j
		}
	}
	return owner
}

// learn reads what each tenant's calls are held to, which from then on must stay as it is, and differ between tenants.
func (t *trial[D]) learn(ctx context.Context) {
	scopes := make([]scope, len(t.target.Tenants))
	for i := range scopes {
		if !t.do(ctx, i, "read the scope", func(ctx context.Context, db D) (err error) {
			scopes[i], err = readScope(ctx, db, t.settings)
			return err
		}) {
			t.stopped.Store(true)
			return
		}
		t.judgeScope(i, scopes[i])
	}
	ownRoles := slices.ContainsFunc(scopes, func(s scope) bool {
		return slices.ContainsFunc(t.target.Tenants, func(tn *tenant.Tenant) bool { return tn.Placement.Role == s.role })
	})
	for i, s := range scopes {
		if ownRoles && s.role != t.target.Tenants[i].Placement.Role {
			t.leak(i, "role", s.role, -1)
		}
		for j := range i {
			if s.equal(scopes[j]) {
				t.leak(i, "scope", s.path, j)
			}
		}
	}
	t.scopes = scopes
}
