package directory

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/db/migrate"
	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/internal/controlsql"
)

// errToBeBuilt says that no spare can be had, or that the name is contested, so that the tenant has to be built as if there were
// no spares.
var errToBeBuilt = errors.New("the tenant has to be built")

// takeTries bounds how many spares are looked at for one that is up to date. There are more only while all of them are being
// migrated, or after the program has changed.
const takeTries = 8

// takeSpare turns a spare into the tenant: one transaction on the pool, which changes no role and no schema. The error is
// errToBeBuilt if that cannot be done.
//
// Whether a tenant that wishes to be anywhere is to be at home is decided in the same transaction.
func (d *Directory) takeSpare(ctx context.Context, n NewTenant, slug tenant.Slug) (row controlsql.Tenant, err error) {
	select {
	case d.taking <- struct{}{}:
		defer func() { <-d.taking }()
	case <-ctx.Done():
		return row, ctx.Err()
	}
	err = pgx.BeginFunc(ctx, d.pool, func(tx pgx.Tx) error {
		q := d.queries.WithTx(tx)
		spare, err := d.lockCurrentSpare(ctx, q, tx)
		if err != nil {
			return err
		}
		cluster, strategy, err := d.choose(ctx, q, n.wish())
		if err != nil {
			return err
		}
		if cluster.Name != tenant.DefaultCluster || strategy != tenant.SchemaStrategy {
			return errToBeBuilt
		}
		row, err = d.giveSpare(ctx, q, tx, spare, n, slug)
		return err
	})
	if err != nil && sqlState(err) == "" && row.ID != (tenant.ID{}) {
		row, err = d.settle(ctx, row, err)
	}
	switch {
	case violates(err, "tenants_slug_living"):
		return row, errToBeBuilt // which finds out whether the holder lives
	case err == nil:
		d.wakeFiller()
	}
	return row, err
}

// lockCurrentSpare chooses a spare that is where the migrator's files lead. Until the transaction ends nobody else takes, drops
// or migrates it.
func (d *Directory) lockCurrentSpare(ctx context.Context, q *controlsql.Queries, tx pgx.Tx) (spare controlsql.Spare, err error) {
	passed := []tenant.ID{} // NULL would pass over all
	for range takeTries {
		spare, err = q.LockReadySpare(ctx, passed)
		if errors.Is(err, pgx.ErrNoRows) {
			return spare, errToBeBuilt
		}
		if err != nil {
			return spare, err
		}
		standing, err := d.inspect(ctx, q, tx, spare)
		if sqlState(err) != "" {
			d.cfg.Logger.WarnContext(ctx, "a spare cannot be used", "schema", spare.SchemaName, "error", err)
			return spare, errToBeBuilt
		}
		if err != nil || standing == migrate.Current {
			return spare, err
		}
		d.cfg.Logger.DebugContext(ctx, "passed over a spare", "schema", spare.SchemaName, "standing", string(standing))
		passed = append(passed, spare.ID)
	}
	return spare, errToBeBuilt
}

// inspect tells where a spare stands. That its role is gone, or its login no longer a member, counts as missing.
func (d *Directory) inspect(ctx context.Context, q *controlsql.Queries, tx pgx.Tx, spare controlsql.Spare) (migrate.Standing, error) {
	standing, err := d.cfg.Migrator.Standing(ctx, tx, spare.SchemaName)
	if err != nil {
		return "", err
	}
	member, err := q.IsMember(ctx, controlsql.IsMemberParams{Role: spare.RoleName, Login: d.loginName(spare.LoginNo)})
	if err == nil && !member {
		standing = migrate.Missing
	}
	return standing, err
}

// giveSpare replaces the spare's row by the tenant's. The place with the runtime login is the same.
func (d *Directory) giveSpare(ctx context.Context, q *controlsql.Queries, tx pgx.Tx, spare controlsql.Spare, n NewTenant, slug tenant.Slug,
) (row controlsql.Tenant, err error) {
	if _, err := tx.Exec(ctx, setNameTimeout); err != nil {
		return row, err
	}
	if err := q.LockTransaction(ctx, creationLock(spare.ID)); err != nil {
		return row, err
	}
	row, err = q.InsertTenant(ctx, controlsql.InsertTenantParams{
		ID: spare.ID, Slug: slug, Company: n.Company, ContactName: n.ContactName, ContactEmail: n.ContactEmail, Status: tenant.Active,
		Cluster: tenant.DefaultCluster, Strategy: tenant.SchemaStrategy, DatabaseName: tx.Conn().Config().Database,
		SchemaName: spare.SchemaName, RoleName: spare.RoleName, LoginNo: spare.LoginNo,
	})
	if err != nil {
		return row, err
	}
	if err := q.DeleteSpare(ctx, spare.ID); err != nil {
		return row, err
	}
	if err := appendEvent(ctx, q, row.ID, EventStarted, ""); err != nil {
		return row, err
	}
	return row, appendEvent(ctx, q, row.ID, EventActivated, "from a spare: "+houseOf(spare).String())
}

// settle finds out whether a transaction whose end was not confirmed has made the tenant. It waits until the server has finished
// with the transaction, which holds the creation lock.
func (d *Directory) settle(ctx context.Context, row controlsql.Tenant, cause error) (controlsql.Tenant, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
	defer cancel()
	err := pgx.BeginFunc(ctx, d.pool, func(tx pgx.Tx) (err error) {
		q := d.queries.WithTx(tx)
		if err := q.LockTransaction(ctx, creationLock(row.ID)); err != nil {
			return err
		}
		row, err = q.GetTenant(ctx, row.ID)
		return err
	})
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return row, cause
	case err != nil:
		return row, fmt.Errorf("%w (whether the tenant was created could not be found out: %w)", cause, err)
	}
	return row, nil
}
