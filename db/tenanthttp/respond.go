package tenanthttp

import (
	"encoding/json"
	"net/http"
	"strings"
)

// Outcome says why a request was refused.
type Outcome int

// The outcomes; the package comment says when each comes.
const (
	admitted Outcome = iota
	moved            // which is answered with a redirect, and not by Respond
	// BadHost is a request to a host that is not ours, or that names more than one host: 400.
	BadHost
	// Unknown is a host without a tenant that is or could be served: 404.
	Unknown
	// Suspended is a tenant that is kept but not served: 403.
	Suspended
	// Deleting is a tenant that is to be deleted, kept and not served: 410.
	Deleting
	// Provisioning is a tenant that is being built: 503.
	Provisioning
	// Unavailable is a tenant that cannot be looked up now: 503.
	Unavailable
)

var outcomes = [...]struct {
	name, detail string
	status       int
}{
	admitted:     {"admitted", "", http.StatusOK},
	moved:        {"moved", "", http.StatusPermanentRedirect},
	BadHost:      {"bad host", "This server does not answer for the host name in the request.", http.StatusBadRequest},
	Unknown:      {"unknown", "There is nothing at this address.", http.StatusNotFound},
	Suspended:    {"suspended", "This account is suspended.", http.StatusForbidden},
	Deleting:     {"deleting", "This account has been closed.", http.StatusGone},
	Provisioning: {"provisioning", "This account is being set up. Try again in a moment.", http.StatusServiceUnavailable},
	Unavailable:  {"unavailable", "The service is not available right now. Try again in a moment.", http.StatusServiceUnavailable},
}

// Status returns the HTTP status code that goes with the outcome.
func (o Outcome) Status() int { return outcomes[o].status }

// Detail returns a sentence for the person at the other end. It tells nothing about a tenant but the outcome.
func (o Outcome) Detail() string { return outcomes[o].detail }

// String returns the outcome's name, for logs and metrics.
func (o Outcome) String() string { return outcomes[o].name }

// Respond is the answer to a refused request unless Config.Respond is set: application/problem+json (RFC 9457) for clients
// whose Accept header lists application/json or application/problem+json, else plain text.
func Respond(w http.ResponseWriter, r *http.Request, outcome Outcome) {
	status := outcome.Status()
	if !acceptsJSON(r.Header["Accept"]) {
		http.Error(w, outcome.Detail(), status)
		return
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	// An error here means that the client is gone: there is nobody left to tell.
	_ = json.NewEncoder(w).Encode(struct {
		Type   string `json:"type"`
		Title  string `json:"title"`
		Status int    `json:"status"`
		Detail string `json:"detail"`
	}{"about:blank", http.StatusText(status), status, outcome.Detail()})
}

func acceptsJSON(accept []string) bool {
	for item := range strings.SplitSeq(strings.Join(accept, ","), ",") {
		mediaType, _, _ := strings.Cut(item, ";")
		mediaType = strings.TrimSpace(mediaType)
		if strings.EqualFold(mediaType, "application/json") || strings.EqualFold(mediaType, "application/problem+json") {
			return true
		}
	}
	return false
}
