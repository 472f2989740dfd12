package tenantdb_test

import (
	"context"
	"errors"
	"strconv"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/db/tenantdb"
	"github.com/leasehold-go/leasehold/internal/pgserver"
	"github.com/leasehold-go/leasehold/internal/pgtest"
)

// A server that has no slot left, because others have them all, is waited for: in the shared database, where the tenant's own
// connection is in use, and in a database of its own.
func TestAServerWithoutAFreeSlotIsWaitedFor(t *testing.T) {
	t.Parallel()
	const ours, others, superusers = 2, 3, 3
	server := pgtest.Start(t, pgserver.Config{Settings: map[string]string{"max_connections": strconv.Itoa(ours + others + superusers)}})
	f := buildOwn(t, server.URL(pgserver.Superuser, pgserver.Database), 2, 1)
	db := openFleet(t, f, tenantdb.Config{MaxConns: 2, Lanes: 1, MaxConnsPerTenant: 2, MaxDatabaseConns: 2, MaxConnsPerDatabase: 2})
	dialled := func() int64 { return databases(t, db).Created + db.Stat().Created }
	for _, tn := range f.Tenants {
		t.Run(string(tn.Placement.Strategy), func(t *testing.T) {
			ctx := tenant.NewContext(t.Context(), tn)
			tx, err := db.Begin(ctx)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = tx.Rollback(ctx) }()
			var theirs []*pgx.Conn
			for {
				conn, err := pgx.ConnectConfig(t.Context(), f.Runtime())
				if err != nil {
					wantCode(t, err, "53300")
					break
				}
				theirs = append(theirs, conn)
			}
			if len(theirs) == 0 {
				t.Fatal("the server had no slot from the beginning")
			}

			before := dialled()
			late, end := context.WithCancelCause(ctx)
			defer end(nil)
			served, refused := make(chan error, 1), make(chan error, 1)
			go func() { refused <- checkOwner(late, db, tn, 1) }()
			eventually(t, func() bool { return dialled() > before+1 || len(refused) > 0 }) // it was tried more than once
			end(context.DeadlineExceeded)
			if err := <-refused; !errors.Is(err, tenantdb.ErrBusy) || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v, want ErrBusy and DeadlineExceeded", err)
			}
			go func() { served <- checkOwner(ctx, db, tn, 1) }()
			eventually(t, func() bool { return db.Stat().Waiting+databases(t, db).Waiting == 1 })
			for _, conn := range theirs {
				if err := conn.Close(t.Context()); err != nil {
					t.Error(err)
				}
			}
			if err := <-served; err != nil {
				t.Errorf("with slots again: %v", err)
			}
			if err := checkOwner(ctx, tx, tn, 1); err != nil {
				t.Error(err)
			}
		})
	}
}
