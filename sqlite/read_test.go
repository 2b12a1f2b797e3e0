package sqlite

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/store"
)

// TestReadersAreBounded: more reads at once than connections wait, and a context
// ends the waiting.
func TestReadersAreBounded(t *testing.T) {
	db := openTemp(t, Options{Readers: 2})
	mustAppend(t, db, one("a", "s", 10))
	inside, leave := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			err := db.View(context.Background(), func(store.Tx) error {
				inside <- struct{}{}
				<-leave
				return nil
			})
			if err != nil {
				t.Errorf("View = %v", err)
			}
		})
		<-inside
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if _, err := db.Head(ctx, 0); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Head without a connection = %v, want %v", err, context.DeadlineExceeded)
	}
	close(leave)
	wg.Wait()
	for range 50 {
		wg.Go(func() {
			if got := len(readAll(t, db, eventlog.Filter{})); got != 10 {
				t.Errorf("%d events, want 10", got)
			}
		})
	}
	wg.Wait()
	if n := len(db.readers.idle); n > 2 {
		t.Errorf("%d connections for reading, want 2 at most", n)
	}
}

// TestReadInterrupted: the end of a context ends a read in the middle, and the
// connection can be used again.
func TestReadInterrupted(t *testing.T) {
	db := openTemp(t, Options{Readers: 1})
	for range 10 {
		mustAppend(t, db, one("a", "s", 1000))
	}
	f := eventlog.Filter{Types: []string{"T"}, Exclude: []string{"a"}} // none of 10,000
	mustAppend(t, db, one("b", "s", 1))
	for i := range 12 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i)*100*time.Microsecond)
		_, err := db.Read(ctx, eventlog.ReadRequest{Filter: f})
		if err != nil && !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Read = %v, want nil or %v", err, context.DeadlineExceeded)
		}
		cancel()
		if got := readAll(t, db, f); len(got) != 1 || got[0].Tenant != "b" {
			t.Fatalf("the next read has %d events, want 1", len(got))
		}
	}
}

// TestReadLooksAtSoManyEvents: a page of no interest ends, so that a reader of a
// rare type shows progress.
func TestReadLooksAtSoManyEvents(t *testing.T) {
	db := openTemp(t)
	a := one("a", "s", maxExamined+10)
	a.Events[len(a.Events)-1].Type = "Rare"
	mustAppend(t, db, a)
	req := eventlog.ReadRequest{Filter: eventlog.Filter{Types: []string{"Rare"}}}
	page, err := db.Read(t.Context(), req)
	if err != nil || len(page.Events) != 0 || page.Next != maxExamined {
		t.Fatalf("the first page: %d events, Next %v, %v, want none and %d", len(page.Events), page.Next, err, maxExamined)
	}
	req.After = page.Next
	page, err = db.Read(t.Context(), req)
	if err != nil || len(page.Events) != 1 || page.Next != page.Head {
		t.Errorf("the second page: %d events, Next %v of %v, %v, want one, and the head", len(page.Events), page.Next, page.Head, err)
	}
}

// TestReadTenantsTogether compares the look-up by the index with a filter by
// hand, for sets of tenants that are rare, common and both.
func TestReadTenantsTogether(t *testing.T) {
	db := openTemp(t)
	for i := range 5000 {
		tenant := "common"
		if i%7 == 0 {
			tenant = fmt.Sprintf("t%d", i%5)
		}
		if i%997 == 0 {
			tenant = "rare"
		}
		if i%50 == 0 {
			mustAppend(t, db, one(tenant, fmt.Sprint(i%30), 40), one("rare", "s", 1))
		} else {
			mustAppend(t, db, one(tenant, fmt.Sprint(i%30), 1))
		}
	}
	all := checkLog(t, db)
	for _, tenants := range [][]string{{"rare"}, {"common"}, {"t1", "t4"}, {"common", "rare", "t2"}, {"rare", "nobody"}} {
		for _, n := range []int{1, 10, 500} {
			var got, want []event.Position
			for _, e := range all {
				if slices.Contains(tenants, e.Tenant) {
					want = append(want, e.Position)
				}
			}
			if n == 1 { // one by one is slow
				want = want[:min(len(want), 300)]
			}
			for after := event.Beginning; len(got) < len(want); {
				page, err := db.Read(t.Context(), eventlog.ReadRequest{After: after, MaxEvents: n, Filter: eventlog.Filter{Tenants: tenants}})
				if err != nil || page.Next <= after && page.Next != page.Head || len(page.Events) > n {
					t.Fatalf("page after %v: Next %v, %d events, %v", after, page.Next, len(page.Events), err)
				}
				for _, e := range page.Events {
					got = append(got, e.Position)
				}
				if after = page.Next; after == page.Head {
					break
				}
			}
			if !slices.Equal(got, want) {
				t.Errorf("tenants %q, pages of %d: %d positions, want %d, or others", tenants, n, len(got), len(want))
			}
		}
	}
}
