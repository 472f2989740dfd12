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

// Reference makes a schema as a tenant gets it, with a role, its rights and all migrations of Config.Migrator, for comparison
// with tenants or to be dumped. It is no tenant and no spare: nothing lists, resolves or counts it, and no login is a member of
// its role. The target says where it is.
//
// The caller ends its life by calling drop once, with a context that is still good; what cannot be dropped then, or is left when
// the process dies, is removed by the next Sweep or FillSpares. Until then the reference has a connection of its own. If there is
// an error nothing is left, as far as the database can be reached; that of a migration is a *migrate.Error.
func (d *Directory) Reference(ctx context.Context) (target migrate.Target, drop func(context.Context) error, err error) {
	if d.cfg.Migrator == nil {
		return target, nil, errNoMigrator
	}
	id, err := newID()
	if err != nil {
		return target, nil, err
	}
	s, err := d.openSession(ctx)
	if err != nil {
		return target, nil, err
	}
	r := &reference{d: d, session: s, id: id}
	target, err = r.make(ctx)
	if err != nil {
		cleanup, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
		defer cancel()
		return target, nil, fmt.Errorf("directory: make a reference: %w", errors.Join(err, r.drop(cleanup)))
	}
	return target, r.drop, nil
}

// reference is a schema that shows what tenants look like.
type reference struct {
	d       *Directory
	session *session // holds the creation lock
	id      tenant.ID
}

func (r *reference) make(ctx context.Context) (target migrate.Target, err error) {
	if err := r.session.q.Lock(ctx, creationLock(r.id)); err != nil {
		return target, err
	}
	version, err := r.session.q.ServerVersion(ctx)
	if err != nil {
		return target, err
	}
	p := tenant.NewPlacement(r.id, "reference", tenant.DefaultCluster, r.session.conn.Config().Database)
	h := house{schema: p.Schema, role: p.Role}
	if err := r.session.inTx(ctx, func(q *controlsql.Queries, tx pgx.Tx) error {
		if _, err := q.InsertSpare(ctx, controlsql.InsertSpareParams{
			ID: r.id, State: stateReference, SchemaName: h.schema, RoleName: h.role,
		}); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, h.createSQL(version))
		return err
	}); err != nil {
		return target, err
	}
	target = migrate.Target{Name: "reference " + h.schema, Schema: h.schema, Conn: r.d.cfg.ConnConfig, Role: h.role}
	_, err = r.d.cfg.Migrator.Apply(ctx, target)
	return target, err
}

func (r *reference) drop(ctx context.Context) (err error) {
	defer func() { r.session.close() }()
	if r.session, err = r.d.regain(ctx, r.session, creationLock(r.id)); err == nil {
		_, err = dropSpare(ctx, r.session, r.id)
	}
	if err != nil {
		return fmt.Errorf("directory: drop the reference: %w; the next sweep will", err)
	}
	return nil
}

// sweepReferences drops those of the given references whose makers are gone, and returns how many there were.
func (d *Directory) sweepReferences(ctx context.Context, s *session, rows []controlsql.Spare) (int, error) {
	var (
		swept int
		errs  []error
	)
	for _, row := range rows {
		alone, err := s.q.TryLock(ctx, creationLock(row.ID))
		if err == nil && alone {
			if alone, err = dropSpare(ctx, s, row.ID); alone {
				swept++
			}
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("directory: sweep the reference %s: %w", row.SchemaName, err))
		}
		if s.conn.IsClosed() {
			break
		}
	}
	return swept, errors.Join(errs...)
}
