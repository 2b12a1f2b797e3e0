package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"time"

	"github.com/fairlead-dev/fairlead/internal/dispatch"
)

const dispatchBatch = 5000

// A dispatchItem is what grouping looks at of an event.
type dispatchItem struct {
	tenant, key string
	done        bool
}

// dispatchBatches makes batches with Zipf keys, of tenants that come in runs, as
// in a log.
func dispatchBatches(n int) [][]dispatchItem {
	const keys, tenants = 10_000, 50
	rng := rand.New(rand.NewPCG(1, 2))
	zipf := rand.NewZipf(rng, 1.1, 1, keys-1)
	names := make([]string, keys)
	for i := range names {
		names[i] = fmt.Sprintf("order-%08d", i)
	}
	batches := make([][]dispatchItem, n)
	for i := range batches {
		batches[i] = make([]dispatchItem, dispatchBatch)
		for j := range batches[i] {
			k := zipf.Uint64()
			batches[i][j] = dispatchItem{tenant: fmt.Sprintf("tenant-%02d", k%tenants), key: names[k]}
		}
	}
	return batches
}

// A bareLoop is the grouping that one writes by hand: a map from the key to a
// linked list of its items, kept from batch to batch.
type bareLoop struct {
	groups map[bareKey]int32
	first  []int32
	last   []int32
	next   []int32
}

type bareKey struct{ tenant, key string }

func (l *bareLoop) group(batch []dispatchItem) {
	clear(l.groups)
	l.first, l.last, l.next = l.first[:0], l.last[:0], l.next[:0]
	for i := range batch {
		e := &batch[i]
		l.next = append(l.next, -1)
		k := bareKey{e.tenant, e.key}
		g, ok := l.groups[k]
		if !ok {
			l.groups[k] = int32(len(l.first))
			l.first = append(l.first, int32(i))
			l.last = append(l.last, int32(i))
			continue
		}
		l.next[l.last[g]] = int32(i)
		l.last[g] = int32(i)
	}
}

// A dispatcher groups a batch, orders the groups and hands them over.
type dispatcher struct {
	g    dispatch.Grouper
	runs []int64 // of each worker, a cache line apart
}

func (d *dispatcher) batch(ctx context.Context, workers int, batch []dispatchItem) {
	d.g.Reset()
	for i := range batch {
		d.g.Add(i, batch[i].tenant, batch[i].key)
	}
	dispatch.Run(ctx, workers, d.g.Order(), func(worker, group int) {
		for _, i := range d.g.Members(group) {
			handle(&batch[i])
			d.runs[worker*8]++
		}
	})
}

// handle is the handler that does nothing; that it was called shows in the item.
//
//go:noinline
func handle(e *dispatchItem) { e.done = true }

// checkDispatch runs one batch with a handler that looks at order and
// completeness.
func checkDispatch(ctx context.Context, workers int, batch []dispatchItem) error {
	var d dispatcher
	d.g.Reset()
	for i := range batch {
		d.g.Add(i, batch[i].tenant, batch[i].key)
	}
	seen := make([]bool, len(batch))
	faults := make([]error, workers*8)
	order := d.g.Order()
	for i := 1; i < len(order); i++ {
		if d.g.Count(int(order[i])) > d.g.Count(int(order[i-1])) {
			return fmt.Errorf("wrong result: a group of %d is handed over before one of %d", d.g.Count(int(order[i-1])), d.g.Count(int(order[i])))
		}
	}
	dispatch.Run(ctx, workers, order, func(worker, group int) {
		tenant, key := d.g.Key(group)
		last := int32(-1)
		for _, i := range d.g.Members(group) {
			if batch[i].tenant != tenant || batch[i].key != key || i <= last {
				faults[worker*8] = fmt.Errorf("wrong result: item %d in the group of %q %q behind item %d", i, tenant, key, last)
			}
			last, seen[i] = i, true
		}
	})
	for _, err := range faults {
		if err != nil {
			return err
		}
	}
	for i := range seen {
		if !seen[i] {
			return fmt.Errorf("wrong result: item %d was not handed over", i)
		}
	}
	return nil
}

func runDispatch(ctx context.Context, b *bench) error {
	rounds, runs := 20, 11
	if b.quick {
		rounds, runs = 6, 7
	}
	batches := dispatchBatches(40)
	events := float64(rounds * len(batches) * dispatchBatch)
	loop := bareLoop{groups: map[bareKey]int32{}}
	many := max(2, runtime.GOMAXPROCS(0))
	d := dispatcher{runs: make([]int64, many*8)}
	for _, workers := range []int{1, many} {
		if err := checkDispatch(ctx, workers, batches[0]); err != nil {
			return err
		}
	}
	measure := func(f func(batch []dispatchItem)) (perSecond, allocations float64) {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		started := time.Now()
		for range rounds {
			for _, batch := range batches {
				f(batch)
			}
		}
		took := time.Since(started)
		runtime.ReadMemStats(&after)
		return events / took.Seconds(), float64(after.Mallocs-before.Mallocs) / events
	}
	one := func(batch []dispatchItem) { d.batch(ctx, 1, batch) }
	all := func(batch []dispatchItem) { d.batch(ctx, many, batch) }
	// All of them once, so that what is reused has its size.
	for _, batch := range batches {
		loop.group(batch)
		one(batch)
		all(batch)
	}
	var bare, single, parallel, allocs []float64
	for range runs {
		v, _ := measure(loop.group)
		bare = append(bare, v)
		clear(d.runs)
		v, a := measure(one)
		single, allocs = append(single, v), append(allocs, a)
		v, a = measure(all)
		parallel, allocs = append(parallel, v), append(allocs, a)
		total := int64(0)
		for i := 0; i < len(d.runs); i += 8 {
			total += d.runs[i]
		}
		if want := int64(2 * events); total != want {
			return fmt.Errorf("wrong result: %d items were handed over, want %d", total, want)
		}
	}
	cond := fmt.Sprintf("Zipf 1.1 over 10,000 keys, batches of %d, %.0f events a run, median of %d interleaved runs", dispatchBatch, events, runs)
	ratio := ratios(single, bare)
	b.add("ratio", median(ratio), "x", atLeast(0.6), "internal/dispatch (Grouper, Run) with 1 worker, which is what the engine takes for handlers as cheap, to the bare grouping loop (map and linked lists, reused); %s; %s", spread(ratio), cond)
	b.add("events_per_second", median(single), "events/s", atLeast(5e6), "1 worker; %s", cond)
	b.add("events_per_second", median(parallel), "events/s", line{}, "%d workers; %s", many, cond)
	b.add("events_per_second_loop", median(bare), "events/s", line{}, "the bare grouping loop; %s", cond)
	b.add("allocations_per_event", median(allocs), "1/event", atMost(0.1), "1 and %d workers; %s", many, cond)
	return nil
}
