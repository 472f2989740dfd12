package tenantdb_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/db/tenantdb"
	"github.com/leasehold-go/leasehold/db/tenanttest"
)

// THREATS 11, 12, 46: databases of tenants' own behind a real pooler, which holds one server connection for each, beside a tenant that
// shares one.
func TestIsolationInDatabasesThroughPgBouncer(t *testing.T) {
	t.Parallel()
	f := newMixedFleet(t, 1, 2)
	cc := f.bounced(t, 1)
	for way := range ways(nil) {
		t.Run(way, func(t *testing.T) {
			db := f.open(t, tenantdb.Config{
				ConnConfig: cc, MaxConns: 4, Lanes: 1, MaxDatabaseConns: 4, MaxConnsPerDatabase: 4, Settings: scopeSettings,
				Login: func(_ context.Context, p tenant.Placement) (*pgx.ConnConfig, error) {
					own := cc.Copy()
					own.User, own.Database = p.Login, p.Database
					return own, nil
				},
			})
			target := f.target(t, db, 1)
			target.Workers, target.Rounds = 4, 3
			target.Run = ways(db)[way]
			tenanttest.Isolation(t, target)
			if st := databases(t, db); st.InUse != 0 || st.Waiting != 0 || st.Created == 0 {
				t.Errorf("in the end: %+v", st)
			}
		})
	}
}

// THREATS 11, 12: the suite through a real pooler in transaction mode, with more callers than server connections. The ways take turns,
// because transactions that are open in each would use up the pooler's connections and wait for each other.
func TestIsolationThroughPgBouncer(t *testing.T) {
	t.Parallel()
	for _, poolSize := range []int{1, 4} {
		t.Run(fmt.Sprintf("pool of %d", poolSize), func(t *testing.T) {
			t.Parallel()
			f := newFleet(t, 3)
			cc := f.bounced(t, poolSize)
			for way := range ways(nil) {
				t.Run(way, func(t *testing.T) {
					db := f.open(t, tenantdb.Config{ConnConfig: cc, MaxConns: 8, Lanes: 1, Settings: scopeSettings})
					if !db.Pooled() {
						t.Fatal("the pooler was not found out")
					}
					target := f.target(t, db, poolSize)
					target.Workers, target.Rounds = 6, 4
					target.Run = ways(db)[way]
					tenanttest.Isolation(t, target)
					wantNoneInUse(t, db)
					if err := session(db)(t.Context(), f.tenants[0], nil); !errors.Is(err, tenantdb.ErrRefused) {
						t.Errorf("a session of one's own: got %v, want ErrRefused", err)
					}
				})
			}
		})
	}
}
