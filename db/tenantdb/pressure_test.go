package tenantdb_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/db/tenantdb"
	"github.com/leasehold-go/leasehold/internal/pgtest"
)

// secondLogin makes another runtime login that serves the given tenants, and returns a Config.Login that knows it.
func (f *fleet) secondLogin(t *testing.T, served ...int) func(context.Context, tenant.Placement) (*pgx.ConnConfig, error) {
	t.Helper()
	login := f.login + "_b"
	f.logins = []string{login}
	pgtest.Exec(t, f.url, "CREATE ROLE "+login+" LOGIN NOINHERIT PASSWORD 'test'", "GRANT CONNECT ON DATABASE "+f.database(t)+" TO "+login)
	for _, i := range served {
		f.tenants[i].Placement.Login = login
		pgtest.Exec(t, f.url, "GRANT "+f.tenants[i].Placement.Role+" TO "+login)
	}
	cc := f.connConfig(t)
	cc.User = login
	return func(_ context.Context, p tenant.Placement) (*pgx.ConnConfig, error) {
		if p.Login != login {
			return nil, fmt.Errorf("no login %s", p.Login)
		}
		return cc, nil
	}
}

// holdEach opens a transaction in each of the first n tenants, and lets them go when the test ends.
func (f *fleet) holdEach(t *testing.T, db *tenantdb.DB, n int) {
	t.Helper()
	for i := range n {
		tx, err := db.Begin(f.ctx(t, i))
		if err != nil {
			t.Errorf("transaction %d of %d: %v", i+1, n, err)
			continue
		}
		t.Cleanup(func() { _ = tx.Rollback(context.Background()) })
		mustOwn(t, t.Context(), tx, f.tenants[i])
	}
}

func TestRollbackToWorksInAFailedTransactionOfEveryTenant(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	db := f.open(t, tenantdb.Config{MaxConns: 1})
	for range 2 { // new to the connection, and known to it
		for i, tn := range f.tenants {
			ctx := f.ctx(t, i)
			err := db.InTx(ctx, func(tx pgx.Tx) error {
				mustExec(t, ctx, tx, "SAVEPOINT a")
				_, err := tx.Exec(ctx, "SELECT 1/(SELECT 0)")
				wantCode(t, err, "22012")
				mustExec(t, ctx, tx, "ROLLBACK TO SAVEPOINT a")
				return checkOwner(ctx, tx, tn, 1)
			})
			if err != nil {
				t.Errorf("tenant %d: %v", i, err)
			}
		}
	}
}

func TestABusySessionStaysWhatItWas(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	db := f.open(t, tenantdb.Config{})
	ctx := f.ctx(t, 0)
	ended, end := context.WithCancel(ctx)
	end()
	for name, use := range map[string]func(*tenantdb.Session) error{
		"Exec":                func(s *tenantdb.Session) error { return second(s.Exec(ctx, "SELECT 1")) },
		"Query":               func(s *tenantdb.Session) error { return second(s.Query(ctx, "SELECT 1")) },
		"Begin":               func(s *tenantdb.Session) error { return second(s.Begin(ctx)) },
		"WaitForNotification": func(s *tenantdb.Session) error { return second(s.WaitForNotification(ctx)) },
		"SendBatch": func(s *tenantdb.Session) error {
			var b pgx.Batch
			b.Queue("SELECT 1")
			return s.SendBatch(ctx, &b).Close()
		},
		"CopyFrom": func(s *tenantdb.Session) error {
			return second(s.CopyFrom(ctx, pgx.Identifier{"items"}, []string{"id"}, pgx.CopyFromRows([][]any{{100}})))
		},
		"Begin with an ended context": func(s *tenantdb.Session) error { return second(s.Begin(ended)) },
	} {
		s, err := db.Acquire(ctx)
		if err != nil {
			t.Fatal(err)
		}
		mustExec(t, ctx, s, "LISTEN "+f.tenants[0].ID.Channel("jobs"))
		rows, err := s.Query(ctx, "SELECT i::text FROM generate_series(1, 3) i")
		if err != nil {
			t.Fatal(err)
		}
		if err := use(s); err == nil {
			t.Errorf("%s: it worked while rows were open", name)
		}
		got, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if fmt.Sprint(got) != "[1 2 3]" || err != nil {
			t.Errorf("%s: the open rows became %v, %v", name, got, err)
		}
		if err := second(s.Begin(ended)); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: then Begin with an ended context: got %v, want Canceled", name, err)
		}
		var channels int
		if err := s.QueryRow(ctx, "SELECT count(*) FROM pg_listening_channels()").Scan(&channels); err != nil || channels != 1 {
			t.Errorf("%s: the session then listens to %d channels, %v", name, channels, err)
		}
		s.Release()
	}
}

