package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog/memlog"
	"github.com/fairlead-dev/fairlead/internal/lane"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/fairlead-dev/fairlead/store/memstore"
)

// lanesOf returns the lanes of a processor.
func (r *rig) lanesOf(processor string) (lanes []store.Lane) {
	r.t.Helper()
	err := r.st.View(r.t.Context(), func(tx store.Tx) (err error) { lanes, err = tx.Lanes(processor); return err })
	if err != nil {
		r.t.Fatal(err)
	}
	return lanes
}

// parts returns the partitions of a processor once nothing is asked for them.
func (r *rig) parts(processor string) string {
	r.t.Helper()
	for range 600 {
		var out []string
		wait := false
		for _, l := range r.lanesOf(processor) {
			wait = wait || l.Want != 0
			if l.Tenant == "" {
				out = append(out, fmt.Sprintf("%d/%d", l.Partition, l.Of))
			}
		}
		if !wait {
			return strings.Join(out, " ")
		}
		time.Sleep(100 * time.Millisecond)
	}
	r.t.Fatalf("partitions of %q are not cut: %+v", processor, r.lanesOf(processor))
	return ""
}

// A callLog is what a reactor was called with.
type callLog struct {
	mu    sync.Mutex
	busy  map[string]bool
	calls map[string][]event.Position
	bad   error
}

func (c *callLog) react(took time.Duration) func(context.Context, Delivery) error {
	return func(ctx context.Context, d Delivery) error {
		key := d.Tenant + "/" + d.Stream
		c.mu.Lock()
		if c.busy[key] {
			c.bad = fmt.Errorf("event at %v of %s is begun while another one is in progress", d.Position, key)
		}
		c.busy[key] = true
		c.mu.Unlock()
		defer func() {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.busy[key] = false
			c.calls[key] = append(c.calls[key], d.Position)
		}()
		select {
		case <-time.After(took):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// TestRecutUnderLoad splits and merges the partitions of all kinds of processors
// while events come all the time, in two processes. Every event takes effect
// once, in order by key, and the lanes of others never change hands.
func TestRecutUnderLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newFleetRig(t)
		calls := &callLog{busy: map[string]bool{}, calls: map[string][]event.Position{}}
		ledger := func(_ context.Context, tx any, events []event.Event) error {
			rows := tx.(*memstore.Tx).Table("rows")
			for i := range events {
				k := events[i].Tenant + "/" + events[i].Stream
				row, _ := rows.Get(k)
				rows.Put(k, fmt.Appendf(row, "%d ", events[i].Position))
			}
			return nil
		}
		docs := tallies("docs", true)
		ps := []Processor{
			{Name: "docs", Projection: docs},
			{Name: "rows", Batch: ledger},
			{Name: "calls", React: calls.react(30 * time.Millisecond), Concurrency: 50},
		}
		var others []Processor
		for i := range 4 {
			others = append(others, Processor{Name: fmt.Sprint("other", i), Projection: tallies(fmt.Sprint("other", i), false)})
		}
		stopA, _ := r.start("a", append(ps, others...)...)
		defer stopA()
		stopB, _ := r.start("b", ps...) // so the others have one place
		defer stopB()
		wait := r.rig.engine("w")
		time.Sleep(30 * time.Second) // lanes have found their owners
		before := r.owners()

		want, wantRows, wantCalls := map[string]*tally{}, map[string]string{}, map[string][]event.Position{}
		stop, ended := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(ended)
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				case <-time.After(10 * time.Millisecond):
				}
				tenant, stream, doc := fmt.Sprint("t", n%7), fmt.Sprint("s", n%5), fmt.Sprint("d", n%11)
				tok := r.append(tenant, stream, added{Doc: doc})
				if want[tenant+"/"+doc] == nil {
					want[tenant+"/"+doc] = &tally{}
				}
				d := want[tenant+"/"+doc]
				d.N++
				d.Sum = d.Sum*31 + uint64(r.n)
				wantRows[tenant+"/"+stream] += fmt.Sprintf("%d ", tok.Position)
				wantCalls[tenant+"/"+stream] = append(wantCalls[tenant+"/"+stream], tok.Position)
			}
		}()
		for _, step := range []struct {
			do   func(p string) error
			want string
		}{
			{func(p string) error { return lane.RequestSplit(t.Context(), r.st, p, -1) }, "0/2 1/2"},
			{func(p string) error { return lane.RequestSplit(t.Context(), r.st, p, -1) }, "0/4 1/4 2/4 3/4"},
			{func(p string) error { return lane.RequestMerge(t.Context(), r.st, p, 3) }, "0/4 1/2 2/4"},
			{func(p string) error { return lane.RequestMerge(t.Context(), r.st, p, 0) }, "0/2 1/2"},
			{func(p string) error { return lane.RequestSplit(t.Context(), r.st, p, 1) }, "0/2 1/4 3/4"},
			{func(p string) error { return lane.RequestMerge(t.Context(), r.st, p, 1) }, "0/2 1/2"},
			{func(p string) error { return lane.RequestMerge(t.Context(), r.st, p, 1) }, "0/1"},
		} {
			for _, p := range ps {
				if err := step.do(p.Name); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(2 * time.Second)
			for _, p := range ps {
				if got := r.parts(p.Name); got != step.want {
					t.Fatalf("%s has the partitions %s, want %s", p.Name, got, step.want)
				}
			}
		}
		close(stop)
		<-ended
		last := r.append("t0", "s0", added{Doc: "d0"})
		d := want["t0/d0"]
		d.N++
		d.Sum = d.Sum*31 + uint64(r.n)
		wantRows["t0/s0"] += fmt.Sprintf("%d ", last.Position)
		wantCalls["t0/s0"] = append(wantCalls["t0/s0"], last.Position)
		for _, p := range ps {
			if err := wait.WaitFor(t.Context(), p.Name, last); err != nil {
				t.Fatal(err)
			}
		}
		for k, w := range want {
			tenant, doc, _ := strings.Cut(k, "/")
			if got := r.get(docs, tenant, doc); got.N != w.N || got.Sum != w.Sum {
				t.Errorf("document %s is %+v, want %+v", k, got, *w)
			}
		}
		rows, err := r.mem.Rows(t.Context(), "rows")
		if err != nil {
			t.Fatal(err)
		}
		calls.mu.Lock()
		defer calls.mu.Unlock()
		if calls.bad != nil {
			t.Error(calls.bad)
		}
		for k := range wantRows {
			if string(rows[k]) != wantRows[k] {
				t.Errorf("the batch projector was handed the events at %s of %s, want %s", rows[k], k, wantRows[k])
			}
			if got := calls.calls[k]; fmt.Sprint(got) != fmt.Sprint(wantCalls[k]) {
				t.Errorf("the reactor was handed the events at %v of %s, want %v", got, k, wantCalls[k])
			}
		}
		for id, o := range r.owners() {
			if strings.HasPrefix(id.Processor, "other") && o != before[id] {
				t.Errorf("lane %v was %+v and is %+v: a split is none of its business", id, before[id], o)
			}
		}
	})
}

