package directory

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/db/tenantdb"
	"github.com/leasehold-go/leasehold/internal/pgdump"
	"github.com/leasehold-go/leasehold/internal/pgserver"
	"github.com/leasehold-go/leasehold/internal/pgtest"
	"github.com/leasehold-go/leasehold/internal/transfer"
)

// openMovingDB opens the data layer as a server does whose tenants may be moved.
func openMovingDB(tb testing.TB, d *Directory) *tenantdb.DB {
	tb.Helper()
	db, err := tenantdb.Open(tb.Context(), tenantdb.Config{
		ConnConfig: mustRuntimeConn(tb, d), Login: d.LoginConn, Refresh: d.Await, MaxConns: 4,
	})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(db.Close)
	return db
}

// skipWithoutDump ends a test where there is no pg_dump at all, as with a server that was fetched; CI has one.
func skipWithoutDump(tb testing.TB, err error) {
	tb.Helper()
	if errors.Is(err, pgdump.ErrNoProgram) && os.Getenv("CI") == "" {
		tb.Skip(err)
	}
}

// moved moves a tenant.
func moved(tb testing.TB, d *Directory, id tenant.ID, opts MoveOptions) (*tenant.Tenant, error) {
	tb.Helper()
	t, err := d.Move(tb.Context(), id, opts)
	skipWithoutDump(tb, err)
	if t != nil {
		dropAtEnd(tb, t)
	}
	return t, err
}

// writer adds notes to a tenant and keeps which of them were acknowledged.
type writer struct {
	calls atomic.Int64
	mu    sync.Mutex
	acked []string
}

// write works until the returned function is called, which ends the test if a call has failed. Each request resolves the tenant.
func write(tb testing.TB, d *Directory, db *tenantdb.DB, slug tenant.Slug) (w *writer, stop func()) {
	tb.Helper()
	w = &writer{}
	ctx, cancel := context.WithCancel(tb.Context())
	var working sync.WaitGroup
	working.Go(func() {
		for n := 0; ctx.Err() == nil; n++ {
			body := fmt.Sprintf("note %d", n)
			err := func() error {
				t, err := d.Resolve(ctx, slug)
				if err != nil {
					return err
				}
				_, err = db.Exec(tenant.NewContext(ctx, t), "INSERT INTO notes (body) VALUES ($1)", body)
				return err
			}()
			if err != nil {
				if ctx.Err() == nil {
					tb.Errorf("%s: %v", body, err)
				}
				return
			}
			w.mu.Lock()
			w.acked = append(w.acked, body)
			w.mu.Unlock()
			w.calls.Add(1)
		}
	})
	stop = sync.OnceFunc(func() {
		cancel()
		working.Wait()
	})
	tb.Cleanup(stop)
	return w, stop
}

func (w *writer) await(tb testing.TB, n int64) {
	tb.Helper()
	until := w.calls.Load() + n
	waitFor(tb, "the tenant is served", func() bool { return w.calls.Load() >= until })
}

// check checks that all that was acknowledged is there.
func (w *writer) check(tb testing.TB, db *tenantdb.DB, t *tenant.Tenant) {
	tb.Helper()
	w.mu.Lock()
	acked := slices.Clone(w.acked)
	w.mu.Unlock()
	rows, err := db.For(t).Query(tb.Context(), "SELECT body FROM notes")
	if err != nil {
		tb.Fatal(err)
	}
	there := map[string]bool{}
	var body string
	for rows.Next() {
		if err := rows.Scan(&body); err != nil {
			tb.Fatal(err)
		}
		there[body] = true
	}
	if err := rows.Err(); err != nil {
		tb.Fatal(err)
	}
	for _, note := range acked {
		if !there[note] {
			tb.Errorf("%s was acknowledged and is lost", note)
		}
	}
}

