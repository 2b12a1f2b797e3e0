package postgres

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/jackc/pgx/v5"
)

// How often a DB that somebody waits on looks at the log. It looks at once when
// this process has appended and when another process says so. In between it looks
// after an eighth of the time that nothing came: a log that is busy is looked at
// often, one that is idle next to never, and what was announced and is committed
// later is found after an eighth of that time more.
const (
	notifyEvery = 50 * time.Millisecond
	lookBusy    = 5 * time.Millisecond
	lookIdle    = 5 * time.Second        // where notifications come
	lookBlind   = 700 * time.Millisecond // where they do not: less than twice a second
	lookHeld    = 250 * time.Millisecond // where something is there, and held back
	lookBack    = 8
	unknownIdle = time.Second // as long ago something may have come last, as the first look begins
)

// A watch is those who wait for the log to grow. From the first of them on, one
// goroutine of the DB looks while somebody waits; it counts in DB.uses.
type watch struct {
	mu      sync.Mutex
	n       int           // who waits
	started bool          // the goroutine
	changed chan struct{} // closed at the next change; nil: nobody waits
	err     error         // what kept the last look from an answer
	seen    event.Position

	look  chan struct{} // holds a value where something was announced
	again chan struct{} // holds a value where something may have been missed
	needy chan struct{} // holds a value where somebody has begun to wait

	hears     atomic.Bool // notifications come
	listening sync.Once   // the listener is started

	telling bool          // there is a goroutine that notifies; guarded by mu
	told    chan struct{} // holds a value where this process has appended
}

func (w *watch) init() {
	w.look, w.again = make(chan struct{}, 1), make(chan struct{}, 1)
	w.needy, w.told = make(chan struct{}, 1), make(chan struct{}, 1)
}

// hint makes the goroutine look at once, and often after that: what was announced
// may be committed later.
func (w *watch) hint() { signal(w.look) }

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// raise notes that the safe head has reached p, and wakes up who waits for it.
func (w *watch) raise(p event.Position) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if p > w.seen {
		w.seen = p
		w.wake()
	}
}

// wake wakes up all who wait. The caller holds mu.
func (w *watch) wake() {
	if w.changed != nil {
		close(w.changed)
		w.changed = nil
	}
}

// fail hands an error to all who wait now.
func (w *watch) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.changed != nil {
		w.err = err
		w.wake()
	}
}

// Wait implements [eventlog.Log]. An append by this DB is seen at once, one by
// another process as soon as its notification comes; where none can come (a
// pooler is between), within a moment while events come often, and at the latest
// after 250 ms.
func (db *DB) Wait(ctx context.Context, partition int, after event.Position) error {
	if err := checkCall(ctx, partition); err != nil {
		return err
	}
	w := &db.watch
	if db.head.position() > after {
		return nil
	}
	if err := db.use(); err != nil {
		return err
	}
	defer db.uses.Done()
	w.mu.Lock()
	w.n++
	if !w.started {
		w.started = true
		db.uses.Add(1) // never the first: this call counts already
		go db.watchLog()
	}
	if w.n == 1 {
		signal(w.needy)
	}
	if w.changed == nil {
		w.changed, w.err = make(chan struct{}), nil
	}
	changed := w.changed
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		w.n--
		w.mu.Unlock()
	}()
	for {
		if db.head.position() > after {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		case <-db.closing.Done():
			return ErrClosed
		}
		w.mu.Lock()
		if err := w.err; err != nil {
			w.mu.Unlock()
			return err
		}
		if w.changed == nil {
			w.changed = make(chan struct{})
		}
		changed = w.changed
		w.mu.Unlock()
	}
}

// KnownHead implements [eventlog.HeadKnower].
func (db *DB) KnownHead(int) event.Position { return db.head.position() }

// watchLog looks at the log while somebody waits, until the DB is closed.
func (db *DB) watchLog() {
	defer db.uses.Done()
	w := &db.watch
	ctx := db.closing
	db.listen()

	timer := time.NewTimer(0)
	defer timer.Stop()
	// When something came last. Of a log that it has not looked at before it knows
	// nothing: that is no reason to take it for a busy one.
	last, failures := time.Now().Add(-unknownIdle), 0
	var looked time.Time
	head := event.Position(-1) // not known
	for {
		w.mu.Lock()
		idle := w.n == 0
		w.mu.Unlock()
		if idle {
			select {
			case <-w.needy:
			case <-ctx.Done():
				return
			}
		}
		// Appends of this process may come one by one, faster than looking pays.
		if rest := listOften - time.Since(looked); rest > 0 && !sleep(ctx, rest) {
			return
		}
		looked = time.Now()
		now, err := db.look(ctx)
		var delay time.Duration
		if err != nil {
			failures = min(failures+1, 10)
			delay = min(lookBusy<<failures, lookIdle)
			w.fail(db.fault(ctx, "wait", err))
		} else {
			failures = 0
			if now > head {
				if head >= 0 {
					last = time.Now()
				}
				head = now
				w.raise(now)
			}
			if since := db.head.pending(); !since.IsZero() {
				// Something is there already; who holds it back will end soon.
				delay = min(max(time.Since(since)/lookBack, listLeast), lookHeld)
			} else {
				most := lookIdle
				if !w.hears.Load() {
					most = lookBlind
				}
				delay = min(max(time.Since(last)/lookBack, lookBusy), most)
			}
		}
		timer.Reset(delay)
		select {
		case <-timer.C:
		case <-w.look:
			last = time.Now()
		case <-w.again:
		case <-ctx.Done():
			return
		}
	}
}

