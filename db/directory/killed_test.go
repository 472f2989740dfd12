package directory

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/internal/pgtest"
)

// A victim with victimStepEnv kills itself before the statement of that number, of those that it sends after it has opened the registry.
const (
	victimStepEnv   = "LEASEHOLD_TEST_VICTIM_STEP"
	victimTenantEnv = "LEASEHOLD_TEST_VICTIM_TENANT"
)

// suicide is a tracer that counts connections and statements.
type suicide struct {
	armed atomic.Bool
	left  atomic.Int64
}

func (s *suicide) step(ctx context.Context) context.Context {
	if s.armed.Load() && s.left.Add(-1) == 0 {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		<-ctx.Done() // until it works
	}
	return ctx
}

func (s *suicide) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	return s.step(ctx)
}

func (s *suicide) TraceConnectStart(ctx context.Context, _ pgx.TraceConnectStartData) context.Context {
	return s.step(ctx)
}

func (*suicide) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}
func (*suicide) TraceConnectEnd(context.Context, pgx.TraceConnectEndData)        {}

// stepVictim creates the tenant that its environment names, or changes its password, until it is killed.
func stepVictim(url string) int {
	ctx := context.Background()
	cc, err := pgx.ParseConfig(url)
	if err != nil {
		return 3
	}
	m, err := newMigrator()
	if err != nil {
		return 4
	}
	killer := &suicide{}
	cc.Tracer = killer
	d, err := Open(ctx, Config{ConnConfig: cc, SecretKey: testKey, Migrator: m})
	if err != nil {
		return 5
	}
	defer d.Close()
	steps, err := strconv.ParseInt(os.Getenv(victimStepEnv), 10, 64)
	if err != nil {
		return 6
	}
	killer.left.Store(steps)
	killer.armed.Store(true)
	name := os.Getenv(victimTenantEnv)
	switch os.Getenv(victimTaskEnv) {
	case "rotate":
		var t *tenant.Tenant
		if t, err = d.BySlug(ctx, tenant.Slug(name)); err == nil {
			err = d.RotatePassword(ctx, t.ID)
		}
	case "remote":
		_, err = d.Create(ctx, on("second", company(name)))
	default:
		_, err = d.Create(ctx, withDatabase(name))
	}
	if err != nil {
		return 7
	}
	return 0
}

// runVictim runs a victim, and reports whether it was killed.
func runVictim(t *testing.T, url, task, name string, step int) (killed bool) {
	t.Helper()
	cmd := victimCommand(t, url, task, name, step)
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && !exit.Exited() {
		return true
	}
	if err != nil {
		t.Fatalf("the victim: %v", err)
	}
	return false
}

func victimCommand(t *testing.T, url, task, name string, step int) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), victimEnv+"="+url, victimTaskEnv+"="+task, victimTenantEnv+"="+name, victimStepEnv+"="+strconv.Itoa(step))
	cmd.Stderr = t.Output()
	return cmd
}

