package app

import (
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

const (
	// blankLines is how many lines a new form offers.
	blankLines = 3
	// maxCustomerChoices bounds the customers that the form offers. Any other is reached from the list of customers.
	maxCustomerChoices = 1000
)

// currencies are what the form offers; the API takes any code.
var currencies = []string{"EUR", "USD", "GBP", "CHF"}

// draftForm is the page that writes a new invoice.
type draftForm struct {
	Form       form
	Lines      []lineForm
	Customers  []customer
	Currencies []string
}

// lineForm is a line as it was typed. Errors are by the names that the API uses.
type lineForm struct {
	Description, Quantity, UnitPrice string
	Errors                           map[string]string
}

func (l lineForm) blank() bool { return l.Description == "" && l.Quantity == "" && l.UnitPrice == "" }

func (a *app) newInvoicePage(w http.ResponseWriter, r *http.Request) error {
	f := draftForm{
		Form:  form{Values: map[string]string{"currency": currencies[0], "customer_id": r.URL.Query().Get("customer")}},
		Lines: make([]lineForm, blankLines),
	}
	return a.renderDraft(w, r, http.StatusOK, readID(r.URL.Query(), "customer"), f)
}

// renderDraft shows the form. The chosen customer is among the choices even if there are too many to list.
func (a *app) renderDraft(w http.ResponseWriter, r *http.Request, status int, chosen int64, f draftForm) error {
	customers, err := a.listCustomers(r.Context(), listing{size: maxCustomerChoices})
	if err != nil {
		return err
	}
	f.Customers, f.Currencies = customers.Items, currencies
	listed := slices.ContainsFunc(f.Customers, func(c customer) bool { return c.ID == chosen })
	if customers.NextCursor != nil && chosen != 0 && !listed {
		c, err := a.customer(r.Context(), chosen)
		if err != nil {
			return err
		}
		f.Customers = append(f.Customers, c)
	}
	p := page{Title: "New invoice", Section: "invoices", Data: f}
	if len(f.Form.Errors) > 0 {
		p.Alert = "Some fields need another look."
	}
	return a.render(w, r, status, "draft", p)
}

// createInvoiceForm saves the draft or, when asked to by its button, shows the form again with one more line.
func (a *app) createInvoiceForm(w http.ResponseWriter, r *http.Request) error {
	values, err := decodeForm(w, r)
	if err != nil {
		return err
	}
	lines, err := readLines(values)
	if err != nil {
		return err
	}
	f := draftForm{Lines: lines, Form: form{Values: map[string]string{}}}
	for _, name := range []string{"customer_id", "currency", "issued_on", "due_on"} {
		f.Form.Values[name] = values.Get(name)
	}
	chosen := readID(values, "customer_id")
	if values.Get("action") == "add_line" {
		if len(f.Lines) < maxLines {
			f.Lines = append(f.Lines, lineForm{})
		}
		return a.renderDraft(w, r, http.StatusOK, chosen, f)
	}

	f.Lines = slices.DeleteFunc(f.Lines, lineForm.blank)
	fields := fieldErrors{}
	in := invoiceInput{
		CustomerID: chosen, Currency: values.Get("currency"),
		IssuedOn: values.Get("issued_on"), DueOn: values.Get("due_on"), Lines: lineInputs(fields, f.Lines),
	}
	if len(fields) > 0 {
		in.check(fields) // adds what else is wrong
		return a.renderDraft(w, r, http.StatusUnprocessableEntity, chosen, f.withErrors(fields))
	}
	inv, err := a.createInvoice(r.Context(), in)
	if fields := fieldsOf(err); fields != nil {
		return a.renderDraft(w, r, http.StatusUnprocessableEntity, chosen, f.withErrors(fields))
	}
	if err != nil {
		return err
	}
	return redirect(w, r, "/invoices/%d?done=created", inv.ID)
}

// readLines reads the columns of the form's lines.
func readLines(values url.Values) ([]lineForm, error) {
	descriptions, quantities, prices := values["description"], values["quantity"], values["unit_price"]
	if len(descriptions) != len(quantities) || len(descriptions) != len(prices) {
		return nil, malformed("The lines of the form are incomplete.")
	}
	if len(descriptions) > maxLines {
		return nil, malformed("An invoice may have at most %d lines.", maxLines)
	}
	lines := make([]lineForm, len(descriptions))
	for i := range lines {
		lines[i] = lineForm{
			Description: strings.TrimSpace(descriptions[i]),
			Quantity:    strings.TrimSpace(quantities[i]),
			UnitPrice:   strings.TrimSpace(prices[i]),
		}
	}
	return lines, nil
}

func lineInputs(fields fieldErrors, lines []lineForm) []lineInput {
	inputs := make([]lineInput, len(lines))
	for i, line := range lines {
		inputs[i] = lineInput{
			Description:    line.Description,
			Quantity:       decimalText(line.Quantity),
			UnitPriceCents: readCents(fields, fmt.Sprintf("lines[%d].unit_price_cents", i), line.UnitPrice),
		}
	}
	return inputs
}

// withErrors puts each message where its field is.
func (f draftForm) withErrors(fields map[string]string) draftForm {
	f.Form.Errors = maps.Clone(fields)
	f.Lines = slices.Clone(f.Lines)
	for i := range f.Lines {
		f.Lines[i].Errors = map[string]string{}
		for _, name := range []string{"description", "quantity", "unit_price_cents"} {
			if message := fields["lines["+strconv.Itoa(i)+"]."+name]; message != "" {
				f.Lines[i].Errors[name] = message
			}
		}
	}
	if len(f.Lines) == 0 {
		f.Lines = make([]lineForm, blankLines)
	}
	return f
}
