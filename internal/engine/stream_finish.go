package engine

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/fairlead-dev/fairlead/internal/done"
	"github.com/fairlead-dev/fairlead/internal/mutant"
	"github.com/fairlead-dev/fairlead/projection"
	"github.com/fairlead-dev/fairlead/store"
)

// A verdict is what became of a call of the handler. Whether an error is final
// is found out in front of the lock, because the user may classify errors.
type verdict struct {
	err       error
	final     bool
	abandoned bool          // the lane's context ended before: no verdict at all
	pause     time.Duration // before the next attempt
}

// offer gives a key its turn in the queue of the processor, unless something
// holds it.
func (l *streamLane) offer(k *orderedKey) {
	switch {
	case l.halted:
		k.state = keyFrozen
	case l.queue.block(k):
	default:
		k.state = keyReady
		l.queue.push(k)
	}
}

// goOn offers a key again, or forgets it where it has nothing left.
func (l *streamLane) goOn(k *orderedKey) {
	switch {
	case k.state != keyIdle:
	case k.length == 0:
		l.release(k)
	default:
		l.offer(k)
	}
}

// begin takes the first event of a key whose turn it is.
func (l *streamLane) begin(k *orderedKey, now time.Time) *task {
	t := l.dequeue(k)
	k.running, k.state = t, keyRunning
	t.started = now
	l.runs.add(t)
	k.tenant.running++
	return t
}

// finish takes the verdict on the event of k that was in progress. It reports
// whether the same worker may go on with the next one of k; if it does not, goOn
// is to be called.
func (l *streamLane) finish(k *orderedKey, v verdict, now time.Time) (again bool) {
	t := k.running
	k.running = nil
	l.runs.remove(t)
	if !k.orphan {
		k.tenant.running--
	}
	if t.stuck {
		t.stuck = false
		l.stuck--
	}
	if k.state == keyDropped {
		l.finishDropped(k, t, v)
		return false
	}
	k.state = keyIdle
	switch {
	case v.err == nil:
		l.succeed(k, t)
		return k.length > 0 && !l.halted
	case l.abandoned || v.abandoned:
		l.putBack(k, t)
		l.halt()
	case l.outdated(k, t):
		k.attempts = 0
		l.account(t)
		l.nudge()
	case v.final:
		k.attempts++
		l.condemn(k, t, v.err, now)
	default:
		k.attempts++
		l.trouble = fmt.Errorf("event %s of tenant %q, stream %q, at position %v, attempt %d: %w", t.ID, t.Tenant, t.Stream, t.Position, k.attempts, v.err)
		if l.putBack(k, t); mutant.Is(mutant.RetryAnyOrder) && k.length > 1 {
			l.enqueue(k, l.dequeue(k))
		}
		k.state, k.due = keyWaiting, now.Add(v.pause)
		heapPush(&l.waiting, k, sooner)
	}
	return false
}

// finishDropped takes the verdict on an event whose tenant has left or is
// leaving. That it was handled is a fact all the same.
func (l *streamLane) finishDropped(k *orderedKey, t *task, v verdict) {
	switch d := l.leave[t.Tenant]; {
	case v.err == nil && t.letter == 0:
		l.handled(t)
	case t.letter != 0:
		if v.err == nil && !k.orphan {
			l.removed = append(l.removed, removal{t.letter, k.id})
		}
		l.account(t)
	default:
		if d != nil {
			d.first = min(d.first, t.Position)
		}
		l.unlink(t)
		l.account(t)
	}
	l.dirty = true
	if k.orphan {
		l.queue.orphanEnded(l.id.Partition, k.id, t, v.err == nil)
	}
	l.release(k)
}

// succeed notes that t, which is in no queue any more, was handled.
func (l *streamLane) succeed(k *orderedKey, t *task) {
	k.attempts = 0
	if t.letter == 0 {
		l.handled(t)
		return
	}
	l.dirty = true
	l.account(t)
	l.removed = append(l.removed, removal{t.letter, k.id})
	if d := l.drains[k.id]; d != nil {
		d.removing++
		d.load = d.load || k.length == 0
	}
}

