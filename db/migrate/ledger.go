package migrate

import (
	"encoding/hex"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// ledgerName is the table that dbmate uses if nobody tells it otherwise.
const ledgerName = "schema_migrations"

// versions is the statement that reads what stands in the ledger.
func (s *session) versions(sums bool) string {
	if sums {
		return "select version, encode(checksum, 'hex') from " + s.table
	}
	return "select version, null from " + s.table
}

// keep notes what a statement of versions read.
func (s *session) keep(r *pgconn.Result) {
	s.ledger, s.checksums = make(map[string]bool, len(r.Rows)), make(map[string]string, len(r.Rows))
	for _, row := range r.Rows {
		s.ledger[string(row[0])] = true
		if row[1] != nil {
			s.checksums[string(row[0])] = string(row[1])
		}
	}
}

// foreign reports whether the ledger is that of other files, which only happen to have the same versions: no file is what it was.
func (s *session) foreign(set *Set) bool {
	known, same := 0, 0
	for _, f := range set.files {
		if sum, ok := s.checksums[f.Version]; ok {
			known++
			if sum == hex.EncodeToString(f.checksum[:]) {
				same++
			}
		}
	}
	return known > 1 && same == 0
}

// findLedger is the statement that reads the ledgerState of a schema: a row, or none if there is no such schema. It is written so that it
// never reads the entries of the other tenants' ledgers, which have the same name.
func findLedger(schema string) string {
	return `select c.oid is not null, ` + exposedExpr + `,
			exists (select from pg_catalog.pg_attribute where attrelid = c.oid and attname = 'checksum' and not attisdropped)
		from pg_catalog.pg_namespace n left join lateral (select oid, relacl, relowner from pg_catalog.pg_class
			where relnamespace = n.oid and relname = ` + literal(ledgerName) + ` offset 0) c on true
		where n.nspname = ` + literal(schema)
}

// ensureLedger creates the ledger as dbmate would, with a column for checksums besides, and takes away what default privileges gave
// to others, in one transaction.
func (s *session) ensureLedger() error {
	if s.exists && !s.exposed && s.sums {
		return nil
	}
	err := pgx.BeginFunc(s.ctx, s.conn, func(tx pgx.Tx) error {
		statement := ""
		switch {
		case !s.exists:
			statement = `create table ` + s.table + ` (version varchar primary key, checksum bytea)`
		case !s.sums:
			statement = `alter table ` + s.table + ` add column if not exists checksum bytea`
		}
		if _, err := tx.Exec(s.ctx, statement); err != nil {
			return err
		}
		return s.concealLedger()
	})
	if err != nil {
		return fmt.Errorf("prepare %s: %w", s.table, err)
	}
	s.ledgerState = ledgerState{exists: true, sums: true}
	return nil
}

// concealLedger revokes all rights on the ledger from all but its owner.
func (s *session) concealLedger() error {
	rows, err := s.conn.Query(s.ctx, `select distinct case a.grantee when 0 then 'PUBLIC' else quote_ident(pg_get_userbyid(a.grantee)) end
		from pg_catalog.pg_class c, aclexplode(c.relacl) a
		where c.relnamespace = (select oid from pg_catalog.pg_namespace where nspname = $1) and c.relname = $2 and a.grantee <> c.relowner`, s.target.Schema, ledgerName)
	if err != nil {
		return err
	}
	grantees, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	for _, grantee := range grantees {
		if _, err := s.conn.Exec(s.ctx, `revoke all on table `+s.table+` from `+grantee+` cascade`); err != nil {
			return err
		}
	}
	return nil
}

// writeLedger is the statement that records the step in hand. It is an error if the session has left its scope, so that nothing is
// recorded elsewhere or by somebody else.
func (s *session) writeLedger() string {
	f := s.steps[0]
	more := ""
	if !f.section().tame {
		more = fmt.Sprintf(` and exists (select from pg_catalog.pg_locks where locktype = 'advisory' and pid = pg_backend_pid() and granted
			and (classid::bigint << 32) | objid::bigint = %d)`, lockKey(s.target.Schema))
	}
	// Citus evaluates no setting within a CASE.
	guard := fmt.Sprintf(`1 / (current_setting('search_path') = %s and current_user::text = %s and session_user::text = %s
		and pg_backend_pid()::text = %s%s)::int = 1`,
		literal(s.scope.path), literal(s.scope.user), literal(s.scope.sessionUser), literal(s.scope.backend), more)
	if f.back {
		return "delete from " + s.table + " where version = " + literal(f.Version) + " and " + guard
	}
	return fmt.Sprintf(`insert into %s (version, checksum) select %s, %s::bytea where %s`,
		s.table, literal(f.Version), literal(`\x`+hex.EncodeToString(f.checksum[:])), guard)
}

const savepoint = "savepoint leasehold_record"

// commit records the step in hand and ends the transaction that ran it, in one round trip. It does so only if the file left the scope
// as it was, and the ledger out of the reach of others.
func (s *session) commit() error {
	statements := []string{savepoint, s.writeLedger(), "commit"}
	grants := s.steps[0].section().grants
	if grants {
		statements = statements[:2]
	}
	results, err := s.script(statements...)
	switch {
	case len(results) >= 2 && err != nil:
		return fmt.Errorf("commit: %w", err)
	case err != nil:
		if _, backErr := s.script("rollback to " + savepoint); backErr != nil {
			return fmt.Errorf("record in %s: %w", s.table, err)
		}
		return s.notRecorded(err)
	}
	if err := s.wroteOne(results[1]); err != nil || !grants {
		return err
	}
	if err := s.concealLedger(); err != nil {
		return fmt.Errorf("revoke rights on %s: %w", s.table, err)
	}
	if _, err := s.script("commit"); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	return nil
}

// record records the step in hand, which ran without a transaction.
func (s *session) record() error {
	results, err := s.script(s.writeLedger())
	if err != nil {
		return s.notRecorded(err)
	}
	if err := s.wroteOne(results[0]); err != nil || !s.steps[0].section().grants {
		return err
	}
	if err := s.concealLedger(); err != nil {
		return fmt.Errorf("revoke rights on %s: %w", s.table, err)
	}
	return nil
}

// wroteOne looks at what a statement of writeLedger did.
func (s *session) wroteOne(r *pgconn.Result) error {
	if n := r.CommandTag.RowsAffected(); n != 1 {
		return fmt.Errorf("record in %s: %d rows were changed, not 1", s.table, n)
	}
	return nil
}

// notRecorded says why a statement of writeLedger failed: because the file has left the scope, or else for what the server says.
func (s *session) notRecorded(err error) error {
	if results, lookErr := s.script("select " + scopeColumns); lookErr == nil {
		if now := newScope(results[0].Rows[0]); now != s.scope {
			return fmt.Errorf("%w: %s", ErrScopeChanged, s.scope.difference(now))
		}
	}
	return fmt.Errorf("record in %s: %w", s.table, err)
}
