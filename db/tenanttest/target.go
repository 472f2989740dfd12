package tenanttest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/leasehold-go/leasehold/db/tenant"
)

// DBTX is the least that sqlc's generated code asks of a database for pgx/v5. A program's own DBTX interface may ask for more;
// if it has SendBatch, batches are tried too.
type DBTX interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// Target is what is to be proven: one way to reach tenants, and queries to try it with. D is the DBTX interface of the
// program's generated code, or DBTX itself. The functions are called from many goroutines at once.
type Target[D DBTX] struct {
	// Tenants are two or more different tenants that exist; three are better. Required.
	Tenants []*tenant.Tenant

	// Run calls fn once, with a D that is held to t, and with the context that fn's calls are to be made under. It returns nil
	// if fn does, and what fn did is committed then; it returns an error if fn does, and if the commit fails. A panic of fn
	// comes out as a panic or as an error. Examples: a handle on the pool with t in the context, a transaction that is
	// committed when fn has returned. Required.
	//
	// The suite opens Runs of several tenants within each other, and also asks for tenants that do not exist, which must fail.
	Run func(ctx context.Context, t *tenant.Tenant, fn func(ctx context.Context, db D) error) error

	// Mark writes one row that carries the mark, by the program's own query. A mark is made of at most 32 characters a-z and
	// 0-9, and each one is given once. Required.
	Mark func(ctx context.Context, db D, mark string) error

	// Marks returns the marks of all rows that can be seen, by the program's own query, in any order. What is no mark of the
	// suite's is ignored. Required.
	Marks func(ctx context.Context, db D) ([]string, error)

	// NoTenant is Run for nobody: a call without a tenant, as an unknown host would cause. It, or what fn does, must fail
	// with tenant.ErrNoTenant. Defaults to leaving that case out.
	NoTenant func(ctx context.Context, fn func(ctx context.Context, db D) error) error

	// Get returns the mark of the row with a key, or pgx.ErrNoRows. The suite asks every tenant for the keys 1 to 8; some of
	// them must be there in several tenants, as they are when an identity column counts in each. Defaults to leaving that case
	// out.
	Get func(ctx context.Context, db D, key int64) (mark string, err error)

	// Reach reads the marks of another tenant by a qualified name, such as SELECT mark FROM "other".notes; it is to be refused,
	// unless other is the tenant that Run was given. Defaults to leaving that case out.
	Reach func(ctx context.Context, db D, other *tenant.Tenant) ([]string, error)

	// Fail makes calls of the program's own that fail in the database, such as one that violates a unique or a deferred
	// constraint. Run must report it. Defaults to none; the suite has failing statements of its own.
	Fail func(ctx context.Context, db D) error

	// Settings says which other settings belong to a tenant, such as statement_timeout or app.tenant, and what they are, in the
	// form that current_setting returns. The names are the same for all tenants. Defaults to none.
	Settings func(*tenant.Tenant) map[string]string

	// Conns is how many calls of Run can be under way without waiting for each other, two of them for the same tenant: the size
	// of the pool. With 1, nothing is tried that needs two. Defaults to 2.
	Conns int

	// Workers is how many goroutines work at once where many do. Defaults to 4 times Conns, and at least 8.
	Workers int

	// Rounds is how often things are repeated, for each worker or tenant. Below 12, what takes turns is not tried as every
	// tenant. Defaults to 20.
	Rounds int

	// Timeout bounds one call of Run. Defaults to 30 seconds.
	Timeout time.Duration
}

func (t Target[D]) withDefaults() Target[D] {
	if t.Settings == nil {
		t.Settings = func(*tenant.Tenant) map[string]string { return nil }
	}
	if t.Conns == 0 {
		t.Conns = 2
	}
	if t.Workers == 0 {
		t.Workers = max(4*t.Conns, 8)
	}
	if t.Rounds == 0 {
		t.Rounds = 20
	}
	if t.Timeout == 0 {
		t.Timeout = 30 * time.Second
	}
	return t
}

func (t Target[D]) validate() error {
	switch {
	case len(t.Tenants) < 2:
		return fmt.Errorf("tenanttest: Tenants has %d; isolation takes at least 2", len(t.Tenants))
	case t.Run == nil:
		return errors.New("tenanttest: Run is missing")
	case t.Mark == nil:
		return errors.New("tenanttest: Mark is missing")
	case t.Marks == nil:
		return errors.New("tenanttest: Marks is missing")
	case t.Conns < 0 || t.Workers < 0 || t.Rounds < 0 || t.Timeout < 0:
		return errors.New("tenanttest: Conns, Workers, Rounds and Timeout may not be negative")
	}
	seen := map[tenant.ID]bool{}
	for i, tn := range t.Tenants {
		switch {
		case tn == nil:
			return fmt.Errorf("tenanttest: Tenants[%d] is nil", i)
		case seen[tn.ID]:
			return fmt.Errorf("tenanttest: Tenants[%d] (%s, id %s) is there twice", i, tn.Slug, tn.ID)
		}
		seen[tn.ID] = true
	}
	return nil
}
