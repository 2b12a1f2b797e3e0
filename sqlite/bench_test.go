package sqlite

import (
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/store"
	zs "zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"
)

// payload is an event of about 200 bytes.
func payload(i int) []byte {
	return fmt.Appendf(nil, `{"product":"%06d","description":"WHITE HANGING HEART T-LIGHT HOLDER","quantity":%d,"unit_price_milli":2550,"customer":"%05d",`+
		`"note":"as good as new, hand made, to be sent as a present","country":"united-kingdom"}`, i%4000, i%12, i%4300)
}

// order makes n events for one stream: orders of about 20 lines each.
func order(i, n int) eventlog.StreamAppend {
	a := eventlog.StreamAppend{Tenant: fmt.Sprintf("shop-%d", (i/20)%38), Stream: fmt.Sprintf("order-%d", i/20), Events: make([]eventlog.NewEvent, n)}
	for j := range a.Events {
		a.Events[j] = eventlog.NewEvent{Type: "OrderLineAdded", OccurredAt: time.Unix(int64(i+j), 0), Data: payload(i + j)}
	}
	return a
}

// appends splits n events from i into orders.
func appends(i, n int) []eventlog.StreamAppend {
	var out []eventlog.StreamAppend
	for n > 0 {
		k := min(20-i%20, n)
		out = append(out, order(i, k))
		i, n = i+k, n-k
	}
	return out
}

func BenchmarkAppend(b *testing.B) {
	for _, size := range []int{1, 100, 1000} {
		b.Run(fmt.Sprintf("fairlead/%d", size), func(b *testing.B) {
			db := openTemp(b)
			i := 0
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				as := appends(i, size)
				b.StartTimer()
				if _, err := db.Append(b.Context(), as...); err != nil {
					b.Fatal(err)
				}
				i += size
			}
			b.ReportMetric(float64(i)/b.Elapsed().Seconds(), "events/s")
		})
		b.Run(fmt.Sprintf("hand/%d", size), func(b *testing.B) { benchmarkHandAppend(b, size) })
	}
	b.Run("concurrent/16", func(b *testing.B) {
		db := openTemp(b)
		var wg sync.WaitGroup
		work := make(chan int)
		for range 16 {
			wg.Go(func() {
				for i := range work {
					if _, err := db.Append(b.Context(), order(i, 1)); err != nil {
						b.Error(err)
					}
				}
			})
		}
		i := 0
		for b.Loop() {
			work <- i
			i++
		}
		close(work)
		wg.Wait()
		b.ReportMetric(float64(i)/b.Elapsed().Seconds(), "events/s")
	})
}

// benchmarkHandAppend is the loop that one would write by hand: the same driver
// and settings, one table with a unique key.
func benchmarkHandAppend(b *testing.B, size int) {
	c, err := zs.OpenConn(filepath.Join(b.TempDir(), "hand.db"), zs.OpenReadWrite|zs.OpenCreate)
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	for _, q := range []string{
		"PRAGMA journal_mode = WAL", "PRAGMA synchronous = NORMAL", "PRAGMA cache_size = -32768", "PRAGMA wal_autocheckpoint = 4000",
		`CREATE TABLE events(position INTEGER PRIMARY KEY, tenant TEXT NOT NULL, stream TEXT NOT NULL, version INTEGER NOT NULL, type TEXT NOT NULL,
			occurred_at INTEGER NOT NULL, recorded_at INTEGER NOT NULL, metadata TEXT, data TEXT NOT NULL, UNIQUE(tenant, stream, version))`,
	} {
		if err := sqlitex.ExecuteTransient(c, q, nil); err != nil {
			b.Fatal(err)
		}
	}
	step := func(s *zs.Stmt) {
		if _, err := s.Step(); err != nil {
			b.Fatal(err)
		}
		if err := s.Reset(); err != nil {
			b.Fatal(err)
		}
	}
	begin, commit := c.Prep("BEGIN IMMEDIATE"), c.Prep("COMMIT")
	version := c.Prep("SELECT coalesce(max(version), 0) FROM events WHERE tenant = ? AND stream = ?")
	insert := c.Prep("INSERT INTO events(tenant, stream, version, type, occurred_at, recorded_at, metadata, data) VALUES(?, ?, ?, ?, ?, ?, NULL, ?)")
	i := 0
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		as := appends(i, size)
		b.StartTimer()
		step(begin)
		now := time.Now().UnixNano()
		for _, a := range as {
			version.BindText(1, a.Tenant)
			version.BindText(2, a.Stream)
			if _, err := version.Step(); err != nil {
				b.Fatal(err)
			}
			v := version.ColumnInt64(0)
			if err := version.Reset(); err != nil {
				b.Fatal(err)
			}
			for j := range a.Events {
				e := &a.Events[j]
				insert.BindText(1, a.Tenant)
				insert.BindText(2, a.Stream)
				insert.BindInt64(3, v+int64(j)+1)
				insert.BindText(4, e.Type)
				insert.BindInt64(5, e.OccurredAt.UnixNano())
				insert.BindInt64(6, now)
				insert.BindText(7, string(e.Data))
				step(insert)
			}
		}
		step(commit)
		i += size
	}
	b.ReportMetric(float64(i)/b.Elapsed().Seconds(), "events/s")
}

