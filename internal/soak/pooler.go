package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"runtime"
	"slices"
	"strconv"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/internal/pgtest"
)

// throughPooler puts a PgBouncer in front of the server. Each login has half as many backends there as there are connections.
func (s *site) throughPooler(ctx context.Context) (stop func(), err error) {
	users := map[string]string{}
	for _, name := range s.logins {
		users[name] = s.fleet.Runtime().Password // the same for all
	}
	cc := s.fleet.Runtime()
	u := url.URL{
		Scheme: "postgres", User: url.UserPassword(cc.User, cc.Password), Host: net.JoinHostPort(cc.Host, strconv.Itoa(int(cc.Port))),
		Path: "/" + cc.Database, RawQuery: "sslmode=disable",
	}
	t := &stage{ctx: ctx}
	var pooled string
	t.play(func() {
		pooled = pgtest.PgBouncer(t, u.String(), pgtest.PgBouncerOptions{PoolSize: (s.conns + 1) / 2, Users: users})
	})
	err = t.err
	if err == nil {
		cc, err = pgx.ParseConfig(pooled)
	}
	if err != nil {
		t.clear()
		return nil, err
	}
	s.pooler = cc.Port
	return t.clear, nil
}

// stage stands in for a test where pgtest wants one, so that the pooler is the one that the tests know. It has what
// pgtest.PgBouncer calls, and nothing else.
type stage struct {
	testing.TB
	ctx      context.Context
	err      error
	cleanups []func()
}

// play runs what may end by Fatal.
func (t *stage) play(fn func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		fn()
	}()
	<-done
}

// clear does what Cleanup has asked for, the last first.
func (t *stage) clear() {
	for _, fn := range slices.Backward(t.cleanups) {
		fn()
	}
}

func (t *stage) Helper()                  {}
func (t *stage) Context() context.Context { return t.ctx }
func (t *stage) Cleanup(fn func())        { t.cleanups = append(t.cleanups, fn) }
func (t *stage) Failed() bool             { return t.err != nil }
func (t *stage) Logf(string, ...any)      {}

func (t *stage) Errorf(format string, args ...any) {
	t.err = errors.Join(t.err, fmt.Errorf(format, args...))
}

func (t *stage) Fatal(args ...any) { t.Fatalf("%s", fmt.Sprint(args...)) }

func (t *stage) Skip(args ...any) { t.Fatal(args...) }

func (t *stage) Fatalf(format string, args ...any) {
	t.Errorf(format, args...)
	runtime.Goexit()
}

func (t *stage) TempDir() string {
	dir, err := os.MkdirTemp("", "leasehold-soak-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}
