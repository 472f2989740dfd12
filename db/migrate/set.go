package migrate

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/amacneil/dbmate/v2/pkg/dbmate"
)

// Set is the checked content of a folder of migration files. It holds the files in memory: what was checked is what is run,
// whatever happens to the folder. A Set does not change and may be shared between goroutines.
type Set struct {
	files     []*file
	byVersion map[string]*file
}

// File names one migration.
type File struct {
	// Version is the run of digits at the head of the name; the ledger holds it.
	Version string
	// Name is the file's name without its folder.
	Name string
}

// file is a File with what it does.
type file struct {
	File
	path     string
	content  string
	checksum [sha256.Size]byte // of content
	up, down section
}

// section is the up or the down part of a file, from its directive on: the text that is sent.
type section struct {
	name       string
	text       string
	offset     int // of text in the file's content
	statements []span
	// transaction is whether the text runs inside a transaction, together with its record in the ledger.
	transaction bool
	// concurrently is whether it says CONCURRENTLY: it waits for other transactions, but nobody waits for it.
	concurrently bool
	// tame is whether it is plain DDL, which leaves nothing behind in the session.
	tame bool
	// grants is whether it may have granted something on the ledger.
	grants bool
	// index is the name of the index that is created concurrently, as the catalogue has it.
	index string
}

// span is where a statement stands in its section's text, without the space around it.
type span struct{ start, end int }

// fileName is what dbmate takes for a migration; anything else it skips without a word.
var fileName = regexp.MustCompile(`^(\d+).*\.sql$`)

