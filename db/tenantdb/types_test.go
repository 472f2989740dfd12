package tenantdb_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/db/tenantdb"
)

// shape is what the types of one tenant are made of, and a value of each. The types have the same names for every tenant.
type shape struct {
	types  string
	level  string   // of an enum
	levels []string // an array of it
	pair   string   // of a composite, as PostgreSQL writes it
	pairs  string   // an array of it
	first  any      // the pair's first field
	code   any      // of a domain
	codes  any      // an array of it
	within string   // of a range
}

func shapes() []shape {
	return []shape{
		{
			types: `CREATE TYPE level AS ENUM ('low', 'only-co-0'); CREATE TYPE pair AS (a int, b text);
				CREATE DOMAIN code AS int CHECK (VALUE > 0); CREATE TYPE within AS RANGE (subtype = int4)`,
			level: "only-co-0", levels: []string{"low", "only-co-0"}, pair: "(7,co-0)", pairs: `{"(7,co-0)","(8,)"}`, first: int32(7),
			code: int32(40), codes: []int32{40, 41}, within: "[1,9)",
		}, {
			types: `CREATE TYPE level AS ENUM ('only-co-1', 'middle', 'low'); CREATE TYPE pair AS (a text, b int, c boolean);
				CREATE DOMAIN code AS text CHECK (VALUE LIKE 'c-%'); CREATE TYPE within AS RANGE (subtype = numeric)`,
			level: "only-co-1", levels: []string{"only-co-1"}, pair: "(co-1,8,t)", pairs: `{"(co-1,8,t)"}`, first: "co-1",
			code: "c-one", codes: []string{"c-one", "c-two"}, within: "[1.5,2.5]",
		}, {
			types: `CREATE TYPE level AS ENUM ('high', 'only-co-2'); CREATE TYPE pair AS (a bigint, b text);
				CREATE DOMAIN code AS bigint CHECK (VALUE > 5000000000); CREATE TYPE within AS RANGE (subtype = date)`,
			level: "only-co-2", levels: []string{"only-co-2", "high"}, pair: "(5000000007,co-2)", pairs: "{}", first: int64(5000000007),
			code: int64(5000000040), codes: []int64{5000000041}, within: "[2026-01-01,2026-02-01)",
		},
	}
}

const shapesTable = `; CREATE TABLE shapes (id int PRIMARY KEY, owner text NOT NULL, level level, levels level[], pair pair, pairs pair[], code code,
	codes code[], within within); INSERT INTO shapes (id, owner) VALUES (1, '%[1]s'), (2, '%[1]s')`

// newShapes returns a fleet whose tenants have types of their own.
func newShapes(t *testing.T) *fleet {
	t.Helper()
	f := newFleet(t, len(shapes()))
	for i, s := range shapes() {
		f.admin(t, i, s.types+fmt.Sprintf(shapesTable, f.tenants[i].Slug))
	}
	return f
}

// stored is a row as it is read, each column into the Go type that a caller would choose.
type stored struct {
	Owner  string
	Level  string
	Levels []string
	Pair   string
	Pairs  string
	First  any
	Code   any
	Codes  any
	Within string
}

const readShapes = `SELECT owner, level, levels, pair, pairs, (pair).a AS first, code, codes, within FROM shapes WHERE id = $1`

func (s shape) write() (sql string, args []any) {
	return `UPDATE shapes SET level = $2, levels = $3, pair = $4, pairs = $5, code = $6, codes = $7, within = $8 WHERE id = $1`,
		[]any{1, s.level, s.levels, s.pair, s.pairs, s.code, s.codes, s.within}
}

// search has a parameter of each type in a comparison.
func (s shape) search() (sql string, args []any) {
	return `SELECT owner FROM shapes WHERE level = $1 AND level = ANY($2) AND pair = $3::pair AND $3 = ANY(pairs || $3) AND code = $4 AND
		codes = $5 AND within = $6`, []any{s.level, s.levels, s.pair, s.code, s.codes, s.within}
}

// cast names each type by its own name.
func (s shape) cast() (sql string, args []any) {
	return `SELECT $1::level::text, $2::level[]::text, $3::pair::text, $4::code::text, $5::code[]::text, $6::within::text`,
		[]any{s.level, s.levels, s.pair, s.code, s.codes, s.within}
}

// want is what is to be read of row 1. A domain is read as what it is made of.
func (s shape) want(tn *tenant.Tenant) stored {
	w := stored{string(tn.Slug), s.level, s.levels, s.pair, s.pairs, s.first, s.code, s.codes, s.within}
	switch codes := s.codes.(type) { // of an array of a domain PostgreSQL says no more than that
	case []int32:
		w.Codes = textArray(codes)
	case []int64:
		w.Codes = textArray(codes)
	case []string:
		w.Codes = textArray(codes)
	}
	return w
}

func textArray[T any](values []T) string {
	s := "{"
	for i, v := range values {
		if i > 0 {
			s += ","
		}
		s += fmt.Sprint(v)
	}
	return s + "}"
}

