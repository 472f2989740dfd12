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
)

// The exit statuses.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

const usage = "usage: scale measure|simulate [flags]; -h after either shows the flags"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := command(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// command runs what the arguments ask for and returns the exit status.
func command(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		_, _ = fmt.Fprintln(stderr, usage)
		return exitUsage
	}
	flags := flag.NewFlagSet("scale "+args[0], flag.ContinueOnError)
	flags.SetOutput(stderr)
	var run func() error
	switch args[0] {
	case "measure":
		cfg := defaultMeasurement()
		cfg.flags(flags)
		run = func() error { return measure(ctx, cfg, stdout, stderr) }
	case "simulate":
		cfg := defaultModel()
		cfg.flags(flags)
		each := flags.Bool("each", false, "print every server as it is in the end")
		run = func() error {
			result, err := simulate(cfg)
			if err == nil {
				result.write(stdout, *each)
			}
			return err
		}
	default:
		_, _ = fmt.Fprintln(stderr, usage)
		return exitUsage
	}
	if err := flags.Parse(args[1:]); errors.Is(err, flag.ErrHelp) {
		return exitDone
	} else if err != nil {
		return exitUsage
	}
	if flags.NArg() > 0 {
		_, _ = fmt.Fprintln(stderr, usage)
		return exitUsage
	}
	if err := run(); err != nil {
		_, _ = fmt.Fprintln(stderr, "scale:", err)
		return exitFailed
	}
	return exitDone
}