func (l *streamLane) handled(t *task) {
	l.unlink(t)
	l.finished = append(l.finished, done.Range{From: t.from, To: t.Position})
	at := recorded(&t.Event)
	l.fresh = append(l.fresh, at)
	if at.After(l.appliedAt) {
		l.appliedAt = at
	}
	l.dirty = true
	l.account(t)
}

// account gives back what t holds.
func (l *streamLane) account(t *task) {
	var lt *laneTenant // stays while t is one of its undone
	if t.key != nil {
		lt = t.key.tenant
	} else {
		lt = l.tenants[t.Tenant]
	}
	t.key = nil
	l.bytes -= t.size
	if lt != nil {
		lt.bytes -= t.size
		lt.undone--
		l.releaseTenant(lt)
	}
}

// condemn decides by the poison policy what becomes of an event that failed for
// good.
func (l *streamLane) condemn(k *orderedKey, t *task, err error, now time.Time) {
	herr := asHandlerError(err)
	l.warn("poison event", "lane", l.id.String(), "tenant", t.Tenant, "stream", t.Stream, "version", t.Version,
		"position", int64(t.Position), "type", t.Type, "key", k.id.ID, "attempts", k.attempts, "policy", l.p.Poison.String(), "error", herr)
	if t.letter != 0 {
		l.drainFailed(k, t, herr)
		return
	}
	reason := fmt.Sprintf("poison event %s (type %s) at position %v: %v", t.ID, t.Type, t.Position, herr)
	switch l.p.Poison {
	case SkipAndRecord:
		l.letter(t, store.Skipped, herr, k.attempts)
		k.attempts = 0
	case ParkKey:
		l.parked[k.id] = true
		l.letter(t, store.Poison, herr, k.attempts)
		for k.length > 0 {
			l.letter(l.dequeue(k), store.Waiting, nil, 0)
		}
	default: // ParkTenant, StopLane
		l.putBack(k, t)
		if l.p.Poison == ParkTenant && l.id.Tenant == "" {
			l.depart(t.Tenant, leaving{state: store.Paused, reason: reason, since: now})
			return
		}
		k.attempts = 0
		if l.stop == "" {
			l.stop = reason
		}
		l.halt()
	}
}

// letter makes a dead letter of an event that is in no queue any more. It stays
// undone until that is committed.
func (l *streamLane) letter(t *task, state store.LetterState, reason *projection.HandlerError, attempts int) {
	t.outcome = &letterNote{key: t.key.id, state: state, reason: reason, attempts: attempts}
	t.key = nil
	l.letters = append(l.letters, t)
	l.dirty = true
	if d := l.drains[t.outcome.key]; d != nil {
		d.lettered++
		d.made++
	}
}

// fire offers the keys whose back-off has ended.
func (l *streamLane) fire(now time.Time) {
	for len(l.waiting) > 0 && !l.waiting[0].due.After(now) {
		k := heapRemove(&l.waiting, 0, sooner)
		k.state = keyIdle
		l.offer(k)
	}
}

// halt stops handing out; what is in progress goes on.
func (l *streamLane) halt() {
	if l.halted {
		return
	}
	l.halted = true
	for _, k := range l.queue.withdraw(l, nil) {
		k.state = keyFrozen
	}
}

func (l *streamLane) resume() {
	if !l.halted {
		return
	}
	l.halted = false
	var frozen []*orderedKey
	for _, k := range l.keys {
		if k.state == keyFrozen {
			frozen = append(frozen, k)
		}
	}
	slices.SortFunc(frozen, func(a, b *orderedKey) int { return cmp.Compare(a.head.arrival, b.head.arrival) })
	for _, k := range frozen {
		k.state = keyIdle
		l.offer(k)
	}
}

