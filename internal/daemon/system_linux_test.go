package daemon

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"testing"
)

func TestDiesWithParent(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), helperEnv+"=trap 'echo told; exit' TERM; "+waits)
	output := pipes(t, cmd, cmd.Start)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if _, ok := errors.AsType[*exec.ExitError](cmd.Wait()); !ok {
		t.Error("the helper was not killed")
	}
	// The output ends when nobody holds it any more: neither the helper nor its program.
	if rest, err := io.ReadAll(output); err != nil || string(rest) != "told\n" {
		t.Errorf("the program says %q, %v", rest, err)
	}
}
