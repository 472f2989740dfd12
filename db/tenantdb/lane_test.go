package tenantdb_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/db/tenantdb"
	"github.com/leasehold-go/leasehold/internal/pgtest"
)

// backend returns the process that serves q at this moment.
func backend(t *testing.T, ctx context.Context, q querier) (pid int) { //nolint:revive // t first, as in all helpers
	t.Helper()
	if err := q.QueryRow(ctx, "SELECT pg_backend_pid()").Scan(&pid); err != nil {
		t.Fatal(err)
	}
	return pid
}

// idle is how many connections are open and free.
func idle(db *tenantdb.DB) (n int) {
	for _, l := range db.Stat().Lanes {
		n += l.Idle
	}
	return n
}

func TestATenantKeepsToItsHomeLane(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 24)
	db := f.open(t, tenantdb.Config{MaxConns: 4})
	for i := range f.tenants { // a lane is opened when its first tenant comes, who may be served by another one meanwhile
		mustOwn(t, f.ctx(t, i), db, f.tenants[i])
	}
	eventually(t, func() bool { return idle(db) == 4 })
	before := db.Stat()
	home := make([]int, len(f.tenants))
	used := make(map[int]bool)
	for i := range f.tenants {
		home[i] = backend(t, f.ctx(t, i), db)
		used[home[i]] = true
	}
	for range 3 {
		for i := range f.tenants {
			if pid := backend(t, f.ctx(t, i), db); pid != home[i] {
				t.Errorf("tenant %d was served by backend %d and then by %d", i, home[i], pid)
			}
		}
	}
	if len(used) != 4 {
		t.Errorf("24 tenants use %d of 4 lanes", len(used))
	}
	st := db.Stat()
	for i, l := range st.Lanes {
		if l.Leases == before.Lanes[i].Leases || l.Spills != before.Lanes[i].Spills || l.Open != 1 || l.Tenants == 0 {
			t.Errorf("lane %d: %+v", i, l)
		}
	}
	if st.Max != 4 || st.Open != 4 || st.InUse != 0 || st.Created != 4 {
		t.Errorf("all lanes: %+v", st)
	}
}

func TestABusyHomeSpillsToOneOtherLaneAndThenToAny(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	db := f.open(t, tenantdb.Config{MaxConns: 4, MaxConnsPerTenant: 4})
	ctx := f.ctx(t, 0)
	eventually(t, func() bool { // until its home lane is open
		before := spilled(db)
		mustOwn(t, ctx, db, f.tenants[0])
		return spilled(db) == before
	})
	home := backend(t, ctx, db)
	before := spilled(db)
	seen := []int{}
	for range 4 { // each holds its connection while the next one asks
		tx, err := db.Begin(ctx)
		if err != nil {
			t.Fatal(err)
		}
		defer tx.Rollback(ctx)
		seen = append(seen, backend(t, ctx, tx))
		mustOwn(t, ctx, tx, f.tenants[0])
	}
	if seen[0] != home {
		t.Errorf("the first call went to %d and not home to %d", seen[0], home)
	}
	slices.Sort(seen)
	if len(slices.Compact(seen)) != 4 {
		t.Errorf("four transactions ran on backends %v", seen)
	}
	if n := spilled(db) - before; n != 3 {
		t.Errorf("%d spills were counted, want 3", n)
	}
}

// spilled counts the calls that were served away from home.
func spilled(db *tenantdb.DB) (n int64) {
	for _, l := range db.Stat().Lanes {
		n += l.Spills
	}
	return n
}

// THREATS 47: a tenant holds its share and no more; the others find a free connection.
func TestATenantHoldsAtMostItsShare(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 8)
	db := f.open(t, tenantdb.Config{MaxConns: 4, MaxConnsPerTenant: 2})
	for range 2 {
		tx, err := db.Begin(f.ctx(t, 0))
		if err != nil {
			t.Fatal(err)
		}
		defer tx.Rollback(t.Context())
	}
	if err := lateInTheQueue(f.ctx(t, 0), t, db); !errors.Is(err, tenantdb.ErrBusy) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a third call of the tenant: got %v, want ErrBusy and DeadlineExceeded", err)
	}
	for i := 1; i < 8; i++ {
		mustOwn(t, f.ctx(t, i), db, f.tenants[i])
	}
	if st := db.Stat(); st.InUse != 2 || st.Waiting != 0 {
		t.Errorf("%d connections are in use and %d calls wait; want 2 and 0", st.InUse, st.Waiting)
	}
}

