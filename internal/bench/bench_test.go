package main

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/leasehold-go/leasehold/internal/fleet"
	"github.com/leasehold-go/leasehold/internal/pgtest"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }

// newBench returns an experiment, as small as it can be, on a database of its own.
func newBench(t *testing.T, name string) (chosen, *bench, *strings.Builder) {
	t.Helper()
	all, err := parse([]string{name, "-smoke"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	b := &bench{options: all[0].options, url: pgtest.SuperURL(t, pgtest.Database(t)), out: &out, log: io.Discard}
	t.Cleanup(func() {
		for _, f := range b.fleets {
			if err := f.Drop(context.Background()); err != nil {
				t.Error(err)
			}
		}
	})
	return all[0], b, &out
}

// Every experiment runs to its end and prints what it should: every way in every scenario, without a wrong row.
func TestExperiments(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]struct{ lines, goals int }{ // lines without the two of each table's head
		"table":  {2 * 1 * 2 * 2 * 6, 4}, // nets, numbers of tenants, spreads, modes, ways
		"allocs": {4, 1},
		"memory": {2, 1},
		"flood":  {4, 2},
		"roles":  {2, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, b, out := newBench(t, name)
			if err := c.run(b, t.Context()); err != nil {
				t.Fatal(err)
			}
			got := strings.Count(out.String(), "\n| ") - 2*strings.Count(out.String(), "\n| -")
			if got != want.lines || len(b.goals) != want.goals {
				t.Errorf("got %d lines and %d goals, want %d and %d:\n%s", got, len(b.goals), want.lines, want.goals, out)
			}
		})
	}
}

// A row of another tenant ends the run, whichever way it was read.
func TestWrongRowIsSeen(t *testing.T) {
	t.Parallel()
	_, b, _ := newBench(t, "table")
	s, err := b.newSite(t.Context(), fleet.Config{Tenants: 2, Rows: b.rows}, b.conns)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.settle(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	stray := []string{"UPDATE bare.items SET owner = 'stray'"}
	for _, p := range s.places {
		stray = append(stray, "UPDATE "+p.schema+".items SET owner = 'stray'")
	}
	pgtest.Exec(t, b.url, stray...)
	for _, w := range ways {
		t.Run(w.name, func(t *testing.T) {
			c, err := w.open(t.Context(), s)
			if err != nil {
				t.Fatal(err)
			}
			defer c.close()
			_, err = round(t.Context(), newWorkers(2, distUniform, s, 2), b.round(), 0, s.calls(c, modeRead))
			if !errors.Is(err, errWrongTenant) {
				t.Errorf("got error %v, want %v", err, errWrongTenant)
			}
		})
	}
}

// A write that finds no row is an error: a way that lost its path must not look fast.
func TestWriteOfNothingIsSeen(t *testing.T) {
	t.Parallel()
	_, b, _ := newBench(t, "table")
	s, err := b.newSite(t.Context(), fleet.Config{Tenants: 1, Rows: b.rows}, b.conns)
	if err != nil {
		t.Fatal(err)
	}
	c, err := openQualified(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	for id, fails := range map[int]bool{1: false, b.rows + 1: true} {
		if err := c.call(t.Context(), s.places[0], op{mode: modeWrite, id: id}); (err != nil) != fails {
			t.Errorf("row %d: got error %v", id, err)
		}
	}
}

func TestPrivateMemory(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name  string
		files map[string]string // by process
		want  int64
		err   error
	}{
		{"as Linux writes it", map[string]string{"self": "", "7": "Rss:   1756 kB\nPss_Dirty:  300 kB\nPss_Anon:           112 kB\nPss_File: 5 kB\n"}, 112 << 10, nil},
		{"of an old kernel", map[string]string{"self": "", "7": "Rss:               1756 kB\n"}, 0, errUnmeasured},
		{"of another system", nil, 0, errUnmeasured},
		{"of a process that has ended", map[string]string{"self": ""}, 0, fs.ErrNotExist},
		{"that is no number", map[string]string{"self": "", "7": "Pss_Anon:  many kB\n"}, 0, strconv.ErrSyntax},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			proc := t.TempDir()
			for process, text := range tc.files {
				dir := filepath.Join(proc, process)
				if err := errors.Join(os.Mkdir(dir, 0o700), os.WriteFile(filepath.Join(dir, "smaps_rollup"), []byte(text), 0o600)); err != nil {
					t.Fatal(err)
				}
			}
			if got, err := privateMemory(proc, 7); got != tc.want || !errors.Is(err, tc.err) {
				t.Errorf("got %d and error %v, want %d and %v", got, err, tc.want, tc.err)
			}
		})
	}
}

// The backends of a way are found by its name, and are those of no other way.
func TestBackendsAreCountedByWay(t *testing.T) {
	t.Parallel()
	url := pgtest.SuperURL(t, pgtest.Database(t))
	admin := pgtest.Connect(t, url)
	for range 2 {
		cc, err := pgx.ParseConfig(url)
		if err != nil {
			t.Fatal(err)
		}
		cc.RuntimeParams["application_name"] = application("counted")
		conn, err := pgx.ConnectConfig(t.Context(), cc)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close(context.Background()) }()
	}
	m, err := backendMemory(t.Context(), admin, application("counted"))
	if err != nil {
		t.Fatal(err)
	}
	if len(m) != 2 || m.max() < m.mean() || m.sum() < m.max() || runtime.GOOS == "linux" && slices.Min(m) < 100<<10 {
		t.Errorf("got %v, want two backends of some hundred kilobytes or more", m)
	}
	if none, err := backendMemory(t.Context(), admin, application("other")); err != nil || len(none) != 0 || none.max() != 0 || none.mean() != 0 {
		t.Errorf("of a way without connections: got %v, %v", none, err)
	}
}
