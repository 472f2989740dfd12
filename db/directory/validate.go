package directory

import (
	"errors"
	"fmt"
	"net/mail"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/leasehold-go/leasehold/db/tenant"
)

// NewTenant is what somebody tells us to become a tenant. White space around each field is forgiven.
type NewTenant struct {
	// Company is the company's name, 1 to 200 characters.
	Company string
	// ContactName is the name of the person to talk to, 1 to 200 characters.
	ContactName string
	// ContactEmail is that person's e-mail address, without a display name, at most 254 bytes.
	ContactEmail string
	// Subdomain is the name that is wanted; see tenant.NewSlug.
	Subdomain string
	// Strategy is how to house the tenant. Defaults to what the cluster says.
	Strategy tenant.Strategy
	// Cluster is where to house the tenant. Defaults to the cluster with most room among those that are not draining and can be
	// reached: the one that has the smallest share of its tenants at most, or, if some have no bound, the one with the fewest
	// tenants.
	Cluster string
}

func (n NewTenant) wish() wish { return wish{cluster: n.Cluster, strategy: n.Strategy} }

// wantsSpare reports whether a tenant may be content with a spare.
func (n NewTenant) wantsSpare() bool {
	return (n.Cluster == "" || n.Cluster == tenant.DefaultCluster) && n.Strategy != tenant.DatabaseStrategy
}

const (
	maxNameChars  = 200
	maxEmailBytes = 254
)

// check returns n without surrounding white space, and the slug that its subdomain stands for. The error is a
// *ValidationError with every field that is wrong.
func (n NewTenant) check() (NewTenant, tenant.Slug, error) {
	n.Company = strings.TrimSpace(n.Company)
	n.ContactName = strings.TrimSpace(n.ContactName)
	n.ContactEmail = strings.TrimSpace(n.ContactEmail)
	fields := map[string]string{}
	complain := func(field, subject, reason string) {
		if reason != "" {
			fields[field] = fmt.Sprintf("The %s %s.", subject, reason)
		}
	}
	complain("company", "company name", checkName(n.Company))
	complain("contact_name", "contact name", checkName(n.ContactName))
	complain("contact_email", "e-mail address", checkEmail(n.ContactEmail))
	slug, err := tenant.NewSlug(n.Subdomain)
	if bad, ok := errors.AsType[*tenant.SlugError](err); ok {
		complain("subdomain", "subdomain", bad.Reason)
	} else if err != nil {
		return n, "", err
	}
	switch n.Strategy {
	case "", tenant.SchemaStrategy, tenant.DatabaseStrategy:
	default:
		complain("strategy", "strategy", fmt.Sprintf("must be %s or %s", tenant.SchemaStrategy, tenant.DatabaseStrategy))
	}
	if len(fields) > 0 {
		return n, "", &ValidationError{fields}
	}
	return n, slug, nil
}

// checkName says what is wrong with a name, or nothing.
func checkName(s string) string {
	switch {
	case s == "":
		return "is missing"
	case !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl):
		return "may not hold control characters"
	case utf8.RuneCountInString(s) > maxNameChars:
		return fmt.Sprintf("may be at most %d characters long", maxNameChars)
	}
	return ""
}

// checkEmail says what is wrong with an e-mail address, or nothing.
func checkEmail(s string) string {
	switch {
	case s == "":
		return "is missing"
	case len(s) > maxEmailBytes:
		return fmt.Sprintf("may be at most %d characters long", maxEmailBytes)
	}
	if a, err := mail.ParseAddress(s); err != nil || a.Address != s || !utf8.ValidString(s) {
		return `must look like "ann@example.com"`
	}
	return ""
}
