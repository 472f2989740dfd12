// Package tenanttest is for the tests of programs built on Leasehold. It has two halves: a suite that tries to make one
// tenant see what belongs to another, to be run on a program's own connections and queries; and tenants to run it on, in a real
// PostgreSQL that needs no set-up.
//
// # The suite
//
// [Isolation] takes a [Target]: the tenants, how the program gets at the database for one of them, and two of its own
// queries, one that writes a row with a mark and one that reads all marks. Every row says whose it is, so a row that another
// tenant sees is known at once. [Check] is the same without a *testing.T.
//
// Next to the rows it watches search_path, schema, role and database, which must be the tenant's own and never change. What it
// finds is a [*Leak], a [*Lost] row, or a [*Failure]. These are the cases, by the names that they have as subtests:
//
//   - own rows: what a tenant writes it sees, and nobody else does.
//   - no tenant: a call without a tenant gets nothing. Needs NoTenant, which is then tried in other cases too.
//   - in turn: the same statements for one tenant after the other, until caches are warm.
//   - in step: several tenants are open, and their statements alternate. Needs Conns.
//   - nested: one tenant is open inside another, under its context. Needs Conns.
//   - equal keys: the same key finds each tenant its own row. Needs Get.
//   - qualified names: the name of another's schema does not open it. Needs Reach.
//   - at once: more goroutines than connections read and write.
//   - errors: syntax, missing tables, errors among the rows, errors of fn's own, and Fail.
//   - unread results, slow results: what is closed early, and what is read while others work.
//   - batches: read, unread, and broken in the middle. Needs a D with SendBatch.
//   - panics: of fn, also between rows and after an error.
//   - cancels: before, during and after a call, while others work. Six calls in ten are hit for certain.
//   - missing tenants: those that do not exist get nothing, and disturb nobody.
//   - leftovers: SET, SET ROLE, RESET, DISCARD, temporary tables, PREPARE, cursors, LISTEN and advisory locks, refused or not, are
//     not there for the next tenant.
//   - all rows: in the end everybody has what was written, once.
//
// # Guarantees
//
//   - It fails when a tenant, or a call without a tenant, gets a marked row, a path, a role or a setting of another in one of
//     the calls that it makes. A Target that does nothing, or sees nothing, fails too.
//   - It makes a number of calls that depends on the Target alone, not on time.
//   - A call that takes longer than Target.Timeout ends the suite with a *Failure.
//
// # Limits
//
//   - It is a search for faults, and no proof that there are none. It sees what the Target's own queries see.
//   - What it cannot see is whether a connection is clean when nobody uses it. It sees what the next call finds there.
//   - It leaves its marks in the tenants, so give it tenants of a test, such as those of New.
//
// # Tenants
//
// [New] starts a PostgreSQL server that listens on 127.0.0.1 only and keeps nothing, makes a registry and tenants in it, applies
// the program's own migrations to each, and opens a tenantdb.DB as the runtime login. All of it goes when the test ends. The
// server is shared by tests that run at the same time; with [Main] in TestMain it is kept for all tests of the binary.
//
// LEASEHOLD_TEST_POSTGRES_BIN names the folder of PostgreSQL's programs (initdb, postgres). Defaults to those found on the
// machine, or else they are fetched.
//
// # Use
//
//	func TestIsolation(t *testing.T) {
//		fleet := tenanttest.New(t, tenanttest.Config{Migrations: os.DirFS("../db/migrations")})
//		tenanttest.Isolation(t, tenanttest.Target[invoicing.DBTX]{
//			Tenants: fleet.Tenants,
//			Run: func(ctx context.Context, tn *tenant.Tenant, fn func(context.Context, invoicing.DBTX) error) error {
//				return fn(tenant.NewContext(ctx, tn), fleet.DB)
//			},
//			Mark: func(ctx context.Context, db invoicing.DBTX, mark string) error {
//				return invoicing.New(db).AddCustomer(ctx, mark)
//			},
//			Marks: func(ctx context.Context, db invoicing.DBTX) ([]string, error) {
//				return invoicing.New(db).ListCustomerNames(ctx)
//			},
//		})
//	}
package tenanttest
