package app

import (
	"errors"
	"math/big"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgtype"
)

var decimals = []struct {
	text   string
	places int
	want   int64
	ok     bool
}{
	{"0", 3, 0, true},
	{"1", 3, 1000, true},
	{"1.5", 3, 1500, true},
	{"0.001", 3, 1, true},
	{"1.500000", 3, 1500, true},
	{"007", 0, 7, true},
	{"-12.50", 2, -1250, true},
	{"999999999999.999", 3, 999_999_999_999_999, true},
	{"000000000000000000000001.5", 3, 1500, true},
	{"1000000000000", 3, 0, false},
	{"1.0001", 3, 0, false},
	{"1.5", 0, 0, false},
	{"", 3, 0, false},
	{"-", 3, 0, false},
	{".5", 3, 0, false},
	{"5.", 3, 0, false},
	{"--5", 3, 0, false},
	{"+5", 3, 0, false},
	{"1e3", 3, 0, false},
	{"1,5", 3, 0, false},
	{"1 000", 3, 0, false},
	{"1.2.3", 3, 0, false},
	{"٣", 3, 0, false},
	{"NaN", 3, 0, false},
	{"0x10", 3, 0, false},
}

func TestParseDecimal(t *testing.T) {
	t.Parallel()
	for _, test := range decimals {
		got, err := parseDecimal(test.text, test.places)
		if (err == nil) != test.ok || got != test.want {
			t.Errorf("parseDecimal(%q, %d) = %d, %v; want %d", test.text, test.places, got, err, test.want)
		}
	}
	if _, err := parseDecimal("1"+strings.Repeat("0", 400), 3); !errors.Is(err, errTooLarge) {
		t.Errorf("a googol and more: %v", err)
	}
}

func FuzzParseDecimal(f *testing.F) {
	for _, test := range decimals {
		f.Add(test.text, test.places)
	}
	f.Fuzz(func(t *testing.T, text string, places int) {
		if places < 0 || places > 6 {
			return
		}
		n, err := parseDecimal(text, places)
		if err != nil {
			return
		}
		exact, ok := new(big.Rat).SetString(text)
		scale := new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(places)), nil)
		if !ok || exact.Cmp(new(big.Rat).SetFrac(big.NewInt(n), scale)) != 0 {
			t.Errorf("parseDecimal(%q, %d) = %d", text, places, n)
		}
		if again, err := parseDecimal(strings.TrimSuffix(formatDecimal(n, places), "."), places); err != nil || again != n {
			t.Errorf("%d is written as %s and read as %d, %v", n, formatDecimal(n, places), again, err)
		}
	})
}

func TestFormatMoney(t *testing.T) {
	t.Parallel()
	for cents, want := range map[int64]string{
		0: "0.00 EUR", 5: "0.05 EUR", 100: "1.00 EUR", 99_999: "999.99 EUR", 100_000: "1,000.00 EUR",
		123_456_789: "1,234,567.89 EUR", -5: "-0.05 EUR", -123_456: "-1,234.56 EUR", -99_900: "-999.00 EUR",
	} {
		if got := formatMoney(cents, "EUR"); got != want {
			t.Errorf("formatMoney(%d) = %q, want %q", cents, got, want)
		}
	}
}

func TestQuantity(t *testing.T) {
	t.Parallel()
	for thousandths, want := range map[quantity]string{
		1000: "1", 1500: "1.5", 1: "0.001", 10_000: "10", 999_999_999_999: "999999999.999", 1_250: "1.25",
	} {
		if got := thousandths.String(); got != want {
			t.Errorf("%d thousandths are shown as %q, want %q", int64(thousandths), got, want)
		}
		if got, err := quantityOf(thousandths.numeric()); err != nil || got != thousandths {
			t.Errorf("%d thousandths come back from a numeric as %d, %v", int64(thousandths), int64(got), err)
		}
	}
	// The server shortens the exponent.
	if got, err := quantityOf(pgtype.Numeric{Int: big.NewInt(12), Exp: 1, Valid: true}); err != nil || got != 120_000 {
		t.Errorf("12e1 is %v, %v", got, err)
	}
	for _, bad := range []pgtype.Numeric{{}, {NaN: true, Valid: true}, {Int: big.NewInt(1), Exp: -4, Valid: true}} {
		if got, err := quantityOf(bad); err == nil {
			t.Errorf("%+v became %v", bad, got)
		}
	}
}

func TestAmountRoundsHalfAwayFromZero(t *testing.T) {
	t.Parallel()
	tests := []struct {
		q     quantity
		price int64
		want  string
	}{
		{1000, 100, "100"}, {500, 1, "1"}, {499, 1, "0"}, {1125, 100, "113"}, {333, 100, "33"}, {0, 5, "0"},
		{maxQuantity, maxUnitPriceCents, "999999999999000000000"},
	}
	for _, test := range tests {
		if got := test.q.amount(test.price).String(); got != test.want {
			t.Errorf("%s × %d = %s, want %s", test.q, test.price, got, test.want)
		}
	}
}
