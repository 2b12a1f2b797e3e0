package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime/pprof"
	"slices"
	"time"
)

// A result is one line of output.
type result struct {
	Name       string  `json:"name"`
	Metric     string  `json:"metric"`
	Value      float64 `json:"value"`
	Unit       string  `json:"unit"`
	Conditions string  `json:"conditions"`
}

// A line is what a figure must hold; the zero line holds always.
type line struct {
	op    string // "≥", "≤", ">" or "<"
	value float64
}

func atLeast(v float64) line { return line{"≥", v} }
func atMost(v float64) line  { return line{"≤", v} }

func (l line) held(v float64) bool {
	switch l.op {
	case "≥":
		return v >= l.value
	case "<":
		return v < l.value
	case ">":
		return v > l.value
	case "≤":
		return v <= l.value
	}
	return true
}

// A report prints results as they come.
type report struct {
	out, log io.Writer
	json     bool
	base     string // conditions that all share
	name     string
}

func (r *report) start(name string, another bool) {
	r.name = name
	if r.json {
		return
	}
	if another {
		fmt.Fprintln(r.out)
	}
	fmt.Fprintf(r.out, "%s (%s)\n", name, r.base)
	fmt.Fprintf(r.out, "  %-26s %14s  %-11s %-22s %s\n", "metric", "value", "unit", "line to hold", "conditions")
}

// add prints a figure. The conditions say data, counts and batch.
func (r *report) add(metric string, value float64, unit string, must line, format string, args ...any) {
	conditions := fmt.Sprintf(format, args...)
	if r.json {
		b, err := json.Marshal(result{r.name, metric, value, unit, conditions + "; " + r.base})
		if err != nil {
			panic(err) // NaN or infinite: a fault of the benchmark
		}
		fmt.Fprintf(r.out, "%s\n", b)
		return
	}
	verdict := ""
	if must.op != "" {
		verdict = fmt.Sprintf("%s %s: missed", must.op, number(must.value))
		if must.held(value) {
			verdict = fmt.Sprintf("%s %s: held", must.op, number(must.value))
		}
	}
	fmt.Fprintf(r.out, "  %-26s %14s  %-11s %-22s %s\n", metric, number(value), unit, verdict, conditions)
}

// note says something beside the figures.
func (r *report) note(format string, args ...any) {
	fmt.Fprintf(r.log, "bench: %s: %s\n", r.name, fmt.Sprintf(format, args...))
}

// number writes v with about three digits that count, and thousands apart.
func number(v float64) string {
	if v > -100 && v < 100 {
		return fmt.Sprintf("%.3g", v)
	}
	s := fmt.Sprintf("%.0f", v)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// median returns the middle of v.
func median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}

// spread is the range of v for the conditions.
func spread(v []float64) string {
	return fmt.Sprintf("%s to %s", number(slices.Min(v)), number(slices.Max(v)))
}

// ratios divides run by run: what ran side by side is compared.
func ratios(a, b []float64) []float64 {
	r := make([]float64, len(a))
	for i := range a {
		r[i] = a[i] / b[i]
	}
	return r
}

// quantile returns the q-quantile of sorted by the nearest rank, 0 of nothing.
func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	i := int(q*float64(len(sorted))+0.999999) - 1
	return sorted[min(max(i, 0), len(sorted)-1)]
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// profile writes a CPU profile until stop is called; "" writes none.
func profile(file string) (stop func(), err error) {
	if file == "" {
		return func() {}, nil
	}
	f, err := os.Create(file)
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, err
	}
	return func() {
		pprof.StopCPUProfile()
		_ = f.Close()
	}, nil
}
