package tenantdb_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/db/tenantdb"
)

// mustHold checks that q runs as the tenant: its role, its path, its rows.
func mustHold(t *testing.T, ctx context.Context, q querier, tn *tenant.Tenant) { //nolint:revive // t first, as in all helpers
	t.Helper()
	var role, path string
	err := q.QueryRow(ctx, "SELECT current_user::text, current_setting('search_path')").Scan(&role, &path)
	if err != nil {
		t.Fatal(err)
	}
	if role != tn.Placement.Role || path != `"`+tn.Placement.Schema+`", pg_temp` {
		t.Fatalf("%s runs as %s on %s", tn.Slug, role, path)
	}
	mustOwn(t, ctx, q, tn)
}

// THREATS 4: short-lived connections, in every way to reach a tenant.
func TestShortLivedConnectionsInEveryWay(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 6)
	db := f.open(t, tenantdb.Config{MaxConns: 4, MaxConnLifetime: time.Millisecond})
	wrong, failed := checkLoad(f, 25, func(rng *rand.Rand, tn *tenant.Tenant) error {
		return randomCall(tenant.NewContext(t.Context(), tn), rng, db, tn)
	})
	if wrong != 0 || failed != 0 {
		t.Errorf("%d wrong rows, %d errors", wrong, failed)
	}
	if created := db.Stat().Created; created < 10 {
		t.Errorf("only %d connections were made: the test did not test", created)
	}
}

// THREATS 6, the case of django-tenants#1262 at every depth: whatever is undone inside, the outside runs where it ran.
func TestNestedTransactionsKeepTheirTenantAtEveryDepth(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	db := f.open(t, tenantdb.Config{MaxConns: 1})
	const depth = 5
	for broken := range depth + 1 { // at which depth an error happens
		for undo := range depth { // from which depth on it is undone
			tn := f.tenants[(broken+undo)%2]
			ctx := tenant.NewContext(t.Context(), tn)
			var nest func(level int, tx pgx.Tx) error
			nest = func(level int, tx pgx.Tx) error {
				mustHold(t, ctx, tx, tn)
				if level < depth {
					err := pgx.BeginFunc(ctx, tx, func(inner pgx.Tx) error { return nest(level+1, inner) })
					if err != nil && level > undo { // goes on outward
						return err
					}
					mustHold(t, ctx, tx, tn)
				}
				if level == broken {
					return second(tx.Exec(ctx, "SELECT 1/0"))
				}
				if level == depth {
					return errRollback
				}
				return nil
			}
			err := db.InTx(ctx, func(tx pgx.Tx) error { return nest(0, tx) })
			if (err != nil) != (broken <= 0) {
				t.Fatalf("an error at depth %d, undone from depth %d on: %v", broken, undo, err)
			}
			mustHold(t, f.ctx(t, 0), db, f.tenants[0])
			mustHold(t, f.ctx(t, 1), db, f.tenants[1])
		}
	}
	wantBare(t, f, db)
}

// THREATS 13: DISCARD is refused wherever it is written. What a DO block does in its place costs the others nothing but time.
func TestNothingIsDiscardedUnderTheNextTenant(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	db := f.open(t, tenantdb.Config{MaxConns: 1})
	s := acquire(t, f.ctx(t, 0), db)
	for _, sql := range []string{"DISCARD ALL", "discard plans", "/* a note */ DISCARD TEMP", "-- a note\nDISCARD SEQUENCES", "DEALLOCATE ALL"} {
		for name, q := range map[string]querier{"call": db, "session": s} {
			if _, err := q.Exec(f.ctx(t, 0), sql); !errors.Is(err, tenantdb.ErrRefused) {
				t.Errorf("%s, %s: got %v, want ErrRefused", name, sql, err)
			}
		}
		err := db.InTx(f.ctx(t, 0), func(tx pgx.Tx) error { return second(tx.Exec(f.ctx(t, 0), sql)) })
		if !errors.Is(err, tenantdb.ErrRefused) {
			t.Errorf("transaction, %s: got %v, want ErrRefused", sql, err)
		}
	}
	for _, sql := range []string{"DISCARD PLANS", "DISCARD SEQUENCES", "DISCARD TEMP", "RESET ALL", "DEALLOCATE ALL", "SET SESSION search_path = pg_catalog"} {
		for range 3 {
			for i, tn := range f.tenants {
				mustHold(t, f.ctx(t, i), db, tn)
			}
		}
		err := db.InTx(f.ctx(t, 0), func(tx pgx.Tx) error { return second(tx.Exec(f.ctx(t, 0), "DO $$ BEGIN "+sql+"; END $$")) })
		if err != nil {
			t.Errorf("%s in a block: %v", sql, err)
		}
		_ = checkOwner(f.ctx(t, 1), db, f.tenants[1], 1) // the names that are gone may cost an error
		for range 3 {
			for i, tn := range f.tenants {
				mustHold(t, f.ctx(t, i), db, tn)
			}
		}
	}
	err := db.InTx(f.ctx(t, 0), func(tx pgx.Tx) error {
		return second(tx.Exec(f.ctx(t, 0), "DO $$ BEGIN EXECUTE 'DISCARD ALL'; END $$"))
	})
	wantCode(t, err, "25001")
}

