package pgserver

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

const (
	ephemeralPrefix = "leasehold-pg-"
	// newbornAge is how old a folder without a lock must be to count as abandoned: its maker may be about to lock it.
	newbornAge = time.Minute
)

// openEphemeral makes a new folder in the temporary folder, and locks it.
func openEphemeral(ctx context.Context) (*folder, error) {
	const attempts = 3 // a sweep may take a folder away before we have locked it
	var err error
	for range attempts {
		var root string
		if root, err = os.MkdirTemp("", ephemeralPrefix); err != nil {
			return nil, fmt.Errorf("pgserver: %w", err)
		}
		var f *folder
		if f, err = lockFolder(ctx, root, root); err == nil {
			return f, nil
		}
	}
	return nil, err
}

// sweep removes the folders of ephemeral servers whose processes were killed, as far as they are ours. It is for tidiness:
// what cannot be removed stays for the next sweep.
func sweep(ctx context.Context) {
	roots, err := filepath.Glob(filepath.Join(os.TempDir(), ephemeralPrefix+"*"))
	if err != nil {
		return
	}
	for _, root := range roots {
		info, err := os.Lstat(root)
		if err != nil || !info.IsDir() {
			continue
		}
		if owner, ok := info.Sys().(*syscall.Stat_t); !ok || int(owner.Uid) != os.Geteuid() {
			continue
		}
		lock := filepath.Join(root, "lock")
		if _, err := os.Stat(lock); errors.Is(err, fs.ErrNotExist) && time.Since(info.ModTime()) < newbornAge {
			continue
		}
		f, err := lockFolder(ctx, root, root)
		if err != nil {
			continue
		}
		if clearStale(ctx, f) == nil {
			_ = os.RemoveAll(root)
		}
		_ = f.unlock()
	}
}
