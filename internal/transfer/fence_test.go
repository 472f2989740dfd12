package transfer_test

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/internal/pgserver"
	"github.com/leasehold-go/leasehold/internal/pgtest"
	"github.com/leasehold-go/leasehold/internal/transfer"
)

// enter opens a transaction in a place as its tenant's login does, in the tenant's role.
func enter(tb testing.TB, p transfer.Place) *pgx.Conn {
	tb.Helper()
	as := p
	as.Admin = p.Admin.Copy()
	as.Admin.User, as.Admin.Password = p.Logins[0], password
	conn := connect(tb, as)
	if _, err := conn.PgConn().Exec(tb.Context(), "BEGIN; SET LOCAL ROLE "+p.Role).ReadAll(); err != nil {
		tb.Fatal(err)
	}
	return conn
}

// at runs something once, at the beginning of a step.
func at(step transfer.Step, do func()) func(context.Context, transfer.Step) error {
	did := false
	return func(_ context.Context, now transfer.Step) error {
		if now == step && !did {
			did = true
			do()
		}
		return nil
	}
}

func waitUntil(tb testing.TB, p transfer.Place, sql string) {
	tb.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	conn := connect(tb, p)
	for holds := false; !holds; {
		if err := conn.QueryRow(tb.Context(), sql).Scan(&holds); err != nil {
			tb.Errorf("it never comes to it: %s: %v", sql, err)
			return
		}
		<-tick.C
	}
}

// What has looked up a table before the end of the move, and asks for no name any more, can write nowhere afterwards either: by way of a
// view, a partitioned table, or a function whose body is not text.
func TestMoveFencesWhatNeedsNoName(t *testing.T) {
	t.Parallel()
	source, dest := twoHouses(t)
	mustExec(t, source, `CREATE VIEW some_visits AS SELECT who, what FROM visits;
		CREATE TABLE parts (n integer) PARTITION BY LIST (n);
		CREATE TABLE part_1 PARTITION OF parts FOR VALUES IN (1);
		CREATE FUNCTION visit(text) RETURNS void LANGUAGE sql BEGIN ATOMIC INSERT INTO visits VALUES ($1, 'late'); END`)
	later := enter(t, source)
	if _, err := later.PgConn().Exec(t.Context(), "DECLARE later CURSOR FOR SELECT visit('later') FROM generate_series(1, 2)").ReadAll(); err != nil {
		t.Fatal(err)
	}
	waiting := map[string]*pgx.Conn{}
	for _, sql := range []string{"INSERT INTO some_visits VALUES ('eve', '')", "INSERT INTO parts VALUES (1)", "SELECT visit('eve')"} {
		waiting[sql] = enter(t, source)
	}
	wrote := map[string]chan error{}
	m := transfer.Move{Source: source, Target: dest, Switch: done}
	m.Before = at(transfer.StepComplete, func() {
		for sql, conn := range waiting {
			result := make(chan error, 1)
			go func() {
				_, err := conn.PgConn().Exec(context.WithoutCancel(t.Context()), sql+"; COMMIT").ReadAll()
				result <- err
			}()
			wrote[sql] = result
		}
		waitUntil(t, source, "SELECT count(*) = 3 FROM pg_locks WHERE NOT granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())")
	})
	if err := run(t, m); err != nil {
		t.Fatal(err)
	}
	for sql, result := range wrote {
		if err := <-result; err == nil {
			t.Errorf("%s: it wrote", sql)
		}
	}
	if _, err := later.PgConn().Exec(t.Context(), "FETCH ALL FROM later; COMMIT").ReadAll(); err == nil {
		t.Error("it wrote later")
	}
	old := source
	old.Schema = transfer.OldSchema(source.Schema)
	if diff := cmp.Diff(content(t, dest), content(t, old)); diff != "" {
		t.Error(diff)
	}
}

// A number that a sequence has given out is given out by nobody again, be it ever so late.
func TestMoveTakesSequencesLast(t *testing.T) {
	t.Parallel()
	source, dest := twoHouses(t)
	open := enter(t, source)
	var number int64
	m := transfer.Move{Source: source, Target: dest, Switch: done}
	m.Before = at(transfer.StepFence, func() {
		if err := open.QueryRow(t.Context(), "SELECT nextval('customers_id_seq')").Scan(&number); err != nil {
			t.Error(err)
		}
	})
	if err := run(t, m); err != nil {
		t.Fatal(err)
	}
	if next := read[int64](t, dest, "SELECT nextval('customers_id_seq')"); next <= number {
		t.Errorf("%d was given out, and then %d", number, next)
	}
}

