package cli_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/leasehold-go/leasehold/internal/pgtest"
)

// A newcomer's first hours, on one data folder. Each step builds on those before.
func TestDev(t *testing.T) {
	t.Parallel()
	s := &story{data: filepath.Join(t.TempDir(), "data"), migrations: copyMigrations(t)}
	s.dev = startDev(t, s.data)
	s.step(t, "demo companies are there", s.demo)
	s.step(t, "sign-up", s.signUp)
	s.step(t, "sign-up refused", s.signUpRefused)
	s.step(t, "each company sees its own", s.eachItsOwn)
	s.step(t, "hosts without a company", s.otherHosts)
	s.step(t, "suspended and resumed", s.suspend)
	s.step(t, "what is taken", s.taken)
	s.step(t, "a migration while it serves", s.migrate)

	pid, port := postmaster(t, s.data)
	s.stop(os.Interrupt)
	s.ended(t, pid, port)
	s.dev = startDev(t, s.data, "--migrations", s.migrations)
	s.step(t, "all is there after a restart", s.kept)
	s.step(t, "the restart migrated who came late", s.caughtUp)
	pid = s.kill(t)
	s.dev = startDev(t, s.data) // with the files that are built in, one fewer than the companies have
	eventually(t, "the killed run's PostgreSQL is gone", func() bool { return !alive(pid) })
	s.step(t, "all is there after kill -9", s.kept)
	s.step(t, "PostgreSQL ends by itself", s.postgresEnds)
}

// story is what the steps of TestDev have in common.
type story struct {
	*dev
	data       string
	migrations string
	seen       map[string]string // what the companies' lists showed
	added      []customer        // by late, until the process was killed
}

// step runs one step. The steps after one that failed would only repeat its failure.
func (s *story) step(t *testing.T, name string, f func(t *testing.T)) {
	t.Helper()
	if !t.Run(name, f) {
		t.FailNow()
	}
}

// lists are the pages of the API that tell everything about a company.
var lists = []string{"/api/customers?limit=100", "/api/invoices?limit=100", "/api/customers/1", "/api/invoices/1"}

// look notes what the companies' lists show.
func (s *story) look(tb testing.TB) map[string]string {
	tb.Helper()
	seen := map[string]string{}
	for _, company := range []string{"acme", "globex", "northwind", "southridge"} {
		for _, path := range lists {
			seen[company+path] = s.get(tb, s.company(company), path, http.StatusOK).body
		}
	}
	return seen
}

func (s *story) demo(t *testing.T) {
	want := map[string]string{
		"acme":   strings.Replace(s.URL, "localhost", "acme.localhost", 1),
		"globex": strings.Replace(s.URL, "localhost", "globex.localhost", 1),
	}
	if diff := cmp.Diff(want, s.Tenants); diff != "" || !strings.HasPrefix(s.URL, "http://localhost:") {
		t.Errorf("%s (-want +got):\n%s", s.URL, diff)
	}
	for name := range want {
		invoice := s.get(t, s.company(name), "/api/invoices/1", http.StatusOK)
		if len(s.customers(t, name)) == 0 || !strings.Contains(invoice.body, `"number":"INV-`) {
			t.Errorf("%s has no customers, or invoice 1 has no number: %s", name, invoice.body)
		}
		page := s.expect(t, http.StatusOK, http.MethodGet, s.company(name), "/invoices", "", "Accept", "text/html")
		if !strings.Contains(page.body, "<html") {
			t.Errorf("%s has no page", name)
		}
	}
	s.get(t, s.company(""), "/", http.StatusOK)
	s.get(t, s.company(""), "/signup", http.StatusOK)
	admin := newSite(t, s.Admin)
	admin.get(t, admin.addr, "/healthz", http.StatusOK)
	admin.get(t, admin.addr, "/readyz", http.StatusOK)
	// The database line that was printed works as it stands.
	pgtest.Exec(t, s.Database, `SELECT slug FROM leasehold.tenants`)
}

