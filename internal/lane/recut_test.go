package lane_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/internal/done"
	"github.com/fairlead-dev/fairlead/internal/lane"
	"github.com/fairlead-dev/fairlead/partition"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/fairlead-dev/fairlead/store/memstore"
)

// A rig is a store with a processor "p".
type rig struct {
	*testing.T
	s *memstore.Store
}

func newRig(t *testing.T, partitions int) *rig {
	r := &rig{t, memstore.New()}
	_, err := lane.Setup(t.Context(), r.s, store.Processor{Name: "p", Kind: "reactor", Partitions: partitions},
		func(int) event.Position { return 10 })
	r.must(err)
	return r
}

func (r *rig) must(err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

func id(partition int, tenant string) store.LaneID {
	return store.LaneID{Build: store.Build{Processor: "p", Number: 1}, Partition: partition, Tenant: tenant}
}

func (r *rig) lanes() map[store.LaneID]store.Lane {
	r.Helper()
	out := map[store.LaneID]store.Lane{}
	r.must(r.s.View(r.Context(), func(tx store.Tx) error {
		all, err := tx.Lanes("p")
		for _, l := range all {
			out[l.LaneID] = l
		}
		return err
	}))
	return out
}

// change changes the row of a lane.
func (r *rig) change(id store.LaneID, f func(*store.Lane)) {
	r.Helper()
	r.must(r.s.Update(r.Context(), func(tx store.Tx) error {
		l, err := tx.Lane(id)
		if err != nil {
			return err
		}
		f(&l)
		return tx.PutLane(l)
	}))
}

// own lets a member that is alive own lanes.
func (r *rig) own(who string, ids ...store.LaneID) {
	r.Helper()
	r.must(lane.Join(r.Context(), r.s, store.Member{ID: who}, time.Hour))
	for _, x := range ids {
		_, err := lane.Acquire(r.Context(), r.s, x, who)
		r.must(err)
	}
}

func (r *rig) release(who string) {
	r.Helper()
	for x, l := range r.lanes() {
		if l.Owner == who {
			r.must(lane.Release(r.Context(), r.s, x, who, l.Epoch))
		}
	}
}

func byTenant(e *event.Event, of int) (int, bool) {
	return partition.Bucket(e.Tenant, of), e.Tenant != "unknown"
}

func (r *rig) try(id store.LaneID) bool {
	r.Helper()
	done, err := lane.TryRecut(r.Context(), r.s, id, byTenant, 1000)
	r.must(err)
	return done
}

// letters returns the partition of each dead letter, by its event's tenant.
func (r *rig) letters() map[string]int {
	r.Helper()
	out := map[string]int{}
	r.must(r.s.View(r.Context(), func(tx store.Tx) error {
		all, err := tx.Letters(store.LetterFilter{})
		for _, d := range all {
			out[d.Event.Tenant] = d.Partition
		}
		return err
	}))
	return out
}

func TestSplit(t *testing.T) {
	r := newRig(t, 1)
	r.must(lane.Detach(t.Context(), r.s, "p", "out"))
	r.own("me", id(0, ""), id(0, "out"))
	r.change(id(0, ""), func(l *store.Lane) { l.Position, l.Done, l.Exclusions["back"] = 20, []byte{1, 2}, 25 })
	tenants := []string{"unknown"} // moves nowhere
	for i := range 1200 {          // more than are read at once
		tenants = append(tenants, fmt.Sprint("t", i))
	}
	before := r.lanes()
	commit := &store.Commit{Lane: id(0, ""), Position: 20, Done: []byte{1, 2}}
	for _, name := range tenants {
		commit.Letters = append(commit.Letters, store.DeadLetter{
			Build: id(0, "").Build, Tenant: name, Key: "k", State: store.Poison, Event: event.Event{Tenant: name, Stream: "k"},
		})
	}
	fence := func() store.Fence {
		l := r.lanes()[id(0, "")]
		return store.Fence{Epoch: l.Epoch, Position: l.Position, Revision: l.Revision}
	}
	commit.Fence = fence()
	r.must(r.s.Commit(t.Context(), commit))
	commit.Letters = nil

	r.must(lane.RequestSplit(t.Context(), r.s, "p", 0))
	if r.must(r.s.Commit(t.Context(), commit)); r.try(id(0, "")) {
		t.Fatal("a lane was split that its owner has")
	}
	if err := r.s.Commit(t.Context(), commit); !errors.Is(err, store.ErrFenced) {
		t.Fatalf("commit as the lane is about to be split: %v, want ErrFenced", err)
	}
	r.must(lane.Resume(t.Context(), r.s, "p", "out")) // of what is not paused
	for x, l := range r.lanes() {
		if l.State != store.Recut {
			t.Errorf("lane %v is %s, want %s", x, l.State, store.Recut)
		}
	}
	r.must(lane.Release(t.Context(), r.s, id(0, ""), "me", r.lanes()[id(0, "")].Epoch))
	if r.try(id(0, "")) {
		t.Fatal("a lane was split while the owner of a tenant's lane has that")
	}
	r.release("me")
	zombie := fence()
	if !r.try(id(0, "")) {
		t.Fatal("lanes at rest were not split")
	}

	after := r.lanes()
	if len(after) != 4 {
		t.Fatalf("there are %d lanes, want 4: %+v", len(after), after)
	}
	for x, l := range after {
		old := before[id(0, x.Tenant)]
		if l.Of != 2 || l.Want != 0 || l.Until != 0 || l.State != store.Running || l.Owner != "" || l.Reason != "" {
			t.Errorf("lane %+v, want a free one of 2 that runs", l)
		}
		if l.Position != old.Position || string(l.Done) != string(old.Done) || l.Pinned != old.Pinned || l.Epoch <= old.Epoch || l.Revision <= old.Revision {
			t.Errorf("lane %+v was made of %+v", l, old)
		}
		if x.Tenant == "" && (len(l.Exclusions) != 2 || l.Exclusions["out"] != event.Unbounded || l.Exclusions["back"] != 25) {
			t.Errorf("lane %v excludes %v", x, l.Exclusions)
		}
	}
	for name, at := range r.letters() {
		if want, ok := byTenant(&event.Event{Tenant: name}, 2); ok && at != want || !ok && at != 0 {
			t.Fatalf("the letter of %s is in partition %d", name, at)
		}
	}
	commit.Fence = zombie
	if err := r.s.Commit(t.Context(), commit); !errors.Is(err, store.ErrFenced) {
		t.Errorf("commit of the owner before: %v, want ErrFenced", err)
	}
}

// TestMergePartitions: the lanes are told where to stand still, one that went on
// is followed, and what is not over is waited for.
func TestMergePartitions(t *testing.T) {
	r := newRig(t, 2)
	ctx := t.Context()
	low, high := id(0, ""), id(1, "")
	r.own("me", low, high)
	r.change(low, func(l *store.Lane) { l.Position = 100 })
	r.change(high, func(l *store.Lane) { l.Position, l.Exclusions = 5000, map[string]event.Position{"back": 5010} })
	r.must(lane.RequestMerge(ctx, r.s, "p", 1))
	stand := func(what string, want event.Position) {
		t.Helper()
		if r.try(low) {
			t.Fatalf("%s: merged", what)
		}
		for _, x := range []store.LaneID{low, high} {
			if l := r.lanes()[x]; l.Until != want || l.State != store.Running {
				t.Fatalf("%s: lane %v is %s and stands still at %v, want at %v", what, x, l.State, l.Until, want)
			}
		}
	}
	stand("far apart", 0)
	r.change(low, func(l *store.Lane) { l.Position = 4800 })
	stand("near", 5010)
	r.change(low, func(l *store.Lane) { l.Position = 5010 })
	stand("one is there", 5010)
	r.change(high, func(l *store.Lane) { l.Position = 5030 })
	stand("the other went on", 5030)
	// Its next owner does not know what is done beyond, and so would not go on to there.
	var beyond done.Set
	beyond.AddRange(5040, 5050)
	r.change(high, func(l *store.Lane) { l.Done = beyond.MarshalAfter(5030) })
	r.change(low, func(l *store.Lane) { l.Position = 5030 })
	stand("events beyond are done", 5050)
	r.must(lane.LetGo(ctx, r.s, low))
	for _, x := range []store.LaneID{low, high} {
		if l := r.lanes()[x]; l.Until != 0 || l.Want != 1 {
			t.Errorf("let go: %+v", l)
		}
	}
	stand("again", 5050)
	r.change(low, func(l *store.Lane) { l.Position = 5050 })
	r.change(high, func(l *store.Lane) { l.Position, l.Done = 5050, nil })
	r.must(lane.Detach(ctx, r.s, "p", "out"))
	stand("a tenant has left", 0)
	r.must(r.s.Update(ctx, func(tx store.Tx) error {
		for i := range 2 {
			l, err := tx.Lane(id(i, ""))
			if err != nil {
				return err
			}
			l.Exclusions["out"] = 5030
			if err := errors.Join(tx.PutLane(l), tx.DeleteLane(id(i, "out"))); err != nil {
				return err
			}
		}
		return nil
	}))
	if r.try(low) {
		t.Fatal("merged under their owner")
	}
	if l := r.lanes()[high]; l.State != store.Recut {
		t.Fatalf("ready, and %+v", l)
	}
	was := r.lanes()
	r.release("me")
	if !r.try(low) {
		t.Fatal("not merged at rest")
	}
	all := r.lanes()
	if l := all[low]; len(all) != 1 || l.Of != 1 || l.Position != 5050 || l.Want != 0 || l.Until != 0 || l.State != store.Running || len(l.Exclusions) != 0 ||
		l.Epoch <= was[low].Epoch || l.Revision <= max(was[low].Revision, was[high].Revision, was[high].Epoch) {
		t.Errorf("merged: %+v", all)
	}
}

// TestMergeMovesLetters of the partition that goes.
func TestMergeMovesLetters(t *testing.T) {
	r := newRig(t, 2)
	r.must(r.s.Commit(t.Context(), &store.Commit{Lane: id(1, ""), Fence: store.Fence{Position: 10}, Position: 10, Letters: []store.DeadLetter{
		{Build: id(1, "").Build, Partition: 1, Tenant: "a", Key: "k", State: store.Poison, Event: event.Event{Tenant: "a"}},
	}}))
	r.must(lane.RequestMerge(t.Context(), r.s, "p", 0))
	for !r.try(id(0, "")) {
	}
	if at, ok := r.letters()["a"]; !ok || at != 0 {
		t.Errorf("the letter is in partition %d (%v), want 0", at, ok)
	}
}

// TestEpochsOverSplits: whoever owns a lane of a name that was there before does
// so under a higher epoch, also a tenant's.
func TestEpochsOverSplits(t *testing.T) {
	r := newRig(t, 1)
	ctx, seen := t.Context(), map[store.LaneID]int64{}
	for range 5 {
		r.must(lane.RequestSplit(ctx, r.s, "p", 0))
		for !r.try(id(0, "")) {
		}
		r.must(lane.Detach(ctx, r.s, "p", "t"))
		for range 7 { // epochs run ahead of revisions
			r.own("me", id(0, ""), id(1, ""), id(0, "t"), id(1, "t"))
			for x, l := range r.lanes() {
				if l.Epoch <= seen[x] {
					t.Fatalf("lane %v is owned under epoch %d, and was under %d", x, l.Epoch, seen[x])
				}
				seen[x] = l.Epoch
			}
		}
		r.must(lane.Unpin(ctx, r.s, "p", "t"))
		for i := range 2 {
			l := r.lanes()[id(i, "t")]
			_, err := lane.TryMerge(ctx, r.s, l.LaneID, l.Epoch)
			r.must(err)
		}
		r.must(lane.RequestMerge(ctx, r.s, "p", 0))
		for !r.try(id(0, "")) {
			r.release("me")
		}
	}
}

func TestRecutRefused(t *testing.T) {
	split := func(i int) func(*rig) error {
		return func(r *rig) error { return lane.RequestSplit(r.Context(), r.s, "p", i) }
	}
	merge := func(i int) func(*rig) error {
		return func(r *rig) error { return lane.RequestMerge(r.Context(), r.s, "p", i) }
	}
	for _, tt := range []struct {
		name       string
		partitions int
		before     func(r *rig)
		do         func(r *rig) error
		want       error
		says       string
	}{
		{"no such partition", 2, nil, split(2), lane.ErrUnknown, "no partition 2"},
		{"merge of no such partition", 2, nil, merge(7), lane.ErrUnknown, "no partition 7"},
		{"merge of all", 2, nil, merge(-1), lane.ErrUnknown, "name one"},
		{"half of nothing", 3, nil, merge(1), lane.ErrState, "no half of another"},
		{"the only one", 1, nil, merge(0), lane.ErrState, "no half of another"},
		{"too many", 600, nil, split(-1), lane.ErrState, "1024 are possible"},
		{"too often", 1, func(r *rig) { r.change(id(0, ""), func(l *store.Lane) { l.Of = 1 << 30 }) }, split(0), lane.ErrState, "any further"},
		{"the other half is split", 2, func(r *rig) {
			r.must(split(1)(r))
			for !r.try(id(1, "")) {
			}
		}, merge(0), lane.ErrState, "merge its parts first"},
		{"is to be split", 2, func(r *rig) { r.must(split(1)(r)) }, merge(0), lane.ErrState, "cancel it first"},
		{"is to be merged", 2, func(r *rig) { r.must(merge(1)(r)) }, split(0), lane.ErrState, "cancel it first"},
		{"split of a stopped one", 1, func(r *rig) { r.change(id(0, ""), func(l *store.Lane) { l.State, l.Reason = store.Paused, "poison" }) }, split(0), lane.ErrState, "poison"},
		{"merge of a stopped one", 2, func(r *rig) { r.change(id(1, ""), func(l *store.Lane) { l.State = store.Paused }) }, merge(0), lane.ErrState, "resume the processor first"},
		{"a paused tenant", 2, func(r *rig) { r.must(lane.Pause(r.Context(), r.s, "p", "t", "x")) }, merge(0), lane.ErrState, `tenant "t" is paused`},
		{"a pinned tenant", 2, func(r *rig) { r.must(lane.Detach(r.Context(), r.s, "p", "t")) }, merge(0), lane.ErrState, `tenant "t" is pinned`},
		{"a tenant of a pool", 2, func(r *rig) {
			_, err := lane.SetPool(r.Context(), r.s, "t", "gold")
			r.must(err)
		}, merge(0), lane.ErrState, "clear its pool first"},
		{"a pool while a merge is asked for", 2, func(r *rig) { r.must(merge(1)(r)) }, func(r *rig) error {
			_, err := lane.SetPool(r.Context(), r.s, "t", "gold")
			return err
		}, lane.ErrState, "cancel it first"},
		{"a rebuild", 1, func(r *rig) {
			r.must(r.s.Update(context.Background(), func(tx store.Tx) error {
				p, err := tx.Processor("p")
				p.Rebuild = 2
				return errors.Join(err, tx.PutProcessor(p))
			}))
		}, split(0), lane.ErrState, "being rebuilt"},
		{"no such processor", 1, nil, func(r *rig) error { return lane.RequestSplit(r.Context(), r.s, "q", 0) }, lane.ErrUnknown, `"q"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, tt.partitions)
			if tt.before != nil {
				tt.before(r)
			}
			before := r.lanes()
			if err := tt.do(r); !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("error = %v, want %v that says %q", err, tt.want, tt.says)
			}
			for x, l := range r.lanes() {
				if l.Want != before[x].Want {
					t.Errorf("lane %v wants to be of %d, and wanted %d", x, l.Want, before[x].Want)
				}
			}
		})
	}
}

// TestPoolAfterMerge: what would hold up a merge is refused until it is done or taken
// back, and leaves nothing behind.
func TestPoolAfterMerge(t *testing.T) {
	for name, end := range map[string]func(r *rig){
		"done": func(r *rig) {
			for !r.try(id(0, "")) {
			}
		},
		"cancelled": func(r *rig) {
			_, err := lane.CancelRecut(t.Context(), r.s, "p")
			r.must(err)
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, 2)
			r.must(lane.RequestMerge(t.Context(), r.s, "p", 1))
			if _, err := lane.SetPool(t.Context(), r.s, "t", "gold"); !errors.Is(err, lane.ErrState) {
				t.Errorf("SetPool while a merge is asked for: %v, want ErrState", err)
			}
			r.must(r.s.View(t.Context(), func(tx store.Tx) error {
				pools, err := tx.Pools()
				if len(pools) != 0 {
					t.Errorf("the pools are %v, want none", pools)
				}
				return err
			}))
			end(r)
			if _, err := lane.SetPool(t.Context(), r.s, "t", "gold"); err != nil {
				t.Errorf("SetPool after that: %v", err)
			}
			for x, l := range r.lanes() {
				if x.Tenant == "t" && !l.Pinned || l.Want != 0 {
					t.Errorf("lane %v: %+v", x, l)
				}
			}
		})
	}
}

// TestCancelRecut lets go what stands still.
func TestCancelRecut(t *testing.T) {
	r := newRig(t, 4)
	r.own("me", id(0, ""), id(1, ""), id(2, ""), id(3, ""))
	r.change(id(2, ""), func(l *store.Lane) { l.Position = 12 })
	r.must(lane.RequestSplit(t.Context(), r.s, "p", 1))
	r.must(lane.RequestMerge(t.Context(), r.s, "p", 2))
	if r.try(id(0, "")) || r.try(id(1, "")) {
		t.Fatal("cut under the owner")
	}
	if all := r.lanes(); all[id(1, "")].State != store.Recut || all[id(0, "")].Until != 12 || all[id(2, "")].Until != 12 {
		t.Fatalf("%+v", all)
	}
	if n, err := lane.CancelRecut(t.Context(), r.s, "p"); n != 3 || err != nil {
		t.Errorf("CancelRecut = %d, %v, want 3", n, err)
	}
	for x, l := range r.lanes() {
		if l.State != store.Running || l.Until != 0 || l.Want != 0 || l.Of != 4 {
			t.Errorf("lane %v: %+v", x, l)
		}
	}
	if _, err := lane.TryRecut(t.Context(), r.s, id(0, ""), byTenant, 1000); !errors.Is(err, lane.ErrUnknown) {
		t.Errorf("TryRecut after that: %v, want ErrUnknown", err)
	}
}

// TestRecutOldRows: rows from before partitions could be split do not say of how
// many theirs is one.
func TestRecutOldRows(t *testing.T) {
	r := newRig(t, 2)
	for i := range 2 {
		r.change(id(i, ""), func(l *store.Lane) { l.Of = 0 })
	}
	want := func(of map[int]int) {
		t.Helper()
		all := r.lanes()
		if len(all) != len(of) {
			t.Errorf("there are %d lanes, want %v", len(all), of)
		}
		for i, n := range of {
			if l, ok := all[id(i, "")]; !ok || lane.Modulus(store.Processor{Partitions: 2}, &l) != n {
				t.Errorf("partition %d: %+v (%v), want one of %d", i, l, ok, n)
			}
		}
	}
	r.must(lane.RequestSplit(t.Context(), r.s, "p", 1))
	for !r.try(id(1, "")) {
	}
	want(map[int]int{0: 2, 1: 4, 3: 4})
	r.must(lane.RequestMerge(t.Context(), r.s, "p", 3))
	for !r.try(id(1, "")) {
	}
	want(map[int]int{0: 2, 1: 2})
	r.must(lane.RequestMerge(t.Context(), r.s, "p", 1))
	for !r.try(id(0, "")) {
	}
	want(map[int]int{0: 1})
}

// TestRebuildBesideRecut: a rebuild has the partitions that there are, lets go what
// stands still for a merge, and hands on what was asked for.
func TestRebuildBesideRecut(t *testing.T) {
	r := &rig{t, memstore.New()}
	ctx := t.Context()
	_, err := lane.Setup(ctx, r.s, store.Processor{Name: "p", Kind: "projection", Collection: "p", Partitions: 2}, func(int) event.Position { return 0 })
	r.must(err)
	r.must(lane.RequestSplit(ctx, r.s, "p", 0))
	for !r.try(id(0, "")) {
	}
	r.change(id(2, ""), func(l *store.Lane) { l.Position = 7 })
	r.must(lane.RequestMerge(ctx, r.s, "p", 2))
	r.must(lane.RequestSplit(ctx, r.s, "p", 1))
	r.own("me", id(0, ""), id(1, ""), id(2, ""))
	if r.try(id(0, "")) || r.try(id(1, "")) {
		t.Fatal("cut under the owner")
	}
	r.must(lane.StartRebuild(ctx, r.s, "p", ""))
	if err := lane.RequestSplit(ctx, r.s, "p", 0); !errors.Is(err, lane.ErrState) {
		t.Errorf("request beside a rebuild: %v, want ErrState", err)
	}
	if r.try(id(0, "")) || r.try(id(1, "")) {
		t.Fatal("cut beside a rebuild")
	}
	all := r.lanes()
	for i, of := range []int{4, 2, 4} {
		made := id(i, "")
		made.Number = 2
		if l := all[made]; l.Of != of || l.State != store.Running || l.Want != 0 || l.Until != 0 {
			t.Errorf("the rebuild's lane %+v, want one of %d", l, of)
		}
		if l := all[id(i, "")]; l.State != store.Running || l.Until != 0 || l.Want == 0 {
			t.Errorf("the live lane %+v, want it to run, and the request to stay", l)
		}
		r.change(made, func(l *store.Lane) { l.Position = 7 })
	}
	r.must(lane.TrySwitch(ctx, r.s, "p"))
	for i, want := range []int{2, 4, 2} {
		made := id(i, "")
		made.Number = 2
		if l := r.lanes()[made]; l.Want != want {
			t.Errorf("after the switch lane %v wants to be of %d, want %d", made, l.Want, want)
		}
	}
	made := id(0, "")
	made.Number = 2
	for !r.try(made) {
	}
	if n := len(r.lanes()); n != 2 {
		t.Errorf("%d lanes after the merge, want 2", n)
	}
}
