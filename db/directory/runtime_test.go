package directory

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/internal/pgserver"
	"github.com/leasehold-go/leasehold/internal/pgtest"
)

func mustRuntimeConn(tb testing.TB, d *Directory) *pgx.ConnConfig {
	tb.Helper()
	login, err := d.RuntimeConn(tb.Context())
	if err != nil {
		tb.Fatal(err)
	}
	return login
}

func TestRuntimeLoginHasNoRightsOfItsOwn(t *testing.T) {
	t.Parallel()
	d, url := newDirectory(t)
	mustCreate(t, d, "acme")
	login := mustRuntimeConn(t, d)
	conn, err := pgx.ConnectConfig(t.Context(), login)
	if err != nil {
		t.Fatal(err)
	}
	defer closeConn(conn)
	if path := query[string](t, conn, `SELECT current_setting('search_path')`); path != `""` {
		t.Errorf("search_path = %s, want a schema without a name, which there cannot be", path)
	}
	wantState(t, conn, "42501", `SELECT * FROM leasehold.tenants`)
	wantState(t, conn, "42501", `CREATE SCHEMA mine`)
	wantState(t, conn, "42501", `CREATE ROLE runtime_mine`)
	wantState(t, conn, "42501", `CREATE DATABASE runtime_mine`)
	wantState(t, conn, "42501", `CREATE TEMP TABLE mine (i int)`)
	wantState(t, conn, "42501", `CREATE TABLE public.mine (i int)`)
	wantState(t, conn, "42501", `SET ROLE `+pgserver.Administrator)
	wantState(t, conn, "42P01", `SELECT * FROM notes`)

	admin := connectTo(t, url)
	if wrong := query[bool](t, admin, `SELECT rolsuper OR rolinherit OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls
		OR NOT rolcanlogin FROM pg_roles WHERE rolname = $1`, login.User); wrong {
		t.Error("the login has attributes that it should not have")
	}
	if n := query[int](t, admin, `SELECT count(*) FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.member JOIN pg_roles g ON g.oid = m.roleid
		WHERE r.rolname = $1 AND g.rolname NOT LIKE 'r\_acme\_%'`, login.User); n != 0 {
		t.Errorf("the login is a member of %d roles that are no tenant's", n)
	}
}

func TestRuntimeConnSetsTheLoginRight(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(t *testing.T, url, login string){
		"untouched": func(*testing.T, string, string) {},
		"dropped": func(t *testing.T, url, login string) {
			t.Helper()
			pgtest.Exec(t, pgtest.SuperURL(t, url), `DROP OWNED BY `+login, `DROP ROLE `+login)
		},
		"attributes changed": func(t *testing.T, url, login string) {
			t.Helper()
			pgtest.Exec(t, url, `ALTER ROLE `+login+` NOLOGIN INHERIT CREATEROLE CREATEDB`)
		},
		"path changed": func(t *testing.T, url, login string) {
			t.Helper()
			pgtest.Exec(t, url, `ALTER ROLE `+login+` SET search_path = public`)
		},
		"connect revoked": func(t *testing.T, url, login string) {
			t.Helper()
			conn := pgtest.Connect(t, url)
			database := query[string](t, conn, `SELECT quote_ident(current_database())`)
			mustExec(t, conn, `REVOKE CONNECT ON DATABASE `+database+` FROM `+login)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d, url := newDirectory(t)
			before := mustRuntimeConn(t, d)
			spoil(t, url, before.User)
			after := mustRuntimeConn(t, d)
			if after.User != before.User || after.Password != before.Password {
				t.Error("the login is another one")
			}
			if fit, err := isFit(t.Context(), d.queries, after.User); !fit || err != nil {
				t.Errorf("the login is not fit: %v", err)
			}
		})
	}
}

