package app_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"golang.org/x/net/html"

	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/internal/app"
)

// document is a page, parsed.
type document struct {
	reply
	root *html.Node
}

func (r reply) document() document {
	r.t.Helper()
	if got := r.header.Get("Content-Type"); got != "text/html; charset=utf-8" {
		r.t.Fatalf("%s: content type %q", r.what, got)
	}
	root, err := html.Parse(strings.NewReader(r.body))
	must(r.t, err)
	return document{r, root}
}

// all returns the elements with one of the tags.
func (d document) all(tags ...string) []*html.Node {
	var found []*html.Node
	for n := range d.root.Descendants() {
		for _, tag := range tags {
			if n.Type == html.ElementNode && n.Data == tag {
				found = append(found, n)
			}
		}
	}
	return found
}

func attr(n *html.Node, name string) string {
	for _, a := range n.Attr {
		if a.Key == name {
			return a.Val
		}
	}
	return ""
}

func text(n *html.Node) string {
	var b strings.Builder
	for child := range n.Descendants() {
		if child.Type == html.TextNode {
			b.WriteString(child.Data)
		}
	}
	return strings.Join(strings.Fields(b.String()), " ")
}

// values are what the inputs of the page hold, in order, by name.
func (d document) values() url.Values {
	values := url.Values{}
	for _, n := range d.all("input") {
		values.Add(attr(n, "name"), attr(n, "value"))
	}
	for _, n := range d.all("option") {
		for _, a := range n.Attr {
			if a.Key == "selected" {
				value := attr(n, "value")
				if value == "" {
					value = text(n)
				}
				values.Add(attr(n.Parent, "name"), value)
			}
		}
	}
	return values
}

// wantError checks that the input of that id is marked and described by a message.
func (d document) wantError(id string) {
	d.t.Helper()
	for _, n := range d.all("input", "select", "fieldset") {
		if attr(n, "id") != id && (n.Data != "fieldset" || id != "lines") {
			continue
		}
		for _, p := range d.all("p") {
			if attr(p, "id") == id+"-error" && attr(n, "aria-describedby") == id+"-error" && text(p) != "" {
				return
			}
		}
	}
	d.t.Errorf("%s: no message at %s", d.what, id)
}

// check checks what holds for every page.
func (d document) check(company string) {
	d.t.Helper()
	titles, headings := d.all("title"), d.all("h1")
	if len(titles) != 1 || text(titles[0]) == "" || len(headings) != 1 {
		d.t.Errorf("%s: %d titles, %d headings", d.what, len(titles), len(headings))
	}
	if company != "" && (!strings.Contains(text(titles[0]), company) || strings.Count(d.body, html.EscapeString(company)) < 2) {
		d.t.Errorf("%s does not show the company %s", d.what, company)
	}
	labelled := map[string]bool{}
	for _, n := range d.all("label") {
		labelled[attr(n, "for")] = text(n) != ""
	}
	ids := map[string]bool{}
	for n := range d.root.Descendants() {
		id := attr(n, "id")
		if id != "" && ids[id] {
			d.t.Errorf("%s: the id %s twice", d.what, id)
		}
		ids[id] = true
		// The content security policy refuses these.
		if n.Data == "script" || n.Data == "style" || attr(n, "style") != "" {
			d.t.Errorf("%s: inline %s", d.what, n.Data)
		}
	}
	for _, n := range d.all("input", "select") {
		if !labelled[attr(n, "id")] {
			d.t.Errorf("%s: the input %s has no label", d.what, attr(n, "name"))
		}
	}
}

// Every page that a link leads to is there, shows the company and is well formed.
func TestEveryLink(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	c := s.signUp(t, "acme")
	empty := s.signUp(t, "globex")
	must(t, app.Seed(tenant.NewContext(t.Context(), c.t), s.db, today))
	for _, site := range []struct {
		company
		name     string
		atLeast  int
		notFound bool
	}{{c, "Acme Ltd", 20, false}, {empty, "Globex Ltd", 8, false}, {company{site: s, host: "example.com"}, "", 2, false}} {
		seen := map[string]bool{}
		queue := []string{"/"}
		for len(queue) > 0 {
			path := queue[0]
			queue = queue[1:]
			if seen[path] {
				continue
			}
			seen[path] = true
			r := site.get(t, path)
			if r.status == http.StatusSeeOther {
				queue = append(queue, r.header.Get("Location"))
				continue
			}
			r.want(http.StatusOK)
			if strings.HasPrefix(path, "/static/") {
				if cache := r.header.Get("Cache-Control"); !strings.Contains(cache, "immutable") {
					t.Errorf("%s: Cache-Control %q", r.what, cache)
				}
				continue
			}
			d := r.document()
			d.check(site.name)
			for _, n := range d.all("a", "link") {
				href := attr(n, "href")
				switch {
				case strings.HasPrefix(href, "?"):
					queue = append(queue, strings.SplitN(path, "?", 2)[0]+href)
				case strings.HasPrefix(href, "/"):
					queue = append(queue, href)
				case !strings.HasPrefix(href, "#"):
					t.Errorf("%s: the link %q", r.what, href)
				}
			}
		}
		if len(seen) < site.atLeast {
			t.Errorf("%s: found only %d pages: %v", site.host, len(seen), seen)
		}
	}
}

