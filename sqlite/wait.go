package sqlite

import (
	"context"
	"sync"
	"time"

	"github.com/fairlead-dev/fairlead/event"
)

// pollEvery is how often a DB that somebody waits on looks whether another
// process has written.
const pollEvery = 5 * time.Millisecond

// waiters are those who wait for the log to grow. While there is one, one
// goroutine polls for the appends of other processes; it counts in DB.uses.
type waiters struct {
	mu      sync.Mutex
	n       int
	changed chan struct{} // closed at the next change; nil: nobody waits
	err     error         // what ended the polling
	polling bool
}

// wake wakes up all who wait.
func (ws *waiters) wake() {
	ws.mu.Lock()
	if ws.changed != nil {
		close(ws.changed)
		ws.changed = nil
	}
	ws.mu.Unlock()
}

// Wait implements [eventlog.Log]. An append by this DB is seen at once, one by
// another process within about 5 ms.
func (db *DB) Wait(ctx context.Context, partition int, after event.Position) error {
	if err := checkPartition(partition); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := db.use(); err != nil {
		return err
	}
	defer db.uses.Done()
	ws := &db.waiting
	ws.mu.Lock()
	ws.n++
	ws.mu.Unlock()
	defer func() {
		ws.mu.Lock()
		ws.n--
		ws.mu.Unlock()
	}()
	for {
		ws.mu.Lock()
		if ws.changed == nil {
			ws.changed = make(chan struct{})
		}
		changed := ws.changed
		err := ws.err
		if db.seen.Load() > int64(after) {
			ws.mu.Unlock()
			return nil
		}
		if err == nil && !ws.polling {
			ws.polling = true
			db.uses.Add(1) // never the first: this call counts already
			go db.poll()
		}
		ws.err = nil
		ws.mu.Unlock()
		if err != nil {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		case <-db.closing.Done():
			return ErrClosed
		}
	}
}

// poll looks for commits of others until nobody waits. Whoever sets
// waiters.polling owns the polling connection until it is reset.
func (db *DB) poll() {
	defer db.uses.Done()
	ws := &db.waiting
	if err := db.pollUntilAlone(); err != nil {
		ws.mu.Lock()
		ws.polling, ws.err = false, db.fault(db.closing, "wait", err)
		ws.mu.Unlock()
		ws.wake()
	}
}

func (db *DB) pollUntilAlone() error {
	if db.pollConn == nil {
		c, err := db.readers.open()
		if err != nil {
			return err
		}
		db.pollConn = c
	}
	c, ws := db.pollConn, &db.waiting
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	version := int64(-1)
	for {
		// The data version changes with every commit of another connection, and
		// looking at it takes no lock and reads no page. The first look is at
		// once: there may have been commits before.
		err := db.retryBusy(db.closing, func() error {
			if err := db.gate.enter(db.closing); err != nil {
				return err
			}
			defer db.gate.leave()
			defer c.unwatch() // resets what was left half read
			v, _, err := c.int64("PRAGMA data_version")
			if err != nil || v == version {
				return err
			}
			m, _, err := c.snapshot()
			if err != nil {
				return err
			}
			version = v
			db.raise(m.head)
			return nil
		})
		if err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-db.closing.Done():
			return ErrClosed
		}
		ws.mu.Lock()
		if ws.n == 0 {
			ws.polling = false
			ws.mu.Unlock()
			return nil
		}
		ws.mu.Unlock()
	}
}
