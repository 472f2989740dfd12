package tenant

import (
	"crypto/sha256"
	"encoding/binary"
)

// LockKey returns a key for PostgreSQL's advisory locks that is the tenant's own: advisory locks belong to the whole database,
// so two tenants that lock the same number lock each other out. The same tenant and name give the same key in every process
// and version. Two different pairs share a key with a probability of 1 in 2^64, which costs waiting and nothing else.
func (id ID) LockKey(name string) int64 {
	sum := sha256.Sum256(append(id[:], name...))
	return int64(binary.BigEndian.Uint64(sum[:8])) //nolint:gosec // any 64 bits will do
}

// Channel returns the name of a NOTIFY channel that is the tenant's own: channels belong to the whole database. It is 30
// characters and the name long, of which PostgreSQL takes 63 in all, and reads the same quoted or not if the name is made of
// a-z, 0-9 and _. That nobody else sends to it is a matter of manners: whoever can log in to the database may notify any channel.
func (id ID) Channel(name string) string {
	return "lh_" + idEncoding.EncodeToString(id[:]) + "_" + name
}
