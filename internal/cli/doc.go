// Package cli is the leasehold command: its grammar, what it prints, and how its parts are put together for dev and serve.
//
// It guarantees that results go to standard output and nothing else does, so that --json can be piped; that an error is one
// line on standard error that says what to do next, or a line for each tenant where a fleet failed in parts; and that the
// exit status is 0 for done, 1 for failed and 2 for wrong usage. Beside the settings that --help lists it goes by PATH, to
// find PostgreSQL, and by what PostgreSQL's clients go by (PGSSLMODE and its kin). It changes nothing outside its own process
// but what the command is for. Main may be called by a test as well as by main.
//
//	os.Exit(cli.Main(ctx, os.Args[1:], cli.Streams{Out: os.Stdout, Err: os.Stderr}))
package cli
