package engine

import (
	"context"
	"slices"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/internal/done"
	"github.com/fairlead-dev/fairlead/internal/mutant"
	"github.com/fairlead-dev/fairlead/projection"
	"github.com/fairlead-dev/fairlead/store"
)

// A streamLane is a lane of a reactor: a state machine that is told what was
// read, what handlers returned and what was committed, and says what is to be
// committed next. It has no goroutine, no clock and does no I/O. All its methods
// but examine are called under the lock of the processor's streamPool.
//
// Invariants:
//   - An ordering key has at most one event in progress, the first of its queue.
//   - Every event up to at that is the lane's is in the list of undone events, or
//     in settled or finished, or is its tenant's business now: excluded, leaving
//     or to be read again (refill).
//   - settled and finished say of no event that it is done which is not, now or
//     after a merge: what is excluded until further notice is never in them. So
//     a tenant lane can be given a copy of Done, and a base lane can be given
//     back the events of a tenant.
type streamLane struct {
	p     *Processor
	id    store.LaneID
	queue *keyQueue       // of the processor
	types nameSet         // of events that the processor handles
	only  nameSet         // tenants that the processor handles
	class nameSet         // traffic classes that it handles
	nudge func()          // there is something for the shell to look at
	ctx   context.Context // of the handlers, set by the shell; the state machine does not use it
	name  string
	epoch int64

	row    store.Lane // as it was last read or committed
	paused bool       // the processor is
	loaded bool
	parked map[store.Key]bool

	at       event.Position // read up to here
	relevant event.Position // of the last event read that was the lane's or is excluded for now
	claims   int            // how often another lane of this process took a tenant
	claimed  map[string]bool
	refill   map[string]done.Range // per tenant: what must be read again, because it came back
	leave    map[string]*leaving
	isolated isolated

	first, last  *task // undone events by position
	undone       int
	bytes        int // of undone events and letters
	keys         map[store.Key]*orderedKey
	tenants      map[string]*laneTenant
	waiting      []*orderedKey // in back-off: a heap by due
	runs         taskRuns      // in progress, the oldest first
	stuck        int           // of them, beyond their time limit
	halted       bool          // nothing is handed out
	abandoned    bool          // handlers' contexts have ended: their errors mean nothing
	closing      bool          // the lane is about to end: nothing is handed out any more
	trouble      error         // of the last attempt that failed
	stop         string        // why the poison policy stops the lane
	recent       [2]glimpse    // of the two tenants read last
	seen         int64         // events read that were the lane's
	wakeOnDone   bool          // the shell wants to know of the next completion
	wakeBelow    int           // the shell wants to know when fewer bytes are held
	settled      done.Set      // done or of no interest for ever, above the row's position; only the shell's, under no lock
	runsHeld     int           // runs in settled
	finished     []done.Range  // done since the last commit was made
	fresh        []time.Time   // when the finished were recorded, as far as not committed
	spare        spareRoom     // only the shell's
	appliedAt    time.Time     // when the last event that was applied was recorded
	dirty        bool          // there is something that a commit would make last
	letters      []*task       // to be recorded as dead letters
	removed      []removal     // dead letters that were handled
	drains       map[store.Key]*drain
	draining     []*drain // the same, and some that have ended
	drainTurn    int      // in draining: where drainNext goes on to look
	spareKeys    []*orderedKey
	spareTenants []*laneTenant
	notes        []note // for the logger, which is not called under a lock
	counts       counts
	worked       float64 // seconds in handlers, since the shell asked
}

// A task is an event in a lane's window.
type task struct {
	event.Event
	from event.Position // between from and Position there is nothing of the lane's, now or later
	key  *orderedKey
	next *task // in its key's queue

	before, after   *task // undone events
	earlier, later  *task // in progress
	linked, running bool
	stuck           bool

	arrival  uint64
	size     int
	started  time.Time
	letter   int64 // the id of the dead letter that is being retried, or 0
	attempts int   // of the letter, before
	fault    *projection.HandlerError
	outcome  *letterNote // it becomes a dead letter
}

// A letterNote says why an event becomes a dead letter.
type letterNote struct {
	key      store.Key
	state    store.LetterState
	reason   *projection.HandlerError
	attempts int
	inCommit bool
}

// An orderedKey is an ordering key with events in the window: its queue.
type orderedKey struct {
	lane       *streamLane
	tenant     *laneTenant
	id         store.Key
	head, tail *task
	length     int
	running    *task
	state      keyState
	attempts   int // failed ones, of the head
	due        time.Time
	slots      [2]int // in the heaps that it is in
	orphan     bool
}

type keyState uint8

const (
	keyIdle    keyState = iota // about to be offered
	keyReady                   // in the queue of the processor
	keyRunning                 // its first event is with a worker
	keyWaiting                 // in back-off
	keyBlocked                 // another lane of the process has an event of this key in progress
	keyFrozen                  // the lane is halted
	keyDropped                 // not the lane's business any more; an event of it may still be in progress
)

