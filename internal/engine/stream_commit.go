package engine

import (
	"slices"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/internal/done"
	"github.com/fairlead-dev/fairlead/internal/mutant"
	"github.com/fairlead-dev/fairlead/store"
)

const (
	lettersAtOnce = 2000 // dead letters of one commit
	spareMost     = 4096 // events of a commit whose memory is kept for the next
)

// A streamCommit is a commit on its way.
type streamCommit struct {
	store.Commit
	letters  []*task
	finished []done.Range // since the last commit
	settled  []done.Range // with the letters
	fresh    []time.Time  // when what was handled since the last commit was recorded
	applied  int64
	changes  bool // more than the position over events of no interest
}

// A spareRoom is memory of an earlier commit, for what is done until the next:
// to allocate under the lock would make all workers pay for the collector.
type spareRoom struct {
	finished []done.Range
	fresh    []time.Time
}

// A removal is a dead letter that was handled.
type removal struct {
	id  int64
	key store.Key
}

// build makes the next commit, or returns nil if there is nothing to commit. It
// changes nothing that a refusal would have to take back. What does not need the
// lock is left to complete.
func (l *streamLane) build(lazy bool) *streamCommit {
	c := &streamCommit{}
	for _, t := range l.letters {
		if len(c.letters) >= lettersAtOnce {
			break
		}
		c.letters = append(c.letters, t)
		c.settled = append(c.settled, done.Range{From: t.from, To: t.Position})
	}
	for _, r := range l.removed {
		c.Remove = append(c.Remove, r.id)
	}
	for _, t := range c.letters {
		t.outcome.inCommit = true
	}
	goes := l.departures(c)
	c.Position = l.low(goes)
	for t, until := range l.row.Exclusions {
		if until <= c.Position && until != event.Unbounded && goes[t] == nil {
			c.Forget = append(c.Forget, t)
		}
	}
	c.changes = l.dirty || len(c.letters)+len(c.Remove)+len(c.Detach)+len(c.Forget) > 0
	if !c.changes && (lazy || c.Position == l.row.Position) {
		return nil
	}
	c.Lane = l.id
	c.Fence = store.Fence{Epoch: l.row.Epoch, Position: l.row.Position, Revision: l.row.Revision}
	c.AppliedAt = l.appliedAt
	c.finished, l.finished = l.finished, l.spare.finished
	c.fresh, l.fresh = l.fresh, l.spare.fresh
	l.spare = spareRoom{}
	c.applied = int64(len(c.fresh) + len(c.Remove))
	l.dirty = false
	return c
}

// complete does the rest of build, which needs no lock.
func (l *streamLane) complete(c *streamCommit) {
	l.settled.AddAll(c.finished)
	slices.Sort(c.Forget)
	c.Letters = l.deadLetters(c.letters)
	c.Done = l.doneAfter(c.Position, c.settled)
	for i := range c.Detach {
		if mutant.Is(mutant.LeaveUndone) {
			break
		}
		c.Detach[i].Done = l.doneAfter(c.Detach[i].Position, c.settled)
	}
}

// departures adds the tenants that can leave now to a commit: nothing of theirs
// is in progress, and their letters are in the commit.
func (l *streamLane) departures(c *streamCommit) map[string]*leaving {
	if len(l.leave) == 0 {
		return nil
	}
	goes := map[string]*leaving{}
	for t, d := range l.leave {
		if lt := l.tenants[t]; lt != nil && lt.running > 0 && !mutant.Is(mutant.LeaveBusy) {
			continue
		}
		if slices.ContainsFunc(l.letters, func(x *task) bool { return x.Tenant == t && !x.outcome.inCommit }) {
			continue
		}
		row := store.Lane{LaneID: l.id, Of: l.row.Of, Epoch: l.row.Revision + 1, Position: d.first - 1, State: d.state, Reason: d.reason}
		row.Tenant = t
		// Up to here an earlier lane of the tenant has handled its events.
		if until, ok := l.row.Exclusions[t]; ok && until != event.Unbounded {
			row.Position = max(row.Position, until)
		}
		c.Detach = append(c.Detach, row)
		goes[t] = d
	}
	slices.SortFunc(c.Detach, func(a, b store.Lane) int { return compareStrings(a.Tenant, b.Tenant) })
	return goes
}

