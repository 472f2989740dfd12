package app_test

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const oneLine = `"lines":[{"description":"Work","quantity":2,"unit_price_cents":5000}]`

// draft makes customer and draft; it returns the draft's id.
func (c company) draft(t *testing.T, lines string) int64 {
	t.Helper()
	customer := decode[apiCustomer](c.api(t, http.MethodPost, "/api/customers", `{"name":"Mia","email":"mia@x.example"}`).
		want(http.StatusCreated))
	r := c.api(t, http.MethodPost, "/api/invoices", fmt.Sprintf(`{"customer_id":%d,"currency":"EUR",%s}`, customer.ID, lines))
	return decode[apiInvoice](r.want(http.StatusCreated)).ID
}

func TestCustomers(t *testing.T) {
	t.Parallel()
	c := newCompany(t)
	c.get(t, "/api/customers").want(http.StatusOK).wantJSON(`{"items":[],"next_cursor":null}`)

	r := c.api(t, http.MethodPost, "/api/customers", `{"name":" Zoë & Söhne ","email":"zoe@x.example "}`).
		want(http.StatusCreated).
		wantJSON(`{"id":1,"name":"Zoë & Söhne","email":"zoe@x.example"}`)
	if got := r.header.Get("Location"); got != "/api/customers/1" {
		t.Errorf("Location %q", got)
	}
	if got := r.header.Get("Content-Type"); got != "application/json" {
		t.Errorf("Content-Type %q", got)
	}
	c.get(t, "/api/customers/1").want(http.StatusOK).wantJSON(`{"id":1,"name":"Zoë & Söhne","email":"zoe@x.example"}`)
	c.api(t, http.MethodPut, "/api/customers/1", `{"name":"Zoë","email":"z@x.example"}`).
		want(http.StatusOK).
		wantJSON(`{"id":1,"name":"Zoë","email":"z@x.example"}`)
	c.get(t, "/api/customers").want(http.StatusOK).
		wantJSON(`{"items":[{"id":1,"name":"Zoë","email":"z@x.example"}],"next_cursor":null}`)
	if r := c.api(t, http.MethodDelete, "/api/customers/1", "").want(http.StatusNoContent); r.body != "" {
		t.Errorf("204 with the body %q", r.body)
	}
	c.get(t, "/api/customers/1").wantProblem(http.StatusNotFound)
	c.api(t, http.MethodDelete, "/api/customers/1", "").wantProblem(http.StatusNotFound)
	c.api(t, http.MethodPut, "/api/customers/1", `{"name":"Z","email":"z@x"}`).wantProblem(http.StatusNotFound)
}

func TestInvoiceShape(t *testing.T) {
	t.Parallel()
	c := newCompany(t)
	c.api(t, http.MethodPost, "/api/customers", `{"name":"Mia","email":"mia@x.example"}`).want(http.StatusCreated)
	r := c.api(t, http.MethodPost, "/api/invoices", `{
		"customer_id": 1, "currency": "EUR", "issued_on": "2026-02-01", "due_on": "2026-02-15",
		"lines": [
			{"description": "By the hour", "quantity": "1.125", "unit_price_cents": 100},
			{"description": "By the piece", "quantity": 3.50, "unit_price_cents": 1}
		]}`).want(http.StatusCreated)
	draft := `{"id":1,"number":null,"customer_id":1,"status":"draft","currency":"EUR",
		"issued_on":"2026-02-01","due_on":"2026-02-15","lines":[
			{"description":"By the hour","quantity":1.125,"unit_price_cents":100},
			{"description":"By the piece","quantity":3.5,"unit_price_cents":1}],
		"total_cents":117,"paid_cents":0}` // 112.5 and 3.5, each rounded up
	r.wantJSON(draft)
	if got := r.header.Get("Location"); got != "/api/invoices/1" {
		t.Errorf("Location %q", got)
	}
	c.get(t, "/api/invoices/1").want(http.StatusOK).wantJSON(draft)
	c.get(t, "/api/invoices").want(http.StatusOK).wantJSON(`{"items":[` + draft + `],"next_cursor":null}`)
	issued := strings.NewReplacer(`"number":null`, `"number":"INV-2026-0001"`, `"draft"`, `"issued"`).Replace(draft)
	c.api(t, http.MethodPost, "/api/invoices/1/issue", "").want(http.StatusOK).wantJSON(issued)
	paid := strings.NewReplacer(`"issued"`, `"paid"`, `"paid_cents":0`, `"paid_cents":117`).Replace(issued)
	c.api(t, http.MethodPost, "/api/invoices/1/payments", `{"amount_cents":117,"paid_on":"2026-02-10"}`).
		want(http.StatusCreated).
		wantJSON(paid)
	c.get(t, "/api/invoices?status=paid").want(http.StatusOK).wantJSON(`{"items":[` + paid + `],"next_cursor":null}`)
	c.get(t, "/api/invoices?status=issued").want(http.StatusOK).wantJSON(`{"items":[],"next_cursor":null}`)
}

