// Package transfer takes one tenant's data elsewhere: into a file, out of one, and, while the tenant is used, into another database. It
// knows places, which are a database, a schema and a role, and no registry.
//
// # Export and import
//
// An export is a zip file with a manifest and a dump in pg_dump's custom format, which pg_restore can read by itself. All of it is of one
// snapshot, but for sequences, whose values may be later ones. The manifest has a count and a checksum of each table's rows, and all
// rights. An import makes the same under the names of its place; where they are others, they are replaced in definitions, never in rows.
// Then all rows are compared with the manifest.
//
// # A move
//
// The steps are those of [Step]. Triggers note the keys of the rows that change (of tables without a key, the rows), then all rows are copied as they are in one snapshot,
// then what was noted is carried over again and again, each time as it is in one snapshot. So after each round the target is what the
// source was at one moment. All rows of both sides are compared once, and what is carried over later is compared as it is carried. Only
// for the last round calls are held.
//
//	                     before StepHold    held               after Switch
//	source: role         its logins have it taken from them    taken from them
//	source: tables       in use             locked (SHARE)     nobody finds them; triggers refuse changes
//	source: schema       t_…                t_…, then o_…      o_…
//	target: role         nobody has it      nobody has it      its logins have it
//
// # Guarantees
//
//   - The tenant is served at one place or at none, never at both: what is written at the source is written before the tables are
//     locked, or refused. That holds for transactions that are open all the while, for statements that wait for a lock, and for
//     functions that run with other rights: the renamed schema is found by no name, and what needs no name any more, as a view or a
//     function that was parsed before, meets a trigger that refuses the change. The triggers stay until Release.
//   - Nothing that was acknowledged is lost, whenever the process is killed or cancelled. Before the switch [Move.Abort] makes the source
//     what it was, after it [Move.Finish] does the rest; both may be called again, by any process.
//   - A table's rows are never held in memory. Two tables are copied at a time.
//   - A statement of ours that needs a lock on a table in use waits for it 300 ms at a time, or not at all. It never waits for one table
//     while it has locked another, so that it is no part of a deadlock. Autovacuum is sent away by a lock that readers and writers do not
//     mind, after deadlock_timeout.
//   - pg_dump and pg_restore get no password; see internal/pgdump.
//
// # Limits
//
//   - A call is held for as long as open transactions that write take to end, HoldTime at most, and the last round takes. Foreign keys
//     of partitioned tables are checked in it. Where rows are removed from a table that has no primary key, nor a unique index over
//     columns that are never null, the copy is searched for them in each round.
//   - A transaction that is open at the end, and has not written, is not waited for: its next statement finds no table.
//   - Not carried over: sessions and what lives in them (temporary tables, LISTEN, session locks, prepared transactions, which keep a move
//     from ending), rows in foreign tables, statistics, table spaces, security labels, publications, what other
//     roles than the place's logins are members of.
//   - Refused, by an export too: large objects of the role, an extension in the schema, casts of the schema's types, and tables,
//     views, sequences and functions that do not belong to the schema's owner. The error is errors.ErrUnsupported.
//   - A materialized view holds what it would hold if it were refreshed; it was filled before the last round.
//   - Values that hold the number of an object, such as regclass, are carried over by name, and fail where there is no such name.
//   - Extensions and roles that the schema speaks of must be there. Rows that policies would hide from the administrator are an error.
//   - Migrations wait. If definitions change all the same, a move ends with ErrBusy, and the tenant is where it was. TRUNCATE waits while a
//     move, or an export, reads, and all who use the table wait behind it. A transaction locks all tables of the schema at once; the
//     server needs room for that (max_locks_per_transaction).
//   - pg_dump must not be older than the source's server. A move to an older version of PostgreSQL may fail.
//   - Taking the role from its logins and giving it to them makes every session work out its memberships anew, once each.
//   - While a move lasts, old versions of rows cannot be vacuumed at the source, and each change writes its key once more.
//
// # Use
//
//	err := transfer.Move{Source: here, Target: there, Switch: record}.Run(ctx)
package transfer
