package postgres_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/internal/pgtest"
	"github.com/fairlead-dev/fairlead/postgres"
	"github.com/fairlead-dev/fairlead/store"
)

// A readLog counts the events that are read; without buckets, it reads the whole
// log as any other does.
type readLog struct {
	*postgres.DB
	buckets bool
	events  *atomic.Int64
}

func (l readLog) FiltersBuckets() bool { return l.buckets }

func (l readLog) Read(ctx context.Context, req eventlog.ReadRequest) (eventlog.Page, error) {
	page, err := l.DB.Read(ctx, req)
	l.events.Add(int64(len(page.Events)))
	return page, err
}

// TestPartitionsAreReadOnce: four processes with eight partitions among them are
// sent each event of the log about once in all, while they catch up and while
// events come one by one; every event is applied once.
func TestPartitionsAreReadOnce(t *testing.T) {
	for _, buckets := range []bool{true, false} {
		t.Run(fmt.Sprint("buckets=", buckets), func(t *testing.T) {
			const processes, partitions, n = 4, 8, 20_000
			url := pgtest.Database(t)
			db := openDB(t, url, postgres.Options{})
			var events atomic.Int64
			var meters []*pgtest.Meter
			ctx := t.Context()
			for i := range processes {
				m, to := pgtest.NewMeter(t, url)
				s := openDB(t, to, postgres.Options{})
				c, err := fairlead.New(fairlead.Config{Log: readLog{s, buckets, &events}, Store: s, Name: fmt.Sprint("process-", i), Lease: 3 * time.Second})
				if err != nil {
					t.Fatal(err)
				}
				if err := c.Add(ctx, fairlead.Project(counting("p"), fairlead.Options{Partitions: partitions})); err != nil {
					t.Fatal(err)
				}
				meters = append(meters, m)
				defer start(ctx, t, c)()
			}
			settled := func() {
				t.Helper()
				until(t, time.Minute, "each process has had lanes for a while", func() bool {
					owners := map[string]int{}
					err := db.View(ctx, func(tx store.Tx) error {
						lanes, err := tx.Lanes("")
						for _, l := range lanes {
							owners[l.Owner]++
						}
						return err
					})
					if err != nil {
						t.Fatal(err)
					}
					return len(owners) == processes && owners[""] == 0
				})
				waitOut(t, time.Second) // for the new owners to have acquired them
			}
			rows := func() (n, bytes int64) {
				for _, m := range meters {
					n += m.Rows.Load()
					bytes += m.Bytes.Load()
				}
				return n, bytes
			}
			run := func(what string, appended int, appendAll func()) {
				t.Helper()
				read := events.Load()
				sent, bytes := rows()
				appendAll()
				head, err := db.Head(ctx, 0)
				if err != nil {
					t.Fatal(err)
				}
				until(t, 2*time.Minute, "all lanes have caught up", func() bool {
					caught := true
					err := db.View(ctx, func(tx store.Tx) error {
						lanes, err := tx.Lanes("")
						for _, l := range lanes {
							caught = caught && l.Position >= head
						}
						return err
					})
					if err != nil {
						t.Fatal(err)
					}
					return caught
				})
				sentNow, bytesNow := rows()
				perEvent := float64(events.Load()-read) / float64(appended)
				t.Logf("%s: %.3f events read for each of %d in the log; %.3f rows and %.0f bytes sent by the server, of all kinds", what, perEvent, appended,
					float64(sentNow-sent)/float64(appended), float64(bytesNow-bytes)/float64(appended))
				if buckets && perEvent > 1.1 {
					t.Errorf("%s: %d processes have read %.3f events for each in the log, want at most 1.1", what, processes, perEvent)
				}
				if !buckets && perEvent < 2 {
					t.Errorf("%s: without buckets %.3f events were read for each in the log: this test measures nothing", what, perEvent)
				}
			}
			stream := func(i int) eventlog.StreamAppend {
				return eventlog.StreamAppend{Tenant: fmt.Sprint("t", i%50), Stream: fmt.Sprint("s", i%2000), Events: []eventlog.NewEvent{{Type: "counted", Data: []byte(`{}`)}}}
			}
			settled()
			run("at once", n, func() {
				for i := 0; i < n; i += 1000 {
					var as []eventlog.StreamAppend
					for k := range 1000 {
						as = append(as, stream(i+k))
					}
					if _, err := db.Append(ctx, as...); err != nil {
						t.Fatal(err)
					}
				}
			})
			settled()
			const few = 400
			run("one by one", few, func() {
				for i := range few {
					if _, err := db.Append(ctx, stream(i)); err != nil {
						t.Fatal(err)
					}
					waitOut(t, 5*time.Millisecond)
				}
			})
			for i := range 2000 {
				a := stream(i)
				d, err := db.Get(ctx, "p", a.Tenant, a.Stream)
				want := int64(n / 2000)
				if i < few {
					want++
				}
				if err != nil || d.Version != want {
					t.Fatalf("stream %s of %s: version %d, %v, want %d", a.Stream, a.Tenant, d.Version, err, want)
				}
			}
		})
	}
}
