package pgserver

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A folder is where one server's files are. All of it belongs to the process that holds its lock.
type folder struct {
	name string // what the caller calls it: Config.DataDir
	root string // absolute, 0700, ours
	lock *os.File
}

func (f *folder) data() string     { return filepath.Join(f.root, "data") }
func (f *folder) log() string      { return filepath.Join(f.root, "server.log") }
func (f *folder) state() string    { return filepath.Join(f.root, "server.json") }
func (f *folder) binaries() string { return filepath.Join(f.root, "binaries") }

// openFolder creates the folder under dataDir if it is missing, and locks it.
func openFolder(ctx context.Context, dataDir string) (*folder, error) {
	base, err := filepath.Abs(dataDir)
	if err != nil {
		return nil, fmt.Errorf("pgserver: %w", err)
	}
	root := filepath.Join(base, "postgres")
	if err := os.MkdirAll(root, 0o700); err != nil {
		return nil, fmt.Errorf("pgserver: data folder: %w", err)
	}
	if err := checkOwner(root); err != nil {
		return nil, err
	}
	// A server that runs as another user cannot climb out of its cluster through this folder: it is ours alone.
	if err := os.Chmod(root, 0o700); err != nil {
		return nil, fmt.Errorf("pgserver: data folder: %w", err)
	}
	return lockFolder(ctx, dataDir, root)
}

// checkOwner refuses what is not a folder of ours. Not even root uses another user's: that user could have it write anywhere,
// by links, and would be locked out by the files that root leaves.
func checkOwner(root string) error {
	info, err := os.Lstat(root)
	if err != nil {
		return fmt.Errorf("pgserver: data folder: %w", err)
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !info.IsDir() || !ok {
		return fmt.Errorf("pgserver: data folder: %s is not a folder", root)
	}
	if int(stat.Uid) == os.Geteuid() {
		return nil
	}
	owner := "user " + strconv.FormatUint(uint64(stat.Uid), 10)
	if u, err := user.LookupId(strconv.FormatUint(uint64(stat.Uid), 10)); err == nil {
		owner = u.Username
	}
	return fmt.Errorf("pgserver: data folder: %s belongs to %s: run as %s, or choose another data folder", root, owner, owner)
}

// dyingLock is how long a lock may outlive the process that is said to hold it.
const dyingLock = 3 * time.Second

// lockFolder locks the folder at root. If a living process holds it, that is an *InUseError at once. If the one that is said to
// hold it is dead, the lock is about to go: a process that was killed while it started a program shares its descriptors with
// the beginnings of that program for a moment.
func lockFolder(ctx context.Context, name, root string) (*folder, error) {
	path := filepath.Join(root, "lock")
	patience, cancel := context.WithTimeout(ctx, dyingLock)
	defer cancel()
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		lock, err := acquire(path)
		if err == nil {
			return &folder{name: name, root: root, lock: lock}, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("pgserver: data folder: %w", err)
		}
		if pid := holder(path); alive(pid) {
			return nil, &InUseError{Resource: resourceFolder, Name: name, PID: pid, Command: commandOf(pid)}
		}
		select {
		case <-patience.Done():
			return nil, &InUseError{Resource: resourceFolder, Name: name}
		case <-tick.C:
		}
	}
}

// alive says whether there is a process with this id, whoever it belongs to.
func alive(pid int) bool {
	return pid > 0 && !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH)
}

// acquire locks the file at path, which it creates if missing, and writes our process id into it. The error of a lock that
// is held by someone else is EWOULDBLOCK. The lock goes when the file is closed or the process ends, however it ends.
func acquire(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, err
	}
	if err := stamp(f, path); err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// stamp makes sure that the locked file is still the one at path, and writes our process id into it. Another process may
// have removed an abandoned folder between our open and our lock.
func stamp(f *os.File, path string) error {
	ours, err := f.Stat()
	if err != nil {
		return err
	}
	current, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !os.SameFile(ours, current) {
		return fs.ErrNotExist
	}
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	return err
}

// holder returns the process id that the holder of a lock wrote, or 0.
func holder(path string) int {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0
	}
	return pid
}

// unlock lets the next process in.
func (f *folder) unlock() error { return f.lock.Close() }

// major returns the major version that made the cluster, or 0 if there is no cluster yet.
func (f *folder) major() (int, error) {
	text, err := os.ReadFile(filepath.Join(f.data(), "PG_VERSION"))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("pgserver: data folder: %w", err)
	}
	major, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0, fmt.Errorf("pgserver: %s: %w", filepath.Join(f.data(), "PG_VERSION"), err)
	}
	return major, nil
}

// state is what is remembered between starts.
type state struct {
	Port                  int    `json:"port,omitempty"`
	SuperuserPassword     string `json:"superuser_password"`
	AdministratorPassword string `json:"administrator_password"`
}

// loadState reads the state; a folder without a cluster gets new passwords if it has none. They are on disk before the
// cluster is, so a kill in between costs nothing.
func (f *folder) loadState(clusterExists bool) (state, error) {
	text, err := os.ReadFile(f.state())
	if errors.Is(err, fs.ErrNotExist) {
		if clusterExists {
			return state{}, fmt.Errorf("pgserver: %s is gone, and with it the passwords of the cluster beside it; put it back, or remove %s and all its data",
				f.state(), f.root)
		}
		st := state{SuperuserPassword: rand.Text(), AdministratorPassword: rand.Text()}
		return st, f.saveState(st)
	}
	if err != nil {
		return state{}, fmt.Errorf("pgserver: %w", err)
	}
	var st state
	if err := json.Unmarshal(text, &st); err != nil {
		return state{}, fmt.Errorf("pgserver: %s: %w", f.state(), err)
	}
	if st.SuperuserPassword == "" || st.AdministratorPassword == "" {
		return state{}, fmt.Errorf("pgserver: %s lacks a password", f.state())
	}
	return st, nil
}

func (f *folder) saveState(st state) error {
	text, err := json.MarshalIndent(st, "", "  ")
	if err != nil {
		return fmt.Errorf("pgserver: %w", err)
	}
	if err := replaceFile(f.state(), append(text, '\n')); err != nil {
		return fmt.Errorf("pgserver: %w", err)
	}
	return nil
}

// replaceFile writes a file that only its owner can read, whole or not at all.
func replaceFile(path string, content []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".") // 0600
	if err != nil {
		return err
	}
	_, err = tmp.Write(content)
	if err == nil {
		err = tmp.Sync()
	}
	if closeErr := tmp.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		_ = os.Remove(tmp.Name())
	}
	return err
}

const maxLogSize = 10 << 20

// openLog opens the server's log for appending and returns where it ends now. A log of more than maxLogSize is put aside.
func (f *folder) openLog() (*os.File, int64, error) {
	if info, err := os.Stat(f.log()); err == nil && info.Size() > maxLogSize {
		if err := os.Rename(f.log(), f.log()+".old"); err != nil {
			return nil, 0, fmt.Errorf("pgserver: %w", err)
		}
	}
	log, err := os.OpenFile(f.log(), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, 0, fmt.Errorf("pgserver: %w", err)
	}
	info, err := log.Stat()
	if err != nil {
		_ = log.Close()
		return nil, 0, fmt.Errorf("pgserver: %w", err)
	}
	return log, info.Size(), nil
}