// What somebody defines without asking for the lock, as dbmate does, is not left behind: the tenant stays. What a server does with its
// catalogue all day is no matter.
func TestMoveSeesNewDefinitions(t *testing.T) {
	t.Parallel()
	source, dest := twoHouses(t)
	fill(t, source, 3)
	for _, sql := range []string{
		"CREATE TABLE extra (n integer); INSERT INTO extra VALUES (1)",
		"ALTER TABLE visits ADD extra text DEFAULT 'lost'",
		"CREATE OR REPLACE FUNCTION visit() RETURNS integer LANGUAGE sql AS 'SELECT 2'",
	} {
		mustExec(t, source, "CREATE OR REPLACE FUNCTION visit() RETURNS integer LANGUAGE sql AS 'SELECT 1'")
		m := transfer.Move{Source: source, Target: dest, Switch: done, Before: at(transfer.StepHold, func() { mustExec(t, source, sql) })}
		if err := run(t, m); !errors.Is(err, transfer.ErrBusy) {
			t.Errorf("%s: %v", sql, err)
		}
		checkServed(t, source)
		empty(t, dest)
	}
	m := transfer.Move{Source: source, Target: dest, Switch: done, Before: at(transfer.StepHold, func() {
		mustExec(t, source, "ANALYZE", "TRUNCATE visits", "REINDEX TABLE customers", "VACUUM FULL payments")
	})}
	if err := run(t, m); err != nil {
		t.Error(err)
	}
}

// What would be left behind without a word is refused.
func TestMoveRefusesWhatIsNotTheTenants(t *testing.T) {
	t.Parallel()
	for name, sql := range map[string]string{
		"large objects": "SET ROLE tenant; SELECT lo_from_bytea(0, 'x')",
		"of the owner":  "DO $$ BEGIN EXECUTE 'GRANT CREATE ON SCHEMA ' || current_schema() || ' TO tenant'; END $$; ALTER TABLE visits OWNER TO tenant",
		"the extension": "CREATE EXTENSION citext",
		"the cast":      "CREATE TYPE pair AS (a integer); CREATE CAST (pair AS text) WITH INOUT",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			source, dest := twoHouses(t)
			mustExec(t, source, "GRANT "+source.Role+" TO CURRENT_USER", strings.ReplaceAll(sql, "tenant", source.Role))
			err := run(t, transfer.Move{Source: source, Target: dest, Switch: done})
			if !errors.Is(err, errors.ErrUnsupported) || !strings.Contains(err.Error(), name) {
				t.Errorf("moved: %v", err)
			}
			checkServed(t, source)
			if _, err := transfer.Export(t.Context(), source, filepath.Join(t.TempDir(), "export"), acme); !errors.Is(err, errors.ErrUnsupported) {
				t.Errorf("exported: %v", err)
			}
		})
	}
}

