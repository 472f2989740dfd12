package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/db/directory"
	"github.com/leasehold-go/leasehold/db/migrate"
	"github.com/leasehold-go/leasehold/db/migrations"
	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/internal/pgserver"
)

// fillSQL adds the tenants from $1 to $2, as rows and nothing else, 2,000 for each runtime login as the directory has them.
const fillSQL = `INSERT INTO leasehold.tenants
		(id, slug, company, contact_name, contact_email, status, cluster, strategy, database_name, schema_name, role_name, login_no)
	SELECT ('01900000-0000-7000-8000-' || lpad(to_hex(i), 12, '0'))::uuid, 'company-' || i, 'Company ' || i, 'Ann Arbor', 'ann@company.example',
		'active', 'default', 'schema', current_database(), 't_company_' || lpad(i::text, 26, '0'), 'r_company_' || lpad(i::text, 26, '0'), i / 2000
	FROM generate_series($1::int, $2::int) i`

// registry fills a registry with rows and measures what is done with it.
func (m measurement) registry(ctx context.Context, server *pgserver.Server, out, log io.Writer) error {
	dir, err := openRegistry(ctx, server)
	if err != nil {
		return err
	}
	defer dir.Close()
	results := newTable("tenants in the registry")
	filled := 0
	for _, n := range m.Registry {
		_, _ = fmt.Fprintf(log, "filling a registry with %d tenants …\n", n)
		bytes, err := fillRegistry(ctx, server.URL(pgserver.Superuser, pgserver.Database), filled+1, n)
		if err != nil {
			return err
		}
		filled = n
		list, err := registryCosts(ctx, dir, n)
		if err != nil {
			return err
		}
		list = append([]cost{{"the registry's tenants on disk, MB", mb(bytes)}}, list...)
		for _, c := range list {
			results.row(c.name)
		}
		results.add(count(int64(n)), values(list))
	}
	results.write(out)
	return nil
}

func openRegistry(ctx context.Context, server *pgserver.Server) (*directory.Directory, error) {
	cc, err := pgx.ParseConfig(server.URL(pgserver.Administrator, pgserver.Database))
	if err != nil {
		return nil, err
	}
	set, err := migrate.Load(migrations.FS, "tenant")
	if err != nil {
		return nil, err
	}
	cfg := directory.Config{ConnConfig: cc, SecretKey: []byte("a key for a server that is gone soon"), Migrator: migrate.New(set, migrate.Config{})}
	if _, err := directory.Migrate(ctx, cfg); err != nil {
		return nil, err
	}
	return directory.Open(ctx, cfg)
}

// fillRegistry returns the size of the table with its indexes. No trigger runs: nobody is to be notified.
func fillRegistry(ctx context.Context, url string, from, to int) (bytes int64, err error) {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }()
	if _, err := conn.Exec(ctx, "SET session_replication_role = replica"); err != nil {
		return 0, err
	}
	if _, err := conn.Exec(ctx, fillSQL, from, to); err != nil {
		return 0, err
	}
	if _, err := conn.Exec(ctx, "VACUUM (ANALYZE) leasehold.tenants"); err != nil {
		return 0, err
	}
	err = conn.QueryRow(ctx, "SELECT pg_total_relation_size('leasehold.tenants')").Scan(&bytes)
	return bytes, err
}

// eachOf is how many tenants Each goes over, at most.
const eachOf = 20_000

func registryCosts(ctx context.Context, dir *directory.Directory, n int) (list []cost, err error) {
	slug := func(i int) tenant.Slug { return tenant.Slug("company-" + strconv.Itoa(1+i*7919%n)) }
	for _, timed := range []struct {
		name string
		run  func(i int) error
	}{
		{"a tenant that no cache knows, ms", func(i int) error {
			_, err := dir.BySlug(ctx, slug(i))
			return err
		}},
		{"a page of 1,000, ms", func(int) error {
			_, err := dir.List(ctx, directory.ListOptions{After: &tenant.Tenant{Slug: "company-5"}, Limit: 1000})
			return err
		}},
		{"a sign-up, all included, ms", func(i int) error {
			_, err := dir.Create(ctx, directory.NewTenant{
				Company: "Newcomer", ContactName: "Ann Arbor", ContactEmail: "ann@newcomer.example", Subdomain: fmt.Sprintf("newcomer-%d-%d", n, i),
			})
			return err
		}},
	} {
		took, err := times(rounds, timed.run)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", timed.name, err)
		}
		list = append(list, cost{timed.name, ms(took)})
	}
	start := time.Now()
	if _, err := dir.Targets(ctx); err != nil {
		return nil, err
	}
	list = append(list, cost{"all of them, for a migration, ms", ms(time.Since(start))})
	each, err := eachCost(ctx, dir)
	return append(list, cost{"Each, 4 at a time, for a tenant, ms", each}), err
}

// eachCost is the time for one tenant of a call of Each that does nothing.
func eachCost(ctx context.Context, dir *directory.Directory) (string, error) {
	stop := make(chan struct{})
	done := 0
	start := time.Now()
	report, err := dir.Each(ctx, directory.EachOptions{Stop: stop, Progress: func(directory.EachProgress) {
		if done++; done == eachOf {
			close(stop)
		}
	}}, func(context.Context, *tenant.Tenant) error { return nil })
	took := time.Since(start)
	if err != nil && !errors.Is(err, directory.ErrStopped) {
		return "", err
	}
	return strconv.FormatFloat(took.Seconds()*1000/float64(report.Done), 'f', 2, 64), nil
}
