package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/internal/pgtest"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }

// tiny is a run of some seconds.
func tiny(t *testing.T) config {
	t.Helper()
	return config{
		Operations: 3000, Tenants: 30, Logins: 2, Goroutines: 16, Conns: 4, Seed: 1, SuperURL: pgtest.SuperURL(t, pgtest.Database(t)),
		Progress: t.Output(),
	}
}

func mustRun(t *testing.T, cfg config) *report {
	t.Helper()
	r, err := run(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	r.write(&text)
	t.Log(text.String())
	return r
}

// The product survives everything that a small run does to it. Goroutines are counted, so nothing else may run meanwhile.
func TestTheProductIsClean(t *testing.T) {
	r := mustRun(t, tiny(t))
	if err := r.err(); err != nil {
		t.Error(err)
	}
	if r.operations != 3000 {
		t.Errorf("%d operations", r.operations)
	}
}

// Half of the tenants have databases of their own, for which there are far fewer connections.
func TestTheProductIsCleanWithDatabasesOfTenantsOwn(t *testing.T) { // not in parallel, see above
	cfg := tiny(t)
	cfg.Databases, cfg.Conns = cfg.Tenants/2, 8
	if err := mustRun(t, cfg).err(); err != nil {
		t.Error(err)
	}
}

func TestTheProductIsCleanThroughAPooler(t *testing.T) { // not in parallel, see above
	cfg := tiny(t)
	cfg.Pooler = true
	if err := mustRun(t, cfg).err(); err != nil {
		t.Error(err)
	}
}

// What people do by hand: SET on one connection, the query on another. The soak must see it.
func TestALeakIsFound(t *testing.T) {
	t.Parallel()
	cfg := tiny(t)
	cfg.Logins = 1
	cfg.open = func(ctx context.Context, s *site) (door, error) {
		cc := s.fleet.Runtime()
		pc, err := pgxpool.ParseConfig(cc.ConnString())
		if err != nil {
			return nil, err
		}
		pc.ConnConfig, pc.MaxConns = cc, int32(s.conns)
		pool, err := pgxpool.NewWithConfig(ctx, pc)
		return leakyDoor{leaky{pool: pool}}, err
	}
	r := mustRun(t, cfg)
	if r.err() == nil || r.wrong == 0 {
		t.Errorf("%d wrong rows, error %v", r.wrong, r.err())
	}
	for i, k := range kinds {
		if k.name == "read a row" && r.count[i][wrongRow] == 0 {
			t.Error("no row that was read was another tenant's")
		}
	}
}

// leaky takes a connection, sets the tenant for the session, gives it back, and queries on whichever it gets next.
type leaky struct {
	pool  *pgxpool.Pool
	fixed *tenant.Tenant
}

func (l leaky) set(ctx context.Context) error {
	t := l.fixed
	if t == nil {
		var err error
		if t, err = tenant.FromContext(ctx); err != nil {
			return err
		}
	}
	return l.pool.AcquireFunc(ctx, func(conn *pgxpool.Conn) error {
		_, err := conn.Conn().PgConn().Exec(ctx, "SET search_path = "+t.Placement.Schema+"; SET ROLE "+t.Placement.Role).ReadAll()
		return err
	})
}

type failedRow struct{ err error }

func (r failedRow) Scan(...any) error { return r.err }

func (l leaky) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	if err := l.set(ctx); err != nil {
		return pgconn.CommandTag{}, err
	}
	return l.pool.Exec(ctx, sql, args...)
}

func (l leaky) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	if err := l.set(ctx); err != nil {
		return nil, err
	}
	return l.pool.Query(ctx, sql, args...)
}

func (l leaky) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	if err := l.set(ctx); err != nil {
		return failedRow{err}
	}
	return l.pool.QueryRow(ctx, sql, args...)
}

func (l leaky) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	if err := l.set(ctx); err != nil {
		return pgx.FailedBatchResults(b, err)
	}
	return l.pool.SendBatch(ctx, b)
}

