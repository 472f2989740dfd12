package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/leasehold-go/leasehold/db/directory"
	"github.com/leasehold-go/leasehold/db/migrate"
	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/internal/config"
)

// tenantCmd is leasehold tenant.
type tenantCmd struct {
	Create tenantCreateCmd `cmd:"" help:"Create a tenant, as sign-up does."`
	List   tenantListCmd   `cmd:"" help:"List tenants."`
	Show   tenantShowCmd   `cmd:"" help:"Show one tenant and what happened to it."`

	RotatePassword tenantRotateCmd `cmd:"" help:"Give tenants with a database of their own another password."`

	Each  tenantEachCmd  `cmd:"" help:"Run a program for each tenant."`
	Query tenantQueryCmd `cmd:"" help:"Ask each tenant the same thing, without changing anything."`
	tenantLife
	tenantTransfer
}

// buildFlags are those of commands that build a tenant.
type buildFlags struct {
	config.Database `group:"Database"`
	config.Secret   `group:"Database"`
	migrationsFlag
}

// open opens the registry for building tenants.
func (f *buildFlags) open(ctx context.Context, r *runner) (*directory.Directory, error) {
	logger := r.quiet(ctx)
	m, err := f.migrator(migrate.Config{Logger: logger})
	if err != nil {
		return nil, err
	}
	secret, err := keysOf(f.Secret)
	if err != nil {
		return nil, err
	}
	return openDirectory(ctx, f.Database, secret, m, logger)
}

type tenantCreateCmd struct {
	buildFlags

	Subdomain    string `arg:"" help:"The subdomain: lower-case letters, digits and inner hyphens, at most 40."`
	Company      string `required:"" placeholder:"NAME" help:"The company's name."`
	ContactName  string `required:"" placeholder:"NAME" help:"The person to talk to."`
	ContactEmail string `required:"" placeholder:"ADDRESS" help:"That person's e-mail address."`
	Strategy     string `enum:"schema,database," default:"" placeholder:"schema|database" help:"How to house the tenant. Defaults to what the cluster says."`
	Cluster      string `placeholder:"NAME" help:"Where to house the tenant. Defaults to the cluster with most room."`
}

// Run creates the tenant.
func (c *tenantCreateCmd) Run(ctx context.Context, r *runner) error {
	dir, err := c.open(ctx, r)
	if err != nil {
		return err
	}
	defer dir.Close()
	t, err := dir.Create(ctx, directory.NewTenant{
		Company: c.Company, ContactName: c.ContactName, ContactEmail: c.ContactEmail, Subdomain: c.Subdomain,
		Strategy: tenant.Strategy(c.Strategy), Cluster: c.Cluster,
	})
	if err != nil {
		return err
	}
	return r.print(newTenantView(t), func(w io.Writer) {
		_, _ = fmt.Fprintf(w, "created %s (%s) in %s\n", t.Slug, t.ID, home(t.Placement))
	})
}

// home says where a tenant lives: as briefly as the place allows.
func home(p tenant.Placement) string {
	where := "schema " + p.Schema
	if p.Strategy == tenant.DatabaseStrategy {
		where = "database " + p.Database
	}
	if p.Cluster != tenant.DefaultCluster {
		where += " on " + p.Cluster
	}
	return where
}

type tenantListCmd struct {
	config.Database `group:"Database"`

	Status string `enum:"provisioning,active,suspended,deleting,failed,deleted,all" default:"active" help:"Only tenants in this state: ${enum} (${default})."`
}

// Run lists tenants.
func (c *tenantListCmd) Run(ctx context.Context, r *runner) error {
	dir, err := openDirectory(ctx, c.Database, keys{}, nil, r.quiet(ctx))
	if err != nil {
		return err
	}
	defer dir.Close()
	opts := directory.ListOptions{Limit: 1000}
	if c.Status != "all" {
		opts.Status = tenant.Status(c.Status)
	}
	views := []tenantView{}
	for {
		page, err := dir.List(ctx, opts)
		if err != nil {
			return err
		}
		for _, t := range page {
			views = append(views, newTenantView(t))
		}
		if len(page) < opts.Limit {
			break
		}
		opts.After = page[len(page)-1]
	}
	return r.print(views, func(w io.Writer) {
		table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		_, _ = fmt.Fprintln(table, "SUBDOMAIN\tCOMPANY\tSTATUS\tCLUSTER\tHOUSED BY\tSCHEMA\tCREATED")
		for _, v := range views {
			_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", v.Subdomain, v.Company, v.Status, v.Cluster, v.Strategy, v.Schema,
				v.CreatedAt.Format(time.DateTime))
		}
		_ = table.Flush()
		_, _ = fmt.Fprintf(w, "%d in all\n", len(views))
	})
}

type tenantShowCmd struct {
	oneTenant
}

