package main

import (
	"cmp"
	"math"
	"slices"
	"time"
)

// percentile returns the smallest of the values that at least the given share (0 to 1) of them do not exceed. values must be
// sorted. It is 0 for no values.
func percentile[T cmp.Ordered](values []T, share float64) T {
	var zero T
	if len(values) == 0 {
		return zero
	}
	rank := int(math.Ceil(share * float64(len(values))))
	return values[min(max(rank, 1), len(values))-1]
}

// median returns the middle of the values, between the two in the middle if there are two. It is NaN for no values.
func median(values []float64) float64 {
	n := len(values)
	if n == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(values))
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// latencies are how long calls took.
type latencies []time.Duration

// of returns a percentile; l need not be sorted.
func (l latencies) of(shares ...float64) []time.Duration {
	sorted := slices.Sorted(slices.Values(l))
	found := make([]time.Duration, len(shares))
	for i, share := range shares {
		found[i] = percentile(sorted, share)
	}
	return found
}
