package postgres

import (
	"fmt"
	"testing"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/internal/pgtest"
)

// TestBucketsOfAnOldLog: a database from before events had hashes is brought up to
// date. Its events, and those that a program of before still appends, are
// everybody's; later ones are sent to those who want them.
func TestBucketsOfAnOldLog(t *testing.T) {
	url := pgtest.Database(t)
	before, err := open(t.Context(), url, migrations[:2])
	if err != nil {
		t.Fatal(err)
	}
	// What a program of before calls.
	const old = `SELECT o_position FROM fairlead.append(ARRAY['t'], ARRAY[$1::text], ARRAY[1], ARRAY[NULL::bigint], ARRAY[1], ARRAY[false],
		ARRAY['T'], ARRAY[NULL::timestamptz], ARRAY[NULL::text], ARRAY[NULL::bigint], ARRAY[NULL::text], ARRAY['{}'], ARRAY[NULL::bytea])`
	exec(t, before.pool, old, "before")
	db := openAt(t, url)
	exec(t, before.pool, old, "while it was brought up to date")
	if err := before.Close(); err != nil {
		t.Fatal(err)
	}
	const n = 400
	for i := range n {
		mustAppend(t, db, one(fmt.Sprint("s", i)))
	}
	if got := value[int](t, db.pool, "SELECT count(*) FROM fairlead.events WHERE tenant_hash IS NULL AND stream_hash IS NULL"); got != 2 {
		t.Fatalf("%d events without hashes, want 2", got)
	}
	if got := value[int](t, db.pool, "SELECT count(*) FROM fairlead.events WHERE stream_hash < 0"); got < n/4 || got > n*3/4 {
		t.Fatalf("%d of %d hashes are negative, want about half", got, n)
	}
	for _, modulus := range []int{3, 8, 1000} {
		total := 0
		for r := range min(modulus, 10) {
			b := eventlog.Bucket{ByStream: true, Modulus: modulus, Residue: r}
			events := readAllEvents(t, db, eventlog.Filter{Buckets: []eventlog.Bucket{b}})
			if events[0].Stream != "before" || events[1].Stream != "while it was brought up to date" {
				t.Errorf("%+v begins with %q and %q, want the two events without hashes", b, events[0].Stream, events[1].Stream)
			}
			for _, e := range events[2:] {
				if !b.Has(e.Tenant, e.Stream) {
					t.Errorf("%+v has been sent an event of stream %q", b, e.Stream)
				}
			}
			total += len(events) - 2
			// They are counted where they belong.
			want := map[string]int{}
			for _, e := range events {
				if b.Has(e.Tenant, e.Stream) {
					want[e.Tenant]++
					want[""]++
				}
			}
			for _, tenant := range []string{"", "t", "a"} {
				f := eventlog.Filter{Buckets: []eventlog.Bucket{b}}
				if tenant != "" {
					f.Tenants = []string{tenant}
				}
				if got, _, err := db.Count(t.Context(), 0, f, 0, event.Unbounded, 10_000); err != nil || got != want[tenant] {
					t.Errorf("Count(%+v) = %d, %v, want %d", f, got, err, want[tenant])
				}
			}
			counted, err := db.CountTenants(t.Context(), 0, []eventlog.TenantAfter{{Tenant: "t", Bucket: &b}, {Tenant: "a", Bucket: &b}}, event.Unbounded, 10_000)
			if err != nil || counted[0].Events != want["t"] || counted[1].Events != want["a"] {
				t.Errorf("CountTenants of %+v = %+v, %v, want %v", b, counted, err, want)
			}
		}
		if modulus <= 10 && total != n {
			t.Errorf("the buckets of %d have %d events together, want %d", modulus, total, n)
		}
	}
}

// BenchmarkReadBuckets reads a log of 100,000 events whole, and the quarter of one
// process of four.
func BenchmarkReadBuckets(b *testing.B) {
	db := openTemp(b)
	const n = 100_000
	fillLog(b, db, n)
	exec(b, db.pool, db.q("VACUUM ANALYZE {schema}.events"))
	for _, quarter := range []bool{false, true} {
		b.Run(fmt.Sprintf("quarter=%t", quarter), func(b *testing.B) {
			var f eventlog.Filter
			if quarter {
				f.Buckets = []eventlog.Bucket{{ByStream: true, Modulus: 8, Residue: 1}, {ByStream: true, Modulus: 8, Residue: 5}}
			}
			sent := 0
			for b.Loop() {
				sent = len(readAllEvents(b, db, f))
			}
			b.ReportMetric(float64(sent), "events-sent")
			b.ReportMetric(float64(b.N*n)/b.Elapsed().Seconds(), "log-events/s")
		})
	}
}