// THREATS 47: who waits is served tenant by tenant, and not call by call.
func TestTenantsThatWaitAreServedInTurn(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 3)
	db := f.open(t, tenantdb.Config{MaxConns: 1})
	held, err := db.Begin(f.ctx(t, 0))
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var order []int
	var wg sync.WaitGroup
	queue := func(i int) {
		before := db.Stat().Waiting
		wg.Go(func() {
			err := db.InTx(f.ctx(t, i), func(tx pgx.Tx) error {
				mu.Lock()
				defer mu.Unlock()
				order = append(order, i)
				return checkOwner(t.Context(), tx, f.tenants[i], 1)
			})
			if err != nil {
				t.Error(err)
			}
		})
		eventually(t, func() bool { return db.Stat().Waiting == before+1 })
	}
	for range 5 {
		queue(0) // the flood comes first
	}
	queue(1)
	queue(2)
	queue(1)
	if err := held.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	if want := []int{0, 1, 2, 0, 1, 0, 0, 0}; !slices.Equal(order, want) {
		t.Errorf("tenants were served in the order %v, want %v", order, want)
	}
}

// eventually waits for a state that other goroutines bring about; the test's own time limit ends it.
func eventually(t *testing.T, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-t.Context().Done():
			t.Fatal("it never came to pass")
		}
	}
}

// lateInTheQueue returns the error of a call whose deadline passes once it waits for a connection; one that comes too late to wait is
// told of its context alone. Nobody else may wait.
func lateInTheQueue(ctx context.Context, t *testing.T, db *tenantdb.DB) error {
	t.Helper()
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	failed := make(chan error, 1)
	go func() {
		_, err := db.Exec(ctx, "SELECT 1")
		failed <- err
	}()
	eventually(t, func() bool { return db.Stat().Waiting == 1 || databases(t, db).Waiting == 1 })
	end(context.DeadlineExceeded)
	return <-failed
}

// THREATS 43: a backend learns the tables of a bounded number of tenants.
func TestAConnectionIsReplacedAfterSoManyTenants(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 12)
	db := f.open(t, tenantdb.Config{MaxConns: 1, MaxTenantsPerConn: 3})
	served := make(map[int]map[int]bool)
	for range 2 {
		for i := range f.tenants {
			for range 3 {
				pid := backend(t, f.ctx(t, i), db)
				mustOwn(t, f.ctx(t, i), db, f.tenants[i])
				if served[pid] == nil {
					served[pid] = make(map[int]bool)
				}
				served[pid][i] = true
			}
		}
	}
	for pid, tenants := range served {
		if len(tenants) > 4 { // the one that makes it too many is served
			t.Errorf("backend %d served %d tenants", pid, len(tenants))
		}
	}
	if st := db.Stat(); st.Lanes[0].Recycled < 5 {
		t.Errorf("%d connections were recycled, want at least 5", st.Lanes[0].Recycled)
	}
}

