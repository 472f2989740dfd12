// Package fleet builds a database with many tenants in it, quickly, for benchmarks and load tests.
//
// # Guarantees
//
//   - Every tenant has the same tables with the same ids, 1 to [Config.Rows], so that a call that strays finds a row, and every
//     row says in its column owner whose it is: the tenant's slug. A reader that compares the two sees each stray.
//   - Every tenant has an enum of its own, of the same name as everybody's, with one label that nobody else has.
//   - The runtime logins are what tenantdb.Open demands: NOINHERIT, an empty search_path, no rights of their own.
//   - Nothing is shared between two fleets of one database or one server: names are made of new random ids.
//   - A tenant with a database of its own has a login of its own, which can connect nowhere else.
//   - After an error of [Build] nothing is left, as long as the server can still be reached.
//
// # Not guaranteed
//
// The tenants are in no registry, and no migration has made them. The password of the logins is the same everywhere and no
// secret: build fleets only on servers that listen on 127.0.0.1. PUBLIC loses CONNECT and TEMPORARY on the database and
// every right on its schema public, and does not get them back.
//
// # What a tenant has
//
//	items(id int PRIMARY KEY, owner text, mood mood, qty int, parent int REFERENCES items DEFERRABLE INITIALLY DEFERRED)
//	items_2 … items_n, of the same shape, with an index on (owner, qty)
//
// # Use
//
//	f, err := fleet.Build(ctx, fleet.Config{AdminURL: url, Tenants: 1000})
//	if err != nil {
//		return err
//	}
//	defer f.Drop(cleanupCtx)                                   // if the server outlives the test
//	db, err := tenantdb.Open(ctx, tenantdb.Config{ConnConfig: f.Runtime()})
//	…
//	var owner string
//	err = db.For(f.Tenants[7]).QueryRow(ctx, "SELECT owner FROM items WHERE id = $1", 3).Scan(&owner)
//	// owner is string(f.Tenants[7].Slug), or somebody else was read
package fleet