// A life is a series of requests to one invoice, and what becomes of it.
func TestInvoiceLives(t *testing.T) {
	t.Parallel()
	c := newCompany(t)
	const total = 10_000
	type step struct {
		action, body string
		status       int
		field        string // of a 422
		state        string // of the invoice afterwards
		paid         int64
	}
	lives := []struct {
		name  string
		steps []step
	}{
		{"paid at once", []step{
			{"issue", "", 200, "", "issued", 0},
			{"payments", `{"amount_cents":10000,"paid_on":"2026-03-01"}`, 201, "", "paid", total},
			{"payments", `{"amount_cents":1,"paid_on":"2026-03-01"}`, 409, "", "paid", total},
			{"issue", "", 409, "", "paid", total},
			{"void", "", 409, "", "paid", total},
		}},
		{"paid in parts, never too much", []step{
			{"issue", "", 200, "", "issued", 0},
			{"payments", `{"amount_cents":10001,"paid_on":"2026-03-01"}`, 422, "amount_cents", "issued", 0},
			{"payments", `{"amount_cents":4000}`, 201, "", "issued", 4000},
			{"payments", `{"amount_cents":6001}`, 422, "amount_cents", "issued", 4000},
			{"void", "", 409, "", "issued", 4000},
			{"payments", `{"amount_cents":6000}`, 201, "", "paid", total},
		}},
		{"a draft takes no payment", []step{
			{"payments", `{"amount_cents":10000}`, 409, "", "draft", 0},
			{"void", "", 200, "", "void", 0},
			{"issue", "", 409, "", "void", 0},
			{"void", "", 409, "", "void", 0},
		}},
		{"issued, then void", []step{
			{"issue", "", 200, "", "issued", 0},
			{"issue", "", 409, "", "issued", 0},
			{"void", "", 200, "", "void", 0},
			{"payments", `{"amount_cents":10000}`, 409, "", "void", 0},
		}},
		{"bad payments", []step{
			{"issue", "", 200, "", "issued", 0},
			{"payments", `{}`, 422, "amount_cents", "issued", 0},
			{"payments", `{"amount_cents":0}`, 422, "amount_cents", "issued", 0},
			{"payments", `{"amount_cents":-5}`, 422, "amount_cents", "issued", 0},
			{"payments", `{"amount_cents":1.5}`, 422, "amount_cents", "issued", 0},
			{"payments", `{"amount_cents":"5"}`, 422, "amount_cents", "issued", 0},
			{"payments", `{"amount_cents":9223372036854775807}`, 422, "amount_cents", "issued", 0},
			{"payments", `{"amount_cents":9223372036854775808}`, 422, "amount_cents", "issued", 0},
			{"payments", `{"amount_cents":5,"paid_on":"1 March"}`, 422, "paid_on", "issued", 0},
			{"payments", `{"amount_cents":5,"paid_on":"2026-02-30"}`, 422, "paid_on", "issued", 0},
		}},
	}
	for _, life := range lives {
		t.Run(life.name, func(t *testing.T) {
			id := c.draft(t, oneLine)
			for _, step := range life.steps {
				r := c.api(t, http.MethodPost, fmt.Sprintf("/api/invoices/%d/%s", id, step.action), step.body)
				switch {
				case step.field != "":
					r.wantProblem(step.status, step.field)
				case step.status >= 400:
					r.wantProblem(step.status)
				default:
					r.want(step.status)
				}
				got := decode[apiInvoice](c.get(t, fmt.Sprintf("/api/invoices/%d", id)).want(http.StatusOK))
				if got.Status != step.state || got.PaidCents != step.paid || got.TotalCents != total {
					t.Fatalf("after %s %s: %+v", step.action, step.body, got)
				}
			}
		})
	}
}

