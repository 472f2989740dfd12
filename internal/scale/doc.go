// Command scale finds out what a server holds, and what becomes of a fleet of servers as it fills. docs/scaling.md has what it
// printed, and what follows from it.
//
//	go run ./internal/scale measure                      // catalogue, disk, memory, locks and times, on a server of its own
//	go run ./internal/scale simulate -tenants 1000000    // placement, fill and moves over five years
//	go run ./internal/scale simulate -h                  // what can be varied
//
// # measure
//
// It fills a registry with rows; then a server with tenants, a schema each; then another one with databases, one for each tenant;
// and measures on the way. The servers are PostgreSQL of its own, listen on 127.0.0.1, and are gone afterwards, also after
// Ctrl-C. With the defaults it takes some minutes and 4 GB in the folder for temporary files. LEASEHOLD_TEST_POSTGRES_BIN is the
// folder of the programs to run. Numbers and sizes are those of any machine with the same version of PostgreSQL. Times are
// medians on this machine, with the data in memory; the first two servers do not wait for their disk, the third does.
//
// # simulate
//
// It needs no database. Companies sign up at a growing rate, grow at different paces to sizes that are spread over many orders of
// magnitude, and leave. What the operator is assumed to do is what docs/scaling.md tells them to: servers are filled by the rule
// of db/directory, the least full first, as a part of max_tenants; a new one is added when those that take newcomers are nearly
// full; one that is short of disk or busy takes no newcomers and gives its largest tenants away; a tenant that outgrows its
// neighbours gets a database of its own; one server is emptied to be retired. The same seed gives the same run.
package main
