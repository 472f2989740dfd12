package directory

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/internal/controlsql"
	"github.com/leasehold-go/leasehold/internal/transfer"
)

// The events of a move.
const (
	EventMoveStarted   EventKind = "move.started"
	EventMoveSwitched  EventKind = "move.switched"
	EventMoveFailed    EventKind = "move.failed"
	EventMoveConfirmed EventKind = "move.confirmed"
)

// moveAbortTime bounds what is done to undo a move. It does not count against the caller's context, which may be what ended the move.
const moveAbortTime = 10 * time.Minute

// MoveOptions say where a tenant is moved, and how.
type MoveOptions struct {
	// Cluster is where the tenant is to live. Defaults to the cluster that it is on.
	Cluster string
	// Strategy is how it is to be housed there. Defaults to how it is housed.
	Strategy tenant.Strategy
	// HoldTime is how long the tenant's calls are held at most while its open transactions end, before the hold is given up and tried
	// again later. Defaults to 5 s.
	HoldTime time.Duration
	// HoldTries is how often a hold is begun. Defaults to 5.
	HoldTries int
	// Progress is told of each step when it begins, and of what it has done, from several goroutines at a time. Defaults to none.
	Progress func(MoveProgress)

	before func(step transfer.Step) // for tests
}

// MoveProgress says how far a move has come.
type MoveProgress struct {
	// Step is what is done: define, capture, copy, index, catch up, compare, hold, lock, last, complete, fence, open, switch, finish, in
	// this order. From hold to switch the tenant's calls wait. From lock it may go back to catch up.
	Step string `json:"step"`
	// Table is the table that was copied, or "".
	Table string `json:"table,omitempty"`
	// Rows counts the rows that were copied, or carried over in a round.
	Rows int64 `json:"rows,omitempty"`
}

// MoveState says how far a move has come.
type MoveState string

// The states of a move.
const (
	// MoveRunning is a move that has not taken effect. If its process is gone, RecoverMoves undoes it.
	MoveRunning MoveState = "running"
	// MoveAborting is a move that will not take effect and is being undone.
	MoveAborting MoveState = "aborting"
	// MoveSwitched is a move that has taken effect. If its process is gone, RecoverMoves does what is left to do.
	MoveSwitched MoveState = "switched"
	// MoveUnconfirmed is a MoveSwitched of which nothing is left to do but to drop the old copy: see ConfirmMove.
	MoveUnconfirmed MoveState = "unconfirmed"
)

// OpenMove is a move that has neither been undone nor confirmed.
type OpenMove struct {
	Tenant *tenant.Tenant
	State  MoveState
	// From and To are the places. The tenant is at From until the move is MoveSwitched.
	From, To tenant.Placement
	// StartedAt is when the move began, SwitchedAt when it took effect; zero if it has not.
	StartedAt, SwitchedAt time.Time
}

// Moves returns the moves that have neither been undone nor confirmed, the oldest first: those under way, those that were broken off,
// and those whose old copy takes up room. It asks the registry only.
func (d *Directory) Moves(ctx context.Context) ([]OpenMove, error) {
	rows, err := d.queries.ListMoves(ctx)
	if err != nil {
		return nil, fmt.Errorf("directory: list moves: %w", err)
	}
	moves := make([]OpenMove, len(rows))
	for i, row := range rows {
		m := moving{d: d, row: row.Tenant, move: row.Move}
		moves[i] = OpenMove{
			Tenant: d.fromRow(row.Tenant), State: MoveState(row.Move.State), From: d.fromRow(m.source()).Placement, To: d.fromRow(m.target()).Placement,
			StartedAt: row.Move.StartedAt,
		}
		if row.Move.SwitchedAt != nil {
			moves[i].SwitchedAt = *row.Move.SwitchedAt
		}
		if row.Move.Finished {
			moves[i].State = MoveUnconfirmed
		}
	}
	return moves, nil
}

