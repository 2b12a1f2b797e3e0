package letterlog_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/internal/letterlog"
	"github.com/fairlead-dev/fairlead/internal/pgtest"
	"github.com/fairlead-dev/fairlead/postgres"
	"github.com/fairlead-dev/fairlead/sqlite"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/fairlead-dev/fairlead/store/memstore"
)

// A rig is a store with two lanes of one processor that park events.
type rig struct {
	t  *testing.T
	st store.Store
	at map[int]event.Position
}

func newRig(t *testing.T, st store.Store) *rig {
	r := &rig{t, st, map[int]event.Position{}}
	err := st.Update(t.Context(), func(tx store.Tx) error {
		err := errors.Join(
			tx.PutProcessor(store.Processor{Name: "p", Kind: "projection", Live: 1, LastBuild: 1, Partitions: 2}),
			tx.PutProcessor(store.Processor{Name: "forwarder", Kind: "reactor", Live: 1, LastBuild: 1, Partitions: 1, Builds: store.Builds{Log: letterlog.Identity}}))
		for _, id := range []store.LaneID{lane("p", 0), lane("p", 1), lane("forwarder", 0)} {
			err = errors.Join(err, tx.PutLane(store.Lane{LaneID: id, Epoch: 1, State: store.Running}))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// routed is the key of an event that is a sandbox's for now.
const routed = "routed"

func lane(processor string, partition int) store.LaneID {
	return store.LaneID{Build: store.Build{Processor: processor, Number: 1}, Partition: partition}
}

// park commits letters of a lane; sql runs in the transaction when they are in it.
func (r *rig) park(processor string, partition int, sql func(), keys ...string) error {
	id := lane(processor, partition)
	c := &store.Commit{Lane: id, Fence: store.Fence{Epoch: 1, Position: r.at[partition]}, Position: r.at[partition] + 1}
	for _, k := range keys {
		d := store.DeadLetter{
			Build: id.Build, Partition: partition, Tenant: "acme", Key: k, State: store.Poison, Reason: "handler", Error: "no", At: time.Now(),
			Event: event.Event{Position: c.Position, ID: k, Tenant: "acme", Stream: k, Type: "T", Data: []byte("{}")},
		}
		if k == routed {
			d.State, d.Reason, d.Error = store.Skipped, store.Routed, "pr-42"
		}
		c.Letters = append(c.Letters, d)
	}
	if sql != nil {
		c.SQL = func(context.Context, any) error { sql(); return nil }
	}
	r.at[partition]++
	return r.st.Commit(r.t.Context(), c)
}

// streams returns those of all events after a position, by pages.
func streams(t *testing.T, l *letterlog.Log, after event.Position) (out []string, next event.Position) {
	t.Helper()
	for next = after; ; {
		page, err := l.Read(t.Context(), eventlog.ReadRequest{After: next})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range page.Events {
			if e.Position <= next || e.Position > page.Next || e.Check() != nil {
				t.Errorf("event %+v of the page (%v, %v]: %v", e, next, page.Next, e.Check())
			}
			out = append(out, e.Stream)
		}
		if page.Next == next {
			return out, next
		}
		next = page.Next
	}
}

func TestLog(t *testing.T) {
	for _, open := range []struct {
		name string
		st   func(t *testing.T) store.Store
	}{
		{"memory", func(*testing.T) store.Store { return memstore.New() }},
		{"sqlite", func(t *testing.T) store.Store {
			db, err := sqlite.Open(filepath.Join(t.TempDir(), "letters.db"))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = db.Close() })
			return db
		}},
		{"postgres", func(t *testing.T) store.Store { return openPostgres(t) }},
	} {
		t.Run(open.name, func(t *testing.T) {
			r := newRig(t, open.st(t))
			l := letterlog.New(r.st)
			if got, next := streams(t, l, 0); got != nil || next != 0 {
				t.Errorf("an empty log has %q to %v", got, next)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 1200*time.Millisecond)
			defer cancel()
			if err := l.Wait(ctx, 0, 0); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("Wait = %v", err)
			}
			var want []string
			for i := range 120 { // more than a page
				key := fmt.Sprint("k", i)
				if err := r.park("p", i%2, nil, key); err != nil {
					t.Fatal(err)
				}
				want = append(want, "p/"+key)
			}
			hostile := []string{strings.Repeat("x", event.MaxStream), "a\x00b", "\xff", ""}
			if open.name != "memory" {
				hostile = hostile[:1]
			}
			if err := r.park("p", 0, nil, hostile...); err != nil {
				t.Fatal(err)
			}
			if err := r.park("p", 0, nil, routed, "last"); err != nil {
				t.Fatal(err)
			}
			r.at[0] = 0
			if err := r.park("forwarder", 0, nil, "what cannot be published"); err != nil {
				t.Fatal(err)
			}
			if err := l.Wait(t.Context(), 0, 0); err != nil {
				t.Error(err)
			}
			got, next := streams(t, l, 0)
			if len(got) != 121+len(hostile) || !slices.Equal(got[:120], want) || got[len(got)-1] != "p/last" {
				t.Errorf("streams %q", got)
			}
			if head, err := l.Head(t.Context(), 0); err != nil || head != next {
				t.Errorf("Head = %v, %v, want %v", head, err, next)
			}
			if d, ok, err := l.Letter(t.Context(), 3); err != nil || !ok || d.Key != "k2" {
				t.Errorf("Letter = %+v, %v, %v", d, ok, err)
			}
			if _, ok, err := l.Letter(t.Context(), 10_000); err != nil || ok {
				t.Errorf("no letter: %v, %v", ok, err)
			}
			if p, err := l.PositionAt(t.Context(), 0, time.Now().Add(time.Hour)); err != nil || p != next {
				t.Errorf("PositionAt = %v, %v", p, err)
			}
			if p, err := l.PositionAt(t.Context(), 0, time.Now().Add(-time.Hour)); err != nil || p != 0 {
				t.Errorf("PositionAt = %v, %v", p, err)
			}
			for _, filter := range []eventlog.Filter{{Tenants: []string{"other"}}, {Exclude: []string{"acme"}}, {Types: []string{}}, {Classes: []string{"test"}}} {
				if page, err := l.Read(t.Context(), eventlog.ReadRequest{Filter: filter}); err != nil || len(page.Events) != 0 || page.Next == 0 {
					t.Errorf("%+v: %+v, %v", filter, page, err)
				}
			}
			if page, err := l.Read(t.Context(), eventlog.ReadRequest{After: 2, Until: 4}); err != nil || len(page.Events) != 2 || page.Next != 4 {
				t.Errorf("two events: %+v, %v", page, err)
			}
		})
	}
}

func openPostgres(t *testing.T) *postgres.DB {
	t.Helper()
	db, err := postgres.Open(t.Context(), pgtest.Database(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// A commit that made its letters first may end last. They are no less to be read.
func TestCommitsOutOfOrder(t *testing.T) {
	r := newRig(t, openPostgres(t))
	l := letterlog.New(r.st)
	inside, open, ended := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	first := &rig{t, r.st, map[int]event.Position{}}
	go func() { ended <- first.park("p", 0, func() { close(inside); <-open }, "slow") }()
	<-inside
	if err := r.park("p", 1, nil, "fast"); err != nil {
		t.Fatal(err)
	}
	read := make(chan []string, 1)
	go func() { // waits for the slow one, or has neither
		got, _ := streams(t, l, 0)
		read <- got
	}()
	var got []string
	select {
	case got = <-read:
		if len(got) != 0 {
			t.Errorf("read %q while an earlier letter was to come", got)
		}
	case <-time.After(300 * time.Millisecond):
	}
	close(open)
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if got == nil {
		got = <-read
	}
	if want := []string{"p/slow", "p/fast"}; !slices.Equal(got, want) {
		t.Errorf("read %q, want %q", got, want)
	}
}

// Last finds the highest id, whatever is missing below it.
func TestLast(t *testing.T) {
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 0))
		r := newRig(t, memstore.New())
		n := 1 + rng.IntN(300)
		for i := range n {
			if err := r.park("p", 0, nil, fmt.Sprint(i)); err != nil {
				t.Fatal(err)
			}
		}
		err := r.st.Update(t.Context(), func(tx store.Tx) error {
			highest := int64(0)
			for id := int64(1); id <= int64(n); id++ {
				if rng.IntN(3) > 0 {
					if err := tx.DeleteLetters([]int64{id}); err != nil {
						return err
					}
				} else {
					highest = id
				}
			}
			for _, after := range []int64{0, highest / 2, highest} {
				if got, err := letterlog.Last(tx, event.Position(after)); err != nil || int64(got) != highest {
					t.Errorf("seed %d, after %d: Last = %v, %v, want %d", seed, after, got, err, highest)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}
