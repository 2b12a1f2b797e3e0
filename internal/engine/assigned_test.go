package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/eventlog/memlog"
	"github.com/fairlead-dev/fairlead/internal/lane"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/fairlead-dev/fairlead/store/memstore"
)

// A sharedLog gives its partitions to an engine as the test says.
type sharedLog struct {
	*memlog.Log
	mu     sync.Mutex
	worker eventlog.Worker
	mine   []int
	stands []int
	joined chan struct{}
}

func (l *sharedLog) Shares() bool { return true }

func (l *sharedLog) Standing() []int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stands
}

func (l *sharedLog) Assigned() []int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mine
}

func (l *sharedLog) Assign(ctx context.Context, w eventlog.Worker) error {
	l.mu.Lock()
	l.worker = w
	l.mu.Unlock()
	close(l.joined)
	<-ctx.Done()
	<-w.Own(nil)
	return ctx.Err()
}

// give says which partitions the engine has from now on.
func (l *sharedLog) give(parts ...int) <-chan struct{} {
	<-l.joined
	l.mu.Lock()
	l.mine = parts
	l.mu.Unlock()
	return l.worker.Own(parts)
}

// A sharedRig is engines on one log of four partitions.
type sharedRig struct {
	*rig
	logs map[*Engine]*sharedLog
}

func newSharedRig(t *testing.T) *sharedRig {
	return &sharedRig{&rig{t: t, log: memlog.New(memlog.WithPartitions(4)), st: memstore.New()}, map[*Engine]*sharedLog{}}
}

func (r *sharedRig) member(name string, p Processor) *Engine {
	l := &sharedLog{Log: r.log, joined: make(chan struct{})}
	e, err := New(Config{Log: l, Store: r.st, Name: name})
	if err != nil {
		r.t.Fatal(err)
	}
	if err := e.Add(r.t.Context(), p); err != nil {
		r.t.Fatal(err)
	}
	r.logs[e] = l
	return e
}

// owners are the owners of the lanes by partition, for people.
func (r *sharedRig) owners(names map[*Engine]string) string {
	var out []string
	for _, l := range r.lanes("p") {
		name := "-"
		for e, n := range names {
			if l.Owner == e.ID() {
				name = n
			}
		}
		out = append(out, fmt.Sprintf("%d:%s", l.Partition, name))
	}
	slices.Sort(out)
	return fmt.Sprint(out)
}

// TestLanesFollowTheLogsAssignment: whose partition it is works the lane, and nobody
// else, however long nobody does.
func TestLanesFollowTheLogsAssignment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newSharedRig(t)
		p := tallies("p", false)
		a, b := r.member("a", Processor{Name: "p", Projection: p}), r.member("b", Processor{Name: "p", Projection: p})
		names := map[*Engine]string{a: "a", b: "b"}
		defer r.run(a)()
		defer r.run(b)()
		settle := func(want string) {
			t.Helper()
			time.Sleep(5 * time.Second)
			if got := r.owners(names); got != want {
				t.Fatalf("owners %s, want %s", got, want)
			}
		}
		settle("[0:- 1:- 2:- 3:-]")
		r.logs[a].give(0, 1, 2)
		settle("[0:a 1:a 2:a 3:-]")
		epochs := map[int]int64{}
		for _, l := range r.lanes("p") {
			epochs[l.Partition] = l.Epoch
		}
		<-r.logs[a].give(0)
		r.logs[b].give(1, 3)
		settle("[0:a 1:b 2:a 3:b]") // of the second one nobody says that it has it
		time.Sleep(keptFor)
		settle("[0:a 1:b 2:- 3:b]")
		for _, l := range r.lanes("p") {
			if l.Partition == 0 && l.Epoch != epochs[0] {
				t.Errorf("the lane that stayed has epoch %d, and had %d", l.Epoch, epochs[0])
			}
		}
		r.logs[b].give(1, 3, 2)
		r.logs[a].give(0)
		settle("[0:a 1:b 2:b 3:b]")
		var toks []eventlog.Token
		for i := range 20 {
			toks = append(toks, r.append("t", fmt.Sprint("s", i), added{}))
		}
		for _, tok := range toks {
			if err := a.WaitFor(t.Context(), "p", tok); err != nil {
				t.Fatal(err)
			}
		}
		at, err := worker{b}.Checkpoints(t.Context(), []int{1, 2, 3})
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range r.lanes("p") {
			if got, ok := at[l.Partition]; ok != (l.Partition > 0) || ok && got != l.Position {
				t.Errorf("checkpoint of %d is %v, %t, want %v", l.Partition, got, ok, l.Position)
			}
		}
	})
}

