package main

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
)

// table is a table in Markdown that is filled column by column.
type table struct {
	corner  string
	rows    []string
	columns []column
}

type column struct {
	head  string
	cells []string
}

func newTable(corner string) *table { return &table{corner: corner} }

// row names one more row, unless there is one of that name.
func (t *table) row(name string) {
	if !slices.Contains(t.rows, name) {
		t.rows = append(t.rows, name)
	}
}

// add adds a column. Rows that it has no cell for are left empty.
func (t *table) add(head string, cells []string) { t.columns = append(t.columns, column{head, cells}) }

func (t *table) write(w io.Writer) {
	line := func(cells []string) { _, _ = fmt.Fprintf(w, "| %s |\n", strings.Join(cells, " | ")) }
	heads, rule := []string{t.corner}, []string{"---"}
	for _, c := range t.columns {
		heads, rule = append(heads, c.head), append(rule, "---:")
	}
	line(heads)
	line(rule)
	for i, name := range t.rows {
		cells := []string{name}
		for _, c := range t.columns {
			if i < len(c.cells) {
				cells = append(cells, c.cells[i])
			} else {
				cells = append(cells, "")
			}
		}
		line(cells)
	}
	_, _ = fmt.Fprintln(w)
}

// count writes a number with commas between the thousands.
func count(n int64) string {
	digits := strconv.FormatInt(n, 10)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}

func mb(bytes int64) string {
	f := float64(bytes) / (1 << 20)
	if f < 100 {
		return strconv.FormatFloat(f, 'f', 1, 64)
	}
	return count(int64(f + 0.5))
}

func ms(d time.Duration) string {
	return strconv.FormatFloat(float64(d.Microseconds())/1000, 'f', 1, 64)
}
