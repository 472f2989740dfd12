package cli_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/leasehold-go/leasehold/internal/pgtest"
)

// The commands, as scripts. Besides testscript's own words they know:
//
//	database              gives the script a database and the settings for it
//	sql 'statement'       runs it there; {slug} stands for the name of that tenant's schema
//	fails STATUS args...  leasehold ends with the status and says one line on standard error, nothing on standard output
//	exits STATUS args...  leasehold ends with the status
//	json [path=value...]  standard output is one JSON value that holds these; a path is made of names and indexes
//	url part=value        changes the database's URL: its password or database
//	otherdatabase         makes another database on the same server, and OTHER_URL and the file other.url for it
//	dropdatabases         drops the databases of the script's tenants
//	dns                   starts a DNS server at $DNS with the record that "tenant domain add --json" has printed
//	migrations DIR        writes the tenants' migrations that are built in to a folder
//
// and the condition
//
//	[pg_dump]             the server comes with its pg_dump, as all do but those that a test was pointed at
//
// None of the commands may show a secret.
func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:   "testdata/script",
		Setup: func(env *testscript.Env) error { env.Values[tbKey{}] = env.T(); return nil },
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"database":   command(scriptDatabase, 0),
			"sql":        command(scriptSQL, 1),
			"fails":      command(scriptFails, 1),
			"exits":      command(scriptExits, 1),
			"json":       command(scriptJSON, 0),
			"dns":        command(scriptDNS, 0),
			"migrations": command(scriptMigrations, 1),
			"url":        command(scriptURL, 1),

			"otherdatabase": command(scriptOtherDatabase, 0),
			"dropdatabases": command(scriptDropDatabases, 0),
		},
		Condition:           condition,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
	})
}

