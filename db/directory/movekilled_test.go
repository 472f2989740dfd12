package directory

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/internal/transfer"
)

// These make the test binary the process that moves the tenant "acme" of the registry at a URL into a database of its own, and is
// killed at the beginning of a step.
const (
	moveVictimEnv = "LEASEHOLD_TEST_MOVE_VICTIM"
	moveStepEnv   = "LEASEHOLD_TEST_MOVE_STEP"
)

func init() {
	if url := os.Getenv(moveVictimEnv); url != "" {
		os.Exit(moveVictim(url, transfer.Step(os.Getenv(moveStepEnv))))
	}
}

func moveVictim(url string, last transfer.Step) int {
	ctx := context.Background()
	cc, err := pgx.ParseConfig(url)
	if err != nil {
		return 2
	}
	d, err := Open(ctx, Config{ConnConfig: cc, SecretKey: testKey})
	if err != nil {
		return 3
	}
	defer d.Close()
	t, err := d.BySlug(ctx, "acme")
	if err != nil {
		return 4
	}
	_, err = d.Move(ctx, t.ID, MoveOptions{Strategy: tenant.DatabaseStrategy, before: func(step transfer.Step) {
		if step == last {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}})
	if err != nil {
		_, _ = os.Stderr.WriteString(err.Error())
		return 5
	}
	return 0
}

// Whenever the process that moves is killed, the tenant is at one place, its users go on, and nothing that they were told is lost.
func TestMoverIsKilled(t *testing.T) {
	t.Parallel()
	for _, step := range []transfer.Step{
		transfer.StepDefine, transfer.StepCopy, transfer.StepCompare, transfer.StepHold, transfer.StepLock, transfer.StepLast,
		transfer.StepComplete, transfer.StepFence, transfer.StepOpen, transfer.StepSwitch, transfer.StepFinish,
	} {
		t.Run(string(step), func(t *testing.T) {
			t.Parallel()
			d, url := newDirectory(t)
			acme := mustCreate(t, d, "acme")
			db := openMovingDB(t, d)
			w, stop := write(t, d, db, "acme")
			w.await(t, 5)
			killMover(t, url, step)
			if want, ok := map[transfer.Step]MoveState{
				transfer.StepCopy: MoveRunning, transfer.StepCompare: MoveRunning, transfer.StepFinish: MoveSwitched,
			}[step]; ok { // no call is held, so nobody has settled it
				if moves, err := d.Moves(t.Context()); err != nil || len(moves) != 1 || moves[0].State != want {
					t.Errorf("moves: %+v, %v, want one that is %s", moves, err, want)
				}
			}
			// It is settled by the first call that is held, or by the next process that starts.
			w.await(t, 5)
			conn := connectTo(t, url)
			waitFor(t, "the server has noticed that the mover is gone", func() bool {
				if _, err := d.RecoverMoves(t.Context()); err != nil {
					t.Fatal(err)
				}
				return query[int](t, conn, `SELECT count(*) FROM moves WHERE NOT finished`) == 0
			})
			if n, err := d.RecoverMoves(t.Context()); n != 0 || err != nil {
				t.Errorf("recovered %d moves again: %v", n, err)
			}
			now, err := d.ByID(t.Context(), acme.ID)
			if err != nil {
				t.Fatal(err)
			}
			dropAtEnd(t, now)
			w.await(t, 5)
			stop()
			w.check(t, db, now)
			switch {
			case step == transfer.StepFinish:
				if err := d.ConfirmMove(t.Context(), acme.ID); err != nil {
					t.Error(err)
				}
				w.check(t, db, now)
			case now.Placement != acme.Placement:
				t.Errorf("it is at %+v", now.Placement)
			default:
				left := query[int](t, conn, `SELECT (SELECT count(*) FROM moves) + (SELECT count(*) FROM pg_namespace WHERE nspname ~ '^[fmo]_')
					+ (SELECT count(*) FROM pg_roles WHERE rolname = $1)`, ownLogin(acme.Placement.Role))
				if left > 0 {
					t.Errorf("%d things are left", left)
				}
			}
		})
	}
}

func killMover(tb testing.TB, url string, step transfer.Step) {
	tb.Helper()
	self, err := os.Executable()
	if err != nil {
		tb.Fatal(err)
	}
	var out strings.Builder
	cmd := exec.CommandContext(tb.Context(), self)
	cmd.Env = append(os.Environ(), moveVictimEnv+"="+url, moveStepEnv+"="+string(step))
	cmd.Stdout, cmd.Stderr = &out, &out
	err = cmd.Run()
	if strings.Contains(out.String(), "no pg_dump for this server") && os.Getenv("CI") == "" {
		tb.Skip(out.String())
	}
	if err == nil || cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		tb.Fatalf("it was not killed: %v\n%s", err, out.String())
	}
}
