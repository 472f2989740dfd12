package migrate_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/leasehold-go/leasehold/db/migrate"
	"github.com/leasehold-go/leasehold/db/migrations"
	"github.com/leasehold-go/leasehold/internal/pgtest"
)

// role makes a role that no other test has.
func (f *fleet) role(tb testing.TB, name string) string {
	tb.Helper()
	role := f.conn.Config().Database + "_" + name
	f.exec(tb, `CREATE ROLE `+role)
	return role
}

// house makes a schema and its role as a directory does, and migrates it.
func (f *fleet) house(tb testing.TB, m *migrate.Migrator, schema, extensions string) migrate.Target {
	tb.Helper()
	t := f.target(tb, "", schema)
	t.ExtensionSchema = extensions
	t.Role = f.role(tb, schema)
	quoted := pgx.Identifier{schema}.Sanitize()
	f.exec(tb, `CREATE SCHEMA `+quoted+`; GRANT USAGE ON SCHEMA `+quoted+` TO `+t.Role)
	for _, rights := range []string{"SELECT, INSERT, UPDATE, DELETE ON TABLES", "SELECT, USAGE, UPDATE ON SEQUENCES", "EXECUTE ON FUNCTIONS", "USAGE ON TYPES"} {
		f.exec(tb, `ALTER DEFAULT PRIVILEGES IN SCHEMA `+quoted+` GRANT `+rights+` TO `+t.Role)
	}
	if _, err := m.Apply(tb.Context(), t); err != nil {
		tb.Fatal(err)
	}
	f.targets = append(f.targets, t)
	return t
}

// found lists the differences by kind and object.
func found(d migrate.Drift) []string {
	var names []string
	for _, d := range d.Differences {
		names = append(names, d.Kind+" "+d.Object)
	}
	return names
}

// A fault in one tenant's schema is found by its kind and name, and nothing else is.
func TestCheckFindsPlants(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 0)
	m := migrate.New(load(t, nasty()), migrate.Config{})
	reference := f.house(t, m, "reference", "")
	super := pgtest.Connect(t, pgtest.SuperURL(t, f.url))
	bob := f.role(t, "bob")
	plants := driftPlants()
	for i, p := range plants {
		target := f.house(t, m, fmt.Sprintf("t_%d", i), "")
		sql := strings.NewReplacer("{schema}", target.Schema, "{role}", target.Role, "{bob}", bob, "{reference}", reference.Role).Replace(p.sql)
		if _, err := super.Exec(t.Context(), `SET search_path = `+target.Schema+`; SET ROLE leasehold;`+sql+`; RESET ROLE`); err != nil {
			t.Fatalf("%s: %v", p.name, err)
		}
	}
	drifts, err := m.Check(t.Context(), reference, f.targets)
	if err != nil {
		t.Fatal(err)
	}
	if got := found(drifts[0]); len(got) > 0 {
		t.Errorf("the reference differs from itself: %v", drifts[0].Differences)
	}
	for i, p := range plants {
		t.Run(p.name, func(t *testing.T) {
			d := drifts[i+1]
			var want []string
			for _, name := range p.want {
				want = append(want, strings.ReplaceAll(strings.ReplaceAll(name, "{bob}", bob), "{reference}", reference.Role))
			}
			if diff := cmp.Diff(want, found(d)); diff != "" || d.Err != nil || d.Target != f.targets[i+1].Schema {
				t.Errorf("%s: %v, want - and got +:\n%s", d.Target, d.Err, diff)
			}
			for _, d := range d.Differences {
				t.Log(d)
				if d.Want == d.Got {
					t.Errorf("%v: wants what it got", d)
				}
			}
		})
	}
	f.checkQuiet(t)
}

// login is the fleet as another login sees it.
func (f *fleet) login(tb testing.TB, name string) *fleet {
	tb.Helper()
	role := f.role(tb, name)
	pgtest.Exec(tb, pgtest.SuperURL(tb, f.url), `ALTER ROLE `+role+` LOGIN CREATEROLE PASSWORD 'secret'; GRANT CREATE ON DATABASE `+f.conn.Config().Database+` TO `+role)
	u, err := url.Parse(f.url)
	if err != nil {
		tb.Fatal(err)
	}
	u.User = url.UserPassword(role, "secret")
	return &fleet{url: u.String(), conn: pgtest.Connect(tb, u.String())}
}

// extensions makes a schema with a function that tenants share.
func (f *fleet) extensions(tb testing.TB, schema string) {
	tb.Helper()
	f.exec(tb, strings.ReplaceAll(`CREATE SCHEMA {}; GRANT USAGE ON SCHEMA {} TO PUBLIC;
		CREATE FUNCTION {}.slug(text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT lower($1)'`, "{}", schema))
}