// THREATS 16: one worker, job after job of different tenants, whose results are read late and in turns.
func TestAWorkerThatAlternatesReadsEachResultInItsTenant(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 4)
	db := f.open(t, tenantdb.Config{MaxConns: len(f.tenants) + 1, MaxConnsPerTenant: 2})
	type job struct {
		tn   *tenant.Tenant
		rows pgx.Rows
		seen int
	}
	const n = 3000
	start := func(tn *tenant.Tenant) *job {
		rows, err := db.For(tn).Query(t.Context(), "SELECT owner, repeat('x', 500) FROM items, generate_series(1, $1) WHERE id = 1", n)
		if err != nil {
			t.Fatal(err)
		}
		return &job{tn: tn, rows: rows}
	}
	var open []*job
	for i := range 12 { // a window of jobs, the oldest of which ends when a new one begins
		for _, j := range open {
			for range n / 4 {
				if !j.rows.Next() {
					break
				}
				if owner := string(j.rows.RawValues()[0]); owner != string(j.tn.Slug) {
					t.Fatalf("%s read a row of %s", j.tn.Slug, owner)
				}
				j.seen++
			}
			other := f.tenants[(i+1)%len(f.tenants)]
			mustHold(t, tenant.NewContext(t.Context(), other), db, other)
			// The context that the worker has by now is of no use to an older job's handle.
			if j.tn != other {
				_, err := db.For(j.tn).Exec(tenant.NewContext(t.Context(), other), "SELECT 1")
				if !errors.Is(err, tenant.ErrMismatch) {
					t.Errorf("got %v, want ErrMismatch", err)
				}
			}
		}
		open = slices.DeleteFunc(open, func(j *job) bool {
			if j.seen < n {
				return false
			}
			j.rows.Close()
			if j.rows.Err() != nil {
				t.Error(j.rows.Err())
			}
			return true
		})
		if len(open) < len(f.tenants) {
			open = append(open, start(f.tenants[i%len(f.tenants)]))
		}
	}
	for _, j := range open {
		j.rows.Close()
	}
	if in := db.Stat().InUse; in != 0 {
		t.Errorf("%d connections are still leased", in)
	}
}

// THREATS 20: what one tenant's types are called, no connection learns.
func TestNoTypeOfATenantIsRegistered(t *testing.T) {
	t.Parallel()
	f := newShapes(t)
	db := f.open(t, tenantdb.Config{MaxConns: 1})
	for range 2 {
		for i, s := range shapes() {
			if err := allWays(f.ctx(t, i), db, f.tenants[i], s); err != nil {
				t.Fatal(err)
			}
			rows, err := db.Query(f.ctx(t, i), "SELECT level, levels, pair, pairs, codes, within FROM shapes")
			if err != nil {
				t.Fatal(err)
			}
			for _, field := range rows.FieldDescriptions() {
				if typ, known := rows.TypeMap().TypeForOID(field.DataTypeOID); known {
					t.Errorf("column %s: %s is registered", field.Name, typ.Name)
				}
			}
			for _, name := range []string{"level", "_level", "pair", "code", "within"} {
				if _, known := rows.TypeMap().TypeForName(name); known {
					t.Errorf("%s is registered", name)
				}
			}
			rows.Close()
		}
	}
}

