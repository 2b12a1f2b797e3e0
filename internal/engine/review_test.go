package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/eventlog/memlog"
	"github.com/fairlead-dev/fairlead/internal/lane"
	"github.com/fairlead-dev/fairlead/projection"
	"github.com/fairlead-dev/fairlead/slo"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/fairlead-dev/fairlead/store/memstore"
)

// A changedLog hands out events other than they were appended.
type changedLog struct {
	eventlog.Log
	change func(*event.Event)
}

func (c *changedLog) Read(ctx context.Context, req eventlog.ReadRequest) (eventlog.Page, error) {
	page, err := c.Log.Read(ctx, req)
	page.Events = slices.Clone(page.Events)
	for i := range page.Events {
		c.change(&page.Events[i])
	}
	return page, err
}

// countedStore counts transactions.
type countedStore struct {
	store.Store
	views, updates atomic.Int64
}

func (c *countedStore) View(ctx context.Context, f func(store.Tx) error) error {
	c.views.Add(1)
	return c.Store.View(ctx, f)
}

func (c *countedStore) Update(ctx context.Context, f func(store.Tx) error) error {
	c.updates.Add(1)
	return c.Store.Update(ctx, f)
}

func (r *rig) over(log eventlog.Log, st store.Store) {
	r.t.Helper()
	e, err := New(Config{Log: log, Store: st, Name: "a"})
	if err != nil {
		r.t.Fatal(err)
	}
	r.e = e
}

// The poison is the first event after the checkpoint: no batch comes before the
// stop. Not in a synctest bubble, where a lane that spins would hang the test.
func TestStopRightAtTheCheckpoint(t *testing.T) {
	r := newRig(t)
	r.add(Processor{Projection: tallies("docs", true), Name: "docs", Poison: StopLane})
	defer r.run(r.e)()
	r.append("t", "s", added{Doc: "bad", Fail: true})
	for range 200 {
		if l, _ := r.laneOf("docs", ""); l.State == store.Paused {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Error("the lane does not stop")
}

func TestEveryEventOfALogWithPartitions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &rig{t: t, log: memlog.New(memlog.WithPartitions(3)), st: memstore.New()}
		r.e = r.engine("a")
		p := tallies("streams", false)
		r.add(Processor{Projection: p, Name: "streams"})
		defer r.run(r.e)()
		for i := range 60 {
			r.append("t", fmt.Sprintf("s%d", i%20), added{})
		}
		time.Sleep(5 * time.Second)
		for i := range 20 {
			if got := r.get(p, "t", fmt.Sprintf("s%d", i)).N; got != 3 {
				t.Errorf("stream s%d has %d events, want 3", i, got)
			}
		}
	})
}

func TestDocumentsThatPartitionsMayShareAreRefused(t *testing.T) {
	byStream := func(e *event.Event) string { return e.Stream }
	byTenant := func(e *event.Event) string { return e.Tenant }
	nothing := func(context.Context, any, []event.Event) error { return nil }
	for _, c := range []struct {
		name  string
		parts int // of the log
		p     Processor
		want  bool // refused
	}{
		{"own documents, log with partitions", 3, Processor{Projection: tallies("x", true)}, true},
		{"own documents, and it is said what keeps them together", 3, Processor{Projection: tallies("x", true), PartitionBy: byTenant}, false},
		{"own documents, buckets", 1, Processor{Projection: tallies("x", true), Partitions: 3}, false},
		{"streams, log with partitions", 3, Processor{Projection: tallies("x", false)}, false},
		{"across tenants, log with partitions", 3, Processor{Projection: tallies("x", false).AcrossTenants()}, true},
		{"own ordering key, buckets", 1, Processor{Batch: nothing, OrderBy: byTenant, Partitions: 3}, true},
		{"own ordering key, log with partitions", 3, Processor{Batch: nothing, OrderBy: byTenant}, true},
		{"own ordering key, with its partition key", 1, Processor{Batch: nothing, OrderBy: byStream, PartitionBy: byTenant, Partitions: 3}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			e, err := New(Config{Log: memlog.New(memlog.WithPartitions(c.parts)), Store: memstore.New()})
			if err != nil {
				t.Fatal(err)
			}
			c.p.Name = "x"
			if err := e.Add(t.Context(), c.p); (err != nil) != c.want {
				t.Errorf("Add: %v; want an error: %v", err, c.want)
			}
		})
	}
}