func TestASessionThatIsReleasedEndsItsTransactionAndRows(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	db := f.open(t, tenantdb.Config{MaxSessions: 1})
	ctx := f.ctx(t, 0)
	s := acquire(t, ctx, db)
	tx, err := s.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	mustExec(t, ctx, tx, "UPDATE items SET qty = 99")
	s.Release()
	if err := tx.Commit(ctx); err == nil {
		t.Error("a transaction was committed after its session's Release")
	}
	var qty int
	if err := db.QueryRow(ctx, "SELECT max(qty) FROM items").Scan(&qty); err != nil || qty != 0 {
		t.Errorf("qty is %d, %v; want 0", qty, err)
	}
	for range 5 { // for the race detector: rows read on what Release closes
		s := acquire(t, ctx, db)
		rows, err := s.Query(ctx, "SELECT repeat('x', 1000) FROM generate_series(1, 2000)")
		if err != nil {
			t.Fatal(err)
		}
		if !rows.Next() {
			t.Fatal(rows.Err())
		}
		s.Release()
		for rows.Next() {
		}
		if rows.Err() == nil {
			t.Error("the rows of a session that was released ended well")
		}
	}
	mustOwn(t, ctx, acquire(t, ctx, db), f.tenants[0])
}

// What a call waits for is looked at again and again while it is on its way: it must not be asked for again.
func TestOneCallThatWaitsOpensOneConnection(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	var held atomic.Bool
	var dials atomic.Int64
	gate := make(chan struct{})
	cc := f.connConfig(t)
	dial := cc.DialFunc
	cc.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		if held.Load() {
			dials.Add(1)
			<-gate
		}
		return dial(ctx, network, addr)
	}
	db := f.open(t, tenantdb.Config{MaxConns: 16, ConnConfig: cc})
	db.Reset()
	eventually(t, func() bool { return db.Stat().Open == 0 })
	held.Store(true)
	short, cancel := context.WithTimeout(f.ctx(t, 0), 30*time.Millisecond)
	defer cancel()
	if _, err := db.Exec(short, "SELECT 1"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want DeadlineExceeded", err)
	}
	if n := dials.Load(); n > 1 {
		t.Errorf("one call dialled %d times", n)
	}
	held.Store(false)
	close(gate)
	mustOwn(t, f.ctx(t, 0), db, f.tenants[0])
}

func TestOneCallThatWaitsReplacesOneConnectionOfAnotherLogin(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	login := f.secondLogin(t, 1)
	gate := make(chan struct{})
	db := f.open(t, tenantdb.Config{MaxConns: 4, Lanes: 1, MaxConnsPerTenant: 4, Login: func(ctx context.Context, p tenant.Placement) (*pgx.ConnConfig, error) {
		<-gate
		return login(ctx, p)
	}})
	var txs []pgx.Tx
	for range 4 {
		tx, err := db.Begin(f.ctx(t, 0))
		if err != nil {
			t.Fatal(err)
		}
		txs = append(txs, tx)
	}
	for _, tx := range txs {
		if err := tx.Rollback(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, func() bool { return idle(db) == 4 })
	before := db.Stat().Created
	short, cancel := context.WithTimeout(f.ctx(t, 1), 30*time.Millisecond)
	defer cancel()
	if _, err := db.Exec(short, "SELECT 1"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want DeadlineExceeded", err)
	}
	if n, free := db.Stat().Created-before, idle(db); n > 1 || free < 3 {
		t.Errorf("one call opened %d connections and left %d of 4; want 1 and 3", n, free)
	}
	close(gate)
	mustOwn(t, f.ctx(t, 1), db, f.tenants[1])
}

func TestALoginThatWaitsIsNotStarved(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	db := f.open(t, tenantdb.Config{MaxConns: 2, Lanes: 1, MaxConnsPerTenant: 2, Login: f.secondLogin(t, 1)})
	stop := make(chan struct{})
	var served atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := checkOwner(f.ctx(t, 0), db, f.tenants[0], 1); err != nil {
					t.Errorf("the flood: %v", err)
					return
				}
				served.Add(1)
			}
		})
	}
	eventually(t, func() bool { return served.Load() > 100 || t.Failed() })
	if err := checkOwner(f.ctx(t, 1), db, f.tenants[1], 1); err != nil {
		t.Errorf("the other login: %v", err)
	}
	close(stop)
	wg.Wait()
}