// THREATS 24: the advisories on pgx are about older versions, and about the simple protocol, whose values are put into the SQL: no
// value ever is, also where the configuration asks for it.
func TestNoValueIsPutIntoSQL(t *testing.T) {
	t.Parallel()
	info, ok := debug.ReadBuildInfo()
	if !ok {
		t.Fatal("no build info")
	}
	for _, dep := range info.Deps {
		var major, minor int
		if dep.Path != "github.com/jackc/pgx/v5" {
			continue
		}
		if _, err := fmt.Sscanf(dep.Version, "v%d.%d", &major, &minor); err != nil || major != 5 || minor < 12 {
			t.Errorf("pgx is %s, %v; want 5.12 or newer", dep.Version, err)
		}
	}
	for name, mode := range map[string]pgx.QueryExecMode{"simple protocol": pgx.QueryExecModeSimpleProtocol, "exec": pgx.QueryExecModeExec, "usual": 0} {
		f := newFleet(t, 1)
		var sent tap
		cc := f.connConfig(t)
		if mode != 0 {
			cc.DefaultQueryExecMode = mode
		}
		sent.watch(cc)
		db := f.open(t, tenantdb.Config{ConnConfig: cc, MaxConns: 1})
		ctx := f.ctx(t, 0)
		const canary = "canary-7e57"
		use := func(db verbs) error {
			var b pgx.Batch
			for range 2 {
				b.Queue("SELECT $1::text", canary)
			}
			return errors.Join(second(db.Exec(ctx, "UPDATE items SET qty = 1 WHERE owner = $1", canary)),
				second(db.Exec(ctx, "UPDATE items SET qty = 1 WHERE owner = @o", pgx.NamedArgs{"o": canary})),
				db.QueryRow(ctx, "SELECT $1::text", canary).Scan(nil), db.SendBatch(ctx, &b).Close())
		}
		for range 3 {
			if err := errors.Join(use(db), db.InTx(ctx, func(tx pgx.Tx) error { return use(tx) })); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		if bound := sent.with('B', canary); bound < 30 {
			t.Errorf("%s: the value was bound %d times: the test did not test", name, bound)
		}
		if parsed, simple := sent.with('P', canary), sent.with('Q', canary); parsed != 0 || simple != 0 {
			t.Errorf("%s: the value is in the SQL of %d statements and %d simple queries", name, parsed, simple)
		}
		if simple := sent.with('Q', "items"); simple != 0 {
			t.Errorf("%s: %d statements of the caller's were sent as simple queries", name, simple)
		}
	}
}

// THREATS 29: 100 tenants, each of which tries the tables of all.
func TestAHundredTenantsCannotReadEachOther(t *testing.T) {
	t.Parallel()
	const n = 100
	f := newFleet(t, n)
	db := f.open(t, tenantdb.Config{MaxConns: 4})
	const tryAll = `DO $$
		DECLARE s text; denied int := 0; let_in text := '';
		BEGIN
			FOR s IN SELECT nspname FROM pg_namespace WHERE nspname LIKE 't\_co\_%' LOOP
				BEGIN
					EXECUTE format('SELECT FROM %I.items', s);
					let_in := let_in || s || ' ';
				EXCEPTION WHEN insufficient_privilege THEN denied := denied + 1;
				END;
			END LOOP;
			PERFORM set_config('probe.denied', denied::text, true), set_config('probe.let_in', let_in, true);
		END $$`
	var probes int
	for i, tn := range f.tenants {
		err := db.InTx(f.ctx(t, i), func(tx pgx.Tx) error {
			if _, err := tx.Exec(f.ctx(t, i), tryAll); err != nil {
				return err
			}
			var denied int
			var letIn string
			err := tx.QueryRow(f.ctx(t, i), "SELECT current_setting('probe.denied')::int, current_setting('probe.let_in')").Scan(&denied, &letIn)
			if denied != n-1 || letIn != tn.Placement.Schema+" " {
				t.Errorf("%s: %d denied, let in: %s", tn.Slug, denied, letIn)
			}
			probes += denied + len(strings.Fields(letIn))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if probes != n*n {
		t.Errorf("%d probes, want %d", probes, n*n)
	}
	rng := rand.New(rand.NewPCG(29, 1))
	for range 50 { // and as calls of their own, in every way that a table can be used
		i, j := rng.IntN(n), rng.IntN(n)
		if i == j {
			continue
		}
		items := f.tenants[j].Placement.Schema + ".items"
		for _, sql := range []string{
			"SELECT * FROM " + items, "INSERT INTO " + items + " (id) VALUES (99)", "UPDATE " + items + " SET qty = 1", "DELETE FROM " + items,
			"TRUNCATE " + items, "LOCK TABLE " + items, "COPY " + items + " TO STDOUT", "SELECT 'calm'::" + f.tenants[j].Placement.Schema + ".mood",
			"CREATE TABLE " + f.tenants[j].Placement.Schema + ".x ()", "INSERT INTO items (id) SELECT id + 90 FROM " + items,
		} {
			err := db.InTx(f.ctx(t, i), func(tx pgx.Tx) error { return second(tx.Exec(f.ctx(t, i), sql)) })
			wantCode(t, err, "42501")
		}
		_, err := db.CopyFrom(f.ctx(t, i), pgx.Identifier{f.tenants[j].Placement.Schema, "items"}, []string{"id"}, pgx.CopyFromRows([][]any{{99}}))
		wantCode(t, err, "42501")
	}
}
