package sqlite

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
)

// Limits of what one transaction takes from the queue.
const (
	maxGroup      = 512
	maxGroupBytes = 8 << 20
)

// An appendCall is one call of Append. Calls that come while another one has
// the writer queue up, and the next to get it appends for all of them in one
// transaction: each succeeds or fails on its own.
type appendCall struct {
	ctx     context.Context
	appends []eventlog.StreamAppend
	bytes   int

	state atomic.Int32  // one of the states below
	done  chan struct{} // closed when token and err are set
	token eventlog.Token
	err   error
}

const (
	queued    int32 = iota
	taken           // somebody appends it: its result will come
	abandoned       // its caller has gone
)

type appendQueue struct {
	mu    sync.Mutex
	calls []*appendCall
}

// Append implements [eventlog.Appender]. Its token has the exact position of
// the last event. When ctx ends while the events are being written, it returns
// what has become of them, not the error of ctx.
func (db *DB) Append(ctx context.Context, appends ...eventlog.StreamAppend) (eventlog.Token, error) {
	if err := ctx.Err(); err != nil {
		return eventlog.Token{}, err
	}
	if len(appends) == 0 {
		return eventlog.Token{}, errors.New("sqlite: append: no streams")
	}
	call := appendCall{ctx: ctx, appends: appends}
	for i := range appends {
		if err := appends[i].Check(); err != nil {
			return eventlog.Token{}, err
		}
		for j := range appends[i].Events {
			call.bytes += 200 + len(appends[i].Events[j].Data)
		}
	}
	if err := db.use(); err != nil {
		return eventlog.Token{}, err
	}
	defer db.uses.Done()
	if db.opts.ReadOnly {
		_, err := db.take(ctx)
		return eventlog.Token{}, err
	}

	select {
	case w := <-db.writer: // nobody writes: no need to queue
		call.state.Store(taken)
		db.lead(w, &call)
	default:
		db.line(&call)
	}
	return call.token, db.fault(ctx, "append", call.err)
}

// line queues call up and returns when it is done.
func (db *DB) line(call *appendCall) {
	call.done = make(chan struct{})
	db.queue.mu.Lock()
	db.queue.calls = append(db.queue.calls, call)
	db.queue.mu.Unlock()
	ended, closing := call.ctx.Done(), db.closing.Done()
	var err error // why the caller no longer wants to wait
	for {
		select {
		case <-call.done:
			return
		case w := <-db.writer:
			// Whoever took this call has given back the writer: it is done, or
			// queued again.
			switch {
			case err != nil && call.state.CompareAndSwap(queued, abandoned):
				call.err = err
				db.writer <- w
			case err == nil && call.state.CompareAndSwap(queued, taken):
				db.lead(w, call)
			default:
				db.writer <- w
				<-call.done
			}
			return
		case <-ended:
			err = call.ctx.Err()
		case <-closing:
			err = ErrClosed
		}
		if call.state.CompareAndSwap(queued, abandoned) {
			call.err = err
			return
		}
		ended, closing = nil, nil // it is being written: what becomes of it is what counts
	}
}

// lead appends own, and with it what has queued up.
func (db *DB) lead(w *writer, own *appendCall) {
	defer func() { db.writer <- w }()
	group := db.queue.take([]*appendCall{own})
	err := w.prepare(own.ctx)
	if err == nil {
		err = w.start(own.ctx)
	}
	if err != nil {
		own.err = err
		if own.ctx.Err() != nil {
			db.queue.giveBack(group[1:]) // the others may still want to wait
			return
		}
		for _, c := range group {
			c.end(err)
		}
		return
	}
	if err := w.appendGroup(group); err == nil || len(group) == 1 {
		for _, c := range group {
			c.end(err)
		}
		return
	}
	// One of them cannot be stored, or all of them together: each for itself.
	for _, c := range group {
		c.token, c.err = eventlog.Token{}, nil
		err := w.prepare(c.ctx)
		if err == nil {
			err = w.start(c.ctx)
		}
		if err == nil {
			err = w.appendGroup([]*appendCall{c})
		}
		c.end(err)
	}
}

// end gives a call its result: err, or the one it has.
func (c *appendCall) end(err error) {
	if c.err = cmp.Or(err, c.err); c.err != nil {
		c.token = eventlog.Token{}
	}
	if c.done != nil {
		close(c.done)
	}
}

// take appends the calls that are queued to group.
func (q *appendQueue) take(group []*appendCall) []*appendCall {
	q.mu.Lock()
	defer q.mu.Unlock()
	bytes, n := group[0].bytes, 0
	for _, c := range q.calls {
		if len(group) >= maxGroup || bytes > maxGroupBytes {
			break
		}
		n++
		if c.state.CompareAndSwap(queued, taken) {
			group = append(group, c)
			bytes += c.bytes
		}
	}
	q.calls = slices.Delete(q.calls, 0, n)
	return group
}

// giveBack queues calls up again, in front.
func (q *appendQueue) giveBack(calls []*appendCall) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, c := range calls {
		c.state.Store(queued)
	}
	q.calls = slices.Insert(q.calls, 0, calls...)
}

// appendGroup appends all calls in the transaction that was begun, and ends it.
// An error is that of the transaction; errors of single calls are in the calls.
func (w *writer) appendGroup(group []*appendCall) (err error) {
	defer func() {
		if err != nil {
			w.abort()
		}
	}()
	if err := w.sync(); err != nil {
		return err
	}
	before := w.head
	for _, c := range group {
		pl, err := w.plan(c.appends)
		if err != nil {
			if !errors.Is(err, eventlog.ErrConflict) && !errors.Is(err, eventlog.ErrDuplicate) && !errors.Is(err, event.ErrInvalidName) {
				return err
			}
			c.err = err
			continue
		}
		var ctx context.Context // of a call that is alone: it may still give up
		if len(group) == 1 {
			ctx = c.ctx
		}
		if err := w.apply(ctx, &pl, c.appends); err != nil {
			return err
		}
		c.token = pl.token
	}
	if w.head == before {
		w.undo() // nothing to commit
		return nil
	}
	if err := w.index(int64(w.head - before)); err != nil {
		return err
	}
	if len(group) == 1 {
		if err := group[0].ctx.Err(); err != nil {
			return err
		}
	}
	if err := w.finish(); err != nil {
		return err
	}
	w.db.raise(w.head)
	return nil
}
