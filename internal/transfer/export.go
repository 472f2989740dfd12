package transfer

import (
	"archive/zip"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/leasehold-go/leasehold/internal/pgdump"
)

// manifestFormat is the version of the format of exports.
const manifestFormat = 1

// The members of an export, which is a zip file.
const (
	manifestName = "manifest.json"
	dumpName     = "tenant.dump" // in pg_dump's custom format
)

// About is what an export says of its tenant.
type About struct {
	Slug         string `json:"slug"`
	Company      string `json:"company"`
	ContactName  string `json:"contact_name"`
	ContactEmail string `json:"contact_email"`
}

// Manifest is what an export says of itself.
type Manifest struct {
	Format     int       `json:"format"`
	ExportedAt time.Time `json:"exported_at"`
	About
	Schema string `json:"schema"`
	Role   string `json:"role"`
	// Server is the major version of the server that the export was made at.
	Server int `json:"server"`
	// Versions are those of the migrations that were applied, in order.
	Versions []string `json:"versions"`
	// Tables says of each table what rows it has.
	Tables []TableSum `json:"tables"`
	Grants []grant    `json:"grants"`
}

// TableSum is what of a table is compared.
type TableSum struct {
	Name string `json:"name"`
	Sum
}

// Rows counts the rows of all tables.
func (m *Manifest) Rows() int64 {
	var n int64
	for _, t := range m.Tables {
		n += t.Rows
	}
	return n
}

// Export writes a tenant to a new file that only its owner can read. All of it is of one moment, but for the values of sequences, which
// may be later ones. The file is there when all of it is on the disk, or not at all. Migrations wait meanwhile; nobody else does.
//
// The error is fs.ErrExist if there is such a file, ErrBusy, pgdump.ErrNoProgram, that of the server or that of writing.
func Export(ctx context.Context, place Place, file string, about About) (_ *Manifest, err error) {
	if err := place.validate(); err != nil {
		return nil, err
	}
	if _, err := os.Lstat(file); !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", file, errors.Join(fs.ErrExist, err))
	}
	s, err := place.connect(ctx)
	if err != nil {
		return nil, err
	}
	defer s.close()
	if err := cmp.Or(s.seize(ctx), s.mustBeAllOurs(ctx)); err != nil {
		return nil, err
	}
	out, err := os.CreateTemp(filepath.Dir(file), ".export-*")
	if err != nil {
		return nil, err
	}
	defer func() {
		_ = out.Close()
		if err != nil {
			_ = os.Remove(out.Name())
		}
	}()
	m, err := s.export(ctx, out, about)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(out.Sync(), out.Close()); err != nil {
		return nil, err
	}
	// A link does not replace what somebody has put there meanwhile.
	if err := os.Link(out.Name(), file); err != nil {
		return nil, err
	}
	return m, errors.Join(os.Remove(out.Name()), syncFolder(filepath.Dir(file)))
}

// syncFolder makes the names in a folder survive a power cut.
func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (s *session) export(ctx context.Context, out io.Writer, about About) (*Manifest, error) {
	tables, err := s.tables(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.snapshot(ctx, tables, "access share", tablePatience); err != nil {
		return nil, err
	}
	m := &Manifest{Format: manifestFormat, About: about, Schema: s.place.Schema, Role: s.place.Role}
	var snapshot string
	if err := s.QueryRow(ctx, `select pg_export_snapshot(), now()`).Scan(&snapshot, &m.ExportedAt); err != nil {
		return nil, err
	}
	file := zip.NewWriter(out)
	member := func(name string, method uint16) (io.Writer, error) {
		return file.CreateHeader(&zip.FileHeader{Name: name, Method: method, Modified: m.ExportedAt})
	}
	dump, err := member(dumpName, zip.Store) // pg_dump compresses it
	if err != nil {
		return nil, err
	}
	options := append([]string{"--format=custom", "--strict-names", `--schema="` + s.place.Schema + `"`, "--snapshot=" + snapshot}, definitionOptions...)
	if m.Server, err = pgdump.Write(ctx, s.place.Admin, dump, options...); err != nil {
		return nil, err
	}
	if err := s.fill(ctx, m, tables); err != nil {
		return nil, err
	}
	manifest, err := member(manifestName, zip.Deflate)
	if err != nil {
		return nil, err
	}
	encoder := json.NewEncoder(manifest)
	encoder.SetIndent("", "  ")
	return m, errors.Join(encoder.Encode(m), file.Close(), s.rollback(ctx))
}

// ledgerName is the table in which dbmate keeps the versions of what was applied.
const ledgerName = "schema_migrations"

// fill writes down what is compared at an import.
func (s *session) fill(ctx context.Context, m *Manifest, tables []table) (err error) {
	for _, t := range tables {
		sum, err := s.sum(ctx, t, t.rows(s.place))
		if err != nil {
			return err
		}
		m.Tables = append(m.Tables, TableSum{t.name, sum})
		if t.name == ledgerName {
			if err := s.QueryRow(ctx, "select array_agg(version::text order by version) from "+s.place.name(ledgerName)).Scan(&m.Versions); err != nil {
				return err
			}
		}
	}
	m.Grants, err = s.grants(ctx)
	return err
}

// ReadManifest reads what an export says of itself. The error is ErrFile if the file is no export.
func ReadManifest(file string) (*Manifest, error) {
	f, err := openExport(file)
	if err != nil {
		return nil, err
	}
	return f.manifest, f.Close()
}

// exportFile is an export that is open for reading.
type exportFile struct {
	*zip.ReadCloser
	manifest *Manifest
}

func openExport(file string) (_ *exportFile, err error) {
	archive, err := zip.OpenReader(file)
	switch {
	case errors.Is(err, zip.ErrFormat), errors.Is(err, io.ErrUnexpectedEOF):
		return nil, fmt.Errorf("%s: %w: %w", file, ErrFile, err)
	case err != nil:
		return nil, err
	}
	f := &exportFile{archive, &Manifest{}}
	if err := f.readManifest(); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", file, err), archive.Close())
	}
	return f, nil
}

func (f *exportFile) readManifest() error {
	r, err := f.Open(manifestName)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrFile, err)
	}
	err = json.NewDecoder(r).Decode(f.manifest)
	if err = errors.Join(err, r.Close()); err != nil {
		return fmt.Errorf("%w: %w", ErrFile, err)
	}
	if f.manifest.Format != manifestFormat {
		return fmt.Errorf("%w: its format is %d; this program reads %d", ErrFile, f.manifest.Format, manifestFormat)
	}
	return nil
}