// Tenants belong to one of several logins, each of which may take the roles of its own tenants only.
func TestATenantIsServedByItsOwnLogin(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 9)
	logins := []string{f.login, f.login + "_b", f.login + "_c"}
	f.logins = logins[1:]
	for _, login := range f.logins {
		pgtest.Exec(t, f.url, "CREATE ROLE "+login+" LOGIN NOINHERIT PASSWORD 'test'", "GRANT CONNECT ON DATABASE "+f.database(t)+" TO "+login)
	}
	for i, tn := range f.tenants {
		tn.Placement.Login = logins[i%3]
		pgtest.Exec(t, f.url, "REVOKE "+tn.Placement.Role+" FROM "+f.login, "GRANT "+tn.Placement.Role+" TO "+logins[i%3])
	}
	login := func(_ context.Context, p tenant.Placement) (*pgx.ConnConfig, error) {
		if !slices.Contains(logins, p.Login) {
			return nil, fmt.Errorf("no login %s", p.Login)
		}
		cc := f.connConfig(t)
		cc.User = p.Login
		return cc, nil
	}
	for _, conns := range []int{1, 2, 3, 8} {
		t.Run(fmt.Sprintf("%d connections", conns), func(t *testing.T) {
			t.Parallel()
			db := f.open(t, tenantdb.Config{MaxConns: conns, Login: login})
			var wg sync.WaitGroup
			for i, tn := range f.tenants {
				wg.Go(func() {
					for range 20 {
						ctx := tenant.NewContext(t.Context(), tn)
						var user string
						if err := db.QueryRow(ctx, "SELECT session_user::text").Scan(&user); err != nil {
							t.Error(err)
							return
						}
						if user != logins[i%3] {
							t.Errorf("tenant %d was served by login %s", i, user)
						}
						if err := checkOwner(ctx, db, tn, 1); err != nil {
							t.Error(err)
						}
					}
				})
			}
			wg.Wait()
			if st := db.Stat(); st.Open > conns || st.InUse != 0 {
				t.Errorf("%d connections are open, %d in use, of %d", st.Open, st.InUse, conns)
			}
		})
	}
}

func TestALoginThatCannotBeHadFailsItsTenantsOnly(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	f.tenants[0].Placement.Login = "somebody_else"
	ask := errors.New("no such login")
	db := f.open(t, tenantdb.Config{MaxConns: 2, Login: func(context.Context, tenant.Placement) (*pgx.ConnConfig, error) { return nil, ask }})
	for range 3 {
		if _, err := db.Exec(f.ctx(t, 0), "SELECT 1"); !errors.Is(err, ask) {
			t.Errorf("got %v, want the login's error", err)
		}
		mustOwn(t, f.ctx(t, 1), db, f.tenants[1])
	}
	if db := f.open(t, tenantdb.Config{MaxConns: 1}); db != nil {
		if _, err := db.Exec(f.ctx(t, 0), "SELECT 1"); err == nil {
			t.Error("a tenant of another login was served without Config.Login")
		}
	}
}

func TestCloseTurnsAwayWhoWaits(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	db := f.open(t, tenantdb.Config{MaxConns: 1})
	tx, err := db.Begin(f.ctx(t, 0))
	if err != nil {
		t.Fatal(err)
	}
	waited, closed := make(chan error, 1), make(chan struct{})
	go func() {
		_, err := db.Exec(f.ctx(t, 0), "SELECT 1")
		waited <- err
	}()
	eventually(t, func() bool { return db.Stat().Waiting == 1 })
	go func() {
		db.Close()
		close(closed)
	}()
	if err := <-waited; !errors.Is(err, tenantdb.ErrClosed) {
		t.Errorf("got %v, want ErrClosed", err)
	}
	mustOwn(t, f.ctx(t, 0), tx, f.tenants[0]) // what is leased may go on
	if err := tx.Commit(t.Context()); err != nil {
		t.Error(err)
	}
	<-closed
}

// A connection that is being opened when its caller gives up is not lost.
func TestAConnectionOutlivesTheCallThatAskedForIt(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	f.tenants[0].Placement.Login = "slow"
	release := make(chan struct{})
	db := f.open(t, tenantdb.Config{MaxConns: 1, Login: func(context.Context, tenant.Placement) (*pgx.ConnConfig, error) {
		<-release
		return f.connConfig(t), nil
	}})
	if err := lateInTheQueue(f.ctx(t, 0), t, db); !errors.Is(err, tenantdb.ErrBusy) {
		t.Fatalf("got %v, want ErrBusy", err)
	}
	close(release)
	mustOwn(t, f.ctx(t, 0), db, f.tenants[0])
	if st := db.Stat(); st.Created != 2 { // Open's own, and this one
		t.Errorf("%d connections were made, want 2", st.Created)
	}
}

