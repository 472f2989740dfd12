package directory

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/internal/pgdump"
	"github.com/leasehold-go/leasehold/internal/pgtest"
)

// exportTo exports a tenant to a new file.
func exportTo(tb testing.TB, d *Directory, id tenant.ID) (file string, said Exported) {
	tb.Helper()
	file = filepath.Join(tb.TempDir(), "export")
	said, err := d.Export(tb.Context(), id, file)
	if errors.Is(err, pgdump.ErrNoProgram) && os.Getenv("CI") == "" {
		tb.Skip(err)
	}
	if err != nil {
		tb.Fatal(err)
	}
	return file, said
}

// A tenant goes into a file, and comes out of it beside itself, in either strategy, and under its own name when that is free. One from an
// older release is migrated.
func TestExportAndImport(t *testing.T) {
	t.Parallel()
	d, url := newDirectory(t)
	acme := mustCreate(t, d, "acme")
	db := openMovingDB(t, d)
	wantServed(t, db, acme)
	file, said := exportTo(t, d, acme.ID)
	if said.Slug != "acme" || said.Company != acme.Company || said.Tables != 2 || said.Rows != 2 || len(said.Versions) != 1 {
		t.Errorf("%+v", said)
	}
	if again, err := ReadExport(file); err != nil || again.Rows != said.Rows {
		t.Errorf("%+v %v", again, err)
	}
	if _, err := d.Export(t.Context(), acme.ID, file); !errors.Is(err, fs.ErrExist) {
		t.Errorf("over a file: %v", err)
	}
	if _, err := d.Import(t.Context(), file, NewTenant{}); !errors.Is(err, ErrSlugTaken) {
		t.Errorf("under its own name: %v", err)
	}
	newer := configOf(t, url)
	newer.Migrator = migratorOf(t, "ALTER TABLE notes ADD extra text")
	next := openDirectory(t, newer)
	for _, n := range []NewTenant{{Subdomain: "acme-two"}, {Subdomain: "acme-three", Strategy: tenant.DatabaseStrategy, Company: "Three"}} {
		copied, err := next.Import(t.Context(), file, n)
		if err != nil {
			t.Fatal(err)
		}
		dropAtEnd(t, copied)
		if copied.ID == acme.ID || copied.ContactEmail != acme.ContactEmail || n.Company != "" && copied.Company != n.Company {
			t.Errorf("%+v", copied)
		}
		var notes int
		if err := db.For(copied).QueryRow(t.Context(), "SELECT count(*) FROM notes WHERE body = 'acme' AND extra IS NULL").Scan(&notes); err != nil || notes != 1 {
			t.Errorf("%s has %d of the notes: %v", copied.Slug, notes, err)
		}
		if _, err := db.For(copied).Exec(t.Context(), "INSERT INTO notes (body) VALUES (shout('new'))"); err != nil {
			t.Error(err)
		}
	}
	wantServed(t, db, acme)
}

// What cannot be imported leaves nothing.
func TestImportFails(t *testing.T) {
	t.Parallel()
	d, url := newDirectory(t)
	acme := mustCreate(t, d, "acme")
	// The view cannot be made elsewhere: it reads another schema.
	conn := pgtest.Connect(t, url)
	mustExec(t, conn, "CREATE SCHEMA common; CREATE TABLE common.rates (n int)")
	mustExec(t, conn, "CREATE VIEW "+acme.Placement.Schema+".rates AS SELECT * FROM common.rates")
	file, _ := exportTo(t, d, acme.ID)
	mustExec(t, conn, "DROP SCHEMA common CASCADE")
	text := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(text, []byte("no export"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Import(t.Context(), text, NewTenant{}); !errors.Is(err, ErrBadExport) {
		t.Errorf("no export: %v", err)
	}
	for _, strategy := range []tenant.Strategy{tenant.SchemaStrategy, tenant.DatabaseStrategy} {
		if _, err := d.Import(t.Context(), file, NewTenant{Subdomain: "copy", Strategy: strategy}); sqlState(err) != "42P01" && sqlState(err) != "3F000" {
			t.Errorf("%s: %v", strategy, err)
		}
	}
	wantNothingLeft(t, url, acme)
	wantNoTraces(t, d, pgtest.Connect(t, pgtest.SuperURL(t, "postgres")), acme)
}
