package pgserver

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// ErrNoBinaries is what Start returns if PostgreSQL's programs are neither on the machine nor to be had from the network.
// The text around it says where it looked and what to install.
var ErrNoBinaries = errors.New("PostgreSQL was not found")

// InUseError says that what a server needs is in use by another process.
type InUseError struct {
	// Resource is "data folder" or "port".
	Resource string
	// Name is the folder's path, or the port's number.
	Name string
	// PID is the process that holds it, or 0 if that cannot be told.
	PID int
	// Command is that process's name, or empty.
	Command string
}

func (e *InUseError) Error() string {
	holder := "another process"
	switch {
	case e.PID != 0 && e.Command != "":
		holder = fmt.Sprintf("process %d (%s)", e.PID, e.Command)
	case e.PID != 0:
		holder = fmt.Sprintf("process %d", e.PID)
	}
	return fmt.Sprintf("%s %s is in use by %s", e.Resource, e.Name, holder)
}

// Hint says in half a sentence what the person at the keyboard can do.
func (e *InUseError) Hint() string {
	if e.Resource == resourcePort {
		return "stop it, or choose another port"
	}
	return "stop it, or choose another data folder"
}

const (
	resourcePort   = "port"
	resourceFolder = "data folder"
)

// StartError says that a program of PostgreSQL's failed. Its message is one line; the rest of the log is in the fields.
type StartError struct {
	// Program is "initdb" or "postgres".
	Program string
	// Err is how it failed.
	Err error
	// LogFile is the server's log; empty for initdb, and of no use for an ephemeral server, whose folder is gone.
	LogFile string
	// LogTail is the last of what the program wrote in this run, 20 lines at most.
	LogTail string
}

func (e *StartError) Error() string {
	text := fmt.Sprintf("%s: %v", e.Program, e.Err)
	if line := tellingLine(e.LogTail); line != "" {
		text += ": " + line
	}
	if e.LogFile != "" {
		text += " (see " + e.LogFile + ")"
	}
	return text
}

// Unwrap returns Err.
func (e *StartError) Unwrap() error { return e.Err }

// tellingLine picks the line of a log that says why: the last fatal one, else the last one.
func tellingLine(log string) string {
	lines := strings.Split(strings.TrimSpace(log), "\n")
	for i := len(lines) - 1; i >= 0; i-- {
		for _, mark := range []string{"FATAL:", "PANIC:", "error:"} {
			if at := strings.Index(lines[i], mark); at >= 0 {
				return strings.TrimSpace(lines[i][at+len(mark):])
			}
		}
	}
	return strings.TrimSpace(lines[len(lines)-1])
}

const (
	tailLines = 20
	tailBytes = 8 << 10
)

// tail returns the last lines of a log file from the given position on. A file that cannot be read has no tail.
func tail(path string, from int64) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer func() { _ = f.Close() }()
	if info, err := f.Stat(); err == nil {
		from = max(from, info.Size()-tailBytes)
	}
	text, err := io.ReadAll(io.NewSectionReader(f, from, tailBytes))
	if err != nil {
		return ""
	}
	return lastLines(text)
}

func lastLines(text []byte) string {
	lines := bytes.Split(bytes.TrimSpace(text), []byte("\n"))
	return string(bytes.Join(lines[max(0, len(lines)-tailLines):], []byte("\n")))
}
