package directory

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/db/migrate"
	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/internal/controlsql"
)

// maxBatch is how many spares are made in one transaction at most, which holds a few locks for each until it ends.
const maxBatch = 32

// filler is one filling.
type filler struct {
	d        *Directory
	session  *session // holds fillLock
	finished int
	// current counts the spares that are where the files lead.
	current int
	// failed are those that could not be brought up to date.
	failed []controlsql.Spare
}

func (f *filler) run(ctx context.Context) error {
	references, err := f.session.q.ListSpares(ctx, []string{stateReference})
	if err != nil {
		return err
	}
	_, referenceErr := f.d.sweepReferences(ctx, f.session, references)
	rows, err := f.session.q.ListSpares(ctx, []string{stateBuilding, stateReady})
	switch {
	case err != nil:
	case f.d.cfg.Spares == 0:
		err = f.removeAll(ctx, rows)
	default:
		err = f.fill(ctx, rows)
	}
	return errors.Join(referenceErr, err)
}

// fill brings the given spares up to date and adds what is missing.
func (f *filler) fill(ctx context.Context, rows []controlsql.Spare) error {
	err := f.refreshAll(ctx, rows)
	for made := true; made && ctx.Err() == nil; {
		var fillErr error
		made, fillErr = f.add(ctx)
		err = errors.Join(err, fillErr)
	}
	if f.finished > 0 {
		f.d.cfg.Logger.InfoContext(ctx, "made spares", "count", f.finished)
	}
	if f.current == 0 {
		return err // the fault may be that of the files
	}
	return errors.Join(err, f.removeAll(ctx, f.failed))
}

// add makes a batch, if one is wanted, and reports whether all of it went well.
func (f *filler) add(ctx context.Context) (made bool, err error) {
	wanted := f.d.cfg.Spares
	if f.current == 0 && len(f.failed) > 0 {
		wanted++ // a fresh one tells whether the fault is theirs or that of the files
	}
	n, err := f.session.q.CountSpares(ctx)
	if err != nil || int(n) >= wanted {
		return false, err
	}
	rows, err := f.house(ctx, min(wanted-int(n), maxBatch))
	if err != nil {
		return false, err
	}
	before := f.current
	if err := f.refreshAll(ctx, rows); err != nil {
		return false, err
	}
	if f.current == before {
		return false, errors.New("the migrations leave spares that cannot be used")
	}
	return true, nil
}

// house adds the rows, the schemas and the roles of a batch in one transaction, so that the sessions of the runtime logins see
// their memberships change once.
func (f *filler) house(ctx context.Context, n int) (rows []controlsql.Spare, err error) {
	version, err := f.session.q.ServerVersion(ctx)
	if err != nil {
		return nil, err
	}
	logins := map[int32]bool{}
	err = f.session.inTx(ctx, func(q *controlsql.Queries, tx pgx.Tx) error {
		if err := q.LockTransaction(ctx, reservationLock); err != nil {
			return err
		}
		statements := make([]string, n)
		for i := range n {
			row, err := f.insert(ctx, q)
			if err != nil {
				return err
			}
			h := houseOf(row)
			h.login = f.d.loginName(row.LoginNo)
			rows, logins[row.LoginNo], statements[i] = append(rows, row), true, h.createSQL(version)
		}
		for _, number := range slices.Sorted(maps.Keys(logins)) {
			if err := f.d.ensureLogin(ctx, atDefault(number), loginFit, false); err != nil {
				return err
			}
		}
		_, err := tx.Exec(ctx, strings.Join(statements, ";\n"))
		return err
	})
	if err != nil {
		for number := range logins {
			f.d.logins.set(f.d.seenAs(atDefault(number)), loginUnknown) // it may be gone, and is looked for the next time
		}
		return nil, fmt.Errorf("create %d schemas and roles: %w", n, err)
	}
	return rows, nil
}

// insert adds the row of a spare to be, with a place at a runtime login.
func (f *filler) insert(ctx context.Context, q *controlsql.Queries) (row controlsql.Spare, err error) {
	id, err := newID()
	if err != nil {
		return row, err
	}
	login, err := q.ChooseLogin(ctx, controlsql.ChooseLoginParams{
		Cluster: tenant.DefaultCluster, TenantsPerLogin: int64(f.d.cfg.TenantsPerLogin),
	})
	if err != nil {
		return row, err
	}
	p := tenant.NewPlacement(id, "spare", tenant.DefaultCluster, f.session.conn.Config().Database)
	return q.InsertSpare(ctx, controlsql.InsertSpareParams{
		ID: id, State: stateBuilding, SchemaName: p.Schema, RoleName: p.Role, LoginNo: login,
	})
}

