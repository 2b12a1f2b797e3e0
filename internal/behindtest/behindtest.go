// Package behindtest checks, on any log and store, that what [fairlead.Admin] says of
// how far lanes are behind is what they then apply.
package behindtest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/partition"
	"github.com/fairlead-dev/fairlead/projection"
	"github.com/fairlead-dev/fairlead/store"
)

// A Log is a log that can be written and counts.
type Log interface {
	eventlog.Log
	eventlog.Appender
	eventlog.Counter
}

type doc struct{ N int }

type fixture struct {
	*testing.T
	log   Log
	st    store.Store
	admin fairlead.Admin
	parts int

	mu      sync.Mutex
	applied map[string]int64 // by the lanes of the reactor
}

// Run checks a log with one partition and a store, both new, with processors of so
// many partitions: one tenant has a lane of its own, is paused, and all are split.
func Run(t *testing.T, log Log, st store.Store, parts int) {
	f := &fixture{T: t, log: log, st: st, admin: fairlead.Admin{Log: log, Store: st}, parts: parts, applied: map[string]int64{}}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	f.append(ctx, 20)
	stop := f.consume(ctx)
	f.caughtUp(ctx)
	stop()

	f.check(ctx, "caught up")
	f.append(ctx, 1)
	f.check(ctx, "one event")
	f.append(ctx, 60)
	f.check(ctx, "shared lanes")
	stop = f.consume(ctx)
	f.caughtUp(ctx)
	for _, p := range []string{"docs", "streams", "jobs"} {
		f.must(f.admin.Detach(ctx, p, "acme"))
		f.must(f.admin.Pause(ctx, p, "zoo", "a test"))
	}
	f.until(ctx, "the tenants have lanes of their own", func(l []store.Lane) bool { return len(l) >= 3*3+1 })
	stop()
	f.append(ctx, 80)
	f.check(ctx, "lanes of tenants")
	for _, p := range []string{"docs", "streams", "jobs"} {
		f.must(f.admin.Resume(ctx, p, "zoo"))
	}
	stop = f.consume(ctx)
	f.caughtUp(ctx)
	for _, p := range []string{"docs", "streams", "jobs", "own"} {
		f.must(f.admin.SplitPartition(ctx, p, -1))
	}
	f.until(ctx, "the partitions are split", func(lanes []store.Lane) bool {
		n := 0
		for i := range lanes {
			if lanes[i].Tenant == "" {
				n++
			}
		}
		return n == 4*2*parts
	})
	f.caughtUp(ctx)
	stop()
	f.parts *= 2
	f.append(ctx, 90)
	f.check(ctx, "after the split")
	stop = f.consume(ctx)
	f.caughtUp(ctx)
	stop()
	f.check(ctx, "at last")
}

func (f *fixture) must(err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

// append appends so many events, each a moment after the one before.
func (f *fixture) append(ctx context.Context, n int) {
	f.Helper()
	for i := range n {
		tenant := []string{"acme", "zoo", "t2", "t3", "t4"}[i*i%5]
		_, err := f.log.Append(ctx, eventlog.StreamAppend{Tenant: tenant, Stream: fmt.Sprint("s", i%17), Events: []eventlog.NewEvent{fairlead.MustEvent("T", 1)}})
		f.must(err)
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			f.Fatal(ctx.Err())
		}
	}
}

// consume starts a consumer. What the lanes of the reactor apply in each partition is
// compared with how far they were behind.
func (f *fixture) consume(ctx context.Context) (stop func()) {
	f.Helper()
	behind := map[string]int64{}
	if lanes, err := f.admin.Lanes(ctx, "jobs"); err == nil {
		for i := range lanes {
			behind[lanes[i].String()] = lanes[i].Behind
		}
	}
	clear(f.applied)
	c, err := fairlead.New(fairlead.Config{Log: f.log, Store: f.st})
	f.must(err)
	on := func() *projection.Handler[doc, int] {
		return fairlead.On("T", func(d *doc, e fairlead.Event[int]) error { d.N += e.Data; return nil })
	}
	o := fairlead.Options{Partitions: f.parts, NoIsolation: true}
	own := o
	own.PartitionBy = func(e *event.Event) string { return e.Stream }
	f.must(c.Add(ctx,
		fairlead.Project(fairlead.NewProjection("docs", on().By(func(e fairlead.Event[int]) string { return e.Type })), o),
		fairlead.Project(fairlead.NewProjection("streams", on()), o),
		fairlead.React("own", func(context.Context, fairlead.Delivery) error { return nil }, own),
		fairlead.React("jobs", func(_ context.Context, d fairlead.Delivery) error {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.applied[d.Lane]++
			return nil
		}, o)))
	running, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- c.Run(running) }()
	once := sync.Once{}
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-ended; !errors.Is(err, context.Canceled) {
				f.Error(err)
			}
			// A tenant's lane that is level with its base lane may merge before it has applied
			// any, so what counts is the partition.
			applied := byPartition(f.applied)
			for p, n := range byPartition(behind) {
				if applied[p] != n {
					f.Errorf("the lanes of %s were behind by %d events, and have applied %d", p, n, applied[p])
				}
			}
		})
	}
	f.Cleanup(stop)
	return stop
}

