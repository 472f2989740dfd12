package transfer

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"
)

const (
	// copyWorkers is how many tables are copied at a time.
	copyWorkers = 2
	// copyBuffer is how many bytes are handed on at a time.
	copyBuffer = 1 << 16
)

// stream sends what a COPY TO at one place reads into a COPY FROM at the other, as text: the binary form of arrays and composite
// values holds numbers of types, which the two databases do not share.
func stream(ctx context.Context, from *session, read string, to *session, write string) (rows int64, err error) {
	pr, pw := io.Pipe()
	read, write = "copy "+read+" to stdout", "copy "+write+" from stdin"
	done := make(chan error, 1)
	go func() {
		buffer := bufio.NewWriterSize(pw, copyBuffer)
		_, err := from.PgConn().CopyTo(ctx, buffer, read)
		err = errors.Join(err, buffer.Flush())
		_ = pw.CloseWithError(err)
		done <- err
	}()
	tag, err := to.PgConn().CopyFrom(ctx, pr, write)
	_ = pr.CloseWithError(errStopped)
	readErr := <-done
	switch {
	case err == nil:
		return tag.RowsAffected(), readErr
	case readErr == nil || errors.Is(readErr, errStopped):
		return 0, err
	default:
		return 0, errors.Join(readErr, err)
	}
}

// errStopped ends the reading of what cannot be written.
var errStopped = errors.New("the other side has stopped")

// snapshot begins a transaction at the source with one view of all tables, which nobody can empty or change meanwhile. It tries for as
// long as patience; then the error is ErrHeld. It never waits for one table while it has locked another.
func (s *session) snapshot(ctx context.Context, tables []table, mode string, patience time.Duration) error {
	var lost error
	err := poll(ctx, patience, func() (bool, error) {
		lost = s.trySnapshot(ctx, tables, mode)
		if notNow(lost) {
			return false, s.shoo(ctx)
		}
		return true, lost
	})
	if err == nil && lost != nil {
		err = fmt.Errorf("%w: within %s: %w", ErrHeld, patience, lost)
	}
	return err
}

// trySnapshot takes the locks before the snapshot, which does not see a TRUNCATE.
func (s *session) trySnapshot(ctx context.Context, tables []table, mode string) error {
	if err := s.run(ctx, "begin isolation level repeatable read"); err != nil {
		return err
	}
	err := s.lockTables(ctx, tables, mode+" mode nowait")
	if err == nil {
		err = s.run(ctx, "select 1") // this takes the snapshot
	}
	if err != nil {
		return errors.Join(err, s.rollback(ctx))
	}
	return nil
}

// rollback ends a transaction, also after the context has ended.
func (s *session) rollback(ctx context.Context) error {
	if s.IsClosed() || s.PgConn().TxStatus() == 'I' {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	return s.run(ctx, "rollback")
}

// copyAll copies all tables as they are in one snapshot.
func (m *mover) copyAll(ctx context.Context) error {
	if err := m.source.snapshot(ctx, m.tables, "access share", tablePatience); err != nil {
		return err
	}
	var id string
	err := m.source.QueryRow(ctx, `select pg_export_snapshot()`).Scan(&id)
	if err == nil {
		err = m.capture.forget(ctx, m.source)
	}
	if err != nil {
		return errors.Join(err, m.source.rollback(ctx))
	}
	work := make(chan table)
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() error {
		defer close(work)
		for _, t := range m.tables {
			select {
			case work <- t:
			case <-groupCtx.Done():
				return groupCtx.Err()
			}
		}
		return nil
	})
	for range min(copyWorkers, len(m.tables)) {
		group.Go(func() error { return m.copyTables(groupCtx, id, work) })
	}
	if err := group.Wait(); err != nil {
		return errors.Join(err, m.source.rollback(ctx))
	}
	return m.source.run(ctx, "commit")
}

// copyTables copies tables in sessions of its own, as they are in the snapshot.
func (m *mover) copyTables(ctx context.Context, snapshot string, work <-chan table) error {
	from, err := m.Source.connect(ctx)
	if err != nil {
		return err
	}
	defer from.close()
	to, err := m.Target.connect(ctx)
	if err != nil {
		return err
	}
	defer to.close()
	if err := from.run(ctx, "begin isolation level repeatable read read only", "set transaction snapshot '"+snapshot+"'"); err != nil {
		return err
	}
	for t := range work {
		rows, err := stream(ctx, from, m.Source.name(t.name)+t.list(), to, m.Target.name(t.name)+t.list())
		if err != nil {
			return fmt.Errorf("copy %s: %w", t.name, err)
		}
		m.report(Progress{Step: StepCopy, Table: t.name, Rows: rows})
	}
	return nil
}