// refreshAll refreshes each spare. One that fails does not hold up the rest.
func (f *filler) refreshAll(ctx context.Context, rows []controlsql.Spare) error {
	var errs []error
	for _, row := range rows {
		err := f.refresh(ctx, row)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", row.SchemaName, err))
		}
		if ctx.Err() != nil || f.session.conn.IsClosed() {
			break
		}
		if err != nil {
			f.failed = append(f.failed, row)
		}
	}
	return errors.Join(errs...)
}

// refresh brings a spare to where the files lead and makes it ready, or removes it if nothing leads there.
func (f *filler) refresh(ctx context.Context, row controlsql.Spare) error {
	standing, err := f.inspect(ctx, row)
	if err == nil && (standing == migrate.Behind || standing == migrate.Busy) {
		standing, err = f.migrate(ctx, row)
	}
	if err != nil {
		return err
	}
	switch standing {
	case migrate.Current:
		f.current++
		n, err := f.session.q.FinishSpare(ctx, row.ID)
		f.finished += int(n)
		return err
	case migrate.Changed, migrate.Missing:
		f.d.cfg.Logger.InfoContext(ctx, "removing a spare that is of no use", "schema", row.SchemaName, "standing", string(standing))
		return f.removeAll(ctx, []controlsql.Spare{row})
	case migrate.Ahead:
		f.d.cfg.Logger.InfoContext(ctx, "a spare that a newer program has migrated is left to it", "schema", row.SchemaName)
	}
	return nil // it may be Busy: somebody else migrates it
}

// migrate brings a spare up to date. The server may still be at work on one whose filler is gone.
func (f *filler) migrate(ctx context.Context, row controlsql.Spare) (migrate.Standing, error) {
	if row.State == stateBuilding {
		if err := f.session.q.TerminateMigrations(ctx, row.SchemaName); err != nil {
			return "", err
		}
	}
	if _, err := f.d.cfg.Migrator.Apply(ctx, f.d.spareTarget(row)); err != nil {
		return "", err
	}
	return f.inspect(ctx, row)
}

func (f *filler) inspect(ctx context.Context, row controlsql.Spare) (standing migrate.Standing, err error) {
	err = f.session.inTx(ctx, func(q *controlsql.Queries, tx pgx.Tx) error {
		standing, err = f.d.inspect(ctx, q, tx, row)
		return err
	})
	return standing, err
}

func (f *filler) removeAll(ctx context.Context, rows []controlsql.Spare) error {
	var errs []error
	for _, row := range rows {
		if _, err := dropSpare(ctx, f.session, row.ID); err != nil {
			errs = append(errs, fmt.Errorf("remove %s: %w", row.SchemaName, err))
		}
		if f.session.conn.IsClosed() {
			break
		}
	}
	return errors.Join(errs...)
}

// dropSpare removes a spare or a reference: what is in its schema, which may take many transactions, and then its schema, its role and
// its row. What breaks off is a reference from its beginning on, which the next sweep drops. It reports whether that was still to be
// done; what somebody is about to take, or to drop, is left alone. The session keeps the creation lock until it is closed.
func dropSpare(ctx context.Context, s *session, id tenant.ID) (dropped bool, err error) {
	if alone, err := s.q.TryLock(ctx, creationLock(id)); err != nil || !alone {
		return false, err
	}
	var row controlsql.Spare
	err = s.inTx(ctx, func(q *controlsql.Queries, _ pgx.Tx) error {
		if row, err = q.LockSpare(ctx, id); err != nil {
			return err
		}
		return q.RetireSpare(ctx, id)
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	empty := emptyHalfMade
	if row.State == stateReady { // which nobody but a runner over the fleet migrates
		empty = emptyUnused
	}
	if err := empty(ctx, s, row.SchemaName); err != nil {
		return false, err
	}
	err = s.inTx(ctx, func(q *controlsql.Queries, tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, houseOf(row).dropSQL()); err != nil {
			return err
		}
		return q.DeleteSpare(ctx, id)
	})
	return err == nil, err
}
