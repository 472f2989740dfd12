package directory

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/internal/controlsql"
	"github.com/leasehold-go/leasehold/internal/pgserver"
	"github.com/leasehold-go/leasehold/internal/pgtest"
)

const codeOutOfMemory = "53200"

// inSchemaOf runs statements with a tenant's schema on the path.
func inSchemaOf(tb testing.TB, conn *pgx.Conn, t *tenant.Tenant, statements string) {
	tb.Helper()
	mustExec(tb, conn, "SET search_path = "+pgx.Identifier{t.Placement.Schema}.Sanitize()+";\n"+statements+";\nRESET search_path")
}

func mustDelete(tb testing.TB, d *Directory, t *tenant.Tenant) {
	tb.Helper()
	if _, err := d.Delete(tb.Context(), t.ID, DeleteOptions{Now: true}); err != nil {
		tb.Fatal(err)
	}
}

// manyTablesSQL makes n tables, each of which refers to the first one and to the one before it. Each statement is a transaction.
const manyTablesSQL = `DO $$
BEGIN
    CREATE TABLE big_1 (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY);
    FOR i IN 2..%d LOOP
        EXECUTE format('CREATE TABLE big_%%s (id bigserial PRIMARY KEY, body text, first bigint REFERENCES big_1,
            before bigint REFERENCES big_%%s)', i, i - 1);
        IF i %% 20 = 0 THEN COMMIT; END IF;
    END LOOP;
END
$$`

// THREATS 45: what DROP SCHEMA cannot do with the locks that the server has, a purge does.
func TestAThousandTablesArePurgedWithFewLocks(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, pgserver.Config{Settings: map[string]string{
		"max_locks_per_transaction": "64", "max_connections": "20", "max_pred_locks_per_transaction": "10",
	}})
	url := server.URL(pgserver.Administrator, pgserver.Database)
	if _, err := Migrate(t.Context(), configOf(t, url)); err != nil {
		t.Fatal(err)
	}
	d := openDirectory(t, configOf(t, url))
	acme, globex := mustCreate(t, d, "acme"), mustCreate(t, d, "globex")
	conn := connectTo(t, url)
	mustExec(t, conn, "SET search_path = "+acme.Placement.Schema)
	mustExec(t, conn, fmt.Sprintf(manyTablesSQL, 1000))
	mustExec(t, conn, "SET search_path = leasehold")

	wantState(t, conn, codeOutOfMemory, "DROP SCHEMA "+acme.Placement.Schema+" CASCADE")

	super := pgtest.Connect(t, server.URL(pgserver.Superuser, pgserver.Database))
	mustExec(t, super, `CREATE TABLE public.held (locks int, tx xid8);
		GRANT INSERT ON public.held TO PUBLIC;
		CREATE FUNCTION public.note_locks() RETURNS event_trigger LANGUAGE plpgsql AS $$
		BEGIN
		    INSERT INTO public.held SELECT count(*), pg_current_xact_id() FROM pg_locks WHERE pid = pg_backend_pid();
		END $$;
		CREATE EVENT TRIGGER note_locks ON ddl_command_end EXECUTE FUNCTION public.note_locks()`)

	mustDelete(t, d, acme)
	purged, err := d.Purge(t.Context())
	if err != nil || len(purged) != 1 {
		t.Fatalf("Purge: %v, %v", purged, err)
	}
	wantNothingLeft(t, url, globex)
	most := query[int](t, super, `SELECT max(locks) FROM public.held`)
	batches := query[int](t, super, `SELECT count(DISTINCT tx::text) FROM public.held`)
	t.Logf("%d transactions, at most %d locks", batches, most)
	if most > 2*maxPurgeObjects+100 {
		t.Errorf("a transaction of the purge held %d locks", most)
	}
}

