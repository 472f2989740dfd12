package migrate_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/leasehold-go/leasehold/db/migrate"
)

func TestNewFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	// 01:02:03 on the first of February, in UTC.
	now := time.Date(2026, 2, 1, 3, 2, 3, 0, time.FixedZone("", 2*60*60))
	for _, tt := range []struct{ name, want string }{
		{"Add  invoices", "20260201010203_add_invoices.sql"},
		{"Add  invoices", "20260201010204_add_invoices.sql"},
		{"_a-b.c_", "20260201010205_a_b_c.sql"},
	} {
		got, err := migrate.NewFile(dir, tt.name, now)
		if err != nil {
			t.Fatal(err)
		}
		if want := filepath.Join(dir, tt.want); got != want {
			t.Errorf("%q: got %s, want %s", tt.name, got, want)
		}
	}
	content, err := os.ReadFile(filepath.Join(dir, "20260201010203_add_invoices.sql"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff("-- migrate:up\n\n\n-- migrate:down\n\n", string(content)); diff != "" {
		t.Error(diff)
	}
}

func TestNewFileRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, name := range []string{"", " ", "--", "../a", "a/b", "a;b", "größe", "a\nb", strings.Repeat("x", 101)} {
		if path, err := migrate.NewFile(dir, name, time.Unix(0, 0)); !errors.Is(err, migrate.ErrBadName) {
			t.Errorf("%q: got %s, %v", name, path, err)
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
	if _, err := migrate.NewFile(filepath.Join(dir, "none"), "a", time.Unix(0, 0)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no folder: %v", err)
	}
}
