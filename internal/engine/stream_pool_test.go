package engine

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/eventlog/memlog"
	"github.com/fairlead-dev/fairlead/store/memstore"
)

// Workers that find the lock taken leave their events in the inbox, and whoever
// gives the lock up sees to them: nothing is lost, and each key stays in order.
func TestStreamInbox(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const workers, each = 8, 3
		log := memlog.New()
		tok := eventlog.Token{Tenants: []string{"t"}}
		for range each {
			for i := range workers {
				a := eventlog.StreamAppend{Tenant: "t", Stream: fmt.Sprint("s", i), Events: []eventlog.NewEvent{{Type: "x"}}}
				last, err := log.Append(t.Context(), a)
				if err != nil {
					t.Fatal(err)
				}
				tok.Position = last.Position
			}
		}
		gate := make(chan struct{})
		w := newWitness(t, func(ctx context.Context, d Delivery) error {
			select {
			case <-gate:
			case <-ctx.Done():
			}
			return ctx.Err()
		})
		e, err := New(Config{Log: log, Store: memstore.New(), Name: "n"})
		if err != nil {
			t.Fatal(err)
		}
		if err := e.Add(t.Context(), Processor{Name: "r", Concurrency: workers, React: w.react}); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- e.Run(ctx) }()
		synctest.Wait() // a worker in each key's first event
		pool := e.procs["r"].pool
		for round := range each {
			time.Sleep(time.Millisecond) // who had a cheap event would wait for the lock
			synctest.Wait()
			pool.mu.Lock()
			for range workers {
				gate <- struct{}{}
			}
			synctest.Wait() // they rest, for the lock is taken
			n := 0
			for x := pool.inbox.Load(); x != nil; x = x.before {
				n++
			}
			if n != workers || pool.busy != workers {
				t.Errorf("round %d: %d events in the inbox of %d in progress, want %d", round, n, pool.busy, workers)
			}
			pool.unlock()
			synctest.Wait()
		}
		if err := e.WaitFor(ctx, "r", tok); err != nil {
			t.Fatal(err)
		}
		pool.mu.Lock()
		if pool.busy != 0 || pool.inbox.Load() != nil {
			t.Errorf("%d events in progress at the end, inbox %v", pool.busy, pool.inbox.Load())
		}
		pool.unlock()
		for i := range workers {
			if got := fmt.Sprint(w.order[fmt.Sprint("t/s", i)]); got != "[1 2 3]" {
				t.Errorf("stream s%d: versions %v were handled", i, got)
			}
		}
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("Run: %v", err)
		}
	})
}
