package transfer_test

import (
	"context"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/db/migrate"
	"github.com/leasehold-go/leasehold/internal/transfer"
)

// A switch whose answer is lost has taken effect or not: the registry knows.
func TestSwitchWithoutAnAnswer(t *testing.T) {
	t.Parallel()
	lost := errors.New("the connection is gone")
	failing := func(context.Context) error { return lost }
	t.Run("it took effect", func(t *testing.T) {
		t.Parallel()
		source, dest := twoHouses(t)
		asked := 0
		err := run(t, transfer.Move{Source: source, Target: dest, Switch: failing, Switched: func(context.Context) (bool, error) {
			if asked++; asked < 3 {
				return false, lost
			}
			return true, nil
		}})
		if err != nil {
			t.Error(err)
		}
		checkServed(t, dest)
	})
	t.Run("it did not", func(t *testing.T) {
		t.Parallel()
		source, dest := twoHouses(t)
		if err := run(t, transfer.Move{Source: source, Target: dest, Switch: failing}); !errors.Is(err, lost) {
			t.Error(err)
		}
		checkServed(t, source)
	})
	t.Run("nobody knows", func(t *testing.T) {
		t.Parallel()
		source, dest := twoHouses(t)
		m := transfer.Move{Source: source, Target: dest, Switch: failing, Switched: func(context.Context) (bool, error) { return false, lost }}
		if err := run(t, m); !errors.Is(err, transfer.ErrUnsettled) {
			t.Error(err)
		}
		if read[bool](t, source, "SELECT to_regnamespace('"+source.Schema+"') IS NOT NULL") {
			t.Error("the source is served, and the target may be")
		}
		if err := m.Run(t.Context()); !errors.Is(err, transfer.ErrLeftover) {
			t.Errorf("moved on top of it: %v", err)
		}
		for range 2 {
			if err := m.Finish(t.Context()); err != nil {
				t.Error(err)
			}
		}
		checkServed(t, dest)
	})
}

// What differs is found, whenever it came to differ, and the tenant stays where it was.
func TestMoveComparesRows(t *testing.T) {
	t.Parallel()
	source, dest := twoHouses(t)
	fill(t, source, 10)
	for _, test := range []struct {
		name             string
		step             transfer.Step
		atTarget, change string
	}{
		{"a row is another one", transfer.StepCatchUp, "UPDATE customers SET name = 'Eve' WHERE id = 3", ""},
		{"a row is missing", transfer.StepCompare, "DELETE FROM payments WHERE id = 1", ""},
		{"a row is carried over as another one", transfer.StepHold,
			"CREATE FUNCTION forge() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.name := ''Eve''; RETURN NEW; END';" +
				"CREATE TRIGGER forge BEFORE INSERT ON customers FOR EACH ROW EXECUTE FUNCTION forge()",
			"UPDATE customers SET name = 'Zoe' WHERE id = 3"},
	} {
		err := run(t, transfer.Move{Source: source, Target: dest, Switch: done, Before: func(_ context.Context, step transfer.Step) error {
			if step == test.step {
				mustExec(t, dest, test.atTarget)
				mustExec(t, source, test.change)
			}
			return nil
		}})
		if !errors.Is(err, transfer.ErrDiffers) {
			t.Errorf("%s: %v", test.name, err)
		}
		checkServed(t, source)
		empty(t, dest)
	}
}

// While a tenant is moved no migration begins and nobody else moves or exports it.
func TestMoveKeepsOthersOut(t *testing.T) {
	t.Parallel()
	source, dest := twoHouses(t)
	looked := false
	err := run(t, transfer.Move{Source: source, Target: dest, Switch: done, Before: func(ctx context.Context, step transfer.Step) error {
		if step != transfer.StepCopy {
			return nil
		}
		looked = true
		return pgx.BeginFunc(ctx, connect(t, source), func(tx pgx.Tx) error {
			standing, err := migrate.New(productSet(t), migrate.Config{}).Standing(ctx, tx, source.Schema)
			if err != nil || standing != migrate.Busy {
				t.Errorf("a migration finds the schema %s: %v", standing, err)
			}
			return nil
		})
	}})
	if err != nil || !looked {
		t.Fatal(err)
	}
	full := dest
	full.Logins = nil
	if err := (transfer.Move{Source: dest, Target: full, Switch: done}).Run(t.Context()); !errors.Is(err, transfer.ErrNotEmpty) {
		t.Errorf("moved onto itself: %v", err)
	}
}
