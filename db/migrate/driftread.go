package migrate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// checkChunk is how many targets are read in one transaction. It bounds what is held in memory, here and in the server's process,
// and for how long the transaction lasts.
const checkChunk = 200

// checker is one Check.
type checker struct {
	m         *Migrator
	reference *standing
	targets   []Target
	drifts    []Drift // by target; each is written by one goroutine
	done      []bool  // the same

	mu      sync.Mutex
	ledgers map[string]*ledgerSums // the ledgers that were met, by digest; guarded by mu
}

// chunks groups the targets that one connection can read and one search_path suits. Those that are not valid are done with.
func (c *checker) chunks() [][]int {
	s := &surveyor{targets: c.targets, found: make([]finding, len(c.targets))}
	var chunks [][]int
	for _, database := range s.byDatabase() {
		groups := make(map[string][]int)
		for _, i := range database {
			ext := c.targets[i].ExtensionSchema
			groups[ext] = append(groups[ext], i)
		}
		for _, group := range groups {
			chunks = slices.AppendSeq(chunks, slices.Chunk(group, checkChunk))
		}
	}
	for i, f := range s.found {
		if f.err != nil {
			c.drifts[i].Err, c.done[i] = f.err, true
		}
	}
	slices.SortFunc(chunks, func(a, b []int) int { return a[0] - b[0] })
	return chunks
}

func (c *checker) readReference(ctx context.Context, reference Target) error {
	return c.begin(ctx, []Target{reference}, func(r *checkReader) error {
		found, err := r.read(ctx)
		if err != nil {
			return err
		}
		if found[0] == nil {
			return reference.schemaMissing()
		}
		c.reference = found[0]
		return r.readObjects(ctx, found, allKinds())
	})
}

// schemaMissing is the error of a target whose schema does not exist.
func (t Target) schemaMissing() error {
	return fmt.Errorf("%w: %q in database %q", ErrSchemaMissing, t.Schema, t.Conn.Database)
}

// read reads some targets, and one by one those that cannot be read at one go.
func (c *checker) read(ctx context.Context, indexes []int) {
	err := c.readTogether(ctx, indexes)
	var pgErr *pgconn.PgError
	if len(indexes) > 1 && ctx.Err() == nil && errors.As(err, &pgErr) && !slices.Contains([]string{"08", "28", "3D"}, pgErr.Code[:2]) {
		for _, i := range indexes {
			c.read(ctx, []int{i})
		}
		return
	}
	for _, i := range indexes {
		c.done[i] = true
		if err != nil {
			c.drifts[i] = Drift{Err: err}
		}
	}
}

// readTogether reads the targets in one transaction, so that the digests and what they stand for are of one moment.
func (c *checker) readTogether(ctx context.Context, indexes []int) error {
	targets := make([]Target, len(indexes))
	for n, i := range indexes {
		targets[n] = c.targets[i]
	}
	return c.begin(ctx, targets, func(r *checkReader) error {
		found, err := r.read(ctx)
		if err != nil {
			return err
		}
		for _, s := range found {
			if s != nil {
				s.behind = s.ledger.lacks(c.reference.ledger, c.m.set)
			}
		}
		wrong, err := r.readFaults(ctx, found)
		if err != nil {
			return err
		}
		kinds, err := r.readDiffering(ctx, found)
		if err != nil {
			return err
		}
		for n, i := range indexes {
			d := Drift{}
			if s := found[n]; s == nil {
				d.Err = targets[n].schemaMissing()
			} else {
				d.Behind = s.behind
				d.Differences = slices.Concat(fold(s.compare(c.reference, kinds[n])), s.ledger.compare(c.reference.ledger, c.m.set), wrong[n])
				sortDifferences(d.Differences)
			}
			c.drifts[i] = d
		}
		return nil
	})
}

