package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/internal/fleet"
	"github.com/leasehold-go/leasehold/internal/pgdump"
	"github.com/leasehold-go/leasehold/internal/pgserver"
)

// binEnv is the environment variable that names the folder of PostgreSQL's programs. internal/pgtest has it too.
const binEnv = "LEASEHOLD_TEST_POSTGRES_BIN"

// stopTimeout bounds the stopping of a server.
const stopTimeout = time.Minute

// measurement says what to measure.
type measurement struct {
	// Tenants are the numbers of tenants to measure at, growing.
	Tenants counts
	// Tables is how many tables each tenant has.
	Tables int
	// Visits are the numbers of tenants after which the memory of a server process is read.
	Visits counts
	// Databases is how many databases are made.
	Databases int
	// Registry are the numbers of rows to measure the registry at, growing.
	Registry counts
}

func defaultMeasurement() measurement {
	return measurement{
		Tenants: counts{100, 1000, 5000}, Tables: 10, Visits: counts{1, 100, 500, 1000, 2000}, Databases: 50,
		Registry: counts{1000, 100_000, 1_000_000},
	}
}

func (m *measurement) flags(f *flag.FlagSet) {
	f.Var(&m.Tenants, "tenants", "measure with these `numbers` of tenants, a schema each")
	f.IntVar(&m.Tables, "tables", m.Tables, "give each tenant this `number` of tables")
	f.Var(&m.Visits, "visits", "read a server process's memory after these `numbers` of tenants")
	f.Var(&m.Registry, "registry", "measure a registry with these `numbers` of tenants")
	f.IntVar(&m.Databases, "databases", m.Databases, "make this `number` of databases")
}

// counts is a list of numbers, growing, as a flag.
type counts []int

func (c *counts) String() string {
	words := make([]string, len(*c))
	for i, n := range *c {
		words[i] = strconv.Itoa(n)
	}
	return strings.Join(words, ",")
}

// Set reads numbers that are separated by commas.
func (c *counts) Set(s string) error {
	var list counts
	for word := range strings.SplitSeq(s, ",") {
		n, err := strconv.Atoi(word)
		if err != nil || n < 1 || len(list) > 0 && n <= list[len(list)-1] {
			return errors.New("want growing numbers such as 100,1000")
		}
		list = append(list, n)
	}
	*c = list
	return nil
}

func measure(ctx context.Context, m measurement, out, log io.Writer) error {
	if m.Tables < 1 || m.Databases < 1 {
		return fmt.Errorf("%d tables and %d databases; want at least one of each", m.Tables, m.Databases)
	}
	settings := map[string]string{"shared_buffers": "256MB", "max_wal_size": "2GB"}
	for _, part := range []func(context.Context, *pgserver.Server, io.Writer, io.Writer) error{m.registry, m.schemas} {
		if err := onServer(ctx, pgserver.Config{Ephemeral: true, Settings: settings}, func(s *pgserver.Server) error {
			return part(ctx, s, out, log)
		}); err != nil {
			return err
		}
	}
	dir, err := os.MkdirTemp("", "leasehold-scale-")
	if err != nil {
		return err
	}
	err = onServer(ctx, pgserver.Config{DataDir: dir, Settings: settings}, func(s *pgserver.Server) error {
		return m.databases(ctx, s, out, log)
	})
	return errors.Join(err, os.RemoveAll(dir))
}

// onServer runs f with a server that is gone afterwards.
func onServer(ctx context.Context, cfg pgserver.Config, f func(*pgserver.Server) error) error {
	cfg.BinDir = os.Getenv(binEnv)
	server, err := pgserver.Start(ctx, cfg)
	if err != nil {
		return err
	}
	err = f(server)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	return errors.Join(err, server.Stop(ctx))
}

// schemas fills one database and measures on the way.
func (m measurement) schemas(ctx context.Context, server *pgserver.Server, out, log io.Writer) error {
	url := server.URL(pgserver.Superuser, pgserver.Database)
	sizes := newTable("tenants, a schema each")
	for _, row := range []string{
		"rows in pg_class", "rows in pg_attribute", "catalogue, MB", "of that pg_attribute, MB", "database, MB", "a tenant, kB",
		"files", "files of a tenant",
	} {
		sizes.row(row)
	}
	var first state
	var tenants []string // schemas
	for i, n := range m.Tenants {
		if i == 0 {
			var err error
			if first, err = look(ctx, url); err != nil {
				return err
			}
			sizes.add("0", first.cells(first, 0))
		}
		_, _ = fmt.Fprintf(log, "building %d tenants …\n", n)
		f, err := fleet.Build(ctx, fleet.Config{AdminURL: url, Tenants: n - len(tenants), Tables: m.Tables, TenantsPerLogin: 2000})
		if err != nil {
			return err
		}
		for _, t := range f.Tenants {
			tenants = append(tenants, t.Placement.Schema)
		}
		now, err := look(ctx, url)
		if err != nil {
			return err
		}
		more, err := m.costs(ctx, url, tenants)
		if err != nil {
			return err
		}
		for _, c := range more {
			sizes.row(c.name)
		}
		sizes.add(strconv.Itoa(n), append(now.cells(first, n), values(more)...))
	}
	_, _ = fmt.Fprintf(out, "PostgreSQL %s, %d tables with %d indexes for each tenant\n\n", server.Version(), m.Tables, 2*m.Tables-1)
	sizes.write(out)
	return m.memory(ctx, url, tenants, out)
}

// state is the size of a database.
type state struct{ classes, attributes, catalogue, attribute, database, files int64 }