func (l leaky) CopyFrom(ctx context.Context, table pgx.Identifier, columns []string, rows pgx.CopyFromSource) (int64, error) {
	if err := l.set(ctx); err != nil {
		return 0, err
	}
	return l.pool.CopyFrom(ctx, table, columns, rows)
}

func (l leaky) Begin(ctx context.Context) (pgx.Tx, error) { return l.BeginTx(ctx, pgx.TxOptions{}) }

func (l leaky) BeginTx(ctx context.Context, opts pgx.TxOptions) (pgx.Tx, error) {
	if err := l.set(ctx); err != nil {
		return nil, err
	}
	return l.pool.BeginTx(ctx, opts)
}

func (l leaky) InTx(ctx context.Context, fn func(tx pgx.Tx) error) error {
	return pgx.BeginFunc(ctx, l, fn)
}

type leakyDoor struct{ leaky }

func (d leakyDoor) bound(t *tenant.Tenant) handle { return leaky{d.pool, t} }

func (leakyDoor) pin(context.Context) (session, error) { return nil, errors.ErrUnsupported }

func (d leakyDoor) inUse() int { return int(d.pool.Stat().AcquiredConns()) }

func (d leakyDoor) evicted() int64 { return 0 }

func (d leakyDoor) Close() { d.pool.Close() }

// A door that does to writes what it must not, and nothing else that is wrong.
func TestFaultyWritesAreFound(t *testing.T) {
	t.Parallel()
	for name, exec := range map[string]func(handle, context.Context, string, ...any) (pgconn.CommandTag, error){
		"lost": func(_ handle, _ context.Context, _ string, _ ...any) (pgconn.CommandTag, error) {
			return pgconn.NewCommandTag("UPDATE 1"), nil
		},
		"doubled": func(h handle, ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
			if tag, err := h.Exec(ctx, sql, args...); err != nil {
				return tag, err
			}
			return h.Exec(ctx, sql, args...)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := tiny(t)
			cfg.open = func(ctx context.Context, s *site) (door, error) {
				d, err := openTenantDB(ctx, s)
				return faultyWrites{d, exec}, err
			}
			r := mustRun(t, cfg)
			if r.err() == nil || r.wrong != 0 || !strings.Contains(strings.Join(r.faultText, "\n"), "increments add up to") {
				t.Errorf("%d wrong rows, error %v", r.wrong, r.err())
			}
		})
	}
}

type faultyWrites struct {
	door
	exec func(handle, context.Context, string, ...any) (pgconn.CommandTag, error)
}

func (d faultyWrites) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	if sql == incrementSQL {
		return d.exec(d.door, ctx, sql, args...)
	}
	return d.door.Exec(ctx, sql, args...)
}

// A door that keeps a connection is found, and does not keep the soak from ending.
func TestALeasedConnectionIsFound(t *testing.T) {
	t.Parallel()
	cfg := tiny(t)
	var kept pgx.Tx
	cfg.open = func(ctx context.Context, s *site) (door, error) {
		d, err := openTenantDB(ctx, s)
		if err == nil {
			kept, err = d.bound(s.fleet.Tenants[29]).Begin(ctx)
		}
		return d, err
	}
	cfg.Operations, cfg.Logins, cfg.Patience = 500, 1, time.Second
	r := mustRun(t, cfg)
	if text := strings.Join(r.faultText, "\n"); !strings.Contains(text, "1 connections are still leased") {
		t.Error(text)
	}
	_ = kept.Rollback(t.Context()) // it may have been killed
}

func TestAnInterruptedRunSaysSo(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	cfg := tiny(t)
	cfg.Operations = 1 << 40
	cfg.open = func(ctx context.Context, s *site) (door, error) {
		d, err := openTenantDB(ctx, s)
		return interrupting{d, cancel}, err
	}
	r, err := run(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	if r.err() == nil || !r.interrupted {
		t.Errorf("interrupted %t, error %v", r.interrupted, r.err())
	}
}

// interrupting is a door that ends the run when it is used.
type interrupting struct {
	door
	end func()
}

func (d interrupting) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	d.end()
	return d.door.QueryRow(ctx, sql, args...)
}
