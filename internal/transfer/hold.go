package transfer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/db/migrate"
)

// inheritOptionVersion is the first version in which a membership itself says whether rights are inherited.
const inheritOptionVersion = 160000

// admit makes the place's logins members of the role.
func (s *session) admit(ctx context.Context) error {
	if len(s.place.Logins) == 0 {
		return nil
	}
	var version int
	if err := s.QueryRow(ctx, `select current_setting('server_version_num')::integer`).Scan(&version); err != nil {
		return err
	}
	sql := "grant " + quote(s.place.Role) + " to " + quoteAll(s.place.Logins, "")
	if version >= inheritOptionVersion {
		sql += " with inherit false, set true"
	}
	return s.run(ctx, sql)
}

// expel takes the role from the place's logins. Transactions that have taken it on keep it until they end.
func (s *session) expel(ctx context.Context) error {
	if len(s.place.Logins) == 0 {
		return nil
	}
	return s.run(ctx, "revoke "+quote(s.place.Role)+" from "+quoteAll(s.place.Logins, ""))
}

// hold keeps writers away from the source. If those that are at it do not end in time, everybody goes on, and it is tried again later.
func (m *mover) hold(ctx context.Context) error {
	for try := 1; ; try++ {
		if err := m.keeper.shoo(ctx); err != nil {
			return err
		}
		if err := m.step(ctx, StepHold, func(ctx context.Context) error { return m.keeper.expel(ctx) }); err != nil {
			return err
		}
		err := m.step(ctx, StepLock, m.lock)
		if !errors.Is(err, ErrHeld) {
			return err
		}
		if err := m.keeper.admit(ctx); err != nil {
			return err
		}
		m.Logger.WarnContext(ctx, "a hold was given up", slog.String("schema", m.Source.Schema), slog.Int("try", try), slog.Any("error", err))
		if try >= m.HoldTries {
			return err
		}
		err = m.step(ctx, StepCatchUp, func(ctx context.Context) error {
			if err := wait(ctx, m.HoldTime); err != nil {
				return err
			}
			return m.rounds(ctx)
		})
		if err != nil {
			return err
		}
	}
}

// lock begins the transaction that holds all tables of the source.
func (m *mover) lock(ctx context.Context) error {
	return m.source.snapshot(ctx, m.tables, "share", m.HoldTime)
}

// fence renames the schema, so that no name leads there, and what notes the changes, so that the triggers refuse them: what has looked
// up a table before, and waits for it, or does so later by way of a view, a partitioned table or a function, asks for no name any more.
// The locks must have been held until then. Sequences know no locks, and definitions may have been changed by who asks for none.
func (m *mover) fence(ctx context.Context) error {
	schema := m.Source.Schema
	old := OldSchema(schema)
	if err := m.keeper.run(ctx, renameSQL(schema, old), renameSQL(CaptureSchema(schema), FenceSchema(schema))); err != nil {
		return err
	}
	if err := m.source.run(ctx, "select 1"); err != nil {
		return err
	}
	now, err := m.keeper.fingerprint(ctx, old)
	if err == nil && now != m.fingerprint {
		err = fmt.Errorf("%w: definitions, or large objects, have changed since the move began", ErrBusy)
	}
	if err != nil {
		return err
	}
	sequences, err := m.keeper.sequences(ctx, old)
	if err != nil {
		return err
	}
	return m.target.setSequences(ctx, sequences)
}

func renameSQL(from, to string) string {
	return "alter schema " + quote(from) + " rename to " + quote(to)
}

// rename renames a schema if it is there under the old name.
func (s *session) rename(ctx context.Context, from, to string) error {
	there, err := s.hasSchema(ctx, from)
	if err != nil || !there {
		return err
	}
	return s.run(ctx, renameSQL(from, to))
}

