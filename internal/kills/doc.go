// Command kills proves that migrations which are killed converge: it kills a process that migrates a small fleet, with SIGKILL, at
// every boundary between the process and the server, runs again, and checks every tenant.
//
//	go run ./internal/kills                  // 1000 kills, on a server of its own, on 127.0.0.1, gone when it ends
//	go run ./internal/kills -kills 100 -seed 7 -workers 1
//
// # What is done
//
// Three tenants have the files of the folder product, which hold tables and types, data files that may not run twice, a new value of
// an enum, indexes that are made and dropped concurrently, a constraint that is checked at the commit, a trigger. A round is one
// way: migrate.Up from nothing, or migrate.Rollback of the last seven of the nine files. Before each way up the fleet is made anew.
// On the way the program starts itself as another process, which counts what it writes to and reads from the server over all its
// connections. At the N-th boundary, before or after a write or a read, it kills itself. First N goes once through all boundaries
// that a run has which nobody kills, one a round, in an order in which few are spread as evenly as many; then it is random.
//
// Only the first process of a round is told to roll back the last seven. Who comes after it is told the file that is to be the last
// one left: the last seven of what it finds may be others.
//
// One round in six goes on with more kills before the run that nobody kills: another process at a random boundary; two processes
// at once on the same fleet; or one that is killed while its CONCURRENTLY waits for a transaction that this program keeps open. The
// server goes on with the statement of a client that has died and holds its lock that long, so the next run meets it. At times
// these sessions are ended first, as they are when the server's machine goes down too: this is what leaves invalid indexes.
//
// # What is checked
//
// Every run that is not killed must end without an error within a minute. After the last run of a round:
//
//   - The ledger of each tenant holds the versions that it should, with the checksums of the files, and nobody but its owner has
//     rights on it.
//   - Each file that runs in a transaction ran exactly once: it adds a row to a table and one to a counter there.
//   - Every index is valid, and the catalogue is the same as in a tenant that was migrated without a kill.
//   - The sessions and the advisory locks of the dead are gone within 20 seconds, and those of the last run.
//
// # What is not
//
// A file with transaction:false may run twice: the process may end between its statement and its record in the ledger. That is
// why only statements are let through which may be repeated, and why such a file keeps no count here. Whether it ran once or twice,
// the schema must be the same.
//
// The server is not killed. With one seed the rounds and the boundaries are the same, as long as a run has as many boundaries; what
// the server has done by the time of a kill, and which worker comes to the N-th boundary, is up to the machine. With -workers 1 it
// is nearly the same each time.
//
// The report goes to stdout, progress to stderr. The exit status is 0 if there was no fault, 1 if there was, 2 for a wrong flag.
package main