func TestRuntimeConnRefusesAPowerfulLogin(t *testing.T) {
	t.Parallel()
	for _, power := range []string{"SUPERUSER", "BYPASSRLS", "REPLICATION"} {
		t.Run(power, func(t *testing.T) {
			t.Parallel()
			d, url := newDirectory(t)
			login := mustRuntimeConn(t, d)
			pgtest.Exec(t, pgtest.SuperURL(t, url), `ALTER ROLE `+login.User+` `+power)
			if _, err := d.RuntimeConn(t.Context()); !errors.Is(err, ErrRuntimeLogin) {
				t.Errorf("error = %v, want %v", err, ErrRuntimeLogin)
			}
		})
	}
}

func TestAnotherSecretKeyLocksNobodyOut(t *testing.T) {
	t.Parallel()
	url := registryURL(t)
	first := mustRuntimeConn(t, openDirectory(t, configOf(t, url)))
	cfg := configOf(t, url)
	cfg.SecretKey = []byte("another secret key")
	other := openDirectory(t, cfg)
	if _, err := other.RuntimeConn(t.Context()); !errors.Is(err, ErrSecretKey) {
		t.Fatalf("error = %v, want %v", err, ErrSecretKey)
	}
	if err := tryConnect(t.Context(), first); err != nil {
		t.Errorf("the process that was there first is locked out: %v", err)
	}

	if err := other.SetRuntimePassword(t.Context()); err != nil {
		t.Fatal(err)
	}
	second := mustRuntimeConn(t, other)
	if first.User != second.User || first.Password == second.Password {
		t.Error("another key must give the same login another password")
	}
	if err := tryConnect(t.Context(), first); sqlState(err) != codeInvalidPassword {
		t.Errorf("the old password: error = %v, want SQLSTATE %s", err, codeInvalidPassword)
	}
}

// pg_upgrade runs what pg_dumpall prints.
func TestTheRuntimeLoginCanBeDumpedAndRestored(t *testing.T) {
	t.Parallel()
	d, url := newDirectory(t)
	login := mustRuntimeConn(t, d).User
	conn := pgtest.Connect(t, url)
	if got := query[string](t, conn, `SELECT array_to_string(rolconfig, ' ') FROM pg_roles WHERE rolname = $1`, login); got != `search_path=""` {
		t.Errorf("the login's settings are %s", got)
	}
}

func TestTwoInstallationsOnOneServerHaveTheirOwnLogins(t *testing.T) {
	t.Parallel()
	one, _ := newDirectory(t)
	two, _ := newDirectory(t)
	a, b := mustRuntimeConn(t, one), mustRuntimeConn(t, two)
	if a.User == b.User || a.Password == b.Password {
		t.Fatal("two installations share a login")
	}
	a.Database = b.Database
	if err := tryConnect(t.Context(), a); sqlState(err) != "42501" {
		t.Errorf("the login of one in the database of the other: error = %v, want SQLSTATE 42501", err)
	}
}

func TestRuntimeConnFromManyProcessesAtOnce(t *testing.T) {
	t.Parallel()
	url := registryURL(t)
	var starts sync.WaitGroup
	for range 6 {
		d := openDirectory(t, configOf(t, url))
		starts.Go(func() {
			if _, err := d.RuntimeConn(t.Context()); err != nil {
				t.Errorf("RuntimeConn: %v", err)
			}
		})
	}
	starts.Wait()
}

