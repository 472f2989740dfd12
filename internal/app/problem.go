package app

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/leasehold-go/leasehold/db/directory"
	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/db/tenantdb"
)

// Errors of this package, as the table below lists them.
var (
	errNotFound    = errors.New("not found")
	errMethod      = errors.New("method not allowed")
	errCrossOrigin = errors.New("cross-origin request")
	errMediaType   = errors.New("unsupported media type")
	errConflict    = errors.New("conflict")
	errMalformed   = errors.New("malformed request")
)

// publicError is an error whose detail is written for the client. It is of the kind that it unwraps to.
type publicError struct {
	kind   error
	detail string
}

func (e *publicError) Error() string { return e.kind.Error() + ": " + e.detail }
func (e *publicError) Unwrap() error { return e.kind }

// fieldErrors says what is wrong with a request: for each field a sentence that is fit to be shown to a person. Fields are
// named as in the API; those in a list as lines[0].quantity.
type fieldErrors map[string]string

func (e fieldErrors) Error() string {
	sentences := make([]string, 0, len(e))
	for _, field := range slices.Sorted(maps.Keys(e)) {
		sentences = append(sentences, e[field])
	}
	return strings.Join(sentences, " ")
}

// add notes why a field is refused, unless it has been refused already. The reason completes the sentence that begins with
// what the field stands for: "is missing".
func (e fieldErrors) add(field, reason string) {
	if _, found := e[field]; !found {
		e[field] = "The " + subject(field) + " " + reason + "."
	}
}

// subject is what a field is called in a sentence.
func subject(field string) string {
	switch name := field[strings.LastIndexByte(field, '.')+1:]; name {
	case "email":
		return "e-mail address"
	case "issued_on":
		return "date of issue"
	case "due_on":
		return "due date"
	case "paid_on":
		return "date of payment"
	case "lines":
		return "invoice"
	case "customers":
		return "import"
	default:
		name = strings.TrimSuffix(strings.TrimSuffix(name, "_id"), "_cents")
		return strings.ReplaceAll(name, "_", " ")
	}
}

// refused returns the fieldErrors of one field.
func refused(field, reason string) fieldErrors {
	e := fieldErrors{}
	e.add(field, reason)
	return e
}

// orNil returns e as an error, or nil when nothing is wrong.
func (e fieldErrors) orNil() error {
	if len(e) == 0 {
		return nil
	}
	return e
}

// outcomes is the one table from errors to responses; the first row that matches decides. What matches none is a fault of
// ours: 500. The detail is for the client; a publicError brings its own.
var outcomes = []struct {
	match  func(error) bool
	status int
	detail string
}{
	{is(errNotFound), http.StatusNotFound, "There is nothing at this address."},
	{is(errMethod), http.StatusMethodNotAllowed, "This address does not take this method."},
	{is(errCrossOrigin), http.StatusForbidden, "The request came from another site."},
	{is(errMediaType), http.StatusUnsupportedMediaType, "The body is of a type that this address does not take."},
	{as[*http.MaxBytesError], http.StatusRequestEntityTooLarge, "The body is too large."},
	{is(errMalformed), http.StatusBadRequest, "The request cannot be read."},
	{is(errConflict), http.StatusConflict, "The request does not fit the present state."},
	{is(directory.ErrSlugTaken), http.StatusConflict, "This subdomain is already taken."},
	{is(directory.ErrNoRoom), http.StatusServiceUnavailable, "There is no room for another company at the moment."},
	{as[fieldErrors], http.StatusUnprocessableEntity, "Some fields need another look."},
	{as[*directory.ValidationError], http.StatusUnprocessableEntity, "Some fields need another look."},
	{isUnfit, http.StatusUnprocessableEntity, "A value does not fit."},
	{is(tenantdb.ErrUnavailable), http.StatusServiceUnavailable, "This company's data cannot be reached at the moment. Try again in a while."},
	{isUnavailable, http.StatusServiceUnavailable, "The service is busy. Try again in a moment."},
	{isLost, http.StatusServiceUnavailable, "The connection to this company's data was lost. Look what is there before you try again."},
}

// retryAfter is what a 503 asks clients to wait, in seconds.
const retryAfter = "2"

func is(target error) func(error) bool {
	return func(err error) bool { return errors.Is(err, target) }
}

