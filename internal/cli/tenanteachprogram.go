package cli

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/leasehold-go/leasehold/db/tenant"
)

// programs run one command, once for each tenant.
type programs struct {
	command []string
	env     []string
	wait    time.Duration // from SIGTERM to SIGKILL
}

// run runs the program for a tenant and waits for it. It has an empty standard input and a process group of its own: an interrupt
// at the terminal does not reach it, but the end of ctx does. Then the group gets SIGTERM, and SIGKILL when it has had its time.
func (p *programs) run(ctx context.Context, t *tenant.Tenant, stdout, stderr io.Writer) error {
	cmd := exec.CommandContext(ctx, p.command[0], p.command[1:]...)
	cmd.Env = slices.Concat(p.env, []string{
		"LEASEHOLD_TENANT_ID=" + t.ID.String(), "LEASEHOLD_TENANT_SLUG=" + string(t.Slug), "LEASEHOLD_TENANT_COMPANY=" + t.Company,
		"LEASEHOLD_TENANT_STATUS=" + string(t.Status), "LEASEHOLD_TENANT_CLUSTER=" + t.Placement.Cluster,
		"LEASEHOLD_TENANT_DATABASE=" + t.Placement.Database, "LEASEHOLD_TENANT_SCHEMA=" + t.Placement.Schema,
	})
	cmd.Stdout, cmd.Stderr = stdout, stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var kill *time.Timer
	cmd.Cancel = func() error {
		kill = time.AfterFunc(p.wait, func() { _ = signalGroup(cmd, syscall.SIGKILL) })
		return signalGroup(cmd, syscall.SIGTERM)
	}
	// Children of the program may hold its output open when it has ended; nobody waits for them longer than this.
	cmd.WaitDelay = p.wait + time.Second
	err := cmd.Run()
	if kill != nil { // Run returns after Cancel has
		kill.Stop()
		_ = signalGroup(cmd, syscall.SIGKILL) // who is left of the group
	}
	if errors.Is(err, exec.ErrWaitDelay) {
		return errors.New("it has ended, but left processes behind that hold its output open")
	}
	return err
}

// signalGroup signals the process group that the program leads.
func signalGroup(cmd *exec.Cmd, sig syscall.Signal) error {
	if err := syscall.Kill(-cmd.Process.Pid, sig); !errors.Is(err, syscall.ESRCH) {
		return err
	}
	return os.ErrProcessDone
}

// exitStatus is a program's, or -1 if it did not exit by itself.
func exitStatus(err error) int {
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return exit.ExitCode()
	}
	return -1
}

// maxLine is how many bytes of a line are kept in memory. A longer one is printed in parts, each with the prefix.
const maxLine = 64 << 10

// lineWriter writes whole lines with a prefix. Several may write to one w.
type lineWriter struct {
	w      io.Writer
	mu     *sync.Mutex // guards w
	prefix string
	line   []byte // that has no end yet
}

// Write keeps what is after the last line break for the next call.
func (l *lineWriter) Write(p []byte) (int, error) {
	total := len(p)
	var out bytes.Buffer
	for len(p) > 0 {
		i := bytes.IndexByte(p, '\n')
		part := p
		if i >= 0 {
			part = p[:i]
		}
		if room := maxLine - len(l.line); len(part) > room {
			part, i = part[:room], -1
		}
		l.line = append(l.line, part...)
		p = p[len(part):]
		switch {
		case i >= 0:
			p = p[1:]
			l.take(&out)
		case len(l.line) == maxLine && len(p) > 0:
			l.take(&out)
		}
	}
	return total, l.flush(&out)
}

// end writes a last line that has no end.
func (l *lineWriter) end() {
	if len(l.line) > 0 {
		var out bytes.Buffer
		l.take(&out)
		_ = l.flush(&out)
	}
}

func (l *lineWriter) take(out *bytes.Buffer) {
	out.WriteString(l.prefix)
	out.Write(l.line)
	out.WriteByte('\n')
	l.line = l.line[:0]
}

func (l *lineWriter) flush(out *bytes.Buffer) error {
	if out.Len() == 0 {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	_, err := l.w.Write(out.Bytes())
	return err
}
