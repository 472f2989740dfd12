package app

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/leasehold-go/leasehold/internal/tenantsql"
)

// invoiceView is an invoice as pages show it.
type invoiceView struct {
	invoice
	Today string // for the comparison with due dates, as 2026-01-31
}

// Name is how people call the invoice.
func (v invoiceView) Name() string {
	if v.Number != nil {
		return *v.Number
	}
	return fmt.Sprintf("Draft %d", v.ID)
}

// OpenCents is what is left to pay.
func (v invoiceView) OpenCents() int64 { return v.TotalCents - v.PaidCents }

// State is the status, or "overdue" for an issued invoice that should have been paid by now.
func (v invoiceView) State() string {
	if v.Status == tenantsql.InvoiceStatusIssued && isoDate(v.DueOn) < v.Today {
		return "overdue"
	}
	return string(v.Status)
}

func (v invoiceView) CanIssue() bool { return v.Status == tenantsql.InvoiceStatusDraft }
func (v invoiceView) CanPay() bool   { return v.Status == tenantsql.InvoiceStatusIssued }
func (v invoiceView) CanVoid() bool {
	return v.PaidCents == 0 && (v.Status == tenantsql.InvoiceStatusDraft || v.Status == tenantsql.InvoiceStatusIssued)
}

func (a *app) view(inv invoice) invoiceView { return invoiceView{inv, isoDate(a.today())} }

type invoicesView struct {
	Sums     []tenantsql.SumOpenInvoicesRow
	Statuses []statusLink
	Status   string
	Invoices []invoiceView
	Next     string // the query of the next page
	Later    bool   // this is not the first page
}

type statusLink struct {
	Label, Query string
	Current      bool
}

func (a *app) invoicesPage(w http.ResponseWriter, r *http.Request) error {
	query := r.URL.Query()
	status, err := parseStatus(query)
	if err != nil {
		return err
	}
	l, err := parseListing(query)
	if err != nil {
		return err
	}
	v := invoicesView{Statuses: statusLinks(query.Get("status")), Status: query.Get("status"), Later: l.after.ID != 0}
	if v.Sums, err = tenantsql.New(a.db).SumOpenInvoices(r.Context(), a.today()); err != nil {
		return err
	}
	invoices, err := a.listInvoices(r.Context(), status, l)
	if err != nil {
		return err
	}
	for _, inv := range invoices.Items {
		v.Invoices = append(v.Invoices, a.view(inv))
	}
	if invoices.NextCursor != nil {
		query.Set("cursor", *invoices.NextCursor)
		query.Del("done")
		v.Next = "?" + query.Encode()
	}
	return a.render(w, r, http.StatusOK, "invoices", page{
		Title: "Invoices", Section: "invoices", Notice: noticeOf(r), Data: v,
	})
}

func statusLinks(current string) []statusLink {
	links := []statusLink{
		{Label: "All"}, {"Drafts", "draft", false}, {"Issued", "issued", false}, {"Paid", "paid", false}, {"Void", "void", false},
	}
	for i := range links {
		links[i].Current = links[i].Query == current
	}
	return links
}

type invoiceDetail struct {
	Invoice  invoiceView
	Payments []tenantsql.ListPaymentsRow
	Pay      form
}

func (a *app) invoicePage(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r)
	if err != nil {
		return err
	}
	return a.showInvoice(w, r, http.StatusOK, id, "", form{})
}

// showInvoice shows an invoice with an alert, and with the payment form as it was typed; an empty one proposes to pay all.
func (a *app) showInvoice(w http.ResponseWriter, r *http.Request, status int, id int64, alert string, pay form) error {
	inv, err := a.invoice(r.Context(), id)
	if err != nil {
		return err
	}
	payments, err := a.payments(r.Context(), id)
	if err != nil {
		return err
	}
	v := a.view(inv)
	if pay.Values == nil {
		pay.Values = map[string]string{"amount": formatDecimal(v.OpenCents(), moneyPlaces), "paid_on": v.Today}
	}
	return a.render(w, r, status, "invoice", page{
		Title: v.Name(), Section: "invoices", Notice: noticeOf(r), Alert: alert,
		Data: invoiceDetail{Invoice: v, Payments: payments, Pay: pay},
	})
}

// changed ends a form that changed an invoice: with a redirect to it, or with the page and why it was not changed.
func (a *app) changed(w http.ResponseWriter, r *http.Request, id int64, done string, err error) error {
	if errors.Is(err, errConflict) {
		p := problemOf(err)
		return a.showInvoice(w, r, p.Status, id, p.Detail, form{})
	}
	if err != nil {
		return err
	}
	return redirect(w, r, "/invoices/%d?done=%s", id, done)
}

func (a *app) issueInvoiceForm(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r)
	if err != nil {
		return err
	}
	_, err = a.issueInvoice(r.Context(), id)
	return a.changed(w, r, id, "issued", err)
}

func (a *app) voidInvoiceForm(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r)
	if err != nil {
		return err
	}
	_, err = a.voidInvoice(r.Context(), id)
	return a.changed(w, r, id, "voided", err)
}

func (a *app) addPaymentForm(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r)
	if err != nil {
		return err
	}
	values, err := decodeForm(w, r)
	if err != nil {
		return err
	}
	fields := fieldErrors{}
	in := paymentInput{AmountCents: readCents(fields, "amount_cents", values.Get("amount")), PaidOn: values.Get("paid_on")}
	if len(fields) == 0 {
		_, err = a.addPayment(r.Context(), id, in)
		errors.As(err, &fields)
	}
	if len(fields) > 0 {
		// The form asks for an amount, the API for cents.
		return a.showInvoice(w, r, http.StatusUnprocessableEntity, id, "", form{
			Values: map[string]string{"amount": values.Get("amount"), "paid_on": values.Get("paid_on")},
			Errors: map[string]string{"amount": fields["amount_cents"], "paid_on": fields["paid_on"]},
		})
	}
	return a.changed(w, r, id, "paid", err)
}

// readCents reads an amount of money as it is typed into a form: 12.50. It returns nil for nothing and for what it notes.
func readCents(fields fieldErrors, name, text string) *int64 {
	text = strings.TrimSpace(text)
	if text == "" {
		return nil
	}
	cents, err := parseDecimal(text, moneyPlaces)
	if err != nil {
		fields.add(name, err.Error())
		return nil
	}
	return &cents
}

// readID reads an id from a form or a link; zero for none.
func readID(values url.Values, name string) int64 {
	id, err := parseDecimal(values.Get(name), 0)
	if err != nil || id < 0 {
		return 0
	}
	return id
}
