package directory

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/leasehold-go/leasehold/db/tenant"
)

// replicas opens two Directories over one registry, as two processes have them.
func replicas(tb testing.TB) (a, b *Directory, url string) {
	tb.Helper()
	a, url = newDirectory(tb)
	return a, openDirectory(tb, configOf(tb, url)), url
}

// waitForStatus waits until a Directory that has heard of a change answers with it.
func waitForStatus(tb testing.TB, d *Directory, slug tenant.Slug, want tenant.Status) {
	tb.Helper()
	waitFor(tb, string(slug)+" is "+string(want), func() bool {
		t, err := d.Resolve(tb.Context(), slug)
		return err == nil && t.Status == want
	})
}

func waitForMove(tb testing.TB, d *Directory, from, to tenant.Slug) {
	tb.Helper()
	waitFor(tb, string(from)+" leads to "+string(to), func() bool {
		_, err := d.Resolve(tb.Context(), from)
		moved, ok := errors.AsType[*tenant.MovedError](err)
		return ok && moved.From == from && moved.To == to
	})
}

func waitForNobody(tb testing.TB, d *Directory, slug tenant.Slug) {
	tb.Helper()
	waitFor(tb, string(slug)+" is nobody", func() bool {
		_, err := d.Resolve(tb.Context(), slug)
		_, moved := errors.AsType[*tenant.MovedError](err)
		return errors.Is(err, tenant.ErrNotFound) && !moved
	})
}

func wantStatusError(tb testing.TB, err error, want StatusError) {
	tb.Helper()
	got, ok := errors.AsType[*StatusError](err)
	if !ok {
		tb.Fatalf("error = %v, want %v", err, &want)
	}
	if diff := cmp.Diff(want, *got); diff != "" {
		tb.Error(diff)
	}
}

