package migrate_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/leasehold-go/leasehold/db/migrate"
)

// up is a file with the given up section.
func up(sql string) string { return "-- migrate:up\n" + sql + "\n-- migrate:down\n" }

// alone is a file with the given up section, without a transaction.
func alone(sql string) string {
	return "-- migrate:up transaction:false\n" + sql + "\n-- migrate:down\n"
}

// folder is a file system with the files in folder "m".
func folder(files map[string]string) fs.FS {
	fsys := fstest.MapFS{}
	for name, content := range files {
		fsys["m/"+name] = &fstest.MapFile{Data: []byte(content)}
	}
	return fsys
}

// load loads what must be in order.
func load(tb testing.TB, files map[string]string) *migrate.Set {
	tb.Helper()
	set, err := migrate.Load(folder(files), "m")
	if err != nil {
		tb.Fatal(err)
	}
	return set
}

type place struct {
	File string
	Line int
}

// places are where the problems are. The messages are for people.
func places(err error) []place {
	var got []place
	if err == nil {
		return nil
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []place{{err.Error(), -1}}
	}
	for _, e := range joined.Unwrap() {
		var fe *migrate.FileError
		if !errors.As(e, &fe) || fe.Message == "" {
			return []place{{e.Error(), -1}}
		}
		got = append(got, place{strings.TrimPrefix(fe.File, "m/"), fe.Line})
	}
	return got
}

