package directory

import (
	"context"
	"fmt"

	"github.com/leasehold-go/leasehold/db/migrate"
	"github.com/leasehold-go/leasehold/internal/controlsql"
)

// States of a row in spares.
const (
	// stateBuilding: the schema and the role are there. The migrations may be.
	stateBuilding = "building"
	// stateReady: it has been migrated. It may be behind by now.
	stateReady = "ready"
	// stateReference: it belongs to a call of Reference.
	stateReference = "reference"
)

// KeepSpares keeps Config.Spares spares until ctx ends: now, when half of them are gone, and else once in a minute or so. It
// answers for all processes of the installation, each of which may run it: one fills at a time, the others wait for their turn
// and then find nothing to do. With Config.Spares 0 it removes the spares that there are, and returns.
//
// The spares of one batch are made in one transaction and migrated one after the other. While that fails it is tried again, with
// growing pauses of up to five minutes; what went wrong is in the log. Sign-ups wait for nothing of this: without a spare, Create
// builds. The error says that the configuration does not allow of spares; that ctx has ended is none. End ctx before Close.
func (d *Directory) KeepSpares(ctx context.Context) error {
	if d.cfg.Spares > 0 {
		if err := d.canCreate(); err != nil {
			return err
		}
	}
	k := keeper{
		fill: func(ctx context.Context) error {
			_, err := d.FillSpares(ctx)
			return err
		},
		low: func(ctx context.Context) (bool, error) {
			n, err := d.queries.CountSpares(ctx)
			return int(n) <= d.cfg.Spares/2, err
		},
		taken: d.taken, once: d.cfg.Spares == 0, logger: d.cfg.Logger,
	}
	k.run(ctx)
	return nil
}

// wakeFiller says that a spare may have been taken.
func (d *Directory) wakeFiller() {
	select {
	case d.taken <- struct{}{}:
	default: // it has been said
	}
}

// FillSpares makes spares until there are Config.Spares, and returns how many it finished. Those that are there already it brings
// up to date. Those that cannot be are kept and tried again by the next call while no other can be either, since the fault is
// then that of the migrations; else they are removed. Half-made ones are finished, and references whose makers are gone removed.
// With Config.Spares 0 it removes all spares instead.
//
// One call works at a time, in all processes; others wait, as long as ctx allows. What a call that breaks off has begun, the next
// goes on with. Spares that a newer program has migrated are left to it, and counted.
func (d *Directory) FillSpares(ctx context.Context) (int, error) {
	if d.cfg.Spares > 0 {
		if err := d.canCreate(); err != nil {
			return 0, err
		}
	}
	s, err := d.openSession(ctx)
	if err != nil {
		return 0, err
	}
	defer s.close()
	if err := s.lockInTurn(ctx, fillLock); err != nil {
		return 0, fmt.Errorf("directory: spares: %w", err)
	}
	f := &filler{d: d, session: s}
	if err := f.run(ctx); err != nil {
		return f.finished, fmt.Errorf("directory: spares: %w", err)
	}
	return f.finished, nil
}

// SpareTargets reads which spares are to be migrated with the fleet. One that is being made migrates itself.
//
// A sign-up turns a spare into a tenant at any moment. Read the spares before the tenants (see Targets), so that none is missed:
// one that was taken in between is in both lists, with the same schema.
func (d *Directory) SpareTargets(ctx context.Context) ([]migrate.Target, error) {
	rows, err := d.queries.ListSpares(ctx, []string{stateReady})
	if err != nil {
		return nil, fmt.Errorf("directory: list spares: %w", err)
	}
	targets := make([]migrate.Target, len(rows))
	for i, row := range rows {
		targets[i] = d.spareTarget(row)
	}
	return targets, nil
}

func (d *Directory) spareTarget(row controlsql.Spare) migrate.Target {
	return migrate.Target{Name: "spare " + row.SchemaName, Schema: row.SchemaName, Conn: d.cfg.ConnConfig, Role: row.RoleName}
}

func houseOf(row controlsql.Spare) house { return house{schema: row.SchemaName, role: row.RoleName} }
