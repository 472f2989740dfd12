package directory

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/db/migrate"
	"github.com/leasehold-go/leasehold/db/migrations"
	"github.com/leasehold-go/leasehold/internal/controlsql"
)

// Migrate makes the registry, or brings it up to date, and closes what PostgreSQL leaves open to everybody. It may run at any
// time, from any number of processes at once; a Directory of the release before goes on working meanwhile.
//
//   - It creates the schema "leasehold" if it is missing, and lets nobody but its owner in.
//   - If ConnConfig's login owns the database, it revokes CONNECT and TEMPORARY on it from PUBLIC: other logins then need a
//     GRANT of their own.
//   - If the login owns the schema "public", it revokes CREATE on it from PUBLIC.
//
// Config.SecretKey and Config.Migrator are not needed. The error of a migration is a *migrate.Error.
func Migrate(ctx context.Context, cfg Config) (migrate.Result, error) {
	if err := cfg.validate(); err != nil {
		return migrate.Result{}, err
	}
	cfg = cfg.withDefaults()
	m, err := registryMigrator(cfg)
	if err != nil {
		return migrate.Result{}, err
	}
	if err := prepareSchema(ctx, cfg); err != nil {
		return migrate.Result{}, fmt.Errorf("directory: %w", err)
	}
	result, err := m.Apply(ctx, registryTarget(cfg))
	if err != nil {
		return result, fmt.Errorf("directory: %w", err)
	}
	return result, nil
}

func registryMigrator(cfg Config) (*migrate.Migrator, error) {
	set, err := migrate.Load(migrations.FS, "control")
	if err != nil {
		return nil, fmt.Errorf("directory: %w", err)
	}
	return migrate.New(set, migrate.Config{Logger: cfg.Logger}), nil
}

func registryTarget(cfg Config) migrate.Target {
	return migrate.Target{Name: "registry", Schema: schemaName, Conn: cfg.ConnConfig}
}

// checkMigrated returns ErrNotMigrated if Migrate has to run. A registry that is newer than this program is fine: migrations
// keep the release before working.
func checkMigrated(ctx context.Context, cfg Config) error {
	m, err := registryMigrator(cfg)
	if err != nil {
		return err
	}
	statuses, err := m.Status(ctx, []migrate.Target{registryTarget(cfg)})
	switch {
	case errors.Is(err, migrate.ErrSchemaMissing):
		return fmt.Errorf("%w: the schema %q does not exist", ErrNotMigrated, schemaName)
	case len(statuses) == 1 && statuses[0].Err != nil: // which err only counts
		return fmt.Errorf("directory: %w", statuses[0].Err)
	case err != nil:
		return fmt.Errorf("directory: %w", err)
	}
	if n := len(statuses[0].Pending); n > 0 {
		return fmt.Errorf("%w: %d migrations are pending", ErrNotMigrated, n)
	}
	return nil
}

// prepareSchema creates the registry's schema and closes what is open, in one transaction, one process at a time.
func prepareSchema(ctx context.Context, cfg Config) error {
	conn, err := pgx.ConnectConfig(ctx, cfg.ConnConfig)
	if err != nil {
		return err
	}
	defer closeConn(conn)
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		q := controlsql.New(tx)
		if err := q.LockTransaction(ctx, privilegesLock); err != nil {
			return err
		}
		if err := createSchema(ctx, q, tx); err != nil {
			return err
		}
		return lockDown(ctx, q, tx, cfg.Logger)
	})
}

func createSchema(ctx context.Context, q *controlsql.Queries, tx pgx.Tx) error {
	schema := pgx.Identifier{schemaName}.Sanitize()
	owner, err := q.GetSchemaOwner(ctx, schemaName)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		if _, err := tx.Exec(ctx, "CREATE SCHEMA "+schema); err != nil {
			return fmt.Errorf("create the schema %q: %w", schemaName, err)
		}
	case err != nil:
		return err
	case !owner.IsOurs:
		// Whoever made it may have put functions and triggers into it.
		return fmt.Errorf("the schema %q belongs to the role %q; connect as that role, or drop the schema", schemaName, owner.Owner)
	}
	_, err = tx.Exec(ctx, "REVOKE ALL ON SCHEMA "+schema+" FROM PUBLIC")
	return err
}

// lockDown closes the transaction's database to everybody as far as the login may. It revokes only what is granted, so that
// running again changes nothing.
func lockDown(ctx context.Context, q *controlsql.Queries, tx pgx.Tx, logger *slog.Logger) error {
	state, err := q.GetLockdown(ctx)
	if err != nil {
		return err
	}
	if state.DatabaseIsOpen {
		database := pgx.Identifier{tx.Conn().Config().Database}.Sanitize()
		if !state.OwnsDatabase {
			logger.WarnContext(ctx, "every login of the server may connect to the database, and only its owner can change that",
				"database", database)
		} else if _, err := tx.Exec(ctx, "REVOKE CONNECT, TEMPORARY ON DATABASE "+database+" FROM PUBLIC"); err != nil {
			return err
		}
	}
	if state.PublicIsOpen {
		if !state.OwnsPublic {
			logger.WarnContext(ctx, `everybody may create objects in the schema "public", and only its owner can change that`)
		} else if _, err := tx.Exec(ctx, "REVOKE CREATE ON SCHEMA public FROM PUBLIC"); err != nil {
			return err
		}
	}
	return nil
}
