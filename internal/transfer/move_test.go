package transfer_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/leasehold-go/leasehold/internal/pgtest"
	"github.com/leasehold-go/leasehold/internal/transfer"
)

func replaceOnce(tb testing.TB, text, old, now string) string {
	tb.Helper()
	if !strings.Contains(text, old) {
		tb.Fatalf("no %q in %s", old, text)
	}
	return strings.Replace(text, old, now, 1)
}

// twoHouses makes a tenant of the product and the empty schema that it is to be moved to.
func twoHouses(tb testing.TB) (source, dest transfer.Place) {
	tb.Helper()
	p := names(tb)
	source, dest = house(tb, pgtest.Database(tb), p), house(tb, pgtest.Database(tb), p)
	grant(tb, source)
	apply(tb, productSet(tb), source)
	mustExec(tb, source, "CREATE TABLE visits (who text, what text)")
	return source, dest
}

func done(context.Context) error { return nil }

// run moves, or ends the test.
func run(tb testing.TB, m transfer.Move) error {
	tb.Helper()
	err := m.Run(tb.Context())
	needPrograms(tb, err)
	return err
}

// A tenant is moved while nobody uses it.
func TestMove(t *testing.T) {
	t.Parallel()
	source, dest := twoHouses(t)
	fill(t, source, 50)
	want := content(t, source)
	if err := run(t, transfer.Move{Source: source, Target: dest, Switch: done}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, content(t, dest)); diff != "" {
		t.Error(diff)
	}
	checkDrift(t, productSet(t), dest)
	mustExec(t, dest, "INSERT INTO customers (name, email) VALUES ('Bo', 'bo@example.com')")
	old := source
	old.Schema = transfer.OldSchema(source.Schema)
	if diff := cmp.Diff(want, content(t, old)); diff != "" {
		t.Errorf("the old copy: %s", diff)
	}
	for range 2 {
		if err := source.Release(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if n := read[int](t, old, "SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'zz_leasehold%'"); n != 0 {
		t.Errorf("%d triggers are left", n)
	}
}

// A move that fails leaves the tenant as it was, whatever it has come to.
func TestMoveFails(t *testing.T) {
	t.Parallel()
	source, dest := twoHouses(t)
	fill(t, source, 5)
	want := content(t, source)
	broken := errors.New("broken off")
	for _, step := range steps {
		err := run(t, transfer.Move{Source: source, Target: dest, Switch: done, Before: func(_ context.Context, s transfer.Step) error {
			if s == step {
				return broken
			}
			return nil
		}})
		if !errors.Is(err, broken) {
			t.Fatalf("%s: %v", step, err)
		}
		if step == transfer.StepFinish {
			break
		}
		if diff := cmp.Diff(want, content(t, source)); diff != "" {
			t.Errorf("%s: %s", step, diff)
		}
		checkServed(t, source)
		empty(t, dest)
	}
}

var steps = []transfer.Step{
	transfer.StepDefine, transfer.StepCapture, transfer.StepCopy, transfer.StepIndex, transfer.StepCatchUp, transfer.StepCompare, transfer.StepHold,
	transfer.StepLock, transfer.StepLast, transfer.StepComplete, transfer.StepFence, transfer.StepOpen, transfer.StepSwitch, transfer.StepFinish,
}

// checkServed checks that the tenant's login may take its role and finds its tables, and that nothing of a move is left.
func checkServed(tb testing.TB, p transfer.Place) {
	tb.Helper()
	ok := read[bool](tb, p, "SELECT pg_has_role('"+p.Logins[0]+"', '"+p.Role+"', 'MEMBER') AND to_regnamespace('"+transfer.CaptureSchema(p.Schema)+
		"') IS NULL AND NOT EXISTS (SELECT FROM pg_trigger WHERE tgname LIKE 'zz_leasehold%')")
	if !ok {
		tb.Errorf("%s is not as it was", p.Schema)
	}
}

// empty drops what is in a house and makes it anew.
func empty(tb testing.TB, p transfer.Place) {
	tb.Helper()
	names := names(tb)
	names.Schema, names.Role = p.Schema, p.Role
	mustExec(tb, p, "DROP SCHEMA "+p.Schema+" CASCADE")
	house(tb, p.Admin.ConnString(), names)
}
