package main

import (
	"container/heap"
	"context"
	"sync"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
)

// fifoWindow is how many events the first-in, first-out consumer reads ahead.
const fifoWindow = 10_000

// A fifo is the consumer that Fairlead is compared with: it hands out events in
// the order of the log to a few workers, one at a time for each stream. Of the
// events that may start, the oldest starts first. It keeps no checkpoint.
type fifo struct {
	handle func(e *event.Event)

	mu     sync.Mutex
	room   *sync.Cond // the window has room
	work   *sync.Cond // there is an event to start
	held   int
	ready  byPosition
	queues map[string][]*event.Event // of streams with an event that is ready or being handled
	closed bool
}

type byPosition []*event.Event

func (h byPosition) Len() int           { return len(h) }
func (h byPosition) Less(i, j int) bool { return h[i].Position < h[j].Position }
func (h byPosition) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *byPosition) Push(x any)        { *h = append(*h, x.(*event.Event)) }
func (h *byPosition) Pop() any {
	old := *h
	e := old[len(old)-1]
	*h = old[:len(old)-1]
	return e
}

// run consumes the log from its beginning until ctx ends.
func (f *fifo) run(ctx context.Context, log eventlog.Log, workers int) error {
	f.room, f.work = sync.NewCond(&f.mu), sync.NewCond(&f.mu)
	f.queues = map[string][]*event.Event{}
	var wg sync.WaitGroup
	for range workers {
		wg.Go(f.worker)
	}
	defer wg.Wait()
	stop := func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.closed = true
		f.work.Broadcast()
		f.room.Broadcast()
	}
	defer stop()
	defer context.AfterFunc(ctx, stop)()
	n, err := log.Partitions(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var readers sync.WaitGroup
	for partition := range n {
		readers.Go(func() { cancel(f.read(ctx, log, partition)) }) // which ends with an error only
	}
	readers.Wait()
	return context.Cause(ctx)
}

// read queues the events of a partition until ctx ends.
func (f *fifo) read(ctx context.Context, log eventlog.Log, partition int) error {
	for after := event.Beginning; ctx.Err() == nil; {
		page, err := log.Read(ctx, eventlog.ReadRequest{Partition: partition, After: after, MaxEvents: 1000})
		if err != nil {
			return err
		}
		f.put(page.Events)
		if after = page.Next; after >= page.Head {
			if err := log.Wait(ctx, partition, after); err != nil {
				return err
			}
		}
	}
	return ctx.Err()
}

// put queues events, and waits until the window has room for more.
func (f *fifo) put(events []event.Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range events {
		e := &events[i]
		key := e.Tenant + "\x00" + e.Stream
		f.held++
		if q, busy := f.queues[key]; busy {
			f.queues[key] = append(q, e)
			continue
		}
		f.queues[key] = nil
		heap.Push(&f.ready, e)
		f.work.Signal()
	}
	for f.held > fifoWindow && !f.closed {
		f.room.Wait()
	}
}

func (f *fifo) worker() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for {
		for len(f.ready) == 0 && !f.closed {
			f.work.Wait()
		}
		if f.closed {
			return
		}
		e := heap.Pop(&f.ready).(*event.Event)
		f.mu.Unlock()
		f.handle(e)
		f.mu.Lock()
		key := e.Tenant + "\x00" + e.Stream
		if q := f.queues[key]; len(q) > 0 {
			f.queues[key] = q[1:]
			heap.Push(&f.ready, q[0])
			f.work.Signal()
		} else {
			delete(f.queues, key)
		}
		if f.held--; f.held <= fifoWindow {
			f.room.Signal()
		}
	}
}
