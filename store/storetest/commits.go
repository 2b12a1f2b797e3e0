package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/store"
)

func runCommits(sub func(string, func(*fixture))) {
	sub("CommitFence", testFence)
	sub("CommitFenceOfOtherLanes", testFenceOtherLanes)
	sub("CommitChangesTheLane", testCommitLane)
	sub("CommitIsAllOrNothing", testCommitAtomic)
	sub("CommitPositionGoesNotBack", testCommitBackwards)
	sub("CommitDetach", testDetach)
	sub("CommitForget", testForget)
	sub("CommitDetachOfALaneThatExists", testDetachTwice)
	sub("CommitThousandDocuments", testThousand)
	sub("CommitContextEnded", testCommitContext)
}

// full is a commit with something of everything, to see that nothing of it
// happens. The store must have letter 1 of the lane's.
func full(id store.LaneID, letter int64, called *bool) *store.Commit {
	detached := id
	detached.Tenant = "leaver"
	c := &store.Commit{
		Lane: id, Position: 1 << 40, Done: []byte{1}, AppliedAt: moment(30),
		Writes:  []store.Write{{Document: doc("a", "1", "changed")}, {Document: doc("a", "new", "new")}, {Document: doc("a", "2", ""), Delete: true}},
		Letters: []store.DeadLetter{letterOf(id, "a", "k")},
		Remove:  []int64{letter},
		Detach:  []store.Lane{{LaneID: detached, Position: 4, State: store.Running}},
		Forget:  []string{"old"},
	}
	if called != nil {
		c.SQL = func(context.Context, any) error { *called = true; return nil }
	}
	return c
}

// filled prepares a store with a lane at (epoch 3, position 7, revision 5), two
// documents, an exclusion and a dead letter, whose id it returns.
func (t *fixture) filled() int64 {
	t.Helper()
	t.setup("p")
	t.put(base("p"), doc("a", "1", "one"), doc("a", "2", "two"))
	t.commit(base("p"), func(c *store.Commit) { c.Letters = []store.DeadLetter{letterOf(base("p"), "a", "k")} })
	t.update(func(tx store.Tx) error {
		l, err := tx.Lane(base("p"))
		if err != nil {
			return err
		}
		l.Epoch, l.Position, l.Revision, l.Owner = 3, 7, 5, "me"
		l.Exclusions = map[string]event.Position{"old": 6}
		return tx.PutLane(l)
	})
	return t.letters(store.LetterFilter{})[0].ID
}

func testFence(t *fixture) {
	letter := t.filled()
	right := store.Fence{Epoch: 3, Position: 7, Revision: 5}
	missing := base("p")
	missing.Tenant = "nobody"
	otherBuild := base("p")
	otherBuild.Number = 2
	for _, tt := range []struct {
		name  string
		lane  store.LaneID
		fence store.Fence
		found store.Fence
		lost  bool
	}{
		{"lower epoch", base("p"), store.Fence{Epoch: 2, Position: 7, Revision: 5}, right, true},
		{"higher epoch", base("p"), store.Fence{Epoch: 4, Position: 7, Revision: 5}, right, true},
		{"lower position", base("p"), store.Fence{Epoch: 3, Position: 6, Revision: 5}, right, false},
		{"higher position", base("p"), store.Fence{Epoch: 3, Position: 8, Revision: 5}, right, false},
		{"lower revision", base("p"), store.Fence{Epoch: 3, Position: 7, Revision: 4}, right, false},
		{"higher revision", base("p"), store.Fence{Epoch: 3, Position: 7, Revision: 6}, right, false},
		{"everything", base("p"), store.Fence{Epoch: 1, Position: 1, Revision: 1}, right, true},
		{"lane is gone", missing, right, store.Fence{}, true},
		{"lane of another build", otherBuild, right, store.Fence{}, true},
		{"lane of another processor", base("q"), right, store.Fence{}, true},
	} {
		t.Run(tt.name, func(sub *testing.T) {
			t := t.with(sub)
			called := false
			c := full(tt.lane, letter, &called)
			if t.f.SQL == nil {
				c.SQL = nil
			}
			c.Fence = tt.fence
			err := t.refuses(c)
			if called {
				t.Error("SQL function was called, want the fence to come first")
			}
			fenced, ok := errors.AsType[*store.FenceError](err)
			if !ok || !errors.Is(err, store.ErrFenced) {
				t.Fatalf("error = %v, want a FenceError", err)
			}
			if want := (store.FenceError{Lane: tt.lane, Expected: tt.fence, Found: tt.found}); *fenced != want {
				t.Errorf("error = %+v, want %+v", *fenced, want)
			}
			if fenced.Lost() != tt.lost {
				t.Errorf("Lost() = %t, want %t", fenced.Lost(), tt.lost)
			}
		})
	}
	c := full(base("p"), letter, nil)
	c.Fence = right
	if err := t.s.Commit(t.Context(), c); err != nil {
		t.Errorf("with the right fence: %v", err)
	}
	if err := t.refuses(c); !errors.Is(err, store.ErrFenced) {
		t.Errorf("the same commit again: %v, want a FenceError", err)
	}
}

