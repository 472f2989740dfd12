// Command soak runs millions of operations over a thousand tenants against db/tenantdb while everything goes wrong around
// them, and checks every row that comes back and every write that was acknowledged.
//
//	go run ./internal/soak -ops 10000000          // a server of its own, on 127.0.0.1, gone when it ends
//	go run -race ./internal/soak -ops 200000      // what CI runs
//	go run ./internal/soak -ops 500000 -pooler    // through a PgBouncer in transaction mode
//
// # What goes wrong
//
// Contexts are cancelled at random moments, while the call waits for a connection and while its flight is under way; deadlines
// pass; backends are ended by pg_terminate_backend; functions panic in every place where the caller's code runs; schemas are
// renamed away and back, dropped, built anew or never; a column changes its type and changes back; statements fail, commits
// fail, transactions conflict, rows are closed before they are read, sessions are given back dirty, and calls come without a
// tenant or with two. Storms, in which connections die young, take turns with calm, in which they live and remember.
//
// # What is checked
//
//   - Every row that is read says whose it is, in its text and in the tenant's own enum. A row of another tenant is a wrong
//     row, as is a call that finds the path, the role or a setting of another.
//   - Every write is accounted for. An inserted row has an id that is given once; what was acknowledged must be there, what
//     failed must not, what was cut off may be there in whole or not at all. The same holds for increments, up to those that
//     were cut off. A tenant is audited under lock before its schema is dropped, and all of them at the end.
//   - Every error is one that had a reason: a cancel without a cancel, a missing schema while the schema stood, a stale plan
//     outside of transactions, an answer from a tenant that is not there, each is a fault.
//   - No operation loses its connection unless a backend was killed, and connections are not opened anew without a reason.
//   - At the end no connection is leased, no goroutine is left, no backend is in a transaction or holds an advisory lock, and
//     no temporary object remains.
//
// # What is not
//
// Each goroutine chooses its operations, its tenants and its cancels by the seed alone. When a cancel or a kill strikes is up to
// the machine: two runs with one seed do the same, and suffer differently.
//
// The report goes to stdout, progress to stderr. The exit status is 0 if nothing was found and the quotas of cancels and
// kills were met, 1 if not, 2 for a wrong flag.
package main
