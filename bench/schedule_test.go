package main

import (
	"testing"
	"time"
)

// The ideal must be right, or every ratio to it is wrong. The published example:
// 12 events of 20 ms, C six, A four, B two.
func TestListSchedule(t *testing.T) {
	chain := func(n int, d time.Duration) []time.Duration {
		c := make([]time.Duration, n)
		for i := range c {
			c[i] = d
		}
		return c
	}
	const ms = time.Millisecond
	published := [][]time.Duration{chain(4, 20*ms), chain(2, 20*ms), chain(6, 20*ms)}
	for _, tt := range []struct {
		name    string
		chains  [][]time.Duration
		workers int
		want    time.Duration
	}{
		{"nothing", nil, 4, 0},
		{"published, one worker", published, 1, 240 * ms},
		{"published, two workers", published, 2, 120 * ms},
		{"published, more workers than chains: the longest chain", published, 10, 120 * ms},
		{"equal jobs fill the workers", [][]time.Duration{chain(1, ms), chain(1, ms), chain(1, ms), chain(1, ms), chain(1, ms)}, 2, 3 * ms},
		{"a chain never runs beside itself", [][]time.Duration{chain(5, ms), chain(1, ms)}, 2, 5 * ms},
		{"unequal jobs", [][]time.Duration{{3 * ms, ms}, {2 * ms}, {2 * ms}}, 2, 4 * ms},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := listSchedule(tt.chains, tt.workers); got != tt.want {
				t.Errorf("makespan %v, want %v", got, tt.want)
			}
		})
	}
}

func TestQuantile(t *testing.T) {
	sorted := make([]time.Duration, 100)
	for i := range sorted {
		sorted[i] = time.Duration(i + 1)
	}
	for _, tt := range []struct {
		q    float64
		want time.Duration
	}{{0, 1}, {0.5, 50}, {0.99, 99}, {1, 100}} {
		if got := quantile(sorted, tt.q); got != tt.want {
			t.Errorf("quantile %v: got %d, want %d", tt.q, got, tt.want)
		}
	}
	if got := quantile(nil, 0.5); got != 0 {
		t.Errorf("quantile of nothing: got %d, want 0", got)
	}
}

func TestNumber(t *testing.T) {
	for _, tt := range []struct {
		v    float64
		want string
	}{{0, "0"}, {0.8123, "0.812"}, {99.94, "99.9"}, {100, "100"}, {1234567.6, "1,234,568"}, {-1500, "-1,500"}} {
		if got := number(tt.v); got != tt.want {
			t.Errorf("number(%v): got %q, want %q", tt.v, got, tt.want)
		}
	}
}
