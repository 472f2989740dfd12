package directory

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/maypok86/otter/v2"

	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/internal/controlsql"
	"github.com/leasehold-go/leasehold/internal/scram"
)

// newPassword makes a password for a login of a tenant's own: 256 random bits.
func newPassword() []byte {
	random := make([]byte, 32)
	_, _ = rand.Read(random) // it never fails
	return []byte(hex.EncodeToString(random))
}

// LoginConn returns how to connect for a tenant that is placed there. It is what tenantdb.Config.Login asks for. Of the placement
// the cluster, the strategy, the database and the login count; "" is the default cluster and the strategy schema. The result
// belongs to the caller. If the cluster has a pooler, the result leads there; what is said below is asked of the server itself.
//
// For a tenant that is housed by schema it is the runtime login that the placement names, "" being the default one, on that
// cluster. It does for that login what RuntimeConn does for the default one, with the same errors, but asks the server only until
// it has succeeded once. The error is also ErrRuntimeLogin, and nothing is created, if the name is that of another installation's
// login, or no living tenant is assigned to it there.
//
// For a tenant with a database of its own it is the tenant's own login, as the registry has it; while that cannot be reached, as
// it was read last. While the password is being changed, it is tried which one the server takes. A password may be changed just
// after LoginConn has returned: if the server does not take it (SQLSTATE 28P01), call LoginConn again. The error is
// ErrRuntimeLogin if no living tenant lives there any more, and ErrSecretKey if the password was sealed with another key.
func (d *Directory) LoginConn(ctx context.Context, p tenant.Placement) (*pgx.ConnConfig, error) {
	setDefault(&p.Cluster, tenant.DefaultCluster)
	setDefault(&p.Strategy, tenant.SchemaStrategy)
	if err := d.cfg.validateSecretKey(); err != nil {
		return nil, err
	}
	connect := d.sharedConn
	if p.Strategy == tenant.DatabaseStrategy {
		connect = d.ownConn
	}
	direct, err := connect(ctx, p)
	if err != nil {
		return nil, err
	}
	return d.forTenants(ctx, p.Cluster, direct)
}

// sharedConn is LoginConn for a tenant that is housed by schema.
func (d *Directory) sharedConn(ctx context.Context, p tenant.Placement) (*pgx.ConnConfig, error) {
	login := clusterLogin{p.Cluster, defaultLogin}
	if p.Login != "" {
		var ours bool
		if login.number, ours = d.loginNumber(p.Login); !ours {
			return nil, fmt.Errorf("%w: %q is no login of this installation", ErrRuntimeLogin, p.Login)
		}
	}
	if login != atDefault(defaultLogin) && d.logins.state(d.seenAs(login)) != loginUsable {
		switch assigned, err := d.queries.HasTenants(ctx, controlsql.HasTenantsParams{Cluster: login.cluster, LoginNo: login.number}); {
		case err != nil:
			return nil, fmt.Errorf("directory: look for the tenants of the login %q: %w", p.Login, err)
		case !assigned:
			return nil, fmt.Errorf("%w: %q has no tenants on the cluster %q", ErrRuntimeLogin, d.loginName(login.number), login.cluster)
		}
	}
	return d.usableLogin(ctx, login, false)
}

// ownedDatabase names a database of a tenant's own.
type ownedDatabase struct{ cluster, database string }

// newCredentials makes the cache of what was read last of the tenants' passwords: sealed, as the registry has them.
func newCredentials(size int) *otter.Cache[ownedDatabase, controlsql.GetCredentialRow] {
	return otter.Must(&otter.Options[ownedDatabase, controlsql.GetCredentialRow]{MaximumSize: size, Logger: &otter.NoopLogger{}})
}

