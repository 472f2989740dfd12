package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"sync/atomic"
	"syscall"

	"github.com/jackc/pgx/v5/pgconn"
)

const (
	// childFlag, as the first argument, makes this program the process that is killed.
	childFlag = "-child"
	// urlEnv is the environment variable with the database's URL. It has a password in it, so it is no argument.
	urlEnv = "LEASEHOLD_KILLS_URL"
)

// boundary is a kind of place where a process can end, seen from the server.
type boundary int

const (
	beforeWrite boundary = iota
	afterWrite
	beforeRead
	afterRead
	// whileWaiting is inside a read, while the server waits for somebody else.
	whileWaiting
	boundaries
)

func (b boundary) String() string {
	return [boundaries]string{"before a write", "after a write", "before a read", "after a read", "while waiting"}[b]
}

// clock counts the boundaries that a process passes, over all of its connections. It is safe for concurrent use.
type clock struct {
	// at is the boundary at which strike is called; 0 for never.
	at     int64
	strike func(n int64, b boundary)
	passed atomic.Int64
}

func (c *clock) pass(b boundary) {
	if n := c.passed.Add(1); n == c.at {
		c.strike(n, b)
	}
}

// dial makes connections whose boundaries are counted.
func (c *clock) dial(dial pgconn.DialFunc) pgconn.DialFunc {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return clockedConn{conn, c}, nil
	}
}

type clockedConn struct {
	net.Conn
	clock *clock
}

func (c clockedConn) Write(p []byte) (int, error) {
	c.clock.pass(beforeWrite)
	n, err := c.Conn.Write(p)
	c.clock.pass(afterWrite)
	return n, err
}

func (c clockedConn) Read(p []byte) (int, error) {
	c.clock.pass(beforeRead)
	n, err := c.Conn.Read(p)
	c.clock.pass(afterRead)
	return n, err
}

// job is what one process does.
type job struct {
	course  course
	workers int
	// at is the boundary at which it kills itself; 0 for never.
	at int64
}

func (j job) args() []string {
	return []string{childFlag, string(j.course), strconv.Itoa(j.workers), strconv.FormatInt(j.at, 10)}
}

// parseJob reads what args has written, without the flag.
func parseJob(args []string) (job, error) {
	if len(args) != 3 {
		return job{}, fmt.Errorf("%d arguments after %s, want 3", len(args), childFlag)
	}
	workers, err := strconv.Atoi(args[1])
	at, atErr := strconv.ParseInt(args[2], 10, 64)
	return job{course(args[0]), workers, at}, errors.Join(err, atErr)
}

// child is the process that is killed. Before it kills itself it tells its parent, on stdout, at which boundary and of which kind.
func child(ctx context.Context, args []string, migrate migrator, stdout, stderr io.Writer) int {
	err := func() error {
		j, err := parseJob(args)
		if err != nil {
			return err
		}
		return migrate(ctx, os.Getenv(urlEnv), j, &clock{at: j.at, strike: func(n int64, b boundary) {
			_, _ = fmt.Fprintln(stdout, n, int(b))
			_ = syscall.Kill(syscall.Getpid(), syscall.SIGKILL)
			select {} // until the signal has come
		}})
	}()
	if err != nil {
		_, _ = fmt.Fprintln(stderr, err)
		return exitFault
	}
	return exitClean
}
