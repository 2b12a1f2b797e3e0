package slo

import (
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"
)

func TestObjectiveDefaults(t *testing.T) {
	for _, c := range []struct {
		name     string
		in, want Objective
	}{
		{"zero", Objective{}, Objective{time.Second, time.Minute}},
		{"only P99", Objective{P99: 100 * time.Millisecond}, Objective{100 * time.Millisecond, time.Minute}},
		{"large P99", Objective{P99: time.Hour}, Objective{time.Hour, time.Hour}},
		{"only Max", Objective{Max: time.Hour}, Objective{time.Second, time.Hour}},
		{"small Max", Objective{Max: 5 * time.Millisecond}, Objective{5 * time.Millisecond, 5 * time.Millisecond}},
		{"both", Objective{1, 2}, Objective{1, 2}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := c.in.WithDefaults(); got != c.want {
				t.Errorf("got %v, want %v", got, c.want)
			}
			if err := c.in.Validate(); err != nil {
				t.Errorf("Validate: %v", err)
			}
		})
	}
}

func TestObjectiveValidate(t *testing.T) {
	for _, c := range []struct {
		name string
		o    Objective
		want []string
	}{
		{"negative P99", Objective{P99: -1}, []string{"P99"}},
		{"both negative", Objective{-1, -1}, []string{"P99", "Max"}},
		{"wrong way round", Objective{2 * time.Second, time.Second}, []string{"more than Max"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := c.o.Validate()
			if err == nil {
				t.Fatal("no error, want one")
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q, want it to say %q", err, want)
				}
			}
		})
	}
}

// Every duration falls in a bucket that holds it and is narrow enough, and the
// buckets cover the range without overlap.
func TestBuckets(t *testing.T) {
	for b := range lastBucket {
		high := upperEnd(b)
		if got := bucketOf(uint64(high / time.Microsecond)); got != b {
			t.Fatalf("upper end %v of bucket %d is in bucket %d", high, b, got)
		}
		low := high + 1 // of the next
		if got := bucketOf(uint64(low / time.Microsecond)); got != b+1 {
			t.Fatalf("%v, after bucket %d, is in bucket %d", low, b, got)
		}
		if width := upperEnd(b+1) - high; width > max(low/subBuckets, time.Microsecond) {
			t.Fatalf("bucket %d from %v is %v wide", b+1, low, width)
		}
	}
	if got := upperEnd(lastBucket); got < 9*time.Hour {
		t.Errorf("the range ends at %v, want over 9h", got)
	}
}

func TestQuantile(t *testing.T) {
	for _, c := range []struct {
		name string
		in   []time.Duration
		q    float64
		want time.Duration // exact answer
	}{
		{"empty", nil, 0.99, 0},
		{"one", []time.Duration{time.Second}, 0.5, time.Second},
		{"median of three", []time.Duration{1 * time.Millisecond, 2 * time.Millisecond, 9 * time.Millisecond}, 0.5, 2 * time.Millisecond},
		{"lowest", []time.Duration{1 * time.Millisecond, 2 * time.Millisecond}, 0, time.Millisecond},
		{"below 0", []time.Duration{1 * time.Millisecond, 2 * time.Millisecond}, -1, time.Millisecond},
		{"highest is exact", []time.Duration{1, 2, 123456789}, 1, 123456789},
		{"above 1", []time.Duration{1, 2, 123456789}, 7, 123456789},
		{"not a number", []time.Duration{time.Millisecond, time.Second}, math.NaN(), time.Millisecond},
		{"beyond the range", []time.Duration{time.Hour, 100 * time.Hour, 200 * time.Hour}, 0.5, 200 * time.Hour},
		{"negative is zero", []time.Duration{-time.Hour, -1, time.Second}, 0.5, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			var h Histogram
			for _, d := range c.in {
				h.Record(d)
			}
			if got := h.Quantile(c.q); got < c.want || got > c.want+c.want/subBuckets+time.Microsecond {
				t.Errorf("Quantile(%v) = %v, want %v to 1.6 %% more", c.q, got, c.want)
			}
		})
	}
}

