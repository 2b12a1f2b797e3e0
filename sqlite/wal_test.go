package sqlite

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/store"
)

// TestWALStaysSmall: readers that never pause do not keep the WAL from being
// used again from its beginning.
func TestWALStaysSmall(t *testing.T) {
	db := openTemp(t)
	const pages = 100
	w := <-db.writer
	if err := w.exec(fmt.Sprintf("PRAGMA wal_autocheckpoint = %d", pages)); err != nil {
		t.Fatal(err)
	}
	db.walBytes = pages * 4096
	db.writer <- w
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for i := range 3 {
		wg.Go(func() {
			for after := event.Position(i); ; {
				select {
				case <-stop:
					return
				default:
				}
				page, err := db.Read(t.Context(), eventlog.ReadRequest{After: after, MaxEvents: 100})
				if err != nil {
					t.Errorf("Read = %v", err)
					return
				}
				if after = page.Next; after == page.Head {
					after = 0
				}
			}
		})
	}
	a := one("a", "s", 100)
	for i := range a.Events {
		a.Events[i].Data = payload(i)
	}
	// How soon the readers can be made to pause depends on what else the machine
	// does; that they are is what counts: without it the WAL only grows.
	last, appends, shortened := int64(0), 0, 0
	for ; shortened < 3 && appends < 5000; appends++ {
		mustAppend(t, db, a)
		size := fileSize(db.path + "-wal")
		if last > db.walBytes && size < last/2 {
			shortened++
		}
		last = size
	}
	close(stop)
	wg.Wait()
	if shortened < 3 {
		t.Errorf("the WAL has %d bytes after %d appends and began anew %d times, want 3", last, appends, shortened)
	}
	t.Logf("it began anew %d times in %d appends", shortened, appends)
}

// TestLongReadDoesNotStall: somebody who reads for long keeps neither the writer
// nor the other readers waiting for more than a moment.
func TestLongReadDoesNotStall(t *testing.T) {
	db := openTemp(t)
	setup(t, db)
	mustAppend(t, db, one("a", "s", 1))
	db.walBytes = 1
	inside, leave := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		_ = db.View(t.Context(), func(store.Tx) error {
			close(inside)
			<-leave
			return nil
		})
	})
	<-inside
	start := time.Now()
	for range 200 {
		mustAppend(t, db, one("a", "s", 1))
		headOf(t, db)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("200 appends and reads beside a long one took %v", took)
	}
	close(leave)
	wg.Wait()
	mustAppend(t, db, one("a", "s", 1))
	checkLog(t, db)
}
