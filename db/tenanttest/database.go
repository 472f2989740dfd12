package tenanttest

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/leasehold-go/leasehold/internal/pgserver"
)

// codeUndefinedTable is the SQLSTATE of a table that is not there.
const codeUndefinedTable = "42P01"

// fleets counts the databases made, to name them.
var fleets atomic.Int64

// newDatabase creates a database that the administrator owns. It is dropped when tb ends, with the databases of tenants'
// own that its registry names, and the roles that were made for them.
func newDatabase(tb testing.TB, server *pgserver.Server) (*pgx.ConnConfig, error) {
	tb.Helper()
	name := fmt.Sprintf("fleet_%d", fleets.Add(1))
	super := server.URL(pgserver.Superuser, "postgres")
	create := "CREATE DATABASE " + name + " OWNER " + pgserver.Administrator + " TEMPLATE template0 STRATEGY file_copy"
	if err := onServer(tb.Context(), super, func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, create)
		return err
	}); err != nil {
		return nil, fmt.Errorf("create a database: %w", err)
	}
	tb.Cleanup(func() {
		if err := dropFleet(server, name); err != nil {
			tb.Errorf("tenanttest: drop the database %s: %v", name, err)
		}
	})
	return pgx.ParseConfig(server.URL(pgserver.Administrator, name))
}

func onServer(ctx context.Context, url string, work func(context.Context, *pgx.Conn) error) (err error) {
	ctx, cancel := context.WithTimeout(ctx, cleanupTimeout)
	defer cancel()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }()
	return work(ctx, conn)
}

// rolesSQL finds the roles that have something in some databases or may connect to them. Roles belong to the whole server and stay
// when their databases go.
const rolesSQL = `SELECT DISTINCT r.rolname::text FROM pg_database d
	JOIN pg_shdepend s ON s.dbid = d.oid OR s.classid = 'pg_database'::regclass AND s.objid = d.oid
	JOIN pg_roles r ON s.refclassid = 'pg_authid'::regclass AND r.oid = s.refobjid
	WHERE d.datname = ANY ($1) AND r.rolname <> ALL ($2)`

// ownDatabasesSQL finds the databases of tenants' own, those that a move has left behind too.
const ownDatabasesSQL = `SELECT database_name FROM leasehold.tenants WHERE strategy = 'database'
	UNION SELECT database_name FROM leasehold.moves WHERE strategy = 'database'
	UNION SELECT old_database_name FROM leasehold.moves WHERE old_strategy = 'database'`

// dropFleet drops all that a fleet has on its server.
func dropFleet(server *pgserver.Server, name string) error {
	databases := []string{name}
	err := onServer(context.Background(), server.URL(pgserver.Superuser, name), func(ctx context.Context, conn *pgx.Conn) error {
		own, err := stringsOf(ctx, conn, ownDatabasesSQL)
		if pgErr := (*pgconn.PgError)(nil); errors.As(err, &pgErr) && pgErr.Code == codeUndefinedTable {
			return nil // New has failed before there was a registry
		}
		databases = append(databases, own...)
		return err
	})
	if err != nil {
		return err
	}
	return onServer(context.Background(), server.URL(pgserver.Superuser, "postgres"), func(ctx context.Context, conn *pgx.Conn) error {
		roles, err := stringsOf(ctx, conn, rolesSQL, databases, []string{pgserver.Superuser, pgserver.Administrator})
		if err != nil {
			return err
		}
		for _, database := range databases {
			if _, err := conn.Exec(ctx, "DROP DATABASE IF EXISTS "+pgx.Identifier{database}.Sanitize()+" WITH (FORCE)"); err != nil {
				return err
			}
		}
		for _, role := range roles {
			if _, err := conn.Exec(ctx, "DROP ROLE "+pgx.Identifier{role}.Sanitize()); err != nil {
				return err
			}
		}
		return nil
	})
}

func stringsOf(ctx context.Context, conn *pgx.Conn, sql string, args ...any) ([]string, error) {
	rows, err := conn.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}