func condition(name string) (bool, error) {
	if name != "pg_dump" {
		return false, fmt.Errorf("unknown condition %q", name)
	}
	dir := os.Getenv(pgtest.BinEnv)
	if dir == "" {
		return true, nil
	}
	_, err := os.Stat(filepath.Join(dir, "pg_dump"))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// tbKey is where a script's environment holds its test.
type tbKey struct{}

// command makes a script's command of f, which wants at least so many arguments.
func command(f func(ts *testscript.TestScript, args []string) error, arguments int) func(*testscript.TestScript, bool, []string) {
	return func(ts *testscript.TestScript, neg bool, args []string) {
		if neg || len(args) < arguments {
			ts.Fatalf("wrong use; see TestScripts")
		}
		ts.Check(f(ts, args))
	}
}

func scriptDatabase(ts *testscript.TestScript, _ []string) error {
	tb, ok := ts.Value(tbKey{}).(testing.TB)
	if !ok {
		return errors.New("a script that is no test")
	}
	databaseURL := pgtest.Database(tb)
	ts.Setenv("LEASEHOLD_DATABASE_URL", databaseURL)
	ts.Setenv("LEASEHOLD_SECRET_KEY", secretKey)
	ts.Setenv("SECRET", secretKey)
	ts.Setenv("PASSWORD", passwordOf(tb, databaseURL))
	return nil
}

func scriptOtherDatabase(ts *testscript.TestScript, _ []string) error {
	tb, ok := ts.Value(tbKey{}).(testing.TB)
	if !ok {
		return errors.New("a script that is no test")
	}
	databaseURL := pgtest.Database(tb)
	ts.Setenv("OTHER_URL", databaseURL)
	return os.WriteFile(ts.MkAbs("other.url"), []byte(databaseURL+"\n"), 0o600)
}

func scriptDropDatabases(ts *testscript.TestScript, _ []string) error {
	tb, ok := ts.Value(tbKey{}).(testing.TB)
	if !ok {
		return errors.New("a script that is no test")
	}
	conn := pgtest.Connect(tb, ts.Getenv("LEASEHOLD_DATABASE_URL"))
	rows, err := conn.Query(tb.Context(), `SELECT database_name FROM leasehold.tenants WHERE strategy = 'database'`)
	if err != nil {
		return err
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	for _, name := range names {
		if _, err := conn.Exec(tb.Context(), `DROP DATABASE IF EXISTS `+pgx.Identifier{name}.Sanitize()+` WITH (FORCE)`); err != nil {
			return err
		}
	}
	return nil
}

func scriptSQL(ts *testscript.TestScript, args []string) error {
	tb, ok := ts.Value(tbKey{}).(testing.TB)
	if !ok {
		return errors.New("a script that is no test")
	}
	conn := pgtest.Connect(tb, ts.Getenv("LEASEHOLD_DATABASE_URL"))
	rows, err := conn.Query(tb.Context(), `SELECT slug, schema_name FROM leasehold.tenants`)
	if err != nil {
		return err
	}
	statement := args[0]
	var slug, schema string
	if _, err := pgx.ForEachRow(rows, []any{&slug, &schema}, func() error {
		statement = strings.ReplaceAll(statement, "{"+slug+"}", schema)
		return nil
	}); err != nil {
		return err
	}
	_, err = conn.Exec(tb.Context(), statement)
	return err
}

// leaseholdIn runs leasehold in a script.
func leaseholdIn(ts *testscript.TestScript, args []string) (result, error) {
	var r result
	err := ts.Exec("leasehold", args...)
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		r.code = exit.ExitCode()
	} else if err != nil {
		return r, err
	}
	r.stdout, r.stderr = ts.ReadFile("stdout"), ts.ReadFile("stderr")
	return r, nil
}

func secrets(ts *testscript.TestScript) []string {
	return []string{ts.Getenv("PASSWORD"), ts.Getenv("CANARY"), secretKey}
}

func scriptFails(ts *testscript.TestScript, args []string) error {
	code, codeErr := strconv.Atoi(args[0])
	r, err := leaseholdIn(ts, args[1:])
	return errors.Join(codeErr, err, r.failure(code, secrets(ts)...))
}

func scriptExits(ts *testscript.TestScript, args []string) error {
	code, codeErr := strconv.Atoi(args[0])
	r, err := leaseholdIn(ts, args[1:])
	if err := errors.Join(codeErr, err, r.betrayal(secrets(ts)...)); err != nil {
		return err
	}
	if r.code != code {
		return fmt.Errorf("exit status %d, want %d", r.code, code)
	}
	return nil
}

func scriptJSON(ts *testscript.TestScript, args []string) error {
	var value any
	if err := json.Unmarshal([]byte(ts.ReadFile("stdout")), &value); err != nil {
		return err
	}
	for _, arg := range args {
		path, want, _ := strings.Cut(arg, "=")
		if got := fmt.Sprint(at(value, path)); got != want {
			return fmt.Errorf("%s is %q, want %q", path, got, want)
		}
	}
	return nil
}

// at returns what stands at a path such as versions.0.file; last is the last of a list, len its length.
func at(value any, path string) any {
	for step := range strings.SplitSeq(path, ".") {
		switch v := value.(type) {
		case map[string]any:
			value = v[step]
		case []any:
			if i, err := strconv.Atoi(step); err == nil && i < len(v) {
				value = v[i]
				continue
			}
			switch {
			case step == "len":
				value = len(v)
			case step == "last" && len(v) > 0:
				value = v[len(v)-1]
			default:
				return nil
			}
		default:
			return nil
		}
	}
	return value
}

func scriptMigrations(ts *testscript.TestScript, args []string) error {
	return writeMigrations(ts.MkAbs(args[0]))
}

// scriptURL changes one part of the database's URL.
func scriptURL(ts *testscript.TestScript, args []string) error {
	u, err := url.Parse(ts.Getenv("LEASEHOLD_DATABASE_URL"))
	if err != nil {
		return err
	}
	part, value, _ := strings.Cut(args[0], "=")
	switch part {
	case "password":
		u.User = url.UserPassword(u.User.Username(), value)
	case "database":
		u.Path = "/" + value
	default:
		return fmt.Errorf("no part of a URL: %s", part)
	}
	ts.Setenv("LEASEHOLD_DATABASE_URL", u.String())
	return nil
}
