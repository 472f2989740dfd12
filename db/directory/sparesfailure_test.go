package directory

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/leasehold-go/leasehold/db/migrate"
	"github.com/leasehold-go/leasehold/internal/controlsql"
	"github.com/leasehold-go/leasehold/internal/pgtest"
)

// hinder does something to a filling of one spare that is in the middle of its migrations, and returns the filling's error.
func hinder(t *testing.T, url string, how func(cancel func(), migration, filler int, release func())) error {
	t.Helper()
	d := openDirectory(t, keeping(t, url, 1, waitingSQL))
	holder := holdLock(t, url)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	outcome := make(chan error, 1)
	go func() {
		_, err := d.FillSpares(ctx)
		outcome <- err
	}()
	migration := waitUntilMigrating(t, url)
	filler := query[int](t, holder, `SELECT pid FROM pg_locks JOIN pg_database d ON d.oid = database
		WHERE datname = current_database() AND locktype = 'advisory' AND granted
		  AND classid::bigint << 32 | objid::bigint = $1`, fillLock)
	if rows := listSpares(t, connectTo(t, url)); len(rows) != 1 || rows[0].State != stateBuilding {
		t.Errorf("in the middle: %+v", rows)
	}
	how(cancel, migration, filler, func() { closeConn(holder) })
	return <-outcome
}

// wantFinished checks that the next filling finishes what another has begun.
func wantFinished(t *testing.T, url string) {
	t.Helper()
	admin := connectTo(t, url)
	begun := listSpares(t, admin)
	if len(begun) != 1 || begun[0].State != stateBuilding {
		t.Fatalf("a broken-off filling has left %+v, want a spare that is not finished", begun)
	}
	wantNothingLeft(t, url)
	d := openDirectory(t, keeping(t, url, 1))
	if acme := mustCreate(t, d, "acme"); acme.ID == begun[0].ID {
		t.Error("a tenant got what is not finished")
	}
	mustFill(t, d, 1)
	if rows := wantSpares(t, d, admin, 1); !slices.Equal(schemasOf(rows), schemasOf(begun)) {
		t.Errorf("the spare is %v, want the one that was begun, %v", schemasOf(rows), schemasOf(begun))
	}
}

func TestAFillingThatBreaksOffIsFinishedByTheNext(t *testing.T) {
	t.Parallel()
	t.Run("cancelled", func(t *testing.T) {
		t.Parallel()
		url := registryURL(t)
		if err := hinder(t, url, func(cancel func(), _, _ int, _ func()) { cancel() }); !errors.Is(err, context.Canceled) {
			t.Errorf("error = %v, want %v", err, context.Canceled)
		}
		wantFinished(t, url)
	})
	t.Run("migration's connection lost", func(t *testing.T) {
		t.Parallel()
		url := registryURL(t)
		if err := hinder(t, url, func(_ func(), migration, _ int, _ func()) { terminate(t, url, migration) }); err == nil {
			t.Error("FillSpares succeeded")
		}
		wantFinished(t, url)
	})
	t.Run("lock lost", func(t *testing.T) {
		t.Parallel()
		url := registryURL(t)
		if err := hinder(t, url, func(_ func(), _, filler int, release func()) {
			terminate(t, url, filler)
			release()
		}); err == nil {
			t.Error("FillSpares succeeded")
		}
		// Its migration went on to the end. It has a file that the next program lacks, so only one that has it too finishes it.
		d, admin := openDirectory(t, keeping(t, url, 1, waitingSQL)), connectTo(t, url)
		mustFill(t, d, 1)
		wantSpares(t, d, admin, 1)
	})
	t.Run("killed", func(t *testing.T) {
		t.Parallel()
		url := registryURL(t)
		killInTheMiddle(t, url, "fill")
		wantFinished(t, url)
	})
	t.Run("killed, and no spares wanted any more", func(t *testing.T) {
		t.Parallel()
		url := registryURL(t)
		killInTheMiddle(t, url, "fill")
		admin := connectTo(t, url)
		begun := listSpares(t, admin)
		fillTo(t, configOf(t, url), 0)
		wantGone(t, admin, begun...)
		wantNothingLeft(t, url)
	})
}

// A batch whose transaction fails leaves nothing, and a login that is gone is made anew the next time.
func TestABatchThatFailsLeavesNothing(t *testing.T) {
	t.Parallel()
	url := registryURL(t)
	d, admin := openDirectory(t, keeping(t, url, 3)), connectTo(t, url)
	login := mustRuntimeConn(t, d).User
	dropLogin(t, url, login)
	if n, err := d.FillSpares(t.Context()); n != 0 || sqlState(err) != "42704" {
		t.Errorf("FillSpares = %d, %v, want that the role does not exist", n, err)
	}
	if rows := listSpares(t, admin); len(rows) != 0 {
		t.Errorf("rows are left: %+v", rows)
	}
	wantNothingLeft(t, url)
	mustFill(t, d, 3)
	wantSpares(t, d, admin, 3)
}

