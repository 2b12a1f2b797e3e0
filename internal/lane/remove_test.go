package lane_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/internal/lane"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/fairlead-dev/fairlead/store/memstore"
)

// removing returns a rig whose projection reads a log of some partitions, with lanes at 10.
func removing(t *testing.T, partitions, logPartitions int) *rig {
	r := &rig{t, memstore.New()}
	_, err := lane.Setup(t.Context(), r.s, store.Processor{Name: "p", Kind: "projection", Collection: "p", Partitions: partitions, Builds: store.Builds{Log: "l", LogPartitions: logPartitions}},
		func(int) event.Position { return 10 })
	r.must(err)
	return r
}

// leave writes a document and a dead letter of a tenant, as lane id would.
func (r *rig) leave(id store.LaneID, tenant string) {
	r.Helper()
	l := r.lanes()[id]
	r.must(r.s.Commit(r.Context(), &store.Commit{
		Lane: id, Fence: store.Fence{Epoch: l.Epoch, Position: l.Position, Revision: l.Revision}, Position: l.Position,
		Writes: []store.Write{{Document: store.Document{Key: store.Key{Tenant: tenant, ID: fmt.Sprint(id.Partition)}, Data: []byte(`{}`)}}},
		Letters: []store.DeadLetter{{
			Build: id.Build, Partition: id.Partition, Tenant: tenant, Key: "k", State: store.Poison, Reason: "handler",
			Event: event.Event{Position: l.Position, Tenant: tenant, Stream: "s", Type: "x", ID: fmt.Sprint(tenant, id.Partition)},
		}},
	}))
}

func (r *rig) documents(number int64) (tenants []string) {
	r.Helper()
	docs, err := r.s.ListBuild(r.Context(), store.Build{Processor: "p", Number: number}, store.Key{}, 1000)
	r.must(err)
	for _, d := range docs {
		tenants = append(tenants, d.Tenant)
	}
	return slices.Compact(tenants)
}

func TestRemoveTenant(t *testing.T) {
	for _, tt := range []struct {
		name               string
		partitions, logOf  int
		upTo               map[int]event.Position
		want               map[int]event.Position // of the tenant's exclusion, by partition; none: there is none
		detached, unstored bool
	}{
		{name: "behind the log", partitions: 2, logOf: 2, upTo: map[int]event.Position{0: 30, 1: 40}, want: map[int]event.Position{0: 30, 1: 40}},
		{name: "one partition of it", partitions: 2, logOf: 2, upTo: map[int]event.Position{1: 40}, want: map[int]event.Position{1: 40}},
		{name: "ahead of it", partitions: 1, logOf: 1, upTo: map[int]event.Position{0: 3}, want: map[int]event.Position{0: 10}},
		{name: "shares of one partition", partitions: 4, logOf: 1, upTo: map[int]event.Position{0: 30}, want: map[int]event.Position{0: 30, 1: 30, 2: 30, 3: 30}},
		{name: "in a lane of its own", partitions: 2, logOf: 2, upTo: map[int]event.Position{0: 30, 1: 30}, want: map[int]event.Position{0: 30, 1: 30}, detached: true},
		{name: "in a lane that is ahead", partitions: 1, logOf: 1, upTo: map[int]event.Position{0: 3}, want: map[int]event.Position{0: 25}, detached: true},
		{name: "nothing said of the log", partitions: 1, logOf: 1, want: map[int]event.Position{0: 25}, detached: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := removing(t, tt.partitions, tt.logOf)
			if tt.detached {
				r.must(lane.Detach(t.Context(), r.s, "p", "out"))
				r.change(id(0, "out"), func(l *store.Lane) { l.Position, l.Epoch = 25, 7 })
			}
			for p := range tt.partitions {
				who := id(p, "")
				r.leave(who, "stays")
				if tt.detached {
					who = id(p, "out")
				}
				r.leave(who, "out")
			}
			before := r.lanes()
			for again := range 2 {
				n, err := lane.RemoveTenant(t.Context(), r.s, "p", "out", tt.upTo)
				if want := int64(tt.partitions) * int64(1-again); err != nil || n != want {
					t.Errorf("run %d: removed %d documents, want %d: %v", again, n, want, err)
				}
				if got := r.documents(1); !slices.Equal(got, []string{"stays"}) {
					t.Errorf("documents of %q are left", got)
				}
				if got := r.letters(); len(got) != 1 || !slices.Contains(slices.Collect(maps.Keys(got)), "stays") {
					t.Errorf("dead letters of %v are left", got)
				}
				got := map[int]event.Position{}
				for x, l := range r.lanes() {
					if x.Tenant != "" {
						t.Errorf("lane %v is left", x)
					}
					if until, ok := l.Exclusions["out"]; ok {
						got[x.Partition] = until
					}
					was := before[x]
					if _, ok := tt.want[x.Partition]; ok && again == 0 {
						// What the lane has in hand was prepared without the exclusion.
						err := r.s.Commit(t.Context(), &store.Commit{Lane: x, Fence: store.Fence{Epoch: was.Epoch, Position: was.Position, Revision: was.Revision}, Position: was.Position + 1})
						if !errors.Is(err, store.ErrFenced) {
							t.Errorf("lane %v: what it had in hand was committed: %v", x, err)
						}
						if own, ok := before[id(x.Partition, "out")]; ok && l.Revision <= own.Epoch {
							t.Errorf("lane %v: revision %d, so the tenant's next lane may have an epoch again that the last one had, %d", x, l.Revision, own.Epoch)
						}
					}
				}
				if !maps.Equal(got, tt.want) {
					t.Errorf("run %d: excluded up to %v, want %v", again, got, tt.want)
				}
			}
		})
	}
}

