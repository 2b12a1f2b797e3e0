package engine

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/store"
)

// lane returns the row of the lane of a partition.
func (r *sharedRig) lane(partition int) store.Lane {
	for _, l := range r.lanes("p") {
		if l.Partition == partition {
			return l
		}
	}
	r.t.Fatalf("no lane of partition %d", partition)
	return store.Lane{}
}

// applied reports whether a processor comes to a token within a time.
func (r *sharedRig) applied(e *Engine, within time.Duration, toks ...eventlog.Token) bool {
	ctx, cancel := context.WithTimeout(r.t.Context(), within)
	defer cancel()
	for _, tok := range toks {
		if e.WaitFor(ctx, "p", tok) != nil {
			return false
		}
	}
	return true
}

// write appends an event to each of 40 streams: to all partitions.
func (r *sharedRig) write() (toks []eventlog.Token) {
	for i := range 40 {
		toks = append(toks, r.append("t", fmt.Sprint("s", i), added{}))
	}
	return toks
}

// TestLanesWorkUntilTheyAreWanted: a partition that goes is worked where it was until
// another process says that it has it, however long the log's sharing takes; then its
// lane is given to that one, and not taken. The log need not wait for the lane.
func TestLanesWorkUntilTheyAreWanted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newSharedRig(t)
		p := tallies("p", false)
		a, b := r.member("a", Processor{Name: "p", Projection: p}), r.member("b", Processor{Name: "p", Projection: p})
		names := map[*Engine]string{a: "a", b: "b"}
		defer r.run(a)()
		defer r.run(b)()
		r.logs[a].give(0, 1, 2, 3)
		time.Sleep(time.Second)
		before := r.lane(3).Epoch
		began := time.Now()
		<-r.logs[a].give(0, 1)
		if took := time.Since(began); took > 100*time.Millisecond {
			t.Errorf("the log waits %v for lanes that go on", took)
		}
		for range 5 { // nobody has them: a rebalance that takes seconds
			if !r.applied(a, time.Second, r.write()...) {
				t.Fatal("events of partitions that nobody has stand still")
			}
			time.Sleep(time.Second)
		}
		r.logs[b].give(2, 3)
		if !r.applied(b, 300*time.Millisecond, r.write()...) {
			t.Error("events stand still after the partitions were given")
		}
		if got := r.owners(names); got != "[0:a 1:a 2:b 3:b]" {
			t.Errorf("owners %s", got)
		}
		if got := r.lane(3).Epoch; got != before+1 {
			t.Errorf("epoch %d, want %d: one hand-over, and nothing taken by force", got, before+1)
		}
	})
}

// TestPartitionThatComesBack: a lane that was kept for another process goes on as if
// nothing were when its partition comes back.
func TestPartitionThatComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newSharedRig(t)
		p := tallies("p", false)
		a, b := r.member("a", Processor{Name: "p", Projection: p}), r.member("b", Processor{Name: "p", Projection: p})
		defer r.run(a)()
		defer r.run(b)()
		r.logs[a].give(0, 1, 2, 3)
		time.Sleep(time.Second)
		before := r.lane(3).Epoch
		<-r.logs[a].give(0, 1)
		time.Sleep(5 * time.Second)
		r.logs[a].give(0, 1, 2, 3)
		time.Sleep(2 * keptFor)
		if !r.applied(a, time.Second, r.write()...) {
			t.Error("events stand still")
		}
		if got := r.lane(3); got.Epoch != before || got.Owner != a.ID() {
			t.Errorf("lane %+v, want it as it was under epoch %d", got, before)
		}
	})
}