// Move moves a living tenant to another cluster, to a database of its own, or out of one, and returns its new record. The tenant is
// served meanwhile. For the last step its calls are held, usually for less than a second; with tenantdb.Config.Refresh set to Await
// they wait, without it they fail with tenantdb.ErrScope. Migrations of the tenant wait.
//
// All rows of both sides are compared before the tenant is switched over; see the package transfer for how, and for what cannot be
// moved; no tenant can be moved to or from a Citus cluster. The old copy is kept, and nobody can use it, until ConfirmMove drops it.
// Until then the tenant cannot be moved again.
//
// On error the tenant is where it was and nothing is left of the copy, as far as both servers can be reached; RecoverMoves does the
// rest. After the switch an error comes with the new record: the tenant is served at its new place, and RecoverMoves does what is left.
// The error is ErrMoving if the tenant is being moved, ErrUnconfirmed if it was moved before, ErrNoCluster or ErrNoRoom as for Create,
// ErrSamePlace, ErrOccupied, errors.ErrUnsupported if something of the tenant cannot be carried over, a *StatusError if the tenant is
// neither active nor suspended, ErrHeld, ErrDiffers or ErrBusy.
//
// If this process dies, the tenant is at exactly one of the two places. What is left to do RecoverMoves does, or Await, as soon as a
// call is held.
func (d *Directory) Move(ctx context.Context, id tenant.ID, opts MoveOptions) (*tenant.Tenant, error) {
	if err := d.cfg.validateSecretKey(); err != nil {
		return nil, err
	}
	m, err := d.openMove(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("move tenant %s: %w", id, err)
	}
	defer m.close()
	t, err := m.run(ctx, opts)
	if err != nil {
		err = fmt.Errorf("move tenant %q: %w", m.row.Slug, err)
	}
	return t, err
}

// moving is a tenant that is being moved, or on which an earlier move is settled.
type moving struct {
	d       *Directory
	session *session // holds the move's lock
	id      tenant.ID
	row     controlsql.Tenant
	move    controlsql.Move // zero if there is none
}

// moveLock is the key of the lock that whoever is at work on a tenant's move holds.
func moveLock(id tenant.ID) int64 { return lockKey("move " + id.String()) }

// openMove takes the lock of a tenant's moves and reads where the tenant stands.
func (d *Directory) openMove(ctx context.Context, id tenant.ID) (*moving, error) {
	s, err := d.openSession(ctx)
	if err != nil {
		return nil, err
	}
	m := &moving{d: d, session: s, id: id}
	if err := m.read(ctx); err != nil {
		s.close()
		return nil, err
	}
	return m, nil
}

func (m *moving) read(ctx context.Context) (err error) {
	switch alone, err := m.session.q.TryLock(ctx, moveLock(m.id)); {
	case err != nil:
		return err
	case !alone:
		return ErrMoving
	}
	if m.row, err = m.session.q.GetTenant(ctx, m.id); err != nil {
		return notFound(err)
	}
	m.move, err = m.session.q.GetMove(ctx, m.id)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	return err
}

func (m *moving) close() { m.session.close() }

// at is the tenant's row as it would be at a place.
func (m *moving) at(cluster string, strategy tenant.Strategy, database string, login int32, password []byte) controlsql.Tenant {
	row := m.row
	row.Cluster, row.Strategy, row.DatabaseName, row.LoginNo, row.EncryptedPassword = cluster, strategy, database, login, password
	return row
}

func (m *moving) source() controlsql.Tenant {
	return m.at(m.move.OldCluster, m.move.OldStrategy, m.move.OldDatabaseName, m.move.OldLoginNo, nil)
}

func (m *moving) target() controlsql.Tenant {
	return m.at(m.move.Cluster, m.move.Strategy, m.move.DatabaseName, m.move.LoginNo, m.move.EncryptedPassword)
}

// transferPlace is what the rows are carried from or to.
func (d *Directory) transferPlace(ctx context.Context, row controlsql.Tenant) (transfer.Place, error) {
	admin, err := d.administrator(ctx, row.Cluster)
	if err != nil {
		return transfer.Place{}, err
	}
	login := d.loginName(row.LoginNo)
	if row.Strategy == tenant.DatabaseStrategy {
		login = ownLogin(row.RoleName)
	}
	return transfer.Place{
		Admin: inDatabase(admin, databaseOf(row)), Schema: row.SchemaName, Role: row.RoleName, Logins: []string{login},
	}, nil
}

// transfer is the move of the rows.
func (m *moving) transfer(ctx context.Context) (t transfer.Move, err error) {
	t.Logger = m.d.cfg.Logger
	if t.Source, err = m.d.transferPlace(ctx, m.source()); err != nil {
		return t, err
	}
	t.Target, err = m.d.transferPlace(ctx, m.target())
	return t, err
}

