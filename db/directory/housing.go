package directory

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/internal/controlsql"
)

// house makes what the tenant is to live in, and returns its row: it may have got another place.
func (c *creation) house(ctx context.Context, row controlsql.Tenant) (controlsql.Tenant, error) {
	for !atHome(row) {
		site, err := c.d.openSite(ctx, row.Cluster, c.id)
		if err == nil {
			defer site.close()
			return row, c.houseAt(ctx, site, row)
		}
		moved, moveErr := c.passOver(ctx, row, err)
		switch {
		case errors.Is(moveErr, ErrNoRoom):
			return row, err
		case moveErr != nil:
			return row, errors.Join(err, moveErr)
		}
		row = moved
	}
	return row, c.houseAtHome(ctx, row)
}

// passOver gives the tenant, of which nothing is built yet, a place on another cluster, since its own cannot be reached. The
// error is ErrNoRoom if there is no other.
func (c *creation) passOver(ctx context.Context, row controlsql.Tenant, cause error) (moved controlsql.Tenant, err error) {
	if ctx.Err() != nil {
		return row, ctx.Err()
	}
	c.wish.passed = append(c.wish.passed, row.Cluster)
	c.d.administrators.avoid(row.Cluster)
	err = c.session.inTx(ctx, func(q *controlsql.Queries, _ pgx.Tx) error {
		p, err := c.d.findPlace(ctx, q, c.wish, c.id, row.Slug)
		if err != nil {
			return err
		}
		moved, err = q.MoveReservation(ctx, controlsql.MoveReservationParams{
			ID: c.id, Cluster: p.Cluster, Strategy: p.Strategy, DatabaseName: p.Database, LoginNo: p.loginNo,
			EncryptedPassword: p.password,
		})
		if errors.Is(err, pgx.ErrNoRows) {
			return errOvertaken
		}
		if err != nil {
			return err
		}
		return appendEvent(ctx, q, c.id, EventPassedOver, fmt.Sprintf("%s for %s: %v", row.Cluster, p.Cluster, cause))
	})
	if err == nil {
		c.d.cfg.Logger.WarnContext(ctx, "a cluster that cannot be reached was passed over for a new tenant",
			"cluster", row.Cluster, "instead", moved.Cluster, "error", cause)
	}
	return moved, err
}

var errOvertaken = errors.New("somebody else has ended the creation")

// houseAt makes the house at a site, which is locked.
func (c *creation) houseAt(ctx context.Context, site *session, row controlsql.Tenant) error {
	switch now, err := c.session.q.GetTenant(ctx, c.id); {
	case err != nil:
		return err
	case now.Status != tenant.Provisioning:
		return errOvertaken
	}
	made, err := c.d.makeHouse(ctx, site, row)
	if err != nil {
		return err
	}
	return appendEvent(ctx, c.session.q, c.id, EventHoused, made.String())
}

// makeHouse makes what a tenant lives in at a site.
func (d *Directory) makeHouse(ctx context.Context, site *session, row controlsql.Tenant) (fmt.Stringer, error) {
	if row.Strategy == tenant.DatabaseStrategy {
		h := ownHouseOf(row)
		if err := d.checkKey(ctx); err != nil {
			return h, err
		}
		password, err := d.sealer.open(ownerOfPassword(row.ID), row.EncryptedPassword)
		if err != nil {
			return h, err
		}
		if err := h.create(ctx, site, string(password), d.cfg.Logger); err != nil {
			return h, err
		}
		return h, d.tryOwnLogin(ctx, row, string(password))
	}
	login := clusterLogin{row.Cluster, row.LoginNo}
	h := house{schema: row.SchemaName, role: row.RoleName, login: d.loginName(row.LoginNo)}
	if err := d.ensureLogin(ctx, login, loginFit, false); err != nil {
		return h, err
	}
	cluster, err := d.queries.GetCluster(ctx, row.Cluster)
	if err != nil {
		return h, err
	}
	return h, h.build(ctx, site, ClusterKind(cluster.Kind))
}