// TestAssignedLaneIsTakenFromALiveOwner: who was given a partition takes its lane
// under a new epoch, and who had it takes nothing back although it believes that the
// partition is its own still.
func TestAssignedLaneIsTakenFromALiveOwner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newSharedRig(t)
		p := tallies("p", false)
		a, b := r.member("a", Processor{Name: "p", Projection: p}), r.member("b", Processor{Name: "p", Projection: p})
		names := map[*Engine]string{a: "a", b: "b"}
		defer r.run(a)()
		defer r.run(b)()
		r.logs[a].give(0, 1, 2, 3)
		time.Sleep(time.Second)
		r.logs[b].give(0, 1) // a was told nothing
		for range 60 {
			time.Sleep(time.Second)
			r.append("t", "s", added{}) // so that there is something to commit
			if got := r.owners(names); got != "[0:b 1:b 2:a 3:a]" {
				t.Fatalf("owners %s, want b's to stay b's", got)
			}
		}
		// Given to it anew, it takes them again.
		<-r.logs[b].give()
		r.logs[a].give(2, 3)
		r.logs[a].give(0, 1, 2, 3)
		time.Sleep(time.Second)
		if got := r.owners(names); got != "[0:a 1:a 2:a 3:a]" {
			t.Fatalf("owners %s, want all a's", got)
		}
	})
}

// TestRevokedLaneEndsFirst: the log is told that a partition is free only when the
// handlers of its lanes have ended, and those of other partitions go on meanwhile.
func TestRevokedLaneEndsFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newSharedRig(t)
		var mu sync.Mutex
		handled := map[string]int{}
		e := r.member("a", Processor{Name: "p", React: func(_ context.Context, d Delivery) error {
			time.Sleep(2 * time.Second)
			mu.Lock()
			defer mu.Unlock()
			handled[d.Stream]++
			return nil
		}})
		defer r.run(e)()
		r.logs[e].give(0, 1, 2, 3)
		streams := map[int]string{}
		for i := range 40 {
			s := fmt.Sprint("s", i)
			streams[r.append("t", s, added{}).Partition] = s
		}
		time.Sleep(time.Second)
		released := r.logs[e].give(1, 2, 3)
		select {
		case <-released:
			t.Error("released while handlers are in progress")
		default:
		}
		began := time.Now()
		<-released
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("released after %v, want as soon as the handlers have ended", took)
		}
		for _, l := range r.lanes("p") {
			if l.Partition == 0 && l.Owner != "" {
				t.Errorf("lane %+v has an owner after it was released", l)
			}
		}
		synctest.Wait()
		mu.Lock()
		before := len(handled)
		mu.Unlock()
		if before != 40 {
			t.Errorf("%d streams were handled, want all 40: those in progress end, and the others are not disturbed", before)
		}
	})
}

// TestGrow: a processor that follows a log's partitions gets the lanes of new ones,
// in every build, from the first event on.
func TestGrow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newSharedRig(t)
		p := tallies("p", false)
		r.member("a", Processor{Name: "p", Projection: p})
		if err := lane.StartRebuild(t.Context(), r.st, "p", ""); err != nil {
			t.Fatal(err)
		}
		if _, err := lane.Grow(t.Context(), r.st, "p", 6); err != nil {
			t.Fatal(err)
		}
		for range 2 { // the second time changes nothing
			row, err := lane.Grow(t.Context(), r.st, "p", 6)
			if err != nil || row.Partitions != 6 {
				t.Fatalf("processor %+v, %v, want 6 partitions", row, err)
			}
			if lanes := r.lanes("p"); len(lanes) != 12 {
				t.Errorf("%d lanes, want 6 of each of two builds", len(lanes))
			}
		}
		for _, l := range r.lanes("p") {
			if l.Of != 6 || l.Partition >= 4 && (l.Position != event.Beginning || l.State != store.Running) {
				t.Errorf("lane %+v, want one of 6, new ones at the beginning", l)
			}
		}
	})
}

// An excludedLog lets nobody take part.
type excludedLog struct{ *sharedLog }

var errFenced = fmt.Errorf("another one has this name: %w", eventlog.ErrExcluded)

func (excludedLog) Assign(context.Context, eventlog.Worker) error { return errFenced }

// TestExcluded: a process that can take no part ends, and says why, instead of standing
// by for ever.
func TestExcluded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, err := New(Config{Log: excludedLog{&sharedLog{Log: memlog.New(memlog.WithPartitions(4))}}, Store: memstore.New()})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if err := e.Run(ctx); !errors.Is(err, eventlog.ErrExcluded) {
			t.Errorf("Run = %v", err)
		}
	})
}
