package tenanttest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"

	"github.com/leasehold-go/leasehold/db/tenant"
)

// Isolation runs the suite with a subtest for each case. The subtests are named as the cases of a Leak are, and share the rows
// that they write, so they run one after the other; each also runs alone. Isolation itself may run in parallel with other tests,
// on tenants of its own.
func Isolation[D DBTX](t *testing.T, target Target[D]) {
	t.Helper()
	s, err := newSuite(target)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range s.cases() {
		t.Run(c.name, func(t *testing.T) {
			t.Helper()
			for _, err := range s.run(t.Context(), c) {
				t.Error(err)
			}
		})
		if s.stopped.Load() {
			t.Fatal("tenanttest: nothing more was tried")
		}
	}
}

// Check runs the suite and returns what it finds, joined: each error is a *Leak, a *Lost or a *Failure. It returns nil if there
// is nothing, and the error of ctx if that ends first. An error of another kind says what is wrong with the target.
func Check[D DBTX](ctx context.Context, target Target[D]) error {
	s, err := newSuite(target)
	if err != nil {
		return err
	}
	var found []error
	for _, c := range s.cases() {
		found = append(found, s.run(ctx, c)...)
	}
	return errors.Join(append(found, ctx.Err())...)
}

// suite is what the cases share.
type suite[D DBTX] struct {
	target Target[D]
	books  *books
	ghosts []*tenant.Tenant
	// settings are the names of those that belong to a tenant.
	settings []string
	parts    []part
	scopes   []scope // by tenant; nil until they are learned
	settles  atomic.Int64
	// stopped says that a call has hung or that a tenant cannot be reached at all: no more is tried.
	stopped atomic.Bool
}

func newSuite[D DBTX](target Target[D]) (*suite[D], error) {
	target = target.withDefaults()
	if err := target.validate(); err != nil {
		return nil, err
	}
	ghosts, err := newGhosts(target.Tenants[0])
	if err != nil {
		return nil, err
	}
	settings := slices.Sorted(maps.Keys(target.Settings(target.Tenants[0])))
	return &suite[D]{
		target: target, ghosts: ghosts, settings: settings, parts: parts(settings, target.Settings),
		books: newBooks(len(target.Tenants) + 1), // the last owner is whoever does not exist
	}, nil
}

// newGhosts returns tenants that do not exist: one of which nothing is there, and one whose role is there but not its schema.
func newGhosts(like *tenant.Tenant) ([]*tenant.Tenant, error) {
	var ghosts []*tenant.Tenant
	for range 2 {
		id, err := uuid.NewV7()
		if err != nil {
			return nil, fmt.Errorf("tenanttest: %w", err)
		}
		ghost := *like
		ghost.ID, ghost.Slug = tenant.ID(id), "ghost"
		names := tenant.NewPlacement(ghost.ID, ghost.Slug, like.Placement.Cluster, like.Placement.Database)
		ghost.Placement.Schema, ghost.Placement.Role = names.Schema, names.Role
		ghosts = append(ghosts, &ghost)
	}
	ghosts[1].Placement.Role = like.Placement.Role
	return ghosts, nil
}

// testCase is one case; what it finds goes into its trial.
type testCase[D DBTX] struct {
	name string
	run  func(*trial[D], context.Context)
}

// cases returns the cases that apply to the target, in the order in which they run.
func (s *suite[D]) cases() []testCase[D] {
	list := []testCase[D]{
		{"own rows", (*trial[D]).ownRows},
		{"no tenant", (*trial[D]).noTenant},
		{"in turn", (*trial[D]).inTurn},
		{"in step", (*trial[D]).inStep},
		{"nested", (*trial[D]).nested},
		{"equal keys", (*trial[D]).equalKeys},
		{"qualified names", (*trial[D]).qualifiedNames},
		{"at once", (*trial[D]).atOnce},
		{"errors", (*trial[D]).errors},
		{"unread results", (*trial[D]).unreadResults},
		{"slow results", (*trial[D]).slowResults},
		{"batches", (*trial[D]).batches},
		{"panics", (*trial[D]).panics},
		{"cancels", (*trial[D]).cancels},
		{"missing tenants", (*trial[D]).missingTenants},
		{"leftovers", (*trial[D]).leftovers},
		{"all rows", (*trial[D]).allRows},
	}
	absent := map[string]bool{
		"no tenant":       s.target.NoTenant == nil,
		"in step":         s.target.Conns < 2,
		"nested":          s.target.Conns < 2,
		"equal keys":      s.target.Get == nil,
		"qualified names": s.target.Reach == nil,
		"batches":         !reflect.TypeFor[D]().Implements(reflect.TypeFor[batcher]()),
	}
	return slices.DeleteFunc(list, func(c testCase[D]) bool { return absent[c.name] })
}

// run runs one case and returns what it found.
func (s *suite[D]) run(ctx context.Context, c testCase[D]) []error {
	t := &trial[D]{suite: s, name: c.name}
	if s.scopes == nil && !s.stopped.Load() {
		t.learn(ctx)
	}
	if !s.stopped.Load() && ctx.Err() == nil {
		c.run(t, ctx)
	}
	return t.found.all()
}
