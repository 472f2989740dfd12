package pgserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// binaries is a folder with PostgreSQL's programs.
type binaries struct {
	dir   string
	major int
}

func (b binaries) program(name string) string { return filepath.Join(b.dir, name) }

// A finder looks for binaries. Its fields are what the machine says, so that a test can say otherwise.
type finder struct {
	// as is who must be able to run them.
	as account
	// path is the list of folders that programs are looked up in.
	path string
	// pgConfig is the pg_config program, or empty.
	pgConfig string
	// globs match the folders where distributions put the programs.
	globs []string
}

func newFinder(as account) finder {
	pgConfig, err := exec.LookPath("pg_config")
	if err != nil {
		pgConfig = ""
	}
	return finder{
		as:       as,
		path:     os.Getenv("PATH"),
		pgConfig: pgConfig,
		globs: []string{
			"/usr/lib/postgresql/*/bin",                          // Debian, Ubuntu
			"/usr/lib/postgresql*/bin",                           // SUSE
			"/usr/pgsql-*/bin",                                   // Red Hat, from postgresql.org
			"/usr/libexec/postgresql*",                           // Alpine
			"/usr/local/pgsql/bin",                               // built from source
			"/opt/homebrew/opt/postgresql@*/bin",                 // Homebrew on ARM
			"/usr/local/opt/postgresql@*/bin",                    // Homebrew on Intel
			"/opt/homebrew/opt/libpq/bin",                        // Homebrew, programs of the client only
			"/Applications/Postgres.app/Contents/Versions/*/bin", // Postgres.app
		},
	}
}

// Folders are where programs of PostgreSQL may be on this machine: PATH, what pg_config says, and where distributions put them.
func Folders(ctx context.Context) []string {
	f := newFinder(account{})
	return append(f.first(ctx), f.distributions()...)
}

// find returns binaries of a supported version, or of just the wanted one if major is not 0: the first that fits of PATH and
// pg_config, else the newest that fits of the distributions' folders. A failure is an ErrNoBinaries that lists what did
// not fit.
func (f finder) find(ctx context.Context, major int) (binaries, error) {
	var misfits []string
	fits := func(dir string) (binaries, bool) {
		found, err := f.probe(ctx, dir)
		if err == nil {
			err = found.check(major)
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			misfits = append(misfits, err.Error())
		}
		return found, err == nil
	}
	for _, dir := range f.first(ctx) {
		if found, ok := fits(dir); ok {
			return found, nil
		}
	}
	var all []binaries
	for _, dir := range f.distributions() {
		if found, ok := fits(dir); ok {
			all = append(all, found)
		}
	}
	if len(all) > 0 {
		return slices.MaxFunc(all, func(a, b binaries) int { return a.major - b.major }), nil
	}
	text := "on PATH, by pg_config or in the folders of the distributions"
	if len(misfits) > 0 {
		text += " (" + strings.Join(misfits, "; ") + ")"
	}
	return binaries{}, fmt.Errorf("%w %s", ErrNoBinaries, text)
}

func (b binaries) check(major int) error {
	switch {
	case major != 0 && b.major != major:
		return fmt.Errorf("%s has version %d, and the data folder needs %d", b.dir, b.major, major)
	case b.major < MinMajor:
		return fmt.Errorf("%s has version %d, and %d is the oldest that will do", b.dir, b.major, MinMajor)
	}
	return nil
}

// first returns the folders that the user's own environment points at.
func (f finder) first(ctx context.Context) []string {
	var dirs []string
	for _, dir := range filepath.SplitList(f.path) {
		if filepath.IsAbs(dir) {
			dirs = append(dirs, dir)
		}
	}
	if f.pgConfig != "" {
		if out, err := exec.CommandContext(ctx, f.pgConfig, "--bindir").Output(); err == nil {
			dirs = append(dirs, strings.TrimSpace(string(out)))
		}
	}
	return dirs
}

func (f finder) distributions() []string {
	var dirs []string
	for _, glob := range f.globs {
		if found, err := filepath.Glob(glob); err == nil {
			dirs = append(dirs, found...)
		}
	}
	return dirs
}

var versionPattern = regexp.MustCompile(`\(PostgreSQL\) (\d+)`)

// probe says whether dir holds the full set of programs, runnable by the account, and of which version they are. If the set
// is not there at all the error is os.ErrNotExist.
func (f finder) probe(ctx context.Context, dir string) (binaries, error) {
	b := binaries{dir: dir}
	for _, name := range []string{"postgres", "initdb"} {
		if _, err := os.Stat(b.program(name)); err != nil {
			return binaries{}, err
		}
	}
	for _, name := range []string{"initdb", "postgres"} {
		cmd := exec.CommandContext(ctx, b.program(name), "--version")
		cmd.Dir = "/"
		cmd.Env = environment()
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: f.as.credential()}
		out, err := cmd.Output()
		if err != nil {
			return binaries{}, fmt.Errorf("%s cannot be run: %w", b.program(name), err)
		}
		match := versionPattern.FindSubmatch(out)
		if match == nil {
			return binaries{}, fmt.Errorf("%s does not tell its version", b.program(name))
		}
		if b.major, err = strconv.Atoi(string(match[1])); err != nil {
			return binaries{}, fmt.Errorf("%s: %w", b.program(name), err)
		}
	}
	return b, nil
}

// environment is what PostgreSQL's programs get: nothing of the caller's PG variables, messages in English, and no search
// for the machine's time zone, which takes a second of initdb's time.
func environment() []string {
	return []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "TZ=UTC", "HOME=/"}
}

// locate returns the binaries to run the cluster of the given major version with, or a new one if major is 0: those in binDir
// if it is not empty, else those on the machine, else fetched ones.
func locate(ctx context.Context, log *slog.Logger, f finder, remote fetcher, binDir string, major int) (binaries, error) {
	if binDir != "" {
		found, err := f.probe(ctx, binDir)
		if err == nil {
			err = found.check(major)
		}
		if err != nil {
			return binaries{}, fmt.Errorf("pgserver: %w in %s: %w", ErrNoBinaries, binDir, err)
		}
		return found, nil
	}
	found, findErr := f.find(ctx, major)
	if findErr == nil {
		return found, nil
	}
	if err := ctx.Err(); err != nil {
		return binaries{}, fmt.Errorf("pgserver: look for PostgreSQL: %w", err)
	}
	log.InfoContext(ctx, "PostgreSQL is not on this machine; fetching it", "into", remote.cache)
	dir, err := remote.fetch(ctx, major, func(bin string) error {
		_, err := f.probe(ctx, bin)
		return err
	})
	if err != nil {
		wanted := fmt.Sprintf("PostgreSQL %d or newer", MinMajor)
		if major != 0 {
			wanted = fmt.Sprintf("PostgreSQL %d", major)
		}
		return binaries{}, fmt.Errorf("pgserver: %w, and cannot be fetched (%w): install %s with the packages of this system, or put the folder of its programs (initdb, postgres) on PATH",
			findErr, err, wanted)
	}
	return f.probe(ctx, dir)
}