// A creator is killed before each of its statements. Nothing is ever left of it, and its name can be used at once.
func TestACreatorKilledAtEachStatementLeavesNothing(t *testing.T) {
	t.Parallel()
	for _, task := range []string{"database", "remote"} {
		t.Run(task, func(t *testing.T) {
			t.Parallel()
			d, url := newDirectory(t)
			second := pgtest.Database(t)
			mustAddCluster(t, d, NewCluster{Name: "second", URL: second})
			mustHouse(t, d, on("second", company("first"))) // so that the runtime login is there
			if err := d.SetDraining(t.Context(), "second", task != "remote"); err != nil {
				t.Fatal(err)
			}
			server := pgtest.Connect(t, second)
			first, err := d.BySlug(t.Context(), "first")
			if err != nil {
				t.Fatal(err)
			}
			var built bool
			for step := 1; runVictim(t, url, task, "victim", step); step++ {
				survivors := []*tenant.Tenant{first}
				waitFor(t, "the dead is swept", func() bool {
					if _, err := d.Sweep(t.Context()); err != nil {
						t.Fatalf("step %d: Sweep: %v", step, err)
					}
					victim, err := d.BySlug(t.Context(), "victim")
					if err == nil && victim.Status == tenant.Active { // it was killed when all was done
						survivors = append(survivors, victim)
						dropAtEnd(t, victim)
					}
					return errors.Is(err, tenant.ErrNotFound) || len(survivors) > 1
				})
				wantNoTraces(t, d, server, survivors...)
				if len(survivors) > 1 {
					built = true
					break
				}
			}
			if !built {
				victim, err := d.BySlug(t.Context(), "victim")
				if err != nil || victim.Status != tenant.Active {
					t.Fatalf("%+v, %v", victim, err)
				}
				dropAtEnd(t, victim)
			}
			failed, err := d.List(t.Context(), ListOptions{Status: tenant.Failed})
			if err != nil {
				t.Fatal(err)
			}
			if len(failed) < 8 {
				t.Errorf("%d creators were killed with a record left, want more", len(failed))
			}
		})
	}
}

// The server goes on with the creation of a database when the creator has died. Whoever cleans up waits for that.
func TestADatabaseThatComesAfterItsCreatorsDeathIsDropped(t *testing.T) {
	t.Parallel()
	d, url := newDirectory(t)
	admin := pgtest.Connect(t, pgtest.SuperURL(t, url))
	holder, err := admin.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = holder.Rollback(context.WithoutCancel(t.Context())) }()
	if _, err := holder.Exec(t.Context(), `COMMENT ON DATABASE template0 IS 'held'`); err != nil {
		t.Fatal(err)
	}
	watcher := connectTo(t, url)
	waiting := func() bool {
		return query[bool](t, watcher, `SELECT EXISTS (SELECT FROM tenants JOIN pg_stat_activity a ON starts_with(a.query, 'CREATE DATABASE "' || database_name)
			WHERE slug = 'victim' AND a.wait_event_type = 'Lock')`)
	}
	cmd := victimCommand(t, url, "database", "victim", 1_000_000)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the database is being created", waiting)
	if err := cmd.Process.Kill(); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Error("the victim was not killed")
	}
	swept := make(chan error, 1)
	go func() {
		_, err := d.Sweep(t.Context())
		swept <- err
	}()
	waitFor(t, "the sweep waits for the lock of the dead", func() bool {
		return query[bool](t, watcher, `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database()
			AND query LIKE '%pg_try_advisory_lock%' AND pid <> pg_backend_pid() AND application_name = '' AND state = 'idle')`)
	})
	if !waiting() {
		t.Error("the database was created too early")
	}
	if err := holder.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-swept; err != nil {
		t.Errorf("Sweep: %v", err)
	}
	waitFor(t, "the dead is swept", func() bool {
		if _, err := d.Sweep(t.Context()); err != nil {
			t.Fatalf("Sweep: %v", err)
		}
		_, err := d.BySlug(t.Context(), "victim")
		return errors.Is(err, tenant.ErrNotFound)
	})
	wantNoTraces(t, d, watcher)
}

// One that is killed while it changes a password leaves one that works, and the next one completes the change.
func TestARotationKilledAtEachStatementIsCompleted(t *testing.T) {
	t.Parallel()
	d, url := newDirectory(t)
	acme := mustHouse(t, d, withDatabase("acme"))
	admin := connectTo(t, url)
	step := 1
	for ; runVictim(t, url, "rotate", "acme", step); step++ {
		connectFor(t, d, acme.Placement)
		if err := d.RotatePassword(t.Context(), acme.ID); err != nil {
			t.Fatalf("step %d: %v", step, err)
		}
		connectFor(t, d, acme.Placement)
		if half := query[bool](t, admin, `SELECT next_encrypted_password IS NOT NULL FROM tenants`); half {
			t.Errorf("step %d: the change is not complete", step)
		}
	}
	if step < 8 {
		t.Errorf("%d victims, want more", step)
	}
}
