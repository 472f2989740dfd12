package app_test

import (
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/leasehold-go/leasehold/db/directory"
	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/internal/pgserver"
	"github.com/leasehold-go/leasehold/internal/pgtest"
)

// patience is how long a test waits for what comes to pass by itself.
const patience = time.Minute

// The server of some companies goes down and comes back, twice: stopped in order, and killed. Their people are asked to come back, and
// the others notice nothing; nobody restarts anything.
func TestAServerOfSomeCompaniesIsDown(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	dir := t.TempDir()
	second := pgtest.Start(t, pgserver.Config{DataDir: dir})
	must(t, s.dir.AddCluster(t.Context(), directory.NewCluster{
		Name: "second", URL: second.URL(pgserver.Administrator, pgserver.Database), Strategy: tenant.DatabaseStrategy,
	}))
	on := func(subdomain, cluster string, strategy tenant.Strategy) company {
		return s.create(t, directory.NewTenant{
			Company: "The " + subdomain + " company", ContactEmail: "ann@" + subdomain + ".example", Subdomain: subdomain,
			Cluster: cluster, Strategy: strategy,
		})
	}
	here := on("here", tenant.DefaultCluster, "")
	there := []company{on("there", "second", tenant.SchemaStrategy), on("there-own", "second", "")}
	customer := `{"name":"Initech","email":"a@initech.example"}`
	for _, c := range append(there, here) {
		c.api(t, http.MethodPost, "/api/customers", customer).want(http.StatusCreated)
	}
	for _, end := range []string{"stopped", "killed"} {
		if end == "killed" {
			must(t, syscall.Kill(second.PID(), syscall.SIGKILL))
			<-second.Done()
		}
		must(t, second.Stop(t.Context()))
		for _, c := range there {
			for _, method := range []string{http.MethodGet, http.MethodPost} {
				r := c.api(t, method, "/api/customers", customer)
				r.wantProblem(http.StatusServiceUnavailable)
				if r.header.Get("Retry-After") == "" {
					t.Errorf("%s: no Retry-After", r.what)
				}
				if strings.Contains(r.body, "127.0.0.1") || strings.Contains(r.body, c.t.Placement.Database) {
					t.Errorf("%s tells of the server: %s", r.what, r.body)
				}
			}
			page := c.send(t, http.MethodGet, c.host, "/customers", "", "Accept", "text/html").want(http.StatusServiceUnavailable)
			if page.header.Get("Retry-After") == "" || !strings.Contains(page.body, "cannot be reached") {
				t.Errorf("the page says %s", page.body)
			}
			here.get(t, "/customers").want(http.StatusOK)
		}
		here.api(t, http.MethodPost, "/api/customers", customer).want(http.StatusCreated)
		s.send(t, http.MethodPost, "example.com", "/signup",
			`{"company":"New","contact_name":"Ann","contact_email":"ann@x.example","subdomain":"while-`+end+`"}`,
			"Content-Type", "application/json").want(http.StatusCreated)
		company{site: s, host: "while-" + end + ".example.com"}.get(t, "/customers").want(http.StatusOK)

		second = pgtest.Start(t, pgserver.Config{DataDir: dir})
		for _, c := range there {
			deadline := time.Now().Add(patience)
			for c.get(t, "/api/customers").status != http.StatusOK {
				if time.Now().After(deadline) {
					t.Fatalf("%s is not served although its server is back", c.host)
				}
			}
			if got := decode[listOf[apiCustomer]](c.get(t, "/api/customers").want(http.StatusOK)); len(got.Items) != 1 {
				t.Errorf("%s: %d customers, want the one from before", c.host, len(got.Items))
			}
		}
	}
}