// A tenant goes into a database of its own, to another server, there out of its database, and back, while it is used. Nothing of it is left
// where it was.
func TestMoveThere(t *testing.T) {
	t.Parallel()
	d, url := newDirectory(t)
	other := pgtest.Start(t, pgserver.Config{})
	otherURL := other.URL(pgserver.Administrator, pgserver.Database)
	mustAddCluster(t, d, NewCluster{Name: "east", URL: otherURL})
	acme, beta := mustCreate(t, d, "roaming"), mustCreate(t, d, "beta")
	db := openMovingDB(t, d)
	wantServed(t, db, beta)
	w, stop := write(t, d, db, "roaming")
	at := acme
	for _, opts := range []MoveOptions{
		{Strategy: tenant.DatabaseStrategy},
		{Cluster: "east"},
		{Strategy: tenant.SchemaStrategy},
		{Cluster: tenant.DefaultCluster},
	} {
		w.await(t, 10)
		was := at
		var err error
		if at, err = moved(t, d, acme.ID, opts); err != nil {
			t.Fatalf("%+v: %v", opts, err)
		}
		w.await(t, 10)
		if at.Placement == was.Placement || at.Placement.Schema != was.Placement.Schema || at.Generation <= was.Generation {
			t.Errorf("from %+v to %+v", was.Placement, at.Placement)
		}
		if _, err := moved(t, d, acme.ID, MoveOptions{Cluster: was.Placement.Cluster, Strategy: was.Placement.Strategy}); !errors.Is(err, ErrUnconfirmed) {
			t.Errorf("moved again: %v", err)
		}
		if err := d.ConfirmMove(t.Context(), acme.ID); err != nil {
			t.Fatal(err)
		}
		if err := d.ConfirmMove(t.Context(), acme.ID); !errors.Is(err, ErrNoMove) {
			t.Errorf("confirmed again: %v", err)
		}
		w.check(t, db, at)
	}
	stop()
	w.check(t, db, at)
	wantServed(t, db, beta)
	wantNoTraces(t, d, pgtest.Connect(t, otherURL), beta)
	conn := connectTo(t, url)
	if left := query[[]string](t, conn, `SELECT coalesce(array_agg(nspname::text), '{}') FROM pg_namespace WHERE nspname ~ '^[fmo]_'`); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if n := query[int](t, conn, "SELECT count(*) FROM pg_database WHERE datname LIKE 'roaming%'"); n != 0 {
		t.Errorf("%d databases are left", n)
	}
	got := slices.DeleteFunc(kinds(t, d, acme.ID), func(k EventKind) bool { return k != EventMoveSwitched && k != EventMoveConfirmed })
	if diff := cmp.Diff(slices.Repeat([]EventKind{EventMoveSwitched, EventMoveConfirmed}, 4), got); diff != "" {
		t.Error(diff)
	}
}

// Between two clusters on one server role and login are the same at both places.
func TestMoveOnOneServer(t *testing.T) {
	t.Parallel()
	d, _ := newDirectory(t)
	mustAddCluster(t, d, NewCluster{Name: "next", URL: pgtest.Database(t)})
	for name, n := range map[string]NewTenant{"by schema": company("acme"), "by database": withDatabase("beta")} {
		t.Run(name, func(t *testing.T) {
			created := mustHouse(t, d, on(tenant.DefaultCluster, n))
			db := openMovingDB(t, d)
			w, stop := write(t, d, db, created.Slug)
			w.await(t, 5)
			there, err := moved(t, d, created.ID, MoveOptions{Cluster: "next"})
			if err != nil {
				t.Fatal(err)
			}
			w.await(t, 5)
			switch moves, err := d.Moves(t.Context()); {
			case err != nil || len(moves) != 1:
				t.Errorf("%d moves: %v", len(moves), err)
			case moves[0].State != MoveUnconfirmed || moves[0].Tenant.ID != created.ID || moves[0].SwitchedAt.Before(moves[0].StartedAt):
				t.Errorf("the move is %+v", moves[0])
			case moves[0].From != created.Placement || moves[0].To != there.Placement:
				t.Errorf("from %+v to %+v, want from %+v to %+v", moves[0].From, moves[0].To, created.Placement, there.Placement)
			}
			// The record of before leads to the new place, too.
			if _, err := db.For(created).Exec(t.Context(), "INSERT INTO notes (body) VALUES ('late')"); err != nil {
				t.Error(err)
			}
			if err := d.ConfirmMove(t.Context(), created.ID); err != nil {
				t.Fatal(err)
			}
			if moves, err := d.Moves(t.Context()); len(moves) != 0 || err != nil {
				t.Errorf("moves after the confirmation: %+v, %v", moves, err)
			}
			w.await(t, 5)
			stop()
			w.check(t, db, there)
		})
	}
}