// THREATS 35: the server logs every statement here.
func TestNoPasswordReachesTheServersLog(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, pgserver.Config{Settings: map[string]string{
		"log_statement": "all", "log_min_messages": "debug1", "log_min_error_statement": "debug1", "log_parameter_max_length": "-1",
		"log_error_verbosity": "verbose", "log_duration": "on", "log_min_duration_statement": "0",
	}})
	cfg := configOf(t, server.URL(pgserver.Administrator, pgserver.Database))
	if _, err := Migrate(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	d := openDirectory(t, cfg)
	passwords := []string{string(cfg.SecretKey), mustRuntimeConn(t, d).Password}
	mustCreate(t, d, "acme")
	own, err := d.Create(t.Context(), withDatabase("globex"))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		cc, err := d.LoginConn(t.Context(), own.Placement)
		if err != nil {
			t.Fatal(err)
		}
		passwords = append(passwords, cc.Password)
		if err := d.RotatePassword(t.Context(), own.ID); err != nil {
			t.Fatal(err)
		}
	}
	pgtest.Exec(t, server.URL(pgserver.Superuser, "postgres"), `CREATE DATABASE another OWNER `+pgserver.Administrator)
	far := server.URL(pgserver.Administrator, "another")
	mustAddCluster(t, d, NewCluster{Name: "second", URL: far})
	passwords = append(passwords, far)
	cfg.OldSecretKeys, cfg.SecretKey = [][]byte{cfg.SecretKey}, []byte("another secret key")
	other := openDirectory(t, cfg)
	if _, err := other.Reseal(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := other.SetRuntimePassword(t.Context()); err != nil {
		t.Fatal(err)
	}
	passwords = append(passwords, string(cfg.SecretKey), mustRuntimeConn(t, other).Password)
	d.Close()

	log, err := os.ReadFile(server.LogFile())
	if err != nil {
		t.Fatal(err)
	}
	for _, wanted := range []string{"CREATE ROLE", "SCRAM-SHA-256$"} {
		if !bytes.Contains(log, []byte(wanted)) {
			t.Errorf("the log does not hold %q: it proves nothing", wanted)
		}
	}
	for i, password := range passwords {
		if password == "" || bytes.Contains(log, []byte(password)) {
			t.Errorf("secret %d is empty or stands in the server's log", i)
		}
	}
}

func TestLoginConnKnowsItsOwnLogins(t *testing.T) {
	t.Parallel()
	url := registryURL(t)
	d := openDirectory(t, crowded(t, url, 1))
	createMany(t, d, 0, 2)
	foreign, _ := newDirectory(t)
	mustRuntimeConn(t, foreign)
	admin := connectTo(t, url)
	roles := func() []string {
		return query[[]string](t, admin, `SELECT array_agg(rolname::text ORDER BY rolname) FROM pg_roles WHERE starts_with(rolname, $1)`, d.logins.prefix)
	}
	before := roles()
	prefix := d.logins.prefix
	for _, name := range []string{
		foreign.loginName(0), foreign.loginName(1), prefix, prefix + "2", prefix + "00", prefix + "01", prefix + "+1", prefix + "-1", prefix + "-0",
		prefix + "1 ", prefix + "1_", prefix + "a", prefix + "4294967297", prefix + "99999999999999999999", strings.ToUpper(prefix) + "1", "1",
		pgserver.Administrator, pgserver.Superuser,
	} {
		if cc, err := d.LoginConn(t.Context(), tenant.Placement{Login: name}); !errors.Is(err, ErrRuntimeLogin) || cc != nil {
			t.Errorf("%q: %v, %v, want %v", name, cc, err, ErrRuntimeLogin)
		}
	}
	if diff := cmp.Diff(before, roles()); diff != "" {
		t.Errorf("logins (-before +after):\n%s", diff)
	}
	for name, want := range map[string]string{"": prefix + "0", prefix + "0": prefix + "0", prefix + "1": prefix + "1"} {
		if got := query[string](t, connectAs(t, d, name), `SELECT session_user::text`); got != want {
			t.Errorf("LoginConn(%q) connects as %s, want %s", name, got, want)
		}
	}
}

func TestLoginConnAsksOnce(t *testing.T) {
	t.Parallel()
	url := registryURL(t)
	d := openDirectory(t, crowded(t, url, 1))
	tenants := createMany(t, d, 0, 2)
	for _, tn := range tenants {
		cc, err := d.LoginConn(t.Context(), tn.Placement)
		if err != nil {
			t.Fatal(err)
		}
		cc.User, cc.Password = "spoilt", "spoilt" // it is the caller's
	}
	d.Close() // nothing can be asked any more
	for _, tn := range tenants {
		cc, err := d.LoginConn(t.Context(), tn.Placement)
		if err != nil {
			t.Fatal(err)
		}
		if err := tryConnect(t.Context(), cc); err != nil {
			t.Error(err)
		}
	}
	other := openDirectory(t, configOf(t, url))
	other.Close()
	if _, err := other.LoginConn(t.Context(), tenant.Placement{}); err == nil {
		t.Error("a login that was never looked at is known")
	}
}

