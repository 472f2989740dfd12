package tenantdb_test

import (
	"context"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/db/tenantdb"
	"github.com/leasehold-go/leasehold/internal/pgtest"
)

// A developer's first use: generated code gets a DB, and the context decides whose rows it sees.
func TestEachCallRunsInTheTenantOfItsContext(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 3)
	db := f.open(t, tenantdb.Config{MaxConns: 1})
	for round := range 4 { // described, unnamed, named, named again
		for i, tn := range f.tenants {
			ctx := f.ctx(t, i)
			mustOwn(t, ctx, db, tn)
			mustOwn(t, t.Context(), db.For(tn), tn)
			if tag, err := db.Exec(ctx, "UPDATE items SET qty = qty + 1 WHERE id = 1"); err != nil || tag.RowsAffected() != 1 {
				t.Fatalf("round %d: update: %v, %v", round, tag, err)
			}
			var qty int
			if err := db.QueryRow(ctx, "SELECT qty FROM items WHERE id = 1").Scan(&qty); err != nil || qty != round+1 {
				t.Fatalf("round %d: qty %d, %v", round, qty, err)
			}
		}
	}
}

// THREATS 1.
func TestACallWithoutTenantSendsNothing(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	var w wire
	cc := f.connConfig(t)
	w.watch(cc)
	db := f.open(t, tenantdb.Config{ConnConfig: cc, MaxConns: 1})
	mustOwn(t, f.ctx(t, 0), db, f.tenants[0])
	before := w.bytes.Load()

	none := t.Context()
	_, execErr := db.Exec(none, "DELETE FROM items")
	_, queryErr := db.Query(none, "SELECT 1")
	var n int
	_, beginErr := db.Begin(none)
	_, copyErr := db.CopyFrom(none, pgx.Identifier{"items"}, []string{"id"}, pgx.CopyFromRows([][]any{{77}}))
	var batch pgx.Batch
	batch.Queue("SELECT 1")
	cleared := tenant.NewContext(f.ctx(t, 0), nil)
	for verb, err := range map[string]error{
		"Exec": execErr, "Query": queryErr, "QueryRow": db.QueryRow(none, "SELECT 1").Scan(&n), "Begin": beginErr,
		"CopyFrom": copyErr, "SendBatch": db.SendBatch(none, &batch).Close(), "InTx": db.InTx(none, func(pgx.Tx) error { return nil }),
		"cleared": db.QueryRow(cleared, "SELECT 1").Scan(&n),
	} {
		if !errors.Is(err, tenant.ErrNoTenant) {
			t.Errorf("%s: got %v, want ErrNoTenant", verb, err)
		}
	}
	if sent := w.bytes.Load() - before; sent != 0 {
		t.Errorf("%d bytes were sent without a tenant", sent)
	}
	mustOwn(t, f.ctx(t, 0), db, f.tenants[0])
}

