package transfer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// Step is a part of a move. The steps come in the order in which they are listed here.
type Step string

// The steps of a move. Until StepSwitch is over the tenant is at the source; from then on at the target.
const (
	// StepDefine reads the definitions and makes types, functions, tables and views at the target.
	StepDefine Step = "define"
	// StepCapture begins to note what changes at the source.
	StepCapture Step = "capture"
	// StepCopy copies all rows as they are in one snapshot.
	StepCopy Step = "copy"
	// StepIndex makes indexes and unique constraints at the target.
	StepIndex Step = "index"
	// StepCatchUp carries over what has changed meanwhile, in rounds, until a round is small.
	StepCatchUp Step = "catch up"
	// StepCompare compares all rows of both sides in one snapshot. What changes after it is compared as it is carried over.
	StepCompare Step = "compare"
	// StepHold takes the tenant's role from its logins: new calls are refused before anything of them ran.
	StepHold Step = "hold"
	// StepLock waits for the transactions that write to end, and keeps new ones away. If they take too long the hold is given up, and
	// the move goes back to StepCatchUp.
	StepLock Step = "lock"
	// StepLast carries over and compares the last changes.
	StepLast Step = "last"
	// StepComplete makes foreign keys, triggers, rules and policies at the target.
	StepComplete Step = "complete"
	// StepFence renames the schema at the source: no name leads there any more, and what gets there without one is refused. It makes sure
	// that the definitions are those that were read, and carries over the sequences.
	StepFence Step = "fence"
	// StepOpen gives the role to the logins at the target.
	StepOpen Step = "open"
	// StepSwitch has Move.Switch record the new place.
	StepSwitch Step = "switch"
	// StepFinish frees the tables at the source, and validates foreign keys at the target.
	StepFinish Step = "finish"
)

// Progress says how far a move has come.
type Progress struct {
	Step Step `json:"step"`
	// Table is the table that was copied, or "".
	Table string `json:"table,omitempty"`
	// Rows counts the rows copied of the table, or carried over in a round.
	Rows int64 `json:"rows,omitempty"`
}

// Move is one move of a living tenant. Source, Target and Switch are required. Its methods are not to be called at the same time.
type Move struct {
	// Source is where the tenant is, Target an empty schema with the same name, in another database, and the same role. There need be no
	// Logins yet that may take the role there.
	Source, Target Place
	// Switch records that the tenant is at the target. If it returns an error, Switched is asked what holds.
	Switch func(ctx context.Context) error
	// Switched tells whether Switch has taken effect. Defaults to: it has not if it returned an error.
	Switched func(ctx context.Context) (bool, error)
	// HoldTime is how long calls are held while open transactions end, before the hold is given up. Defaults to 5 s.
	HoldTime time.Duration
	// HoldTries is how often a hold is begun. Defaults to 5.
	HoldTries int
	// Progress is told of each step when it begins, and of what it has done. It may be called from several goroutines at a time. Defaults
	// to none.
	Progress func(Progress)
	// Logger is told of holds that were given up (warn). Defaults to none.
	Logger *slog.Logger
	// Before is called at the beginning of each step. Its error breaks the move off. Defaults to none.
	Before func(ctx context.Context, step Step) error
}

const (
	// smallRound is how many keys a round has at most that calls may wait for.
	smallRound = 1000
	// maxRounds bounds the rounds before a hold: a tenant that writes faster than it is read is held with more to carry over.
	maxRounds = 20
	// seizePatience is how long a move waits for a migration or an export.
	seizePatience = 10 * time.Second
	// abortTime bounds what is done to lift a hold when the context has ended.
	abortTime = 5 * time.Minute
	// settleTime bounds the questions whether a move was recorded.
	settleTime = 15 * time.Second
	// settlePause is the pause between two of them.
	settlePause = 500 * time.Millisecond
)

