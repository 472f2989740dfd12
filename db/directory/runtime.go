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

// clusterLogin is a runtime login on a cluster. Clusters on one server share the logins of the same number.
type clusterLogin struct {
	cluster string
	number  int32
}

// seenLogin is a login on the server that a cluster had when it was seen: a cluster may get the URL of another one.
type seenLogin struct {
	clusterLogin
	sealedURL string
}

// seenAs is taken before the server is asked, so that what was seen on one server is never said of another.
func (d *Directory) seenAs(login clusterLogin) seenLogin {
	return seenLogin{login, string(d.administrators.get(login.cluster).row.EncryptedUrl)}
}

func atDefault(number int32) clusterLogin { return clusterLogin{tenant.DefaultCluster, number} }

// runtimeLogins remembers what has been seen of the runtime logins.
type runtimeLogins struct {
	prefix string // begins their names

	mu     sync.Mutex
	seen   map[seenLogin]loginState // guarded by mu
	asking map[string]chan struct{} // by the cluster; guarded by mu
}

func newRuntimeLogins(installation tenant.ID) *runtimeLogins {
	return &runtimeLogins{
		prefix: "leasehold_run_" + installation.String()[:8] + "_",
		seen:   map[seenLogin]loginState{},
		asking: map[string]chan struct{}{},
	}
}

// turn returns what holds a token while a cluster is asked, so that a process asks it once, and a cluster that does not answer holds up
// nobody else's logins.
func (l *runtimeLogins) turn(cluster string) chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.asking[cluster] == nil {
		l.asking[cluster] = make(chan struct{}, 1)
	}
	return l.asking[cluster]
}

func (l *runtimeLogins) state(login seenLogin) loginState {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.seen[login]
}

func (l *runtimeLogins) set(login seenLogin, state loginState) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seen[login] = state
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
// empty. That the connection works has been tried, anew in each call. If the default cluster has a pooler, the result leads there.
//
// The default login serves the tenants of the default cluster whose placement names none: all that are housed by schema there
// until there are more than Config.TenantsPerLogin. For the others see LoginConn.
//
// The login's name holds part of the installation's id, because logins belong to the whole server. Its password is derived
// from Config.SecretKey. The error is ErrSecretKey if the login was given its password by a process with another key: setting
// it anew would lock that process out, so that is left to SetRuntimePassword. It is ErrRuntimeLogin if a login of that name
// has powers that only a superuser could take from it, or cannot be connected as.
func (d *Directory) RuntimeConn(ctx context.Context) (*pgx.ConnConfig, error) {
	if err := d.cfg.validateSecretKey(); err != nil {
		return nil, err
	}
	direct, err := d.usableLogin(ctx, atDefault(defaultLogin), true)
	if err != nil {
		return nil, err
	}
	return d.forTenants(ctx, tenant.DefaultCluster, direct)
}

// SetRuntimePassword makes Config.SecretKey the one that counts, for all runtime logins at once, on all clusters, and resets what they
// have set for themselves by ALTER ROLE. Processes that
// run with another key keep the connections that they have and get no new ones, until they are started again with this key; those
// that have the other as one of Config.OldSecretKeys as well go on. A cluster that cannot be reached does not hold up the others;
// the error names it, and calling again does the rest. See Reseal for what else hangs on the key; call that first.
func (d *Directory) SetRuntimePassword(ctx context.Context) error {
	if err := d.cfg.validateSecretKey(); err != nil {
		return err
	}
	if err := d.ensureLogin(ctx, atDefault(defaultLogin), loginFit, true); err != nil {
		return err
	}
	clusters, err := d.queries.ListClusters(ctx)
	if err != nil {
		return fmt.Errorf("directory: list clusters: %w", err)
	}
	var errs []error
	for _, cluster := range clusters {
		if err := d.setPasswords(ctx, cluster.Name); err != nil {
			errs = append(errs, fmt.Errorf("%w: set the passwords on cluster %q: %w", ErrRuntimeLogin, cluster.Name, err))
		}
	}
	return errors.Join(errs...)
}

func (d *Directory) setPasswords(ctx context.Context, cluster string) error {
	return d.changeLogins(ctx, cluster, func(q *controlsql.Queries, tx pgx.Tx) error {
		names, err := q.ListRoles(ctx, d.logins.prefix)
		if err != nil {
			return err
		}
		for _, name := range names {
			if _, ours := d.loginNumber(name); !ours {
				continue
			}
			err := resetSettings(ctx, tx, name)
			if err == nil {
				err = setPassword(ctx, tx, name, d.cfg.SecretKey)
			}
			if err != nil {
				return fmt.Errorf("%q: %w", name, err)
			}
		}
		return nil
	})
}

