package dispatch

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// The published scheduling example: 12 events of 20 ms each.
func TestPublishedExample(t *testing.T) {
	const cost = 20 * time.Millisecond
	var g Grouper
	group(&g, published)
	lpt := slices.Clone(g.Order())

	for _, c := range []struct {
		name    string
		workers int
		order   []int32
		want    time.Duration
		ran     []string // by worker, the one that ran C first
	}{
		{"one worker", 1, lpt, 240 * time.Millisecond, []string{"C1 C2 C3 C4 C5 C6 A1 A2 A3 A4 B1 B2"}},
		{"two workers, arrival order", 2, []int32{0, 1, 2}, 160 * time.Millisecond,
			[]string{"B1 B2 C1 C2 C3 C4 C5 C6", "A1 A2 A3 A4"}},
		{"two workers, largest first", 2, lpt, 120 * time.Millisecond,
			[]string{"C1 C2 C3 C4 C5 C6", "A1 A2 A3 A4 B1 B2"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ran := make([]string, c.workers) // each worker writes its own
				start := time.Now()
				n := Run(t.Context(), c.workers, c.order, func(worker, group int) {
					_, key := g.Key(group)
					for i := range g.Members(group) {
						time.Sleep(cost)
						ran[worker] += fmt.Sprintf(" %s%d", key, i+1)
					}
				})
				if got := time.Since(start); got != c.want || n != 3 {
					t.Errorf("%d groups in %v, want 3 in %v", n, got, c.want)
				}
				for i := range ran {
					ran[i] = ran[i][1:]
				}
				// Which of the two is the calling goroutine is left open.
				slices.SortFunc(ran, func(a, b string) int { return len(b) - len(a) })
				if c.name == "two workers, largest first" && ran[0][0] != 'C' {
					slices.Reverse(ran)
				}
				if !slices.Equal(ran, c.ran) {
					t.Errorf("workers ran %q, want %q", ran, c.ran)
				}
			})
		})
	}
}

// With costs that differ, the end is never later than Graham's bound for list
// schedules, and on every worker the groups start in order.
func TestRunKeepsToTheListSchedule(t *testing.T) {
	for seed := range uint64(40) {
		synctest.Test(t, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 3))
			workers := 1 + rng.IntN(8)
			var g Grouper
			var sum, longest time.Duration
			for i := range 1 + rng.IntN(200) {
				cost := time.Duration(1+rng.IntN(100)) * time.Millisecond
				g.AddCost(i, "t", fmt.Sprint(i), cost)
				sum, longest = sum+cost, max(longest, cost)
			}
			start := time.Now()
			Run(t.Context(), workers, g.Order(), func(_, group int) { time.Sleep(g.Cost(group)) })
			w := time.Duration(workers)
			if got, bound := time.Since(start), sum/w+longest*(w-1)/w+1; got > bound {
				t.Errorf("seed %d: %d workers took %v, bound %v", seed, workers, got, bound)
			}
		})
	}
}

func TestRunRunsEachGroupOnce(t *testing.T) {
	for _, c := range []struct{ workers, groups int }{{1, 0}, {8, 0}, {0, 3}, {1, 100}, {2, 1}, {2, 10_000}, {7, 5000}, {64, 100}, {100, 3}} {
		t.Run(fmt.Sprint(c.workers, " workers ", c.groups, " groups"), func(t *testing.T) {
			order := make([]int32, c.groups)
			for i := range order {
				order[i] = int32(c.groups - 1 - i)
			}
			ran := make([]atomic.Int32, c.groups)
			var strange atomic.Int32
			n := Run(t.Context(), c.workers, order, func(worker, group int) {
				ran[group].Add(1)
				if worker < 0 || worker >= max(c.workers, 1) {
					strange.Add(1)
				}
			})
			if n != c.groups || strange.Load() != 0 {
				t.Errorf("n = %d with %d strange worker numbers, want %d", n, strange.Load(), c.groups)
			}
			for i := range ran {
				if got := ran[i].Load(); got != 1 {
					t.Fatalf("group %d ran %d times", i, got)
				}
			}
		})
	}
}

func TestRunStopsWithItsContext(t *testing.T) {
	for _, workers := range []int{1, 2, 16} {
		t.Run(fmt.Sprint(workers, " workers"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), 105*time.Millisecond)
				defer cancel()
				order := make([]int32, 10_000)
				for i := range order {
					order[i] = int32(i)
				}
				var mu sync.Mutex
				var ran []int32
				n := Run(ctx, workers, order, func(_, group int) {
					time.Sleep(10 * time.Millisecond)
					mu.Lock()
					defer mu.Unlock()
					ran = append(ran, int32(group))
				})
				slices.Sort(ran)
				if !slices.Equal(ran, order[:n]) {
					t.Errorf("ran %v, want the first %d", ran, n)
				}
				// Eleven rounds, and at most one step more on each worker.
				if n < 11*workers || n > (11+maxStep)*workers {
					t.Errorf("ran %d groups, want about %d", n, 11*workers)
				}
			})
		})
	}
}

func TestRunAfterTheEndOfItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, workers := range []int{1, 4} {
		if n := Run(ctx, workers, []int32{0, 1, 2, 3, 4}, func(_, _ int) { t.Error("ran") }); n != 0 {
			t.Errorf("%d workers: n = %d, want 0", workers, n)
		}
	}
}

func TestOneWorkerIsTheCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		order := []int32{2, 0, 1}
		var got []int32
		Run(t.Context(), 1, order, func(_, group int) { got = append(got, int32(group)) }) // -race: no other goroutine
		if !slices.Equal(got, order) {
			t.Errorf("ran %v, want %v", got, order)
		}
	})
}

func TestPanicOfTheCallerWaitsForTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var running, ran atomic.Int32
		defer func() {
			if r := recover(); r != "boom" {
				t.Errorf("recovered %v, want boom", r)
			}
			if got := running.Load(); got != 0 {
				t.Errorf("%d handlers still run", got)
			}
			if got := ran.Load(); got > 8 {
				t.Errorf("%d groups were begun after the panic", got)
			}
		}()
		Run(t.Context(), 4, make([]int32, 200), func(worker, _ int) {
			if worker == 0 {
				time.Sleep(time.Millisecond)
				panic("boom")
			}
			running.Add(1)
			ran.Add(1)
			time.Sleep(time.Second)
			running.Add(-1)
		})
	})
}

func TestWorkers(t *testing.T) {
	for _, c := range []struct {
		name          string
		limit, groups int
		work          time.Duration
		want          int
	}{
		{"no work", 8, 100, 0, 1},
		{"tiny", 8, 100, HandOver, 1},
		{"two hand-overs", 8, 100, 2 * HandOver, 2},
		{"much", 8, 100, time.Second, 8},
		{"few groups", 8, 3, time.Second, 3},
		{"no groups", 8, 0, time.Second, 1},
		{"no limit given", 0, 3, time.Second, 1},
		{"negative", -1, 3, -time.Second, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := Workers(c.limit, c.groups, c.work); got != c.want {
				t.Errorf("got %d, want %d", got, c.want)
			}
		})
	}
}

// BenchmarkDispatch groups, orders and hands over batches of 5,000 to a handler
// that does nothing. "bare" is a hand-written loop that only groups: a map to
// linked lists, reused; "add" is ours without order and hand-over.
func BenchmarkDispatch(b *testing.B) {
	const batch = 5000
	type name struct{ tenant, key string }
	sets := []struct {
		name string
		keys []string
	}{
		{"zipf1k", zipfKeys(20*batch, 1000)},
		{"zipf10k", zipfKeys(20*batch, 10_000)},
		{"zipf100k", zipfKeys(20*batch, 100_000)},
		{"uniform100k", uniformKeys(20*batch, 100_000)},
	}
	for _, set := range sets {
		batches := slices.Collect(slices.Chunk(set.keys, batch))
		run := func(name string, f func(keys []string)) {
			b.Run(set.name+"/"+name, func(b *testing.B) {
				f(batches[0])
				b.ReportAllocs()
				i := 0
				for b.Loop() {
					f(batches[i%len(batches)])
					i++
				}
				b.ReportMetric(float64(b.N*batch)/b.Elapsed().Seconds(), "events/s")
			})
		}
		index := map[name]int32{}
		var heads, tails []int32
		next := make([]int32, batch)
		run("bare", func(keys []string) {
			clear(index)
			heads, tails = heads[:0], tails[:0]
			for i, k := range keys {
				next[i] = -1
				if at, ok := index[name{"t", k}]; ok {
					next[tails[at]] = int32(i)
					tails[at] = int32(i)
					continue
				}
				index[name{"t", k}] = int32(len(heads))
				heads, tails = append(heads, int32(i)), append(tails, int32(i))
			}
		})
		var g Grouper
		add := func(keys []string) {
			g.Reset()
			for i, k := range keys {
				g.Add(i, "t", k)
			}
		}
		run("add", add)
		for _, workers := range []int{1, 2} {
			var seen [2][8]int
			handle := func(worker, group int) {
				for _, i := range g.Members(group) {
					seen[worker][0] += int(i)
				}
			}
			run(fmt.Sprintf("workers%d", workers), func(keys []string) {
				add(keys)
				Run(context.Background(), workers, g.Order(), handle)
			})
		}
	}
}

func uniformKeys(n, distinct int) []string {
	rng := rand.New(rand.NewPCG(1, 2))
	keys := make([]string, n)
	for i := range keys {
		keys[i] = fmt.Sprintf("order-%08d", rng.IntN(distinct))
	}
	return keys
}
