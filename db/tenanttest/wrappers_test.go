package tenanttest_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/db/tenanttest"
)

// wrong is a way to reach tenants with a fault in it. It may change the target.
type wrong func(t *testing.T, f *tenanttest.Fleet, target *tenanttest.Target[DBTX])

func setPath(ctx context.Context, db DBTX, t *tenant.Tenant) error {
	_, err := db.Exec(ctx, "SET search_path = "+t.Placement.Schema)
	return err
}

// bare calls without a tenant on any connection.
func bare(pool *pgxpool.Pool) func(context.Context, fnType) error {
	return func(ctx context.Context, fn fnType) error { return fn(ctx, pool) }
}

// sessionPath is right for each call that has a tenant, and serves those that have none from whatever tenant was there before.
func sessionPath(t *testing.T, f *tenanttest.Fleet, target *tenanttest.Target[DBTX]) {
	pool := newPool(t, f.Administrator)
	target.NoTenant = bare(pool)
	target.Run = func(ctx context.Context, tn *tenant.Tenant, fn fnType) error {
		return pool.AcquireFunc(ctx, func(conn *pgxpool.Conn) error {
			return errors.Join(setPath(ctx, conn, tn), fn(ctx, conn))
		})
	}
}

func otherCheckout(t *testing.T, f *tenanttest.Fleet, target *tenanttest.Target[DBTX]) {
	pool := newPool(t, f.Administrator)
	target.Run = func(ctx context.Context, tn *tenant.Tenant, fn fnType) error {
		return errors.Join(setPath(ctx, pool, tn), fn(ctx, pool))
	}
}

// onBase calls without a tenant on a connection whose base path holds no table, which is as good as a refusal.
func onBase(pool *pgxpool.Pool) func(context.Context, fnType) error {
	return func(ctx context.Context, fn fnType) error {
		err := fn(ctx, pool)
		if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok && pgErr.Code == "42P01" {
			return tenant.ErrNoTenant
		}
		return err
	}
}

func resetPath(ctx context.Context, db DBTX) error {
	_, err := db.Exec(ctx, "RESET search_path")
	return err
}

func resetAfterSuccess(t *testing.T, f *tenanttest.Fleet, target *tenanttest.Target[DBTX]) {
	pool := newPool(t, f.Administrator)
	target.NoTenant = onBase(pool)
	target.Run = func(ctx context.Context, tn *tenant.Tenant, fn fnType) error {
		return pool.AcquireFunc(ctx, func(conn *pgxpool.Conn) error {
			if err := errors.Join(setPath(ctx, conn, tn), fn(ctx, conn)); err != nil {
				return err
			}
			return resetPath(ctx, conn)
		})
	}
}

func resetUnderContext(t *testing.T, f *tenanttest.Fleet, target *tenanttest.Target[DBTX]) {
	pool := newPool(t, f.Administrator)
	target.NoTenant = onBase(pool)
	target.Run = func(ctx context.Context, tn *tenant.Tenant, fn fnType) error {
		return pool.AcquireFunc(ctx, func(conn *pgxpool.Conn) (err error) {
			defer func() { err = errors.Join(err, resetPath(ctx, conn)) }()
			if err := setPath(ctx, conn, tn); err != nil {
				return err
			}
			return fn(ctx, conn)
		})
	}
}

// resetAfterLastRow takes a connection for each call, and cleans it when the caller has read all that there is.
func resetAfterLastRow(t *testing.T, f *tenanttest.Fleet, target *tenanttest.Target[DBTX]) {
	pool := newPool(t, f.Administrator)
	target.NoTenant = onBase(pool)
	target.Run = func(ctx context.Context, tn *tenant.Tenant, fn fnType) error { return fn(ctx, eachCall{pool, tn}) }
}

type eachCall struct {
	pool   *pgxpool.Pool
	tenant *tenant.Tenant
}

