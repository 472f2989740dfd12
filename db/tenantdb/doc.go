// Package tenantdb runs every query inside one tenant. A [DB] has the methods that sqlc's generated code asks for (its DBTX
// interface), takes the tenant from the context, and holds each call to that tenant's schema and role.
//
// # Guarantees
//
//   - No tenant, no query: a call whose context carries no tenant returns [tenant.ErrNoTenant] before a connection is taken
//     or a byte is sent. There is no default tenant and no way to run a statement outside a scope.
//   - One flight: a call sends its scope and its query together, before one Sync, in one write and one round trip. All
//     that stands before a Sync is one implicit transaction, and the scope is local to it. It holds for the query and is gone
//     with it, on success, on error and on cancel. Nothing has to be reset, so nothing can be forgotten.
//   - A missing schema fails the flight before the query runs ([ErrSchemaMissing]); PostgreSQL alone would skip it silently.
//   - The base search_path of every connection is empty and its login has no rights of its own ([Open] refuses a login that
//     has): a statement that escaped its scope finds no table and may not read one.
//   - A call succeeds only when the server has confirmed its commit: the error of a deferred constraint is the call's error.
//   - Nothing that may have been executed is ever sent again. A statement is run a second time in one case only: the server
//     refused to start it because its plan or description was out of date.
//   - A connection whose state is not known (cancel, broken flight, open transaction) is closed, not used again.
//   - A tenant holds at most its share of the connections, and tenants that wait are served in turn.
//   - Tenants that share a database and tenants with a database of their own ([tenant.DatabaseStrategy]), on any number of clusters, are
//     served side by side by the same calls. A connection to a tenant's own database serves that tenant and no other. All those of a
//     cluster stand under one budget: with more databases than connections everybody is served, slower.
//   - A cluster that cannot be reached is an error of its own tenants' calls only ([ErrUnavailable]). It is tried again once in a
//     second while there are calls, and nothing has to be done when it is back.
//   - A call is one round trip, also when it is the first one of its tenant or of its connection. Two are needed when the process
//     meets a statement for the first time, and in rare cases after a migration.
//
// # Limits
//
//   - The scope is not a sandbox for hostile SQL. A statement that itself calls set_config('role', …) can take another
//     tenant's role, because the login is a member of both. The plain spellings are refused ([ErrRefused]); SQL that is put
//     together at run time inside the database is not seen. Run only SQL that you wrote. CALL and DO need a transaction, in
//     which they cannot COMMIT the scope away.
//   - State of the session that SQL leaves behind in ways that cannot be read off the statement (a function that calls
//     set_config(…, false) or takes an advisory lock, a DO block in a transaction) is found by the next tenant on the
//     connection: settings and locks, never rows. The plain spellings are refused.
//   - A pgx.QueryTracer and a pgx.QueryRewriter are given pgx's connection, because pgx says so. They must not query on it.
//   - Database-wide things have no schema: large objects, advisory locks, NOTIFY channels, pg_database.
//   - A migration that changes a column's type under a warm statement is found out by the first error that it causes. Until then
//     a parameter is encoded for the type that the column had before, as with pgx. A parameter whose type is not built in travels
//     as text.
//   - A number with a fraction is refused for an integer column, also where pgx would cut it off: what is stored is what was given.
//   - Results come in PostgreSQL's ISO forms. A function or transaction that sets DateStyle or IntervalStyle for itself may return what
//     pgx cannot read.
//   - Sessions (LISTEN, session advisory locks, SET, temporary tables) need a connection of one's own, from Acquire, and do not
//     work behind a transaction pooler.
//
// # Use
//
//	db, err := tenantdb.Open(ctx, tenantdb.Config{ConnConfig: runtimeLogin})
//	if err != nil {
//		return err
//	}
//	defer db.Close()
//
//	q := invoicing.New(db)                        // sqlc's code, unmodified
//	list, err := q.ListInvoices(r.Context())      // the tenant comes from the context
//	q = invoicing.New(db.For(t))                  // a handle bound to one tenant, for jobs
//	err = db.InTx(ctx, func(tx pgx.Tx) error {    // one tenant from BEGIN to COMMIT
//		return invoicing.New(tx).IssueInvoice(ctx, id)
//	})
//	s, err := db.Acquire(ctx)                     // a connection of one's own
//	defer s.Release()
//
// The idea of one flight was found by measuring; the method names and their contracts are those of
// github.com/jackc/pgx/v5/pgxpool.
package tenantdb
