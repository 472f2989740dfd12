package tenanttest

import (
	"context"
	"database/sql/driver"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
)

var errOwn = errors.New("an error of the caller's own")

// attempt is one of the things that a case tries, as tenant i.
type attempt[D DBTX] struct {
	call string
	fn   func(ctx context.Context, db D, i int) error
}

// exec is the attempt to run one statement.
func exec[D DBTX](call, sql string) attempt[D] {
	return attempt[D]{call, func(ctx context.Context, db D, _ int) error {
		_, err := db.Exec(ctx, sql)
		return err
	}}
}

// turns returns the tenants that make the k-th attempt of a case: all of them, or fewer if Rounds is small.
func (t *trial[D]) turns(k int) []int {
	n := len(t.target.Tenants)
	list := make([]int, min(n, max(1, t.target.Rounds/4)))
	for step := range list {
		list[step] = (k + step) % n
	}
	return list
}

// errors: a call that fails, in whatever way, leaves nothing behind.
func (t *trial[D]) errors(ctx context.Context) {
	failing := []attempt[D]{
		exec[D]("a syntax error", "SELECT FROM WHERE"),
		exec[D]("a table that is missing", "SELECT * FROM leasehold_no_such_table"),
		exec[D]("a division by zero", "SELECT 1/0"),
		exec[D]("a division by zero, late", "SELECT 1/(g-900) FROM generate_series(1, 1000) AS g"),
		{"an error among the rows", func(ctx context.Context, db D, _ int) error {
			return readAll(db.Query(ctx, "SELECT 1/(g-900) FROM generate_series(1, 1000) AS g"))
		}},
		{"a value of the wrong type", func(ctx context.Context, db D, _ int) error {
			return db.QueryRow(ctx, "SELECT $1::text::int", "x").Scan(new(int))
		}},
		{"an error of fn's own", func(context.Context, D, int) error { return errOwn }},
		{"an error of fn's own, late", func(ctx context.Context, db D, i int) error {
			return errors.Join(t.target.Mark(ctx, db, t.books.issue(i)), t.look(ctx, db, i), errOwn)
		}},
	}
	if t.target.Fail != nil {
		failing = append(failing, attempt[D]{"Fail", func(ctx context.Context, db D, _ int) error { return t.target.Fail(ctx, db) }})
	}
	for k, a := range failing {
		for _, i := range t.turns(k) {
			t.mustFail(i, a.call, t.as(ctx, i, func(ctx context.Context, db D) error { return a.fn(ctx, db, i) }))
			t.settle(ctx, i)
		}
	}
}

func readAll(rows pgx.Rows, err error) error {
	if err != nil {
		return err
	}
	for rows.Next() { //nolint:revive // only the error at the end matters
	}
	return rows.Err()
}

// bang is what fn panics with. As an argument or a destination it panics when it is read or written.
type bang struct{}

// Value implements driver.Valuer.
func (bang) Value() (driver.Value, error) { panic(bang{}) }

// Scan implements sql.Scanner.
func (*bang) Scan(any) error { panic(bang{}) }

var errPanicked = errors.New("it panicked")

// panics: a panic of fn's leaves nothing behind.
func (t *trial[D]) panics(ctx context.Context) {
	for k, a := range []attempt[D]{
		{"a panic", func(context.Context, D, int) error { return nil }},
		{"a panic after a write", func(ctx context.Context, db D, i int) error { return t.target.Mark(ctx, db, t.books.issue(i)) }},
		{"a panic after reading", t.look},
		{"a panic after an error", func(ctx context.Context, db D, _ int) error {
			if _, err := db.Exec(ctx, "SELECT 1/0"); err == nil {
				return errNoError
			}
			return nil
		}},
		{"a panic between rows", func(ctx context.Context, db D, _ int) error {
			rows, err := db.Query(ctx, someRows)
			if err != nil {
				return err
			}
			defer rows.Close()
			rows.Next()
			panic(bang{})
		}},
		{"a panic in an argument", func(ctx context.Context, db D, _ int) error {
			_, err := db.Exec(ctx, "SELECT $1::text", bang{})
			return err
		}},
		{"a panic in Scan", func(ctx context.Context, db D, _ int) error {
			return db.QueryRow(ctx, someRows).Scan(nil, new(bang), nil, nil)
		}},
	} {
		for _, i := range t.turns(k) {
			t.mustFail(i, a.call, t.catch(ctx, i, a))
			t.settle(ctx, i)
		}
	}
}

// catch makes an attempt and panics after it, and returns what comes out as an error.
func (t *trial[D]) catch(ctx context.Context, i int, a attempt[D]) (err error) {
	defer func() {
		switch p := recover(); p {
		case nil:
		case bang{}:
			err = errPanicked
		default:
			panic(p)
		}
	}()
	return t.as(ctx, i, func(ctx context.Context, db D) error {
		if err := a.fn(ctx, db, i); err != nil && ctx.Err() == nil {
			t.failure(i, a.call, err)
		}
		panic(bang{})
	})
}

// cancels: contexts end, first one at a time and then while many work, and nobody sees anything of it but who was cancelled.
func (t *trial[D]) cancels(ctx context.Context) {
	rng := rand.New(rand.NewPCG(1, 2))
	for way := range cancelWays {
		for _, i := range t.turns(way) {
			t.cancelOne(ctx, rng, i, way)
			t.settle(ctx, i)
		}
	}
	// Half as often as others, since most of them cost a connection, but each way once.
	t.workers(ctx, max(t.target.Rounds/2, cancelWays), func(rng *rand.Rand, round int) {
		t.cancelOne(ctx, rng, rng.IntN(len(t.target.Tenants)), round%cancelWays)
		if t.target.NoTenant != nil {
			t.intrude(ctx)
		}
		t.visit(ctx, rng.IntN(len(t.target.Tenants)))
	})
	for i := range t.target.Tenants {
		t.settle(ctx, i)
	}
}

// cancelWays is how many ways cancelOne has. In three of them the cancel comes in time for certain.
const cancelWays = 5

// cancelOne makes a call in one of the ways and cancels it.
func (t *trial[D]) cancelOne(parent context.Context, rng *rand.Rand, i, way int) {
	look := t.looker(i)
	ctx, cancel := context.WithCancel(parent)
	defer cancel()
	soon := func() {
		timer := time.AfterFunc(time.Duration(rng.IntN(3000))*time.Microsecond, cancel)
		context.AfterFunc(ctx, func() { timer.Stop() })
	}
	fn := func(ctx context.Context, db D) error { return t.target.Mark(ctx, db, t.books.issue(i)) }
	switch way {
	case 0: // in the middle of a result, for certain
		fn = func(ctx context.Context, db D) error {
			rows, err := db.Query(ctx, someRows)
			if err != nil {
				return err
			}
			defer rows.Close()
			rows.Next()
			cancel()
			return readAll(rows, nil)
		}
	case 1: // while a slow statement runs
		soon()
		fn = func(ctx context.Context, db D) error {
			_, err := db.Exec(ctx, "SELECT pg_catalog.pg_sleep(0.002)")
			return errors.Join(err, look(ctx, db))
		}
	case 2: // while a row is written, which may or may not be there then
		soon()
	case 3: // before anything is sent
		cancel()
	case 4: // when all is done, and nothing is committed or put back yet
		fn = func(ctx context.Context, db D) error {
			err := look(ctx, db)
			cancel()
			return err
		}
	}
	err := t.as(ctx, i, fn)
	if err != nil && ctx.Err() == nil && !reported(err) {
		t.failure(i, "a call that was not cancelled yet", err)
	}
}
