package main

import (
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/leasehold-go/leasehold/db/tenant"
)

// firstID is the first id of rows that the soak inserts; the standing rows of a house are below.
const firstID = 1000

// house is one tenant, with the state in which its schema is and an account of what was written to it. It is safe for
// concurrent use.
type house struct {
	*tenant.Tenant
	label  string // of its own in its enum
	lastID atomic.Int32
	// temporary says that the tenant may make temporary tables. It is set before the first operation.
	temporary bool

	mu sync.Mutex
	// version is odd while the schema is being changed.
	version uint64
	// gone says, while the version is even, that the schema is not there.
	gone bool
	// era is even while the schema stands, and odd from its last audit until it was built anew.
	era   uint64
	books books
	open  map[*ticket]struct{} // writes that are under way
}

func newHouse(t *tenant.Tenant) *house {
	h := &house{Tenant: t, label: "only-" + string(t.Slug), open: map[*ticket]struct{}{}}
	h.lastID.Store(firstID)
	return h
}

// awayName is what the schema is called while the landlord hides it.
func (h *house) awayName() string { return h.Placement.Schema + "_away" }

// newIDs returns the first of n ids that nobody has or will have.
func (h *house) newIDs(n int32) int32 { return h.lastID.Add(n) - n }

// sight is what a house looks like at one moment.
type sight struct {
	version uint64
	gone    bool
}

func (h *house) look() sight {
	h.mu.Lock()
	defer h.mu.Unlock()
	return sight{h.version, h.gone}
}

// quiet reports whether the schema was left alone between two looks.
func quiet(before, after sight) bool { return before.version == after.version && before.version%2 == 0 }

// changed reports whether the schema was ever changed.
func (s sight) changed() bool { return s.version > 0 }

func (h *house) beginChange() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.version++
}

func (h *house) endChange(gone bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.version++
	h.gone = gone
}

// block is n rows with consecutive ids.
type block struct{ first, n int32 }

func (b block) idSum() int64 { return int64(b.n) * (2*int64(b.first) + int64(b.n) - 1) / 2 }

// effect is what a write does if it is committed: all of it or nothing.
type effect struct {
	added  int64   // to the sum of qty over the standing rows
	blocks []block // that are inserted
}

func (e effect) empty() bool { return e.added == 0 && len(e.blocks) == 0 }

// books say what is in a schema.
type books struct {
	added, rows, idSum int64
	// doubtful are effects of which nobody knows whether they were committed.
	doubtful []effect
	// late are those of the schema before this one: a backend whose caller has gone, and who waited for its lock, finds this one.
	late []effect
}

func (b *books) enter(e effect) {
	b.added += e.added
	for _, bl := range e.blocks {
		b.rows += int64(bl.n)
		b.idSum += bl.idSum()
	}
}

// outcome is how a write ended, as far as its caller can know.
type outcome uint8

const (
	undone outcome = iota
	committed
	unknown
)

// ticket is a write under way. It belongs to one goroutine; the effect is guarded by the house's lock.
type ticket struct {
	house  *house
	era    uint64
	effect effect
}

func (h *house) newTicket() *ticket {
	t := &ticket{house: h}
	h.mu.Lock()
	defer h.mu.Unlock()
	t.era = h.era
	h.open[t] = struct{}{}
	return t
}

// intend adds to what the write will do. It must be called before the statement is sent.
func (t *ticket) intend(added int64, blocks ...block) {
	t.house.mu.Lock()
	defer t.house.mu.Unlock()
	t.effect.added += added
	t.effect.blocks = append(t.effect.blocks, blocks...)
}

// close enters the write into the books.
func (t *ticket) close(o outcome) {
	h := t.house
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.open, t)
	switch {
	case o == undone || t.effect.empty():
	case o == committed && t.era == h.era && h.era%2 == 0:
		h.books.enter(t.effect)
	default: // also a write that may have gone into the schema before this one
		h.books.doubtful = append(h.books.doubtful, t.effect)
	}
}

// snapshot returns what is certain and what is not. Nobody may be writing to the schema, though callers may not know yet how
// their writes ended.
func (h *house) snapshot() (sure books, doubts []effect) {
	h.mu.Lock()
	defer h.mu.Unlock()
	doubts = append(append(doubts, h.books.doubtful...), h.books.late...)
	for t := range h.open {
		if !t.effect.empty() {
			doubts = append(doubts, effect{t.effect.added, append([]block(nil), t.effect.blocks...)})
		}
	}
	return h.books, doubts
}

// closeBooks ends the era of a schema that is about to be dropped. It returns the books, for reopen.
func (h *house) closeBooks() books {
	h.mu.Lock()
	defer h.mu.Unlock()
	old := h.books
	h.era++
	h.books = books{late: old.doubtful}
	return old
}

// openBooks begins the era of a new schema. What ended in between stays in doubt.
func (h *house) openBooks() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.era++
}

// reopenBooks takes closeBooks back: the schema was not dropped.
func (h *house) reopenBooks(old books) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.era++
	old.doubtful = append(old.doubtful, h.books.doubtful...)
	h.books = old
}

// found is what an audit found in a schema.
type found struct {
	standing int   // standing rows
	foreign  int64 // rows that do not say that they are the tenant's
	added    int64 // sum of qty over the standing rows
	rows     int64 // inserted ones
	idSum    int64 // of the inserted rows
	present  map[int32]bool
}

// compare returns what is wrong with a schema: a snapshot must explain all that was found.
func (h *house) compare(sure books, doubts []effect, f found, standing int) (faults []string) {
	fault := func(format string, args ...any) {
		faults = append(faults, string(h.Slug)+": "+fmt.Sprintf(format, args...))
	}
	if f.standing != standing {
		fault("%d standing rows, want %d", f.standing, standing)
	}
	if f.foreign != 0 {
		fault("%d rows of another tenant", f.foreign)
	}
	least, most := sure.added, sure.added
	rows, idSum := sure.rows, sure.idSum
	for _, e := range doubts {
		there, all := 0, 0
		for _, bl := range e.blocks {
			all += int(bl.n)
			for id := bl.first; id < bl.first+bl.n; id++ {
				if f.present[id] {
					there++
					rows++
					idSum += int64(id)
				}
			}
		}
		switch {
		case there != 0 && there != all:
			fault("a write was torn: %d of its %d rows are there", there, all)
		case all == 0: // nothing but increments: it cannot be told
			most += e.added
		case there == all:
			least += e.added
			most += e.added
		}
	}
	if f.rows != rows || f.idSum != idSum {
		fault("%d inserted rows (sum of ids %d), want %d (%d)", f.rows, f.idSum, rows, idSum)
	}
	if f.added < least || f.added > most {
		fault("increments add up to %d, want %d to %d", f.added, least, most)
	}
	return faults
}
