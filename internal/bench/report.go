package main

import (
	"fmt"
	"io"
	"math"
	"strings"
	"time"
	"unicode/utf8"
)

// column is one of a printed table.
type column struct {
	title string
	width int
	left  bool // text; numbers stand on the right
}

// printHead prints the first two lines of a table, in Markdown, with columns of a fixed width, so that lines can follow as they
// come and are read as easily in a terminal.
func (b *bench) printHead(columns []column) {
	titles, rules := make([]string, len(columns)), make([]string, len(columns))
	for i, c := range columns {
		titles[i] = c.title
		rules[i] = strings.Repeat("-", c.size()-1) + ":"
		if c.left {
			rules[i] = strings.Repeat("-", c.size())
		}
	}
	b.printf("\n")
	b.printRow(columns, titles...)
	b.printRow(columns, rules...)
}

func (c column) size() int { return max(c.width, utf8.RuneCountInString(c.title)) }

func (b *bench) printRow(columns []column, cells ...string) {
	var line strings.Builder
	for i, cell := range cells {
		pad := strings.Repeat(" ", max(0, columns[i].size()-utf8.RuneCountInString(cell)))
		if columns[i].left {
			line.WriteString("| " + cell + pad + " ")
		} else {
			line.WriteString("| " + pad + cell + " ")
		}
	}
	b.printf("%s|\n", line.String())
}

// decimal writes a number, or - if it could not be measured.
func decimal(x float64, places int) string {
	if math.IsNaN(x) || math.IsInf(x, 0) {
		return "-"
	}
	return fmt.Sprintf("%.*f", places, x)
}

func milliseconds(d time.Duration) string { return decimal(float64(d)/float64(time.Millisecond), 2) }

// megabytes writes bytes in units of 2^20, or - for none.
func megabytes(n int64) string {
	if n == 0 {
		return "-"
	}
	return decimal(float64(n)/(1<<20), 1)
}

// goal is a figure to reach.
type goal struct {
	what   string
	got    float64 // NaN if it was not measured
	want   float64
	atMost bool
}

func (g goal) reached() string {
	switch {
	case math.IsNaN(g.got):
		return "not measured"
	case g.got == g.want, g.got < g.want == g.atMost:
		return "yes"
	}
	return "no"
}

func printGoals(w io.Writer, goals []goal) {
	b := &bench{out: w}
	columns := []column{{"goal", 78, true}, {"want", 8, false}, {"got", 8, false}, {"reached", 12, true}}
	b.printHead(columns)
	for _, g := range goals {
		sign := "≥ "
		if g.atMost {
			sign = "≤ "
		}
		b.printRow(columns, g.what, sign+decimal(g.want, 2), decimal(g.got, 2), g.reached())
	}
}