func TestLoginConnWaitsNoLongerThanItsCaller(t *testing.T) {
	t.Parallel()
	d, _ := newDirectory(t)
	turn := d.logins.turn(tenant.DefaultCluster)
	turn <- struct{}{}
	defer func() { <-turn }()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := d.LoginConn(ctx, tenant.Placement{}); !errors.Is(err, context.Canceled) {
		t.Errorf("error = %v, want %v", err, context.Canceled)
	}
}

func TestLoginConnSetsALoginRight(t *testing.T) {
	t.Parallel()
	url := registryURL(t)
	d := openDirectory(t, crowded(t, url, 1))
	login := createMany(t, d, 0, 2)[1].Placement.Login
	pgtest.Exec(t, url, `ALTER ROLE `+login+` NOLOGIN INHERIT CREATEROLE CREATEDB`, `ALTER ROLE `+login+` SET search_path = public`)
	other := openDirectory(t, configOf(t, url))
	connectAs(t, other, login)
	if fit, err := isFit(t.Context(), d.queries, login); !fit || err != nil {
		t.Errorf("the login is not fit: %v", err)
	}
	pgtest.Exec(t, pgtest.SuperURL(t, url), `ALTER ROLE `+login+` BYPASSRLS`)
	if _, err := openDirectory(t, configOf(t, url)).LoginConn(t.Context(), tenant.Placement{Login: login}); !errors.Is(err, ErrRuntimeLogin) {
		t.Errorf("error = %v, want %v", err, ErrRuntimeLogin)
	}
	pgtest.Exec(t, pgtest.SuperURL(t, url), `DROP OWNED BY `+login, `DROP ROLE `+login)
	connectAs(t, openDirectory(t, configOf(t, url)), login)
}

// All logins have passwords of the key that counts, whoever has created them.
func TestANewLoginIsNotMadeWithAnotherKey(t *testing.T) {
	t.Parallel()
	url := registryURL(t)
	d := openDirectory(t, crowded(t, url, 1))
	acme := mustCreate(t, d, "acme")
	cfg := crowded(t, url, 1)
	cfg.SecretKey = []byte("another secret key")
	if _, err := openDirectory(t, cfg).Create(t.Context(), company("globex")); !errors.Is(err, ErrSecretKey) {
		t.Errorf("error = %v, want %v", err, ErrSecretKey)
	}
	wantNothingLeft(t, url, acme)
	admin := connectTo(t, url)
	wantMemberships(t, d, admin, map[int32]int{0: 1}, acme)
	globex := mustCreate(t, d, "globex")
	wantMemberships(t, d, admin, map[int32]int{0: 1, 1: 1}, acme, globex)
	connectAs(t, d, globex.Placement.Login)
}

