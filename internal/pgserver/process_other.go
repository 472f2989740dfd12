//go:build unix && !linux

package pgserver

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// serverProcesses returns the postmaster that serves dataDir, if it lives. A process id in a file may by now be anyone's,
// so the process must also have been started with the folder's name.
func serverProcesses(dataDir string) ([]int, error) {
	text, err := os.ReadFile(filepath.Join(dataDir, "postmaster.pid"))
	if os.IsNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	first, _, _ := strings.Cut(string(text), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(first))
	if err != nil || pid <= 0 || !strings.Contains(ps(pid, "args="), dataDir) {
		return nil, nil
	}
	return []int{pid}, nil
}

// canSyncTree says whether syncTree works here: only Linux flushes a whole file system and waits for it.
const canSyncTree = false

func syncTree(string) error { return nil }

// commandOf returns the name of a process, or nothing.
func commandOf(pid int) string {
	if pid <= 0 {
		return ""
	}
	return filepath.Base(ps(pid, "comm="))
}

func ps(pid int, column string) string {
	out, err := exec.CommandContext(context.Background(), "ps", "-o", column, "-p", strconv.Itoa(pid)).Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(out))
}

// PortHolder returns 0 and nothing: only on Linux is the holder of a port looked up.
func PortHolder(int) (pid int, command string) { return 0, "" }
