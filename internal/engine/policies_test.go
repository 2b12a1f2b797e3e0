package engine

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/internal/lane"
	"github.com/fairlead-dev/fairlead/projection"
	"github.com/fairlead-dev/fairlead/slo"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/fairlead-dev/fairlead/store/memstore"
)

func (r *rig) letters() (all []store.DeadLetter) {
	r.t.Helper()
	err := r.st.View(r.t.Context(), func(tx store.Tx) (err error) { all, err = tx.Letters(store.LetterFilter{}); return err })
	if err != nil {
		r.t.Fatal(err)
	}
	return all
}

func (r *rig) laneOf(processor, tenant string) (store.Lane, bool) {
	for _, l := range r.lanes(processor) {
		if l.Tenant == tenant {
			return l, true
		}
	}
	return store.Lane{}, false
}

func TestPoisonPolicies(t *testing.T) {
	for _, c := range []struct {
		policy  Policy
		badN    int // events of the bad document that were applied
		otherN  int // of another document of the same tenant, after the poison
		letters int
	}{
		{ParkKey, 1, 2, 2},
		{SkipAndRecord, 2, 2, 1},
		{ParkTenant, 1, 1, 0},
		{StopLane, 1, 1, 0},
	} {
		t.Run(c.policy.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t)
				healed := false
				p := projection.New("docs", projection.On("added", func(s *tally, e projection.Event[added]) error {
					if e.Data.Fail && !healed {
						return errors.New("told to fail")
					}
					s.N++
					return nil
				}).By(func(e projection.Event[added]) string { return e.Data.Doc }))
				r.add(Processor{Projection: p, Name: "docs", Poison: c.policy})
				defer r.run(r.e)()
				r.append("t", "s", added{Doc: "bad"}, added{Doc: "other"}, added{Doc: "bad", Fail: true}, added{Doc: "bad"}, added{Doc: "other"})
				r.append("u", "s", added{Doc: "bad"})
				time.Sleep(5 * time.Second)
				if got := r.get(p, "t", "bad").N; got != c.badN {
					t.Errorf("bad has %d events, want %d", got, c.badN)
				}
				if got := r.get(p, "t", "other").N; got != c.otherN {
					t.Errorf("other has %d events, want %d", got, c.otherN)
				}
				if got := len(r.letters()); got != c.letters {
					t.Errorf("%d dead letters, want %d", got, c.letters)
				}
				wantU := 1
				if c.policy == StopLane {
					wantU = 0
				}
				if got := r.get(p, "u", "bad").N; got != wantU {
					t.Errorf("the other tenant has %d events, want %d", got, wantU)
				}
				// Mended and resumed, nothing is missing.
				healed = true
				switch c.policy {
				case ParkTenant:
					if l, ok := r.laneOf("docs", "t"); !ok || l.State != store.Paused || !strings.Contains(l.Reason, "told to fail") {
						t.Errorf("tenant lane = %+v, want it paused with the reason", l)
					}
					if err := lane.Resume(t.Context(), r.st, "docs", "t"); err != nil {
						t.Fatal(err)
					}
				case StopLane:
					if err := lane.PauseProcessor(t.Context(), r.st, "docs", false); err != nil {
						t.Fatal(err)
					}
				case ParkKey:
					if _, err := lane.RetryKey(t.Context(), r.st, "docs", "t", "bad"); err != nil {
						t.Fatal(err)
					}
				case SkipAndRecord:
					return
				}
				time.Sleep(5 * time.Second)
				if l, out := r.laneOf("docs", "t"); out {
					t.Errorf("after the mend the tenant is still outside: %+v", l)
				}
				for _, id := range []string{"bad", "other"} {
					if got, want := r.get(p, "t", id).N, map[string]int{"bad": 3, "other": 2}[id]; got != want {
						t.Errorf("after the mend %s has %d events, want %d", id, got, want)
					}
				}
				if got := len(r.letters()); got != 0 {
					t.Errorf("after the mend %d dead letters", got)
				}
			})
		})
	}
}

