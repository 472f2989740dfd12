package tenanttest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5"
)

// leftover is a way to leave something on a connection, and a query that finds it there.
type leftover struct {
	what string
	// leave is the statement. NAME_ stands for a name that is made for each try, KEY_ for a number.
	leave string
	// look returns what is there of it, as text. What changes path or role needs none: the look around that follows finds it.
	look string
}

// lookAtSettings finds what SET has left.
const lookAtSettings = `SELECT current_setting('leasehold_test.leftover', true) WHERE current_setting('leasehold_test.leftover', true) = 'NAME_'`

// leftoverWays returns the plain ways to leave something behind.
func leftoverWays() []leftover {
	return []leftover{
		{"setting", `SET leasehold_test.leftover = 'NAME_'`, lookAtSettings},
		{"setting", `SELECT set_config('leasehold_test.leftover', 'NAME_', false)`, lookAtSettings},
		{"search_path", `SET search_path = pg_catalog`, ``},
		{"role", `SET ROLE NONE`, ``},
		{"role", `RESET ROLE`, ``},
		{"settings", `RESET ALL`, ``},
		{"everything", `DISCARD ALL`, ``},
		{"temporary table", `CREATE TEMPORARY TABLE NAME_ AS SELECT 'NAME_'::text AS mark`,
			`SELECT relname::text FROM pg_class WHERE relnamespace = pg_my_temp_schema() AND relname = 'NAME_'`},
		{"prepared statement", `PREPARE NAME_ AS SELECT 1`, `SELECT name FROM pg_prepared_statements WHERE name = 'NAME_'`},
		{"cursor", `DECLARE NAME_ CURSOR WITH HOLD FOR SELECT 1`, `SELECT name FROM pg_cursors WHERE name = 'NAME_'`},
		{"channel", `LISTEN NAME_`, `SELECT c FROM pg_listening_channels() AS c WHERE c = 'NAME_'`},
		{"advisory lock", `SELECT pg_advisory_lock(KEY_)`,
			`SELECT 'NAME_' FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid() AND classid = 0 AND objid = KEY_`},
	}
}

// leftovers: what a statement tries to leave on its connection is not there for the next tenant, whether the statement was refused
// or its connection closed.
func (t *trial[D]) leftovers(ctx context.Context) {
	for k, way := range leftoverWays() {
		i := k % len(t.target.Tenants)
		name, key := fmt.Sprintf("%sleftover%d", t.books.prefix, k), rand.Int32()
		fill := strings.NewReplacer("NAME_", name, "KEY_", fmt.Sprint(key))
		_ = t.as(ctx, i, func(ctx context.Context, db D) error { // which may be refused
			_, err := db.Exec(ctx, fill.Replace(way.leave))
			return err
		})
		if way.look != "" {
			t.search(ctx, i, way.what, fill.Replace(way.look))
		}
		t.settle(ctx, i)
	}
}

// search has everybody but tenant i look for what it may have left, at once, so that they look on several connections.
func (t *trial[D]) search(ctx context.Context, i int, what, sql string) {
	var wg sync.WaitGroup
	for range t.target.Conns {
		for j := range t.target.Tenants {
			if j == i {
				continue
			}
			wg.Go(func() {
				t.do(ctx, j, "look for a "+what, func(ctx context.Context, db D) error {
					rows, err := db.Query(ctx, sql)
					if err != nil {
						return err
					}
					left, err := pgx.CollectRows(rows, pgx.RowTo[string])
					for _, saw := range left {
						t.leak(j, what, saw, i)
					}
					return err
				})
			})
		}
	}
	wg.Wait()
}