// Schemas that were made of the same files are the same, whatever they, their roles, their login and their database are called.
func TestCheckFindsNoDrift(t *testing.T) {
	t.Parallel()
	files := nasty()
	files["20260103000000_extension.sql"] = up(`CREATE TABLE slugs (slug text DEFAULT slug('x'), CHECK (slug = slug(slug)))`)
	m := migrate.New(load(t, files), migrate.Config{})
	elsewhere, f := newFleet(t, 0), newFleet(t, 0)
	elsewhere.extensions(t, "extensions")
	f.extensions(t, "ext")
	reference := elsewhere.house(t, m, "reference", "extensions")
	// One name begins as another, is a word of SQL, a table's, and that of an alias in a view.
	for _, schema := range []string{"t_1", "t_10", "order", "customers", "c", "zz", strings.Repeat("long", 10)} {
		f.house(t, m, schema, "ext")
	}
	other := f.login(t, "other")
	other.house(t, m, "t_2", "ext")
	f.targets = append(f.targets, other.targets...)
	elsewhere.house(t, m, "t_1", "extensions")
	f.targets = append(f.targets, elsewhere.targets...)
	drifts, err := m.Check(t.Context(), reference, f.targets)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range drifts {
		if len(d.Differences) > 0 {
			t.Errorf("%s: %v", d.Target, d.Differences)
		}
	}
}

// things is a small product.
func things() map[string]string {
	return map[string]string{
		"20260101000000_things.sql": up(`CREATE TYPE status AS ENUM ('new', 'old');
			CREATE TABLE things (id int PRIMARY KEY, state status);
			CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
			CREATE FUNCTION twice(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 2 * $1';`),
		"20260102000000_index.sql": up(`CREATE INDEX things_by_state ON things (state)`),
		"20260103000000_view.sql":  up(`CREATE VIEW news AS SELECT id FROM things WHERE state = 'new'`),
	}
}

