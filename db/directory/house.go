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

// createSQL makes the role and the empty schema: the role may use the schema and whatever tables, sequences, functions and types
// the administrator's login will create in it, and may create nothing itself.
func (h house) createSQL(version int32) string {
	schema, role := pgx.Identifier{h.schema}.Sanitize(), pgx.Identifier{h.role}.Sanitize()
	defaults := "ALTER DEFAULT PRIVILEGES IN SCHEMA " + schema + " GRANT "
	statements := []string{
		"CREATE ROLE " + role + " NOLOGIN NOINHERIT NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS",
		"CREATE SCHEMA " + schema,
		"REVOKE ALL ON SCHEMA " + schema + " FROM PUBLIC",
		"GRANT USAGE ON SCHEMA " + schema + " TO " + role,
		defaults + "SELECT, INSERT, UPDATE, DELETE ON TABLES TO " + role,
		defaults + "SELECT, USAGE, UPDATE ON SEQUENCES TO " + role,
		defaults + "EXECUTE ON FUNCTIONS TO " + role,
		defaults + "USAGE ON TYPES TO " + role,
	}
	if h.login != "" {
		options := ""
		if version >= inheritOptionVersion {
			options = " WITH INHERIT FALSE, SET TRUE"
		}
		statements = append(statements, "GRANT "+role+" TO "+pgx.Identifier{h.login}.Sanitize()+options)
	}
	return strings.Join(statements, ";\n")
}

// dropSQL undoes createSQL and what was created since. The schema's default privileges go with the schema; that a login is a
// member of the role goes with the role. It gives up when somebody else reads there for longer than five seconds.
func (h house) dropSQL() string {
	return "SET LOCAL lock_timeout = '5s';\n" +
		"DROP SCHEMA IF EXISTS " + pgx.Identifier{h.schema}.Sanitize() + " CASCADE;\n" +
		"DROP ROLE IF EXISTS " + pgx.Identifier{h.role}.Sanitize()
}
