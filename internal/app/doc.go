// Package app is the sample product that runs on Leasehold: invoicing for small companies, as a JSON API and as pages that
// need no JavaScript.
//
// [New] returns one handler for every host. Outside it stands the host middleware (db/tenanthttp), which puts the tenant
// into the request's context. A request without a tenant is for the apex: the landing page and sign-up. A request with one
// is for that company: its customers, invoices and payments.
//
// # Guarantees
//
//   - Every query runs under the request's context, and so inside the tenant that the host names; nothing in a path, a
//     query string, a header or a body chooses a tenant.
//   - An error becomes a response in one place, by one table: a status, a sentence for the client, a message per field where
//     there is one. What went wrong inside goes to the log and nowhere else.
//   - Money is whole cents (a hundredth of the currency's unit, whatever the currency), never a floating-point number.
//     Quantities are exact decimals with up to three places. A line's amount is quantity times unit price, rounded to the
//     cent half away from zero; a total is the sum of its lines' amounts.
//   - Invoice numbers have no gaps within a year. Payments never exceed what is open, however many arrive at once.
//   - A request that a browser sends from another site, a sibling subdomain included, changes nothing.
//
// # Limits
//
// There are no people yet: whoever reaches a company's host acts for it. Config.Guard is the place where sign-in goes.
// "Today" is the day in UTC. A draft cannot be edited; void it and write another.
//
// # Use
//
//	handler, err := app.New(app.Config{
//		Database:  db,        // *tenantdb.DB
//		Signup:    dir,       // *directory.Directory
//		PublicURL: func(s tenant.Slug) string { return "https://" + string(s) + ".example.com" },
//		Logger:    logger,
//	})
//	if err != nil {
//		return err
//	}
//	server := &http.Server{Handler: hosts.Handler(handler)} // hosts is a *tenanthttp.Middleware
package app
