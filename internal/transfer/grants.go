package transfer

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// grant is a right that somebody other than the owner has on something in a schema.
type grant struct {
	// Kind is what GRANT calls the object; for default privileges it is DEFAULT, and Object what they are for.
	Kind   string `json:"kind"`
	Object string `json:"object"`
	Column string `json:"column,omitempty"`
	Right  string `json:"right"`
	// Grantee is a role, PUBLIC, or tenantRole.
	Grantee   string `json:"grantee"`
	Grantable bool   `json:"grantable,omitempty"`
}

// tenantRole stands for the tenant's role. No role can have the name.
const tenantRole = ""

// grantsSQL reads them all. Names without a schema are those of the tenant, since its schema is on the path.
const grantsSQL = `with ns as (select oid, nspowner, nspacl from pg_namespace where nspname = $1), acls as (
	select case relkind when 'S' then 'SEQUENCE' else 'TABLE' end as kind, quote_ident(relname) as object, '' as col, relowner as owner,
		coalesce(relacl, acldefault(case relkind when 'S' then 's' else 'r' end::"char", relowner)) as acl
		from pg_class where relnamespace = (select oid from ns) and relkind in ('r', 'p', 'v', 'm', 'f', 'S')
	union all select 'TABLE', quote_ident(relname), quote_ident(attname), relowner, attacl
		from pg_class c join pg_attribute on attrelid = c.oid
		where relnamespace = (select oid from ns) and attacl is not null and not attisdropped
	union all select 'ROUTINE', oid::regprocedure::text, '', proowner, coalesce(proacl, acldefault('f', proowner))
		from pg_proc where pronamespace = (select oid from ns)
	union all select 'TYPE', quote_ident(typname), '', typowner, coalesce(typacl, acldefault('T', typowner))
		from pg_type t where typnamespace = (select oid from ns) and typtype in ('e', 'd', 'r', 'c', 'b') and typelem = 0
			and not exists (select from pg_class where oid = typrelid and relkind <> 'c')
	union all select 'SCHEMA', '', '', nspowner, coalesce(nspacl, acldefault('n', nspowner)) from ns
	union all select 'DEFAULT', case defaclobjtype when 'r' then 'TABLES' when 'S' then 'SEQUENCES' when 'f' then 'ROUTINES' else 'TYPES' end,
		'', defaclrole, defaclacl from pg_default_acl where defaclnamespace = (select oid from ns) and defaclrole = current_user::regrole
)
select kind, object, col, privilege_type, case grantee when 0 then 'PUBLIC' else pg_get_userbyid(grantee)::text end, is_grantable
	from acls, aclexplode(acl) where grantee <> owner`

func (s *session) grants(ctx context.Context) ([]grant, error) {
	rows, err := s.Query(ctx, grantsSQL, s.place.Schema)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (g grant, err error) {
		err = row.Scan(&g.Kind, &g.Object, &g.Column, &g.Right, &g.Grantee, &g.Grantable)
		if g.Grantee == s.place.Role {
			g.Grantee = tenantRole
		}
		return g, err
	})
}

// setGrants makes the rights in the schema what they are to be.
func (s *session) setGrants(ctx context.Context, want []grant) error {
	have, err := s.grants(ctx)
	if err != nil {
		return err
	}
	var statements []string
	for _, g := range have {
		if !slices.Contains(want, g) {
			statements = append(statements, s.place.revokeSQL(g))
		}
	}
	for _, g := range want {
		if !slices.Contains(have, g) {
			statements = append(statements, s.place.grantSQL(g))
		}
	}
	for batch := range slices.Chunk(statements, batchSize) {
		if err := s.run(ctx, batch...); err != nil {
			return fmt.Errorf("set rights: %w", err)
		}
	}
	return nil
}

func (p Place) grantSQL(g grant) string {
	sql := "grant " + p.right(g) + " to " + p.grantee(g)
	if g.Grantable {
		sql += " with grant option"
	}
	return p.inSchema(g) + sql
}

func (p Place) revokeSQL(g grant) string {
	return p.inSchema(g) + "revoke " + p.right(g) + " from " + p.grantee(g) + " cascade"
}

func (p Place) inSchema(g grant) string {
	if g.Kind == "DEFAULT" {
		return "alter default privileges in schema " + quote(p.Schema) + " "
	}
	return ""
}

func (p Place) right(g grant) string {
	right := strings.ToLower(g.Right)
	if g.Column != "" {
		right += " (" + g.Column + ")"
	}
	switch g.Kind {
	case "DEFAULT":
		return right + " on " + g.Object
	case "SCHEMA":
		return right + " on schema " + quote(p.Schema)
	default:
		return right + " on " + g.Kind + " " + g.Object
	}
}

func (p Place) grantee(g grant) string {
	switch g.Grantee {
	case tenantRole:
		return quote(p.Role)
	case "PUBLIC":
		return "public"
	default:
		return quote(g.Grantee)
	}
}