func TestIssueSetsDates(t *testing.T) {
	t.Parallel()
	c := newCompany(t)
	type dates struct {
		Number   string
		IssuedOn string `json:"issued_on"`
		DueOn    string `json:"due_on"`
	}
	tests := []struct {
		name, given string
		want        dates
	}{
		{"neither given", "", dates{"INV-2026-0001", "2026-03-02", "2026-04-01"}},
		{"due date given", `"due_on":"2026-03-09",`, dates{"INV-2026-0002", "2026-03-02", "2026-03-09"}},
		{"date of issue given", `"issued_on":"2025-12-31",`, dates{"INV-2025-0001", "2025-12-31", "2026-01-30"}},
		{"null is not given", `"issued_on":null,"due_on":null,`, dates{"INV-2026-0003", "2026-03-02", "2026-04-01"}},
	}
	for _, test := range tests { // in order: the numbers are part of what is tested
		id := c.draft(t, test.given+oneLine)
		got := decode[dates](c.api(t, http.MethodPost, fmt.Sprintf("/api/invoices/%d/issue", id), "").want(http.StatusOK))
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
	}
}

// Requests that are refused, and why. Customer 1 and the draft 1 exist.
func TestRefusedRequests(t *testing.T) {
	t.Parallel()
	c := newCompany(t)
	c.draft(t, oneLine)
	const (
		post = http.MethodPost
		json = "application/json"
	)
	invoice := func(rest string) string { return `{"customer_id":1,"currency":"EUR",` + rest + `}` }
	line := func(l string) string { return invoice(`"lines":[` + l + `]`) }
	tests := []struct {
		name, method, path, contentType, body string
		status                                int
		fields                                []string
	}{
		{"no such path", "GET", "/api/nothing", "", "", 404, nil},
		{"the API itself", "GET", "/api", "", "", 404, nil},
		{"doubled slash", post, "//api/customers", json, `{}`, 404, nil},
		{"trailing slash", "GET", "/api/customers/", "", "", 404, nil},
		{"id is no number", "GET", "/api/customers/x", "", "", 404, nil},
		{"id is negative", "GET", "/api/customers/-1", "", "", 404, nil},
		{"id is zero", "GET", "/api/customers/0", "", "", 404, nil},
		{"id is too large", "GET", "/api/invoices/9223372036854775808", "", "", 404, nil},
		{"no such invoice", "GET", "/api/invoices/99", "", "", 404, nil},
		{"issue no such invoice", post, "/api/invoices/99/issue", "", "", 404, nil},
		{"void no such invoice", post, "/api/invoices/99/void", "", "", 404, nil},
		{"pay no such invoice", post, "/api/invoices/99/payments", json, `{"amount_cents":1}`, 404, nil},
		{"method", "DELETE", "/api/customers", "", "", 405, nil},
		{"method of an item", "PATCH", "/api/customers/1", json, `{}`, 405, nil},
		{"no content type", post, "/api/customers", "", `{"name":"A","email":"a@b"}`, 415, nil},
		{"form to the API", post, "/api/customers", "application/x-www-form-urlencoded", "name=A&email=a@b", 415, nil},
		{"text", "PUT", "/api/customers/1", "text/plain", `{}`, 415, nil},
		{"import of a type unknown", post, "/api/customers/import", "application/xml", `<a/>`, 415, nil},
		{"too large", post, "/api/customers", json, `{"name":"` + strings.Repeat("x", 1<<20) + `"}`, 413, nil},
		{"too much behind it", post, "/api/customers", json,
			`{"name":"A","email":"a@b"}` + strings.Repeat(" ", 1<<20), 413, nil},
		{"empty", post, "/api/customers", json, "", 400, nil},
		{"not JSON", post, "/api/customers", json, "name=A", 400, nil},
		{"cut off", post, "/api/customers", json, `{"name":"A"`, 400, nil},
		{"trailing data", post, "/api/customers", json, `{"name":"A","email":"a@b"}{}`, 400, nil},
		{"unknown field", post, "/api/customers", json, `{"name":"A","email":"a@b","tenant":"globex"}`, 400, nil},
		{"id is not ours to give", post, "/api/customers", json, `{"id":5,"name":"A","email":"a@b"}`, 400, nil},
		{"a list", post, "/api/customers", json, `[]`, 400, nil},
		{"wrong type", post, "/api/customers", json, `{"name":5,"email":"a@b"}`, 422, []string{"name"}},
		{"nothing given", post, "/api/customers", json, `{}`, 422, []string{"name", "email"}},
		{"blank", post, "/api/customers", json, `{"name":" ","email":" "}`, 422, []string{"name", "email"}},
		{"long name", post, "/api/customers", json,
			`{"name":"` + strings.Repeat("ü", 201) + `","email":"a@b"}`, 422, []string{"name"}},
		{"NUL", post, "/api/customers", json, `{"name":"A\u0000","email":"a@b"}`, 422, []string{"name"}},
		{"e-mail without @", post, "/api/customers", json, `{"name":"A","email":"a"}`, 422, []string{"email"}},
		{"e-mail with two @", "PUT", "/api/customers/1", json, `{"name":"A","email":"a@b@c"}`, 422, []string{"email"}},
		{"e-mail with a space", post, "/api/customers", json, "{\"name\":\"A\",\"email\":\"a\u00a0b@c\"}", 422, []string{"email"}},
		{"limit is zero", "GET", "/api/customers?limit=0", "", "", 422, []string{"limit"}},
		{"limit is large", "GET", "/api/invoices?limit=101", "", "", 422, []string{"limit"}},
		{"limit is no number", "GET", "/api/invoices?limit=x", "", "", 422, []string{"limit"}},
		{"cursor is made up", "GET", "/api/customers?cursor=abc", "", "", 422, []string{"cursor"}},
		{"cursor with a NUL", "GET", "/api/customers?cursor=eyJpIjoxLCJuIjoiXHUwMDAwIn0", "", "", 422, []string{"cursor"}},
		{"status unknown", "GET", "/api/invoices?status=lost", "", "", 422, []string{"status"}},
		{"status with quotes", "GET", "/api/invoices?status=" + url.QueryEscape("draft' OR true --"), "", "", 422,
			[]string{"status"}},
		{"invoice of nothing", post, "/api/invoices", json, `{}`, 422, []string{"customer_id", "currency", "lines"}},
		{"customer of nobody", post, "/api/invoices", json, `{"customer_id":42,"currency":"EUR",` + oneLine + `}`, 422,
			[]string{"customer_id"}},
		{"currency in small letters", post, "/api/invoices", json, `{"customer_id":1,"currency":"eur",` + oneLine + `}`, 422,
			[]string{"currency"}},
		{"due before issue", post, "/api/invoices", json,
			invoice(`"issued_on":"2026-02-02","due_on":"2026-02-01",` + oneLine), 422, []string{"due_on"}},
		{"no date", post, "/api/invoices", json, invoice(`"issued_on":"soon","due_on":"20260101",` + oneLine), 422,
			[]string{"issued_on", "due_on"}},
		{"line of nothing", post, "/api/invoices", json, line(`{}`), 422,
			[]string{"lines[0].description", "lines[0].quantity", "lines[0].unit_price_cents"}},
		{"second line", post, "/api/invoices", json,
			line(`{"description":"a","quantity":1,"unit_price_cents":1},{"description":"b","quantity":0,"unit_price_cents":-1}`), 422,
			[]string{"lines[1].quantity", "lines[1].unit_price_cents"}},
		{"four decimals", post, "/api/invoices", json, line(`{"description":"a","quantity":1.0001,"unit_price_cents":1}`), 422,
			[]string{"lines[0].quantity"}},
		{"exponent", post, "/api/invoices", json, line(`{"description":"a","quantity":1e400000000,"unit_price_cents":1}`), 422,
			[]string{"lines[0].quantity"}},
		{"quantity is a list", post, "/api/invoices", json, line(`{"description":"a","quantity":[1],"unit_price_cents":1}`), 422,
			[]string{"lines[0].quantity"}},
		{"quantity is words", post, "/api/invoices", json, line(`{"description":"a","quantity":"many","unit_price_cents":1}`), 422,
			[]string{"lines[0].quantity"}},
		{"quantity is too large", post, "/api/invoices", json,
			line(`{"description":"a","quantity":1000000000,"unit_price_cents":1}`), 422, []string{"lines[0].quantity"}},
		{"amount is too large", post, "/api/invoices", json,
			line(`{"description":"a","quantity":999999999.999,"unit_price_cents":1000000000000}`), 422,
			[]string{"lines[0].quantity"}},
		{"price is too large", post, "/api/invoices", json,
			line(`{"description":"a","quantity":1,"unit_price_cents":1000000000001}`), 422, []string{"lines[0].unit_price_cents"}},
		{"price of half a cent", post, "/api/invoices", json,
			line(`{"description":"a","quantity":1,"unit_price_cents":0.5}`), 422, []string{"lines.unit_price_cents"}},
		{"all for nothing", post, "/api/invoices", json, line(`{"description":"a","quantity":0.001,"unit_price_cents":1}`), 422,
			[]string{"lines"}},
		{"too many lines", post, "/api/invoices", json,
			line(strings.Repeat(`{"description":"a","quantity":1,"unit_price_cents":1},`, 200) +
				`{"description":"a","quantity":1,"unit_price_cents":1}`), 422, []string{"lines"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			headers := []string{}
			if test.contentType != "" {
				headers = append(headers, "Content-Type", test.contentType)
			}
			r := c.send(t, test.method, c.host, test.path, test.body, headers...)
			if strings.HasPrefix(test.path, "//") {
				r.want(test.status)
				return
			}
			r.wantProblem(test.status, test.fields...)
			if test.status == http.StatusMethodNotAllowed && r.header.Get("Allow") == "" {
				t.Error("405 without Allow")
			}
		})
	}
	// None of it left anything.
	if n := len(decode[listOf[apiCustomer]](c.get(t, "/api/customers")).Items); n != 1 {
		t.Errorf("%d customers", n)
	}
	if n := len(decode[listOf[apiInvoice]](c.get(t, "/api/invoices")).Items); n != 1 {
		t.Errorf("%d invoices", n)
	}
	if logs := c.logs.String(); logs != "" {
		t.Errorf("bad requests are no faults of ours:\n%s", logs)
	}
}

