package app_test

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/leasehold-go/leasehold/db/directory"
	"github.com/leasehold-go/leasehold/db/tenant"
)

// LookupTXT makes a site the zone of all domains: each holds the tokens of those who claim it.
func (s *site) LookupTXT(ctx context.Context, name string) ([]string, error) {
	tenants, err := s.dir.List(ctx, directory.ListOptions{})
	if err != nil {
		return nil, err
	}
	var tokens []string
	for _, t := range tenants {
		domains, err := s.dir.Domains(ctx, t.ID)
		if err != nil {
			return nil, err
		}
		for _, d := range domains {
			if d.Record+"." == name {
				tokens = append(tokens, d.Token)
			}
		}
	}
	return tokens, nil
}

// A company's own domain is its host like any other: what is same-origin there acts, and what comes from elsewhere, be it the
// company's subdomain, does not.
func TestAnOwnDomainIsAHostLikeAnyOther(t *testing.T) {
	t.Parallel()
	acme := newCompany(t)
	globex := acme.signUp(t, "globex")
	const domain = "billing.acme.org"
	if _, err := acme.dir.AddDomain(t.Context(), acme.t.ID, domain); err != nil {
		t.Fatal(err)
	}
	acme.send(t, http.MethodGet, domain, "/customers", "", "Accept", "text/html").want(http.StatusNotFound).document()
	if _, err := acme.dir.VerifyDomain(t.Context(), acme.t.ID, domain); err != nil {
		t.Fatal(err)
	}
	own := company{acme.site, domain, acme.t}
	own.form(t, "/customers", "name", "Initech", "email", "a@initech.example").want(http.StatusSeeOther)
	if page := own.get(t, "/customers").want(http.StatusOK); !strings.Contains(page.body, "Initech") {
		t.Error("the customer is not there")
	}
	if page := globex.get(t, "/customers").want(http.StatusOK); strings.Contains(page.body, "Initech") {
		t.Error("another company has the customer")
	}
	body := encodeForm("name", "Hooli", "email", "a@hooli.example")
	post := func(want int, headers ...string) {
		t.Helper()
		headers = append(headers, "Content-Type", "application/x-www-form-urlencoded")
		own.send(t, http.MethodPost, domain+":8443", "/customers", body, headers...).want(want)
	}
	post(http.StatusSeeOther, "Origin", "https://"+domain+":8443")
	post(http.StatusForbidden, "Origin", "https://"+acme.host)
	post(http.StatusForbidden, "Origin", "https://"+globex.host)
	post(http.StatusForbidden, "Sec-Fetch-Site", "same-site")
	post(http.StatusForbidden, "Sec-Fetch-Site", "cross-site", "Origin", "https://"+acme.host)
	if policy := own.get(t, "/customers").want(http.StatusOK).header.Get("Content-Security-Policy"); strings.Contains(policy, "example.com") {
		t.Errorf("the policy lets pages of an own domain reach other hosts: %s", policy)
	}
}

// What people see who come to a company that is not served.
func TestACompanyThatIsNotServed(t *testing.T) {
	t.Parallel()
	acme := newCompany(t)
	id := acme.t.ID
	for _, step := range []struct {
		do     func(ctx context.Context) error
		status int
		says   string
	}{
		{func(ctx context.Context) error { _, err := acme.dir.Suspend(ctx, id, ""); return err }, http.StatusForbidden, "suspended"},
		{func(ctx context.Context) error {
			_, err := acme.dir.Delete(ctx, id, directory.DeleteOptions{})
			return err
		}, http.StatusGone, "closed"},
		{func(ctx context.Context) error {
			_, err := acme.dir.Delete(ctx, id, directory.DeleteOptions{Now: true})
			if err == nil {
				_, err = acme.dir.Purge(ctx)
			}
			return err
		}, http.StatusNotFound, "nothing"},
	} {
		if err := step.do(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			page := acme.send(t, method, acme.host, "/customers", "", "Accept", "text/html").want(step.status)
			if !strings.Contains(page.body, step.says) || strings.Contains(page.body, "Acme") {
				t.Errorf("%s: the page says %s", method, page.body)
			}
		}
		acme.send(t, http.MethodGet, acme.host, "/api/customers", "", "Accept", "application/json").wantProblem(step.status)
	}
}

func TestARenamedCompanyIsFound(t *testing.T) {
	t.Parallel()
	acme := newCompany(t)
	if _, err := acme.dir.Rename(t.Context(), acme.t.ID, "acme-ltd", time.Hour); err != nil {
		t.Fatal(err)
	}
	moved := acme.api(t, http.MethodPost, "/api/customers?x=1", `{"name":"Initech","email":"a@initech.example"}`).want(http.StatusPermanentRedirect)
	if got := moved.header.Get("Location"); got != "//acme-ltd.example.com/api/customers?x=1" {
		t.Errorf("Location %q", got)
	}
	renamed := company{acme.site, "acme-ltd.example.com", &tenant.Tenant{}}
	renamed.api(t, http.MethodPost, "/api/customers", `{"name":"Initech","email":"a@initech.example"}`).want(http.StatusCreated)
	renamed.get(t, "/customers").want(http.StatusOK)
	// The form of a page that was open meanwhile is refused, not lost in silence: browsers say where it came from.
	renamed.send(t, http.MethodPost, renamed.host, "/customers", encodeForm("name", "Hooli", "email", "a@hooli.example"),
		"Content-Type", "application/x-www-form-urlencoded", "Sec-Fetch-Site", "same-site", "Origin", "null").want(http.StatusForbidden)
}
