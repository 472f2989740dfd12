package tenant_test

import (
	"testing"

	"github.com/leasehold-go/leasehold/db/tenant"
)

func TestNamesThatAreSharedByTheDatabaseAreATenantsOwn(t *testing.T) {
	t.Parallel()
	a, b := tenant.ID{1}, tenant.ID{2}
	if a.LockKey("import") == b.LockKey("import") || a.LockKey("import") == a.LockKey("export") {
		t.Error("two locks have the same key")
	}
	// The key is the same in every process and version: processes of both run side by side during an upgrade.
	if got := a.LockKey("import"); got != 747958251571646122 {
		t.Errorf("the key has changed: %d", got)
	}
	if got, want := a.Channel("jobs"), "lh_04000000000000000000000000_jobs"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if a.Channel("jobs") == b.Channel("jobs") {
		t.Error("two tenants share a channel")
	}
}
