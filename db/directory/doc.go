// Package directory is the registry of tenants: who they are, where each one is housed, and how a new one is made. The
// registry is the schema "leasehold" of the control database. It belongs to the administrator's login; a tenant's code
// cannot reach it.
//
// # Guarantees
//
//   - A subdomain belongs to at most one living tenant. Of any number of simultaneous calls of [Directory.Create] for one
//     name one wins; the others get [ErrSlugTaken].
//   - A tenant is active only when its schema, its role and all its migrations are there. A creation that breaks off (an
//     error, a cancelled context, a lost connection, kill -9) never leaves an active tenant. What it leaves otherwise is
//     removed at once by the creator if it lives, else by the next Create of that name or by [Directory.Sweep].
//   - One runtime login is a member of a tenant's role: the one that the tenant is assigned to when it is created, the first that
//     has room. No creation gives a login more than Config.TenantsPerLogin living tenants and spares, however many run at once, so
//     that what PostgreSQL does at the next SET ROLE of each session when a member is added is bounded too.
//   - A spare is a schema with its role that was made and migrated ahead of time, for a Create to take. It is no tenant: nothing
//     lists, resolves or counts it. One tenant gets it or none, and only if it is where the migrations lead. A filler that dies
//     leaves nothing that the next does not finish or remove.
//   - Every step of a tenant's life is a line in the event log, which can only be added to.
//   - [Directory.Resolve] answers from a bounded cache, without an allocation. A change of a tenant by any process, or by
//     hand in psql, makes every Directory forget it as soon as the server's notification arrives, and no later than
//     Config.CacheTTL when it does not. A read that crosses with a change never puts the old record back.
//   - A tenant has one slug. One that it had before leads to it for a time, and nobody else can have it until then; see
//     [Directory.Rename]. A domain of its own leads to it as soon as a DNS record has shown whose it is; see
//     [Directory.VerifyDomain].
//   - A tenant that is deleted is out of service at once, and whole until its grace is over. Then [Directory.Purge] drops it, in
//     transactions that are bounded however large it is. A purge that broke off anywhere is finished by the next, and from its
//     beginning on nothing brings the tenant back. It drops nothing of anybody else.
//   - When the registry cannot be reached, tenants that were known are served for Config.Grace after their last good read.
//   - A tenant with a database of its own has a login that can connect to that database, and to none of another tenant. Nobody can
//     connect to the database before it is closed to the public.
//   - A cluster that cannot be reached is an error of its tenants only. New tenants are put on another, and what creations have left
//     there is removed when it is back. No cluster gets more tenants than it may have, however many sign up at once.
//   - Passwords are derived from Config.SecretKey, or random and encrypted with it (AES-256-GCM) in the registry, as the URLs of
//     clusters are. Servers get SCRAM verifiers only. So passwords are in no statement, no server log and no error.
//   - While a tenant's password or the secret key is changed, no connection fails; see [Directory.RotatePassword] and
//     [Directory.Reseal].
//
// # Limits
//
//   - The connection must lead straight to PostgreSQL: LISTEN and session locks do not work behind a transaction pooler.
//   - Whoever can log in to the database can send a notification, and so make a cache read a record again. It can do no more.
//   - The owner of the registry can disable the trigger that protects the event log. It guards against mistakes.
//   - A copy of the control database on the same server carries the same installation id, so the copy and the original share
//     runtime logins. Give both the same secret key, or delete the copy's row in "installation" and insert a new one.
//   - What a domain's DNS says is looked at once, when it is verified. A tenant keeps a domain that it has lost until somebody
//     removes it.
//   - The event log of a tenant that was purged stays, with its subdomains, its domains and the reasons that were given.
//   - A process of the release before there were several runtime logins puts its new tenants on the first, beyond the bound, and
//     cannot serve those on the others: replace such processes before there are more than Config.TenantsPerLogin tenants.
//   - Nor does a process of the release before there were spares count them for that bound.
//   - Logins can connect to databases that PUBLIC may connect to, such as "postgres". AddCluster warns of those; closing them is up to
//     whoever owns them.
//   - Two clusters may be two databases of one server. They share the runtime logins then, which may have as many tenants on each.
//   - A process knows the passwords of the tenants that it serves, and their administrators'.
//   - Spares are on the default cluster only.
//
// # Use
//
//	cfg := directory.Config{ConnConfig: administrator, SecretKey: key, Migrator: tenantMigrations}
//	if _, err := directory.Migrate(ctx, cfg); err != nil { // once for each release, before any Open
//		return err
//	}
//	dir, err := directory.Open(ctx, cfg)
//	if err != nil {
//		return err
//	}
//	defer dir.Close()
//	go func() { _ = dir.KeepSpares(ctx) }() // for sign-ups that wait for no migration; see Config.Spares
//	go dir.KeepPurging(ctx)                 // for those that are deleted
//
//	t, err := dir.Create(ctx, directory.NewTenant{
//		Company: "Acme Ltd", ContactName: "Ann Arbor", ContactEmail: "ann@acme.example", Subdomain: "acme",
//	})
//	invalid, ok := errors.AsType[*directory.ValidationError](err) // what to tell the person, field by field
//
//	t, err = dir.Resolve(ctx, "acme")   // for each request; tenant.ErrNotFound if there is none, perhaps a *tenant.MovedError
//	login, err := dir.RuntimeConn(ctx)  // what tenantdb.Open connects as
//	db, err := tenantdb.Open(ctx, tenantdb.Config{ConnConfig: login, Login: dir.LoginConn})
package directory
