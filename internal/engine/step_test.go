package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/store"
)

// A slowStore takes time for a commit, as one that has others to serve does. It
// fails the commits that it is told to, before their effect.
type slowStore struct {
	store.Store
	takes   time.Duration
	fails   func(n int64) bool
	commits atomic.Int64
	writes  atomic.Int64
	most    atomic.Int64 // documents of a commit
}

func (s *slowStore) Commit(ctx context.Context, c *store.Commit) error {
	time.Sleep(s.takes)
	if n := s.commits.Add(1); s.fails != nil && s.fails(n) {
		return errors.New("told to fail")
	}
	s.writes.Add(int64(len(c.Writes)))
	s.most.Store(max(s.most.Load(), int64(len(c.Writes))))
	return s.Store.Commit(ctx, c)
}

// backlog appends events of n hot documents (-1: each of 16 events, and at last of one), and returns the token of the last
// and what a document must come to.
func (r *rig) backlog(events, n int) (eventlog.Token, map[string]tally) {
	want := map[string]tally{}
	var tok eventlog.Token
	for i := 0; i < events; {
		stream, some := fmt.Sprint("s", i), make([]added, 0, 500)
		for ; len(some) < cap(some) && i < events; i++ {
			doc := fmt.Sprint("d", i%max(n, 1))
			if hot := 14 * pageEvents; n < 0 && i < hot { // one of 16 is new
				doc = fmt.Sprint("d", i/16)
			} else if n < 0 {
				doc = fmt.Sprint("new", i)
			}
			some = append(some, added{N: i + 1, Doc: doc})
			w := want[doc]
			w.N, w.Sum, w.Last = w.N+1, w.Sum*31+uint64(i+1), int64(len(some))
			want[doc] = w
		}
		tok = r.append("t", stream, some...)
	}
	return tok, want
}

// While the store is busy, batches grow, so that hot documents are written less
// often; and whatever fails meanwhile, each event counts once.
func TestBatchGrowsWhileTheStoreIsBusy(t *testing.T) {
	for _, tt := range []struct {
		name   string
		fails  func(n int64) bool
		writes int64 // at most, of each document
	}{
		{"all well", nil, 4},
		{"every third commit fails", func(n int64) bool { return n%3 == 0 }, 6},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const docs = 10
				r, p := newRig(t), tallies("docs", true)
				st := &slowStore{Store: r.st, takes: time.Second, fails: tt.fails}
				r.over(r.log, st)
				r.add(Processor{Projection: p, Name: "docs", NoIsolation: true})
				tok, want := r.backlog(8*pageEvents, docs)
				defer r.run(r.e)()
				r.wait("docs", tok)
				for doc, w := range want {
					if got := r.get(p, "t", doc); got != w {
						t.Errorf("document %s = %+v, want %+v", doc, got, w)
					}
				}
				if got := st.writes.Load(); got > tt.writes*docs {
					t.Errorf("%d documents of %d pages were written %d times, want at most %d", docs, 8, got, tt.writes*docs)
				}
			})
		})
	}
}

// A commit holds the store for no longer than one of a page: it has as many
// documents at most, however much the batch has grown.
func TestGrownBatchHasNoMoreDocumentsThanAPage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, p := newRig(t), tallies("docs", true)
		st := &slowStore{Store: r.st, takes: time.Second}
		r.over(r.log, st)
		r.add(Processor{Projection: p, Name: "docs", NoIsolation: true})
		tok, _ := r.backlog(6*pageEvents, 4*pageEvents)
		defer r.run(r.e)()
		r.wait("docs", tok)
		if got := st.most.Load(); got > pageEvents || got < pageEvents/2 {
			t.Errorf("a commit has %d documents, want at most %d, and nearly as many", got, pageEvents)
		}
	})
}

// A lane that catches up writes hot documents once for many pages, however fast the
// store is, but not many more documents at once than a page has.
func TestCatchUpSavesWrites(t *testing.T) {
	for _, tt := range []struct {
		name         string
		events, docs int
		most         int64 // commits
	}{
		{"hot documents", 20 * pageEvents, 1000, 6},
		{"each document once", 8 * pageEvents, 8 * pageEvents, 16},
		{"some documents hot, then all new", 20 * pageEvents, -1, 12},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, p := newRig(t), tallies("docs", true)
				st := &slowStore{Store: r.st}
				r.over(r.log, st)
				r.add(Processor{Projection: p, Name: "docs", NoIsolation: true})
				tok, want := r.backlog(tt.events, tt.docs)
				defer r.run(r.e)()
				r.wait("docs", tok)
				for doc, w := range want {
					if got := r.get(p, "t", doc); got != w {
						t.Errorf("document %s = %+v, want %+v", doc, got, w)
					}
				}
				if n := st.commits.Load(); n > tt.most {
					t.Errorf("%d commits with %d writes, want at most %d", n, st.writes.Load(), tt.most)
				}
				if n := st.most.Load(); n > pageEvents*3/2 {
					t.Errorf("a commit has %d documents, want at most %d", n, pageEvents*3/2)
				}
			})
		})
	}
}

