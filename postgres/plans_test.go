package postgres

import (
	"fmt"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
)

// eventTables are the table of events, or its partitions.
const eventTables = `SELECT c.oid FROM pg_class c WHERE c.relkind = 'r'
	AND (c.oid = 'fairlead.events'::regclass OR c.oid IN (SELECT p.relid FROM pg_partition_tree('fairlead.events') p))`

// A table that is new has no statistics until autovacuum comes by, after a minute or
// more: whatever PostgreSQL thinks of it meanwhile, no look at the end of the log and no
// page may read the table from its beginning.
func TestReadsWithoutStatistics(t *testing.T) {
	const events, times = 10_000, 20
	url := migrated(t)
	db := openAt(t, url)
	c := connect(t, db)
	exec(t, c, `DO $$ DECLARE part regclass; BEGIN
		FOR part IN `+eventTables+` LOOP
			EXECUTE format('ALTER TABLE %s SET (autovacuum_enabled = off)', part);
		END LOOP; END $$`)
	for i := 0; i < events; i += 1000 {
		all := make([]eventlog.StreamAppend, 0, 100)
		for k := range cap(all) {
			all = append(all, eventlog.StreamAppend{Tenant: fmt.Sprintf("t%d", (i+k)%999), Stream: "s", Events: make([]eventlog.NewEvent, 10)})
			for n := range all[k].Events {
				all[k].Events[n] = eventlog.NewEvent{Type: "happened", Data: []byte("{}")}
			}
		}
		if _, err := db.Append(t.Context(), all...); err != nil {
			t.Fatal(err)
		}
	}
	read := func(what string, after event.Position, n int, f eventlog.Filter) {
		t.Helper()
		page, err := db.Read(t.Context(), eventlog.ReadRequest{After: after, MaxEvents: n, Filter: f})
		if err != nil || len(page.Events) == 0 && f.All() {
			t.Fatalf("%s: %d events, error %v", what, len(page.Events), err)
		}
	}
	// What a session has done is counted when it ends at the latest.
	scanned := func() int64 {
		t.Helper()
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		for range 100 {
			if value[int](t, c, "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend'") == 1 {
				break
			}
			time.Sleep(50 * time.Millisecond)
		}
		return value[int64](t, c, `SELECT sum(seq_tup_read)::bigint FROM pg_stat_user_tables
			WHERE relid IN (`+eventTables+`)`)
	}
	from := scanned()
	db = openAt(t, url, Options{MaxConns: 2})
	for i := range times {
		if _, err := db.Head(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
		last := event.Position(events - 1 - i)
		read("at the end", last, 1000, eventlog.Filter{})
		read("behind others", event.Position(i), 10, eventlog.Filter{})
		read("some partitions", last, 1000, eventlog.Filter{Buckets: []eventlog.Bucket{{Modulus: 16, Residue: 3, ByStream: true}}})
		read("a tenant", last, 1000, eventlog.Filter{Tenants: []string{"t7"}})
		read("without a tenant", last, 1000, eventlog.Filter{Exclude: []string{"t7"}})
	}
	if to := scanned(); to-from > events {
		t.Errorf("%d looks at the end and %[1]d pages of each kind read %d rows in scans of the whole table, which has %d", times, to-from, events)
	}
}