func TestProcessorOfAnotherMakeIsRefused(t *testing.T) {
	r := newRig(t)
	r.add(Processor{Projection: tallies("x", false), Name: "x"})
	if err := r.engine("b").Add(t.Context(), Processor{Projection: tallies("x", false).AcrossTenants(), Name: "x"}); !errors.Is(err, lane.ErrState) {
		t.Errorf("Add of a projection that has come to fold across tenants: %v, want %v", err, lane.ErrState)
	}
	if err := r.engine("b").Add(t.Context(), Processor{Projection: tallies("y", false), Name: "x"}); !errors.Is(err, lane.ErrState) {
		t.Errorf("Add of a projection with another collection: %v, want %v", err, lane.ErrState)
	}
}

func TestLaneOfATruncatedLogRests(t *testing.T) {
	st := &countedStore{Store: memstore.New()}
	r := newRig(t)
	r.over(r.log, st)
	for range 10 {
		r.append("t", "s", added{})
	}
	if err := r.log.Truncate(0, 5); err != nil {
		t.Fatal(err)
	}
	r.add(Processor{Projection: tallies("streams", false), Name: "streams"})
	stop := r.run(r.e)
	time.Sleep(300 * time.Millisecond)
	if s, err := r.e.Stats("streams"); err != nil || len(s.Errors) != 1 {
		t.Errorf("Stats: %+v, %v; want the error of the lane", s, err)
	}
	stop()
	if n := st.updates.Load(); n > 10 {
		t.Errorf("%d transactions in 0.3 s, want a lane that has ended to be left alone for a while", n)
	}
}

// A rebuild waits for a paused tenant, while others wait for their own events
// and so kick the lane again and again.
func TestRebuildThatWaitsHoldsNobodyUp(t *testing.T) {
	for _, tenant := range []string{"", "t"} {
		t.Run("rebuild of "+tenant, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t)
				var slow atomic.Bool
				p := projection.New("docs", projection.On("added", func(s *tally, e projection.Event[added]) error {
					if slow.Load() && e.Tenant == "t" {
						time.Sleep(time.Second)
					}
					s.N++
					return nil
				}))
				r.add(Processor{Projection: p, Name: "docs"})
				defer r.run(r.e)()
				for range 30 {
					r.append("t", "s", added{})
					r.append("u", "s", added{})
				}
				time.Sleep(5 * time.Second)
				slow.Store(true)
				if err := lane.StartRebuild(t.Context(), r.st, "docs", tenant); err != nil {
					t.Fatal(err)
				}
				if err := lane.Pause(t.Context(), r.st, "docs", "t", "by the test"); err != nil {
					t.Fatal(err)
				}
				time.Sleep(5 * time.Second)
				late := 0
				for range 50 {
					tok := r.append("u", "s", added{})
					ctx, cancel := context.WithTimeout(t.Context(), time.Second)
					if r.e.WaitFor(ctx, "docs", tok) != nil {
						late++
					}
					cancel()
					time.Sleep(100 * time.Millisecond)
				}
				if late > 5 {
					t.Errorf("%d of 50 events of another tenant took more than a second", late)
				}
				slow.Store(false)
				if err := lane.Resume(t.Context(), r.st, "docs", "t"); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Minute)
				if err := lane.CancelRebuild(t.Context(), r.st, "docs"); !errors.Is(err, lane.ErrUnknown) {
					t.Errorf("the rebuild has not come to its end: %v", err)
				}
				if got := r.get(p, "t", "s").N; got != 30 {
					t.Errorf("the document has %d events, want 30", got)
				}
			})
		})
	}
}