// A round carries over what has changed since the one before.
type round struct {
	*mover
	// changed holds, by the place of a table in the list, how many notes there are on it; whole the tables that are to be copied anew.
	changed map[int]int64
	whole   map[int]bool
	rows    int64
}

// catchUp makes the target what the source is now, in one transaction at each side, and compares what it has carried. With last the
// transaction at the source has begun already, and stays open, with its locks.
func (m *mover) catchUp(ctx context.Context, last bool, extra func(context.Context) error) (rows int64, err error) {
	if !last {
		if err := m.source.snapshot(ctx, m.tables, "access share", tablePatience); err != nil {
			return 0, err
		}
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.target.rollback(ctx), m.source.rollback(ctx))
		}
	}()
	r := &round{mover: m, changed: map[int]int64{}, whole: map[int]bool{}}
	if err := r.look(ctx); err != nil {
		return 0, err
	}
	if err := m.target.run(ctx, "begin"); err != nil {
		return 0, err
	}
	for _, step := range []func(context.Context) error{r.clear, r.carry, r.compare, r.forget, extra} {
		if step == nil {
			continue
		}
		if err := step(ctx); err != nil {
			return 0, err
		}
	}
	// The target first: what is noted at the source is carried over again if it is not known to have arrived.
	if err := m.target.run(ctx, "commit"); err != nil {
		return 0, err
	}
	if !last {
		err = m.source.run(ctx, "commit")
	}
	return r.rows, err
}

// look finds out what has changed.
func (r *round) look(ctx context.Context) error {
	rows, err := r.source.Query(ctx, "select distinct n from "+r.capture.marks())
	if err != nil {
		return err
	}
	marked, err := pgx.CollectRows(rows, pgx.RowTo[int])
	if err != nil {
		return err
	}
	for _, i := range marked {
		r.whole[i] = true
	}
	batch := &pgx.Batch{}
	for i, t := range r.tables {
		if t.noted() == "" {
			continue
		}
		batch.Queue("select count(*) from " + r.capture.log(i)).QueryRow(func(row pgx.Row) error {
			var n int64
			err := row.Scan(&n)
			if n > 0 {
				r.changed[i] = n
				r.rows += n
			}
			return err
		})
	}
	if batch.Len() == 0 {
		return nil
	}
	return r.source.SendBatch(ctx, batch).Close()
}

// staged is the name of the table at the target that holds the notes on the i-th table.
func staged(i int) string { return fmt.Sprintf("pg_temp.leasehold_log_%d", i) }

// clear takes away at the target all rows that have changed, before new ones come that may have their unique values.
func (r *round) clear(ctx context.Context) error {
	for i := range r.whole {
		if err := r.target.run(ctx, "truncate only "+r.Target.name(r.tables[i].name)); err != nil {
			return err
		}
	}
	for i := range r.changed {
		if r.whole[i] {
			continue
		}
		t := r.tables[i]
		temporary := strings.TrimPrefix(staged(i), "pg_temp.")
		if err := r.target.run(ctx, "create temporary table "+temporary+" on commit drop as "+t.notes(r.Target)); err != nil {
			return err
		}
		notes := r.capture.log(i)
		if len(t.key) > 0 {
			notes = "(select distinct " + t.noted() + " from " + notes + ")"
		}
		if _, err := stream(ctx, r.source, notes, r.target, staged(i)); err != nil {
			return fmt.Errorf("carry what has changed in %s: %w", t.name, err)
		}
		statements := []string{"analyze " + staged(i)}
		if len(t.key) > 0 {
			statements = append(statements, "delete from only "+r.Target.name(t.name)+" as leasehold_row using "+staged(i)+" as leasehold_key where "+t.sameKey())
		}
		if err := r.target.run(ctx, statements...); err != nil {
			return err
		}
	}
	return nil
}