// Against the sorted values, over several shapes, whole and merged from parts.
func TestHistogramAgainstSorting(t *testing.T) {
	for seed := range uint64(60) {
		rng := rand.New(rand.NewPCG(seed, 1))
		n := 1 + rng.IntN(5000)
		var whole, merged Histogram
		parts := make([]Histogram, 1+rng.IntN(4))
		var all []time.Duration
		var sum time.Duration
		negative := uint64(0)
		for range n {
			d := time.Duration(math.Exp(rng.NormFloat64()*3+13)) - time.Duration(rng.IntN(20_000))
			whole.Record(d)
			parts[rng.IntN(len(parts))].Record(d)
			if d < 0 {
				negative++
				d = 0
			}
			all, sum = append(all, d), sum+d
		}
		slices.Sort(all)
		for i := range parts {
			merged.Merge(&parts[i])
		}
		for name, h := range map[string]*Histogram{"whole": &whole, "merged": &merged} {
			if h.Count() != uint64(n) || h.Max() != all[n-1] || h.Sum() != sum || h.Negative() != negative {
				t.Fatalf("seed %d %s: count %d max %v sum %v negative %d, want %d %v %v %d",
					seed, name, h.Count(), h.Max(), h.Sum(), h.Negative(), n, all[n-1], sum, negative)
			}
			for _, q := range []float64{0.01, 0.5, 0.9, 0.99, 0.999} {
				exact := all[int(math.Ceil(q*float64(n)))-1]
				if got := h.Quantile(q); got < exact || got > exact+exact/subBuckets+time.Microsecond {
					t.Fatalf("seed %d %s: Quantile(%v) = %v, want %v to 1.6 %% more", seed, name, q, got, exact)
				}
				above, _ := slices.BinarySearch(all, exact+exact/subBuckets+time.Microsecond)
				if got := h.Above(exact); got < uint64(n-above) || got > uint64(n) {
					t.Fatalf("seed %d %s: Above(%v) = %d, want at least %d", seed, name, exact, got, n-above)
				}
			}
			total := uint64(0)
			last := time.Duration(-1)
			for end, c := range h.Buckets() {
				if end <= last {
					t.Fatalf("bucket %v after %v", end, last)
				}
				total, last = total+c, end
			}
			if total != uint64(n) {
				t.Fatalf("seed %d %s: buckets hold %d, want %d", seed, name, total, n)
			}
		}
	}
}

func TestAbove(t *testing.T) {
	var h Histogram
	for _, ms := range []int{1, 10, 99, 150, 1000} {
		h.Record(time.Duration(ms) * time.Millisecond)
	}
	for d, want := range map[time.Duration]uint64{-1: 5, 0: 5, 100 * time.Millisecond: 2, time.Second: 0, time.Hour: 0} {
		if got := h.Above(d); got != want {
			t.Errorf("Above(%v) = %d, want %d", d, got, want)
		}
	}
}

func TestHistogramIsSmall(t *testing.T) {
	var h Histogram
	for d := time.Microsecond; d < 20*time.Hour; d += d/200 + 1 {
		h.Record(d)
	}
	size := unsafe.Sizeof(h)
	for _, o := range h.octaves {
		if o != nil {
			size += unsafe.Sizeof(*o)
		}
	}
	if size > 8<<10 {
		t.Errorf("a full histogram has %d bytes, want at most 8 KiB", size)
	}
	h.Reset() // keeps what was in use
	h.Record(time.Second)
	h.Reset() // and lets go what was not
	inUse := 0
	for _, o := range h.octaves {
		if o != nil {
			inUse++
		}
	}
	if inUse != 1 {
		t.Errorf("%d octaves kept, want 1", inUse)
	}
}

func TestRecordAllocatesNothing(t *testing.T) {
	w := NewWindow(Objective{}, 4, time.Second)
	now := time.Unix(1000, 0)
	step := func() {
		now = now.Add(100 * time.Millisecond)
		for d := time.Millisecond; d < time.Minute; d *= 3 {
			w.Record(now, d)
		}
	}
	for range 100 {
		step()
	}
	if got := testing.AllocsPerRun(100, step); got != 0 {
		t.Errorf("%v allocations, want 0", got)
	}
}

