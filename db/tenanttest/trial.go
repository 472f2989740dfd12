package tenanttest

import (
	"context"
	"errors"
	"fmt"

	"github.com/leasehold-go/leasehold/db/tenant"
)

// nobody is the index of a call without a tenant.
const nobody = -1

// trial is one case at work. Its methods are safe for concurrent use; tenants are named by their index.
type trial[D DBTX] struct {
	*suite[D]
	name  string
	found findings
}

func (t *trial[D]) slug(i int) tenant.Slug {
	switch {
	case i < 0:
		return ""
	case i == len(t.target.Tenants):
		return t.ghosts[0].Slug
	}
	return t.target.Tenants[i].Slug
}

func (t *trial[D]) leak(i int, what, saw string, owner int) {
	t.found.leak(Leak{Case: t.name, Tenant: t.slug(i), What: what, Saw: saw, Owner: t.slug(owner)})
}

func (t *trial[D]) failure(i int, call string, err error) {
	t.found.failure(Failure{Case: t.name, Tenant: t.slug(i), Call: call, Err: err})
}

// as runs fn as a tenant and returns what Run says. It reports a Run that never gets to fn, or keeps fn's error to itself.
func (t *trial[D]) as(ctx context.Context, i int, fn func(ctx context.Context, db D) error) error {
	return t.enter(ctx, i, t.target.Tenants[i], fn)
}

func (t *trial[D]) enter(ctx context.Context, i int, tn *tenant.Tenant, fn func(ctx context.Context, db D) error) error {
	var called bool
	var inner error
	err := t.bounded(ctx, i, "Run", func(ctx context.Context) error {
		return t.target.Run(ctx, tn, func(ctx context.Context, db D) error {
			called = true
			inner = fn(ctx, db)
			return inner
		})
	})
	switch {
	case err == nil && !called:
		err = errNotRun
		t.failure(i, "Run", err)
	case err == nil && inner != nil:
		err = fmt.Errorf("%w: %w", errSwallowed, inner)
		t.failure(i, "Run", err)
	}
	return err
}

// bounded makes a call that ends the suite if it takes too long.
func (t *trial[D]) bounded(parent context.Context, i int, name string, call func(ctx context.Context) error) error {
	if t.stopped.Load() {
		return errStopped
	}
	ctx, cancel := context.WithTimeoutCause(parent, t.target.Timeout, errHung)
	defer cancel()
	err := call(ctx)
	if err != nil && parent.Err() == nil && errors.Is(context.Cause(ctx), errHung) {
		t.stopped.Store(true)
		err = fmt.Errorf("%w: %w", errHung, err)
		t.failure(i, name, err)
	}
	return err
}

var (
	errHung    = errors.New("it took longer than Target.Timeout; nothing more was tried")
	errStopped = errors.New("the suite has stopped")
)

// reported says that an error is in the findings already, or follows from one that is.
func reported(err error) bool {
	return errors.Is(err, errHung) || errors.Is(err, errStopped) || errors.Is(err, errNotRun) || errors.Is(err, errSwallowed)
}

// do is as for what must succeed.
func (t *trial[D]) do(ctx context.Context, i int, call string, fn func(ctx context.Context, db D) error) bool {
	err := t.as(ctx, i, fn)
	if err != nil && !reported(err) && ctx.Err() == nil {
		t.failure(i, call, err)
	}
	return err == nil
}

// try is do for an attempt.
func (t *trial[D]) try(ctx context.Context, i int, a attempt[D]) bool {
	return t.do(ctx, i, a.call, func(ctx context.Context, db D) error { return a.fn(ctx, db, i) })
}

// write writes a new mark, which must succeed.
func (t *trial[D]) write(ctx context.Context, i int) {
	mark := t.books.issue(i)
	if t.do(ctx, i, "Mark", func(ctx context.Context, db D) error { return t.target.Mark(ctx, db, mark) }) {
		t.books.confirm(i, mark)
	}
}

// visit looks at all that a tenant can see, which must succeed: its own rows, all of them, and its own scope.
func (t *trial[D]) visit(ctx context.Context, i int) {
	t.do(ctx, i, "Marks", t.looker(i))
}

// look is visit inside a Run.
func (t *trial[D]) look(ctx context.Context, db D, i int) error { return t.looker(i)(ctx, db) }

// looker returns what looks at all that a tenant can see, and misses what was written before now. It is to be made before a Run
// whose transaction may see nothing newer than itself.
func (t *trial[D]) looker(i int) func(ctx context.Context, db D) error {
	written := t.books.written(i)
	return func(ctx context.Context, db D) error {
		marks, err := t.target.Marks(ctx, db)
		if err != nil {
			return err
		}
		t.judgeRows(i, marks, written)
		got, err := readScope(ctx, db, t.settings)
		if err != nil {
			return fmt.Errorf("read the scope: %w", err)
		}
		t.judgeScope(i, got)
		return nil
	}
}

// judgeRows looks for rows of others, rows that are there twice, and rows that are missing.
func (t *trial[D]) judgeRows(i int, marks, written []string) {
	seen := make(map[string]bool, len(marks))
	for _, mark := range marks {
		owner, ours := t.books.owner(mark)
		switch {
		case !ours:
			continue
		case owner != i:
			t.leak(i, "row", mark, owner)
		case seen[mark]:
			t.failure(i, "Marks", fmt.Errorf("%w: %s", errTwice, mark))
		}
		seen[mark] = true
	}
	for _, mark := range written {
		if !seen[mark] {
			t.found.lost(Lost{Case: t.name, Tenant: t.slug(i), Mark: mark})
		}
	}
}

// settle looks for what tenant i may have left behind: without a tenant, and as each of them. Every other time it begins with
// tenant i itself, which finds what was forgotten while it was thought to be there.
func (t *trial[D]) settle(ctx context.Context, i int) {
	if t.target.NoTenant != nil {
		t.intrude(ctx)
	}
	first := i + int(t.settles.Add(1)%2)
	for step := range t.target.Tenants {
		t.visit(ctx, (first+step)%len(t.target.Tenants))
	}
}

// mustFail checks the error of a Run that had to fail. What a hung Run returns has been reported.
func (t *trial[D]) mustFail(i int, call string, err error) {
	if err == nil {
		t.failure(i, call, errNoError)
	}
}
