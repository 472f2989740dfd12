package transfer

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	"github.com/leasehold-go/leasehold/internal/pgdump"
)

// Import fills an empty schema from an export, under the names of the place, and compares all rows with what the export says of them.
// On error something may be in the schema, which is for the caller to drop.
//
// The definitions in the file are run with the rights of the administrator: import what you trust.
//
// The error is ErrFile, ErrNotEmpty, ErrBusy, ErrDiffers, pgdump.ErrNoProgram, or that of the server.
func Import(ctx context.Context, file string, place Place) (*Manifest, error) {
	if err := place.validate(); err != nil {
		return nil, err
	}
	f, err := openExport(file)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	names, err := newRenaming(f.manifest, place)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	s, err := place.connect(ctx)
	if err != nil {
		return nil, err
	}
	defer s.close()
	if err := errors.Join(s.seize(ctx), s.mustBeEmpty(ctx)); err != nil {
		return nil, err
	}
	if err := (&importer{s, f, names}).run(ctx); err != nil {
		return nil, fmt.Errorf("import %s: %w", file, err)
	}
	return f.manifest, nil
}

// importer is an import under way.
type importer struct {
	*session
	file  *exportFile
	names renaming
}

func (im *importer) run(ctx context.Context) error {
	before, err := im.definitions(ctx, "pre-data")
	if err != nil {
		return err
	}
	if err := im.apply(ctx, before); err != nil {
		return err
	}
	if err := im.setGrants(ctx, im.file.manifest.Grants); err != nil {
		return err
	}
	if err := im.rows(ctx); err != nil {
		return err
	}
	after, err := im.definitions(ctx, "post-data")
	if err != nil {
		return err
	}
	// Before triggers and policies can have a say.
	if err := im.compare(ctx); err != nil {
		return err
	}
	if err := im.apply(ctx, after); err != nil {
		return err
	}
	tables, err := im.tables(ctx)
	if err != nil {
		return err
	}
	return im.analyze(ctx, tables)
}

// script has a section of the dump as SQL.
func (im *importer) script(ctx context.Context, section string, out io.Writer) error {
	dump, err := im.file.Open(dumpName)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrFile, err)
	}
	err = pgdump.Script(ctx, dump, im.file.manifest.Server, out, append([]string{"--section=" + section}, definitionOptions...)...)
	return errors.Join(err, dump.Close())
}

func (im *importer) definitions(ctx context.Context, section string) ([]entry, error) {
	var text bytes.Buffer
	if err := im.script(ctx, section, &text); err != nil {
		return nil, err
	}
	return split(im.names.rename(text.Bytes())), nil
}

// rows loads all rows, and sets the sequences.
func (im *importer) rows(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	pr, pw := io.Pipe()
	done := make(chan struct{})
	var scriptErr error // to be read after done
	go func() {
		defer close(done)
		buffer := bufio.NewWriterSize(pw, copyBuffer)
		scriptErr = im.script(ctx, "data", buffer)
		scriptErr = errors.Join(scriptErr, buffer.Flush())
		_ = pw.CloseWithError(scriptErr)
	}()
	err := im.load(ctx, bufio.NewReaderSize(pr, copyBuffer))
	if err != nil {
		cancel()
		_ = pr.CloseWithError(errStopped)
		<-done
		return err
	}
	<-done
	return scriptErr
}

// load reads what pg_restore writes of the section data: COPY with its rows, and calls of setval.
func (im *importer) load(ctx context.Context, in *bufio.Reader) error {
	for {
		line, err := in.ReadString('\n')
		if errors.Is(err, io.EOF) && line == "" {
			return nil
		}
		if err != nil {
			return err
		}
		switch line = strings.TrimSuffix(line, "\n"); {
		case line == "", strings.HasPrefix(line, "--"), strings.HasPrefix(line, "SET "), strings.HasPrefix(line, `\restrict `),
			strings.HasPrefix(line, `\unrestrict `), strings.HasPrefix(line, "SELECT pg_catalog.set_config('search_path', "):
		case strings.HasPrefix(line, "COPY ") && strings.HasSuffix(line, " FROM stdin;"):
			rows := &copyRows{in: in, fresh: true}
			sql := im.names.first(strings.TrimSuffix(line, ";"))
			if _, err := im.PgConn().CopyFrom(ctx, rows, sql); err != nil {
				return fmt.Errorf("%s: %w", sql, err)
			}
		case strings.HasPrefix(line, "SELECT pg_catalog.setval("):
			if err := im.session.run(ctx, im.names.first(line)); err != nil {
				return err
			}
		default:
			return fmt.Errorf("%w: its rows are not what they should be", ErrFile)
		}
	}
}