// TestLeaverWorksUntilItIsReplaced: a process that ends works its lanes until the log
// has told the others that they have its partitions, and no handler is called twice.
func TestLeaverWorksUntilItIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newSharedRig(t)
		var mu sync.Mutex
		handled := map[string]int{}
		p := Processor{Name: "p", React: func(_ context.Context, d Delivery) error {
			time.Sleep(20 * time.Millisecond)
			mu.Lock()
			defer mu.Unlock()
			handled[d.ID]++
			return nil
		}}
		a, b := r.member("a", p), r.member("b", p)
		stop := r.run(a)
		defer r.run(b)()
		r.logs[a].give(0, 1)
		r.logs[b].give(2, 3)
		time.Sleep(time.Second)
		epoch := r.lane(0).Epoch
		ended := make(chan struct{})
		began := time.Now()
		go func() { defer close(ended); stop() }()
		for range 4 { // as long as the others do not know
			if !r.applied(b, 900*time.Millisecond, r.write()...) {
				t.Fatal("events of a process that ends stand still")
			}
			time.Sleep(time.Until(began.Add(time.Second)))
			began = time.Now()
		}
		select {
		case <-ended:
			t.Fatal("it has ended although nobody has its partitions")
		default:
		}
		r.logs[b].give(0, 1, 2, 3)
		if !r.applied(b, 500*time.Millisecond, r.write()...) {
			t.Error("events stand still after the partitions were given")
		}
		<-ended
		if took := time.Since(began); took > time.Second {
			t.Errorf("it ends %v after its partitions were given", took)
		}
		if got := r.lane(0).Epoch; got != epoch+1 {
			t.Errorf("epoch %d, want %d: one hand-over", got, epoch+1)
		}
		mu.Lock()
		defer mu.Unlock()
		for id, n := range handled {
			if n != 1 {
				t.Errorf("event %s was handled %d times", id, n)
			}
		}
		if len(handled) != 5*40 {
			t.Errorf("%d events were handled, want %d", len(handled), 5*40)
		}
	})
}

// TestLeaverDoesNotWaitForEver: a process that ends, and whose partitions nobody gets,
// ends all the same; at once where there is nobody who could.
func TestLeaverDoesNotWaitForEver(t *testing.T) {
	for _, others := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			r := newSharedRig(t)
			p := tallies("p", false)
			a, b := r.member("a", Processor{Name: "p", Projection: p}), r.member("b", Processor{Name: "p", Projection: p})
			stop := r.run(a)
			if others {
				defer r.run(b)()
			}
			r.logs[a].give(0, 1, 2, 3)
			time.Sleep(time.Second)
			began := time.Now()
			stop()
			want := 100 * time.Millisecond
			if others {
				want += keptAtEnd
			}
			if took := time.Since(began); took > want {
				t.Errorf("with others %t it ends after %v, want %v", others, took, want)
			}
		})
	}
}

// TestLaneThatIsNotGivenIsTaken: whoever has a partition takes its lane at last, from an
// owner that knows that it is not its own and does not give it.
func TestLaneThatIsNotGivenIsTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newSharedRig(t)
		stuck := make(chan struct{})
		p := Processor{Name: "p", React: func(_ context.Context, d Delivery) error {
			if d.Stream == "stuck" {
				<-stuck
			}
			return nil
		}}
		a, b := r.member("a", p), r.member("b", Processor{Name: "p", React: func(context.Context, Delivery) error { return nil }})
		stop := r.run(a)
		defer r.run(b)()
		r.logs[a].give(0, 1, 2, 3)
		time.Sleep(time.Second)
		at := r.append("t", "stuck", added{}).Partition
		time.Sleep(time.Second)
		select {
		case <-r.logs[a].give():
		case <-time.After(time.Second):
			t.Error("the log waits for a handler that does not return")
		}
		r.logs[b].give(0, 1, 2, 3)
		time.Sleep(givenAfter + time.Second)
		if got := r.lane(at); got.Owner != b.ID() {
			t.Errorf("lane %+v, want it b's", got)
		}
		close(stuck)
		stop()
	})
}

// TestAllLeave: processes that end at the same time do not wait for each other.
func TestAllLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newSharedRig(t)
		p := tallies("p", false)
		a, b := r.member("a", Processor{Name: "p", Projection: p}), r.member("b", Processor{Name: "p", Projection: p})
		stops := []func(){r.run(a), r.run(b)}
		r.logs[a].give(0, 1)
		r.logs[b].give(2, 3)
		time.Sleep(time.Second)
		began := time.Now()
		var all sync.WaitGroup
		for _, stop := range stops {
			all.Go(stop)
		}
		all.Wait()
		if took := time.Since(began); took > 500*time.Millisecond {
			t.Errorf("they end after %v", took)
		}
		if got := r.lane(0); got.Owner != "" {
			t.Errorf("lane %+v has an owner", got)
		}
	})
}
