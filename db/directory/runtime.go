package directory

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"

	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/internal/controlsql"
	"github.com/leasehold-go/leasehold/internal/scram"
)

// runtimeLogin remembers what is known of the runtime login.
type runtimeLogin struct {
	mu   sync.Mutex // held while the server is asked, so that a process asks once
	name string     // "" until the login is known to be there
}

// RuntimeConn makes sure that the runtime login exists and returns how to connect as it: a login without rights of its own,
// member of each tenant's role, which it must take on by SET ROLE before it can read anything. Its search_path is empty. That
// the connection works has been tried.
//
// The login's name holds part of the installation's id, because logins belong to the whole server. Its password is derived
// from Config.SecretKey. The error is ErrSecretKey if the login was given its password by a process with another key: setting
// it anew would lock that process out, so that is left to SetRuntimePassword. It is ErrRuntimeLogin if a login of that name
// has powers that only a superuser could take from it, or cannot be connected as.
func (d *Directory) RuntimeConn(ctx context.Context) (*pgx.ConnConfig, error) {
	if err := d.cfg.validateSecretKey(); err != nil {
		return nil, err
	}
	name, err := d.ensureRuntimeLogin(ctx, true)
	if err != nil {
		return nil, err
	}
	cc := d.cfg.ConnConfig.Copy()
	cc.User, cc.Password = name, runtimePassword(d.cfg.SecretKey, name)
	err = tryConnect(ctx, cc)
	switch sqlState(err) {
	case codeInvalidPassword:
		return nil, fmt.Errorf("%w (login %q)", ErrSecretKey, name)
	case codeInvalidAuthorization:
		return nil, fmt.Errorf("%w: the server does not let %q connect; see its pg_hba.conf: %w", ErrRuntimeLogin, name, err)
	}
	if err != nil {
		return nil, fmt.Errorf("directory: connect as %q: %w", name, err)
	}
	return cc, nil
}

// SetRuntimePassword makes Config.SecretKey the one that counts. Processes that run with another key keep the connections
// that they have and get no new ones, until they are started again with this key.
func (d *Directory) SetRuntimePassword(ctx context.Context) error {
	if err := d.cfg.validateSecretKey(); err != nil {
		return err
	}
	name, err := d.ensureRuntimeLogin(ctx, true)
	if err != nil {
		return err
	}
	return d.setRuntimePassword(ctx, name)
}

func tryConnect(ctx context.Context, cc *pgx.ConnConfig) error {
	conn, err := pgx.ConnectConfig(ctx, cc)
	if err != nil {
		return err
	}
	closeConn(conn)
	return nil
}

// runtimePassword is the same in every process that has the key. The key cannot be worked out from it.
func runtimePassword(key []byte, login string) string {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte("leasehold runtime login\x00" + login))
	return hex.EncodeToString(mac.Sum(nil))
}

// ensureRuntimeLogin returns the login's name when the login is fit for its task. The server is asked once in the life of a
// Directory, unless again is set.
func (d *Directory) ensureRuntimeLogin(ctx context.Context, again bool) (string, error) {
	d.runtime.mu.Lock()
	defer d.runtime.mu.Unlock()
	if d.runtime.name != "" && !again {
		return d.runtime.name, nil
	}
	installation, err := d.queries.GetInstallation(ctx)
	if err != nil {
		return "", fmt.Errorf("directory: read the installation's id: %w", err)
	}
	name := "leasehold_run_" + installation.String()[:8] + "_0"
	if fit, err := isFit(ctx, d.queries, name); err != nil {
		return "", err
	} else if !fit {
		if err := d.makeFit(ctx, name); err != nil {
			return "", err
		}
	}
	d.runtime.name = name
	return name, nil
}

// isFit reports whether the login exists and is what it should be.
func isFit(ctx context.Context, q *controlsql.Queries, name string) (bool, error) {
	login, err := q.GetLogin(ctx, name)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("directory: look for the login %q: %w", name, err)
	case login.IsPowerful:
		return false, fmt.Errorf("%w: %q is a superuser, or bypasses row security, or may replicate; drop it", ErrRuntimeLogin, name)
	}
	return login.IsPlain && login.HasEmptyPath && login.MayConnect, nil
}

// makeFit creates the login, or sets right the one that is there.
func (d *Directory) makeFit(ctx context.Context, name string) error {
	err := pgx.BeginFunc(ctx, d.pool, func(tx pgx.Tx) error {
		q := d.queries.WithTx(tx)
		if err := q.LockTransaction(ctx, privilegesLock); err != nil {
			return err
		}
		login, err := q.GetLogin(ctx, name)
		missing := errors.Is(err, pgx.ErrNoRows)
		if err != nil && !missing {
			return err
		}
		// ALTER may not even deny powers that only a superuser can give.
		command := "ALTER ROLE %s LOGIN NOINHERIT NOCREATEDB NOCREATEROLE"
		if missing {
			command = "CREATE ROLE %s LOGIN NOINHERIT NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS"
		}
		role := pgx.Identifier{name}.Sanitize()
		if _, err := tx.Exec(ctx, fmt.Sprintf(command, role)); err != nil {
			return err
		}
		// What this means is a schema whose name is empty, which there cannot be. The other way to have no path, FROM CURRENT,
		// is dumped by pg_dumpall as a statement that does not parse, which stops pg_upgrade.
		if _, err := tx.Exec(ctx, "ALTER ROLE "+role+" SET search_path = ''"); err != nil {
			return err
		}
		if !login.MayConnect {
			database := pgx.Identifier{tx.Conn().Config().Database}.Sanitize()
			if _, err := tx.Exec(ctx, "GRANT CONNECT ON DATABASE "+database+" TO "+role); err != nil {
				return err
			}
		}
		if missing {
			return setPassword(ctx, tx, name, d.cfg.SecretKey)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("%w: set up %q: %w", ErrRuntimeLogin, name, err)
	}
	return nil
}

func (d *Directory) setRuntimePassword(ctx context.Context, name string) error {
	err := pgx.BeginFunc(ctx, d.pool, func(tx pgx.Tx) error {
		if err := d.queries.WithTx(tx).LockTransaction(ctx, privilegesLock); err != nil {
			return err
		}
		return setPassword(ctx, tx, name, d.cfg.SecretKey)
	})
	if err != nil {
		return fmt.Errorf("%w: set the password of %q: %w", ErrRuntimeLogin, name, err)
	}
	return nil
}

// setPassword gives the server a verifier, never the password: statements end up in logs.
func setPassword(ctx context.Context, tx pgx.Tx, name string, key []byte) error {
	verifier, err := scram.Verifier(runtimePassword(key, name))
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, "ALTER ROLE "+pgx.Identifier{name}.Sanitize()+" PASSWORD '"+verifier+"'")
	return err
}