func as[T error](err error) bool {
	var target T
	return errors.As(err, &target)
}

// isUnfit reports data that passed our own checks and met the database's: its class 22 (data exception) or a CHECK.
func isUnfit(err error) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) && (strings.HasPrefix(pgErr.Code, "22") || pgErr.Code == codeCheckViolation)
}

// isUnavailable reports what is worth trying again a little later: no connection to be had, a server that is starting or
// stopping, a transaction that lost against another, a deadline that passed.
func isUnavailable(err error) bool {
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		switch {
		case pgErr.Code == "40001", pgErr.Code == "40P01", pgErr.Code == "55P03",
			strings.HasPrefix(pgErr.Code, "08"), strings.HasPrefix(pgErr.Code, "53"), strings.HasPrefix(pgErr.Code, "57P"):
			return true
		}
	}
	return errors.Is(err, tenantdb.ErrBusy) || errors.Is(err, tenantdb.ErrScope) || errors.Is(err, context.DeadlineExceeded) ||
		as[*pgconn.ConnectError](err)
}

// isLost reports a connection that broke while it was used: what was asked may have been done.
func isLost(err error) bool {
	return errors.Is(err, io.ErrUnexpectedEOF) || as[*net.OpError](err)
}

// problem is an RFC 9457 problem document. Errors holds a message per field.
type problem struct {
	Type   string            `json:"type"`
	Title  string            `json:"title"`
	Status int               `json:"status"`
	Detail string            `json:"detail"`
	Errors map[string]string `json:"errors,omitempty"`
}

func problemOf(err error) problem {
	status, detail := http.StatusInternalServerError, "Something went wrong on our side. It has been noted."
	for _, o := range outcomes {
		if o.match(err) {
			status, detail = o.status, o.detail
			break
		}
	}
	var public *publicError
	if status != http.StatusInternalServerError && errors.As(err, &public) {
		detail = public.detail
	}
	return problem{
		Type: "about:blank", Title: http.StatusText(status), Status: status, Detail: detail, Errors: fieldsOf(err),
	}
}

// fieldsOf returns the messages per field that err carries, or nil.
func fieldsOf(err error) map[string]string {
	var fields fieldErrors
	var invalid *directory.ValidationError
	switch {
	case errors.As(err, &fields):
		return fields
	case errors.As(err, &invalid):
		return invalid.Fields
	case errors.Is(err, directory.ErrSlugTaken):
		return map[string]string{"subdomain": "The subdomain is already taken."}
	}
	return nil
}

// fail answers a request that met err: as a problem document where a program asked, else as a page.
func (a *app) fail(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() != nil && errors.Is(err, context.Canceled) {
		return // the client is gone
	}
	p := problemOf(err)
	a.logFailure(r, p.Status, err)
	if p.Status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", retryAfter)
	}
	if wantsJSON(r) {
		w.Header().Set("Content-Type", "application/problem+json")
		writeJSON(w, p.Status, p)
		return
	}
	a.errorPage(w, r, p)
}

func (a *app) logFailure(r *http.Request, status int, err error) {
	if status < http.StatusInternalServerError && !isUnfit(err) {
		return
	}
	slug := ""
	if t, err := tenant.FromContext(r.Context()); err == nil {
		slug = string(t.Slug)
	}
	a.log.ErrorContext(r.Context(), "request failed",
		"tenant", slug, "method", r.Method, "path", r.URL.Path, "status", status, "error", err)
}

// wantsJSON reports whether the client is a program: it calls the API, or it sent JSON.
func wantsJSON(r *http.Request) bool {
	return strings.HasPrefix(r.URL.Path, "/api/") || r.URL.Path == "/api" || isJSON(r)
}

// writeJSON writes v with the given status. The content type is application/json unless it is set already. It must only be
// given what can be encoded.
func writeJSON(w http.ResponseWriter, status int, v any) {
	var body bytes.Buffer
	encoder := json.NewEncoder(&body)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil {
		http.Error(w, http.StatusText(http.StatusInternalServerError), http.StatusInternalServerError)
		return
	}
	if w.Header().Get("Content-Type") == "" {
		w.Header().Set("Content-Type", "application/json")
	}
	w.WriteHeader(status)
	_, _ = w.Write(body.Bytes()) // an error here means that the client is gone
}
