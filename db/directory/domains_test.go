package directory

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/leasehold-go/leasehold/db/tenant"
)

// zone is a TXTResolver with records that a test writes.
type zone struct {
	mu      sync.Mutex
	records map[string][]string
	err     error
	asked   []string
}

func (z *zone) LookupTXT(_ context.Context, name string) ([]string, error) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.asked = append(z.asked, name)
	if z.err != nil {
		return nil, z.err
	}
	if records, ok := z.records[name]; ok {
		return records, nil
	}
	return nil, &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
}

func (z *zone) write(name string, records ...string) {
	z.mu.Lock()
	defer z.mu.Unlock()
	if z.records == nil {
		z.records = map[string][]string{}
	}
	z.records[name] = records
}

func (z *zone) fail(err error) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.err = err
}

// domainReplicas opens two Directories that ask one zone.
func domainReplicas(tb testing.TB) (a, b *Directory, z *zone, url string) {
	tb.Helper()
	z, url = &zone{}, registryURL(tb)
	cfg := configOf(tb, url)
	cfg.TXTResolver, cfg.BaseDomains = z, []string{"Example.com", "localhost"}
	return openDirectory(tb, cfg), openDirectory(tb, cfg), z, url
}

func waitForDomain(tb testing.TB, d *Directory, name string, want tenant.ID, status tenant.Status) {
	tb.Helper()
	waitFor(tb, name+" leads to a tenant that is "+string(status), func() bool {
		t, err := d.ResolveDomain(tb.Context(), name)
		return err == nil && t.ID == want && t.Status == status
	})
}

func waitForNoDomain(tb testing.TB, d *Directory, name string) {
	tb.Helper()
	waitFor(tb, name+" leads nowhere", func() bool {
		_, err := d.ResolveDomain(tb.Context(), name)
		return errors.Is(err, tenant.ErrNotFound)
	})
}