// checkKey returns ErrSecretKey if the runtime logins' passwords were made with other keys than those that are given: what is
// sealed with ours, others could not open.
func (d *Directory) checkKey(ctx context.Context) error {
	return d.ensureLogin(ctx, atDefault(defaultLogin), loginUsable, false)
}

// changeLogins runs f in a transaction in the database of a cluster. All such changes take turns, on all clusters: the logins
// belong to servers, of which several clusters may be on one.
func (d *Directory) changeLogins(ctx context.Context, cluster string, f func(q *controlsql.Queries, tx pgx.Tx) error) error {
	var there *session
	if cluster != tenant.DefaultCluster { // connected before the turn comes
		var err error
		if there, err = d.connectTo(ctx, cluster); err != nil {
			return err
		}
		defer there.close()
	}
	return pgx.BeginFunc(ctx, d.pool, func(tx pgx.Tx) error {
		q := d.queries.WithTx(tx)
		if err := q.LockTransaction(ctx, privilegesLock); err != nil {
			return err
		}
		if there == nil {
			return f(q, tx)
		}
		return there.inTx(ctx, f)
	})
}

// usableLogin brings a login to the state in which it can be used, and returns how to connect as it. It looks again at what it
// has seen if it is to, or if there are several keys: one or the other may work by now.
func (d *Directory) usableLogin(ctx context.Context, login clusterLogin, again bool) (*pgx.ConnConfig, error) {
	admin, err := d.administrator(ctx, login.cluster)
	if err != nil {
		return nil, err
	}
	if len(d.cfg.OldSecretKeys) > 0 {
		if err := d.ensureLogin(ctx, login, loginFit, again); err != nil {
			return nil, err
		}
		key, err := d.tryLogin(ctx, login)
		return d.loginConn(admin, login.number, key), err
	}
	if err := d.ensureLogin(ctx, login, loginUsable, again); err != nil {
		return nil, err
	}
	return d.loginConn(admin, login.number, d.cfg.SecretKey), nil
}

// loginConn says how to connect as a login whose password was made with the key.
func (d *Directory) loginConn(admin *pgx.ConnConfig, number int32, key []byte) *pgx.ConnConfig {
	cc := admin.Copy()
	cc.User = d.loginName(number)
	cc.Password = runtimePassword(key, cc.User)
	return cc
}

// tryLogin connects as the login, and returns the key that its password was made with. It translates what may be wrong with the
// login.
func (d *Directory) tryLogin(ctx context.Context, login clusterLogin) ([]byte, error) {
	admin, err := d.administrator(ctx, login.cluster)
	if err != nil {
		return nil, err
	}
	name := d.loginName(login.number)
	for _, key := range d.cfg.secretKeys() {
		err = tryConnect(ctx, d.loginConn(admin, login.number, key))
		switch sqlState(err) {
		case codeInvalidPassword:
			continue
		case codeInvalidAuthorization:
			return nil, fmt.Errorf("%w: the server does not let %q connect; see its pg_hba.conf: %w", ErrRuntimeLogin, name, err)
		}
		if err != nil {
			return nil, fmt.Errorf("directory: connect as %q: %w", name, err)
		}
		return key, nil
	}
	return nil, fmt.Errorf("%w: the password of the login %q was made with another one", ErrSecretKey, name)
}

