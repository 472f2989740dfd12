package app_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/internal/app"
)

func encodeForm(pairs ...string) string {
	values := url.Values{}
	for i := 0; i < len(pairs); i += 2 {
		values.Add(pairs[i], pairs[i+1])
	}
	return values.Encode()
}

type (
	listOf[T any] struct {
		Items      []T     `json:"items"`
		NextCursor *string `json:"next_cursor"`
	}
	apiCustomer struct {
		ID          int64
		Name, Email string
	}
	apiInvoice struct {
		ID         int64
		Number     *string
		Status     string
		Currency   string
		TotalCents int64 `json:"total_cents"`
		PaidCents  int64 `json:"paid_cents"`
	}
)

// Two companies sign up, do the same things in the same order, so that their rows have equal ids, and each sees its own only.
func TestTwoCompanies(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	companies := map[string]company{}
	for _, name := range []string{"acme", "globex"} {
		r := s.send(t, http.MethodPost, "example.com", "/signup",
			`{"company":"`+name+` Inc","contact_name":"Ann","contact_email":"ann@x.example","subdomain":"`+name+`"}`,
			"Content-Type", "application/json")
		out := decode[struct{ ID, Subdomain, URL string }](r.want(http.StatusCreated))
		if out.Subdomain != name || out.URL != "https://"+name+".example.com" || r.header.Get("Location") != out.URL {
			t.Errorf("signed up: %s", r.body)
		}
		if _, err := tenant.ParseID(out.ID); err != nil {
			t.Error(err)
		}
		companies[name] = company{site: s, host: name + ".example.com"}
	}
	for name, c := range companies {
		c.api(t, http.MethodPost, "/api/customers", `{"name":"Customer of `+name+`","email":"c@`+name+`.example"}`).
			want(http.StatusCreated).
			wantJSON(`{"id":1,"name":"Customer of ` + name + `","email":"c@` + name + `.example"}`)
		c.api(t, http.MethodPost, "/api/invoices", `{"customer_id":1,"currency":"EUR",
			"lines":[{"description":"Work for `+name+`","quantity":1.5,"unit_price_cents":101}]}`).
			want(http.StatusCreated)
	}
	for name, c := range companies {
		for _, path := range []string{
			"/api/customers", "/api/customers/1", "/api/invoices", "/api/invoices/1", "/api/invoices?status=draft",
			"/invoices", "/invoices/1", "/customers", "/customers/1",
		} {
			body := c.get(t, path).want(http.StatusOK).body
			for other := range companies {
				if strings.Contains(body, other) != (other == name) {
					t.Errorf("%s%s: has %q: %v", c.host, path, other, other != name)
				}
			}
		}
		// Customer 2 and invoice 2 exist nowhere.
		c.get(t, "/api/customers/2").wantProblem(http.StatusNotFound)
		c.get(t, "/api/invoices/2").wantProblem(http.StatusNotFound)
	}
	companies["acme"].api(t, http.MethodPost, "/api/invoices/1/issue", "").want(http.StatusOK)
	if r := companies["globex"].get(t, "/api/invoices/1"); !strings.Contains(r.body, `"status":"draft"`) {
		t.Errorf("issuing in one company showed in the other: %s", r.body)
	}

	// The apex has no tenant, whatever a client says; a host that nobody has taken has no pages.
	s.send(t, http.MethodGet, "example.com", "/api/customers", "", "X-Forwarded-Host", "acme.example.com").
		wantProblem(http.StatusNotFound)
	s.send(t, http.MethodGet, "initech.example.com", "/api/customers", "").want(http.StatusNotFound)
}

// The type invoice_status is another type in each company. A parameter and a result of it must survive any alternation on the
// same connections, outside and inside transactions.
func TestEnumAlternatesBetweenCompanies(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	companies := []company{s.signUp(t, "acme"), s.signUp(t, "globex"), s.signUp(t, "initech")}
	for _, c := range companies {
		must(t, app.Seed(tenant.NewContext(t.Context(), c.t), s.db, today))
	}
	want := map[string]map[string]int{
		"acme":    {"draft": 1, "issued": 3, "paid": 2, "void": 1, "": 7},
		"globex":  {"draft": 1, "issued": 3, "paid": 1, "void": 0, "": 5},
		"initech": {"draft": 1, "issued": 3, "paid": 2, "void": 1, "": 7},
	}
	for range 5 {
		for _, status := range []string{"draft", "", "issued", "paid", "void"} {
			for _, c := range companies {
				invoices := decode[listOf[apiInvoice]](c.get(t, "/api/invoices?status="+status).want(http.StatusOK))
				if got := len(invoices.Items); got != want[string(c.t.Slug)][status] {
					t.Errorf("%s: %d invoices with status %q, want %d", c.host, got, status, want[string(c.t.Slug)][status])
				}
				for _, inv := range invoices.Items {
					if status != "" && inv.Status != status {
						t.Errorf("%s: status %q in the list of %q", c.host, inv.Status, status)
					}
				}
				// Locks, compares and changes the status in a transaction; invoice 1 is paid everywhere.
				c.api(t, http.MethodPost, "/api/invoices/1/issue", "").wantProblem(http.StatusConflict)
			}
		}
	}
}

