package tenanttest_test

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/db/tenanttest"
)

// A target that shows nothing must not pass.
func TestCheckReports(t *testing.T) {
	t.Parallel()
	f := newNotes(t)
	for _, tc := range []struct {
		name  string
		fault wrong
		want  error // in which "" and nil stand for anything
	}{
		{"a Run that never runs", func(_ *testing.T, _ *tenanttest.Fleet, target *tenanttest.Target[DBTX]) {
			target.Run = func(context.Context, *tenant.Tenant, fnType) error { return nil }
		}, &tenanttest.Failure{Call: "Run"}},
		{"a Run that fails", func(_ *testing.T, _ *tenanttest.Fleet, target *tenanttest.Target[DBTX]) {
			target.Run = func(context.Context, *tenant.Tenant, fnType) error { return errBroken }
		}, &tenanttest.Failure{Err: errBroken}},
		{"a Run that keeps errors to itself", swallow, &tenanttest.Failure{Case: "errors", Call: "Run"}},
		{"a Run that lets a panic pass for success", swallowPanics, &tenanttest.Failure{Case: "panics"}},
		{"a Run that does not commit", rollBack, &tenanttest.Lost{Case: "own rows"}},
		{"a Run that tries again what was committed", runTwice, &tenanttest.Failure{Case: "own rows", Call: "Marks"}},
		{"a statement that is kept with another tenant's types", typesOfAnother, &tenanttest.Failure{Case: "own rows", Call: "Mark"}},
		{"a path that falls through to public", fallThrough, &tenanttest.Failure{Case: "missing tenants", Call: "Marks"}},
		{"marks that are not written", func(_ *testing.T, _ *tenanttest.Fleet, target *tenanttest.Target[DBTX]) {
			target.Mark = func(context.Context, DBTX, string) error { return nil }
		}, &tenanttest.Lost{Case: "own rows"}},
		{"marks that are not read", func(_ *testing.T, _ *tenanttest.Fleet, target *tenanttest.Target[DBTX]) {
			target.Marks = func(context.Context, DBTX) ([]string, error) { return nil, nil }
		}, &tenanttest.Lost{Case: "own rows"}},
		{"keys that are nowhere", func(_ *testing.T, _ *tenanttest.Fleet, target *tenanttest.Target[DBTX]) {
			target.Get = func(context.Context, DBTX, int64) (string, error) { return "", pgx.ErrNoRows }
		}, &tenanttest.Failure{Case: "equal keys", Call: "Get"}},
		{"a way to reach others that reaches nobody", func(_ *testing.T, _ *tenanttest.Fleet, target *tenanttest.Target[DBTX]) {
			target.Reach = func(context.Context, DBTX, *tenant.Tenant) ([]string, error) { return nil, errBroken }
		}, &tenanttest.Failure{Case: "qualified names", Err: errBroken}},
		{"a Fail that succeeds", func(_ *testing.T, _ *tenanttest.Fleet, target *tenanttest.Target[DBTX]) {
			target.Fail = func(context.Context, DBTX) error { return nil }
		}, &tenanttest.Failure{Case: "errors", Call: "Fail"}},
		{"a call without a tenant that fails by chance", func(_ *testing.T, _ *tenanttest.Fleet, target *tenanttest.Target[DBTX]) {
			target.NoTenant = func(context.Context, func(context.Context, DBTX) error) error { return errBroken }
		}, &tenanttest.Failure{Case: "no tenant", Err: errBroken}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			target := notesTarget(f)
			target.Run = safe(newPool(t, runtimeLogin(t, f)))
			tc.fault(t, f, &target)
			err := tenanttest.Check(t.Context(), target)
			for _, got := range split(err) {
				if like(got, tc.want) {
					return
				}
			}
			t.Errorf("want %#v, got: %v", tc.want, err)
		})
	}
}

var errBroken = errors.New("broken")

// like reports whether got is what want describes.
func like(got, want error) bool {
	switch want := want.(type) { //nolint:errorlint // these are what Check joins
	case *tenanttest.Failure:
		got, ok := errors.AsType[*tenanttest.Failure](got)
		return ok && got.Times > 0 && (want.Case == "" || got.Case == want.Case) && (want.Call == "" || got.Call == want.Call) &&
			(want.Err == nil || errors.Is(got, want.Err))
	case *tenanttest.Lost:
		got, ok := errors.AsType[*tenanttest.Lost](got)
		return ok && got.Times > 0 && got.Mark != "" && got.Case == want.Case
	}
	return false
}

