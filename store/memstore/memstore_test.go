package memstore_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-dev/fairlead/store"
	"github.com/fairlead-dev/fairlead/store/memstore"
	"github.com/fairlead-dev/fairlead/store/storetest"
)

func TestConformance(t *testing.T) {
	storetest.Run(t, func(*testing.T) store.Store { return memstore.New() }, storetest.Features{
		SQL: &storetest.SQL{
			Put: func(_ context.Context, tx any, key, value string) error {
				tx.(*memstore.Tx).Table("rows").Put(key, []byte(value))
				return nil
			},
			Get: func(_ context.Context, tx any, key string) (string, bool, error) {
				row, ok := tx.(*memstore.Tx).Table("rows").Get(key)
				return string(row), ok, nil
			},
		},
	})
}

var lane = store.LaneID{Build: store.Build{Processor: "p", Number: 1}}

// open returns a store with a processor and its base lane.
func open(t *testing.T, opts ...memstore.Option) *memstore.Store {
	t.Helper()
	s := memstore.New(opts...)
	err := s.Update(t.Context(), func(tx store.Tx) error {
		return errors.Join(
			tx.PutProcessor(store.Processor{Name: "p", Collection: "p", Partitions: 1, Live: 1, LastBuild: 1}),
			tx.PutLane(store.Lane{LaneID: lane, State: store.Running}))
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestWithNow(t *testing.T) {
	now := time.Date(2024, 2, 29, 12, 0, 0, 7, time.FixedZone("east", 3600))
	s := open(t, memstore.WithNow(func() time.Time { return now }))
	err := s.Commit(t.Context(), &store.Commit{
		Lane: lane, Position: 1, Writes: []store.Write{{Document: store.Document{Key: store.Key{Tenant: "a", ID: "1"}}}},
		SQL: func(_ context.Context, tx any) error {
			if got := tx.(*memstore.Tx).Now(); got != now.UTC() {
				t.Errorf("Now in a commit = %v, want %v", got, now.UTC())
			}
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	d, err := s.Get(t.Context(), "p", "a", "1")
	if err != nil || d.Updated != now.UTC() {
		t.Errorf("Updated = %v, %v, want %v", d.Updated, err, now.UTC())
	}
	now = now.Add(time.Hour)
	if err := s.View(t.Context(), func(tx store.Tx) error {
		if got := tx.Now(); got != now.UTC() {
			t.Errorf("Now an hour later = %v, want %v", got, now.UTC())
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

func TestTables(t *testing.T) {
	s := open(t)
	commit := func(f func(*memstore.Tx) error) error {
		t.Helper()
		return s.Commit(t.Context(), &store.Commit{
			Lane: lane,
			SQL:  func(_ context.Context, tx any) error { return f(tx.(*memstore.Tx)) },
		})
	}
	var kept *memstore.Table
	if err := commit(func(tx *memstore.Tx) error {
		kept = tx.Table("fruit")
		kept.Put("b", []byte("banana"))
		kept.Put("a", []byte("apple"))
		tx.Table("other").Put("a", []byte("other"))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := commit(func(tx *memstore.Tx) error {
		fruit := tx.Table("fruit")
		fruit.Delete("a")
		fruit.Delete("never there")
		fruit.Put("b", []byte("berry"))
		fruit.Put("c", []byte("cherry"))
		tx.Table("new").Put("x", nil)
		tx.Table("never there").Delete("x")
		if got, want := fruit.Keys(), []string{"b", "c"}; !slices.Equal(got, want) {
			t.Errorf("Keys = %q, want %q", got, want)
		}
		return errors.New("no")
	}); err == nil {
		t.Error("Commit = nil, want the error of its function")
	}
	rows, err := s.Rows(t.Context(), "fruit")
	if got, want := fmt.Sprintf("%s %v", rows, err), "map[a:apple b:banana] <nil>"; got != want {
		t.Errorf("rows after a rollback = %s, want %s", got, want)
	}
	rows["a"][0] = 'X'
	if again, err := s.Rows(t.Context(), "fruit"); err != nil || string(again["a"]) != "apple" {
		t.Errorf("rows after the caller changed its copy = %s, %v", again, err)
	}
	if rows, err := s.Rows(t.Context(), "new"); err != nil || rows != nil {
		t.Errorf("rows of a table that was rolled back = %v, %v, want none", rows, err)
	}
	func() {
		defer func() {
			if r := recover(); r == nil || !strings.Contains(fmt.Sprint(r), "after its transaction") {
				t.Errorf("a table used after its transaction: %v, want a panic that says so", r)
			}
		}()
		kept.Put("late", nil)
	}()
}

func TestTxAfterItsEnd(t *testing.T) {
	s := open(t)
	var kept store.Tx
	if err := s.Update(t.Context(), func(tx store.Tx) error { kept = tx; return nil }); err != nil {
		t.Fatal(err)
	}
	if err := kept.PutWeight("a", 2); err == nil {
		t.Error("a write after the transaction = nil, want an error")
	}
	if _, err := kept.Lanes(""); err == nil {
		t.Error("a read after the transaction = nil, want an error")
	}
}

// TestVirtualTime: transactions that sleep do not stop a bubble's clock, and who
// waits for one gives up when its context ends.
func TestVirtualTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t)
		start := time.Now()
		first := make(chan error, 1)
		go func() {
			first <- s.Update(t.Context(), func(tx store.Tx) error {
				time.Sleep(time.Hour)
				return tx.PutWeight("a", 2)
			})
		}()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := s.Update(ctx, func(store.Tx) error { return nil }); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Minute {
			t.Errorf("Update = %v after %v, want %v after 1m", err, time.Since(start), context.DeadlineExceeded)
		}
		if _, err := s.Revision(t.Context()); err != nil || time.Since(start) != time.Hour {
			t.Errorf("Revision = %v after %v, want nil after 1h", err, time.Since(start))
		}
		if err := <-first; err != nil {
			t.Errorf("the Update that slept = %v", err)
		}
	})
}

// TestRollbackByGoexit: a test that fails inside a transaction ends its
// goroutine; the store must be free and unchanged all the same.
func TestRollbackByGoexit(t *testing.T) {
	s := open(t)
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		//nolint:errcheck // it does not return
		s.Update(t.Context(), func(tx store.Tx) error {
			if err := tx.PutWeight("a", 2); err != nil {
				t.Error(err)
			}
			runtime.Goexit()
			return nil
		})
	}()
	<-gone
	if err := s.View(t.Context(), func(tx store.Tx) error {
		w, err := tx.Weights()
		if len(w) != 0 {
			t.Errorf("weights = %v, want none", w)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

// BenchmarkCommit shows that a commit costs what it changes, not what is stored.
func BenchmarkCommit(b *testing.B) {
	for _, stored := range []int{100, 100_000} {
		b.Run(fmt.Sprintf("stored=%d", stored), func(b *testing.B) {
			s := memstore.New()
			if err := s.Update(b.Context(), func(tx store.Tx) error { return tx.PutLane(store.Lane{LaneID: lane, State: store.Running}) }); err != nil {
				b.Fatal(err)
			}
			var all []store.Write
			for i := range stored {
				all = append(all, store.Write{Document: store.Document{Key: store.Key{Tenant: fmt.Sprint(i % 10), ID: fmt.Sprint(i)}, Data: []byte(`{"n":1}`)}})
			}
			if err := s.Commit(b.Context(), &store.Commit{Lane: lane, Position: 1, Writes: all}); err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				c := store.Commit{Lane: lane, Fence: store.Fence{Position: 1}, Position: 1, Writes: all[:20]}
				if err := s.Commit(b.Context(), &c); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