func TestAllow(t *testing.T) {
	t.Parallel()
	c := newCompany(t)
	for path, want := range map[string]string{
		"/api/customers":         "GET, HEAD, POST",
		"/api/customers/1":       "GET, HEAD, PUT, DELETE",
		"/api/invoices/1/issue":  "POST",
		"/invoices":              "GET, HEAD, POST",
		"/customers/1/delete":    "POST",
		"/api/invoices/1":        "GET, HEAD",
		"/api/customers/import":  "POST",
		"/customers/new":         "GET, HEAD",
		"/invoices/7/payments":   "POST",
		"/static/any/style.css":  "GET, HEAD",
		"/api/invoices/1/void":   "POST",
		"/api/invoices":          "GET, HEAD, POST",
		"/customers/9999/delete": "POST",
	} {
		r := c.send(t, http.MethodOptions, c.host, path, "").want(http.StatusMethodNotAllowed)
		if got := r.header.Get("Allow"); got != want {
			t.Errorf("%s: Allow %q, want %q", path, got, want)
		}
	}
}

func TestPaging(t *testing.T) {
	t.Parallel()
	c := newCompany(t)
	var csv strings.Builder
	csv.WriteString("name,email\n")
	const customers = 23
	for i := range customers {
		// Equal names, names that differ in case only, and one with everything that a cursor must carry.
		name := []string{"Bob", "bob", "Émile \"Ω\" Ltd", "anna", "Zed"}[i%5]
		fmt.Fprintf(&csv, "%q,c%d@x.example\n", strings.ReplaceAll(name, `"`, ``), i)
	}
	c.send(t, http.MethodPost, c.host, "/api/customers/import", csv.String(), "Content-Type", "text/csv; charset=utf-8").
		want(http.StatusCreated).
		wantJSON(fmt.Sprintf(`{"imported":%d}`, customers))
	for i := range 11 {
		c.api(t, http.MethodPost, "/api/invoices", fmt.Sprintf(`{"customer_id":%d,"currency":"EUR",%s}`, i+1, oneLine)).
			want(http.StatusCreated)
	}

	walk := func(path string, limit int) (ids []string, pages int) {
		cursor := ""
		for {
			r := c.get(t, fmt.Sprintf("%slimit=%d&cursor=%s", path, limit, url.QueryEscape(cursor))).want(http.StatusOK)
			page := decode[listOf[struct{ ID int64 }]](r)
			pages++
			if pages > 100 {
				t.Fatalf("%s: the pages do not end", r.what)
			}
			for _, item := range page.Items {
				ids = append(ids, fmt.Sprint(item.ID))
			}
			if page.NextCursor == nil {
				return ids, pages
			}
			if len(page.Items) != limit {
				t.Fatalf("%s: %d items on a page that is not the last", r.what, len(page.Items))
			}
			cursor = *page.NextCursor
		}
	}
	for _, path := range []string{"/api/customers?", "/api/invoices?", "/api/invoices?status=draft&"} {
		all, pages := walk(path, 100)
		if pages != 1 {
			t.Errorf("%s: %d pages", path, pages)
		}
		for _, limit := range []int{1, 2, 5, 11, 22, 23} {
			got, pages := walk(path, limit)
			if diff := cmp.Diff(all, got); diff != "" {
				t.Errorf("%s in pages of %d (-want +got):\n%s", path, limit, diff)
			}
			if want := (len(all) + limit - 1) / limit; pages != want {
				t.Errorf("%s in pages of %d: %d pages, want %d", path, limit, pages, want)
			}
		}
	}
	if newest, _ := walk("/api/invoices?", 3); newest[0] != "11" || newest[10] != "1" {
		t.Errorf("invoices are in the order %v, want the newest first", newest)
	}
	if drafts, _ := walk("/api/invoices?status=paid&", 3); len(drafts) != 0 {
		t.Errorf("paid invoices: %v", drafts)
	}
}

