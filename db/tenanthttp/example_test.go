package tenanthttp_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"

	"github.com/gorilla/mux"

	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/db/tenanthttp"
)

// The middleware wraps the whole router, and handlers read the tenant from their context.
func Example() {
	directory := registry{"acme": {Slug: "acme", Company: "Acme Ltd", Status: tenant.Active}}

	router := mux.NewRouter()
	router.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		t, err := tenant.FromContext(r.Context())
		if err != nil {
			_, _ = fmt.Fprintln(w, "Sign up!")
			return
		}
		_, _ = fmt.Fprintln(w, "Welcome to", t.Company)
	})

	mw, err := tenanthttp.New(directory, tenanthttp.Config{BaseDomains: []string{"example.com"}})
	if err != nil {
		fmt.Println(err)
		return
	}
	handler := mw.Handler(router)

	for _, host := range []string{"example.com", "acme.example.com", "nobody.example.com"} {
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequestWithContext(context.Background(), http.MethodGet, "http://"+host+"/", nil))
		fmt.Print(w.Code, " ", w.Body)
	}
	// Output:
	// 200 Sign up!
	// 200 Welcome to Acme Ltd
	// 404 There is nothing at this address.
}
