package cli

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/leasehold-go/leasehold/db/directory"
	"github.com/leasehold-go/leasehold/db/tenant"
	"github.com/leasehold-go/leasehold/internal/config"
)

type tenantRotateCmd struct {
	registryFlags

	Subdomain string `arg:"" optional:"" help:"The tenant's subdomain, or its id."`
	All       bool   `help:"All tenants with a database of their own that are active or suspended."`
	LostKey   bool   `help:"The secret key that their passwords were encrypted with is lost."`
}

// Run changes passwords. What fails does not hold up the rest; running again completes it.
func (c *tenantRotateCmd) Run(ctx context.Context, r *runner) error {
	if c.All == (c.Subdomain != "") {
		return &config.Error{Setting: "tenant rotate-password", Err: errors.New("which tenants?"), Hint: "name one, or write --all"}
	}
	dir, err := c.open(ctx, r)
	if err != nil {
		return err
	}
	defer dir.Close()
	tenants, err := c.tenants(ctx, dir)
	if err != nil {
		return err
	}
	rotate := dir.RotatePassword
	if c.LostKey {
		rotate = dir.ReplacePassword
	}
	rotated := []tenant.Slug{}
	failed := 0
	for _, t := range tenants {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		err := rotate(ctx, t.ID)
		switch {
		case err == nil:
			rotated = append(rotated, t.Slug)
		case !c.All:
			return err
		default:
			failed++
			_, _ = fmt.Fprintf(r.Err, "leasehold: %s: %s\n", t.Slug, describe(err))
		}
	}
	if err := r.print(map[string]any{"rotated": rotated, "failed": failed}, func(w io.Writer) {
		_, _ = fmt.Fprintf(w, "changed the passwords of %d tenants\n", len(rotated))
	}); err != nil {
		return err
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d passwords could not be changed — mend the cause and run the same command again", failed, len(tenants))
	}
	return nil
}

// tenants are those that were asked for.
func (c *tenantRotateCmd) tenants(ctx context.Context, dir *directory.Directory) ([]*tenant.Tenant, error) {
	if !c.All {
		t, err := find(ctx, dir, c.Subdomain)
		return []*tenant.Tenant{t}, err
	}
	var tenants []*tenant.Tenant
	for opts := (directory.ListOptions{Limit: 1000}); ; {
		page, err := dir.List(ctx, opts)
		if err != nil {
			return nil, err
		}
		for _, t := range page {
			if t.Placement.Strategy == tenant.DatabaseStrategy && (t.Status == tenant.Active || t.Status == tenant.Suspended) {
				tenants = append(tenants, t)
			}
		}
		if len(page) < opts.Limit {
			return tenants, nil
		}
		opts.After = page[len(page)-1]
	}
}