// What reaches from one schema into another is found on both sides (THREATS 22), and in the reference too.
func TestCheckFindsDependencies(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 0)
	m := migrate.New(load(t, things()), migrate.Config{})
	f.exec(t, `CREATE SCHEMA other; CREATE TABLE other.t (id int); CREATE SEQUENCE other.s; CREATE TYPE other.e AS ENUM ('a');
		CREATE FUNCTION other.f() RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1'; CREATE SCHEMA shared;
		CREATE FUNCTION shared.member() RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1'; CREATE TYPE shared.e AS ENUM ('a');
		CREATE TYPE shared.m AS ENUM ('a');`)
	f.extensions(t, "ext")
	pgtest.Exec(t, pgtest.SuperURL(t, f.url), `ALTER EXTENSION plpgsql ADD FUNCTION shared.member()`, `ALTER EXTENSION plpgsql ADD TYPE shared.m`)
	plants := []struct {
		name, sql string
		want      []string
	}{
		{"none", `SELECT`, nil},
		{"the system's, extensions', and its own", `CREATE VIEW t.v AS SELECT ext.slug(c.relname::text), shared.member(), things.* FROM pg_catalog.pg_class c, information_schema.tables, t.things`, nil},
		{"an array of an extension's type", `ALTER TABLE t.things ADD m shared.m[]`, nil},
		{"a view", `CREATE VIEW t.v AS SELECT id FROM other.t`, []string{"view v: depends on table other.t"}},
		{"a function of a view", `CREATE VIEW t.v AS SELECT id, other.f() FROM t.things`, []string{"view v: depends on function other.f()"}},
		{"a default", `ALTER TABLE t.things ALTER id SET DEFAULT nextval('other.s')`, []string{"default value for things.id: depends on sequence other.s"}},
		{"a column", `ALTER TABLE t.things ADD e other.e[]`, []string{"table things: depends on type other.e[]"}},
		{"a column of a composite type", `CREATE TYPE t.c AS (e other.e)`, []string{"composite type c: depends on type other.e"}},
		{"a type of no extension", `ALTER TABLE t.things ADD e shared.e`, []string{"table things: depends on type shared.e"}},
		{"a constraint", `ALTER TABLE t.things ADD CONSTRAINT k CHECK (other.f() = 1)`, []string{"table constraint k on things: depends on function other.f()"}},
		{"a check of a domain", `CREATE DOMAIN t.d AS int CONSTRAINT k CHECK (other.f() = 1)`, []string{"domain constraint k on d: depends on function other.f()"}},
		{"a trigger", `CREATE FUNCTION other.touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
			CREATE TRIGGER k AFTER INSERT ON t.things FOR EACH ROW EXECUTE FUNCTION other.touch()`, []string{"trigger k on things: depends on function other.touch()"}},
		{"a policy", `CREATE POLICY k ON t.things USING (id = other.f())`, []string{"policy k on things: depends on function other.f()"}},
		{"an index", `CREATE INDEX k ON t.things ((id + other.f()))`, []string{"index k: depends on function other.f()"}},
		{"a body", `CREATE FUNCTION t.f() RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT count(*) FROM other.t; END`, []string{"function f(): depends on table other.t"}},
		{"an argument", `CREATE FUNCTION t.f(other.e) RETURNS int LANGUAGE sql AS 'SELECT 1'`, []string{"function f(other.e): depends on type other.e"}},
		{"a parent", `CREATE TABLE t.child () INHERITS (other.t)`, []string{"table child: depends on table other.t"}},
		{"from a view", `CREATE VIEW other.v_N AS SELECT id FROM t.things`, []string{"table things: view other.v_N depends on it"}},
		{"from a foreign key", `CREATE TABLE other.t_N (id int CONSTRAINT k_N REFERENCES t.things)`, []string{"table things: table constraint k_N on other.t_N depends on it"}},
		{"from a default", `CREATE TABLE other.t_N (id int DEFAULT t.twice(1))`, []string{"function twice(integer): default value for other.t_N.id depends on it"}},
		{"from a trigger", `CREATE TABLE other.t_N (id int); CREATE TRIGGER k AFTER INSERT ON other.t_N FOR EACH ROW EXECUTE FUNCTION t.touch()`,
			[]string{"function touch(): trigger k on other.t_N depends on it"}},
		{"from a column", `CREATE TABLE other.t_N (e t.status)`, []string{"type status: table other.t_N depends on it"}},
		{"from a column of arrays", `CREATE TABLE other.t_N (e t.status[])`, []string{"type status[]: table other.t_N depends on it"}},
		{"from a column of rows", `CREATE TABLE other.t_N (e t.things)`, []string{"type things: table other.t_N depends on it"}},
		{"from another tenant", `CREATE VIEW reference.v AS SELECT id FROM t.news`, []string{"view news: view reference.v depends on it"}},
	}
	f.house(t, m, "reference", "ext")
	for i, p := range plants {
		schema := fmt.Sprintf("t_%d", i)
		f.house(t, m, schema, "ext")
		f.exec(t, strings.NewReplacer(" t.", " "+schema+".", "_N", fmt.Sprint("_", i)).Replace(p.sql))
	}
	drifts, err := m.Check(t.Context(), f.targets[0], f.targets)
	if err != nil {
		t.Fatal(err)
	}
	for i, d := range drifts {
		var got []string
		for _, d := range d.Differences {
			if d.Kind == "dependency" {
				got = append(got, d.Object+": "+d.Got)
			}
		}
		name, want := "the reference", []string{fmt.Sprintf("view v: depends on view t_%d.news", len(plants)-1)}
		if i > 0 {
			name, want = plants[i-1].name, nil
			for _, w := range plants[i-1].want {
				want = append(want, strings.ReplaceAll(w, "_N", fmt.Sprint("_", i-1)))
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s, want - and got +:\n%s", name, diff)
		}
	}
}

