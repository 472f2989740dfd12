package cli

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// group is the tenants of which the same is to be said.
type group struct {
	tenants []string
	what    []string // files, versions or a cause
	than    string   // what the files are older than
}

// groups are as many as there are things to be said.
type groups []group

func newGroups[T any](all []T, say func(T) group) groups {
	var gs groups
	places := make(map[string]int)
	for _, one := range all {
		g := say(one)
		key := strings.Join(append(g.what, g.than), "\x00")
		i, known := places[key]
		if !known {
			i = len(gs)
			places[key] = i
			gs = append(gs, group{what: g.what, than: g.than})
		}
		gs[i].tenants = append(gs[i].tenants, g.tenants...)
	}
	return gs
}

// largest puts those first that most tenants are in.
func (gs groups) largest() groups {
	slices.SortStableFunc(gs, func(a, b group) int { return cmp.Compare(len(b.tenants), len(a.tenants)) })
	return gs
}

// named is how many things are named for people; --json names all.
const named = 20

// namedInLine is how many are named where a line says more than the names.
const namedInLine = 5

func (g group) behind() string {
	return fmt.Sprintf("behind: %s: %d pending: %s", g.who(), len(g.what), someOf(g.what, namedInLine))
}

func (g group) ahead() string {
	versions := "versions"
	if len(g.what) == 1 {
		versions = "version"
	}
	return fmt.Sprintf("ahead: %s: %d %s that no file here has: %s — a newer release was there, or --migrations names another folder",
		g.who(), len(g.what), versions, someOf(g.what, namedInLine))
}

func (g group) outOfOrder() string {
	are := "are"
	if len(g.what) == 1 {
		are = "is"
	}
	return fmt.Sprintf("out of order: %s: %s %s pending and older than %s, which is applied already", g.who(), someOf(g.what, namedInLine), are, g.than)
}

// who names the only one, or tells how many there are besides the first few names.
func (g group) who() string {
	if len(g.tenants) == 1 {
		return g.tenants[0]
	}
	return fmt.Sprintf("%s (%s)", tenants(len(g.tenants)), someOf(g.tenants, namedInLine))
}

// someOf names the first few.
func someOf(names []string, few int) string {
	list := strings.Join(names[:min(len(names), few)], ", ")
	if more := len(names) - few; more > 0 {
		list += fmt.Sprintf(" and %d more", more)
	}
	return list
}

// tenants counts them.
func tenants(n int) string {
	if n == 1 {
		return "1 tenant"
	}
	return fmt.Sprintf("%d tenants", n)
}
