package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/sqlite"
	"github.com/fairlead-dev/fairlead/store"
)

// child is the whole program in a process that runChild has started.
func child(ctx context.Context, task string) int {
	var t childTask
	err := json.Unmarshal([]byte(task), &t)
	var r any
	if err == nil && t.Do == "scale" {
		r, err = scaleProcess(ctx, t.Path, t.AtOnce)
	} else if err == nil && t.Do == "rebalance" {
		if err = rebalanceProcess(ctx, t.Path); err == nil {
			return 0
		}
	} else if err == nil {
		r, err = t.run(ctx)
	}
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(r)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 1
	}
	return 0
}

func (t childTask) run(ctx context.Context) (childReport, error) {
	var r childReport
	switch t.Do {
	case "catch up":
		return r, t.catchUp(ctx, &r)
	case "idle":
		return r, t.idle(ctx, &r)
	}
	return r, fmt.Errorf("no task %q", t.Do)
}

func (t childTask) catchUp(ctx context.Context, r *childReport) (err error) {
	db, err := sqlite.Open(t.Path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if r.PeakAtStart, err = peakResident(); err != nil {
		return err
	}
	c, err := fairlead.New(fairlead.Config{Log: db, Store: db})
	if err != nil {
		return err
	}
	if err := c.Add(ctx, fairlead.Project(tallies)); err != nil {
		return err
	}
	started := time.Now()
	if err := t.work(ctx, c, db, nil, tallies.Name()); err != nil {
		return err
	}
	r.Seconds = time.Since(started).Seconds()
	r.Peak, err = peakResident()
	return err
}

// work runs a consumer until its processors have applied all events, and then
// calls after, while it still runs.
func (t childTask) work(ctx context.Context, c *fairlead.Consumer, db *sqlite.DB, after func() error, processors ...string) error {
	consumer := start(ctx, c)
	defer func() { _ = consumer.stop() }()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	head, err := db.Head(ctx, 0)
	if err != nil {
		return err
	}
	for _, name := range processors {
		for behind := true; behind; {
			select {
			case <-tick.C:
			case <-consumer.ended:
				return consumer.stop()
			}
			behind = false
			err := db.View(ctx, func(tx store.Tx) error {
				lanes, err := tx.Lanes(name)
				for _, l := range lanes {
					behind = behind || l.Position < head
				}
				return err
			})
			if err != nil {
				return err
			}
		}
	}
	if after != nil {
		if err := after(); err != nil {
			return err
		}
	}
	return consumer.stop()
}

func (t childTask) idle(ctx context.Context, r *childReport) (err error) {
	db, err := sqlite.Open(t.Path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	log, st := &countedLog{DB: db}, &countedStore{Store: db}
	c, err := fairlead.New(fairlead.Config{Log: log, Store: st})
	if err != nil {
		return err
	}
	var handled atomic.Int64
	reactor := fairlead.React("reactor", func(context.Context, fairlead.Delivery) error { handled.Add(1); return nil })
	if err := c.Add(ctx, fairlead.Project(tallies), reactor); err != nil {
		return err
	}
	err = t.work(ctx, c, db, func() error {
		// What ended just now is to be at rest: workers that were busy end after
		// a second.
		if err := rest(ctx, 1500*time.Millisecond); err != nil {
			return err
		}
		calls, looks := log.calls.Load(), st.calls.Load()
		if err := rest(ctx, t.Window); err != nil {
			return err
		}
		r.LogCalls, r.StoreCalls = log.calls.Load()-calls, st.calls.Load()-looks
		r.Goroutines = runtime.NumGoroutine()
		var m runtime.MemStats
		for range 3 {
			runtime.GC()
		}
		runtime.ReadMemStats(&m)
		r.Heap = int64(m.HeapAlloc + m.StackInuse)
		return nil
	}, tallies.Name(), "reactor")
	if n := handled.Load(); err == nil && n != int64(t.Events) {
		err = fmt.Errorf("wrong result: the reactor handled %d of %d events", n, t.Events)
	}
	return err
}

func rest(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// A countedLog counts what is asked of a log.
type countedLog struct {
	*sqlite.DB
	calls atomic.Int64
}

func (l *countedLog) Read(ctx context.Context, req eventlog.ReadRequest) (eventlog.Page, error) {
	l.calls.Add(1)
	return l.DB.Read(ctx, req)
}

func (l *countedLog) Head(ctx context.Context, partition int) (event.Position, error) {
	l.calls.Add(1)
	return l.DB.Head(ctx, partition)
}

func (l *countedLog) Wait(ctx context.Context, partition int, after event.Position) error {
	l.calls.Add(1)
	return l.DB.Wait(ctx, partition, after)
}

func (l *countedLog) Count(ctx context.Context, partition int, f eventlog.Filter, after, until event.Position, limit int) (int, time.Time, error) {
	l.calls.Add(1)
	return l.DB.Count(ctx, partition, f, after, until, limit)
}

// A countedStore counts what is asked of a store.
type countedStore struct {
	store.Store
	calls atomic.Int64
}

func (s *countedStore) Commit(ctx context.Context, c *store.Commit) error {
	s.calls.Add(1)
	return s.Store.Commit(ctx, c)
}

func (s *countedStore) Load(ctx context.Context, b store.Build, keys []store.Key) ([]store.Document, error) {
	s.calls.Add(1)
	return s.Store.Load(ctx, b, keys)
}

func (s *countedStore) Update(ctx context.Context, f func(store.Tx) error) error {
	s.calls.Add(1)
	return s.Store.Update(ctx, f)
}

func (s *countedStore) View(ctx context.Context, f func(store.Tx) error) error {
	s.calls.Add(1)
	return s.Store.View(ctx, f)
}

func (s *countedStore) Extend(ctx context.Context, id, notes string, ttl time.Duration) (bool, error) {
	s.calls.Add(1)
	return s.Store.Extend(ctx, id, notes, ttl)
}

func (s *countedStore) Revision(ctx context.Context) (int64, error) {
	s.calls.Add(1)
	return s.Store.Revision(ctx)
}

// peakResident returns the most memory that this process has had resident. The
// figure of getrusage is none of its own: a process inherits its parent's.
func peakResident() (int64, error) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, fmt.Errorf("peak memory is measured on Linux only: %w", err)
	}
	for line := range bytes.Lines(status) {
		if value, ok := bytes.CutPrefix(line, []byte("VmHWM:")); ok {
			kib, err := strconv.ParseInt(string(bytes.TrimSpace(bytes.TrimSuffix(bytes.TrimSpace(value), []byte("kB")))), 10, 64)
			return kib << 10, err
		}
	}
	return 0, errors.New("no VmHWM in /proc/self/status")
}