// A build that an operator may go back to, and one in the making, have the tenant no more.
func TestRemoveTenantFromAllBuilds(t *testing.T) {
	r := removing(t, 1, 1)
	r.leave(id(0, ""), "out")
	r.must(lane.StartRebuild(t.Context(), r.s, "p", "", lane.How{Keep: 1 << 40}))
	made := store.LaneID{Build: store.Build{Processor: "p", Number: 2}}
	r.change(made, func(l *store.Lane) { l.Position = 10 })
	r.leave(made, "out")
	r.must(lane.TrySwitch(t.Context(), r.s, "p"))
	if got := r.documents(1); len(got) == 0 {
		t.Fatal("the old build is not kept: the test shows nothing")
	}
	r.must(lane.StartRebuild(t.Context(), r.s, "p", "", lane.How{}))
	_, err := lane.RemoveTenant(t.Context(), r.s, "p", "out", map[int]event.Position{0: 20})
	r.must(err)
	for number := range int64(3) {
		if got := r.documents(number + 1); len(got) > 0 {
			t.Errorf("build %d has documents of %q", number+1, got)
		}
	}
	for x, l := range r.lanes() {
		if l.Exclusions["out"] != 20 {
			t.Errorf("lane %v excludes %v", x, l.Exclusions)
		}
	}
}

func TestRemoveTenantRefuses(t *testing.T) {
	r := removing(t, 1, 1)
	r.leave(id(0, ""), "out")
	if _, err := lane.RemoveTenant(t.Context(), r.s, "p", "", nil); err == nil {
		t.Error("no tenant was removed")
	}
	if _, err := lane.RemoveTenant(t.Context(), r.s, "another", "out", nil); !errors.Is(err, lane.ErrUnknown) {
		t.Errorf("a processor that is not there: %v", err)
	}
	r.must(lane.StartRebuild(t.Context(), r.s, "p", "out", lane.How{}))
	if _, err := lane.RemoveTenant(t.Context(), r.s, "p", "out", map[int]event.Position{0: 20}); !errors.Is(err, lane.ErrState) {
		t.Errorf("a tenant that is being rebuilt: %v", err)
	}
	if got := r.documents(1); len(got) != 1 {
		t.Errorf("what was refused has removed something: %q are left", got)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := lane.RemoveTenant(ended, r.s, "p", "out", nil); !errors.Is(err, context.Canceled) {
		t.Errorf("a context that has ended: %v", err)
	}
}

// The lane of a topic that was deleted with its tenant goes on to its end; one that was
// paused for another reason stays so.
func TestRemoveTenantResumesWhatIsGone(t *testing.T) {
	r := removing(t, 2, 2)
	r.change(id(0, ""), func(l *store.Lane) {
		l.State, l.Reason = store.Paused, fmt.Errorf("topic x: %w", eventlog.ErrGone).Error()
	})
	r.change(id(1, ""), func(l *store.Lane) { l.State, l.Reason = store.Paused, "operator" })
	_, err := lane.RemoveTenant(t.Context(), r.s, "p", "out", map[int]event.Position{0: 1 << 53, 1: 20})
	r.must(err)
	if l := r.lanes()[id(0, "")]; l.State != store.Running || l.Reason != "" {
		t.Errorf("lane of the topic that is gone: %+v", l)
	}
	if l := r.lanes()[id(1, "")]; l.State != store.Paused || l.Reason != "operator" {
		t.Errorf("lane that an operator paused: %+v", l)
	}
}