func (db *DB) look(ctx context.Context) (event.Position, error) {
	ctx, cancel := db.limit(ctx)
	defer cancel()
	return db.advance(ctx)
}

// A listener hears the notifications of appends, on a connection of its own.
type listener struct{ db *DB }

const (
	channel       = "fairlead"
	listenTrial   = 2 * time.Second  // for a notification of our own to come back
	listenRetry   = 10 * time.Minute // where it does not
	listenBackOff = 10 * time.Second // at most, where the connection is lost
)

// listen starts the listener, which ends with the DB: one for all who wait, of
// the log and of the store. The caller counts in DB.uses.
func (db *DB) listen() {
	db.watch.listening.Do(func() {
		db.uses.Go(func() {
			l := listener{db}
			l.run(db.closing)
		})
	})
}

// run listens until ctx ends, on one connection after another.
func (l *listener) run(ctx context.Context) {
	if l.db.opts.Pooler || l.db.mapped != nil && l.db.mapped.m.Channel == "" {
		return // what listens there is a server's session that others use
	}
	wait := 100 * time.Millisecond
	for {
		heard := l.listen(ctx)
		l.db.watch.hears.Store(false)
		signal(l.db.watch.again) // something may have come meanwhile
		l.db.rows.hint()
		if heard {
			wait = 100 * time.Millisecond
			if ctx.Err() == nil {
				l.db.pool.Reset() // what has cut this connection has perhaps cut all
			}
		}
		if !sleep(ctx, wait) {
			return
		}
		wait = min(2*wait, listenBackOff)
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// listen listens on one connection until it is lost, and reports whether it has
// worked.
func (l *listener) listen(ctx context.Context) (heard bool) {
	c, err := pgx.ConnectConfig(ctx, l.db.pool.Config().ConnConfig)
	if err != nil {
		return false
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = c.Close(ctx)
	}()
	if m := l.db.mapped; m != nil {
		return m.listen(ctx, c, &l.db.watch)
	}
	for _, name := range []string{rowsChannel, channel} {
		if _, err := c.Exec(ctx, "LISTEN "+name); err != nil {
			return false
		}
	}
	signal(l.db.watch.again) // what came before LISTEN
	l.db.rows.hint()
	// A pooler that nobody told us of may be between. Then nothing ever comes, not
	// even this.
	trial, cancel := context.WithTimeout(ctx, listenTrial)
	defer cancel()
	if _, err := l.db.pool.Exec(trial, "SELECT pg_notify($1, $2)", channel, l.db.opts.Schema); err != nil {
		return false
	}
	if _, err := c.WaitForNotification(trial); err != nil {
		if trial.Err() != nil && ctx.Err() == nil {
			sleep(ctx, listenRetry)
		}
		return false
	}
	l.db.watch.hears.Store(true)
	for {
		n, err := c.WaitForNotification(ctx)
		if err != nil {
			return true
		}
		switch {
		case n.Channel == rowsChannel:
			l.db.rows.told(n.Payload, l.db.opts.Schema)
		case n.Payload == l.db.opts.Schema:
			l.db.watch.hint()
		}
	}
}

// tell announces an append of this process to the others.
func (db *DB) tell() {
	w := &db.watch
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.telling {
		if db.use() != nil {
			return
		}
		w.telling = true
		go db.tellOthers()
	}
	signal(w.told)
}

// tellOthers notifies the other processes of appends, at once, and then at most
// every notifyEvery. It does so in transactions of its own: in that of an append,
// NOTIFY would make commits queue up while the disk is written to (8 sessions
// have 3 to 4 times fewer of them), and a transaction that has notified cannot be
// prepared.
func (db *DB) tellOthers() {
	defer db.uses.Done()
	ctx := db.closing
	for ctx.Err() == nil {
		select {
		case <-db.watch.told:
			db.notify()
			sleep(ctx, notifyEvery)
		case <-ctx.Done():
		}
	}
	select { // the last words of a program that appends and ends
	case <-db.watch.told:
		db.notify()
	default:
	}
}

// notify may fail: then the others find the events by looking. Close does not cut
// it short.
func (db *DB) notify() {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(db.closing), time.Second)
	defer cancel()
	_, _ = db.pool.Exec(ctx, "SELECT pg_notify($1, $2)", channel, db.opts.Schema)
}
