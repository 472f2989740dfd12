package tenant

import (
	"encoding/hex"
	"errors"
	"fmt"
	"time"
)

// Sentinel errors. Packages that return them wrap them with detail; compare with errors.Is.
var (
	// ErrNoTenant reports a call that needs a tenant, in a context that carries none. Nothing was sent to a database.
	ErrNoTenant = errors.New("no tenant in the context")
	// ErrNotFound reports a slug, host or id that belongs to no tenant.
	ErrNotFound = errors.New("tenant not found")
	// ErrMismatch reports a context that carries one tenant, used with a handle or transaction bound to another.
	ErrMismatch = errors.New("the context carries another tenant than this handle is bound to")
)

// ID identifies a tenant for ever: it is never changed and never used again. It is a UUID of version 7, in the byte order
// of RFC 9562. The zero ID belongs to nobody.
type ID [16]byte

// ParseID reads the canonical text form, 36 characters with hyphens, in either case.
func ParseID(s string) (ID, error) {
	var id ID
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return ID{}, fmt.Errorf("tenant id %q: want a UUID such as 0198c5f0-7d1e-7cc2-9f0a-5b1f6f0f4a11", s)
	}
	digits := s[:8] + s[9:13] + s[14:18] + s[19:23] + s[24:]
	if _, err := hex.Decode(id[:], []byte(digits)); err != nil {
		return ID{}, fmt.Errorf("tenant id %q: want a UUID such as 0198c5f0-7d1e-7cc2-9f0a-5b1f6f0f4a11", s)
	}
	return id, nil
}

// String returns the canonical text form, lower-case with hyphens.
func (id ID) String() string {
	var b [36]byte
	hex.Encode(b[0:8], id[0:4])
	hex.Encode(b[9:13], id[4:6])
	hex.Encode(b[14:18], id[6:8])
	hex.Encode(b[19:23], id[8:10])
	hex.Encode(b[24:36], id[10:16])
	b[8], b[13], b[18], b[23] = '-', '-', '-', '-'
	return string(b[:])
}

// IsZero reports whether the ID is the zero ID.
func (id ID) IsZero() bool { return id == ID{} }

// MarshalText implements encoding.TextMarshaler; JSON shows an ID as a string.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (id *ID) UnmarshalText(text []byte) (err error) {
	*id, err = ParseID(string(text))
	return err
}

// Tenant is one company's record in the registry, as it was when it was read. It is shared between goroutines and must not
// be changed.
type Tenant struct {
	ID           ID
	Slug         Slug
	Company      string
	ContactName  string
	ContactEmail string
	Status       Status
	Placement    Placement
	// Generation grows by one with each change of the record. What was worked out from one generation (a plan, a job) does
	// not hold for the next.
	Generation int64
	CreatedAt  time.Time
	UpdatedAt  time.Time
}

// Status says whether a tenant may be served. The registry holds the same words.
type Status string

// The states of a tenant's life.
const (
	// Provisioning: its schema is being built. Not served yet.
	Provisioning Status = "provisioning"
	// Active: served.
	Active Status = "active"
	// Suspended: kept, but not served, until it is resumed.
	Suspended Status = "suspended"
	// Deleting: kept for a time before it is deleted, and not served meanwhile. Its slug is not free yet.
	Deleting Status = "deleting"
	// Failed: provisioning broke off. Never served; its slug is free again.
	Failed Status = "failed"
	// Deleted: gone. Never served; its slug is free again.
	Deleted Status = "deleted"
)