// everySQL has all kinds of objects, so entangled that hardly any could be dropped by itself.
const everySQL = `
CREATE EXTENSION citext;
CREATE TYPE color AS ENUM ('red', 'green');
CREATE TYPE pair AS (a int, b color);
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE FUNCTION is_even(int) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT $1 % 2 = 0';
CREATE DOMAIN even AS positive CHECK (is_even(VALUE));
CREATE TYPE span AS RANGE (subtype = int);
CREATE SEQUENCE numbers;
CREATE COLLATION sorted FROM "C";
CREATE TABLE parents (id int PRIMARY KEY DEFAULT nextval('numbers'), name citext UNIQUE, kind color, half even, both_of pair, during span,
    label text COLLATE sorted GENERATED ALWAYS AS (CASE WHEN is_even(1) THEN 'a' ELSE 'b' END) STORED);
ALTER SEQUENCE numbers OWNED BY parents.id;
CREATE TABLE children (id int PRIMARY KEY, parent int REFERENCES parents ON DELETE CASCADE, sibling int REFERENCES children, whole parents);
ALTER TABLE parents ADD favourite int REFERENCES children DEFERRABLE INITIALLY DEFERRED;
CREATE TABLE heirs () INHERITS (parents);
CREATE TABLE typed OF pair;
CREATE TABLE parted (id int, day date, PRIMARY KEY (id, day), parent int REFERENCES parents) PARTITION BY RANGE (day);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
CREATE TABLE parted_2 PARTITION OF parted FOR VALUES FROM ('2026-02-01') TO ('2026-03-01') PARTITION BY LIST (id);
CREATE TABLE parted_2_1 PARTITION OF parted_2 FOR VALUES IN (1, 2);
CREATE TABLE parted_2_d PARTITION OF parted_2 DEFAULT;
CREATE TABLE refers (id int, day date, FOREIGN KEY (id, day) REFERENCES parted);
INSERT INTO parents (id, name) VALUES (1, 'One');
INSERT INTO parted VALUES (1, '2026-02-03', 1);
INSERT INTO refers VALUES (1, '2026-02-03');
CREATE VIEW grown AS SELECT p.name, c.* FROM parents p JOIN children c ON c.parent = p.id WHERE is_even(p.id);
CREATE VIEW grown_more AS SELECT name, count(*) AS n FROM grown GROUP BY name;
CREATE MATERIALIZED VIEW kept AS SELECT * FROM grown_more;
CREATE UNIQUE INDEX ON kept (name);
CREATE FUNCTION of_parents(parents) RETURNS SETOF grown LANGUAGE sql AS 'SELECT * FROM grown';
CREATE FUNCTION bound(int) RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT n FROM grown_more LIMIT $1; END;
CREATE VIEW with_function AS SELECT bound(1) AS b, f.* FROM parents p, of_parents(p) f;
CREATE PROCEDURE clean() LANGUAGE sql AS 'DELETE FROM children';
CREATE AGGREGATE product (int) (SFUNC = int4mul, STYPE = int, INITCOND = '1');
CREATE FUNCTION plus_pair(pair, pair) RETURNS pair LANGUAGE sql IMMUTABLE AS 'SELECT ROW(($1).a + ($2).a, ($1).b)::pair';
CREATE OPERATOR @+@ (LEFTARG = pair, RIGHTARG = pair, FUNCTION = plus_pair);
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER touched BEFORE UPDATE ON parents FOR EACH ROW EXECUTE FUNCTION touch();
CREATE TRIGGER parted_touched AFTER INSERT ON parted FOR EACH ROW EXECUTE FUNCTION touch();
CREATE RULE ruled AS ON DELETE TO children DO ALSO SELECT bound(1);
CREATE POLICY policed ON children USING (EXISTS (SELECT FROM parents WHERE is_even(id)));
ALTER TABLE children ENABLE ROW LEVEL SECURITY;
CREATE STATISTICS counted ON id, parent FROM children;
CREATE TEXT SEARCH DICTIONARY words (TEMPLATE = pg_catalog.simple);
CREATE TEXT SEARCH CONFIGURATION texts (COPY = pg_catalog.simple);
ALTER TEXT SEARCH CONFIGURATION texts ALTER MAPPING FOR word WITH words;
CREATE CAST (pair AS text) WITH INOUT;
COMMENT ON TABLE parents IS 'commented';
CREATE UNLOGGED TABLE "odd ""name" (i int, EXCLUDE USING btree (i WITH =))`

