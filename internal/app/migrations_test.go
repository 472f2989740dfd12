package app_test

import (
	"io/fs"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/db/migrate"
	"github.com/leasehold-go/leasehold/db/migrations"
	"github.com/leasehold-go/leasehold/internal/pgtest"
)

// Each migration's down undoes its up: what is left after all of them is an empty schema, in which they run again.
func TestMigrationsGoDownAndUpAgain(t *testing.T) {
	t.Parallel()
	conn := pgtest.Connect(t, pgtest.Database(t))
	names, err := fs.Glob(migrations.FS, "tenant/*.sql")
	must(t, err)
	if len(names) == 0 {
		t.Fatal("no migrations")
	}
	exec := func(what, sql string) {
		t.Helper()
		if _, err := conn.PgConn().Exec(t.Context(), sql).ReadAll(); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	left := func() (n int) {
		t.Helper()
		const objects = `SELECT (SELECT count(*) FROM pg_class WHERE relnamespace = 'probe'::regnamespace)
			+ (SELECT count(*) FROM pg_type WHERE typnamespace = 'probe'::regnamespace)
			+ (SELECT count(*) FROM pg_proc WHERE pronamespace = 'probe'::regnamespace)`
		must(t, conn.QueryRow(t.Context(), objects).Scan(&n))
		return n
	}
	exec("create the schema", `CREATE SCHEMA probe; SET search_path = probe`)
	for range 2 {
		for _, name := range names {
			up, _ := sections(t, name)
			exec(name+" up", up)
		}
		if left() == 0 {
			t.Fatal("the migrations made nothing in the schema on the path")
		}
		for _, name := range slices.Backward(names) {
			_, down := sections(t, name)
			exec(name+" down", down)
		}
		if n := left(); n != 0 {
			t.Fatalf("%d objects are left after all downs", n)
		}
	}
}

// db/schema.sql is there for the review of changes: it must say what the migrations make. The catalogues are compared and not the
// texts, which differ between versions of pg_dump.
func TestSchemaSQLIsWhatTheMigrationsMake(t *testing.T) {
	t.Parallel()
	databaseURL := pgtest.Database(t)
	conn := pgtest.Connect(t, databaseURL)
	dump, err := os.ReadFile("../../db/schema.sql")
	must(t, err)
	script := "CREATE SCHEMA made; CREATE SCHEMA loaded; SET search_path = loaded;\n" + string(dump)
	if _, err := conn.PgConn().Exec(t.Context(), script).ReadAll(); err != nil {
		t.Fatalf("load db/schema.sql: %v", err)
	}
	set, err := migrate.Load(migrations.FS, "tenant")
	must(t, err)
	config, err := pgx.ParseConfig(databaseURL)
	must(t, err)
	m := migrate.New(set, migrate.Config{})
	made := migrate.Target{Schema: "made", Conn: config}
	_, err = m.Apply(t.Context(), made)
	must(t, err)
	drifts, err := m.Check(t.Context(), made, []migrate.Target{{Schema: "loaded", Conn: config}})
	must(t, err)
	for _, difference := range drifts[0].Differences {
		t.Errorf("db/schema.sql: %s; write it anew: task dump", difference)
	}
}

func sections(t *testing.T, name string) (up, down string) {
	t.Helper()
	text, err := fs.ReadFile(migrations.FS, name)
	must(t, err)
	up, down, found := strings.Cut(string(text), "-- migrate:down")
	if !found {
		t.Fatalf("%s has no down", name)
	}
	return up, down
}