// THREATS 3, 7: the scope is there during the call, and nothing of it after.
func TestAConnectionHasNothingOnItBetweenCalls(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	db := f.open(t, tenantdb.Config{MaxConns: 1})
	for i, tn := range f.tenants {
		var path, user string
		err := db.QueryRow(f.ctx(t, i), "SELECT current_setting('search_path'), current_user::text").Scan(&path, &user)
		if err != nil {
			t.Fatal(err)
		}
		if want := `"` + tn.Placement.Schema + `", pg_temp`; path != want || user != tn.Placement.Role {
			t.Errorf("inside: path %s, user %s; want %s, %s", path, user, want, tn.Placement.Role)
		}
	}
	// What a call may do before the connection is given back.
	ways := map[string]func(ctx context.Context) error{
		"success": func(ctx context.Context) error {
			_, err := db.Exec(ctx, "UPDATE items SET qty = 1")
			return err
		},
		"error": func(ctx context.Context) error {
			if _, err := db.Exec(ctx, "SELECT 1/(id-1) FROM items"); err == nil {
				return errors.New("division by zero succeeded")
			}
			return nil
		},
		"commit": func(ctx context.Context) error { return db.InTx(ctx, func(pgx.Tx) error { return nil }) },
		"rollback": func(ctx context.Context) error {
			tx, err := db.Begin(ctx)
			if err != nil {
				return err
			}
			return tx.Rollback(ctx)
		},
		"early close": func(ctx context.Context) error {
			rows, err := db.Query(ctx, "SELECT generate_series(1, 10000)")
			if err != nil {
				return err
			}
			rows.Next()
			rows.Close()
			return rows.Err()
		},
		"batch": func(ctx context.Context) error {
			var b pgx.Batch
			b.Queue("SELECT owner FROM items")
			b.Queue("UPDATE items SET qty = 2")
			return db.SendBatch(ctx, &b).Close()
		},
		"copy": func(ctx context.Context) error {
			_, err := db.CopyFrom(ctx, pgx.Identifier{"items"}, []string{"id"}, pgx.CopyFromRows([][]any{{101}}))
			return err
		},
	}
	for name, way := range ways {
		if err := way(f.ctx(t, 0)); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		wantBare(t, f, db)
	}
}

// wantBare checks that the only connection of db has an empty path and no rights.
func wantBare(t *testing.T, f *fleet, db *tenantdb.DB) {
	t.Helper()
	db.RawConn(t, func(ctx context.Context, conn *pgx.Conn) {
		var empty bool
		var user string
		err := conn.QueryRow(ctx, "SELECT current_setting('search_path') = '', current_user::text").Scan(&empty, &user)
		if err != nil {
			t.Fatal(err)
		}
		if !empty || user != f.login {
			t.Errorf("between calls: path empty %v, user %s", empty, user)
		}
		_, err = conn.Exec(ctx, "SELECT * FROM items")
		wantCode(t, err, "42P01")
		_, err = conn.Exec(ctx, "SELECT * FROM "+f.tenants[0].Placement.Schema+".items")
		wantCode(t, err, "42501")
	})
}

// THREATS 8: an error of the scope is the error of the call, and nothing was executed.
func TestARefusedScopeFailsTheWholeFlight(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	db := f.open(t, tenantdb.Config{MaxConns: 1})
	mustOwn(t, f.ctx(t, 0), db, f.tenants[0])
	pgtest.Exec(t, f.url, "REVOKE "+f.tenants[0].Placement.Role+" FROM "+f.login)
	insert := "INSERT INTO items (id) VALUES (50)"
	var b pgx.Batch
	b.Queue(insert)
	_, execErr := db.Exec(f.ctx(t, 0), insert)
	_, copyErr := db.CopyFrom(f.ctx(t, 0), pgx.Identifier{"items"}, []string{"id"}, pgx.CopyFromRows([][]any{{50}}))
	_, beginErr := db.Begin(f.ctx(t, 0))
	for verb, err := range map[string]error{
		"Exec": execErr, "CopyFrom": copyErr, "Begin": beginErr, "SendBatch": db.SendBatch(f.ctx(t, 0), &b).Close(),
	} {
		if !errors.Is(err, tenantdb.ErrScope) || errors.Is(err, tenantdb.ErrSchemaMissing) {
			t.Errorf("%s: got %v, want ErrScope", verb, err)
		}
		wantCode(t, err, "42501")
	}
	mustOwn(t, f.ctx(t, 1), db, f.tenants[1]) // and the connection is good for others
	pgtest.Exec(t, f.url, "GRANT "+f.tenants[0].Placement.Role+" TO "+f.login)
	var n int
	if err := db.QueryRow(f.ctx(t, 0), "SELECT count(*) FROM items").Scan(&n); err != nil || n != rowsPerTenant {
		t.Errorf("%d rows, %v; want %d: something was executed", n, err, rowsPerTenant)
	}
}

