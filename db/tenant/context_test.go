package tenant_test

import (
	"errors"
	"testing"

	"github.com/leasehold-go/leasehold/db/tenant"
)

func TestFromContext(t *testing.T) {
	t.Parallel()
	acme, globex := &tenant.Tenant{Slug: "acme"}, &tenant.Tenant{Slug: "globex"}
	bare := t.Context()
	inAcme := tenant.NewContext(bare, acme)
	for _, tc := range []struct {
		name string
		got  func() (*tenant.Tenant, error)
		want *tenant.Tenant
	}{
		{"never set", func() (*tenant.Tenant, error) { return tenant.FromContext(bare) }, nil},
		{"set", func() (*tenant.Tenant, error) { return tenant.FromContext(inAcme) }, acme},
		{"replaced", func() (*tenant.Tenant, error) { return tenant.FromContext(tenant.NewContext(inAcme, globex)) }, globex},
		{"the outer one stays", func() (*tenant.Tenant, error) {
			_ = tenant.NewContext(inAcme, globex)
			return tenant.FromContext(inAcme)
		}, acme},
		{"cleared", func() (*tenant.Tenant, error) { return tenant.FromContext(tenant.NewContext(inAcme, nil)) }, nil},
		{"nil on a bare context", func() (*tenant.Tenant, error) { return tenant.FromContext(tenant.NewContext(bare, nil)) }, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			got, err := tc.got()
			if got != tc.want {
				t.Errorf("got %v, want %v", got, tc.want)
			}
			if missing := tc.want == nil; errors.Is(err, tenant.ErrNoTenant) != missing || (err != nil) != missing {
				t.Errorf("got error %v", err)
			}
		})
	}
}
