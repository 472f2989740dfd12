package migrate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// surveyChunk is how many targets one query reads. Each costs the server two locks until its end, of which it has some thousands.
const surveyChunk = 250

// surveyWorkers is how many queries run at a time, if nobody says how many workers there are to be.
const surveyWorkers = 4

// finding is what a survey says of one target. It may be out of date by the time that it is read.
type finding struct {
	ledger map[string]bool // shared between targets with the same versions: not to be changed
	ledgerState
	err error // not wrapped
}

// survey reads the ledgers of many targets in a few queries for each database. It takes no lock that anybody waits for and
// changes nothing. What it cannot read at one go, because one of many ledgers is dropped or closed to it, it reads one by one.
func (m *Migrator) survey(ctx context.Context, targets []Target, stop <-chan struct{}) []finding {
	s := &surveyor{m: m, targets: targets, found: make([]finding, len(targets)), known: make(map[digest]map[string]bool)}
	var chunks [][]int
	for _, indexes := range s.byDatabase() {
		for len(indexes) > 0 {
			n := min(surveyChunk, len(indexes))
			chunks, indexes = append(chunks, indexes[:n]), indexes[n:]
		}
	}
	readers := make([]reader, min(cmp.Or(m.cfg.Workers, surveyWorkers), len(chunks)))
	each(len(readers), len(chunks), func() bool { return ctx.Err() == nil && !closed(stop) },
		func(n, i int) { s.read(ctx, &readers[n], chunks[i]) }, func(n int) { readers[n].close() })
	for i := range s.found {
		if f := &s.found[i]; f.ledger == nil && f.err == nil { // not reached
			f.err = cmp.Or(contextError(ctx), ErrStopped)
		}
	}
	return s.found
}

// surveyor is one survey.
type surveyor struct {
	m       *Migrator
	targets []Target
	found   []finding // by target; each is written by one goroutine

	mu    sync.Mutex
	known map[digest]map[string]bool // the ledgers that were met; guarded by mu
}

// digest tells ledgers with different versions apart, whatever the order of their rows.
type digest struct{ count, sum, last string }

// byDatabase groups the targets that one connection can read. Those that are not valid are done with.
func (s *surveyor) byDatabase() [][]int {
	numbers := make(map[database]int)
	var groups [][]int
	for i, t := range s.targets {
		if s.found[i].err = t.validate(); s.found[i].err != nil {
			continue
		}
		at := databaseOf(t.Conn)
		n, ok := numbers[at]
		if !ok {
			n = len(groups)
			numbers[at] = n
			groups = append(groups, nil)
		}
		groups[n] = append(groups[n], i)
	}
	return groups
}

// reader is a connection that reads one chunk after the other.
type reader struct{ s *session }

// open makes sure that the reader is connected to the target's database.
func (r *reader) open(ctx context.Context, t Target, cfg Config) (err error) {
	if r.s != nil && databaseOf(r.s.target.Conn) == databaseOf(t.Conn) {
		return nil
	}
	r.close()
	if r.s, err = dial(ctx, t, cfg, nil); err != nil {
		return err
	}
	r.s.target = t
	return r.s.setLockTimeout(milliseconds(cfg.LockTimeout)) // a ledger that is locked does not hold up the others
}

// closed reports whether a channel is closed; nil never is.
func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func (r *reader) close() {
	if r.s != nil {
		r.s.close()
		r.s = nil
	}
}

// read reads some targets of one database.
func (s *surveyor) read(ctx context.Context, r *reader, indexes []int) {
	err := s.readTogether(ctx, r, indexes)
	if err == nil {
		return
	}
	r.close()
	var pgErr *pgconn.PgError
	if ctx.Err() == nil && errors.As(err, &pgErr) && pgErr.Code[:2] != "08" && pgErr.Code[:2] != "28" && pgErr.Code[:2] != "3D" {
		for _, i := range indexes {
			s.found[i] = s.readAlone(ctx, s.targets[i])
		}
		return
	}
	for _, i := range indexes {
		s.found[i] = finding{err: err}
	}
}

