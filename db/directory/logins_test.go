package directory

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/db/tenantdb"
	"github.com/leasehold-go/leasehold/internal/controlsql"
)

// crowded returns a configuration with few tenants for each login.
func crowded(tb testing.TB, url string, tenantsPerLogin int) Config {
	tb.Helper()
	cfg := configOf(tb, url)
	cfg.TenantsPerLogin = tenantsPerLogin
	return cfg
}

// memberships counts the roles that each of the installation's logins is a member of, as the server knows it, by the number of
// the login.
func memberships(tb testing.TB, d *Directory, conn *pgx.Conn) map[int32]int {
	tb.Helper()
	rows, err := conn.Query(tb.Context(), `SELECT l.rolname::text, count(m.roleid) FROM pg_roles l
		LEFT JOIN pg_auth_members m ON m.member = l.oid WHERE starts_with(l.rolname, $1) GROUP BY l.rolname`, d.logins.prefix)
	if err != nil {
		tb.Fatal(err)
	}
	counts := map[int32]int{}
	var name string
	var n int
	if _, err := pgx.ForEachRow(rows, []any{&name, &n}, func() error {
		number, ours := d.loginNumber(name)
		if !ours {
			tb.Errorf("there is a login %q", name)
		}
		counts[number] = n
		return nil
	}); err != nil {
		tb.Fatal(err)
	}
	return counts
}

// wantMemberships checks how many roles each login is a member of, and that each tenant's login, and no other, is a member of
// the tenant's role.
func wantMemberships(tb testing.TB, d *Directory, conn *pgx.Conn, want map[int32]int, tenants ...*tenant.Tenant) {
	tb.Helper()
	if diff := cmp.Diff(want, memberships(tb, d, conn)); diff != "" {
		tb.Errorf("memberships by login (-want +got):\n%s", diff)
	}
	for _, t := range tenants {
		login := t.Placement.Login
		if login == "" {
			login = d.loginName(0)
		}
		members := query[[]string](tb, conn, `SELECT array_agg(l.rolname::text) FROM pg_auth_members m
			JOIN pg_roles r ON r.oid = m.roleid JOIN pg_roles l ON l.oid = m.member
			WHERE r.rolname = $1 AND starts_with(l.rolname, 'leasehold_run_')`, t.Placement.Role)
		if diff := cmp.Diff([]string{login}, members); diff != "" {
			tb.Errorf("members of the role of %s (-want +got):\n%s", t.Slug, diff)
		}
	}
}

// connectAs connects as a runtime login.
func connectAs(tb testing.TB, d *Directory, login string) *pgx.Conn {
	tb.Helper()
	cc, err := d.LoginConn(tb.Context(), tenant.Placement{Login: login})
	if err != nil {
		tb.Fatal(err)
	}
	conn, err := pgx.ConnectConfig(tb.Context(), cc)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { closeConn(conn) })
	return conn
}

func notesOf(t *tenant.Tenant) string { return pgx.Identifier{t.Placement.Schema, "notes"}.Sanitize() }

func createMany(tb testing.TB, d *Directory, from, to int) (tenants []*tenant.Tenant) {
	tb.Helper()
	for i := from; i < to; i++ {
		tenants = append(tenants, mustCreate(tb, d, fmt.Sprintf("c%d", i)))
	}
	return tenants
}

