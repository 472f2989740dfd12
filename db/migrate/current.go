package migrate

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// Standing is where a schema stands, seen from a Migrator's files.
type Standing string

// The ways a schema can stand.
const (
	// Current means that all files are applied, as they are now, and nothing else is.
	Current Standing = "current"
	// Behind means that files are missing, and that no more is known to be wrong. Apply helps.
	Behind Standing = "behind"
	// Ahead means that versions are applied which no file has: a newer program was here, or a file was removed.
	Ahead Standing = "ahead"
	// Changed means that a file is not what it was when its version was applied, or that the schema has versions which no file has and
	// lacks others: the files were not added to, but changed.
	Changed Standing = "changed"
	// Busy means that a Migrator is at work on the schema.
	Busy Standing = "busy"
	// Missing means that there is no such schema.
	Missing Standing = "missing"
)

// Standing tells where a schema of the database of tx stands. Unless the answer is Busy, no Migrator begins to work on the schema
// before tx ends, so that the answer stays true until then. It waits for nobody and takes two round trips.
//
// The transaction must be at READ COMMITTED, and its role must be able to read the ledger. After an error it can only be rolled
// back.
func (m *Migrator) Standing(ctx context.Context, tx pgx.Tx, schema string) (Standing, error) {
	var (
		free, exists bool
		state        ledgerState
	)
	batch := &pgx.Batch{}
	batch.Queue(`select pg_try_advisory_xact_lock($1)`, lockKey(schema)).QueryRow(func(row pgx.Row) error { return row.Scan(&free) })
	batch.Queue(findLedger(schema)).QueryRow(func(row pgx.Row) error {
		err := row.Scan(&state.exists, &state.exposed, &state.sums)
		exists = err == nil
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		return err
	})
	err := tx.SendBatch(ctx, batch).Close()
	switch {
	case err != nil:
		return "", fmt.Errorf("look for the ledger of %q: %w", schema, err)
	case !free:
		return Busy, nil
	case !exists:
		return Missing, nil
	case !state.exists:
		return m.set.standing(nil), nil
	}
	// The second statement sees what was committed before the lock was had.
	sum := "null::bytea"
	if state.sums {
		sum = "checksum"
	}
	table := pgx.Identifier{schema, ledgerName}.Sanitize()
	rows, err := tx.Query(ctx, "select version, "+sum+" from "+table)
	if err != nil {
		return "", fmt.Errorf("read %s: %w", table, err)
	}
	ledger := map[string][]byte{}
	var (
		version  string
		checksum []byte
	)
	if _, err := pgx.ForEachRow(rows, []any{&version, &checksum}, func() error {
		ledger[version] = checksum
		return nil
	}); err != nil {
		return "", fmt.Errorf("read %s: %w", table, err)
	}
	return m.set.standing(ledger), nil
}

// standing compares the files with a ledger: versions with the checksums of what was applied, nil where that is not known.
func (s *Set) standing(ledger map[string][]byte) Standing {
	known := 0
	for _, f := range s.files {
		checksum, applied := ledger[f.Version]
		if applied {
			known++
		}
		if checksum != nil && !bytes.Equal(checksum, f.checksum[:]) {
			return Changed
		}
	}
	switch {
	case known < len(ledger) && known < len(s.files): // no newer program lacks what this one has
		return Changed
	case known < len(ledger):
		return Ahead
	case known < len(s.files):
		return Behind
	}
	return Current
}
