package migrate

import (
	"cmp"
	"context"
	"encoding/hex"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"
)

// Drift is how one target differs from the reference.
type Drift struct {
	// Target and Schema are the Target's.
	Target, Schema string
	// Behind holds the names of the files that the reference has and the target lacks, in order. A target that is behind is not compared:
	// what those files would bring is no difference. Differences then has only what is wrong in itself, and what is wrong in the ledger.
	Behind []string
	// Differences are sorted by kind and object. There are none if all is well, or if Err is set. What is missing as a whole, or too much,
	// stands there once: without its columns, constraints, indexes, owner and grants.
	Differences []Difference
	// Err is nil or an *Error.
	Err error
}

// Difference is one thing that is not in a target's schema as it is in the reference's.
type Difference struct {
	// Kind is what differs: "table", "column", "sequence", "constraint", "index", "view", "materialized view", "statistics",
	// "type", "function", "trigger", "rule", "policy", "row security", "owner", "grant", "default privileges", or "object" for
	// what is rarer; "migration" for the ledger; "dependency" and "audit" for what is wrong in itself, whatever the reference
	// has.
	Kind string
	// Object is its name, without the schema: table.column, table.constraint, table.trigger, function(argument types).
	Object string
	// Want is its definition in the reference. It is "" if the reference has no such object.
	Want string
	// Got is its definition in the target. It is "" if the target has no such object.
	Got string
}

// String tells the difference in one line, cut where it is long.
func (d Difference) String() string {
	name := d.Kind + " " + d.Object
	switch {
	case d.Got == "":
		return name + " is missing" + d.told(d.Want)
	case d.Want == "":
		return name + " should not be there" + d.told(d.Got)
	}
	want, got := strings.Split(d.Want, "\n"), strings.Split(d.Got, "\n")
	line := 0
	for line < min(len(want), len(got)) && want[line] == got[line] {
		line++
	}
	if len(want) > 1 || len(got) > 1 {
		name += fmt.Sprintf(", line %d,", line+1)
	}
	w, g := contrast(strings.Join(want[line:min(line+1, len(want))], ""), strings.Join(got[line:min(line+1, len(got))], ""))
	return fmt.Sprintf("%s is %s, want %s", name, g, w)
}

// told is a definition as it stands behind a name, if it says more than that the thing is there.
func (d Difference) told(definition string) string {
	if strings.EqualFold(definition, d.Kind) || definition == "present" || definition == "applied" {
		return ""
	}
	return ": " + excerpt(definition)
}

// contrastContext is how many bytes of what two lines have in common are shown before they part.
const contrastContext = 20

// contrast cuts two lines to where they differ.
func contrast(a, b string) (cutA, cutB string) {
	common := 0
	for common < min(len(a), len(b)) && a[common] == b[common] {
		common++
	}
	cut := func(s string) string {
		from, to := 0, len(s)
		if common > excerptLen/2 {
			from = common - contrastContext
		}
		if to-from > excerptLen {
			to = from + excerptLen
		}
		for from > 0 && !utf8.RuneStart(s[from]) {
			from--
		}
		for to < len(s) && !utf8.RuneStart(s[to]) {
			to--
		}
		text := s[from:to]
		if from > 0 {
			text = "…" + text
		}
		if to < len(s) {
			text += "…"
		}
		return cmp.Or(text, "nothing")
	}
	return cut(a), cut(b)
}

// Check compares what stands in each target's schema with what stands in the reference's, a schema freshly migrated with the same
// files, perhaps in another database. The result has one Drift for each target, in the order given. Differences are no error.
//
// Compared are tables, partitions and inheritance, columns with their types, defaults, identity and generation, constraints,
// indexes, sequences, views, extended statistics, types, functions, triggers, rules, policies, owners, grants and default
// privileges, by name and by definition as the server prints it. A constraint that is not validated differs from one that is, an
// index that is invalid from one that is not. Names of the schema itself are taken out first; the login that migrates and the
// tenant's role may have any name. In the ledger the versions are compared, and the files with their checksums there; a target whose
// ledger lacks files is not compared otherwise.
//
// Reported whether or not the reference has it too: a SECURITY DEFINER function without a search_path of its own ("audit"), and
// what depends on something in another schema than its own, the target's ExtensionSchema or the system's, or is depended on from
// there ("dependency"). What belongs to an extension is left out.
//
// Not compared: the order of columns, save in composite types, since tenants that took different ways to the same files may
// differ there; names that nobody chose, as of the sequence behind an identity column or of what a partition has from its
// parent; comments, security labels, tablespaces, storage and statistics targets; rows, the positions of sequences, and whether
// a materialized view is filled. Of operators, collations, text search and the like only the presence is compared. The texts are
// those of a server's version: reference and targets should be of one.
//
// Nothing is changed. Two hundred targets of one database are read in one read-only transaction of some tenths of a second, which
// holds the share locks that printing a view takes on its tables: who has to change one of these waits that long, and so does a
// CREATE INDEX CONCURRENTLY. A target that somebody has locked is waited for as long as Config.LockTimeout says. Config.Workers of
// these transactions, by default 4, run at a time. Memory is for what differs, and for the targets in hand.
//
// Targets that could not be read have an Err; the error then is a *FailedError, or wraps the context's as that of Status does. If the
// reference could not be read there is no result, and the error is an *Error.
func (m *Migrator) Check(ctx context.Context, reference Target, targets []Target) ([]Drift, error) {
	c := &checker{m: m, targets: targets, drifts: make([]Drift, len(targets)), done: make([]bool, len(targets))}
	c.ledgers = make(map[string]*ledgerSums)
	if err := c.readReference(ctx, reference); err != nil {
		reference.Name = reference.name()
		return nil, reference.wrap(ctx, err)
	}
	chunks := c.chunks()
	each(cmp.Or(m.cfg.Workers, surveyWorkers), len(chunks), func() bool { return ctx.Err() == nil },
		func(_, i int) { c.read(ctx, chunks[i]) }, func(int) {})
	var (
		failed     []Result
		unfinished int
	)
	for i := range c.drifts {
		t, d := targets[i], &c.drifts[i]
		t.Name = t.name()
		if !c.done[i] { // not reached
			d.Err = contextError(ctx)
		}
		d.Target, d.Schema, d.Err = t.Name, t.Schema, t.wrap(ctx, d.Err)
		switch {
		case interrupted(ctx, d.Err):
			unfinished++
		case d.Err != nil:
			failed = append(failed, Result{Target: d.Target, Schema: d.Schema, Err: d.Err})
		}
	}
	return c.drifts, outcome(failed, unfinished, len(targets), contextError(ctx))
}

