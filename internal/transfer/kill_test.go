package transfer_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/internal/transfer"
)

// childEnv tells the test binary to be the process that moves a tenant, and what to move.
const childEnv = "LEASEHOLD_TEST_MOVE"

// job is what that process is to do.
type job struct {
	Source, Target jobPlace
	Registry       string
	// Kill is the step at whose beginning the process kills itself.
	Kill transfer.Step
}

type jobPlace struct {
	URL, Schema, Role string
	Logins            []string
}

func newJobPlace(p transfer.Place) jobPlace {
	return jobPlace{p.Admin.ConnString(), p.Schema, p.Role, p.Logins}
}

func (p jobPlace) place() (transfer.Place, error) {
	config, err := pgx.ParseConfig(p.URL)
	return transfer.Place{Admin: config, Schema: p.Schema, Role: p.Role, Logins: p.Logins}, err
}

// Boundaries inside steps.
const (
	killWhileCopying = transfer.Step("a table was copied")
	killWhenSwitched = transfer.Step("the switch was committed")
)

// child is the process that moves.
func child(text string) int {
	if err := runChild(context.Background(), text); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func runChild(ctx context.Context, text string) error {
	var j job
	if err := json.Unmarshal([]byte(text), &j); err != nil {
		return err
	}
	source, err := j.Source.place()
	if err != nil {
		return err
	}
	dest, err := j.Target.place()
	if err != nil {
		return err
	}
	killAt := func(step transfer.Step) {
		if step == j.Kill {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
	return transfer.Move{
		Source: source, Target: dest,
		Before: func(_ context.Context, step transfer.Step) error {
			killAt(step)
			return nil
		},
		Progress: func(p transfer.Progress) {
			if p.Table != "" {
				killAt(killWhileCopying)
			}
		},
		Switch: func(ctx context.Context) error {
			conn, err := pgx.Connect(ctx, j.Registry)
			if err != nil {
				return err
			}
			if _, err := conn.Exec(ctx, "UPDATE registry SET place = 'target'"); err != nil {
				return err
			}
			killAt(killWhenSwitched)
			return conn.Close(ctx)
		},
	}.Run(ctx)
}

// Whenever the process that moves is killed, the tenant can be served at exactly one place, and nothing that its users were told is lost.
func TestKilledAtEachStep(t *testing.T) {
	t.Parallel()
	source, dest := twoHouses(t)
	// pg_dump is there if this works.
	if err := run(t, transfer.Move{Source: source, Target: dest, Switch: done}); err != nil {
		t.Fatal(err)
	}
	for _, step := range append(steps, killWhileCopying, killWhenSwitched) {
		t.Run(string(step), func(t *testing.T) {
			t.Parallel()
			source, dest := twoHouses(t)
			fill(t, source, 20)
			s := newSite(t, source, dest)
			stop := s.use(t, 2)
			s.await(t, 5)
			s.kill(t, step)
			now, err := s.current(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if now.Placement.Cluster == atTarget {
				err = s.move().Finish(t.Context())
			} else {
				err = s.move().Abort(t.Context())
			}
			if err != nil {
				t.Fatal(err)
			}
			if wantTarget := step == transfer.StepFinish || step == killWhenSwitched; wantTarget != (now.Placement.Cluster == atTarget) {
				t.Errorf("it is at the %s", now.Placement.Cluster)
			}
			s.await(t, 5)
			stop()
			s.check(t)
			p := s.places[now.Placement.Cluster]
			checkServed(t, p)
			checkDrift(t, productSet(t), p)
		})
	}
}

// kill runs a move that is killed at a step.
func (s *site) kill(tb testing.TB, step transfer.Step) {
	tb.Helper()
	text, err := json.Marshal(job{newJobPlace(s.places[atSource]), newJobPlace(s.places[atTarget]), s.registry, step})
	if err != nil {
		tb.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		tb.Fatal(err)
	}
	var out bytes.Buffer
	cmd := exec.CommandContext(tb.Context(), self)
	cmd.Env = append(os.Environ(), childEnv+"="+string(text))
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err == nil || cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		tb.Fatalf("it was not killed: %v\n%s", err, out.String())
	}
}