// A ledger differs by its versions, and by what the files were when they were applied.
func TestCheckFindsMigrations(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 0)
	files := things()
	m := migrate.New(load(t, files), migrate.Config{})
	reference := f.house(t, m, "reference", "")
	const view = "20260103000000_view.sql"
	now, before := sha256.Sum256([]byte(files[view])), sha256.Sum256([]byte("before"))
	set := func(sum []byte) string {
		return fmt.Sprintf(`ALTER TABLE schema_migrations ADD COLUMN IF NOT EXISTS checksum bytea; UPDATE schema_migrations SET checksum = '\x%x' WHERE version = '20260103000000'`, sum)
	}
	plants := []struct {
		name, sql string
		want      []migrate.Difference
		behind    []string
	}{
		{"nothing", `SELECT`, nil, nil},
		{"the checksum of the file", set(now[:]), nil, nil},
		{"no checksum", `ALTER TABLE schema_migrations ADD COLUMN IF NOT EXISTS checksum bytea; UPDATE schema_migrations SET checksum = NULL`, nil, nil},
		{"no column", `ALTER TABLE schema_migrations DROP COLUMN IF EXISTS checksum`, nil, nil},
		{"a changed file", set(before[:]), []migrate.Difference{{Kind: "migration", Object: view,
			Want: fmt.Sprintf("the file as it is now, SHA-256 %x", now), Got: fmt.Sprintf("a file that was changed since it was applied here, SHA-256 %x", before)}}, nil},
		{"an unknown version", `INSERT INTO schema_migrations VALUES ('20990101000000')`, []migrate.Difference{{Kind: "migration", Object: "20990101000000", Got: "applied"}}, nil},
		{"behind", `DROP VIEW news; DELETE FROM schema_migrations WHERE version = '20260103000000'`, nil, []string{view}},
		{"behind, and wrong in itself", `DROP VIEW news; DROP TABLE things; ALTER FUNCTION twice SECURITY DEFINER; DELETE FROM schema_migrations WHERE version = '20260102000000';` + set(before[:]),
			[]migrate.Difference{{Kind: "audit", Object: "function twice(integer)", Want: "a search_path of its own, by SET search_path", Got: "SECURITY DEFINER, with its caller's search_path"},
				{Kind: "migration", Object: view, Want: fmt.Sprintf("the file as it is now, SHA-256 %x", now),
					Got: fmt.Sprintf("a file that was changed since it was applied here, SHA-256 %x", before)}}, []string{"20260102000000_index.sql"}},
		{"no ledger", `DROP TABLE schema_migrations`, nil, []string{"20260101000000_things.sql", "20260102000000_index.sql", view}},
	}
	for i, p := range plants {
		target := f.house(t, m, fmt.Sprintf("t_%d", i), "")
		f.exec(t, `SET search_path = `+target.Schema+`;`+p.sql)
	}
	drifts, err := m.Check(t.Context(), reference, f.targets)
	if err != nil {
		t.Fatal(err)
	}
	for i, p := range plants {
		if diff := cmp.Diff(p.want, drifts[i+1].Differences) + cmp.Diff(p.behind, drifts[i+1].Behind); diff != "" {
			t.Errorf("%s, want - and got +:\n%s", p.name, diff)
		}
	}
}

// What cannot be read says why, and does not keep the rest from being compared.
func TestCheckErrors(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 0)
	m := migrate.New(load(t, things()), migrate.Config{LockTimeout: 10 * time.Millisecond})
	reference := f.house(t, m, "reference", "")
	for _, schema := range []string{"clean", "drifted", "locked", "closed"} {
		f.house(t, m, schema, "")
	}
	f.exec(t, `DROP INDEX drifted.things_by_state`)
	f.exec(t, `REVOKE ALL ON closed.schema_migrations FROM leasehold`)
	f.targets = append(f.targets, f.target(t, "gone", "gone"), migrate.Target{Name: "invalid", Schema: "invalid"})
	tx, err := f.conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), `LOCK TABLE locked.things`); err != nil {
		t.Fatal(err)
	}
	drifts, err := m.Check(t.Context(), reference, f.targets)
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	var failed *migrate.FailedError
	if !errors.As(err, &failed) || len(failed.Failed) != 4 || failed.Total != len(f.targets) {
		t.Errorf("got %v", err)
	}
	for i, want := range []string{"", "", "index things_by_state", "55P03", "42501", "gone", "invalid"} {
		d := drifts[i]
		var e *migrate.Error
		switch got := strings.Join(found(d), ", "); {
		case i < 3 && (d.Err != nil || got != want):
			t.Errorf("%s: got %q, %v; want %q", d.Target, got, d.Err, want)
		case i >= 3 && (got != "" || !errors.As(d.Err, &e) || e.Target != d.Target):
			t.Errorf("%s: got %q, %v; want an error", d.Target, got, d.Err)
		case (i == 3 || i == 4) && sqlState(d.Err) != want:
			t.Errorf("%s: got %v, want %s", d.Target, d.Err, want)
		}
	}
	if !errors.Is(drifts[5].Err, migrate.ErrSchemaMissing) {
		t.Errorf("got %v", drifts[5].Err)
	}

	for _, reference := range f.targets[3:] { // the lock is gone
		drifts, err := m.Check(t.Context(), reference, f.targets[:1])
		var e *migrate.Error
		if ok := errors.As(err, &e) && (e.Target == reference.Name || e.Target == reference.Schema) && drifts == nil; ok == (reference.Schema == "locked") {
			t.Errorf("reference %s: got %v, %v", reference.Schema, drifts, err)
		}
	}
	f.checkQuiet(t)
}