// testFenceOtherLanes: the fence looks at its own lane only, and a commit
// changes its own lane only.
func testFenceOtherLanes(t *fixture) {
	t.setup("p", "q")
	ids := []store.LaneID{base("p"), base("q")}
	for _, change := range []func(*store.LaneID){
		func(id *store.LaneID) { id.Partition = 1 },
		func(id *store.LaneID) { id.Number = 2 },
		func(id *store.LaneID) { id.Tenant = "a" },
		func(id *store.LaneID) { id.Tenant = "A" },
	} {
		id := base("p")
		change(&id)
		ids = append(ids, id)
	}
	t.update(func(tx store.Tx) error {
		for i, id := range ids {
			if err := tx.PutLane(store.Lane{LaneID: id, Epoch: int64(i), Position: event.Position(10 * i), State: store.Running}); err != nil {
				return err
			}
		}
		return nil
	})
	for i, id := range ids {
		t.commit(id, func(c *store.Commit) { c.Position += event.Position(i) })
	}
	for i, id := range ids {
		if got, want := t.lane(id).Position, event.Position(11*i+1); got != want {
			t.Errorf("lane %v is at %v, want %v", id, got, want)
		}
	}
}

func testCommitLane(t *fixture) {
	t.setup("p")
	t.update(func(tx store.Tx) error {
		return tx.PutLane(store.Lane{
			LaneID: base("p"), Epoch: 3, Position: 7, Revision: 5, State: store.Paused, Reason: "why", Owner: "me",
			Exclusions: map[string]event.Position{"x": 4, "y": event.Unbounded}, AppliedAt: moment(1),
		})
	})
	want := t.lane(base("p"))
	for _, tt := range []struct {
		name      string
		position  event.Position
		done      []byte
		appliedAt time.Time
		wantAt    time.Time
	}{
		{"further", 9, []byte{1, 2, 0, 255}, moment(2), moment(2)},
		{"applied at: as before", 10, []byte{3}, time.Time{}, moment(2)},
		{"at the same position", 10, []byte{4, 4}, moment(3), moment(3)},
		{"nothing done", 11, nil, time.Time{}, moment(3)},
		{"to a far position", 1 << 60, nil, time.Time{}, moment(3)},
	} {
		t.Run(tt.name, func(sub *testing.T) {
			t := t.with(sub)
			t.commit(base("p"), func(c *store.Commit) { c.Position, c.Done, c.AppliedAt = tt.position, tt.done, tt.appliedAt })
			got := t.lane(base("p"))
			if !about(got.UpdatedAt) {
				t.Errorf("UpdatedAt = %v, want about now", got.UpdatedAt)
			}
			want.Position, want.Done, want.AppliedAt, want.UpdatedAt = tt.position, tt.done, tt.wantAt, got.UpdatedAt
			t.same("lane", got, want)
		})
	}
}

