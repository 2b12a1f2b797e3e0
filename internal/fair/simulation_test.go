package fair

import (
	"cmp"
	"container/heap"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// An arrival is one event of a simulated trace.
type arrival struct {
	at   time.Duration
	flow string
	cost time.Duration
}

// A discipline is what the simulation compares: our Queue or a plain FIFO.
type discipline interface {
	push(a arrival)
	pop(now time.Duration) (a arrival, done func(now time.Duration), ok bool)
}

type fifo struct{ items []arrival }

func (f *fifo) push(a arrival) { f.items = append(f.items, a) }

func (f *fifo) pop(time.Duration) (arrival, func(time.Duration), bool) {
	if len(f.items) == 0 {
		return arrival{}, nil, false
	}
	a := f.items[0]
	f.items = f.items[1:]
	return a, func(time.Duration) {}, true
}

type sfq struct{ q *Queue[arrival] }

func (s sfq) push(a arrival) { s.q.Push(a.flow, 1, a) }

func (s sfq) pop(now time.Duration) (arrival, func(time.Duration), bool) {
	g, ok := s.q.Pop(epoch.Add(now))
	return g.Item, func(now time.Duration) { s.q.Done(g, g.Item.cost, epoch.Add(now)) }, ok
}

var epoch = time.Unix(1_700_000_000, 0)

type running struct {
	until time.Duration
	seq   int
	a     arrival
	done  func(time.Duration)
}

type byUntil []running

func (h byUntil) Len() int { return len(h) }
func (h byUntil) Less(i, j int) bool {
	return h[i].until < h[j].until || h[i].until == h[j].until && h[i].seq < h[j].seq
}
func (h byUntil) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *byUntil) Push(x any)   { *h = append(*h, x.(running)) }
func (h *byUntil) Pop() any     { x := (*h)[len(*h)-1]; *h = (*h)[:len(*h)-1]; return x }

// simulate runs a trace on some workers until end, in virtual time, and calls
// finished for each event.
func simulate(d discipline, workers int, trace []arrival, end time.Duration, finished func(a arrival, start, now time.Duration)) {
	var busy byUntil
	seq := 0
	for {
		var now time.Duration
		switch {
		case len(trace) > 0 && (len(busy) == 0 || trace[0].at <= busy[0].until):
			now = trace[0].at
			d.push(trace[0])
			trace = trace[1:]
		case len(busy) > 0:
			r := heap.Pop(&busy).(running)
			now = r.until
			r.done(now)
			if now <= end {
				finished(r.a, now-r.a.cost, now)
			}
		default:
			return
		}
		if now > end {
			return
		}
		for len(busy) < workers {
			a, done, ok := d.pop(now)
			if !ok {
				break
			}
			seq++
			heap.Push(&busy, running{now + a.cost, seq, a, done})
		}
	}
}

// poisson makes the events of one flow.
func poisson(rng *rand.Rand, flow string, perSecond float64, cost, end time.Duration) (trace []arrival) {
	for at := 0.0; perSecond > 0; {
		at += rng.ExpFloat64() / perSecond
		if at >= end.Seconds() {
			break
		}
		trace = append(trace, arrival{time.Duration(at * float64(time.Second)), flow, cost})
	}
	return trace
}

func quantile(lags []time.Duration, q float64) time.Duration {
	slices.Sort(lags)
	return lags[int(q*float64(len(lags)-1)+0.5)]
}

const (
	simWorkers = 4
	simCost    = 4 * time.Millisecond
	simRate    = 5.0 // events/s of a victim; 99 victims use half of 1,000/s
)

type outcome struct {
	p50, p99, max time.Duration
	victims       int           // their events finished
	work          time.Duration // of all finished events
}