// The rows of a batch projector's own table, in the memory store.
func sumInto(tx any, events []event.Event) error {
	table := tx.(*memstore.Tx).Table("sums")
	for i := range events {
		var p added
		if err := (projection.JSON{}).Decode(events[i].Data, &p); err != nil {
			return Permanent(err)
		}
		if p.Fail {
			return errors.New("told to fail")
		}
		old, _ := table.Get(events[i].Stream)
		table.Put(events[i].Stream, fmt.Appendf(nil, "%s %d", old, p.N))
	}
	return nil
}

func (r *rig) sums() map[string]string {
	r.t.Helper()
	rows, err := r.st.Rows(r.t.Context(), "sums")
	if err != nil {
		r.t.Fatal(err)
	}
	got := map[string]string{}
	for k, v := range rows {
		got[k] = string(v)
	}
	return got
}

func TestBatchProjector(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		fail := 3 // the first calls fail for a while
		calls := 0
		r.add(Processor{Name: "sums", Retry: Retry{Attempts: 10}, Batch: func(_ context.Context, tx any, events []event.Event) error {
			calls++
			if fail--; fail >= 0 {
				if err := sumInto(tx, events[:1]); err != nil {
					return err
				}
				return errors.New("the database is away")
			}
			return sumInto(tx, events)
		}})
		defer r.run(r.e)()
		r.append("t", "a", added{N: 1}, added{N: 2})
		tok := r.append("t", "b", added{N: 3})
		r.wait("sums", tok)
		if got := r.sums(); got["a"] != " 1 2" || got["b"] != " 3" {
			t.Errorf("rows = %v, want each event once", got)
		}
		if len(r.letters()) != 0 || calls < 4 {
			t.Errorf("%d dead letters after %d calls, want none after at least 4", len(r.letters()), calls)
		}
	})
}

func TestBatchProjectorFindsThePoison(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.add(Processor{Name: "sums", Retry: Retry{Attempts: 2}, Batch: func(_ context.Context, tx any, events []event.Event) error {
			if events[0].Tenant == "panics" {
				panic("no such tenant")
			}
			return sumInto(tx, events)
		}})
		for i := range 20 {
			r.append("t", fmt.Sprintf("s%d", i%4), added{N: i + 1, Fail: i == 9})
		}
		r.append("panics", "p", added{N: 100})
		tok := r.append("t", "s0", added{N: 101})
		defer r.run(r.e)()
		r.wait("sums", tok)
		got := r.sums()
		if got["s0"] != " 1 5 9 13 17 101" || got["s1"] != " 2 6" || got["s2"] != " 3 7 11 15 19" || got["p"] != "" {
			t.Errorf("rows = %v", got)
		}
		var keys []string
		for _, d := range r.letters() {
			keys = append(keys, d.Key+"/"+string(d.State)+"/"+d.Reason)
		}
		if want := "s1/poison/handler s1/waiting/waiting s1/waiting/waiting p/poison/panic"; strings.Join(keys, " ") != want {
			t.Errorf("dead letters = %v, want %v", strings.Join(keys, " "), want)
		}
	})
}

func TestGapParksTheKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		p := tallies("streams", false)
		holes := &holedLog{r.log}
		e, err := New(Config{Log: holes, Store: r.st})
		if err != nil {
			t.Fatal(err)
		}
		r.e = e
		r.add(Processor{Projection: p, Name: "streams"})
		for i := range 6 {
			r.append("t", "s", added{N: i + 1})
			r.append("t", "whole", added{})
		}
		defer r.run(r.e)()
		time.Sleep(time.Second)
		if got := r.get(p, "t", "whole").N; got != 6 {
			t.Errorf("the whole stream has %d events, want 6", got)
		}
		if got := r.get(p, "t", "s").N; got != 3 {
			t.Errorf("the stream with a hole has %d events, want the 3 before it", got)
		}
		if ls := r.letters(); len(ls) != 2 || ls[0].Reason != "gap" || ls[0].Event.Version != 5 {
			t.Errorf("dead letters = %+v, want the events after version 4", ls)
		}
	})
}

// A holedLog has lost version 4 of stream s.
type holedLog struct{ eventlogFull }

type eventlogFull = interface {
	eventlog.Log
	eventlog.StreamReader
}

func (h *holedLog) hole(events []event.Event) []event.Event {
	var out []event.Event
	for _, e := range events {
		if e.Stream != "s" || e.Version != 4 {
			out = append(out, e)
		}
	}
	return out
}

