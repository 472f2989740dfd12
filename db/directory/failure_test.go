package directory

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"slices"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/db/migrate"
	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/internal/pgtest"
)

// wantRecovery checks what must hold after a failed creation of "acme": nothing of it is left but its record and its log, and
// the name can be used.
func wantRecovery(t *testing.T, url string, lastEvent EventKind) {
	t.Helper()
	wantNothingLeft(t, url)
	d := openDirectory(t, configOf(t, url))
	failed, err := d.List(t.Context(), ListOptions{})
	if err != nil || len(failed) != 1 || failed[0].Status != tenant.Failed {
		t.Fatalf("records: %+v, %v; want one that failed", failed, err)
	}
	log, err := d.Events(t.Context(), failed[0].ID)
	if err != nil {
		t.Fatal(err)
	}
	if first, last := log[0], log[len(log)-1]; first.Kind != EventStarted || last.Kind != lastEvent {
		t.Errorf("the log goes from %s to %s, want from %s to %s", first.Kind, last.Kind, EventStarted, lastEvent)
	}
	if last := log[len(log)-1]; lastEvent == EventFailed && last.Detail == "" {
		t.Error("the log does not say why")
	}
	wantNothingLeft(t, url, mustCreate(t, d, "acme"))
}

func TestAMigrationThatFailsLeavesNothing(t *testing.T) {
	t.Parallel()
	for name, up := range map[string]string{
		"syntax error":         "CREATE TABLE more (i int);\nCREATE TALBE less (i int);",
		"error while running":  "CREATE TABLE more (i int);\nSELECT 1 / (SELECT count(*) FROM more);",
		"error at commit":      "CREATE TABLE more (i int PRIMARY KEY, j int REFERENCES more DEFERRABLE INITIALLY DEFERRED);\nINSERT INTO more VALUES (1, 2);",
		"leaves its scope":     "DO $$ BEGIN PERFORM set_config('search' || '_path', 'public', false); END $$;",
		"error after the type": "CREATE TYPE t AS ENUM ('a');\nCREATE TABLE more (t t DEFAULT 'b');",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := registryURL(t)
			cfg := configOf(t, url)
			cfg.Migrator = migratorOf(t, up)
			_, err := openDirectory(t, cfg).Create(t.Context(), company("acme"))
			if _, ok := errors.AsType[*migrate.Error](err); !ok {
				t.Errorf("error = %v, want a *migrate.Error", err)
			}
			wantRecovery(t, url, EventFailed)
		})
	}
}

// Errors in the registry itself, at each step.
func TestAStepThatCannotBeLoggedLeavesNothing(t *testing.T) {
	t.Parallel()
	for _, kind := range []EventKind{EventHoused, EventMigrated, EventActivated} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			d, url := newDirectory(t)
			refuseEvents(t, url, kind)
			if _, err := d.Create(t.Context(), company("acme")); sqlState(err) != "P0001" {
				t.Errorf("error = %v, want the one that was planted", err)
			}
			acceptEvents(t, url)
			wantRecovery(t, url, EventFailed)
		})
	}
	t.Run("the first", func(t *testing.T) {
		t.Parallel()
		d, url := newDirectory(t)
		refuseEvents(t, url, EventStarted)
		if _, err := d.Create(t.Context(), company("acme")); sqlState(err) != "P0001" {
			t.Errorf("error = %v, want the one that was planted", err)
		}
		acceptEvents(t, url)
		wantNothingLeft(t, url, mustCreate(t, d, "acme"))
	})
	t.Run("the clean-up's", func(t *testing.T) {
		t.Parallel()
		d, url := newDirectory(t)
		refuseEvents(t, url, EventActivated, EventFailed)
		if _, err := d.Create(t.Context(), company("acme")); sqlState(err) != "P0001" {
			t.Errorf("error = %v, want the one that was planted", err)
		}
		if got, err := d.BySlug(t.Context(), "acme"); err != nil || got.Status != tenant.Provisioning {
			t.Errorf("the tenant that could not be removed: %+v, %v", got, err)
		}
		acceptEvents(t, url)
		if n, err := d.Sweep(t.Context()); n != 1 || err != nil {
			t.Errorf("Sweep = %d, %v, want 1", n, err)
		}
		wantRecovery(t, url, EventReclaimed)
	})
}

func refuseEvents(t *testing.T, url string, refused ...EventKind) {
	t.Helper()
	list := ""
	for _, kind := range refused {
		list += ", '" + string(kind) + "'"
	}
	pgtest.Exec(t, url, `CREATE FUNCTION leasehold.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN IF NEW.kind IN (''`+list+`) THEN RAISE 'planted'; END IF; RETURN NEW; END $$`,
		`CREATE TRIGGER refuse BEFORE INSERT ON leasehold.events FOR EACH ROW EXECUTE FUNCTION leasehold.refuse()`)
}