func (s *story) signUp(t *testing.T) {
	r := s.post(t, s.company(""), "/signup", signUp("Northwind Ltd", "northwind"), http.StatusCreated)
	url0 := strings.Replace(s.URL, "localhost", "northwind.localhost", 1)
	r.same(t, `{"id":null,"subdomain":"northwind","url":"`+url0+`"}`)
	form := url.Values{"company": {"Southridge Ltd"}, "contact_name": {"Sue"}, "contact_email": {"sue@southridge.example"}, "subdomain": {"southridge"}}
	r = s.form(t, s.company(""), "/signup", form, http.StatusSeeOther)
	if got, want := r.header.Get("Location"), strings.Replace(s.URL, "localhost", "southridge.localhost", 1)+"/"; got != want {
		t.Errorf("sent to %s, want %s", got, want)
	}
	for _, name := range []string{"northwind", "southridge"} {
		if rows := s.customers(t, name); len(rows) != 0 {
			t.Errorf("%s begins with %v", name, rows)
		}
	}
}

func (s *story) signUpRefused(t *testing.T) {
	s.post(t, s.company(""), "/signup", signUp("Another North", "NORTHWIND"), http.StatusConflict).
		same(t, `{"type":"about:blank","title":"Conflict","status":409,"detail":null,"errors":{"subdomain":null}}`)
	for name, c := range map[string]struct{ body, errors string }{
		"nothing":    {`{}`, `{"company":null,"contact_name":null,"contact_email":null,"subdomain":null}`},
		"bad e-mail": {strings.Replace(signUp("X", "fine"), "ann@", "", 1), `{"contact_email":null}`},
		"bad name":   {signUp("X", "no_good"), `{"subdomain":null}`},
		"reserved":   {signUp("X", "www"), `{"subdomain":null}`},
	} {
		t.Run(name, func(t *testing.T) {
			r := s.post(t, s.company(""), "/signup", c.body, http.StatusUnprocessableEntity)
			r.same(t, `{"type":null,"title":null,"status":422,"detail":null,"errors":`+c.errors+`}`)
			for field, message := range decode[struct{ Errors map[string]string }](t, r.body).Errors {
				if !strings.HasSuffix(message, ".") {
					t.Errorf("%s: %q is no sentence", field, message)
				}
			}
		})
	}
	form := url.Values{"company": {"Southridge Ltd"}, "contact_name": {"Sue"}, "contact_email": {"sue@southridge.example"}, "subdomain": {"southridge"}}
	s.form(t, s.company(""), "/signup", form, http.StatusConflict)
}

