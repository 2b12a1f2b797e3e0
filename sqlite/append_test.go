package sqlite

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
)

// TestAppendOverIndexRuns appends in all sizes, so that streams and tenants are
// partly in the index and partly in the tail, and reads from everywhere.
func TestAppendOverIndexRuns(t *testing.T) {
	for _, tt := range []struct {
		name  string
		sizes []int
	}{
		{"one by one", []int{1}},
		{"small and large", []int{1, 3, 700, 2, 40}},
		{"one larger than two runs", []int{5, 2*indexRunMax + 1500, 7}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			db := openTemp(t)
			r := rand.New(rand.NewPCG(1, uint64(len(tt.sizes))))
			n := 0
			for i := 0; n < 2600 || i < len(tt.sizes); i++ {
				size := tt.sizes[i%len(tt.sizes)]
				a := one(fmt.Sprintf("t%d", r.IntN(5)), fmt.Sprintf("s%d", r.IntN(20)), size)
				if token := mustAppend(t, db, a); token.Position != event.Position(n+size) {
					t.Fatalf("token has position %v, want %d", token.Position, n+size)
				}
				n += size
				if i%1200 == 100 {
					checkLog(t, db)
				}
			}
			if got := len(checkLog(t, db)); got != n {
				t.Errorf("the log has %d events, want %d", got, n)
			}
			indexed := sql(t, db.path, "SELECT indexed FROM fairlead_control")[0]
			if indexed == "0" {
				t.Error("nothing was indexed: this test has tested nothing")
			}
			again := openAt(t, db.path) // knows nothing of the tail yet
			checkLog(t, again)
		})
	}
}

// TestTwoHandles appends by turns through two DBs on one file: what each knows
// of streams, tail and indexes must follow the other.
func TestTwoHandles(t *testing.T) {
	a := openTemp(t)
	b := openAt(t, a.path)
	r := rand.New(rand.NewPCG(3, 4))
	versions := map[eventlog.StreamRef]int64{}
	for i := range 1500 {
		db := a
		if r.IntN(2) == 0 {
			db = b
		}
		ref := eventlog.StreamRef{Tenant: fmt.Sprint(i % 3), Stream: fmt.Sprint(r.IntN(30))}
		ap := one(ref.Tenant, ref.Stream, 1+r.IntN(3))
		ap.Expected = eventlog.ExactVersion(versions[ref])
		mustAppend(t, db, ap)
		versions[ref] += int64(len(ap.Events))

		ap.Expected = eventlog.ExactVersion(versions[ref] + 1)
		if _, err := b.Append(t.Context(), ap); !errors.Is(err, eventlog.ErrConflict) {
			t.Fatalf("append with a wrong version = %v, want a conflict", err)
		}
	}
	if x, y := len(checkLog(t, a)), len(checkLog(t, b)); x != y || x < 1500 {
		t.Errorf("the handles see %d and %d events", x, y)
	}
}

// TestGroupedAppends lets many calls queue up behind a writer that is held, some
// of which must fail, and checks that each has its own result.
func TestGroupedAppends(t *testing.T) {
	db := openTemp(t)
	mustAppend(t, db, one("a", "taken", 1), eventlog.StreamAppend{Tenant: "a", Stream: "x", Events: []eventlog.NewEvent{{ID: "id", Type: "T"}}})
	w := <-db.writer

	const calls = 200
	type result struct {
		token eventlog.Token
		err   error
	}
	results := make([]result, calls)
	gone, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for i := range calls {
		wg.Go(func() {
			ctx, a := t.Context(), one("a", fmt.Sprintf("s%d", i), 2)
			switch i % 10 {
			case 1:
				a.Stream, a.Expected = "taken", eventlog.NoStream()
			case 2:
				a.Events[1].ID = "id"
			case 3:
				ctx = gone
			case 4:
				a.Stream, a.Expected = "race", eventlog.NoStream() // one of 20 wins
			case 5:
				a.Stream = "shared"
			}
			token, err := db.Append(ctx, a)
			results[i] = result{token, err}
		})
	}
	waitFor(t, func() bool {
		db.queue.mu.Lock()
		defer db.queue.mu.Unlock()
		return len(db.queue.calls) == calls
	})
	cancel()
	waitFor(t, func() bool { // those who were told to have gone
		db.queue.mu.Lock()
		defer db.queue.mu.Unlock()
		n := 0
		for _, c := range db.queue.calls {
			if c.state.Load() == abandoned {
				n++
			}
		}
		return n == calls/10
	})
	db.writer <- w
	wg.Wait()

	all := checkLog(t, db)
	won, shared := 0, 0
	for i, r := range results {
		var want error
		switch i % 10 {
		case 1:
			want = eventlog.ErrConflict
		case 2:
			want = eventlog.ErrDuplicate
		case 3:
			want = context.Canceled
		case 4:
			if r.err == nil {
				won++
			} else {
				want = eventlog.ErrConflict
			}
		}
		if !errors.Is(r.err, want) {
			t.Errorf("call %d = %v, want %v", i, r.err, want)
		}
		if r.err != nil {
			continue
		}
		last := all[r.token.Position-1]
		if i%10 == 5 {
			shared++
		} else if i%10 != 4 && last.Stream != fmt.Sprintf("s%d", i) {
			t.Errorf("call %d: its token is that of stream %q", i, last.Stream)
		}
		if last.Version%2 != 0 {
			t.Errorf("call %d: its token is that of version %d, want that of its second event", i, last.Version)
		}
	}
	if won != 1 || shared != 20 {
		t.Errorf("%d calls won the race for a new stream and %d of 20 had no expectation, want 1 and 20", won, shared)
	}
	if want := 2 + 2*(calls-3*20-20+1); len(all) != want {
		t.Errorf("the log has %d events, want %d", len(all), want)
	}
}