// THREATS 25.
func TestAMissingSchemaFailsTheCallAndNothingElse(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	// A table of the same name where a fallen-through statement would look for it.
	pgtest.Exec(t, pgtest.SuperURL(t, f.url), "CREATE TABLE public.items (id int, owner text); GRANT ALL ON SCHEMA public TO PUBLIC; GRANT ALL ON public.items TO PUBLIC")
	db := f.open(t, tenantdb.Config{MaxConns: 1})
	for range 3 {
		mustOwn(t, f.ctx(t, 0), db, f.tenants[0])
	}
	pgtest.Exec(t, f.url, "DROP SCHEMA "+f.tenants[0].Placement.Schema+" CASCADE")
	for range 2 {
		err := checkOwner(f.ctx(t, 0), db, f.tenants[0], 1)
		if !errors.Is(err, tenantdb.ErrSchemaMissing) || !errors.Is(err, tenantdb.ErrScope) {
			t.Fatalf("got %v, want ErrSchemaMissing", err)
		}
		wantCode(t, err, "3F000")
		if _, err := db.Begin(f.ctx(t, 0)); !errors.Is(err, tenantdb.ErrSchemaMissing) {
			t.Fatalf("Begin: got %v, want ErrSchemaMissing", err)
		}
		mustOwn(t, f.ctx(t, 1), db, f.tenants[1])
	}
}

// THREATS 28: a list, or anything else that is not one name, never gets as far as the server.
func TestAPlacementThatIsNotOneNameIsRefused(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	var w wire
	cc := f.connConfig(t)
	w.watch(cc)
	db := f.open(t, tenantdb.Config{ConnConfig: cc, MaxConns: 1})
	before := w.bytes.Load()
	for _, schema := range []string{"", "a, b", "a,public", `a"b`, "A", "pg_catalog", "a'; DROP TABLE items; --"} {
		bad := *f.tenants[0]
		bad.ID[15]++
		bad.Placement.Schema = schema
		if _, err := db.Exec(tenant.NewContext(t.Context(), &bad), "DELETE FROM items"); err == nil {
			t.Errorf("schema %q was accepted", schema)
		}
	}
	if sent := w.bytes.Load() - before; sent != 0 {
		t.Errorf("%d bytes were sent", sent)
	}
	mustOwn(t, f.ctx(t, 0), db, f.tenants[0])
}

// The second wall behind the first: what got past the check of names would be refused as a whole.
func TestTheServerRefusesAListAsASchema(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	db := f.open(t, tenantdb.Config{MaxConns: 1})
	a, b := f.tenants[0].Placement, f.tenants[1].Placement
	for list, code := range map[string]string{
		a.Schema + ", " + b.Schema: "42602", a.Schema + "," + b.Schema + ",public": "3F000", `"` + a.Schema + ", " + b.Schema + `"`: "3F000",
	} {
		db.RawConn(t, func(ctx context.Context, conn *pgx.Conn) {
			args := [][]byte{[]byte(list), []byte(list), []byte(a.Role)}
			_, err := conn.PgConn().ExecParams(ctx, tenantdb.ScopeSQL, args, tenantdb.ScopeOIDs, nil, nil).Close()
			wantCode(t, err, code)
		})
	}
}

func TestATenantThatMovedIsFollowed(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	db := f.open(t, tenantdb.Config{MaxConns: 1})
	for range 3 {
		mustOwn(t, f.ctx(t, 0), db, f.tenants[0])
	}
	moved := *f.tenants[0]
	moved.Placement = f.tenants[1].Placement
	moved.Generation++
	for range 3 {
		mustOwn(t, tenant.NewContext(t.Context(), &moved), db, f.tenants[1])
	}
}

// THREATS 29.
func TestAQualifiedNameDoesNotReachAnotherTenant(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 10)
	db := f.open(t, tenantdb.Config{MaxConns: 2})
	for i := range f.tenants {
		for j, other := range f.tenants {
			_, err := db.Exec(f.ctx(t, i), "SELECT * FROM "+other.Placement.Schema+".items")
			if i == j {
				if err != nil {
					t.Errorf("own schema by name: %v", err)
				}
				continue
			}
			wantCode(t, err, "42501")
		}
	}
}