func (m Move) withDefaults() Move {
	m.HoldTime = cmp.Or(m.HoldTime, 5*time.Second)
	m.HoldTries = cmp.Or(m.HoldTries, 5)
	if m.Switched == nil {
		m.Switched = func(context.Context) (bool, error) { return false, nil }
	}
	if m.Progress == nil {
		m.Progress = func(Progress) {}
	}
	if m.Logger == nil {
		m.Logger = slog.New(slog.DiscardHandler)
	}
	if m.Before == nil {
		m.Before = func(context.Context, Step) error { return nil }
	}
	return m
}

func (m Move) validate() error {
	switch {
	case m.Source.Schema != m.Target.Schema || m.Source.Role != m.Target.Role:
		return fmt.Errorf("transfer: schema %q and role %q would become %q and %q; a move keeps them",
			m.Source.Schema, m.Source.Role, m.Target.Schema, m.Target.Role)
	case m.Switch == nil:
		return errors.New("transfer: move without Switch")
	}
	return errors.Join(m.Source.validate(), m.Target.validate())
}

// mover is a move under way.
type mover struct {
	Move
	// keeper holds the lock that keeps migrations away, and changes the source. source reads it, target writes the copy.
	keeper, source, target *session
	tables                 []table
	fingerprint            string // of the source's definitions
	capture                capture
	stages                 stages
}

// Run moves the tenant. If it returns nil the tenant is at the target, and what is at the source is called OldSchema, for the caller to
// drop, after Release. If it returns an error before the switch, the tenant is at the source as if nothing had happened; what was copied to
// the target is for the caller to drop. If the error is ErrUnsettled, the tenant is held until Abort or Finish is called. After the switch the
// error is that of Finish, which has to be called again.
func (m Move) Run(ctx context.Context) error {
	m = m.withDefaults()
	if err := m.validate(); err != nil {
		return err
	}
	mv := &mover{Move: m}
	defer mv.close()
	if err := mv.open(ctx); err != nil {
		return err
	}
	switched, err := mv.carryOver(ctx)
	switch {
	case errors.Is(err, ErrUnsettled):
		return err
	case !switched:
		mv.close() // with its locks
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abortTime)
		defer cancel()
		return errors.Join(err, m.Abort(ctx))
	}
	return mv.finish(ctx)
}

// open connects, and makes sure that there is nothing in the way.
func (m *mover) open(ctx context.Context) (err error) {
	for _, c := range []struct {
		place Place
		s     **session
	}{{m.Source, &m.keeper}, {m.Source, &m.source}, {m.Target, &m.target}} {
		if *c.s, err = c.place.connect(ctx); err != nil {
			return err
		}
	}
	if err := m.keeper.seize(ctx); err != nil {
		return err
	}
	for _, name := range []string{CaptureSchema(m.Source.Schema), OldSchema(m.Source.Schema), FenceSchema(m.Source.Schema)} {
		if there, err := m.keeper.hasSchema(ctx, name); err != nil || there {
			return cmp.Or(err, fmt.Errorf("%w: schema %q", ErrLeftover, name))
		}
	}
	if err := cmp.Or(m.keeper.mustBeAllOurs(ctx), m.target.mustBeEmpty(ctx)); err != nil {
		return err
	}
	if m.fingerprint, err = m.keeper.fingerprint(ctx, m.Source.Schema); err != nil {
		return err
	}
	m.tables, err = m.keeper.tables(ctx)
	m.capture = capture{m.Source, m.tables}
	return err
}

func (m *mover) close() {
	for _, s := range []**session{&m.source, &m.target, &m.keeper} {
		(*s).close()
		*s = nil
	}
}

func (m *mover) report(p Progress) { m.Progress(p) }

// step begins a step, if there is still a reason to.
func (m *mover) step(ctx context.Context, step Step, do func(context.Context) error) error {
	if err := m.Before(ctx, step); err != nil {
		return fmt.Errorf("%s: %w", step, err)
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%s: %w", step, err)
	}
	m.report(Progress{Step: step})
	if err := do(ctx); err != nil {
		return fmt.Errorf("%s: %w", step, err)
	}
	return nil
}