// TestGroupWithOneThatCannotBeStored: of calls in one transaction, one is too
// large for the file. The others are appended.
func TestGroupWithOneThatCannotBeStored(t *testing.T) {
	db := openTemp(t)
	setup(t, db)
	mustAppend(t, db, one("a", "s", 1))
	limitPages(t, db, 60)
	w := <-db.writer
	var wg sync.WaitGroup
	errs := make([]error, 10)
	for i := range errs {
		wg.Go(func() {
			a := one("a", fmt.Sprintf("s%d", i), 1)
			if i == 5 {
				a.Events[0].Data = []byte(strings.Repeat("x", 1<<20))
			}
			_, errs[i] = db.Append(t.Context(), a)
		})
	}
	waitFor(t, func() bool {
		db.queue.mu.Lock()
		defer db.queue.mu.Unlock()
		return len(db.queue.calls) == len(errs)
	})
	db.writer <- w
	wg.Wait()
	for i, err := range errs {
		if i == 5 && !errors.Is(err, ErrFull) {
			t.Errorf("the large one = %v, want %v", err, ErrFull)
		} else if i != 5 && err != nil {
			t.Errorf("call %d = %v, want nil", i, err)
		}
	}
	if got := len(checkLog(t, db)); got != 10 {
		t.Errorf("the log has %d events, want 10", got)
	}
}

// TestAppendLeaderGivesUp: the caller who would append for all the others leaves
// while it waits for another process. The others do not notice.
func TestAppendLeaderGivesUp(t *testing.T) {
	db := openTemp(t, Options{LockWait: 20 * time.Second})
	mustAppend(t, db, one("a", "s", 1))
	c := shell(t, db.path)
	defer c.Close()
	if err := c.exec("BEGIN IMMEDIATE"); err != nil {
		t.Fatal(err)
	}
	leading, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var first error
	wg.Go(func() { _, first = db.Append(leading, one("a", "first", 1)) })
	waitFor(t, func() bool { return len(db.writer) == 0 })
	errs := make([]error, 5)
	for i := range errs {
		wg.Go(func() { _, errs[i] = db.Append(t.Context(), one("a", fmt.Sprint(i), 1)) })
	}
	time.Sleep(20 * time.Millisecond)
	cancel()
	time.Sleep(20 * time.Millisecond)
	if err := c.exec("ROLLBACK"); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	if !errors.Is(first, context.Canceled) {
		t.Errorf("the first = %v, want %v", first, context.Canceled)
	}
	for i, err := range errs {
		if err != nil {
			t.Errorf("call %d = %v, want nil", i, err)
		}
	}
	if got := len(checkLog(t, db)); got != 6 {
		t.Errorf("the log has %d events, want 6", got)
	}
}

func TestAppendContextEndsInside(t *testing.T) {
	db := openTemp(t)
	setup(t, db)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
	defer cancel()
	err := checkUnchanged(t, db, func() error {
		_, err := db.Append(ctx, one("a", "s", 100_000))
		return err
	})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error = %v, want %v", err, context.DeadlineExceeded)
	}
	mustAppend(t, db, one("a", "s", 3))
	checkLog(t, db)
}

