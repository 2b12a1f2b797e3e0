package engine

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-dev/fairlead/internal/lane"
	"github.com/fairlead-dev/fairlead/store"
)

// TestRestsByWhatLiveCommitsLeave: where batches of a rebuild make more than a few live
// commits slow, it rests longer, down to a floor; where they do not, three quarters of
// the time.
func TestRestsByWhatLiveCommitsLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &gently{turn: make(chan struct{}, 1)}
		const took = 4 * time.Millisecond
		if got := g.resting(took); got != restToBegin*took {
			t.Errorf("at first it rests for %v, want %v", got, restToBegin*took)
		}
		live := func(n, slowOf int, alone bool) {
			for i := range n {
				time.Sleep(5 * time.Millisecond)
				if i%50 == 0 {
					g.resting(took) // it is at work
				}
				d := 3*time.Millisecond + time.Duration(i%10)*100*time.Microsecond
				if slowOf > 0 && i%slowOf == 0 {
					d = 30 * time.Millisecond
				}
				g.pace(d, alone)
			}
		}
		live(5000, 0, true)
		if g.usual < 3800*time.Microsecond || g.usual > 4500*time.Microsecond {
			t.Errorf("99 in 100 take %v, want nearly 3.9 ms", g.usual)
		}
		if got := g.resting(took); got != restLeast*took {
			t.Errorf("nothing is slow: it rests for %v, want %v", got, restLeast*took)
		}
		live(2000, 400, false) // fewer than may be
		if got := g.resting(took); got > 2*restLeast*took {
			t.Errorf("one in 400 is slow: it rests for %v, want %v at most", got, 2*restLeast*took)
		}
		live(2000, 50, false)
		if got := g.resting(took); got < restMost*took/2 || got > restMost*took {
			t.Errorf("one in 50 is slow: it rests for %v, want nearly %v", got, restMost*took)
		}
		if got := g.resting(time.Second); got != restAtMost {
			t.Errorf("after a batch of a second it rests for %v, want %v", got, restAtMost)
		}
		if g.most() != gentleLeast {
			t.Errorf("batches have up to %d documents, want %d", g.most(), gentleLeast)
		}
		live(4000, 0, false)
		if got := g.resting(took); got != restLeast*took {
			t.Errorf("nothing is slow any more: it rests for %v, want %v", got, restLeast*took)
		}
		was := g.rest
		time.Sleep(2 * trafficLasts)
		g.pace(time.Second, false) // no rebuild is at work
		if g.rest != was {
			t.Error("it learns from what it has no part in")
		}
		g.others.Store(3)
		if got := g.resting(took); got != 4*(1+restLeast)*took-took {
			t.Errorf("four processes rebuild: each rests for %v, want %v", got, 4*(1+restLeast)*took-took)
		}
	})
}

func TestBuilders(t *testing.T) {
	v := &view{procs: []store.Processor{{Name: "p", Live: 1, Rebuild: 2}, {Name: "q", Live: 1}}, members: []store.Member{{ID: "a"}, {ID: "b"}, {ID: "c"}}}
	for i, owner := range []string{"a", "b", "b", "dead", "c"} {
		l := store.Lane{LaneID: store.LaneID{Build: store.Build{Processor: "p", Number: 2}, Partition: i}, Owner: owner}
		if owner == "c" {
			l.Number = 1
		}
		v.lanes = append(v.lanes, l)
	}
	for id, want := range map[string]int{"a": 1, "b": 1, "c": 2} {
		if got := builders(v, id); got != want {
			t.Errorf("beside %s %d others rebuild, want %d", id, got, want)
		}
	}
}

// A setBackStore is a store whose machine crashes: of its lazy commits some of the last
// are undone, each whole and with all that came after.
type setBackStore struct {
	*busyStore
	t *testing.T

	turn   chan struct{}
	row    store.Lane // as they were, from which on they are undone
	docs   []store.Document
	from   int // the lazy commit before which that was
	lazy   int
	undone int
	eager  []string // commits with documents that were not lazy and might have been, or lazy and must not be
}

const undoAfter = 3 // lazy commits

func (s *setBackStore) Commit(ctx context.Context, c *store.Commit) error {
	s.turn <- struct{}{} // time is to pass for who waits
	defer func() { <-s.turn }()
	plain := c.Lane.Number != s.live && c.Position > c.Fence.Position && len(c.Writes) > 0 && len(c.Letters)+len(c.Remove)+len(c.Detach)+len(c.Forget) == 0
	if c.Lazy != plain {
		s.eager = append(s.eager, fmt.Sprintf("%v at %v: lazy: %v", c.Lane, c.Position, c.Lazy))
	}
	if !c.Lazy {
		return s.busyStore.Commit(ctx, c)
	}
	s.lazy++
	switch {
	case s.lazy%20 == 10:
		s.from = s.lazy
		s.row, s.docs = s.read(ctx, c.Lane)
	case s.from > 0 && s.lazy == s.from+undoAfter:
		s.undo(ctx, c.Lane)
	}
	return s.busyStore.Commit(ctx, c)
}