// A batch does not wait for a page once it could be committed, but for a moment where
// that saves writes.
func TestGrowingBatchDoesNotWaitForTheLog(t *testing.T) {
	for _, tt := range []struct {
		name            string
		commits, within time.Duration
		gives, behind   event.Position // by the log
	}{
		{"the store is slow", time.Second, 4500 * time.Millisecond, 2 * pageEvents, 2 * pageEvents},
		{"the lane is far behind", 0, 110 * time.Millisecond, 2 * pageEvents, 2 * pageEvents},
		{"the lane is near the head", 0, 10 * time.Millisecond, pageEvents / 4, 2 * pageEvents},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, p := newRig(t), tallies("docs", true)
				log := &stuckLog{Log: r.log, after: tt.gives, takes: time.Hour, behind: tt.behind}
				r.over(log, &slowStore{Store: r.st, takes: tt.commits})
				r.add(Processor{Projection: p, Name: "docs", NoIsolation: true})
				r.backlog(4*pageEvents, 1)
				defer r.run(r.e)()
				time.Sleep(tt.within)
				if at := r.lanes("docs")[0].Position; at < log.after {
					t.Errorf("after %v the lane has committed up to %v, want the %v that the log has given", tt.within, at, log.after)
				}
			})
		})
	}
}

// A stuckLog takes long for what is after a position.
type stuckLog struct {
	eventlog.Log
	after  event.Position
	behind event.Position // that it says to have beyond
	takes  time.Duration
}

func (s *stuckLog) Read(ctx context.Context, req eventlog.ReadRequest) (eventlog.Page, error) {
	if req.After < s.after {
		if req.Until == 0 || req.Until > s.after {
			req.Until = s.after
		}
		page, err := s.Log.Read(ctx, req)
		page.Head = s.after + s.behind
		return page, err
	}
	select {
	case <-time.After(s.takes):
	case <-ctx.Done():
		return eventlog.Page{}, ctx.Err()
	}
	return s.Log.Read(ctx, req)
}

// A slowLog takes time for each page.
type slowLog struct {
	eventlog.Log
	takes time.Duration
}

func (s *slowLog) Read(ctx context.Context, req eventlog.ReadRequest) (eventlog.Page, error) {
	page, err := s.Log.Read(ctx, req)
	time.Sleep(s.takes)
	return page, err
}

// A lane that catches up on a slow log commits all the same every now and then, and tells
// of a commit when it has ended.
func TestCatchUpCommitsInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const takes = 30 * time.Millisecond
		r, p := newRig(t), tallies("docs", true)
		st := &toldStore{Store: r.st, takes: 2 * time.Millisecond}
		r.over(&slowLog{r.log, takes}, st)
		r.add(Processor{Projection: p, Name: "docs", NoIsolation: true})
		tok, _ := r.backlog(40*pageEvents, 10)
		defer r.run(r.e)()
		began, told, late := time.Now(), event.Position(0), time.Duration(0)
		for told < tok.Position {
			time.Sleep(time.Millisecond)
			stats, err := r.e.Stats("docs")
			if err != nil {
				t.Fatal(err)
			}
			told = event.Position(stats.Events)
			if at, since := st.last(); told < at {
				late = max(late, time.Since(since))
			}
		}
		if late > takes+5*time.Millisecond {
			t.Errorf("a commit was told of %v after its end, want %v at most, which a page takes", late, takes)
		}
		if most := growAtMost + 2*takes; st.gap > most {
			t.Errorf("from one commit to the next it took %v, want at most %v", st.gap, most)
		}
		t.Logf("%d commits in %v, at most %v from one to the next, told of after %v", st.n, time.Since(began), st.gap, late)
	})
}

// A toldStore knows when commits have ended.
type toldStore struct {
	store.Store
	takes time.Duration

	mu    sync.Mutex
	n     int
	at    event.Position
	ended time.Time
	gap   time.Duration
}

func (s *toldStore) last() (event.Position, time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.at, s.ended
}

func (s *toldStore) Commit(ctx context.Context, c *store.Commit) error {
	time.Sleep(s.takes)
	err := s.Store.Commit(ctx, c)
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := time.Now(); err == nil {
		if s.n++; s.n > 2 { // of the first ones nothing is known
			s.gap = max(s.gap, now.Sub(s.ended))
		}
		s.at, s.ended = c.Position, now
	}
	return err
}

