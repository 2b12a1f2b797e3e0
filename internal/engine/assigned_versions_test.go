package engine

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/eventlog/memlog"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/fairlead-dev/fairlead/store/memstore"
)

// A lane is worked although the log's sharing gave its partition to a process with
// another version of the code than the lane is for: while a program is being replaced,
// the live lanes and those of the rebuild, on all partitions, whoever has them.
func TestLanesOfBothVersionsAreWorked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &sharedRig{&rig{t: t, log: memlog.New(memlog.WithPartitions(4)), st: memstore.New()}, map[*Engine]*sharedLog{}}
		old := counting("v1", 1)
		a := r.member("a", Processor{Name: "docs", Projection: old})
		stopA := r.run(a)
		r.logs[a].give(0, 1, 2, 3)
		write := func() (toks []eventlog.Token) {
			for i := range 40 {
				toks = append(toks, r.append("t", fmt.Sprint("s", i), added{}))
			}
			return toks
		}
		// Every stream has n events, each of which counts as so many.
		check := func(when string, n, each int) {
			t.Helper()
			for i := range 40 {
				if got := r.get(old, "t", fmt.Sprint("s", i)).N; got != n*each {
					t.Errorf("%s: stream s%d counts %d, want %d", when, i, got, n*each)
				}
			}
		}
		write()
		time.Sleep(5 * time.Second)
		check("at first", 1, 1)

		b := r.member("b", Processor{Name: "docs", Projection: counting("v2", 1_000_000)})
		stopB := r.run(b)
		<-r.logs[a].give(0, 1)
		r.logs[b].give(2, 3)
		time.Sleep(10 * time.Second)
		write()
		time.Sleep(5 * time.Second)
		check("beside a newer program", 2, 1) // b has two of the partitions, and a the lanes
		for _, l := range r.lanes("docs") {
			if l.Owner != a.ID() {
				t.Errorf("lane %v has the owner %q, want a's, which has the version", l.LaneID, l.Owner)
			}
		}

		// The newer one rebuilds: its lanes on a's partitions too.
		stopB()
		b = r.member("b2", Processor{Name: "docs", Projection: counting("v2", 1_000_000), RebuildChanged: true})
		stopB = r.run(b)
		r.logs[b].give(2, 3)
		time.Sleep(20 * time.Second)
		check("rebuilt", 2, 1_000_000)
		write()
		time.Sleep(5 * time.Second)
		check("live by the new version", 3, 1_000_000)

		// And when the old one has gone, all are b's, and stay so.
		stopA()
		r.logs[b].give(0, 1, 2, 3)
		time.Sleep(5 * time.Second)
		before := map[store.LaneID]int64{}
		for _, l := range r.lanes("docs") {
			before[l.LaneID] = l.Epoch
		}
		write()
		time.Sleep(20 * time.Second)
		check("afterwards", 4, 1_000_000)
		for _, l := range r.lanes("docs") {
			if l.Owner != b.ID() || l.Epoch != before[l.LaneID] {
				t.Errorf("lane %v has the owner %q and epoch %d, want %q and %d", l.LaneID, l.Owner, l.Epoch, b.ID(), before[l.LaneID])
			}
		}
		stopB()
		for _, l := range r.lanes("docs") {
			if l.Owner != "" {
				t.Errorf("at the end lane %v has the owner %q", l.LaneID, l.Owner)
			}
		}
	})
}

// Nor is a lane left alone whose partition is of a process without the processor; it
// is given back as soon as that one has it.
func TestLanesOfAMissingProcessorAreWorked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newSharedRig(t)
		p := tallies("p", false)
		a, b := r.member("a", Processor{Name: "p", Projection: p}), r.member("b", Processor{Name: "other", Projection: tallies("other", false)})
		names := map[*Engine]string{a: "a", b: "b"}
		defer r.run(a)()
		defer r.run(b)()
		r.logs[a].give(0, 1)
		r.logs[b].give(2, 3)
		time.Sleep(10 * time.Second)
		if got := r.owners(names); got != "[0:a 1:a 2:a 3:a]" {
			t.Fatalf("owners %s, want a's, which alone has the processor", got)
		}
		if err := b.Add(t.Context(), Processor{Name: "p", Projection: p}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		if got := r.owners(names); got != "[0:a 1:a 2:b 3:b]" {
			t.Fatalf("owners %s, want each its own", got)
		}
		for range 30 {
			time.Sleep(time.Second)
			r.append("t", "s", added{})
			if got := r.owners(names); got != "[0:a 1:a 2:b 3:b]" {
				t.Fatalf("owners %s, want that they stay", got)
			}
		}
	})
}
