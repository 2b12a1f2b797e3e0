package engine

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/internal/lane"
	"github.com/fairlead-dev/fairlead/projection"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/fairlead-dev/fairlead/store/ledger"
)

// A reservingLog has the events for a sandbox, those whose number is odd.
type reservingLog struct{ eventlog.Log }

func (l reservingLog) Read(ctx context.Context, req eventlog.ReadRequest) (eventlog.Page, error) {
	page, err := l.Log.Read(ctx, req)
	page.Events = slices.Clone(page.Events)
	for i := range page.Events {
		if e := &page.Events[i]; e.Position%2 == 1 {
			e.Fault = &event.Reserved{Host: "pr-1"}
		}
	}
	return page, err
}

// Events that are a sandbox's for now are kept and not run, and hold up nothing. When
// the sandbox is gone without them they are run, in their order; what it has goes.
func TestReservedEvents(t *testing.T) {
	type seen struct {
		mu sync.Mutex
		by map[string][]string
	}
	note := func(s *seen, key string, n int) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.by[key] = append(s.by[key], fmt.Sprint(n))
	}
	for name, make := range map[string]func(s *seen) Processor{
		"projection": func(s *seen) Processor {
			return Processor{Name: "p", Projection: projection.New("docs", projection.On("added", func(d *tally, e projection.Event[added]) error {
				note(s, e.Data.Doc, int(e.Position))
				d.N++
				return nil
			}).By(func(e projection.Event[added]) string { return e.Data.Doc }))}
		},
		"batch": func(s *seen) Processor {
			return Processor{Name: "p", OrderBy: func(e *event.Event) string { return e.Stream }, Batch: func(_ context.Context, _ any, events []event.Event) error {
				for i := range events {
					note(s, events[i].Stream, int(events[i].Position))
				}
				return nil
			}}
		},
		"reactor": func(s *seen) Processor {
			return Processor{Name: "p", React: func(_ context.Context, d Delivery) error {
				note(s, d.Stream, int(d.Position))
				return nil
			}}
		},
	} {
		for _, policy := range []ledger.Policy{ledger.TakeOver, ledger.Park, ledger.Drop} {
			t.Run(name+" "+string(policy), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					r := newRig(t)
					r.over(reservingLog{r.log}, r.st)
					s := &seen{by: map[string][]string{}}
					r.add(make(s))
					defer r.run(r.e)()
					for range 10 { // positions 1 to 20, of two keys
						r.append("t", "a", added{Doc: "a"})
						r.append("t", "b", added{Doc: "b"})
					}
					for range 10 { // 21 to 40, the other way round
						r.append("t", "b", added{Doc: "b"})
						r.append("t", "a", added{Doc: "a"})
					}
					time.Sleep(5 * time.Second)
					check := func(when string, want map[string]string) {
						t.Helper()
						s.mu.Lock()
						defer s.mu.Unlock()
						for key, list := range want {
							if got := strings.Join(s.by[key], " "); got != list {
								t.Errorf("%s: key %s has %s\nwant %s", when, key, got, list)
							}
						}
					}
					own := map[string]string{"b": "2 4 6 8 10 12 14 16 18 20", "a": "22 24 26 28 30 32 34 36 38 40"}
					check("beside the sandbox", own)
					letters := r.letters()
					if len(letters) != 20 {
						t.Fatalf("%d letters, want 20", len(letters))
					}
					for _, l := range letters {
						if l.State != store.Skipped || l.Reason != store.Routed || l.Error != "pr-1" || len(l.Event.Data) == 0 {
							t.Fatalf("letter %+v", l)
						}
					}
					// The sandbox has the positions up to 10, and lives.
					box := ledger.Sandbox{ID: 1, Host: "pr-1", Generation: 1, Open: true, Partitions: map[int]ledger.Span{0: {}}}
					lanes := []store.Lane{{LaneID: store.LaneID{Build: store.Build{Processor: "p", Number: 1}}, Of: 1, Position: 10}}
					settle := func(want lane.Settled) {
						t.Helper()
						got, err := lane.SettleRouted(t.Context(), r.st, policy, lane.Registrations{
							All: []ledger.Sandbox{box}, Lanes: func(context.Context, int64) ([]store.Lane, error) { return lanes, nil },
						})
						if err != nil || got != want {
							t.Errorf("settled %+v, %v, want %+v", got, err, want)
						}
					}
					settle(lane.Settled{Done: 5, Kept: 15})
					settle(lane.Settled{Kept: 15})
					box.Open, box.Lanes = false, lanes
					settle(lane.Settled{Released: 15})
					settle(lane.Settled{})
					time.Sleep(5 * time.Second)
					switch policy {
					case ledger.TakeOver:
						check("after the sandbox", map[string]string{"a": own["a"] + " 11 13 15 17 19", "b": own["b"] + " 21 23 25 27 29 31 33 35 37 39"})
						if n := len(r.letters()); n != 0 {
							t.Errorf("%d letters left", n)
						}
					case ledger.Park:
						check("parked", own)
						if n := len(r.letters()); n != 15 {
							t.Errorf("%d letters, want 15 that are parked", n)
						}
						if n, err := lane.RetryKey(t.Context(), r.st, "p", "t", ""); err != nil || n != 15 {
							t.Errorf("retry: %d, %v", n, err)
						}
						time.Sleep(5 * time.Second)
						check("retried", map[string]string{"a": own["a"] + " 11 13 15 17 19", "b": own["b"] + " 21 23 25 27 29 31 33 35 37 39"})
					case ledger.Drop:
						check("dropped", own)
						if n := len(r.letters()); n != 0 {
							t.Errorf("%d letters left", n)
						}
					}
				})
			})
		}
	}
}
