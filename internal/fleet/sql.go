package fleet

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/db/tenant"
)

// preludeSQL takes from PUBLIC what every login has unless it is taken away, and makes the runtime logins.
func (f *Fleet) preludeSQL() string {
	var b strings.Builder
	fmt.Fprintf(&b, "REVOKE ALL ON SCHEMA public FROM PUBLIC; REVOKE CONNECT, TEMPORARY ON DATABASE %s FROM PUBLIC;", f.database())
	for _, login := range f.logins {
		fmt.Fprintf(&b, `
			CREATE ROLE %[2]s LOGIN NOINHERIT PASSWORD '%[3]s';
			ALTER ROLE %[2]s SET search_path = '';
			GRANT CONNECT ON DATABASE %[1]s TO %[2]s;`, f.database(), login, password)
	}
	return b.String()
}

func (f *Fleet) database() string { return pgx.Identifier{f.admin.Database}.Sanitize() }

// tenantSQL builds tenants. Names that tenant.NewPlacement makes need no quotes, and neither do slugs.
func (f *Fleet) tenantSQL(tenants []*tenant.Tenant) string {
	var b strings.Builder
	for _, tn := range tenants {
		b.WriteString(strings.NewReplacer("SCHEMA_", tn.Placement.Schema, "ROLE_", tn.Placement.Role, "LOGIN_", f.loginOf(tn),
			"SLUG_", string(tn.Slug)).Replace(`
			CREATE ROLE ROLE_ NOLOGIN;
			GRANT ROLE_ TO LOGIN_;
			CREATE SCHEMA SCHEMA_;
			GRANT USAGE ON SCHEMA SCHEMA_ TO ROLE_;
			ALTER DEFAULT PRIVILEGES IN SCHEMA SCHEMA_ GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO ROLE_;
			SET LOCAL search_path = SCHEMA_;
			CREATE TYPE mood AS ENUM ('calm', 'only-SLUG_');`))
		for i := range f.Tables {
			b.WriteString(f.tableSQL(tn, i))
		}
	}
	return b.String()
}

// TableName returns the name of a tenant's table, for an i from 0 to Tables - 1.
func TableName(i int) string {
	if i == 0 {
		return "items"
	}
	return "items_" + strconv.Itoa(i+1)
}

func (f *Fleet) tableSQL(tn *tenant.Tenant, i int) string {
	sql := `
		CREATE TABLE TABLE_ (
			id int PRIMARY KEY,
			owner text NOT NULL DEFAULT 'SLUG_',
			mood mood NOT NULL DEFAULT 'only-SLUG_',
			qty int NOT NULL DEFAULT 0,
			parent int REFERENCES TABLE_ DEFERRABLE INITIALLY DEFERRED
		);`
	if i > 0 {
		sql += `CREATE INDEX ON TABLE_ (owner, qty);`
	}
	sql += `INSERT INTO TABLE_ (id) SELECT pg_catalog.generate_series(1, ROWS_);`
	return strings.NewReplacer("TABLE_", TableName(i), "SLUG_", string(tn.Slug), "ROWS_", strconv.Itoa(f.Rows)).Replace(sql)
}

// dropSQL drops the schemas first: all that a role was granted is in them.
func (f *Fleet) dropSQL(tenants []*tenant.Tenant) string {
	var b strings.Builder
	for _, tn := range tenants {
		fmt.Fprintf(&b, "DROP SCHEMA IF EXISTS %s CASCADE; DROP ROLE IF EXISTS %s;", tn.Placement.Schema, tn.Placement.Role)
	}
	return b.String()
}

// dropLoginsSQL drops the runtime logins. REVOKE, unlike DROP, minds if one is not there.
func (f *Fleet) dropLoginsSQL() string {
	return fmt.Sprintf(`
		DO $$ DECLARE login name; BEGIN
			FOR login IN SELECT rolname FROM pg_catalog.pg_roles WHERE rolname IN ('%s') LOOP
				EXECUTE 'REVOKE CONNECT ON DATABASE %s FROM ' || login;
				EXECUTE 'DROP ROLE ' || login;
			END LOOP;
		END $$`, strings.Join(f.logins, "','"), strings.ReplaceAll(f.database(), "'", "''"))
}