func TestErrorPages(t *testing.T) {
	t.Parallel()
	c := newCompany(t)
	for _, test := range []struct {
		method, path string
		status       int
	}{
		{"GET", "/nothing", 404}, {"GET", "/invoices/9", 404}, {"GET", "/customers/9", 404}, {"DELETE", "/invoices", 405},
		{"GET", "/invoices?status=lost", 422}, {"GET", "/customers?cursor=x", 422}, {"GET", "/invoices/9223372036854775808", 404},
		{"GET", "/static/", 404}, {"GET", "/static/x/style.css", 404}, {"GET", "/invoices/new?customer=9", 200},
		{"GET", "/signup", 404}, {"POST", "/customers/9/delete", 404}, {"POST", "/invoices/9/issue", 404},
	} {
		c.send(t, test.method, c.host, test.path, "").want(test.status).document().check("Acme Ltd")
	}
	c.send(t, "POST", c.host, "/customers", `name=A`, "Content-Type", "text/plain").want(415).document().check("Acme Ltd")
	large := "name=" + strings.Repeat("x", 1<<20)
	c.send(t, "POST", c.host, "/customers", large, "Content-Type", "application/x-www-form-urlencoded").want(413)
	c.form(t, "/invoices", "description", "a", "quantity", "1").want(400) // no prices
	c.send(t, "GET", "example.com", "/nothing", "").want(404).document().check("")
	c.send(t, "POST", "example.com", "/signup", "x", "Content-Type", "text/plain").want(415)
}

func TestCustomerPages(t *testing.T) {
	t.Parallel()
	c := newCompany(t)

	d := c.form(t, "/customers", "name", `<b>"Mia"</b>`, "email", "nobody").want(422).document()
	d.check("Acme Ltd")
	d.wantError("email")
	if got := d.values(); got.Get("name") != `<b>"Mia"</b>` || got.Get("email") != "nobody" {
		t.Errorf("shown again: %v", got)
	}
	r := c.form(t, "/customers", "name", `<b>"Mia"</b>`, "email", "mia@x.example").want(303)
	if got := r.header.Get("Location"); got != "/customers?done=saved" {
		t.Fatalf("redirected to %q", got)
	}
	d = c.get(t, "/customers?done=saved").want(200).document()
	if !strings.Contains(d.body, "The customer is saved.") || !strings.Contains(d.body, "&lt;b&gt;") {
		t.Errorf("after saving:\n%s", d.body)
	}

	d = c.form(t, "/customers/1", "name", "", "email", "mia@y.example").want(422).document()
	d.check("Acme Ltd")
	d.wantError("name")
	c.form(t, "/customers/1", "name", "Mia", "email", "mia@y.example").want(303)
	c.form(t, "/customers/2", "name", "", "email", "").want(404)
	c.form(t, "/customers/2", "name", "Mia", "email", "mia@y.example").want(404)
	if got := c.get(t, "/customers/1").want(200).document().values(); got.Get("email") != "mia@y.example" {
		t.Errorf("changed to %v", got)
	}

	c.draft(t, oneLine) // of another customer, 2
	d = c.form(t, "/customers/2/delete").want(409).document()
	d.check("Acme Ltd")
	if !strings.Contains(d.body, "This customer has invoices and cannot be deleted.") {
		t.Errorf("not deleted, and why?\n%s", d.body)
	}
	c.form(t, "/customers/1/delete").want(303)
	c.get(t, "/customers/1").want(404)
	// Nobody puts words into the page with a link.
	if body := c.get(t, "/customers?done=Send+money").want(200).body; strings.Contains(body, "money") {
		t.Error("a link speaks in the page's voice")
	}
}

