package cli

import (
	"context"
	"fmt"
	"io"
	"net"
	"text/tabwriter"
	"time"

	"github.com/leasehold-go/leasehold/db/directory"
	"github.com/leasehold-go/leasehold/internal/config"
)

// tenantDomainCmd is leasehold tenant domain.
type tenantDomainCmd struct {
	Add    domainAddCmd    `cmd:"" help:"Claim a domain for a tenant, and show the DNS record that verifies it."`
	List   domainListCmd   `cmd:"" help:"List a tenant's domains."`
	Remove domainRemoveCmd `cmd:"" help:"Take a domain from a tenant."`
	Verify domainVerifyCmd `cmd:"" help:"Look for the DNS record; if it is there, the domain leads to the tenant."`
}

// domainArg is the domain that a command is about.
type domainArg struct {
	Domain string `arg:"" help:"The domain, such as billing.acme.example; international names in their xn-- form."`
}

type domainAddCmd struct {
	oneTenant
	domainArg
	BaseDomain []string `name:"base-domain" env:"LEASEHOLD_BASE_DOMAIN" default:"localhost" placeholder:"NAME" help:"The domains with the tenants' subdomains (${default}), which no tenant can have."`
}

// Run claims the domain.
func (c *domainAddCmd) Run(ctx context.Context, r *runner) error {
	name, err := directory.ParseDomain(c.Domain, c.BaseDomain)
	if err != nil {
		return err
	}
	dir, t, err := c.open(ctx, r)
	if err != nil {
		return err
	}
	defer dir.Close()
	domain, err := dir.AddDomain(ctx, t.ID, name)
	if err != nil {
		return err
	}
	return r.print(newDomainView(domain), func(w io.Writer) {
		if !domain.VerifiedAt.IsZero() {
			_, _ = fmt.Fprintf(w, "%s leads to %s already\n", domain.Name, t.Slug)
			return
		}
		_, _ = fmt.Fprintf(w, "1. add this record to the domain's DNS:\n\n    %s. TXT \"%s\"\n\n2. run: leasehold tenant domain verify %s %s\n",
			domain.Record, domain.Token, t.Slug, domain.Name)
	})
}

type domainListCmd struct{ oneTenant }

// Run lists the tenant's domains.
func (c *domainListCmd) Run(ctx context.Context, r *runner) error {
	dir, t, err := c.open(ctx, r)
	if err != nil {
		return err
	}
	defer dir.Close()
	domains, err := dir.Domains(ctx, t.ID)
	if err != nil {
		return err
	}
	views := make([]domainView, len(domains))
	for i, d := range domains {
		views[i] = newDomainView(d)
	}
	return r.print(views, func(w io.Writer) {
		table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		_, _ = fmt.Fprintln(table, "DOMAIN\tVERIFIED\tRECORD\tTOKEN")
		for _, v := range views {
			verified := "no"
			if v.VerifiedAt != nil {
				verified = v.VerifiedAt.Format(time.DateTime)
			}
			_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", v.Domain, verified, v.Record, v.Token)
		}
		_ = table.Flush()
		_, _ = fmt.Fprintf(w, "%d in all\n", len(views))
	})
}

type domainRemoveCmd struct {
	oneTenant
	domainArg
}

// Run takes the domain from the tenant.
func (c *domainRemoveCmd) Run(ctx context.Context, r *runner) error {
	dir, t, err := c.open(ctx, r)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := dir.RemoveDomain(ctx, t.ID, c.Domain); err != nil {
		return err
	}
	return r.print(struct {
		Removed string `json:"removed"`
	}{c.Domain}, func(w io.Writer) { _, _ = fmt.Fprintf(w, "%s does not lead to %s any more\n", c.Domain, t.Slug) })
}

type domainVerifyCmd struct {
	oneTenant
	domainArg
	DNS string `name:"dns" placeholder:"ADDR" help:"The DNS server to ask, host:port, such as the domain's own, which knows of a new record first. Defaults to this machine's."`
}

// Run looks for the record.
func (c *domainVerifyCmd) Run(ctx context.Context, r *runner) error {
	resolver, err := c.resolver()
	if err != nil {
		return err
	}
	conn, err := c.ConnConfig()
	if err != nil {
		return err
	}
	dir, err := directory.Open(ctx, directory.Config{ConnConfig: conn, TXTResolver: resolver, Logger: r.quiet(ctx)})
	if err != nil {
		return err
	}
	defer dir.Close()
	t, err := find(ctx, dir, c.Subdomain)
	if err != nil {
		return err
	}
	domain, err := dir.VerifyDomain(ctx, t.ID, c.Domain)
	if err != nil {
		return err
	}
	return r.print(newDomainView(domain), func(w io.Writer) { _, _ = fmt.Fprintf(w, "%s leads to %s\n", domain.Name, t.Slug) })
}

func (c *domainVerifyCmd) resolver() (directory.TXTResolver, error) {
	if c.DNS == "" {
		return net.DefaultResolver, nil
	}
	if _, _, err := net.SplitHostPort(c.DNS); err != nil {
		return nil, &config.Error{Setting: "--dns", Err: fmt.Errorf("%q is no address", c.DNS), Hint: "write it as host:port, such as 192.0.2.53:53"}
	}
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, c.DNS)
	}}, nil
}

// domainView is a domain as commands print it.
type domainView struct {
	Domain     string     `json:"domain"`
	Record     string     `json:"record"`
	Token      string     `json:"token"`
	VerifiedAt *time.Time `json:"verified_at"`
}

func newDomainView(d directory.Domain) domainView {
	v := domainView{Domain: d.Name, Record: d.Record, Token: d.Token}
	if !d.VerifiedAt.IsZero() {
		v.VerifiedAt = &d.VerifiedAt
	}
	return v
}