// carryOver does all up to the switch, and reports whether that has taken effect.
func (m *mover) carryOver(ctx context.Context) (switched bool, err error) {
	for _, s := range []struct {
		step Step
		do   func(context.Context) error
	}{
		{StepDefine, m.define},
		{StepCapture, func(ctx context.Context) error { return m.capture.install(ctx, m.keeper) }},
		{StepCopy, m.copyAll},
		{StepIndex, m.index},
		{StepCatchUp, m.rounds},
		{StepCompare, m.compareAll},
	} {
		if err := m.step(ctx, s.step, s.do); err != nil {
			return false, err
		}
	}
	if err := m.hold(ctx); err != nil {
		return false, err
	}
	for _, s := range []struct {
		step Step
		do   func(context.Context) error
	}{
		{StepLast, m.lastRound},
		{StepComplete, func(ctx context.Context) error { return m.target.apply(ctx, m.stages.late) }},
		{StepFence, m.fence},
		{StepOpen, func(ctx context.Context) error { return m.target.admit(ctx) }},
	} {
		if err := m.step(ctx, s.step, s.do); err != nil {
			return false, err
		}
	}
	asked := false
	err = m.step(ctx, StepSwitch, func(ctx context.Context) error {
		asked = true
		return m.Switch(ctx)
	})
	if err == nil || !asked {
		return err == nil, err
	}
	return m.settle(ctx, err)
}

// settle finds out whether a switch that has failed has taken effect all the same.
func (m *mover) settle(ctx context.Context, cause error) (switched bool, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTime)
	defer cancel()
	for {
		switched, err = m.Switched(ctx)
		switch {
		case err == nil && switched:
			return true, nil
		case err == nil:
			return false, cause
		case ctx.Err() != nil:
			return false, fmt.Errorf("%w: %w: %w", ErrUnsettled, cause, err)
		}
		_ = wait(ctx, settlePause)
	}
}

// define makes at the target what rows are put into, with the rights that the source has.
func (m *mover) define(ctx context.Context) error {
	before, err := m.Source.define(ctx, "pre-data")
	if err != nil {
		return err
	}
	after, err := m.Source.define(ctx, "post-data")
	if err != nil {
		return err
	}
	m.stages = stage(after)
	if err := m.target.apply(ctx, before); err != nil {
		return err
	}
	grants, err := m.keeper.grants(ctx)
	if err != nil {
		return err
	}
	return m.target.setGrants(ctx, grants)
}

// index makes what the copy is kept up to date with.
func (m *mover) index(ctx context.Context) error {
	if err := m.target.apply(ctx, m.stages.early); err != nil {
		return err
	}
	return m.target.analyze(ctx, m.tables)
}

// analyze has the planner know the tables.
func (s *session) analyze(ctx context.Context, tables []table) error {
	for _, t := range tables {
		if err := s.run(ctx, "analyze "+s.place.name(t.name)); err != nil {
			return err
		}
	}
	return nil
}

// rounds catches up until little is left.
func (m *mover) rounds(ctx context.Context) error {
	for range maxRounds {
		rows, err := m.catchUp(ctx, false, nil)
		if err != nil {
			return err
		}
		m.report(Progress{Step: StepCatchUp, Rows: rows})
		if rows <= smallRound {
			return nil
		}
	}
	return nil
}

// compareAll compares all rows in one snapshot, and then fills the materialized views.
func (m *mover) compareAll(ctx context.Context) error {
	rows, err := m.catchUp(ctx, false, func(ctx context.Context) error {
		for _, t := range m.tables {
			if err := m.compareTable(ctx, t); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	m.report(Progress{Step: StepCompare, Rows: rows})
	return m.target.apply(ctx, m.stages.views)
}

// lastRound makes the copy complete. Nobody writes.
func (m *mover) lastRound(ctx context.Context) error {
	rows, err := m.catchUp(ctx, true, nil)
	m.report(Progress{Step: StepLast, Rows: rows})
	return err
}
