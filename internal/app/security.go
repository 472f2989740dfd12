package app

import (
	"net/http"
	"strings"

	"github.com/leasehold-go/leasehold/db/tenant"
)

// secured puts around h what every response needs: headers that keep a page to itself, and the refusal of requests by which
// another site, a sibling subdomain included, would act through a visitor's browser. Clients that are no browsers send
// neither Sec-Fetch-Site nor Origin and pass.
func (a *app) secured(h http.Handler) http.Handler {
	crossOrigin := http.NewCrossOriginProtection()
	crossOrigin.SetDenyHandler(a.handler(func(http.ResponseWriter, *http.Request) error { return errCrossOrigin }))
	h = crossOrigin.Handler(h)

	const policy = "default-src 'self'; object-src 'none'; base-uri 'none'; frame-ancestors 'none'; form-action 'self'"
	companies := companySources(a.publicURL)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header := w.Header()
		header.Set("X-Content-Type-Options", "nosniff")
		header.Set("Referrer-Policy", "same-origin")
		header.Set("Cross-Origin-Opener-Policy", "same-origin")
		header.Set("Cache-Control", "no-store")
		if _, err := tenant.FromContext(r.Context()); err != nil {
			header.Set("Content-Security-Policy", policy+companies)
		} else {
			header.Set("Content-Security-Policy", policy)
		}
		h.ServeHTTP(w, r)
	})
}

// companySources is the policy source for every company's host. Browsers hold the redirect after a form to form-action too,
// and sign-up redirects to the new company.
func companySources(publicURL func(tenant.Slug) string) string {
	const sample = "x"
	source, found := strings.CutPrefix(publicURL(sample), "http")
	if !found {
		return ""
	}
	return " http" + strings.Replace(source, "://"+sample+".", "://*.", 1)
}