func TestInvoicePages(t *testing.T) {
	t.Parallel()
	c := newCompany(t)
	if d := c.get(t, "/invoices/new").want(200).document(); !strings.Contains(d.body, "No customers yet") {
		t.Error("a form without customers to choose")
	}
	c.api(t, "POST", "/api/customers", `{"name":"Mia","email":"mia@x.example"}`).want(201)

	if got := c.get(t, "/invoices/new?customer=1").want(200).document().values(); got.Get("customer_id") != "1" ||
		len(got["description"]) != 3 {
		t.Errorf("new form: %v", got)
	}
	// One more line, and nothing that was typed is lost, nor complained about yet.
	typed := []string{
		"customer_id", "1", "currency", "USD", "due_on", "2026-03-20",
		"description", "Work", "quantity", "1.5", "unit_price", "99.99",
		"description", "", "quantity", "", "unit_price", "",
		"description", "Travel", "quantity", "many", "unit_price", "1.234",
	}
	d := c.form(t, "/invoices", append(typed, "action", "add_line")...).want(200).document()
	d.check("Acme Ltd")
	got := d.values()
	if got.Get("customer_id") != "1" || got.Get("currency") != "USD" || got.Get("due_on") != "2026-03-20" ||
		strings.Join(got["description"], "|") != "Work||Travel|" || strings.Join(got["unit_price"], "|") != "99.99||1.234|" {
		t.Errorf("after one more line: %v", got)
	}
	if strings.Contains(d.body, `class="error"`) {
		t.Error("complains before it is saved")
	}

	d = c.form(t, "/invoices", append(typed, "action", "save")...).want(422).document()
	d.check("Acme Ltd")
	d.wantError("quantity-2") // the empty line is gone
	d.wantError("unit_price-2")
	d = c.form(t, "/invoices", "customer_id", "", "currency", "", "issued_on", "x").want(422).document()
	for _, id := range []string{"customer_id", "currency", "issued_on", "lines"} {
		d.wantError(id)
	}
	d = c.form(t, "/invoices", "customer_id", "77", "currency", "EUR",
		"description", "Work", "quantity", "1", "unit_price", "1").want(422).document()
	d.wantError("customer_id")

	r := c.form(t, "/invoices", "action", "save", "customer_id", "1", "currency", "USD",
		"description", "Work", "quantity", "1.5", "unit_price", " 99.99",
		"description", "", "quantity", "", "unit_price", "").want(303)
	// The id 1 went to the draft of customer 77, which was not kept.
	location := r.header.Get("Location")
	path, _, _ := strings.Cut(location, "?")
	d = c.get(t, location).want(200).document()
	d.check("Acme Ltd")
	for _, want := range []string{"The draft is saved.", "149.99 USD", "30 days after issue"} {
		if !strings.Contains(d.body, want) {
			t.Errorf("%s does not show %q", location, want)
		}
	}
	c.form(t, path+"/payments", "amount", "1", "paid_on", "").want(409).document().check("Acme Ltd")
	c.form(t, path+"/issue").want(303)
	d = c.form(t, path+"/issue").want(409).document()
	if !strings.Contains(d.body, "Only a draft can be issued") || !strings.Contains(d.body, "INV-2026-0001") {
		t.Errorf("issued twice:\n%s", d.body)
	}
	if got := d.values(); got.Get("amount") != "149.99" || got.Get("paid_on") != "2026-03-02" {
		t.Errorf("the payment form proposes %v", got)
	}
	for _, wrong := range []string{"", "0", "150", "1,50", "1.234", "-1"} {
		d = c.form(t, path+"/payments", "amount", wrong, "paid_on", "2026-03-05").want(422).document()
		d.wantError("amount")
		if got := d.values().Get("amount"); got != wrong {
			t.Errorf("typed %q, shown %q", wrong, got)
		}
	}
	c.form(t, path+"/payments", "amount", "1", "paid_on", "yesterday").want(422).document().wantError("paid_on")
	c.form(t, path+"/payments", "amount", "49.99", "paid_on", "2026-03-01").want(303)
	c.form(t, path+"/void").want(409)
	c.form(t, path+"/payments", "amount", "100", "paid_on", "2026-03-02").want(303)
	d = c.get(t, path+"?done=paid").want(200).document()
	for _, want := range []string{"The payment is recorded.", "49.99 USD", "100.00 USD", "1 Mar 2026", "paid"} {
		if !strings.Contains(d.body, want) {
			t.Errorf("the paid invoice does not show %q", want)
		}
	}
	if len(d.all("form")) != 0 {
		t.Error("a paid invoice still offers to change it")
	}
}

func TestInvoicesPage(t *testing.T) {
	t.Parallel()
	c := newCompany(t)
	must(t, app.Seed(tenant.NewContext(t.Context(), c.t), c.db, today))
	d := c.get(t, "/invoices").want(200).document()
	for _, want := range []string{"Open in EUR", "Open in USD", "overdue", "Coyote Engineering", "INV-2026-0001"} {
		if !strings.Contains(d.body, want) {
			t.Errorf("the list does not show %q", want)
		}
	}
	if n := strings.Count(d.body, `class="badge overdue"`); n != 1 { // of three that are issued
		t.Errorf("%d invoices are overdue, want 1", n)
	}
	if d := c.get(t, "/invoices?status=void").want(200).document(); strings.Count(d.body, "/invoices/3\"") != 1 ||
		strings.Contains(d.body, "/invoices/1\"") {
		t.Error("the filter does not filter")
	}
	next := ""
	for _, n := range c.get(t, "/invoices?limit=2&status=issued").want(200).document().all("a") {
		if attr(n, "rel") == "next" {
			next = attr(n, "href")
		}
	}
	if d := c.get(t, next).want(200).document(); strings.Count(d.body, `<td class="main">`) != 1 ||
		!strings.Contains(d.body, "First page") {
		t.Errorf("the second page %q:\n%s", next, d.body)
	}
}
