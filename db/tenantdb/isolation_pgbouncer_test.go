package tenantdb_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/leasehold-go/leasehold/db/tenantdb"
	"github.com/leasehold-go/leasehold/db/tenanttest"
)

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