// Run shows a tenant.
func (c *tenantShowCmd) Run(ctx context.Context, r *runner) error {
	dir, t, err := c.open(ctx, r)
	if err != nil {
		return err
	}
	defer dir.Close()
	events, err := dir.Events(ctx, t.ID)
	if err != nil {
		return err
	}
	domains, err := dir.Domains(ctx, t.ID)
	if err != nil {
		return err
	}
	view := newTenantView(t)
	for _, e := range events {
		view.Events = append(view.Events, eventView{At: e.At, Kind: string(e.Kind), Detail: e.Detail})
	}
	for _, d := range domains {
		view.Domains = append(view.Domains, newDomainView(d))
	}
	if t.Status == tenant.Deleting {
		deletions, err := dir.Deletions(ctx)
		if err != nil {
			return err
		}
		for _, d := range deletions {
			if d.Tenant.ID == t.ID {
				view.DeleteAfter = d.After
			}
		}
	}
	moves, err := dir.Moves(ctx)
	if err != nil {
		return err
	}
	for _, m := range moves {
		if m.Tenant.ID == t.ID {
			move := newMoveView(m)
			view.Move = &move
		}
	}
	return r.print(view, func(w io.Writer) { view.write(w) })
}

// find looks a tenant up by its subdomain, or by its id.
func find(ctx context.Context, dir *directory.Directory, name string) (*tenant.Tenant, error) {
	if id, err := tenant.ParseID(name); err == nil {
		return dir.ByID(ctx, id)
	}
	slug, err := tenant.ParseSlug(name)
	if err != nil {
		return nil, err
	}
	return dir.BySlug(ctx, slug)
}

// tenantView is a tenant as commands print it.
type tenantView struct {
	ID           tenant.ID    `json:"id"`
	Subdomain    tenant.Slug  `json:"subdomain"`
	Company      string       `json:"company"`
	ContactName  string       `json:"contact_name"`
	ContactEmail string       `json:"contact_email"`
	Status       string       `json:"status"`
	Cluster      string       `json:"cluster"`
	Strategy     string       `json:"strategy"`
	Database     string       `json:"database"`
	Schema       string       `json:"schema"`
	Role         string       `json:"role"`
	Login        string       `json:"login"` // "" is the default one
	Generation   int64        `json:"generation"`
	CreatedAt    time.Time    `json:"created_at"`
	UpdatedAt    time.Time    `json:"updated_at"`
	DeleteAfter  time.Time    `json:"delete_after,omitzero"` // of one that is to be deleted
	Move         *moveView    `json:"move,omitempty"`        // that is not over
	Domains      []domainView `json:"domains,omitempty"`
	Events       []eventView  `json:"events,omitempty"`
}

type eventView struct {
	At     time.Time `json:"at"`
	Kind   string    `json:"kind"`
	Detail string    `json:"detail,omitempty"`
}

func newTenantView(t *tenant.Tenant) tenantView {
	return tenantView{
		ID: t.ID, Subdomain: t.Slug, Company: t.Company, ContactName: t.ContactName, ContactEmail: t.ContactEmail,
		Status: string(t.Status), Cluster: t.Placement.Cluster, Strategy: string(t.Placement.Strategy),
		Database: t.Placement.Database, Schema: t.Placement.Schema, Role: t.Placement.Role, Login: t.Placement.Login,
		Generation: t.Generation, CreatedAt: t.CreatedAt, UpdatedAt: t.UpdatedAt,
	}
}

func (v tenantView) write(w io.Writer) {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	lines := [][2]string{
		{"subdomain", string(v.Subdomain)}, {"company", v.Company}, {"contact", v.ContactName + " <" + v.ContactEmail + ">"},
		{"status", v.Status}, {"id", v.ID.String()}, {"cluster", v.Cluster}, {"strategy", v.Strategy}, {"database", v.Database},
		{"schema", v.Schema}, {"role", v.Role}, {"login", cmp.Or(v.Login, "(default)")}, {"generation", fmt.Sprint(v.Generation)},
		{"created", v.CreatedAt.Format(time.DateTime)}, {"updated", v.UpdatedAt.Format(time.DateTime)},
	}
	if !v.DeleteAfter.IsZero() {
		lines = append(lines, [2]string{"data dropped after", v.DeleteAfter.Format(time.DateTime)})
	}
	if v.Move != nil {
		lines = append(lines, [2]string{"move", fmt.Sprintf("%s: from %s to %s; to end it: %s", v.Move.State, v.Move.From, v.Move.To, v.Move.next())})
	}
	for _, d := range v.Domains {
		text := d.Domain
		if d.VerifiedAt == nil {
			text += " (not verified)"
		}
		lines = append(lines, [2]string{"domain", text})
	}
	for _, line := range lines {
		_, _ = fmt.Fprintf(table, "%s\t%s\n", line[0], line[1])
	}
	for i, e := range v.Events {
		label := ""
		if i == 0 {
			label = "events"
		}
		_, _ = fmt.Fprintf(table, "%s\t%s\n", label, strings.TrimRight(e.At.Format(time.DateTime)+"  "+e.Kind+"  "+e.Detail, " "))
	}
	_ = table.Flush()
}
