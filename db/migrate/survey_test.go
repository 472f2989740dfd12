package migrate_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/leasehold-go/leasehold/db/migrate"
)

// counted counts the connections that the targets' runners open.
func (f *fleet) counted() *atomic.Int64 {
	n := new(atomic.Int64)
	for i := range f.targets {
		conn := f.targets[i].Conn.Copy()
		dial := conn.DialFunc
		conn.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
			n.Add(1)
			return dial(ctx, network, addr)
		}
		f.targets[i].Conn = conn
	}
	return n
}

// The state of a fleet is read at one go, and is what reading each tenant by itself would say.
func TestStatusOfAMixedFleet(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 6)
	m := migrate.New(load(t, product()), migrate.Config{})
	if _, err := m.Up(t.Context(), f.targets[:4], migrate.Options{}); err != nil {
		t.Fatal(err)
	}
	f.exec(t, "DELETE FROM t_1.schema_migrations WHERE version = '20260103000000'")
	f.exec(t, "INSERT INTO t_2.schema_migrations VALUES ('20990101000000')")
	f.exec(t, "DELETE FROM t_3.schema_migrations")
	f.exec(t, "DROP SCHEMA t_5")
	opened := f.counted()

	all, first := []string{customers, invoices, index}, []string{customers, invoices}
	want := []migrate.TargetStatus{
		{Target: "acme0", Schema: "t_0", Applied: all},
		{Target: "acme1", Schema: "t_1", Applied: first, Pending: []string{index}},
		{Target: "acme2", Schema: "t_2", Applied: all, Unknown: []string{"20990101000000"}},
		{Target: "acme3", Schema: "t_3", Pending: all},
		{Target: "acme4", Schema: "t_4", Pending: all},
		{Target: "acme5", Schema: "t_5"},
	}
	check := func() {
		t.Helper()
		got, err := m.Status(t.Context(), f.targets)
		var failed *migrate.FailedError
		if !errors.As(err, &failed) || len(failed.Failed) != 1 || !errors.Is(got[5].Err, migrate.ErrSchemaMissing) {
			t.Fatalf("got %v, %v; want one failure, for the schema that is missing", got[5].Err, err)
		}
		got[5].Err = nil
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("before - and after +:\n%s", diff)
		}
	}
	check()
	if n := opened.Load(); n != 1 {
		t.Errorf("%d connections were opened for one database", n)
	}
	// One ledger that cannot be read with the others does not hide them.
	f.exec(t, "ALTER TABLE t_0.schema_migrations RENAME version TO number")
	want[0].Applied = nil
	got, err := m.Status(t.Context(), f.targets)
	if err == nil || got[0].Err == nil || got[1].Err != nil || got[4].Err != nil {
		t.Errorf("got %v, %v, %v, %v; want that the first one cannot be read, and no other", err, got[0].Err, got[1].Err, got[4].Err)
	}
	f.checkQuiet(t)
}

// A fleet that lacks nothing is known to lack nothing by a few queries.
func TestUpOpensNoSessionForWhatIsCurrent(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 20)
	m := migrate.New(load(t, product()), migrate.Config{})
	if _, err := m.Up(t.Context(), f.targets, migrate.Options{}); err != nil {
		t.Fatal(err)
	}
	f.exec(t, "GRANT SELECT ON t_7.schema_migrations TO PUBLIC")
	f.exec(t, "DROP INDEX t_9.invoices_customer; DELETE FROM t_9.schema_migrations WHERE version = '20260103000000'")
	opened := f.counted()
	report, err := m.Up(t.Context(), f.targets, migrate.Options{})
	if err != nil || len(report.Current) != 19 || len(report.Applied) != 1 {
		t.Errorf("got %d current, %d applied, %v", len(report.Current), len(report.Applied), err)
	}
	if n := opened.Load(); n != 4 { // the survey, the number of workers, the ledger that others could read, and the index
		t.Errorf("%d connections were opened", n)
	}
	if left := f.strings(t, "SELECT relname::text FROM pg_class WHERE relname = 'schema_migrations' AND EXISTS (SELECT FROM aclexplode(relacl) a WHERE a.grantee = 0)"); len(left) > 0 {
		t.Errorf("a ledger is open to all")
	}
	f.checkQuiet(t)
}

// BenchmarkStatus reads the state of many tenants that lack nothing.
func BenchmarkStatus(b *testing.B) {
	sizes := []int{1000, 10_000}
	if testing.Short() {
		sizes = []int{50}
	}
	for _, tenants := range sizes {
		b.Run(fmt.Sprint(tenants), func(b *testing.B) {
			f := newFleet(b, 0)
			f.targets = f.schemas(b, "t", tenants)
			m := migrate.New(load(b, product()), migrate.Config{})
			b.ResetTimer()
			for b.Loop() {
				if _, err := m.Status(b.Context(), f.targets); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
