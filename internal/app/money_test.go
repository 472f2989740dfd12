package app_test

import (
	"fmt"
	"math/big"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
)

// Totals are what exact arithmetic says: each line rounded to the cent, half away from zero, then added up. The same numbers
// come back that went in.
func TestTotalsAreExact(t *testing.T) {
	t.Parallel()
	c := newCompany(t)
	c.api(t, http.MethodPost, "/api/customers", `{"name":"Mia","email":"mia@x.example"}`).want(http.StatusCreated)
	random := rand.New(rand.NewPCG(1, 2))
	for range 20 {
		var lines []string
		want := new(big.Int)
		for range 1 + random.IntN(10) {
			thousandths := 1 + random.Int64N(9_999_999)
			if random.IntN(2) == 0 {
				thousandths = 500 * (1 + thousandths%9999) // many halves
			}
			price := random.Int64N(1_000_000)
			quantity := fmt.Sprintf("%d.%03d", thousandths/1000, thousandths%1000)
			lines = append(lines, fmt.Sprintf(`{"description":"x","quantity":%s,"unit_price_cents":%d}`, quantity, price))

			exact := new(big.Rat).Mul(big.NewRat(thousandths, 1000), big.NewRat(price, 1))
			exact.Add(exact, big.NewRat(1, 2))
			want.Add(want, new(big.Int).Quo(exact.Num(), exact.Denom()))
		}
		// One line of which a floating-point number would lose a part.
		lines = append(lines, `{"description":"x","quantity":9007199.255,"unit_price_cents":1000001}`)
		want.Add(want, big.NewInt(9_007_208_262_199)) // 9,007,208,262,199.255
		body := `{"customer_id":1,"currency":"EUR","lines":[` + strings.Join(lines, ",") + `]}`
		r := c.api(t, http.MethodPost, "/api/invoices", body).want(http.StatusCreated)
		if got := decode[apiInvoice](r).TotalCents; want.Cmp(big.NewInt(got)) != 0 {
			t.Errorf("total %d, want %s, of %s", got, want, body)
		}
	}
}

// The largest invoice there can be is still an exact number in every JSON reader.
func TestLargestTotal(t *testing.T) {
	t.Parallel()
	c := newCompany(t)
	largest := strings.Repeat(`{"description":"x","quantity":10,"unit_price_cents":1000000000000},`, 200)
	id := c.draft(t, `"lines":[`+strings.TrimSuffix(largest, ",")+`]`)
	got := decode[apiInvoice](c.get(t, fmt.Sprintf("/api/invoices/%d", id)).want(http.StatusOK)).TotalCents
	if got != 2_000_000_000_000_000 || got > 1<<53 {
		t.Errorf("total %d", got)
	}
}