func (m *moving) run(ctx context.Context, opts MoveOptions) (*tenant.Tenant, error) {
	switch {
	case MoveState(m.move.State) == MoveSwitched:
		return nil, ErrUnconfirmed
	case m.move.State != "":
		if err := m.abort(ctx, errBrokenOff); err != nil {
			return nil, err
		}
	}
	w := wish{cluster: cmp.Or(opts.Cluster, m.row.Cluster), strategy: cmp.Or(opts.Strategy, m.row.Strategy)}
	w.stays = w.cluster == m.row.Cluster
	if err := m.check(ctx, w); err != nil {
		return nil, err
	}
	if err := m.reserve(ctx, w); err != nil {
		return nil, err
	}
	err := m.house(ctx)
	if err == nil {
		err = m.carry(ctx, opts)
	}
	if err != nil {
		return m.fail(ctx, err)
	}
	if err := m.session.q.FinishMove(ctx, m.id); err != nil {
		return m.fail(ctx, err)
	}
	return m.d.ByID(ctx, m.id)
}

var (
	errBrokenOff = errors.New("it was broken off")
	errCancelled = errors.New("it was cancelled")
)

// fail ends a move that has met an error: before the switch by undoing it, after it by reporting the error.
func (m *moving) fail(ctx context.Context, cause error) (*tenant.Tenant, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), moveAbortTime)
	defer cancel()
	err := m.abort(ctx, cause)
	if errors.Is(err, errSwitched) {
		t, err := m.d.ByID(ctx, m.id)
		return t, errors.Join(fmt.Errorf("it has moved, and something is left to be done: %w", cause), err)
	}
	if err != nil {
		m.d.cfg.Logger.WarnContext(ctx, "a move that failed is left to be undone", "tenant", m.id.String(), "error", err)
		return nil, fmt.Errorf("%w (it could not be undone yet: %w)", cause, err)
	}
	return nil, cause
}

// check refuses a place that the tenant cannot be moved to.
func (m *moving) check(ctx context.Context, w wish) error {
	if w.strategy != tenant.SchemaStrategy && w.strategy != tenant.DatabaseStrategy {
		return fmt.Errorf("directory: unknown strategy %q", w.strategy)
	}
	if err := checkKinds(ctx, m.session.q, m.row.Cluster, w.cluster); err != nil {
		return err
	}
	if m.row.Cluster == w.cluster && m.row.Strategy == w.strategy {
		return fmt.Errorf("%w: cluster %q, strategy %s", ErrSamePlace, w.cluster, w.strategy)
	}
	return m.checkVacant(ctx, w)
}

// checkVacant refuses a place where there is something under the tenant's names. It is not of this move, which would take it for its own
// copy and drop it if it failed. It may be the tenant itself, if two clusters are one database.
func (m *moving) checkVacant(ctx context.Context, w wish) error {
	site, err := m.d.connectTo(ctx, w.cluster)
	if err != nil {
		return err
	}
	defer site.close()
	names := controlsql.IsThereParams{SchemaName: m.row.SchemaName}
	if w.strategy == tenant.DatabaseStrategy {
		p := tenant.NewPlacement(m.id, m.row.Slug, w.cluster, "")
		names = controlsql.IsThereParams{DatabaseName: p.OwnDatabase(m.row.Slug, w.cluster).Database}
	}
	there, err := site.q.IsThere(ctx, names)
	if err == nil && there {
		err = fmt.Errorf("%w: on cluster %q: %s%s", ErrOccupied, w.cluster, names.SchemaName, names.DatabaseName)
	}
	return err
}

// reserve finds the new place and writes the move down.
func (m *moving) reserve(ctx context.Context, w wish) error {
	return m.session.inTx(ctx, func(q *controlsql.Queries, tx pgx.Tx) error {
		p, err := m.d.findPlace(ctx, q, w, m.id, m.row.Slug)
		if err != nil {
			return err
		}
		if m.row, err = q.GetTenantForUpdate(ctx, m.id); err != nil {
			return err
		}
		switch {
		case m.row.Status != tenant.Active && m.row.Status != tenant.Suspended:
			return refuse(m.row, "moved")
		case m.row.NextEncryptedPassword != nil:
			return fmt.Errorf("%w: its password is being changed", ErrMoving)
		case m.row.Strategy == tenant.DatabaseStrategy && w.strategy == tenant.DatabaseStrategy:
			// The login may be the same one, if both clusters are on one server.
			p.password = m.row.EncryptedPassword
		}
		m.move, err = q.InsertMove(ctx, controlsql.InsertMoveParams{
			TenantID: m.id, Cluster: p.Cluster, Strategy: p.Strategy, DatabaseName: p.Database, LoginNo: p.loginNo,
			EncryptedPassword: p.password, OldCluster: m.row.Cluster, OldStrategy: m.row.Strategy,
			OldDatabaseName: m.row.DatabaseName, OldLoginNo: m.row.LoginNo,
		})
		if err != nil {
			return err
		}
		return appendEvent(ctx, q, m.id, EventMoveStarted, fmt.Sprintf("from cluster %s, strategy %s, to cluster %s, strategy %s",
			m.row.Cluster, m.row.Strategy, p.Cluster, p.Strategy))
	})
}

