package pgserver

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/leasehold-go/leasehold/internal/daemon"
)

const (
	pollInterval = 10 * time.Millisecond
	// killDelay is how long a server has to react to one signal before it gets a harder one.
	killDelay = 5 * time.Second
)

// startPostmaster starts the server on a port. It returns as soon as the process runs, which is before it serves.
func startPostmaster(ctx context.Context, cfg Config, f *folder, as account, bin binaries, port int, log *os.File) (*daemon.Process, error) {
	cmd := exec.CommandContext(context.WithoutCancel(ctx), bin.program("postgres"))
	dir, closeAfter, err := daemon.HandOver(cmd, as.credential(), f.data())
	if err != nil {
		return nil, fmt.Errorf("pgserver: %w", err)
	}
	defer closeAfter()
	settings := cfg.settings()
	settings["listen_addresses"] = "127.0.0.1"
	settings["port"] = strconv.Itoa(port)
	settings["unix_socket_directories"] = ""
	settings["logging_collector"] = "off"
	cmd.Args = append(cmd.Args, "-D", dir)
	for _, name := range sortedKeys(settings) {
		cmd.Args = append(cmd.Args, "-c", name+"="+settings[name])
	}
	cmd.Dir = "/" // PostgreSQL's programs must be able to return to where they were started
	cmd.Env = environment()
	cmd.Stdout, cmd.Stderr = log, log
	p, err := daemon.Start(cmd, as.credential(), cfg.stopSignal())
	if err != nil {
		return nil, &StartError{Program: "postgres", Err: err}
	}
	return p, nil
}

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

// clearStale stops the server that an earlier, killed process has left in the folder, and removes its process id file. The
// caller holds the folder's lock, so no living process of ours runs that server.
func clearStale(ctx context.Context, f *folder) error {
	pidFile := filepath.Join(f.data(), "postmaster.pid")
	if _, err := os.Stat(pidFile); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return fmt.Errorf("pgserver: %w", err)
	}
	pid := postmasterPID(pidFile)
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGQUIT, syscall.SIGKILL} {
		left, err := serverProcesses(f.data())
		if err != nil {
			return fmt.Errorf("pgserver: %w", err)
		}
		if len(left) == 0 {
			break
		}
		if slices.Contains(left, pid) {
			left = []int{pid} // the postmaster stops the others
		}
		for _, p := range left {
			if err := syscall.Kill(p, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
				return &InUseError{Resource: resourceFolder, Name: f.name, PID: p, Command: commandOf(p)}
			}
		}
		if awaitGone(ctx, f.data(), killDelay) {
			break
		}
		if ctx.Err() != nil {
			return fmt.Errorf("pgserver: waiting for process %d, an earlier server on %s: %w", pid, f.name, ctx.Err())
		}
	}
	if left, err := serverProcesses(f.data()); err == nil && len(left) > 0 {
		return &InUseError{Resource: resourceFolder, Name: f.name, PID: left[0], Command: commandOf(left[0])}
	}
	// PostgreSQL would refuse to start if the process id in the file had been given to something else since.
	if err := os.Remove(pidFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("pgserver: %w", err)
	}
	return nil
}

// postmasterPID returns the process id in postmaster.pid, or 0.
func postmasterPID(path string) int {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	pid := 0
	if _, err := fmt.Sscan(string(text), &pid); err != nil {
		return 0
	}
	return pid
}

// awaitGone waits until no server process lives in dataDir, and says whether that came true in time.
func awaitGone(ctx context.Context, dataDir string, limit time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		left, err := serverProcesses(dataDir)
		if err == nil && len(left) == 0 {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
	}
}

// Ports are taken from below those that systems give to outgoing connections, of which one might sit on a server's port just
// when it is to start again.
const firstPort, endPort = 20000, 30000

// freePort returns a port on 127.0.0.1 that nobody listens on just now.
func freePort() (int, error) {
	const attempts = 100
	var err error
	for range attempts {
		port := firstPort + rand.IntN(endPort-firstPort)
		if err = checkPort(port); err == nil {
			return port, nil
		}
	}
	return 0, fmt.Errorf("pgserver: no free port found: %w", err)
}

// checkPort returns an *InUseError if somebody listens on the port.
func checkPort(port int) error {
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port})
	if errors.Is(err, syscall.EADDRINUSE) {
		pid, command := PortHolder(port)
		return &InUseError{Resource: resourcePort, Name: strconv.Itoa(port), PID: pid, Command: command}
	}
	if err != nil {
		return fmt.Errorf("pgserver: port %d: %w", port, err)
	}
	if err := l.Close(); err != nil {
		return fmt.Errorf("pgserver: %w", err)
	}
	return nil
}
