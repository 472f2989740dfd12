package main

import (
	"context"
	"errors"
	"math"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// picks returns how often each of n numbers was picked.
func picks(t *testing.T, dist string, n, times int) []int {
	t.Helper()
	pick, count := newPicker(dist, n, 7), make([]int, n)
	for range times {
		i := pick()
		if i < 0 || i >= n {
			t.Fatalf("%s of %d: picked %d", dist, n, i)
		}
		count[i]++
	}
	return count
}

func TestPickers(t *testing.T) {
	t.Parallel()
	const n, times = 100, 200_000
	norm := 0.0
	for rank := 1; rank <= n; rank++ {
		norm += math.Pow(float64(rank), -zipfExponent)
	}
	for dist, share := range map[string]func(rank int) float64{
		distUniform: func(int) float64 { return 1.0 / n },
		distZipf:    func(rank int) float64 { return math.Pow(float64(rank), -zipfExponent) / norm },
	} {
		t.Run(dist, func(t *testing.T) {
			t.Parallel()
			count := picks(t, dist, n, times)
			for i, got := range count {
				want := share(i+1) * times
				if diff := math.Abs(float64(got) - want); diff > 5*math.Sqrt(want) {
					t.Errorf("%d was picked %d times, want about %.0f", i, got, want)
				}
			}
			if again := picks(t, dist, n, times); !slices.Equal(count, again) {
				t.Error("the same stream picked other numbers")
			}
		})
	}
}

func TestPickersOfOne(t *testing.T) {
	t.Parallel()
	for _, dist := range []string{distUniform, distZipf} {
		if count := picks(t, dist, 1, 10); count[0] != 10 {
			t.Errorf("%s: got %v", dist, count)
		}
	}
}

// calling counts calls, each of which takes a millisecond of the bubble's time.
func calling(n *atomic.Int64) func(context.Context, *worker) error {
	return func(context.Context, *worker) error {
		<-time.After(time.Millisecond)
		n.Add(1)
		return nil
	}
}

func TestRoundEnds(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name  string
		limit limit
		pause time.Duration
		calls int
		took  time.Duration
	}{
		{"after a time", limit{time: 10 * time.Millisecond}, 0, 20, 10 * time.Millisecond},
		{"after so many calls of each", limit{calls: 3}, 0, 6, 3 * time.Millisecond},
		{"after what comes first", limit{time: time.Hour, calls: 3}, 0, 6, 3 * time.Millisecond},
		{"with pauses", limit{time: 10 * time.Millisecond}, 4 * time.Millisecond, 4, 10 * time.Millisecond},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var n atomic.Int64
				workers := []*worker{{}, {}}
				got, err := round(t.Context(), workers, tc.limit, tc.pause, calling(&n))
				if err != nil {
					t.Fatal(err)
				}
				if got.calls != tc.calls || int(n.Load()) != tc.calls || got.elapsed != tc.took {
					t.Errorf("got %d of %d calls in %v, want %d in %v", got.calls, n.Load(), got.elapsed, tc.calls, tc.took)
				}
				all := collect(workers)
				if len(all) != tc.calls || all.of(0)[0] != time.Millisecond || all.of(1)[0] != time.Millisecond {
					t.Errorf("got latencies %v, want %d of 1ms", all, tc.calls)
				}
				if rest := collect(workers); len(rest) != 0 {
					t.Errorf("latencies are counted twice: %v", rest)
				}
			})
		})
	}
}

// A worker that fails ends the round of all, and its error is the round's.
func TestRoundFails(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		failure := errors.New("failure")
		var n atomic.Int64
		_, err := round(t.Context(), []*worker{{}, {}, {}}, limit{}, 0, func(ctx context.Context, w *worker) error {
			if err := calling(&n)(ctx, w); err != nil || n.Load() < 100 {
				return err
			}
			return failure
		})
		if !errors.Is(err, failure) {
			t.Errorf("got error %v, want %v", err, failure)
		}
	})
}

func TestNoiseEndsWithWhatIsMeasured(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var n atomic.Int64
		err := during(func(stop *atomic.Bool) error {
			_, err := round(t.Context(), []*worker{{}}, limit{stop: stop}, 0, calling(&n))
			return err
		}, func() error {
			<-time.After(10 * time.Millisecond)
			return nil
		})
		if got := n.Load(); err != nil || got < 9 || got > 11 {
			t.Errorf("got %d calls and error %v, want about 10", got, err)
		}
		noise, measured := errors.New("noise"), errors.New("measured")
		err = during(func(*atomic.Bool) error { return noise }, func() error { return measured })
		if !errors.Is(err, noise) || !errors.Is(err, measured) {
			t.Errorf("got error %v, want both", err)
		}
	})
}
