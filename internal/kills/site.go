package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/db/migrate"
)

// settlePatience is how long the server may take to notice that its clients have died.
const settlePatience = 20 * time.Second

// pollPause is the pause between two looks at what the server is about to do.
const pollPause = 5 * time.Millisecond

// site is the database with the fleet, seen by a superuser. It is used by one goroutine at a time.
type site struct {
	url      string // the owner's
	conn     *pgx.Conn
	owner    string
	targets  []migrate.Target
	migrator *migrate.Migrator // of the whole product
	patience time.Duration
}

// openSite connects, and makes the reference schemas without a kill.
func openSite(ctx context.Context, cfg config, wants ...state) (_ *site, err error) {
	targets, err := fleet(cfg.URL, &clock{})
	if err != nil {
		return nil, err
	}
	set, err := migrate.Load(product, productDir)
	if err != nil {
		return nil, err
	}
	conn, err := connect(ctx, cfg.SuperURL)
	if err != nil {
		return nil, err
	}
	s := &site{
		url: cfg.URL, conn: conn, owner: targets[0].Conn.User, targets: targets, patience: settlePatience,
		migrator: migrate.New(set, migrate.Config{Workers: cfg.Workers}),
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close(ctx))
		}
	}()
	if err := s.exec(ctx, "CREATE ROLE "+targets[0].Role); err != nil {
		return nil, err
	}
	for _, want := range wants {
		if err := s.makeReference(ctx, want); err != nil {
			return nil, fmt.Errorf("%s: %w", want.reference, err)
		}
	}
	return s, nil
}

// connect opens a connection on which no statement is prepared: each tenant's are others.
func connect(ctx context.Context, url string) (*pgx.Conn, error) {
	config, err := pgx.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	config.DefaultQueryExecMode = pgx.QueryExecModeExec
	return pgx.ConnectConfig(ctx, config)
}

// close hangs up, after it has removed the role, which would outlive the database.
func (s *site) close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	role := s.targets[0].Role
	_, _ = s.conn.PgConn().Exec(ctx, "DROP OWNED BY "+role+" CASCADE; DROP ROLE "+role).ReadAll()
	return s.conn.Close(ctx)
}

// exec runs statements as one transaction.
func (s *site) exec(ctx context.Context, sql string) error {
	_, err := s.conn.PgConn().Exec(ctx, sql).ReadAll()
	return err
}

// makeReference makes the schema that tenants are compared with, by nothing but the files that it is to have.
func (s *site) makeReference(ctx context.Context, want state) error {
	files, err := migrate.Load(product, productDir)
	if len(want.ledger) == kept {
		files, err = migrate.Load(baseFiles{product}, productDir)
	}
	if err != nil {
		return err
	}
	t, err := target(s.url, want.reference, &clock{})
	if err != nil {
		return err
	}
	if err := s.exec(ctx, s.newSchema(t)); err != nil {
		return err
	}
	_, err = migrate.New(files, migrate.Config{}).Apply(ctx, t)
	return err
}

// newSchema is what makes a schema anew, as the directory makes it for a tenant.
func (s *site) newSchema(t migrate.Target) string {
	return strings.NewReplacer("{schema}", t.Schema, "{owner}", s.owner, "{role}", t.Role).Replace(`
		DROP SCHEMA IF EXISTS {schema} CASCADE;
		CREATE SCHEMA {schema} AUTHORIZATION {owner};
		GRANT USAGE ON SCHEMA {schema} TO {role};
		ALTER DEFAULT PRIVILEGES FOR ROLE {owner} IN SCHEMA {schema} GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO {role};
		ALTER DEFAULT PRIVILEGES FOR ROLE {owner} IN SCHEMA {schema} GRANT USAGE ON SEQUENCES TO {role};`)
}

// reset puts the fleet back to the start.
func (s *site) reset(ctx context.Context) error {
	var sql strings.Builder
	for _, t := range s.targets {
		sql.WriteString(s.newSchema(t))
	}
	return s.exec(ctx, sql.String())
}

// ours are the sessions of those who migrate.
const ours = ` FROM pg_stat_activity WHERE datname = current_database() AND usename = $1`

// left returns what is left of those who migrated, as soon as nothing is, or when patience is at its end.
func (s *site) left(ctx context.Context) ([]string, error) {
	deadline := time.Now().Add(s.patience)
	for {
		rows, err := s.conn.Query(ctx, `SELECT 'session ' || pid || ', ' || coalesce(state, '') || ', ' || left(query, 80)`+ours+`
			UNION ALL SELECT 'advisory lock of session ' || pid FROM pg_locks
			WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`, s.owner)
		if err != nil {
			return nil, err
		}
		left, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil || len(left) == 0 || time.Now().After(deadline) {
			return left, err
		}
		if err := pause(ctx); err != nil {
			return nil, err
		}
	}
}

