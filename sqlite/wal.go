package sqlite

import (
	"context"
	"sync"
	"time"
)

// A commit that finds the WAL long moves it into the file by itself (automatic
// checkpoint), but the WAL begins anew only at a moment at which nobody reads.
// Where readers never pause, that moment does not come, and the WAL would grow
// for ever. So, when it has become twice as long as it should be, the writer lets
// the readers of this DB pause for a moment.
const (
	walEvery = 32                    // look at its size after so many commits
	walPause = 20 * time.Millisecond // the longest that readers wait, and are waited for
)

// A gate counts those who read, and can keep more from beginning.
type gate struct {
	mu      sync.Mutex
	reading int
	barrier chan struct{} // closed when the gate opens again; nil: it is open
	empty   chan struct{} // closed when nobody reads; nil: nobody asks
}

// enter waits until the gate is open.
func (g *gate) enter(ctx context.Context) error {
	for {
		g.mu.Lock()
		barrier := g.barrier
		if barrier == nil {
			g.reading++
			g.mu.Unlock()
			return nil
		}
		g.mu.Unlock()
		select {
		case <-barrier:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (g *gate) leave() {
	g.mu.Lock()
	g.reading--
	if g.reading == 0 && g.empty != nil {
		close(g.empty)
		g.empty = nil
	}
	g.mu.Unlock()
}

// alone runs f while nobody reads. It gives up, and reports false, when those
// who read take longer than wait.
func (g *gate) alone(wait time.Duration, f func()) bool {
	g.mu.Lock()
	barrier, empty := make(chan struct{}), make(chan struct{})
	g.barrier = barrier
	if g.reading == 0 {
		close(empty)
	} else {
		g.empty = empty
	}
	g.mu.Unlock()
	defer func() {
		g.mu.Lock()
		g.barrier, g.empty = nil, nil
		g.mu.Unlock()
		close(barrier)
	}()
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-empty:
		f()
		return true
	case <-timer.C:
		return false
	}
}

// shortenWAL begins the WAL anew where that is due. It is called after commits;
// whether it succeeds is of no matter to them.
func (w *writer) shortenWAL() {
	if w.commits++; w.commits < w.walDue {
		return
	}
	w.commits = 0
	if fileSize(w.db.path+"-wal") < 2*w.db.walBytes {
		w.walDue = walEvery
		return
	}
	short := false
	w.db.gate.alone(walPause, func() {
		w.SetBusyTimeout(walPause) // for the readers of other processes
		defer w.SetBusyTimeout(0)
		blocked, found, err := w.int64("PRAGMA wal_checkpoint(TRUNCATE)")
		short = err == nil && found && blocked == 0
	})
	if short {
		w.walDue = walEvery
	} else { // somebody reads for long: do not bother all others again and again
		w.walDue = min(max(2*w.walDue, walEvery), 32*walEvery)
	}
}
