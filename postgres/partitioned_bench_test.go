package postgres

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
)

// BenchmarkTenantPartitions does the same to a log in one table and to one in 16
// partitions, in turns, and says how many times as long the second takes: medians.
// Both have 200,000 events of 1,000 tenants.
func BenchmarkTenantPartitions(b *testing.B) {
	const events, tenants = 200_000, 1000
	var logs [2]*DB
	for i := range logs {
		db := openTemp(b)
		if i == 1 {
			if _, err := db.PartitionByTenant(b.Context(), 16); err != nil {
				b.Fatal(err)
			}
			db = openAt(b, db.pool.Config().ConnString())
		}
		for n := 0; n < events; n += 1000 {
			var as []eventlog.StreamAppend
			for k := range 100 {
				as = append(as, someEvents(fmt.Sprint("t", (n/10+k)%tenants), fmt.Sprint("s", n/10_000), 10))
			}
			if _, err := db.Append(b.Context(), as...); err != nil {
				b.Fatal(err)
			}
		}
		exec(b, db.pool, "VACUUM ANALYZE fairlead.events")
		if _, err := db.Head(b.Context(), 0); err != nil {
			b.Fatal(err)
		}
		logs[i] = db
	}
	appends := func(n int, ids bool) func(context.Context, *DB, int) error {
		return func(ctx context.Context, db *DB, i int) error {
			a := someEvents(fmt.Sprint("t", i%tenants), fmt.Sprint("new", i%5000), n)
			for j := range a.Events {
				if ids {
					a.Events[j].ID = fmt.Sprintf("%d-%d-%d", n, i, j)
				}
			}
			_, err := db.Append(ctx, a)
			return err
		}
	}
	page := func(n int, req eventlog.ReadRequest) func(context.Context, *DB, int) error {
		return func(ctx context.Context, db *DB, i int) error {
			req := req
			if req.After == 0 && req.Filter.Tenants == nil {
				req.After = event.Position(i * n % (events - n))
			}
			req.MaxEvents, req.MaxBytes = n, 64<<20
			_, err := db.Read(ctx, req)
			return err
		}
	}
	for _, bb := range []struct {
		name string
		do   func(context.Context, *DB, int) error
	}{
		{"append 1", appends(1, false)},
		{"append 1 with id", appends(1, true)},
		{"append 100", appends(100, false)},
		{"append 100 with ids", appends(100, true)},
		{"page of 1000", page(1000, eventlog.ReadRequest{})},
		{"page of 5000", page(5000, eventlog.ReadRequest{})},
		{"page of 1000 of a bucket of 4", page(1000, eventlog.ReadRequest{Filter: eventlog.Filter{Buckets: []eventlog.Bucket{{Modulus: 4, Residue: 1, ByStream: true}}}})},
		{"page of 1000 without a tenant", page(1000, eventlog.ReadRequest{Filter: eventlog.Filter{Exclude: []string{"t1"}}})},
		{"page of a tenant, 200 events", page(1000, eventlog.ReadRequest{Filter: eventlog.Filter{Tenants: []string{"t7"}}})},
		{"page at the end", page(1000, eventlog.ReadRequest{After: events - 10})},
		{"stream", func(ctx context.Context, db *DB, i int) error {
			_, err := db.ReadStream(ctx, eventlog.StreamRef{Tenant: fmt.Sprint("t", i%tenants), Stream: "s0"}, 0, 100)
			return err
		}},
		{"head", func(ctx context.Context, db *DB, _ int) error {
			_, err := db.Head(ctx, 0)
			return err
		}},
		{"count of 1000 tenants", func(ctx context.Context, db *DB, _ int) error {
			as := make([]eventlog.TenantAfter, tenants)
			for i := range as {
				as[i] = eventlog.TenantAfter{Tenant: fmt.Sprint("t", i), After: events - 100}
			}
			_, err := db.CountTenants(ctx, 0, as, event.Unbounded, 1000)
			return err
		}},
	} {
		b.Run(bb.name, func(b *testing.B) {
			var took [2][]time.Duration
			for i := 0; b.Loop(); i++ {
				for k := range logs {
					k = (k + i) % 2
					start := time.Now()
					if err := bb.do(b.Context(), logs[k], b.N*1_000_000+i); err != nil {
						b.Fatal(err)
					}
					if i >= 16 { // the plans are made by then
						took[k] = append(took[k], time.Since(start))
					}
				}
			}
			if len(took[0]) == 0 {
				return
			}
			for k := range took {
				slices.Sort(took[k])
			}
			one, parts := took[0][len(took[0])/2], took[1][len(took[1])/2]
			b.ReportMetric(float64(one.Nanoseconds())/1000, "µs/table")
			b.ReportMetric(float64(parts.Nanoseconds())/1000, "µs/partitions")
			b.ReportMetric(float64(parts)/float64(one), "times")
		})
	}
}