// Load reads and checks the migration files in folder dir of fsys. All files are looked at; all problems are returned,
// joined, each a *FileError. The checks:
//
//   - a .sql file that dbmate would not run for its name; two files of one version; versions of different length, whose order
//     by name is not their order by number
//   - not one "migrate:up" section with its "migrate:down" after it, something before them, an unknown option, an up section
//     that does nothing
//   - text that ends inside a literal or comment, or is not UTF-8
//   - psql's backslash commands, COPY from STDIN or to STDOUT
//   - BEGIN, COMMIT and their kin; SET search_path, SCHEMA, ROLE, SESSION AUTHORIZATION, and set_config of these; RESET,
//     DISCARD; any other SET that is not LOCAL
//   - with transaction:false, more than one statement; without it, CONCURRENTLY or VACUUM
//
// A folder without migrations is ErrNoFiles. Names that begin with a dot, folders, and other kinds of files are left alone.
func Load(fsys fs.FS, dir string) (*Set, error) {
	dir = path.Clean(dir)
	entries, err := fs.ReadDir(fsys, dir)
	if err != nil {
		return nil, fmt.Errorf("read migrations: %w", err)
	}
	var (
		set  Set
		errs []error
	)
	for _, entry := range entries {
		name := entry.Name()
		if entry.IsDir() || strings.HasPrefix(name, ".") || !strings.EqualFold(path.Ext(name), ".sql") {
			continue
		}
		f := &file{File: File{Name: name}, path: path.Join(dir, name)}
		match := fileName.FindStringSubmatch(name)
		if match == nil {
			errs = append(errs, f.problem(-1, "the name must be <digits>_<what>.sql; dbmate would skip this file"))
			continue
		}
		f.Version = match[1]
		content, err := fs.ReadFile(fsys, f.path)
		if err != nil {
			return nil, fmt.Errorf("read migrations: %w", err)
		}
		f.content, f.checksum = string(content), sha256.Sum256(content)
		errs = append(errs, f.check()...)
		set.files = append(set.files, f)
	}
	slices.SortFunc(set.files, func(a, b *file) int { return cmp.Compare(a.Name, b.Name) })
	errs = append(errs, set.checkVersions()...)
	if len(set.files) == 0 && len(errs) == 0 {
		return nil, fmt.Errorf("%w in %s", ErrNoFiles, dir)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return &set, nil
}

// Files returns the migrations in the order in which they are applied.
func (s *Set) Files() []File {
	files := make([]File, len(s.files))
	for i, f := range s.files {
		files[i] = f.File
	}
	return files
}

// nameOf is the name of the file with that version, or else the version.
func (s *Set) nameOf(version string) string {
	if f := s.byVersion[version]; f != nil {
		return f.Name
	}
	return version
}

// pending returns the files whose version is not in the ledger, in the order in which dbmate applies them.
func (s *Set) pending(ledger map[string]bool) []*file {
	var files []*file
	for _, f := range s.files {
		if !ledger[f.Version] {
			files = append(files, f)
		}
	}
	return files
}

// course tells what is to be run in a target, given the versions in its ledger.
type course func(ledger map[string]bool) ([]step, error)

// forward is the course of Up: what is pending, if the ledger is not that of other files.
func (s *Set) forward(ledger map[string]bool) ([]step, error) {
	pending := s.pending(ledger)
	if len(ledger) > 0 && len(pending) == len(s.files) {
		return nil, fmt.Errorf("%w: none of the versions in the ledger, %d in all, is among the files", ErrForeign, len(ledger))
	}
	steps := make([]step, len(pending))
	for i, f := range pending {
		steps[i] = step{file: f}
	}
	return steps, nil
}

// backward is the course of Rollback: those of the given files, the oldest of which is first, that are in the ledger, the newest
// first. What stands in the ledger and comes after the first of them may depend on it, so it must be among them.
func (s *Set) backward(undo []*file) course {
	return func(ledger map[string]bool) ([]step, error) {
		var steps []step
		rest := maps.Clone(ledger)
		for _, f := range slices.Backward(undo) {
			if ledger[f.Version] {
				if len(f.down.statements) == 0 {
					return nil, fmt.Errorf("%w: %s has no down section", ErrNoWayBack, f.Name)
				}
				steps = append(steps, step{file: f, back: true})
				delete(rest, f.Version)
			}
		}
		if len(steps) == 0 {
			return nil, nil
		}
		oldest := steps[len(steps)-1].Version
		for _, version := range slices.Sorted(maps.Keys(rest)) {
			if later(version, oldest) {
				return nil, fmt.Errorf("%w: version %s is applied here, comes after %s and is not among the files that are to be rolled back; "+
					"use the files of the release that applied it, or go back less far", ErrNoWayBack, version, oldest)
			}
		}
		return steps, nil
	}
}

// later reports whether version a comes after b. Both are digits, perhaps with zeros before them.
func later(a, b string) bool {
	a, b = strings.TrimLeft(a, "0"), strings.TrimLeft(b, "0")
	return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b)) > 0
}

// after returns the files that come after the one with the given version or name; all of them come after "0".
func (s *Set) after(place string) ([]*file, error) {
	if place == "0" {
		return s.files, nil
	}
	for i, f := range s.files {
		if f.Version == place || f.Name == place {
			return s.files[i+1:], nil
		}
	}
	return nil, fmt.Errorf("no migration has the version or the name %q", place)
}

// beforeLast returns the place before the last n of the files that at least one of the ledgers holds, as after takes it.
func (s *Set) beforeLast(n int, ledgers []map[string]bool) (string, error) {
	found := 0
	for i, f := range slices.Backward(s.files) {
		if found == n {
			return s.files[i].Version, nil
		}
		if slices.ContainsFunc(ledgers, func(ledger map[string]bool) bool { return ledger[f.Version] }) {
			found++
		}
	}
	if found < n {
		return "", fmt.Errorf("no more than %d of these migrations can be taken back; for all of them go back to 0", found)
	}
	return "0", nil
}

