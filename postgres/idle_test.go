package postgres_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/internal/pgtest"
	"github.com/fairlead-dev/fairlead/postgres"
	"github.com/fairlead-dev/fairlead/projection"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/jackc/pgx/v5"
)

type counted struct{ N int }

// counting returns a projection that counts the events of each stream.
func counting(name string) projection.Definition {
	return projection.New(name, projection.On("counted", func(s *counted, _ projection.Event[counted]) error {
		s.N++
		return nil
	}))
}

const (
	idleProcessors = 10
	idleTenants    = 1000
	serverOwn      = 3 // transactions a second
)

// TestIdle: processes with 10 processors and 1,000 tenants whose events are all
// applied ask their database next to nothing. FAIRLEAD_IDLE says for how long
// they are counted, "20s" by default.
func TestIdle(t *testing.T) {
	lasts := 20 * time.Second
	if s := os.Getenv("FAIRLEAD_IDLE"); s != "" {
		var err error
		if lasts, err = time.ParseDuration(s); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		name      string
		processes int
		pooler    bool
		most      float64 // statements a second of each process
	}{
		{"one process", 1, false, 2},
		{"three processes", 3, false, 2},
		{"behind a pooler", 1, true, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			idle(t, tt.processes, tt.pooler, lasts, tt.most)
		})
	}
}

func idle(t *testing.T, processes int, pooler bool, lasts time.Duration, most float64) {
	url := pgtest.Database(t)
	through := url
	if pooler {
		through = pgtest.Bouncer(t, url)
	}
	db := openDB(t, url, postgres.Options{})
	var streams []eventlog.StreamAppend
	for i := range idleTenants {
		streams = append(streams, eventlog.StreamAppend{
			Tenant: fmt.Sprint("tenant-", i), Stream: "s",
			Events: []eventlog.NewEvent{{Type: "counted", Data: []byte(`{}`)}, {Type: "counted", Data: []byte(`{}`)}},
		})
	}
	if _, err := db.Append(t.Context(), streams...); err != nil {
		t.Fatal(err)
	}
	var meters []*pgtest.Meter
	ctx := t.Context()
	for i := range processes {
		m, to := pgtest.NewMeter(t, through)
		meters = append(meters, m)
		s := openDB(t, to, postgres.Options{Pooler: pooler})
		c, err := fairlead.New(fairlead.Config{Log: s, Store: s, Name: fmt.Sprint("process-", i)})
		if err != nil {
			t.Fatal(err)
		}
		for n := range idleProcessors {
			if err := c.Add(ctx, fairlead.Project(counting(fmt.Sprint("p", n)), fairlead.Options{})); err != nil {
				t.Fatal(err)
			}
		}
		defer start(ctx, t, c)()
	}
	head, err := db.Head(ctx, 0)
	if err != nil {
		t.Fatal(err)
	}
	owners := map[string]int{}
	until(t, time.Minute, "the lanes have caught up and are shared out", func() bool {
		clear(owners)
		caught := true
		err := db.View(ctx, func(tx store.Tx) error {
			lanes, err := tx.Lanes("")
			for _, l := range lanes {
				owners[l.Owner]++
				caught = caught && l.Position >= head
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return caught && len(owners) == processes && owners[""] == 0
	})
	if n, err := db.Tenants(ctx, "p9", "", 2*idleTenants); err != nil || len(n) != idleTenants {
		t.Fatalf("%d tenants have documents, %v; want %d", len(n), err, idleTenants)
	}
	// Lanes are moved yet, and what they cost falls to nothing in a minute or so,
	// which the processes tell each other.
	revision, since := int64(-1), time.Now()
	until(t, 3*time.Minute, "nothing has changed for 8 s", func() bool {
		now, err := db.Revision(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if now != revision {
			revision, since = now, time.Now()
		}
		return time.Since(since) > 8*time.Second
	})
	// The server counts what a session did up to 10 s later.
	waitOut(t, 11*time.Second)
	for n := 1; !measureIdle(t, db, url, meters, pooler, lasts, most); n++ {
		if n == 5 {
			t.Fatal("something changes in the store all the time")
		}
		t.Log("that does not count: lanes have moved meanwhile, as they may on a busy machine")
	}
	// It is idle, not asleep.
	if _, err := db.Append(ctx, streams[0]); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	until(t, 5*time.Second, "one more event is applied", func() bool {
		d, err := db.Get(ctx, "p9", "tenant-0", "s")
		return err == nil && d.Version == 4
	})
	t.Logf("%d processes, pooler %v: an event was visible %v after its append", processes, pooler, time.Since(began).Round(time.Millisecond))
}

// measureIdle compares what processes ask for with what they may. False: it does not
// count, because something has changed in the store meanwhile.
func measureIdle(t *testing.T, db *postgres.DB, url string, meters []*pgtest.Meter, pooler bool, lasts time.Duration, most float64) bool {
	revision, err := db.Revision(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	transactions := commits(t, url)
	before := make([]int64, len(meters))
	for i, m := range meters {
		before[i] = m.Statements.Load()
	}
	began := time.Now()
	waitOut(t, lasts)
	took := time.Since(began).Seconds()
	rates := make([]float64, len(meters))
	for i, m := range meters {
		rates[i] = float64(m.Statements.Load()-before[i]) / took
		t.Logf("process %d of %d, pooler %v: %.2f statements a second", i, len(meters), pooler, rates[i])
	}
	all := (commits(t, url) - transactions) / took
	t.Logf("%d processes, pooler %v: %.2f transactions a second by pg_stat_database", len(meters), pooler, all)
	now, err := db.Revision(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if now != revision {
		return false
	}
	for i, rate := range rates {
		if rate > most {
			t.Errorf("process %d of %d, pooler %v: %.2f statements a second while idle, want at most %v", i, len(meters), pooler, rate, most)
		}
		if rate == 0 {
			t.Errorf("process %d: nothing was counted, not even heartbeats", i)
		}
	}
	// What the server counts has its own work in it, this test's, and the logins of a
	// pooler that has closed idle sessions.
	if limit := most*float64(len(meters)) + serverOwn; all > limit {
		t.Errorf("%d processes, pooler %v: the server has committed %.2f transactions a second, want at most %v", len(meters), pooler, all, limit)
	}
	return true
}

// commits is how many transactions a database has committed.
func commits(t *testing.T, url string) (n float64) {
	t.Helper()
	admin, err := pgx.Connect(t.Context(), pgtest.URL(t))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = admin.Close(context.Background()) }()
	name := url[strings.LastIndex(url, "/")+1:]
	name, _, _ = strings.Cut(name, "?")
	if err := admin.QueryRow(t.Context(), "SELECT xact_commit FROM pg_stat_database WHERE datname = $1", name).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func waitOut(t *testing.T, d time.Duration) {
	t.Helper()
	select {
	case <-time.After(d):
	case <-t.Context().Done():
	}
}

func until(t *testing.T, most time.Duration, what string, ok func() bool) {
	t.Helper()
	for began := time.Now(); !ok(); waitOut(t, 5*time.Millisecond) {
		if time.Since(began) > most {
			t.Fatalf("after %v it is not so that %s", most, what)
		}
	}
}