// Each tenant is new to the DB when its calls come all at once.
func TestTheShareHoldsFromTheFirstCall(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 16)
	db := f.open(t, tenantdb.Config{MaxConns: 8, MaxConnsPerTenant: 2})
	for i, tn := range f.tenants {
		start := make(chan struct{})
		var held, most atomic.Int64
		var wg sync.WaitGroup
		for range 16 {
			wg.Go(func() {
				<-start
				err := db.InTx(f.ctx(t, i), func(tx pgx.Tx) error {
					n := held.Add(1)
					defer held.Add(-1)
					for seen := most.Load(); n > seen && !most.CompareAndSwap(seen, n); seen = most.Load() {
					}
					return checkOwner(t.Context(), tx, tn, 1)
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
		close(start)
		wg.Wait()
		if n := most.Load(); n > 2 {
			t.Errorf("tenant %d held %d connections, its share is 2", i, n)
		}
	}
}

func TestATableCalledTempIsNoTemporaryTable(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	f.admin(t, 0, "CREATE TABLE temp (a text)")
	pgtest.Exec(t, f.url, "GRANT TEMPORARY ON DATABASE "+f.database(t)+" TO "+f.tenants[0].Placement.Role)
	db := f.open(t, tenantdb.Config{MaxConns: 1})
	ctx := f.ctx(t, 0)
	for _, sql := range []string{
		"INSERT INTO temp (a) VALUES ('x')", "UPDATE items SET owner = owner WHERE owner = 'moved into temp storage'",
		"SELECT a FROM temp", "DELETE FROM temp",
	} {
		if _, err := db.Exec(ctx, sql); err != nil {
			t.Errorf("%s: %v", sql, err)
		}
	}
	for _, sql := range []string{"CREATE TABLE pg_temp.x (a int)", "CREATE TEMP TABLE x (a int)", "SELECT 1 AS a INTO TEMP x"} {
		if _, err := db.Exec(ctx, sql); !errors.Is(err, tenantdb.ErrRefused) {
			t.Errorf("%s: got %v, want ErrRefused", sql, err)
		}
	}
	wantBare(t, f, db)
}

func TestALoginThatPanicsOrReturnsNothingIsAnError(t *testing.T) {
	t.Parallel()
	for name, login := range map[string]func(context.Context, tenant.Placement) (*pgx.ConnConfig, error){
		"panics":          func(context.Context, tenant.Placement) (*pgx.ConnConfig, error) { panic("boom") },
		"returns nothing": func(context.Context, tenant.Placement) (*pgx.ConnConfig, error) { return nil, nil },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t, 2)
			f.tenants[0].Placement.Login = "somebody_else"
			db := f.open(t, tenantdb.Config{MaxConns: 2, MaxSessions: 1, Login: login})
			for range 3 {
				if _, err := db.Exec(f.ctx(t, 0), "SELECT 1"); err == nil || errors.Is(err, tenantdb.ErrBusy) {
					t.Errorf("a call: got %v, want what befell the login", err)
				}
				if _, err := db.Acquire(f.ctx(t, 0)); err == nil || errors.Is(err, tenantdb.ErrBusy) {
					t.Errorf("Acquire: got %v, want what befell the login", err)
				}
				mustOwn(t, f.ctx(t, 1), db, f.tenants[1])
			}
			if n := db.Stat().Sessions; n != 0 {
				t.Errorf("%d sessions are counted, want none", n)
			}
			db.Close() // waits for all that was leased
		})
	}
}

// A login that hung for ever would keep its place in the lane for ever.
func TestALoginThatCallsAskForHasADeadline(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	login := f.secondLogin(t, 0)
	db := f.open(t, tenantdb.Config{MaxConns: 1, Login: func(ctx context.Context, p tenant.Placement) (*pgx.ConnConfig, error) {
		if _, ok := ctx.Deadline(); !ok {
			t.Error("Config.Login was called without a deadline")
		}
		return login(ctx, p)
	}})
	mustOwn(t, f.ctx(t, 0), db, f.tenants[0])
}

// waitedOn closes asked when somebody waits for its end.
type waitedOn struct {
	context.Context
	once  *sync.Once
	asked chan struct{}
}

func (c waitedOn) Done() <-chan struct{} {
	c.once.Do(func() { close(c.asked) })
	return c.Context.Done()
}

func TestCloseTurnsAwayWaitingSessions(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	db := f.open(t, tenantdb.Config{MaxSessions: 1})
	s := acquire(t, f.ctx(t, 0), db)
	ctx := waitedOn{Context: f.ctx(t, 0), once: new(sync.Once), asked: make(chan struct{})}
	waited, closed := make(chan error, 1), make(chan struct{})
	go func() { waited <- second(db.Acquire(ctx)) }()
	<-ctx.asked
	go func() {
		db.Close()
		close(closed)
	}()
	if err := <-waited; !errors.Is(err, tenantdb.ErrClosed) {
		t.Errorf("got %v, want ErrClosed", err)
	}
	mustOwn(t, t.Context(), s, f.tenants[0]) // what is open may go on
	s.Release()
	<-closed
}

func TestAnUnusedLoginTakesNobodysConnections(t *testing.T) {
	t.Parallel()
	t.Run("the default one", func(t *testing.T) {
		t.Parallel()
		f := newFleet(t, 4)
		db := f.open(t, tenantdb.Config{MaxConns: 4, Login: f.secondLogin(t, 0, 1, 2, 3)})
		f.holdEach(t, db, 4)
	})
	t.Run("one that cannot be had", func(t *testing.T) {
		t.Parallel()
		f := newFleet(t, 5)
		f.tenants[4].Placement.Login = "nobody_at_all"
		db := f.open(t, tenantdb.Config{MaxConns: 4})
		if _, err := db.Exec(f.ctx(t, 4), "SELECT 1"); err == nil || errors.Is(err, tenantdb.ErrBusy) {
			t.Errorf("got %v, want the login's error", err)
		}
		f.holdEach(t, db, 4)
	})
}

// The other tenant's types take the same values, and would cut them off.
func TestValuesAreStoredWithTheTenantsOwnTypes(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	f.admin(t, 0, "CREATE TABLE ev (way text, at date, x real)")
	f.admin(t, 1, "CREATE TABLE ev (way text, at timestamptz, x float8)")
	const insert = "INSERT INTO ev VALUES ($1, $2, $3)"
	at := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	for way, put := range map[string]func(ctx context.Context, db *tenantdb.DB, args ...any) error{
		"call": func(ctx context.Context, db *tenantdb.DB, args ...any) error {
			return second(db.Exec(ctx, insert, args...))
		},
		"transaction": func(ctx context.Context, db *tenantdb.DB, args ...any) error {
			return db.InTx(ctx, func(tx pgx.Tx) error { return second(tx.Exec(ctx, insert, args...)) })
		},
		"batch": func(ctx context.Context, db *tenantdb.DB, args ...any) error {
			var b pgx.Batch
			b.Queue(insert, args...)
			return db.SendBatch(ctx, &b).Close()
		},
	} {
		db := f.open(t, tenantdb.Config{MaxConns: 1})
		for i, want := range []string{"2026-03-04 0.1", "2026-03-04 05:06:07 0.1"} {
			ctx := tenant.NewContext(t.Context(), f.tenants[i])
			if err := put(ctx, db, way, at, 0.1); err != nil {
				t.Errorf("tenant %d, %s: %v", i, way, err)
			}
			read := "SELECT at || ' ' || x FROM ev WHERE way = $1"
			if i == 1 {
				read = "SELECT (at AT TIME ZONE 'UTC') || ' ' || x FROM ev WHERE way = $1"
			}
			var got string
			if err := db.QueryRow(ctx, read, way).Scan(&got); err != nil || got != want {
				t.Errorf("tenant %d, %s: stored %q, %v; want %q", i, way, got, err, want)
			}
		}
	}
}

// lastMoment is a context that ends when it is first asked for its channel while a call waits, just after give was called.
type lastMoment struct {
	context.Context
	db   *tenantdb.DB
	give func()
	once sync.Once
	done chan struct{}
}

func (c *lastMoment) Done() <-chan struct{} {
	if c.db.Stat().Waiting > 0 {
		c.once.Do(func() {
			c.give()
			close(c.done)
		})
	}
	return c.done
}

func (c *lastMoment) Err() error {
	select {
	case <-c.done:
		return context.Canceled
	default:
		return nil
	}
}

// A call that is granted a connection at the moment at which it gives up gives it back.
func TestACallThatGivesUpKeepsNothing(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	db := f.open(t, tenantdb.Config{MaxConns: 1})
	for range 12 { // it chooses between the grant and the end by chance
		holder, err := db.Begin(f.ctx(t, 0))
		if err != nil {
			t.Fatal(err)
		}
		ctx := &lastMoment{Context: f.ctx(t, 0), db: db, done: make(chan struct{}), give: func() {
			if err := holder.Rollback(f.ctx(t, 0)); err != nil {
				t.Error(err)
			}
		}}
		if _, err := db.Exec(ctx, "SELECT 1"); !errors.Is(err, context.Canceled) {
			t.Errorf("error = %v, want that the context was cancelled", err)
		}
		eventually(t, func() bool { return db.Stat().InUse == 0 })
		mustOwn(t, f.ctx(t, 0), db, f.tenants[0])
	}
}
