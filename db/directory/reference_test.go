package directory

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/leasehold-go/leasehold/db/migrate"
)

func TestAReferenceIsLikeATenantAndIsNone(t *testing.T) {
	t.Parallel()
	url := registryURL(t)
	cfg := keeping(t, url, 1)
	d, admin := openDirectory(t, cfg), connectTo(t, url)
	acme := mustCreate(t, d, "acme")
	mustFill(t, d, 1)
	cfg.SecretKey = nil // a command that only looks has none
	target, drop, err := openDirectory(t, cfg).Reference(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := rightsIn(t, admin, acme.Placement.Schema, acme.Placement.Role)
	got := rightsIn(t, admin, target.Schema, target.Role) + "\nmember " + d.loginName(0) + " false"
	if diff := cmp.Diff(sortedLines(want), sortedLines(got)); diff != "" {
		t.Errorf("rights but for the membership (-tenant +reference):\n%s", diff)
	}
	statuses, err := d.cfg.Migrator.Status(t.Context(), []migrate.Target{target})
	if err != nil || len(statuses[0].Pending) != 0 || len(statuses[0].Applied) == 0 {
		t.Errorf("Status = %+v, %v", statuses, err)
	}
	if got := memberships(t, d, admin); got[0] != 2 {
		t.Errorf("memberships by login: %v, want those of the tenant and the spare", got)
	}

	row := listSpares(t, admin)[1]
	if row.State != stateReference || row.SchemaName != target.Schema {
		t.Fatalf("the row is %+v", row)
	}
	for name, targets := range map[string]func(context.Context) ([]migrate.Target, error){"Targets": d.Targets, "SpareTargets": d.SpareTargets} {
		if list, err := targets(t.Context()); err != nil || len(list) != 1 || list[0].Schema == target.Schema {
			t.Errorf("%s = %+v, %v", name, list, err)
		}
	}
	if n, err := d.Sweep(t.Context()); n != 0 || err != nil {
		t.Errorf("Sweep while it is in use = %d, %v, want 0", n, err)
	}
	mustFill(t, d, 0)
	mustCreate(t, d, "globex")
	if built := mustCreate(t, d, "initech"); built.ID == row.ID {
		t.Error("the reference has become a tenant")
	}
	if err := drop(t.Context()); err != nil {
		t.Errorf("drop: %v", err)
	}
	wantGone(t, admin, row)
	if rows := listSpares(t, admin); len(rows) != 0 {
		t.Errorf("rows are left: %+v", rows)
	}
}

// sortedLines sorts the lines of s.
func sortedLines(s string) string {
	return strings.Join(slices.Sorted(strings.SplitSeq(s, "\n")), "\n")
}

func TestAReferenceThatCannotBeMadeLeavesNothing(t *testing.T) {
	t.Parallel()
	url := registryURL(t)
	admin := connectTo(t, url)
	_, drop, err := openDirectory(t, keeping(t, url, 0, "SELECT 1 / 0;")).Reference(t.Context())
	if _, ok := errors.AsType[*migrate.Error](err); !ok || drop != nil || sqlState(err) != "22012" {
		t.Errorf("Reference: %v, want a division by zero", err)
	}
	wantNothingLeft(t, url)
	if rows := listSpares(t, admin); len(rows) != 0 {
		t.Errorf("rows are left: %+v", rows)
	}
	cfg := configOf(t, url)
	cfg.Migrator = nil
	if _, _, err := openDirectory(t, cfg).Reference(t.Context()); err == nil {
		t.Error("Reference succeeds without a migrator")
	}

	holdLock(t, url)
	d := openDirectory(t, keeping(t, url, 0, waitingSQL))
	ctx, cancel := context.WithCancel(t.Context())
	outcome := make(chan error, 1)
	go func() {
		_, _, err := d.Reference(ctx)
		outcome <- err
	}()
	waitUntilMigrating(t, url)
	cancel()
	if err := <-outcome; !errors.Is(err, context.Canceled) {
		t.Errorf("Reference: %v, want %v", err, context.Canceled)
	}
	if rows := listSpares(t, admin); len(rows) != 0 {
		t.Errorf("rows are left: %+v", rows)
	}
	wantNothingLeft(t, url)
}

func TestAReferenceWhoseMakerIsGoneIsRemoved(t *testing.T) {
	t.Parallel()
	for name, remove := range map[string]func(context.Context, *Directory) (int, error){
		"by a sweep":   func(ctx context.Context, d *Directory) (int, error) { return d.Sweep(ctx) },
		"by a filling": func(ctx context.Context, d *Directory) (int, error) { return d.FillSpares(ctx) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := registryURL(t)
			d, admin := openDirectory(t, configOf(t, url)), connectTo(t, url)
			killInTheMiddle(t, url, "reference")
			row := listSpares(t, admin)[0]
			// The server frees the lock when it notices that the process is gone.
			waitFor(t, "the reference is gone", func() bool {
				if _, err := remove(t.Context(), d); err != nil {
					t.Fatal(err)
				}
				return len(listSpares(t, admin)) == 0
			})
			wantGone(t, admin, row)
			if n, err := d.Sweep(t.Context()); n != 0 || err != nil {
				t.Errorf("Sweep again = %d, %v, want 0", n, err)
			}
		})
	}
	t.Run("its connection, but not its process", func(t *testing.T) {
		t.Parallel()
		url := registryURL(t)
		d, admin := openDirectory(t, configOf(t, url)), connectTo(t, url)
		_, drop, err := d.Reference(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		row := listSpares(t, admin)[0]
		terminate(t, url, creatorOf(t, admin, row.ID))
		if err := drop(t.Context()); err == nil {
			t.Error("the lost connection was not noticed")
		}
		if n, err := d.Sweep(t.Context()); n != 1 || err != nil {
			t.Errorf("Sweep = %d, %v, want 1", n, err)
		}
		wantGone(t, admin, row)
	})
}