func (c eachCall) Query(ctx context.Context, sql string, args ...any) (_ pgx.Rows, err error) {
	conn, err := c.pool.Acquire(ctx)
	if err != nil {
		return nil, err
	}
	var rows pgx.Rows
	defer func() { // also when an argument panics
		if rows == nil {
			err = errors.Join(err, resetPath(context.WithoutCancel(ctx), conn))
			conn.Release()
		}
	}()
	if err := setPath(ctx, conn, c.tenant); err != nil {
		return nil, err
	}
	got, err := conn.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	rows = &lastRow{Rows: got, conn: conn, release: sync.OnceFunc(conn.Release)}
	return rows, nil
}

func (c eachCall) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	rows, err := c.Query(ctx, sql, args...)
	return oneRow{rows, err}
}

func (c eachCall) Exec(ctx context.Context, sql string, args ...any) (tag pgconn.CommandTag, err error) {
	rows, err := c.Query(ctx, sql, args...)
	if err != nil {
		return tag, err
	}
	for rows.Next() { //nolint:revive // Exec reads no rows
	}
	return rows.CommandTag(), rows.Err()
}

// lastRow cleans the connection after the last row, and only then.
type lastRow struct {
	pgx.Rows
	conn    *pgxpool.Conn
	release func()
	over    bool
}

func (r *lastRow) Next() bool {
	if r.Rows.Next() {
		return true
	}
	if !r.over {
		r.over = true
		_ = resetPath(context.Background(), r.conn)
		r.release()
	}
	return false
}

func (r *lastRow) Close() {
	r.over = true
	r.Rows.Close()
	r.release()
}

type oneRow struct {
	rows pgx.Rows
	err  error
}

func (r oneRow) Scan(dest ...any) error {
	if r.err != nil {
		return r.err
	}
	defer r.rows.Close()
	if !r.rows.Next() {
		return errors.Join(r.rows.Err(), pgx.ErrNoRows)
	}
	if err := r.rows.Scan(dest...); err != nil {
		return err
	}
	for r.rows.Next() { //nolint:revive // to the end
	}
	return r.rows.Err()
}

func pathOfTheFirst(t *testing.T, f *tenanttest.Fleet, target *tenanttest.Target[DBTX]) {
	pool := newPool(t, f.Administrator, func(pc *pgxpool.Config) {
		pc.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
			tn, err := tenant.FromContext(ctx)
			return errors.Join(err, setPath(ctx, conn, tn))
		}
	})
	target.Run = func(ctx context.Context, tn *tenant.Tenant, fn fnType) error {
		return fn(tenant.NewContext(ctx, tn), pool)
	}
}

func globalTenant(t *testing.T, f *tenanttest.Fleet, target *tenanttest.Target[DBTX]) {
	var current atomic.Pointer[tenant.Tenant]
	pool := newPool(t, f.Administrator, func(pc *pgxpool.Config) {
		pc.PrepareConn = func(ctx context.Context, conn *pgx.Conn) (bool, error) {
			return true, setPath(ctx, conn, current.Load())
		}
	})
	target.Run = func(ctx context.Context, tn *tenant.Tenant, fn fnType) error {
		current.Store(tn)
		return fn(ctx, pool)
	}
}

func localToNothing(t *testing.T, f *tenanttest.Fleet, target *tenanttest.Target[DBTX]) {
	pool := newPool(t, f.Administrator)
	target.Run = func(ctx context.Context, tn *tenant.Tenant, fn fnType) error {
		return pool.AcquireFunc(ctx, func(conn *pgxpool.Conn) error {
			_, err := conn.Exec(ctx, "SET LOCAL search_path = "+tn.Placement.Schema)
			return errors.Join(err, fn(ctx, conn))
		})
	}
}

