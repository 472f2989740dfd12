package tenantdb_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/leasehold-go/leasehold/db/tenantdb"
)

// What a tenant's first call of a statement returns comes as text: it must be read as well on servers that write values in
// other forms than pgx knows.
func TestValuesAreReadWhateverFormTheServerPrefers(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	cc := f.connConfig(t)
	for name, value := range map[string]string{
		"datestyle": "German, DMY", "intervalstyle": "iso_8601", "bytea_output": "escape", "extra_float_digits": "-3",
	} {
		cc.RuntimeParams[name] = value
	}
	db := f.open(t, tenantdb.Config{ConnConfig: cc, MaxConns: 1})
	for i := range f.tenants { // the first one describes the statement, the second one borrows what it learnt
		var (
			at    time.Time
			wait  time.Duration
			raw   []byte
			third float64
		)
		err := db.QueryRow(f.ctx(t, i), `SELECT '2026-03-04 05:06:07.89+00'::timestamptz, '26:00:03'::interval, '\x00ff0a'::bytea, (1/3.0)::float8`).
			Scan(&at, &wait, &raw, &third)
		if err != nil {
			t.Fatal(err)
		}
		if want := time.Date(2026, 3, 4, 5, 6, 7, 890_000_000, time.UTC); !at.Equal(want) || wait != 26*time.Hour+3*time.Second ||
			string(raw) != "\x00\xff\n" || third != 1/3.0 {
			t.Errorf("tenant %d: got %v, %v, %q, %v", i, at, wait, raw, third)
		}
		// Only the form is set: the order of day and month in what is written is still the server's.
		var day time.Time
		if err := db.QueryRow(f.ctx(t, i), "SELECT '04.03.2026'::text::date").Scan(&day); err != nil || day.Month() != time.March {
			t.Errorf("tenant %d: got %v, %v; want the 4th of March", i, day, err)
		}
	}
	// Behind a pooler no session is ours to set up.
	_, err := tenantdb.Open(t.Context(), tenantdb.Config{ConnConfig: cc, Pooler: tenantdb.PoolerTransaction})
	if err == nil || !strings.Contains(err.Error(), "SET datestyle = 'ISO'") {
		t.Errorf("got %v, want what to run", err)
	}
}

// money is an amount in cents, as a library for decimals would have it.
type money int64

type moneyCodec struct{ pgtype.NumericCodec }

func (moneyCodec) PreferredFormat() int16 { return pgtype.TextFormatCode }

func (c moneyCodec) PlanEncode(m *pgtype.Map, oid uint32, format int16, value any) pgtype.EncodePlan {
	if _, ok := value.(money); !ok || format != pgtype.TextFormatCode {
		return c.NumericCodec.PlanEncode(m, oid, format, value)
	}
	return moneyText{}
}

func (c moneyCodec) PlanScan(m *pgtype.Map, oid uint32, format int16, target any) pgtype.ScanPlan {
	if _, ok := target.(*money); !ok || format != pgtype.TextFormatCode {
		return c.NumericCodec.PlanScan(m, oid, format, target)
	}
	return moneyText{}
}

type moneyText struct{}

func (moneyText) Encode(value any, buf []byte) ([]byte, error) {
	return fmt.Appendf(buf, "%d.%02d", value.(money)/100, value.(money)%100), nil
}

func (moneyText) Scan(src []byte, dst any) error {
	var whole, cents int64
	_, err := fmt.Sscanf(string(src), "%d.%02d", &whole, &cents)
	*dst.(*money) = money(whole*100 + cents)
	return err
}

func TestTypesThatAreRegisteredAreReadAndWritten(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	db := f.open(t, tenantdb.Config{MaxConns: 1, RegisterTypes: func(m *pgtype.Map) {
		m.RegisterType(&pgtype.Type{Name: "numeric", OID: pgtype.NumericOID, Codec: moneyCodec{}})
	}})
	for range 3 {
		for i := range f.tenants {
			var got money
			if err := db.QueryRow(f.ctx(t, i), "SELECT $1::numeric + 0.01", money(1234)).Scan(&got); err != nil || got != 1235 {
				t.Errorf("tenant %d: got %d, %v; want 1235", i, got, err)
			}
		}
	}
}
