package engine

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/eventlog/memlog"
	"github.com/fairlead-dev/fairlead/store/memstore"
)

// listSchedule returns how long events of the keys given take on so many workers
// if each costs the same, whoever is free takes the first event whose key is not
// busy, and nothing is lost between them.
func listSchedule(keys []int, workers int, cost time.Duration) time.Duration {
	queues := map[int]int{} // events waiting behind the first
	var ready, busy intHeap // ready: arrival of the first event; busy: end<<32|...
	at := map[int][]int{}
	for i, k := range keys {
		at[k] = append(at[k], i)
		if queues[k]++; queues[k] == 1 {
			heap.Push(&ready, [2]int{i, k})
		}
	}
	now := 0
	for len(ready) > 0 || len(busy) > 0 {
		for len(busy) < workers && len(ready) > 0 {
			x := heap.Pop(&ready).([2]int)
			heap.Push(&busy, [2]int{now + int(cost), x[1]})
		}
		x := heap.Pop(&busy).([2]int)
		now = x[0]
		if at[x[1]] = at[x[1]][1:]; len(at[x[1]]) > 0 {
			heap.Push(&ready, [2]int{at[x[1]][0], x[1]})
		}
	}
	return time.Duration(now)
}

type intHeap [][2]int

func (h intHeap) Len() int { return len(h) }
func (h intHeap) Less(i, j int) bool {
	return h[i][0] < h[j][0] || h[i][0] == h[j][0] && h[i][1] < h[j][1]
}
func (h intHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *intHeap) Push(x any)   { *h = append(*h, x.([2]int)) }
func (h *intHeap) Pop() any {
	old := *h
	x := old[len(old)-1]
	*h = old[:len(old)-1]
	return x
}

// zipfLog returns a log of n events with Zipf-distributed keys.
func zipfLog(tb testing.TB, n, keys, tenants int, s float64) (*memlog.Log, []int, eventlog.Token) {
	tb.Helper()
	log := memlog.New()
	z := rand.NewZipf(rand.New(rand.NewPCG(3, 4)), s, 8, uint64(keys-1))
	trace := make([]int, n)
	appends := make([]eventlog.StreamAppend, 0, 1000)
	var tok eventlog.Token
	names := map[string]bool{}
	for i := range trace {
		k := int(z.Uint64())
		trace[i] = k
		tenant := fmt.Sprint("t", k%tenants)
		names[tenant] = true
		appends = append(appends, eventlog.StreamAppend{Tenant: tenant, Stream: fmt.Sprint("s", k), Events: []eventlog.NewEvent{{Type: "x", Data: []byte("{}")}}})
		if len(appends) == cap(appends) || i == n-1 {
			var err error
			if tok, err = log.Append(context.Background(), appends...); err != nil {
				tb.Fatal(err)
			}
			appends = appends[:0]
		}
	}
	tok.Tenants = nil
	for t := range names {
		tok.Tenants = append(tok.Tenants, t)
	}
	return log, trace, tok
}

func runReactor(tb testing.TB, log eventlog.Log, tok eventlog.Token, p Processor) time.Duration {
	tb.Helper()
	e, err := New(Config{Log: log, Store: memstore.New(), Name: "bench", Memory: 256 << 20})
	if err != nil {
		tb.Fatal(err)
	}
	if err := e.Add(context.Background(), p); err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	began := time.Now()
	go func() { ended <- e.Run(ctx) }()
	if err := e.WaitFor(ctx, p.Name, tok); err != nil {
		tb.Fatal(err)
	}
	took := time.Since(began)
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		tb.Errorf("Run: %v", err)
	}
	return took
}

func BenchmarkStreamNoop(b *testing.B) {
	for _, tenants := range []int{1, 50} {
		b.Run(fmt.Sprintf("tenants=%d", tenants), func(b *testing.B) {
			const n = 500_000
			log, _, tok := zipfLog(b, n, 20_000, tenants, 1.2)
			for b.Loop() {
				runReactor(b, log, tok, Processor{Name: "noop", React: func(context.Context, Delivery) error { return nil }})
			}
			b.ReportMetric(float64(b.N*n)/b.Elapsed().Seconds(), "events/s")
		})
	}
}

func BenchmarkStreamSleep(b *testing.B) {
	for _, cost := range []time.Duration{time.Millisecond, 5 * time.Millisecond, 20 * time.Millisecond} {
		for _, c := range []int{64, 1024} {
			b.Run(fmt.Sprintf("cost=%v/concurrency=%d", cost, c), func(b *testing.B) {
				n := int(2 * time.Second / cost * time.Duration(min(c, 30)))
				log, trace, tok := zipfLog(b, n, 5000, 8, 1.2)
				var took, ideal, loop time.Duration
				for b.Loop() {
					took += runReactor(b, log, tok, Processor{Name: "sleep", Concurrency: c, React: func(context.Context, Delivery) error {
						time.Sleep(cost)
						return nil
					}})
					loop += handLoop(trace, c, func() { time.Sleep(cost) })
					ideal += listSchedule(trace, c, cost)
				}
				b.ReportMetric(ideal.Seconds()/took.Seconds(), "of-ideal")
				b.ReportMetric(loop.Seconds()/took.Seconds(), "of-loop")
			})
		}
	}
}

// handLoop runs the trace as a program written for nothing else would: a heap, a
// lock and workers. What it loses, the machine loses.
func handLoop(keys []int, workers int, f func()) time.Duration {
	at := map[int][]int{}
	var ready intHeap
	for i, k := range keys {
		if at[k] = append(at[k], i); len(at[k]) == 1 {
			heap.Push(&ready, [2]int{i, k})
		}
	}
	var mu sync.Mutex
	more := sync.NewCond(&mu)
	left := len(keys)
	var wg sync.WaitGroup
	began := time.Now()
	for range workers {
		wg.Go(func() {
			mu.Lock()
			defer mu.Unlock()
			for {
				for len(ready) == 0 && left > 0 {
					more.Wait()
				}
				if left == 0 {
					return
				}
				k := heap.Pop(&ready).([2]int)[1]
				mu.Unlock()
				f()
				mu.Lock()
				if left--; left == 0 {
					more.Broadcast()
				}
				if at[k] = at[k][1:]; len(at[k]) > 0 {
					heap.Push(&ready, [2]int{at[k][0], k})
					more.Signal()
				}
			}
		})
	}
	wg.Wait()
	return time.Since(began)
}

func TestStreamListSchedule(t *testing.T) {
	for _, cost := range []time.Duration{time.Millisecond, 5 * time.Millisecond, 20 * time.Millisecond} {
		for _, c := range []int{4, 64, 1024} {
			for _, tenants := range []int{1, 20} {
				t.Run(fmt.Sprintf("cost=%v/concurrency=%d/tenants=%d", cost, c, tenants), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						n := 2000
						log, trace, tok := zipfLog(t, n, 1000, tenants, 1.2)
						took := runReactor(t, log, tok, Processor{Name: "r", Concurrency: c, NoIsolation: true, React: sleeps(cost)})
						ideal := listSchedule(trace, c, cost)
						// Several tenants take turns, so a hot key may wait for one.
						want := 0.97
						if tenants > 1 {
							want = 0.9
						}
						if ratio := ideal.Seconds() / (took - 6*time.Millisecond).Seconds(); ratio < want {
							t.Errorf("%d events took %v, the ideal is %v: ratio %.3f, want %v", n, took, ideal, ratio, want)
						}
					})
				})
			}
		}
	}
}
