package tenantdb

import "github.com/jackc/pgx/v5/pgxpool"

// ScopeSQL is what is sent before each query.
const ScopeSQL = scopeSQL

// RawPool is the pool under db. Only tests see it: they check what a connection looks like between calls.
func (db *DB) RawPool() *pgxpool.Pool { return db.e.pool }

// Pooled reports whether db works for a transaction pooler.
func (db *DB) Pooled() bool { return db.e.pooled.Load() }
