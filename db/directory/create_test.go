package directory

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/leasehold-go/leasehold/db/tenant"
)

func TestOneOfAHundredConcurrentCreatesWins(t *testing.T) {
	t.Parallel()
	bothWays(t, 3, oneOfAHundredWins)
}

func oneOfAHundredWins(t *testing.T, url string) {
	replicas := []*Directory{openDirectory(t, configOf(t, url)), openDirectory(t, configOf(t, url))}
	var (
		creates sync.WaitGroup
		winner  atomic.Pointer[tenant.Tenant]
		taken   atomic.Int64
	)
	for i := range 100 {
		creates.Go(func() {
			created, err := replicas[i%2].Create(t.Context(), company("acme"))
			switch {
			case errors.Is(err, ErrSlugTaken):
				taken.Add(1)
			case err != nil:
				t.Errorf("Create: %v", err)
			case !winner.CompareAndSwap(nil, created):
				t.Error("two creates won")
			}
		})
	}
	creates.Wait()
	if winner.Load() == nil || taken.Load() != 99 {
		t.Fatalf("winner %v, %d others, want one and 99", winner.Load(), taken.Load())
	}
	wantNothingLeft(t, url, winner.Load())
	if n := query[int](t, connectTo(t, url), `SELECT count(*) FROM tenants`); n != 1 {
		t.Errorf("%d records, want 1", n)
	}
}

// More creates than connections in the pool: none waits for another for ever.
func TestManyCreatesOnASmallPool(t *testing.T) {
	t.Parallel()
	bothWays(t, 6, func(t *testing.T, url string) {
		cfg := configOf(t, url)
		cfg.MaxConns, cfg.MaxCreates = 1, 6
		d := openDirectory(t, cfg)
		var creates sync.WaitGroup
		for i := range 12 {
			creates.Go(func() {
				if _, err := d.Create(t.Context(), company(fmt.Sprintf("c%d", i))); err != nil {
					t.Errorf("Create: %v", err)
				}
			})
		}
		creates.Wait()
	})
}

func TestCreateOfATakenName(t *testing.T) {
	t.Parallel()
	bothWays(t, 2, func(t *testing.T, url string) {
		d, admin := openDirectory(t, configOf(t, url)), connectTo(t, url)
		acme := mustCreate(t, d, "acme")
		for _, status := range []tenant.Status{tenant.Active, tenant.Suspended} {
			mustExec(t, admin, `UPDATE tenants SET status = $1 WHERE slug = 'acme'`, status)
			if _, err := d.Create(t.Context(), company("ACME")); !errors.Is(err, ErrSlugTaken) {
				t.Errorf("%s: error = %v, want %v", status, err, ErrSlugTaken)
			}
		}
		wantNothingLeft(t, url, acme)
	})
}

