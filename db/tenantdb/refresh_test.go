package tenantdb_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/db/tenantdb"
	"github.com/leasehold-go/leasehold/internal/pgtest"
)

// ownerOf are the ways to ask outside a transaction whose items one sees.
var ownerOf = map[string]func(ctx context.Context, db *tenantdb.DB) (string, error){
	"QueryRow": func(ctx context.Context, db *tenantdb.DB) (owner string, err error) {
		return owner, db.QueryRow(ctx, "SELECT owner FROM items LIMIT 1").Scan(&owner)
	},
	"Query": func(ctx context.Context, db *tenantdb.DB) (string, error) {
		rows, err := db.Query(ctx, "SELECT owner FROM items LIMIT 1")
		if err != nil {
			return "", err
		}
		return pgx.CollectExactlyOneRow(rows, pgx.RowTo[string])
	},
	"SendBatch": func(ctx context.Context, db *tenantdb.DB) (owner string, err error) {
		b := &pgx.Batch{}
		b.Queue("SELECT owner FROM items LIMIT 1").QueryRow(func(row pgx.Row) error { return row.Scan(&owner) })
		return owner, db.SendBatch(ctx, b).Close()
	},
	"InTx": func(ctx context.Context, db *tenantdb.DB) (owner string, err error) {
		return owner, db.InTx(ctx, func(tx pgx.Tx) error { return tx.QueryRow(ctx, "SELECT owner FROM items LIMIT 1").Scan(&owner) })
	},
}

// A tenant that is not where its record says is asked for, and the call is sent there. While nobody moves it it is not asked for.
func TestRefreshLeadsToTheNewPlace(t *testing.T) {
	t.Parallel()
	for name, ask := range ownerOf {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t, 2)
			asked := 0
			db := f.open(t, tenantdb.Config{MaxConns: 1, Refresh: func(_ context.Context, was *tenant.Tenant) (*tenant.Tenant, error) {
				asked++
				moved := *was
				moved.Placement = f.tenants[1].Placement
				return &moved, nil
			}})
			ctx := f.ctx(t, 0)
			if owner, err := ask(ctx, db); err != nil || owner != "co-0" || asked != 0 {
				t.Fatalf("before: %q %v, asked %d times", owner, err, asked)
			}
			pgtest.Exec(t, f.url, "REVOKE "+f.tenants[0].Placement.Role+" FROM "+f.login)
			if owner, err := ask(ctx, db); err != nil || owner != "co-1" || asked != 1 {
				t.Errorf("while it is held: %q %v, asked %d times", owner, err, asked)
			}
			pgtest.Exec(t, f.url, "GRANT "+f.tenants[0].Placement.Role+" TO "+f.login,
				"ALTER SCHEMA "+f.tenants[0].Placement.Schema+" RENAME TO old_"+f.tenants[0].Placement.Schema)
			if owner, err := ask(ctx, db); err != nil || owner != "co-1" || asked != 2 {
				t.Errorf("after: %q %v, asked %d times", owner, err, asked)
			}
		})
	}
}

// A call is sent again once, and only if its scope was refused.
func TestRefreshIsAskedOnce(t *testing.T) {
	t.Parallel()
	failed := errors.New("no registry")
	for name, test := range map[string]struct {
		refresh func(was *tenant.Tenant) (*tenant.Tenant, error)
		want    error
	}{
		"still held":     {func(was *tenant.Tenant) (*tenant.Tenant, error) { return was, nil }, tenantdb.ErrScope},
		"nothing new":    {func(*tenant.Tenant) (*tenant.Tenant, error) { return nil, nil }, tenantdb.ErrScope},
		"an error":       {func(*tenant.Tenant) (*tenant.Tenant, error) { return nil, failed }, failed},
		"another tenant": {func(*tenant.Tenant) (*tenant.Tenant, error) { return &tenant.Tenant{Slug: "evil"}, nil }, tenant.ErrMismatch},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t, 1)
			asked := 0
			db := f.open(t, tenantdb.Config{MaxConns: 1, Refresh: func(_ context.Context, was *tenant.Tenant) (*tenant.Tenant, error) {
				asked++
				return test.refresh(was)
			}})
			ctx := f.ctx(t, 0)
			if _, err := db.Exec(ctx, "SELECT * FROM nowhere"); err == nil || asked != 0 {
				t.Errorf("a statement's own error: %v, asked %d times", err, asked)
			}
			pgtest.Exec(t, f.url, "REVOKE "+f.tenants[0].Placement.Role+" FROM "+f.login)
			for verb, ask := range ownerOf {
				asked = 0
				if _, err := ask(ctx, db); !errors.Is(err, test.want) || asked != 1 {
					t.Errorf("%s: %v, asked %d times", verb, err, asked)
				}
			}
		})
	}
}

// onFailure is a tracer that does something when a call fails for the first time.
type onFailure struct {
	once sync.Once
	do   func()
}

func (o *onFailure) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	return ctx
}

func (o *onFailure) TraceQueryEnd(_ context.Context, _ *pgx.Conn, data pgx.TraceQueryEndData) {
	if data.Err != nil {
		o.once.Do(o.do)
	}
}

// A call that was let in just before its tenant was moved away, and looks for its table after that, is sent to the new place.
func TestATableThatIsGoneMayHaveMoved(t *testing.T) {
	t.Parallel()
	for _, moved := range []bool{true, false} {
		t.Run(fmt.Sprint(moved), func(t *testing.T) {
			t.Parallel()
			f := newFleet(t, 2)
			asked := 0
			cc := f.connConfig(t)
			cc.Tracer = &onFailure{do: func() {
				if moved {
					pgtest.Exec(t, f.url, "REVOKE "+f.tenants[0].Placement.Role+" FROM "+f.login)
				}
			}}
			db := f.open(t, tenantdb.Config{ConnConfig: cc, MaxConns: 1, Refresh: func(_ context.Context, was *tenant.Tenant) (*tenant.Tenant, error) {
				asked++
				there := *was
				there.Placement = f.tenants[1].Placement
				return &there, nil
			}})
			pgtest.Exec(t, f.url, "ALTER TABLE "+f.tenants[0].Placement.Schema+".items RENAME TO old_items")
			owner, err := ownerOf["QueryRow"](f.ctx(t, 0), db)
			if moved && (err != nil || owner != "co-1" || asked != 1) {
				t.Errorf("%q %v, asked %d times", owner, err, asked)
			}
			if !moved {
				wantCode(t, err, "42P01")
				if asked != 0 {
					t.Errorf("asked %d times", asked)
				}
			}
		})
	}
}
