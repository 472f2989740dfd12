package tenantdb_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/db/tenantdb"
	"github.com/leasehold-go/leasehold/internal/pgtest"
	"github.com/leasehold-go/leasehold/internal/tenantsql"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }

// What generated code asks for is there, on every way to reach a tenant.
var (
	_ tenantsql.DBTX = (*tenantdb.DB)(nil)
	_ tenantsql.DBTX = tenantdb.Handle{}
	_ tenantsql.DBTX = (*tenantdb.Tx)(nil)
)

// fleet is a database with tenants in it. Every tenant has the same ids, and every row says whose it is.
type fleet struct {
	url     string   // the administrator's
	login   string   // the runtime login
	logins  []string // more of them
	tenants []*tenant.Tenant
	own     int // of the tenants, the last ones, have a database of their own
}

// rowsPerTenant is how many items each tenant has, with the ids 1 to rowsPerTenant.
const rowsPerTenant = 5

func newFleet(t testing.TB, n int) *fleet {
	t.Helper()
	f := &fleet{url: pgtest.Database(t)}
	f.login = "run_" + strings.ReplaceAll(uuid.NewString(), "-", "")
	database := f.database(t)
	sql := []string{
		`REVOKE ALL ON SCHEMA public FROM PUBLIC`,
		`REVOKE CONNECT, TEMPORARY ON DATABASE ` + database + ` FROM PUBLIC`,
		`CREATE ROLE ` + f.login + ` LOGIN NOINHERIT PASSWORD 'test'`,
		`GRANT CONNECT ON DATABASE ` + database + ` TO ` + f.login,
	}
	for i := range n {
		tn := newTenant(t, i, database)
		f.tenants = append(f.tenants, tn)
		sql = append(sql, f.schemaSQL(tn))
	}
	pgtest.Exec(t, f.url, sql...)
	t.Cleanup(func() { f.dropRoles(t) })
	return f
}

func newTenant(t testing.TB, i int, database string) *tenant.Tenant {
	t.Helper()
	id, err := uuid.NewV7()
	if err != nil {
		t.Fatal(err)
	}
	slug := tenant.Slug(fmt.Sprintf("co-%d", i))
	return &tenant.Tenant{
		ID: tenant.ID(id), Slug: slug, Company: string(slug), Status: tenant.Active, Generation: 1,
		Placement: tenant.NewPlacement(tenant.ID(id), slug, tenant.DefaultCluster, database),
	}
}

// dropRoles drops what belongs to the server and not to the database, which goes by itself.
func (f *fleet) dropRoles(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, pgtest.SuperURL(t, f.url))
	if err != nil {
		t.Error(err)
		return
	}
	defer func() { _ = conn.Close(ctx) }()
	for _, tn := range f.tenants[len(f.tenants)-f.own:] {
		if _, err := conn.Exec(ctx, "DROP DATABASE "+tn.Placement.Database+" WITH (FORCE)"); err != nil {
			t.Error(err)
		}
	}
	roles := append([]string{f.login}, f.logins...)
	for _, tn := range f.tenants {
		roles = append(roles, tn.Placement.Role)
	}
	for _, role := range roles {
		if _, err := conn.Exec(ctx, "DROP OWNED BY "+role+" CASCADE; DROP ROLE "+role); err != nil {
			t.Error(err)
		}
	}
}

// schemaSQL builds one tenant. Its enum has the same name as everybody's, and a label that nobody else has.
func (f *fleet) schemaSQL(tn *tenant.Tenant) string {
	return strings.NewReplacer("SCHEMA_", tn.Placement.Schema, "ROLE_", tn.Placement.Role, "LOGIN_", cmp.Or(tn.Placement.Login, f.login), "SLUG_",
		string(tn.Slug), "ROWS_", fmt.Sprint(rowsPerTenant)).Replace(`
		CREATE ROLE ROLE_ NOLOGIN;
		GRANT ROLE_ TO LOGIN_;
		CREATE SCHEMA SCHEMA_;
		GRANT USAGE ON SCHEMA SCHEMA_ TO ROLE_;
		ALTER DEFAULT PRIVILEGES IN SCHEMA SCHEMA_ GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO ROLE_;
		SET LOCAL search_path = SCHEMA_;
		CREATE TYPE mood AS ENUM ('calm', 'only-SLUG_');
		CREATE TABLE items (
			id int PRIMARY KEY,
			owner text NOT NULL DEFAULT 'SLUG_',
			mood mood NOT NULL DEFAULT 'only-SLUG_',
			qty int NOT NULL DEFAULT 0,
			parent int REFERENCES items DEFERRABLE INITIALLY DEFERRED
		);
		INSERT INTO items (id) SELECT generate_series(1, ROWS_);
		RESET search_path;`)
}

