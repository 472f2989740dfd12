package tenanttest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"

	"github.com/jackc/pgx/v5"
)

// workers has many goroutines do what work says, each so many times, until ctx ends.
func (t *trial[D]) workers(ctx context.Context, rounds int, work func(rng *rand.Rand, round int)) {
	var wg sync.WaitGroup
	for w := range t.target.Workers {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(w), uint64(len(t.name))))
			for round := range rounds {
				if ctx.Err() != nil || t.stopped.Load() {
					return
				}
				work(rng, round)
			}
		})
	}
	wg.Wait()
}

// atOnce: more goroutines than connections read and write for all tenants; in the end everybody has what was written.
func (t *trial[D]) atOnce(ctx context.Context) {
	t.workers(ctx, t.target.Rounds, func(rng *rand.Rand, _ int) {
		i := rng.IntN(len(t.target.Tenants))
		switch rng.IntN(8) {
		case 0, 1:
			t.write(ctx, i)
		case 2:
			if t.target.NoTenant != nil {
				t.intrude(ctx)
			}
		case 3:
			if t.target.Get != nil {
				t.get(ctx, i, 1)
			}
		default:
			t.visit(ctx, i)
		}
	})
	for i := range t.target.Tenants {
		t.settle(ctx, i)
	}
}

// Results of which each row says what it was made under.
var (
	// someRows is more than a client reads at once.
	someRows = rowsSQL(500)
	// manyRows is more than lies in any buffer on the way.
	manyRows = rowsSQL(5000)
)

func rowsSQL(n int) string {
	return fmt.Sprintf(`SELECT g::int, pg_catalog.current_setting('search_path'), current_user::text, pg_catalog.repeat('x', 500)
		FROM pg_catalog.generate_series(1, %d) AS g`, n)
}

// unreadResults: results that are not read to the end leave nothing behind.
func (t *trial[D]) unreadResults(ctx context.Context) {
	after := func(n int) func(context.Context, D, int) error {
		return func(ctx context.Context, db D, _ int) error {
			rows, err := db.Query(ctx, someRows)
			if err != nil {
				return err
			}
			for range n {
				rows.Next()
			}
			rows.Close()
			return rows.Err()
		}
	}
	for k, a := range []attempt[D]{
		{"close at once", after(0)},
		{"close after a row", after(1)},
		{"close after some rows", after(100)},
		{"one row of many", func(ctx context.Context, db D, _ int) error {
			return db.QueryRow(ctx, "SELECT g::int FROM generate_series(1, 1000) AS g").Scan(new(int))
		}},
	} {
		for _, i := range t.turns(k) {
			t.try(ctx, i, a)
			t.settle(ctx, i)
		}
	}
}

// slowResults: a result is read while others are at work, and stays its tenant's from the first row to the last.
func (t *trial[D]) slowResults(ctx context.Context) {
	for i := range t.target.Tenants {
		var others sync.WaitGroup
		meanwhile := func(j int) {
			if t.target.Conns < 2 { // they would wait for us
				others.Go(func() { t.visit(ctx, j) })
				return
			}
			t.visit(ctx, j)
		}
		t.do(ctx, i, "read slowly", func(own context.Context, db D) error { return t.readSlowly(own, db, i, meanwhile) })
		others.Wait()
		t.settle(ctx, i)
	}
}

func (t *trial[D]) readSlowly(ctx context.Context, db D, i int, meanwhile func(j int)) error {
	rows, err := db.Query(ctx, manyRows)
	if err != nil {
		return err
	}
	defer rows.Close()
	n, j := 0, i
	for rows.Next() {
		got := t.scopes[i] // what the rows do not say is as ever
		if err := rows.Scan(nil, &got.path, &got.role, nil); err != nil {
			return err
		}
		t.judgeScope(i, got)
		if n++; n%1000 == 500 {
			j = (j + 1) % len(t.target.Tenants)
			meanwhile(j)
		}
	}
	return rows.Err()
}

// batcher is what runs a batch.
type batcher interface {
	SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults
}

// batches: every statement of a batch is its tenant's, and a batch that fails or is not read leaves nothing behind.
func (t *trial[D]) batches(ctx context.Context) {
	for i := range t.target.Tenants {
		t.try(ctx, i, attempt[D]{"read a batch", func(ctx context.Context, db D, i int) error {
			return t.readBatch(ctx, any(db).(batcher), i)
		}})
		t.settle(ctx, i)
		t.try(ctx, i, attempt[D]{"close a batch unread", func(ctx context.Context, db D, _ int) error {
			var b pgx.Batch
			b.Queue(scopeSQL, t.settings)
			b.Queue(someRows)
			return any(db).(batcher).SendBatch(ctx, &b).Close()
		}})
		t.settle(ctx, i)
		t.mustFail(i, "a batch with an error in it", t.as(ctx, i, func(ctx context.Context, db D) error {
			return brokenBatch(ctx, any(db).(batcher), t.settings)
		}))
		t.settle(ctx, i)
	}
}

func (t *trial[D]) readBatch(ctx context.Context, db batcher, i int) error {
	var b pgx.Batch
	for range 5 {
		b.Queue(scopeSQL, t.settings).QueryRow(func(row pgx.Row) error {
			var got scope
			if err := got.scan(row); err != nil {
				return err
			}
			t.judgeScope(i, got)
			return nil
		})
	}
	return db.SendBatch(ctx, &b).Close()
}

func brokenBatch(ctx context.Context, db batcher, settings []string) error {
	var b pgx.Batch
	b.Queue(scopeSQL, settings)
	b.Queue("SELECT 1/(g-900) FROM generate_series(1, 1000) AS g")
	b.Queue(scopeSQL, settings)
	results := db.SendBatch(ctx, &b)
	var first scope
	err := first.scan(results.QueryRow())
	return errors.Join(err, results.Close())
}
