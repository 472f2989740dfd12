package tenanttest_test

import (
	"context"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/db/migrations"
	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/db/tenantdb"
	"github.com/leasehold-go/leasehold/db/tenanttest"
	"github.com/leasehold-go/leasehold/internal/tenantsql"
)

// This is how the tests of a program read that has its queries in tenantsql, made by sqlc, and its migrations in a folder:
// tenants to try things on, and the suite on the program's own queries.
func TestInvoicingIsIsolated(t *testing.T) {
	t.Parallel()
	for _, strategy := range []tenant.Strategy{tenant.SchemaStrategy, tenant.DatabaseStrategy} {
		t.Run(string(strategy), func(t *testing.T) {
			t.Parallel()
			invoicingIsIsolated(t, tenanttest.New(t, tenanttest.Config{
				Migrations: migrations.FS, Dir: "tenant", Strategy: strategy,
				DB: tenantdb.Config{MaxConns: 4, MaxDatabaseConns: 4, MaxConnsPerDatabase: 4},
			}))
		})
	}
}

func invoicingIsIsolated(t *testing.T, fleet *tenanttest.Fleet) {
	t.Helper()
	target := tenanttest.Target[tenantsql.DBTX]{
		Tenants: fleet.Tenants,
		Conns:   4,
		Rounds:  6,
		Run: func(ctx context.Context, tn *tenant.Tenant, fn func(context.Context, tenantsql.DBTX) error) error {
			return fn(tenant.NewContext(ctx, tn), fleet.DB)
		},
		NoTenant: func(ctx context.Context, fn func(context.Context, tenantsql.DBTX) error) error {
			return fn(ctx, fleet.DB)
		},
		Mark: func(ctx context.Context, db tenantsql.DBTX, mark string) error {
			_, err := tenantsql.New(db).CreateCustomer(ctx, tenantsql.CreateCustomerParams{Name: mark, Email: "a@example.com"})
			return err
		},
		Marks: func(ctx context.Context, db tenantsql.DBTX) (marks []string, err error) {
			customers, err := tenantsql.New(db).ListCustomers(ctx, tenantsql.ListCustomersParams{PageSize: 10_000})
			for _, c := range customers {
				marks = append(marks, c.Name)
			}
			return marks, err
		},
		Get: func(ctx context.Context, db tenantsql.DBTX, key int64) (string, error) {
			c, err := tenantsql.New(db).GetCustomer(ctx, key)
			return c.Name, err
		},
		// An invoice of nobody violates a foreign key that is checked at the end of the transaction.
		Fail: func(ctx context.Context, db tenantsql.DBTX) error {
			_, err := tenantsql.New(db).CreateInvoice(ctx, tenantsql.CreateInvoiceParams{CustomerID: -1, Currency: "EUR"})
			return err
		},
	}
	t.Run("request", func(t *testing.T) { tenanttest.Isolation(t, target) })

	target.NoTenant = nil
	target.Run = func(ctx context.Context, tn *tenant.Tenant, fn func(context.Context, tenantsql.DBTX) error) error {
		return fleet.DB.InTx(tenant.NewContext(ctx, tn), func(tx pgx.Tx) error { return fn(ctx, tx) })
	}
	// COPY is how this program imports.
	target.Mark = func(ctx context.Context, db tenantsql.DBTX, mark string) error {
		n, err := tenantsql.New(db).ImportCustomers(ctx, []tenantsql.ImportCustomersParams{{Name: mark, Email: "a@example.com"}})
		if err == nil && n != 1 {
			err = errors.New("nothing was imported")
		}
		return err
	}
	t.Run("import", func(t *testing.T) { tenanttest.Isolation(t, target) })
}
