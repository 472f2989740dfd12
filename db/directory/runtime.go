package directory

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/internal/controlsql"
	"github.com/leasehold-go/leasehold/internal/scram"
)

// defaultLogin is the number of the first runtime login. The names in placements leave it out.
const defaultLogin = 0

// loginState is what a Directory has seen of a runtime login.
type loginState uint8

const (
	loginUnknown loginState = iota
	// loginFit: it exists and is what it should be.
	loginFit
	// loginUsable: it is fit, and takes our password.
	loginUsable
)

// runtimeLogins remembers what has been seen of the runtime logins, by number.
type runtimeLogins struct {
	prefix string        // begins their names
	asking chan struct{} // holds a token while the server is asked, so that a process asks once

	mu   sync.Mutex
	seen map[int32]loginState // guarded by mu
}

func newRuntimeLogins(installation tenant.ID) *runtimeLogins {
	return &runtimeLogins{
		prefix: "leasehold_run_" + installation.String()[:8] + "_",
		asking: make(chan struct{}, 1),
		seen:   map[int32]loginState{},
	}
}

func (l *runtimeLogins) state(number int32) loginState {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.seen[number]
}

func (l *runtimeLogins) set(number int32, state loginState) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seen[number] = state
}

func (d *Directory) loginName(number int32) string {
	return d.logins.prefix + strconv.Itoa(int(number))
}

// loginNumber is the inverse of loginName. It reports whether the name is one that loginName makes.
func (d *Directory) loginNumber(name string) (int32, bool) {
	digits, ours := strings.CutPrefix(name, d.logins.prefix)
	n, err := strconv.ParseInt(digits, 10, 32)
	number := int32(n)
	return number, ours && err == nil && number >= 0 && d.loginName(number) == name
}

// RuntimeConn makes sure that the default runtime login exists and returns how to connect as it: a login without rights of its
// own, member of its tenants' roles, one of which it must take on by SET ROLE before it can read anything. Its search_path is
// empty. That the connection works has been tried, anew in each call.
//
// The default login serves the tenants whose placement names none: all of them until there are more than
// Config.TenantsPerLogin. For the others see LoginConn.
//
// The login's name holds part of the installation's id, because logins belong to the whole server. Its password is derived
// from Config.SecretKey. The error is ErrSecretKey if the login was given its password by a process with another key: setting
// it anew would lock that process out, so that is left to SetRuntimePassword. It is ErrRuntimeLogin if a login of that name
// has powers that only a superuser could take from it, or cannot be connected as.
func (d *Directory) RuntimeConn(ctx context.Context) (*pgx.ConnConfig, error) {
	if err := d.cfg.validateSecretKey(); err != nil {
		return nil, err
	}
	if err := d.ensureLogin(ctx, defaultLogin, loginUsable, true); err != nil {
		return nil, err
	}
	return d.loginConn(defaultLogin), nil
}

// LoginConn returns how to connect as the runtime login that a placement names, "" being the default one. It is what
// tenantdb.Config.Login asks for. It does for that login what RuntimeConn does for the default one, with the same errors, but
// asks the server only until it has succeeded once; later calls cost next to nothing. The result belongs to the caller.
//
// The error is also ErrRuntimeLogin, and nothing is created, if the name is that of another installation's login, or no living
// tenant is assigned to it.
func (d *Directory) LoginConn(ctx context.Context, p tenant.Placement) (*pgx.ConnConfig, error) {
	name := p.Login
	if err := d.cfg.validateSecretKey(); err != nil {
		return nil, err
	}
	number := int32(defaultLogin)
	if name != "" {
		var ours bool
		if number, ours = d.loginNumber(name); !ours {
			return nil, fmt.Errorf("%w: %q is no login of this installation", ErrRuntimeLogin, name)
		}
	}
	if number != defaultLogin && d.logins.state(number) != loginUsable {
		switch assigned, err := d.queries.HasTenants(ctx, number); {
		case err != nil:
			return nil, fmt.Errorf("directory: look for the tenants of the login %q: %w", name, err)
		case !assigned:
			return nil, fmt.Errorf("%w: %q has no tenants", ErrRuntimeLogin, name)
		}
	}
	if err := d.ensureLogin(ctx, number, loginUsable, false); err != nil {
		return nil, err
	}
	return d.loginConn(number), nil
}