func (h *holedLog) Read(ctx context.Context, req eventlog.ReadRequest) (eventlog.Page, error) {
	page, err := h.eventlogFull.Read(ctx, req)
	page.Events = h.hole(page.Events)
	return page, err
}

func (h *holedLog) ReadStream(ctx context.Context, s eventlog.StreamRef, after int64, limit int) ([]event.Event, error) {
	events, err := h.eventlogFull.ReadStream(ctx, s, after, limit)
	return h.hole(events), err
}

func TestForeignEventsAreParked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		p := tallies("streams", false)
		e, err := New(Config{Log: &hostileLog{r.log}, Store: r.st})
		if err != nil {
			t.Fatal(err)
		}
		r.e = e
		r.add(Processor{Projection: p, Name: "streams"})
		for range 4 {
			r.append("t", "s", added{})
		}
		tok := r.append("t", "other", added{})
		defer r.run(r.e)()
		r.wait("streams", tok)
		if got := r.get(p, "t", "other").N; got != 1 {
			t.Errorf("the tenant with a name has %d events, want 1", got)
		}
		for i, d := range r.letters() {
			if d.Reason != "name" {
				t.Errorf("letter %d: reason %q, want name", i, d.Reason)
			}
		}
		if got := len(r.letters()); got != 4 {
			t.Errorf("%d dead letters, want 4", got)
		}
	})
}

// A hostileLog hands out what no log of ours would have taken.
type hostileLog struct{ eventlog.Log }

func (h *hostileLog) Read(ctx context.Context, req eventlog.ReadRequest) (eventlog.Page, error) {
	page, err := h.Log.Read(ctx, req)
	hostile := []string{"", "a\x00b", strings.Repeat("x", 10_000), "\u202egnp.exe"}
	page.Events = append([]event.Event(nil), page.Events...)
	for i := range page.Events {
		if e := &page.Events[i]; e.Stream == "s" {
			e.Tenant = hostile[int(e.Version-1)%len(hostile)]
		}
	}
	return page, err
}

func TestBacklogLetsATenantLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		p := projection.New("slow", projection.On("added", func(s *tally, e projection.Event[added]) error {
			time.Sleep(time.Millisecond)
			s.N++
			return nil
		}))
		r.add(Processor{Projection: p, Name: "slow", Freshness: slo.Objective{P99: 200 * time.Millisecond, Max: 2 * time.Second}, Concurrency: 4})
		stop := r.run(r.e)
		var flood eventlog.Token
		for i := range 20_000 {
			flood = r.append("noisy", fmt.Sprintf("s%d", i%50), added{})
			if i%100 == 0 {
				r.append(fmt.Sprintf("quiet%d", i/100), "s", added{})
			}
		}
		time.Sleep(2 * time.Second)
		for i := range 200 {
			if got := r.get(p, fmt.Sprintf("quiet%d", i), "s").N; got != 1 {
				t.Fatalf("quiet%d has %d events two seconds after the flood, want 1", i, got)
			}
		}
		if _, out := r.laneOf("slow", "noisy"); !out {
			t.Error("the noisy tenant has no lane of its own")
		}
		r.wait("slow", flood)
		time.Sleep(5 * time.Second)
		if _, out := r.laneOf("slow", "noisy"); out {
			t.Error("the noisy tenant has caught up and is still outside")
		}
		total := 0
		for i := range 50 {
			total += r.get(p, "noisy", fmt.Sprintf("s%d", i)).N
		}
		if total != 20_000 {
			t.Errorf("the noisy tenant's documents have %d events, want 20,000", total)
		}
		stop()
	})
}

