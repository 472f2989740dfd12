package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

// A runner that records a file in another transaction than the one that ran it is found out by a kill between the two. Each file takes
// a dozen boundaries; these are those of the second, which may not run twice.
func TestNaiveMigrationsDoNotConverge(t *testing.T) {
	t.Parallel()
	cfg := small(t)
	cfg.Migrate, cfg.Env = migrateNaively, []string{naiveEnv + "=1"}
	c := mustNewCampaign(t, cfg)
	const from, to = 30, 46
	for at := int64(from); at < to && len(c.report.faults) == 0; at++ {
		if err := c.site.reset(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := c.play(t.Context(), round{number: 9, salvos: []salvo{{at: []int64{at}}}}); err != nil {
			t.Fatal(err)
		}
	}
	if c.report.killed() == 0 || c.report.err() == nil {
		t.Fatalf("%d kills, and no fault was found", c.report.killed())
	}
	for _, f := range c.report.faults {
		t.Log(f)
		if !strings.HasPrefix(f, "seed 1, 2 workers, round 9, up (killed at boundary ") {
			t.Error("that is not enough to find it again")
		}
	}
}

// migrateNaively is what people write: run the file, then note that it ran.
func migrateNaively(ctx context.Context, url string, j job, c *clock) error {
	targets, err := fleet(url, c)
	if err != nil {
		return err
	}
	conn, err := pgx.ConnectConfig(ctx, targets[0].Conn)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	exec := func(sql string) {
		if err == nil {
			_, err = conn.PgConn().Exec(ctx, sql).ReadAll()
		}
	}
	for _, t := range targets {
		exec("SET search_path = " + t.Schema + `; CREATE TABLE IF NOT EXISTS schema_migrations (version varchar PRIMARY KEY, checksum bytea);
			REVOKE ALL ON schema_migrations FROM ` + t.Role)
		whole, _, stateErr := states()
		if stateErr != nil {
			return stateErr
		}
		for _, row := range order(j.course, whole.ledger) {
			version, sum, _ := strings.Cut(row, " ")
			var ran bool
			if err == nil {
				err = conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM schema_migrations WHERE version = $1)`,
					pgx.QueryExecModeExec, version).Scan(&ran)
			}
			if ran != (j.course == up) {
				text, note := naiveStep(version, sum, j.course)
				exec(text)
				exec(note)
			}
		}
	}
	return err
}

// order returns what a course is about, in its order.
func order(c course, ledger []string) []string {
	if c == up {
		return ledger
	}
	ledger = slices.Clone(ledger[kept:])
	slices.Reverse(ledger)
	return ledger
}

// naiveStep returns a section of a file, and what records it.
func naiveStep(version, sum string, c course) (text, note string) {
	entries, _ := product.ReadDir(productDir)
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), version) {
			content, _ := product.ReadFile(productDir + "/" + entry.Name())
			text = string(content)
		}
	}
	before, after, _ := strings.Cut(text, "-- migrate:down")
	if c == up {
		return before, fmt.Sprintf(`INSERT INTO schema_migrations VALUES ('%s', '\x%s')`, version, sum)
	}
	_, after, _ = strings.Cut(after, "\n")
	return after, fmt.Sprintf("DELETE FROM schema_migrations WHERE version = '%s'", version)
}