// credential reads the sealed passwords of the tenant that has the database.
func (d *Directory) credential(ctx context.Context, p tenant.Placement) (controlsql.GetCredentialRow, error) {
	key := ownedDatabase{p.Cluster, p.Database}
	readCtx, cancel := context.WithTimeout(ctx, d.cfg.ReadTimeout)
	defer cancel()
	row, err := d.queries.GetCredential(readCtx, controlsql.GetCredentialParams{Cluster: p.Cluster, DatabaseName: p.Database})
	switch {
	case err == nil && ownLogin(row.RoleName) == p.Login:
		d.credentials.Set(key, row)
		return row, nil
	case err == nil, errors.Is(err, pgx.ErrNoRows):
		d.credentials.Invalidate(key)
		return row, fmt.Errorf("%w: no tenant with the login %q lives in the database %q", ErrRuntimeLogin, p.Login, p.Database)
	case ctx.Err() == nil && sqlState(err) == "":
		if last, ok := d.credentials.GetIfPresent(key); ok && ownLogin(last.RoleName) == p.Login {
			return last, nil
		}
	}
	return row, fmt.Errorf("directory: read the password of the login %q: %w", p.Login, err)
}

// ownTries bounds how often the passwords are read while somebody is changing them.
const ownTries = 3

// ownConn is LoginConn for a tenant with a database of its own.
func (d *Directory) ownConn(ctx context.Context, p tenant.Placement) (*pgx.ConnConfig, error) {
	admin, err := d.administrator(ctx, p.Cluster)
	if err != nil {
		return nil, err
	}
	for range ownTries {
		row, err := d.credential(ctx, p)
		if err != nil {
			return nil, err
		}
		conns, err := d.ownConns(admin, p, row)
		if err != nil {
			return nil, err
		}
		if len(conns) == 1 {
			return conns[0], nil
		}
		for _, cc := range conns {
			if err := tryConnect(ctx, cc); sqlState(err) == codeInvalidPassword {
				continue
			} else if err != nil {
				return nil, fmt.Errorf("directory: connect as %q: %w", p.Login, err)
			}
			return cc, nil
		}
	}
	return nil, fmt.Errorf("%w: the server takes none of the passwords of %q", ErrRuntimeLogin, p.Login)
}

// ownConns returns the ways to connect, one of which works: with the next password, if there is one, and with the current one.
func (d *Directory) ownConns(admin *pgx.ConnConfig, p tenant.Placement, row controlsql.GetCredentialRow,
) (conns []*pgx.ConnConfig, err error) {
	for _, sealed := range [][]byte{row.NextEncryptedPassword, row.EncryptedPassword} {
		if sealed == nil {
			continue
		}
		password, err := d.sealer.open(ownerOfPassword(row.ID), sealed)
		if err != nil {
			return nil, err
		}
		conns = append(conns, asOwnLogin(admin, p.Database, p.Login, string(password)))
	}
	return conns, nil
}

func asOwnLogin(admin *pgx.ConnConfig, database, login, password string) *pgx.ConnConfig {
	cc := admin.Copy()
	cc.Database, cc.User, cc.Password = database, login, password
	return cc
}

// tryOwnLogin makes sure that a tenant's own login can connect, and that the cluster's pooler lets it through.
func (d *Directory) tryOwnLogin(ctx context.Context, row controlsql.Tenant, password string) error {
	admin, err := d.administrator(ctx, row.Cluster)
	if err != nil {
		return err
	}
	login := ownLogin(row.RoleName)
	direct := asOwnLogin(admin, row.DatabaseName, login, password)
	if err := tryConnect(ctx, direct); err != nil {
		return fmt.Errorf("connect as the tenant's login %q; see the server's pg_hba.conf: %w", login, err)
	}
	cc, err := d.forTenants(ctx, row.Cluster, direct)
	if err != nil || cc == direct {
		return err
	}
	if err := tryConnect(ctx, cc); err != nil {
		return fmt.Errorf("the cluster's pooler does not let the tenant's new login %q through; let it ask the server (auth_query): %w", login, err)
	}
	return nil
}

// RotatePassword gives the login of a tenant with a database of its own another password. At each moment LoginConn knows one that
// the server takes, so that no connection fails, and those that are open stay. A call that breaks off is completed by the next one;
// until then LoginConn is a little slower. Any number may run at once. What the login has set for itself by ALTER ROLE is reset. The
// error is ErrNoPassword if the tenant has none, and ErrSecretKey if its password, or the one that somebody has begun to give it, was
// sealed with a key that is not given: others could not open the new one.
func (d *Directory) RotatePassword(ctx context.Context, id tenant.ID) error {
	if err := d.rotate(ctx, id, false); err != nil {
		return fmt.Errorf("rotate the password of tenant %s: %w", id, err)
	}
	return nil
}