func swallow(_ *testing.T, _ *tenanttest.Fleet, target *tenanttest.Target[DBTX]) {
	run := target.Run
	target.Run = func(ctx context.Context, tn *tenant.Tenant, fn fnType) error {
		_ = run(ctx, tn, fn)
		return nil
	}
}

func swallowPanics(_ *testing.T, _ *tenanttest.Fleet, target *tenanttest.Target[DBTX]) {
	run := target.Run
	target.Run = func(ctx context.Context, tn *tenant.Tenant, fn fnType) error {
		defer func() { _ = recover() }()
		return run(ctx, tn, fn)
	}
}

func rollBack(_ *testing.T, _ *tenanttest.Fleet, target *tenanttest.Target[DBTX]) {
	run := target.Run
	target.Run = func(ctx context.Context, tn *tenant.Tenant, fn fnType) error {
		undone := errors.New("undone")
		err := run(ctx, tn, func(ctx context.Context, db DBTX) error {
			if err := fn(ctx, db); err != nil {
				return err
			}
			return undone
		})
		if errors.Is(err, undone) {
			return nil
		}
		return err
	}
}

func runTwice(_ *testing.T, _ *tenanttest.Fleet, target *tenanttest.Target[DBTX]) {
	run := target.Run
	target.Run = func(ctx context.Context, tn *tenant.Tenant, fn fnType) error {
		return errors.Join(run(ctx, tn, fn), run(ctx, tn, fn))
	}
}

// typesOfAnother leaves statements to pgx, which keeps them by their SQL, and what it keeps is the enum of the tenant that came first.
func typesOfAnother(t *testing.T, f *tenanttest.Fleet, target *tenanttest.Target[DBTX]) {
	target.Run = pathOnly(newPool(t, f.Administrator, func(pc *pgxpool.Config) {
		pc.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeCacheStatement
	}))
	target.Mark = func(ctx context.Context, db DBTX, mark string) error {
		_, err := db.Exec(ctx, "INSERT INTO notes (mark, mood) VALUES ($1, $2)", mark, "calm")
		return err
	}
}

// fallThrough has a table where a statement of a tenant without a schema finds it.
func fallThrough(t *testing.T, _ *tenanttest.Fleet, target *tenanttest.Target[DBTX]) {
	f := newNotes(t)
	pool := newPool(t, f.Administrator)
	if _, err := pool.Exec(t.Context(), "CREATE TABLE public.notes (LIKE "+f.Tenants[0].Placement.Schema+".notes INCLUDING IDENTITY)"); err != nil {
		t.Fatal(err)
	}
	target.Tenants = f.Tenants
	target.Run = func(ctx context.Context, tn *tenant.Tenant, fn fnType) error {
		return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, "SET LOCAL search_path = "+tn.Placement.Schema+", public"); err != nil {
				return err
			}
			return fn(ctx, tx)
		})
	}
}

// batchDBTX is a DBTX that runs batches.
type batchDBTX interface {
	DBTX
	SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults
}

// strayBatch runs its batches elsewhere than its other calls.
type strayBatch struct {
	DBTX
	elsewhere batchDBTX
}

func (s strayBatch) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	return s.elsewhere.SendBatch(ctx, b)
}

func TestCheckReportsALeakInABatch(t *testing.T) {
	t.Parallel()
	f := newNotes(t)
	run := safe(newPool(t, runtimeLogin(t, f)))
	err := tenanttest.Check(t.Context(), tenanttest.Target[batchDBTX]{
		Tenants: f.Tenants, Rounds: 2, Workers: 2,
		Run: func(ctx context.Context, tn *tenant.Tenant, fn func(context.Context, batchDBTX) error) error {
			return run(ctx, tn, func(ctx context.Context, db DBTX) error {
				return fn(ctx, strayBatch{db, f.DB.For(f.Tenants[0])})
			})
		},
		Mark:  func(ctx context.Context, db batchDBTX, mark string) error { return addNote(ctx, db, mark) },
		Marks: func(ctx context.Context, db batchDBTX) ([]string, error) { return listNotes(ctx, db) },
	})
	if !slices.ContainsFunc(split(err), func(err error) bool {
		leak, ok := errors.AsType[*tenanttest.Leak](err)
		return ok && leak.Case == "batches" && leak.What == "schema" && leak.Owner == f.Tenants[0].Slug
	}) {
		t.Errorf("got %v, want a leak of %s's schema in a batch", err, f.Tenants[0].Slug)
	}
}