func TestWhateverASchemaHoldsIsPurged(t *testing.T) {
	t.Parallel()
	d, url := newDirectory(t)
	acme, globex := mustCreate(t, d, "acme"), mustCreate(t, d, "globex")
	conn := connectTo(t, url)
	inSchemaOf(t, conn, acme, everySQL)

	// Each limit is another order; the smallest has each object dropped by itself.
	plan, err := newPurgePlan(t.Context(), controlsql.New(conn), acme.Placement.Schema)
	if err != nil {
		t.Fatal(err)
	}
	for _, limit := range []int{1, 5, 20, 100, 100_000} {
		plan.gone = map[object]bool{}
		tx, err := conn.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, batch := range plan.batches(limit) {
			if _, err := tx.Exec(t.Context(), strings.Join(batch, ";\n")); err != nil {
				t.Fatalf("limit %d: %v\n%s", limit, err, strings.Join(batch, ";\n"))
			}
		}
		if left, err := newPurgePlan(t.Context(), controlsql.New(tx), acme.Placement.Schema); err != nil || len(left.droppables) > 0 {
			t.Errorf("limit %d: %v is left (%v)", limit, left.droppables, err)
		}
		if err := tx.Rollback(t.Context()); err != nil {
			t.Fatal(err)
		}
	}

	mustDelete(t, d, acme)
	if purged, err := d.Purge(t.Context()); err != nil || len(purged) != 1 {
		t.Fatalf("Purge: %v, %v", purged, err)
	}
	wantNothingLeft(t, url, globex)
}

// What one plan puts into a transaction stays within the limit as long as no single object is larger, and drops everything once.
func TestPurgePlanKeepsToItsLimit(t *testing.T) {
	t.Parallel()
	// 300 tables of ten parts, each of which is referred to by the next one, and a type that all of them use.
	const tables, parts, class = 300, 10, 1
	p := &purgePlan{dependents: map[object][]dependency{}, owners: map[object][]object{}, gone: map[object]bool{}}
	add := func(on, dependent object) { p.dependents[on] = append(p.dependents[on], dependency{object: dependent}) }
	enum := object{class: class, id: -1}
	p.droppables = append(p.droppables, droppable{enum, "type"})
	for i := range int64(tables) {
		table := object{class: class, id: i * 100}
		p.droppables = append(p.droppables, droppable{table, fmt.Sprint("table ", i)})
		for part := range int64(parts - 1) {
			add(table, object{class: class, id: i*100 + part + 1})
		}
		add(enum, object{class: class, id: table.id, part: 3})
		key := object{class: class, id: i*100 + 50} // refers from this table to the one before
		p.droppables = append(p.droppables, droppable{key, fmt.Sprint("key ", i)})
		add(table, key)
		if i > 0 {
			add(object{class: class, id: (i - 1) * 100}, key)
		}
	}
	total := tables*(parts+1) + 1
	for _, limit := range []int{12, 64, 256, 100_000} {
		p.gone = map[object]bool{}
		batches := p.batches(limit)
		if least := total / limit; len(batches) < least || len(batches) > 3*least+1 {
			t.Errorf("limit %d: %d batches", limit, len(batches))
		}
		said := map[string]bool{}
		for _, batch := range batches {
			for _, statement := range batch {
				if said[statement] {
					t.Errorf("limit %d: %s comes twice", limit, statement)
				}
				said[statement] = true
			}
		}
		if whole := len(p.gone) - tables; len(p.gone) != total && whole != total {
			t.Errorf("limit %d: %d objects are gone of %d", limit, len(p.gone), total)
		}
		if !said["type"] || (limit == 12 && slices.Contains(batches[0], "type")) {
			t.Errorf("limit %d: the type, which all tables use, is not dropped after them", limit)
		}
	}
}