// The life of a tenant as its operator sees it, with another process that serves it.
func TestATenantsLife(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	here, there, url := replicas(t)
	created := mustCreate(t, here, "acme")
	waitForStatus(t, there, "acme", tenant.Active)

	suspended, err := here.Suspend(ctx, created.ID, "unpaid")
	if err != nil || suspended.Status != tenant.Suspended || suspended.Generation <= created.Generation {
		t.Fatalf("Suspend: %+v, %v", suspended, err)
	}
	waitForStatus(t, there, "acme", tenant.Suspended)
	if again, err := there.Suspend(ctx, created.ID, "unpaid still"); err != nil || again.Generation != suspended.Generation {
		t.Errorf("Suspend again: %+v, %v", again, err)
	}
	if _, err := there.Resume(ctx, created.ID, "paid"); err != nil {
		t.Fatal(err)
	}
	waitForStatus(t, here, "acme", tenant.Active)
	if _, err := there.Resume(ctx, created.ID, ""); err != nil {
		t.Fatal(err)
	}

	renamed, err := here.Rename(ctx, created.ID, "acme-ltd", DefaultKeepSlug)
	if err != nil || renamed.Slug != "acme-ltd" || renamed.Placement != created.Placement {
		t.Fatalf("Rename: %+v, %v", renamed, err)
	}
	waitForMove(t, there, "acme", "acme-ltd")

	deletion, err := here.Delete(ctx, created.ID, DeleteOptions{})
	if err != nil || deletion.Tenant.Status != tenant.Deleting || deletion.Due {
		t.Fatalf("Delete: %+v, %v", deletion, err)
	}
	if left := time.Until(deletion.After); left < DefaultDeleteGrace-time.Hour || left > DefaultDeleteGrace+time.Hour {
		t.Errorf("the grace is %v", left)
	}
	waitForStatus(t, there, "acme-ltd", tenant.Deleting)
	if purged, err := here.Purge(ctx); err != nil || len(purged) > 0 {
		t.Errorf("Purge within the grace: %v, %v", purged, err)
	}
	if kept, err := there.CancelDelete(ctx, created.ID); err != nil || kept.Status != tenant.Active {
		t.Fatalf("CancelDelete: %+v, %v", kept, err)
	}
	waitForStatus(t, here, "acme-ltd", tenant.Active)

	if _, err := here.Delete(ctx, created.ID, DeleteOptions{Now: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := here.Create(ctx, company("acme-ltd")); !errors.Is(err, ErrSlugTaken) {
		t.Errorf("Create of the slug of one that is being deleted: %v", err)
	}
	purged, err := there.Purge(ctx)
	if err != nil || len(purged) != 1 || purged[0].ID != created.ID || purged[0].Status != tenant.Deleted {
		t.Fatalf("Purge: %+v, %v", purged, err)
	}
	waitForNobody(t, here, "acme-ltd")
	waitForNobody(t, here, "acme")
	wantNothingLeft(t, url)

	record, err := here.ByID(ctx, created.ID)
	if err != nil || record.Status != tenant.Deleted {
		t.Fatalf("ByID: %+v, %v", record, err)
	}
	for _, known := range []string{created.Company, created.ContactName, created.ContactEmail} {
		if slices.Contains([]string{record.Company, record.ContactName, record.ContactEmail}, known) {
			t.Errorf("%q is still known", known)
		}
	}
	want := []EventKind{
		EventStarted, EventHoused, EventMigrated, EventActivated, EventSuspended, EventResumed, EventRenamed, EventDeleteStarted,
		EventDeleteCancelled, EventDeleteStarted, EventPurgeStarted, EventPurged,
	}
	if diff := cmp.Diff(want, kinds(t, here, created.ID)); diff != "" {
		t.Error(diff)
	}
	events, err := here.Events(ctx, created.ID)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range events {
		if strings.Contains(e.Detail, created.ContactEmail) || strings.Contains(e.Detail, created.Company) {
			t.Errorf("the event log knows a person: %+v", e)
		}
	}
	// Both names are free, and what comes is another tenant.
	for _, name := range []string{"acme", "acme-ltd"} {
		if next := mustCreate(t, here, name); next.ID == created.ID {
			t.Error("an id was used twice")
		}
	}
}

func TestATenantThatWasSuspendedIsSuspendedAfterItsDeletionIsCancelled(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	d, _ := newDirectory(t)
	acme := mustCreate(t, d, "acme")
	if _, err := d.Suspend(ctx, acme.ID, ""); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second sets another time only
		if _, err := d.Delete(ctx, acme.ID, DeleteOptions{Grace: time.Hour}); err != nil {
			t.Fatal(err)
		}
	}
	targets, err := d.Targets(ctx)
	if err != nil || len(targets) != 1 {
		t.Errorf("what may come back is not migrated: %v, %v", targets, err)
	}
	for range 2 {
		if kept, err := d.CancelDelete(ctx, acme.ID); err != nil || kept.Status != tenant.Suspended {
			t.Errorf("CancelDelete: %+v, %v", kept, err)
		}
	}
	if deletions, err := d.Deletions(ctx); err != nil || len(deletions) > 0 {
		t.Errorf("Deletions: %v, %v", deletions, err)
	}
}

func TestWhatAStatusDoesNotAllowIsRefused(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	d, url := newDirectory(t)
	acme := mustCreate(t, d, "acme")
	conn := connectTo(t, url)
	actions := map[string]func(context.Context, tenant.ID) error{
		"suspended": func(ctx context.Context, id tenant.ID) error { _, err := d.Suspend(ctx, id, ""); return err },
		"resumed":   func(ctx context.Context, id tenant.ID) error { _, err := d.Resume(ctx, id, ""); return err },
		"renamed":   func(ctx context.Context, id tenant.ID) error { _, err := d.Rename(ctx, id, "other", 0); return err },
		"deleted": func(ctx context.Context, id tenant.ID) error {
			_, err := d.Delete(ctx, id, DeleteOptions{})
			return err
		},
		"kept": func(ctx context.Context, id tenant.ID) error { _, err := d.CancelDelete(ctx, id); return err },
		"given a domain": func(ctx context.Context, id tenant.ID) error {
			_, err := d.AddDomain(ctx, id, "acme.example")
			return err
		},
	}
	for _, tc := range []struct {
		set     string
		status  tenant.Status
		purging bool
		allowed []string
	}{
		{"status = 'provisioning'", tenant.Provisioning, false, nil},
		{"status = 'failed'", tenant.Failed, false, nil},
		{"status = 'deleted'", tenant.Deleted, false, nil},
		{"status = 'deleting', delete_after = now(), purging = true", tenant.Deleting, true, nil},
		{"purging = false", tenant.Deleting, false, []string{"deleted", "kept"}},
	} {
		mustExec(t, conn, "UPDATE tenants SET "+tc.set+" WHERE id = $1", acme.ID)
		for action, do := range actions {
			if !slices.Contains(tc.allowed, action) {
				wantStatusError(t, do(ctx, acme.ID), StatusError{Action: action, Status: tc.status, Purging: tc.purging})
			}
		}
	}
	for action, do := range actions {
		if err := do(ctx, tenant.ID{1}); !errors.Is(err, tenant.ErrNotFound) {
			t.Errorf("%s, of nobody: %v", action, err)
		}
	}
	for _, opts := range []DeleteOptions{{Grace: -1}, {Now: true, Grace: 1}} {
		if _, err := d.Delete(ctx, acme.ID, opts); err == nil {
			t.Errorf("Delete with %+v", opts)
		}
	}
	if _, err := d.Rename(ctx, acme.ID, "other", -1); err == nil {
		t.Error("Rename kept the slug for less than no time")
	}
}

func TestOfTwoWhoRenameToOneSlugOneWins(t *testing.T) {
	t.Parallel()
	a, b, url := replicas(t)
	acme, globex := mustCreate(t, a, "acme"), mustCreate(t, a, "globex")
	conn := connectTo(t, url)
	for round := range 10 {
		name := "prize" + string(rune('a'+round))
		errs := make([]error, 3)
		var wg sync.WaitGroup
		wg.Go(func() { _, errs[0] = a.Rename(t.Context(), acme.ID, name, time.Hour) })
		wg.Go(func() { _, errs[1] = b.Rename(t.Context(), globex.ID, name, time.Hour) })
		wg.Go(func() { _, errs[2] = b.Create(t.Context(), company(name)) })
		wg.Wait()
		won := 0
		for _, err := range errs {
			if err == nil {
				won++
			} else if !errors.Is(err, ErrSlugTaken) {
				t.Fatal(err)
			}
		}
		if living := query[int](t, conn, `SELECT count(*) FROM tenants WHERE slug = $1 AND status = 'active'`, name); won != 1 || living != 1 {
			t.Fatalf("round %d: %d won, %d have the slug: %v", round, won, living, errs)
		}
	}
}

// Whoever waits for the old slug while it is given up must not get it.
func TestAFormerSlugIsKept(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	a, b, url := replicas(t)
	acme, globex := mustCreate(t, a, "acme"), mustCreate(t, a, "globex")
	from, to := tenant.Slug("acme"), tenant.Slug("acme-2")
	for range 10 {
		var createErr, renameErr, err error
		var wg sync.WaitGroup
		wg.Go(func() { _, err = a.Rename(ctx, acme.ID, string(to), time.Hour) })
		wg.Go(func() { _, createErr = b.Create(ctx, company(string(from))) })
		wg.Go(func() { _, renameErr = b.Rename(ctx, globex.ID, string(from), time.Hour) })
		wg.Wait()
		if err != nil || !errors.Is(createErr, ErrSlugTaken) || !errors.Is(renameErr, ErrSlugTaken) {
			t.Fatalf("rename: %v; create of the former slug: %v; rename to it: %v", err, createErr, renameErr)
		}
		waitForMove(t, b, from, to)
		from, to = to, from // the tenant itself can have it back
	}
	waitForStatus(t, b, from, tenant.Active)

	// All slugs that it had lead to the one that it has.
	for _, name := range []string{"acme-3", "acme-4"} {
		if _, err := b.Rename(ctx, acme.ID, name, time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	for _, old := range []tenant.Slug{"acme", "acme-2", "acme-3"} {
		waitForMove(t, a, old, "acme-4")
		if _, err := a.BySlug(ctx, old); !errors.Is(err, tenant.ErrNotFound) {
			t.Errorf("BySlug(%s): %v", old, err)
		}
	}

	// When the time is over the slug is anybody's, and a purge forgets it for those who remember.
	conn := connectTo(t, url)
	if _, err := conn.Exec(ctx, `ALTER TABLE former_slugs DISABLE TRIGGER former_slugs_changed`); err != nil {
		t.Fatal(err)
	}
	mustExec(t, conn, `UPDATE former_slugs SET until = now() - interval '1 second' WHERE slug <> 'acme-3'`)
	mustExec(t, conn, `ALTER TABLE former_slugs ENABLE TRIGGER former_slugs_changed`)
	if _, err := b.Rename(ctx, globex.ID, "acme-2", time.Hour); err != nil {
		t.Fatal(err)
	}
	waitForStatus(t, a, "acme-2", tenant.Active)
	if _, err := a.Purge(ctx); err != nil {
		t.Fatal(err)
	}
	waitForNobody(t, b, "acme")
	waitForMove(t, b, "acme-3", "acme-4")
	// One that is kept no longer than the rename itself.
	if _, err := b.Rename(ctx, globex.ID, "hooli", 0); err != nil {
		t.Fatal(err)
	}
	waitForNobody(t, a, "acme-2")
	if _, err := a.Rename(ctx, globex.ID, "www", 0); err == nil {
		t.Error("a reserved slug was taken")
	}
	if same, err := a.Rename(ctx, globex.ID, " HOOLI ", 0); err != nil || same.Slug != "hooli" {
		t.Errorf("Rename to the same: %+v, %v", same, err)
	}
}

// Not parallel: testing.AllocsPerRun counts for the whole process.
func TestResolveOfAFormerSlugDoesNotAllocate(t *testing.T) {
	d, _ := newDirectory(t)
	acme := mustCreate(t, d, "acme")
	if _, err := d.Rename(t.Context(), acme.ID, "globex", time.Hour); err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	allocs := testing.AllocsPerRun(100, func() {
		if _, err := d.Resolve(ctx, "acme"); err == nil {
			t.Fatal("a former slug has a tenant")
		}
	})
	if allocs > 0 {
		t.Errorf("%v allocations", allocs)
	}
}
