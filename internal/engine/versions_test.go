package engine

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/internal/lane"
	"github.com/fairlead-dev/fairlead/projection"
	"github.com/fairlead-dev/fairlead/store"
)

// counting returns a projection that counts an event as so many: a document that
// two versions have folded shows it.
func counting(version string, each int) *projection.Projection[tally] {
	return projection.New("docs", projection.On("added", func(t *tally, e projection.Event[added]) error {
		t.N += each
		t.Last = e.Version
		return nil
	})).WithVersion(version)
}

// program starts an engine with a version of the projection; it ends with the
// test, or with stop.
func (r *rig) program(name string, p Processor) (e *Engine, stop func()) {
	r.t.Helper()
	e = r.engine(name)
	p.Name = "docs"
	if err := e.Add(r.t.Context(), p); err != nil {
		r.t.Fatal(err)
	}
	stop = sync.OnceFunc(r.run(e))
	r.t.Cleanup(stop)
	return e, stop
}

func (r *rig) row() (p store.Processor) {
	r.t.Helper()
	err := r.st.View(context.Background(), func(tx store.Tx) (err error) { p, err = tx.Processor("docs"); return err })
	if err != nil {
		r.t.Fatal(err)
	}
	return p
}

// traffic appends an event every 10 ms for a while, and checks the document after
// each: one version has folded all of it.
func (r *rig) traffic(p *projection.Projection[tally], d time.Duration) (last eventlog.Token) {
	r.t.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		last = r.append("t", "s", added{})
		if n := r.get(p, "t", "s").N; n >= 1_000_000 && n%1_000_000 != 0 {
			r.t.Fatalf("the document counts %d: two versions have folded it", n)
		}
	}
	return last
}

// A rolling deployment: the new programs start one rebuild among them, only they
// work it, the old ones keep the live documents until the switch, and do not
// rebuild back.
func TestRebuildOfAChangedProjection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		old, changed := counting("v1", 1), counting("v2", 1_000_000)
		auto := func(p *projection.Projection[tally]) Processor {
			return Processor{Projection: p, RebuildChanged: true, Rebuild: lane.How{Keep: time.Hour}}
		}
		_, stop1 := r.program("old1", auto(old))
		_, stop2 := r.program("old2", auto(old))
		for range 300 {
			r.append("t", "s", added{})
			r.append("u", "s", added{})
		}
		time.Sleep(time.Second)
		if got := r.get(old, "t", "s").N; got != 300 {
			t.Fatalf("the document counts %d, want 300", got)
		}
		r.traffic(old, 30*time.Second)
		_, stop3 := r.program("new1", auto(changed))
		r.traffic(old, time.Second)
		_, stop4 := r.program("new2", auto(changed))
		r.traffic(old, 30*time.Second)
		if p := r.row(); p.LastBuild != 2 || p.Live != 2 || p.Rebuild != 0 || p.Version != "v2" || p.Builds.Kept.Version != "v1" {
			t.Fatalf("the row is %+v, want build 2, of v2, live, and build 1 kept", p)
		}
		for _, l := range r.lanes("docs") {
			if l.Number == 2 && !slices.ContainsFunc([]string{"new1", "new2"}, func(n string) bool { return len(l.Owner) > 4 && l.Owner[:4] == n }) {
				t.Errorf("lane %v is owned by %q", l.LaneID, l.Owner)
			}
		}
		stop1()
		tok := r.traffic(changed, time.Minute)
		stop2()
		if p := r.row(); p.LastBuild != 2 || p.Live != 2 {
			t.Errorf("the row is %+v: an old program has begun a rebuild", p)
		}
		stop3()
		stop4()
		// Only old programs are left: service goes on, and is not rebuilt back.
		_, stop5 := r.program("old3", auto(old))
		r.append("u", "s", added{})
		time.Sleep(time.Minute)
		if p := r.row(); p.LastBuild != 2 || p.Rebuild != 0 {
			t.Errorf("the row is %+v: an old program has begun a rebuild", p)
		}
		if got := r.get(old, "u", "s").N; got != 300_000_001 {
			t.Errorf("the document counts %d, want 300 million and the one of the old program", got)
		}
		stop5()
		_ = tok
	})
}

// Programs that start at once begin one rebuild, a newer version takes the place
// of one that was being made, and a cancelled one does not begin again.
func TestRebuildBeginsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		_, stop := r.program("old", Processor{Projection: counting("v1", 1)})
		r.wait2("docs", r.append("t", "s", added{}))
		stop()
		auto := func(version string) Processor {
			return Processor{Projection: counting(version, 1_000_000), RebuildChanged: true, Rebuild: lane.How{Review: true}}
		}
		var stops []func()
		for _, name := range []string{"a", "b", "c"} {
			_, stop := r.program(name, auto("v2"))
			stops = append(stops, stop)
		}
		time.Sleep(10 * time.Second)
		if p := r.row(); p.LastBuild != 2 || p.Rebuild != 2 || p.Builds.Making.Version != "v2" {
			t.Errorf("the row is %+v, want build 2 in the making", p)
		}
		_, stop = r.program("d", auto("v3"))
		stops = append(stops, stop)
		time.Sleep(time.Minute)
		if p := r.row(); p.LastBuild != 3 || p.Rebuild != 3 || p.Builds.Making.Version != "v3" || len(p.Retired) != 0 {
			t.Errorf("the row is %+v, want build 3, of v3, in the making, and build 2 gone", p)
		}
		if err := lane.CancelRebuild(t.Context(), r.st, "docs"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if p := r.row(); p.LastBuild != 3 || p.Rebuild != 0 {
			t.Errorf("the row is %+v: a rebuild began again that was cancelled", p)
		}
		for _, stop := range stops {
			stop()
		}
	})
}

