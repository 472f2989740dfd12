package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/leasehold-go/leasehold/db/directory"
	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/internal/config"
)

// tenantLife are the commands for a tenant's life after its creation.
type tenantLife struct {
	Rename  tenantRenameCmd  `cmd:"" help:"Give a tenant another subdomain; the old one redirects for a time."`
	Suspend tenantSuspendCmd `cmd:"" help:"Stop serving a tenant; its data stays."`
	Resume  tenantResumeCmd  `cmd:"" help:"Serve a suspended tenant again."`
	Delete  tenantDeleteCmd  `cmd:"" help:"Stop serving a tenant and have its data dropped after a time; or call that off."`
	Purge   tenantPurgeCmd   `cmd:"" help:"Drop the data of deleted tenants whose time is over. 'leasehold serve' does so once in an hour."`
	Domain  tenantDomainCmd  `cmd:"" help:"Tenants' own domains."`
}

const day = 24 * time.Hour

// days returns the time that a flag gives in days.
func days(flag string, n int) (time.Duration, error) {
	const most = 100 * 365
	if n < 0 || n > most {
		return 0, &config.Error{Setting: flag, Err: fmt.Errorf("is %d", n), Hint: fmt.Sprintf("write a number of days from 0 to %d", most)}
	}
	return time.Duration(n) * day, nil
}

// oneTenant is what commands that do something to one tenant are given.
type oneTenant struct {
	config.Database `group:"Database"`

	Subdomain string `arg:"" help:"The tenant's subdomain, or its id."`
}

// open opens the registry and finds the tenant. The caller closes the Directory unless there is an error.
func (c oneTenant) open(ctx context.Context, r *runner) (*directory.Directory, *tenant.Tenant, error) {
	return c.openWith(ctx, r, keys{})
}

// registeredTenant is oneTenant for commands that need the secret key.
type registeredTenant struct {
	registryFlags

	Subdomain string `arg:"" help:"The tenant's subdomain, or its id."`
}

func (c registeredTenant) open(ctx context.Context, r *runner) (*directory.Directory, *tenant.Tenant, error) {
	secret, err := keysOf(c.Secret)
	if err != nil {
		return nil, nil, err
	}
	return oneTenant{c.Database, c.Subdomain}.openWith(ctx, r, secret)
}

// openWith is open for commands that may have to do with other clusters.
func (c oneTenant) openWith(ctx context.Context, r *runner, secret keys) (*directory.Directory, *tenant.Tenant, error) {
	dir, err := openDirectory(ctx, c.Database, secret, nil, r.quiet(ctx))
	if err != nil {
		return nil, nil, err
	}
	t, err := find(ctx, dir, c.Subdomain)
	if err != nil {
		dir.Close()
		return nil, nil, err
	}
	return dir, t, nil
}

type tenantRenameCmd struct {
	oneTenant
	NewSubdomain string `arg:"" help:"The new subdomain."`
	KeepDays     int    `name:"keep-days" default:"90" placeholder:"N" help:"How many days the old subdomain redirects to the new one, and can be had by nobody else (${default}); 0 frees it at once."`
}

// Run renames the tenant.
func (c *tenantRenameCmd) Run(ctx context.Context, r *runner) error {
	keep, err := days("--keep-days", c.KeepDays)
	if err != nil {
		return err
	}
	dir, t, err := c.open(ctx, r)
	if err != nil {
		return err
	}
	defer dir.Close()
	renamed, err := dir.Rename(ctx, t.ID, c.NewSubdomain, keep)
	if err != nil {
		return err
	}
	return r.print(newTenantView(renamed), func(w io.Writer) {
		switch {
		case renamed.Slug == t.Slug:
			_, _ = fmt.Fprintf(w, "%s has that subdomain already\n", t.Slug)
		case keep == 0:
			_, _ = fmt.Fprintf(w, "renamed %s to %s; the old subdomain is free\n", t.Slug, renamed.Slug)
		default:
			_, _ = fmt.Fprintf(w, "renamed %s to %s; the old subdomain redirects until %s\n",
				t.Slug, renamed.Slug, time.Now().Add(keep).Format(time.DateOnly))
		}
	})
}

// reasonFlag says why, to whoever reads the tenant's events.
type reasonFlag struct {
	Reason string `placeholder:"TEXT" help:"Why; it stays in the tenant's events for ever, so write nothing about people."`
}

type tenantSuspendCmd struct {
	oneTenant
	reasonFlag
}

// Run suspends the tenant.
func (c *tenantSuspendCmd) Run(ctx context.Context, r *runner) error {
	dir, t, err := c.open(ctx, r)
	if err != nil {
		return err
	}
	defer dir.Close()
	return r.printStatus(dir.Suspend(ctx, t.ID, c.Reason))
}

type tenantResumeCmd struct {
	oneTenant
	reasonFlag
}

// Run resumes the tenant.
func (c *tenantResumeCmd) Run(ctx context.Context, r *runner) error {
	dir, t, err := c.open(ctx, r)
	if err != nil {
		return err
	}
	defer dir.Close()
	return r.printStatus(dir.Resume(ctx, t.ID, c.Reason))
}

func (r *runner) printStatus(t *tenant.Tenant, err error) error {
	if err != nil {
		return err
	}
	return r.print(newTenantView(t), func(w io.Writer) { _, _ = fmt.Fprintf(w, "%s is %s\n", t.Slug, t.Status) })
}

