package tenanttest_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/db/tenanttest"
)

type (
	fnType  = func(ctx context.Context, db DBTX) error
	runType = func(ctx context.Context, t *tenant.Tenant, fn fnType) error
)

// safe is how it is done by hand: a transaction, a scope that is local to it, and nothing left on the connection after it.
func safe(pool *pgxpool.Pool) runType {
	return scoped(pool, func(ctx context.Context, conn *pgxpool.Conn) {
		if _, err := conn.Exec(context.WithoutCancel(ctx), "DISCARD ALL"); err != nil {
			_ = conn.Conn().Close(ctx)
		}
	})
}

// scoped does after before it gives a connection back.
func scoped(pool *pgxpool.Pool, after func(context.Context, *pgxpool.Conn)) runType {
	return func(ctx context.Context, t *tenant.Tenant, fn fnType) error {
		conn, err := pool.Acquire(ctx)
		if err != nil {
			return err
		}
		defer conn.Release()
		defer after(ctx, conn)
		return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, "SELECT set_config('search_path', $1, true), set_config('role', $2, true)",
				t.Placement.Schema+", pg_temp", t.Placement.Role); err != nil {
				return err
			}
			return fn(ctx, tx)
		})
	}
}

func TestCheckFindsNothingInASafeWrapper(t *testing.T) {
	t.Parallel()
	f := newNotes(t)
	target := notesTarget(f)
	target.Run = safe(newPool(t, runtimeLogin(t, f)))
	if err := tenanttest.Check(t.Context(), target); err != nil {
		t.Error(err)
	}
}

// Each of these is a fault that has been made somewhere, and Check must report it as a leak, in the case that is there to find it.
func TestCheckReportsALeakOf(t *testing.T) {
	t.Parallel()
	f := newNotes(t)
	for _, tc := range []struct {
		name       string
		fault      wrong
		where, saw string
	}{
		{"a path that is set for the session", sessionPath, "no tenant", "row"},
		{"a path that is set on another checkout", otherCheckout, "in step", "row"},
		{"a path that is reset only after success", resetAfterSuccess, "errors", "row"},
		{"a path that is reset only at the end of the rows", resetAfterLastRow, "unread results", "row"},
		{"a path that is reset under the caller's context", resetUnderContext, "cancels", "row"},
		{"a path that is set when the connection is made", pathOfTheFirst, "own rows", "schema"},
		{"a path that is set by a hook, from a global", globalTenant, "in step", "row"},
		{"a path that is local where there is no transaction", localToNothing, "own rows", "schema"},
		{"a path that is remembered after a rollback", rememberedPath, "errors", "row"},
		{"a tenant that is the last one when there is none", lastTenant, "no tenant", "call"},
		{"a tenant that is not put back after a panic", keptAfterPanic, "panics", "call"},
		{"a savepoint in whatever transaction is open", joinedTransaction, "nested", "row"},
		{"a statement that is kept by its SQL alone", statementsBySQL, "in turn", "row"},
		{"a result that is another's from some row on", mixedRows, "slow results", "search_path"},
		{"a setting that is not put back", keptSetting, "in turn", "setting app.tenant"},
		{"a role that is not taken", noRole, "qualified names", "row"},
		{"a role that is another's", othersRole, "own rows", "role"},
		{"two tenants in one schema", oneSchema, "own rows", "row"},
		{"a row that is found by its key alone", keysOfAll, "equal keys", "row"},
		{"temporary tables, which everybody may make", temporaryTables, "leftovers", "temporary table"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			target := notesTarget(f)
			tc.fault(t, f, &target)
			err := tenanttest.Check(t.Context(), target)
			if !slices.ContainsFunc(split(err), func(err error) bool {
				leak, ok := errors.AsType[*tenanttest.Leak](err)
				return ok && leak.Case == tc.where && leak.What == tc.saw && leak.Times > 0 && leak.Saw != ""
			}) {
				t.Errorf("want a leak of a %s in the case %q, got: %v", tc.saw, tc.where, err)
			}
		})
	}
}

// SET LOCAL alone holds rows to their tenant, and not what a statement leaves on the session.
func TestCheckTellsLeftoversFromRows(t *testing.T) {
	t.Parallel()
	f := newNotes(t)
	target := notesTarget(f)
	target.Run = scoped(newPool(t, runtimeLogin(t, f)), func(context.Context, *pgxpool.Conn) {})
	leaks := map[string]bool{}
	for _, err := range split(tenanttest.Check(t.Context(), target)) {
		leak, ok := errors.AsType[*tenanttest.Leak](err)
		if !ok || leak.Case != "leftovers" {
			t.Errorf("got %v, want leftovers only", err)
			continue
		}
		leaks[leak.What] = true
	}
	want := map[string]bool{"setting": true, "prepared statement": true, "cursor": true, "channel": true, "advisory lock": true}
	if diff := cmp.Diff(want, leaks); diff != "" {
		t.Errorf("what was left (-want +got):\n%s", diff)
	}
}

// split returns the errors that Check has joined.
func split(err error) []error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok { //nolint:errorlint // it is what Check returns, not something in it
		return joined.Unwrap()
	}
	return nil
}