// A laneTenant is a tenant with events in the window.
type laneTenant struct {
	name    string
	flow    *flow
	keys    int
	undone  int
	bytes   int
	running int
}

// A glimpse is when, counted in events, a tenant was last read.
type glimpse struct {
	tenant string
	at     int64
}

// A leaving is a tenant on its way to a lane of its own: its events are not
// handed out any more, and it goes when those in progress have ended.
type leaving struct {
	first  event.Position // of its events that are not done, but for those in progress
	state  store.State
	reason string
	since  time.Time
}

type note struct {
	warn bool
	text string
	args []any
}

const taskOverhead = 200 // bytes of a task, and its share of its key

// nameSet tells quickly whether a name is one of a few or many; nil: all are.
type nameSet func(string) bool

func newNameSet(names []string) nameSet {
	if names == nil {
		return nil
	}
	if len(names) <= 8 {
		return func(s string) bool { return slices.Contains(names, s) }
	}
	set := make(map[string]bool, len(names))
	for _, n := range names {
		set[n] = true
	}
	return func(s string) bool { return set[s] }
}

func newStreamLane(p *Processor, row store.Lane, q *keyQueue) *streamLane {
	return &streamLane{
		p: p, id: row.LaneID, name: row.String(), epoch: row.Epoch, queue: q, row: row,
		types: newNameSet(p.Types), only: newNameSet(p.Tenants), class: newNameSet(p.Classes), nudge: func() {},
		parked: map[store.Key]bool{}, claimed: map[string]bool{}, refill: map[string]done.Range{},
		leave: map[string]*leaving{}, keys: map[store.Key]*orderedKey{}, tenants: map[string]*laneTenant{},
		drains: map[store.Key]*drain{},
	}
}

// examine makes tasks of the events of a page that may be the lane's, in front
// of the lock, because it calls the user's functions. Whether their tenants are
// in the lane now is decided by admit. It counts what the base lane passes over.
func (l *streamLane) examine(events []event.Event, tasks []*task, keys []string) (_ []*task, _ []string, passed int64) {
	for i := range events {
		e := &events[i]
		switch {
		case l.id.Tenant != "" && e.Tenant != l.id.Tenant,
			l.only != nil && !l.only(e.Tenant),
			l.class != nil && !l.class(e.Class),
			l.types != nil && !l.types(e.HandledType()) && !typeUnknown(e):
			if l.id.Tenant == "" {
				passed++
			}
			continue
		}
		key, mine, err := l.route(e)
		if !mine {
			continue
		}
		t := &task{Event: *e, size: e.Size() + taskOverhead}
		if t.fault = faultOf(e); err != nil {
			t.fault = asHandlerError(err)
		}
		tasks, keys = append(tasks, t), append(keys, key)
	}
	return tasks, keys, passed
}

// faultOf returns why an event cannot be handed to a handler, or nil.
func faultOf(e *event.Event) *projection.HandlerError {
	if typeUnknown(e) {
		return projection.TooLarge(e)
	}
	if err := e.Check(); err != nil {
		return &projection.HandlerError{Reason: "name", Err: err}
	}
	if e.Withheld > 0 {
		return projection.TooLarge(e)
	}
	return nil
}

// route returns the ordering key of an event and whether it is in the lane's
// partition. Where the user's functions panic the event is poison.
func (l *streamLane) route(e *event.Event) (key string, mine bool, err error) {
	mine, fault := l.p.inBucket(e, l.id.Partition, l.of())
	if mine && fault == nil {
		key, fault = l.p.safeOrderKey(e)
	}
	if fault != nil {
		return e.Stream, mine, fault
	}
	return key, mine, nil
}

// admit takes events that follow what was read, with their ordering keys.
func (l *streamLane) admit(tasks []*task, keys []string) {
	for i, t := range tasks {
		if t.Position <= l.at {
			continue
		}
		if l.id.Tenant == "" && l.away(t.Tenant, t.Position) {
			if l.counts.excluded++; !mutant.Is(mutant.DoneExcluded) {
				l.relevant = t.Position
			}
			continue
		}
		if l.row.Excluded(t.Tenant, t.Position) || l.settled.Contains(t.Position) {
			continue
		}
		t.from, l.relevant = l.relevant, t.Position
		l.glimpse(t.Tenant)
		l.link(t, l.last)
		l.enter(t, keys[i])
	}
}

// away reports whether an event at p is for now none of the lane's, because its
// tenant is in another one or about to be.
func (l *streamLane) away(tenant string, p event.Position) bool {
	if len(l.row.Exclusions) > 0 && l.row.Exclusions[tenant] == event.Unbounded {
		return true
	}
	return len(l.leave) > 0 && l.leave[tenant] != nil || len(l.claimed) > 0 && l.claimed[tenant]
}