func acceptEvents(t *testing.T, url string) {
	t.Helper()
	pgtest.Exec(t, url, `DROP FUNCTION leasehold.refuse CASCADE`)
}

func TestAMissingRuntimeLoginLeavesNothing(t *testing.T) {
	t.Parallel()
	url := registryURL(t)
	d := openDirectory(t, configOf(t, url))
	login, err := d.RuntimeConn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	dropLogin(t, url, login.User)
	if _, err := d.Create(t.Context(), company("acme")); sqlState(err) != "42704" {
		t.Errorf("error = %v, want that the role does not exist", err)
	}
	wantRecovery(t, url, EventFailed)
}

func dropLogin(t *testing.T, url, login string) {
	t.Helper()
	pgtest.Exec(t, pgtest.SuperURL(t, url), `DROP OWNED BY `+login, `DROP ROLE `+login)
}

// interrupt does something to a creation that is in the middle of its migrations, and returns the creation's error.
func interrupt(t *testing.T, url string, how func(cancel func(), migration, creator int, release func())) error {
	t.Helper()
	cfg := configOf(t, url)
	cfg.Migrator = migratorOf(t, waitingSQL)
	d := openDirectory(t, cfg)
	holder := holdLock(t, url)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	outcome := make(chan error, 1)
	go func() {
		_, err := d.Create(ctx, company("acme"))
		outcome <- err
	}()
	migration := waitUntilMigrating(t, url)
	half, err := d.BySlug(t.Context(), "acme")
	if err != nil || half.Status != tenant.Provisioning {
		t.Errorf("in the middle: %+v, %v", half, err)
	}
	if _, err := d.Create(t.Context(), company("acme")); !errors.Is(err, ErrSlugTaken) {
		t.Errorf("a second creation in the middle of the first: error = %v, want %v", err, ErrSlugTaken)
	}
	if n, err := d.Sweep(t.Context()); n != 0 || err != nil {
		t.Errorf("Sweep in the middle = %d, %v, want 0", n, err)
	}
	how(cancel, migration, creatorOf(t, holder, half.ID), sync.OnceFunc(func() { closeConn(holder) }))
	return <-outcome
}

// creatorOf returns the server process that holds a tenant's creation lock.
func creatorOf(t *testing.T, conn *pgx.Conn, id tenant.ID) int {
	t.Helper()
	return query[int](t, conn, `SELECT pid FROM pg_locks JOIN pg_database d ON d.oid = database
		WHERE datname = current_database() AND locktype = 'advisory' AND granted
		  AND classid::bigint << 32 | objid::bigint = $1`, creationLock(id))
}

func terminate(t *testing.T, url string, pid int) {
	t.Helper()
	super := pgtest.Connect(t, pgtest.SuperURL(t, url))
	if !query[bool](t, super, `SELECT pg_terminate_backend($1, 10000)`, pid) {
		t.Errorf("process %d was not ended", pid)
	}
}

func TestACancelledCreateLeavesNothing(t *testing.T) {
	t.Parallel()
	url := registryURL(t)
	err := interrupt(t, url, func(cancel func(), _, _ int, _ func()) { cancel() })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error = %v, want %v", err, context.Canceled)
	}
	wantRecovery(t, url, EventFailed)
}

func TestALostConnectionLeavesNothing(t *testing.T) {
	t.Parallel()
	t.Run("the migration's", func(t *testing.T) {
		t.Parallel()
		url := registryURL(t)
		if err := interrupt(t, url, func(_ func(), migration, _ int, _ func()) { terminate(t, url, migration) }); err == nil {
			t.Error("Create succeeded")
		}
		wantRecovery(t, url, EventFailed)
	})
	t.Run("the creator's", func(t *testing.T) {
		t.Parallel()
		url := registryURL(t)
		if err := interrupt(t, url, func(_ func(), _, creator int, release func()) {
			terminate(t, url, creator)
			release()
		}); err == nil {
			t.Error("Create succeeded")
		}
		wantRecovery(t, url, EventFailed)
	})
	t.Run("both", func(t *testing.T) {
		t.Parallel()
		url := registryURL(t)
		if err := interrupt(t, url, func(_ func(), migration, creator int, _ func()) {
			terminate(t, url, creator)
			terminate(t, url, migration)
		}); err == nil {
			t.Error("Create succeeded")
		}
		wantRecovery(t, url, EventFailed)
	})
}