// testCommitAtomic: commits that fail behind the fence change nothing.
func testCommitAtomic(t *fixture) {
	letter := t.filled()
	right := store.Fence{Epoch: 3, Position: 7, Revision: 5}
	for _, tt := range []struct {
		name   string
		change func(*store.Commit)
		is     error
	}{
		{"letter that does not exist", func(c *store.Commit) { c.Remove = []int64{letter, 999_999} }, store.ErrNotFound},
		{"lane that exists is detached", func(c *store.Commit) { c.Detach[0].LaneID = base("p") }, nil},
		{"position before the fence", func(c *store.Commit) { c.Position = 6 }, nil},
	} {
		t.Run(tt.name, func(sub *testing.T) {
			t := t.with(sub)
			c := full(base("p"), letter, nil)
			c.Fence = right
			tt.change(c)
			err := t.refuses(c)
			if tt.is != nil && !errors.Is(err, tt.is) {
				t.Errorf("error = %v, want %v", err, tt.is)
			}
			if errors.Is(err, store.ErrFenced) {
				t.Errorf("error = %v, want none of the fence", err)
			}
		})
	}
	c := full(base("p"), letter, nil)
	c.Fence = right
	if err := t.s.Commit(t.Context(), c); err != nil {
		t.Fatalf("the same commit without a fault: %v", err)
	}
	if got, want := t.values("p", "a"), `1="changed" new="new"`; got != want {
		t.Errorf("documents = %s, want %s", got, want)
	}
	if got := t.letters(store.LetterFilter{}); len(got) != 1 || got[0].ID <= letter {
		t.Errorf("letters = %+v, want one with an id above %d", got, letter)
	}
	l := t.lane(base("p"))
	if want := map[string]event.Position{"leaver": event.Unbounded}; !maps.Equal(l.Exclusions, want) || l.Revision != 6 {
		t.Errorf("exclusions = %v, revision %d, want %v, 6", l.Exclusions, l.Revision, want)
	}
}

func testCommitBackwards(t *fixture) {
	t.setup("p")
	t.commit(base("p"), func(c *store.Commit) { c.Position = 10 })
	c := t.next(base("p"))
	c.Position = 9
	if err := t.refuses(c); errors.Is(err, store.ErrFenced) {
		t.Errorf("error = %v, want none of the fence, because nobody else is to blame", err)
	}
}

func testDetach(t *fixture) {
	t.setup("p")
	tenants := slices.Clone(odd)
	want := t.lane(base("p"))
	want.Exclusions = map[string]event.Position{}
	// One by one, and then many at once.
	for from, to := 0, 1; from < len(tenants); from, to = to, min(to*4, len(tenants)) {
		var lanes []store.Lane
		for i, tenant := range tenants[from:to] {
			id := base("p")
			id.Tenant = tenant
			lanes = append(lanes, store.Lane{
				LaneID: id, Epoch: int64(i), Position: 17, Done: []byte{9, 0}, State: store.Paused, Reason: "slow", Pinned: true, Owner: "me", AppliedAt: moment(5),
				Of: 4 + i, Want: 2, Until: 21, Home: "h",
			})
			want.Exclusions[tenant] = event.Unbounded
		}
		t.commit(base("p"), func(c *store.Commit) { c.Position, c.Detach = 20, lanes })
		want.Revision++
		got := t.lane(base("p"))
		want.Position, want.UpdatedAt = 20, got.UpdatedAt
		t.same("base lane", got, want)
		for _, l := range lanes {
			got := t.lane(l.LaneID)
			l.UpdatedAt = got.UpdatedAt
			t.same("detached lane", got, l)
		}
	}
	t.view(func(tx store.Tx) error {
		lanes, err := tx.Lanes("p")
		if err == nil && len(lanes) != len(tenants)+1 {
			t.Errorf("there are %d lanes, want %d", len(lanes), len(tenants)+1)
		}
		return err
	})
	// A tenant that left again while an earlier stay outside is not over.
	t.update(func(tx store.Tx) error {
		l, err := tx.Lane(base("p"))
		if err != nil {
			return err
		}
		l.Exclusions[tenants[0]] = 25
		id := base("p")
		id.Tenant = tenants[0]
		return errors.Join(tx.PutLane(l), tx.DeleteLane(id))
	})
	id := base("p")
	id.Tenant = tenants[0]
	t.commit(base("p"), func(c *store.Commit) { c.Detach = []store.Lane{{LaneID: id, Position: 25, State: store.Running}} })
	if got := t.lane(base("p")).Exclusions[tenants[0]]; got != event.Unbounded {
		t.Errorf("exclusion of a tenant that left again ends at %v, want %v", got, event.Unbounded)
	}
}