// TestSplitNeedsItsKey: without it nobody can say which events belong together.
func TestSplitNeedsItsKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		p := Processor{Name: "p", React: func(context.Context, Delivery) error { return nil }}
		q := p
		q.Name, q.OrderBy = "q", func(*event.Event) string { return "all" }
		r.add(p)
		r.add(q)
		defer r.run(r.e)()
		for _, name := range []string{"p", "q"} {
			if err := lane.RequestSplit(t.Context(), r.st, name, 0); err != nil {
				t.Fatal(err)
			}
		}
		if got := r.parts("p"); got != "0/2 1/2" {
			t.Errorf("p has the partitions %s", got)
		}
		if got := r.parts("q"); got != "0/1" {
			t.Errorf("q has the partitions %s", got)
		}
		if l := r.lanesOf("q")[0]; !strings.Contains(l.Reason, "PartitionBy") || l.State != store.Running {
			t.Errorf("lane %+v, want a reason that names PartitionBy", l)
		}
		// A program that has another key now must not work the parts.
		p.OrderBy = q.OrderBy
		if err := r.engine("b").Add(t.Context(), p); err == nil || !strings.Contains(err.Error(), "PartitionBy") {
			t.Errorf("a processor that cannot be cut works partitions: %v", err)
		}
	})
}

// TestAddKeepsWhatIsThere: the program's number of partitions counts for a new
// processor only.
func TestAddKeepsWhatIsThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.add(Processor{Name: "p", Projection: tallies("p", false), Partitions: 2})
		tok := r.append("t", "s", added{})
		e := r.engine("b")
		docs := tallies("p", false)
		if err := e.Add(t.Context(), Processor{Name: "p", Projection: docs, Partitions: 5}); err != nil {
			t.Fatal(err)
		}
		defer r.run(e)()
		if err := e.WaitFor(t.Context(), "p", tok); err != nil {
			t.Fatal(err)
		}
		if got := r.parts("p"); got != "0/2 1/2" {
			t.Errorf("p has the partitions %s, want the two that it was made with", got)
		}
		if got := r.get(docs, "t", "s").N; got != 1 {
			t.Errorf("the document has %d events, want 1", got)
		}
		follows := &rig{t: t, log: memlog.New(memlog.WithPartitions(2)), st: r.st}
		if err := follows.engine("c").Add(t.Context(), Processor{Name: "p", Projection: tallies("p", false)}); err != nil {
			t.Errorf("a log with as many partitions: %v", err)
		}
		more := &rig{t: t, log: memlog.New(memlog.WithPartitions(3)), st: r.st}
		if err := more.engine("d").Add(t.Context(), Processor{Name: "p", Projection: tallies("p", false)}); !errors.Is(err, lane.ErrState) {
			t.Errorf("a log with more partitions: %v, want ErrState", err)
		}
	})
}

// Who is about to end does not do what one of the members is to do for all: the
// others would wait until it is gone.
func TestForemost(t *testing.T) {
	member := func(id string, n memberNotes) store.Member {
		raw, err := json.Marshal(n)
		if err != nil {
			t.Fatal(err)
		}
		return store.Member{ID: id, Notes: string(raw)}
	}
	members := []store.Member{
		member("a", memberNotes{Processors: []string{"other"}}),
		member("b", memberNotes{Processors: []string{"p"}, Leaving: true}),
		member("c", memberNotes{Processors: []string{"p"}}),
		member("d", memberNotes{Processors: []string{"p"}}),
	}
	for id, want := range map[string]bool{"a": false, "b": false, "c": true, "d": false} {
		if got := foremost(members, "p", id); got != want {
			t.Errorf("%s: %v, want %v", id, got, want)
		}
	}
	if !foremost(members[:2], "p", "b") {
		t.Error("nobody does what all who could leave to each other")
	}
}
