package postgres

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/internal/pgtest"
	"github.com/jackc/pgx/v5"
)

// TestConcurrentTransactions: 8 sessions append in transactions that overlap,
// some over several streams, some rolled back, some prepared, while readers
// follow. Every reader sees every stream whole and in order.
func TestConcurrentTransactions(t *testing.T) {
	t.Parallel()
	db := openTemp(t)
	url := db.pool.Config().ConnString()
	const writers, readers, rounds = 8, 3, 60
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var appending, reading sync.WaitGroup
	committed := make([]int, writers)
	for w := range writers {
		c := connect(t, db)
		random := rand.New(rand.NewPCG(7, uint64(w)))
		appending.Go(func() {
			for i := range rounds {
				n, err := randomTransaction(ctx, db, c, random, fmt.Sprintf("%s-%d-%d", url, w, i))
				committed[w] += n
				if err != nil && !errors.Is(err, ErrRetry) {
					t.Errorf("writer %d: %v", w, err)
					return
				}
			}
		})
	}
	done := make(chan struct{})
	seen := make([][]event.Event, readers)
	for r := range readers {
		reader := openAt(t, url)
		reading.Go(func() {
			var err error
			if seen[r], err = follow(ctx, reader, done); err != nil {
				t.Errorf("reader %d: %v", r, err)
			}
		})
	}
	appending.Wait()
	close(done)
	reading.Wait()
	want := 0
	for _, n := range committed {
		want += n
	}
	stored := value[int](t, db.pool, db.q("SELECT count(*) FROM {schema}.events"))
	if stored != want {
		t.Errorf("%d events are stored, %d were committed", stored, want)
	}
	last := value[int64](t, db.pool, db.q("SELECT max(position) FROM {schema}.events"))
	t.Logf("%d events, %d positions", stored, last)
	for r := range readers {
		checkStreams(t, seen[r], want)
	}
}

// randomTransaction appends 1 to 4 times to a few streams that all writers
// share, and returns how many events it has committed.
func randomTransaction(ctx context.Context, db *DB, c *pgx.Conn, random *rand.Rand, gid string) (int, error) {
	tx, err := c.Begin(ctx)
	if err != nil {
		return 0, err
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	n := 0
	// In one order, because two that go crosswise are a deadlock: that is tested
	// elsewhere, and would leave little to see here.
	for _, s := range slices.Sorted(slices.Values(random.Perm(12)[:1+random.IntN(4)])) {
		a := eventlog.StreamAppend{Tenant: fmt.Sprint("t", s%3), Stream: fmt.Sprintf("s%02d", s)}
		for range 1 + random.IntN(3) {
			a.Events = append(a.Events, eventlog.NewEvent{Type: "T"})
		}
		if _, err := db.AppendTx(ctx, tx, a); err != nil {
			return 0, err
		}
		n += len(a.Events)
		if random.IntN(3) == 0 {
			if _, err := tx.Exec(ctx, "SELECT pg_sleep($1)", random.Float64()*0.01); err != nil {
				return 0, err
			}
		}
	}
	switch random.IntN(5) {
	case 0:
		return 0, tx.Rollback(ctx)
	case 1:
		if _, err := tx.Exec(ctx, "PREPARE TRANSACTION '"+gid+"'"); err != nil {
			return 0, err
		}
		if _, err := c.Exec(ctx, "SELECT pg_sleep(0.005)"); err != nil {
			return 0, err
		}
		_, err := c.Exec(ctx, "COMMIT PREPARED '"+gid+"'")
		return n, err
	}
	return n, tx.Commit(ctx)
}

// follow reads the log as a lane does, until all is written and read.
func follow(ctx context.Context, db *DB, done <-chan struct{}) (out []event.Event, err error) {
	after := event.Beginning
	for {
		last := false
		select {
		case <-done:
			last = true
		default:
		}
		page, err := db.Read(ctx, eventlog.ReadRequest{After: after, MaxEvents: 50})
		if err != nil {
			return out, err
		}
		out = append(out, page.Events...)
		after = page.Next
		switch {
		case page.Next < page.Head:
			continue
		case last:
			return out, nil
		}
		wait, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
		err = db.Wait(wait, 0, after)
		cancel()
		if err != nil && !errors.Is(err, context.DeadlineExceeded) {
			return out, err
		}
	}
}

// checkStreams checks that events are those of whole streams, each in order.
func checkStreams(t testing.TB, events []event.Event, want int) {
	t.Helper()
	versions := map[eventlog.StreamRef]int64{}
	for i, e := range events {
		if i > 0 && e.Position <= events[i-1].Position {
			t.Fatalf("position %v follows %v", e.Position, events[i-1].Position)
		}
		r := eventlog.StreamRef{Tenant: e.Tenant, Stream: e.Stream}
		if e.Version != versions[r]+1 {
			t.Fatalf("stream %v: version %d follows %d: an event was skipped or came twice", r, e.Version, versions[r])
		}
		versions[r] = e.Version
	}
	if len(events) != want {
		t.Errorf("the reader saw %d events, want %d", len(events), want)
	}
}

// TestServerRestart: the server crashes under appenders and a reader. With event
// ids nothing is lost or doubled.
func TestServerRestart(t *testing.T) {
	t.Parallel()
	server := pgtest.NewServer(t)
	db := openAt(t, server.URL)
	reader := openAt(t, server.URL)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	const writers, each = 4, 150
	var appending, reading sync.WaitGroup
	half := make(chan struct{}, writers)
	for w := range writers {
		appending.Go(func() {
			for i := range each {
				if i == each/3 {
					half <- struct{}{}
				}
				a := one(fmt.Sprint(w))
				a.Events[0].ID = fmt.Sprintf("%d-%d", w, i)
				for {
					_, err := db.Append(ctx, a)
					if err == nil {
						break
					}
					if ctx.Err() != nil || !errors.Is(err, ErrUnreachable) && !errors.Is(err, ErrOutcomeUnknown) {
						t.Errorf("writer %d: %v", w, err)
						return
					}
					sleep(ctx, 10*time.Millisecond)
				}
			}
		})
	}
	done := make(chan struct{})
	var seen []event.Event
	failures := 0
	reading.Go(func() {
		after := event.Beginning
		for ctx.Err() == nil {
			last := false
			select {
			case <-done:
				last = true
			default:
			}
			page, err := reader.Read(ctx, eventlog.ReadRequest{After: after})
			if err == nil {
				seen = append(seen, page.Events...)
				after = page.Next
				if page.Next < page.Head {
					continue
				}
				if last {
					return
				}
				wait, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
				err = reader.Wait(wait, 0, after)
				cancel()
			}
			if err != nil && !errors.Is(err, context.DeadlineExceeded) {
				if failures++; !errors.Is(err, ErrUnreachable) {
					t.Errorf("reader: %v", err)
				}
				sleep(ctx, 10*time.Millisecond)
			}
		}
	})
	for range writers {
		<-half
	}
	if err := server.Restart(); err != nil {
		t.Fatal(err)
	}
	appending.Wait()
	close(done)
	reading.Wait()
	if failures == 0 {
		t.Error("the reader saw no failure: the restart was not under it")
	}
	checkStreams(t, seen, writers*each)
}
