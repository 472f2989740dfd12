// Package tenant holds the words the rest of Leasehold speaks: what a tenant is, where it is housed, what state it is
// in, how its name is spelled, and how it travels in a context.
//
// It is a leaf: it imports the standard library only, so that an HTTP handler, a job or a test can depend on it without
// pulling in a database driver.
//
// # Guarantees
//
//   - There is no default tenant. [FromContext] on a context that carries none is [ErrNoTenant], never an empty value.
//   - A [Slug], a schema name and a role name that passed their parser hold nothing but characters that need no quoting
//     in SQL, in a URL or in a host name. The same rules stand as CHECK constraints in the registry.
//   - Two different tenants never share a schema or a role name: both are made of the tenant's id (see [NewPlacement]).
//
// # Not guaranteed
//
// A *Tenant is a snapshot of the registry's row. It may be older than the row by as much as the directory's cache allows.
// It must not be changed once it is shared; every field is for reading.
//
// # Use
//
//	ctx = tenant.NewContext(ctx, t)      // the middleware does this
//	…
//	t, err := tenant.FromContext(ctx)    // errors.Is(err, tenant.ErrNoTenant) when there is none
//	if err != nil {
//		return err
//	}
//	log.Printf("invoice for %s (%s)", t.Company, t.Slug)
package tenant