func BenchmarkRead(b *testing.B) {
	db := openTemp(b)
	const total = 100_000
	for i := 0; i < total; i += 1000 {
		if _, err := db.Append(b.Context(), appends(i, 1000)...); err != nil {
			b.Fatal(err)
		}
	}
	for _, tt := range []struct {
		name string
		req  eventlog.ReadRequest
	}{
		{"all", eventlog.ReadRequest{}},
		{"limited", eventlog.ReadRequest{MaxEventBytes: 1 << 20}},
		{"page=100", eventlog.ReadRequest{MaxEvents: 100}},
		{"tenant 1 of 38", eventlog.ReadRequest{Filter: eventlog.Filter{Tenants: []string{"shop-7"}}}},
		{"without a tenant", eventlog.ReadRequest{Filter: eventlog.Filter{Exclude: []string{"shop-7"}}}},
		{"type that is not there", eventlog.ReadRequest{Filter: eventlog.Filter{Types: []string{"X", "OrderLineAdded"}, Exclude: []string{"shop-1"}, Tenants: nil}}},
	} {
		b.Run(tt.name, func(b *testing.B) {
			n, after := 0, event.Position(0)
			b.ReportAllocs()
			for b.Loop() {
				tt.req.After = after
				page, err := db.Read(b.Context(), tt.req)
				if err != nil {
					b.Fatal(err)
				}
				n += len(page.Events)
				if after = page.Next; after == page.Head {
					after = 0
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(max(n, 1)), "ns/event")
		})
	}
	b.Run("hand", func(b *testing.B) {
		c := shell(b, db.path)
		defer c.Close()
		s := c.Prep("SELECT position, stream_no, version, type_no, occurred_at, data FROM fairlead_events WHERE position > ? ORDER BY position LIMIT 1000")
		n, after := 0, int64(0)
		buf := make([]byte, 1<<20)
		for b.Loop() {
			s.BindInt64(1, after)
			rows := 0
			for {
				more, err := s.Step()
				if err != nil {
					b.Fatal(err)
				}
				if !more {
					break
				}
				after = s.ColumnInt64(0)
				_, _, _, _ = s.ColumnInt64(1), s.ColumnInt64(2), s.ColumnInt64(3), s.ColumnInt64(4)
				s.ColumnBytes(5, buf)
				rows++
			}
			if err := s.Reset(); err != nil {
				b.Fatal(err)
			}
			if n += rows; rows < 1000 {
				after = 0
			}
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(max(n, 1)), "ns/event")
	})
}

func BenchmarkCommit(b *testing.B) {
	for _, size := range []int{0, 1, 100, 1000} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			db := openTemp(b)
			lane := store.LaneID{Build: store.Build{Processor: "p", Number: 1}}
			err := db.Update(b.Context(), func(tx store.Tx) error { return tx.PutLane(store.Lane{LaneID: lane, State: store.Running}) })
			if err != nil {
				b.Fatal(err)
			}
			writes := make([]store.Write, size)
			n := 0
			b.ReportAllocs()
			for b.Loop() {
				for i := range writes {
					k := (n + i) * 7919 % 10_000
					writes[i].Document = store.Document{Key: store.Key{Tenant: fmt.Sprintf("shop-%d", k%38), ID: fmt.Sprintf("order-%d", k)}, Version: 1, Data: payload(k)}
				}
				c := store.Commit{Lane: lane, Fence: store.Fence{Position: event.Position(n)}, Position: event.Position(n + max(size, 1)), Writes: writes}
				if err := db.Commit(b.Context(), &c); err != nil {
					b.Fatal(err)
				}
				n += max(size, 1)
			}
			b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "documents/s")
		})
	}
}

func BenchmarkSmallReads(b *testing.B) {
	db := openTemp(b)
	if _, err := db.Append(b.Context(), appends(0, 2000)...); err != nil {
		b.Fatal(err)
	}
	b.Run("Revision", func(b *testing.B) {
		for b.Loop() {
			if _, err := db.Revision(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("Head", func(b *testing.B) {
		for b.Loop() {
			if _, err := db.Head(b.Context(), 0); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("ReadStream", func(b *testing.B) {
		if _, err := db.Append(b.Context(), appends(2000, 1000)...); err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			if _, err := db.ReadStream(b.Context(), eventlog.StreamRef{Tenant: "shop-7", Stream: "order-7"}, 0, 100); err != nil {
				b.Fatal(err)
			}
		}
	})
}
