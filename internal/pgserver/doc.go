// Package pgserver runs a PostgreSQL server of our own, for `leasehold dev` and for tests.
//
// # Guarantees
//
//   - The server listens on 127.0.0.1 only, has no Unix socket, and lets nobody in without a password (scram-sha-256). The
//     passwords are generated, and kept in a file that only its owner can read. They appear in no argument list and no log.
//   - A folder is made whole or not at all: whoever is killed half-way through the first start finds an empty folder or a
//     complete one at the next.
//   - Two processes never run one folder, and no port is taken from anyone: both are an [*InUseError] that names the holder.
//   - [Server.Stop] leaves no process. When our own process is killed, on Linux the kernel tells the server to stop; on any
//     system the next [Start] on the folder first stops what still runs there. Committed data is kept either way.
//   - Nothing is written outside [Config.DataDir] and the temporary folder, and nothing to the terminal. The server is in a
//     process group of its own, so a Ctrl-C reaches our process only, which decides the order of things.
//   - As root, the server runs as an unprivileged user: the one who owns the cluster already, else postgres, else nobody.
//     On Linux the folder may lie where that user cannot enter, such as root's home: the server is handed the open folder.
//     No permission of any folder outside DataDir is changed.
//
// # Not guaranteed
//
// It is no production server: no TLS, no archive, no tuning. An ephemeral one gives up all durability for speed. As root on
// systems other than Linux, the folder must lie where the unprivileged user can enter. A folder that one user has made is
// not for another, not even for root.
//
// # What is in the folder
//
//	DataDir/postgres/             0700
//	DataDir/postgres/data/        the cluster
//	DataDir/postgres/lock         held (flock) by the process that runs the server; its content is the process id
//	DataDir/postgres/server.json  0600: the port and the passwords
//	DataDir/postgres/server.log   what the server has to say; server.log.old is the one before
//	DataDir/postgres/binaries/    only if the binaries had to be fetched
//
// # What is in the server
//
// The superuser "postgres", the administrator's login "leasehold" (LOGIN CREATEROLE CREATEDB, not a superuser) and the
// database "leasehold" that it owns. PUBLIC has no CREATE in the schema public, and still has CONNECT and TEMP.
//
// # Use
//
//	server, err := pgserver.Start(ctx, pgserver.Config{DataDir: ".leasehold"})
//	if inUse, ok := errors.AsType[*pgserver.InUseError](err); ok {
//		return fmt.Errorf("%w; %s", inUse, inUse.Hint())
//	}
//	if err != nil {
//		return err
//	}
//	defer server.Stop(stopCtx)
//	conn, err := pgx.Connect(ctx, server.URL(pgserver.Administrator, pgserver.Database))
package pgserver
