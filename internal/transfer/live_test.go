package transfer_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/db/tenantdb"
	"github.com/leasehold-go/leasehold/internal/pgtest"
	"github.com/leasehold-go/leasehold/internal/transfer"
)

// site is a tenant with users, who reach it through real handles, and the two places that it may be at. Which one it is stands in a
// registry, a table with one row.
type site struct {
	places   map[string]transfer.Place // by the name of the cluster
	registry string                    // its URL
	pool     *pgxpool.Pool             // to the registry
	db       *tenantdb.DB
	id       tenant.ID
	// The users' calls: which rows of theirs must be there.
	acked sync.Map // of e-mail address → the last number that was acknowledged
	calls atomic.Int64
	tried sync.Map // of e-mail address → the last number that was sent
	// visits are the addresses whose visit must be there, once. The table has no key.
	visits sync.Map
}

const (
	atSource = "source"
	atTarget = "target"
)

func newSite(tb testing.TB, source, dest transfer.Place) *site {
	tb.Helper()
	s := &site{places: map[string]transfer.Place{atSource: source, atTarget: dest}, registry: pgtest.Database(tb), id: tenant.ID(uuid.New())}
	pgtest.Exec(tb, s.registry, "CREATE TABLE registry (place text NOT NULL)", "INSERT INTO registry VALUES ('source')")
	var err error
	if s.pool, err = pgxpool.New(tb.Context(), s.registry); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(s.pool.Close)
	login, err := s.login(tb.Context(), tenant.Placement{Cluster: atSource})
	if err != nil {
		tb.Fatal(err)
	}
	s.db, err = tenantdb.Open(tb.Context(), tenantdb.Config{
		ConnConfig: login, Cluster: atSource, Login: s.login, Refresh: s.refresh, MaxConns: 4,
	})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(s.db.Close)
	return s
}

// login is that of the tenant at one of the places.
func (s *site) login(_ context.Context, p tenant.Placement) (*pgx.ConnConfig, error) {
	place := s.places[p.Cluster]
	config := place.Admin.Copy()
	config.User, config.Password = place.Logins[0], password
	return config, nil
}

// current is the tenant's record.
func (s *site) current(ctx context.Context) (*tenant.Tenant, error) {
	var name string
	if err := s.pool.QueryRow(ctx, "SELECT place FROM registry").Scan(&name); err != nil {
		return nil, err
	}
	place := s.places[name]
	return &tenant.Tenant{ID: s.id, Slug: "acme", Status: tenant.Active, Placement: tenant.Placement{
		Cluster: name, Strategy: tenant.SchemaStrategy, Schema: place.Schema, Role: place.Role, Login: place.Logins[0],
	}}, nil
}

// refresh waits until the tenant is at another place or is served again where it was.
func (s *site) refresh(ctx context.Context, was *tenant.Tenant) (*tenant.Tenant, error) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		now, err := s.current(ctx)
		if err != nil || now.Placement != was.Placement {
			return now, err
		}
		served, err := s.served(ctx, s.places[now.Placement.Cluster])
		if err != nil || served {
			return now, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-tick.C:
		}
	}
}

