// Package migrate brings the schema of every tenant to the state that a folder of dbmate files describes, and says of each
// tenant how far it is. The registry's own schema goes the same way.
//
// The engine is dbmate's, as a library; its ledger is dbmate's too: the table schema_migrations in the schema that is
// migrated, so that dbmate's command line works on any tenant. What dbmate lacks is added here: a lock, a context, checks of
// the files before anything runs, many targets, and errors that name the tenant, the file, the statement and the cause.
//
// # Guarantees
//
//   - Every file is checked before the first statement is sent (see [Load]): what dbmate would skip, lose or run twice is
//     refused, and so is what would change where a file runs: SET search_path, SET ROLE, transaction control.
//   - One session does everything for one target: it checks that the schema exists (a schema is never created), sets
//     search_path to that schema alone, takes an advisory lock on (database, schema), migrates, and is closed. Any number of
//     runners on any number of machines may work on the same targets; each file is applied once. Targets share a session, one after
//     the other, only where plain DDL has run in it, and then it forgets the one before.
//   - A file is recorded in the same transaction that ran it, and only if search_path, role and session are still those that
//     the session began with; otherwise the file is rolled back.
//   - Nobody but its owner has rights on the ledger: what default privileges or a file granted on it is revoked, with the file if the
//     word stands in it, or else by the next run.
//   - A target that fails leaves the others alone. Running again goes on where the last run stopped.
//   - Each file finds the session as the first one found it, so that a tenant that gets its files at one go is what one is that
//     had them one by one.
//   - When the context ends, the statement in flight is cancelled on the server, its file is rolled back, and no session stays
//     behind.
//
// # Limits
//
//   - A file with transaction:false holds one statement and cannot be rolled back. If it succeeds and the ledger then cannot
//     be written, it runs again the next time. A failed CREATE INDEX CONCURRENTLY leaves an invalid index to be dropped.
//   - The lock binds the users of this package. dbmate's own command line takes none.
//   - A direct connection is needed. A pooler is refused ([ErrPooler]), in session mode too.
//   - A file runs as the owner of the schemas, of all of them. Load refuses to create, change or fill what lies in a schema that is
//     named, but does not see what functions, blocks and views name.
//   - The static checks do not look into function bodies and DO blocks. A path that is changed there and not put back is
//     noticed when the file is recorded.
//
// # Use
//
//	set, err := migrate.Load(migrations.FS, "tenant")
//	if err != nil {
//		return err // every problem of every file, with its line
//	}
//	m := migrate.New(set, migrate.Config{Logger: logger})
//	report, err := m.Up(ctx, targets, func(r migrate.Result) { fmt.Println(r.Target, r.Applied, r.Err) })
//	var failed *migrate.FailedError
//	if errors.As(err, &failed) {
//		return fmt.Errorf("%d applied, %w", len(report.Applied), failed)
//	}
package migrate