func (f *fleet) database(t testing.TB) string {
	t.Helper()
	u, err := url.Parse(f.url)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimPrefix(u.Path, "/")
}

// connConfig returns how the runtime login connects.
func (f *fleet) connConfig(t testing.TB) *pgx.ConnConfig {
	t.Helper()
	cc, err := pgx.ParseConfig(f.url)
	if err != nil {
		t.Fatal(err)
	}
	cc.User, cc.Password = f.login, "test"
	return cc
}

// open returns a DB on the fleet that is closed when t ends.
func (f *fleet) open(t testing.TB, cfg tenantdb.Config) *tenantdb.DB {
	t.Helper()
	if cfg.ConnConfig == nil {
		cfg.ConnConfig = f.connConfig(t)
	}
	if cfg.Login == nil && f.own > 0 {
		cfg.Login = f.ownLogin(t)
	}
	db, err := tenantdb.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	closeAfter(t, db)
	return db
}

// ctx returns a context in tenant i.
func (f *fleet) ctx(t testing.TB, i int) context.Context {
	t.Helper()
	return tenant.NewContext(t.Context(), f.tenants[i])
}

// admin runs SQL as the administrator with tenant i's search_path.
func (f *fleet) admin(t testing.TB, i int, sql string) {
	t.Helper()
	pgtest.Exec(t, f.urlOf(t, f.tenants[i]), "SET search_path = "+f.tenants[i].Placement.Schema, sql)
}

// querier is what every way to reach a tenant has.
type querier interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// errWrongTenant is the one error that must never be seen.
var errWrongTenant = errors.New("a row of another tenant")

// checkOwner reads one row and checks whose it is.
func checkOwner(ctx context.Context, q querier, tn *tenant.Tenant, id int) error {
	var owner string
	if err := q.QueryRow(ctx, "SELECT owner FROM items WHERE id = $1", id).Scan(&owner); err != nil {
		return err
	}
	if owner != string(tn.Slug) {
		return fmt.Errorf("%w: %s got %s's", errWrongTenant, tn.Slug, owner)
	}
	return nil
}

// closeAfter closes db when the test ends. A test that has failed may have left calls open, for which Close would wait.
func closeAfter(t testing.TB, db *tenantdb.DB) {
	t.Helper()
	t.Cleanup(func() {
		closed := make(chan struct{})
		go func() {
			defer close(closed)
			db.Close()
		}()
		if !t.Failed() {
			<-closed
			return
		}
		select {
		case <-closed:
		case <-time.After(time.Second):
		}
	})
}

func mustOwn(t *testing.T, ctx context.Context, q querier, tn *tenant.Tenant) { //nolint:revive // t first, as in all helpers
	t.Helper()
	if err := checkOwner(ctx, q, tn, 1); err != nil {
		t.Fatal(err)
	}
}

func wantCode(t *testing.T, err error, code string) {
	t.Helper()
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) || pgErr.Code != code {
		t.Fatalf("got error %v, want SQLSTATE %s", err, code)
	}
}

// wire counts what connections send. A round trip is a message that asks for ReadyForQuery: Sync, or a simple query.
type wire struct {
	roundTrips atomic.Int64
	bytes      atomic.Int64
}

func (w *wire) watch(cc *pgx.ConnConfig) {
	dial := cc.DialFunc
	cc.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return &wireConn{Conn: conn, wire: w}, nil
	}
}

type wireConn struct {
	net.Conn
	wire    *wire
	pending []byte
	started bool // the start-up message, which has no type, has passed
}

func (c *wireConn) Write(b []byte) (int, error) {
	c.wire.bytes.Add(int64(len(b)))
	c.pending = append(c.pending, b...)
	for {
		head := 1
		if !c.started {
			head = 0
		}
		if len(c.pending) < head+4 {
			break
		}
		size := head + int(uint32(c.pending[head])<<24|uint32(c.pending[head+1])<<16|uint32(c.pending[head+2])<<8|uint32(c.pending[head+3]))
		if len(c.pending) < size {
			break
		}
		if c.started && (c.pending[0] == 'S' || c.pending[0] == 'Q') {
			c.wire.roundTrips.Add(1)
		}
		c.started = true
		c.pending = c.pending[size:]
	}
	return c.Conn.Write(b)
}
