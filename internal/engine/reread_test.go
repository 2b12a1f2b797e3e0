package engine

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/internal/lane"
	"github.com/fairlead-dev/fairlead/store"
)

// A filteredLog hides one event while it is told to.
type filteredLog struct {
	changedLog
	hidden *atomic.Bool
	at     event.Position
}

func (f *filteredLog) Read(ctx context.Context, req eventlog.ReadRequest) (eventlog.Page, error) {
	page, err := f.changedLog.Read(ctx, req)
	kept := page.Events[:0]
	for _, e := range page.Events {
		if !f.hidden.Load() || e.Position != f.at {
			kept = append(kept, e)
		}
	}
	page.Events = kept
	return page, err
}

// A dead letter whose payload is in the log only, which meanwhile gives the event to
// another consumer, stays one when it is retried, and says so. The same goes for one
// that the log still cannot decode, even if its type is not known.
func TestRetryOfWhatTheLogWithholds(t *testing.T) {
	for _, c := range []struct {
		name           string
		hidden, untold bool // the event is routed elsewhere; its type is not known
		want           string
	}{
		{"routed elsewhere", true, false, "a route or a filter"},
		{"routed elsewhere, of unknown type", true, true, "a route or a filter"},
		{"not decoded yet", false, false, "no schema 7"},
		{"not decoded yet, of unknown type", false, true, "no schema 7"},
	} {
		for _, kind := range []string{"projection", "batch", "reactor"} {
			t.Run(c.name+"/"+kind, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					r := newRig(t)
					var hidden, mended atomic.Bool
					r.over(&filteredLog{changedLog: changedLog{r.log, func(e *event.Event) {
						if e.Position != 2 || mended.Load() {
							return
						}
						e.Data, e.Withheld, e.Fault = nil, 10, errors.New("no schema 7")
						if c.untold {
							e.Type = ""
						}
					}}, hidden: &hidden, at: 2}, r.st)
					var seen atomic.Int64
					p := Processor{Name: "x"}
					switch kind {
					case "projection":
						p.Projection = tallies("x", false)
					case "batch":
						p.Batch = func(_ context.Context, tx any, events []event.Event) error { return sumInto(tx, events) }
					case "reactor":
						p.React = func(context.Context, Delivery) error { seen.Add(1); return nil }
					}
					r.add(p)
					defer r.run(r.e)()
					r.append("t", "s", added{N: 1}, added{N: 2}, added{N: 3})
					r.wait("x", r.append("t", "other", added{}))
					retry := func() []store.DeadLetter {
						if _, err := lane.RetryKey(t.Context(), r.st, "x", "t", "s"); err != nil {
							t.Fatal(err)
						}
						time.Sleep(time.Second)
						return r.letters()
					}
					for _, l := range r.letters() {
						if l.At.IsZero() {
							t.Errorf("letter %d has no time", l.ID)
						}
					}
					hidden.Store(c.hidden)
					if ls := retry(); len(ls) != 2 || !strings.Contains(ls[0].Error, c.want) || ls[0].Reason != "decode" || ls[0].State != store.Poison || ls[1].State != store.Waiting {
						t.Errorf("after a retry: %+v, want both letters, the first with %q", ls, c.want)
					}
					hidden.Store(false)
					mended.Store(true)
					if ls := retry(); len(ls) != 0 {
						t.Errorf("after the mending: %+v, want no letters", ls)
					}
				})
			})
		}
	}
}