// neighbours is the scenario NN-k: 99 victims and one flow that sends k times as
// much as one of them.
func neighbours(d discipline, k float64, noisyCost, end time.Duration, burst int) outcome {
	rng := rand.New(rand.NewPCG(42, 1))
	var trace []arrival
	for i := range 99 {
		trace = append(trace, poisson(rng, fmt.Sprint("victim-", i), simRate, simCost, end)...)
	}
	trace = append(trace, poisson(rng, "noisy", k*simRate, noisyCost, end)...)
	for range burst {
		trace = append(trace, arrival{end / 4, "noisy", noisyCost})
	}
	slices.SortStableFunc(trace, func(a, b arrival) int { return cmp.Compare(a.at, b.at) })
	var o outcome
	var lags []time.Duration
	simulate(d, simWorkers, trace, end, func(a arrival, start, now time.Duration) {
		o.work += a.cost
		if a.flow != "noisy" {
			lags = append(lags, now-a.at)
		}
	})
	o.p50, o.p99, o.max, o.victims = quantile(lags, 0.5), quantile(lags, 0.99), quantile(lags, 1), len(lags)
	return o
}

func (o outcome) String() string {
	return fmt.Sprintf("P50 %.1f P99 %.1f max %.0f ms, %d victim events",
		float64(o.p50)/1e6, float64(o.p99)/1e6, float64(o.max)/1e6, o.victims)
}

const simEnd = 20 * time.Second

func (o outcome) conservation() float64 { return o.work.Seconds() / simEnd.Seconds() / simWorkers }

func newSFQ(cap int, hold time.Duration) sfq {
	q := New[arrival](simWorkers)
	q.SetCap(cap)
	q.SetHold(hold)
	return sfq{q}
}

// The lines of the noisy-neighbour benchmark, held in the ideal: what is missed
// here no engine around it can reach.
func TestQuietTenantsBesideANoisyOne(t *testing.T) {
	alone := neighbours(newSFQ(0, 0), 0, simCost, simEnd, 0)
	t.Logf("alone: %v", alone)
	if alone.p50 != 4*time.Millisecond || alone.p99 > 8*time.Millisecond {
		t.Fatalf("alone: %v, want P50 4.0 and P99 about 6.6 ms: the simulation is wrong", alone)
	}
	for _, c := range []struct {
		name     string
		k        float64
		burst    int
		overload bool
		fifoP99  time.Duration // at least: it shows that the scenario hurts
	}{
		{"10x", 10, 0, false, 0},
		{"100x", 100, 0, false, 50 * time.Millisecond},
		{"1000x", 1000, 0, true, 15 * time.Second},
		{"burst of 6,000", 0, 6000, false, 5 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := neighbours(newSFQ(0, 0), c.k, simCost, simEnd, c.burst)
			first := neighbours(&fifo{}, c.k, simCost, simEnd, c.burst)
			t.Logf("fair: %v, work %.3f; fifo: %v", got, got.conservation(), first)
			if r := float64(got.p50) / float64(alone.p50); r > 1.5 {
				t.Errorf("P50 index %.2f, want at most 1.5", r)
			}
			if r := float64(got.p99) / float64(alone.p99); r > 2 {
				t.Errorf("P99 index %.2f, want at most 2.0", r)
			}
			if got.victims < alone.victims-10 {
				t.Errorf("%d victim events done, want %d", got.victims, alone.victims)
			}
			if w := got.conservation(); c.overload && w < 0.95 {
				t.Errorf("work conservation %.3f, want at least 0.95", w)
			}
			if first.p99 < c.fifoP99 {
				t.Errorf("first in first out has P99 %v, expected at least %v", first.p99, c.fifoP99)
			}
		})
	}
}