// tryConnect gives up a server that does not answer in time.
func tryConnect(ctx context.Context, cc *pgx.ConnConfig) error {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
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
func (d *Directory) ensureLogin(ctx context.Context, login clusterLogin, wanted loginState, again bool) error {
	seen := d.seenAs(login)
	if !again && d.logins.state(seen) >= wanted {
		return nil
	}
	turn := d.logins.turn(login.cluster)
	select {
	case turn <- struct{}{}:
		defer func() { <-turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if again {
		d.logins.set(seen, loginUnknown)
	}
	if d.logins.state(seen) < loginFit {
		if err := d.ensureFit(ctx, login); err != nil {
			return err
		}
		d.logins.set(seen, loginFit)
	}
	if d.logins.state(seen) < wanted {
		if _, err := d.tryLogin(ctx, login); err != nil {
			return err
		}
		d.logins.set(seen, loginUsable)
	}
	return nil
}

func (d *Directory) ensureFit(ctx context.Context, login clusterLogin) error {
	if fit, err := d.isFit(ctx, login); fit || err != nil {
		return err
	}
	if login.number != defaultLogin { // whose password makeFit compares with
		if err := d.ensureFit(ctx, clusterLogin{login.cluster, defaultLogin}); err != nil {
			return err
		}
	}
	return d.makeFit(ctx, login)
}

func (d *Directory) isFit(ctx context.Context, login clusterLogin) (bool, error) {
	if login.cluster == tenant.DefaultCluster {
		return isFit(ctx, d.queries, d.loginName(login.number))
	}
	there, err := d.connectTo(ctx, login.cluster)
	if err != nil {
		return false, err
	}
	defer there.close()
	return isFit(ctx, there.q, d.loginName(login.number))
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
	return login.IsPlain && login.HasPlainSettings && login.MayConnect, nil
}

// makeFit creates the login, or sets right the one that is there.
func (d *Directory) makeFit(ctx context.Context, login clusterLogin) error {
	name := d.loginName(login.number)
	err := d.changeLogins(ctx, login.cluster, func(q *controlsql.Queries, tx pgx.Tx) error {
		found, err := q.GetLogin(ctx, name)
		missing := errors.Is(err, pgx.ErrNoRows)
		if err != nil && !missing {
			return err
		}
		key := d.cfg.SecretKey
		if missing && login.number != defaultLogin {
			// All logins have passwords of one key. In our turn nobody can set another one meanwhile.
			if key, err = d.tryLogin(ctx, clusterLogin{login.cluster, defaultLogin}); err != nil {
				return err
			}
		}
		if err := alterLogin(ctx, tx, name, missing); err != nil {
			return err
		}
		if !found.MayConnect {
			database := pgx.Identifier{tx.Conn().Config().Database}.Sanitize()
			if _, err := tx.Exec(ctx, "GRANT CONNECT ON DATABASE "+database+" TO "+pgx.Identifier{name}.Sanitize()); err != nil {
				return err
			}
		}
		if missing {
			return setPassword(ctx, tx, name, key)
		}
		return nil
	})
	if err != nil && !errors.Is(err, ErrSecretKey) {
		return fmt.Errorf("%w: set up %q: %w", ErrRuntimeLogin, name, err)
	}
	return err
}

// alterLogin gives the login, which may be missing, its attributes and settings.
func alterLogin(ctx context.Context, tx pgx.Tx, name string, missing bool) error {
	// ALTER may not even deny powers that only a superuser can give.
	command := "ALTER ROLE %s LOGIN NOINHERIT NOCREATEDB NOCREATEROLE"
	if missing {
		command = "CREATE ROLE %s LOGIN NOINHERIT NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS"
	}
	if _, err := tx.Exec(ctx, fmt.Sprintf(command, pgx.Identifier{name}.Sanitize())); err != nil {
		return err
	}
	return resetSettings(ctx, tx, name)
}

// resetSettings gives the login an empty path and takes from it whatever else it begins its sessions with, in any database. A login
// may set such things for itself, and those that only a superuser may set stay.
func resetSettings(ctx context.Context, tx pgx.Tx, name string) error {
	databases, err := controlsql.New(tx).ListSettingDatabases(ctx, name)
	if err != nil {
		return err
	}
	role := pgx.Identifier{name}.Sanitize()
	statements := []string{"ALTER ROLE " + role + " RESET ALL"}
	for _, database := range databases {
		statements = append(statements, "ALTER ROLE "+role+" IN DATABASE "+pgx.Identifier{database}.Sanitize()+" RESET ALL")
	}
	// What this means is a schema whose name is empty, which there cannot be. The other way to have no path, FROM CURRENT,
	// is dumped by pg_dumpall as a statement that does not parse, which stops pg_upgrade.
	statements = append(statements, "ALTER ROLE "+role+" SET search_path = ''")
	_, err = tx.Exec(ctx, strings.Join(statements, ";\n"))
	return err
}

// setPassword gives the server the password that is derived from the key.
func setPassword(ctx context.Context, tx pgx.Tx, name string, key []byte) error {
	verifier, err := scram.Verifier(runtimePassword(key, name))
	if err != nil {
		return err
	}
	return setVerifier(ctx, tx, name, verifier)
}

// setVerifier gives the server a verifier, never the password: statements end up in logs.
func setVerifier(ctx context.Context, tx pgx.Tx, name, verifier string) error {
	_, err := tx.Exec(ctx, "ALTER ROLE "+pgx.Identifier{name}.Sanitize()+" PASSWORD '"+verifier+"'")
	return err
}
