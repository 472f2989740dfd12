package tenanttest

import (
	"cmp"
	"errors"
	"fmt"
	"sync"

	"github.com/leasehold-go/leasehold/db/tenant"
)

// Leak reports that somebody saw what is not theirs.
type Leak struct {
	// Case is the case that found it.
	Case string
	// Tenant is who saw it; "" is a call without a tenant.
	Tenant tenant.Slug
	// What was seen: "row", "search_path", "schema", "role", "database", "setting …", or what was left on a connection.
	What string
	// Saw is the first mark or value that was seen.
	Saw string
	// Owner is whose it is; "" if it belongs to none of the Target's tenants.
	Owner tenant.Slug
	// Times is how often this was seen.
	Times int
}

func (e *Leak) Error() string {
	whose := "a " + e.What + " that is not its own"
	if e.Owner != "" {
		whose = fmt.Sprintf("%s's %s", e.Owner, e.What)
	}
	return fmt.Sprintf("%s: leak: %s saw %s: %q (%d times)", e.Case, name(e.Tenant), whose, e.Saw, e.Times)
}

// Lost reports a row that a tenant wrote, that Run confirmed, and that the tenant did not see afterwards.
type Lost struct {
	// Case is the case that found it.
	Case   string
	Tenant tenant.Slug
	// Mark is that of the first such row.
	Mark string
	// Times is how often a row was missed.
	Times int
}

func (e *Lost) Error() string {
	return fmt.Sprintf("%s: %s does not see a row that it wrote: %s (%d times)", e.Case, e.Tenant, e.Mark, e.Times)
}

// Failure reports a call that failed though it had to succeed, or succeeded though it had to fail.
type Failure struct {
	// Case is the case that found it.
	Case string
	// Tenant is whose call it was; "" is a call without a tenant.
	Tenant tenant.Slug
	// Call says which one.
	Call string
	// Err is the first error.
	Err error
	// Times is how often this call went wrong.
	Times int
}

func (e *Failure) Error() string {
	return fmt.Sprintf("%s: %s: %s: %v (%d times)", e.Case, name(e.Tenant), e.Call, e.Err, e.Times)
}

// Unwrap returns what went wrong.
func (e *Failure) Unwrap() error { return e.Err }

func name(slug tenant.Slug) string { return cmp.Or(string(slug), "a call without a tenant") }

// The errors of calls that succeeded, or did something else than they should.
var (
	errNotRun    = errors.New("fn was not called, and Run returned nil")
	errNoError   = errors.New("it succeeded and had to fail")
	errSwallowed = errors.New("fn failed, and Run returned nil")
	errTwice     = errors.New("a row that was written once is there twice")
	errNoKeys    = errors.New("none of the keys is there in two tenants, so the case shows nothing")
)

// findings collects what a case finds: the first of each kind, and how many there were. It is safe for concurrent use.
type findings struct {
	mu    sync.Mutex
	order []error
	byKey map[any]*int
}

func (f *findings) add(key any, err error, times *int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	first, known := f.byKey[key]
	if !known {
		if f.byKey == nil {
			f.byKey = map[any]*int{}
		}
		first = times
		f.byKey[key] = first
		f.order = append(f.order, err)
	}
	*first++
}

func (f *findings) leak(e Leak) {
	key := e
	key.Saw = ""
	f.add(key, &e, &e.Times)
}

func (f *findings) lost(e Lost) {
	key := e
	key.Mark = ""
	f.add(key, &e, &e.Times)
}

func (f *findings) failure(e Failure) {
	key := e
	key.Err = nil
	f.add(key, &e, &e.Times)
}

func (f *findings) all() []error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.order
}