// When the context ends while targets are read, they say so.
func TestCheckInterrupted(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 0)
	m := migrate.New(load(t, things()), migrate.Config{})
	reference := f.house(t, m, "reference", "")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	target := f.targets[0]
	target.Conn = target.Conn.Copy()
	target.Conn.AfterConnect = func(context.Context, *pgconn.PgConn) error { cancel(); return nil }
	drifts, err := m.Check(ctx, reference, []migrate.Target{target})
	var e *migrate.Error
	if len(drifts) != 1 || !errors.Is(err, context.Canceled) || !errors.Is(drifts[0].Err, context.Canceled) || !errors.As(drifts[0].Err, &e) {
		t.Errorf("got %v, %v", drifts, err)
	}
	f.checkQuiet(t)
}

func TestDifferenceString(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 200)
	for _, tt := range []struct {
		difference migrate.Difference
		want       string
	}{
		{migrate.Difference{Kind: "index", Object: "by_name", Want: "CREATE INDEX by_name"}, "index by_name is missing: CREATE INDEX by_name"},
		{migrate.Difference{Kind: "index", Object: "by_name", Got: "CREATE INDEX by_name"}, "index by_name should not be there: CREATE INDEX by_name"},
		{migrate.Difference{Kind: "table", Object: "t", Want: "TABLE"}, "table t is missing"},
		{migrate.Difference{Kind: "table", Object: "t", Got: "TABLE PARTITION OF p"}, "table t should not be there: TABLE PARTITION OF p"},
		{migrate.Difference{Kind: "migration", Object: "20260101000000", Got: "applied"}, "migration 20260101000000 should not be there"},
		{migrate.Difference{Kind: "column", Object: "t.c", Want: "text", Got: "integer"}, "column t.c is integer, want text"},
		{migrate.Difference{Kind: "function", Object: "f()", Want: "a\nb\nc\n", Got: "a\nB\nC\n"}, "function f(), line 2, is B, want b"},
		{migrate.Difference{Kind: "function", Object: "f()", Want: "a\nb", Got: "a"}, "function f(), line 2, is nothing, want b"},
		{migrate.Difference{Kind: "view", Object: "v", Want: long, Got: "y"}, "view v is y, want " + long[:120] + "…"},
		{migrate.Difference{Kind: "view", Object: "v", Want: long + " here\n", Got: long + "  there\n"}, "view v, line 1, is …" + long[:19] + "  there, want …" + long[:19] + " here"},
		{migrate.Difference{Kind: "type", Object: "t", Want: long + "ä", Got: long + "ö"}, "type t is …" + long[:19] + "ö, want …" + long[:19] + "ä"},
	} {
		if got := tt.difference.String(); got != tt.want {
			t.Errorf("got  %s\nwant %s", got, tt.want)
		}
	}
}

// BenchmarkCheck compares tenants of the sample product that have no drift.
func BenchmarkCheck(b *testing.B) {
	tenants := 1000
	if testing.Short() {
		tenants = 200
	}
	f := newFleet(b, 0)
	set, err := migrate.Load(migrations.FS, "tenant")
	if err != nil {
		b.Fatal(err)
	}
	sql := "CREATE TABLE schema_migrations (version varchar PRIMARY KEY, checksum bytea);"
	for _, file := range set.Files() {
		content, err := migrations.FS.ReadFile("tenant/" + file.Name)
		if err != nil {
			b.Fatal(err)
		}
		up, _, _ := strings.Cut(string(content), "-- migrate:down")
		sql += up + fmt.Sprintf(`;INSERT INTO schema_migrations VALUES ('%s', '\x%x');`, file.Version, sha256.Sum256(content))
	}
	role := f.role(b, "tenant")
	for i := range tenants + 1 {
		t := f.target(b, "", fmt.Sprintf("t_%d", i))
		t.Role = role
		f.exec(b, strings.ReplaceAll(`CREATE SCHEMA {}; GRANT USAGE ON SCHEMA {} TO `+role+`;
			ALTER DEFAULT PRIVILEGES IN SCHEMA {} GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO `+role+`;
			ALTER DEFAULT PRIVILEGES IN SCHEMA {} GRANT EXECUTE ON FUNCTIONS TO `+role+`; SET search_path = {};`, "{}", t.Schema)+sql)
		f.targets = append(f.targets, t)
	}
	m := migrate.New(set, migrate.Config{})
	for b.Loop() {
		drifts, err := m.Check(b.Context(), f.targets[0], f.targets[1:])
		if err != nil {
			b.Fatal(err)
		}
		for _, d := range drifts {
			if len(d.Differences) > 0 {
				b.Fatal(d.Target, d.Differences)
			}
		}
	}
	b.ReportMetric(b.Elapsed().Seconds()*1000/float64(b.N*tenants), "ms/tenant")
}