// begin reads targets of one database, with the same ExtensionSchema, in a transaction of its own.
func (c *checker) begin(ctx context.Context, targets []Target, read func(r *checkReader) error) error {
	session, err := dial(ctx, targets[0], c.m.cfg, nil)
	if err != nil {
		return err
	}
	defer session.close()
	return pgx.BeginTxFunc(ctx, session.conn, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		r := &checkReader{c: c, tx: tx, targets: targets}
		if err := r.setUp(ctx); err != nil {
			return err
		}
		return read(r)
	})
}

// checkReader reads some targets in a transaction.
type checkReader struct {
	c       *checker
	tx      pgx.Tx
	targets []Target
}

// setUp makes names of the tenants' print with their schema, those of extensions without, and has the catalogue read by its indexes:
// the planner cannot know how little of it is asked for.
func (r *checkReader) setUp(ctx context.Context) error {
	path := ""
	if ext := r.targets[0].ExtensionSchema; ext != "" {
		path = pgx.Identifier{ext}.Sanitize()
	}
	settings := [][2]string{
		{"search_path", path}, {"lock_timeout", milliseconds(r.c.m.cfg.LockTimeout)}, {"quote_all_identifiers", "off"},
		{"enable_seqscan", "off"}, {"enable_mergejoin", "off"}, {"jit", "off"}, {"work_mem", "32MB"},
	}
	if d := r.c.m.cfg.StatementTimeout; d > 0 {
		settings = append(settings, [2]string{"statement_timeout", milliseconds(d)})
	}
	batch := &pgx.Batch{}
	for _, s := range settings {
		batch.Queue(`select set_config($1, $2, true)`, s[0], s[1])
	}
	return r.tx.SendBatch(ctx, batch).Close()
}

// arguments are what the queries take.
func (r *checkReader) arguments() []any {
	schemas, roles := make([]string, len(r.targets)), make([]string, len(r.targets))
	for n, t := range r.targets {
		schemas[n], roles[n] = t.Schema, t.Role
	}
	return []any{schemas, roles, r.targets[0].ExtensionSchema}
}

// read reads the digests and the ledgers. A schema that does not exist is nil.
func (r *checkReader) read(ctx context.Context) ([]*standing, error) {
	found, err := r.readSchemas(ctx)
	if err != nil {
		return nil, err
	}
	rows, err := r.tx.Query(ctx, digestsSQL(), r.arguments()...)
	if err != nil {
		return nil, err
	}
	var (
		n            int
		kind, digest string
	)
	_, err = pgx.ForEachRow(rows, []any{&n, &kind, &digest}, func() error {
		found[n-1].digests[kind] = digest
		return nil
	})
	if err != nil {
		return nil, err
	}
	return found, r.readLedgers(ctx, found)
}

// readSchemas finds the schemas and their ledgers.
func (r *checkReader) readSchemas(ctx context.Context) ([]*standing, error) {
	found := make([]*standing, len(r.targets))
	rows, err := r.tx.Query(ctx, schemasSQL, r.arguments()[0])
	if err != nil {
		return nil, err
	}
	var (
		n                  int
		prefix             string
		hasLedger, hasSums bool
	)
	_, err = pgx.ForEachRow(rows, []any{&n, &prefix, &hasLedger, &hasSums}, func() error {
		s := &standing{prefix: prefix, digests: make(map[string]string), objects: make(catalogue)}
		checksum := "''"
		if hasSums {
			checksum = "coalesce(encode(checksum, 'hex'), '')"
		}
		if hasLedger {
			s.ledgerSQL = "select version::text as version, " + checksum + " as checksum from " +
				pgx.Identifier{r.targets[n-1].Schema, ledgerName}.Sanitize()
		}
		found[n-1] = s
		return nil
	})
	return found, err
}

// readDiffering reads the objects of the kinds in which schemas differ from the reference, and returns these kinds: none for who is behind.
func (r *checkReader) readDiffering(ctx context.Context, found []*standing) ([][]string, error) {
	var (
		kinds   = make([][]string, len(found))
		all     []string
		some    = &checkReader{c: r.c, tx: r.tx}
		differs []*standing
	)
	for n, s := range found {
		if s == nil || len(s.behind) > 0 {
			continue
		}
		if kinds[n] = s.differingKinds(r.c.reference); len(kinds[n]) > 0 {
			all = append(all, kinds[n]...)
			some.targets, differs = append(some.targets, r.targets[n]), append(differs, s)
		}
	}
	if len(differs) == 0 {
		return kinds, nil
	}
	return kinds, some.readObjects(ctx, differs, all)
}