// Whoever fails to sign up leaves the spare as it was.
func TestASignUpThatFailsLeavesTheSpare(t *testing.T) {
	t.Parallel()
	for _, kind := range []EventKind{EventStarted, EventActivated} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			url := registryURL(t)
			d, admin := openDirectory(t, keeping(t, url, 1)), connectTo(t, url)
			mustFill(t, d, 1)
			refuseEvents(t, url, kind)
			if _, err := d.Create(t.Context(), company("acme")); sqlState(err) != "P0001" {
				t.Errorf("error = %v, want the one that was planted", err)
			}
			acceptEvents(t, url)
			spares := wantSpares(t, d, admin, 1)
			wantNothingLeft(t, url)
			if acme := mustCreate(t, d, "acme"); acme.ID != spares[0].ID {
				t.Errorf("the tenant is %s, want the spare %s", acme.ID, spares[0].ID)
			}
		})
	}
	t.Run("name being given away", func(t *testing.T) {
		t.Parallel()
		url := registryURL(t)
		d, renaming := openDirectory(t, keeping(t, url, 2)), connectTo(t, url)
		mustCreate(t, d, "acme")
		mustFill(t, d, 2)
		mustExec(t, renaming, `BEGIN`)
		mustExec(t, renaming, `UPDATE tenants SET slug = 'globex' WHERE slug = 'acme'`)
		if _, err := d.Create(t.Context(), company("globex")); sqlState(err) != "55P03" {
			t.Errorf("error = %v, want SQLSTATE 55P03", err)
		}
		mustExec(t, renaming, `ROLLBACK`)
		wantSpares(t, d, renaming, 2)
		mustCreate(t, d, "globex")
		wantSpares(t, d, renaming, 1)
	})
	t.Run("name of a dead creator", func(t *testing.T) {
		t.Parallel()
		url := registryURL(t)
		killInTheMiddle(t, url, "create")
		fillTo(t, configOf(t, url), 1)
		d := openDirectory(t, configOf(t, url))
		waitFor(t, "the name is free", func() bool {
			created, err := d.Create(t.Context(), company("acme"))
			if err != nil && !errors.Is(err, ErrSlugTaken) {
				t.Fatalf("Create: %v", err)
			}
			if err == nil {
				wantNothingLeft(t, url, created)
			}
			return err == nil
		})
	})
}

// The confirmation of a commit may be lost. What was done counts, as soon as the server has finished with it.
func TestASignUpWhoseEndIsNotKnownIsLookedUp(t *testing.T) {
	t.Parallel()
	url := registryURL(t)
	d, admin := openDirectory(t, keeping(t, url, 2)), connectTo(t, url)
	mustFill(t, d, 2)
	spare := listSpares(t, admin)[0]
	lost := errors.New("connection lost")

	// The old transaction, which still holds its lock, is about to be committed.
	tx, err := admin.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	acme, err := d.giveSpare(t.Context(), controlsql.New(tx), tx, spare, company("acme"), "acme")
	if err != nil {
		t.Fatal(err)
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	outcome := make(chan error, 1)
	go func() {
		row, err := d.settle(cancelled, acme, lost)
		if err == nil && row.ID != acme.ID {
			err = errors.New("it is another tenant")
		}
		outcome <- err
	}()
	watcher := connectTo(t, url)
	waitFor(t, "somebody waits for the transaction", func() bool {
		return len(outcome) > 0 || query[bool](t, watcher, `SELECT EXISTS (SELECT FROM pg_locks JOIN pg_database d ON d.oid = database
			WHERE datname = current_database() AND locktype = 'advisory' AND NOT granted)`)
	})
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-outcome; err != nil {
		t.Errorf("settle: %v, want the tenant", err)
	}

	// This one never was.
	if _, err := d.settle(t.Context(), controlsql.Tenant{ID: listSpares(t, admin)[0].ID}, lost); !errors.Is(err, lost) {
		t.Errorf("settle of what was rolled back: %v, want %v", err, lost)
	}

	// The connection breaks in the middle of a sign-up.
	mustExec(t, admin, `CREATE FUNCTION leasehold.cut() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NEW; END $$`)
	mustExec(t, admin, `CREATE TRIGGER cut BEFORE INSERT ON leasehold.events FOR EACH ROW WHEN (NEW.kind = 'create.activated')
		EXECUTE FUNCTION leasehold.cut()`)
	if _, err := d.Create(t.Context(), company("globex")); err == nil {
		t.Error("Create succeeded over a broken connection")
	}
	mustExec(t, admin, `DROP FUNCTION leasehold.cut CASCADE`)
	waitFor(t, "the server has released what the broken connection held", func() bool {
		return query[bool](t, admin, `SELECT NOT EXISTS (SELECT FROM pg_locks JOIN pg_database d ON d.oid = database
			WHERE datname = current_database() AND locktype = 'advisory' AND mode = 'ExclusiveLock')`)
	})
	wantSpares(t, d, admin, 1)
	mustCreate(t, d, "globex")
}

// What somebody has done by hand to a spare does no harm to those who sign up, and is put right.
func TestASpareThatIsBrokenIsReplaced(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ name, how string }{
		{"schema gone", `DROP SCHEMA %[1]s CASCADE`},
		{"role gone", `DROP OWNED BY %[2]s; DROP ROLE %[2]s`},
		{"membership gone", `SET ROLE leasehold; REVOKE %[2]s FROM %[3]s; RESET ROLE`},
		{"ledger gone", `DROP TABLE %[1]s.schema_migrations`},
		{"ledger of another kind", `ALTER TABLE %[1]s.schema_migrations RENAME version TO v`},
	} {
		for _, others := range []int{0, 1} {
			t.Run(fmt.Sprintf("%s, %d others", tc.name, others), func(t *testing.T) {
				t.Parallel()
				url := registryURL(t)
				d, admin := openDirectory(t, keeping(t, url, 1+others)), connectTo(t, url)
				mustFill(t, d, 1+others)
				broken := wantSpares(t, d, admin, 1+others)[0]
				super := pgtest.Connect(t, pgtest.SuperURL(t, url))
				for _, sql := range strings.Split(fmt.Sprintf(tc.how, broken.SchemaName, broken.RoleName, d.loginName(0)), "; ") {
					mustExec(t, super, sql)
				}
				acme := mustCreate(t, d, "acme")
				if acme.ID == broken.ID {
					t.Fatal("the tenant got the broken spare")
				}
				mustExec(t, admin, "INSERT INTO "+notesOf(acme)+" (body) VALUES ('acme')")
				if err := readNote(t.Context(), connectAs(t, d, ""), acme); err != nil {
					t.Error(err)
				}
				if _, err := d.FillSpares(t.Context()); err != nil {
					t.Logf("the filling that finds it: %v", err)
					if _, err := d.FillSpares(t.Context()); err != nil {
						t.Errorf("the filling after: %v", err)
					}
				}
				wantSpares(t, d, admin, 1+others)
				wantGone(t, admin, broken)
				wantNothingLeft(t, url, acme)
			})
		}
	}
}

