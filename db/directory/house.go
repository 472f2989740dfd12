package directory

import (
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// house is what a tenant, a spare or a reference lives in: a schema, and a role that may use it.
type house struct {
	schema, role string
	login        string // the only member of the role; "" for none
}

func (h house) String() string { return fmt.Sprintf("schema %s, role %s", h.schema, h.role) }

// inheritOptionVersion is the first version of PostgreSQL in which a membership itself says whether rights are inherited.
const inheritOptionVersion = 160000

// createSQL makes the role and the empty schema, and makes the login a member.
func (h house) createSQL(version int32) string {
	sql := h.createRoleSQL() + ";\n" + h.createSchemaSQL()
	if h.login != "" {
		sql += ";\n" + h.grantSQL(version)
	}
	return sql
}

func (h house) createRoleSQL() string {
	return "CREATE ROLE " + pgx.Identifier{h.role}.Sanitize() +
		" NOLOGIN NOINHERIT NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS"
}

// createSchemaSQL makes the empty schema: the role may use it and whatever tables, sequences, functions and types the
// administrator's login will create in it, and may create nothing itself.
func (h house) createSchemaSQL() string {
	schema, role := pgx.Identifier{h.schema}.Sanitize(), pgx.Identifier{h.role}.Sanitize()
	return strings.Join(append([]string{
		"CREATE SCHEMA " + schema,
		"REVOKE ALL ON SCHEMA " + schema + " FROM PUBLIC",
		"GRANT USAGE ON SCHEMA " + schema + " TO " + role,
	}, h.defaultPrivilegesSQL()...), ";\n")
}

// defaultPrivilegesSQL gives the role its rights on what the administrator's login will create in the schema.
func (h house) defaultPrivilegesSQL() []string {
	role := pgx.Identifier{h.role}.Sanitize()
	defaults := "ALTER DEFAULT PRIVILEGES IN SCHEMA " + pgx.Identifier{h.schema}.Sanitize() + " GRANT "
	return []string{
		defaults + "SELECT, INSERT, UPDATE, DELETE ON TABLES TO " + role,
		defaults + "SELECT, USAGE, UPDATE ON SEQUENCES TO " + role,
		defaults + "EXECUTE ON FUNCTIONS TO " + role,
		defaults + "USAGE ON TYPES TO " + role,
	}
}

// grantSQL makes the login a member of the role, which it has to take on before it has any rights.
func (h house) grantSQL(version int32) string {
	options := ""
	if version >= inheritOptionVersion {
		options = " WITH INHERIT FALSE, SET TRUE"
	}
	return "GRANT " + pgx.Identifier{h.role}.Sanitize() + " TO " + pgx.Identifier{h.login}.Sanitize() + options
}

// dropSQL undoes createSQL and what was created since. The schema's default privileges go with the schema; that a login is a
// member of the role goes with the role. It gives up when somebody else reads there for longer than five seconds.
func (h house) dropSQL() string {
	return setPurgeTimeout + ";\n" + h.dropSchemaSQL() + ";\n" +
		"DROP ROLE IF EXISTS " + pgx.Identifier{h.role}.Sanitize()
}

func (h house) dropSchemaSQL() string {
	return "DROP SCHEMA IF EXISTS " + pgx.Identifier{h.schema}.Sanitize() + " CASCADE"
}
