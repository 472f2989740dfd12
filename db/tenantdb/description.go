package tenantdb

import (
	"sync"

	"github.com/jackc/pgx/v5/pgconn"
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
// it is shared.
type description struct {
	// sd is in the form in which pgx encodes arguments by it. Of its fields only the types are known.
	sd    *pgconn.StatementDescription
	class class
}

// newDescription copies params, which the next message would overwrite.
func newDescription(params []uint32, c class) *description {
	return &description{sd: &pgconn.StatementDescription{ParamOIDs: append([]uint32(nil), params...)}, class: c}
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

// universal reports whether every type in the description is built in, so that it may be tried for another tenant.
func (d *description) universal() bool {
	for _, oid := range d.sd.ParamOIDs {
		if oid >= firstUserOID {
			return false
		}
	}
	for i := range d.sd.Fields {
		if d.sd.Fields[i].DataTypeOID >= firstUserOID {
			return false
		}
	}
	return true
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

func (d *descriptions) remove(sql string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.bySQL.remove(sql)
}
