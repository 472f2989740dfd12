package app_test

import (
	"io/fs"
	"slices"
	"strings"
	"testing"

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
