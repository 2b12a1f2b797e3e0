package engine

import (
	"context"
	"errors"
	"fmt"
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

// backlog appends events of n hot documents, and returns the token of the last
// and what a document must come to.
func (r *rig) backlog(events, n int) (eventlog.Token, map[string]tally) {
	want := map[string]tally{}
	var tok eventlog.Token
	for i := 0; i < events; {
		stream, some := fmt.Sprint("s", i), make([]added, 0, 500)
		for ; len(some) < cap(some) && i < events; i++ {
			doc := fmt.Sprint("d", i%n)
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
// store is, but not more documents at once than a page has.
func TestCatchUpSavesWrites(t *testing.T) {
	for _, tt := range []struct {
		name         string
		events, docs int
		least, most  int64 // commits
	}{
		{"hot documents", 20 * pageEvents, 1000, 0, 6},
		{"each document once", 8 * pageEvents, 8 * pageEvents, 8, 16},
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
				if n := st.commits.Load(); n < tt.least || n > tt.most {
					t.Errorf("%d commits with %d writes, want %d to %d", n, st.writes.Load(), tt.least, tt.most)
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
		behind          event.Position
	}{
		{"the store is slow", time.Second, 4500 * time.Millisecond, 2 * pageEvents},
		{"the lane is far behind", 0, growAtMost + 10*time.Millisecond, 2 * pageEvents},
		{"the lane is near the head", 0, 10 * time.Millisecond, 10},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, p := newRig(t), tallies("docs", true)
				log := &stuckLog{Log: r.log, after: 2 * pageEvents, takes: time.Hour, behind: tt.behind}
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