// TestOddContents are what only this log promises beyond the suite.
func TestOddContents(t *testing.T) {
	db := openTemp(t)
	bytes169 := strings.Repeat("x", 169)
	for i, e := range []eventlog.NewEvent{
		{Type: "T", OccurredAt: time.Date(9999, 12, 31, 23, 59, 59, 999, time.UTC)},
		{Type: "T", OccurredAt: time.Date(1, 1, 1, 0, 0, 0, 1, time.UTC)},
		{Type: "T", OccurredAt: time.Unix(0, 0).UTC()},
		{Type: "T", OccurredAt: time.Unix(0, 999).UTC()},
		{Type: "T", Metadata: event.Metadata{"a\xff": "b\xc3", "{\"": "\x00"}},
		{Type: "T", Metadata: event.Metadata{strings.Repeat("k", 0x7b) + "\xc3": bytes169}},
		{Type: "T", Data: []byte("text with \x00 inside")},
	} {
		token := mustAppend(t, db, eventlog.StreamAppend{Tenant: "a", Stream: fmt.Sprint(i), Events: []eventlog.NewEvent{e}})
		got := readAll(t, db, eventlog.Filter{})[token.Position-1]
		if !e.OccurredAt.IsZero() && (!got.OccurredAt.Equal(e.OccurredAt) || got.OccurredAt.Location() != time.UTC) {
			t.Errorf("OccurredAt %v came back as %v", e.OccurredAt, got.OccurredAt)
		}
		if fmt.Sprintf("%q", got.Metadata) != fmt.Sprintf("%q", e.Metadata) {
			t.Errorf("metadata %q came back as %q", e.Metadata, got.Metadata)
		}
		if string(got.Data) != string(e.Data) {
			t.Errorf("data %q came back as %q", e.Data, got.Data)
		}
	}
}

// TestLargeEvent: 50 MB go in and out, and are withheld without being loaded.
func TestLargeEvent(t *testing.T) {
	db := openTemp(t)
	data := []byte(`"` + strings.Repeat("0123456789", 5_000_000) + `"`)
	mustAppend(t, db, one("a", "s", 1), eventlog.StreamAppend{Tenant: "a", Stream: "big", Events: []eventlog.NewEvent{{Type: "T", Data: data}}}, one("a", "s", 1))
	all := readAll(t, db, eventlog.Filter{})
	if len(all) != 3 || string(all[1].Data) != string(data) {
		t.Fatalf("%d events, the second with %d bytes, want 3 and %d", len(all), len(all[1].Data), len(data))
	}
	start := time.Now()
	page, err := db.Read(t.Context(), eventlog.ReadRequest{MaxEventBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	if e := page.Events[1]; e.Data != nil || e.Withheld != int64(len(data)) || len(page.Events) != 3 {
		t.Errorf("withheld: %d bytes of data, Withheld %d, %d events, want 0, %d and 3", len(e.Data), e.Withheld, len(page.Events), len(data))
	}
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("a page with a withheld event took %v", took)
	}
	integrity(t, db.path)
}

// TestRemovedByHand goes beyond the suite: in the middle, and told to go on.
func TestRemovedByHand(t *testing.T) {
	db := openTemp(t)
	for range 1300 { // over an index run
		mustAppend(t, db, one("a", "s", 1), one("b", "s", 1))
	}
	sql(t, db.path, "DELETE FROM fairlead_events WHERE position BETWEEN 100 AND 200")
	_, err := db.Read(t.Context(), eventlog.ReadRequest{After: 50})
	if trunc, ok := errors.AsType[*eventlog.TruncatedError](err); !ok || trunc.First != 201 {
		t.Errorf("Read from before the hole = %v, want a TruncatedError with First 201", err)
	}
	if page, err := db.Read(t.Context(), eventlog.ReadRequest{After: 200, MaxEvents: 1}); err != nil || page.Events[0].Position != 201 {
		t.Errorf("Read from behind the hole = %v, %v", page, err)
	}
	sql(t, db.path, "UPDATE fairlead_control SET accepted = removed")
	if got := len(readAll(t, db, eventlog.Filter{})); got != 2600-101 {
		t.Errorf("after the hole was accepted, %d events, want %d", got, 2600-101)
	}
	if got := len(readAll(t, db, eventlog.Filter{Tenants: []string{"a"}})); got != 1300-50 {
		t.Errorf("after the hole was accepted, %d events of a tenant, want %d", got, 1300-50)
	}
	for _, f := range []eventlog.Filter{{}, {Types: []string{"T"}}} {
		if got, _, err := db.Count(t.Context(), 0, f, 0, event.Unbounded, 1<<30); err != nil || got != 2600-101 {
			t.Errorf("Count with %+v = %d, %v, want %d", f, got, err, 2600-101)
		}
	}
	// The last events removed: neither positions nor versions come again.
	sql(t, db.path, "DELETE FROM fairlead_events WHERE position > 2590")
	token := mustAppend(t, db, one("a", "s", 1))
	page, err := db.Read(t.Context(), eventlog.ReadRequest{After: token.Position - 1})
	if err != nil || token.Position != 2601 || page.Events[0].Version != 1301 {
		t.Errorf("the next append is at %v: %+v, %v, want version 1301 at 2601", token.Position, page.Events, err)
	}
}

// waitFor waits until ok, or fails the test.
func waitFor(t testing.TB, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("waited too long")
		}
	}
}

// limitPages makes the disk full at n pages.
func limitPages(t testing.TB, db *DB, n int) {
	t.Helper()
	w := <-db.writer
	defer func() { db.writer <- w }()
	if err := w.exec(fmt.Sprintf("PRAGMA max_page_count = %d", n)); err != nil {
		t.Fatal(err)
	}
}