func TestWindowForgets(t *testing.T) {
	const width = 10 * time.Second
	start := time.Unix(1_700_000_000, 0)
	for _, c := range []struct {
		name  string
		times []time.Duration // of events, after start
		now   time.Duration
		want  uint64
	}{
		{"nothing", nil, 0, 0},
		{"now", []time.Duration{0}, 0, 1},
		{"all within", []time.Duration{0, 9 * time.Second, 25 * time.Second}, 29 * time.Second, 3},
		{"the first part has left", []time.Duration{0, 9 * time.Second, 25 * time.Second}, 30 * time.Second, 1},
		{"a long pause", []time.Duration{0, 9 * time.Second}, time.Hour, 0},
		{"a little back counts as newest", []time.Duration{25 * time.Second, 3 * time.Second}, 49 * time.Second, 2},
		{"clock set back by an hour", []time.Duration{time.Hour, 0}, time.Second, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := NewWindow(Objective{}, 3, width)
			for _, at := range c.times {
				w.Record(start.Add(at), time.Millisecond)
			}
			if got := w.Summary(start.Add(c.now)).Count; got != c.want {
				t.Errorf("%d events, want %d", got, c.want)
			}
		})
	}
}

func TestWindowSummary(t *testing.T) {
	o := Objective{P99: 100 * time.Millisecond, Max: time.Second}
	for _, c := range []struct {
		name    string
		record  map[time.Duration]int
		lateP99 uint64
		lateMax uint64
		met     bool
		burn    float64
	}{
		{"empty", nil, 0, 0, true, 0},
		{"exactly on the lines", map[time.Duration]int{100 * time.Millisecond: 200}, 0, 0, true, 0},
		{"one in a hundred late", map[time.Duration]int{time.Millisecond: 99, 100*time.Millisecond + 1: 1}, 1, 0, true, 1},
		{"two in a hundred late", map[time.Duration]int{time.Millisecond: 98, time.Second: 2}, 2, 0, false, 2},
		{"one beyond max", map[time.Duration]int{time.Millisecond: 999, time.Second + 1: 1}, 1, 1, false, 0.1},
		{"all late", map[time.Duration]int{2 * time.Second: 7}, 7, 7, false, 100},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := NewWindow(o, 0, 0)
			now := time.Unix(1_700_000_000, 0)
			for d, n := range c.record {
				for range n {
					now = now.Add(time.Millisecond)
					w.Record(now, d)
				}
			}
			s := w.Summary(now)
			if s.LateP99 != c.lateP99 || s.LateMax != c.lateMax || s.Met() != c.met || math.Abs(s.BurnRate()-c.burn) > 1e-9 {
				t.Errorf("late %d and %d, met %t, burn rate %v, want %d and %d, %t, %v",
					s.LateP99, s.LateMax, s.Met(), s.BurnRate(), c.lateP99, c.lateMax, c.met, c.burn)
			}
			for d := range c.record {
				if s.Max < d {
					t.Errorf("max %v, want at least %v", s.Max, d)
				}
			}
		})
	}
}

func TestWindowsMerge(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	var h Histogram
	var count uint64
	for i := range 3 {
		w := NewWindow(Objective{}, 0, 0)
		for j := range 100 {
			w.Record(now, time.Duration(i*100+j+1)*time.Millisecond)
		}
		count += w.MergeInto(now, &h).Count
	}
	if got := h.Quantile(0.5); count != 300 || got < 150*time.Millisecond || got > 153*time.Millisecond {
		t.Errorf("%d events with median %v, want 300 with 150ms", count, got)
	}
}

func BenchmarkRecord(b *testing.B) {
	w := NewWindow(Objective{}, 0, 0)
	now := time.Unix(1_700_000_000, 0)
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		w.Record(now, time.Duration(i&0xffff)*time.Microsecond)
		i++
	}
}

func BenchmarkSummary(b *testing.B) {
	w := NewWindow(Objective{}, 0, 0)
	now := time.Unix(1_700_000_000, 0)
	for i := range 300_000 {
		now = now.Add(time.Millisecond)
		w.Record(now, time.Duration(i&0xffff)*time.Microsecond)
	}
	for b.Loop() {
		w.Summary(now)
	}
}
