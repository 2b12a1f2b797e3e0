package engine

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/eventlog/memlog"
	"github.com/fairlead-dev/fairlead/internal/lane"
	"github.com/fairlead-dev/fairlead/projection"
	"github.com/fairlead-dev/fairlead/slo"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/fairlead-dev/fairlead/store/memstore"
)

// A tally counts the events of a document, and remembers their order.
type tally struct {
	N    int
	Last int64
	Sum  uint64
}

type added struct {
	N    int
	Doc  string
	Fail bool
}

func tallies(name string, by bool) *projection.Projection[tally] {
	h := projection.On("added", func(t *tally, e projection.Event[added]) error {
		t.N++
		t.Sum = t.Sum*31 + uint64(e.Data.N)
		t.Last = e.Version
		if e.Data.Fail {
			return errors.New("told to fail")
		}
		return nil
	})
	if by {
		h.By(func(e projection.Event[added]) string { return e.Data.Doc })
	}
	return projection.New(name, h)
}

// rig is an engine over memory, inside a synctest bubble.
type rig struct {
	t   *testing.T
	log *memlog.Log
	st  *memstore.Store
	e   *Engine
	n   int
}

func newRig(t *testing.T) *rig {
	r := &rig{t: t, log: memlog.New(), st: memstore.New()}
	r.e = r.engine("a")
	return r
}

func (r *rig) engine(name string) *Engine {
	e, err := New(Config{Log: r.log, Store: r.st, Name: name})
	if err != nil {
		r.t.Fatal(err)
	}
	return e
}

func (r *rig) add(p Processor) {
	r.t.Helper()
	if err := r.e.Add(r.t.Context(), p); err != nil {
		r.t.Fatal(err)
	}
}

// run runs the engine until the returned function is called.
func (r *rig) run(e *Engine) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- e.Run(ctx) }()
	return func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			r.t.Errorf("Run: %v", err)
		}
	}
}

func (r *rig) append(tenant, stream string, payloads ...added) eventlog.Token {
	r.t.Helper()
	a := eventlog.StreamAppend{Tenant: tenant, Stream: stream}
	for _, p := range payloads {
		r.n++
		if p.N == 0 {
			p.N = r.n
		}
		data, err := projection.JSON{}.Encode(&p)
		if err != nil {
			r.t.Fatal(err)
		}
		a.Events = append(a.Events, eventlog.NewEvent{Type: "added", Data: data})
	}
	tok, err := r.log.Append(r.t.Context(), a)
	if err != nil {
		r.t.Fatal(err)
	}
	return tok
}

func (r *rig) get(p *projection.Projection[tally], tenant, id string) tally {
	r.t.Helper()
	d, err := r.st.Get(r.t.Context(), p.Name(), tenant, id)
	if errors.Is(err, store.ErrNotFound) {
		return tally{}
	}
	if err != nil {
		r.t.Fatal(err)
	}
	s, err := p.DecodeState(d.Data)
	if err != nil {
		r.t.Fatal(err)
	}
	return s
}

func (r *rig) wait(processor string, tok eventlog.Token) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), 5*time.Minute)
	defer cancel()
	if err := r.e.WaitFor(ctx, processor, tok); err != nil {
		lanes := r.lanes(processor)
		for _, l := range lanes {
			r.t.Logf("lane %+v", l)
		}
		r.t.Fatal(err)
	}
}

func (r *rig) lanes(processor string) (lanes []store.Lane) {
	r.t.Helper()
	err := r.st.View(r.t.Context(), func(tx store.Tx) (err error) { lanes, err = tx.Lanes(processor); return err })
	if err != nil {
		r.t.Fatal(err)
	}
	return lanes
}

func TestProjectionsFollowTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		byStream, byDoc := tallies("streams", false), tallies("docs", true)
		r.add(Processor{Projection: byStream, Name: "streams", Partitions: 3})
		r.add(Processor{Projection: byDoc, Name: "docs"})
		defer r.run(r.e)()
		var tok eventlog.Token
		for i := range 500 {
			tok = r.append(fmt.Sprintf("t%d", i%7), fmt.Sprintf("s%d", i%13), added{Doc: fmt.Sprintf("d%d", i%5)})
			if i%50 == 0 {
				time.Sleep(time.Second)
			}
		}
		for i := range 7 {
			tok.Tenants = append(tok.Tenants, fmt.Sprintf("t%d", i))
		}
		r.wait("streams", tok)
		r.wait("docs", tok)
		streams, docs := 0, 0
		for i := range 7 {
			for j := range 13 {
				streams += r.get(byStream, fmt.Sprintf("t%d", i), fmt.Sprintf("s%d", j)).N
				docs += r.get(byDoc, fmt.Sprintf("t%d", i), fmt.Sprintf("d%d", j)).N
			}
		}
		if streams != 500 || docs != 500 {
			t.Errorf("events in documents: by stream %d, by doc %d; want 500 each", streams, docs)
		}
	})
}

func TestPoisonParksItsKeyOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		p := tallies("docs", true)
		r.add(Processor{Projection: p, Name: "docs"})
		defer r.run(r.e)()
		r.append("t", "s1", added{Doc: "good"}, added{Doc: "bad"}, added{Doc: "bad", Fail: true}, added{Doc: "bad"}, added{Doc: "good"})
		tok := r.append("t", "s2", added{Doc: "bad"}, added{Doc: "good"})
		r.wait("docs", tok)
		if got := r.get(p, "t", "good").N; got != 3 {
			t.Errorf("good has %d events, want 3", got)
		}
		if got := r.get(p, "t", "bad").N; got != 1 {
			t.Errorf("bad has %d events, want the 1 before the poison", got)
		}
		var letters []store.DeadLetter
		_ = r.st.View(t.Context(), func(tx store.Tx) (err error) { letters, err = tx.Letters(store.LetterFilter{}); return err })
		if len(letters) != 3 || letters[0].State != store.Poison || letters[1].State != store.Waiting {
			t.Fatalf("letters = %+v, want 1 poison and 2 waiting", letters)
		}
		// Retried, it fails again and stays.
		if n, err := lane.RetryKey(t.Context(), r.st, "docs", "t", "bad"); n != 3 || err != nil {
			t.Fatalf("RetryKey = %d, %v", n, err)
		}
		time.Sleep(time.Second)
		if got := r.get(p, "t", "bad").N; got != 1 {
			t.Errorf("bad has %d events after a vain retry, want 1", got)
		}
		// Skipped, the rest drains in order and the key flows again.
		if err := lane.SkipLetter(t.Context(), r.st, letters[0].ID); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		r.wait("docs", r.append("t", "s3", added{Doc: "bad"}))
		if got := r.get(p, "t", "bad").N; got != 4 {
			t.Errorf("bad has %d events after the skip, want 4", got)
		}
	})
}

func TestDetachMergeRebuild(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		p := tallies("streams", false)
		r.add(Processor{Projection: p, Name: "streams"})
		defer r.run(r.e)()
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		ctx := t.Context()
		var tok eventlog.Token
		for i := range 300 {
			tok = r.append(fmt.Sprintf("t%d", i%3), "s", added{})
			switch i {
			case 50:
				must(lane.Detach(ctx, r.st, "streams", "t1"))
			case 100:
				must(lane.Pause(ctx, r.st, "streams", "t2", "test"))
			case 150:
				must(lane.Unpin(ctx, r.st, "streams", "t1"))
			case 170:
				must(lane.StartRebuild(ctx, r.st, "streams", "t0"))
			case 200:
				must(lane.Resume(ctx, r.st, "streams", "t2"))
			}
			time.Sleep(5 * time.Millisecond)
		}
		tok.Tenants = []string{"t0", "t1", "t2"}
		r.wait("streams", tok)
		time.Sleep(3 * time.Second)
		must(lane.StartRebuild(ctx, r.st, "streams", ""))
		time.Sleep(3 * time.Second)
		for i := range 3 {
			if got := r.get(p, fmt.Sprintf("t%d", i), "s"); got.N != 100 || got.Last != 100 {
				t.Errorf("t%d = %+v, want 100 events", i, got)
			}
		}
		lanes := r.lanes("streams")
		if len(lanes) != 1 || lanes[0].Number != 3 {
			t.Errorf("lanes = %+v, want one base lane of build 3", lanes)
		}
	})
}

func TestTakeOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		p := tallies("streams", false)
		r.add(Processor{Projection: p, Name: "streams"})
		stop := r.run(r.e)
		r.wait("streams", r.append("t", "s", added{}))
		b := r.engine("b")
		if err := b.Add(t.Context(), Processor{Projection: p, Name: "streams"}); err != nil {
			t.Fatal(err)
		}
		defer r.run(b)()
		time.Sleep(time.Minute)
		if got := r.lanes("streams")[0].Owner; got != r.e.id {
			t.Errorf("owner = %q, want the first process", got)
		}
		stop()
		begin := time.Now()
		r.e = b
		r.wait("streams", r.append("t", "s", added{}))
		if d := time.Since(begin); d > time.Second {
			t.Errorf("planned take-over took %v, want at most a second", d)
		}
		if got := r.get(p, "t", "s").N; got != 2 {
			t.Errorf("document has %d events, want 2", got)
		}
	})
}

func TestAddErrors(t *testing.T) {
	r := newRig(t)
	ctx := t.Context()
	for name, p := range map[string]Processor{
		"no name":          {Projection: tallies("x", false)},
		"bad partitions":   {Name: "x", Projection: tallies("x", false), Partitions: 5000},
		"bad objective":    {Name: "x", Projection: tallies("x", false), Freshness: slo.Objective{P99: -1}},
		"bad tenant":       {Name: "x", Projection: tallies("x", false), Tenants: []string{"\x00"}},
		"nothing to do":    {Name: "x"},
		"faulty handlers":  {Name: "x", Projection: projection.New[tally]("x")},
		"across + tenant":  {Name: "x", Projection: tallies("x", false).AcrossTenants(), Poison: ParkTenant},
		"across + buckets": {Name: "x", Projection: tallies("x", false).AcrossTenants(), Partitions: 2},
	} {
		if err := r.e.Add(ctx, p); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if err := r.e.Add(ctx, Processor{Name: "x", Projection: tallies("x", false)}); err != nil {
		t.Fatal(err)
	}
	if err := r.e.Add(ctx, Processor{Name: "x", Projection: tallies("x", false)}); !errors.Is(err, ErrExists) {
		t.Errorf("second Add = %v, want ErrExists", err)
	}
	if err := r.engine("b").Add(ctx, Processor{Name: "x", Projection: tallies("x", false), Partitions: 4}); err != nil {
		t.Errorf("other partitions, which are for the store to say: %v", err)
	}
	batch := func(context.Context, any, []event.Event) error { return nil }
	if err := r.engine("c").Add(ctx, Processor{Name: "x", Batch: batch}); !errors.Is(err, lane.ErrState) {
		t.Errorf("another kind = %v, want ErrState", err)
	}
}
