package app_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
)

// all sends the requests that make returns, at the same time, and counts the statuses.
func (c company) all(t *testing.T, n int, send func(i int) reply) map[int]int {
	t.Helper()
	replies := make([]reply, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { replies[i] = send(i) })
	}
	wg.Wait()
	counts := map[int]int{}
	for _, r := range replies {
		counts[r.status]++
		if r.status >= http.StatusInternalServerError {
			t.Errorf("%s: %d %s\n%s", r.what, r.status, r.body, c.logs)
		}
	}
	return counts
}

// However many payments arrive at once, the invoice is paid exactly, and the rest is refused.
func TestPaymentsAtOnce(t *testing.T) {
	t.Parallel()
	c := newCompany(t)
	for round := range 5 {
		id := c.draft(t, oneLine) // 10,000 cents
		c.api(t, http.MethodPost, fmt.Sprintf("/api/invoices/%d/issue", id), "").want(http.StatusOK)
		counts := c.all(t, 12, func(int) reply {
			return c.api(t, http.MethodPost, fmt.Sprintf("/api/invoices/%d/payments", id), `{"amount_cents":2500}`)
		})
		// Once it is paid, a payment meets the wrong state.
		if counts[http.StatusCreated] != 4 || counts[http.StatusConflict] != 8 {
			t.Errorf("round %d: %v, want 4 created and 8 conflicts", round, counts)
		}
		got := decode[apiInvoice](c.get(t, fmt.Sprintf("/api/invoices/%d", id)))
		if got.Status != "paid" || got.PaidCents != 10_000 {
			t.Errorf("round %d: %+v", round, got)
		}
	}
}

func TestOverpaymentsAtOnce(t *testing.T) {
	t.Parallel()
	c := newCompany(t)
	id := c.draft(t, oneLine)
	c.api(t, http.MethodPost, fmt.Sprintf("/api/invoices/%d/issue", id), "").want(http.StatusOK)
	counts := c.all(t, 8, func(int) reply {
		return c.api(t, http.MethodPost, fmt.Sprintf("/api/invoices/%d/payments", id), `{"amount_cents":6000}`)
	})
	if counts[http.StatusCreated] != 1 || counts[http.StatusUnprocessableEntity] != 7 {
		t.Errorf("%v, want 1 created and 7 refused", counts)
	}
}

// An invoice has either payments or is void, never both.
func TestPayAndVoidAtOnce(t *testing.T) {
	t.Parallel()
	c := newCompany(t)
	for round := range 10 {
		id := c.draft(t, oneLine)
		c.api(t, http.MethodPost, fmt.Sprintf("/api/invoices/%d/issue", id), "").want(http.StatusOK)
		c.all(t, 2, func(i int) reply {
			if i == 0 {
				return c.api(t, http.MethodPost, fmt.Sprintf("/api/invoices/%d/payments", id), `{"amount_cents":100}`)
			}
			return c.api(t, http.MethodPost, fmt.Sprintf("/api/invoices/%d/void", id), "")
		})
		got := decode[apiInvoice](c.get(t, fmt.Sprintf("/api/invoices/%d", id)))
		if (got.Status == "void") == (got.PaidCents > 0) {
			t.Errorf("round %d: %+v", round, got)
		}
	}
}

// Numbers are given out without gaps and without doubles, also when one draft is issued by many.
func TestNumbersAtOnce(t *testing.T) {
	t.Parallel()
	c := newCompany(t)
	const drafts, callers = 6, 4
	for range drafts {
		c.draft(t, oneLine)
	}
	counts := c.all(t, drafts*callers, func(i int) reply {
		return c.api(t, http.MethodPost, fmt.Sprintf("/api/invoices/%d/issue", i%drafts+1), "")
	})
	if counts[http.StatusOK] != drafts || counts[http.StatusConflict] != drafts*(callers-1) {
		t.Errorf("%v, want %d issued", counts, drafts)
	}
	var got, want []string
	for i, inv := range decode[listOf[apiInvoice]](c.get(t, "/api/invoices")).Items {
		if inv.Number == nil {
			t.Fatalf("%+v has no number", inv)
		}
		got = append(got, *inv.Number)
		want = append(want, fmt.Sprintf("INV-2026-%04d", i+1))
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("numbers %s, want %s", strings.Join(got, " "), strings.Join(want, " "))
	}
}
