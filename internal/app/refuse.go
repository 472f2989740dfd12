package app

import (
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"html"
	"net/http"
	"strings"

	"github.com/leasehold-go/leasehold/db/tenanthttp"
)

// refusalStyle stands in the page itself, because the page is shown on hosts that serve nothing else.
const refusalStyle = "body{margin:20vh auto;max-width:30rem;padding:0 1.25rem;text-align:center;" +
	"font:16px/1.5 system-ui,sans-serif;color:#1c2321;background:#f5f7f6}p:first-child{font-weight:700;color:#5c6763}"

// refusalTitles say in plain words what the status says to a program.
var refusalTitles = map[tenanthttp.Outcome]string{
	tenanthttp.Suspended:    "Account suspended",
	tenanthttp.Deleting:     "Account closed",
	tenanthttp.Provisioning: "Account being set up",
}

// Refuse answers a request that the host middleware does not let through, with a page for browsers and as
// tenanthttp.Respond does for everyone else. It is meant for tenanthttp.Config.Respond. The page is the same for every host.
func Refuse(w http.ResponseWriter, r *http.Request, outcome tenanthttp.Outcome) {
	if !strings.Contains(r.Header.Get("Accept"), "text/html") {
		tenanthttp.Respond(w, r, outcome)
		return
	}
	hash := sha256.Sum256([]byte(refusalStyle))
	header := w.Header()
	header.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'; "+
		"style-src 'sha256-"+base64.StdEncoding.EncodeToString(hash[:])+"'")
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Content-Type", "text/html; charset=utf-8")
	title := cmp.Or(refusalTitles[outcome], http.StatusText(outcome.Status()))
	w.WriteHeader(outcome.Status())
	// An error here means that the client is gone.
	_, _ = fmt.Fprintf(w, `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>%[2]s</title>
<style>%[1]s</style>
</head>
<body>
<p>%[3]d</p>
<h1>%[2]s</h1>
<p>%[4]s</p>
</body>
</html>
`, refusalStyle, title, outcome.Status(), html.EscapeString(outcome.Detail()))
}