// SetRuntimePassword makes Config.SecretKey the one that counts, for all runtime logins at once. Processes that run with another
// key keep the connections that they have and get no new ones, until they are started again with this key.
func (d *Directory) SetRuntimePassword(ctx context.Context) error {
	if err := d.cfg.validateSecretKey(); err != nil {
		return err
	}
	if err := d.ensureLogin(ctx, defaultLogin, loginFit, true); err != nil {
		return err
	}
	err := pgx.BeginFunc(ctx, d.pool, func(tx pgx.Tx) error {
		q := d.queries.WithTx(tx)
		if err := q.LockTransaction(ctx, privilegesLock); err != nil {
			return err
		}
		names, err := q.ListRoles(ctx, d.logins.prefix)
		if err != nil {
			return err
		}
		for _, name := range names {
			if _, ours := d.loginNumber(name); !ours {
				continue
			}
			if err := setPassword(ctx, tx, name, d.cfg.SecretKey); err != nil {
				return fmt.Errorf("%q: %w", name, err)
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("%w: set the passwords: %w", ErrRuntimeLogin, err)
	}
	return nil
}

// loginConn says how to connect as a login.
func (d *Directory) loginConn(number int32) *pgx.ConnConfig {
	cc := d.cfg.ConnConfig.Copy()
	cc.User = d.loginName(number)
	cc.Password = runtimePassword(d.cfg.SecretKey, cc.User)
	return cc
}

// tryLogin connects as the login and translates what may be wrong with it.
func (d *Directory) tryLogin(ctx context.Context, number int32) error {
	cc := d.loginConn(number)
	err := tryConnect(ctx, cc)
	switch sqlState(err) {
	case codeInvalidPassword:
		return fmt.Errorf("%w (login %q)", ErrSecretKey, cc.User)
	case codeInvalidAuthorization:
		return fmt.Errorf("%w: the server does not let %q connect; see its pg_hba.conf: %w", ErrRuntimeLogin, cc.User, err)
	}
	if err != nil {
		return fmt.Errorf("directory: connect as %q: %w", cc.User, err)
	}
	return nil
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

// ensureLogin brings a login to the state that is wanted. The server is asked only if this Directory has not seen the login in
// that state, or if it is to look again.
func (d *Directory) ensureLogin(ctx context.Context, number int32, wanted loginState, again bool) error {
	if !again && d.logins.state(number) >= wanted {
		return nil
	}
	select {
	case d.logins.asking <- struct{}{}:
		defer func() { <-d.logins.asking }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if again {
		d.logins.set(number, loginUnknown)
	}
	if d.logins.state(number) < loginFit {
		if err := d.ensureFit(ctx, number); err != nil {
			return err
		}
		d.logins.set(number, loginFit)
	}
	if d.logins.state(number) < wanted {
		if err := d.tryLogin(ctx, number); err != nil {
			return err
		}
		d.logins.set(number, loginUsable)
	}
	return nil
}

func (d *Directory) ensureFit(ctx context.Context, number int32) error {
	if fit, err := isFit(ctx, d.queries, d.loginName(number)); fit || err != nil {
		return err
	}
	if number != defaultLogin { // whose password makeFit compares with
		if err := d.ensureFit(ctx, defaultLogin); err != nil {
			return err
		}
	}
	return d.makeFit(ctx, number)
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
func (d *Directory) makeFit(ctx context.Context, number int32) error {
	name := d.loginName(number)
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
		if missing && number != defaultLogin {
			// All logins have passwords of one key. Under the lock nobody can set another one meanwhile.
			if err := d.tryLogin(ctx, defaultLogin); err != nil {
				return err
			}
		}
		if err := alterLogin(ctx, tx, name, missing); err != nil {
			return err
		}
		if !login.MayConnect {
			database := pgx.Identifier{tx.Conn().Config().Database}.Sanitize()
			if _, err := tx.Exec(ctx, "GRANT CONNECT ON DATABASE "+database+" TO "+pgx.Identifier{name}.Sanitize()); err != nil {
				return err
			}
		}
		if missing {
			return setPassword(ctx, tx, name, d.cfg.SecretKey)
		}
		return nil
	})
	if err != nil && !errors.Is(err, ErrSecretKey) {
		return fmt.Errorf("%w: set up %q: %w", ErrRuntimeLogin, name, err)
	}
	return err
}

// alterLogin gives the login, which may be missing, its attributes and its empty path.
func alterLogin(ctx context.Context, tx pgx.Tx, name string, missing bool) error {
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
	_, err := tx.Exec(ctx, "ALTER ROLE "+role+" SET search_path = ''")
	return err
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