func TestAHandleOrTransactionRefusesAnotherTenantsContext(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	db := f.open(t, tenantdb.Config{MaxConns: 2})
	if err := checkOwner(f.ctx(t, 1), db.For(f.tenants[0]), f.tenants[0], 1); !errors.Is(err, tenant.ErrMismatch) {
		t.Errorf("bound handle: got %v, want ErrMismatch", err)
	}
	err := db.InTx(f.ctx(t, 0), func(tx pgx.Tx) error {
		if err := checkOwner(f.ctx(t, 1), tx, f.tenants[0], 1); !errors.Is(err, tenant.ErrMismatch) {
			t.Errorf("transaction: got %v, want ErrMismatch", err)
		}
		if _, err := tx.Begin(f.ctx(t, 1)); !errors.Is(err, tenant.ErrMismatch) {
			t.Errorf("savepoint: got %v, want ErrMismatch", err)
		}
		var b pgx.Batch
		b.Queue("SELECT 1")
		if err := tx.SendBatch(f.ctx(t, 1), &b).Close(); !errors.Is(err, tenant.ErrMismatch) {
			t.Errorf("batch: got %v, want ErrMismatch", err)
		}
		return checkOwner(t.Context(), tx, f.tenants[0], 1) // a context without a tenant will do: the transaction has one
	})
	if err != nil {
		t.Fatal(err)
	}
}

// THREATS 14. The plain spelling is refused before it is sent; this is about the walls behind.
func TestATemporaryTableShadowsNobody(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	db := f.open(t, tenantdb.Config{MaxConns: 1})
	shadow := func() error {
		return db.InTx(f.ctx(t, 0), func(tx pgx.Tx) error {
			_, err := tx.Exec(t.Context(), `DO $$ BEGIN EXECUTE 'CREATE TABLE pg_temp.items AS SELECT 1 AS id, ''shadow''::text AS owner'; END $$`)
			return err
		})
	}
	wantCode(t, shadow(), "42501") // PUBLIC's TEMP is revoked

	pgtest.Exec(t, f.url, "GRANT TEMPORARY ON DATABASE "+f.database(t)+" TO "+f.tenants[0].Placement.Role)
	if err := shadow(); err != nil {
		t.Fatal(err)
	}
	for i, tn := range f.tenants {
		mustOwn(t, f.ctx(t, i), db, tn)
	}
	_, err := db.Exec(f.ctx(t, 1), "SELECT * FROM pg_temp.items")
	wantCode(t, err, "42501")
}

// THREATS 15.
func TestRowsKeepTheirTenantWhileOthersUseThePool(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	db := f.open(t, tenantdb.Config{MaxConns: 2})
	// Enough rows that they cannot all lie in a buffer when the others run.
	const n = 20000
	rows, err := db.Query(f.ctx(t, 0), "SELECT i.owner, repeat('x', 200) FROM items i, generate_series(1, $1) WHERE i.id = 1", n)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	count := 0
	for rows.Next() {
		var owner, filler string
		if err := rows.Scan(&owner, &filler); err != nil {
			t.Fatal(err)
		}
		if owner != string(f.tenants[0].Slug) {
			t.Fatalf("row %d is %s's", count, owner)
		}
		if count++; count%1000 == 0 {
			mustOwn(t, f.ctx(t, 1), db, f.tenants[1])
		}
	}
	if rows.Err() != nil || count != n {
		t.Fatalf("%d rows, %v", count, rows.Err())
	}
	if in := db.Stat().InUse; in != 0 {
		t.Errorf("%d connections are in use after the rows ended", in)
	}
}

