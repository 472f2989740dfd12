package main

import (
	"errors"
	"flag"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParse(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ args, want string }{
		{"", "table allocs"},
		{"-time 3s", "table allocs"},
		{"memory", "memory"},
		{"all -smoke", "table allocs memory flood roles"},
	} {
		t.Run(tc.args, func(t *testing.T) {
			t.Parallel()
			all, err := parse(strings.Fields(tc.args), io.Discard)
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, c := range all {
				names = append(names, c.name)
			}
			if got := strings.Join(names, " "); got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
	all, err := parse(strings.Fields("table -tenants 3,14 -ways leasehold,bare -dist zipf -mode write -net delay -conns 2 -slice 100ms"), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	o := all[0].options
	names := []string{o.ways[0].name, o.ways[1].name}
	if diff := cmp.Diff([]any{[]int{3, 14}, 14, []string{wayBare, wayLeasehold}, []string{"zipf"}, []string{"write"}, []string{"delay"}, 2, 10, 100 * time.Millisecond},
		[]any{o.tenants, o.maxTenants(), names, o.dists, o.modes, o.nets, o.conns, o.rounds(), o.round().time}); diff != "" {
		t.Error(diff)
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	for _, args := range []string{
		"nonsense", "memory table", "-tenants 0", "-tenants ten", "-tenants 1,,2", "-ways mine", "-dist normal", "-mode delete", "-net far", "-conns 0",
		"-slice 0s", "-delay -1ms", "-goroutines 0",
	} {
		t.Run(args, func(t *testing.T) {
			t.Parallel()
			if all, err := parse(strings.Fields(args), io.Discard); err == nil {
				t.Errorf("got %v, want an error", all)
			}
		})
	}
	var usage strings.Builder
	if _, err := parse([]string{"-h"}, &usage); !errors.Is(err, flag.ErrHelp) || !strings.Contains(usage.String(), "-tenants") {
		t.Errorf("-h: got error %v and %q", err, usage.String())
	}
}

// The table's lines and columns stand below each other, in runes and not in bytes.
func TestRowsAreAligned(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	b := &bench{out: &out}
	columns := []column{{"way", 9, true}, {"a title longer than its width", 3, false}}
	b.printHead(columns)
	b.printRow(columns, "leasehold", "≥ 2")
	b.printRow(columns, "×", "1.00")
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	var widths []int
	for _, line := range lines {
		widths = append(widths, len([]rune(line)))
	}
	if len(slices.Compact(widths)) != 1 || len(lines) != 4 {
		t.Errorf("got widths %v:\n%s", widths, out.String())
	}
}
