package tenantdb

import (
	"math"

	"github.com/jackc/pgx/v5/pgtype"
)

// intervalCodec reads infinite intervals, which PostgreSQL 17 has brought, also as text, as pgx's own reads them in binary. It
// must not serve for arguments: pgx would then send PostgreSQL 15 the binary form, which is a finite interval there.
type intervalCodec struct{ pgtype.IntervalCodec }

// newReadMap returns the map of types that results are read with.
func newReadMap() *pgtype.Map {
	m := pgtype.NewMap()
	interval := &pgtype.Type{Name: "interval", OID: pgtype.IntervalOID, Codec: intervalCodec{}}
	m.RegisterType(interval)
	m.RegisterType(&pgtype.Type{Name: "_interval", OID: pgtype.IntervalArrayOID, Codec: &pgtype.ArrayCodec{ElementType: interval}})
	return m
}

func (c intervalCodec) PlanScan(m *pgtype.Map, oid uint32, format int16, target any) pgtype.ScanPlan {
	plan := c.IntervalCodec.PlanScan(m, oid, format, target)
	if plan == nil || format != pgtype.TextFormatCode {
		return plan
	}
	return infiniteIntervals{plan}
}

func (c intervalCodec) DecodeValue(m *pgtype.Map, oid uint32, format int16, src []byte) (any, error) {
	if v, ok := infinite(src); ok && format == pgtype.TextFormatCode {
		return v, nil
	}
	return c.IntervalCodec.DecodeValue(m, oid, format, src)
}

// infiniteIntervals scans an infinite interval; others are left to the plan.
type infiniteIntervals struct{ pgtype.ScanPlan }

func (p infiniteIntervals) Scan(src []byte, dst any) error {
	if v, ok := infinite(src); ok {
		return dst.(pgtype.IntervalScanner).ScanInterval(v)
	}
	return p.ScanPlan.Scan(src, dst)
}

// infinite returns the infinite interval that the text stands for, as it is in binary.
func infinite(text []byte) (pgtype.Interval, bool) {
	switch string(text) {
	case "infinity":
		return pgtype.Interval{Microseconds: math.MaxInt64, Days: math.MaxInt32, Months: math.MaxInt32, Valid: true}, true
	case "-infinity":
		return pgtype.Interval{Microseconds: math.MinInt64, Days: math.MinInt32, Months: math.MinInt32, Valid: true}, true
	}
	return pgtype.Interval{}, false
}