// After a call that hangs the suite tries no more.
func TestCheckStopsWhenACallHangs(t *testing.T) {
	t.Parallel()
	f := newNotes(t)
	target := notesTarget(f)
	target.Timeout = 100 * time.Millisecond
	run := safe(newPool(t, runtimeLogin(t, f)))
	const good = 20
	var calls atomic.Int64
	target.Run = func(ctx context.Context, tn *tenant.Tenant, fn fnType) error {
		if calls.Add(1) > good {
			<-ctx.Done()
			return ctx.Err()
		}
		return run(ctx, tn, fn)
	}
	err := tenanttest.Check(t.Context(), target)
	failure, ok := errors.AsType[*tenanttest.Failure](err)
	if !ok || failure.Call != "Run" || !errors.Is(failure, context.DeadlineExceeded) {
		t.Errorf("got %v, want the failure of a Run", err)
	}
	if n := calls.Load(); n > good+1 {
		t.Errorf("%d calls, %d of which were good; want one that hangs", n, good)
	}
}

func TestCheckEndsWithItsContext(t *testing.T) {
	t.Parallel()
	f := newNotes(t)
	target := notesTarget(f)
	ctx, cancel := context.WithCancel(t.Context())
	run := safe(newPool(t, runtimeLogin(t, f)))
	var calls atomic.Int64
	target.Run = func(ctx context.Context, tn *tenant.Tenant, fn fnType) error {
		if calls.Add(1) == 20 {
			cancel()
		}
		return run(ctx, tn, fn)
	}
	err := tenanttest.Check(ctx, target)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want the error of the context", err)
	}
	for _, err := range split(err) {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("got %v: the end of the context is nobody's fault", err)
		}
	}
}

// What is wrong with a target is said before anything runs.
func TestCheckRefusesATarget(t *testing.T) {
	t.Parallel()
	a, b := &tenant.Tenant{ID: tenant.ID{1}, Slug: "a"}, &tenant.Tenant{ID: tenant.ID{2}, Slug: "b"}
	whole := func() tenanttest.Target[DBTX] {
		return tenanttest.Target[DBTX]{
			Tenants: []*tenant.Tenant{a, b}, Mark: addNote, Marks: listNotes,
			Run: func(context.Context, *tenant.Tenant, fnType) error { return errRan },
		}
	}
	if err := tenanttest.Check(t.Context(), whole()); !errors.Is(err, errRan) {
		t.Fatalf("a whole target was not run: %v", err)
	}
	for name, change := range map[string]func(*tenanttest.Target[DBTX]){
		"no tenants":      func(target *tenanttest.Target[DBTX]) { target.Tenants = nil },
		"one tenant":      func(target *tenanttest.Target[DBTX]) { target.Tenants = target.Tenants[:1] },
		"one tenant, nil": func(target *tenanttest.Target[DBTX]) { target.Tenants[1] = nil },
		"a tenant twice":  func(target *tenanttest.Target[DBTX]) { target.Tenants[1] = a },
		"no Run":          func(target *tenanttest.Target[DBTX]) { target.Run = nil },
		"no Mark":         func(target *tenanttest.Target[DBTX]) { target.Mark = nil },
		"no Marks":        func(target *tenanttest.Target[DBTX]) { target.Marks = nil },
		"Conns":           func(target *tenanttest.Target[DBTX]) { target.Conns = -1 },
		"Rounds":          func(target *tenanttest.Target[DBTX]) { target.Rounds = -1 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			target := whole()
			change(&target)
			if err := tenanttest.Check(t.Context(), target); err == nil || errors.Is(err, errRan) {
				t.Errorf("got %v, want a refusal", err)
			}
		})
	}
}

var errRan = errors.New("it ran")