// countdown cancels a context when so many statements have been sent.
type countdown struct {
	left   atomic.Int64
	cancel atomic.Pointer[context.CancelFunc]
}

func (c *countdown) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	if c.left.Add(-1) == 0 {
		(*c.cancel.Load())()
	}
	return ctx
}

func (c *countdown) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// A purge that ends anywhere is finished by the next, and is undone by nobody.
func TestAPurgeThatBreaksOffAnywhereIsTakenUp(t *testing.T) {
	t.Parallel()
	for _, strategy := range []tenant.Strategy{tenant.SchemaStrategy, tenant.DatabaseStrategy} {
		t.Run(string(strategy), func(t *testing.T) {
			t.Parallel()
			url := registryURL(t)
			d := openDirectory(t, configOf(t, url))
			fuse := &countdown{}
			cfg := configOf(t, url)
			cfg.ConnConfig.Tracer = fuse
			fragile := openDirectory(t, cfg)
			brokenOff := 0
			for step := int64(1); ; step++ {
				n := company(fmt.Sprintf("acme-%d", step))
				n.Strategy = strategy
				acme, err := d.Create(t.Context(), n)
				if err != nil {
					t.Fatal(err)
				}
				mustDelete(t, d, acme)
				ctx, cancel := context.WithCancel(t.Context())
				fuse.cancel.Store(&cancel)
				fuse.left.Store(step)
				_, err = fragile.Purge(ctx)
				cancel()
				if fuse.left.Load() > 0 {
					if err != nil {
						t.Fatal(err)
					}
					break
				}
				if err != nil {
					brokenOff++
				}
				wantUndoneByNobody(t, d, acme)
				// The server takes its time to notice that the first one is gone.
				waitFor(t, "nobody else purges", func() bool {
					_, err := d.Purge(t.Context())
					if err != nil && !errors.Is(err, ErrPurging) {
						t.Fatalf("step %d: %v", step, err)
					}
					return err == nil
				})
				if after, err := d.ByID(t.Context(), acme.ID); err != nil || after.Status != tenant.Deleted {
					t.Fatalf("step %d: %+v, %v", step, after, err)
				}
				wantNothingLeft(t, url)
			}
			if brokenOff < 5 {
				t.Errorf("only %d purges broke off", brokenOff)
			}
		})
	}
}

// wantUndoneByNobody checks that a tenant whose purge broke off can be changed no more, if it had begun.
func wantUndoneByNobody(tb testing.TB, d *Directory, t *tenant.Tenant) {
	tb.Helper()
	deletions, err := d.Deletions(tb.Context())
	if err != nil {
		tb.Fatal(err)
	}
	for _, deletion := range deletions {
		if !deletion.Purging {
			continue
		}
		want := StatusError{Status: tenant.Deleting, Purging: true}
		want.Action = "kept"
		_, err := d.CancelDelete(tb.Context(), t.ID)
		wantStatusError(tb, err, want)
		want.Action = "resumed"
		_, err = d.Resume(tb.Context(), t.ID, "")
		wantStatusError(tb, err, want)
		want.Action = "deleted"
		_, err = d.Delete(tb.Context(), t.ID, DeleteOptions{})
		wantStatusError(tb, err, want)
	}
}

