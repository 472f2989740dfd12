package app

import (
	"errors"
	"net/http"
	"net/url"
)

// customerForm is the page that makes or changes a customer; ID is 0 for a new one.
type customerForm struct {
	ID   int64
	Name string
	Form form
}

func (a *app) homePage(w http.ResponseWriter, r *http.Request) error {
	return redirect(w, r, "/invoices")
}

func (a *app) customersPage(w http.ResponseWriter, r *http.Request) error {
	l, err := parseListing(r.URL.Query())
	if err != nil {
		return err
	}
	customers, err := a.listCustomers(r.Context(), l)
	if err != nil {
		return err
	}
	return a.render(w, r, http.StatusOK, "customers", page{
		Title: "Customers", Section: "customers", Notice: noticeOf(r), Data: customers,
	})
}

func (a *app) newCustomerPage(w http.ResponseWriter, r *http.Request) error {
	return a.renderCustomer(w, r, http.StatusOK, customerForm{})
}

func (a *app) renderCustomer(w http.ResponseWriter, r *http.Request, status int, f customerForm) error {
	title := "New customer"
	if f.ID != 0 {
		title = f.Name
	}
	return a.render(w, r, status, "customer", page{Title: title, Section: "customers", Notice: noticeOf(r), Data: f})
}

func readCustomerForm(values url.Values) (customerInput, form) {
	in := customerInput{Name: values.Get("name"), Email: values.Get("email")}
	return in, form{Values: map[string]string{"name": in.Name, "email": in.Email}}
}

func (a *app) createCustomerForm(w http.ResponseWriter, r *http.Request) error {
	values, err := decodeForm(w, r)
	if err != nil {
		return err
	}
	in, f := readCustomerForm(values)
	_, err = a.createCustomer(r.Context(), in)
	if f.Errors = fieldsOf(err); f.Errors != nil {
		return a.renderCustomer(w, r, http.StatusUnprocessableEntity, customerForm{Form: f})
	}
	if err != nil {
		return err
	}
	return redirect(w, r, "/customers?done=saved")
}

func (a *app) customerPage(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r)
	if err != nil {
		return err
	}
	return a.showCustomer(w, r, http.StatusOK, id, "")
}

// showCustomer shows a customer as it is stored, with an alert if there is one.
func (a *app) showCustomer(w http.ResponseWriter, r *http.Request, status int, id int64, alert string) error {
	c, err := a.customer(r.Context(), id)
	if err != nil {
		return err
	}
	return a.render(w, r, status, "customer", page{
		Title: c.Name, Section: "customers", Notice: noticeOf(r), Alert: alert,
		Data: customerForm{ID: c.ID, Name: c.Name, Form: form{Values: map[string]string{"name": c.Name, "email": c.Email}}},
	})
}

func (a *app) updateCustomerForm(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r)
	if err != nil {
		return err
	}
	values, err := decodeForm(w, r)
	if err != nil {
		return err
	}
	in, f := readCustomerForm(values)
	_, err = a.updateCustomer(r.Context(), id, in)
	if f.Errors = fieldsOf(err); f.Errors != nil {
		c, err := a.customer(r.Context(), id)
		if err != nil {
			return err
		}
		return a.renderCustomer(w, r, http.StatusUnprocessableEntity, customerForm{ID: id, Name: c.Name, Form: f})
	}
	if err != nil {
		return err
	}
	return redirect(w, r, "/customers?done=saved")
}

func (a *app) deleteCustomerForm(w http.ResponseWriter, r *http.Request) error {
	id, err := pathID(r)
	if err != nil {
		return err
	}
	err = a.deleteCustomer(r.Context(), id)
	if errors.Is(err, errConflict) {
		p := problemOf(err)
		return a.showCustomer(w, r, p.Status, id, p.Detail)
	}
	if err != nil {
		return err
	}
	return redirect(w, r, "/customers?done=deleted")
}
