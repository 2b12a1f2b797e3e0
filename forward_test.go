package fairlead_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog/memlog"
	"github.com/fairlead-dev/fairlead/forward"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/fairlead-dev/fairlead/store/memstore"
)

// awayFor is a broker that is away until a time, and refuses events of type Bad.
type awayFor struct {
	until time.Time

	mu    sync.Mutex
	has   []string
	tries int
}

func (b *awayFor) Publish(_ context.Context, e *event.Event, id string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.tries++; time.Now().Before(b.until) {
		return errors.New("away")
	}
	if e.Type == "Bad" {
		return forward.Refused(e, errors.New("bad"))
	}
	if id == "" {
		return errors.New("no id")
	}
	b.has = append(b.has, e.Stream+" "+e.Type)
	return nil
}

// TestForwardOutlastsAnOutage: an event is not given up while the broker is away for a
// while, and one that it refuses is at once.
func TestForwardOutlastsAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		log, st := memlog.New(), memstore.New()
		appendTo(ctx, log, "acme", "a", fairlead.MustEvent("One", 1), fairlead.MustEvent("Two", 2))
		token := appendTo(ctx, log, "acme", "b", fairlead.MustEvent("Bad", 1), fairlead.MustEvent("Two", 2))
		broker := &awayFor{until: time.Now().Add(20 * time.Minute)}
		c, err := fairlead.New(fairlead.Config{Log: log, Store: st})
		check(err)
		check(c.Add(ctx, fairlead.Forward("out", broker)))
		ended := make(chan error, 1)
		go func() { ended <- c.Run(ctx) }()
		check(c.WaitFor(ctx, "out", token))
		if len(broker.has) != 2 || broker.has[0] != "a One" || broker.has[1] != "a Two" {
			t.Errorf("the broker has %q", broker.has)
		}
		if broker.tries < 100 {
			t.Errorf("%d tries", broker.tries)
		}
		letters, err := fairlead.Admin{Log: log, Store: st}.DeadLetters(ctx, store.LetterFilter{Build: store.Build{Processor: "out"}})
		if err != nil || len(letters) != 2 || letters[0].State != store.Poison || letters[0].Event.Type != "Bad" || letters[1].State != store.Waiting {
			t.Errorf("dead letters %+v, %v", letters, err)
		}
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}
