package tenanttest_test

import (
	"context"
	"os"
	"testing"
	"testing/fstest"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/db/tenanttest"
	"github.com/leasehold-go/leasehold/internal/pgtest"
)

// withoutMain is the environment variable that has the tests run as in a package that has no TestMain.
const withoutMain = "TENANTTEST_WITHOUT_MAIN"

// TestMain also looks for goroutines that were left behind.
func TestMain(m *testing.M) {
	if os.Getenv(withoutMain) != "" {
		os.Exit(m.Run())
	}
	os.Exit(pgtest.Main(keeper{m}))
}

type keeper struct{ m *testing.M }

func (k keeper) Run() int { return tenanttest.Main(k.m) }

// DBTX is what these tests' queries ask for.
type DBTX = tenanttest.DBTX

// notes is a schema with the least that the suite needs, and a type that is each tenant's own.
var notes = fstest.MapFS{"20260101000000_notes.sql": {Data: []byte(`-- migrate:up
CREATE TYPE mood AS ENUM ('calm', 'glad');
CREATE TABLE notes (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, mark text NOT NULL, label text UNIQUE, mood mood);
-- migrate:down
DROP TABLE notes;
DROP TYPE mood;
`)}}

func addNote(ctx context.Context, db DBTX, mark string) error {
	_, err := db.Exec(ctx, "INSERT INTO notes (mark) VALUES ($1)", mark)
	return err
}

const listSQL = "SELECT mark FROM notes"

func listNotes(ctx context.Context, db DBTX) ([]string, error) {
	rows, err := db.Query(ctx, listSQL)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

func getNote(ctx context.Context, db DBTX, key int64) (mark string, err error) {
	err = db.QueryRow(ctx, "SELECT mark FROM notes WHERE id = $1", key).Scan(&mark)
	return mark, err
}

func reachNotes(ctx context.Context, db DBTX, other *tenant.Tenant) ([]string, error) {
	rows, err := db.Query(ctx, "SELECT mark FROM "+other.Placement.Schema+".notes")
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

// failTwice violates a unique constraint.
func failTwice(ctx context.Context, db DBTX) error {
	_, err := db.Exec(ctx, "INSERT INTO notes (mark, label) VALUES ('', 'one'), ('', 'one')")
	return err
}

// notesTarget is a quick target without the way to reach a tenant.
func notesTarget(f *tenanttest.Fleet) tenanttest.Target[DBTX] {
	return tenanttest.Target[DBTX]{
		Tenants: f.Tenants, Mark: addNote, Marks: listNotes, Get: getNote, Reach: reachNotes, Fail: failTwice,
		NoTenant: func(context.Context, func(context.Context, DBTX) error) error { return tenant.ErrNoTenant },
		Conns:    2, Workers: 3, Rounds: 2,
	}
}

func newNotes(t *testing.T) *tenanttest.Fleet {
	t.Helper()
	return tenanttest.New(t, tenanttest.Config{Migrations: notes})
}

// newPool opens a plain pool, with statements that pgx keeps no names for.
func newPool(t *testing.T, as *pgx.ConnConfig, change ...func(*pgxpool.Config)) *pgxpool.Pool {
	t.Helper()
	pc, err := pgxpool.ParseConfig(as.ConnString())
	if err != nil {
		t.Fatal(err)
	}
	pc.ConnConfig = as.Copy()
	pc.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeExec
	pc.MaxConns = 2
	for _, c := range change {
		c(pc)
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), pc)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// runtimeLogin is how the runtime login connects.
func runtimeLogin(t *testing.T, f *tenanttest.Fleet) *pgx.ConnConfig {
	t.Helper()
	cc, err := f.Directory.RuntimeConn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return cc
}