func TestADomainLeadsToItsTenantWhereverItGoes(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	here, there, z, _ := domainReplicas(t)
	acme := mustCreate(t, here, "acme")
	const name = "billing.acme.org"

	claim, err := here.AddDomain(ctx, acme.ID, " Billing.ACME.org. ")
	if err != nil || claim.Name != name || claim.Record != "_leasehold."+name || len(claim.Token) != 32 || !claim.VerifiedAt.IsZero() {
		t.Fatalf("AddDomain: %+v, %v", claim, err)
	}
	if again, err := there.AddDomain(ctx, acme.ID, name); err != nil || again != claim {
		t.Errorf("AddDomain again: %+v, %v", again, err)
	}
	waitForNoDomain(t, here, name)
	waitForNoDomain(t, there, name)

	unverified := func(found ...string) {
		t.Helper()
		_, err := here.VerifyDomain(ctx, acme.ID, name)
		missing, ok := errors.AsType[*UnverifiedError](err)
		if !ok || missing.Domain != claim || !cmp.Equal(missing.Found, found, cmpopts.EquateEmpty()) {
			t.Errorf("VerifyDomain: %v, want that %q was found", err, found)
		}
	}
	unverified()
	z.write("_leasehold.billing.acme.org.", "v=spf1 -all", claim.Token+"0")
	unverified("v=spf1 -all", claim.Token+"0")
	down := &net.DNSError{Err: "server misbehaving", IsTemporary: true}
	z.fail(down)
	if _, err := here.VerifyDomain(ctx, acme.ID, name); !errors.Is(err, down) {
		t.Errorf("VerifyDomain without DNS: %v", err)
	}
	z.fail(nil)
	z.write("_leasehold.billing.acme.org.", "v=spf1 -all", " "+claim.Token+" ")
	verified, err := here.VerifyDomain(ctx, acme.ID, strings.ToUpper(name))
	if err != nil || verified.VerifiedAt.IsZero() {
		t.Fatalf("VerifyDomain: %+v, %v", verified, err)
	}
	waitForDomain(t, there, name, acme.ID, tenant.Active)
	z.fail(errors.New("asked for a domain that is verified"))
	if again, err := there.VerifyDomain(ctx, acme.ID, name); err != nil || again != verified {
		t.Errorf("VerifyDomain again: %+v, %v", again, err)
	}

	// Each change of the tenant reaches those who know it by its domain.
	if _, err := here.Suspend(ctx, acme.ID, ""); err != nil {
		t.Fatal(err)
	}
	waitForDomain(t, there, name, acme.ID, tenant.Suspended)
	if _, err := there.Resume(ctx, acme.ID, ""); err != nil {
		t.Fatal(err)
	}
	waitForDomain(t, here, name, acme.ID, tenant.Active)
	if _, err := here.Rename(ctx, acme.ID, "acme-ltd", 0); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the domain leads to the new name", func() bool {
		found, err := there.ResolveDomain(ctx, name)
		return err == nil && found.Slug == "acme-ltd"
	})

	list, err := there.Domains(ctx, acme.ID)
	if diff := cmp.Diff([]Domain{verified}, list); diff != "" || err != nil {
		t.Errorf("Domains: %s, %v", diff, err)
	}
	if err := here.RemoveDomain(ctx, acme.ID, name); err != nil {
		t.Fatal(err)
	}
	waitForNoDomain(t, there, name)
	if err := here.RemoveDomain(ctx, acme.ID, name); !errors.Is(err, ErrNoDomain) {
		t.Errorf("RemoveDomain again: %v", err)
	}
	// A claim made anew has another token: the old record is worth nothing.
	z.fail(nil)
	if fresh, err := here.AddDomain(ctx, acme.ID, name); err != nil || fresh.Token == claim.Token {
		t.Errorf("AddDomain after RemoveDomain: %+v, %v", fresh, err)
	}
	if _, err := here.VerifyDomain(ctx, acme.ID, name); err == nil {
		t.Error("an old token verified a new claim")
	}
	got := kinds(t, here, acme.ID)[4:]
	want := []EventKind{
		EventDomainAdded, EventDomainVerified, EventSuspended, EventResumed, EventRenamed, EventDomainRemoved, EventDomainAdded,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestTheFirstToVerifyADomainGetsIt(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	a, b, z, url := domainReplicas(t)
	acme, globex := mustCreate(t, a, "acme"), mustCreate(t, a, "globex")
	const name = "shop.example.org"
	first, err := a.AddDomain(ctx, acme.ID, name)
	if err != nil {
		t.Fatal(err)
	}
	second, err := b.AddDomain(ctx, globex.ID, name)
	if err != nil || second.Token == first.Token {
		t.Fatalf("AddDomain of what is claimed: %+v, %v", second, err)
	}
	z.write("_leasehold.shop.example.org.", first.Token, second.Token)
	errs := make([]error, 2)
	var wg sync.WaitGroup
	wg.Go(func() { _, errs[0] = a.VerifyDomain(ctx, acme.ID, name) })
	wg.Go(func() { _, errs[1] = b.VerifyDomain(ctx, globex.ID, name) })
	wg.Wait()
	winner, loser, lost := acme, globex, errs[1]
	if errs[0] != nil {
		winner, loser, lost = globex, acme, errs[0]
	}
	if (errs[0] == nil) == (errs[1] == nil) || !errors.Is(lost, ErrDomainTaken) {
		t.Fatalf("VerifyDomain by two: %v", errs)
	}
	waitForDomain(t, a, name, winner.ID, tenant.Active)
	waitForDomain(t, b, name, winner.ID, tenant.Active)
	hooli := mustCreate(t, a, "hooli")
	if _, err := a.AddDomain(ctx, hooli.ID, name); !errors.Is(err, ErrDomainTaken) {
		t.Errorf("AddDomain of another's domain: %v", err)
	}
	if _, err := a.VerifyDomain(ctx, hooli.ID, name); !errors.Is(err, ErrNoDomain) {
		t.Errorf("VerifyDomain without a claim: %v", err)
	}
	// What the loser gives up is its claim, and when the winner is gone, the domain is free.
	if err := b.RemoveDomain(ctx, loser.ID, name); err != nil {
		t.Fatal(err)
	}
	waitForDomain(t, a, name, winner.ID, tenant.Active)
	mustDelete(t, a, winner)
	waitForDomain(t, b, name, winner.ID, tenant.Deleting)
	if purged, err := a.Purge(ctx); err != nil || len(purged) != 1 {
		t.Fatalf("Purge: %v, %v", purged, err)
	}
	waitForNoDomain(t, b, name)
	conn := connectTo(t, url)
	if left := query[int](t, conn, `SELECT count(*) FROM domains`); left != 0 {
		t.Errorf("%d domains are left", left)
	}
	if _, err := a.AddDomain(ctx, hooli.ID, name); err != nil {
		t.Error(err)
	}
}

func TestParseDomain(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("a.", 121) // 242 bytes
	for _, tc := range []struct{ name, want, reason string }{
		{"acme.org", "acme.org", ""},
		{" Billing.ACME.org. ", "billing.acme.org", ""},
		{"xn--bcher-kva.example", "xn--bcher-kva.example", ""},
		{"notexample.com", "notexample.com", ""},
		{long + "a", "", "is too long"},
		{long[:240] + "aa", long[:240] + "aa", ""},
		{"bücher.example", "", "may hold ASCII characters only; write an international name in its xn-- form"},
		{"example.com", "", "lies under example.com, which has the tenants' subdomains; rename the tenant instead"},
		{"acme.EXAMPLE.com", "", "lies under example.com, which has the tenants' subdomains; rename the tenant instead"},
		{"a.b.example.com", "", "lies under example.com, which has the tenants' subdomains; rename the tenant instead"},
		{"acme.localhost", "", "lies under localhost, which has the tenants' subdomains; rename the tenant instead"},
		{"acme", "", "has no dot"},
		{"10.0.0.1", "", "ends in a number, as an address does"},
		{"acme.org:8080", "", "holds a character that host names do not have"},
		{"https://acme.org", "", "holds a character that host names do not have"},
		{"*.acme.org", "", "holds a character that host names do not have"},
		{"_leasehold.acme.org", "", "holds a character that host names do not have"},
		{"", "", "has an empty label"},
	} {
		got, err := ParseDomain(tc.name, []string{"Example.com", "localhost", "10.1.2.3"})
		bad, isBad := errors.AsType[*DomainError](err)
		switch {
		case got != tc.want, isBad != (tc.reason != ""):
			t.Errorf("ParseDomain(%q) = %q, %v", tc.name, got, err)
		case isBad && (bad.Reason != tc.reason || bad.Input != tc.name):
			t.Errorf("ParseDomain(%q): %v, want %q", tc.name, err, tc.reason)
		}
	}
}

// What the Go rule accepts may stand in the registry.
func TestDomainsOfTheLongestKindFit(t *testing.T) {
	t.Parallel()
	d, _, _, _ := domainReplicas(t)
	acme := mustCreate(t, d, "acme")
	for _, name := range []string{strings.Repeat("a.", 120) + "aa", strings.Repeat("a", 63) + "." + strings.Repeat("b", 63), "0.a", "xn--a.b-c"} {
		if _, err := d.AddDomain(t.Context(), acme.ID, name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := d.AddDomain(t.Context(), acme.ID, "a.example.com"); err == nil {
		t.Error("a name under a base domain was accepted")
	}
	if _, err := d.ResolveDomain(t.Context(), "acme"); !errors.Is(err, tenant.ErrNotFound) {
		t.Errorf("a slug is a domain: %v", err)
	}
}

// Not parallel: testing.AllocsPerRun counts for the whole process.
func TestResolveDomainDoesNotAllocate(t *testing.T) {
	d, _, z, _ := domainReplicas(t)
	acme := mustCreate(t, d, "acme")
	claim, err := d.AddDomain(t.Context(), acme.ID, "acme.org")
	if err != nil {
		t.Fatal(err)
	}
	z.write("_leasehold.acme.org.", claim.Token)
	if _, err := d.VerifyDomain(t.Context(), acme.ID, "acme.org"); err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	for name, known := range map[string]bool{"acme.org": true, "nobody.org": false} {
		allocs := testing.AllocsPerRun(100, func() {
			if _, err := d.ResolveDomain(ctx, name); (err == nil) != known {
				t.Fatal(err)
			}
		})
		if allocs > 0 {
			t.Errorf("%s: %v allocations", name, allocs)
		}
	}
}

func TestATenantHasABoundedNumberOfDomains(t *testing.T) {
	t.Parallel()
	d, url := newDirectory(t)
	acme, globex := mustCreate(t, d, "acme"), mustCreate(t, d, "globex")
	mustExec(t, connectTo(t, url), `INSERT INTO domains (name, tenant_id) SELECT 'd' || i || '.example', $1 FROM generate_series(2, $2::int) i`, acme.ID, MaxDomains)
	add := func(tn *tenant.Tenant, name string) error {
		_, err := d.AddDomain(t.Context(), tn.ID, name)
		return err
	}
	if err := add(acme, "last.example"); err != nil {
		t.Fatal(err)
	}
	if err := add(acme, "one-more.example"); !errors.Is(err, ErrTooManyDomains) {
		t.Errorf("error = %v, want %v", err, ErrTooManyDomains)
	}
	if err := add(acme, "last.example"); err != nil {
		t.Errorf("one that it has: %v", err)
	}
	if err := add(globex, "one-more.example"); err != nil {
		t.Errorf("another tenant: %v", err)
	}
	if err := d.RemoveDomain(t.Context(), acme.ID, "d2.example"); err != nil {
		t.Fatal(err)
	}
	if err := add(acme, "one-more.example"); err != nil {
		t.Errorf("after one was removed: %v", err)
	}
}