// A hold ends in time, however often the held lane is kicked.
func TestHoldEndsWhileSomebodyWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		p := tallies("docs", false)
		r.add(Processor{Projection: p, Name: "docs"})
		defer r.run(r.e)()
		r.wait("docs", r.append("u", "s", added{}))
		if err := lane.Detach(t.Context(), r.st, "docs", "t"); err != nil {
			t.Fatal(err)
		}
		tl, _ := r.laneOf("docs", "t")
		if err := lane.Hold(t.Context(), r.st, tl.LaneID); err != nil { // whoever did it died
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2*heldAtMost)
		defer cancel()
		if err := r.e.WaitFor(ctx, "docs", r.append("u", "s", added{})); err != nil {
			t.Error(err)
		}
	})
}

// An operator gives up a dead letter of the build in the making.
func TestLettersOfARebuildAreDrained(t *testing.T) {
	ctx := t.Context()
	r := newRig(t)
	r.add(Processor{Projection: tallies("docs", false), Name: "docs"})
	if err := lane.StartRebuild(ctx, r.st, "docs", ""); err != nil {
		t.Fatal(err)
	}
	rebuilt := store.LaneID{Build: store.Build{Processor: "docs", Number: 2}}
	row, err := lane.Acquire(ctx, r.st, rebuilt, "me")
	if err != nil {
		t.Fatal(err)
	}
	letter := store.DeadLetter{Build: rebuilt.Build, Tenant: "t", Key: "s", State: store.Poison}
	waiting := letter
	waiting.State = store.Waiting
	c := store.Commit{Lane: rebuilt, Fence: store.Fence{Epoch: row.Epoch}, Position: 2, Letters: []store.DeadLetter{letter, waiting}}
	if err := r.st.Commit(ctx, &c); err != nil {
		t.Fatal(err)
	}
	if err := lane.SkipLetter(ctx, r.st, r.letters()[0].ID); err != nil {
		t.Fatal(err)
	}
	for _, l := range r.lanes("docs") {
		if want := l.Number - 1; l.Revision != want {
			t.Errorf("lane %v has revision %d, want %d: its owner is to look at its letters", l.LaneID, l.Revision, want)
		}
	}
}

func TestRemoveAgainAfterATimeOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		release := make(chan struct{})
		p := projection.New("docs", projection.On("added", func(*tally, projection.Event[added]) error { <-release; return nil }))
		r.add(Processor{Projection: p, Name: "docs"})
		defer r.run(r.e)()
		r.append("t", "s", added{})
		time.Sleep(time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := r.e.Remove(ctx, "docs"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Remove while a handler does not return: %v, want %v", err, context.DeadlineExceeded)
		}
		close(release)
		if err := r.e.Remove(t.Context(), "docs"); err != nil {
			t.Errorf("Remove again: %v", err)
		}
		r.add(Processor{Projection: p, Name: "docs"})
	})
}

// The tenant "" has no lane: that would be the base lane itself.
func TestEventsWithoutATenantDoNotLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.over(&changedLog{r.log, func(e *event.Event) {
			if e.Tenant == "none" {
				e.Tenant = ""
			}
		}}, r.st)
		p := projection.New("slow", projection.On("added", func(s *tally, _ projection.Event[added]) error {
			time.Sleep(10 * time.Millisecond)
			s.N++
			return nil
		}))
		r.add(Processor{Projection: p, Name: "slow", Freshness: slo.Objective{P99: 50 * time.Millisecond, Max: time.Second}})
		for i := range 20_000 {
			r.append("none", "s", added{})
			if i%50 == 0 {
				r.append("u", fmt.Sprint(i), added{})
			}
		}
		tok := r.append("u", "last", added{})
		defer r.run(r.e)()
		r.wait("slow", tok)
		if got := len(r.letters()); got != 20_000 {
			t.Errorf("%d dead letters, want 20,000", got)
		}
	})
}

