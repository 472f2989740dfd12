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

// config is how to kill.
type config struct {
	// Kills is how many kills there are to be at least; a round that was begun is finished.
	Kills int
	// Seed chooses the rounds.
	Seed uint64
	// Workers is migrate.Config's.
	Workers int
	// URL is that of the owner of the database, who migrates.
	URL string
	// SuperURL is a superuser's of the same database.
	SuperURL string
	// Program is what is started to be killed.
	Program string
	// Env is what Program has in its environment beside ours.
	Env []string
	// Migrate is what Program does, and what the runs do that nobody kills.
	Migrate migrator
	// Progress gets a line now and then.
	Progress io.Writer
}

// command parses the flags, kills on a server of its own and reports. With childFlag it is the process that is killed.
func command(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if len(args) > 0 && args[0] == childFlag {
		return child(ctx, args[1:], migrateFleet, stdout, stderr)
	}
	cfg := config{Migrate: migrateFleet, Progress: stderr}
	flags := flag.NewFlagSet("kills", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.IntVar(&cfg.Kills, "kills", 1000, "kill this `number` of times at least")
	flags.Uint64Var(&cfg.Seed, "seed", uint64(time.Now().UnixNano()), "choose where by this `number`")
	flags.IntVar(&cfg.Workers, "workers", 2, "migrate this `number` of tenants at a time")
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return exitClean
	} else if err != nil {
		return exitUsage
	}
	if cfg.Kills < 1 || cfg.Workers < 1 || flags.NArg() > 0 {
		_, _ = fmt.Fprintln(stderr, "kills: want at least one kill, at least one worker, and no other arguments")
		return exitUsage
	}
	_, _ = fmt.Fprintf(stderr, "seed %d\n", cfg.Seed)
	if err := onServer(ctx, cfg, stdout); err != nil {
		_, _ = fmt.Fprintln(stderr, "kills:", err)
		return exitFault
	}
	return exitClean
}

// stopTimeout bounds the end of the server.
const stopTimeout = 30 * time.Second

// onServer kills on a server that is gone afterwards, however it ends.
func onServer(ctx context.Context, cfg config, stdout io.Writer) (err error) {
	if cfg.Program, err = os.Executable(); err != nil {
		return err
	}
	server, err := pgserver.Start(ctx, pgserver.Config{Ephemeral: true, BinDir: os.Getenv(pgtest.BinEnv)})
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
		defer cancel()
		err = errors.Join(err, server.Stop(ctx))
	}()
	cfg.URL, cfg.SuperURL = server.URL(pgserver.Administrator, pgserver.Database), server.URL(pgserver.Superuser, pgserver.Database)
	r, err := run(ctx, cfg)
	if r != nil {
		_, _ = fmt.Fprintf(stdout, "PostgreSQL %s, ", server.Version())
		r.write(stdout)
		err = errors.Join(err, r.err())
	}
	return err
}
