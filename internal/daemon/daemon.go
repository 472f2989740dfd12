// Package daemon runs other programs for as long as we want them, and no longer.
//
// # Guarantees
//
//   - The program is in a process group of its own: a Ctrl-C at the terminal reaches us only, and we decide what follows.
//   - [Process.Stop] returns when the process has ended, by force if need be.
//   - On Linux the kernel signals the program when our process ends, however it ends. Elsewhere a killed process leaves its
//     programs running.
//
// The children of a program are its own business.
//
// # Use
//
//	cmd := exec.CommandContext(context.WithoutCancel(ctx), "/usr/sbin/pgbouncer", "pgbouncer.ini")
//	p, err := daemon.Start(cmd, credential, syscall.SIGINT)
//	if err != nil {
//		return err
//	}
//	defer p.Stop(ctx, syscall.SIGINT, syscall.SIGQUIT)
package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"runtime"
	"strconv"
	"syscall"
	"time"
)

// killDelay is how long a program has to react to one signal before it gets a harder one.
const killDelay = 5 * time.Second

// Process is a program that was started. Its methods are safe for concurrent use.
type Process struct {
	cmd  *exec.Cmd
	done chan struct{}
	err  error // to be read after done
}

// Start starts cmd as the given user, or as ourselves if credential is nil, and returns as soon as it runs. onDeath is what the
// kernel sends to it when our process ends. cmd must not be used afterwards; its context, if it has one, kills it.
func Start(cmd *exec.Cmd, credential *syscall.Credential, onDeath syscall.Signal) (*Process, error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: credential}
	dieWithParent(cmd.SysProcAttr, onDeath)
	p := &Process{cmd: cmd, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		// The kernel takes the thread that started the program for its parent, so that thread must live as long.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			p.err = cmd.Wait()
			close(p.done)
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

// PID returns the process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done returns a channel that is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err waits until the process has ended, and returns how: nil for exit status 0, else an *exec.ExitError.
func (p *Process) Err() error {
	<-p.done
	return p.err
}

// Stop ends the process and returns when it has ended. It sends the first signal and waits until ctx ends; then each further
// one and waits some seconds; then it kills. The error is that of the killing: how the process ended is told by Err.
func (p *Process) Stop(ctx context.Context, signals ...syscall.Signal) error {
	for i, sig := range signals {
		if i > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), killDelay)
			defer cancel()
		}
		// An error means that the process has ended, which the wait will see.
		_ = p.cmd.Process.Signal(sig)
		select {
		case <-p.done:
			return nil
		case <-ctx.Done():
		}
	}
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill process %d: %w", p.PID(), err)
	}
	<-p.done
	return nil
}

// Credential returns who is to run a program that refuses to run as root: nil, which is ourselves, unless we are root; else the
// user postgres, else nobody.
func Credential() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	var errs []error
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		uid, uidErr := strconv.ParseUint(u.Uid, 10, 32)
		gid, gidErr := strconv.ParseUint(u.Gid, 10, 32)
		if err := errors.Join(uidErr, gidErr); err != nil || uid == 0 {
			errs = append(errs, fmt.Errorf("user %s has id %s: %w", name, u.Uid, err))
			continue
		}
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
	}
	return nil, fmt.Errorf("there is no user to run it as but root: %w", errors.Join(errs...))
}

// HandOver returns the name by which a program that runs as the given user reaches dir. On Linux a program of another user
// gets the folder as an open descriptor, cmd's first extra file: then it may live in dir without the right to enter the
// folders above it. Its children inherit the descriptor, so the name is good in all of them. Call it before Start, at most once,
// and close after Start. For a nil credential, and on other systems, the name is dir itself.
//
// Through the descriptor the program can also reach what lies above dir and is open to everyone, unless dir lies in a folder that
// the program's user may not enter.
func HandOver(cmd *exec.Cmd, credential *syscall.Credential, dir string) (name string, closeAfter func(), err error) {
	if credential == nil {
		return dir, func() {}, nil
	}
	name, files, err := handOver(dir)
	if err != nil {
		return "", nil, err
	}
	cmd.ExtraFiles = files
	return name, func() {
		for _, f := range files {
			_ = f.Close()
		}
	}, nil
}
