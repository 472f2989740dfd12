package tenantdb

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/db/tenant"
)

// ScopeSQL is what is sent before each query.
const ScopeSQL = scopeSQL

// ScopeOIDs are the types of its parameters.
var ScopeOIDs = []uint32{25, regnamespaceOID, 25}

// RawConn lends fn a connection as it is between calls.
func (db *DB) RawConn(tb testing.TB, fn func(ctx context.Context, conn *pgx.Conn)) {
	tb.Helper()
	l, err := db.e.acquire(tb.Context(), db.e.nobody)
	if err != nil {
		tb.Fatal(err)
	}
	defer l.release(tb.Context())
	fn(tb.Context(), l.conn)
}

// Reset closes the connections that are free.
func (db *DB) Reset() { db.e.home.shared.closeIdle(func(*session) bool { return true }) }

// Pooled reports whether db works for a transaction pooler.
func (db *DB) Pooled() bool { return db.e.home.pooled.Load() }

// SetBrief says below which duration a call is brief.
func (db *DB) SetBrief(d time.Duration) {
	db.e.home.shared.mu.Lock()
	defer db.e.home.shared.mu.Unlock()
	db.e.home.shared.brief = d
}

// WarnOfOldServer is what a new connection's server version is given to.
var WarnOfOldServer = warnOfOldServer

// PinsWanted is how many sessions a tenant has or waits for.
func (db *DB) PinsWanted(id tenant.ID) int {
	db.e.pins.mu.Lock()
	defer db.e.pins.mu.Unlock()
	if s := db.e.pins.tenants[id]; s != nil {
		return s.users
	}
	return 0
}