// byPartition adds up what lanes have that are named as they print themselves.
func byPartition(lanes map[string]int64) map[string]int64 {
	sum := map[string]int64{}
	for l, n := range lanes {
		p, _, _ := strings.Cut(l, "[")
		sum[p] += n
	}
	return sum
}

// until waits for the rows of all lanes to be as they should.
func (f *fixture) until(ctx context.Context, what string, ok func([]store.Lane) bool) {
	f.Helper()
	for {
		var lanes []store.Lane
		f.must(f.st.View(ctx, func(tx store.Tx) (err error) { lanes, err = tx.Lanes(""); return err }))
		if ok(lanes) {
			return
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			f.Fatalf("waited in vain until %s: %+v", what, lanes)
		}
	}
}

func (f *fixture) caughtUp(ctx context.Context) {
	f.Helper()
	head, err := f.log.Head(ctx, 0)
	f.must(err)
	f.until(ctx, "all have caught up", func(lanes []store.Lane) bool {
		for i := range lanes {
			if lanes[i].Position < head {
				return false
			}
		}
		return len(lanes) > 0
	})
}

// check compares how far each lane is behind with the log.
func (f *fixture) check(ctx context.Context, when string) {
	f.Helper()
	page, err := f.log.Read(ctx, eventlog.ReadRequest{MaxEvents: 10_000})
	f.must(err)
	before := time.Now()
	lanes, err := f.admin.Lanes(ctx, "")
	f.must(err)
	took := time.Since(before)
	sum, unread := map[string]int64{}, map[string]int64{}
	alone := map[string]bool{}
	done := map[string]event.Position{}
	for i := range lanes {
		if l := &lanes[i]; l.Tenant != "" {
			alone[fmt.Sprint(l.Processor, " ", l.Partition, " ", l.Tenant)] = true
		}
	}
	for i := range lanes {
		l := &lanes[i]
		done[l.Processor] = max(done[l.Processor], l.Position)
		var want int64
		var oldest time.Time
		for j := range page.Events {
			e := &page.Events[j]
			key := e.Tenant + "\x00" + e.Stream
			switch l.Processor {
			case "docs":
				key = e.Tenant
			case "own":
				key = e.Stream
			}
			own := alone[fmt.Sprint(l.Processor, " ", l.Partition, " ", e.Tenant)]
			if e.Position <= l.Position || partition.Bucket(key, f.parts) != l.Partition || (l.Tenant != e.Tenant) && (l.Tenant != "" || own) {
				continue
			}
			if want++; want == 1 {
				oldest = e.RecordedAt
			}
		}
		if l.Processor == "own" {
			if l.AtMost != (f.parts > 1 && l.Position < page.Head) || l.Behind < want {
				f.Errorf("%s, %d partitions: lane %v is at most (%t) %d events behind, want at least %d", when, f.parts, l.LaneID, l.AtMost, l.Behind, want)
			}
			continue
		}
		if l.Behind != want || l.AtMost {
			f.Errorf("%s, %d partitions: lane %v is %d events behind (at most: %t), want %d", when, f.parts, l.LaneID, l.Behind, l.AtMost, want)
		}
		sum[l.Processor] += l.Behind
		if lag := before.Sub(oldest); want == 0 && l.Lag != 0 || want > 0 && (l.Lag < lag-time.Millisecond || l.Lag > lag+took+time.Millisecond) {
			f.Errorf("%s, %d partitions: lane %v is %v behind, want %v", when, f.parts, l.LaneID, l.Lag, lag)
		}
	}
	for p := range done {
		if p == "own" {
			continue
		}
		for j := range page.Events {
			if page.Events[j].Position > done[p] {
				unread[p]++
			}
		}
		if sum[p] != unread[p] {
			f.Errorf("%s, %d partitions: the lanes of %s are %d events behind together, want %d", when, f.parts, p, sum[p], unread[p])
		}
	}
}