// carry brings the rows as they are now.
func (r *round) carry(ctx context.Context) error {
	for i, t := range r.tables {
		var from string
		switch {
		case r.whole[i]:
			from = r.Source.name(t.name) + t.list()
		case r.changed[i] == 0:
			continue
		case len(t.key) == 0:
			if err := r.repeat(ctx, i, t); err != nil {
				return fmt.Errorf("carry %s: %w", t.name, err)
			}
			continue
		default:
			from = "(select " + quoteAll(t.columns, "leasehold_row.") + " from only " + r.Source.name(t.name) + " as leasehold_row join (select distinct * from " +
				r.capture.log(i) + ") as leasehold_key on " + t.sameKey() + ")"
		}
		rows, err := stream(ctx, r.source, from, r.target, r.Target.name(t.name)+t.list())
		if err != nil {
			return fmt.Errorf("carry %s: %w", t.name, err)
		}
		if r.whole[i] {
			r.rows += rows
		}
	}
	return nil
}

// repeat does to a table without a key what was noted: it adds all rows that were added, and then removes one like each that was
// removed. Which of several rows that are alike makes no difference.
func (r *round) repeat(ctx context.Context, i int, t table) error {
	name, columns := r.Target.name(t.name), quoteAll(t.columns, "")
	if err := r.target.run(ctx, "insert into "+name+" ("+columns+") overriding system value select "+columns+" from "+staged(i)+" where "+added); err != nil {
		return err
	}
	var gone int64
	if err := r.target.QueryRow(ctx, "select count(*) from "+staged(i)+" where not "+added).Scan(&gone); err != nil || gone == 0 {
		return err
	}
	text := func(prefix string) string { return "(row(" + quoteAll(t.columns, prefix) + ")::text collate \"C\")" }
	tag, err := r.target.Exec(ctx, "with gone as (select "+text("")+" as like_it, count(*) as many from "+staged(i)+" where not "+added+" group by 1), "+
		"found as (select leasehold_row.ctid as place, row_number() over (partition by gone.like_it) as nth, gone.many from only "+name+
		" as leasehold_row join gone on gone.like_it = "+text("leasehold_row.")+") "+
		"delete from only "+name+" as leasehold_row using found where leasehold_row.ctid = found.place and found.nth <= found.many")
	if err == nil && tag.RowsAffected() != gone {
		err = fmt.Errorf("%w: of %d rows that were removed %d are there", ErrDiffers, gone, tag.RowsAffected())
	}
	return err
}

// compare compares what was carried. Of a table without a key these are the notes.
func (r *round) compare(ctx context.Context) error {
	for i, t := range r.tables {
		var err error
		switch {
		case r.whole[i]:
			err = r.compareTable(ctx, t)
		case r.changed[i] == 0:
		case len(t.key) > 0:
			err = r.compareSums(ctx, t, t.rowsWith(r.Source, r.capture.log(i)), t.rowsWith(r.Target, staged(i)))
		default:
			err = r.compareSums(ctx, t, r.capture.log(i)+" as leasehold_row", staged(i)+" as leasehold_row")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// compareTable compares all rows of a table.
func (m *mover) compareTable(ctx context.Context, t table) error {
	return m.compareSums(ctx, t, t.rows(m.Source), t.rows(m.Target))
}

// compareSums compares rows of the two sides.
func (m *mover) compareSums(ctx context.Context, t table, atSource, atTarget string) error {
	var want, have Sum
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() (err error) {
		want, err = m.source.sum(ctx, t, atSource)
		return err
	})
	group.Go(func() (err error) {
		have, err = m.target.sum(ctx, t, atTarget)
		return err
	})
	if err := group.Wait(); err != nil {
		return err
	}
	return differs(t.name, want, have)
}

func differs(table string, want, have Sum) error {
	if want == have {
		return nil
	}
	return fmt.Errorf("%w: table %s has %d rows with the checksum %s, want %d with %s", ErrDiffers, table, have.Rows, have.Checksum, want.Rows, want.Checksum)
}

// forget takes what was carried out of the notes. It becomes true only with the transaction at the source.
func (r *round) forget(ctx context.Context) error {
	for i := range r.changed {
		if err := r.source.run(ctx, "delete from "+r.capture.log(i)); err != nil {
			return err
		}
	}
	for i := range r.whole {
		if err := r.source.run(ctx, fmt.Sprintf("delete from %s where n = %d", r.capture.marks(), i)); err != nil {
			return err
		}
	}
	return nil
}
