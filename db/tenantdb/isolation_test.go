package tenantdb_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/db/tenantdb"
	"github.com/leasehold-go/leasehold/db/tenanttest"
	"github.com/leasehold-go/leasehold/internal/tenantsql"
)

// dbtx is what generated code asks for: every verb there is.
type dbtx = tenantsql.DBTX

type (
	inside = func(ctx context.Context, db dbtx) error
	runFn  = func(ctx context.Context, tn *tenant.Tenant, fn inside) error
)

// ways are all ways to reach a tenant that share connections.
func ways(db *tenantdb.DB) map[string]runFn {
	return map[string]runFn{
		"context": func(ctx context.Context, tn *tenant.Tenant, fn inside) error {
			return fn(tenant.NewContext(ctx, tn), db)
		},
		"handle": func(ctx context.Context, tn *tenant.Tenant, fn inside) error {
			return fn(ctx, db.For(tn))
		},
		"transaction": func(ctx context.Context, tn *tenant.Tenant, fn inside) error {
			return db.InTx(tenant.NewContext(ctx, tn), func(tx pgx.Tx) error { return fn(ctx, tx) })
		},
		"nested transaction": func(ctx context.Context, tn *tenant.Tenant, fn inside) error {
			return pgx.BeginFunc(ctx, db.For(tn), func(tx pgx.Tx) error {
				return pgx.BeginFunc(ctx, tx, func(savepoint pgx.Tx) error { return fn(ctx, savepoint) })
			})
		},
		"transaction after a rolled-back savepoint": func(ctx context.Context, tn *tenant.Tenant, fn inside) error {
			return pgx.BeginFunc(ctx, db.For(tn), func(tx pgx.Tx) error {
				savepoint, err := tx.Begin(ctx)
				if err != nil {
					return err
				}
				if _, err := savepoint.Exec(ctx, "UPDATE items SET qty = qty + 1"); err != nil {
					return err
				}
				if err := savepoint.Rollback(ctx); err != nil {
					return err
				}
				return fn(ctx, tx)
			})
		},
	}
}

// session opens a connection for each Run, and closes it after.
func session(db *tenantdb.DB) runFn {
	return func(ctx context.Context, tn *tenant.Tenant, fn inside) error {
		s, err := db.For(tn).Acquire(ctx)
		if err != nil {
			return err
		}
		defer s.Release()
		return fn(ctx, s)
	}
}

// markTables counts the tables for marks, to name them.
var markTables atomic.Int64

// newMarks makes a table for the suite's marks in each tenant, in which a type is the tenant's own, and returns its name. Runs of the
// suite that share a fleet each have one, or they would count each other's rows.
func (f *fleet) newMarks(t *testing.T) string {
	t.Helper()
	table := fmt.Sprintf("marks_%d", markTables.Add(1))
	for i := range f.tenants {
		f.admin(t, i, `CREATE TABLE `+table+` (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, mark text NOT NULL,
			mood mood NOT NULL DEFAULT 'calm', parent bigint REFERENCES `+table+` DEFERRABLE INITIALLY DEFERRED)`)
	}
	return table
}

// scopeSettings are those of a tenant beside path and role.
func scopeSettings(tn *tenant.Tenant) map[string]string {
	return map[string]string{"app.tenant": string(tn.Slug), "statement_timeout": "1" + string(tn.Slug[len(tn.Slug)-1:]) + "min"}
}

