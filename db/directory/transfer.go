package directory

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/internal/controlsql"
	"github.com/leasehold-go/leasehold/internal/transfer"
)

// The events of a tenant that goes into a file or comes out of one.
const (
	EventExported EventKind = "exported"
	EventImported EventKind = "create.imported"
)

// The errors of taking a tenant's data elsewhere; compare with errors.Is.
var (
	// ErrBadExport reports a file that is no export, or that was cut or changed.
	ErrBadExport = transfer.ErrFile
	// ErrHeld reports a move that could not be brought to its end, because open transactions of the tenant did not end. The tenant is
	// where it was.
	ErrHeld = transfer.ErrHeld
	// ErrDiffers reports rows that are not the same in a copy. The tenant is where it was; no tenant was imported.
	ErrDiffers = transfer.ErrDiffers
	// ErrBusy reports that a migration, an export or a move of the tenant is at work, or that something in its schema was defined anew
	// while it was moved.
	ErrBusy = transfer.ErrBusy
)

// Exported says what is in an export.
type Exported struct {
	// Slug, Company, ContactName and ContactEmail are those that the tenant had.
	Slug         string `json:"slug"`
	Company      string `json:"company"`
	ContactName  string `json:"contact_name"`
	ContactEmail string `json:"contact_email"`
	// At is the moment of which the export is.
	At time.Time `json:"exported_at"`
	// Versions are those of the migrations that were applied.
	Versions []string `json:"versions"`
	// Tables and Rows count what there is.
	Tables int   `json:"tables"`
	Rows   int64 `json:"rows"`
}

func newExported(m *transfer.Manifest) Exported {
	return Exported{
		Slug: m.Slug, Company: m.Company, ContactName: m.ContactName, ContactEmail: m.ContactEmail, At: m.ExportedAt,
		Versions: m.Versions, Tables: len(m.Tables), Rows: m.Rows(),
	}
}

// ReadExport says what is in an export. The error is ErrBadExport if the file is none.
func ReadExport(file string) (Exported, error) {
	m, err := transfer.ReadManifest(file)
	if err != nil {
		return Exported{}, err
	}
	return newExported(m), nil
}

// Export writes all data of a tenant to a new file, which only its owner can read: a zip of a manifest and of a dump in pg_dump's custom
// format. The data is of one moment, but for the values of sequences; the tenant is served meanwhile. The tenant may be active,
// suspended, or to be deleted. What its record says of people is in the file.
//
// The error is fs.ErrExist if there is a file of that name, ErrBusy, a *StatusError, errors.ErrUnsupported if the tenant has what cannot
// be exported, such as large objects, or says that no fitting pg_dump was found. On error there is
// no file.
func (d *Directory) Export(ctx context.Context, id tenant.ID, file string) (Exported, error) {
	row, err := d.queries.GetTenant(ctx, id)
	if err != nil {
		return Exported{}, fmt.Errorf("export tenant %s: %w", id, notFound(err))
	}
	m, err := d.export(ctx, row, file)
	if err != nil {
		return Exported{}, fmt.Errorf("export tenant %q: %w", row.Slug, err)
	}
	return newExported(m), appendEvent(ctx, d.queries, id, EventExported, fmt.Sprintf("%d tables, %d rows", len(m.Tables), m.Rows()))
}

func (d *Directory) export(ctx context.Context, row controlsql.Tenant, file string) (*transfer.Manifest, error) {
	switch {
	case row.Status == tenant.Active, row.Status == tenant.Suspended, row.Status == tenant.Deleting && !row.Purging:
	default:
		return nil, refuse(row, "exported")
	}
	place, err := d.transferPlace(ctx, row)
	if err != nil {
		return nil, err
	}
	return transfer.Export(ctx, place, file, transfer.About{
		Slug: string(row.Slug), Company: row.Company, ContactName: row.ContactName, ContactEmail: row.ContactEmail,
	})
}

// Import makes a new tenant out of an export: one with another id, and under another subdomain if n names one. What n leaves empty
// the export says. All rows are compared with the manifest, and then the migrations that the export lacks are applied. The errors are
// those of Create, ErrBadExport and ErrDiffers. On error no tenant is left.
//
// The definitions in the file are run with the rights of the administrator. Import only what you, or somebody whom you trust, exported.
func (d *Directory) Import(ctx context.Context, file string, n NewTenant) (*tenant.Tenant, error) {
	if err := d.canCreate(); err != nil {
		return nil, err
	}
	about, err := ReadExport(file)
	if err != nil {
		return nil, err
	}
	n.Company = cmp.Or(n.Company, about.Company)
	n.ContactName = cmp.Or(n.ContactName, about.ContactName)
	n.ContactEmail = cmp.Or(n.ContactEmail, about.ContactEmail)
	n.Subdomain = cmp.Or(n.Subdomain, about.Slug)
	n, slug, err := n.check()
	if err != nil {
		return nil, err
	}
	row, err := d.build(ctx, n, slug, func(ctx context.Context, row controlsql.Tenant) error { return d.fill(ctx, row, file) })
	if err != nil {
		return nil, fmt.Errorf("import tenant %q: %w", slug, err)
	}
	d.cache.invalidate(string(slug))
	return d.fromRow(row), nil
}

// fill fills an empty house from an export.
func (d *Directory) fill(ctx context.Context, row controlsql.Tenant, file string) error {
	place, err := d.transferPlace(ctx, row)
	if err != nil {
		return err
	}
	m, err := transfer.Import(ctx, file, place)
	if err != nil {
		return err
	}
	return appendEvent(ctx, d.queries, row.ID, EventImported, fmt.Sprintf("%s of %s: %d tables, %d rows",
		m.Slug, m.ExportedAt.UTC().Format(time.RFC3339), len(m.Tables), m.Rows()))
}