// Abort makes the source what it was before a move that was broken off, and serves the tenant there. It may be called when nothing is to be
// done, and again after an error. It must not be called once Switch has taken effect. The error is ErrBusy if the move, or what the
// server still does for it, has not ended.
func (m Move) Abort(ctx context.Context) error {
	if err := m.Source.validate(); err != nil {
		return err
	}
	s, err := m.Source.connect(ctx)
	if err != nil {
		return fmt.Errorf("abort: %w", err)
	}
	defer s.close()
	if err := s.seize(ctx); err != nil {
		return fmt.Errorf("abort: %w", err)
	}
	for from, to := range map[string]string{
		FenceSchema(m.Source.Schema): CaptureSchema(m.Source.Schema), OldSchema(m.Source.Schema): m.Source.Schema,
	} {
		if err := s.rename(ctx, from, to); err != nil {
			return fmt.Errorf("abort: %w", err)
		}
	}
	if err := s.admit(ctx); err != nil {
		return fmt.Errorf("abort: %w", err)
	}
	if err := s.removeCapture(ctx, CaptureSchema(m.Source.Schema)); err != nil {
		return fmt.Errorf("abort: %w", err)
	}
	return nil
}

// Finish does what is left to do when Switch has taken effect. It may be called when nothing is to be done, and again after an error. The
// tenant is served at the target meanwhile, if Run came that far. The error is ErrBusy as for Abort.
func (m Move) Finish(ctx context.Context) error {
	m = m.withDefaults()
	if err := errors.Join(m.Source.validate(), m.Target.validate()); err != nil {
		return err
	}
	mv := &mover{Move: m}
	defer mv.close()
	var err error
	if mv.keeper, err = m.Source.connect(ctx); err != nil {
		return fmt.Errorf("finish: %w", err)
	}
	if mv.target, err = m.Target.connect(ctx); err != nil {
		return fmt.Errorf("finish: %w", err)
	}
	if err := mv.keeper.seize(ctx); err != nil && !errors.Is(err, migrate.ErrSchemaMissing) { // the old copy was dropped
		return fmt.Errorf("finish: %w", err)
	}
	return mv.finish(ctx)
}

func (m *mover) finish(ctx context.Context) error {
	return m.step(ctx, StepFinish, func(ctx context.Context) error {
		if m.source != nil {
			// Its work is done, and it holds the tables.
			if err := m.source.rollback(ctx); err != nil {
				return err
			}
		}
		return m.validateKeys(ctx)
	})
}

// Release takes away what keeps the old copy of a move that is finished from being changed, so that it can be dropped. It may be called
// when nothing is to be done, and again after an error.
func (p Place) Release(ctx context.Context) error {
	if err := p.validate(); err != nil {
		return err
	}
	s, err := p.connect(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	return s.removeCapture(ctx, FenceSchema(p.Schema))
}

// validateKeys validates at the target the foreign keys that are valid at the source.
func (m *mover) validateKeys(ctx context.Context) error {
	const query = `select format('alter table %I.%I validate constraint %I', $2::text, relname, conname)
		from pg_constraint c join pg_class r on r.oid = conrelid join pg_namespace n on n.oid = relnamespace
		where contype = 'f' and conparentid = 0 and convalidated = $3 and nspname = $1 order by 1`
	read := func(s *session, schema string, valid bool) ([]string, error) {
		rows, err := s.Query(ctx, query, schema, m.Target.Schema, valid)
		if err != nil {
			return nil, err
		}
		return pgx.CollectRows(rows, pgx.RowTo[string])
	}
	valid, err := read(m.keeper, OldSchema(m.Source.Schema), true)
	if err != nil {
		return err
	}
	open, err := read(m.target, m.Target.Schema, false)
	if err != nil {
		return err
	}
	for _, sql := range open {
		if slices.Contains(valid, sql) {
			if err := m.target.contend(ctx, sql); err != nil {
				return fmt.Errorf("validate a foreign key: %w", err)
			}
		}
	}
	return nil
}
