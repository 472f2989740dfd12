package tenantdb_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/leasehold-go/leasehold/db/tenantdb"
)

// drift is a migration of the column v, with values for both of its types.
type drift struct {
	name     string
	before   string // the type of v
	after    string // the migration, of the table TABLE_
	old, new []any  // values of either type
}

func drifts() []drift {
	noon := time.Date(2026, 3, 4, 12, 30, 45, 678901000, time.FixedZone("east", 5*3600+1800))
	const big = int64(9007199254740993) // no float64 is that number
	to := func(typ string) string { return "ALTER TABLE TABLE_ ALTER v TYPE " + typ }
	return []drift{
		{"int to bigint", "int", to("bigint"), []any{7}, []any{7, int64(5_000_000_000)}},
		{"smallint to numeric", "smallint", to("numeric"), []any{int16(7)}, []any{7, 7.25, "12345678901234567890.5"}},
		{"int to double", "int", to("double precision"), []any{7}, []any{7.25, 7}},
		{"real to double", "real", to("double precision"), []any{0.5}, []any{0.1}},
		{"double to bigint", "double precision", to("bigint"), []any{7.25}, []any{7, big}},
		{"double to numeric", "double precision", to("numeric"), []any{7.25}, []any{"0.12345678901234567890123", big}},
		{"int to text", "int", to("text"), []any{7}, []any{"seven", "8"}},
		{"text to int", "text", to("int USING 1"), []any{"seven"}, []any{7, int32(8)}},
		{"date to timestamptz", "date", to("timestamptz"), []any{noon}, []any{noon}},
		{"timestamp to timestamptz", "timestamp", to("timestamptz"), []any{noon}, []any{noon}},
		{"name to text", "name", to("text"), []any{"x"}, []any{strings.Repeat("long", 30)}},
		{"text to enum", "text", to("mood USING 'calm'"), []any{"a word"}, []any{"calm"}},
		{"int to enum", "int", to("mood USING 'calm'"), []any{7}, []any{"calm"}},
		{"text[] to enum[]", "text[]", to("mood[] USING '{calm}'"), []any{[]string{"a", "b c"}}, []any{[]string{"calm"}}},
		{"int to a domain over text", "int", "CREATE DOMAIN words AS text; " + to("words"), []any{7}, []any{"seven"}},
		{"int to a domain over int", "int", "CREATE DOMAIN number AS int; " + to("number"), []any{7}, []any{7}},
		{"int[] to an array of a domain", "int[]", "CREATE DOMAIN part AS int; " + to("part[]"), []any{[]int{7}}, []any{[]int{7, 8}}},
		{"int to composite", "int", "CREATE TYPE pair AS (a int, b text); ALTER TABLE TABLE_ DROP v, ADD v pair", []any{7}, []any{"(7,x)"}},
		{"bigint to range", "bigint", "ALTER TABLE TABLE_ DROP v, ADD v int8range", []any{7}, []any{"[1,9)"}},
		{"int to uuid", "int", "ALTER TABLE TABLE_ DROP v, ADD v uuid", []any{7}, []any{"0198c5f0-7d1e-7cc2-9f0a-5b1f6f0f4a11"}},
		{"json to jsonb", "json", to("jsonb"), []any{`{"b": 1, "a":1}`}, []any{`{"b": 2, "a":1}`}},
		{"a column added in front", "int", "ALTER TABLE TABLE_ DROP v, ADD extra text DEFAULT 'x', ADD v int", []any{7}, []any{8}},
		{"a column added behind", "int", "ALTER TABLE TABLE_ ADD extra mood DEFAULT 'calm'", []any{7}, []any{8}},
		{"a column dropped", "text", "ALTER TABLE TABLE_ DROP gone", []any{"seven"}, []any{"eight"}},
	}
}

func driftTable(n int) string { return fmt.Sprint("drift", n) }

func (d drift) migration(n int) string {
	return strings.ReplaceAll(d.after, "TABLE_", driftTable(n)) + ";"
}

// driftFleet returns a fleet of two that has a table for each drift. Tenant 0 waits for its migrations, tenant 1 has had them.
func driftFleet(t *testing.T) *fleet {
	t.Helper()
	f := newFleet(t, 2)
	for i := range f.tenants {
		var sql strings.Builder
		for n, d := range drifts() {
			fmt.Fprintf(&sql, "CREATE TABLE %[1]s (id int PRIMARY KEY, gone int DEFAULT 5, v %[2]s); INSERT INTO %[1]s (id) VALUES (1);",
				driftTable(n), d.before)
			if i == 1 {
				sql.WriteString(d.migration(n))
			}
		}
		f.admin(t, i, sql.String())
	}
	return f
}

// driftUse writes a value, reads it back in each way in which its type shows, and says what came of it.
func driftUse(ctx context.Context, q querier, table string, value any) string {
	_, err := q.Exec(ctx, "UPDATE "+table+" SET v = $1 WHERE id = 1", value)
	lines := []string{show(err)}
	for _, columns := range []string{"v::text", "v", "*"} {
		lines = append(lines, readAll(ctx, q, "SELECT "+columns+" FROM "+table+" WHERE id = $1", 1))
	}
	return strings.Join(append(lines, driftScan(ctx, q, table)), "\n")
}