// readObjects reads all objects of the given kinds.
func (r *checkReader) readObjects(ctx context.Context, found []*standing, kinds []string) error {
	rows, err := r.tx.Query(ctx, checkCommon+rowsSQL(kinds), r.arguments()...)
	if err != nil {
		return err
	}
	var (
		n                        int
		kind, object, definition string
	)
	_, err = pgx.ForEachRow(rows, []any{&n, &kind, &object, &definition}, func() error {
		found[n-1].objects.add(kind, object, definition)
		return nil
	})
	return err
}

// readFaults reads what is wrong in itself.
func (r *checkReader) readFaults(ctx context.Context, found []*standing) ([][]Difference, error) {
	faults := make([][]Difference, len(r.targets))
	var (
		n             int
		object, other string
		depends       bool
	)
	rows, err := r.tx.Query(ctx, auditSQL, r.arguments()...)
	if err != nil {
		return nil, err
	}
	_, err = pgx.ForEachRow(rows, []any{&n, &object}, func() error {
		faults[n-1] = append(faults[n-1], Difference{"audit", object,
			"a search_path of its own, by SET search_path", "SECURITY DEFINER, with its caller's search_path"})
		return nil
	})
	if err != nil {
		return nil, err
	}
	rows, err = r.tx.Query(ctx, dependenciesSQL, r.arguments()...)
	if err != nil {
		return nil, err
	}
	_, err = pgx.ForEachRow(rows, []any{&n, &depends, &object, &other}, func() error {
		d := Difference{"dependency", newStripper(found[n-1].prefix).strip(object), "nothing across schemas", "depends on " + other}
		if !depends {
			d.Got = other + " depends on it"
		}
		faults[n-1] = append(faults[n-1], d)
		return nil
	})
	return faults, err
}

// readLedgers reads the ledgers, each different one once.
func (r *checkReader) readLedgers(ctx context.Context, found []*standing) error {
	var queries []string
	for n, s := range found {
		if s == nil {
			continue
		}
		s.ledger = &ledgerSums{}
		if s.ledgerSQL != "" {
			queries = append(queries, fmt.Sprintf(`select %d, coalesce(md5(string_agg(version || ' ' || checksum, ',' order by version)), '')
				from (%s) l`, n, s.ledgerSQL))
		}
	}
	if len(queries) == 0 {
		return nil
	}
	rows, err := r.tx.Query(ctx, strings.Join(queries, " union all "))
	if err != nil {
		return err
	}
	var (
		n       int
		digest  string
		digests = make(map[int]string)
	)
	_, err = pgx.ForEachRow(rows, []any{&n, &digest}, func() error {
		digests[n] = digest
		return nil
	})
	if err != nil {
		return err
	}
	for n, digest := range digests {
		if found[n].ledger, err = r.c.ledger(ctx, r.tx, digest, found[n].ledgerSQL); err != nil {
			return err
		}
	}
	return nil
}

// ledger returns what a digest stands for, which is read by the query if nobody has met it before.
func (c *checker) ledger(ctx context.Context, tx pgx.Tx, digest, query string) (*ledgerSums, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if l, ok := c.ledgers[digest]; ok {
		return l, nil
	}
	rows, err := tx.Query(ctx, query)
	if err != nil {
		return nil, err
	}
	l := &ledgerSums{checksums: make(map[string]string)}
	var version, checksum string
	_, err = pgx.ForEachRow(rows, []any{&version, &checksum}, func() error {
		l.checksums[version] = checksum
		return nil
	})
	if err != nil {
		return nil, err
	}
	c.ledgers[digest] = l
	return l, nil
}
