package lane_test

import (
	"errors"
	"testing"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/internal/lane"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/fairlead-dev/fairlead/store/memstore"
)

// TestRemoveTenant: what was made of a tenant goes, in all builds, with the lanes of its
// own; its events up to the positions are nobody's, what base lanes have in hand of them
// does not commit, and a zombie of its lane neither. Others keep what they have.
func TestRemoveTenantAndItsZombies(t *testing.T) {
	ctx, s := t.Context(), memstore.New()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	_, err := lane.Setup(ctx, s, store.Processor{Name: "p", Collection: "p", Partitions: 3, Builds: store.Builds{LogPartitions: 3}}, func(int) event.Position { return 0 })
	must(err)
	live := store.Build{Processor: "p", Number: 1}
	id := func(partition int, tenant string) store.LaneID {
		return store.LaneID{Build: live, Partition: partition, Tenant: tenant}
	}
	commit := func(id store.LaneID, to event.Position, tenants ...string) *store.Commit {
		t.Helper()
		l := allLanes(t, s)[id]
		c := &store.Commit{Lane: id, Fence: store.Fence{Epoch: l.Epoch, Position: l.Position, Revision: l.Revision}, Position: to}
		for _, tenant := range tenants {
			c.Writes = append(c.Writes, store.Write{Document: store.Document{Key: store.Key{Tenant: tenant, ID: "d"}, Position: to, Data: []byte("{}")}})
			c.Letters = append(c.Letters, store.DeadLetter{Build: live, Partition: id.Partition, Tenant: tenant, Key: "k", State: store.Poison, Reason: "handler",
				Event: event.Event{Position: to, ID: "e", Tenant: tenant, Stream: "k", Type: "T"}})
		}
		return c
	}
	must(s.Commit(ctx, commit(id(0, ""), 10, "t", "u")))
	must(lane.DetachHere(ctx, s, id(1, ""), "t"))
	must(s.Commit(ctx, commit(id(1, "t"), 40, "t")))
	must(s.Update(ctx, func(tx store.Tx) error { // of which it was away before; and one that has lost its topic
		l, err := tx.Lane(id(2, ""))
		if err != nil {
			return err
		}
		l.State, l.Reason = store.Paused, "topic x was deleted: "+eventlog.ErrGone.Error()
		return tx.PutLane(l)
	}))
	inHand, zombie := commit(id(0, ""), 20, "t"), commit(id(1, "t"), 50, "t")
	before := allLanes(t, s)

	upTo := map[int]event.Position{0: 30, 2: 1 << 53}
	n, err := lane.RemoveTenant(ctx, s, "p", "t", upTo)
	if err != nil || n != 1 {
		t.Fatalf("%d documents removed, %v, want 1", n, err)
	}
	for what, c := range map[string]*store.Commit{"in hand": inHand, "of a zombie": zombie} {
		if err := s.Commit(ctx, c); !errors.Is(err, store.ErrFenced) {
			t.Errorf("a commit %s: %v", what, err)
		}
	}
	check := func(when string) {
		t.Helper()
		lanes := allLanes(t, s)
		if _, ok := lanes[id(1, "t")]; ok || len(lanes) != 3 {
			t.Errorf("%s: lanes %+v", when, lanes)
		}
		for partition, want := range map[int]event.Position{0: 30, 1: 40, 2: 1 << 53} {
			if l := lanes[id(partition, "")]; l.Exclusions["t"] != want || l.State != store.Running || l.Revision <= before[id(partition, "")].Revision {
				t.Errorf("%s: base lane %d is %+v, want it to leave the tenant out to %v", when, partition, l, want)
			}
		}
		if lanes[id(1, "")].Revision <= before[id(1, "t")].Epoch {
			t.Errorf("%s: the tenant's next lane would begin at an epoch that its last one had", when)
		}
		docs, err := s.Load(ctx, live, []store.Key{{Tenant: "t", ID: "d"}, {Tenant: "u", ID: "d"}})
		if err != nil || len(docs) != 1 || docs[0].Tenant != "u" {
			t.Errorf("%s: documents %+v, %v, want u's", when, docs, err)
		}
		must(s.View(ctx, func(tx store.Tx) error {
			letters, err := tx.Letters(store.LetterFilter{Build: live})
			if len(letters) != 1 || letters[0].Tenant != "u" {
				t.Errorf("%s: letters %+v, want u's", when, letters)
			}
			return err
		}))
	}
	check("removed")
	if n, err = lane.RemoveTenant(ctx, s, "p", "t", upTo); err != nil || n != 0 {
		t.Errorf("once more: %d documents removed, %v", n, err)
	}
	check("once more")

	// A tenant of that name begins anew behind the positions, a rebuild of it is in the way.
	must(lane.DetachHere(ctx, s, id(0, ""), "t"))
	if l := allLanes(t, s)[id(0, "t")]; l.Position != 30 {
		t.Errorf("the next tenant of that name begins at %v, want 30", l.Position)
	}
	must(lane.StartRebuild(ctx, s, "p", "t", lane.How{}))
	if _, err := lane.RemoveTenant(ctx, s, "p", "t", upTo); !errors.Is(err, lane.ErrState) {
		t.Errorf("while it is rebuilt: %v", err)
	}
	if _, err := lane.RemoveTenant(ctx, s, "p", "bad\n", nil); err == nil {
		t.Error("a tenant with a new line in its name was removed")
	}
	if _, err := lane.RemoveTenant(ctx, s, "nobody", "t", nil); !errors.Is(err, lane.ErrUnknown) {
		t.Errorf("of a processor that is not there: %v", err)
	}
}
