package pgserver

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// serverProcesses returns the server processes that live in dataDir, postmaster and backends. What tells them is their
// working folder, which PostgreSQL never changes: a process id in a file may by now be anyone's.
func serverProcesses(dataDir string) ([]int, error) {
	want, err := os.Stat(dataDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || commandOf(pid) != "postgres" {
			continue
		}
		cwd, err := os.Stat(filepath.Join("/proc", entry.Name(), "cwd"))
		if err == nil && os.SameFile(want, cwd) {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// canSyncTree says whether syncTree works here.
const canSyncTree = true

// syncTree flushes everything below dir to disk, with the rest of its file system.
func syncTree(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return &os.PathError{Op: "syncfs", Path: dir, Err: err}
	}
	return nil
}

// commandOf returns the name of a process, or nothing.
func commandOf(pid int) string {
	if pid <= 0 {
		return ""
	}
	name, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "comm"))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(name))
}

// PortHolder returns the process that listens on a TCP port of this machine and its name, as far as the caller may see
// them: 0 and nothing for a process of another user.
func PortHolder(port int) (pid int, command string) {
	inodes := map[string]bool{}
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		listenInodes(table, port, inodes)
	}
	if len(inodes) == 0 {
		return 0, ""
	}
	descriptors, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return 0, ""
	}
	for _, fd := range descriptors {
		target, err := os.Readlink(fd)
		if err != nil || !inodes[target] {
			continue
		}
		if pid, err := strconv.Atoi(strings.Split(fd, "/")[2]); err == nil {
			return pid, commandOf(pid)
		}
	}
	return 0, ""
}

// listenInodes adds what the descriptors of the port's listeners are called: socket:[inode].
func listenInodes(table string, port int, inodes map[string]bool) {
	f, err := os.Open(table)
	if err != nil {
		return
	}
	defer func() { _ = f.Close() }()
	suffix := fmt.Sprintf(":%04X", port)
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		const local, status, inode, listening = 1, 3, 9, "0A"
		if len(fields) > inode && strings.HasSuffix(fields[local], suffix) && fields[status] == listening {
			inodes["socket:["+fields[inode]+"]"] = true
		}
	}
}
