package engine

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog/memlog"
)

// A headCounter counts how often the head is asked for.
type headCounter struct {
	*memlog.Log
	asked atomic.Int64
}

func (l *headCounter) Head(ctx context.Context, partition int) (event.Position, error) {
	l.asked.Add(1)
	return l.Log.Head(ctx, partition)
}

// Who is told that the log has more does not ask how much, where the log knows.
func TestToldOfMoreAsksNoHead(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		log := &headCounter{Log: r.log}
		e, err := New(Config{Log: log, Store: r.st, Name: "a"})
		if err != nil {
			t.Fatal(err)
		}
		r.e = e
		w := newWitness(t, nil)
		r.add(reactor(w, Processor{Concurrency: 4}))
		stop := r.run(r.e)
		r.append("t", "k", added{})
		time.Sleep(time.Second)
		before := log.asked.Load()
		for i := range 50 {
			r.append("t", fmt.Sprint("k", i), added{})
			time.Sleep(100 * time.Millisecond)
		}
		asked := log.asked.Load() - before
		stop()
		w.check(r, 0)
		if asked > 5 {
			t.Errorf("the head was asked for %d times for 50 events that were told of", asked)
		}
	})
}
