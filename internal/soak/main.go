package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/leasehold-go/leasehold/internal/pgserver"
	"github.com/leasehold-go/leasehold/internal/pgtest"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends us at once
	code := command(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// The exit statuses.
const (
	exitClean = 0
	exitFault = 1
	exitUsage = 2
)

// command parses the flags, runs the soak on a server of its own and reports.
func command(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	cfg := config{Progress: stderr}
	flags := flag.NewFlagSet("soak", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.IntVar(&cfg.Operations, "ops", 1_000_000, "run this `number` of operations")
	flags.IntVar(&cfg.Tenants, "tenants", 1000, "over this `number` of tenants")
	flags.IntVar(&cfg.Logins, "logins", 2, "of this `number` of runtime logins")
	flags.IntVar(&cfg.Databases, "databases", 0, "of which this `number` have a database of their own")
	flags.IntVar(&cfg.Goroutines, "goroutines", 64, "from this `number` of goroutines")
	flags.IntVar(&cfg.Conns, "conns", 8, "on at most this `number` of connections")
	flags.Uint64Var(&cfg.Seed, "seed", uint64(time.Now().UnixNano()), "choose the operations by this `number`")
	flags.BoolVar(&cfg.Pooler, "pooler", false, "go through a PgBouncer in transaction mode")
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return exitClean
	} else if err != nil {
		return exitUsage
	}
	if err := cfg.validate(); err != nil || flags.NArg() > 0 {
		_, _ = fmt.Fprintln(stderr, "soak:", errors.Join(err, unexpected(flags.Args())))
		return exitUsage
	}
	_, _ = fmt.Fprintf(stderr, "seed %d\n", cfg.Seed)
	if err := onServer(ctx, cfg, stdout); err != nil {
		_, _ = fmt.Fprintln(stderr, "soak:", err)
		return exitFault
	}
	return exitClean
}

func unexpected(args []string) error {
	if len(args) == 0 {
		return nil
	}
	return fmt.Errorf("unexpected argument %q", args[0])
}

// stopTimeout bounds the end of the server.
const stopTimeout = 30 * time.Second

// onServer runs the soak on a server that is gone afterwards, however it ends.
func onServer(ctx context.Context, cfg config, stdout io.Writer) (err error) {
	server, err := pgserver.Start(ctx, pgserver.Config{
		Ephemeral: true, BinDir: os.Getenv(pgtest.BinEnv),
		Settings: map[string]string{"deadlock_timeout": "200ms"},
	})
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
		defer cancel()
		err = errors.Join(err, server.Stop(ctx))
	}()
	cfg.SuperURL = server.URL(pgserver.Superuser, pgserver.Database)
	r, err := run(ctx, cfg)
	if err != nil {
		return err
	}
	_, _ = fmt.Fprintf(stdout, "PostgreSQL %s, ", server.Version())
	r.write(stdout)
	return r.err()
}