func testForget(t *fixture) {
	t.setup("p")
	t.update(func(tx store.Tx) error {
		return tx.PutLane(store.Lane{LaneID: base("p"), Revision: 8, State: store.Running,
			Exclusions: map[string]event.Position{"a": 1, "b": 2, "c": 3, "O'Neil": 4}})
	})
	for _, tt := range []struct {
		name     string
		forget   []string
		want     map[string]event.Position
		revision int64
	}{
		{"none", nil, map[string]event.Position{"a": 1, "b": 2, "c": 3, "O'Neil": 4}, 8},
		{"empty list", []string{}, map[string]event.Position{"a": 1, "b": 2, "c": 3, "O'Neil": 4}, 8},
		{"one", []string{"a"}, map[string]event.Position{"b": 2, "c": 3, "O'Neil": 4}, 9},
		{"two, one of them unknown", []string{"O'Neil", "nobody"}, map[string]event.Position{"b": 2, "c": 3}, 10},
		{"all", []string{"b", "c"}, nil, 11},
	} {
		t.Run(tt.name, func(sub *testing.T) {
			t := t.with(sub)
			t.commit(base("p"), func(c *store.Commit) { c.Forget = tt.forget })
			if l := t.lane(base("p")); !maps.Equal(l.Exclusions, tt.want) || l.Revision != tt.revision {
				t.Errorf("exclusions = %v, revision %d, want %v, %d", l.Exclusions, l.Revision, tt.want, tt.revision)
			}
		})
	}
	id := base("p")
	id.Tenant = "a"
	t.commit(base("p"), func(c *store.Commit) {
		c.Forget, c.Detach = []string{"x"}, []store.Lane{{LaneID: id, State: store.Running}}
	})
	if l := t.lane(base("p")); l.Revision != 12 {
		t.Errorf("revision after detach and forget in one commit = %d, want 12, one more", l.Revision)
	}
}

func testDetachTwice(t *fixture) {
	t.setup("p")
	id := base("p")
	id.Tenant = "a"
	detach := func(c *store.Commit) { c.Detach = []store.Lane{{LaneID: id, Position: 1, State: store.Running}} }
	t.commit(base("p"), detach)
	c := t.next(base("p"))
	detach(c)
	c.Detach[0].Position = 99
	if err := t.refuses(c); errors.Is(err, store.ErrFenced) {
		t.Errorf("error = %v, want none of the fence, because its lane is as expected", err)
	}
}

func testThousand(t *fixture) {
	t.setup("p")
	const n = 1000
	for round := range 2 { // inserts, then replaces
		t.commit(base("p"), func(c *store.Commit) {
			for i := range n {
				d := doc(fmt.Sprintf("t%d", i%3), fmt.Sprintf("d%04d", i), fmt.Sprintf("%d.%d", round, i))
				d.Version = int64(i)
				c.Writes = append(c.Writes, store.Write{Document: d})
			}
		})
		var keys []store.Key
		for i := range 3 * n {
			keys = append(keys, store.Key{Tenant: fmt.Sprintf("t%d", i%3), ID: fmt.Sprintf("d%04d", i)})
		}
		docs, err := t.s.Load(t.Context(), build("p"), keys)
		if err != nil {
			t.Fatalf("Load of %d keys = %v", len(keys), err)
		}
		if len(docs) != n {
			t.Errorf("Load of %d keys has %d documents, want %d", len(keys), len(docs), n)
		}
		for _, d := range docs {
			if want := fmt.Appendf(nil, `"%d.%d"`, round, d.Version); !bytes.Equal(d.Data, want) {
				t.Errorf("document %q = %s, want %s", d.ID, d.Data, want)
			}
		}
	}
	t.commit(base("p"), func(c *store.Commit) {
		for i := range n {
			c.Writes = append(c.Writes, store.Write{Document: doc(fmt.Sprintf("t%d", i%3), fmt.Sprintf("d%04d", i), ""), Delete: true})
		}
	})
	if got := t.tenants("p"); len(got) != 0 {
		t.Errorf("tenants after all documents were deleted = %q, want none", got)
	}
}

func testCommitContext(t *fixture) {
	letter := t.filled()
	before := t.snapshot()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	c := full(base("p"), letter, nil)
	c.Fence = store.Fence{Epoch: 3, Position: 7, Revision: 5}
	if err := t.s.Commit(ctx, c); !errors.Is(err, context.Canceled) {
		t.Errorf("Commit = %v, want %v", err, context.Canceled)
	}
	t.unchanged(before, "Commit with an ended context")
}
