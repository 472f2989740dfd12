package app

import (
	"net/http"

	"github.com/leasehold-go/leasehold/db/directory"
	"github.com/leasehold-go/leasehold/db/tenant"
)

type signupInput struct {
	Company      string `json:"company"`
	ContactName  string `json:"contact_name"`
	ContactEmail string `json:"contact_email"`
	Subdomain    string `json:"subdomain"`
}

// tenant is what is asked for. Where it lives is not the visitor's choice.
func (in signupInput) tenant() directory.NewTenant {
	return directory.NewTenant{
		Company: in.Company, ContactName: in.ContactName, ContactEmail: in.ContactEmail, Subdomain: in.Subdomain,
	}
}

type signupOutput struct {
	ID        tenant.ID   `json:"id"`
	Subdomain tenant.Slug `json:"subdomain"`
	URL       string      `json:"url"`
}

func (a *app) landingPage(w http.ResponseWriter, r *http.Request) error {
	return a.render(w, r, http.StatusOK, "landing", page{Title: "Invoices for small companies"})
}

// signupForm is the form's page. Example is a company's URL, to show where the subdomain will be seen.
type signupForm struct {
	Form    form
	Example string
}

func (a *app) signupPage(w http.ResponseWriter, r *http.Request) error {
	return a.renderSignup(w, r, http.StatusOK, form{})
}

func (a *app) renderSignup(w http.ResponseWriter, r *http.Request, status int, f form) error {
	p := page{Title: "Sign up", Data: signupForm{Form: f, Example: a.publicURL("your-company")}}
	if len(f.Errors) > 0 {
		p.Alert = "Some fields need another look."
	}
	return a.render(w, r, status, "signup", p)
}

// signUp makes a company, for a program or for a person.
func (a *app) signUp(w http.ResponseWriter, r *http.Request) error {
	var in signupInput
	if isJSON(r) {
		if err := decodeJSON(w, r, maxBody, &in); err != nil {
			return err
		}
		t, err := a.signup.Create(r.Context(), in.tenant())
		if err != nil {
			return err
		}
		out := signupOutput{ID: t.ID, Subdomain: t.Slug, URL: a.publicURL(t.Slug)}
		w.Header().Set("Location", out.URL)
		writeJSON(w, http.StatusCreated, out)
		return nil
	}
	if mediaType(r) != typeForm {
		return wrongType(typeJSON, typeForm)
	}
	values, err := decodeForm(w, r)
	if err != nil {
		return err
	}
	in = signupInput{
		Company:      values.Get("company"),
		ContactName:  values.Get("contact_name"),
		ContactEmail: values.Get("contact_email"),
		Subdomain:    values.Get("subdomain"),
	}
	t, err := a.signup.Create(r.Context(), in.tenant())
	if fields := fieldsOf(err); fields != nil {
		f := form{Errors: fields, Values: map[string]string{
			"company": in.Company, "contact_name": in.ContactName, "contact_email": in.ContactEmail, "subdomain": in.Subdomain,
		}}
		return a.renderSignup(w, r, problemOf(err).Status, f)
	}
	if err != nil {
		return err
	}
	http.Redirect(w, r, a.publicURL(t.Slug)+"/", http.StatusSeeOther)
	return nil
}
