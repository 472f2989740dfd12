package tenant

import "context"

type contextKey struct{}

// NewContext returns a copy of ctx that carries t. A nil t clears the tenant, so that what runs under the returned context
// has none.
func NewContext(ctx context.Context, t *Tenant) context.Context {
	return context.WithValue(ctx, contextKey{}, t)
}

// FromContext returns the tenant that ctx carries, or ErrNoTenant.
func FromContext(ctx context.Context) (*Tenant, error) {
	if t, _ := ctx.Value(contextKey{}).(*Tenant); t != nil {
		return t, nil
	}
	return nil, ErrNoTenant
}