// What cannot be decoded is poison like any other, where the policy stops.
func TestPoliciesOnWhatDoesNotDecode(t *testing.T) {
	for _, c := range []struct {
		policy Policy
		paused string // the lane
		other  int    // events of the other tenant
	}{
		{StopLane, "", 0},
		{ParkTenant, "t", 1},
	} {
		t.Run(c.policy.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t)
				bad := []byte("{")
				r.over(&changedLog{r.log, func(e *event.Event) {
					if e.Stream == "bad" {
						e.Data = bad
					}
				}}, r.st)
				p := tallies("docs", true)
				r.add(Processor{Projection: p, Name: "docs", Poison: c.policy})
				r.append("t", "s", added{Doc: "d"})
				r.append("t", "bad", added{Doc: "d"})
				r.append("t", "s", added{Doc: "d"})
				r.append("u", "s", added{Doc: "d"})
				defer r.run(r.e)()
				time.Sleep(5 * time.Second)
				if l, ok := r.laneOf("docs", c.paused); !ok || l.State != store.Paused || !strings.Contains(l.Reason, "decode") {
					t.Errorf("lane of %q: %+v, want it paused by the event that does not decode", c.paused, l)
				}
				if got := r.get(p, "t", "d").N; got != 1 {
					t.Errorf("the document has %d events, want the 1 before the poison", got)
				}
				if got := r.get(p, "u", "d").N; got != c.other {
					t.Errorf("the other tenant's has %d events, want %d", got, c.other)
				}
				if got := len(r.letters()); got != 0 {
					t.Errorf("%d dead letters, want none", got)
				}
			})
		})
	}
}

// Later events of an ordering key wait behind one that was too large.
func TestTooLargeEventParksItsKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.over(&changedLog{r.log, func(e *event.Event) {
			if e.Position == 2 {
				e.Data, e.Withheld = nil, 1<<30
			}
		}}, r.st)
		r.add(Processor{Name: "sums", Batch: func(_ context.Context, tx any, events []event.Event) error { return sumInto(tx, events) }})
		defer r.run(r.e)()
		r.append("t", "a", added{N: 1}, added{N: 2}, added{N: 3})
		time.Sleep(time.Second)
		r.wait("sums", r.append("t", "a", added{N: 4}))
		r.wait("sums", r.append("t", "b", added{N: 5}))
		if got := r.sums(); got["a"] != " 1" || got["b"] != " 5" {
			t.Errorf("rows = %v, want what follows the large event to wait", got)
		}
		if ls := r.letters(); len(ls) != 3 || ls[0].Reason != "size" || ls[1].State != store.Waiting || ls[2].State != store.Waiting {
			t.Errorf("dead letters = %+v", ls)
		}
	})
}

func TestKeyFunctionsThatPanic(t *testing.T) {
	refuse := func(e *event.Event) string {
		if e.Stream == "bad" {
			panic("no key")
		}
		return e.Stream
	}
	for _, c := range []struct {
		name string
		p    Processor
	}{
		{"partition key", Processor{Projection: tallies("x", false), Partitions: 3, PartitionBy: refuse}},
		{"ordering key", Processor{Batch: func(_ context.Context, tx any, events []event.Event) error { return sumInto(tx, events) }, OrderBy: refuse}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t)
				c.p.Name = "x"
				r.add(c.p)
				defer r.run(r.e)()
				r.append("t", "bad", added{})
				r.wait("x", r.append("t", "good", added{N: 7}))
				if ls := r.letters(); len(ls) != 1 || ls[0].Reason != "panic" || !strings.Contains(ls[0].Error, c.name) {
					t.Errorf("dead letters = %+v, want one, by the panic", ls)
				}
			})
		})
	}
}

func TestBaseLaneOfVeryManyTenants(t *testing.T) {
	ts, p := newTurns(8), &Processor{Name: "p"}
	ts.setBase(p, 5000)
	q := ts.of(p).queue
	for range 8 {
		q.Push("noisy", 1, &waiter{})
		q.Push("", 1, &waiter{})
	}
	base := 0
	for range 8 {
		if g, ok := q.Pop(time.Now()); ok && g.Flow == "" {
			base++
		}
	}
	if base < 7 {
		t.Errorf("the base lane of 5,000 tenants has %d of 8 slots beside one tenant's lane, want all but one", base)
	}
}
