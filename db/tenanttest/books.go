package tenanttest

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
)

// books know of each mark whose it is, and which marks are known to be written. They are safe for concurrent use.
type books struct {
	prefix string // of this suite's marks, so that those of an earlier one on the same tenants do not count

	mu        sync.Mutex
	issued    []int      // by owner: how many marks were given
	confirmed [][]string // by owner: what was written for certain; only ever added to
}

func newBooks(owners int) *books {
	return &books{
		prefix: fmt.Sprintf("lh%08xt", rand.Uint32()),
		issued: make([]int, owners), confirmed: make([][]string, owners),
	}
}

// issue gives a new mark of an owner. From now on it may be seen.
func (b *books) issue(owner int) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.issued[owner]++
	return fmt.Sprintf("%s%dn%d", b.prefix, owner, b.issued[owner])
}

// confirm notes that a mark is written. From now on its owner must see it.
func (b *books) confirm(owner int, mark string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.confirmed[owner] = append(b.confirmed[owner], mark)
}

// written returns the marks that an owner must see by now.
func (b *books) written(owner int) []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	list := b.confirmed[owner]
	return list[:len(list):len(list)]
}

// owner returns whose mark it is, or false if it is none of ours.
func (b *books) owner(mark string) (int, bool) {
	rest, ours := strings.CutPrefix(mark, b.prefix)
	if !ours {
		return 0, false
	}
	digits, _, _ := strings.Cut(rest, "n")
	owner, err := strconv.Atoi(digits)
	return owner, err == nil && 0 <= owner && owner < len(b.issued)
}