// empty takes the events of a tenant out of all queues, and hands each to f.
// Keys with an event in progress are returned; the others are forgotten.
func (l *streamLane) empty(lt *laneTenant, f func(*task)) (busy []*orderedKey) {
	for _, k := range l.queue.withdraw(l, lt) {
		k.state = keyIdle
	}
	for _, k := range l.keys {
		if k.tenant != lt {
			continue
		}
		for k.length > 0 {
			t := l.dequeue(k)
			if f != nil && t.letter == 0 {
				f(t)
			}
			l.unlink(t)
			l.account(t)
		}
		if k.state == keyWaiting {
			heapRemove(&l.waiting, k.slots[sooner.slot], sooner)
		}
		if k.running != nil {
			busy = append(busy, k)
			continue
		}
		l.release(k)
	}
	return busy
}

// forgetDrains ends the draining of a tenant's keys: also of those whose letters
// are just being loaded, when nothing else of the tenant need be here.
func (l *streamLane) forgetDrains(tenant string) {
	for id := range l.drains {
		if id.Tenant == tenant {
			delete(l.drains, id)
		}
	}
}

// disown leaves an event in progress to itself: it belongs to another lane now.
func (l *streamLane) disown(k *orderedKey) {
	if k.state != keyDropped {
		delete(l.keys, k.id)
		k.state = keyDropped
	}
	if k.orphan {
		return
	}
	k.orphan = true
	k.tenant.running--
	l.unlink(k.running)
	l.queue.orphaned(l.id.Partition, k.id)
}

// shadowed reports whether a lane that is to be handed over must wait: what the
// tenant's last lane has in progress in this process would not hold up the next
// owner.
func (l *streamLane) shadowed(ending error) bool {
	return errors.Is(ending, errGiven) && !l.abandoned && l.queue.orphansOf(l.id.Partition, l.id.Tenant) && !mutant.Is(mutant.OrphanIgnored)
}

// depart begins a tenant's move to a lane of its own.
func (l *streamLane) depart(tenant string, d leaving) {
	if known := l.leave[tenant]; known != nil {
		if d.state == store.Paused {
			known.state, known.reason = d.state, d.reason
		}
		return
	}
	d.first = l.at + 1
	if r, ok := l.refill[tenant]; ok {
		d.first = min(d.first, r.From+1)
		delete(l.refill, tenant)
	}
	l.leave[tenant] = &d
	l.dirty = true
	l.forgetDrains(tenant)
	lt := l.tenants[tenant]
	if lt == nil {
		return
	}
	for _, k := range l.empty(lt, func(t *task) { d.first = min(d.first, t.Position) }) {
		delete(l.keys, k.id)
		k.state = keyDropped
	}
}

// drop gives up a tenant that has another lane already.
func (l *streamLane) drop(tenant string) {
	delete(l.leave, tenant)
	delete(l.refill, tenant)
	l.forgetDrains(tenant)
	for k := range l.parked {
		if k.Tenant == tenant {
			delete(l.parked, k)
		}
	}
	lt := l.tenants[tenant]
	if lt == nil {
		return
	}
	n := 0
	for _, t := range l.letters {
		if t.Tenant != tenant || t.outcome.inCommit {
			l.letters[n] = t
			n++
			continue
		}
		l.unlink(t)
		l.account(t)
	}
	clear(l.letters[n:])
	l.letters = l.letters[:n]
	if lt = l.tenants[tenant]; lt == nil {
		return
	}
	for _, k := range l.empty(lt, nil) {
		l.disown(k)
	}
	for t := l.runs.first; t != nil; t = t.later { // those that were leaving
		if k := t.key; t.Tenant == tenant && k != nil && k.state == keyDropped {
			l.disown(k)
		}
	}
}

// claim is called when another lane of this process begins to work a tenant of
// this lane, whose row says so already, whether this lane has read it or not.
func (l *streamLane) claim(tenant string) {
	if mutant.Is(mutant.ClaimIgnored) {
		return
	}
	l.claims++
	l.claimed[tenant] = true
	l.drop(tenant)
	l.nudge()
}