func (s *setBackStore) read(ctx context.Context, id store.LaneID) (row store.Lane, docs []store.Document) {
	err := s.View(ctx, func(tx store.Tx) (err error) {
		row, err = tx.Lane(id)
		return err
	})
	if err == nil {
		docs, err = s.ListBuild(ctx, id.Build, store.Key{}, 100_000)
	}
	if err != nil {
		s.t.Error(err)
	}
	return row, docs
}

// undo makes the lane and its documents what they were.
func (s *setBackStore) undo(ctx context.Context, id store.LaneID) {
	now, docs := s.read(ctx, id)
	if now.Epoch != s.row.Epoch || now.Revision != s.row.Revision { // that was no lazy commit, and has made all before it safe
		return
	}
	old := map[store.Key]store.Document{}
	for _, d := range s.docs {
		old[d.Key] = d
	}
	c := &store.Commit{Lane: id, Fence: store.Fence{Epoch: s.row.Epoch, Position: s.row.Position, Revision: s.row.Revision}, Position: s.row.Position}
	for _, d := range docs {
		if was, ok := old[d.Key]; !ok {
			c.Writes = append(c.Writes, store.Write{Document: store.Document{Key: d.Key}, Delete: true})
		} else if was.Version != d.Version {
			c.Writes = append(c.Writes, store.Write{Document: was})
		}
	}
	err := s.Update(ctx, func(tx store.Tx) error { return tx.PutLane(s.row) })
	if err == nil {
		err = s.Store.Commit(ctx, c)
	}
	if err != nil {
		s.t.Error(err)
	}
	s.undone++
}

// TestLazyCommitsAreUndone: the plain commits of a rebuild are lazy and no others. When
// the store's machine crashes and some of them are undone, the rebuild begins where its
// row is then, with the documents as they are then.
func TestLazyCommitsAreUndone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		st := &setBackStore{turn: make(chan struct{}, 1), busyStore: &busyStore{Store: r.st, writer: make(chan struct{}, 1), live: 1}, t: t}
		e, err := New(Config{Log: r.log, Store: st, Name: "a"})
		if err != nil {
			t.Fatal(err)
		}
		if err := e.Add(t.Context(), Processor{Projection: tallies("docs", true), Name: "docs"}); err != nil {
			t.Fatal(err)
		}
		r.e = e
		r.backlog(60_000, 20_000) // in the last third, what is not written then is never written
		stop := r.run(e)
		defer stop()
		time.Sleep(time.Minute)
		if err := lane.StartRebuild(t.Context(), r.st, "docs", "", lane.How{Review: true}); err != nil {
			t.Fatal(err)
		}
		for range 500 { // so it goes gently
			r.append("live", "s", added{Doc: "live"})
			time.Sleep(20 * time.Millisecond)
		}
		time.Sleep(time.Minute)
		built := func(n int64) map[store.Key]string {
			docs, err := r.st.ListBuild(t.Context(), store.Build{Processor: "docs", Number: n}, store.Key{}, 100_000)
			if err != nil {
				t.Fatal(err)
			}
			all := map[store.Key]string{}
			for _, d := range docs {
				all[d.Key] = fmt.Sprint(d.Version, " ", string(d.Data))
			}
			return all
		}
		live, made := built(1), built(2)
		if len(live) < 20_000 || !maps.Equal(live, made) {
			n := 0
			for _, k := range slices.SortedFunc(maps.Keys(live), func(a, b store.Key) int { return compareStrings(a.ID, b.ID) }) {
				if live[k] != made[k] {
					if n++; n < 5 {
						t.Errorf("%v is %s after the crashes, want %s", k, made[k], live[k])
					}
				}
			}
			t.Errorf("%d of %d documents differ", n, len(live))
		}
		st.turn <- struct{}{}
		defer func() { <-st.turn }()
		if st.undone < 5 {
			t.Errorf("of %d lazy commits some were undone %d times: nothing is tested", st.lazy, st.undone)
		}
		if len(st.eager) > 0 {
			t.Errorf("%d commits, first %s", len(st.eager), st.eager[0])
		}
	})
}