func (s *Set) checkVersions() []error {
	var errs []error
	longest := &file{}
	for _, f := range s.files {
		if len(f.Version) > len(longest.Version) {
			longest = f
		}
	}
	s.byVersion = make(map[string]*file, len(s.files))
	for _, f := range s.files {
		if len(f.Version) != len(longest.Version) {
			errs = append(errs, f.problem(-1, "version %s has fewer digits than that of %s; files are applied in order of their names, so add zeros in front",
				f.Version, longest.Name))
		}
		if other := s.byVersion[f.Version]; other != nil {
			errs = append(errs, f.problem(-1, "version %s is also that of %s", f.Version, other.Name))
		}
		s.byVersion[f.Version] = f
	}
	return errs
}

// problem makes a FileError for the given offset into the file's content; a negative one means the whole file.
func (f *file) problem(offset int, format string, args ...any) error {
	line := 0
	if offset >= 0 {
		line = 1 + strings.Count(f.content[:offset], "\n")
	}
	return &FileError{File: f.path, Line: line, Message: fmt.Sprintf(format, args...)}
}

// parse cuts the file into its sections with dbmate's own parser, so that what is checked is what dbmate runs.
func (f *file) parse() error {
	if !utf8.ValidString(f.content) || strings.Contains(f.content, "\x00") {
		return f.problem(-1, "the file is not UTF-8 text")
	}
	if strings.HasPrefix(f.content, "\ufeff") {
		return f.problem(0, "the file begins with a byte order mark, behind which dbmate does not find the first section; remove it")
	}
	m := dbmate.Migration{FS: memFS{f}, FilePath: f.Name}
	parsed, err := m.Parse()
	if err != nil {
		return f.problem(-1, "%s", parseMessage(err))
	}
	if len(parsed) > 1 {
		rest := 0
		for _, p := range parsed[1:] {
			rest += len(p.Up) + len(p.Down)
		}
		return f.problem(len(f.content)-rest, "a second migrate:up section, which dbmate would lose; give it a file of its own")
	}
	p := parsed[0]
	down := len(f.content) - len(p.Down)
	f.up = section{name: "up", text: p.Up, offset: down - len(p.Up), transaction: p.UpOptions.Transaction()}
	f.down = section{name: "down", text: p.Down, offset: down, transaction: p.DownOptions.Transaction()}
	return nil
}

func parseMessage(err error) string {
	switch {
	case errors.Is(err, dbmate.ErrParseMissingUp):
		return `no section "-- migrate:up"; the line must begin with the two hyphens`
	case errors.Is(err, dbmate.ErrParseMissingDown):
		return `no section "-- migrate:down"; leave it empty if there is no way back`
	case errors.Is(err, dbmate.ErrParseWrongOrder):
		return `the section "-- migrate:down" must come after "-- migrate:up"`
	case errors.Is(err, dbmate.ErrParseUnexpectedStmt):
		return `statements stand before the section "-- migrate:up"`
	case errors.Is(err, dbmate.ErrParseMultipleDown):
		return `more than one section "-- migrate:down"`
	default:
		return err.Error()
	}
}

// memFS shows files to dbmate as a folder, from memory.
type memFS []*file

// Open fails: dbmate reads folders and whole files only.
func (m memFS) Open(name string) (fs.File, error) {
	return nil, &fs.PathError{Op: "open", Path: name, Err: errors.ErrUnsupported}
}

// ReadDir lists the files, whatever the folder.
func (m memFS) ReadDir(string) ([]fs.DirEntry, error) {
	entries := make([]fs.DirEntry, len(m))
	for i, f := range m {
		entries[i] = fs.FileInfoToDirEntry(memInfo{f})
	}
	return entries, nil
}

// ReadFile returns a file's content.
func (m memFS) ReadFile(name string) ([]byte, error) {
	for _, f := range m {
		if f.Name == name {
			return []byte(f.content), nil
		}
	}
	return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
}

type memInfo struct{ f *file }

func (i memInfo) Name() string       { return i.f.Name }
func (i memInfo) Size() int64        { return int64(len(i.f.content)) }
func (i memInfo) Mode() fs.FileMode  { return 0o444 }
func (i memInfo) ModTime() time.Time { return time.Time{} }
func (i memInfo) IsDir() bool        { return false }
func (i memInfo) Sys() any           { return nil }
