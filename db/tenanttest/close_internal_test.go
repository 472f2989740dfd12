package tenanttest

import (
	"testing"
	"testing/synctest"
	"time"
)

// A connection that a test has not given back fails the test, and does not hang it.
func TestClosingIsBounded(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		takes time.Duration
		want  bool
	}{"in time": {time.Second, true}, "too long": {time.Hour, false}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				if got := closesWithin(func() { <-time.After(tc.takes) }, time.Minute); got != tc.want {
					t.Errorf("got %v, want %v", got, tc.want)
				}
				<-time.After(tc.takes) // a bubble ends when all that is in it has
			})
		})
	}
}
