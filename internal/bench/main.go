// Command bench measures tenantdb against the ways that people reach a tenant's rows today, and prints tables to paste into
// docs/performance.md.
//
//	go run ./internal/bench                            // the table, allocations, and which goals are reached
//	go run ./internal/bench -tenants 100 -mode read -dist uniform -net direct -time 5s
//	go run ./internal/bench memory                     // 10,000 tenants with 10 tables each; takes minutes, and 5 GB of disk
//	go run ./internal/bench flood                      // what one tenant's flood does to the others
//	go run ./internal/bench roles                      // what new tenants do to the calls of others, at 10,000 tenants
//	go run ./internal/bench all -smoke                 // everything, tiny: it still runs
//	go run ./internal/bench -h                         // all flags
//
// # Guarantees
//
//   - All ways have the same number of connections and goroutines and do the same calls, in the same order, to the same rows.
//   - Every row that is read is checked: a row of another tenant ends the run with an error.
//   - The ways take turns in short rounds. A ratio is the median of the ratios of rounds that ran one after the other, so that
//     what else happens on the machine strikes both sides of it.
//   - It starts a PostgreSQL server of its own, on 127.0.0.1, and stops it, also on Ctrl-C. LEASEHOLD_TEST_POSTGRES_BIN is the
//     folder of the programs to run; defaults to what the machine has.
//
// # Limits
//
// Only ratios mean something: client, proxy and server share one machine, and its processors are what is short. Latencies
// include waiting for a connection, because there are more goroutines than connections. The baselines connect as
// an application's login that has been granted its rights and takes no role, and their idle connections are not pinged; both are in
// their favour. Allocations count all that the process does
// while a way has its turn, with a context that can be cancelled. Memory is read from /proc, on Linux only. The data fits
// in memory and fsync is off, so that writes do not measure the disk.
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

	"github.com/leasehold-go/leasehold/internal/fleet"
	"github.com/leasehold-go/leasehold/internal/pgserver"
)

// binEnv is the environment variable that names the folder of PostgreSQL's programs. internal/pgtest has it too.
const binEnv = "LEASEHOLD_TEST_POSTGRES_BIN"

// stopTimeout bounds the stopping of the server.
const stopTimeout = 30 * time.Second

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// bench is one experiment on one server.
type bench struct {
	options
	url    string         // the superuser's
	out    io.Writer      // the tables
	log    io.Writer      // progress
	fleets []*fleet.Fleet // that were built; they end with the server
	goals  []goal
}

func (b *bench) logf(format string, args ...any) { _, _ = fmt.Fprintf(b.log, format+"\n", args...) }

func (b *bench) printf(format string, args ...any) { _, _ = fmt.Fprintf(b.out, format, args...) }

// run runs the experiments that the arguments ask for, each on a server of its own, and says which goals are reached.
func run(ctx context.Context, args []string, out, log io.Writer) error {
	chosen, err := parse(args, log)
	if err != nil {
		return err
	}
	var goals []goal
	for _, c := range chosen {
		b := &bench{options: c.options, out: out, log: log}
		if err := b.onServer(ctx, c.run); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		goals = append(goals, b.goals...)
	}
	if chosen[0].calls == 0 { // a smoke run has measured nothing
		printGoals(out, goals)
	}
	return nil
}

// settings are those of a server as people run it, where they matter to a call, but for fsync: the disk is not what is measured.
var settings = map[string]string{
	"shared_buffers":     "256MB",
	"synchronous_commit": "on",
	"full_page_writes":   "on",
	"wal_level":          "replica",
	"max_wal_size":       "4GB",
	"max_connections":    "300",
}

func (b *bench) onServer(ctx context.Context, experiment func(*bench, context.Context) error) (err error) {
	server, err := pgserver.Start(ctx, pgserver.Config{Ephemeral: true, BinDir: os.Getenv(binEnv), Settings: settings})
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
		defer cancel()
		err = errors.Join(err, server.Stop(ctx))
	}()
	b.url = server.URL(pgserver.Superuser, pgserver.Database)
	b.logf("PostgreSQL %s", server.Version())
	return experiment(b, ctx)
}
