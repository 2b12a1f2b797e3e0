package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/eventlog/memlog"
	"github.com/fairlead-dev/fairlead/store/memstore"
)

// A reactorCase is one run of a reactor over a backlog.
type reactorCase struct {
	wait        time.Duration
	concurrency int
	q           float64 // of the Zipf-Mandelbrot law: small ones make the hottest key hotter
	events      int
}

// reactorCases are sized so that the ideal schedule takes about so long.
func reactorCases(about time.Duration) []reactorCase {
	var out []reactorCase
	for _, wait := range []time.Duration{time.Millisecond, 5 * time.Millisecond, 20 * time.Millisecond} {
		for _, concurrency := range []int{64, 1024} {
			// The hottest of 10,000 keys has 0.75 % of the events with q = 30: up to 133
			// handlers can be busy.
			busy := min(float64(concurrency), 133)
			out = append(out, reactorCase{wait, concurrency, 30, int(about.Seconds() / wait.Seconds() * busy)})
		}
	}
	// One with a key that has a sixth of all events: it alone decides.
	return append(out, reactorCase{5 * time.Millisecond, 64, 1, int(about.Seconds() / 0.005 * 6)})
}

const reactorKeys = 10_000

func reactorKey(k int) string { return fmt.Sprintf("key-%05d", k) }

// reactorLog is a log in memory with events of Zipf keys, and the chain that
// each event belongs to.
func reactorLog(ctx context.Context, c reactorCase) (*memlog.Log, [][]int, error) {
	rng := rand.New(rand.NewPCG(5, 5))
	zipf := rand.NewZipf(rng, 1.1, c.q, reactorKeys-1)
	log := memlog.New()
	chains := make([][]int, reactorKeys)
	var batch []eventlog.StreamAppend
	for i := range c.events {
		k := int(zipf.Uint64())
		chains[k] = append(chains[k], i)
		batch = append(batch, eventlog.StreamAppend{Tenant: fmt.Sprintf("tenant-%02d", k%50), Stream: reactorKey(k),
			Events: []eventlog.NewEvent{{Type: "Ordered", Data: []byte(`{"n":1}`)}}})
		if len(batch) == 1000 || i == c.events-1 {
			if _, err := log.Append(ctx, batch...); err != nil {
				return nil, nil, err
			}
			batch = batch[:0]
		}
	}
	return log, chains, nil
}

// A reactorRun is what one run came to.
type reactorRun struct {
	makespan time.Duration   // from the start of the consumer to the end of the last handler
	waits    []time.Duration // of each event's handler
	most     int64           // handlers at once
}

// react runs a reactor over the log until every event was handled once.
func react(ctx context.Context, log *memlog.Log, c reactorCase) (reactorRun, error) {
	r := reactorRun{waits: make([]time.Duration, c.events)}
	names := make([]string, reactorKeys)
	for k := range names {
		names[k] = reactorKey(k)
	}
	order := newOrderCheck(names...)
	var handled, busy, most atomic.Int64
	all := make(chan struct{})
	var first event.Position // positions are dense from here
	page, err := log.Read(ctx, eventlog.ReadRequest{MaxEvents: 1})
	if err != nil {
		return r, err
	}
	first = page.Events[0].Position
	var started time.Time
	p := fairlead.React("waiter", func(ctx context.Context, d fairlead.Delivery) error {
		begun := time.Now()
		end := order.begin(d.Stream, d.Version)
		now := busy.Add(1)
		for old := most.Load(); now > old && !most.CompareAndSwap(old, now); old = most.Load() {
		}
		handlerWait(c.wait)
		busy.Add(-1)
		end(true)
		ended := time.Now()
		r.waits[d.Position-first] = ended.Sub(begun)
		if handled.Add(1) == int64(c.events) {
			r.makespan = ended.Sub(started)
			close(all)
		}
		return nil
	}, fairlead.Options{Concurrency: c.concurrency})
	consumer, err := fairlead.New(fairlead.Config{Log: log, Store: memstore.New()})
	if err != nil {
		return r, err
	}
	if err := consumer.Add(ctx, p); err != nil {
		return r, err
	}
	started = time.Now()
	works := start(ctx, consumer)
	select {
	case <-all:
	case <-works.ended:
	case <-time.After(2 * time.Minute):
	}
	if err := works.stop(); err != nil {
		return r, err
	}
	r.most = most.Load()
	if n := handled.Load(); n != int64(c.events) {
		return r, fmt.Errorf("wrong result: %d handlers for %d events", n, c.events)
	}
	if r.most > int64(c.concurrency) {
		return r, fmt.Errorf("wrong result: %d handlers at once, at most %d are allowed", r.most, c.concurrency)
	}
	return r, order.err()
}

// handlerWait is what a handler that waits for another system does.
func handlerWait(d time.Duration) {
	time.Sleep(d) //nolint:forbidigo // the wait is what is measured; handlers are short
}

// ideals returns the makespans of the ideal schedule, with the waits that the
// handlers of a run really had, and with those that they asked for.
func ideals(chains [][]int, waits []time.Duration, c reactorCase) (actual, nominal time.Duration) {
	actuals, nominals := make([][]time.Duration, len(chains)), make([][]time.Duration, len(chains))
	for k, events := range chains {
		for _, i := range events {
			actuals[k] = append(actuals[k], waits[i])
			nominals[k] = append(nominals[k], c.wait)
		}
	}
	return listSchedule(actuals, c.concurrency), listSchedule(nominals, c.concurrency)
}

func runReactor(ctx context.Context, b *bench) error {
	about, runs := 5*time.Second, 5
	if b.quick {
		about = 500 * time.Millisecond
	}
	cases := reactorCases(about)
	type figures struct{ ratio, nominal, rate []float64 }
	got := make([]figures, len(cases))
	most := make([]int64, len(cases))
	for range runs { // interleaved: each case once a round
		for i, c := range cases {
			log, chains, err := reactorLog(ctx, c)
			if err != nil {
				return err
			}
			run, err := react(ctx, log, c)
			if err != nil {
				return fmt.Errorf("%v, concurrency %d: %w", c.wait, c.concurrency, err)
			}
			actual, nominal := ideals(chains, run.waits, c)
			f := &got[i]
			f.ratio = append(f.ratio, actual.Seconds()/run.makespan.Seconds())
			f.nominal = append(f.nominal, nominal.Seconds()/run.makespan.Seconds())
			f.rate = append(f.rate, float64(c.events)/run.makespan.Seconds())
			most[i] = max(most[i], run.most)
		}
	}
	for i, c := range cases {
		cond := fmt.Sprintf("handlers wait %v, concurrency %d (%d seen), %d events, Zipf-Mandelbrot 1.1, q %g over 10,000 keys, log and store in memory, from the consumer's start to the last handler's end, median of %d interleaved runs, order of every key asserted",
			c.wait, c.concurrency, most[i], c.events, c.q, runs)
		b.add("ratio", median(got[i].ratio), "x", atLeast(0.9), "ideal list schedule of the waits that the handlers really had to the engine; %s; %s", spread(got[i].ratio), cond)
		b.add("ratio_nominal", median(got[i].nominal), "x", line{}, "ideal list schedule of the waits asked for to the engine; %s; %s", spread(got[i].nominal), cond)
		b.add("events_per_second", median(got[i].rate), "events/s", line{}, "%s", cond)
	}
	return nil
}
