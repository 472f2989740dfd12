package app

import (
	"errors"
	"fmt"
	"math/big"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgtype"
)

const (
	// quantityPlaces are the decimal places of a quantity, as in the column's numeric(12, 3).
	quantityPlaces = 3
	// moneyPlaces are the decimal places of an amount of money on pages; the API speaks of cents.
	moneyPlaces = 2
	// maxDecimalDigits keeps every number that parseDecimal reads inside an int64.
	maxDecimalDigits = 15
)

// The texts are reasons as fieldErrors.add takes them.
var (
	errNotDecimal = errors.New("must be a decimal number such as 12.5")
	errTooLarge   = errors.New("is too large")
)

// parseDecimal reads a plain decimal number, such as -12.50, and returns it in units of 10 to the power of -places: with two
// places 12.5 is 1250. It is exact or it fails; the error is fit to be shown. There is no exponent and no digit grouping,
// because both are read differently by different people.
func parseDecimal(s string, places int) (int64, error) {
	digits, negative := strings.CutPrefix(s, "-")
	whole, frac, hasFrac := strings.Cut(digits, ".")
	if !isDigits(whole) || (hasFrac && !isDigits(frac)) {
		return 0, errNotDecimal
	}
	frac = strings.TrimRight(frac, "0")
	if len(frac) > places {
		return 0, fmt.Errorf("may have at most %d decimal places", places)
	}
	whole = strings.TrimLeft(whole, "0")
	if len(whole)+places > maxDecimalDigits {
		return 0, errTooLarge
	}
	n, err := strconv.ParseInt("0"+whole+frac+strings.Repeat("0", places-len(frac)), 10, 64)
	if err != nil {
		return 0, errNotDecimal
	}
	if negative {
		n = -n
	}
	return n, nil
}

func isDigits(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}

// formatDecimal is the inverse of parseDecimal and keeps all places.
func formatDecimal(n int64, places int) string {
	sign := ""
	if n < 0 {
		sign = "-"
		n = -n
	}
	s := fmt.Sprintf("%0*d", places+1, n)
	return sign + s[:len(s)-places] + "." + s[len(s)-places:]
}

// formatMoney shows cents to people: 1,234.50 EUR.
func formatMoney(cents int64, currency string) string {
	whole, frac, _ := strings.Cut(formatDecimal(cents, moneyPlaces), ".")
	digits, negative := strings.CutPrefix(whole, "-")
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	if negative {
		digits = "-" + digits
	}
	return digits + "." + frac + " " + currency
}

// quantity is an exact decimal in thousandths.
type quantity int64

// String shows the quantity without needless zeros: 2, 1.5, 0.125.
func (q quantity) String() string {
	return strings.TrimSuffix(strings.TrimRight(formatDecimal(int64(q), quantityPlaces), "0"), ".")
}

// MarshalJSON writes a JSON number.
func (q quantity) MarshalJSON() ([]byte, error) { return []byte(q.String()), nil }

// numeric returns the quantity as the database takes it.
func (q quantity) numeric() pgtype.Numeric {
	return pgtype.Numeric{Int: big.NewInt(int64(q)), Exp: -quantityPlaces, Valid: true}
}

// quantityOf reads what the database returned. An error means that the column is not what the code was made for.
func quantityOf(n pgtype.Numeric) (quantity, error) {
	text, err := n.MarshalJSON()
	if err != nil {
		return 0, fmt.Errorf("read a quantity: %w", err)
	}
	v, err := parseDecimal(string(text), quantityPlaces)
	if err != nil {
		return 0, fmt.Errorf("read the quantity %s: %w", text, err)
	}
	return quantity(v), nil
}

// amount is what a line of this quantity costs, rounded to the cent half away from zero. The database computes the same for
// what it stores; here it is needed to refuse what would not fit, so it must not overflow. Neither factor may be negative.
func (q quantity) amount(unitPriceCents int64) *big.Int {
	n := new(big.Int).Mul(big.NewInt(int64(q)), big.NewInt(unitPriceCents))
	return n.Quo(n.Add(n, big.NewInt(500)), big.NewInt(1000))
}