// driftScan reads the value as a string if its type is one that only the tenant knows.
func driftScan(ctx context.Context, q querier, table string) string {
	rows, err := q.Query(ctx, "SELECT v FROM "+table)
	if err != nil || !rows.Next() {
		return show(err)
	}
	defer rows.Close()
	if _, known := rows.TypeMap().TypeForOID(rows.FieldDescriptions()[0].DataTypeOID); known {
		return "a type that pgx knows"
	}
	var s string
	err = rows.Scan(&s)
	return show(err, s)
}

// A driftWay is where a tenant uses its tables.
type driftWay func(ctx context.Context, db verbs, table string, value any) string

func driftCall(ctx context.Context, db verbs, table string, value any) string {
	return driftUse(ctx, db, table, value)
}

func driftTx(ctx context.Context, db verbs, table string, value any) string {
	var used string
	err := pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
		used = driftUse(ctx, tx, table, value)
		return nil
	})
	return used + "\n" + show(err)
}

// driftBatch has each statement twice, so that it is worth a name.
func driftBatch(ctx context.Context, db verbs, table string, value any) string {
	var lines []string
	var b pgx.Batch
	for range 2 {
		b.Queue("UPDATE "+table+" SET v = $1 WHERE id = 1", value)
		for _, columns := range []string{"v::text", "v", "*"} {
			b.Queue("SELECT " + columns + " FROM " + table).Query(func(rows pgx.Rows) error {
				values, err := pgx.CollectOneRow(rows, func(r pgx.CollectableRow) ([]any, error) { return r.Values() })
				lines = append(lines, show(err, values...))
				return err
			})
		}
	}
	return strings.Join(append(lines, show(db.SendBatch(ctx, &b).Close())), "\n")
}

// driftCase is one history of one DB: how it is used, who comes first, and how often before the migration.
type driftCase struct {
	name   string
	way    driftWay
	order  []int
	rounds int
}

// THREATS 21: half the fleet is migrated. Whoever comes first, each tenant stores and reads what it would with pgx alone: in
// calls, transactions and batches, cold and warm.
func TestHalfMigratedFleetStoresAndReadsWhatEachTenantAloneWould(t *testing.T) {
	t.Parallel()
	f := driftFleet(t)
	for _, c := range []driftCase{
		{"calls, old first", driftCall, []int{0, 1}, 3}, {"calls, new first", driftCall, []int{1, 0}, 3},
		{"transactions, old first", driftTx, []int{0, 1}, 3}, {"transactions, new first", driftTx, []int{1, 0}, 3},
		{"batches, old first", driftBatch, []int{0, 1}, 2}, {"batches, new first", driftBatch, []int{1, 0}, 2},
	} {
		oracle := []*pgxpool.Pool{f.plain(t, 0, pgx.QueryExecModeDescribeExec, nil), f.plain(t, 1, pgx.QueryExecModeDescribeExec, nil)}
		db := f.open(t, tenantdb.Config{MaxConns: 1})
		for n, d := range drifts() {
			t.Run(c.name+"/"+d.name, func(t *testing.T) {
				var wants [2][]string
				for i, values := range [][]any{d.old, d.new} {
					for _, v := range values {
						wants[i] = append(wants[i], c.way(t.Context(), oracle[i], driftTable(n), v))
					}
				}
				for round := range c.rounds {
					for _, i := range c.order {
						for j, v := range [][]any{d.old, d.new}[i] {
							want := wants[i][j]
							if got := c.way(f.ctx(t, i), db, driftTable(n), v); got != want {
								t.Errorf("round %d, tenant %d, %v:\ngot  %s\nwant %s", round, i, v, got, want)
							}
						}
					}
				}
			})
		}
	}
}

// THREATS 21: a migration under warm statements. What is read is right at once, but for one error of each statement where nothing
// can be sent twice. What is stored is right, or is what pgx stores whose statement was prepared before the migration.
func TestMigrationUnderWarmStatements(t *testing.T) {
	t.Parallel()
	f := driftFleet(t)
	cases := []driftCase{
		{"calls", driftCall, nil, 3}, {"calls, met once", driftCall, nil, 1}, {"transactions", driftTx, nil, 3}, {"batches", driftBatch, nil, 2},
	}
	oracle := f.plain(t, 0, pgx.QueryExecModeDescribeExec, nil)
	var dbs []*tenantdb.DB
	var cached []*pgxpool.Pool
	for range cases {
		dbs = append(dbs, f.open(t, tenantdb.Config{MaxConns: 1}))
		cached = append(cached, f.plain(t, 0, pgx.QueryExecModeCacheStatement, nil))
	}
	for n, d := range drifts() {
		t.Run(d.name, func(t *testing.T) {
			table := driftTable(n)
			for i, c := range cases {
				for range c.rounds {
					_, _ = c.way(f.ctx(t, 0), dbs[i], table, d.old[0]), c.way(t.Context(), cached[i], table, d.old[0])
				}
			}
			f.admin(t, 0, d.migration(n))
			for i, c := range cases {
				for range 5 { // as many as there are statements
					_, _ = c.way(f.ctx(t, 0), dbs[i], table, d.new[0]), c.way(t.Context(), cached[i], table, d.new[0])
				}
				for _, v := range d.new {
					want, also := c.way(t.Context(), oracle, table, v), c.way(t.Context(), cached[i], table, v)
					got := c.way(f.ctx(t, 0), dbs[i], table, v)
					if got != want && (got != also || strings.Contains(got, "error: ERROR")) {
						t.Errorf("%s, %v:\ngot  %s\nwant %s\nor   %s", c.name, v, got, want, also)
					}
				}
			}
		})
	}
}
