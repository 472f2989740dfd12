package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/alecthomas/kong"

	"github.com/leasehold-go/leasehold/internal/config"
)

// Exit statuses.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

// Streams are where a command writes, and where it reads what it is told to read. In may be nil, which is empty.
type Streams struct {
	Out, Err io.Writer
	In       io.Reader
}

// grammar is the command line.
type grammar struct {
	Dev     devCmd     `cmd:"" help:"Run everything on this machine: a PostgreSQL of its own, migrated, with two demo companies, serving."`
	Serve   serveCmd   `cmd:"" help:"Serve the tenants of a database."`
	Tenant  tenantCmd  `cmd:"" help:"Create tenants, list them, and look after them."`
	Migrate migrateCmd `cmd:"" help:"Migrate tenants and the registry."`
	Cluster clusterCmd `cmd:"" help:"Add, list, change and drain the servers that house tenants."`
	Version versionCmd `cmd:"" help:"Print the version."`

	JSON       bool `name:"json" help:"Print the result as JSON."`
	config.Log `group:"Logging"`
}

// runner is what commands get besides their flags.
type runner struct {
	Streams
	json   bool
	logger *slog.Logger
}

// Main runs one command and returns its exit status. When ctx ends, the command finishes what it must and returns.
func Main(ctx context.Context, args []string, streams Streams) int {
	var g grammar
	helped := false
	parser, err := kong.New(&g,
		kong.Name("leasehold"),
		kong.Description("Tenant-scoped PostgreSQL for Go. Settings are flags, or environment variables of the same name."),
		kong.Writers(streams.Out, streams.Err),
		kong.Exit(func(int) { helped = true }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, FlagsLast: true}),
		kong.BindTo(ctx, (*context.Context)(nil)),
	)
	if err != nil {
		return report(streams.Err, err)
	}
	kctx, err := parser.Parse(args)
	if helped {
		return exitDone
	}
	if err != nil {
		return report(streams.Err, err)
	}
	r := &runner{Streams: streams, json: g.JSON, logger: newLogger(streams.Err, g.LogLevel)}
	return report(streams.Err, kctx.Run(r))
}

func newLogger(w io.Writer, level slog.Level) *slog.Logger {
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level}))
}

// quiet returns the logger of commands that say themselves what they do: it keeps warnings, unless everything was asked for.
func (r *runner) quiet(ctx context.Context) *slog.Logger {
	if !r.logger.Enabled(ctx, slog.LevelDebug) && r.logger.Enabled(ctx, slog.LevelWarn) {
		return newLogger(r.Err, slog.LevelWarn)
	}
	return r.logger
}

// report prints err, if there is one, and returns the exit status that goes with it.
func report(w io.Writer, err error) int {
	if err == nil {
		return exitDone
	}
	if reported := (*reportedError)(nil); errors.As(err, &reported) {
		return exitFailed
	}
	_, _ = fmt.Fprintf(w, "leasehold: %s\n", describe(err))
	if isUsage(err) {
		return exitUsage
	}
	return exitFailed
}

// reportedError is an error that the command has shown already.
type reportedError struct{ err error }

func (e *reportedError) Error() string { return e.err.Error() }
func (e *reportedError) Unwrap() error { return e.err }
