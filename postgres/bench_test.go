package postgres

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
)

// someEvents is an append of n events of about 200 bytes.
func someEvents(tenant, stream string, n int) eventlog.StreamAppend {
	a := eventlog.StreamAppend{Tenant: tenant, Stream: stream}
	for i := range n {
		a.Events = append(a.Events, eventlog.NewEvent{
			Type:     "OrderPlaced",
			Metadata: event.Metadata{"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
			Data:     fmt.Appendf(nil, `{"order":"o-%08d","customer":"c-123456","lines":[{"sku":"A-1","count":2,"price":"19.90"}],"total":"39.80"}`, i),
		})
	}
	return a
}

// BenchmarkAppend appends to many streams, one after another and by 8 at once.
func BenchmarkAppend(b *testing.B) {
	for _, size := range []int{1, 100} {
		for _, writers := range []int{1, 8} {
			for _, ids := range []bool{false, true} {
				b.Run(fmt.Sprintf("events=%d/writers=%d/ids=%t", size, writers, ids), func(b *testing.B) {
					db := openTemp(b)
					var n atomic.Int64
					b.SetParallelism(writers / 2)
					work := func() {
						i := n.Add(1)
						a := someEvents(fmt.Sprint("t", i%50), fmt.Sprint("s", i%5000), size)
						if ids {
							for j := range a.Events {
								a.Events[j].ID = fmt.Sprintf("id-%d-%d", i, j)
							}
						}
						if _, err := db.Append(context.Background(), a); err != nil {
							b.Error(err)
						}
					}
					b.ResetTimer()
					if writers == 1 {
						for b.Loop() {
							work()
						}
					} else {
						b.RunParallel(func(pb *testing.PB) {
							for pb.Next() {
								work()
							}
						})
					}
					b.ReportMetric(float64(n.Load()*int64(size))/b.Elapsed().Seconds(), "events/s")
				})
			}
		}
	}
}

// fillLog brings n events of 100 tenants into the log.
func fillLog(t testing.TB, db *DB, n int) {
	t.Helper()
	for i := 0; i < n; i += 1000 {
		var as []eventlog.StreamAppend
		for j := range 100 {
			as = append(as, someEvents(fmt.Sprint("t", j), fmt.Sprint("s", i%10_000/1000), 10))
		}
		if _, err := db.Append(t.Context(), as...); err != nil {
			t.Fatal(err)
		}
	}
}

// BenchmarkRead reads a log of 100,000 events from its beginning to its end.
func BenchmarkRead(b *testing.B) {
	db := openTemp(b)
	const n = 100_000
	fillLog(b, db, n)
	exec(b, db.pool, db.q("VACUUM ANALYZE {schema}.events"))
	for _, bb := range []struct {
		name string
		f    eventlog.Filter
		want int
	}{
		{"all", eventlog.Filter{}, n},
		{"tenant", eventlog.Filter{Tenants: []string{"t7"}}, n / 100},
		{"tenant and type", eventlog.Filter{Tenants: []string{"t7"}, Types: []string{"OrderPlaced"}}, n / 100},
		{"10 tenants", eventlog.Filter{Tenants: []string{"t0", "t1", "t2", "t3", "t4", "t5", "t6", "t7", "t8", "t9"}}, n / 10},
		{"without 10 tenants", eventlog.Filter{Exclude: []string{"t0", "t1", "t2", "t3", "t4", "t5", "t6", "t7", "t8", "t9"}}, n - n/10},
		{"no such type", eventlog.Filter{Types: []string{"X"}}, 0},
	} {
		b.Run(bb.name, func(b *testing.B) {
			for b.Loop() {
				if got := len(readAllEvents(b, db, bb.f)); got != bb.want {
					b.Fatalf("read %d events, want %d", got, bb.want)
				}
			}
			b.ReportMetric(float64(b.N*n)/b.Elapsed().Seconds(), "log-events/s")
		})
	}
}

// readAllEvents reads the log to its end.
func readAllEvents(t testing.TB, db *DB, f eventlog.Filter) (out []event.Event) {
	t.Helper()
	after := event.Beginning
	for {
		page, err := db.Read(t.Context(), eventlog.ReadRequest{After: after, Filter: f})
		if err != nil {
			t.Fatalf("Read after %v = %v", after, err)
		}
		out = append(out, page.Events...)
		if after = page.Next; page.Next >= page.Head {
			return out
		}
	}
}

// BenchmarkTail is the time from an append to the page that has its event: in one
// process, and over two.
func BenchmarkTail(b *testing.B) {
	for _, two := range []bool{false, true} {
		b.Run(fmt.Sprintf("processes=%t", two), func(b *testing.B) {
			reader := openTemp(b)
			writer := reader
			if two {
				writer = openAt(b, reader.pool.Config().ConnString())
			}
			after := event.Beginning
			var sum time.Duration
			for b.Loop() {
				var sent time.Time
				done := make(chan error, 1)
				go func() {
					sleep(context.Background(), 2*time.Millisecond) // the reader is to wait already
					sent = time.Now()
					_, err := writer.Append(context.Background(), someEvents("t", "s", 1))
					done <- err
				}()
				for {
					page, err := reader.Read(context.Background(), eventlog.ReadRequest{After: after})
					if err != nil {
						b.Fatal(err)
					}
					if after = page.Next; len(page.Events) > 0 {
						break
					}
					if err := reader.Wait(context.Background(), 0, after); err != nil {
						b.Fatal(err)
					}
				}
				if err := <-done; err != nil {
					b.Fatal(err)
				}
				sum += time.Since(sent)
			}
			b.ReportMetric(float64(sum.Microseconds())/float64(b.N), "µs/event")
		})
	}
}
