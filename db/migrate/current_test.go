package migrate_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/db/migrate"
	"github.com/leasehold-go/leasehold/internal/pgtest"
)

// standing asks where a target stands, in a transaction that is rolled back.
func (f *fleet) standing(tb testing.TB, m *migrate.Migrator, t migrate.Target) migrate.Standing {
	tb.Helper()
	tx, err := f.conn.Begin(tb.Context())
	if err != nil {
		tb.Fatal(err)
	}
	defer tx.Rollback(tb.Context())
	standing, err := m.Standing(tb.Context(), tx, t.Schema)
	if err != nil {
		tb.Fatal(err)
	}
	return standing
}

func TestStanding(t *testing.T) {
	t.Parallel()
	of := func(files map[string]string) *migrate.Migrator { return migrate.New(load(t, files), migrate.Config{}) }
	one, two := up("CREATE TABLE a ();"), up("CREATE TABLE b ();")
	applied := of(map[string]string{"1_a.sql": one, "2_b.sql": two})
	for _, tt := range []struct {
		name, then string
		files      map[string]string
		want       migrate.Standing
	}{
		{"the same files", "", map[string]string{"1_a.sql": one, "2_b.sql": two}, migrate.Current},
		{"another name for a version", "", map[string]string{"1_x.sql": one, "2_b.sql": two}, migrate.Current},
		{"one more", "", map[string]string{"1_a.sql": one, "2_b.sql": two, "3_c.sql": one}, migrate.Behind},
		{"one fewer", "", map[string]string{"1_a.sql": one}, migrate.Ahead},
		{"one fewer and another more", "", map[string]string{"1_a.sql": one, "3_c.sql": one}, migrate.Changed},
		{"one changed", "", map[string]string{"1_a.sql": one, "2_b.sql": one}, migrate.Changed},
		{"one changed and one more", "", map[string]string{"1_a.sql": two, "2_b.sql": two, "3_c.sql": one}, migrate.Changed},
		{"no checksums", `UPDATE t_0.schema_migrations SET checksum = NULL`, map[string]string{"1_a.sql": two, "2_b.sql": two}, migrate.Current},
		{"a ledger of dbmate's own", `ALTER TABLE t_0.schema_migrations DROP COLUMN checksum`,
			map[string]string{"1_a.sql": two, "2_b.sql": two}, migrate.Current},
		{"an empty ledger", `DELETE FROM t_0.schema_migrations`, map[string]string{"1_a.sql": one}, migrate.Behind},
		{"no ledger", `DROP TABLE t_0.schema_migrations`, map[string]string{"1_a.sql": one}, migrate.Behind},
		{"no schema", `DROP SCHEMA t_0 CASCADE`, map[string]string{"1_a.sql": one}, migrate.Missing},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t, 1)
			if _, err := applied.Apply(t.Context(), f.targets[0]); err != nil {
				t.Fatal(err)
			}
			if tt.then != "" {
				f.exec(t, tt.then)
			}
			if got := f.standing(t, of(tt.files), f.targets[0]); got != tt.want {
				t.Errorf("it is %s, want %s", got, tt.want)
			}
			f.checkQuiet(t)
		})
	}
}

// An answer stays true until the transaction ends: whoever migrates is noticed, and who comes later waits.
func TestStandingHoldsOffMigrators(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	target := f.targets[0]
	set := load(t, map[string]string{"1_a.sql": up("CREATE TABLE a ();"), "2_b.sql": up("CREATE TABLE b ();")})
	tx, err := pgtest.Connect(t, f.url).Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	m := migrate.New(set, migrate.Config{})
	if got, err := m.Standing(t.Context(), tx, target.Schema); got != migrate.Behind || err != nil {
		t.Errorf("Standing = %s, %v, want %s", got, err, migrate.Behind)
	}
	waiting := make(chan struct{})
	var inTheMiddle []migrate.Standing
	r := &recorder{on: func(message string) {
		switch message {
		case "waiting for another runner":
			close(waiting)
		case "applied":
			inTheMiddle = append(inTheMiddle, f.standing(t, m, target))
		}
	}}
	outcome := make(chan error, 1)
	go func() {
		_, err := migrate.New(set, migrate.Config{Logger: r.logger()}).Apply(t.Context(), target)
		outcome <- err
	}()
	<-waiting
	if got, err := m.Standing(t.Context(), tx, target.Schema); got != migrate.Behind || err != nil {
		t.Errorf("while a migrator waits: Standing = %s, %v, want %s", got, err, migrate.Behind)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-outcome; err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff([]migrate.Standing{migrate.Busy, migrate.Busy}, inTheMiddle); diff != "" {
		t.Errorf("while a migrator works (-want +got):\n%s", diff)
	}
	if got := f.standing(t, m, target); got != migrate.Current {
		t.Errorf("it is %s, want %s", got, migrate.Current)
	}
}

// A ledger that nobody can read is an error, not an answer.
func TestStandingOfALedgerThatCannotBeRead(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	f.exec(t, `CREATE TABLE t_0.schema_migrations (v int)`)
	m := migrate.New(load(t, map[string]string{"1_a.sql": up("SELECT 1;")}), migrate.Config{})
	err := pgx.BeginFunc(t.Context(), f.conn, func(tx pgx.Tx) error {
		_, err := m.Standing(t.Context(), tx, "t_0")
		return err
	})
	if sqlState(err) != "42703" {
		t.Errorf("error = %v, want that the column is missing", err)
	}
}