func TestSeed(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	type rows struct {
		Customers []apiCustomer
		Invoices  []apiInvoice
	}
	read := func(c company) rows {
		return rows{
			decode[listOf[apiCustomer]](c.get(t, "/api/customers").want(http.StatusOK)).Items,
			decode[listOf[apiInvoice]](c.get(t, "/api/invoices").want(http.StatusOK)).Items,
		}
	}
	var seeded []rows
	for _, name := range []string{"acme", "globex"} {
		c := s.signUp(t, name)
		ctx := tenant.NewContext(t.Context(), c.t)
		must(t, app.Seed(ctx, s.db, today))
		once := read(c)
		must(t, app.Seed(ctx, s.db, today.AddDate(0, 0, 1)))
		if diff := cmp.Diff(once, read(c)); diff != "" {
			t.Errorf("%s: seeding again changed it (-once +twice):\n%s", name, diff)
		}
		seeded = append(seeded, once)
	}
	ids := func(r rows) (customers, invoices []int64) {
		for _, c := range r.Customers {
			customers = append(customers, c.ID)
		}
		for _, inv := range r.Invoices {
			invoices = append(invoices, inv.ID)
		}
		slices.Sort(customers)
		slices.Sort(invoices)
		return customers, invoices
	}
	ac, ai := ids(seeded[0])
	gc, gi := ids(seeded[1])
	if !slices.Equal(gc, ac[:len(gc)]) || !slices.Equal(gi, ai[:len(gi)]) {
		t.Errorf("ids differ: customers %v and %v, invoices %v and %v", ac, gc, ai, gi)
	}
	for _, a := range seeded[0].Customers {
		for _, g := range seeded[1].Customers {
			if a.Name == g.Name || a.Email == g.Email {
				t.Errorf("both companies have the customer %v", a)
			}
		}
	}

	if err := app.Seed(t.Context(), s.db, today); err == nil {
		t.Error("seeded without a tenant")
	}
}

// A deferred foreign key is checked by COMMIT, after the statement itself has succeeded.
func TestDeferredForeignKeyIsAnError(t *testing.T) {
	t.Parallel()
	c := newCompany(t)
	c.api(t, http.MethodPost, "/api/invoices",
		`{"customer_id":7,"currency":"EUR","lines":[{"description":"x","quantity":1,"unit_price_cents":1}]}`).
		wantProblem(http.StatusUnprocessableEntity, "customer_id")
	c.get(t, "/api/invoices").want(http.StatusOK).wantJSON(`{"items":[],"next_cursor":null}`)

	c.api(t, http.MethodPost, "/api/customers", `{"name":"A","email":"a@b"}`).want(http.StatusCreated)
	c.api(t, http.MethodPost, "/api/invoices",
		`{"customer_id":1,"currency":"EUR","lines":[{"description":"x","quantity":1,"unit_price_cents":1}]}`).
		want(http.StatusCreated)
	c.api(t, http.MethodDelete, "/api/customers/1", "").wantProblem(http.StatusConflict)
	c.get(t, "/api/customers/1").want(http.StatusOK)
}

// A failed COPY, a failed batch and a panic leave nothing behind.
func TestNothingIsKeptOfWhatFailed(t *testing.T) {
	t.Parallel()
	c := newCompany(t)
	ctx := tenant.NewContext(t.Context(), c.t)
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic was lost")
			}
		}()
		_ = c.db.InTx(ctx, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, "INSERT INTO customers (name, email) VALUES ('A', 'a@b')"); err != nil {
				t.Error(err)
			}
			panic("in a transaction")
		})
	}()
	c.send(t, http.MethodPost, c.host, "/api/customers/import", "name,email\nA,a@b\nB,nothing\n", "Content-Type", "text/csv").
		wantProblem(http.StatusUnprocessableEntity, "customers[1].email")
	c.get(t, "/api/customers").want(http.StatusOK).wantJSON(`{"items":[],"next_cursor":null}`)
}

func TestQueriesEndWithTheRequest(t *testing.T) {
	t.Parallel()
	c := newCompany(t)
	ctx, cancel := context.WithCancel(tenant.NewContext(t.Context(), c.t))
	cancel()
	w := serve(c.app, httptest.NewRequestWithContext(ctx, http.MethodGet, "/api/customers", http.NoBody))
	if w.Body.Len() != 0 {
		t.Errorf("answered a client that is gone: %s", w.Body)
	}
	if strings.Contains(c.logs.String(), "ERROR") {
		t.Errorf("logged a client that is gone:\n%s", c.logs)
	}
}