// A backlog from before the process is late for everybody: it splits nobody off
// until the objective's maximum is at risk.
func TestHistorySplitsNobodyOff(t *testing.T) {
	for _, c := range []struct {
		max  time.Duration
		left bool
	}{{time.Hour, false}, {time.Second, true}} {
		t.Run(c.max.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t)
				p := projection.New("slow", projection.On("added", func(s *tally, _ projection.Event[added]) error {
					time.Sleep(time.Millisecond)
					s.N++
					return nil
				}))
				r.add(Processor{Projection: p, Name: "slow", Freshness: slo.Objective{P99: 200 * time.Millisecond, Max: c.max}, Concurrency: 4})
				var tok eventlog.Token
				for i := range 20_000 {
					tok = r.append("noisy", fmt.Sprintf("s%d", i%50), added{})
					if i%100 == 0 {
						r.append(fmt.Sprintf("quiet%d", i/100), "s", added{})
					}
				}
				time.Sleep(time.Minute)
				defer r.run(r.e)()
				time.Sleep(2 * time.Second)
				if _, left := r.laneOf("slow", "noisy"); left != c.left {
					t.Errorf("two seconds on, the tenant with the backlog has a lane of its own: %t, want %t", left, c.left)
				}
				r.wait("slow", tok)
			})
		})
	}
}

func TestStuckHandlerIsReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		release := make(chan struct{})
		p := projection.New("stuck", projection.On("added", func(*tally, projection.Event[added]) error { <-release; return nil }))
		q := tallies("fine", false)
		r.add(Processor{Projection: p, Name: "stuck"})
		r.add(Processor{Projection: q, Name: "fine"})
		stop := r.run(r.e)
		tok := r.append("t", "s", added{})
		r.wait("fine", tok)
		time.Sleep(time.Minute)
		st, err := r.e.Stats("stuck")
		if err != nil || len(st.Errors) != 1 {
			t.Errorf("Stats = %+v, %v; want an error that says the handler is stuck", st, err)
		}
		close(release)
		r.wait("stuck", tok)
		stop()
	})
}

func TestHugeEventIsParkedUntilThereIsMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		p := tallies("streams", false)
		r.add(Processor{Projection: p, Name: "streams"})
		stop := r.run(r.e)
		r.append("t", "s", added{})
		r.append("t", "s", added{Doc: strings.Repeat("x", 50<<20)})
		r.append("t", "s", added{})
		r.wait("streams", r.append("t", "s2", added{}))
		if got := r.get(p, "t", "s").N; got != 1 {
			t.Errorf("document has %d events, want the 1 before the huge one", got)
		}
		if ls := r.letters(); len(ls) != 2 || ls[0].Reason != "size" || ls[0].Event.Withheld < 50<<20 {
			t.Fatalf("%d dead letters, want the huge event and the one behind it", len(ls))
		}
		stop()
		e, err := New(Config{Log: r.log, Store: r.st, Memory: 512 << 20})
		if err != nil {
			t.Fatal(err)
		}
		r.e = e
		r.add(Processor{Projection: p, Name: "streams"})
		defer r.run(r.e)()
		if _, err := lane.RetryKey(t.Context(), r.st, "streams", "t", "s"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if got := r.get(p, "t", "s").N; got != 3 || len(r.letters()) != 0 {
			t.Errorf("document has %d events and %d dead letters, want 3 and none", got, len(r.letters()))
		}
	})
}

func TestWhatIsLeftOutIsCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		p := tallies("docs", true)
		r.add(Processor{Projection: p, Name: "docs"})
		r.add(Processor{Name: "react", Types: []string{"added"}, React: func(context.Context, Delivery) error { return nil }})
		defer r.run(r.e)()
		time.Sleep(time.Second)
		for _, name := range []string{"docs", "react"} {
			if err := lane.Detach(t.Context(), r.st, name, "out"); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Second)
		for range 3 {
			if _, err := r.log.Append(t.Context(), eventlog.StreamAppend{Tenant: "t", Stream: "s", Events: []eventlog.NewEvent{{Type: "other"}}}); err != nil {
				t.Fatal(err)
			}
		}
		r.append("out", "s", added{Doc: "d"}, added{Doc: "d"})
		tok := r.append("t", "s", added{Doc: "d"})
		for _, name := range []string{"docs", "react"} {
			r.wait(name, tok)
			time.Sleep(2 * time.Second)
			if st, err := r.e.Stats(name); err != nil || st.Passed != 3 || st.Excluded != 2 || st.Events != 3 {
				t.Errorf("%s: passed %d, excluded %d, events %d, error %v; want 3, 2 and 3", name, st.Passed, st.Excluded, st.Events, err)
			}
		}
	})
}