// rememberedPath saves a statement where the connection had the same tenant before. A rollback takes the path back, and not the
// memory.
func rememberedPath(t *testing.T, f *tenanttest.Fleet, target *tenanttest.Target[DBTX]) {
	pool := newPool(t, f.Administrator)
	var last sync.Map // *pgx.Conn to *tenant.Tenant
	target.Run = func(ctx context.Context, tn *tenant.Tenant, fn fnType) error {
		return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
			if before, known := last.Swap(tx.Conn(), tn); !known || before != tn {
				if err := setPath(ctx, tx, tn); err != nil {
					return err
				}
			}
			return fn(ctx, tx)
		})
	}
}

type txKey struct{}

// joinedTransaction makes a savepoint if there is a transaction already. What is set in a savepoint stays when it is released.
func joinedTransaction(t *testing.T, f *tenanttest.Fleet, target *tenanttest.Target[DBTX]) {
	pool := newPool(t, f.Administrator)
	target.Run = func(ctx context.Context, tn *tenant.Tenant, fn fnType) error {
		var db interface {
			Begin(ctx context.Context) (pgx.Tx, error)
		} = pool
		if tx, open := ctx.Value(txKey{}).(pgx.Tx); open {
			db = tx
		}
		return pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, "SET LOCAL search_path = "+tn.Placement.Schema); err != nil {
				return err
			}
			return fn(context.WithValue(ctx, txKey{}, tx), tx)
		})
	}
}

// pathOnly sets the path for a transaction, and takes no role.
func pathOnly(pool *pgxpool.Pool) runType {
	return func(ctx context.Context, tn *tenant.Tenant, fn fnType) error {
		return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, "SET LOCAL search_path = "+tn.Placement.Schema); err != nil {
				return err
			}
			return fn(ctx, tx)
		})
	}
}

// statementsBySQL qualifies names by hand, and takes a statement that is prepared already for the one it wants.
func statementsBySQL(t *testing.T, f *tenanttest.Fleet, target *tenanttest.Target[DBTX]) {
	run := pathOnly(newPool(t, f.Administrator))
	target.Run = func(ctx context.Context, tn *tenant.Tenant, fn fnType) error {
		return run(ctx, tn, func(ctx context.Context, db DBTX) error { return fn(ctx, preparing{db, tn}) })
	}
}

type preparing struct {
	DBTX
	tenant *tenant.Tenant
}

func (p preparing) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	if sql != listSQL {
		return p.DBTX.Query(ctx, sql, args...)
	}
	var known bool
	if err := p.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_prepared_statements WHERE name = 'list')").Scan(&known); err != nil {
		return nil, err
	}
	if !known {
		if _, err := p.Exec(ctx, "PREPARE list AS "+strings.Replace(sql, "notes", p.tenant.Placement.Schema+".notes", 1)); err != nil {
			return nil, err
		}
	}
	return p.DBTX.Query(ctx, "EXECUTE list")
}

func keptSetting(t *testing.T, f *tenanttest.Fleet, target *tenanttest.Target[DBTX]) {
	run := scoped(newPool(t, runtimeLogin(t, f)), func(context.Context, *pgxpool.Conn) {})
	target.Settings = func(tn *tenant.Tenant) map[string]string { return map[string]string{"app.tenant": string(tn.Slug)} }
	target.Run = func(ctx context.Context, tn *tenant.Tenant, fn fnType) error {
		return run(ctx, tn, func(ctx context.Context, db DBTX) error {
			if _, err := db.Exec(ctx, `SELECT set_config('app.tenant', $1, false)
				WHERE coalesce(current_setting('app.tenant', true), '') = ''`, string(tn.Slug)); err != nil {
				return err
			}
			return fn(ctx, db)
		})
	}
}

func noRole(t *testing.T, f *tenanttest.Fleet, target *tenanttest.Target[DBTX]) {
	target.Run = pathOnly(newPool(t, f.Administrator))
}

func othersRole(t *testing.T, f *tenanttest.Fleet, target *tenanttest.Target[DBTX]) {
	pool := newPool(t, runtimeLogin(t, f))
	target.Run = func(ctx context.Context, tn *tenant.Tenant, fn fnType) error {
		return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, "SELECT set_config('search_path', $1, true), set_config('role', $2, true)",
				tn.Placement.Schema, f.Tenants[0].Placement.Role); err != nil {
				return err
			}
			return fn(ctx, tx)
		})
	}
}

