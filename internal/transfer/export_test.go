package transfer_test

import (
	"archive/zip"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/leasehold-go/leasehold/internal/pgtest"
	"github.com/leasehold-go/leasehold/internal/transfer"
)

var acme = transfer.About{Slug: "acme", Company: "Acme Inc.", ContactName: "Ada", ContactEmail: "ada@example.com"}

// exported makes a tenant of the product and exports it.
func exported(tb testing.TB) (source transfer.Place, url, file string) {
	tb.Helper()
	url = pgtest.Database(tb)
	source = house(tb, url, names(tb))
	apply(tb, productSet(tb), source)
	fill(tb, source, 20)
	file = filepath.Join(tb.TempDir(), "acme.tenant")
	_, err := transfer.Export(tb.Context(), source, file, acme)
	needPrograms(tb, err)
	if err != nil {
		tb.Fatal(err)
	}
	return source, url, file
}

// A tenant is exported, and imported beside itself under another name, and in another database under its own. Both are what it was.
func TestExportImport(t *testing.T) {
	t.Parallel()
	source, url, file := exported(t)
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode() != 0o600 {
		t.Errorf("the file has mode %s", info.Mode())
	}
	want := content(t, source)
	same := names(t)
	same.Schema, same.Role = source.Schema, source.Role
	for name, place := range map[string]transfer.Place{
		"another name": house(t, url, names(t)),
		"its own name": house(t, pgtest.Database(t), same),
	} {
		m, err := transfer.Import(t.Context(), file, place)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if m.About != acme || len(m.Versions) != 3 || m.Rows() < 100 {
			t.Errorf("%s: manifest %+v", name, m)
		}
		if diff := cmp.Diff(want, content(t, place)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		checkDrift(t, productSet(t), place)
		// It goes on where it was.
		mustExec(t, place, "INSERT INTO customers (name, email) VALUES ('Bo', 'bo@example.com')")
	}
}

// What is not as the export says is an error.
func TestImportRefuses(t *testing.T) {
	t.Parallel()
	_, url, file := exported(t)
	text := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(text, []byte("no export"), 0o600); err != nil {
		t.Fatal(err)
	}
	full := house(t, url, names(t))
	mustExec(t, full, "CREATE TABLE notes ()")
	empty := func() transfer.Place { return house(t, url, names(t)) }
	for name, test := range map[string]struct {
		file  string
		place transfer.Place
		want  error
	}{
		"no file":             {file + ".not", empty(), fs.ErrNotExist},
		"another file":        {text, empty(), transfer.ErrFile},
		"a file that was cut": {cut(t, file), empty(), transfer.ErrFile},
		"a row more":          {rewritten(t, file, `"rows": 20,`, `"rows": 21,`), empty(), transfer.ErrDiffers},
		"another name":        {rewritten(t, file, `"schema": "t_`, `"schema": "t`), empty(), transfer.ErrFile},
		"not empty":           {file, full, transfer.ErrNotEmpty},
	} {
		if _, err := transfer.Import(t.Context(), test.file, test.place); !errors.Is(err, test.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func cut(tb testing.TB, file string) string {
	tb.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		tb.Fatal(err)
	}
	name := filepath.Join(tb.TempDir(), "cut")
	if err := os.WriteFile(name, text[:len(text)*2/3], 0o600); err != nil {
		tb.Fatal(err)
	}
	return name
}

// rewritten is a copy of an export with another text in its manifest.
func rewritten(tb testing.TB, file, old, now string) string {
	tb.Helper()
	in, err := zip.OpenReader(file)
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = in.Close() }()
	out, err := os.Create(filepath.Join(tb.TempDir(), "rewritten"))
	if err != nil {
		tb.Fatal(err)
	}
	w := zip.NewWriter(out)
	for _, member := range in.File {
		r, err := member.Open()
		if err != nil {
			tb.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			tb.Fatal(err)
		}
		if member.Name == "manifest.json" {
			text = []byte(replaceOnce(tb, string(text), old, now))
		}
		to, err := w.Create(member.Name)
		if err != nil {
			tb.Fatal(err)
		}
		if _, err := to.Write(text); err != nil {
			tb.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), out.Close()); err != nil {
		tb.Fatal(err)
	}
	return out.Name()
}

// An export does not replace a file, and leaves none behind that is not whole.
func TestExportFails(t *testing.T) {
	t.Parallel()
	source, url, file := exported(t)
	if _, err := transfer.Export(t.Context(), source, file, acme); !errors.Is(err, fs.ErrExist) {
		t.Errorf("over a file: %v", err)
	}
	dir := t.TempDir()
	missing := house(t, url, names(t))
	mustExec(t, missing, "DROP SCHEMA "+missing.Schema)
	if _, err := transfer.Export(t.Context(), missing, filepath.Join(dir, "missing"), acme); err == nil {
		t.Error("a tenant without a schema was exported")
	}
	lock := connect(t, source)
	if _, err := lock.Exec(t.Context(), "CREATE TABLE secret (n int); ALTER TABLE secret FORCE ROW LEVEL SECURITY; ALTER TABLE secret ENABLE ROW LEVEL SECURITY"); err != nil {
		t.Fatal(err)
	}
	if _, err := transfer.Export(t.Context(), source, filepath.Join(dir, "hidden"), acme); err == nil {
		t.Error("a table with rows that policies may hide was exported")
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}
