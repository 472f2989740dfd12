package cli_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// site is a server that is reached by address, as a browser whose resolver knows every subdomain would reach it.
type site struct {
	client *http.Client
	addr   string // 127.0.0.1:port
	domain string // the base domain, with the port
}

// newSite returns the site whose public URL is given.
func newSite(tb testing.TB, public string) *site {
	tb.Helper()
	u, err := url.Parse(public)
	if err != nil || u.Port() == "" {
		tb.Fatalf("%q is no URL with a port: %v", public, err)
	}
	transport := &http.Transport{}
	tb.Cleanup(transport.CloseIdleConnections)
	return &site{
		client: &http.Client{
			Transport:     transport,
			Timeout:       patience,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		addr: "127.0.0.1:" + u.Port(), domain: u.Host,
	}
}

// company returns the host of a company; the empty name is the apex.
func (s *site) company(name string) string { return strings.TrimPrefix(name+"."+s.domain, ".") }

type response struct {
	status int
	header http.Header
	body   string
}

// send sends a request to a host. Headers are names and values in turn.
func (s *site) send(tb testing.TB, method, host, path, body string, headers ...string) (response, error) {
	tb.Helper()
	req, err := http.NewRequestWithContext(tb.Context(), method, "http://"+s.addr+path, strings.NewReader(body))
	if err != nil {
		tb.Fatal(err)
	}
	req.Host = host
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	res, err := s.client.Do(req)
	if err != nil {
		return response{}, err
	}
	defer func() { _ = res.Body.Close() }()
	content, err := io.ReadAll(res.Body)
	return response{res.StatusCode, res.Header, string(content)}, err
}

// get expects a status.
func (s *site) get(tb testing.TB, host, path string, status int) response {
	tb.Helper()
	return s.expect(tb, status, http.MethodGet, host, path, "")
}

// post sends JSON and expects a status.
func (s *site) post(tb testing.TB, host, path, body string, status int) response {
	tb.Helper()
	return s.expect(tb, status, http.MethodPost, host, path, body, "Content-Type", "application/json")
}

// form sends a form and expects a status.
func (s *site) form(tb testing.TB, host, path string, values url.Values, status int) response {
	tb.Helper()
	return s.expect(tb, status, http.MethodPost, host, path, values.Encode(), "Content-Type", "application/x-www-form-urlencoded")
}

func (s *site) expect(tb testing.TB, status int, method, host, path, body string, headers ...string) response {
	tb.Helper()
	r, err := s.send(tb, method, host, path, body, headers...)
	if err != nil {
		tb.Fatal(err)
	}
	if r.status != status {
		tb.Fatalf("%s %s%s: status %d, want %d\n%s", method, host, path, r.status, status, r.body)
	}
	return r
}

// same fails the test if the response's body is another JSON value than want. In want, null stands for any value.
func (r response) same(tb testing.TB, want string) {
	tb.Helper()
	got, wanted := decode[any](tb, r.body), decode[any](tb, want)
	if diff := cmp.Diff(wanted, blank(wanted, got)); diff != "" {
		tb.Errorf("(-want +got):\n%s", diff)
	}
}

// blank returns got without what stands where want has null.
func blank(want, got any) any {
	object, ok := want.(map[string]any)
	if !ok {
		return got
	}
	found, ok := got.(map[string]any)
	if !ok {
		return got
	}
	for name, value := range object {
		switch v, there := found[name]; {
		case value == nil && there:
			found[name] = nil
		case there:
			found[name] = blank(value, v)
		}
	}
	return got
}

// signUp is the body of a sign-up.
func signUp(company, subdomain string) string {
	body, _ := json.Marshal(map[string]string{
		"company": company, "contact_name": "Ann Arbor", "contact_email": "ann@" + subdomain + ".example", "subdomain": subdomain,
	})
	return string(body)
}

// customer is a customer as the API gives and takes it.
type customer struct {
	ID    int64  `json:"id,omitempty"`
	Name  string `json:"name"`
	Email string `json:"email"`
}

func (c customer) json() string {
	body, _ := json.Marshal(c)
	return string(body)
}

// addCustomer stores a customer and returns it with its id.
func (s *site) addCustomer(tb testing.TB, company string, c customer) customer {
	tb.Helper()
	return decode[customer](tb, s.post(tb, s.company(company), "/api/customers", c.json(), http.StatusCreated).body)
}

// customers returns all customers of a company.
func (s *site) customers(tb testing.TB, company string) []customer {
	tb.Helper()
	return decode[struct{ Items []customer }](tb, s.get(tb, s.company(company), "/api/customers?limit=100", http.StatusOK).body).Items
}

// customer returns one customer of a company.
func (s *site) customer(tb testing.TB, company string, id int64) customer {
	tb.Helper()
	path := "/api/customers/" + strconv.FormatInt(id, 10)
	return decode[customer](tb, s.get(tb, s.company(company), path, http.StatusOK).body)
}
