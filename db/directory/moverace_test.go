package directory

import (
	"errors"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/internal/controlsql"
	"github.com/leasehold-go/leasehold/internal/pgserver"
	"github.com/leasehold-go/leasehold/internal/pgtest"
	"github.com/leasehold-go/leasehold/internal/transfer"
)

// A switch whose answer is lost may be committed later than the mover asks for it: it waits for it, and does not serve the tenant at the
// old place, too.
func TestASwitchThatIsCommittedLate(t *testing.T) {
	t.Parallel()
	d, url := newDirectory(t)
	acme := mustCreate(t, d, "acme")
	conn := connectTo(t, url)
	late, err := connectTo(t, url).Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	pid := late.Conn().PgConn().PID()
	entered := make(chan struct{})
	opts := MoveOptions{Strategy: tenant.DatabaseStrategy, before: func(step transfer.Step) {
		if step != transfer.StepSwitch {
			return
		}
		q := controlsql.New(late) // in place of the mover's own commit
		for _, change := range []func() (int64, error){
			func() (int64, error) { return q.SwitchMove(t.Context(), acme.ID) }, func() (int64, error) { return q.SwitchTenant(t.Context(), acme.ID) },
		} {
			if n, err := change(); n != 1 || err != nil {
				t.Errorf("%d rows: %v", n, err)
			}
		}
		close(entered)
	}}
	type result struct {
		now *tenant.Tenant
		err error
	}
	moving := make(chan result, 1)
	go func() {
		now, err := d.Move(t.Context(), acme.ID, opts)
		moving <- result{now, err}
	}()
	select {
	case <-entered:
	case r := <-moving:
		skipWithoutDump(t, r.err)
		t.Fatal(r.err)
	}
	var blocked []int32
	waitFor(t, "the mover is at its switch", func() bool {
		blocked = query[[]int32](t, conn, `SELECT array_agg(pid) FROM pg_stat_activity WHERE $1 = ANY (pg_blocking_pids(pid))`, int32(pid))
		return len(blocked) > 0
	})
	mustExec(t, conn, `SELECT pg_terminate_backend($1)`, blocked[0])
	waitFor(t, "somebody asks what has become of it", func() bool {
		return query[bool](t, conn, `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE $1 = ANY (pg_blocking_pids(pid)) AND pid <> $2)`, int32(pid), blocked[0])
	})
	if err := late.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	r := <-moving
	if r.now == nil || r.now.Placement.Strategy != tenant.DatabaseStrategy {
		t.Fatalf("%+v %v", r.now, r.err)
	}
	dropAtEnd(t, r.now)
	if query[bool](t, conn, `SELECT to_regnamespace($1) IS NOT NULL`, acme.Placement.Schema) {
		t.Error("it can be served at the old place")
	}
	if _, err := d.RecoverMoves(t.Context()); err != nil {
		t.Error(err)
	}
	wantServed(t, openMovingDB(t, d), r.now)
}

// What has the tenant's name at the new place is not of the move, and is not dropped when the move fails.
func TestMoveToAnOccupiedPlace(t *testing.T) {
	t.Parallel()
	d, _ := newDirectory(t)
	next := pgtest.Database(t)
	mustAddCluster(t, d, NewCluster{Name: "next", URL: next})
	acme := mustCreate(t, d, "acme")
	table := acme.Placement.Schema + ".precious"
	pgtest.Exec(t, next, "CREATE SCHEMA "+acme.Placement.Schema, "CREATE TABLE "+table+" (n int)")
	if _, err := moved(t, d, acme.ID, MoveOptions{Cluster: "next"}); !errors.Is(err, ErrOccupied) {
		t.Errorf("moved: %v", err)
	}
	if !query[bool](t, pgtest.Connect(t, next), "SELECT to_regclass($1) IS NOT NULL", table) {
		t.Error("it was dropped")
	}
	wantServed(t, openMovingDB(t, d), acme)
}

// While a tenant moves from one database of its own to another, its password may be rotated, and all may be sealed with another key: it
// arrives with the password that it has then.
func TestPasswordsChangeDuringAMove(t *testing.T) {
	t.Parallel()
	url := registryURL(t)
	newKey := []byte("the new secret key, of 32 bytes.")
	cfg := configOf(t, url)
	before := openDirectory(t, cfg)
	cfg.SecretKey, cfg.OldSecretKeys = newKey, [][]byte{testKey}
	both := openDirectory(t, cfg)
	cfg.OldSecretKeys = nil
	after := openDirectory(t, cfg)
	other := pgtest.Start(t, pgserver.Config{})
	mustAddCluster(t, before, NewCluster{Name: "east", URL: other.URL(pgserver.Administrator, pgserver.Database)})
	if n, err := both.Reseal(t.Context()); n != 1 || err != nil { // the cluster's URL
		t.Fatalf("sealed %d anew: %v", n, err)
	}
	rotate := func(tb testing.TB, id tenant.ID) {
		tb.Helper()
		if err := both.RotatePassword(tb.Context(), id); err != nil {
			tb.Error(err)
		}
	}
	reseal := func(tb testing.TB, _ tenant.ID) {
		tb.Helper()
		if _, err := both.Reseal(tb.Context()); err != nil {
			tb.Error(err)
		}
	}
	for _, test := range []struct {
		name   string
		mover  *Directory
		n      NewTenant
		opts   MoveOptions
		change func(testing.TB, tenant.ID)
	}{
		{"a new one is sealed anew", before, company("sealed"), MoveOptions{Strategy: tenant.DatabaseStrategy}, reseal},
		{"it is sealed anew", both, withDatabase("resealed"), MoveOptions{Cluster: "east"}, reseal},
		{"it is rotated", both, withDatabase("rotated"), MoveOptions{Cluster: "east"}, rotate},
	} {
		t.Run(test.name, func(t *testing.T) {
			created := mustHouse(t, before, on(tenant.DefaultCluster, test.n))
			test.opts.before = func(step transfer.Step) {
				if step == transfer.StepCopy {
					test.change(t, created.ID)
				}
			}
			now, err := moved(t, test.mover, created.ID, test.opts)
			if err != nil {
				t.Fatal(err)
			}
			conn, err := dialFor(t.Context(), after, now.Placement)
			if err != nil {
				t.Fatal(err)
			}
			closeConn(conn)
		})
	}
}

