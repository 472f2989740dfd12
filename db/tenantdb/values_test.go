package tenantdb_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/big"
	"net"
	"net/netip"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/leasehold-go/leasehold/db/tenantdb"
)

type (
	named    string
	number   int32
	document struct {
		Name string   `json:"name"`
		List []int    `json:"list,omitempty"`
		Next *big.Int `json:"-"`
	}
)

// cents is an amount that knows how to be stored and read.
type cents int64

func (c cents) Value() (driver.Value, error) {
	if c < 0 {
		return nil, errors.New("less than nothing")
	}
	return fmt.Sprintf("%d.%02d", int64(c)/100, int64(c)%100), nil
}

func (c *cents) Scan(src any) error {
	s, ok := src.(string)
	if !ok {
		return fmt.Errorf("a %T is no amount", src)
	}
	_, err := fmt.Sscanf(strings.ReplaceAll(s, ".", ""), "%d", (*int64)(c))
	return err
}

func ptr[T any](v T) *T { return &v }

// arguments are Go values, each with the types that it is given to.
func arguments() map[string][]any {
	at := time.Date(2026, 3, 4, 5, 6, 7, 890123456, time.FixedZone("east", 19800))
	var noString *string
	whole := []any{
		7, int8(-7), int16(7), int32(7), int64(5_000_000_000), uint(7), uint8(7), uint16(7), uint32(4_000_000_000), uint64(1 << 63), 7.0, 1e300, number(7),
		ptr(7), ptr(ptr(7)), "7", "seven", big.NewInt(7), cents(750), cents(-1), true, nil, noString, pgtype.Int4{Int32: 7, Valid: true}, pgtype.Int8{},
		pgtype.Numeric{Int: big.NewInt(75), Exp: -1, Valid: true}, sql.NullInt64{Int64: 7, Valid: true}, sql.NullFloat64{}, json.Number("7"),
	}
	// A number with a fraction for a column of whole ones is cut by pgx and refused by us: TestAFractionIsNeverCutOff.
	numbers := append([]any{7.5, float32(0.1), math.Inf(1), math.NaN(), "0.1", math.Copysign(0, -1)}, whole...)
	texts := []any{
		"x", "", "it's \x01", "nul \x00", named("x"), ptr("x"), []byte("x"), []byte{0, 255}, 7, true, nil, noString, pgtype.Text{String: "x", Valid: true},
		pgtype.Text{}, sql.NullString{String: "x", Valid: true}, sql.NullString{}, cents(750), at, uuid.UUID{1, 2}, json.RawMessage(`{"a":1}`), big.NewInt(7),
		strings.Repeat("long ", 5000),
	}
	times := []any{
		at, at.UTC(), ptr(at), time.Time{}, "2026-03-04 05:06:07", "yesterday", pgtype.Timestamptz{Time: at, Valid: true}, pgtype.Date{Time: at, Valid: true},
		pgtype.Timestamp{InfinityModifier: pgtype.Infinity, Valid: true}, sql.NullTime{Time: at, Valid: true}, sql.NullTime{}, nil, 7,
		time.Date(-100, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(300000, 1, 1, 0, 0, 0, 0, time.UTC), 90 * time.Minute,
		pgtype.Interval{Days: 1, Valid: true}, pgtype.Time{Microseconds: 5, Valid: true},
	}
	documents := []any{
		document{"x", []int{1}, nil}, &document{Name: "x"}, map[string]any{"a": 1, "b": nil}, map[string]string{}, []int{1, 2}, []any{1, "a", nil}, `{"a": 1}`, `{`,
		[]byte(`{"a": 1}`), json.RawMessage(`[1]`), nil, 7, true, func() {}, at, (*document)(nil),
	}
	lists := []any{
		[]int{1, 2}, []int64(nil), []string{"1", "2"}, []*string{ptr("1"), nil}, [][]int{{1, 2}, {3, 4}}, [2]int{1, 2}, "{1,2}", []any{1, nil}, nil,
		[]float64{1.5}, []named{"1"}, pgtype.FlatArray[int]{1, 2}, pgtype.Array[string]{Elements: []string{"1"}, Dims: []pgtype.ArrayDimension{{Length: 1}}, Valid: true},
		[]byte{1, 2}, ptr([]int{1}),
	}
	others := []any{
		uuid.UUID{1, 2, 3}, [16]byte{4, 5}, "0198c5f0-7d1e-7cc2-9f0a-5b1f6f0f4a11", pgtype.UUID{}, netip.MustParseAddr("10.1.2.3"), netip.MustParsePrefix("10.1.0.0/16"),
		net.IPv4(10, 1, 2, 3), net.HardwareAddr{1, 2, 3, 4, 5, 6}, "10.1.2.3", pgtype.Range[pgtype.Int4]{Lower: pgtype.Int4{Int32: 1, Valid: true}, Upper: pgtype.Int4{Int32: 9, Valid: true},
			LowerType: pgtype.Inclusive, UpperType: pgtype.Exclusive, Valid: true}, "[1,9)", pgtype.Point{P: pgtype.Vec2{X: 1, Y: 2}, Valid: true}, "(1,2)", true, "t", nil,
		pgtype.Bool{Bool: true, Valid: true}, sql.NullBool{}, pgtype.Bits{Bytes: []byte{0x80}, Len: 3, Valid: true},
	}
	return map[string][]any{
		"int2": whole, "int4": whole, "int8": whole, "oid": whole, "float4": numbers, "float8": numbers, "numeric": numbers,
		"text": texts, "varchar(30)": texts, "bytea": texts, "name": {"x", strings.Repeat("x", 70), nil}, `"char"`: {"x", nil, byte('x')},
		"date": times, "timestamp": times, "timestamptz": times, "time": times, "interval": times,
		"interval[]": {"{infinity,-infinity,1 day}", "{NULL,1 day}"},
		"json":       documents, "jsonb": documents, "int4[]": lists, "text[]": lists, "numeric[]": lists,
		"uuid": others, "inet": others, "cidr": others, "macaddr": others, "int4range": others, "point": others, "bool": others, "bit(3)": others,
		"mood":   {"calm", "unknown", named("calm"), []byte("calm"), nil, ptr("calm"), 7, pgtype.Text{String: "calm", Valid: true}},
		"mood[]": {[]string{"calm"}, []named{"calm"}, "{calm,calm}", []string{}, nil, []string{"unknown"}},
	}
}

func TestArgumentsAreEncodedAsWithPgx(t *testing.T) {
	t.Parallel()
	var cases []parityCase
	for typ, values := range arguments() {
		cases = append(cases, parityCase{name: typ, run: func(ctx context.Context, db verbs) string {
			var out strings.Builder
			for _, v := range values {
				_ = apart(ctx, db, func(db verbs) error {
					got := readAll(ctx, db, "SELECT $1::"+typ+", ($1::"+typ+")::text", v)
					fmt.Fprintf(&out, "\n%T %.40v: %.2000s", v, v, got)
					if strings.HasPrefix(got, "error: none") {
						return nil
					}
					return errRollback
				})
			}
			return pointers.ReplaceAllString(out.String(), "an address")
		}})
	}
	checkParity(t, cases)
}

// sources are results of many types.
func sources() []string {
	return []string{
		"7::int2", "7::int4", "5000000000::int8", "0.1::float4", "1e300::float8", "12345678901234567890.50::numeric", "'NaN'::numeric", "'x'::text", "'7'::text", "''::varchar",
		"'x'::char(3)", "'\\x00ff'::bytea", "true", "'2026-03-04'::date", "'2026-03-04 05:06:07.89'::timestamp", "'2026-03-04 05:06:07.89+01'::timestamptz", "'infinity'::timestamptz",
		"'05:06:07'::time", "'1 month 2 days 00:00:03'::interval", `'{"name": "x", "list": [1]}'::jsonb`, `'{"name": "x"}'::json`, "'7'::jsonb", "'null'::jsonb", "'{1,2}'::int4[]",
		`'{a,"b c",NULL}'::text[]`, "'{}'::int8[]", "'0198c5f0-7d1e-7cc2-9f0a-5b1f6f0f4a11'::uuid", "'10.1.2.3/16'::inet", "'[1,9)'::int4range", "'(1,2)'::point",
		"'calm'::mood", "'{calm}'::mood[]", "42::oid", "'x'::name",
	}
}

// nulls are results that are null, each with the destinations that fit its type. What pgx makes of a null in any other is not the
// same every time.
func nulls() map[string][]string {
	return map[string][]string{
		"NULL::int4": {"any", "int", "*int", "Int4", "NullInt64", "int16", "nil"}, "NULL::text": {"any", "string", "*string", "Text", "NullString", "bytes", "named"},
		"NULL::mood": {"any", "string", "*string", "NullString", "Text"}, "NULL::timestamptz": {"any", "time", "**time", "Timestamptz", "NullTime"},
		"NULL::int4[]": {"any", "[]int"}, "NULL::text[]": {"any", "[]string", "[]*string"}, "NULL::jsonb": {"any", "map", "*document", "raw", "bytes"},
		"NULL::numeric": {"any", "Numeric", "sql.Null", "cents"}, "NULL::bytea": {"any", "bytes"}, "NULL::uuid": {"any", "UUID"}, "NULL::bool": {"any", "bool", "Bool"},
	}
}

// destinations are what a caller may scan into. Each is made anew.
func destinations() map[string]func() any {
	return map[string]func() any{
		"any": func() any { return new(any) }, "string": func() any { return new(string) }, "bytes": func() any { return new([]byte) }, "int": func() any { return new(int) },
		"int16": func() any { return new(int16) }, "uint64": func() any { return new(uint64) }, "float32": func() any { return new(float32) }, "float64": func() any { return new(float64) },
		"bool": func() any { return new(bool) }, "time": func() any { return new(time.Time) }, "duration": func() any { return new(time.Duration) },
		"*int": func() any { return new(*int) }, "*string": func() any { return new(*string) }, "**time": func() any { return new(*time.Time) }, "named": func() any { return new(named) },
		"NullString": func() any { return new(sql.NullString) }, "NullInt64": func() any { return new(sql.NullInt64) }, "NullTime": func() any { return new(sql.NullTime) },
		"sql.Null": func() any { return new(sql.Null[float64]) }, "cents": func() any { return new(cents) }, "raw": func() any { return new(json.RawMessage) }, "document": func() any { return new(document) },
		"*document": func() any { return new(*document) }, "map": func() any { return new(map[string]any) }, "[]int": func() any { return new([]int) }, "[]string": func() any { return new([]string) },
		"[]*string": func() any { return new([]*string) }, "[]any": func() any { return new([]any) }, "uuid": func() any { return new(uuid.UUID) }, "prefix": func() any { return new(netip.Prefix) },
		"Text": func() any { return new(pgtype.Text) }, "Int4": func() any { return new(pgtype.Int4) }, "Numeric": func() any { return new(pgtype.Numeric) },
		"Timestamptz": func() any { return new(pgtype.Timestamptz) }, "Date": func() any { return new(pgtype.Date) }, "Interval": func() any { return new(pgtype.Interval) },
		"Bool": func() any { return new(pgtype.Bool) }, "UUID": func() any { return new(pgtype.UUID) },
		"big": func() any { return new(big.Int) }, "not a pointer": func() any { return 7 }, "nil": func() any { return nil },
	}
}

// scanned shows what a destination holds, following addresses.
func scanned(dest any) string {
	v := reflect.ValueOf(dest)
	for v.Kind() == reflect.Pointer && !v.IsNil() {
		v = v.Elem()
	}
	if !v.IsValid() || v.Kind() == reflect.Pointer {
		return "nothing"
	}
	if list, ok := v.Interface().([]*string); ok {
		var out string
		for _, s := range list {
			out += scanned(s) + ","
		}
		return out
	}
	if f, ok := v.Interface().(fmt.Stringer); ok && v.Type() != reflect.TypeFor[time.Time]() {
		return f.String()
	}
	return fmt.Sprintf("%T %+v", v.Interface(), v.Interface())
}

// asItCame are destinations whose outcome depends on the format in which a value came, text or binary, which a first use may choose
// otherwise.
func asItCame() []string {
	return []string{"string", "*string", "named", "bytes", "raw", "NullString", "Text", "float64"}
}

func TestResultsAreScannedAsWithPgx(t *testing.T) {
	t.Parallel()
	var cases []parityCase
	for name, dest := range destinations() {
		cases = append(cases, parityCase{name: name, warmOnly: slices.Contains(asItCame(), name), run: func(ctx context.Context, db verbs) string {
			var out strings.Builder
			use := sources()
			for source, fit := range nulls() {
				if slices.Contains(fit, name) {
					use = append(use, source)
				}
			}
			slices.Sort(use)
			for _, source := range use {
				d := dest()
				err := db.QueryRow(ctx, "SELECT "+source+" /* "+name+" */").Scan(d)
				fmt.Fprintf(&out, "\n%s: %s; %s", source, kind(err), scanned(d))
			}
			return pointers.ReplaceAllString(out.String(), "an address")
		}})
	}
	// Rows that change their destinations on the way, and a raw look at the values.
	cases = append(cases, parityCase{name: "one after the other", run: func(ctx context.Context, db verbs) string {
		rows, err := db.Query(ctx, "SELECT i, i::text, NULLIF(i, 2) FROM generate_series(1, 4) i")
		if err != nil {
			return show(err)
		}
		defer rows.Close()
		var out strings.Builder
		for i := 0; rows.Next(); i++ {
			d := [][3]any{{new(int), new(string), new(*int)}, {new(int64), nil, new(pgtype.Int4)}, {new(any), new([]byte), new(any)}, {new(string), new(int), new(int)}}[i]
			err := rows.Scan(d[:]...)
			fmt.Fprint(&out, show(err), scanned(d[0]), scanned(d[1]), scanned(d[2]))
		}
		return out.String() + show(rows.Err())
	}}, parityCase{name: "bytes of the driver's own", run: func(ctx context.Context, db verbs) string {
		var b pgtype.DriverBytes
		err := db.QueryRow(ctx, "SELECT 'x'::bytea").Scan(&b)
		rows, queryErr := db.Query(ctx, "SELECT 'x'::bytea")
		if queryErr != nil {
			return show(queryErr)
		}
		defer rows.Close()
		rows.Next()
		return show(err) + show(rows.Scan(&b), string(b))
	}}, parityCase{name: "a wrong number of destinations", run: func(ctx context.Context, db verbs) string {
		var n int
		return show(db.QueryRow(ctx, "SELECT 1, 2").Scan(&n)) + show(db.QueryRow(ctx, "SELECT 1").Scan(&n, &n)) + show(db.QueryRow(ctx, "SELECT 1").Scan())
	}}, parityCase{name: "a whole row", run: func(ctx context.Context, db verbs) string {
		var w wholeRow
		err := db.QueryRow(ctx, "SELECT 1, 'x'").Scan(&w)
		return show(err, w)
	}})
	checkParity(t, cases)
}

// What a result is does not depend on who has asked before: a call may find its statement made known by another tenant.
func TestAResultIsTheSameColdAndWarm(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 4)
	db := f.open(t, tenantdb.Config{MaxConns: 1})
	read := func(row pgx.Row) string {
		var v any
		err := row.Scan(&v)
		return show(err, v)
	}
	for _, source := range append(sources(), "ROW(1, 'a')", "ROW(1, NULL, 'a')", "ARRAY[ROW(1)]", "now() - now()", "NULL", "'{[1,2],[5,6]}'::int4multirange") {
		sql := "SELECT " + source
		var want string
		for range 3 {
			want = read(db.QueryRow(f.ctx(t, 0), sql))
		}
		got := map[string]string{"in a call": read(db.QueryRow(f.ctx(t, 1), sql))}
		_ = db.InTx(f.ctx(t, 2), func(tx pgx.Tx) error {
			got["in a transaction"] = read(tx.QueryRow(f.ctx(t, 2), sql))
			return errRollback
		})
		var b pgx.Batch
		b.Queue(sql).QueryRow(func(row pgx.Row) error { got["in a batch"] = read(row); return nil })
		_ = db.SendBatch(f.ctx(t, 3), &b).Close()
		for where, cold := range got {
			if cold != want {
				t.Errorf("%s, %s: cold %s, warm %s", source, where, cold, want)
			}
		}
	}
}

// wholeRow scans a row by itself.
type wholeRow string

func (w *wholeRow) ScanRow(rows pgx.Rows) error {
	values, err := rows.Values()
	*w = wholeRow(fmt.Sprint(len(rows.FieldDescriptions()), values, rows.TypeMap() != nil))
	return err
}

// pointers finds addresses, which are never the same twice.
var pointers = regexp.MustCompile(`0x[0-9a-f]{6,}|0xc[0-9a-f]+`)
