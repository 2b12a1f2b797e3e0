package eventlogtest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
)

// testConcurrent lets 8 writers append at once while readers tail the log. Each
// writer has streams of its own, and all fight for one stream by exact version.
func testConcurrent(t *fixture) {
	const writers, rounds, shared = 8, 30, 5
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	defer cancel()
	app := t.appender()
	streams := map[eventlog.StreamRef]int64{{Tenant: "shared", Stream: "s"}: writers * shared}
	for w := range writers {
		for i := range rounds {
			streams[eventlog.StreamRef{Tenant: fmt.Sprintf("w%d", w), Stream: fmt.Sprint(i % 3)}] += int64(1 + i%4)
		}
	}
	total := 0
	for _, n := range streams {
		total += int(n)
	}

	var readers, appenders sync.WaitGroup
	tailed := make([][]event.Event, t.f.Partitions)
	done := make(chan struct{}) // closed when all is written
	for p := range t.f.Partitions {
		readers.Go(func() {
			events, err := tail(ctx, t.log, p, done)
			if err != nil {
				t.Errorf("tail of partition %d: %v", p, err)
			}
			tailed[p] = events
		})
	}
	for w := range writers {
		appenders.Go(func() {
			for i := range rounds {
				a := one(fmt.Sprintf("w%d", w), fmt.Sprint(i%3), "T", 1+i%4)
				if _, err := app.Append(ctx, a); err != nil {
					t.Errorf("writer %d, round %d: %v", w, i, err)
					return
				}
			}
			for won := 0; won < shared; {
				err := appendToShared(ctx, app)
				switch {
				case err == nil:
					won++
				case !errors.Is(err, eventlog.ErrConflict):
					t.Errorf("writer %d: shared stream: %v", w, err)
					return
				}
			}
		})
	}
	appenders.Wait()
	close(done)
	readers.Wait()

	seen := 0
	versions := map[eventlog.StreamRef]int64{}
	for p, events := range tailed {
		seen += len(events)
		for i, e := range events {
			if i > 0 && e.Position <= events[i-1].Position {
				t.Errorf("partition %d: %v follows %v", p, e.Position, events[i-1].Position)
			}
			r := eventlog.StreamRef{Tenant: e.Tenant, Stream: e.Stream}
			if e.Version != versions[r]+1 {
				t.Errorf("stream %v: version %d follows %d: the tail missed or reordered events", r, e.Version, versions[r])
			}
			versions[r] = e.Version
		}
		if want := t.events(eventlog.ReadRequest{Partition: p}); !slices.Equal(brief(events), brief(want)) {
			t.Errorf("partition %d: the tail saw %d events, the log has %d, or in another order", p, len(events), len(want))
		}
	}
	if seen != total {
		t.Errorf("the tails saw %d events, want %d", seen, total)
	}
	for r, want := range streams {
		if got := t.versions(r)[0]; got != want || versions[r] != want {
			t.Errorf("stream %v has version %d, the tail saw up to %d, want %d", r, got, versions[r], want)
		}
	}
}

// appendToShared appends one event by exact version, or returns the conflict.
func appendToShared(ctx context.Context, app eventlog.Appender) error {
	v, err := app.Versions(ctx, eventlog.StreamRef{Tenant: "shared", Stream: "s"})
	if err != nil {
		return err
	}
	_, err = app.Append(ctx, expect(one("shared", "s", "T", 1), eventlog.ExactVersion(v[0])))
	return err
}

// tail reads a partition as a lane does, in small pages, until all is written
// and read.
func tail(ctx context.Context, log eventlog.Log, p int, done <-chan struct{}) ([]event.Event, error) {
	var events []event.Event
	after := event.Beginning
	for {
		last := false
		select {
		case <-done:
			last = true
		default:
		}
		page, err := log.Read(ctx, eventlog.ReadRequest{Partition: p, After: after, MaxEvents: 7})
		if err != nil {
			return events, err
		}
		events = append(events, page.Events...)
		after = page.Next
		if page.Next < page.Head {
			continue
		}
		if last {
			return events, nil
		}
		// The wait is short, because nothing may come any more.
		wait, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
		err = log.Wait(wait, p, after)
		cancel()
		if err != nil && !errors.Is(err, context.DeadlineExceeded) {
			return events, err
		}
		if ctx.Err() != nil {
			return events, ctx.Err()
		}
	}
}