// Both companies do the same in the same order, so that their rows have equal ids.
func (s *story) eachItsOwn(t *testing.T) {
	for _, name := range []string{"northwind", "southridge"} {
		c := s.addCustomer(t, name, customer{Name: "Customer of " + name, Email: "c@" + name + ".example"})
		inv := s.post(t, s.company(name), "/api/invoices", `{"customer_id":1,"currency":"EUR",
			"lines":[{"description":"Work for `+name+`","quantity":1.5,"unit_price_cents":1000}]}`, http.StatusCreated)
		s.post(t, s.company(name), "/api/invoices/1/issue", "", http.StatusOK)
		if id := decode[struct{ ID int64 }](t, inv.body).ID; c.ID != 1 || id != 1 {
			t.Fatalf("%s: customer %d, invoice %d, want 1 and 1", name, c.ID, id)
		}
	}
	s.post(t, s.company("northwind"), "/api/invoices/1/payments", `{"amount_cents":1500}`, http.StatusCreated)
	for name, state := range map[string]string{
		"northwind":  `"status":"paid","total_cents":1500,"paid_cents":1500`,
		"southridge": `"status":"issued","total_cents":1500,"paid_cents":0`,
	} {
		if diff := cmp.Diff([]customer{{ID: 1, Name: "Customer of " + name, Email: "c@" + name + ".example"}}, s.customers(t, name)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		s.get(t, s.company(name), "/api/invoices/1", http.StatusOK).same(t, `{"id":1,"number":null,"customer_id":1,"currency":"EUR",
			"issued_on":null,"due_on":null,"lines":[{"description":"Work for `+name+`","quantity":1.5,"unit_price_cents":1000}],`+state+`}`)
	}
	// Nothing that a company shows names another, and what only others have is not there.
	marks := map[string]string{"acme": "roadrunner", "globex": "springfieldpower", "northwind": "northwind", "southridge": "southridge"}
	for at, body := range s.look(t) {
		for company, mark := range marks {
			if strings.Contains(body, mark) && !strings.HasPrefix(at, company) {
				t.Errorf("%s shows %q:\n%s", at, mark, body)
			}
		}
	}
	for _, path := range []string{"/api/customers/2", "/api/invoices/2"} {
		s.get(t, s.company("acme"), path, http.StatusOK)
		s.get(t, s.company("northwind"), path, http.StatusNotFound)
	}
}

func (s *story) otherHosts(t *testing.T) {
	unknown := s.get(t, s.company("nobody"), "/api/customers", http.StatusNotFound)
	if other := s.get(t, s.company("admin"), "/invoices", http.StatusNotFound); other.body != unknown.body {
		t.Errorf("hosts without a company differ:\n%s\n%s", unknown.body, other.body)
	}
	s.get(t, s.company("no_name"), "/", http.StatusBadRequest)
	for _, path := range []string{"/api/customers", "/api/customers/1", "/api/invoices", "/invoices"} {
		for _, host := range []string{s.company(""), s.company("www")} {
			r := s.expect(t, http.StatusNotFound, http.MethodGet, host, path, "", "X-Forwarded-Host", s.company("acme"))
			if strings.Contains(r.body, "roadrunner") {
				t.Errorf("%s%s shows a company", host, path)
			}
		}
	}
	s.get(t, "example.com", "/", http.StatusNotFound) // it could be the domain of a company
	s.get(t, "northwind.southridge.localhost", "/api/customers", http.StatusBadRequest)
}

// The directory hears of what an operator changes by hand.
func (s *story) suspend(t *testing.T) {
	status := func(want int) {
		eventually(t, strconv.Itoa(want), func() bool {
			r, err := s.send(t, http.MethodGet, s.company("northwind"), "/api/customers", "")
			return err == nil && r.status == want
		})
	}
	pgtest.Exec(t, s.Database, `UPDATE leasehold.tenants SET status = 'suspended' WHERE slug = 'northwind'`)
	status(http.StatusForbidden)
	s.post(t, s.company("northwind"), "/api/customers", `{"name":"x","email":"x@x.example"}`, http.StatusForbidden)
	s.get(t, s.company("southridge"), "/api/customers", http.StatusOK)
	s.post(t, s.company(""), "/signup", signUp("Another North", "northwind"), http.StatusConflict)
	pgtest.Exec(t, s.Database, `UPDATE leasehold.tenants SET status = 'active' WHERE slug = 'northwind'`)
	status(http.StatusOK)
	if rows := s.customers(t, "northwind"); len(rows) != 1 {
		t.Errorf("after it was resumed it has %v", rows)
	}
}

// What dev says when a second one meets the first.
func (s *story) taken(t *testing.T) {
	u, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	admin, err := url.Parse(s.Admin)
	if err != nil {
		t.Fatal(err)
	}
	address := "127.0.0.1:" + u.Port()
	holder := fmt.Sprintf("process %d (leasehold)", s.cmd.Process.Pid)
	other := filepath.Join(t.TempDir(), "other")
	for name, c := range map[string]struct {
		args []string
		want []string
	}{
		"port":        {[]string{"--data", other, "--listen", address, "--admin-listen", "127.0.0.1:0"}, []string{address, holder, "--listen ADDR"}},
		"admin port":  {[]string{"--data", other, "--listen", "127.0.0.1:0", "--admin-listen", admin.Host}, []string{admin.Host, holder, "--admin-listen ADDR"}},
		"data folder": {append([]string{"--data", s.data}, anyPort...), []string{s.data, holder, "--data DIR"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := run(t, nil, append([]string{"dev"}, c.args...)...)
			if err := r.failure(1, s.password(t)); err != nil {
				t.Error(err)
			}
			for _, want := range c.want {
				if !strings.Contains(r.stderr, want) {
					t.Errorf("it does not name %q", want)
				}
			}
			if t.Failed() {
				t.Log(r.stderr)
			}
		})
	}
	t.Cleanup(func() { // after the parallel ones
		if _, err := os.Stat(other); err == nil {
			t.Error("a dev that could not listen made a data folder")
		}
	})
}

// password is the administrator's.
func (s *story) password(tb testing.TB) string {
	tb.Helper()
	return passwordOf(tb, s.Database)
}

// settings are those that dev leaves in its env file.
func (s *story) settings(tb testing.TB) []string {
	tb.Helper()
	content, err := os.ReadFile(s.EnvFile)
	if err != nil {
		tb.Fatal(err)
	}
	info, err := os.Stat(s.EnvFile)
	if err != nil || info.Mode().Perm() != 0o600 {
		tb.Fatalf("%v, %v", info.Mode(), err)
	}
	var settings []string
	for _, m := range regexp.MustCompile(`(?m)^export (LEASEHOLD_\w+)='(.*)'$`).FindAllSubmatch(content, -1) {
		settings = append(settings, string(m[1])+"="+string(m[2]))
	}
	return settings
}

// A file is added and applied to all companies while they are used. It changes the type of a column that is being read, so that
// what connections have prepared no longer fits.
func (s *story) migrate(t *testing.T) {
	settings := s.settings(t)
	made := decode[struct{ File string }](t, succeed(t, nil, "migrate", "new", "--json", "--dir", s.migrations, "Add story phone"))
	const sql = "-- migrate:up\n" +
		"ALTER TABLE customers ADD COLUMN story_phone text NOT NULL DEFAULT '', ALTER COLUMN email TYPE varchar(254);\n\n" +
		"-- migrate:down\nALTER TABLE customers DROP COLUMN story_phone, ALTER COLUMN email TYPE text;\n"
	if err := os.WriteFile(made.File, []byte(sql), 0o600); err != nil {
		t.Fatal(err)
	}
	file := filepath.Base(made.File)
	if status := s.status(t, settings); status.Tenants != 4 || status.Current != 0 || len(status.Behind) != 4 {
		t.Errorf("before: %+v", status)
	}

	ctx, cancel := context.WithCancel(t.Context())
	var users sync.WaitGroup
	stop := func() { cancel(); users.Wait() }
	defer stop()
	for _, name := range []string{"northwind", "southridge", "acme"} {
		users.Go(func() {
			for ctx.Err() == nil {
				r, err := s.send(t, http.MethodGet, s.company(name), "/api/customers/1", "")
				if err != nil || r.status != http.StatusOK {
					t.Errorf("%s during the migration: %d %s %v", name, r.status, r.body, err)
					return
				}
			}
		})
	}
	report := decode[struct {
		Applied []struct {
			Tenant  string
			Spare   bool
			Applied []string
		}
		Current, Failed, Unfinished []any
	}](t, succeed(t, settings, "migrate", "up", "--json", "--migrations", s.migrations))
	for _, name := range []string{"northwind", "southridge", "acme"} {
		s.customers(t, name)
		s.addCustomer(t, name, customer{Name: "After the migration", Email: "after@" + name + ".example"})
	}
	stop()

	tenants := 0
	for _, r := range report.Applied {
		if !r.Spare { // there may be one or none
			tenants++
		}
	}
	if tenants != 4 || len(report.Current)+len(report.Failed)+len(report.Unfinished) != 0 {
		t.Errorf("report: %+v", report)
	}
	for _, r := range report.Applied {
		if diff := cmp.Diff([]string{file}, r.Applied); diff != "" {
			t.Errorf("%s (-want +got):\n%s", r.Tenant, diff)
		}
	}
	status := s.status(t, settings)
	if n := len(status.Versions); status.Current != 4 || n == 0 || status.Versions[n-1] != (versionRow{file, 4, 0}) {
		t.Errorf("after: %+v", status)
	}
	s.phones(t, 4)
	// Who signs up now gets what the running program has built in.
	s.post(t, s.company(""), "/signup", signUp("Late Ltd", "late"), http.StatusCreated)
	s.phones(t, 4)
	s.seen = s.look(t)
}

type versionRow struct {
	File             string
	Applied, Pending int
}

type status struct {
	Tenants, Current int
	Versions         []versionRow
	Behind           []struct{ Tenant string }
}

func (s *story) status(tb testing.TB, settings []string) status {
	tb.Helper()
	return decode[status](tb, succeed(tb, settings, "migrate", "status", "--json", "--migrations", s.migrations))
}

// phones expects that many schemas to have the new column.
func (s *story) phones(tb testing.TB, want int) {
	tb.Helper()
	var got int
	err := pgtest.Connect(tb, s.Database).QueryRow(tb.Context(), `
		SELECT count(*) FROM leasehold.tenants AS t
		JOIN information_schema.columns AS c ON c.table_schema = t.schema_name
		WHERE c.table_name = 'customers' AND c.column_name = 'story_phone'`).Scan(&got)
	if err != nil || got != want {
		tb.Errorf("%d companies have the column, %v; want %d", got, err, want)
	}
}

// kept expects everything that was noted to be there still.
func (s *story) kept(t *testing.T) {
	if diff := cmp.Diff(s.seen, s.look(t)); diff != "" {
		t.Errorf("(-before +after):\n%s", diff)
	}
	for _, c := range s.added {
		if got := s.customer(t, "late", c.ID); got != c {
			t.Errorf("customer %d was confirmed as %v and is %v", c.ID, c, got)
		}
	}
}

func (s *story) caughtUp(t *testing.T) {
	s.phones(t, 5)
	if status := s.status(t, s.settings(t)); status.Current != 5 {
		t.Errorf("%+v", status)
	}
}

// kill ends the process without a warning while it is being written to. It returns the process id of its PostgreSQL.
func (s *story) kill(t *testing.T) int {
	t.Helper()
	pid, _ := postmaster(t, s.data)
	confirmed := make(chan customer)
	go func() {
		defer close(confirmed)
		for i := 0; ; i++ {
			c := customer{Name: fmt.Sprintf("Number %d", i), Email: "n@late.example"}
			r, err := s.send(t, http.MethodPost, s.company("late"), "/api/customers", c.json(), "Content-Type", "application/json")
			if err != nil {
				return // it was killed
			}
			if r.status != http.StatusCreated {
				t.Errorf("%d %s", r.status, r.body)
				return
			}
			if err := json.Unmarshal([]byte(r.body), &c); err != nil {
				t.Error(err)
				return
			}
			confirmed <- c
		}
	}()
	for c := range confirmed {
		s.added = append(s.added, c)
		if len(s.added) == 20 {
			s.signal(syscall.SIGKILL)
		}
	}
	if len(s.added) < 20 || s.wait().code != -1 {
		t.Fatalf("killed after %d customers: %v", len(s.added), s.cmd.ProcessState)
	}
	return pid
}

// dev does not go on without its database, and says so.
func (s *story) postgresEnds(t *testing.T) {
	pid, _ := postmaster(t, s.data)
	if err := syscall.Kill(pid, syscall.SIGQUIT); err != nil {
		t.Fatal(err)
	}
	r := s.wait()
	line := regexp.MustCompile(`(?m)^leasehold: PostgreSQL stopped by itself — .*server\.log$`)
	if r.code != 1 || len(line.FindAllString(r.stderr, -1)) != 1 || strings.Count(r.stderr, "leasehold: ") != 1 {
		t.Errorf("status %d:\n%s", r.code, r.stderr)
	}
	if err := (result{stderr: r.stderr}).betrayal(s.password(t)); err != nil {
		t.Error(err)
	}
}