// A tenant that is deleted takes its old copy with it.
func TestPurgeAfterAMove(t *testing.T) {
	t.Parallel()
	d, url := newDirectory(t)
	gone := mustCreate(t, d, "gone")
	if _, err := moved(t, d, gone.ID, MoveOptions{Strategy: tenant.DatabaseStrategy}); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Delete(t.Context(), gone.ID, DeleteOptions{Now: true}); err != nil {
		t.Fatal(err)
	}
	if purged, err := d.Purge(t.Context()); err != nil || len(purged) != 1 {
		t.Errorf("purged %v: %v", purged, err)
	}
	conn := connectTo(t, url)
	wantNoTraces(t, d, conn)
	if left := query[[]string](t, conn, `SELECT coalesce(array_agg(nspname::text), '{}') FROM pg_namespace WHERE nspname ~ '^[fmo]_'`); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// A move that is refused, cancelled or fails leaves nothing.
func TestMoveRefused(t *testing.T) {
	t.Parallel()
	d, url := newDirectory(t)
	mustAddCluster(t, d, NewCluster{Name: "citus", URL: pgtest.Database(t)})
	mustExec(t, connectTo(t, url), "UPDATE clusters SET kind = 'citus' WHERE name = 'citus'")
	acme, err := d.Create(t.Context(), on(tenant.DefaultCluster, company("refused")))
	if err != nil {
		t.Fatal(err)
	}
	db := openMovingDB(t, d)
	cancelled := MoveOptions{Strategy: tenant.DatabaseStrategy}
	cancelled.before = func(step transfer.Step) {
		switch step {
		case transfer.StepCapture:
			if _, err := d.Move(t.Context(), acme.ID, cancelled); !errors.Is(err, ErrMoving) {
				t.Errorf("moved by two: %v", err)
			}
			if err := d.ConfirmMove(t.Context(), acme.ID); !errors.Is(err, ErrMoving) {
				t.Errorf("confirmed: %v", err)
			}
		case transfer.StepSwitch:
			if err := d.CancelMove(t.Context(), acme.ID); err != nil {
				t.Error(err)
			}
		}
	}
	deleted := MoveOptions{Strategy: tenant.DatabaseStrategy}
	deleted.before = func(step transfer.Step) {
		if step == transfer.StepFence {
			if _, err := d.Delete(t.Context(), acme.ID, DeleteOptions{}); err != nil {
				t.Error(err)
			}
		}
	}
	for _, test := range []struct {
		name string
		opts MoveOptions
		want error
	}{
		{"nowhere", MoveOptions{Cluster: "west"}, ErrNoCluster},
		{"to where it is", MoveOptions{}, ErrSamePlace},
		{"to a Citus cluster", MoveOptions{Cluster: "citus"}, errors.ErrUnsupported},
		{"cancelled", cancelled, errCancelled},
		{"deleted", deleted, errCancelled},
	} {
		_, err := moved(t, d, acme.ID, test.opts)
		if !errors.Is(err, test.want) {
			t.Errorf("%s: %v", test.name, err)
		}
		if _, err := d.CancelDelete(t.Context(), acme.ID); err != nil {
			t.Fatal(err)
		}
		if now, err := d.ByID(t.Context(), acme.ID); err != nil || now.Placement != acme.Placement {
			t.Errorf("%s: %+v %v", test.name, now, err)
		}
		wantServed(t, db, acme)
	}
	if err := d.CancelMove(t.Context(), acme.ID); !errors.Is(err, ErrNoMove) {
		t.Errorf("cancelled: %v", err)
	}
	if n, err := d.RecoverMoves(t.Context()); n != 0 || err != nil {
		t.Errorf("recovered %d: %v", n, err)
	}
	if n := query[int](t, connectTo(t, url), "SELECT count(*) FROM pg_database WHERE datname LIKE 'refused%'"); n != 0 {
		t.Errorf("%d databases are left", n)
	}
}
