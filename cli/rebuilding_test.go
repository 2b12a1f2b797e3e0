package cli

import (
	"context"
	"io"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog/memlog"
	"github.com/fairlead-dev/fairlead/internal/lane"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/fairlead-dev/fairlead/store/memstore"
)

// TestWaitForRebuildThatIsOver: a small rebuild may be over before its row is read.
func TestWaitForRebuildThatIsOver(t *testing.T) {
	s := memstore.New()
	row, err := lane.Setup(t.Context(), s, store.Processor{Name: "p", Kind: "projection", Collection: "p", Partitions: 1}, func(int) event.Position { return event.Beginning })
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	p := &program{Env: &Env{Stdout: io.Discard, Stderr: io.Discard}}
	if err := p.waitForRebuild(ctx, fairlead.Admin{Store: s, Log: memlog.New()}, row, true); err != nil {
		t.Errorf("it is waited for: %v", err)
	}
}

// TestStatusOfARebuildThatNobodyMakes: what keeps a rebuild waiting is told with the
// processor, once for all partitions.
func TestStatusOfARebuildThatNobodyMakes(t *testing.T) {
	p := store.Processor{Name: "p", Live: 1, Rebuild: 2, Builds: store.Builds{Making: store.Making{Claimed: true, Version: "v2"}}}
	var lanes []fairlead.Lane
	for part := range 3 {
		for build := int64(1); build <= 2; build++ {
			id := store.LaneID{Build: store.Build{Processor: "p", Number: build}, Partition: part}
			lanes = append(lanes, fairlead.Lane{Lane: store.Lane{LaneID: id, State: store.Running, Owner: "m"}, Live: build == 1, Alive: true})
			id.Tenant = "acme"
			l := fairlead.Lane{Lane: store.Lane{LaneID: id, State: store.Running, Owner: "m"}, Live: build == 1, Alive: build == 1, Pool: "gold"}
			if build == 2 {
				l.Unserved = "start one"
			}
			lanes = append(lanes, l)
		}
	}
	if got := summary(p, lanes); len(got.Unserved) != 1 || got.Unserved[0] != `tenant "acme": start one` || got.Unowned != 0 {
		t.Errorf("status has %d unowned lanes, unserved %q, want one reason", got.Unowned, got.Unserved)
	}
	p.Paused = true
	if got := summary(p, lanes); len(got.Unserved) != 0 {
		t.Errorf("of a paused processor: unserved %q", got.Unserved)
	}
}