// served reports whether the tenant's login may take the role and there is the schema.
func (s *site) served(ctx context.Context, p transfer.Place) (yes bool, err error) {
	conn, err := pgx.ConnectConfig(ctx, p.Admin)
	if err != nil {
		return false, err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	err = conn.QueryRow(ctx, "SELECT pg_has_role($1::name, $2::name, 'MEMBER') AND to_regnamespace($3) IS NOT NULL", p.Logins[0], p.Role, p.Schema).Scan(&yes)
	return yes, err
}

// use works with the tenant until the returned function is called, which ends the test if a call has failed.
func (s *site) use(tb testing.TB, users int) (stop func()) {
	tb.Helper()
	ctx, cancel := context.WithCancel(tb.Context())
	var working sync.WaitGroup
	failed := make(chan error, users)
	for n := range users {
		working.Go(func() {
			if err := s.work(ctx, fmt.Sprintf("user%d-%s", n, uuid.NewString())); err != nil && ctx.Err() == nil {
				failed <- err
			}
		})
	}
	stop = sync.OnceFunc(func() {
		cancel()
		working.Wait()
		close(failed)
		for err := range failed {
			tb.Error(err)
		}
	})
	tb.Cleanup(stop)
	return stop
}

// work is what one user does: new customers, whose names are changed some times; every third is deleted. A request takes the tenant's
// record once.
func (s *site) work(ctx context.Context, user string) error {
	for n := 0; ctx.Err() == nil; n++ {
		t, err := s.current(ctx)
		if err != nil {
			return err
		}
		ctx := tenant.NewContext(ctx, t)
		email := fmt.Sprintf("%s-%d@example.com", user, n)
		s.tried.Store(email, 0)
		if _, err := s.db.Exec(ctx, "INSERT INTO customers (name, email) VALUES ('0', $1)", email); err != nil {
			return fmt.Errorf("insert: %w", err)
		}
		s.acked.Store(email, 0)
		if _, err := s.db.Exec(ctx, "INSERT INTO visits VALUES ($1, $2), ('everybody', '')", email, ""); err != nil {
			return fmt.Errorf("visit: %w", err)
		}
		if _, err := s.db.Exec(ctx, "UPDATE visits SET what = 'seen' WHERE who = $1", email); err != nil {
			return fmt.Errorf("change a visit: %w", err)
		}
		s.visits.Store(email, true)
		for i := 1; i <= 2; i++ {
			s.tried.Store(email, i)
			if _, err := s.db.Exec(ctx, "UPDATE customers SET name = $2 WHERE email = $1", email, fmt.Sprint(i)); err != nil {
				return fmt.Errorf("update: %w", err)
			}
			s.acked.Store(email, i)
		}
		err = s.db.InTx(ctx, func(tx pgx.Tx) error {
			var id int64
			if err := tx.QueryRow(ctx, "SELECT id FROM customers WHERE email = $1", email).Scan(&id); err != nil {
				return err
			}
			_, err := tx.Exec(ctx, "INSERT INTO invoices (customer_id, currency) VALUES ($1, 'EUR')", id)
			return err
		})
		// A transaction that was open and had not written when the move came to its end is not carried over.
		if pgErr, ok := errors.AsType[*pgconn.PgError](err); err != nil && (!ok || pgErr.Code != "42P01") {
			return fmt.Errorf("invoice: %w", err)
		}
		if n%3 == 0 && err == nil {
			s.tried.Store(email, gone)
			if err := s.forget(ctx, email); err != nil {
				return err
			}
			s.acked.Store(email, gone)
		}
		s.calls.Add(1)
	}
	return nil
}

// gone is the number of a customer that was deleted.
const gone = 99

func (s *site) forget(ctx context.Context, email string) error {
	b := &pgx.Batch{}
	b.Queue("DELETE FROM invoices WHERE customer_id = (SELECT id FROM customers WHERE email = $1)", email)
	b.Queue("DELETE FROM customers WHERE email = $1", email)
	if err := s.db.SendBatch(ctx, b).Close(); err != nil {
		return fmt.Errorf("delete: %w", err)
	}
	return nil
}

// await waits until the users have finished some more rounds, so that they are served.
func (s *site) await(tb testing.TB, rounds int64) {
	tb.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for until := s.calls.Load() + rounds; s.calls.Load() < until; {
		select {
		case <-tb.Context().Done():
			tb.Fatal("the users are not served")
		case <-tick.C:
		}
	}
}

// check compares what the users were told with what there is.
func (s *site) check(tb testing.TB) {
	tb.Helper()
	now, err := s.current(context.WithoutCancel(tb.Context()))
	if err != nil {
		tb.Fatal(err)
	}
	rows, err := connect(tb, s.places[now.Placement.Cluster]).Query(tb.Context(), "SELECT email, name FROM customers WHERE email LIKE 'user%'")
	if err != nil {
		tb.Fatal(err)
	}
	found := map[string]string{}
	var email, name string
	if _, err := pgx.ForEachRow(rows, []any{&email, &name}, func() error {
		found[email] = name
		return nil
	}); err != nil {
		tb.Fatal(err)
	}
	n := 0
	s.acked.Range(func(key, acked any) bool {
		tried, _ := s.tried.Load(key)
		name, there := found[key.(string)]
		switch n++; {
		case tried == gone && !there:
		case acked == gone:
			tb.Errorf("%v was deleted and is there", key)
		case !there || name != fmt.Sprint(acked) && name != fmt.Sprint(tried):
			tb.Errorf("%v has %q, acknowledged %v, tried %v", key, name, acked, tried)
		}
		return true
	})
	s.checkVisits(tb, s.places[now.Placement.Cluster])
	tb.Logf("%d customers at the %s", n, now.Placement.Cluster)
}

func (s *site) checkVisits(tb testing.TB, p transfer.Place) {
	tb.Helper()
	rows, err := connect(tb, p).Query(tb.Context(), "SELECT who, string_agg(what, ',') FROM visits WHERE who <> 'everybody' GROUP BY who")
	if err != nil {
		tb.Fatal(err)
	}
	found := map[string]string{}
	var who, what string
	if _, err := pgx.ForEachRow(rows, []any{&who, &what}, func() error {
		found[who] = what
		return nil
	}); err != nil {
		tb.Fatal(err)
	}
	s.visits.Range(func(key, _ any) bool {
		if got := found[key.(string)]; got != "seen" {
			tb.Errorf("the visits of %v: %q", key, got)
		}
		return true
	})
	everybody := read[int](tb, p, "SELECT count(*) FROM visits WHERE who = 'everybody'")
	if each := len(found); everybody != each {
		tb.Errorf("%d visits of everybody, %d of single ones", everybody, each)
	}
}

func (s *site) move() transfer.Move {
	return transfer.Move{Source: s.places[atSource], Target: s.places[atTarget], Switch: func(ctx context.Context) error {
		_, err := s.pool.Exec(ctx, "UPDATE registry SET place = 'target'")
		return err
	}}
}

// A tenant is moved while it is used. Its users wait a little and notice nothing else.
func TestMoveWhileInUse(t *testing.T) {
	t.Parallel()
	source, dest := twoHouses(t)
	fill(t, source, 200)
	s := newSite(t, source, dest)
	stop := s.use(t, 3)
	s.await(t, 20)
	if err := run(t, s.move()); err != nil {
		t.Fatal(err)
	}
	s.await(t, 20)
	stop()
	s.check(t)
	checkDrift(t, productSet(t), dest)
	if n := read[int](t, dest, "SELECT count(*) FROM customers WHERE name LIKE 'Ada%'"); n != 200 {
		t.Errorf("%d of the old customers", n)
	}
	// Nothing was written to the old copy that the new one does not have.
	old := source
	old.Schema = transfer.OldSchema(source.Schema)
	for _, id := range idsOf(t, old) {
		if !read[bool](t, dest, fmt.Sprintf("SELECT coalesce((SELECT last_value >= %d FROM customers_id_seq), false)", id)) {
			t.Fatalf("the old copy has customer %d, which the new one cannot have", id)
		}
	}
}

func idsOf(tb testing.TB, p transfer.Place) []int64 {
	tb.Helper()
	return read[[]int64](tb, p, "SELECT array_agg(id) FROM (SELECT id FROM customers ORDER BY id DESC LIMIT 1) c")
}

// A transaction that does not end makes the move give up its hold, and in the end itself. The users are served all the while.
func TestMoveGivesUp(t *testing.T) {
	t.Parallel()
	source, dest := twoHouses(t)
	s := newSite(t, source, dest)
	stop := s.use(t, 2)
	s.await(t, 5)
	blocker := connect(t, source)
	if _, err := blocker.PgConn().Exec(t.Context(), "BEGIN; INSERT INTO customers (name, email) VALUES ('Bo', 'bo@example.com')").ReadAll(); err != nil {
		t.Fatal(err)
	}
	m := s.move()
	m.HoldTime, m.HoldTries = 50*time.Millisecond, 2
	// The triggers were there first.
	m.Before = func(ctx context.Context, step transfer.Step) error {
		if step != transfer.StepCapture {
			return nil
		}
		_, err := blocker.PgConn().Exec(ctx, "COMMIT").ReadAll()
		return err
	}
	holds := 0
	m.Progress = func(p transfer.Progress) {
		switch {
		case p.Table != "":
		case p.Step == transfer.StepCompare && p.Rows == 0 && holds == 0:
			_, _ = blocker.PgConn().Exec(context.WithoutCancel(t.Context()), "BEGIN; UPDATE customers SET name = 'Bob' WHERE email = 'bo@example.com'").ReadAll()
		case p.Step == transfer.StepHold:
			holds++
		}
	}
	// When it has given up for good, what noted the changes can go.
	m.Logger = slog.New(givenUp(func() {
		if holds == m.HoldTries {
			_, _ = blocker.PgConn().Exec(context.WithoutCancel(t.Context()), "ROLLBACK").ReadAll()
		}
	}))
	if err := run(t, m); !errors.Is(err, transfer.ErrHeld) || holds != 2 {
		t.Errorf("%v after %d holds", err, holds)
	}
	s.await(t, 5)
	checkServed(t, source)
	stop()
	s.check(t)
	if now, err := s.current(t.Context()); err != nil || now.Placement.Cluster != atSource {
		t.Errorf("%+v %v", now, err)
	}
}

// givenUp is a log whose warnings call a function.
type givenUp func()

func (givenUp) Enabled(context.Context, slog.Level) bool { return true }
func (g givenUp) Handle(context.Context, slog.Record) error {
	g()
	return nil
}
func (g givenUp) WithAttrs([]slog.Attr) slog.Handler { return g }
func (g givenUp) WithGroup(string) slog.Handler      { return g }

// A transaction that is open and has touched nothing when the move comes to its end can write nowhere afterwards.
func TestMoveFencesOpenTransactions(t *testing.T) {
	t.Parallel()
	source, dest := twoHouses(t)
	s := newSite(t, source, dest)
	was, err := s.current(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx := tenant.NewContext(t.Context(), was)
	// What it will run is planned already.
	insert := func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "INSERT INTO customers (name, email) VALUES ('Bo', 'bo@example.com')")
		return err
	}
	for range 3 {
		if err := s.db.InTx(ctx, insert); err != nil {
			t.Fatal(err)
		}
	}
	tx, err := s.db.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := run(t, s.move()); err != nil {
		t.Fatal(err)
	}
	if err := insert(tx); err == nil {
		t.Error("it wrote")
	}
	_ = tx.Rollback(ctx)
	old := source
	old.Schema = transfer.OldSchema(source.Schema)
	if diff := cmp.Diff(content(t, dest), content(t, old)); diff != "" {
		t.Error(diff)
	}
	// The stale record leads to the new place.
	if err := s.db.InTx(ctx, insert); err != nil {
		t.Error(err)
	}
	if n := read[int](t, dest, "SELECT count(*) FROM customers"); n != 4 {
		t.Errorf("%d customers", n)
	}
}
