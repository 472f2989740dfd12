package fleet

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/db/tenant"
)

// buildDatabase makes a tenant's own database and its login, and then what every tenant has.
func (f *Fleet) buildDatabase(ctx context.Context, tn *tenant.Tenant) error {
	p := tn.Placement
	conn, err := pgx.ConnectConfig(ctx, f.admin.Copy())
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	for _, sql := range []string{
		"CREATE DATABASE " + p.Database + " TEMPLATE template0 STRATEGY file_copy",
		"REVOKE ALL ON DATABASE " + p.Database + " FROM PUBLIC",
		fmt.Sprintf("CREATE ROLE %[1]s LOGIN NOINHERIT PASSWORD '%[2]s'; ALTER ROLE %[1]s SET search_path = ''; GRANT CONNECT ON DATABASE %[3]s TO %[1]s",
			p.Login, password, p.Database),
	} {
		if _, err := conn.PgConn().Exec(ctx, sql).ReadAll(); err != nil {
			return err
		}
	}
	one := []*tenant.Tenant{tn}
	if err := f.run(ctx, f.adminOf(tn), one, func([]*tenant.Tenant) string { return "REVOKE ALL ON SCHEMA public FROM PUBLIC" }); err != nil {
		return err
	}
	return f.run(ctx, f.adminOf(tn), one, f.tenantSQL)
}

// adminOf says how the administrator connects to a tenant's own database.
func (f *Fleet) adminOf(tn *tenant.Tenant) *pgx.ConnConfig {
	cc := f.admin.Copy()
	cc.Database = tn.Placement.Database
	return cc
}

// dropDatabase drops what buildDatabase has made, or a part of it.
func (f *Fleet) dropDatabase(ctx context.Context, tn *tenant.Tenant) error {
	p := tn.Placement
	conn, err := pgx.ConnectConfig(ctx, f.admin.Copy())
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	for _, sql := range []string{
		"DROP DATABASE IF EXISTS " + p.Database + " WITH (FORCE)",
		"DROP ROLE IF EXISTS " + p.Login + ", " + p.Role,
	} {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return err
		}
	}
	return nil
}
