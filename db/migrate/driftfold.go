package migrate

import (
	"slices"
	"strings"
)

// fold leaves out what goes with something else that is missing, or too many, as a whole: the columns of a table, say, or the owner of
// a function.
func fold(differences []Difference) []Difference {
	missing, extra := make(map[string]bool), make(map[string]bool)
	side := func(d Difference) map[string]bool {
		switch {
		case d.Got == "":
			return missing
		case d.Want == "":
			return extra
		}
		return nil
	}
	for _, d := range differences {
		if wholes := side(d); wholes != nil {
			wholes[d.Kind+" "+d.Object] = true
		}
	}
	return slices.DeleteFunc(differences, func(d Difference) bool {
		wholes := side(d)
		return slices.ContainsFunc(d.within(), func(whole string) bool { return wholes[whole] })
	})
}

// within names what the thing may be a part of, by kind and object. Of names that are quoted alike, only one is in a schema.
func (d Difference) within() []string {
	switch d.Kind {
	case "owner":
		return []string{strings.TrimPrefix(d.Object, "foreign ")}
	case "grant": // … to whom, where either name may hold the word
		var wholes []string
		object := strings.TrimPrefix(d.Object, "foreign ")
		for i := range object {
			if strings.HasPrefix(object[i:], " to ") {
				wholes = append(wholes, object[:i])
			}
		}
		return wholes
	case "column", "constraint", "trigger", "rule", "policy":
		return relations(firstName(d.Object))
	case "row security":
		return relations(d.Object)
	case "sequence":
		column, ok := strings.CutSuffix(d.Object, " (identity)")
		if !ok {
			_, column, _ = strings.Cut(d.definition(), " OWNED BY ")
		}
		return []string{"column " + column}
	case "index":
		return relations(d.indexed())
	case "statistics":
		definition := d.definition()
		return relations(strings.TrimPrefix(definition[max(strings.LastIndex(definition, " FROM "), 0):], " FROM "))
	}
	return nil
}

// definition is the one that there is.
func (d Difference) definition() string { return d.Want + d.Got }

// indexed is what an index is on.
func (d Difference) indexed() string {
	on := strings.TrimPrefix(d.definition(), "CREATE ")
	on = strings.TrimPrefix(on, "UNIQUE ")
	on = strings.TrimPrefix(on, "INDEX "+d.Object+" ON ")
	return firstName(strings.TrimPrefix(on, "ONLY "))
}

// relations are what may have that name, and columns or constraints.
func relations(name string) []string {
	return []string{"table " + name, "view " + name, "materialized view " + name, "type " + name}
}

// firstName is the name at the head of a text, with its quotes if it has any.
func firstName(s string) string {
	end := 0
	if strings.HasPrefix(s, `"`) {
		for end = 1; end < len(s); end++ {
			if s[end] != '"' {
				continue
			}
			if !strings.HasPrefix(s[end:], `""`) {
				break
			}
			end++
		}
	}
	if n := strings.IndexAny(s[end:], "., "); n >= 0 {
		return s[:end+n]
	}
	return s
}