// checkShapes writes, reads, searches and casts with tenant i's types. read is used where the statement is one of a batch.
func checkShapes(ctx context.Context, q querier, tn *tenant.Tenant, s shape) error {
	sql, args := s.write()
	if tag, err := q.Exec(ctx, sql, args...); err != nil || tag.RowsAffected() != 1 {
		return fmt.Errorf("write: %v, %w", tag, err)
	}
	rows, err := q.Query(ctx, readShapes, 1)
	if err != nil {
		return fmt.Errorf("read: %w", err)
	}
	if err := s.checkStored(rows, tn); err != nil {
		return err
	}
	sql, args = s.search()
	var owner string
	if err := q.QueryRow(ctx, sql, args...).Scan(&owner); err != nil || owner != string(tn.Slug) {
		return fmt.Errorf("search: %q, %w", owner, err)
	}
	sql, args = s.cast()
	var casts [6]string
	if err := q.QueryRow(ctx, sql, args...).Scan(&casts[0], &casts[1], &casts[2], &casts[3], &casts[4], &casts[5]); err != nil {
		return fmt.Errorf("cast: %w", err)
	}
	if casts[0] != s.level || casts[2] != s.pair || casts[3] != fmt.Sprint(s.code) || casts[5] != s.within {
		return fmt.Errorf("cast: %q", casts)
	}
	return nil
}

func (s shape) checkStored(rows pgx.Rows, tn *tenant.Tenant) error {
	got, err := pgx.CollectOneRow(rows, pgx.RowToStructByName[stored])
	if err != nil {
		return fmt.Errorf("read: %w", err)
	}
	if diff := cmp.Diff(s.want(tn), got); diff != "" {
		return fmt.Errorf("%w: %s", errWrongTenant, diff)
	}
	return nil
}

// batchShapes does in one batch what checkShapes does in several calls, each statement twice so that it is worth a name.
func batchShapes(ctx context.Context, q verbs, tn *tenant.Tenant, s shape) error {
	var b pgx.Batch
	for range 2 {
		sql, args := s.write()
		b.Queue(sql, args...)
		b.Queue(readShapes, 1).Query(func(rows pgx.Rows) error { return s.checkStored(rows, tn) })
		sql, args = s.search()
		b.Queue(sql, args...).QueryRow(func(row pgx.Row) error {
			var owner string
			if err := row.Scan(&owner); err != nil || owner != string(tn.Slug) {
				return fmt.Errorf("search: %q, %w", owner, err)
			}
			return nil
		})
		sql, args = s.cast()
		b.Queue(sql, args...)
	}
	return q.SendBatch(ctx, &b).Close()
}

// allWays checks one tenant's types in a call, in a batch, in a transaction, in a savepoint and in batches in these.
func allWays(ctx context.Context, db verbs, tn *tenant.Tenant, s shape) error {
	inTx := func(tx pgx.Tx) error {
		return errors.Join(checkShapes(ctx, tx, tn, s), batchShapes(ctx, tx, tn, s))
	}
	if err := errors.Join(checkShapes(ctx, db, tn, s), batchShapes(ctx, db, tn, s)); err != nil {
		return err
	}
	err := pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
		if err := inTx(tx); err != nil {
			return err
		}
		err := pgx.BeginFunc(ctx, tx, func(inner pgx.Tx) error { return errors.Join(inTx(inner), errRollback) })
		if !errors.Is(err, errRollback) || kind(err) != errRollback.Error() {
			return fmt.Errorf("savepoint: %w", err)
		}
		return inTx(tx)
	})
	if err != nil {
		return fmt.Errorf("in a transaction: %w", err)
	}
	n, err := db.CopyFrom(ctx, pgx.Identifier{"shapes"}, []string{"id", "owner", "level"}, pgx.CopyFromRows([][]any{{100, "copied", s.level}}))
	if err != nil || n != 1 {
		return fmt.Errorf("copy: %d, %w", n, err)
	}
	_, err = db.Exec(ctx, "DELETE FROM shapes WHERE level = $1 AND id = $2", s.level, 100)
	return err
}

// THREATS 19, 20: types of the same name that are made of other things, one tenant after the other on one connection.
func TestEachTenantsOwnTypes(t *testing.T) {
	t.Parallel()
	f := newShapes(t)
	db := f.open(t, tenantdb.Config{MaxConns: 1})
	for round := range 4 {
		for i, s := range shapes() {
			if err := allWays(f.ctx(t, i), db, f.tenants[i], s); err != nil {
				t.Fatalf("round %d, %s: %v", round, f.tenants[i].Slug, err)
			}
		}
	}
	// What is right for one is wrong for the other, and stays so.
	for i := range shapes() {
		for column, wrong := range map[string]struct{ value, code string }{
			"level": {shapes()[(i+1)%len(shapes())].level, "22P02"}, "pair": {"(a,b,c,d)", "22P02"}, "within": {"[", "22P02"},
			"code": {"-1", "23514"},
		} {
			_, err := db.Exec(f.ctx(t, i), "UPDATE shapes SET "+column+" = $1", wrong.value)
			wantCode(t, err, wrong.code)
		}
	}
}

func TestEachTenantsOwnTypesOnSeveralConnections(t *testing.T) {
	t.Parallel()
	f := newShapes(t)
	db := f.open(t, tenantdb.Config{MaxConns: 3, StatementCacheSize: 6}) // names come and go
	var wg sync.WaitGroup
	for i, s := range shapes() {
		wg.Go(func() {
			for range 10 {
				if err := allWays(f.ctx(t, i), db, f.tenants[i], s); err != nil {
					t.Errorf("%s: %v", f.tenants[i].Slug, err)
					return
				}
			}
		})
	}
	wg.Wait()
}
