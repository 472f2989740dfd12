package directory

import (
	"context"

	"github.com/leasehold-go/leasehold/internal/controlsql"
)

// maxPurgeObjects is how many objects of the catalogue one transaction of a purge drops: a table counts with its indexes, types,
// constraints, defaults and triggers. The server locks each, and some of the tables that they belong to.
const maxPurgeObjects = 256

// object is an object of a database's catalogue, or a column of a table if part is not 0.
type object struct {
	class, id int64
	part      int32
}

// droppable is an object that can be dropped by itself, with whatever depends on it.
type droppable struct {
	object
	statement string
}

// dependency says that an object, or a column, goes when what it is an edge of goes.
type dependency struct {
	object
	onPart int32 // the column that it depends on, 0 for the whole
}

// purgePlan works out an order in which what is in a schema is dropped. It does what DROP … CASCADE would do, without the server.
type purgePlan struct {
	droppables []droppable
	// dependents of an object as a whole and of its columns, by the object.
	dependents map[object][]dependency
	// owners of objects that are parts of others, or of their columns: to drop the part is to drop the owner.
	owners map[object][]object
	gone   map[object]bool
}

// newPurgePlan reads a schema.
func newPurgePlan(ctx context.Context, q *controlsql.Queries, schema string) (*purgePlan, error) {
	edges, err := q.ListDependencies(ctx, schema)
	if err != nil {
		return nil, err
	}
	rows, err := q.ListDroppable(ctx, schema)
	if err != nil {
		return nil, err
	}
	p := &purgePlan{dependents: map[object][]dependency{}, owners: map[object][]object{}, gone: map[object]bool{}}
	for _, e := range edges {
		on := object{class: e.OnClass, id: e.OnObject}
		p.dependents[on] = append(p.dependents[on], dependency{object{e.Class, e.Object, e.Part}, e.OnPart})
		if (e.Kind == "i" || e.Kind == "e") && e.Part == 0 {
			part := object{class: e.Class, id: e.Object}
			p.owners[part] = append(p.owners[part], object{e.OnClass, e.OnObject, e.OnPart})
		}
	}
	for _, row := range rows {
		p.droppables = append(p.droppables, droppable{object{class: row.Class, id: row.Object}, row.Statement})
	}
	return p, nil
}

// batches returns the statements to run, those of each transaction together. No transaction drops more than limit objects, unless a
// single one takes so many with it whatever is dropped before.
func (p *purgePlan) batches(limit int) [][]string {
	var (
		all   [][]string
		batch []string
		size  int
	)
	flush := func() {
		if len(batch) > 0 {
			all, batch, size = append(all, batch), nil, 0
		}
	}
	drop := func(d droppable, takes []object) {
		if size+len(takes) > limit {
			flush()
		}
		for _, o := range takes {
			p.gone[o] = true
		}
		batch, size = append(batch, d.statement), size+len(takes)
	}
	for pending := p.droppables; len(pending) > 0; {
		var heavy []droppable
		for _, d := range pending {
			if p.gone[d.object] {
				continue
			}
			if takes, ok := p.takes(d.object, limit); ok {
				drop(d, takes)
			} else {
				heavy = append(heavy, d)
			}
		}
		if len(heavy) == len(pending) {
			lightest, takes := p.lightest(heavy)
			drop(lightest, takes)
		}
		pending = heavy
	}
	flush()
	return all
}

// lightest returns the one of several that takes the fewest objects with it.
func (p *purgePlan) lightest(heavy []droppable) (lightest droppable, takes []object) {
	for _, d := range heavy {
		limit := len(p.dependents) + 1<<30
		if takes != nil {
			limit = len(takes) - 1
		}
		if fewer, ok := p.takes(d.object, limit); ok {
			lightest, takes = d, fewer
		}
	}
	return lightest, takes
}

// takes returns all that goes with an object, itself included; or false if that is more than limit.
func (p *purgePlan) takes(start object, limit int) ([]object, bool) {
	found := []object{start}
	seen := map[object]bool{start: true}
	add := func(o object) {
		whole := object{class: o.class, id: o.id}
		if !p.gone[o] && !p.gone[whole] && !seen[o] && !seen[whole] {
			seen[o] = true
			found = append(found, o)
		}
	}
	for i := 0; i < len(found); i++ {
		if len(found) > limit {
			return nil, false
		}
		o := found[i]
		for _, d := range p.dependents[object{class: o.class, id: o.id}] {
			if o.part == 0 || o.part == d.onPart {
				add(d.object)
			}
		}
		if o.part == 0 {
			for _, owner := range p.owners[o] {
				add(owner)
			}
		}
	}
	return found, true
}
