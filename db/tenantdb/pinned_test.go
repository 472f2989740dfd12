package tenantdb_test

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/db/tenantdb"
	"github.com/leasehold-go/leasehold/internal/pgtest"
	"github.com/leasehold-go/leasehold/internal/tenantsql"
)

var _ tenantsql.DBTX = (*tenantdb.Session)(nil)

func acquire(t *testing.T, ctx context.Context, db *tenantdb.DB) *tenantdb.Session { //nolint:revive // t first, as in all helpers
	t.Helper()
	s, err := db.Acquire(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Release)
	return s
}

func mustExec(t *testing.T, ctx context.Context, q querier, sql string, args ...any) { //nolint:revive // t first, as in all helpers
	t.Helper()
	if _, err := q.Exec(ctx, sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func TestASessionIsHeldToItsTenantInEveryWay(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	db := f.open(t, tenantdb.Config{MaxConns: 2, MaxSessions: 2})
	a, b := f.tenants[0], f.tenants[1]
	for i, tn := range f.tenants {
		s := acquire(t, f.ctx(t, i), db)
		ctx := t.Context() // the session knows its tenant
		mustOwn(t, ctx, s, tn)
		mustExec(t, ctx, s, "UPDATE items SET mood = $1", "only-"+string(tn.Slug))
		mustExec(t, ctx, s, "SET work_mem = '1MB'")
		mustOwn(t, ctx, s, tn)
		if err := pgx.BeginFunc(ctx, s, func(tx pgx.Tx) error {
			if _, err := s.Exec(ctx, "SELECT 1"); !errors.Is(err, tenantdb.ErrRefused) {
				t.Errorf("beside the open transaction: got %v, want ErrRefused", err)
			}
			return checkOwner(ctx, tx, tn, 1)
		}); err != nil {
			t.Error(err)
		}
		if n, err := s.CopyFrom(ctx, pgx.Identifier{"items"}, []string{"id"}, pgx.CopyFromRows([][]any{{100}})); n != 1 || err != nil {
			t.Errorf("copy: %d, %v", n, err)
		}
		var batch pgx.Batch
		batch.Queue("SELECT owner FROM items WHERE id = 100").QueryRow(func(row pgx.Row) error {
			var owner string
			if err := row.Scan(&owner); err != nil || owner != string(tn.Slug) {
				t.Errorf("batch: %q, %v", owner, err)
			}
			return nil
		})
		if err := s.SendBatch(ctx, &batch).Close(); err != nil {
			t.Error(err)
		}
		_, err := s.Exec(ctx, "SELECT * FROM "+f.tenants[1-i].Placement.Schema+".items")
		wantCode(t, err, "42501")
		mustOwn(t, ctx, s, tn)
	}
	s := acquire(t, f.ctx(t, 0), f.open(t, tenantdb.Config{}))
	if _, err := s.Exec(tenant.NewContext(t.Context(), b), "SELECT 1"); !errors.Is(err, tenant.ErrMismatch) {
		t.Errorf("with the context of %s: got %v, want ErrMismatch", b.Slug, err)
	}
	for _, sql := range []string{
		"SET ROLE none", "RESET ROLE", "SET search_path = public", "RESET search_path", "SET SESSION AUTHORIZATION default",
		"SET SESSION search_path = public", "DISCARD ALL", "DEALLOCATE ALL", "BEGIN", "SELECT set_config('search_path', 'public', false)",
	} {
		if _, err := s.Exec(t.Context(), sql); !errors.Is(err, tenantdb.ErrRefused) {
			t.Errorf("%s: got %v, want ErrRefused", sql, err)
		}
	}
	mustOwn(t, t.Context(), s, a)
	if _, err := db.Acquire(t.Context()); !errors.Is(err, tenant.ErrNoTenant) {
		t.Errorf("without a tenant: got %v, want ErrNoTenant", err)
	}
}

func TestASessionListens(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	db := f.open(t, tenantdb.Config{MaxSessions: 2})
	ctx := f.ctx(t, 0)
	s, other := acquire(t, ctx, db), acquire(t, f.ctx(t, 1), db)
	mustExec(t, ctx, s, "LISTEN "+f.tenants[0].ID.Channel("jobs"))
	mustExec(t, t.Context(), other, "LISTEN "+f.tenants[1].ID.Channel("jobs"))
	mustExec(t, ctx, db, "SELECT pg_notify($1, 'first')", f.tenants[0].ID.Channel("jobs"))
	if n, err := s.WaitForNotification(ctx); err != nil || n.Payload != "first" {
		t.Fatalf("got %+v, %v", n, err)
	}
	mustExec(t, ctx, db, "SELECT pg_notify($1, 'second')", f.tenants[0].ID.Channel("jobs"))
	mustOwn(t, ctx, s, f.tenants[0]) // a notification that comes with the answer to a call is kept
	if n, err := s.WaitForNotification(ctx); err != nil || n.Payload != "second" {
		t.Fatalf("got %+v, %v", n, err)
	}
	short, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if n, err := other.WaitForNotification(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the other tenant got %+v, %v", n, err)
	}
	mustOwn(t, t.Context(), other, f.tenants[1])
}

// Locks and temporary tables of a session are there from call to call, and gone with it.
func TestWhatLivesInASessionEndsWithIt(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	pgtest.Exec(t, f.url, "GRANT TEMPORARY ON DATABASE "+f.database(t)+" TO "+f.tenants[0].Placement.Role)
	db := f.open(t, tenantdb.Config{MaxConns: 1})
	ctx := f.ctx(t, 0)
	s := acquire(t, ctx, db)
	mustExec(t, ctx, s, "CREATE TEMPORARY TABLE basket (owner text)")
	mustExec(t, ctx, s, "INSERT INTO basket SELECT owner FROM items")
	mustExec(t, ctx, s, "CREATE TEMPORARY TABLE items (owner text)") // shadows nothing
	mustOwn(t, ctx, s, f.tenants[0])
	key := f.tenants[0].ID.LockKey("import")
	mustExec(t, ctx, s, "SELECT pg_advisory_lock($1)", key)
	free := func() (free bool) {
		err := db.InTx(ctx, func(tx pgx.Tx) error {
			return tx.QueryRow(ctx, "SELECT pg_try_advisory_xact_lock($1)", key).Scan(&free)
		})
		if err != nil {
			t.Fatal(err)
		}
		return free
	}
	if free() {
		t.Error("the lock is free while the session holds it")
	}
	var n int
	if err := s.QueryRow(ctx, "SELECT count(*) FROM basket").Scan(&n); err != nil || n != rowsPerTenant {
		t.Errorf("%d rows, %v", n, err)
	}
	s.Release()
	s.Release()
	if _, err := s.Exec(ctx, "SELECT 1"); !errors.Is(err, tenantdb.ErrClosed) {
		t.Errorf("after Release: got %v, want ErrClosed", err)
	}
	eventually(t, free)
	next := acquire(t, ctx, db)
	_, err := next.Exec(ctx, "SELECT * FROM basket")
	wantCode(t, err, "42P01")
	_, err = next.Exec(ctx, "SELECT 1 / (SELECT 0)")
	wantCode(t, err, "22012")
	mustOwn(t, ctx, next, f.tenants[0]) // an error does not end a session

	// On a shared connection they are refused before they are sent.
	for _, sql := range []string{
		"CREATE TEMP TABLE x (a int)", "/* a note */ create local temporary table x (a int)", "SELECT 1 AS a INTO TEMP x", "CREATE TEMP VIEW x AS SELECT 1",
		"LISTEN jobs", "SELECT pg_advisory_lock(1)", "SET work_mem = '1MB'", "PREPARE x AS SELECT 1",
	} {
		if _, err := db.Exec(ctx, sql); !errors.Is(err, tenantdb.ErrRefused) {
			t.Errorf("%s: got %v, want ErrRefused", sql, err)
		}
	}
	// One that ends with its transaction leaves nothing.
	err = db.InTx(ctx, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "CREATE TEMP TABLE scratch ON COMMIT DROP AS SELECT owner FROM items"); err != nil {
			return err
		}
		var owners []string
		rows, err := tx.Query(ctx, "SELECT DISTINCT owner FROM scratch")
		if err != nil {
			return err
		}
		owners, err = pgx.CollectRows(rows, pgx.RowTo[string])
		if !slices.Equal(owners, []string{"co-0"}) {
			t.Errorf("owners: %v", owners)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	wantBare(t, f, db)
}

func TestSessionsAreCountedAndBounded(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	db := f.open(t, tenantdb.Config{MaxConns: 1, MaxSessions: 1, AcquireTimeout: 10 * time.Millisecond})
	ctx := f.ctx(t, 0)
	s := acquire(t, ctx, db)
	if _, err := db.Acquire(ctx); !errors.Is(err, tenantdb.ErrBusy) {
		t.Errorf("a second session: got %v, want ErrBusy", err)
	}
	if st := db.Stat(); st.Sessions != 1 {
		t.Errorf("%d sessions are counted, want 1", st.Sessions)
	}
	mustOwn(t, ctx, db, f.tenants[0]) // they do not take the calls' connections
	s.Release()
	again := acquire(t, ctx, db)
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := again.Exec(cancelled, "SELECT 1"); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want Canceled", err)
	}
	again.Release()
	closed := make(chan struct{})
	last := acquire(t, ctx, db)
	go func() {
		db.Close() // waits for the session
		close(closed)
	}()
	eventually(t, func() bool {
		_, err := db.Exec(ctx, "SELECT 1")
		return errors.Is(err, tenantdb.ErrClosed)
	})
	mustOwn(t, ctx, last, f.tenants[0])
	last.Release()
	<-closed
	if _, err := db.Acquire(ctx); !errors.Is(err, tenantdb.ErrClosed) {
		t.Errorf("after Close: got %v, want ErrClosed", err)
	}
}

// A tenant that has its share of the sessions waits for its own, and the others for no one.
func TestOneTenantDoesNotHoldAllSessions(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 3)
	db := f.open(t, tenantdb.Config{MaxConns: 1, MaxSessions: 2, MaxSessionsPerTenant: 1})
	greedy, other, third := f.ctx(t, 0), f.ctx(t, 1), f.ctx(t, 2)
	first := acquire(t, greedy, db)
	type acquired struct {
		s   *tenantdb.Session
		err error
	}
	queue := make(chan acquired)
	for range 3 {
		go func() {
			s, err := db.Acquire(greedy)
			queue <- acquired{s, err}
		}()
	}
	eventually(t, func() bool { return db.PinsWanted(f.tenants[0].ID) == 4 })
	short, cancel := context.WithTimeout(greedy, 10*time.Millisecond)
	defer cancel()
	_, err := db.Acquire(short)
	if !errors.Is(err, tenantdb.ErrBusy) || !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "MaxSessionsPerTenant") {
		t.Errorf("beyond its share: got %v, want ErrBusy, the deadline and the setting", err)
	}
	for range 3 {
		s := acquire(t, other, db)
		mustOwn(t, t.Context(), s, f.tenants[1])
		short, cancel := context.WithTimeout(third, 10*time.Millisecond)
		if _, err := db.Acquire(short); !errors.Is(err, tenantdb.ErrBusy) || strings.Contains(err.Error(), "MaxSessionsPerTenant") {
			t.Errorf("when all are in use: got %v, want ErrBusy that says so", err)
		}
		cancel()
		s.Release()
	}
	first.Release()
	for range 3 {
		got := <-queue
		if got.err != nil {
			t.Fatal(got.err)
		}
		mustOwn(t, t.Context(), got.s, f.tenants[0])
		got.s.Release()
	}
	for i, tn := range f.tenants {
		if n := db.PinsWanted(tn.ID); n != 0 {
			t.Errorf("tenant %d is counted %d times after its last session", i, n)
		}
	}
}