func TestCreateSaysWhatIsWrongWithEachField(t *testing.T) {
	t.Parallel()
	d, url := newDirectory(t)
	good := company("acme")
	for _, tc := range []struct {
		name   string
		change func(*NewTenant)
		fields []string
	}{
		{"everything missing", func(n *NewTenant) { *n = NewTenant{} }, []string{"company", "contact_email", "contact_name", "subdomain"}},
		{"blank company", func(n *NewTenant) { n.Company = " \t " }, []string{"company"}},
		{"long company", func(n *NewTenant) { n.Company = strings.Repeat("ü", 201) }, []string{"company"}},
		{"control character", func(n *NewTenant) { n.ContactName = "Ann\r\nBcc: x" }, []string{"contact_name"}},
		{"null byte", func(n *NewTenant) { n.Company = "a\x00b" }, []string{"company"}},
		{"broken UTF-8", func(n *NewTenant) { n.Company = "a\xffb" }, []string{"company"}},
		{"no at sign", func(n *NewTenant) { n.ContactEmail = "ann" }, []string{"contact_email"}},
		{"display name", func(n *NewTenant) { n.ContactEmail = "Ann <ann@example.com>" }, []string{"contact_email"}},
		{"two addresses", func(n *NewTenant) { n.ContactEmail = "a@b.c, d@e.f" }, []string{"contact_email"}},
		{"long address", func(n *NewTenant) { n.ContactEmail = strings.Repeat("a", 251) + "@b.c" }, []string{"contact_email"}},
		{"reserved name", func(n *NewTenant) { n.Subdomain = "WWW" }, []string{"subdomain"}},
		{"list of names", func(n *NewTenant) { n.Subdomain = "a, b, public" }, []string{"subdomain"}},
		{"Unicode name", func(n *NewTenant) { n.Subdomain = "аcme" }, []string{"subdomain"}}, // a Cyrillic а
		{"nested name", func(n *NewTenant) { n.Subdomain = "a.b" }, []string{"subdomain"}},
		{"long name", func(n *NewTenant) { n.Subdomain = strings.Repeat("a", 41) }, []string{"subdomain"}},
	} {
		n := good
		tc.change(&n)
		_, err := d.Create(t.Context(), n)
		invalid, ok := errors.AsType[*ValidationError](err)
		if !ok {
			t.Errorf("%s: error = %v, want a *ValidationError", tc.name, err)
			continue
		}
		var fields []string
		for _, field := range []string{"company", "contact_email", "contact_name", "subdomain"} {
			if message := invalid.Fields[field]; message != "" {
				fields = append(fields, field)
				if !strings.HasPrefix(message, "The ") || !strings.HasSuffix(message, ".") {
					t.Errorf("%s: %q is not a sentence", tc.name, message)
				}
			}
		}
		if diff := cmp.Diff(tc.fields, fields); diff != "" || len(fields) != len(invalid.Fields) {
			t.Errorf("%s: fields (-want +got):\n%s%v", tc.name, diff, invalid.Fields)
		}
	}
	longest := good
	longest.Company, longest.ContactName = strings.Repeat("ü", 200), strings.Repeat("😀", 200)
	longest.ContactEmail = strings.Repeat("a", 246) + "@b.c.org"
	longest.Subdomain = strings.Repeat("a", 40)
	if len(longest.ContactEmail) != 254 {
		t.Fatalf("the longest address has %d bytes", len(longest.ContactEmail))
	}
	created, err := d.Create(t.Context(), longest)
	if err != nil {
		t.Fatalf("the longest of everything: %v", err)
	}
	wantNothingLeft(t, url, created)
}

func TestTheEventLogOnlyGrows(t *testing.T) {
	t.Parallel()
	d, url := newDirectory(t)
	acme := mustCreate(t, d, "acme")
	admin := connectTo(t, url)
	const prerequisite = "55000"
	wantState(t, admin, prerequisite, `UPDATE events SET detail = 'x'`)
	wantState(t, admin, prerequisite, `DELETE FROM events`)
	wantState(t, admin, prerequisite, `DELETE FROM events WHERE false`)
	wantState(t, admin, prerequisite, `TRUNCATE events`)
	wantState(t, admin, prerequisite, `TRUNCATE tenants CASCADE`)
	wantState(t, admin, "23503", `DELETE FROM tenants`)
	wantState(t, admin, "23000", `UPDATE tenants SET id = gen_random_uuid()`)
	if n := len(kinds(t, d, acme.ID)); n != 4 {
		t.Errorf("%d events, want 4", n)
	}
}

func TestEachChangeOfATenantIsANewGeneration(t *testing.T) {
	t.Parallel()
	d, url := newDirectory(t)
	acme := mustCreate(t, d, "acme")
	admin := connectTo(t, url)
	mustExec(t, admin, `UPDATE tenants SET generation = 0, created_at = now() - interval '1 day', updated_at = '-infinity' WHERE slug = 'acme'`)
	got, err := d.ByID(t.Context(), acme.ID)
	if err != nil {
		t.Fatal(err)
	}
	if got.Generation != acme.Generation+1 || !got.CreatedAt.Equal(acme.CreatedAt) || !got.UpdatedAt.After(acme.UpdatedAt) {
		t.Errorf("after a change: %+v, before: %+v", got, acme)
	}
}
