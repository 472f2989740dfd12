package directory

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/internal/controlsql"
	"github.com/leasehold-go/leasehold/internal/scram"
)

// ownHouse is a house in a database of the tenant's own, which nobody else's login can connect to.
type ownHouse struct {
	house    // its login is the tenant's own
	database string
}

func ownHouseOf(row controlsql.Tenant) ownHouse {
	return ownHouse{house{schema: row.SchemaName, role: row.RoleName, login: ownLogin(row.RoleName)}, row.DatabaseName}
}

func (h ownHouse) String() string {
	return fmt.Sprintf("database %s, login %s, %s", h.database, h.login, h.house)
}

// ownLogin is the login of the tenant that has the role; see tenant.Placement.OwnDatabase.
func ownLogin(role string) string { return "l_" + strings.TrimPrefix(role, "r_") }

// create makes role, login, database and schema, in this order and not in one transaction. s is a session of the administrator in
// another database of the server. What a call that breaks off has made, drop removes.
func (h ownHouse) create(ctx context.Context, s *session, password string, logger *slog.Logger) error {
	version, err := s.q.ServerVersion(ctx)
	if err != nil {
		return err
	}
	if err := h.createLogin(ctx, s, password, version); err != nil {
		return fmt.Errorf("create the login: %w", err)
	}
	return h.furnish(ctx, s, logger)
}

// furnish makes the database and the schema in it, for a role and a login that are there.
func (h ownHouse) furnish(ctx context.Context, s *session, logger *slog.Logger) error {
	if err := h.createDatabase(ctx, s); err != nil {
		return fmt.Errorf("create the database: %w", err)
	}
	inside, err := dialAdministrator(ctx, inDatabase(s.conn.Config(), h.database))
	if err != nil {
		return err
	}
	defer inside.close()
	return inside.inTx(ctx, func(q *controlsql.Queries, tx pgx.Tx) error {
		if err := lockDown(ctx, q, tx, logger); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, h.createSchemaSQL()); err != nil {
			return fmt.Errorf("create the schema: %w", err)
		}
		return nil
	})
}

// createLogin makes the role and the login, which so far can connect nowhere that is closed to everybody.
func (h ownHouse) createLogin(ctx context.Context, s *session, password string, version int32) error {
	verifier, err := scram.Verifier(password)
	if err != nil {
		return err
	}
	return s.inTx(ctx, func(_ *controlsql.Queries, tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, h.createRoleSQL()); err != nil {
			return err
		}
		if err := alterLogin(ctx, tx, h.login, true); err != nil {
			return err
		}
		if err := setVerifier(ctx, tx, h.login, verifier); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, h.grantSQL(version))
		return err
	})
}

// createDatabase makes an empty database in which texts are compared as in that of the session. Nobody can connect to it before
// it is closed to the public. The template is the one that nobody can have put anything into.
func (h ownHouse) createDatabase(ctx context.Context, s *session) error {
	locale, err := s.q.GetDatabaseLocale(ctx)
	if err != nil {
		return err
	}
	name := pgx.Identifier{h.database}.Sanitize()
	sql := "CREATE DATABASE " + name + " TEMPLATE template0" + localeSQL(locale) + " ALLOW_CONNECTIONS false"
	if _, err := s.conn.Exec(ctx, sql); err != nil {
		return err
	}
	return s.inTx(ctx, func(_ *controlsql.Queries, tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "REVOKE ALL ON DATABASE "+name+" FROM PUBLIC;\n"+
			"GRANT CONNECT ON DATABASE "+name+" TO "+pgx.Identifier{h.login}.Sanitize()+";\n"+
			"ALTER DATABASE "+name+" ALLOW_CONNECTIONS true")
		return err
	})
}

// localeSQL says how texts are encoded and compared in a new database.
func localeSQL(l controlsql.GetDatabaseLocaleRow) string {
	sql := " ENCODING " + literal(l.Encoding) + " LC_COLLATE " + literal(l.Collate) + " LC_CTYPE " + literal(l.Ctype)
	switch l.Provider {
	case "i":
		sql += " LOCALE_PROVIDER icu ICU_LOCALE " + literal(l.Locale)
		if l.Rules != "" {
			sql += " ICU_RULES " + literal(l.Rules)
		}
	case "b":
		sql += " LOCALE_PROVIDER builtin BUILTIN_LOCALE " + literal(l.Locale)
	default:
		sql += " LOCALE_PROVIDER libc"
	}
	return sql
}

// literal quotes a text for statements that take no parameters.
func literal(s string) string {
	quoted := "'" + strings.ReplaceAll(s, "'", "''") + "'"
	if strings.Contains(s, `\`) {
		quoted = " E" + strings.ReplaceAll(quoted, `\`, `\\`)
	}
	return quoted
}

// drop removes the database, whoever is connected to it, the login and the role, as far as they are there.
func (h ownHouse) drop(ctx context.Context, s *session) error {
	if err := h.lockOut(ctx, s); err != nil {
		return err
	}
	if err := forceDrop(ctx, s, h.database); err != nil {
		return err
	}
	for _, role := range []string{h.login, h.role} {
		if err := releaseRole(ctx, s, role); err != nil {
			return err
		}
		if _, err := s.conn.Exec(ctx, "DROP ROLE IF EXISTS "+pgx.Identifier{role}.Sanitize()); err != nil {
			return err
		}
	}
	return nil
}

// dropTries bounds how often a database is dropped that somebody is found in.
const dropTries = 5

// forceDrop drops a database, if it is there, and ends who is connected to it. To WITH (FORCE) an autovacuum worker is somebody whom only
// a superuser may end; a drop without it sends the worker away.
func forceDrop(ctx context.Context, s *session, database string) (err error) {
	drop := "DROP DATABASE IF EXISTS " + pgx.Identifier{database}.Sanitize()
	for range dropTries {
		if _, err = s.conn.Exec(ctx, drop+" WITH (FORCE)"); sqlState(err) != codeInsufficientPrivilege {
			return err
		}
		if _, err = s.conn.Exec(ctx, drop); sqlState(err) != codeObjectInUse {
			return err
		}
	}
	return err
}

// lockOut keeps the login from connecting again. Only members of a login may end its sessions.
func (h ownHouse) lockOut(ctx context.Context, s *session) error {
	if _, err := s.q.GetLogin(ctx, h.login); err != nil {
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		return err
	}
	version, err := s.q.ServerVersion(ctx)
	if err != nil {
		return err
	}
	_, err = s.conn.Exec(ctx, "ALTER ROLE "+pgx.Identifier{h.login}.Sanitize()+" NOLOGIN;\n"+joinRoleSQL(h.login, version))
	return err
}
