package main

import (
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestPercentile(t *testing.T) {
	t.Parallel()
	hundred := make([]int, 100)
	for i := range hundred {
		hundred[i] = i + 1
	}
	for _, tc := range []struct {
		name   string
		values []int
		share  float64
		want   int
	}{
		{"of nothing", nil, 0.5, 0},
		{"of one", []int{7}, 0.99, 7},
		{"the least", hundred, 0, 1},
		{"the middle", hundred, 0.5, 50},
		{"the 99th", hundred, 0.99, 99},
		{"just above the 99th", hundred, 0.991, 100},
		{"the largest", hundred, 1, 100},
		{"the middle of two", []int{1, 9}, 0.5, 1},
		{"the 99th of ten", hundred[:10], 0.99, 10},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			if got := percentile(tc.values, tc.share); got != tc.want {
				t.Errorf("got %d, want %d", got, tc.want)
			}
		})
	}
}

func TestLatenciesNeedNotBeSorted(t *testing.T) {
	t.Parallel()
	l := latencies{5, 1, 4, 2, 3}
	if diff := cmp.Diff([]time.Duration{3, 5}, l.of(0.5, 1)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(latencies{5, 1, 4, 2, 3}, l); diff != "" {
		t.Errorf("the latencies were changed: %s", diff)
	}
}

func TestMedian(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		values []float64
		want   float64
	}{
		{"of one", []float64{3}, 3},
		{"of two", []float64{4, 1}, 2.5},
		{"of three", []float64{100, 1, 2}, 2},
		{"of four", []float64{4, 3, 2, 1}, 2.5},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			if got := median(tc.values); got != tc.want {
				t.Errorf("got %v, want %v", got, tc.want)
			}
		})
	}
	if got := median(nil); !math.IsNaN(got) {
		t.Errorf("of nothing: got %v, want NaN", got)
	}
}

// A ratio compares rounds that ran one after the other: a slow stretch that strikes both ways changes nothing.
func TestRatioIsThatOfNeighbours(t *testing.T) {
	t.Parallel()
	slow, fast := &result{rates: []float64{10, 100, 10}}, &result{rates: []float64{20, 200, 20}}
	if got := fast.over(slow); got != 2 {
		t.Errorf("got %v, want 2", got)
	}
	if got := fast.over(nil); !math.IsNaN(got) {
		t.Errorf("over a way that was not measured: got %v, want NaN", got)
	}
}

func TestGoals(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		goal goal
		want string
	}{
		{"above a floor", goal{got: 1, want: 0.95}, "yes"},
		{"on the floor", goal{got: 2, want: 2}, "yes"},
		{"below a floor", goal{got: 1.99, want: 2}, "no"},
		{"below a ceiling", goal{got: 1, want: 2, atMost: true}, "yes"},
		{"at the ceiling", goal{got: 2, want: 2, atMost: true}, "yes"},
		{"above a ceiling", goal{got: 2.1, want: 2, atMost: true}, "no"},
		{"unknown", goal{got: math.NaN(), want: 2}, "not measured"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			if got := tc.goal.reached(); got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}