// A product grows past what one login may have. Each tenant can be used through its own login, and through no other.
func TestTenantsSpreadOverLogins(t *testing.T) {
	t.Parallel()
	url := registryURL(t)
	d, other := openDirectory(t, crowded(t, url, 3)), openDirectory(t, configOf(t, url))
	tenants := createMany(t, d, 0, 7)
	logins := []string{"", d.loginName(1), d.loginName(2)}
	var want, got []string
	for i, tn := range tenants {
		want, got = append(want, logins[i/3]), append(got, tn.Placement.Login)
		if err := tn.Placement.Validate(); err != nil {
			t.Error(err)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("logins (-want +got):\n%s", diff)
	}
	wantMemberships(t, d, connectTo(t, url), map[int32]int{0: 3, 1: 3, 2: 1}, tenants...)

	conns := map[string]*pgx.Conn{}
	for _, login := range logins {
		conns[login] = connectAs(t, other, login)
	}
	for _, tn := range tenants {
		for login, conn := range conns {
			if login != tn.Placement.Login {
				wantState(t, conn, "42501", "SET ROLE "+tn.Placement.Role)
				wantState(t, conn, "42501", "SELECT * FROM "+notesOf(tn))
				continue
			}
			mustExec(t, conn, "SET ROLE "+tn.Placement.Role)
			mustExec(t, conn, "INSERT INTO "+notesOf(tn)+" (body) VALUES ($1)", string(tn.Slug))
			if got := query[string](t, conn, "SELECT body FROM "+notesOf(tn)); got != string(tn.Slug) {
				t.Errorf("%s reads %q", tn.Slug, got)
			}
			mustExec(t, conn, "RESET ROLE")
		}
	}
}

// The data layer connects as each tenant's login by itself.
func TestTheDataLayerTakesEachTenantsLogin(t *testing.T) {
	t.Parallel()
	d := openDirectory(t, crowded(t, registryURL(t), 2))
	tenants := createMany(t, d, 0, 5)
	db, err := tenantdb.Open(t.Context(), tenantdb.Config{ConnConfig: mustRuntimeConn(t, d), Login: d.LoginConn, MaxConns: 2})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var users sync.WaitGroup
	for i, tn := range tenants {
		users.Go(func() {
			ctx := tenant.NewContext(t.Context(), tn)
			if _, err := db.Exec(ctx, "INSERT INTO notes (body) VALUES ($1)", string(tn.Slug)); err != nil {
				t.Errorf("%s: %v", tn.Slug, err)
			}
			var body, login string
			if err := db.QueryRow(ctx, "SELECT body, session_user::text FROM notes").Scan(&body, &login); err != nil {
				t.Errorf("%s: %v", tn.Slug, err)
			}
			if want := d.loginName(int32(i / 2)); body != string(tn.Slug) || login != want {
				t.Errorf("%s reads %q as %s, want its own as %s", tn.Slug, body, login, want)
			}
		})
	}
	users.Wait()
}

func TestEveryReadOfATenantNamesItsLogin(t *testing.T) {
	t.Parallel()
	url := registryURL(t)
	d := openDirectory(t, crowded(t, url, 1))
	tenants := createMany(t, d, 0, 2)
	other := openDirectory(t, configOf(t, url))
	listed, err := other.List(t.Context(), ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(tenants, listed); diff != "" {
		t.Errorf("List (-want +got):\n%s", diff)
	}
	for _, want := range tenants {
		for name, read := range map[string]func() (*tenant.Tenant, error){
			"Resolve":       func() (*tenant.Tenant, error) { return other.Resolve(t.Context(), want.Slug) },
			"Resolve again": func() (*tenant.Tenant, error) { return other.Resolve(t.Context(), want.Slug) },
			"BySlug":        func() (*tenant.Tenant, error) { return other.BySlug(t.Context(), want.Slug) },
			"ByID":          func() (*tenant.Tenant, error) { return other.ByID(t.Context(), want.ID) },
		} {
			got, err := read()
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", name, diff)
			}
		}
	}
}

// The default isolation of the database must not matter.
func TestConcurrentCreatesOverfillNoLogin(t *testing.T) {
	t.Parallel()
	for _, isolation := range []string{"read committed", "repeatable read"} {
		t.Run(isolation, func(t *testing.T) {
			t.Parallel()
			url := registryURL(t)
			fillTo(t, crowded(t, url, 3), 4)
			admin := connectTo(t, url)
			mustExec(t, admin, `ALTER DATABASE `+query[string](t, admin, `SELECT quote_ident(current_database())`)+
				` SET default_transaction_isolation = '`+isolation+`'`)
			replicas := []*Directory{openDirectory(t, crowded(t, url, 3)), openDirectory(t, crowded(t, url, 3)), openDirectory(t, crowded(t, url, 3))}
			const creates = 20
			var all sync.WaitGroup
			tenants := make([]*tenant.Tenant, creates)
			for i := range creates {
				all.Go(func() {
					var err error
					if tenants[i], err = replicas[i%3].Create(t.Context(), company(fmt.Sprintf("c%d", i))); err != nil {
						t.Errorf("Create: %v", err)
					}
				})
			}
			all.Wait()
			if t.Failed() {
				return
			}
			wantMemberships(t, replicas[0], admin, map[int32]int{0: 3, 1: 3, 2: 3, 3: 3, 4: 3, 5: 3, 6: 2}, tenants...)
		})
	}
}

// Only the choice of the login is made one by one.
func TestACreationWaitsForNoOther(t *testing.T) {
	t.Parallel()
	url := registryURL(t)
	cfg := configOf(t, url)
	cfg.Migrator = migratorOf(t, waitingSQL)
	slow, quick := openDirectory(t, cfg), openDirectory(t, configOf(t, url))
	admin, renaming := connectTo(t, url), connectTo(t, url)
	mustCreate(t, quick, "acme")
	holder := holdLock(t, url)
	outcome := make(chan error, 2)
	go func() {
		_, err := slow.Create(t.Context(), company("slow"))
		outcome <- err
	}()
	waitUntilMigrating(t, url)
	mustCreate(t, quick, "while-one-migrates")
	closeConn(holder)
	if err := <-outcome; err != nil {
		t.Errorf("the creation that was held up: %v", err)
	}

	// Somebody is about to give the name to another tenant, and takes his time.
	mustExec(t, renaming, `BEGIN`)
	mustExec(t, renaming, `UPDATE tenants SET slug = 'globex' WHERE slug = 'acme'`)
	go func() {
		_, err := quick.Create(t.Context(), company("globex"))
		outcome <- err
	}()
	waitFor(t, "a creation waits for the name", func() bool {
		return len(outcome) > 0 || query[bool](t, admin, `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database()
			AND wait_event_type = 'Lock' AND query LIKE '%INSERT INTO tenants%')`)
	})
	mustCreate(t, openDirectory(t, configOf(t, url)), "while-one-waits")
	if err := <-outcome; sqlState(err) != "55P03" {
		t.Errorf("the creation of a name that is being given away: error = %v, want SQLSTATE 55P03", err)
	}
	mustExec(t, renaming, `ROLLBACK`)
	mustCreate(t, quick, "globex")
}

func TestFailedCreationsFreeTheirPlaces(t *testing.T) {
	t.Parallel()
	url := registryURL(t)
	d, admin := openDirectory(t, crowded(t, url, 2)), connectTo(t, url)
	failing := crowded(t, url, 2)
	failing.Migrator = migratorOf(t, "SELECT 1 / 0;")
	bad := openDirectory(t, failing)
	tenants := createMany(t, d, 0, 1)
	for range 3 {
		if _, err := bad.Create(t.Context(), company("bad")); sqlState(err) != "22012" {
			t.Errorf("error = %v, want a division by zero", err)
		}
	}
	wantMemberships(t, d, admin, map[int32]int{0: 1}, tenants...)

	// A creator that cannot clean up keeps its place until a sweep.
	refuseEvents(t, url, EventActivated, EventFailed)
	if _, err := d.Create(t.Context(), company("left")); sqlState(err) != "P0001" {
		t.Errorf("error = %v, want the one that was planted", err)
	}
	acceptEvents(t, url)
	tenants = append(tenants, createMany(t, d, 1, 2)...)
	wantMemberships(t, d, admin, map[int32]int{0: 2, 1: 1}, tenants...)
	if n, err := d.Sweep(t.Context()); n != 1 || err != nil {
		t.Errorf("Sweep = %d, %v, want 1", n, err)
	}
	wantMemberships(t, d, admin, map[int32]int{0: 1, 1: 1}, tenants...)
	tenants = append(tenants, createMany(t, d, 2, 5)...)
	wantMemberships(t, d, admin, map[int32]int{0: 2, 1: 2, 2: 1}, tenants...)
}

// THREATS 57: while tenants are created, no login collects more roles than it may, whose walk is what makes others wait, and
// the tenants that are there are read all the time, each through its login.
func TestMembershipsStayBoundedWhileTenantsAreCreated(t *testing.T) {
	t.Parallel()
	url := registryURL(t)
	const bound, before, rounds = 4, 6, 8
	d, admin := openDirectory(t, crowded(t, url, bound)), connectTo(t, url)
	tenants := createMany(t, d, 0, before)
	for _, tn := range tenants {
		mustExec(t, admin, "INSERT INTO "+notesOf(tn)+" (body) VALUES ($1)", string(tn.Slug))
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var readers sync.WaitGroup
	reads := make([]atomic.Int64, len(tenants))
	for i, tn := range tenants {
		conn := connectAs(t, d, tn.Placement.Login)
		readers.Go(func() {
			for ctx.Err() == nil {
				if err := readNote(t.Context(), conn, tn); err != nil {
					t.Errorf("%s: %v", tn.Slug, err)
					return
				}
				reads[i].Add(1)
			}
		})
	}
	for round := range rounds {
		done := make([]int64, len(reads))
		for i := range reads {
			done[i] = reads[i].Load()
		}
		var creates sync.WaitGroup
		for i := range 2 {
			creates.Go(func() {
				if _, err := d.Create(t.Context(), company(fmt.Sprintf("new-%d-%d", round, i))); err != nil {
					t.Errorf("Create: %v", err)
				}
			})
		}
		creates.Wait()
		for login, n := range memberships(t, d, admin) {
			if n > bound {
				t.Errorf("login %d is a member of %d roles, want at most %d", login, n, bound)
			}
		}
		waitFor(t, "everybody has read since", func() bool {
			for i := range reads {
				if reads[i].Load() == done[i] && !t.Failed() {
					return false
				}
			}
			return true
		})
	}
	stop()
	readers.Wait()
	wantMemberships(t, d, admin, map[int32]int{0: 4, 1: 4, 2: 4, 3: 4, 4: 4, 5: 2}, tenants...)
}

// readNote reads a tenant's only note, as the tenant, and checks that it is the tenant's.
func readNote(ctx context.Context, conn *pgx.Conn, t *tenant.Tenant) error {
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SET LOCAL ROLE "+t.Placement.Role); err != nil {
			return err
		}
		var body string
		if err := tx.QueryRow(ctx, "SELECT body FROM "+notesOf(t)).Scan(&body); err != nil {
			return err
		}
		if body != string(t.Slug) {
			return fmt.Errorf("read the note of %q", body)
		}
		return nil
	})
}