// A broken session stays broken and says so; the next one is a new one.
func TestASessionThatIsCancelledIsOver(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	db := f.open(t, tenantdb.Config{MaxSessions: 1})
	ctx := f.ctx(t, 0)
	s := acquire(t, ctx, db)
	if err := cancelledAsleep(ctx, t, f, s); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want Canceled", err)
	}
	if _, err := s.Exec(ctx, "SELECT 1"); err == nil {
		t.Error("a session whose state is not known was used on")
	}
	s.Release()
	mustOwn(t, ctx, acquire(t, ctx, db), f.tenants[0])
}

// The network's own timeout is the context's, and is told as such.
func TestAnAcquireThatRunsOutOfTimeSaysSo(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	f.tenants[0].Placement.Login = "slow"
	db := f.open(t, tenantdb.Config{Login: func(ctx context.Context, _ tenant.Placement) (*pgx.ConnConfig, error) {
		<-ctx.Done()
		return nil, os.ErrDeadlineExceeded
	}})
	ctx, cancel := context.WithTimeout(f.ctx(t, 0), 10*time.Millisecond)
	defer cancel()
	if _, err := db.Acquire(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want DeadlineExceeded", err)
	}
	if st := db.Stat(); st.Sessions != 0 {
		t.Errorf("%d sessions are counted after the failure", st.Sessions)
	}
}

func TestAcquireIsRefusedBehindAPooler(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	pgtest.Exec(t, f.url, "ALTER ROLE "+f.login+" SET search_path = ''")
	db := f.open(t, tenantdb.Config{Pooler: tenantdb.PoolerTransaction})
	if _, err := db.Acquire(f.ctx(t, 0)); !errors.Is(err, tenantdb.ErrRefused) {
		t.Errorf("got %v, want ErrRefused", err)
	}
	mustOwn(t, f.ctx(t, 0), db, f.tenants[0])
}