// The creator lives on and does not know that its lock is gone. Somebody else takes the name meanwhile.
func TestACreatorThatLostItsLockDoesNotHarmItsSuccessor(t *testing.T) {
	t.Parallel()
	url := registryURL(t)
	var successor *tenant.Tenant
	if err := interrupt(t, url, func(_ func(), _, creator int, _ func()) {
		terminate(t, url, creator)
		successor = mustCreate(t, openDirectory(t, configOf(t, url)), "acme")
	}); err == nil {
		t.Error("the creator that was overtaken succeeded")
	}
	wantNothingLeft(t, url, successor)
	d := openDirectory(t, configOf(t, url))
	if got, err := d.Resolve(t.Context(), "acme"); err != nil || got.ID != successor.ID || got.Status != tenant.Active {
		t.Errorf("Resolve = %+v, %v, want the successor", got, err)
	}
}

// A process that runs victim creates "acme", or does as its task says, with a migration that waits, until it is killed.
const (
	victimEnv     = "LEASEHOLD_TEST_VICTIM"
	victimTaskEnv = "LEASEHOLD_TEST_VICTIM_TASK"
)

func victim(url string) int {
	ctx := context.Background()
	cc, err := pgx.ParseConfig(url)
	if err != nil {
		return 3
	}
	m, err := newMigrator(waitingSQL)
	if err != nil {
		return 4
	}
	d, err := Open(ctx, Config{ConnConfig: cc, SecretKey: testKey, Migrator: m, Spares: 1})
	if err != nil {
		return 5
	}
	defer d.Close()
	switch os.Getenv(victimTaskEnv) {
	case "fill":
		_, err = d.FillSpares(ctx)
	case "reference":
		_, _, err = d.Reference(ctx)
	case "second":
		_, err = d.Create(ctx, on("second", company("acme")))
	default:
		_, err = d.Create(ctx, company("acme"))
	}
	if err != nil {
		return 6
	}
	return 0
}

// killInTheMiddle starts a process that does as its task says, with a migration that waits, and kills it while that waits.
func killInTheMiddle(t *testing.T, url, task string) {
	t.Helper()
	killInTheMiddleOf(t, url, url, task)
}

// killInTheMiddleOf is killInTheMiddle for a migration in another database than the registry's.
func killInTheMiddleOf(t *testing.T, registry, url, task string) {
	t.Helper()
	holdLock(t, url)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), victimEnv+"="+registry, victimTaskEnv+"="+task)
	cmd.Stderr = t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waitUntilMigrating(t, url)
	if err := cmd.Process.Kill(); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err == nil || cmd.ProcessState.Exited() {
		t.Errorf("the process was not killed: %v", cmd.ProcessState)
	}
}

func TestKilledProcessLeavesANameThatCanBeUsed(t *testing.T) {
	t.Parallel()
	for name, recover := range map[string]func(*testing.T, string){
		"by the next create": func(t *testing.T, url string) {
			t.Helper()
			d := openDirectory(t, configOf(t, url))
			// The server frees the lock when it notices that the process is gone.
			var acme *tenant.Tenant
			waitFor(t, "the name is free", func() bool {
				created, err := d.Create(t.Context(), company("acme"))
				if err != nil && !errors.Is(err, ErrSlugTaken) {
					t.Fatalf("Create: %v", err)
				}
				acme = created
				return err == nil
			})
			wantNothingLeft(t, url, acme)
			records, err := d.List(t.Context(), ListOptions{Status: tenant.Failed})
			if err != nil || len(records) != 1 {
				t.Fatalf("failed records: %+v, %v, want one", records, err)
			}
			if got := kinds(t, d, records[0].ID); !slices.Equal(got, []EventKind{EventStarted, EventHoused, EventReclaimed}) {
				t.Errorf("the log of the dead: %v", got)
			}
		},
		"by a sweep": func(t *testing.T, url string) {
			t.Helper()
			d := openDirectory(t, configOf(t, url))
			waitFor(t, "the dead is swept", func() bool {
				n, err := d.Sweep(t.Context())
				if err != nil {
					t.Fatalf("Sweep: %v", err)
				}
				return n == 1
			})
			if n, err := d.Sweep(t.Context()); n != 0 || err != nil {
				t.Errorf("Sweep again = %d, %v, want 0", n, err)
			}
			wantRecovery(t, url, EventReclaimed)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := registryURL(t)
			killInTheMiddle(t, url, "create")
			recover(t, url)
		})
	}
}

// The last commit went through and only its confirmation was lost.
func TestACreationThatTurnsOutToBeDoneIsNoFailure(t *testing.T) {
	t.Parallel()
	d, url := newDirectory(t)
	acme := mustCreate(t, d, "acme")
	s, err := d.openSession(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c := &creation{d: d, session: s, id: acme.ID}
	defer c.close()
	row, err := c.abandon(t.Context(), errors.New("connection lost"))
	if err != nil || row.ID != acme.ID || row.Status != tenant.Active {
		t.Errorf("abandon = %+v, %v, want the active tenant", row, err)
	}
	wantNothingLeft(t, url, acme)
}
