// Package pgdump writes the schema of one tenant down as SQL, for people to review and a repository to keep.
//
// # Guarantees
//
//   - pg_dump gets no password, be it in its arguments, its environment or a file. This process opens the connection, with all
//     that its configuration says (TLS, unix sockets, several hosts, a dialer of its own), and passes it on through a unix socket
//     in a folder that nobody but its own user can enter. The socket takes one client, and goes with the call; a process that
//     is killed by force leaves the folder behind, with no secret in it.
//   - Two schemas that the same migrations made give the same bytes: neither the schema's name nor the role's is in them, nor
//     an owner, a grant, a version or anything random. The text of pg_dump differs between its own major versions, though.
//   - The dump can be loaded into an empty schema of any name, and the dump of that is the same again.
//   - When the context ends, pg_dump is killed, its statement is cancelled on the server, and nothing is left running.
//
// # Limits
//
//   - The names are replaced wherever they stand as whole words, in function bodies and comments too. Names as tenants get them
//     (tenant.NewPlacement) mean nothing else anywhere; with a schema called orders that holds a table called orders the result
//     is of no use.
//   - Grants are left out, so that the dump can be loaded where the roles are not. Nothing of other schemas is in it: extensions
//     must be there before it is loaded, and what it names there stays qualified.
//   - Unqualified names mean what they mean in a migration: what PostgreSQL itself calls the same comes first.
//   - pg_dump must not be older than the server. A session of its own is needed: a direct connection, or a pooler in session
//     mode.
//   - pg_dump waits for tables that a migration is changing, and they for it. What the ledger holds is read a moment before
//     the rest: dump a tenant that is not just being migrated.
//
// # Use
//
//	text, err := pgdump.Schema(ctx, pgdump.Config{Conn: connConfig, Schema: t.Placement.Schema, Role: t.Placement.Role})
//	if err != nil {
//		return err
//	}
//	return os.WriteFile("db/schema.sql", text, 0o644)
//
// To load it by hand: PGOPTIONS='-c search_path=some_schema,pg_temp' psql -1 -f db/schema.sql
package pgdump
