package app

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/gorilla/mux"
)

const (
	// maxBody bounds the body of a request, in bytes.
	maxBody = 1 << 20
	// maxImportBody bounds the body of an import, in bytes.
	maxImportBody = 8 << 20

	typeJSON = "application/json"
	typeForm = "application/x-www-form-urlencoded"
	typeCSV  = "text/csv"
)

// mediaType returns the request's content type without parameters, in lower case; empty if there is none.
func mediaType(r *http.Request) string {
	t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil {
		return ""
	}
	return t
}

func isJSON(r *http.Request) bool { return mediaType(r) == typeJSON }

func wrongType(want ...string) error {
	return &publicError{errMediaType, "Send the body as " + strings.Join(want, " or ") + "."}
}

func malformed(format string, args ...any) error {
	return &publicError{errMalformed, fmt.Sprintf(format, args...)}
}

// decodeJSON reads the body into v, strictly: the content type must be JSON, the body at most limit bytes and one value long,
// and a field that v does not have is refused.
func decodeJSON(w http.ResponseWriter, r *http.Request, limit int64, v any) error {
	if !isJSON(r) {
		return wrongType(typeJSON)
	}
	decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, limit))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(v); err != nil {
		return jsonError(err)
	}
	switch _, err := decoder.Token(); {
	case errors.Is(err, io.EOF):
		return nil
	case as[*http.MaxBytesError](err):
		return err
	}
	return malformed("The body goes on after its JSON value.")
}

func jsonError(err error) error {
	var wrong *json.UnmarshalTypeError
	var syntax *json.SyntaxError
	switch {
	case as[*http.MaxBytesError](err), as[fieldErrors](err):
		return err
	case errors.As(err, &wrong) && wrong.Field != "":
		return refused(wrong.Field, "may not be a JSON "+wrong.Value)
	case errors.As(err, &syntax):
		return malformed("The body is not valid JSON: %v at byte %d.", syntax, syntax.Offset)
	case errors.Is(err, io.EOF):
		return malformed("The body is empty; send JSON.")
	case errors.Is(err, io.ErrUnexpectedEOF):
		return malformed("The JSON of the body ends too early.")
	}
	return malformed("The body does not fit: %s.", strings.TrimPrefix(err.Error(), "json: "))
}

// decodeForm reads the body of a posted form.
func decodeForm(w http.ResponseWriter, r *http.Request) (url.Values, error) {
	if mediaType(r) != typeForm {
		return nil, wrongType(typeForm)
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	if err := r.ParseForm(); err != nil {
		if as[*http.MaxBytesError](err) {
			return nil, err
		}
		return nil, malformed("The form cannot be read.")
	}
	return r.PostForm, nil
}

// pathID returns the id in the request's path. One that is no id names nothing.
func pathID(r *http.Request) (int64, error) {
	id, err := strconv.ParseInt(mux.Vars(r)["id"], 10, 64)
	if err != nil || id == 0 {
		return 0, errNotFound
	}
	return id, nil
}

// decimalText is a decimal in JSON, written as a number or as a string, kept as it was written.
type decimalText string

// UnmarshalJSON implements json.Unmarshaler.
func (d *decimalText) UnmarshalJSON(data []byte) error {
	if len(data) > 0 && data[0] == '"' {
		return json.Unmarshal(data, (*string)(d))
	}
	if string(data) != "null" {
		*d = decimalText(data) // validation says what is wrong with anything but a number
	}
	return nil
}
