package tenantdb_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/db/tenantdb"
)

// loadMigrations are run one after the other on each tenant while its statements are hot. What follows each is right for the table
// before it and after it.
var loadMigrations = []string{
	"ALTER TABLE items ALTER qty TYPE bigint",
	"ALTER TABLE items ADD extra text DEFAULT 'x'",
	"ALTER TABLE items ALTER owner TYPE varchar(40)",
	"ALTER TABLE items ADD label text NOT NULL DEFAULT 'calm'",
	"ALTER TABLE items ALTER label DROP DEFAULT, ALTER label TYPE mood USING label::mood",
	"ALTER TABLE items DROP extra",
	"ALTER TABLE items ALTER qty DROP DEFAULT, ALTER qty TYPE numeric",
	"CREATE TYPE mood2 AS ENUM ('wild', 'calm'); ALTER TABLE items ALTER label TYPE mood2 USING label::text::mood2",
	"CREATE DOMAIN amount AS numeric CHECK (VALUE >= 0); ALTER TABLE items ALTER qty TYPE amount",
	"ALTER TABLE items ALTER mood DROP DEFAULT, ALTER mood TYPE text",
}

const (
	uses     = 5
	useBatch = 3
)

// useWhileMigrating does one of several things, each of which is right whatever the tenant's migrations are, and checks whose rows it finds.
func useWhileMigrating(ctx context.Context, rng *rand.Rand, q verbs, tn *tenant.Tenant, use int) error {
	id, qty := rng.IntN(rowsPerTenant)+1, rng.IntN(1000)
	switch use {
	case 0: // SELECT * with what came and went
		rows, err := q.Query(ctx, "SELECT * FROM items WHERE id = $1", id)
		if err != nil {
			return err
		}
		row, err := pgx.CollectOneRow(rows, pgx.RowToMap)
		if err == nil && (row["owner"] != string(tn.Slug) || row["id"] != int32(id)) {
			err = fmt.Errorf("%w: %v", errWrongTenant, row)
		}
		return err
	case 1: // a write and what it returns
		var got int
		err := q.QueryRow(ctx, "UPDATE items SET qty = $1 WHERE id = $2 RETURNING qty", qty, id).Scan(&got)
		if err == nil && got != qty {
			err = fmt.Errorf("%w: wrote %d, got %d", errWrongTenant, qty, got)
		}
		return err
	case 2: // a type of the tenant's own, as parameter and result
		var mood string
		own := "only-" + string(tn.Slug)
		err := q.QueryRow(ctx, "UPDATE items SET mood = $1 WHERE id = $2 RETURNING mood", own, id).Scan(&mood)
		if err == nil && mood != own {
			err = fmt.Errorf("%w: mood %s", errWrongTenant, mood)
		}
		return err
	case useBatch:
		var b pgx.Batch
		for range 2 {
			b.Queue("UPDATE items SET qty = $1 WHERE id = $2", qty, id)
			b.Queue("SELECT owner, qty::text FROM items WHERE id = $1", id).QueryRow(func(row pgx.Row) error {
				var owner, got string
				err := row.Scan(&owner, &got)
				if err == nil && (owner != string(tn.Slug) || got != fmt.Sprint(qty)) {
					err = fmt.Errorf("%w: %s of %s, wrote %d", errWrongTenant, got, owner, qty)
				}
				return err
			})
		}
		return q.SendBatch(ctx, &b).Close()
	}
	return checkOwner(ctx, q, tn, id)
}

// outdated reports whether an error is one that a migration causes where nothing can be sent twice: in a transaction that has begun.
func outdated(err error) bool {
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) {
		return false
	}
	switch pgErr.Code {
	case "0A000", "42804", "42883", "40P01", "XX000", "22P02", "08P01":
		return true
	}
	return false
}

// maxFoundOut bounds those errors: for each migration of each tenant each statement may be found out once on each connection, and
// most are not.
const maxFoundOut = 300

// THREATS 21: migrations under load. No call reads or stores a wrong value or fails; transactions and batches may find out by one
// error that what was known of a statement is out of date.
func TestMigrationsUnderLoad(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 3)
	db := f.open(t, tenantdb.Config{MaxConns: 4})
	var stop atomic.Bool
	var wg sync.WaitGroup
	var calls, foundOut atomic.Int64
	for g := range 4 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(g), 21))
			for !stop.Load() {
				tn := f.tenants[rng.IntN(len(f.tenants))]
				ctx := tenant.NewContext(t.Context(), tn)
				use, inTx := rng.IntN(uses), rng.IntN(3) == 0
				var err error
				if inTx {
					err = db.InTx(ctx, func(tx pgx.Tx) error {
						return errors.Join(useWhileMigrating(ctx, rng, tx, tn, use), useWhileMigrating(ctx, rng, tx, tn, rng.IntN(uses)))
					})
				} else {
					err = useWhileMigrating(ctx, rng, db, tn, use)
				}
				calls.Add(1)
				switch {
				case err == nil:
				case errors.Is(err, errWrongTenant):
					t.Error(err)
				case (inTx || use == useBatch) && outdated(err) && foundOut.Add(1) < maxFoundOut:
				default:
					t.Errorf("use %d, in a transaction %v: %v", use, inTx, err)
				}
			}
		})
	}
	settle := func() { // as many calls as make everything hot again
		before := calls.Load()
		for calls.Load() < before+40 && !t.Failed() {
			mustOwn(t, f.ctx(t, 0), db, f.tenants[0])
		}
	}
	settle()
	for _, migration := range loadMigrations {
		for i := range 2 { // the third is left behind
			f.admin(t, i, migration)
			settle()
		}
	}
	stop.Store(true)
	wg.Wait()
	t.Logf("%d calls, %d errors by which outdated statements were found out", calls.Load(), foundOut.Load())
}
