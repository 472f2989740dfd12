package tenant

import "fmt"

// MovedError reports a slug that no tenant has and one had, not long ago. Whoever does not look for it sees ErrNotFound, which it
// is too. It is shared between goroutines and must not be changed.
type MovedError struct {
	// From is the slug that was asked for.
	From Slug
	// To is the slug that the tenant has now.
	To Slug
}

func (e *MovedError) Error() string {
	return fmt.Sprintf("subdomain %q is now %q", string(e.From), string(e.To))
}

// Is reports whether target is ErrNotFound.
func (e *MovedError) Is(target error) bool { return target == ErrNotFound }