// temporaryTables lets the tenants make them, which directory.Migrate has taken from everybody.
func temporaryTables(t *testing.T, f *tenanttest.Fleet, target *tenanttest.Target[DBTX]) {
	target.Run = pathOnly(newPool(t, f.Administrator))
}

func oneSchema(t *testing.T, f *tenanttest.Fleet, target *tenanttest.Target[DBTX]) {
	twin := *f.Tenants[0]
	twin.ID[15]++
	twin.Slug = "twin"
	target.Tenants = []*tenant.Tenant{f.Tenants[0], &twin}
	target.Run = safe(newPool(t, runtimeLogin(t, f)))
}

func keysOfAll(t *testing.T, _ *tenanttest.Fleet, target *tenanttest.Target[DBTX]) {
	f := newNotes(t) // of its own: the newest rows are to be those of this trial
	*target = notesTarget(f)
	all := newPool(t, f.Administrator)
	target.Run = safe(newPool(t, runtimeLogin(t, f)))
	target.Get = func(ctx context.Context, _ DBTX, key int64) (mark string, err error) {
		for _, tn := range f.Tenants {
			err = all.QueryRow(ctx, "SELECT mark FROM "+tn.Placement.Schema+".notes ORDER BY id DESC OFFSET $1 LIMIT 1", key).Scan(&mark)
			if err == nil {
				break
			}
		}
		return mark, err
	}
}

func lastTenant(t *testing.T, f *tenanttest.Fleet, target *tenanttest.Target[DBTX]) {
	run := safe(newPool(t, runtimeLogin(t, f)))
	var last atomic.Pointer[tenant.Tenant]
	target.Run = func(ctx context.Context, tn *tenant.Tenant, fn fnType) error {
		last.Store(tn)
		return run(ctx, tn, fn)
	}
	target.NoTenant = func(ctx context.Context, fn fnType) error { return run(ctx, last.Load(), fn) }
}

// keptAfterPanic remembers the tenant of the moment, and forgets it on every way out but one.
func keptAfterPanic(t *testing.T, f *tenanttest.Fleet, target *tenanttest.Target[DBTX]) {
	run := safe(newPool(t, runtimeLogin(t, f)))
	var current atomic.Pointer[tenant.Tenant]
	target.Run = func(ctx context.Context, tn *tenant.Tenant, fn fnType) error {
		current.Store(tn)
		err := run(ctx, tn, fn)
		current.Store(nil)
		return err
	}
	target.NoTenant = func(ctx context.Context, fn fnType) error {
		if tn := current.Load(); tn != nil {
			return run(ctx, tn, fn)
		}
		return tenant.ErrNoTenant
	}
}

// mixedRows is what comes of results that are read in pages, each page under the tenant of the moment.
func mixedRows(t *testing.T, f *tenanttest.Fleet, target *tenanttest.Target[DBTX]) {
	run := safe(newPool(t, runtimeLogin(t, f)))
	target.Run = func(ctx context.Context, tn *tenant.Tenant, fn fnType) error {
		return run(ctx, tn, func(ctx context.Context, db DBTX) error { return fn(ctx, pages{db, f.Tenants[0]}) })
	}
}

type pages struct {
	DBTX
	moment *tenant.Tenant
}

func (p pages) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	rows, err := p.DBTX.Query(ctx, sql, args...)
	return &pagedRows{Rows: rows, moment: p.moment}, err
}

type pagedRows struct {
	pgx.Rows
	moment *tenant.Tenant
	n      int
}

func (r *pagedRows) Scan(dest ...any) error {
	err := r.Rows.Scan(dest...)
	const page = 1000
	if r.n++; r.n > page {
		if path, ok := dest[1].(*string); ok {
			*path = r.moment.Placement.Schema + ", pg_temp"
		}
	}
	return err
}
