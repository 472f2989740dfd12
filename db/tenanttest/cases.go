package tenanttest

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/db/tenant"
)

// ownRows: what a tenant writes it sees, and nobody else does.
func (t *trial[D]) ownRows(ctx context.Context) {
	for range 3 {
		for i := range t.target.Tenants {
			t.write(ctx, i)
			t.settle(ctx, i)
		}
	}
}

// noTenant: a call without a tenant gets nothing, whoever was there before.
func (t *trial[D]) noTenant(ctx context.Context) {
	for i := range t.target.Tenants {
		for range 3 {
			t.visit(ctx, i)
			t.intrude(ctx)
		}
	}
}

// intrude calls without a tenant.
func (t *trial[D]) intrude(ctx context.Context) {
	for _, a := range []attempt[D]{
		{"Marks", t.peek},
		{"read the scope", func(ctx context.Context, db D, _ int) error {
			_, err := readScope(ctx, db, t.settings)
			return err
		}},
	} {
		err := t.bounded(ctx, nobody, "NoTenant", func(ctx context.Context) error {
			return t.target.NoTenant(ctx, func(ctx context.Context, db D) error { return a.fn(ctx, db, nobody) })
		})
		switch {
		case err == nil:
			t.leak(nobody, "call", a.call, nobody)
		case !errors.Is(err, tenant.ErrNoTenant) && !reported(err) && ctx.Err() == nil:
			t.failure(nobody, a.call, fmt.Errorf("want tenant.ErrNoTenant, got %w", err))
		}
	}
}

// peek reads the rows of all, for somebody who may see none.
func (t *trial[D]) peek(ctx context.Context, db D, i int) error {
	marks, err := t.target.Marks(ctx, db)
	t.judgeRows(i, marks, nil)
	return err
}

// inTurn: the same few statements for one tenant after the other, until every cache that keeps statements is warm.
func (t *trial[D]) inTurn(ctx context.Context) {
	for round := range t.target.Rounds {
		for step := range t.target.Tenants {
			i := (round + step) % len(t.target.Tenants)
			if round%4 == 0 {
				t.write(ctx, i)
			}
			t.visit(ctx, i)
		}
	}
}

// inStep: several tenants are open within each other, and their statements alternate.
func (t *trial[D]) inStep(ctx context.Context) {
	n := min(len(t.target.Tenants), t.target.Conns)
	for first := range t.target.Tenants {
		t.nest(ctx, first, n, nil)
	}
}

// nest opens n tenants, beginning with tenant i, and then has all those that are open look around, in turns.
func (t *trial[D]) nest(ctx context.Context, i, n int, open []func() error) {
	i %= len(t.target.Tenants)
	mark := t.books.issue(i)
	ok := t.do(ctx, i, "calls in step", func(own context.Context, db D) error {
		if err := t.target.Mark(own, db, mark); err != nil {
			return err
		}
		open := append(open[:len(open):len(open)], func() error { return t.look(own, db, i) })
		if n > 1 {
			t.nest(ctx, i+1, n-1, open)
			return t.look(own, db, i)
		}
		for range 3 {
			for k := range open {
				if err := errors.Join(open[k](), open[len(open)-1-k]()); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if ok {
		t.books.confirm(i, mark)
	}
}

// nested: while one tenant is open, another one is, under the context of the first. It may be refused. If it is not, each gets its
// own, also the first one after the second.
func (t *trial[D]) nested(ctx context.Context) {
	for i := range t.target.Tenants {
		j := (i + 1) % len(t.target.Tenants)
		for _, outcome := range []error{nil, errOwn} {
			t.try(ctx, i, attempt[D]{"calls around another tenant's", func(own context.Context, db D, i int) error {
				if err := t.look(own, db, i); err != nil {
					return err
				}
				_ = t.as(own, j, func(inner context.Context, db D) error {
					if err := t.look(inner, db, j); err != nil {
						return err
					}
					return outcome
				})
				return t.look(own, db, i)
			}})
			t.settle(ctx, i)
		}
	}
}

// keys are those that equalKeys asks for.
const keys = 8

// equalKeys: the same key finds each tenant its own row.
func (t *trial[D]) equalKeys(ctx context.Context) {
	for range keys {
		for i := range t.target.Tenants {
			t.write(ctx, i)
		}
	}
	const rounds = 2
	found := map[int64]int{}
	for range rounds {
		for key := range int64(keys) {
			for i := range t.target.Tenants {
				if t.get(ctx, i, key+1) {
					found[key]++
				}
			}
		}
	}
	for _, times := range found {
		if times > rounds { // by more than one tenant
			return
		}
	}
	if !t.stopped.Load() && ctx.Err() == nil {
		t.failure(nobody, "Get", errNoKeys)
	}
}

// get reports whether a tenant has a row with the key.
func (t *trial[D]) get(ctx context.Context, i int, key int64) (found bool) {
	t.do(ctx, i, "Get", func(ctx context.Context, db D) error {
		mark, err := t.target.Get(ctx, db, key)
		if found = err == nil; !found {
			if errors.Is(err, pgx.ErrNoRows) {
				return nil
			}
			return err
		}
		if owner, ours := t.books.owner(mark); ours && owner != i {
			t.leak(i, "row", mark, owner)
		}
		return nil
	})
	return found
}

// qualifiedNames: a tenant that says the name of another's schema does not get in.
func (t *trial[D]) qualifiedNames(ctx context.Context) {
	for range 2 {
		for i := range t.target.Tenants {
			t.write(ctx, i)
			for j := range t.target.Tenants {
				t.reach(ctx, i, j)
			}
			t.visit(ctx, i)
		}
	}
}

func (t *trial[D]) reach(ctx context.Context, i, j int) {
	read := func(ctx context.Context, db D) error {
		written := t.books.written(i)
		marks, err := t.target.Reach(ctx, db, t.target.Tenants[j])
		if err != nil {
			return err
		}
		if i != j {
			written = nil
		}
		t.judgeRows(i, marks, written)
		return nil
	}
	if i == j { // or else being refused would show nothing
		t.do(ctx, i, "Reach to its own", read)
		return
	}
	t.mustFail(i, "Reach to another", t.as(ctx, i, read))
}

// missingTenants: one that does not exist gets nothing, and disturbs nobody.
func (t *trial[D]) missingTenants(ctx context.Context) {
	ghost := len(t.target.Tenants)
	for k, a := range []attempt[D]{
		{"Marks", t.peek},
		{"Mark", func(ctx context.Context, db D, _ int) error { return t.target.Mark(ctx, db, t.books.issue(ghost)) }},
	} {
		for _, i := range t.turns(k) {
			for _, tn := range t.ghosts {
				t.visit(ctx, i)
				t.mustFail(ghost, a.call, t.enter(ctx, ghost, tn, func(ctx context.Context, db D) error { return a.fn(ctx, db, ghost) }))
				t.settle(ctx, i)
			}
		}
	}
}

// allRows: in the end everybody has what was written, and no more.
func (t *trial[D]) allRows(ctx context.Context) {
	for i := range t.target.Tenants {
		t.write(ctx, i)
	}
	for i := range t.target.Tenants {
		t.settle(ctx, i)
	}
}
