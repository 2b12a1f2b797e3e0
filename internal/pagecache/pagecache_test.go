package pagecache_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/internal/pagecache"
)

func page(from, to event.Position) eventlog.Page {
	p := eventlog.Page{Next: to}
	for at := from; at <= to; at++ {
		p.Events = append(p.Events, event.Event{Position: at, ID: "e", Data: make([]byte, 100)})
	}
	return p
}

func anything(bool) bool { return true }

func none(t *testing.T) func() (eventlog.Page, bool, error) {
	return func() (eventlog.Page, bool, error) {
		t.Helper()
		t.Error("read again")
		return eventlog.Page{}, false, nil
	}
}

func loads(p eventlog.Page, what bool) func() (eventlog.Page, bool, error) {
	return func() (eventlog.Page, bool, error) { return p, what, nil }
}

func TestKeptPageServesWhatFollows(t *testing.T) {
	ctx, c := t.Context(), pagecache.New[bool](1<<20)
	if _, err := c.Read(ctx, 0, 10, anything, loads(page(11, 20), true)); err != nil {
		t.Fatal(err)
	}
	for _, after := range []event.Position{10, 15, 19} {
		p, err := c.Read(ctx, 0, after, func(what bool) bool { return what }, none(t))
		if err != nil || p.Next != 20 || len(p.Events) != int(20-after) || p.Events[0].Position != after+1 {
			t.Errorf("after %d: %d events, next %d, %v", after, len(p.Events), p.Next, err)
		}
	}
	for _, x := range []struct {
		name      string
		partition int
		after     event.Position
		fits      bool
	}{{"after its end", 0, 20, true}, {"before it", 0, 9, true}, {"other partition", 1, 10, true}, {"does not fit", 0, 12, false}} {
		read := false
		_, err := c.Read(ctx, x.partition, x.after, func(bool) bool { return x.fits }, func() (eventlog.Page, bool, error) {
			read = true
			return eventlog.Page{Next: x.after}, false, nil
		})
		if err != nil || !read {
			t.Errorf("%s: served from the cache (%v)", x.name, err)
		}
	}
}

func TestLimit(t *testing.T) {
	one := page(1, 10)
	size := 0
	for i := range one.Events {
		size += one.Events[i].Size()
	}
	ctx, c := t.Context(), pagecache.New[bool](2*size)
	for n := range event.Position(3) {
		if _, err := c.Read(ctx, 0, n*10, anything, loads(page(n*10+1, n*10+10), true)); err != nil {
			t.Fatal(err)
		}
	}
	for _, after := range []event.Position{10, 20} {
		if _, err := c.Read(ctx, 0, after, anything, none(t)); err != nil {
			t.Fatal(err)
		}
	}
	read := false
	_, _ = c.Read(ctx, 0, 0, anything, func() (eventlog.Page, bool, error) { read = true; return page(1, 10), true, nil })
	if !read {
		t.Error("the oldest page is kept beyond the limit")
	}
}

func TestOneReadsForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := pagecache.New[bool](1 << 20)
		var reads atomic.Int32
		release := make(chan struct{})
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				p, err := c.Read(t.Context(), 0, 0, anything, func() (eventlog.Page, bool, error) {
					reads.Add(1)
					<-release
					return page(1, 5), true, nil
				})
				if err != nil || len(p.Events) != 5 {
					t.Errorf("%d events, %v", len(p.Events), err)
				}
			})
		}
		synctest.Wait()
		impatient, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := c.Read(impatient, 0, 0, anything, none(t)); !errors.Is(err, context.Canceled) {
			t.Errorf("wait was not given up: %v", err)
		}
		close(release)
		all.Wait()
		if n := reads.Load(); n != 1 {
			t.Errorf("%d reads", n)
		}
	})
}

func TestErrorIsNotKept(t *testing.T) {
	ctx, c, down := t.Context(), pagecache.New[bool](1<<20), errors.New("down")
	if _, err := c.Read(ctx, 0, 0, anything, func() (eventlog.Page, bool, error) { return eventlog.Page{}, false, down }); !errors.Is(err, down) {
		t.Fatal(err)
	}
	if p, err := c.Read(ctx, 0, 0, anything, loads(page(1, 5), true)); err != nil || len(p.Events) != 5 {
		t.Errorf("after an error: %d events, %v", len(p.Events), err)
	}
}
