package pgserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"github.com/leasehold-go/leasehold/internal/daemon"
)

// stagingPrefix begins the names of the folders in which clusters are made.
const stagingPrefix = "initdb-"

// initialise makes the cluster of the folder: beside its place, then moved there in one step.
func initialise(ctx context.Context, cfg Config, f *folder, as account, bin binaries, password string) error {
	if err := removeStaging(f); err != nil {
		return err
	}
	staging, err := os.MkdirTemp(f.root, stagingPrefix)
	if err != nil {
		return fmt.Errorf("pgserver: %w", err)
	}
	defer func() { _ = os.RemoveAll(staging) }()
	// The password goes by a file that only the program's user can read.
	pwfile := filepath.Join(staging, "pwfile")
	if err := os.WriteFile(pwfile, []byte(password+"\n"), 0o600); err != nil {
		return fmt.Errorf("pgserver: %w", err)
	}
	if err := errors.Join(as.own(pwfile), as.own(staging)); err != nil {
		return fmt.Errorf("pgserver: %w", err)
	}
	// Not every C library knows C.UTF-8, which sorts like C and knows the case of letters beyond ASCII. initdb refuses a
	// locale that it does not know before it has done anything.
	for _, locale := range []string{"C.UTF-8", "C"} {
		if err = runInitdb(ctx, cfg, as, bin, staging, locale); err == nil || ctx.Err() != nil {
			break
		}
	}
	if err != nil {
		return err
	}
	made := filepath.Join(staging, "data")
	if canSyncTree && cfg.durable() {
		if err := syncTree(made); err != nil {
			return fmt.Errorf("pgserver: %w", err)
		}
	}
	if err := os.Rename(made, f.data()); err != nil {
		return fmt.Errorf("pgserver: %w", err)
	}
	return nil
}

// removeStaging removes what killed starts have left. Their initdb may still be at work for a moment; what it writes after
// this goes with the next start.
func removeStaging(f *folder) error {
	left, err := filepath.Glob(filepath.Join(f.root, stagingPrefix+"*"))
	if err != nil {
		return fmt.Errorf("pgserver: %w", err)
	}
	for _, dir := range left {
		_ = os.RemoveAll(dir)
	}
	return nil
}

func runInitdb(ctx context.Context, cfg Config, as account, bin binaries, staging, locale string) error {
	cmd := exec.CommandContext(context.WithoutCancel(ctx), bin.program("initdb"))
	dir, closeAfter, err := daemon.HandOver(cmd, as.credential(), staging)
	if err != nil {
		return fmt.Errorf("pgserver: %w", err)
	}
	defer closeAfter()
	cmd.Args = append(cmd.Args,
		"-D", dir+"/data",
		"--username="+Superuser,
		"--pwfile="+dir+"/pwfile",
		"--encoding=UTF8",
		"--locale="+locale,
		"--lc-messages=C",
		"--auth-host=scram-sha-256",
		"--auth-local=scram-sha-256",
	)
	// initdb flushes its thousand files one by one, which takes it half a minute on a busy disk; we can do it in one go.
	if canSyncTree || !cfg.durable() {
		cmd.Args = append(cmd.Args, "--no-sync")
	}
	cmd.Dir = "/" // PostgreSQL's programs must be able to return to where they were started
	cmd.Env = environment()
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	cmd.WaitDelay = killDelay // for the output of its children, if it had to be killed
	p, err := daemon.Start(cmd, as.credential(), syscall.SIGTERM)
	if err != nil {
		return &StartError{Program: "initdb", Err: err}
	}
	select {
	case <-p.Done():
		err = p.Err()
	case <-ctx.Done():
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), killDelay)
		defer cancel()
		err = errors.Join(ctx.Err(), p.Stop(grace, syscall.SIGTERM))
	}
	if err != nil {
		return &StartError{Program: "initdb", Err: err, LogTail: lastLines(output.Bytes())}
	}
	return nil
}
