package pgdump_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/internal/pgdump"
	"github.com/leasehold-go/leasehold/internal/pgtest"
)

// newer is the folder of a server's programs that come without a pg_dump, or "". The tests then run on the machine's own server.
var newer string

func TestMain(m *testing.M) {
	if dir := os.Getenv(pgtest.BinEnv); dir != "" {
		if _, err := os.Stat(filepath.Join(dir, "pg_dump")); errors.Is(err, os.ErrNotExist) {
			newer = dir
			if err := os.Unsetenv(pgtest.BinEnv); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
		}
	}
	os.Exit(pgtest.Main(m))
}

// The names of tenants as the registry makes them.
const (
	acme      = "t_acme_0d3k1m4f2hxxb4q7c8ivn2s0ro"
	acmeRole  = "r_acme_0d3k1m4f2hxxb4q7c8ivn2s0ro"
	umbra     = "t_umbra_0d3k1m7s9pxxb2a1e0g8t6u4fk"
	umbraRole = "r_umbra_0d3k1m7s9pxxb2a1e0g8t6u4fk"
)

// house makes a schema and runs SQL in it as a migration would.
func house(tb testing.TB, conn *pgx.Conn, schema string, sql ...string) {
	tb.Helper()
	for _, s := range append([]string{"CREATE SCHEMA " + schema, "SET search_path TO " + schema + ", pg_temp"}, sql...) {
		if _, err := conn.PgConn().Exec(tb.Context(), s).ReadAll(); err != nil {
			tb.Fatalf("%s: %v", s, err)
		}
	}
}

func connConfig(tb testing.TB, url string) *pgx.ConnConfig {
	tb.Helper()
	cfg, err := pgx.ParseConfig(url)
	if err != nil {
		tb.Fatal(err)
	}
	return cfg
}

// dump dumps what can be dumped. Where there is no pg_dump at all, as with a server that was fetched, there is nothing to
// test; CI has one.
func dump(tb testing.TB, cfg pgdump.Config) string {
	tb.Helper()
	text, err := pgdump.Schema(tb.Context(), cfg)
	if errors.Is(err, pgdump.ErrNoProgram) && os.Getenv("CI") == "" {
		tb.Skip(err)
	}
	if err != nil {
		tb.Fatal(err)
	}
	return string(text)
}

// real returns the pg_dump of this machine that fits the tests' server.
func real(tb testing.TB) string {
	tb.Helper()
	text, _, _ := strings.Cut(pgtest.Server(tb).Version(), ".")
	major, err := strconv.Atoi(text)
	if err != nil {
		tb.Fatal(err)
	}
	program, err := pgdump.Find(tb.Context(), "", major)
	if err != nil {
		tb.Fatal(err)
	}
	return program
}

// roles makes roles, which are dropped after the databases that the test makes from now on.
func roles(tb testing.TB, names ...string) {
	tb.Helper()
	server := pgtest.SuperURL(tb, "postgres")
	pgtest.Exec(tb, server, "CREATE ROLE "+strings.Join(names, "; CREATE ROLE "))
	tb.Cleanup(func() {
		conn, err := pgx.Connect(context.WithoutCancel(tb.Context()), server)
		if err != nil {
			tb.Error(err)
			return
		}
		defer func() { _ = conn.Close(context.WithoutCancel(tb.Context())) }()
		if _, err := conn.Exec(context.WithoutCancel(tb.Context()), "DROP ROLE "+strings.Join(names, ", ")); err != nil {
			tb.Error(err)
		}
	})
}

// fake makes a folder with a pg_dump that is a shell script, and newer than any server.
func fake(tb testing.TB, script string) (dir string) {
	tb.Helper()
	return fakeVersion(tb, "99.1", script)
}

func fakeVersion(tb testing.TB, version, script string) (dir string) {
	tb.Helper()
	dir = tb.TempDir()
	text := "#!/bin/sh\n[ \"$1\" = --version ] && echo 'pg_dump (PostgreSQL) " + version + "' && exit\ncd " + dir + "\n" + script + "\n"
	if err := os.WriteFile(filepath.Join(dir, "pg_dump"), []byte(text), 0o700); err != nil {
		tb.Fatal(err)
	}
	return dir
}

// read returns what a script has left in a file.
func read(tb testing.TB, elem ...string) string {
	tb.Helper()
	text, err := os.ReadFile(filepath.Join(elem...))
	if err != nil {
		tb.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}
