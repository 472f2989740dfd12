package cli_test

import (
	"net/http"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/leasehold-go/leasehold/internal/pgtest"
)

// secretKey is that of the tests' databases.
const secretKey = "a-key-that-no-output-may-show"

// startServe starts leasehold serve and returns the public and the admin site when it serves.
func startServe(t *testing.T, settings []string) (p *process, public, admin *site) {
	t.Helper()
	p = start(t, settings, append([]string{"serve"}, anyPort...)...)
	line := regexp.MustCompile(`msg=serving url=(http://\S+) listen=\S+ admin=(http://\S+)/readyz\n`)
	m := line.FindStringSubmatch(p.await(p.stderr, line.MatchString))
	return p, newSite(t, m[1]), newSite(t, m[2])
}

// An operator's day: a database of their own, two servers on it, and the commands beside them.
func TestServe(t *testing.T) {
	t.Parallel()
	databaseURL := pgtest.Database(t)
	settings := []string{"LEASEHOLD_DATABASE_URL=" + databaseURL, "LEASEHOLD_SECRET_KEY=" + secretKey}

	r := run(t, settings, append([]string{"serve"}, anyPort...)...)
	if err := r.failure(1, passwordOf(t, databaseURL), secretKey); err != nil || !strings.Contains(r.stderr, "leasehold migrate control") {
		t.Errorf("without a registry: %v in:\n%s", err, r.stderr)
	}
	succeed(t, settings, "migrate", "control")

	first, public, admin := startServe(t, settings)
	second, other, _ := startServe(t, append(settings, "LEASEHOLD_BASE_DOMAIN=companies.test,localhost"))
	for _, path := range []string{"/healthz", "/readyz"} {
		admin.get(t, admin.addr, path, http.StatusOK).same(t, `{"status":"ok"}`)
	}
	public.get(t, public.company("initech"), "/api/customers", http.StatusNotFound) // remembered for a while

	created := decode[struct{ ID, Subdomain, Status string }](t, succeed(t, settings, "tenant", "create", "--json", "initech",
		"--company", "Initech", "--contact-name", "Bill", "--contact-email", "bill@initech.example"))
	if created.Subdomain != "initech" || created.Status != "active" {
		t.Errorf("created %+v", created)
	}
	eventually(t, "the new company is served", func() bool {
		r, err := public.send(t, http.MethodGet, public.company("initech"), "/api/customers", "")
		return err == nil && r.status == http.StatusOK
	})
	c := public.addCustomer(t, "initech", customer{Name: "Chotchkie's", Email: "flair@chotchkies.example"})
	if got := other.customer(t, "initech", c.ID); got != c {
		t.Errorf("the other server shows %v", got)
	}
	other.get(t, "initech.localhost", "/api/customers/1", http.StatusOK)
	other.get(t, other.company("nobody"), "/api/customers", http.StatusNotFound)
	// Who signs up with one server is served by the other.
	public.post(t, public.company(""), "/signup", signUp("Hooli", "hooli"), http.StatusCreated)
	other.get(t, other.company("hooli"), "/api/customers", http.StatusOK)

	for _, p := range []*process{first, second} {
		p.stop(syscall.SIGTERM)
		if err := p.wait().betrayal(passwordOf(t, databaseURL), secretKey); err != nil {
			t.Errorf("%v in:\n%s", err, p.stderr)
		}
		if out := p.stdout.String(); out != "" {
			t.Errorf("serve wrote to standard output: %s", out)
		}
	}

	again, public, admin := startServe(t, settings)
	if got := public.customer(t, "initech", c.ID); got != c {
		t.Errorf("after a restart it shows %v", got)
	}
	// A server with another key is refused and locks nobody out; to change the key is a command of its own.
	const otherKey = "another-key-that-no-output-may-show"
	changed := []string{"LEASEHOLD_DATABASE_URL=" + databaseURL, "LEASEHOLD_SECRET_KEY=" + otherKey}
	r = run(t, changed, append([]string{"serve"}, anyPort...)...)
	if err := r.failure(1, otherKey, secretKey); err != nil || !strings.Contains(r.stderr, "migrate control --set-secret-key") {
		t.Errorf("with another key: %v in:\n%s", err, r.stderr)
	}
	admin.get(t, admin.addr, "/readyz", http.StatusOK)
	again.stop(os.Interrupt)
	again.wait()
	succeed(t, changed, "migrate", "control", "--set-secret-key")
	last, public, _ := startServe(t, changed)
	if got := public.customer(t, "initech", c.ID); got != c {
		t.Errorf("with the new key it shows %v", got)
	}
	last.stop(os.Interrupt)
}