// ReplacePassword is RotatePassword for a tenant whose password nobody can open any more, because the key is lost.
func (d *Directory) ReplacePassword(ctx context.Context, id tenant.ID) error {
	if err := d.rotate(ctx, id, true); err != nil {
		return fmt.Errorf("replace the password of tenant %s: %w", id, err)
	}
	return nil
}

func (d *Directory) rotate(ctx context.Context, id tenant.ID, lost bool) error {
	if err := d.cfg.validateSecretKey(); err != nil {
		return err
	}
	row, err := d.queries.GetTenant(ctx, id)
	switch {
	case err != nil:
		return notFound(err)
	case !hasPassword(row):
		return ErrNoPassword
	}
	site, err := d.openSite(ctx, row.Cluster, id) // whose lock makes callers take turns
	if err != nil {
		return err
	}
	defer site.close()
	now, err := d.queries.GetTenant(ctx, id)
	if err != nil {
		return notFound(err)
	}
	if now.Cluster != row.Cluster || now.DatabaseName != row.DatabaseName || !hasPassword(now) {
		return errors.New("the tenant has moved meanwhile; try again")
	}
	if _, err := d.sealer.open(ownerOfPassword(id), now.EncryptedPassword); err != nil && !lost {
		return err
	}
	next, verifier, err := d.nextPassword(ctx, now, lost)
	if err != nil {
		return err
	}
	if err := site.inTx(ctx, func(_ *controlsql.Queries, tx pgx.Tx) error {
		login := ownLogin(now.RoleName)
		if err := resetSettings(ctx, tx, login); err != nil {
			return err
		}
		return setVerifier(ctx, tx, login, verifier)
	}); err != nil {
		return err
	}
	return pgx.BeginFunc(ctx, d.pool, func(tx pgx.Tx) error {
		q := d.queries.WithTx(tx)
		n, err := q.FinishRotation(ctx, controlsql.FinishRotationParams{ID: id, Sealed: next})
		if err == nil && n == 0 {
			err = errResealed
		}
		if err != nil {
			return err
		}
		return appendEvent(ctx, q, id, EventPasswordRotated, "")
	})
}

// hasPassword reports whether a tenant is housed and has a login of its own.
func hasPassword(row controlsql.Tenant) bool {
	switch row.Status {
	case tenant.Active, tenant.Suspended, tenant.Deleting:
		return row.Strategy == tenant.DatabaseStrategy
	}
	return false
}

var errResealed = errors.New("somebody else has sealed the password anew; try again")

// nextPassword returns the password that a tenant is to get, sealed as the registry has it, and its verifier: the one that
// somebody has begun to give it, or else a new one. One that cannot be opened may be what the server takes by now: it is thrown away
// only if its key is said to be lost.
func (d *Directory) nextPassword(ctx context.Context, row controlsql.Tenant, lost bool) (sealed []byte, verifier string, err error) {
	sealed = row.NextEncryptedPassword
	var password []byte
	if sealed != nil {
		password, err = d.sealer.open(ownerOfPassword(row.ID), sealed)
	}
	if sealed == nil || lost && errors.Is(err, ErrSecretKey) {
		password = newPassword()
		sealed, err = d.sealNext(ctx, row, password)
	}
	if err != nil {
		return nil, "", err
	}
	verifier, err = scram.Verifier(string(password))
	return sealed, verifier, err
}

// sealNext stores a password as the one that a tenant is to get.
func (d *Directory) sealNext(ctx context.Context, row controlsql.Tenant, password []byte) ([]byte, error) {
	sealed, err := d.sealer.seal(ownerOfPassword(row.ID), password)
	if err != nil {
		return nil, err
	}
	n, err := d.queries.SetNextPassword(ctx, controlsql.SetNextPasswordParams{
		ID: row.ID, Sealed: sealed, Before: row.NextEncryptedPassword,
	})
	if err == nil && n == 0 {
		err = errResealed
	}
	return sealed, err
}