// A sparseLog is one whose positions are far apart, as those of a sequence that others use too.
type sparseLog struct {
	eventlog.Log
	apart event.Position
	takes time.Duration // from the reading of a page to the answer
}

func (s *sparseLog) Read(ctx context.Context, req eventlog.ReadRequest) (eventlog.Page, error) {
	after := req.After
	req.After, req.Until = req.After/s.apart, req.Until/s.apart
	page, err := s.Log.Read(ctx, req)
	page.Events = slices.Clone(page.Events)
	for i := range page.Events {
		page.Events[i].Position *= s.apart
	}
	page.Next, page.Head = max(after, page.Next*s.apart), page.Head*s.apart
	time.Sleep(s.takes)
	return page, err
}

func (s *sparseLog) Head(ctx context.Context, partition int) (event.Position, error) {
	head, err := s.Log.Head(ctx, partition)
	return head * s.apart, err
}

func (s *sparseLog) Wait(ctx context.Context, partition int, after event.Position) error {
	return s.Log.Wait(ctx, partition, after/s.apart)
}

// A lane near the head does not take itself for one that catches up where positions are far
// apart: it commits at once.
func TestNearTheHeadOfASparseLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		st := &toldStore{Store: r.st, takes: 3 * time.Millisecond}
		log := &sparseLog{r.log, 2 * pageEvents, 2 * time.Millisecond}
		r.over(log, st)
		for _, name := range []string{"a", "b"} { // who read together know of a newer head
			r.add(Processor{Projection: tallies(name, true), Name: name, NoIsolation: true})
		}
		defer r.run(r.e)()
		var worst time.Duration
		for i := range 500 {
			time.Sleep(time.Millisecond)
			r.append("t", fmt.Sprint("s", i), added{N: i + 1, Doc: fmt.Sprint("d", i%10)})
			if at, ended := st.last(); i > 100 && at < event.Position(i-50)*log.apart {
				worst = max(worst, time.Since(ended))
			}
		}
		if worst > 0 {
			t.Errorf("events were not visible after 50 ms, the last commit was %v ago", worst)
		}
	})
}

// A barredLog has a barrier, of which is known once what is behind it has been read.
type barredLog struct {
	eventlog.Log
	at    event.Position
	known atomic.Bool
}

func (s *barredLog) Read(ctx context.Context, req eventlog.ReadRequest) (eventlog.Page, error) {
	if req.After < s.at && (req.Until == 0 || req.Until > s.at) {
		req.Until = s.at
	}
	head, err := s.Head(ctx, req.Partition)
	if err != nil {
		return eventlog.Page{}, err
	}
	page, err := s.Log.Read(ctx, req)
	page.Head = head
	if req.After >= s.at {
		s.known.Store(true)
	}
	return page, err
}

func (s *barredLog) Barrier(_ int, at event.Position) *eventlog.Barrier {
	if at != s.at || !s.known.Load() {
		return nil
	}
	return &eventlog.Barrier{Tenant: "t", Alone: true, After: map[int]event.Position{0: s.at}}
}

func (s *barredLog) Moved(string) bool { return true }

// A batch that grows ends where a barrier stands, of which is known only as the page behind it
// has been read: what comes before is committed first.
func TestGrowingBatchEndsAtABarrier(t *testing.T) {
	for _, takes := range []time.Duration{0, time.Second} {
		t.Run(takes.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, p := newRig(t), tallies("docs", true)
				log := &barredLog{Log: r.log, at: 3*pageEvents + 7}
				var over atomic.Int64
				r.over(log, &spanStore{&slowStore{Store: r.st, takes: takes}, log.at, &over})
				r.add(Processor{Projection: p, Name: "docs", NoIsolation: true})
				tok, want := r.backlog(8*pageEvents, 10)
				defer r.run(r.e)()
				r.wait("docs", tok)
				for doc, w := range want {
					if got := r.get(p, "t", doc); got != w {
						t.Errorf("document %s = %+v, want %+v", doc, got, w)
					}
				}
				if n := over.Load(); n > 0 {
					t.Errorf("%d commits have events from before and from behind the barrier", n)
				}
			})
		})
	}
}

// A spanStore counts commits that go over a position.
type spanStore struct {
	store.Store
	at   event.Position
	over *atomic.Int64
}

func (s *spanStore) Commit(ctx context.Context, c *store.Commit) error {
	if c.Fence.Position < s.at && c.Position > s.at {
		s.over.Add(1)
	}
	return s.Store.Commit(ctx, c)
}