// Either the tenant is back with all that it had, or it is gone.
func TestPurgeAgainstCancel(t *testing.T) {
	t.Parallel()
	a, b, url := replicas(t)
	conn := connectTo(t, url)
	for round := range 12 {
		acme := mustCreate(t, a, fmt.Sprintf("acme-%d", round))
		inSchemaOf(t, conn, acme, "INSERT INTO notes (body) VALUES ('kept')")
		mustDelete(t, a, acme)
		var (
			purged              []*tenant.Tenant
			purgeErr, resumeErr error
			wg                  sync.WaitGroup
		)
		wg.Go(func() { purged, purgeErr = a.Purge(t.Context()) })
		wg.Go(func() { _, resumeErr = b.CancelDelete(t.Context(), acme.ID) })
		wg.Wait()
		if purgeErr != nil {
			t.Fatal(purgeErr)
		}
		if resumeErr != nil {
			if _, ok := errors.AsType[*StatusError](resumeErr); !ok || len(purged) != 1 {
				t.Fatalf("round %d: %v, purged %v", round, resumeErr, purged)
			}
			continue
		}
		rows := query[int](t, conn, "SELECT count(*) FROM "+acme.Placement.Schema+".notes")
		if len(purged) > 0 || rows != 1 {
			t.Fatalf("round %d: brought back, and purged %v", round, purged)
		}
		waitForStatus(t, a, acme.Slug, tenant.Active)
	}
}

func TestOnlyOneProcessPurges(t *testing.T) {
	t.Parallel()
	d, url := newDirectory(t)
	conn := pgtest.Connect(t, url)
	mustExec(t, conn, `SELECT pg_advisory_lock($1)`, purgeLock)
	if _, err := d.Purge(t.Context()); !errors.Is(err, ErrPurging) {
		t.Errorf("Purge beside another: %v", err)
	}
	mustExec(t, conn, `SELECT pg_advisory_unlock($1)`, purgeLock)
	if _, err := d.Purge(t.Context()); err != nil {
		t.Error(err)
	}
}

// Another tenant loses nothing, and what cannot be dropped does not hold up the rest.
func TestNothingOfAnotherTenantIsDropped(t *testing.T) {
	t.Parallel()
	for name, sql := range map[string]string{
		"view":     "CREATE VIEW %[1]s.v AS SELECT * FROM %[2]s.notes",
		"key":      "CREATE UNIQUE INDEX u ON %[2]s.notes (id); CREATE TABLE %[1]s.k (id bigint REFERENCES %[2]s.notes (id))",
		"type":     "CREATE TABLE %[1]s.t (m %[2]s.mood)",
		"default":  "CREATE TABLE %[1]s.d (i bigint DEFAULT nextval('%[2]s.notes_id_seq'))",
		"function": "CREATE FUNCTION %[1]s.f(%[2]s.mood) RETURNS int LANGUAGE sql AS 'SELECT 1'",
		"inherits": "CREATE TABLE %[1]s.i () INHERITS (%[2]s.notes)",
		"trigger": `CREATE FUNCTION %[2]s.g() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
			CREATE TRIGGER g BEFORE UPDATE ON %[1]s.notes FOR EACH ROW EXECUTE FUNCTION %[2]s.g()`,
		"policy": "CREATE POLICY p ON %[1]s.notes USING (EXISTS (SELECT FROM %[2]s.notes))",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d, url := newDirectory(t)
			acme, globex, hooli := mustCreate(t, d, "acme"), mustCreate(t, d, "globex"), mustCreate(t, d, "hooli")
			conn := connectTo(t, url)
			mustExec(t, conn, fmt.Sprintf(sql, globex.Placement.Schema, acme.Placement.Schema))
			objects := `SELECT count(*) FROM pg_depend WHERE refclassid = 'pg_namespace'::regclass AND refobjid = ANY ('{` +
				acme.Placement.Schema + "," + globex.Placement.Schema + `}'::regnamespace[])`
			before := query[int](t, conn, objects)
			mustDelete(t, d, acme)
			mustDelete(t, d, hooli)
			purged, err := d.Purge(t.Context())
			if err == nil || !strings.Contains(err.Error(), globex.Placement.Schema) && !strings.Contains(err.Error(), "another schema") {
				t.Errorf("Purge: %v", err)
			}
			if len(purged) != 1 || purged[0].ID != hooli.ID {
				t.Errorf("purged %v", purged)
			}
			if after := query[int](t, conn, objects); after != before {
				t.Errorf("%d objects of %d are left", after, before)
			}
		})
	}
}