func TestLoadAccepts(t *testing.T) {
	t.Parallel()
	for name, content := range map[string]string{
		"plain":                     up("CREATE TABLE a (id int);\nCREATE TABLE b (id int);"),
		"leading comment":           "-- why\n\n" + up("SELECT 1;"),
		"windows line ends":         "-- migrate:up\r\nSELECT 1;\r\n-- migrate:down\r\nSELECT 2;\r\n",
		"without a semicolon":       up("SELECT 1"),
		"words in literals":         up("SELECT 'SET search_path'; -- SET ROLE x\nSELECT 1 AS \"set\""),
		"plpgsql":                   up("CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS $$ BEGIN; RETURN 1; END $$;"),
		"a path of the function":    up("CREATE FUNCTION f() RETURNS int LANGUAGE sql SET search_path = pg_catalog AS 'SELECT 1';"),
		"atomic":                    up("CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; END;"),
		"set local":                 up("SET LOCAL lock_timeout = '10s';"),
		"set constraints":           up("SET CONSTRAINTS ALL IMMEDIATE;"),
		"isolation":                 up("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE;"),
		"other set_config":          up("SELECT set_config('work_mem', '64MB', true);"),
		"prepare":                   up("PREPARE a AS SELECT 1;"),
		"copy from a file":          up("COPY a FROM '/srv/a.csv';"),
		"alone":                     alone("CREATE INDEX CONCURRENTLY IF NOT EXISTS a_i ON a (id); -- done"),
		"alone, said outright":      "-- migrate:up transaction:true\nSELECT 1;\n-- migrate:down transaction:false\n",
		"refresh in a transaction":  up("REFRESH MATERIALIZED VIEW CONCURRENTLY v;"),
		"case expression":           up("UPDATE a SET role = CASE id WHEN 1 THEN 'x' END;"),
		"column named like a scope": up("ALTER TABLE a ALTER COLUMN search_path SET DEFAULT ''"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			set := load(t, map[string]string{"20260101000000_a.sql": content, "README.md": "not SQL", ".hidden.sql": "x", "sub/1.sql": "x"})
			want := []migrate.File{{Version: "20260101000000", Name: "20260101000000_a.sql"}}
			if diff := cmp.Diff(want, set.Files()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// Each content has one fault, in the given line.
func TestLoadRefusesContent(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, content string
		line          int
	}{
		{"no up", "SELECT 1;\n-- migrate:down\n", 0},
		{"no down", "-- migrate:up\nSELECT 1;\n", 0},
		{"down first", "-- migrate:down\n-- migrate:up\nSELECT 1;\n", 0},
		{"two down", up("SELECT 1;") + "-- migrate:down\n", 0},
		{"two up", up("SELECT 1;") + up("SELECT 2;"), 4},
		{"statement before up", "SELECT 1;\n" + up("SELECT 1;"), 0},
		{"empty up", up("-- later"), 1},
		{"not text", up("SELECT '\xff';"), 0},
		{"byte order mark", "\ufeff" + up("SELECT 1;"), 1},
		{"option with a space", "-- migrate:up transaction: false\nSELECT 1;\n-- migrate:down\n", 1},
		{"unknown option", "-- migrate:up\nSELECT 1;\n-- migrate:down transactional:false\n", 3},
		{"open literal", up("SELECT 1;\nSELECT 'a;"), 3},
		{"down inside a comment", up("SELECT 1; /*\n-- migrate:down\n*/"), 0},
		{"psql", up("SELECT 1;\n\\i other.sql"), 3},
		{"copy from stdin", up("COPY a (id)\nFROM stdin;"), 2},
		{"copy to stdout", up("COPY a TO STDOUT;"), 2},
		{"begin", up("BEGIN;"), 2},
		{"start transaction", up("START TRANSACTION;"), 2},
		{"commit", up("SELECT 1;\n\nCOMMIT;"), 4},
		{"end", up("END;"), 2},
		{"rollback", up("rollback to a;"), 2},
		{"abort", up("ABORT;"), 2},
		{"savepoint", up("SAVEPOINT a;"), 2},
		{"prepare transaction", up("PREPARE TRANSACTION 'a';"), 2},
		{"begin alone", alone("BEGIN"), 2},
		{"set search_path", up("/* c */ SET search_path = public;"), 2},
		{"set quoted search_path", up(`SET "Search_Path" TO public;`), 2},
		{"set local search_path", up("SET LOCAL search_path = public;"), 2},
		{"set session search_path", up("SET SESSION search_path = public;"), 2},
		{"set schema", up("SET SCHEMA 'public';"), 2},
		{"set role", up("SET ROLE postgres;"), 2},
		{"set session role", up("SET SESSION ROLE postgres;"), 2},
		{"set session authorization", up("SET SESSION AUTHORIZATION postgres;"), 2},
		{"set local session authorization", up("SET LOCAL SESSION AUTHORIZATION postgres;"), 2},
		{"set for the session", up("SET statement_timeout = 0;"), 2},
		{"set session characteristics", up("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY;"), 2},
		{"set time zone", up("SET TIME ZONE 'UTC';"), 2},
		{"set_config", up("SELECT pg_catalog.set_config('search_path', '', false);"), 2},
		{"set_config of the role", up("SELECT 1, \"set_config\"(E'Role', 'x', true);"), 2},
		{"set_config by name", up("SELECT set_config(new_value => '', setting_name => 'search_path', is_local => true);"), 2},
		{"reset", up("RESET ALL;"), 2},
		{"discard", up("DISCARD ALL;"), 2},
		{"in the down section", "-- migrate:up\nSELECT 1;\n-- migrate:down\nSELECT 2;\nRESET role;", 5},
		{"two statements alone", alone("DROP INDEX CONCURRENTLY IF EXISTS a;\nDROP INDEX CONCURRENTLY IF EXISTS b;"), 3},
		{"concurrently in a transaction", up("CREATE UNIQUE INDEX CONCURRENTLY ON a (id);"), 2},
		{"vacuum in a transaction", up("VACUUM a;"), 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := migrate.Load(folder(map[string]string{"1_a.sql": tt.content}), "m")
			got := places(err)
			if tt.name == "down inside a comment" {
				// dbmate sees two down sections; which of its complaints comes first does not matter.
				if len(got) == 0 {
					t.Error("accepted")
				}
				return
			}
			if diff := cmp.Diff([]place{{"1_a.sql", tt.line}}, got); diff != "" {
				t.Errorf("%s\n%v", diff, err)
			}
		})
	}
}

func TestLoadRefusesFolder(t *testing.T) {
	t.Parallel()
	good := up("SELECT 1;")
	for _, tt := range []struct {
		name  string
		files map[string]string
		want  []place
	}{
		{"no version", map[string]string{"1_a.sql": good, "foo.sql": good, "v2_b.SQL": good, "3_c.SQL": good},
			[]place{{"3_c.SQL", 0}, {"foo.sql", 0}, {"v2_b.SQL", 0}}},
		{"one version twice", map[string]string{"1_a.sql": good, "1_b.sql": good, "2.sql": good}, []place{{"1_b.sql", 0}}},
		{"order of names and numbers", map[string]string{"1_a.sql": good, "10_b.sql": good, "20_c.sql": good}, []place{{"1_a.sql", 0}}},
		{"all problems at once", map[string]string{"1_a.sql": up("BEGIN;\nCOMMIT;"), "2_b.sql": "x", "3_c.sql": up("RESET a;")},
			[]place{{"1_a.sql", 2}, {"1_a.sql", 3}, {"2_b.sql", 0}, {"3_c.sql", 2}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := migrate.Load(folder(tt.files), "m")
			if diff := cmp.Diff(tt.want, places(err)); diff != "" {
				t.Errorf("%s\n%v", diff, err)
			}
		})
	}
	if _, err := migrate.Load(folder(map[string]string{"README.md": ""}), "m"); !errors.Is(err, migrate.ErrNoFiles) {
		t.Errorf("empty folder: %v", err)
	}
	if _, err := migrate.Load(fstest.MapFS{}, "m"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no folder: %v", err)
	}
}

// A file that passed the checks is what runs, though it has been changed since.
func TestSetHoldsWhatWasChecked(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	name := filepath.Join(dir, "1_a.sql")
	if err := os.WriteFile(name, []byte(up("CREATE TABLE a ();")), 0o600); err != nil {
		t.Fatal(err)
	}
	set, err := migrate.Load(os.DirFS(dir), ".")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(up("CREATE TABLE b ();")), 0o600); err != nil {
		t.Fatal(err)
	}
	f := newFleet(t, 1)
	if _, err := migrate.New(set, migrate.Config{}).Apply(t.Context(), f.targets[0]); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"a", "schema_migrations"}, f.tables(t, f.targets[0])); diff != "" {
		t.Error(diff)
	}
}

func FuzzLoad(f *testing.F) {
	f.Add(up("SELECT 1;"))
	f.Add(up("SELECT 1;") + up("SELECT $1;"))
	f.Add(alone("SET SESSION a; \\ 'x"))
	f.Add("--\nmigrate:up\n-- migrate:down transaction:false\n;;SET")
	f.Fuzz(func(t *testing.T, content string) {
		set, err := migrate.Load(folder(map[string]string{"1_a.sql": content}), "m")
		if (set == nil) == (err == nil) {
			t.Fatalf("set %v, error %v", set, err)
		}
		lines := 1 + strings.Count(content, "\n")
		for _, p := range places(err) {
			if p.Line < 0 || p.Line > lines {
				t.Fatalf("line %d of %d: %v", p.Line, lines, err)
			}
		}
	})
}