// low returns the position up to which every event of the lane is done, once the
// letters that are in the commit are recorded and the tenants that go have gone.
func (l *streamLane) low(goes map[string]*leaving) event.Position {
	t := l.first
	if t != nil && mutant.Is(mutant.WatermarkHigh) {
		t = t.after
	}
	for t != nil && t.outcome != nil && t.outcome.inCommit {
		t = t.after
	}
	low := l.at
	if t != nil {
		low = min(low, t.Position-1)
	}
	for tenant, d := range l.leave {
		if goes[tenant] == nil {
			low = min(low, d.first-1)
		}
	}
	for _, r := range l.refill {
		low = min(low, r.From)
	}
	return low
}

// doneAfter returns what is settled beyond a position, as it is stored.
func (l *streamLane) doneAfter(p event.Position, more []done.Range) []byte {
	if len(more) == 0 {
		return l.settled.MarshalAfter(p)
	}
	s := l.settled.Clone()
	s.AddAll(more)
	return s.MarshalAfter(p)
}

func (l *streamLane) deadLetters(tasks []*task) []store.DeadLetter {
	var out []store.DeadLetter
	for _, t := range tasks {
		x := t.outcome
		d := store.DeadLetter{
			Build: l.id.Build, Partition: l.id.Partition, Tenant: x.key.Tenant, Key: x.key.ID,
			State: x.state, Event: t.Event, Attempts: x.attempts,
			Reason: "waiting", Error: "waits behind an earlier event of its key",
		}
		if x.reason != nil {
			d.Reason, d.Error = x.reason.Reason, letterError(x.reason)
		}
		out = append(out, d)
	}
	return out
}

// tidy is the part of committed that needs no lock, and comes first.
func (l *streamLane) tidy(c *streamCommit) {
	l.settled.AddAll(c.settled)
	l.settled.Forget(c.Position)
}

// reuse takes back the memory of a commit that is through.
func (l *streamLane) reuse(c *streamCommit) {
	if cap(c.finished) <= spareMost && cap(c.fresh) <= spareMost {
		l.spare = spareRoom{c.finished[:0], c.fresh[:0]}
	}
	c.finished, c.fresh = nil, nil
}

// committed notes that c has taken effect.
func (l *streamLane) committed(c *streamCommit) {
	l.runsHeld = l.settled.Len()
	l.row.Position, l.row.Done = c.Position, c.Done
	if len(c.Detach)+len(c.Forget) > 0 {
		l.row.Revision++
		if l.row.Exclusions == nil {
			l.row.Exclusions = map[string]event.Position{}
		}
	}
	for _, t := range c.Forget {
		delete(l.row.Exclusions, t)
	}
	for _, d := range c.Detach {
		l.row.Exclusions[d.Tenant] = event.Unbounded
		delete(l.leave, d.Tenant)
		for k := range l.parked {
			if k.Tenant == d.Tenant {
				delete(l.parked, k)
			}
		}
	}
	for _, t := range c.letters {
		l.unlink(t)
		l.account(t)
		if d := l.drains[t.outcome.key]; d != nil {
			d.lettered--
		}
	}
	l.letters = slices.DeleteFunc(l.letters, func(t *task) bool { return t.outcome.inCommit })
	for _, r := range l.removed[:len(c.Remove)] {
		if d := l.drains[r.key]; d != nil {
			d.removing--
		}
	}
	l.removed = l.removed[len(c.Remove):]
}

// refused notes that c has not taken effect: what it says is still to be
// committed.
func (l *streamLane) refused(c *streamCommit) {
	for _, t := range c.letters {
		t.outcome.inCommit = false
	}
	l.fresh = append(c.fresh, l.fresh...)
	l.dirty = l.dirty || c.changes
}