type tenantDeleteCmd struct {
	oneTenant
	config.Secret `group:"Database"`

	Export    string `type:"path" xor:"export" placeholder:"FILE" help:"Write all data to this file first, as 'leasehold tenant export' does."`
	NoExport  bool   `name:"no-export" xor:"export" help:"Delete without a copy of the data."`
	GraceDays int    `name:"grace-days" default:"30" placeholder:"N" help:"How many days the data is kept before it is dropped (${default})."`
	Now       bool   `help:"Let the next purge drop the data, without a time to think; needs --confirm."`
	Confirm   string `placeholder:"SUBDOMAIN" help:"The tenant's subdomain once more, for --now."`
	Cancel    bool   `help:"Call the deletion off. It can be until the purge has begun."`
}

// Run deletes the tenant, or calls that off.
func (c *tenantDeleteCmd) Run(ctx context.Context, r *runner) error {
	grace, err := days("--grace-days", c.GraceDays)
	if err != nil {
		return err
	}
	secret, err := optionalKeysOf(c.Secret)
	if err != nil {
		return err
	}
	dir, t, err := c.openWith(ctx, r, secret)
	if err != nil {
		return err
	}
	defer dir.Close()
	if c.Cancel {
		return r.printStatus(dir.CancelDelete(ctx, t.ID))
	}
	opts := directory.DeleteOptions{Grace: grace, Now: c.Now || grace == 0}
	switch {
	case opts.Now && c.Confirm != string(t.Slug):
		return &config.Error{
			Setting: "--confirm", Err: fmt.Errorf("is %q, and the tenant is %s", c.Confirm, t.Slug),
			Hint: "a deletion without a grace cannot be called off once a purge has begun; to go on, give --confirm " + string(t.Slug),
		}
	case opts.Now:
		opts.Grace = 0
	}
	if err := c.export(ctx, dir, t); err != nil {
		return err
	}
	deletion, err := dir.Delete(ctx, t.ID, opts)
	if err != nil {
		return err
	}
	return r.print(newDeletionView(deletion), func(w io.Writer) {
		if opts.Now {
			_, _ = fmt.Fprintf(w, "%s is not served any more; the next purge drops its data: leasehold tenant purge\n", t.Slug)
			return
		}
		_, _ = fmt.Fprintf(w, "%s is not served any more; its data is dropped after %s; to call that off: leasehold tenant delete %s --cancel\n",
			t.Slug, deletion.After.Format(time.DateTime), t.Slug)
	})
}

// export makes sure that the data is where it was asked to be before anything happens to it.
func (c *tenantDeleteCmd) export(ctx context.Context, dir *directory.Directory, t *tenant.Tenant) error {
	switch {
	case c.NoExport:
		return nil
	case c.Export == "":
		return &config.Error{
			Setting: "--export", Err: errors.New("is not given"),
			Hint: "name a file for a copy of the data, or say with --no-export that none is needed, or that you have one",
		}
	}
	_, err := dir.Export(ctx, t.ID, c.Export)
	return err
}

type tenantPurgeCmd struct {
	config.Database `group:"Database"`
	config.Secret   `group:"Database"`

	DryRun bool `name:"dry-run" help:"Only show which tenants are to be deleted, and when."`
}

// Run purges what is due.
func (c *tenantPurgeCmd) Run(ctx context.Context, r *runner) error {
	secret, err := optionalKeysOf(c.Secret)
	if err != nil {
		return err
	}
	dir, err := openDirectory(ctx, c.Database, secret, nil, r.quiet(ctx))
	if err != nil {
		return err
	}
	defer dir.Close()
	if c.DryRun {
		return showDeletions(ctx, dir, r)
	}
	purged, err := dir.Purge(ctx)
	views := make([]tenantView, len(purged))
	for i, t := range purged {
		views[i] = newTenantView(t)
	}
	printErr := r.print(views, func(w io.Writer) {
		for _, v := range views {
			_, _ = fmt.Fprintf(w, "purged %s (%s)\n", v.Subdomain, v.ID)
		}
		if err == nil {
			_, _ = fmt.Fprintf(w, "%d in all\n", len(views))
		}
	})
	return errors.Join(err, printErr)
}

func showDeletions(ctx context.Context, dir *directory.Directory, r *runner) error {
	deletions, err := dir.Deletions(ctx)
	if err != nil {
		return err
	}
	views := make([]deletionView, len(deletions))
	for i, d := range deletions {
		views[i] = newDeletionView(d)
	}
	return r.print(views, func(w io.Writer) {
		table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		_, _ = fmt.Fprintln(table, "SUBDOMAIN\tDROPPED AFTER\tSTATE")
		for _, v := range views {
			_, _ = fmt.Fprintf(table, "%s\t%s\t%s\n", v.Subdomain, v.DeleteAfter.Format(time.DateTime), v.state())
		}
		_ = table.Flush()
		_, _ = fmt.Fprintf(w, "%d in all\n", len(views))
	})
}

// deletionView is a tenant that is to be deleted, as commands print it.
type deletionView struct {
	ID          tenant.ID   `json:"id"`
	Subdomain   tenant.Slug `json:"subdomain"`
	DeleteAfter time.Time   `json:"delete_after"`
	Due         bool        `json:"due"`
	Purging     bool        `json:"purging"`
}

func newDeletionView(d directory.Deletion) deletionView {
	return deletionView{ID: d.Tenant.ID, Subdomain: d.Tenant.Slug, DeleteAfter: d.After, Due: d.Due, Purging: d.Purging}
}

func (v deletionView) state() string {
	switch {
	case v.Purging:
		return "being purged"
	case v.Due:
		return "due"
	}
	return "kept"
}
