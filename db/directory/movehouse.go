package directory

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/internal/controlsql"
	"github.com/leasehold-go/leasehold/internal/scram"
)

// codeDependents says that something depends on what was to be dropped.
const codeDependents = "2BP01"

// house makes the empty house at the new place. Role and login may be there already, if the old place is on the same server.
func (m *moving) house(ctx context.Context) error {
	at := m.target()
	site, err := m.d.openSite(ctx, at.Cluster, m.id)
	if err != nil {
		return err
	}
	defer site.close()
	if at.Strategy == tenant.DatabaseStrategy {
		return m.ownHouse(ctx, site, at)
	}
	login := clusterLogin{at.Cluster, at.LoginNo}
	if err := m.d.ensureLogin(ctx, login, loginFit, false); err != nil {
		return err
	}
	h := house{schema: at.SchemaName, role: at.RoleName}
	return site.inTx(ctx, func(_ *controlsql.Queries, tx pgx.Tx) error {
		_, err := tx.Exec(ctx, h.ensureRoleSQL()+";\n"+h.createSchemaSQL())
		return err
	})
}

// ensureRoleSQL makes the role if it is missing.
func (h house) ensureRoleSQL() string {
	return "DO $role$ BEGIN IF to_regrole(" + literal(h.role) + ") IS NULL THEN " + h.createRoleSQL() + "; END IF; END $role$"
}

func (m *moving) ownHouse(ctx context.Context, site *session, at controlsql.Tenant) error {
	password, err := m.d.sealer.open(ownerOfPassword(m.id), at.EncryptedPassword)
	if err != nil {
		return err
	}
	verifier, err := scram.Verifier(string(password))
	if err != nil {
		return err
	}
	h := ownHouseOf(at)
	err = site.inTx(ctx, func(q *controlsql.Queries, tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, h.ensureRoleSQL()); err != nil {
			return err
		}
		_, err := q.GetLogin(ctx, h.login)
		missing := errors.Is(err, pgx.ErrNoRows)
		if err != nil && !missing {
			return err
		}
		if err := alterLogin(ctx, tx, h.login, missing); err != nil || !missing {
			return err
		}
		return setVerifier(ctx, tx, h.login, verifier)
	})
	if err != nil {
		return err
	}
	if err := h.furnish(ctx, site, m.d.cfg.Logger); err != nil {
		return err
	}
	return m.d.tryOwnLogin(ctx, at, string(password))
}

// keepPassword keeps the password of a tenant that has one at both places from being changed until the returned session is closed, and
// gives the login at the new place the one that the tenant has by now. The session is nil if there is no such password.
func (m *moving) keepPassword(ctx context.Context) (*session, error) {
	if m.move.OldStrategy != tenant.DatabaseStrategy || m.move.Strategy != tenant.DatabaseStrategy {
		return nil, nil
	}
	site, err := m.d.openSite(ctx, m.move.OldCluster, m.id)
	if err != nil {
		return nil, err
	}
	if err := m.followPassword(ctx); err != nil {
		site.close()
		return nil, fmt.Errorf("follow a change of its password: %w", err)
	}
	return site, nil
}

func (m *moving) followPassword(ctx context.Context) error {
	row, err := m.session.q.GetTenant(ctx, m.id)
	switch {
	case err != nil:
		return err
	case row.NextEncryptedPassword != nil:
		return errors.New("it was broken off; rotate the password again, then move the tenant")
	case bytes.Equal(row.EncryptedPassword, m.move.EncryptedPassword):
		return nil
	}
	password, err := m.d.sealer.open(ownerOfPassword(m.id), row.EncryptedPassword)
	if err != nil {
		return err
	}
	verifier, err := scram.Verifier(string(password))
	if err != nil {
		return err
	}
	site, err := m.d.connectTo(ctx, m.move.Cluster)
	if err != nil {
		return err
	}
	defer site.close()
	err = site.inTx(ctx, func(_ *controlsql.Queries, tx pgx.Tx) error {
		return setVerifier(ctx, tx, ownLogin(row.RoleName), verifier)
	})
	if err != nil {
		return err
	}
	return m.session.q.SetMovePassword(ctx, controlsql.SetMovePasswordParams{TenantID: m.id, Sealed: row.EncryptedPassword})
}

// dropCopy drops one of a tenant's two copies, which nobody uses: the schema of that name, or the database. Role and login stay if the
// other copy is on the same server.
func (d *Directory) dropCopy(ctx context.Context, at controlsql.Tenant, schema string) error {
	site, err := d.openSite(ctx, at.Cluster, at.ID)
	if err != nil {
		return err
	}
	defer site.close()
	if at.Strategy == tenant.DatabaseStrategy {
		h := ownHouseOf(at)
		if err := h.dropDatabase(ctx, site); err != nil {
			return err
		}
		if err := dropUnused(ctx, site, h.login); err != nil {
			return err
		}
		return dropUnused(ctx, site, h.role)
	}
	if err := emptySchema(ctx, site, schema); err != nil {
		return err
	}
	if err := inBatch(ctx, site, "DROP SCHEMA IF EXISTS "+pgx.Identifier{schema}.Sanitize()+" CASCADE"); err != nil {
		return err
	}
	return dropUnused(ctx, site, at.RoleName)
}

// dropUnused drops a role that no database of the server speaks of.
func dropUnused(ctx context.Context, s *session, role string) error {
	_, err := s.conn.Exec(ctx, "DROP ROLE IF EXISTS "+pgx.Identifier{role}.Sanitize())
	if sqlState(err) == codeDependents {
		return nil
	}
	return err
}

// dropDatabase drops the database, whoever is connected to it. The login stays what it is.
func (h ownHouse) dropDatabase(ctx context.Context, s *session) error {
	database, login := pgx.Identifier{h.database}.Sanitize(), pgx.Identifier{h.login}.Sanitize()
	var there bool
	if err := s.conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_catalog.pg_database WHERE datname = $1)", h.database).Scan(&there); err != nil || !there {
		return err
	}
	if _, err := s.conn.Exec(ctx, "ALTER DATABASE "+database+" ALLOW_CONNECTIONS false"); err != nil {
		return err
	}
	// Only members of a login may end its sessions.
	version, err := s.q.ServerVersion(ctx)
	if err != nil {
		return err
	}
	_, err = s.q.GetLogin(ctx, h.login)
	missing := errors.Is(err, pgx.ErrNoRows)
	if err != nil && !missing {
		return err
	}
	if !missing {
		if _, err := s.conn.Exec(ctx, joinRoleSQL(h.login, version)); err != nil {
			return err
		}
	}
	if err := forceDrop(ctx, s, h.database); err != nil || missing {
		return err
	}
	_, err = s.conn.Exec(ctx, "REVOKE "+login+" FROM CURRENT_USER")
	return err
}