func TestStatementsThatWouldOutliveTheScopeAreRefused(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	db := f.open(t, tenantdb.Config{MaxConns: 1})
	ctx := f.ctx(t, 0)
	for _, sql := range []string{
		"BEGIN", "COMMIT", "ROLLBACK", "SET search_path = public", "RESET ALL", "DISCARD ALL", "SET ROLE none", "LISTEN x",
		"PREPARE p AS SELECT 1", "SAVEPOINT s", "SELECT set_config('search_path', 'public', false)", "/* x */ -- y\n set role none",
	} {
		if _, err := db.Exec(ctx, sql); !errors.Is(err, tenantdb.ErrRefused) {
			t.Errorf("%s: got %v, want ErrRefused", sql, err)
		}
		var b pgx.Batch
		b.Queue(sql)
		if err := db.SendBatch(ctx, &b).Close(); !errors.Is(err, tenantdb.ErrRefused) {
			t.Errorf("batch of %s: got %v, want ErrRefused", sql, err)
		}
	}
	if _, err := db.Exec(ctx, "SELECT 1", pgx.QueryExecModeSimpleProtocol); !errors.Is(err, tenantdb.ErrRefused) {
		t.Errorf("simple protocol: got %v, want ErrRefused", err)
	}
	err := db.InTx(ctx, func(tx pgx.Tx) error {
		for _, sql := range []string{"COMMIT", "ROLLBACK", "SET LOCAL ROLE none", "SET LOCAL search_path = public", `SET LOCAL "role" = none`, "DECLARE c CURSOR WITH HOLD FOR SELECT 1"} {
			if _, err := tx.Exec(ctx, sql); !errors.Is(err, tenantdb.ErrRefused) {
				t.Errorf("in a transaction, %s: got %v, want ErrRefused", sql, err)
			}
		}
		if _, err := tx.Prepare(ctx, "p", "SELECT 1"); !errors.Is(err, tenantdb.ErrRefused) {
			t.Errorf("Prepare: got %v, want ErrRefused", err)
		}
		_, err := tx.Exec(ctx, "SET LOCAL statement_timeout = '10s'")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	wantBare(t, f, db)
}

func TestOpenRefusesALoginThatWouldNotHold(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	super, err := pgx.ParseConfig(pgtest.SuperURL(t, f.url))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tenantdb.Open(t.Context(), tenantdb.Config{ConnConfig: super}); err == nil {
		t.Error("a superuser was accepted")
	}
	if _, err := tenantdb.Open(t.Context(), tenantdb.Config{}); err == nil {
		t.Error("an empty Config was accepted")
	}
	pgtest.Exec(t, f.url, "ALTER ROLE "+f.login+" CREATEDB")
	if _, err := tenantdb.Open(t.Context(), tenantdb.Config{ConnConfig: f.connConfig(t)}); err == nil {
		t.Error("a login that creates databases was accepted")
	}
	pgtest.Exec(t, f.url, "ALTER ROLE "+f.login+" NOCREATEDB")
	pgtest.Exec(t, f.url, "GRANT SELECT ON ALL TABLES IN SCHEMA "+f.tenants[0].Placement.Schema+" TO "+f.login)
	if _, err := tenantdb.Open(t.Context(), tenantdb.Config{ConnConfig: f.connConfig(t)}); err == nil {
		t.Error("a login with a grant of its own was accepted")
	}
	pgtest.Exec(t, f.url, "REVOKE ALL ON ALL TABLES IN SCHEMA "+f.tenants[0].Placement.Schema+" FROM "+f.login)
	f.open(t, tenantdb.Config{})
	pgtest.Exec(t, f.url, "ALTER ROLE "+f.login+" INHERIT", "REVOKE "+f.tenants[0].Placement.Role+" FROM "+f.login,
		"GRANT "+f.tenants[0].Placement.Role+" TO "+f.login)
	if _, err := tenantdb.Open(t.Context(), tenantdb.Config{ConnConfig: f.connConfig(t)}); err == nil {
		t.Error("a login that inherits was accepted")
	}
}
