package tenantdb

import (
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/leasehold-go/leasehold/db/tenant"
)

const (
	// scopeSQL holds a flight to a tenant until the end of its transaction. The cast fails the flight when the schema is
	// missing, and when the name is anything but one name.
	scopeSQL = "SELECT pg_catalog.set_config('search_path', $1, true), $2::pg_catalog.regnamespace, " +
		"pg_catalog.set_config('role', $3, true)"
	scopeName = "lh_scope"
)

var scopeParamOIDs = []uint32{pgtype.TextOID, regnamespaceOID, pgtype.TextOID}

const regnamespaceOID = 4089

// scope is what holds a call to one tenant, in the form in which it is sent. Everything but own is immutable. It is also the
// first half of the key of a named statement: a tenant that moved gets a new scope, and so new statements.
type scope struct {
	tenant *tenant.Tenant
	// args are the parameters of scopeSQL: search_path, schema, role.
	args [][]byte
	// beginSQL is appended to BEGIN. Its names are quoted literals of names that passed Placement.Validate.
	beginSQL string
	// own holds the descriptions that are known to fit this tenant.
	own *descriptions
}

func newScope(t *tenant.Tenant, extensionSchema string) (*scope, error) {
	if err := t.Placement.Validate(); err != nil {
		return nil, fmt.Errorf("tenant %s: %w", t.Slug, err)
	}
	schema := pgx.Identifier{t.Placement.Schema}.Sanitize()
	path := schema
	if extensionSchema != "" {
		path += ", " + pgx.Identifier{extensionSchema}.Sanitize()
	}
	// pg_temp is named so that it comes last: a temporary table must not stand in front of a tenant's own.
	path += ", pg_temp"
	return &scope{
		tenant: t,
		args:   [][]byte{[]byte(path), []byte(schema), []byte(t.Placement.Role)},
		beginSQL: fmt.Sprintf("; SELECT pg_catalog.set_config('search_path', '%s', true), '%s'::pg_catalog.regnamespace, "+
			"pg_catalog.set_config('role', '%s', true)", path, schema, t.Placement.Role),
		own: newDescriptions(descriptionsPerTenant),
	}, nil
}

// fits reports whether the scope still says where t lives.
func (s *scope) fits(t *tenant.Tenant) bool {
	return s.tenant == t || s.tenant.Placement == t.Placement
}
