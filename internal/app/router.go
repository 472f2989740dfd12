package app

import (
	"net/http"
	"slices"
	"strings"

	"github.com/gorilla/mux"
)

// handle is a handler that leaves its error to the table in problem.go.
type handle func(w http.ResponseWriter, r *http.Request) error

// routes registers handlers on a gorilla router.
type routes struct {
	app    *app
	router *mux.Router
}

func (a *app) newRoutes() routes {
	// Paths are taken as they stand: cleaning them would answer a POST to //x with a redirect.
	router := mux.NewRouter().SkipClean(true)
	router.NotFoundHandler = a.handler(func(http.ResponseWriter, *http.Request) error { return errNotFound })
	router.MethodNotAllowedHandler = a.handler(func(w http.ResponseWriter, r *http.Request) error {
		w.Header().Set("Allow", strings.Join(allowed(router, r), ", "))
		return errMethod
	})
	rs := routes{a, router}
	router.PathPrefix("/static/").Methods(http.MethodGet, http.MethodHead).Handler(a.handler(a.pages.serveStatic))
	return rs
}

func (rs routes) get(path string, h handle) {
	rs.router.Handle(path, rs.app.handler(h)).Methods(http.MethodGet, http.MethodHead)
}

func (rs routes) post(path string, h handle) {
	rs.router.Handle(path, rs.app.handler(h)).Methods(http.MethodPost)
}

func (a *app) handler(h handle) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := h(w, r); err != nil {
			a.fail(w, r, err)
		}
	})
}

// allowed returns the methods that the request's path takes.
func allowed(router *mux.Router, r *http.Request) []string {
	methods := []string{
		http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete,
	}
	return slices.DeleteFunc(methods, func(method string) bool {
		probe := r.Clone(r.Context())
		probe.Method = method
		var match mux.RouteMatch
		return !router.Match(probe, &match) || match.MatchErr != nil
	})
}

func (a *app) apexRouter() http.Handler {
	rs := a.newRoutes()
	rs.get("/", a.landingPage)
	rs.get("/signup", a.signupPage)
	rs.post("/signup", a.signUp)
	return rs.router
}

func (a *app) companyRouter() http.Handler {
	rs := a.newRoutes()
	rs.get("/api/customers", a.apiListCustomers)
	rs.post("/api/customers", a.apiCreateCustomer)
	rs.post("/api/customers/import", a.apiImportCustomers)
	rs.get("/api/customers/{id:[0-9]+}", a.apiGetCustomer)
	rs.router.Handle("/api/customers/{id:[0-9]+}", a.handler(a.apiUpdateCustomer)).Methods(http.MethodPut)
	rs.router.Handle("/api/customers/{id:[0-9]+}", a.handler(a.apiDeleteCustomer)).Methods(http.MethodDelete)
	rs.get("/api/invoices", a.apiListInvoices)
	rs.post("/api/invoices", a.apiCreateInvoice)
	rs.get("/api/invoices/{id:[0-9]+}", a.apiGetInvoice)
	rs.post("/api/invoices/{id:[0-9]+}/issue", a.apiIssueInvoice)
	rs.post("/api/invoices/{id:[0-9]+}/void", a.apiVoidInvoice)
	rs.post("/api/invoices/{id:[0-9]+}/payments", a.apiAddPayment)

	rs.get("/", a.homePage)
	rs.get("/invoices", a.invoicesPage)
	rs.post("/invoices", a.createInvoiceForm)
	rs.get("/invoices/new", a.newInvoicePage)
	rs.get("/invoices/{id:[0-9]+}", a.invoicePage)
	rs.post("/invoices/{id:[0-9]+}/issue", a.issueInvoiceForm)
	rs.post("/invoices/{id:[0-9]+}/void", a.voidInvoiceForm)
	rs.post("/invoices/{id:[0-9]+}/payments", a.addPaymentForm)
	rs.get("/customers", a.customersPage)
	rs.post("/customers", a.createCustomerForm)
	rs.get("/customers/new", a.newCustomerPage)
	rs.get("/customers/{id:[0-9]+}", a.customerPage)
	rs.post("/customers/{id:[0-9]+}", a.updateCustomerForm)
	rs.post("/customers/{id:[0-9]+}/delete", a.deleteCustomerForm)
	return rs.router
}