func TestSetRuntimePasswordSetsThatOfEveryLogin(t *testing.T) {
	t.Parallel()
	url := registryURL(t)
	d := openDirectory(t, crowded(t, url, 1))
	tenants := createMany(t, d, 0, 4)
	mustExec(t, connectTo(t, url), `UPDATE tenants SET status = 'deleted' WHERE slug = 'c3'`) // its login has none any more
	super := pgtest.Connect(t, pgtest.SuperURL(t, url))
	lookalike := d.logins.prefix + "01"
	mustExec(t, super, `CREATE ROLE `+lookalike)

	cfg := crowded(t, url, 1)
	cfg.SecretKey = []byte("another secret key")
	other := openDirectory(t, cfg)
	for _, tn := range tenants[:3] {
		if _, err := other.LoginConn(t.Context(), tn.Placement); !errors.Is(err, ErrSecretKey) {
			t.Errorf("before: error = %v, want %v", err, ErrSecretKey)
		}
	}
	if err := other.SetRuntimePassword(t.Context()); err != nil {
		t.Fatal(err)
	}
	for number := range int32(4) {
		if err := tryConnect(t.Context(), other.loginConn(other.cfg.ConnConfig, number, cfg.SecretKey)); err != nil {
			t.Errorf("login %d, the new password: %v", number, err)
		}
		if err := tryConnect(t.Context(), d.loginConn(d.cfg.ConnConfig, number, testKey)); sqlState(err) != codeInvalidPassword {
			t.Errorf("login %d, the old password: error = %v, want SQLSTATE %s", number, err, codeInvalidPassword)
		}
	}
	for _, tn := range tenants[:3] {
		connectAs(t, other, tn.Placement.Login)
	}
	if has := query[bool](t, super, `SELECT rolpassword IS NOT NULL FROM pg_authid WHERE rolname = $1`, lookalike); has {
		t.Error("a role that is no login of ours was given a password")
	}
}

// A login may change what its own sessions begin with, in all databases and in single ones.
func TestWhatALoginSetsForItselfIsReset(t *testing.T) {
	t.Parallel()
	url := registryURL(t)
	d := openDirectory(t, crowded(t, url, 1))
	own, first, second := mustHouse(t, d, withDatabase("own")), mustCreate(t, d, "first"), mustCreate(t, d, "second")
	tenants := []*tenant.Tenant{own, first, second}
	spoil := func() {
		t.Helper()
		for _, tn := range tenants {
			conn := connectFor(t, d, tn.Placement)
			mustExec(t, conn, `ALTER ROLE CURRENT_USER SET default_transaction_read_only = on`)
			mustExec(t, conn, `DO $$ BEGIN EXECUTE format('ALTER ROLE CURRENT_USER IN DATABASE %I SET search_path = public', current_database()); END $$`)
		}
	}
	wantReset := func(what string, tenants ...*tenant.Tenant) {
		t.Helper()
		for _, tn := range tenants {
			conn := connectFor(t, d, tn.Placement)
			got := query[string](t, conn, `SELECT current_setting('search_path') || ' ' || current_setting('default_transaction_read_only')`)
			if got != `"" off` {
				t.Errorf("%s, %s: %s", what, tn.Slug, got)
			}
		}
	}
	spoil()
	restarted := openDirectory(t, configOf(t, url))
	for _, tn := range tenants {
		connectFor(t, restarted, tn.Placement)
	}
	wantReset("another process has looked at the logins", first, second)
	if err := d.RotatePassword(t.Context(), own.ID); err != nil {
		t.Fatal(err)
	}
	wantReset("its password was changed", own)
	spoil()
	if err := d.SetRuntimePassword(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantReset("the runtime logins' passwords were set", first, second)
}

func TestAClusterThatNeverAnswersHoldsUpNobodyElse(t *testing.T) {
	t.Parallel()
	d, url := newDirectory(t)
	mustAddCluster(t, d, NewCluster{Name: "second", URL: pgtest.Database(t)})
	good := mustHouse(t, d, on("second", company("good")))
	restarted := openDirectory(t, configOf(t, url))
	for _, asked := range []string{"silent", tenant.DefaultCluster} {
		restarted.logins.turn(asked) <- struct{}{}
	}
	connectFor(t, restarted, good.Placement)

	// The server takes the connection and says nothing.
	silent, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = silent.Close() }()
	cc := mustRuntimeConn(t, d)
	address := silent.Addr().(*net.TCPAddr)
	cc.Host, cc.Port, cc.Fallbacks = address.IP.String(), uint16(address.Port), nil
	if err := tryConnect(t.Context(), cc); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error = %v, want %v", err, context.DeadlineExceeded)
	}
}