func TestSettingsOfATenantArePartOfItsScope(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 3)
	db := f.open(t, tenantdb.Config{MaxConns: 1, Settings: func(tn *tenant.Tenant) map[string]string {
		switch tn {
		case f.tenants[0]:
			return map[string]string{"statement_timeout": "10ms", "app.plan": "free of charge"}
		case f.tenants[1]:
			return map[string]string{"statement_timeout": "1h"}
		}
		return nil
	}})
	settings := func(i int, q querier) (timeout, plan string) {
		t.Helper()
		err := q.QueryRow(f.ctx(t, i), "SELECT current_setting('statement_timeout'), coalesce(current_setting('app.plan', true), '')").Scan(&timeout, &plan)
		if err != nil {
			t.Fatal(err)
		}
		return timeout, plan
	}
	want := [][2]string{{"10ms", "free of charge"}, {"1h", ""}, {"0", ""}}
	for range 3 {
		for i, w := range want {
			if timeout, plan := settings(i, db); timeout != w[0] || plan != w[1] {
				t.Errorf("tenant %d: %s, %q; want %v", i, timeout, plan, w)
			}
			err := db.InTx(f.ctx(t, i), func(tx pgx.Tx) error {
				if timeout, plan := settings(i, tx); timeout != w[0] || plan != w[1] {
					t.Errorf("tenant %d in a transaction: %s, %q; want %v", i, timeout, plan, w)
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	_, err := db.Exec(f.ctx(t, 0), "SELECT pg_sleep(10)")
	wantCode(t, err, "57014")
	if _, err := db.Exec(f.ctx(t, 1), "SELECT pg_sleep(0.02)"); err != nil {
		t.Error(err)
	}
	wantBare(t, f, db)
}

func TestASettingThatIsNoneOfTheTenantsIsRefused(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	for name, settings := range map[string]map[string]string{
		"path": {"search_path": "public"}, "role": {"role": "postgres"}, "login": {"session_authorization": "postgres"},
		"driver": {"client_encoding": "LATIN1"}, "form": {"datestyle": "German"}, "grammar": {"a b": "1"}, "case": {"Role": "none"}, "quote": {"app.x": "it's"},
		"backslash": {"app.x": `\`},
	} {
		db := f.open(t, tenantdb.Config{MaxConns: 1, Settings: func(*tenant.Tenant) map[string]string { return settings }})
		if _, err := db.Exec(f.ctx(t, 0), "SELECT 1"); err == nil {
			t.Errorf("%s: %v was accepted", name, settings)
		}
	}
	wrong := f.open(t, tenantdb.Config{MaxConns: 1, Settings: func(*tenant.Tenant) map[string]string {
		return map[string]string{"statement_timeout": "soon"}
	}})
	_, err := wrong.Exec(f.ctx(t, 0), "SELECT 1")
	if !errors.Is(err, tenantdb.ErrScope) {
		t.Errorf("a value that the server refuses: got %v, want ErrScope", err)
	}
	_, err = wrong.Begin(f.ctx(t, 0))
	if !errors.Is(err, tenantdb.ErrScope) {
		t.Errorf("a value that the server refuses, with Begin: got %v, want ErrScope", err)
	}
}

// A tenant whose calls are brief gets few connections, one whose calls take long its whole share.
func TestATenantWithBriefCallsTakesFewConnections(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	db := f.open(t, tenantdb.Config{MaxConns: 16, MaxConnsPerTenant: 8})
	// busiest returns the part of the calls that the two busiest connections have served.
	busiest := func() float64 {
		var mu sync.Mutex
		served := map[int]int{}
		var wg sync.WaitGroup
		for range 6 {
			wg.Go(func() {
				for range 100 {
					var pid int
					if err := db.QueryRow(f.ctx(t, 0), "SELECT pg_backend_pid() FROM pg_sleep(0.002)").Scan(&pid); err != nil {
						t.Error(err)
					}
					mu.Lock()
					served[pid]++
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		counts := slices.Sorted(maps.Values(served))
		return float64(counts[len(counts)-1]+counts[max(0, len(counts)-2)]) / 600
	}
	// A machine that is busy with something else may make any one round look otherwise.
	once := func(ok func(part float64) bool) bool {
		for range 20 {
			if ok(busiest()) {
				return true
			}
		}
		return false
	}
	db.SetBrief(0)
	if !once(func(part float64) bool { return part < 0.5 }) {
		t.Error("no call is brief, and still two connections serve most of the calls")
	}
	db.SetBrief(time.Hour)
	if !once(func(part float64) bool { return part > 0.6 }) {
		t.Error("all calls are brief, and more than two connections serve them")
	}
}
