package engine

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-dev/fairlead/internal/lane"
	"github.com/fairlead-dev/fairlead/store"
)

// A busyStore takes time for a commit, and has one writer at a time, so that
// commits of a rebuild are in the way of live ones.
type busyStore struct {
	store.Store
	writer chan struct{}
	live   int64 // the build that is live

	mu   sync.Mutex
	late []time.Duration // of live commits, from the append of their last event
	docs []int           // written by each commit of another build
}

func (s *busyStore) Commit(ctx context.Context, c *store.Commit) error {
	s.writer <- struct{}{}
	defer func() { <-s.writer }()
	time.Sleep(2*time.Millisecond + time.Duration(len(c.Writes))*20*time.Microsecond)
	err := s.Store.Commit(ctx, c)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case err != nil || len(c.Writes) == 0:
	case c.Lane.Number == s.live:
		s.late = append(s.late, time.Since(c.AppliedAt))
	default:
		s.docs = append(s.docs, len(c.Writes))
	}
	return err
}

func p99(late []time.Duration) time.Duration {
	late = slices.Clone(late)
	slices.Sort(late)
	return late[len(late)*99/100]
}

// Beside a rebuild a live commit waits for a small one of its at the most, on a
// store with one writer: half as long again as its own. And it makes progress.
func TestRebuildMakesWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		st := &busyStore{Store: r.st, writer: make(chan struct{}, 1), live: 1}
		e, err := New(Config{Log: r.log, Store: st, Name: "a"})
		if err != nil {
			t.Fatal(err)
		}
		p := tallies("docs", true)
		if err := e.Add(t.Context(), Processor{Projection: p, Name: "docs"}); err != nil {
			t.Fatal(err)
		}
		r.e = e
		r.backlog(60_000, 20_000)
		stop := r.run(e)
		defer stop()
		time.Sleep(time.Minute) // so it has caught up
		measure := func() (p time.Duration) {
			st.mu.Lock()
			st.late = st.late[:0]
			st.mu.Unlock()
			for range 300 {
				r.append("live", "s", added{Doc: "live"})
				time.Sleep(20 * time.Millisecond)
			}
			st.mu.Lock()
			defer st.mu.Unlock()
			return p99(st.late)
		}
		alone := measure()
		if err := lane.StartRebuild(t.Context(), r.st, "docs", "", lane.How{Review: true}); err != nil {
			t.Fatal(err)
		}
		beside := measure()
		var at store.Lane
		for _, l := range r.lanes("docs") {
			if l.Number == 2 {
				at = l
			}
		}
		st.mu.Lock()
		most := slices.Max(st.docs)
		st.mu.Unlock()
		t.Logf("live P99 %v alone, %v beside the rebuild, which is at %v after 6 s; its commits had up to %d documents", alone, beside, at.Position, most)
		if beside > 5*alone/2+time.Millisecond/2 {
			t.Errorf("live P99 is %v beside a rebuild, and %v without", beside, alone)
		}
		if at.Position < 15_000 {
			t.Errorf("the rebuild is at %v after 6 s, want at least a quarter of it", at.Position)
		}
		if most > gentleDocs {
			t.Errorf("a commit of the rebuild had %d documents, want at most %d", most, gentleDocs)
		}
	})
}

// A limit holds for all lanes of the build together, whoever works them, and can
// be changed meanwhile.
func TestRebuildKeepsToItsLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		p := tallies("docs", false)
		b := r.engine("b")
		for _, e := range []*Engine{r.e, b} {
			if err := e.Add(t.Context(), Processor{Projection: p, Name: "docs", Partitions: 4}); err != nil {
				t.Fatal(err)
			}
			stop := r.run(e)
			defer stop()
		}
		for range 20 {
			for _, s := range []string{"a", "b", "c", "d", "e", "f", "g", "h"} {
				r.append("t", s, make([]added, 125)...)
			}
		}
		time.Sleep(time.Minute)
		done := func() (n int) {
			docs, err := r.st.ListBuild(t.Context(), store.Build{Processor: "docs", Number: 2}, store.Key{}, 1000)
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range docs {
				n += int(d.Version)
			}
			return n
		}
		if err := lane.StartRebuild(t.Context(), r.st, "docs", "", lane.How{Limit: 100, Review: true}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Second)
		if n := done(); n < 1000 || n > 2100 {
			t.Errorf("%d events in 20 s, want no more than 100 a second, and not much less", n)
		}
		if err := lane.Limit(t.Context(), r.st, "docs", 1000); err != nil {
			t.Fatal(err)
		}
		was := done()
		time.Sleep(5 * time.Second)
		if n := done() - was; n < 2500 || n > 5200 {
			t.Errorf("%d events in 5 s, want no more than 1,000 a second, and not much less", n)
		}
		if err := lane.Limit(t.Context(), r.st, "docs", 0); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		if n := done(); n != 20_000 {
			t.Errorf("%d events without a limit, want all 20,000", n)
		}
	})
}

// Of slots, a rebuild gets what live lanes leave, and the floor.
func TestRebuildTakesTheSlotsThatAreLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ts := newTurns(1)
		p, err := Processor{Name: "p", React: func(context.Context, Delivery) error { return nil }}.WithDefaults()
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var all, rebuilt atomic.Int64
		var wg sync.WaitGroup
		for _, rebuild := range []bool{true, true, true, false, false} {
			wg.Go(func() {
				for ctx.Err() == nil {
					done, err := ts.take(ctx, &p, "", time.Now(), rebuild)
					if err != nil {
						return
					}
					if all.Add(1); rebuild {
						rebuilt.Add(1)
					}
					time.Sleep(time.Millisecond)
					done(1)
				}
			})
		}
		time.Sleep(2 * time.Second)
		cancel()
		wg.Wait()
		if n := rebuilt.Load(); n < 80 || n > 120 {
			t.Errorf("a rebuild had %d of %d slots beside live lanes that always wait, want about one in twenty", n, all.Load())
		}
	})
}
