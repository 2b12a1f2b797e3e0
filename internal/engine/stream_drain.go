package engine

import (
	"fmt"
	"slices"

	"github.com/fairlead-dev/fairlead/internal/mutant"
	"github.com/fairlead-dev/fairlead/projection"
	"github.com/fairlead-dev/fairlead/store"
)

// A drain hands the dead letters of a parked key to the handler again, in order,
// because an operator asked for it. Events of the key that arrive meanwhile
// become letters behind the others; when none is left, the key flows again.
type drain struct {
	id       store.Key
	load     bool // letters are to be loaded once nothing is in the air
	loading  bool
	again    bool // the rows were changed: load again
	stale    bool // and a letter is in progress, which may have been given up meanwhile
	lettered int  // letters made and not committed
	removing int  // letters handled and not committed
	made     int  // letters made since the last load began
	failed   *store.DeadLetter
}

// reload has the letters read again, because other hands may have changed them.
func (d *drain) reload(l *streamLane) {
	d.again = d.loading
	k := l.keys[d.id]
	if k == nil {
		d.load = d.load || !d.loading && d.failed == nil
		return
	}
	l.dropLetters(k)
	if k.running == nil {
		d.load = d.failed == nil
	}
	d.stale = k.running != nil
}

// dropLetters takes dead letters that wait for a worker out of the queue of k.
func (l *streamLane) dropLetters(k *orderedKey) {
	if k.head == nil || k.head.letter == 0 {
		return
	}
	for _, r := range l.queue.withdraw(l, k.tenant) {
		r.state = keyIdle
		if r != k {
			l.offer(r)
		}
	}
	if k.state == keyWaiting {
		heapRemove(&l.waiting, k.slots[sooner.slot], sooner)
	}
	for k.length > 0 && k.head.letter != 0 {
		l.account(l.dequeue(k))
	}
	if k.running == nil {
		k.state = keyIdle
		l.goOn(k)
	}
}

// drainNext returns a drain for which the shell is to do something: load its
// letters, or record that one has failed.
func (l *streamLane) drainNext() *drain {
	if l.halted {
		return nil
	}
	for range len(l.draining) {
		if l.drainTurn >= len(l.draining) {
			l.drainTurn = 0
		}
		d := l.draining[l.drainTurn]
		if l.drains[d.id] != d {
			last := len(l.draining) - 1
			l.draining[l.drainTurn], l.draining[last] = l.draining[last], nil
			l.draining = l.draining[:last]
			continue
		}
		l.drainTurn++
		if d.lettered > 0 || d.removing > 0 || d.loading || !d.load && d.failed == nil || l.keys[d.id] != nil {
			continue
		}
		return d
	}
	return nil
}

// loaded takes the letters of a key from the store: what is still to be handled
// of it, or at least the first of that.
func (l *streamLane) drainLoaded(d *drain, letters []store.DeadLetter) {
	d.loading = false
	if l.drains[d.id] != d { // the tenant left meanwhile
		return
	}
	if d.again || d.lettered > 0 {
		d.again, d.load = false, true
		return
	}
	d.load, d.stale = false, false
	if mutant.Is(mutant.LettersReordered) {
		slices.Reverse(letters)
	}
	k := (*orderedKey)(nil)
	for i := range letters {
		x := &letters[i]
		if x.State == store.Skipped {
			continue
		}
		if k == nil {
			k = l.key(d.id)
		}
		t := &task{Event: x.Event, letter: x.ID, attempts: x.Attempts, key: k, size: x.Event.Size() + taskOverhead, fault: faultOf(&x.Event)}
		t.Tenant = d.id.Tenant
		l.queue.arrivals++
		t.arrival = l.queue.arrivals
		l.bytes += t.size
		k.tenant.bytes += t.size
		k.tenant.undone++
		l.enqueue(k, t)
	}
	switch {
	case k != nil:
		l.goOn(k)
	case d.made > 0:
		d.load = true
	default:
		delete(l.drains, d.id)
		delete(l.parked, d.id)
	}
}

// outdated reports whether a dead letter in progress, which failed, may have been
// given up meanwhile: what is to be done with its key, its letters say anew.
func (l *streamLane) outdated(k *orderedKey, t *task) bool {
	if t.letter == 0 {
		return false
	}
	d := l.drains[k.id]
	if d == nil {
		return true
	}
	stale := d.stale
	d.load = d.load || stale
	d.stale = false
	return stale
}

// drainFailed notes that a dead letter failed for good, again. Those behind it
// wait for the next retry.
func (l *streamLane) drainFailed(k *orderedKey, t *task, err *projection.HandlerError) {
	l.account(t)
	for k.length > 0 {
		l.account(l.dequeue(k))
	}
	if d := l.drains[k.id]; d != nil {
		d.failed = &store.DeadLetter{
			ID: t.letter, Build: l.id.Build, Partition: l.id.Partition, Tenant: k.id.Tenant, Key: k.id.ID,
			Event: t.Event, Reason: err.Reason, Error: err.Error(),
		}
	}
}

// letterFilter selects the letters of a key.
func (l *streamLane) letterFilter(id store.Key) store.LetterFilter {
	return store.LetterFilter{Build: l.id.Build, Partition: &l.id.Partition, Tenant: id.Tenant, Key: &id.ID}
}

// errDrain says what could not be loaded.
func (l *streamLane) errDrain(id store.Key, err error) error {
	return fmt.Errorf("lane %v: load dead letters of key %q of tenant %q: %w", l.id, id.ID, id.Tenant, err)
}
