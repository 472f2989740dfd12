package migrate

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// template is dbmate's.
const template = "-- migrate:up\n\n\n-- migrate:down\n\n"

// maxFileName bounds the name given to NewFile, in bytes.
const maxFileName = 100

// NewFile creates an empty migration in the folder dir, which must exist, and returns its path. It is named as dbmate names
// it: <time in UTC>_<name>.sql, in lower case, with underscores for spaces, hyphens and dots. If a file already has that
// second for its version, the next free one is taken, so that no version exists twice. No file is ever overwritten.
//
// A name of other characters than letters, digits and these is ErrBadName.
func NewFile(dir, name string, now time.Time) (string, error) {
	name, err := cleanName(name)
	if err != nil {
		return "", err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", fmt.Errorf("new migration: %w", err)
	}
	taken := make(map[string]bool, len(entries))
	for _, entry := range entries {
		if match := fileName.FindStringSubmatch(entry.Name()); match != nil {
			taken[match[1]] = true
		}
	}
	now = now.UTC()
	version := now.Format("20060102150405")
	for taken[version] {
		now = now.Add(time.Second)
		version = now.Format("20060102150405")
	}
	path := filepath.Join(dir, version+"_"+name+".sql")
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return "", fmt.Errorf("new migration: %w", err)
	}
	_, err = f.WriteString(template)
	if err := errors.Join(err, f.Close()); err != nil {
		return "", fmt.Errorf("new migration: %w", err)
	}
	return path, nil
}

// cleanName turns "Add invoices" into "add_invoices".
func cleanName(name string) (string, error) {
	var b strings.Builder
	for _, r := range strings.ToLower(strings.TrimSpace(name)) {
		switch {
		case 'a' <= r && r <= 'z', '0' <= r && r <= '9':
			b.WriteRune(r)
		case strings.ContainsRune(" -_.", r):
			if s := b.String(); s != "" && !strings.HasSuffix(s, "_") {
				b.WriteByte('_')
			}
		default:
			return "", fmt.Errorf("%w %q: use letters a to z, digits, and spaces, hyphens or underscores between them", ErrBadName, name)
		}
	}
	clean := strings.TrimSuffix(b.String(), "_")
	if clean == "" {
		return "", fmt.Errorf("%w %q: say in a word or two what the migration does, such as add_invoices", ErrBadName, name)
	}
	if len(clean) > maxFileName {
		return "", fmt.Errorf("%w: %d characters long; at most %d", ErrBadName, len(clean), maxFileName)
	}
	return clean, nil
}
