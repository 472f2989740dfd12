// Package tenanthttp turns the host of a request into a tenant, for any net/http router. It asks a [Resolver] and knows no
// database.
//
// A [Middleware] wraps the router, so the router's own 404 and 405 are answered inside the tenant too. Middleware that is
// hung into a router (gorilla/mux: router.Use) does not run for those.
//
// # What happens to a request
//
//	host                                    outcome       answer
//	slug.base, tenant active                -             next runs, the tenant is in the request's context
//	base, www.base (Config.ApexNames)       -             next runs, no tenant in the context
//	slug.base: never existed, reserved,
//	    provisioning failed, deleted        Unknown       404, the same bytes for each
//	slug.base, tenant suspended             Suspended     403
//	slug.base, tenant to be deleted         Deleting      410
//	slug.base, tenant provisioning          Provisioning  503 and Retry-After
//	slug.base, tenant has another slug now  -             308 to the same address under the new slug
//	a name under no base domain             as for its tenant, which Config.Domains finds
//	anything else, see [Hosts.Parse]        BadHost       400
//	the resolver fails, or answers nonsense Unavailable   503 and Retry-After, details to the log only
//
// Every refusal carries Cache-Control: no-store: a name that is free today may belong to somebody tomorrow. So does the redirect of a
// renamed tenant. It keeps scheme, base domain, port, path and query, and 308 has the client send the same method and body again, so
// that nothing is lost on the way; what the new host says of the tenant counts. 410 says that the account was closed on purpose; it
// ends when the deletion is cancelled.
//
// Config.Domains is asked for no host under a base domain, whatever it would say. Without it, hosts under no base domain are BadHost.
//
// # Guarantees
//
//   - One source. The tenant comes from the host the request was sent to and from nothing else. That is the Host header; or
//     the host of the request line in an absolute-form request, where HTTP has the Host header ignored and net/http throws
//     it away; or :authority in HTTP/2. A request whose parts name different hosts is a BadHost.
//   - X-Forwarded-Host and Forwarded count only if the peer of the connection is in Config.TrustedProxies. There they take
//     the place of the host. Two of them that differ, a list, or a repeated header make a BadHost. From any other peer they
//     are ignored.
//   - What next finds in Request.Host is the host that chose the tenant.
//   - A tenant that was in the context before is gone, whatever the outcome: it reaches neither next, nor the resolver, nor
//     Config.Respond.
//   - The tenant is worked out for each request. Nothing is remembered for a connection, and nothing is cached.
//   - A reserved slug is never asked for. An answer of the resolver that is not about the slug it was asked for is refused.
//   - A panic in next, in the resolver or in Config.Respond is not caught.
//
// # Not guaranteed
//
// A trusted proxy is believed: it must set or strip both forwarded headers, or its clients choose what they say. Request.RemoteAddr
// must be the peer's, so whatever rewrites it belongs behind this middleware. All base domains name the same
// tenants: acme.example.com and acme.example.org are one. Suspended, provisioning, renamed and closing tenants answer differently
// from unknown ones, so their existence is no secret. A browser that is redirected with a form calls the request cross-origin, so an
// application that refuses those refuses it: the person sees that nothing was done.
//
// # Use
//
//	mw, err := tenanthttp.New(directory, tenanthttp.Config{
//		BaseDomains: []string{"example.com"},
//		Logger:      logger,
//	})
//	if err != nil {
//		return err
//	}
//	router := mux.NewRouter()
//	router.HandleFunc("/api/customers", listCustomers) // tenant.FromContext(r.Context())
//	server := &http.Server{Handler: mw.Handler(router)}
package tenanthttp
