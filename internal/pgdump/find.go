package pgdump

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/leasehold-go/leasehold/internal/pgserver"
)

const programName = "pg_dump"

// find returns the program of that name in binDir, or the oldest on the machine that is not older than the server: what it writes
// is the closest to what the server's own would.
func find(ctx context.Context, name, binDir string, server int) (string, error) {
	dirs := []string{binDir}
	if binDir == "" {
		dirs = pgserver.Folders(ctx)
	}
	var (
		best    string
		oldest  int
		misfits []string
	)
	for _, dir := range dirs {
		program := filepath.Join(dir, name)
		major, err := version(ctx, program)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			misfits = append(misfits, fmt.Sprintf("%s: %v", program, err))
		case major < server:
			misfits = append(misfits, fmt.Sprintf("%s has version %d", program, major))
		case best == "" || major < oldest:
			best, oldest = program, major
		}
	}
	if best != "" {
		return best, nil
	}
	where := "on PATH, by pg_config or in the folders of the distributions"
	if binDir != "" {
		where = "in " + binDir
	}
	found := ""
	if len(misfits) > 0 {
		found = " (" + strings.Join(misfits, "; ") + ")"
	}
	return "", fmt.Errorf("%w: it has version %d, and %s there is no %s of %d or newer%s: install postgresql-client-%d (Debian, Ubuntu) or postgresql%d (Red Hat, Alpine, SUSE)",
		ErrNoProgram, server, where, name, server, found, server, server)
}

var versionPattern = regexp.MustCompile(`\(PostgreSQL\) (\d+)`)

// version is a program's major version. The error is fs.ErrNotExist if there is no such program.
func version(ctx context.Context, program string) (int, error) {
	if _, err := os.Stat(program); err != nil {
		return 0, err
	}
	cmd := exec.CommandContext(ctx, program, "--version")
	cmd.Dir = "/"
	cmd.Env = environment()
	out, err := cmd.Output()
	if err != nil {
		return 0, fmt.Errorf("it cannot be run: %w", err)
	}
	match := versionPattern.FindSubmatch(out)
	if match == nil {
		return 0, errors.New("it does not tell its version")
	}
	return strconv.Atoi(string(match[1]))
}
