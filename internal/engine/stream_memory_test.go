package engine

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/internal/lane"
)

// TestStreamMemoryOfManyLanes: the budget is the process's, however many lanes
// it has. 200 tenants have lanes of their own and a backlog; the handler is slow.
func TestStreamMemoryOfManyLanes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newFleetRig(t)
		const budget, tenants = 1 << 20, 200
		e, err := New(Config{Log: r.log, Store: r.mem, Name: "a", Memory: budget})
		if err != nil {
			t.Fatal(err)
		}
		p := Processor{Name: "mail", Concurrency: 4, React: func(ctx context.Context, _ Delivery) error {
			pause(ctx, time.Second)
			return nil
		}}
		if err := e.Add(t.Context(), p); err != nil {
			t.Fatal(err)
		}
		data := `"` + strings.Repeat("x", 4000) + `"`
		for i := range tenants {
			name := fmt.Sprint("tenant-", i)
			if err := lane.Detach(t.Context(), r.mem, "mail", name); err != nil {
				t.Fatal(err)
			}
			a := eventlog.StreamAppend{Tenant: name, Stream: "s"}
			for range 60 {
				a.Events = append(a.Events, eventlog.NewEvent{Type: "added", Data: []byte(data)})
			}
			if _, err := r.log.Append(t.Context(), a); err != nil {
				t.Fatal(err)
			}
		}
		stop := r.run(e)
		defer stop()
		time.Sleep(5 * time.Second)
		pool := e.procs["mail"].pool
		pool.mu.Lock()
		held, lanes := 0, 0
		for _, l := range pool.queue.lanes {
			held, lanes = held+l.held(), lanes+1
		}
		pool.unlock()
		t.Logf("%d lanes hold %d bytes; the budget is %d", lanes, held, budget)
		if held > 2*budget {
			t.Errorf("%d lanes hold %d MiB of events, the process has a budget of %d MiB", lanes, held>>20, budget>>20)
		}
	})
}
