package directory

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"runtime"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/db/tenantdb"
)

// newNotebooks makes n tenants, each with two notes that say whose they are, and the database that leads to them.
func newNotebooks(tb testing.TB, n int) (*Directory, *tenantdb.DB, []*tenant.Tenant) {
	tb.Helper()
	d, _ := newDirectory(tb)
	login, err := d.RuntimeConn(tb.Context())
	if err != nil {
		tb.Fatal(err)
	}
	db, err := tenantdb.Open(tb.Context(), tenantdb.Config{ConnConfig: login, Login: d.LoginConn, MaxConns: 6})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(db.Close)
	var tenants []*tenant.Tenant
	for i := range n {
		tn := mustCreate(tb, d, fmt.Sprintf("co-%d", i+1))
		if _, err := db.For(tn).Exec(tb.Context(), `INSERT INTO notes (body) VALUES ($1), ($1)`, string(tn.Slug)); err != nil {
			tb.Fatal(err)
		}
		tenants = append(tenants, tn)
	}
	return d, db, tenants
}

// listNotes stands for a method that sqlc has generated.
func listNotes(ctx context.Context, tx pgx.Tx) ([]string, error) {
	rows, err := tx.Query(ctx, `SELECT body FROM notes ORDER BY id`)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

// collect ranges over all, and returns the bodies, the slugs of the tenants that failed, and what ended it.
func collect(tb testing.TB, rows iter.Seq2[TenantRow[string], error]) (bodies []string, failed map[tenant.Slug]error, end error) {
	tb.Helper()
	failed = map[tenant.Slug]error{}
	for r, err := range rows {
		one, isTenants := errors.AsType[*TenantError](err)
		switch {
		case end != nil:
			tb.Errorf("%v comes after the end, %v", r, end)
		case isTenants:
			failed[one.Tenant.Slug] = err
			if r.Tenant != one.Tenant {
				tb.Errorf("the error of %s comes with %v", one.Tenant.Slug, r.Tenant)
			}
		case err != nil:
			end = err
		case string(r.Tenant.Slug) != r.Row:
			tb.Errorf("%s comes with a row of %s", r.Tenant.Slug, r.Row)
		default:
			bodies = append(bodies, r.Row)
		}
	}
	slices.Sort(bodies)
	return bodies, failed, end
}

func twice(tenants []*tenant.Tenant, except ...int) []string {
	var bodies []string
	for i, tn := range tenants {
		if !slices.Contains(except, i) {
			bodies = append(bodies, string(tn.Slug), string(tn.Slug))
		}
	}
	slices.Sort(bodies)
	return bodies
}

// An operator reads from fifty tenants. One of them is behind with its migrations.
func TestGather(t *testing.T) {
	t.Parallel()
	d, db, tenants := newNotebooks(t, 50)
	behind := tenants[17]
	conn, err := pgx.ConnectConfig(t.Context(), d.cfg.ConnConfig.Copy())
	if err != nil {
		t.Fatal(err)
	}
	defer closeConn(conn)
	mustExec(t, conn, `ALTER TABLE `+behind.Placement.Schema+`.notes DROP COLUMN body`)
	bodies, failed, end := collect(t, Gather(t.Context(), d, db, GatherOptions{}, listNotes))
	if diff := cmp.Diff(twice(tenants, 17), bodies); diff != "" || end != nil {
		t.Errorf("end %v; %s", end, diff)
	}
	if len(failed) != 1 || sqlState(failed[behind.Slug]) != "42703" {
		t.Errorf("failed: %v", failed)
	}

	t.Run("the first failure is the end if that is asked for", func(t *testing.T) {
		opts := GatherOptions{Parallel: 1, MaxFailures: 1}
		bodies, failed, end := collect(t, Gather(t.Context(), d, db, opts, listNotes))
		if !errors.Is(end, ErrTooManyFailures) || len(failed) != 1 || len(bodies) != 2*17 {
			t.Errorf("end %v, failed %v, %d rows", end, failed, len(bodies))
		}
	})
	t.Run("it writes nothing", func(t *testing.T) {
		for _, statement := range []string{
			`INSERT INTO notes (body) VALUES ('x')`,
			`WITH w AS (DELETE FROM notes RETURNING 1) SELECT count(*) FROM w`,
			`SELECT nextval('notes_id_seq')`,
		} {
			_, failed, end := collect(t, Gather(t.Context(), d, db, GatherOptions{Tenants: tenants[:3]},
				func(ctx context.Context, tx pgx.Tx) ([]string, error) {
					_, err := tx.Exec(ctx, statement)
					return nil, err
				}))
			if len(failed) != 3 || sqlState(failed[tenants[0].Slug]) != "25006" || end != nil {
				t.Errorf("%s: %v, %v", statement, failed, end)
			}
		}
		_, failed, _ := collect(t, Gather(t.Context(), d, db, GatherOptions{Tenants: tenants[:1]},
			func(ctx context.Context, tx pgx.Tx) ([]string, error) {
				_, err := tx.Exec(ctx, `SELECT set_config('transaction_read_only', 'off', true)`)
				return nil, err
			}))
		if len(failed) != 1 {
			t.Errorf("it can be made to write: %v", failed)
		}
		if bodies, _, _ := collect(t, Gather(t.Context(), d, db, GatherOptions{Tenants: tenants[:3]}, listNotes)); len(bodies) != 6 {
			t.Errorf("%d rows are left of 6", len(bodies))
		}
	})
	t.Run("a query that breaks is a failure", func(t *testing.T) {
		bodies, failed, end := collect(t, Gather(t.Context(), d, db, GatherOptions{Tenants: tenants[:4]},
			func(ctx context.Context, tx pgx.Tx) ([]string, error) {
				tn, err := tenant.FromContext(ctx)
				switch {
				case err != nil:
					return nil, err
				case tn.Slug == "co-2":
					panic("broken")
				case tn.Slug == "co-3":
					runtime.Goexit()
				}
				return listNotes(ctx, tx)
			}))
		if diff := cmp.Diff(twice(tenants[:4], 1, 2), bodies); diff != "" || len(failed) != 2 || end != nil {
			t.Errorf("failed %v, end %v: %s", failed, end, diff)
		}
	})
	t.Run("who is asked for and is not there", func(t *testing.T) {
		nobody := &tenant.Tenant{ID: tenant.ID{0xff}, Slug: "nobody"}
		bodies, failed, end := collect(t, Gather(t.Context(), d, db, GatherOptions{Tenants: []*tenant.Tenant{nobody, tenants[0]}}, listNotes))
		if len(bodies) != 2 || end != nil || !errors.Is(failed["nobody"], tenant.ErrNotFound) {
			t.Errorf("%v, %v, %v", bodies, failed, end)
		}
	})
	t.Run("options that cannot be", func(t *testing.T) {
		if _, _, end := collect(t, Gather(t.Context(), d, db, GatherOptions{Parallel: -1}, listNotes)); end == nil {
			t.Error("no error")
		}
	})
}

// The reader breaks, or the context ends: all that is under way ends too, and the connections are free again.
func TestGatherEndsEarly(t *testing.T) {
	t.Parallel()
	d, db, tenants := newNotebooks(t, 12)
	t.Run("break", func(t *testing.T) {
		for range 5 {
			n := 0
			for r, err := range Gather(t.Context(), d, db, GatherOptions{Parallel: 6}, listNotes) {
				if err != nil || string(r.Tenant.Slug) != r.Row {
					t.Errorf("%v, %v", r, err)
				}
				if n++; n == 3 {
					break
				}
			}
			if n != 3 {
				t.Fatalf("%d rows", n)
			}
		}
	})
	t.Run("break while queries run", func(t *testing.T) {
		first := make(chan struct{}, 1)
		first <- struct{}{}
		for r, err := range Gather(t.Context(), d, db, GatherOptions{Parallel: 6}, func(ctx context.Context, tx pgx.Tx) ([]string, error) {
			select {
			case <-first:
				return listNotes(ctx, tx)
			default:
				_, err := tx.Exec(ctx, `SELECT pg_sleep(3600)`)
				return nil, err
			}
		}) {
			if err != nil {
				t.Errorf("%v, %v", r, err)
			}
			break
		}
	})
	t.Run("context", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		rows, end := 0, error(nil)
		for _, err := range Gather(ctx, d, db, GatherOptions{Parallel: 2}, listNotes) {
			if err != nil {
				end = err
				continue
			}
			rows++
			cancel()
		}
		if !errors.Is(end, context.Canceled) || rows == 0 || rows > 2*(2+2) {
			t.Errorf("%d rows, end %v", rows, end)
		}
	})
	t.Run("ended before it began", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		bodies, failed, end := collect(t, Gather(ctx, d, db, GatherOptions{}, listNotes))
		if len(bodies)+len(failed) != 0 || !errors.Is(end, context.Canceled) {
			t.Errorf("%v, %v, %v", bodies, failed, end)
		}
	})
	if bodies, _, end := collect(t, Gather(t.Context(), d, db, GatherOptions{Parallel: 6}, listNotes)); end != nil || len(bodies) != 2*len(tenants) {
		t.Errorf("afterwards: %d rows, %v", len(bodies), end)
	}
	if s := db.Stat(); s.InUse != 0 {
		t.Errorf("%d connections are in use", s.InUse)
	}
}