// checkKinds refuses clusters whose tables take no triggers.
func checkKinds(ctx context.Context, q *controlsql.Queries, names ...string) error {
	for _, name := range names {
		cluster, err := q.GetCluster(ctx, name)
		if errors.Is(err, pgx.ErrNoRows) {
			return fmt.Errorf("%w: %q", ErrNoCluster, name)
		}
		if err != nil {
			return err
		}
		if ClusterKind(cluster.Kind) == CitusCluster {
			return fmt.Errorf("%w: cluster %q is a Citus cluster, which no tenant can be moved to or from; to leave it, export the tenant and import it elsewhere", errors.ErrUnsupported, name)
		}
	}
	return nil
}

// carry carries the tenant over.
func (m *moving) carry(ctx context.Context, opts MoveOptions) error {
	t, err := m.transfer(ctx)
	if err != nil {
		return err
	}
	t.HoldTime, t.HoldTries = opts.HoldTime, opts.HoldTries
	if opts.Progress != nil {
		t.Progress = func(p transfer.Progress) { opts.Progress(MoveProgress{string(p.Step), p.Table, p.Rows}) }
	}
	var password *session // keeps it from being changed
	defer func() {
		if password != nil {
			password.close()
		}
	}()
	t.Before = func(ctx context.Context, step transfer.Step) (err error) {
		if opts.before != nil {
			opts.before(step)
		}
		if step == transfer.StepHold && password == nil {
			if password, err = m.keepPassword(ctx); err != nil {
				return err
			}
		}
		return m.before(ctx, step)
	}
	t.Switch, t.Switched = m.switchOver, m.switched
	return t.Run(ctx)
}

// before makes sure that the move was not cancelled, and says in the registry whether calls are held.
func (m *moving) before(ctx context.Context, step transfer.Step) error {
	if step == transfer.StepFinish {
		return nil
	}
	now, err := m.session.q.GetMove(ctx, m.id)
	switch {
	case err != nil:
		return err
	case MoveState(now.State) != MoveRunning:
		return errCancelled
	}
	holding := now.Holding
	switch step {
	case transfer.StepHold:
		holding = true
	case transfer.StepCatchUp:
		holding = false
	}
	if holding == now.Holding {
		return nil
	}
	n, err := m.session.q.SetMoveHolding(ctx, controlsql.SetMoveHoldingParams{TenantID: m.id, Holding: holding})
	if err == nil && n == 0 {
		return errCancelled
	}
	return err
}

// switchOver makes the new place the tenant's. Whoever cancels a move, or takes it up after a crash, sees to it first that this can no longer
// happen.
func (m *moving) switchOver(ctx context.Context) error {
	var names []string
	err := m.session.inTx(ctx, func(_ *controlsql.Queries, tx pgx.Tx) (err error) {
		_, names, err = m.d.changeIn(ctx, tx, m.id, func(q *controlsql.Queries, row controlsql.Tenant) (controlsql.Tenant, error) {
			for _, change := range []func(context.Context, tenant.ID) (int64, error){q.SwitchMove, q.SwitchTenant} {
				if n, err := change(ctx, m.id); err != nil || n == 0 {
					return row, cmp.Or(err, errCancelled)
				}
			}
			return row, appendEvent(ctx, q, m.id, EventMoveSwitched, "")
		})
		return err
	})
	m.d.forget(names)
	return err
}

// switched finds out whether the switch has taken effect. If it has not, it no longer can: a commit whose answer was lost may be under
// way, and is waited for.
func (m *moving) switched(ctx context.Context) (bool, error) {
	if n, err := m.d.queries.AbortMove(ctx, m.id); n > 0 || err != nil {
		return false, err
	}
	now, err := m.d.queries.GetMove(ctx, m.id)
	if errors.Is(err, pgx.ErrNoRows) {
		return false, nil // somebody else has undone it
	}
	return MoveState(now.State) == MoveSwitched, err
}
