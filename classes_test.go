package fairlead_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/eventlog/memlog"
	"github.com/fairlead-dev/fairlead/store/memstore"
)

// filterLog notes by which classes it is read.
type filterLog struct {
	*memlog.Log
	mu      sync.Mutex
	classes map[string]bool
}

func (l *filterLog) Read(ctx context.Context, req eventlog.ReadRequest) (eventlog.Page, error) {
	l.mu.Lock()
	l.classes[fmt.Sprintf("%q", req.Filter.Classes)] = true
	l.mu.Unlock()
	return l.Log.Read(ctx, req)
}

// TestClasses: a processor, of whatever kind, gets the events of the traffic classes
// that it asks for, in its base lanes and in a tenant's own, and its checkpoints pass
// the others. The log is asked for a class alone where that is not production's.
func TestClasses(t *testing.T) {
	for name, tt := range map[string]struct {
		classes []string
		want    string // classes of the events that are handled, and how many
		asked   string // what the log is asked for
	}{
		"all":                 {nil, "map[:40 load:4 test:8]", "[]"},
		"the default":         {[]string{""}, "map[:40]", "[]"},
		"tests":               {[]string{"test"}, "map[test:8]", `["test"]`},
		"tests and load":      {[]string{"load", "test"}, "map[load:4 test:8]", `["load" "test"]`},
		"default and tests":   {[]string{"test", ""}, "map[:40 test:8]", "[]"},
		"what there is not":   {[]string{"nothing"}, "map[]", `["nothing"]`},
		"none, and it is not": {[]string{}, "map[]", "[]"},
	} {
		for _, kind := range []string{"batch", "reactor"} {
			t.Run(kind+" of "+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					ctx, cancel := context.WithCancel(t.Context())
					log, st := &filterLog{Log: memlog.New(), classes: map[string]bool{}}, memstore.New()
					var mu sync.Mutex
					got, tenants := map[string]int{}, map[string]int{}
					handle := func(e *event.Event) {
						mu.Lock()
						defer mu.Unlock()
						got[e.Class]++
						tenants[e.Tenant]++
					}
					o := fairlead.Options{Classes: tt.classes}
					p := fairlead.React("p", func(_ context.Context, d fairlead.Delivery) error { handle(d.Event); return nil }, o)
					if kind == "batch" {
						p = fairlead.ProjectBatch("p", func(_ context.Context, _ any, events []event.Event) error {
							for i := range events {
								handle(&events[i])
							}
							return nil
						}, o)
					}
					admin := fairlead.Admin{Log: log, Store: st}
					c, err := fairlead.New(fairlead.Config{Log: log, Store: st})
					check(err)
					check(c.Add(ctx, p))
					check(admin.Detach(ctx, "p", "own"))
					ended := make(chan error, 1)
					go func() { ended <- c.Run(ctx) }()
					for i := range 40 {
						tenant := []string{"a", "own", "b", "a"}[i%4]
						events := []eventlog.NewEvent{{Type: "T"}}
						switch {
						case i%10 == 3:
							events = append(events, eventlog.NewEvent{Type: "T", Class: "load"})
						case i%5 == 1:
							events = append(events, eventlog.NewEvent{Type: "T", Class: "test"})
						}
						token := appendTo(ctx, log, tenant, fmt.Sprint("s", i%3), events...)
						if i%13 == 0 {
							check(c.WaitFor(ctx, "p", token))
						}
					}
					head, err := log.Head(ctx, 0)
					check(err)
					check(c.WaitFor(ctx, "p", eventlog.Token{Position: head}))
					time.Sleep(time.Minute)
					mu.Lock()
					if fmt.Sprint(got) != tt.want {
						t.Errorf("handled %v, want %s", got, tt.want)
					}
					if len(got) > 1 && tenants["own"] == 0 {
						t.Errorf("handled of tenants %v, want some of the lane of tenant own", tenants)
					}
					mu.Unlock()
					lanes, err := admin.Lanes(ctx, "p")
					check(err)
					for _, l := range lanes {
						if l.Position < head-1 {
							t.Errorf("lane %v is at %v, want it near the head %v", l.LaneID, l.Position, head)
						}
					}
					log.mu.Lock()
					if asked := slices.Collect(maps.Keys(log.classes)); len(asked) != 1 || asked[0] != tt.asked {
						t.Errorf("the log was asked for classes %s, want %s", asked, tt.asked)
					}
					log.mu.Unlock()
					cancel()
					if err := <-ended; !errors.Is(err, context.Canceled) {
						t.Error(err)
					}
				})
			})
		}
	}
}

func TestClassesAreChecked(t *testing.T) {
	c, err := fairlead.New(fairlead.Config{Log: memlog.New(), Store: memstore.New()})
	check(err)
	p := fairlead.React("p", func(context.Context, fairlead.Delivery) error { return nil }, fairlead.Options{Classes: []string{"test\u202e"}})
	if err := c.Add(t.Context(), p); err == nil {
		t.Error("a class with an invisible character was accepted")
	} else {
		t.Log(err)
	}
}