// Whoever is connected to the tenant's own database is cut off.
func TestATenantsOwnDatabaseIsPurged(t *testing.T) {
	t.Parallel()
	d, url := newDirectory(t)
	n := company("acme")
	n.Strategy = tenant.DatabaseStrategy
	acme, err := d.Create(t.Context(), n)
	if err != nil {
		t.Fatal(err)
	}
	cc, err := d.LoginConn(t.Context(), acme.Placement)
	if err != nil {
		t.Fatal(err)
	}
	inside, err := pgx.ConnectConfig(t.Context(), cc)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = inside.Close(t.Context()) }()
	mustDelete(t, d, acme)
	if purged, err := d.Purge(t.Context()); err != nil || len(purged) != 1 {
		t.Fatalf("Purge: %v, %v", purged, err)
	}
	if _, err := inside.Exec(t.Context(), "SELECT 1"); err == nil {
		t.Error("a connection outlived its database")
	}
	conn := connectTo(t, url)
	for _, name := range []string{acme.Placement.Database, acme.Placement.Login, acme.Placement.Role} {
		left := query[int](t, conn, `SELECT (SELECT count(*) FROM pg_database WHERE datname = $1)
			+ (SELECT count(*) FROM pg_roles WHERE rolname = $1)`, name)
		if left != 0 {
			t.Errorf("%s is left", name)
		}
	}
	if sealed := query[int](t, conn, `SELECT count(*) FROM tenants WHERE encrypted_password IS NOT NULL`); sealed != 0 {
		t.Error("the password is left")
	}
}

func TestKeepPurgingEndsWithItsContext(t *testing.T) {
	t.Parallel()
	d, _ := newDirectory(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	d.KeepPurging(ctx)
	if ctx.Err() == nil {
		t.Error("KeepPurging returned before its context ended")
	}
}

// What a role has outside its schema does not keep it: large objects of its own, rights on those of other tenants, and rights that it
// gives or gets by default.
func TestWhatARoleHasElsewhereIsPurged(t *testing.T) {
	t.Parallel()
	d, url := newDirectory(t)
	acme, own, globex := mustCreate(t, d, "acme"), mustHouse(t, d, withDatabase("own")), mustCreate(t, d, "globex")
	conn := connectFor(t, d, acme.Placement)
	as := func(tn *tenant.Tenant, sql string) {
		t.Helper()
		mustExec(t, conn, "SET ROLE "+tn.Placement.Role)
		mustExec(t, conn, sql)
		mustExec(t, conn, "RESET ROLE")
	}
	as(acme, fmt.Sprintf(`SELECT lo_from_bytea(0, 'secret') FROM generate_series(1, %d)`, maxPurgeObjects+1))
	as(acme, `ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO `+globex.Placement.Role)
	as(globex, `SELECT lo_from_bytea(4711, 'shown')`)
	for _, role := range []string{acme.Placement.Role, own.Placement.Role, own.Placement.Login} {
		as(globex, `GRANT ALL ON LARGE OBJECT 4711 TO `+role+` WITH GRANT OPTION`)
		as(globex, `ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO `+role)
	}
	as(acme, `GRANT SELECT ON LARGE OBJECT 4711 TO `+own.Placement.Role)
	admin := connectTo(t, url)
	mustExec(t, admin, `CREATE TABLE public.countries (name text); GRANT SELECT ON public.countries TO `+acme.Placement.Role)

	mustDelete(t, d, acme)
	mustDelete(t, d, own)
	if purged, err := d.Purge(t.Context()); err != nil || len(purged) != 2 {
		t.Fatalf("Purge: %v, %v", purged, err)
	}
	wantNothingLeft(t, url, globex)
	if left := query[[]int](t, admin, `SELECT array_agg(oid::int) FROM pg_largeobject_metadata`); len(left) != 1 || left[0] != 4711 {
		t.Errorf("large objects: %v, want that of the other tenant", left)
	}
	if in := query[bool](t, admin, `SELECT pg_has_role(current_user, $1, 'USAGE')`, globex.Placement.Role); in {
		t.Error("the administrator has stayed a member of the other tenant's role")
	}
}
