package tenantdb

import (
	"slices"
	"sync"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
)

const (
	// descriptionsPerTenant bounds what is remembered of one tenant's statements.
	descriptionsPerTenant = 1024
	// descriptionsShared bounds what is remembered for all of them.
	descriptionsShared = 8192
	// firstUserOID is PostgreSQL's FirstNormalObjectId: types below it are built in and mean the same to every tenant.
	firstUserOID = 16384
)

// description is what the server said of a statement: the types of its parameters and of its columns. It is immutable once
// it is shared. A parameter of a type that is not built in has the type 0: it travels as text, and the server works out the
// type for each tenant by itself, so that a description fits tenants with types of their own. Its columns are believed only by the
// tenant that they were told of: for others, results are asked for as text.
type description struct {
	// sd is in the form in which pgx encodes arguments by it. Of its fields only the types are known.
	sd    *pgconn.StatementDescription
	class class
}

// newDescription copies params, which the next message would overwrite.
func newDescription(params []uint32, c class) *description {
	d := &description{sd: &pgconn.StatementDescription{ParamOIDs: append([]uint32(nil), params...)}, class: c}
	for i, oid := range params {
		d.sd.ParamOIDs[i] = builtIn(oid)
	}
	return d
}

// builtIn returns a type that means the same to every tenant, or 0.
func builtIn(oid uint32) uint32 {
	if oid >= firstUserOID {
		return 0
	}
	return oid
}

func (d *description) addColumn(oid uint32) {
	d.sd.Fields = append(d.sd.Fields, pgconn.FieldDescription{DataTypeOID: oid})
}

// withColumns returns the description with the columns that a result turned out to have.
func (d *description) withColumns(fields []pgconn.FieldDescription) *description {
	other := newDescription(d.sd.ParamOIDs, d.class)
	for i := range fields {
		other.addColumn(fields[i].DataTypeOID)
	}
	return other
}

// hasRecords reports whether a column is a row type without a name, which pgx can read in binary only.
func (d *description) hasRecords() bool {
	return slices.ContainsFunc(d.sd.Fields, func(f pgconn.FieldDescription) bool {
		return f.DataTypeOID == pgtype.RecordOID || f.DataTypeOID == pgtype.RecordArrayOID
	})
}

// descriptions is a bounded set of descriptions by SQL. It is safe for concurrent use.
type descriptions struct {
	mu    sync.Mutex
	bySQL *lru[string, *description] // guarded by mu
}

func newDescriptions(size int) *descriptions {
	return &descriptions{bySQL: newLRU[string, *description](size, nil)}
}

func (d *descriptions) get(sql string) *description {
	d.mu.Lock()
	defer d.mu.Unlock()
	desc, _ := d.bySQL.get(sql)
	return desc
}

func (d *descriptions) put(sql string, desc *description) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.bySQL.put(sql, desc)
}

// describes reports whether the columns are those of the description.
func (d *description) describes(fields []pgconn.FieldDescription) bool {
	if len(fields) != len(d.sd.Fields) {
		return false
	}
	for i := range fields {
		if fields[i].DataTypeOID != d.sd.Fields[i].DataTypeOID {
			return false
		}
	}
	return true
}

func (d *descriptions) clear() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.bySQL = newLRU[string, *description](d.bySQL.size, nil)
}

func (d *descriptions) remove(sql string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.bySQL.remove(sql)
}
