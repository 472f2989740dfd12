package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/internal/pgserver"
)

// databases makes databases and measures what each costs.
func (m measurement) databases(ctx context.Context, server *pgserver.Server, out, log io.Writer) (err error) {
	_, _ = fmt.Fprintf(log, "making %d databases …\n", m.Databases)
	conn, err := pgx.Connect(ctx, server.URL(pgserver.Superuser, "postgres"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }()
	list, err := m.eachDatabase(ctx, conn, server)
	if err != nil {
		return err
	}
	results := newTable("a database each, " + strconv.Itoa(m.Databases) + " of them")
	for _, c := range list {
		results.row(c.name)
	}
	results.add("", values(list))
	results.write(out)
	return nil
}

func (m measurement) eachDatabase(ctx context.Context, conn *pgx.Conn, server *pgserver.Server) ([]cost, error) {
	name := func(i int) string { return "tenant_" + strconv.Itoa(i) }
	do := func(sql string) error {
		_, err := conn.Exec(ctx, sql)
		return err
	}
	size := func(database string) (bytes, files int64, err error) {
		err = conn.QueryRow(ctx, `SELECT pg_database_size(oid), (SELECT count(*) FROM pg_ls_dir('base/' || oid)) FROM pg_database WHERE datname = $1`,
			database).Scan(&bytes, &files)
		return bytes, files, err
	}
	tables := func(i int) error { return m.fill(ctx, server.URL(pgserver.Superuser, name(i))) }
	connect := func(i int) error { return ping(ctx, server.URL(pgserver.Superuser, name(i))) }

	made, err := times(m.Databases, func(i int) error { return do("CREATE DATABASE " + name(i) + " TEMPLATE template0") })
	if err != nil {
		return nil, err
	}
	copied, err := times(m.Databases, func(i int) error {
		return do("CREATE DATABASE copy_" + name(i) + " TEMPLATE template0 STRATEGY file_copy")
	})
	if err != nil {
		return nil, err
	}
	bytes, files, err := size(name(0))
	if err != nil {
		return nil, err
	}
	firsts, err := times(m.Databases, connect)
	if err != nil {
		return nil, err
	}
	again, err := times(m.Databases, connect)
	if err != nil {
		return nil, err
	}
	if _, err := times(m.Databases, tables); err != nil {
		return nil, err
	}
	fullBytes, fullFiles, err := size(name(0))
	if err != nil {
		return nil, err
	}
	dropped, err := times(m.Databases, func(i int) error { return do("DROP DATABASE " + name(i)) })
	if err != nil {
		return nil, err
	}
	return []cost{
		{"an empty one on disk, MB", mb(bytes)}, {"its files", count(files)},
		{"with " + strconv.Itoa(m.Tables) + " tables, MB", mb(fullBytes)}, {"its files then", count(fullFiles)},
		{"CREATE DATABASE, ms", ms(made)}, {"the same, STRATEGY file_copy, ms", ms(copied)}, {"DROP DATABASE, ms", ms(dropped)},
		{"the first connection ever, ms", ms(firsts)}, {"another connection, ms", ms(again)},
	}, nil
}

// fill gives a database tables like those of a fleet.
func (m measurement) fill(ctx context.Context, url string) (err error) {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }()
	for i := range m.Tables {
		sql := fmt.Sprintf(`CREATE TABLE items_%[1]d (id int PRIMARY KEY, owner text NOT NULL, qty int NOT NULL, parent int REFERENCES items_%[1]d);
			CREATE INDEX ON items_%[1]d (owner, qty); INSERT INTO items_%[1]d SELECT i, 'x', 0, NULL FROM generate_series(1, 5) i`, i)
		if _, err := conn.PgConn().Exec(ctx, sql).ReadAll(); err != nil {
			return err
		}
	}
	_, err = conn.Exec(ctx, "CHECKPOINT")
	return err
}

func ping(ctx context.Context, url string) (err error) {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }()
	return conn.Ping(ctx)
}

// times is the median time of one of n runs.
func times(n int, run func(i int) error) (time.Duration, error) {
	took := make([]time.Duration, n)
	for i := range took {
		start := time.Now()
		if err := run(i); err != nil {
			return 0, err
		}
		took[i] = time.Since(start)
	}
	slices.Sort(took)
	return took[n/2], nil
}