func (l *streamLane) glimpse(tenant string) {
	l.seen++
	if l.recent[0].tenant != tenant {
		l.recent[1] = l.recent[0]
		l.recent[0].tenant = tenant
	}
	l.recent[0].at = l.seen
}

// advance says that everything up to p was read.
func (l *streamLane) advance(p event.Position) { l.at = max(l.at, p) }

// enter puts an undone event into the queue of its key.
func (l *streamLane) enter(t *task, id string) {
	k := l.key(store.Key{Tenant: t.Tenant, ID: id})
	l.queue.arrivals++
	t.arrival, t.key = l.queue.arrivals, k
	l.bytes += t.size
	k.tenant.bytes += t.size
	k.tenant.undone++
	if spared := spare(&t.Event); spared != nil {
		l.letter(t, store.Skipped, spared, 0)
		l.release(k)
		return
	}
	if l.parked[k.id] {
		l.letter(t, store.Waiting, nil, 0)
		l.release(k)
		return
	}
	l.enqueue(k, t)
	switch k.state {
	case keyIdle:
		l.offer(k)
	case keyReady:
		k.tenant.flow.grown(k)
	}
}

func (l *streamLane) enqueue(k *orderedKey, t *task) {
	if k.tail == nil {
		k.head = t
	} else {
		k.tail.next = t
	}
	k.tail = t
	k.length++
}

func (l *streamLane) dequeue(k *orderedKey) *task {
	t := k.head
	k.head, t.next = t.next, nil
	if k.head == nil {
		k.tail = nil
	}
	k.length--
	return t
}

func (l *streamLane) putBack(k *orderedKey, t *task) {
	t.next, k.head = k.head, t
	if k.tail == nil {
		k.tail = t
	}
	k.length++
}

// key returns the queue of an ordering key.
func (l *streamLane) key(id store.Key) *orderedKey {
	if k := l.keys[id]; k != nil {
		return k
	}
	var k *orderedKey
	if n := len(l.spareKeys); n > 0 {
		k, l.spareKeys = l.spareKeys[n-1], l.spareKeys[:n-1]
	} else {
		k = &orderedKey{}
	}
	*k = orderedKey{lane: l, id: id, tenant: l.tenant(id.Tenant)}
	k.tenant.keys++
	l.keys[id] = k
	return k
}

func (l *streamLane) tenant(name string) *laneTenant {
	if t := l.tenants[name]; t != nil {
		return t
	}
	var t *laneTenant
	if n := len(l.spareTenants); n > 0 {
		t, l.spareTenants = l.spareTenants[n-1], l.spareTenants[:n-1]
	} else {
		t = &laneTenant{}
	}
	*t = laneTenant{name: name, flow: l.queue.flow(name)}
	l.tenants[name] = t
	return t
}

// release forgets a key that has nothing queued or in progress.
func (l *streamLane) release(k *orderedKey) {
	if k.length > 0 || k.running != nil {
		return
	}
	t := k.tenant
	if k.state != keyDropped {
		delete(l.keys, k.id)
	}
	t.keys--
	k.state = keyDropped
	if len(l.spareKeys) < 1024 {
		l.spareKeys = append(l.spareKeys, k)
	}
	l.releaseTenant(t)
}

// releaseTenant forgets a tenant without events. Letters that are not committed
// hold it, by undone.
func (l *streamLane) releaseTenant(t *laneTenant) {
	if t.keys > 0 || t.undone > 0 || t.running > 0 || l.tenants[t.name] != t {
		return
	}
	delete(l.tenants, t.name)
	l.queue.leave(t.flow)
	if len(l.spareTenants) < 1024 {
		l.spareTenants = append(l.spareTenants, t)
	}
}

// link puts t into the list of undone events, behind prev.
func (l *streamLane) link(t, prev *task) {
	t.linked, t.before = true, prev
	if prev == nil {
		t.after, l.first = l.first, t
	} else {
		t.after, prev.after = prev.after, t
	}
	if t.after == nil {
		l.last = t
	} else {
		t.after.before = t
	}
	l.undone++
}

func (l *streamLane) unlink(t *task) {
	if !t.linked {
		return
	}
	if t.before == nil {
		l.first = t.after
	} else {
		t.before.after = t.after
	}
	if t.after == nil {
		l.last = t.before
	} else {
		t.after.before = t.before
	}
	t.linked, t.before, t.after = false, nil, nil
	l.undone--
}

// held returns about how many bytes the lane holds.
func (l *streamLane) held() int { return l.bytes + 16*(l.runsHeld+len(l.finished)) }

func (l *streamLane) warn(text string, args ...any) {
	l.notes = append(l.notes, note{true, text, args})
}
