package migrate_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/leasehold-go/leasehold/db/migrate"
)

// Who asks is told how far each target is, once, before anything is changed.
func TestSurveyed(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	if _, err := migrate.New(load(t, product()), migrate.Config{}).Apply(t.Context(), f.targets[0]); err != nil {
		t.Fatal(err)
	}
	m := migrate.New(load(t, product()), migrate.Config{})
	want, err := m.Status(t.Context(), f.targets)
	if err != nil {
		t.Fatal(err)
	}
	var told [][]migrate.TargetStatus
	_, err = m.Up(t.Context(), f.targets, migrate.Options{
		Surveyed: func(statuses []migrate.TargetStatus) { told = append(told, statuses) },
		Progress: func(migrate.Result) {
			if len(told) != 1 {
				t.Error("a target was finished before the survey was told")
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([][]migrate.TargetStatus{want}, told); diff != "" {
		t.Error(diff)
	}
}