// Noisy items that cost ten times as much: nobody can take a worker back, so the
// cap and the hold decide how long the others wait.
func TestQuietTenantsBesideASlowOne(t *testing.T) {
	const slow = 10 * simCost
	alone := neighbours(newSFQ(0, 0), 0, simCost, simEnd, 0)
	for _, c := range []struct {
		name  string
		cap   int
		hold  time.Duration
		p99   time.Duration // at most
		least float64       // of the work
	}{
		{"default", 0, 0, 52 * time.Millisecond, 0.96},
		{"no cap", simWorkers, 0, 52 * time.Millisecond, 0.96},
		{"default cap held", 0, time.Second, 28 * time.Millisecond, 0.92},
		{"cap 1 held", 1, time.Second, 12 * time.Millisecond, 0.73},
	} {
		for _, k := range []float64{10, 100} {
			t.Run(fmt.Sprint(c.name, " ", k, "x"), func(t *testing.T) {
				got := neighbours(newSFQ(c.cap, c.hold), k, slow, simEnd, 0)
				t.Logf("%v, work %.3f", got, got.conservation())
				if got.p99 > c.p99 || got.p99-alone.p99 > 2*slow {
					t.Errorf("P99 %v, want at most %v", got.p99, c.p99)
				}
				if w := got.conservation(); w < c.least {
					t.Errorf("work %.3f, want at least %.2f", w, c.least)
				}
			})
		}
	}
}

// shares runs flows that always have work and returns the worker time of each.
func shares(q *Queue[arrival], flows []string, costOf func(flow string) time.Duration, end time.Duration) map[string]time.Duration {
	got := map[string]time.Duration{}
	d := sfq{q}
	var trace []arrival
	for _, f := range flows {
		for range 8 {
			trace = append(trace, arrival{0, f, costOf(f)})
		}
	}
	simulate(d, q.workers, trace, end, func(a arrival, start, now time.Duration) {
		got[a.flow] += a.cost
		d.push(arrival{now, a.flow, costOf(a.flow)}) // never empty
	})
	return got
}

func TestSharesFollowTheWeights(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 5))
	constant := func(string) time.Duration { return 4 * time.Millisecond }
	for _, c := range []struct {
		name    string
		workers int
		weights map[string]float64
		cost    func(flow string) time.Duration
	}{
		{"equal", 4, map[string]float64{"a": 1, "b": 1, "c": 1}, constant},
		{"two flows 3:1 on two workers", 2, map[string]float64{"a": 3, "b": 1}, constant},
		{"1:2:4 on one worker", 1, map[string]float64{"a": 1, "b": 2, "c": 4}, constant},
		{"1:2:4", 4, map[string]float64{"a": 1, "b": 2, "c": 4}, constant},
		{"1:1:1:0.1 on 16", 16, map[string]float64{"a": 1, "b": 1, "c": 1, "d": 0.1}, constant},
		{"costs 1:3:10", 4, map[string]float64{"a": 1, "b": 1, "c": 1}, func(f string) time.Duration {
			return map[string]time.Duration{"a": 1, "b": 3, "c": 10}[f] * time.Millisecond
		}},
		{"costs and weights", 4, map[string]float64{"a": 4, "b": 2, "c": 1, "d": 1}, func(f string) time.Duration {
			return map[string]time.Duration{"a": 9, "b": 3, "c": 1, "d": 5}[f] * time.Millisecond
		}},
		// The estimate is wrong nearly always: only the correction makes this fair.
		{"costs that vary 40-fold", 1, map[string]float64{"a": 1, "b": 1, "c": 2}, func(f string) time.Duration {
			if f == "a" && rng.IntN(10) == 0 {
				return 40 * time.Millisecond
			}
			return time.Millisecond
		}},
		{"costs that vary, more workers", 4, map[string]float64{"a": 1, "b": 1, "c": 1, "d": 1}, func(f string) time.Duration {
			if f == "a" && rng.IntN(10) == 0 {
				return 20 * time.Millisecond
			}
			return 2 * time.Millisecond
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			q := New[arrival](c.workers)
			var flows []string
			var sum float64
			for f, w := range c.weights {
				if err := q.SetWeight(f, w); err != nil {
					t.Fatal(err)
				}
				flows = append(flows, f)
				sum += w
			}
			slices.Sort(flows)
			const end = 10 * time.Second
			got := shares(q, flows, c.cost, end)
			for _, f := range flows {
				want := c.weights[f] / sum * end.Seconds() * float64(c.workers)
				if r := got[f].Seconds()/want - 1; r < -0.05 || r > 0.05 {
					t.Errorf("flow %s had %.2f s, want %.2f within 5 %%", f, got[f].Seconds(), want)
				}
			}
		})
	}
}