// Rows are found again by keys that a session may write in fewer digits, in tables whose columns are called as ours are, and by keys of
// which some are null. What is said of the schema goes along, and what is written is on the disk whatever the database does for others.
func TestMoveCarriesOddChanges(t *testing.T) {
	t.Parallel()
	source, dest := twoHouses(t)
	mustExec(t, source, `CREATE TABLE levels (level float8 PRIMARY KEY, note text);
		INSERT INTO levels VALUES (1.0000001, 'a'), (2, 'b');
		CREATE TYPE span AS RANGE (subtype = integer);
		CREATE TABLE names (many integer, like_it integer, place integer, nth integer);
		INSERT INTO names SELECT 1, 2, 3, 4 FROM generate_series(1, 3);
		CREATE TABLE sparse (key integer UNIQUE, note text);
		INSERT INTO sparse VALUES (NULL, 'a'), (NULL, 'b'), (1, 'c');
		DO $$ BEGIN IF current_setting('server_version_num')::integer >= 180000 THEN
			EXECUTE 'ALTER TABLE sparse ADD CONSTRAINT sparse_key NOT NULL key NOT VALID';
		END IF; END $$;
		CREATE TABLE durable (n integer CHECK (current_setting('synchronous_commit') = 'on'));
		SET synchronous_commit = on; INSERT INTO durable VALUES (1)`, "COMMENT ON SCHEMA "+source.Schema+" IS 'of a good customer'")
	mustExec(t, dest, "ALTER DATABASE "+dest.Admin.Database+" SET synchronous_commit = off")
	m := transfer.Move{Source: source, Target: dest, Switch: done, Before: at(transfer.StepHold, func() {
		mustExec(t, source, `SET extra_float_digits = -10; UPDATE levels SET level = 1.0000002 WHERE note = 'a'`,
			"DELETE FROM names WHERE ctid = (SELECT min(ctid) FROM names)", "DELETE FROM sparse WHERE note = 'a'")
	})}
	if err := run(t, m); err != nil {
		t.Fatal(err)
	}
	old := source
	old.Schema = transfer.OldSchema(source.Schema)
	if diff := cmp.Diff(content(t, old), content(t, dest)); diff != "" {
		t.Error(diff)
	}
	if said := read[string](t, dest, "SELECT coalesce(obj_description('"+dest.Schema+"'::regnamespace), '')"); said != "of a good customer" {
		t.Errorf("the comment is %q", said)
	}
}

// Who locks one table after the other, as TRUNCATE does, never waits for a move that waits for it.
func TestMoveIsNoPartOfADeadlock(t *testing.T) {
	t.Parallel()
	source, dest := twoHouses(t)
	fill(t, source, 20)
	emptied := make(chan error, 1)
	m := transfer.Move{Source: source, Target: dest, Switch: done}
	m.Before = at(transfer.StepCopy, func() {
		conn := connect(t, source)
		if _, err := conn.PgConn().Exec(t.Context(), "BEGIN; SET LOCAL lock_timeout = '5s'; TRUNCATE visits").ReadAll(); err != nil {
			t.Error(err)
		}
		go func() {
			waitUntil(t, source, `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database()
				AND application_name = 'leasehold transfer' AND (query LIKE 'lock table%' OR query = 'rollback'))`)
			_, err := conn.PgConn().Exec(context.WithoutCancel(t.Context()), "TRUNCATE customers CASCADE; COMMIT").ReadAll()
			emptied <- err
		}()
	})
	if err := run(t, m); err != nil {
		t.Error(err)
	}
	if err := <-emptied; err != nil {
		t.Errorf("truncate: %v", err)
	}
	if n := read[int](t, dest, "SELECT count(*) FROM customers"); n != 0 {
		t.Errorf("%d customers", n)
	}
}

// Autovacuum, which may be at a large table for hours, holds up no move.
func TestMoveDuringAutovacuum(t *testing.T) {
	t.Parallel()
	slow := pgtest.Start(t, pgserver.Config{Settings: map[string]string{
		"autovacuum": "on", "autovacuum_naptime": "1s", "autovacuum_vacuum_cost_delay": "100ms", "autovacuum_vacuum_cost_limit": "1",
	}})
	p := names(t)
	source := house(t, slow.URL(pgserver.Administrator, pgserver.Database), p)
	dest := house(t, pgtest.Database(t), p)
	grant(t, source)
	mustExec(t, source, `CREATE TABLE large (n integer, body text) WITH (autovacuum_vacuum_threshold = 0, autovacuum_vacuum_scale_factor = 0);
		INSERT INTO large SELECT n, repeat('x', 1000) FROM generate_series(1, 20000) n`, "DELETE FROM large WHERE n % 2 = 0", "SELECT pg_stat_force_next_flush()")
	vacuums := "SELECT EXISTS (SELECT FROM pg_locks WHERE relation = 'large'::regclass AND mode = 'ShareUpdateExclusiveLock' AND granted)"
	m := transfer.Move{Source: source, Target: dest, Switch: done}
	m.Before = func(_ context.Context, step transfer.Step) error {
		if step == transfer.StepCapture || step == transfer.StepHold {
			waitUntil(t, source, vacuums)
		}
		return nil
	}
	if err := run(t, m); err != nil {
		t.Error(err)
	}
	if n := read[int](t, dest, "SELECT count(*) FROM large"); n != 10000 {
		t.Errorf("%d rows", n)
	}
}