func pause(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(pollPause):
		return nil
	}
}

// evict ends what is left of those who migrated, as the end of the server's machine would. It returns how many indexes in the tenants'
// schemas that leaves invalid.
func (s *site) evict(ctx context.Context) (invalid int64, err error) {
	if _, err := s.conn.Exec(ctx, `SELECT pg_terminate_backend(pid, 10000)`+ours, s.owner); err != nil {
		return 0, err
	}
	err = s.conn.QueryRow(ctx, `SELECT count(*) FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
		WHERE NOT i.indisvalid AND starts_with(c.relnamespace::regnamespace::text, 'kills_')`).Scan(&invalid)
	return invalid, err
}

// waiting reports whether somebody who migrates waits for a transaction to end.
func (s *site) waiting(ctx context.Context) (waiting bool, err error) {
	err = s.conn.QueryRow(ctx, `SELECT EXISTS (SELECT`+ours+` AND wait_event_type = 'Lock' AND wait_event = 'virtualxid')`,
		s.owner).Scan(&waiting)
	return waiting, err
}

// fault is one thing that is not as it should be.
type fault struct {
	tenant string // "" if it is none's own
	what   string
}

// differencesShown is how many differences of one catalogue are named.
const differencesShown = 5

// inspect returns what is not as it should be, once nobody is at work.
func (s *site) inspect(ctx context.Context, want state) ([]fault, error) {
	var faults []fault
	left, err := s.left(ctx)
	if err != nil {
		return nil, err
	}
	for _, what := range left {
		faults = append(faults, fault{"", "left on the server: " + what})
	}
	for _, t := range s.targets {
		for _, what := range s.audit(ctx, t, want) {
			faults = append(faults, fault{t.Schema, what})
		}
	}
	reference, err := target(s.url, want.reference, &clock{})
	if err != nil {
		return nil, err
	}
	drifts, err := s.migrator.Check(ctx, reference, s.targets)
	for _, drift := range drifts {
		for i, d := range drift.Differences {
			if more := len(drift.Differences) - i; i == differencesShown && more > 1 {
				faults = append(faults, fault{drift.Target, fmt.Sprintf("%d more differences", more)})
				break
			}
			faults = append(faults, fault{drift.Target, d.String()})
		}
	}
	return faults, err
}

// audit returns what is not as it should be in a tenant.
func (s *site) audit(ctx context.Context, t migrate.Target, want state) (faults []string) {
	var (
		ledger, runs, invalid []string
		counters              []int
		exposed               bool
	)
	err := s.conn.QueryRow(ctx, strings.ReplaceAll(`SELECT
		array(SELECT version || ' ' || coalesce(encode(checksum, 'hex'), 'without a checksum') FROM {}.schema_migrations ORDER BY version),
		array(SELECT what FROM {}.runs ORDER BY id), array(SELECT n FROM {}.counter),
		array(SELECT c.relname::text FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
			WHERE c.relnamespace = '{}'::regnamespace AND NOT (i.indisvalid AND i.indisready AND i.indislive)),
		EXISTS (SELECT FROM pg_class c, aclexplode(c.relacl) a
			WHERE c.oid = '{}.schema_migrations'::regclass AND a.grantee <> c.relowner)`,
		"{}", t.Schema)).Scan(&ledger, &runs, &counters, &invalid, &exposed)
	if err != nil {
		return []string{err.Error()}
	}
	if !slices.Equal(ledger, want.ledger) {
		faults = append(faults, fmt.Sprintf("the ledger lacks %q, and has %q besides",
			without(want.ledger, ledger), without(ledger, want.ledger)))
	}
	if !slices.Equal(runs, want.runs) {
		faults = append(faults, fmt.Sprintf("the files that ran are %q, want %q", runs, want.runs))
	}
	if !slices.Equal(counters, []int{want.counter}) {
		faults = append(faults, fmt.Sprintf("the counter is at %d, want %d", counters, want.counter))
	}
	if len(invalid) > 0 {
		faults = append(faults, fmt.Sprintf("invalid indexes: %q", invalid))
	}
	if exposed {
		faults = append(faults, "others than its owner have rights on the ledger")
	}
	return faults
}

// without returns the rows of a ledger a that are not in b, each cut to its version and what tells one checksum from another.
func without(a, b []string) []string {
	var rows []string
	for _, row := range a {
		if !slices.Contains(b, row) {
			rows = append(rows, row[:min(len(row), len("01 12345678"))])
		}
	}
	return rows
}