func (s *surveyor) readAlone(ctx context.Context, t Target) finding {
	session, err := dial(ctx, t, s.m.cfg, nil)
	if err != nil {
		return finding{err: err}
	}
	defer session.close()
	if err := session.enter(t, false, ledgerState{}); err != nil {
		return finding{err: err}
	}
	return finding{ledger: session.ledger, ledgerState: session.ledgerState}
}

// readTogether reads the targets in one transaction, so that a digest and the ledger that it stands for are of one moment.
func (s *surveyor) readTogether(ctx context.Context, r *reader, indexes []int) error {
	if err := r.open(ctx, s.targets[indexes[0]], s.m.cfg); err != nil {
		return err
	}
	return pgx.BeginTxFunc(ctx, r.s.conn, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		ledgers, err := s.findLedgers(ctx, tx, indexes)
		if err != nil || len(ledgers) == 0 {
			return err
		}
		return s.readLedgers(ctx, tx, ledgers)
	})
}

// findLedgers notes which schemas are missing or have no ledger, and returns the others.
func (s *surveyor) findLedgers(ctx context.Context, tx pgx.Tx, indexes []int) ([]int, error) {
	schemas := make([]string, len(indexes))
	for n, i := range indexes {
		schemas[n] = s.targets[i].Schema
		s.found[i].err = fmt.Errorf("%w: %q in database %q", ErrSchemaMissing, s.targets[i].Schema, s.targets[i].Conn.Database)
	}
	rows, err := tx.Query(ctx, `select w.n, c.oid is not null, `+exposedExpr+`,
			exists (select from pg_catalog.pg_attribute a where a.attrelid = c.oid and a.attname = 'checksum' and not a.attisdropped)
		from unnest($1::text[]) with ordinality w (schema, n)
		join pg_catalog.pg_namespace on nspname = w.schema
		left join pg_catalog.pg_class c on c.relnamespace = pg_namespace.oid and c.relname = $2 order by w.n`, schemas, ledgerName)
	if err != nil {
		return nil, err
	}
	var (
		ledgers []int
		n       int
		state   ledgerState
	)
	_, err = pgx.ForEachRow(rows, []any{&n, &state.exists, &state.exposed, &state.sums}, func() error {
		i := indexes[n-1]
		s.found[i] = finding{ledger: map[string]bool{}, ledgerState: state}
		if state.exists {
			ledgers = append(ledgers, i)
		}
		return nil
	})
	return ledgers, err
}

// readLedgers reads what stands in the ledgers, each different one once. They travel as statements of one simple query: one UNION ALL
// of them takes four times as long to plan.
func (s *surveyor) readLedgers(ctx context.Context, tx pgx.Tx, indexes []int) error {
	var sql strings.Builder
	for _, i := range indexes {
		_, _ = fmt.Fprintf(&sql, "select count(*), coalesce(bit_xor(hashtextextended(version::text, 0)), 0), coalesce(max(version::text), '') from %s;\n",
			pgx.Identifier{s.targets[i].Schema, ledgerName}.Sanitize())
	}
	results, err := tx.Conn().PgConn().Exec(ctx, sql.String()).ReadAll()
	if err != nil {
		return err
	}
	for n, i := range indexes {
		row := results[n].Rows[0]
		d := digest{count: string(row[0]), sum: string(row[1]), last: string(row[2])}
		if s.found[i].ledger, err = s.ledger(ctx, tx, s.targets[i].Schema, d); err != nil {
			return err
		}
	}
	return nil
}

// ledger returns the versions that a digest stands for, which are read from the given schema if nobody has met it before.
func (s *surveyor) ledger(ctx context.Context, tx pgx.Tx, schema string, d digest) (map[string]bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if ledger, ok := s.known[d]; ok {
		return ledger, nil
	}
	rows, err := tx.Query(ctx, "select version from "+pgx.Identifier{schema, ledgerName}.Sanitize())
	if err != nil {
		return nil, err
	}
	versions, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, err
	}
	ledger := make(map[string]bool, len(versions))
	for _, version := range versions {
		ledger[version] = true
	}
	s.known[d] = ledger
	return ledger, nil
}