// The files are at fault, not the spares: those that are there stay, for the program before, and no more are made than one.
func TestAMigrationThatFailsKeepsTheSpares(t *testing.T) {
	t.Parallel()
	url := registryURL(t)
	before, admin := openDirectory(t, keeping(t, url, 2)), connectTo(t, url)
	bad, mended := openDirectory(t, keeping(t, url, 2, "SELECT 1 / 0;")), openDirectory(t, keeping(t, url, 2, "SELECT 1 / 1;"))
	mustFill(t, before, 2)
	spares := wantSpares(t, before, admin, 2)
	for range 3 {
		n, err := bad.FillSpares(t.Context())
		if failed, ok := errors.AsType[*migrate.Error](err); n != 0 || !ok || sqlState(err) != "22012" || !strings.HasPrefix(failed.Target, "spare t_spare_") {
			t.Errorf("FillSpares = %d, %v, want none and a division by zero", n, err)
		}
		rows := listSpares(t, admin)
		if len(rows) != 3 || !slices.Equal(schemasOf(rows[:2]), schemasOf(spares)) || rows[2].State != stateBuilding {
			t.Errorf("the spares are %+v", rows)
		}
	}
	if acme := mustCreate(t, before, "acme"); acme.ID != spares[0].ID {
		t.Errorf("the tenant of the program before is %s, want the spare %s", acme.ID, spares[0].ID)
	}
	mustFill(t, mended, 1)
	if rows := wantSpares(t, mended, admin, 2); rows[0].ID != spares[1].ID {
		t.Errorf("the spare that was there is gone: %+v", rows)
	}
}

// A file that undoes what a spare needs makes no endless work.
func TestMigrationsThatMakeSparesUnfit(t *testing.T) {
	t.Parallel()
	url := registryURL(t)
	d, admin := openDirectory(t, keeping(t, url, 2, `DO $$ DECLARE m record; BEGIN
		FOR m IN SELECT roleid::regrole::text AS role, member::regrole::text AS login FROM pg_auth_members
			WHERE roleid = to_regrole('r' || substr(current_schema, 2)) LOOP
			EXECUTE format('REVOKE %s FROM %s', m.role, m.login);
		END LOOP; END $$;`)), connectTo(t, url)
	if n, err := d.FillSpares(t.Context()); n != 0 || err == nil {
		t.Errorf("FillSpares = %d, %v, want none and an error", n, err)
	}
	if rows := listSpares(t, admin); len(rows) != 0 {
		t.Errorf("spares that cannot be used are left: %+v", rows)
	}
	wantNothingLeft(t, url)
}