// catalogue holds the definitions of what stands in a schema, by kind and object.
type catalogue map[string]map[string]string

func (c catalogue) add(kind, object, definition string) {
	if c[kind] == nil {
		c[kind] = make(map[string]string)
	}
	c[kind][object] = definition
}

// standing is a schema that was read: its names stand in the definitions with the prefix.
type standing struct {
	prefix    string
	digests   map[string]string // by kind
	objects   catalogue         // of the kinds that were asked for
	ledger    *ledgerSums
	ledgerSQL string // reads the ledger; "" if there is none
	behind    []string
}

// differingKinds returns the kinds of which the schemas have not the same.
func (s *standing) differingKinds(other *standing) []string {
	var kinds []string
	for _, kind := range allKinds() {
		if s.digests[kind] != other.digests[kind] {
			kinds = append(kinds, kind)
		}
	}
	return kinds
}

// compare returns what differs between the schema and the reference, in the kinds given.
func (s *standing) compare(reference *standing, kinds []string) []Difference {
	var (
		differences  []Difference
		own, foreign = newStripper(s.prefix), newStripper(reference.prefix)
	)
	for _, kind := range kinds {
		want, got := reference.objects[kind], s.objects[kind]
		for object := range want {
			if _, ok := got[object]; !ok {
				differences = append(differences, Difference{kind, object, foreign.strip(want[object]), ""})
			}
		}
		for object := range got {
			if _, ok := want[object]; !ok {
				differences = append(differences, Difference{kind, object, "", own.strip(got[object])})
				continue
			}
			w, g := foreign.strip(want[object]), own.strip(got[object])
			// An alias in a view may be called as the other schema.
			if w != g && own.strip(w) != foreign.strip(g) {
				differences = append(differences, Difference{kind, object, w, g})
			}
		}
	}
	return differences
}

// stripper takes the name of a schema out of texts.
type stripper struct{ pattern *regexp.Regexp }

// newStripper returns the one for the prefix, a quoted name and a dot.
func newStripper(prefix string) stripper {
	pattern := regexp.QuoteMeta(prefix)
	if !strings.HasPrefix(prefix, `"`) {
		pattern = `\b` + pattern
	}
	return stripper{regexp.MustCompile(pattern)}
}

func (s stripper) strip(text string) string { return s.pattern.ReplaceAllLiteralString(text, "") }

// ledgerSums is what stands in a ledger. Ledgers with the same content share one.
type ledgerSums struct {
	// checksums are by version, and empty where none was kept.
	checksums map[string]string
}

// lacks returns what only the reference's ledger has, by the names of the files, in order.
func (l *ledgerSums) lacks(reference *ledgerSums, set *Set) []string {
	var names []string
	for version := range reference.checksums {
		if _, ok := l.checksums[version]; !ok {
			names = append(names, set.nameOf(version))
		}
	}
	slices.Sort(names)
	return names
}

// compare returns the versions that the reference's ledger has not, and the files that were changed since they were applied.
func (l *ledgerSums) compare(reference *ledgerSums, set *Set) []Difference {
	var differences []Difference
	for _, f := range set.files {
		now := hex.EncodeToString(f.checksum[:])
		if got := l.checksums[f.Version]; got != "" && got != now {
			differences = append(differences, Difference{"migration", f.Name,
				"the file as it is now, SHA-256 " + now, "a file that was changed since it was applied here, SHA-256 " + got})
		}
	}
	for version := range l.checksums {
		if _, ok := reference.checksums[version]; !ok {
			differences = append(differences, Difference{"migration", set.nameOf(version), "", "applied"})
		}
	}
	return differences
}

func sortDifferences(differences []Difference) {
	slices.SortFunc(differences, func(a, b Difference) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Object, b.Object), cmp.Compare(a.Got, b.Got))
	})
}
