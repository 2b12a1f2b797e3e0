package ledger_test

import (
	"context"
	"maps"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/store/ledger"
)

// A slowLedger has rows, and reads of some hosts that are answered late: with what
// there was when they began.
type slowLedger struct {
	ledger.Ledger
	rows  []ledger.Sandbox
	hold  chan struct{} // nil: no read is held up
	reads int
}

func (l *slowLedger) Sandboxes(_ context.Context, _, _ string, hosts []string) (out []ledger.Sandbox, _ error) {
	l.reads++
	for _, s := range l.rows {
		if slices.Contains(hosts, s.Host) {
			s.Partitions = maps.Clone(s.Partitions)
			out = append(out, s)
		}
	}
	if hold := l.hold; hold != nil {
		l.hold = nil
		<-hold
	}
	return out, nil
}

// Two lanes ask at once. The answer that comes last is the older one: it must not
// stand for events that were seen after it was read.
func TestOlderReadingComesLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hold := make(chan struct{})
		l := &slowLedger{hold: hold}
		v := ledger.NewView(l, "log", "svc")
		ended := make(chan struct{})
		go func() { // partition 0, before the sandbox registers
			defer close(ended)
			found, err := v.Registrations(t.Context(), 0, map[string]event.Position{"a": 5}, 5)
			if err != nil || ledger.Decide(found["a"], 0, 5) != ledger.Nobodys {
				t.Errorf("before the registration: %+v, %v", found, err)
			}
		}()
		synctest.Wait()
		l.rows = []ledger.Sandbox{{ID: 1, Host: "a", Open: true, Generation: 1, Partitions: map[int]ledger.Span{0: {From: 5}, 1: {From: 10}}}}
		own := func(when string) {
			t.Helper()
			found, err := v.Registrations(t.Context(), 1, map[string]event.Position{"a": 11}, 11)
			if err != nil || ledger.Decide(found["a"], 1, 11) != ledger.Sandboxes {
				t.Errorf("%s: %+v, %v: the event is the sandbox's", when, found, err)
			}
		}
		own("while the older answer is under way")
		close(hold)
		<-ended
		own("after the older answer")
		if l.reads != 2 {
			t.Errorf("%d reads of the ledger for two hosts' first events, want 2", l.reads)
		}
	})
}

// A partition that nobody decided about before needs a new reading.
func TestViewAsksForWhatItDoesNotKnow(t *testing.T) {
	l := &slowLedger{rows: []ledger.Sandbox{{ID: 1, Host: "a", Open: true, Generation: 1, Partitions: map[int]ledger.Span{0: {From: 5}}}}}
	v := ledger.NewView(l, "log", "svc")
	for _, tt := range []struct {
		partition int
		p, seen   event.Position
		want      ledger.Owner
		reads     int
	}{{0, 5, 9, ledger.Nobodys, 1}, {0, 9, 9, ledger.Sandboxes, 1}, {0, 10, 12, ledger.Sandboxes, 2}, {1, 3, 3, ledger.Nobodys, 3}, {1, 2, 2, ledger.Nobodys, 3}} {
		found, err := v.Registrations(t.Context(), tt.partition, map[string]event.Position{"a": tt.p}, tt.seen)
		if got := ledger.Decide(found["a"], tt.partition, tt.p); got != tt.want || err != nil || l.reads != tt.reads {
			t.Errorf("%+v: %v, %v after %d reads", tt, got, err, l.reads)
		}
	}
}

// Who has kept letters of a host's events goes on to when the ledger has forgotten the
// host: were the next event processed at once, it could overtake one of them.
func TestForgottenHostKeepsItsTurn(t *testing.T) {
	l := &slowLedger{rows: []ledger.Sandbox{
		{ID: 1, Host: "a", Generation: 1, Partitions: map[int]ledger.Span{0: {From: 5}}},
		{ID: 2, Host: "b", Open: true, Generation: 1, Partitions: map[int]ledger.Span{0: {From: 5}, 1: {Pending: true}}}, // it dies as it registers
	}}
	old, fresh := ledger.NewView(l, "log", "svc"), ledger.NewView(l, "log", "svc")
	for i, want := range []ledger.Owner{ledger.Sandboxes, ledger.Sandboxes, ledger.Sandboxes} {
		p := event.Position(6 + i)
		for _, host := range []string{"a", "b"} {
			found, err := old.Registrations(t.Context(), 0, map[string]event.Position{host: p}, p)
			if got := ledger.Decide(found[host], 0, p); got != want || err != nil {
				t.Errorf("reading %d, host %s: %v, %v", i, host, got, err)
			}
		}
		l.rows = nil
	}
	found, err := old.Registrations(t.Context(), 1, map[string]event.Position{"b": 1}, 1)
	if got := ledger.Decide(found["b"], 1, 1); got != ledger.Nobodys || err != nil {
		t.Errorf("a partition that it never had: %v, %v", got, err)
	}
	found, err = fresh.Registrations(t.Context(), 0, map[string]event.Position{"a": 8}, 8)
	if got := ledger.Decide(found["a"], 0, 8); got != ledger.Nobodys || err != nil {
		t.Errorf("who has never heard of it: %v, %v", got, err)
	}
}