func TestImport(t *testing.T) {
	t.Parallel()
	c := newCompany(t)
	tests := []struct {
		name, contentType, body string
		status                  int
		fields                  []string
	}{
		{"JSON", "application/json", `{"customers":[{"name":"A","email":"a@x"},{"name":"B","email":"b@x"}]}`, 201, nil},
		{"CSV", "text/csv", "name,email\n\"C, with a comma\",c@x\r\nD,d@x", 201, nil},
		{"one bad of three", "application/json",
			`{"customers":[{"name":"E","email":"e@x"},{"name":"","email":"f@x"},{"name":"G","email":"g"}]}`, 422,
			[]string{"customers[1].name", "customers[2].email"}},
		{"nobody", "application/json", `{"customers":[]}`, 422, []string{"customers"}},
		{"nobody in CSV", "text/csv", "name,email\n", 422, []string{"customers"}},
		{"too many", "text/csv", "name,email\n" + strings.Repeat("A,a@x\n", 10_001), 422, []string{"customers"}},
		{"no header", "text/csv", "A,a@x\n", 400, nil},
		{"three columns", "text/csv", "name,email\nA,a@x,b\n", 400, nil},
		{"broken quotes", "text/csv", "name,email\n\"A,a@x\n", 400, nil},
		{"empty CSV", "text/csv", "", 400, nil},
		{"too large", "text/csv", "name,email\n" + strings.Repeat("A,a@x\n", 2<<20), 413, nil},
	}
	for _, test := range tests {
		r := c.send(t, http.MethodPost, c.host, "/api/customers/import", test.body, "Content-Type", test.contentType)
		if test.status == http.StatusCreated {
			r.want(test.status).wantJSON(`{"imported":2}`)
			continue
		}
		r.wantProblem(test.status, test.fields...)
	}
	var names []string
	for _, customer := range decode[listOf[apiCustomer]](c.get(t, "/api/customers").want(http.StatusOK)).Items {
		names = append(names, customer.Name)
	}
	if diff := cmp.Diff([]string{"A", "B", "C, with a comma", "D"}, names); diff != "" {
		t.Errorf("customers (-want +got):\n%s", diff)
	}
}