// look asks for the sizes. Before, all files are written, and the catalogue's statistics are brought up to date as autovacuum
// does.
func look(ctx context.Context, url string) (s state, err error) {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }()
	if _, err := conn.Exec(ctx, "CHECKPOINT"); err != nil {
		return s, err
	}
	rows, err := conn.Query(ctx, `SELECT 'VACUUM (ANALYZE) ' || oid::regclass FROM pg_class
		WHERE relnamespace = 'pg_catalog'::regnamespace AND relkind = 'r' AND NOT relisshared`)
	if err != nil {
		return s, err
	}
	vacuums, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return s, err
	}
	for _, vacuum := range vacuums {
		if _, err := conn.Exec(ctx, vacuum); err != nil {
			return s, err
		}
	}
	err = conn.QueryRow(ctx, `
		SELECT (SELECT count(*) FROM pg_class), (SELECT count(*) FROM pg_attribute),
			(SELECT sum(pg_total_relation_size(oid))::bigint FROM pg_class WHERE relnamespace = 'pg_catalog'::regnamespace AND relkind = 'r'
				AND NOT relisshared),
			pg_total_relation_size('pg_attribute'), pg_database_size(current_database()),
			(SELECT count(*) FROM pg_ls_dir('base/' || (SELECT oid FROM pg_database WHERE datname = current_database())))`).
		Scan(&s.classes, &s.attributes, &s.catalogue, &s.attribute, &s.database, &s.files)
	return s, err
}

// cells are the values of the first rows of the table, for n tenants that have come since.
func (s state) cells(before state, n int) []string {
	each := func(now, then, unit int64) string {
		if n == 0 {
			return "–"
		}
		return strconv.FormatInt((now-then)/unit/int64(n), 10)
	}
	return []string{
		count(s.classes), count(s.attributes), mb(s.catalogue), mb(s.attribute), mb(s.database), each(s.database, before.database, 1<<10),
		count(s.files), each(s.files, before.files, 1),
	}
}

// cost is one row of the table.
type cost struct{ name, value string }

func values(costs []cost) []string {
	list := make([]string, len(costs))
	for i, c := range costs {
		list[i] = c.value
	}
	return list
}

// rounds is how often a time is taken; the median counts.
const rounds = 7

// costs measures what grows with the number of tenants.
func (m measurement) costs(ctx context.Context, url string, schemas []string) (list []cost, err error) {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }()
	locks, err := locksOfDrop(ctx, conn, schemas[0])
	if err != nil {
		return nil, err
	}
	list = append(list, cost{"locks of DROP SCHEMA", count(locks)})
	for _, timed := range []struct {
		name string
		run  func(i int) error
	}{
		// What each autovacuum worker does first, in this database: every table's row of pg_class and its statistics.
		{"an autovacuum worker's list of tables, ms", func(int) error {
			_, err := conn.Exec(ctx, `SELECT count(pg_stat_get_dead_tuples(oid) + pg_stat_get_mod_since_analyze(oid)), count(reloptions)
				FROM pg_class WHERE relkind IN ('r', 'm', 't')`)
			return err
		}},
		{"a new connection and its first query in a tenant, ms", func(i int) error { return firstQuery(ctx, url, schemas[i%len(schemas)]) }},
		{"pg_dump of one tenant's definitions, ms", func(i int) error {
			_, err := pgdump.Schema(ctx, pgdump.Config{Conn: conn.Config(), Schema: schemas[i%len(schemas)], BinDir: os.Getenv(binEnv)})
			return err
		}},
	} {
		if err := timed.run(0); err != nil && !errors.Is(err, pgdump.ErrNoProgram) { // what the first one reads, the others find
			return nil, fmt.Errorf("%s: %w", timed.name, err)
		}
		took, err := times(rounds, timed.run)
		if errors.Is(err, pgdump.ErrNoProgram) {
			list = append(list, cost{timed.name, "–"})
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", timed.name, err)
		}
		list = append(list, cost{timed.name, ms(took)})
	}
	return list, nil
}

// locksOfDrop counts what a DROP SCHEMA holds at its end, and takes it back.
func locksOfDrop(ctx context.Context, conn *pgx.Conn, schema string) (locks int64, err error) {
	tx, err := conn.Begin(ctx)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, tx.Rollback(ctx)) }()
	if _, err := tx.Exec(ctx, "DROP SCHEMA "+pgx.Identifier{schema}.Sanitize()+" CASCADE"); err != nil {
		return 0, err
	}
	err = tx.QueryRow(ctx, "SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid()").Scan(&locks)
	return locks, err
}

func firstQuery(ctx context.Context, url, schema string) (err error) {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }()
	_, err = conn.Exec(ctx, "SELECT count(*) FROM "+pgx.Identifier{schema, fleet.TableName(0)}.Sanitize())
	return err
}

// memory reads how a server process grows with the tenants whose tables it has met.
func (m measurement) memory(ctx context.Context, url string, schemas []string, out io.Writer) (err error) {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }()
	grown := newTable("tenants that one connection has served")
	grown.row("memory of its server process, MB")
	visited := 0
	for _, n := range m.Visits {
		if n > len(schemas) {
			break
		}
		for ; visited < n; visited++ {
			for i := range m.Tables {
				if _, err := conn.Exec(ctx, "SELECT * FROM "+pgx.Identifier{schemas[visited], fleet.TableName(i)}.Sanitize()+" WHERE id = 1",
					pgx.QueryExecModeExec); err != nil {
					return err
				}
			}
		}
		var bytes int64
		if err := conn.QueryRow(ctx, "SELECT sum(total_bytes)::bigint FROM pg_backend_memory_contexts").Scan(&bytes); err != nil {
			return err
		}
		grown.add(strconv.Itoa(n), []string{mb(bytes)})
	}
	grown.write(out)
	return nil
}
