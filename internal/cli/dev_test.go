package cli_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/leasehold-go/leasehold/internal/pgtest"
)

// anyPort makes dev and serve listen where there is room.
var anyPort = []string{"--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"}

// ready is what dev prints as JSON.
type ready struct {
	URL, Admin, Database, Data string
	EnvFile                    string `json:"env_file"`
	Tenants                    map[string]string
}

// dev is a running leasehold dev.
type dev struct {
	*process
	ready
	*site
}

// startDev starts leasehold dev on a data folder and returns when it is ready.
func startDev(tb testing.TB, data string, args ...string) *dev {
	tb.Helper()
	p := start(tb, nil, append(append([]string{"dev", "--json", "--data", data}, anyPort...), args...)...)
	text := p.await(p.stdout, func(s string) bool { return json.Valid([]byte(s)) })
	d := &dev{process: p, ready: decode[ready](tb, text)}
	d.site = newSite(tb, d.URL)
	return d
}

// ended expects the process to be gone with its PostgreSQL, and to have printed nothing after what it printed at the start.
func (d *dev) ended(tb testing.TB, pid, port int) {
	tb.Helper()
	if alive(pid) {
		tb.Errorf("PostgreSQL is still running as process %d", pid)
	}
	var lc net.ListenConfig
	l, err := lc.Listen(tb.Context(), "tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		tb.Fatalf("the database's port is not free: %v", err)
	}
	_ = l.Close()
	decode[ready](tb, d.stdout.String())
	if s := d.stderr.String(); s != "" {
		tb.Errorf("it wrote to standard error: %s", s)
	}
}

func passwordOf(tb testing.TB, databaseURL string) string {
	tb.Helper()
	u, err := url.Parse(databaseURL)
	if err != nil {
		tb.Fatal(err)
	}
	password, ok := u.User.Password()
	if !ok {
		tb.Fatal("the URL has no password")
	}
	return password
}

// The data folder, the base domain and the demo companies are a newcomer's to choose, and what is printed is made for reading.
func TestDevChoices(t *testing.T) {
	t.Parallel()
	data := filepath.Join(t.TempDir(), "deep", "down")
	temporary := t.TempDir()
	settings := []string{"TMPDIR=" + temporary}
	args := append([]string{"dev", "--data", data, "--no-demo", "--base-domain", "companies.test"}, anyPort...)

	// Whoever is interrupted at the very start leaves a folder that can be used.
	p := start(t, settings, args...)
	eventually(t, "the data folder is made", func() bool {
		_, err := os.Stat(data)
		return err == nil
	})
	p.stop(syscall.SIGTERM)
	if r := p.wait(); r.stderr != "" {
		t.Errorf("interrupted, it said: %s", r.stderr)
	}

	p = start(t, settings, args...)
	text := p.await(p.stdout, func(s string) bool { return strings.Contains(s, "Press Ctrl-C to stop") })
	find := func(pattern string) string {
		m := regexp.MustCompile(pattern).FindStringSubmatch(text)
		if m == nil {
			t.Fatalf("no %s in:\n%s", pattern, text)
		}
		return m[1]
	}
	apex := find(`sign up +(http://companies\.test:\d+)\n`)
	admin := newSite(t, find(`health +(http://\S+)/readyz\n`))
	admin.get(t, admin.addr, "/readyz", http.StatusOK)
	databaseURL := find(`database +psql '(postgres://[^']+)'\n`)
	pgtest.Exec(t, databaseURL, `SELECT 1`)
	if env := find(`settings +\. (\S+)`); env != filepath.Join(data, "env") {
		t.Errorf("the settings are said to be in %s", env)
	}
	if strings.Contains(text, "acme") || strings.Contains(text, "globex") {
		t.Errorf("demo companies were not asked for:\n%s", text)
	}

	s := newSite(t, apex)
	s.get(t, s.company("acme"), "/", http.StatusNotFound)
	s.post(t, s.company(""), "/signup", signUp("Initech", "initech"), http.StatusCreated).
		same(t, `{"id":null,"subdomain":"initech","url":"`+strings.Replace(apex, "companies", "initech.companies", 1)+`"}`)
	s.get(t, s.company("initech"), "/api/customers", http.StatusOK)
	s.get(t, "initech.localhost", "/api/customers", http.StatusNotFound)

	// A company of an earlier run whose migration fails is named, with the file, the line and the cause, and is served as it is.
	dir := copyMigrations(t)
	broken := "-- migrate:up\nSELECT 1;\nALTER TABLE nowhere ADD COLUMN x text;\n\n-- migrate:down\n"
	if err := os.WriteFile(filepath.Join(dir, "20991231235959_broken.sql"), []byte(broken), 0o600); err != nil {
		t.Fatal(err)
	}
	// A move that was broken off is undone.
	pgtest.Exec(t, databaseURL, `INSERT INTO leasehold.moves (tenant_id, cluster, strategy, database_name, login_no, encrypted_password,
		old_cluster, old_strategy, old_database_name, old_login_no)
		SELECT id, cluster, 'database', 'nowhere', 0, '', cluster, strategy, database_name, login_no FROM leasehold.tenants`)
	p.stop(os.Interrupt)
	p.wait()
	p = start(t, settings, append(args, "--migrations", dir, "--json")...)
	ready := decode[struct{ URL, Database string }](t, p.await(p.stdout, func(out string) bool { return json.Valid([]byte(out)) }))
	var moves int
	if err := pgtest.Connect(t, ready.Database).QueryRow(t.Context(), "SELECT count(*) FROM leasehold.moves").Scan(&moves); err != nil || moves != 0 {
		t.Errorf("%d moves are left: %v", moves, err)
	}
	s = newSite(t, ready.URL)
	s.get(t, s.company("initech"), "/api/customers", http.StatusOK)
	p.stop(os.Interrupt)
	r := p.wait()
	if err := r.betrayal(passwordOf(t, databaseURL)); !strings.Contains(r.stderr, "initech: 20991231235959_broken.sql:3:") ||
		!strings.Contains(r.stderr, "1 of 1 tenant failed — mend the cause and run: leasehold migrate up") {
		t.Errorf("%v in:\n%s", err, r.stderr)
	}
	if _, err := os.Stat(filepath.Join(data, "postgres", "data", "postmaster.pid")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("PostgreSQL was not stopped in order: %v", err)
	}
	if left, err := os.ReadDir(temporary); err != nil || len(left) != 0 {
		t.Errorf("left in the temporary folder: %v, %v", left, err)
	}
}
