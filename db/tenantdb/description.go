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

// description is what the server said of a statement: the types of its parameters and of its columns. It is immutable.
type description struct {
	params []uint32
	fields []pgconn.FieldDescription
	class  class
}

func newDescription(sd *pgconn.StatementDescription, c class) *description {
	return &description{params: sd.ParamOIDs, fields: sd.Fields, class: c}
}

// statement returns the description in the form that pgconn wants, under a name.
func (d *description) statement(name, sql string) *pgconn.StatementDescription {
	return &pgconn.StatementDescription{Name: name, SQL: sql, ParamOIDs: d.params, Fields: d.fields}
}

// universal reports whether every type in the description is built in, so that it may be tried for another tenant.
func (d *description) universal() bool {
	for _, oid := range d.params {
		if oid >= firstUserOID {
			return false
		}
	}
	for i := range d.fields {
		if d.fields[i].DataTypeOID >= firstUserOID {
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