// copyRows reads the rows behind a COPY, up to the line that ends them.
type copyRows struct {
	in    *bufio.Reader
	rest  []byte
	fresh bool // a line begins
	ended bool
}

const copyEnd = "\\.\n"

func (c *copyRows) Read(p []byte) (n int, err error) {
	for n < len(p) {
		if len(c.rest) == 0 {
			if c.ended {
				break
			}
			if err := c.next(); err != nil {
				return n, err
			}
			continue
		}
		copied := copy(p[n:], c.rest)
		c.rest = c.rest[copied:]
		n += copied
		if len(c.rest) == 0 && c.in.Buffered() == 0 {
			return n, nil // what comes next may take its time
		}
	}
	if n == 0 && c.ended {
		return 0, io.EOF
	}
	return n, nil
}

// next reads a line, or a part of one that is very long. It is good until the next call.
func (c *copyRows) next() error {
	line, err := c.in.ReadSlice('\n')
	switch {
	case c.fresh && string(line) == copyEnd:
		c.ended = true
		return nil
	case err == nil, errors.Is(err, bufio.ErrBufferFull):
		c.fresh = err == nil
		c.rest = line
		return nil
	case errors.Is(err, io.EOF):
		return io.ErrUnexpectedEOF
	default:
		return err
	}
}

// compare compares all rows with what the export says.
func (im *importer) compare(ctx context.Context) error {
	tables, err := im.tables(ctx)
	if err != nil {
		return err
	}
	want := im.file.manifest.Tables
	if len(tables) != len(want) {
		return fmt.Errorf("%w: there are %d tables, want %d", ErrDiffers, len(tables), len(want))
	}
	for _, t := range tables {
		i := slices.IndexFunc(want, func(w TableSum) bool { return w.Name == t.name })
		if i < 0 {
			return fmt.Errorf("%w: table %s is not in the manifest", ErrDiffers, t.name)
		}
		have, err := im.sum(ctx, t, t.rows(im.place))
		if err := cmp.Or(err, differs(t.name, want[i].Sum, have)); err != nil {
			return err
		}
	}
	return nil
}

// renaming puts the names of a place where those of an export stand.
type renaming struct {
	schema, role       *regexp.Regexp // nil: it stays the same
	newSchema, newRole []byte
}

// generated are names that mean nothing else wherever they stand, as the registry makes them.
var generated = regexp.MustCompile(`^[tr]_[a-z0-9_]*_[0-9a-v]{26}$`)

func newRenaming(m *Manifest, place Place) (r renaming, err error) {
	r = renaming{newSchema: []byte(place.Schema), newRole: []byte(place.Role)}
	for _, name := range []struct {
		old, now string
		pattern  **regexp.Regexp
	}{{m.Schema, place.Schema, &r.schema}, {m.Role, place.Role, &r.role}} {
		if name.old == name.now {
			continue
		}
		if !generated.MatchString(name.old) {
			return r, fmt.Errorf("%w: the name %q may mean something else as well, and cannot become %q", ErrFile, name.old, name.now)
		}
		*name.pattern = regexp.MustCompile(`\b` + name.old + `\b`)
	}
	return r, nil
}

// rename renames in definitions.
func (r renaming) rename(text []byte) []byte {
	if r.schema != nil {
		text = r.schema.ReplaceAllLiteral(text, r.newSchema)
	}
	if r.role != nil {
		text = r.role.ReplaceAllLiteral(text, r.newRole)
	}
	return text
}

// first renames the first place where the schema stands: in a COPY or a setval it is the name of the table or the sequence.
func (r renaming) first(line string) string {
	if r.schema == nil {
		return line
	}
	at := r.schema.FindStringIndex(line)
	if at == nil {
		return line
	}
	return line[:at[0]] + string(r.newSchema) + line[at[1]:]
}
