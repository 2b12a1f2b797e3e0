package slo

import "time"

// A Window measures an [Objective] over the last while: a ring of parts, of which
// the oldest is emptied when a new one begins. So it covers between Span minus
// one part, and Span. It is not safe for use by several goroutines at once.
type Window struct {
	objective Objective
	width     time.Duration // of one part
	parts     []part
	newest    int64 // the number of the part that now is in, since 1970
	started   bool
}

type part struct {
	Histogram
	lateP99, lateMax uint64
}

// Usual parameters of [NewWindow]: five minutes in parts of ten seconds.
const (
	DefaultParts = 30
	DefaultWidth = 10 * time.Second
)

// NewWindow returns an empty Window of so many parts, each so wide; 0 stands for
// the defaults.
func NewWindow(o Objective, parts int, width time.Duration) *Window {
	if parts <= 0 {
		parts = DefaultParts
	}
	if width <= 0 {
		width = DefaultWidth
	}
	return &Window{objective: o.WithDefaults(), width: width, parts: make([]part, parts)}
}

// Objective returns what is measured, with its defaults set.
func (w *Window) Objective() Objective { return w.objective }

// Span returns the length of the window.
func (w *Window) Span() time.Duration { return w.width * time.Duration(len(w.parts)) }

// Record counts the update latency d of an event that was committed at now.
// Where now is a little earlier than before, it counts in the newest part.
func (w *Window) Record(now time.Time, d time.Duration) { w.RecordN(now, d, 1) }

// RecordN is Record for n events with one latency.
func (w *Window) RecordN(now time.Time, d time.Duration, n int) {
	w.advance(now)
	p := w.part(w.newest)
	p.RecordN(d, n)
	// Exact, whatever the buckets: a declared line must not be judged by a
	// neighbouring one.
	if d > w.objective.P99 {
		p.lateP99 += uint64(n)
	}
	if d > w.objective.Max {
		p.lateMax += uint64(n)
	}
}

// A Summary is the state of a [Window].
type Summary struct {
	Objective     Objective
	Count         uint64 // events in the window
	LateP99       uint64 // of these later than Objective.P99, exactly
	LateMax       uint64 // of these later than Objective.Max, exactly
	Negative      uint64 // of these with a negative latency: clocks differ
	P50, P99, Max time.Duration
}

// Met reports whether at most one event of 100 was later than P99, and none later
// than Max. In a window of few events that says little: see Count.
func (s Summary) Met() bool { return s.LateMax == 0 && s.LateP99*100 <= s.Count }

// BurnRate returns how many times faster than allowed the budget of late events,
// 1 %, is being used up: 1 uses it just up, 100 is every event late; 0 where
// there are no events.
func (s Summary) BurnRate() float64 {
	if s.Count == 0 {
		return 0
	}
	return float64(s.LateP99) / float64(s.Count) / 0.01
}

// Summary sums up the window as it is at now.
func (w *Window) Summary(now time.Time) Summary {
	var h Histogram
	s := w.MergeInto(now, &h)
	s.P50, s.P99 = h.Quantile(0.5), h.Quantile(0.99)
	return s
}

// MergeInto adds the window's durations to h, so that windows of several workers
// can be seen as one, and returns the window's summary without P50 and P99.
func (w *Window) MergeInto(now time.Time, h *Histogram) Summary {
	w.advance(now)
	s := Summary{Objective: w.objective}
	for i := range w.parts {
		p := &w.parts[i]
		if p.Count() == 0 {
			continue
		}
		h.Merge(&p.Histogram)
		s.Count += p.Count()
		s.LateP99 += p.lateP99
		s.LateMax += p.lateMax
		s.Negative += p.Negative()
		s.Max = max(s.Max, p.Max())
	}
	return s
}

func (w *Window) part(number int64) *part {
	n := int64(len(w.parts))
	return &w.parts[(number%n+n)%n]
}

// advance empties the parts that begin with now.
func (w *Window) advance(now time.Time) {
	number := now.UnixNano() / int64(w.width)
	n := int64(len(w.parts))
	first := max(w.newest+1, number-n+1)
	if !w.started || number <= w.newest-n {
		// The first use, or the clock was set back by more than the window: what
		// is here would otherwise stay until that time comes again.
		first, w.started = number-n+1, true
	} else if number <= w.newest {
		return
	}
	for i := first; i <= number; i++ {
		p := w.part(i)
		p.Reset()
		p.lateP99, p.lateMax = 0, 0
	}
	w.newest = number
}
