package fairlead_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/fairlead-dev/fairlead/store/ledger"
	"github.com/fairlead-dev/fairlead/store/memstore"
)

// A keptLedger has rows, and a sandbox of which nothing can be learnt.
type keptLedger struct {
	ledger.Ledger
	rows   []ledger.Sandbox
	broken string
	reads  int
	slow   time.Duration
	upTo   map[int]event.Position // what keys stood for is forgotten
}

func (l *keptLedger) ForgetKeys(_ context.Context, _, _ string, upTo map[int]event.Position) error {
	l.upTo = upTo
	return nil
}

func (l *keptLedger) Sandboxes(context.Context, string, string, []string) ([]ledger.Sandbox, error) {
	l.reads++
	time.Sleep(l.slow)
	return l.rows, nil
}

func (l *keptLedger) find(id int64) *ledger.Sandbox {
	for i := range l.rows {
		if l.rows[i].ID == id {
			return &l.rows[i]
		}
	}
	return nil
}

var errFile = errors.New("its file cannot be opened")

func (l *keptLedger) End(_ context.Context, id int64, _ ledger.When) (bool, error) {
	s := l.find(id)
	if s.Host == l.broken {
		return false, errFile
	}
	s.Open = false
	return true, nil
}

func (l *keptLedger) Lanes(_ context.Context, id int64) ([]store.Lane, error) {
	if l.find(id).Host == l.broken {
		return nil, errFile
	}
	return nil, nil
}

func (l *keptLedger) Forget(_ context.Context, id int64) error {
	*l.find(id) = ledger.Sandbox{Host: "forgotten"}
	return nil
}

// A sandbox whose store cannot be opened keeps its own letters and nobody else's.
func TestKeeperGoesOnBesideABrokenSandbox(t *testing.T) {
	ctx, s := t.Context(), memstore.New()
	b := store.Build{Processor: "p", Number: 1}
	err := s.Update(ctx, func(tx store.Tx) error {
		p := store.Processor{Name: "p", Kind: "reactor", Partitions: 1, Live: 1, LastBuild: 1, Builds: store.Builds{Log: "l", LogPartitions: 1}}
		if err := tx.PutProcessor(p); err != nil {
			return err
		}
		return tx.PutLane(store.Lane{LaneID: store.LaneID{Build: b}, Epoch: 1, State: store.Running})
	})
	if err != nil {
		t.Fatal(err)
	}
	var letters []store.DeadLetter
	for i, host := range []string{"broken", "gone", "broken", "gone"} {
		letters = append(letters, store.DeadLetter{
			Build: b, Tenant: "t", Key: host, State: store.Skipped, Reason: store.Routed, Error: host,
			Event: event.Event{Position: event.Position(i + 1), Tenant: "t", Stream: host, Type: "x", ID: fmt.Sprint(i)},
		})
	}
	if err := s.Commit(ctx, &store.Commit{Lane: store.LaneID{Build: b}, Fence: store.Fence{Epoch: 1}, Position: 4, Letters: letters}); err != nil {
		t.Fatal(err)
	}
	spans := map[int]ledger.Span{0: {}}
	for _, expired := range []bool{false, true} {
		l := &keptLedger{broken: "broken", rows: []ledger.Sandbox{
			{ID: 1, Host: "broken", Open: true, Expired: expired, Generation: 1, Partitions: spans},
			{ID: 2, Host: "gone", Open: true, Expired: true, Generation: 1, Partitions: spans},
		}}
		n, err := fairlead.RouteKeeper{Store: s, Ledger: l, Policy: ledger.Park}.Settle(ctx)
		if !errors.Is(err, errFile) || !strings.Contains(err.Error(), "broken") {
			t.Errorf("error %v does not say which sandbox cannot be opened", err)
		}
		if closing := err != nil && strings.Contains(err.Error(), "close sandbox"); closing != expired {
			t.Errorf("lease ended %v: error %v says that it was to be closed: %v", expired, err, closing)
		}
		if want := (fairlead.Settled{Released: 2, Kept: 2}); n != want && !expired {
			t.Errorf("settled %+v, want %+v", n, want)
		}
	}
	left := map[string]int{}
	_ = s.View(ctx, func(tx store.Tx) error {
		found, err := tx.Letters(store.LetterFilter{Reason: store.Routed})
		for _, d := range found {
			left[d.Error]++
		}
		return err
	})
	if left["broken"] != 2 || len(left) != 1 {
		t.Errorf("letters %v are kept, want the two of the broken sandbox", left)
	}
}

// What cannot be bound holds up no letters, and is said; what keys stood for is not
// forgotten while nothing can be learnt of a sandbox that is open.
func TestKeeperBindsAndForgets(t *testing.T) {
	ctx, s := t.Context(), memstore.New()
	err := s.Update(ctx, func(tx store.Tx) error {
		p := store.Processor{Name: "p", Kind: "reactor", Partitions: 1, Live: 1, LastBuild: 1, Builds: store.Builds{Log: "l", LogPartitions: 1}}
		if err := tx.PutProcessor(p); err != nil {
			return err
		}
		return tx.PutLane(store.Lane{LaneID: store.LaneID{Build: store.Build{Processor: "p", Number: 1}}, Epoch: 1, Position: 7, State: store.Running})
	})
	if err != nil {
		t.Fatal(err)
	}
	l, bound, failed := &keptLedger{broken: "broken"}, 0, error(nil)
	k := fairlead.RouteKeeper{
		Store: s, Ledger: l, Start: func(context.Context, int) (event.Position, error) { return 5, nil },
		Bind: func(_ context.Context, names []string) error {
			if bound++; names != nil {
				t.Errorf("bound %q, want all", names)
			}
			return failed
		},
	}
	if _, err := k.Settle(ctx); err != nil || bound != 1 || l.upTo[0] != 5 {
		t.Errorf("%v, bound %d times, forgot up to %v", err, bound, l.upTo)
	}
	l.upTo, failed = nil, errors.New("no leader")
	if _, err := k.Settle(ctx); !errors.Is(err, failed) || l.reads != 2 || l.upTo == nil {
		t.Errorf("not bound: %v, %d readings", err, l.reads)
	}
	l.upTo, failed, l.rows = nil, nil, []ledger.Sandbox{{ID: 1, Host: "broken", Open: true, Generation: 1, Partitions: map[int]ledger.Span{0: {}}}}
	if _, err := k.Settle(ctx); !errors.Is(err, errFile) || l.upTo != nil {
		t.Errorf("beside a sandbox of which nothing can be learnt: %v, forgot up to %v", err, l.upTo)
	}
}

// However long it takes to look at all letters that are kept, that is a tenth of the time.
func TestKeeperRests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, tt := range []struct {
			slow time.Duration
			want int
		}{{0, 100}, {4 * time.Second, 3}} {
			l := &keptLedger{slow: tt.slow}
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Second-time.Millisecond)
			k := fairlead.RouteKeeper{Store: memstore.New(), Ledger: l}
			if err := k.Run(ctx); !errors.Is(err, context.DeadlineExceeded) || l.reads != tt.want {
				t.Errorf("a reading of %v: %v after %d readings, want %d", tt.slow, err, l.reads, tt.want)
			}
			cancel()
		}
	})
}