// wantIndexed checks that a query finds what it needs of the tenants in an index.
func wantIndexed(t *testing.T, admin *pgx.Conn, ask func(q *controlsql.Queries) error) {
	t.Helper()
	if err := pgx.BeginFunc(t.Context(), admin, func(tx pgx.Tx) error {
		if err := ask(controlsql.New(tx)); err != nil {
			return err
		}
		whole := query[int](t, admin, `SELECT seq_scan FROM pg_stat_xact_user_tables WHERE relid = 'tenants'::regclass`)
		indexed := query[int](t, admin, `SELECT idx_scan FROM pg_stat_xact_user_tables WHERE relid = 'tenants'::regclass`)
		if whole != 0 || indexed == 0 {
			t.Errorf("the table was read %d times, an index %d times", whole, indexed)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// At 10,000 tenants the choice of a login, and that of a spare, looks at an index, not at the tenants.
func TestTheChoiceOfALoginIsCheap(t *testing.T) {
	t.Parallel()
	d, url := newDirectory(t)
	admin := connectTo(t, url)
	mustExec(t, admin, `SET synchronous_commit = on`) // else VACUUM cannot tell yet that the rows are visible to everybody
	mustExec(t, admin, `ALTER TABLE tenants DISABLE TRIGGER USER`)
	mustExec(t, admin, `INSERT INTO tenants (id, slug, company, contact_name, contact_email, status, cluster, strategy, database_name,
			schema_name, role_name, login_no)
		SELECT gen_random_uuid(), 'c' || i, 'The company number ' || i, 'Ann Arbor', 'ann@company-' || i || '.example',
			CASE WHEN i % 4 = 0 THEN 'failed' ELSE 'active' END, 'default', 'schema', 'leasehold',
			't_company_' || md5(i::text), 'r_company_' || md5(i::text), i / 2000
		FROM generate_series(0, 9999) i`)
	mustExec(t, admin, `INSERT INTO spares (id, state, schema_name, role_name, login_no)
		SELECT gen_random_uuid(), 'ready', 's_' || i, 'r_' || i, 0 FROM generate_series(1, 50) i`)
	waitFor(t, "nobody is left who might see the table without these rows", func() bool {
		mustExec(t, admin, `VACUUM ANALYZE tenants`)
		return query[bool](t, admin, `SELECT relallvisible = relpages FROM pg_class WHERE oid = 'tenants'::regclass`)
	})
	wantIndexed(t, admin, func(q *controlsql.Queries) error {
		_, err := q.LockReadySpare(t.Context(), []tenant.ID{})
		return err
	})
	mustExec(t, admin, `DELETE FROM spares`)
	for bound, want := range map[int]int32{1: 5, 1499: 5, 1500: 5, 1501: 0} {
		wantIndexed(t, admin, func(q *controlsql.Queries) error {
			got, err := q.ChooseLogin(t.Context(), controlsql.ChooseLoginParams{Cluster: tenant.DefaultCluster, TenantsPerLogin: int64(bound)})
			if got != want {
				t.Errorf("ChooseLogin(%d) = %d, want %d", bound, got, want)
			}
			return err
		})
	}
	// A gap is filled first.
	mustExec(t, admin, `UPDATE tenants SET status = 'deleted' WHERE slug IN ('c2001', 'c6001')`)
	if got, err := d.queries.ChooseLogin(t.Context(), controlsql.ChooseLoginParams{
		Cluster: tenant.DefaultCluster, TenantsPerLogin: 1500,
	}); got != 1 || err != nil {
		t.Errorf("ChooseLogin = %d, %v, want 1", got, err)
	}
}