// target is what the suite needs beside a way to reach a tenant. It uses every verb.
func (f *fleet) target(t *testing.T, db *tenantdb.DB, conns int) tenanttest.Target[dbtx] {
	t.Helper()
	var calls atomic.Int64
	table := f.newMarks(t)
	read := func(ctx context.Context, db dbtx, table string) ([]string, error) {
		rows, err := db.Query(ctx, "SELECT mark, mood FROM "+table+" ORDER BY id")
		if err != nil {
			return nil, err
		}
		return pgx.CollectRows(rows, func(row pgx.CollectableRow) (mark string, err error) {
			err = row.Scan(&mark, new(string))
			return mark, err
		})
	}
	return tenanttest.Target[dbtx]{
		Tenants: f.tenants, Settings: scopeSettings, Conns: conns, Workers: 8, Rounds: 8,
		NoTenant: func(ctx context.Context, fn inside) error { return fn(ctx, db) },
		Mark: func(ctx context.Context, db dbtx, mark string) error {
			switch calls.Add(1) % 4 {
			case 0:
				_, err := db.CopyFrom(ctx, pgx.Identifier{table}, []string{"mark"}, pgx.CopyFromRows([][]any{{mark}}))
				return err
			case 1:
				var b pgx.Batch
				b.Queue("SELECT mood FROM "+table+" WHERE mark = $1 AND mood = $2", mark, "calm")
				b.Queue("INSERT INTO "+table+" (mark, mood) VALUES ($1, $2)", mark, "calm")
				return db.SendBatch(ctx, &b).Close()
			}
			_, err := db.Exec(ctx, "INSERT INTO "+table+" (mark, mood) VALUES ($1, $2)", mark, "calm")
			return err
		},
		Marks: func(ctx context.Context, db dbtx) ([]string, error) { return read(ctx, db, table) },
		Get: func(ctx context.Context, db dbtx, key int64) (mark string, err error) {
			err = db.QueryRow(ctx, "SELECT mark, mood FROM "+table+" WHERE id = $1", key).Scan(&mark, new(string))
			return mark, err
		},
		Reach: func(ctx context.Context, db dbtx, other *tenant.Tenant) ([]string, error) {
			return read(ctx, db, other.Placement.Schema+"."+table)
		},
		Fail: func(ctx context.Context, db dbtx) error {
			if calls.Add(1)%2 == 0 {
				_, err := db.Exec(ctx, "INSERT INTO items (id) VALUES (1)") // is there
				return err
			}
			_, err := db.Exec(ctx, "INSERT INTO "+table+" (mark, parent) VALUES ('', -1)") // deferred
			return err
		},
	}
}

// THREATS 1, 3, 5, 6, 7, 9, 10, 14 to 19, 25, 29: what adopters run on their own queries, on every way to reach a tenant, with
// connections that all tenants share.
func TestIsolation(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 3)
	for way := range ways(nil) {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			db := f.open(t, tenantdb.Config{MaxConns: 4, Lanes: 1, Settings: scopeSettings})
			target := f.target(t, db, 4)
			target.Run = ways(db)[way]
			tenanttest.Isolation(t, target)
			wantNoneInUse(t, db)
		})
	}
	t.Run("session", func(t *testing.T) { // THREATS 13
		t.Parallel()
		db := f.open(t, tenantdb.Config{MaxConns: 1, MaxSessions: 2, Settings: scopeSettings})
		target := f.target(t, db, 2)
		target.Tenants, target.Workers, target.Rounds = f.tenants[:2], 4, 2 // few, since each Run makes a connection
		target.Run = session(db)
		tenanttest.Isolation(t, target)
		if n := db.Stat().Sessions; n != 0 {
			t.Errorf("%d sessions are open in the end", n)
		}
	})
}

func wantNoneInUse(t *testing.T, db *tenantdb.DB) {
	t.Helper()
	if in := db.Stat().InUse; in != 0 {
		t.Errorf("%d connections are in use in the end", in)
	}
}

// THREATS 4, 43: the same on connections that are few, or never old, or in lanes, or always giving up the names of statements.
func TestIsolationOnConnectionsThatChange(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 3)
	for name, cfg := range map[string]tenantdb.Config{
		"one":         {MaxConns: 1},
		"recycled":    {MaxConns: 1, Lanes: 1, MaxTenantsPerConn: 2}, // it meets all three
		"short lived": {MaxConns: 3, Lanes: 1, MaxConnLifetime: 20 * time.Millisecond},
		"lanes":       {MaxConns: 6, Lanes: 3, MaxConnsPerTenant: 2},
		"small cache": {MaxConns: 2, Lanes: 1, StatementCacheSize: 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg.Settings = scopeSettings
			db := f.open(t, cfg)
			target := f.target(t, db, min(cfg.MaxConns, 3))
			target.Rounds = 4
			target.Run = ways(db)["context"]
			tenanttest.Isolation(t, target)
			wantNoneInUse(t, db)
			if recycled := db.Stat().Lanes[0].Recycled; (recycled > 0) != (name == "recycled") {
				t.Errorf("%d connections were recycled", recycled)
			}
		})
	}
}
