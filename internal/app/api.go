package app

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/leasehold-go/leasehold/internal/tenantsql"
)

func (a *app) apiListCustomers(w http.ResponseWriter, r *http.Request) error {
	l, err := parseListing(r.URL.Query())
	if err != nil {
		return err
	}
	page, err := a.listCustomers(r.Context(), l)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, page)
	return nil
}

func (a *app) apiCreateCustomer(w http.ResponseWriter, r *http.Request) error {
	var in customerInput
	if err := decodeJSON(w, r, maxBody, &in); err != nil {
		return err
	}
	c, err := a.createCustomer(r.Context(), in)
	if err != nil {
		return err
	}
	w.Header().Set("Location", fmt.Sprintf("/api/customers/%d", c.ID))
	writeJSON(w, http.StatusCreated, c)
	return nil
}

func (a *app) apiGetCustomer(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r)
	if err != nil {
		return err
	}
	c, err := a.customer(r.Context(), id)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, c)
	return nil
}

func (a *app) apiUpdateCustomer(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r)
	if err != nil {
		return err
	}
	var in customerInput
	if err := decodeJSON(w, r, maxBody, &in); err != nil {
		return err
	}
	c, err := a.updateCustomer(r.Context(), id, in)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, c)
	return nil
}

func (a *app) apiDeleteCustomer(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r)
	if err != nil {
		return err
	}
	if err := a.deleteCustomer(r.Context(), id); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// apiImportCustomers takes {"customers":[…]} or CSV with the header name,email, and stores all or none.
func (a *app) apiImportCustomers(w http.ResponseWriter, r *http.Request) error {
	var in struct {
		Customers []customerInput `json:"customers"`
	}
	var err error
	switch mediaType(r) {
	case typeJSON:
		err = decodeJSON(w, r, maxImportBody, &in)
	case typeCSV:
		in.Customers, err = readCSV(http.MaxBytesReader(w, r.Body, maxImportBody))
	default:
		err = wrongType(typeJSON, typeCSV)
	}
	if err != nil {
		return err
	}
	n, err := a.importCustomers(r.Context(), in.Customers)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusCreated, struct {
		Imported int64 `json:"imported"`
	}{n})
	return nil
}

// readCSV reads customers under the header name,email.
func readCSV(body io.Reader) ([]customerInput, error) {
	reader := csv.NewReader(body)
	reader.FieldsPerRecord = 2
	var customers []customerInput
	for first := true; ; first = false {
		record, err := reader.Read()
		var wrong *csv.ParseError
		switch {
		case errors.Is(err, io.EOF) && !first:
			return customers, nil
		case errors.Is(err, io.EOF):
			return nil, malformed("The body is empty; send CSV with the header name,email.")
		case errors.As(err, &wrong):
			return nil, malformed("The body is not valid CSV: %v.", wrong)
		case err != nil:
			return nil, err
		case first && (record[0] != "name" || record[1] != "email"):
			return nil, malformed("The first line must be the header name,email.")
		case !first:
			customers = append(customers, customerInput{Name: record[0], Email: record[1]})
		}
	}
}

// parseStatus reads the status filter; nil asks for all.
func parseStatus(query url.Values) (*tenantsql.InvoiceStatus, error) {
	status := tenantsql.InvoiceStatus(query.Get("status"))
	switch status {
	case "":
		return nil, nil
	case tenantsql.InvoiceStatusDraft, tenantsql.InvoiceStatusIssued, tenantsql.InvoiceStatusPaid, tenantsql.InvoiceStatusVoid:
		return &status, nil
	}
	return nil, refused("status", "must be draft, issued, paid or void")
}

func (a *app) apiListInvoices(w http.ResponseWriter, r *http.Request) error {
	query := r.URL.Query()
	status, err := parseStatus(query)
	if err != nil {
		return err
	}
	l, err := parseListing(query)
	if err != nil {
		return err
	}
	page, err := a.listInvoices(r.Context(), status, l)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, page)
	return nil
}

func (a *app) apiCreateInvoice(w http.ResponseWriter, r *http.Request) error {
	var in invoiceInput
	if err := decodeJSON(w, r, maxBody, &in); err != nil {
		return err
	}
	inv, err := a.createInvoice(r.Context(), in)
	if err != nil {
		return err
	}
	w.Header().Set("Location", fmt.Sprintf("/api/invoices/%d", inv.ID))
	writeJSON(w, http.StatusCreated, inv)
	return nil
}

func (a *app) apiGetInvoice(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r)
	if err != nil {
		return err
	}
	inv, err := a.invoice(r.Context(), id)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, inv)
	return nil
}

func (a *app) apiIssueInvoice(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r)
	if err != nil {
		return err
	}
	inv, err := a.issueInvoice(r.Context(), id)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, inv)
	return nil
}

func (a *app) apiVoidInvoice(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r)
	if err != nil {
		return err
	}
	inv, err := a.voidInvoice(r.Context(), id)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, inv)
	return nil
}

func (a *app) apiAddPayment(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r)
	if err != nil {
		return err
	}
	var in paymentInput
	if err := decodeJSON(w, r, maxBody, &in); err != nil {
		return err
	}
	inv, err := a.addPayment(r.Context(), id, in)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusCreated, inv)
	return nil
}
