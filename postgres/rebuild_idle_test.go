package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/internal/pgtest"
	"github.com/fairlead-dev/fairlead/postgres"
	"github.com/fairlead-dev/fairlead/store"
)

// TestRebuildFarBehind: while a rebuild is far from its end, only the processes that
// have work of it ask the database for more than an idle one does, and of them one
// asks how far it is. The rebuild has one partition and a limit of five events a
// second, so that its own work is next to nothing.
func TestRebuildFarBehind(t *testing.T) {
	const (
		processes = 4
		lasts     = 10 * time.Second
		most      = 8.0 // statements a second of a process that does not look after the rebuild
		mostFirst = 45.0
	)
	url := pgtest.Database(t)
	db := openDB(t, url, postgres.Options{})
	admin := fairlead.Admin{Log: db, Store: db}
	var streams []eventlog.StreamAppend
	for i := range 1000 {
		streams = append(streams, eventlog.StreamAppend{Tenant: fmt.Sprint("tenant-", i), Stream: "s"})
		for range 5 {
			streams[i].Events = append(streams[i].Events, eventlog.NewEvent{Type: "counted", Data: []byte(`{}`)})
		}
	}
	if _, err := db.Append(t.Context(), streams...); err != nil {
		t.Fatal(err)
	}
	var meters []*pgtest.Meter
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, processes)
	running := 0
	defer func() {
		stop()
		for range running {
			if err := <-ended; !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		}
	}()
	for i := range processes {
		m, to := pgtest.NewMeter(t, url)
		meters = append(meters, m)
		s := openDB(t, to, postgres.Options{})
		c, err := fairlead.New(fairlead.Config{Log: s, Store: s, Name: fmt.Sprint("process-", i)})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Add(ctx, fairlead.Project(counting("p"), fairlead.Options{Partitions: 1})); err != nil {
			t.Fatal(err)
		}
		running++
		go func() { ended <- c.Run(ctx) }()
	}
	until(t, time.Minute, "the lane has caught up", func() bool {
		lanes, err := admin.Lanes(ctx, "p")
		if err != nil {
			t.Fatal(err)
		}
		return len(lanes) == 1 && lanes[0].Behind == 0
	})
	if err := admin.Rebuild(ctx, "p", "", fairlead.RebuildOptions{Limit: 5}); err != nil {
		t.Fatal(err)
	}
	until(t, time.Minute, "the rebuild is worked", func() bool {
		var members int
		var owned bool
		if err := db.View(ctx, func(tx store.Tx) error {
			ms, err := tx.Members()
			if err != nil {
				return err
			}
			lanes, err := tx.Lanes("p")
			members, owned = len(ms), len(lanes) == 2 && lanes[0].Owner != "" && lanes[1].Owner != "" && lanes[1].Position > 0
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return members == processes && owned
	})
	waitOut(t, 6*time.Second) // lanes are moved yet
	before := make([]int64, processes)
	for i, m := range meters {
		before[i] = m.Statements.Load()
	}
	waitOut(t, lasts)
	busy, total := 0, 0.0
	for i, m := range meters {
		rate := float64(m.Statements.Load()-before[i]) / lasts.Seconds()
		t.Logf("process %d: %.1f statements a second", i, rate)
		if total += rate; rate > most {
			busy++
		}
		if rate > mostFirst {
			t.Errorf("process %d sends %.1f statements a second, want at most %v", i, rate, mostFirst)
		}
	}
	t.Logf("all: %.1f statements a second", total)
	if busy > 2 { // who looks after the rebuild, and who works it
		t.Errorf("%d of %d processes send more than %v statements a second", busy, processes, most)
	}
	p, err := admin.Processors(ctx)
	if err != nil || p[0].Rebuild == 0 {
		t.Fatalf("the rebuild is over: %+v, %v: nothing was measured", p, err)
	}
	// It ends in time all the same.
	if err := admin.LimitRebuild(ctx, "p", 0); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	until(t, time.Minute, "the rebuild is switched to", func() bool {
		p, err := admin.Processors(ctx)
		return err == nil && p[0].Rebuild == 0
	})
	t.Logf("without the limit it took %v", time.Since(began).Round(time.Millisecond))
}