func (r *rig) wait2(name string, tok eventlog.Token) {
	r.t.Helper()
	for range 1000 {
		if ok, err := Reached(r.t.Context(), r.log, r.st, name, tok); err != nil || ok {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	r.t.Fatalf("%s did not reach %v", name, tok.Position)
}

// A rebuild that an operator starts waits for a word, goes live with it, and
// leaves the build before to be gone back to: by programs that have its version.
func TestReviewSwitchAndBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		old, changed := counting("v1", 1), counting("v2", 1_000_000)
		_, stopOld := r.program("old", Processor{Projection: old})
		r.traffic(old, time.Second)
		_, stopNew := r.program("new", Processor{Projection: changed})
		time.Sleep(time.Second) // so the old one knows of it, and leaves the build to it
		must(lane.StartRebuild(t.Context(), r.st, "docs", "", lane.How{Review: true, Keep: time.Hour}))
		r.traffic(old, time.Minute)
		if p := r.row(); p.Live != 1 || p.Rebuild != 2 || p.Builds.Making.Version != "v2" {
			t.Fatalf("the row is %+v, want build 2, of v2, waiting", p)
		}
		must(lane.Approve(t.Context(), r.st, "docs"))
		r.traffic(old, 5*time.Second)
		if p := r.row(); p.Live != 2 || p.Builds.Kept.Number != 1 {
			t.Fatalf("the row is %+v, want build 2 live and build 1 kept", p)
		}
		kept := r.lanes("docs")[0]
		stopOld()
		must(lane.Back(t.Context(), r.st, "docs", lane.How{Keep: time.Hour}))
		r.traffic(changed, time.Minute)
		if p, l := r.row(), r.lanes("docs")[0]; p.Live != 2 || l.Position != kept.Position {
			t.Errorf("the lane of the kept build went from %v to %v, and nobody has its version; %+v", kept.Position, l.Position, p)
		}
		_, stopOld = r.program("old", Processor{Projection: old})
		r.traffic(changed, time.Minute)
		tok := r.append("t", "s", added{})
		r.wait2("docs", tok)
		p, got := r.row(), r.get(old, "t", "s")
		if p.Live != 1 || p.Version != "v1" || p.Builds.Kept.Number != 2 || got.N >= 1_000_000 || int64(got.N) != got.Last {
			t.Errorf("the row is %+v and the document %+v, want build 1 live with all events, and build 2 kept", p, got)
		}
		// A way back that is given up is kept again; and forgotten in time.
		must(lane.Back(t.Context(), r.st, "docs", lane.How{Keep: time.Hour, Review: true}))
		must(lane.CancelRebuild(t.Context(), r.st, "docs"))
		if p := r.row(); p.Builds.Kept.Number != 2 || p.Rebuild != 0 || p.Live != 1 {
			t.Errorf("the row is %+v, want build 2 kept again", p)
		}
		time.Sleep(61 * time.Minute)
		if p := r.row(); p.Builds.Kept.Number != 0 || len(p.Retired) != 0 || len(r.lanes("docs")) != 1 {
			t.Errorf("the row is %+v with the lanes %+v, want nothing left of build 2", p, r.lanes("docs"))
		}
		if err := lane.Back(t.Context(), r.st, "docs"); !errors.Is(err, lane.ErrUnknown) {
			t.Errorf("Back with nothing kept = %v", err)
		}
		stopOld()
		stopNew()
	})
}

// A tenant's rebuild can be gone back on too, and a second rebuild while one is
// kept.
func TestBackOfATenant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		p := counting("v1", 1)
		_, stop := r.program("a", Processor{Projection: p})
		r.traffic(p, time.Second)
		must(lane.StartRebuild(t.Context(), r.st, "docs", "t", lane.How{Keep: time.Hour}))
		r.traffic(p, 5*time.Second)
		if row := r.row(); row.Builds.Kept.Tenant != "t" || row.Builds.Kept.Number != 3 || row.Live != 1 {
			t.Fatalf("the row is %+v, want build 3 kept, of the tenant", row)
		}
		// As if the rebuilt documents were wrong.
		_, err := 0, r.st.Update(t.Context(), func(tx store.Tx) error {
			_, err := tx.DeleteDocuments(store.Build{Processor: "docs", Number: 1}, "t", 0)
			return err
		})
		must(err)
		must(lane.Back(t.Context(), r.st, "docs", lane.How{Keep: time.Hour}))
		time.Sleep(5 * time.Second)
		tok := r.append("t", "s", added{})
		r.wait2("docs", tok)
		if got := r.get(p, "t", "s"); int64(got.N) != got.Last || got.N < 100 {
			t.Errorf("the document is %+v, want all events", got)
		}
		// A whole rebuild takes the place of what is kept of a tenant.
		must(lane.StartRebuild(t.Context(), r.st, "docs", "", lane.How{Keep: time.Hour}))
		r.traffic(p, 5*time.Second)
		if k := r.row().Builds.Kept; k.Number != 1 || k.Tenant != "" {
			t.Errorf("kept is %+v, want build 1", k)
		}
		// And a tenant's rebuild leaves it alone.
		must(lane.StartRebuild(t.Context(), r.st, "docs", "t", lane.How{Keep: time.Hour}))
		r.traffic(p, 5*time.Second)
		if row := r.row(); row.Builds.Kept.Number != 1 || row.Rebuild != 0 {
			t.Errorf("the row is %+v, want build 1 kept", row)
		}
		must(lane.Back(t.Context(), r.st, "docs"))
		r.traffic(p, 5*time.Second)
		if row := r.row(); row.Live != 1 || row.Builds.Kept.Number != 0 {
			t.Errorf("the row is %+v, want build 1 live", row)
		}
		stop()
	})
}