// A tenant that is on its way to a cluster takes up a place there, and a place of one of its logins; one that stays on its cluster takes none.
func TestMovesTakeUpRoom(t *testing.T) {
	t.Parallel()
	cfg := configOf(t, registryURL(t))
	cfg.TenantsPerLogin = 1
	d := openDirectory(t, cfg)
	mustAddCluster(t, d, NewCluster{Name: "next", URL: pgtest.Database(t), MaxTenants: 2})
	mustAddCluster(t, d, NewCluster{Name: "full", URL: pgtest.Database(t), MaxTenants: 1})
	acme := mustHouse(t, d, on(tenant.DefaultCluster, company("acme")))
	var neighbour *tenant.Tenant
	now, err := moved(t, d, acme.ID, MoveOptions{Cluster: "next", before: func(step transfer.Step) {
		if step != transfer.StepCapture {
			return
		}
		neighbour = mustHouse(t, d, on("next", company("neighbour")))
		if _, err := d.Create(t.Context(), on("next", company("third"))); !errors.Is(err, ErrNoRoom) {
			t.Errorf("a third: %v", err)
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	if now.Placement.Login == neighbour.Placement.Login {
		t.Errorf("both have the login %s", now.Placement.Login)
	}
	stays := mustHouse(t, d, on("full", company("stays")))
	if _, err := moved(t, d, stays.ID, MoveOptions{Strategy: tenant.DatabaseStrategy}); err != nil {
		t.Errorf("on its own cluster: %v", err)
	}
}

// A tenant that was never finished, an import that was killed, a copy and a spare may have more tables than one transaction can lock.
func TestAThousandTablesAreTornDownWithFewLocks(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, pgserver.Config{Settings: map[string]string{
		"max_locks_per_transaction": "64", "max_connections": "20", "max_pred_locks_per_transaction": "10",
	}})
	url := server.URL(pgserver.Administrator, pgserver.Database)
	cfg := configOf(t, url)
	if _, err := Migrate(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	d := openDirectory(t, cfg)
	killed, copied := mustCreate(t, d, "killed"), mustCreate(t, d, "copied")
	fillTo(t, cfg, 1)
	conn := connectTo(t, url)
	spares := listSpares(t, conn)
	for _, schema := range []string{spares[0].SchemaName, killed.Placement.Schema, copied.Placement.Schema} {
		mustExec(t, conn, "SET search_path = "+schema)
		mustExec(t, conn, fmt.Sprintf(manyTablesSQL, 1000))
	}
	mustExec(t, conn, "SET search_path = leasehold")
	wantState(t, conn, codeOutOfMemory, "DROP SCHEMA "+pgx.Identifier{killed.Placement.Schema}.Sanitize()+" CASCADE")
	mustExec(t, conn, "UPDATE tenants SET status = 'provisioning' WHERE id = $1", killed.ID)
	if n, err := d.Sweep(t.Context()); n != 1 || err != nil {
		t.Errorf("swept %d: %v", n, err)
	}
	if _, err := d.FillSpares(t.Context()); err != nil { // down to none
		t.Error(err)
	}
	row, err := d.queries.GetTenant(t.Context(), copied.ID)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.dropCopy(t.Context(), row, row.SchemaName); err != nil {
		t.Error(err)
	}
	mustExec(t, conn, "UPDATE tenants SET status = 'failed' WHERE id = $1", copied.ID)
	wantGone(t, conn, spares...)
	wantNoTraces(t, d, conn)
}

// A record of before a move leads to the new place, whether or not a connection to the old one is open, and also when that is gone.
func TestARecordOfBeforeAMove(t *testing.T) {
	t.Parallel()
	d, _ := newDirectory(t)
	for name, n := range map[string]NewTenant{"by schema": on(tenant.DefaultCluster, company("acme")), "by database": withDatabase("beta")} {
		t.Run(name, func(t *testing.T) {
			was := mustHouse(t, d, n)
			strategy := tenant.DatabaseStrategy
			if was.Placement.Strategy == strategy {
				strategy = tenant.SchemaStrategy
			}
			if _, err := moved(t, d, was.ID, MoveOptions{Strategy: strategy}); err != nil {
				t.Fatal(err)
			}
			wantServed(t, openMovingDB(t, d), was)
			if err := d.ConfirmMove(t.Context(), was.ID); err != nil {
				t.Fatal(err)
			}
			wantServed(t, openMovingDB(t, d), was)
		})
	}
}
