package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/postgres"
	"github.com/fairlead-dev/fairlead/store"
)

func splitLines(b []byte) [][]byte { return bytes.Split(bytes.TrimSpace(b), []byte("\n")) }

// runCatchupPostgres compares the engine on PostgreSQL with a hand-written loop
// and with Emmett, on the same server and the same events.
func runCatchupPostgres(ctx context.Context, b *bench) (err error) {
	s, err := b.postgresServer(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	n := 100_000
	if b.quick {
		n = 20_000
	}
	for _, count := range []int{1000, 10_000} {
		if err := b.catchupCarts(ctx, s, n, count); err != nil {
			return fmt.Errorf("%d carts: %w", count, err)
		}
	}
	return nil
}

func (b *bench) catchupCarts(ctx context.Context, s *pgServer, n, count int) error {
	runs := 5
	if b.quick {
		runs = 3
	}
	events, want := cartEvents(n, count)
	filled, err := s.fillCarts(ctx, events)
	if err != nil {
		return err
	}
	tenants := make([]string, cartTenants)
	for i := range tenants {
		tenants[i] = fmt.Sprintf("shop-%02d", i)
	}
	loop := func(overlap bool) func(url string) (time.Duration, error) {
		return func(url string) (time.Duration, error) {
			took, err := pgLoop(ctx, url, catchupBatch, overlap)
			if err != nil {
				return 0, err
			}
			return took, comparePGLoop(ctx, url, want)
		}
	}
	var ours, theirs, waiting, cpu, loopCPU, waitingCPU []float64
	for range runs {
		for _, arm := range []struct {
			rates, cpu *[]float64
			run        func(url string) (time.Duration, error)
		}{
			{&ours, &cpu, func(url string) (took time.Duration, err error) {
				db, err := postgres.Open(ctx, url)
				if err != nil {
					return 0, err
				}
				defer func() { err = errors.Join(err, db.Close()) }()
				if err := connect(ctx, db, 4); err != nil { // the loop's time leaves out its own, too
					return 0, err
				}
				if took, err = catchUpOn(ctx, db, catchupMemory, tenants, fairlead.Project(carts)); err != nil {
					return 0, err
				}
				return took, compareCarts(ctx, db, want)
			}},
			{&theirs, &loopCPU, loop(true)},
			{&waiting, &waitingCPU, loop(false)},
		} {
			url, err := s.create(ctx, filled)
			if err != nil {
				return err
			}
			before := processorTime()
			took, err := arm.run(url)
			if err := errors.Join(err, s.drop(ctx, url)); err != nil {
				return err
			}
			*arm.cpu = append(*arm.cpu, (processorTime() - before).Seconds())
			*arm.rates = append(*arm.rates, float64(n)/took.Seconds())
		}
	}
	cond := fmt.Sprintf("%d events of %d carts, a document for each, 50 tenants, in an order in which any cart may be next; %s", n, count, s.settings)
	r := ratios(ours, theirs)
	b.add("ratio", median(r), "x", atLeast(0.8), "engine to hand-written loop (batches of %d, each committed while the next is folded, pages read ahead, jsonb documents, all cached); %s; median of %d interleaved runs, every document compared; %s", catchupBatch, spread(r), runs, cond)
	r = ratios(ours, waiting)
	b.add("ratio_waiting", median(r), "x", line{}, "engine to the same loop that waits for each commit before it folds on; %s; %s", spread(r), cond)
	b.add("events_per_second", median(ours), "events/s", line{}, "engine; %s; %s", spread(ours), cond)
	b.add("events_per_second_loop", median(theirs), "events/s", line{}, "hand-written loop; %s; %s", spread(theirs), cond)
	b.add("processor_time_ratio", median(ratios(loopCPU, cpu)), "x", line{}, "processor time of the hand-written loop to that of the engine, without the server's, with the comparison of the documents; %s", cond)
	if b.quick && count > 1000 {
		return s.drop(ctx, filled) // Emmett once is enough
	}
	if err := b.catchupEmmett(ctx, s, events, count, median(ours)); err != nil {
		return err
	}
	return s.drop(ctx, filled)
}

// connect makes the pool of a store open n connections.
func connect(ctx context.Context, s store.Store, n int) error {
	var held, done sync.WaitGroup
	held.Add(n)
	errs := make([]error, n)
	for i := range n {
		done.Go(func() {
			arrived := sync.OnceFunc(held.Done)
			errs[i] = s.View(ctx, func(store.Tx) error {
				arrived()
				held.Wait() // until each of the others has one, too
				return nil
			})
			arrived() // it has failed
		})
	}
	done.Wait()
	return errors.Join(errs...)
}

// fillCarts makes a database with the events in Fairlead's log, and everything
// that the arms need beside it.
func (s *pgServer) fillCarts(ctx context.Context, events []cartEvent) (url string, err error) {
	if url, err = s.create(ctx, ""); err != nil {
		return "", err
	}
	db, err := postgres.Open(ctx, url)
	if err != nil {
		return "", err
	}
	err = appendCarts(ctx, db, events)
	if err == nil {
		err = addProcessors(ctx, db, fairlead.Project(carts))
	}
	if err := errors.Join(err, db.Close()); err != nil {
		return "", err
	}
	return url, pgExec(ctx, url, pgLoopSchema, "VACUUM ANALYZE")
}

// addProcessors makes the processors' rows, so that no run has to.
func addProcessors(ctx context.Context, db database, ps ...fairlead.Processor) error {
	c, err := fairlead.New(fairlead.Config{Log: db, Store: db})
	if err != nil {
		return err
	}
	return c.Add(ctx, ps...)
}

// catchupEmmett runs Emmett on the first events of the same log, as many as its
// settings do in a few seconds, and compares rates.
func (b *bench) catchupEmmett(ctx context.Context, s *pgServer, events []cartEvent, count int, ours float64) error {
	runs, part := 3, 10_000
	if b.quick {
		runs, part = 1, 3000
	}
	for _, e := range b.emmettEditions() {
		type setting struct {
			emmettRun
			events int
			rates  []float64
		}
		var settings []*setting
		add := func(events int, rs ...emmettRun) {
			for _, r := range rs {
				settings = append(settings, &setting{emmettRun: r, events: events})
			}
		}
		if e.name == "released" {
			add(part*3/10, emmettRun{100, "pongo"}, emmettRun{1000, "pongo"}, emmettRun{1000, "raw"})
		} else {
			add(part, emmettRun{100, "pongo"})
			add(len(events), emmettRun{5000, "pongo"}, emmettRun{10_000, "pongo"})
			add(part, emmettRun{5000, "raw"})
		}
		filled := map[int]string{}
		for range runs {
			for _, t := range settings {
				n := min(t.events, len(events))
				if filled[n] == "" {
					url, err := s.create(ctx, "")
					if err == nil {
						err = e.fill(ctx, url, events[:n])
					}
					if err != nil {
						return err
					}
					filled[n] = url
				}
				url, err := s.create(ctx, filled[n])
				if err != nil {
					return err
				}
				seconds, err := e.catchUp(ctx, url, t.emmettRun)
				if err == nil {
					err = e.compare(ctx, url, foldCarts(events[:n]))
				}
				if err := errors.Join(err, s.drop(ctx, url)); err != nil {
					return err
				}
				t.rates = append(t.rates, float64(n)/seconds)
			}
		}
		for _, url := range filled {
			if err := s.drop(ctx, url); err != nil {
				return err
			}
		}
		best := settings[0]
		for _, t := range settings {
			if median(t.rates) > median(best.rates) {
				best = t
			}
			b.add("events_per_second_emmett_"+e.name, median(t.rates), "events/s", line{}, "%s, %v, the first %d of the events of %d carts; %s; median of %d runs, every document compared; %s",
				e.version, t.emmettRun, min(t.events, len(events)), count, spread(t.rates), runs, s.settings)
		}
		if e.name == "released" {
			b.add("over_emmett_released", ours/median(best.rates), "x", atLeast(50), "engine's events/s to those of %s at its best (%v), %d carts", e.version, best.emmettRun, count)
			continue
		}
		b.add("over_emmett_next", ours/median(best.rates), "x", atLeast(2), "engine's events/s to those of %s at its best (%v), %d carts", e.version, best.emmettRun, count)
		b.add("over_emmett_next_default", ours/median(settings[0].rates), "x", atLeast(4), "engine's events/s to those of %s by default (%v), %d carts", e.version, settings[0].emmettRun, count)
	}
	return nil
}

// foldCarts is what the carts come to after these events.
func foldCarts(events []cartEvent) map[store.Key]cart {
	want := map[store.Key]cart{}
	for i := range events {
		e := &events[i]
		k := store.Key{Tenant: e.tenant, ID: e.stream}
		c := want[k]
		e.apply(&c)
		want[k] = c
	}
	return want
}
