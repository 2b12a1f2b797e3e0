package engine

import (
	"fmt"
	"maps"
	"slices"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/internal/done"
	"github.com/fairlead-dev/fairlead/internal/mutant"
	"github.com/fairlead-dev/fairlead/store"
)

// A laneView is what the store says of a lane.
type laneView struct {
	row    store.Lane
	paused bool // the processor is
	parked []store.ParkedKey
}

// first returns what a lane of its live build begins with that was handed to this
// member: as it was seen in the rows, so that it need not read them again. It may be
// old by now, and need not be true: whatever has changed since has changed the epoch,
// the position or the revision, and its first commit is refused, as at any other time.
func (v *view) first(row *store.Lane) *laneView {
	parked, ok := v.parked[parkedOf{row.Build, row.Tenant}]
	if !ok {
		return nil
	}
	return &laneView{row: *row, parked: parked} // it is workable, so it is not paused
}

// parkedOf is what [store.Tx.Parked] is asked for.
type parkedOf struct {
	build  store.Build
	tenant string
}

// readParked reads the parked keys of the lanes in v that were handed to member id and
// are not worked yet. Those of a build in the making have more to read.
func (v *view) readParked(tx store.Tx, id string, worked func(store.LaneID) int64) error {
	v.parked = map[parkedOf][]store.ParkedKey{}
	rows := map[string]*store.Processor{}
	for i := range v.procs {
		rows[v.procs[i].Name] = &v.procs[i]
	}
	for i := range v.lanes {
		l := &v.lanes[i]
		if l.Owner != id || l.Epoch <= worked(l.LaneID) || !workable(rows[l.Processor], l) || l.Number != rows[l.Processor].Live {
			continue
		}
		k := parkedOf{l.Build, l.Tenant}
		if _, ok := v.parked[k]; ok {
			continue
		}
		keys, err := tx.Parked(k.build, k.tenant)
		if err != nil {
			return err
		}
		v.parked[k] = keys
	}
	return nil
}

// adopt takes over what the store says, first of all or after another hand has
// changed it. Nobody is stopped for that: what is in progress goes on, and what
// is queued stays so, but for tenants that have changed lanes. No commit is in
// flight.
func (l *streamLane) adopt(v laneView) error {
	old := l.row
	if !l.loaded {
		if err := l.settled.UnmarshalBinary(v.row.Done); err != nil {
			return fmt.Errorf("lane %v: %w", l.id, err)
		}
		l.at, l.relevant = v.row.Position, v.row.Position
		l.settled.Forget(l.at)
		if mutant.Is(mutant.DoneForgotten) {
			l.settled.Clear()
		}
		l.runsHeld = l.settled.Len()
		l.loaded = true
		clear(l.claimed)
	} else if v.row.Position != old.Position {
		return fmt.Errorf("lane %v: its position was moved from %v to %v by another hand", l.id, old.Position, v.row.Position)
	}
	l.row, l.paused = v.row, v.paused
	if l.id.Tenant == "" {
		l.moved(old.Exclusions, v.row.Exclusions)
	}
	l.adoptParked(v.parked)
	if l.paused || l.row.State != store.Running || l.stop != "" || l.closing {
		l.halt()
	} else {
		l.resume()
	}
	return nil
}

// moved looks for tenants that have left or come back by another hand than this
// lane's.
func (l *streamLane) moved(old, now map[string]event.Position) {
	tenants := maps.Clone(l.claimed)
	for t, until := range old {
		if x, ok := now[t]; !ok || x != until {
			tenants[t] = true
		}
	}
	for t := range now {
		if _, ok := old[t]; !ok {
			tenants[t] = true
		}
	}
	for _, t := range slices.Sorted(maps.Keys(tenants)) {
		// What was gone for good is not in the window, nor is what was just
		// claimed; a tenant that left and came back unseen is.
		l.drop(t)
		delete(l.claimed, t)
		until := now[t]
		if from := max(until, l.row.Position); until != event.Unbounded && from < l.at && !mutant.Is(mutant.RefillForgotten) {
			l.refill[t] = done.Range{From: from, To: l.at}
		}
	}
}

func (l *streamLane) adoptParked(parked []store.ParkedKey) {
	clear(l.parked)
	for _, t := range l.letters {
		if t.outcome.state != store.Skipped {
			l.parked[t.outcome.key] = true
		}
	}
	var retry []store.Key
	for _, k := range parked {
		if k.Partition != l.id.Partition || l.id.Tenant == "" && l.away(k.Tenant, 0) {
			continue
		}
		id := store.Key{Tenant: k.Tenant, ID: k.Key}
		l.parked[id] = !mutant.Is(mutant.KeysForgotten)
		if k.Retry {
			retry = append(retry, id)
		}
	}
	for _, d := range l.draining {
		switch {
		case l.drains[d.id] != d:
		case !l.parked[d.id]: // its letters are gone, or skipped: nothing is before it
			delete(l.drains, d.id)
			if k := l.keys[d.id]; k != nil {
				l.dropLetters(k)
			}
		case !mutant.Is(mutant.LettersKept): // other letters may be in it
			d.reload(l)
		}
	}
	for _, id := range retry {
		if l.drains[id] == nil {
			d := &drain{id: id, load: true}
			l.drains[id], l.draining = d, append(l.draining, d)
		}
	}
}

// refillNext returns a tenant of which events are to be read again.
func (l *streamLane) refillNext() (tenant string, r done.Range, ok bool) {
	for t := range l.refill {
		if !ok || t < tenant {
			tenant, ok = t, true
		}
	}
	return tenant, l.refill[tenant], ok
}

// readmit takes events of a tenant that came back, which were read again up to
// next. Those that were handled or are still in progress are not run again.
func (l *streamLane) readmit(tenant string, tasks []*task, keys []string, next event.Position) {
	r, ok := l.refill[tenant]
	if !ok {
		return
	}
	l.settled.AddAll(l.finished)
	prev := (*task)(nil)
	for i, t := range tasks {
		if t.Position <= r.From || t.Position > r.To || l.settled.Contains(t.Position) {
			continue
		}
		k := l.keys[store.Key{Tenant: t.Tenant, ID: keys[i]}]
		if k != nil && k.running != nil && k.running.Position == t.Position {
			continue
		}
		t.from = t.Position - 1
		l.glimpse(t.Tenant)
		if prev == nil {
			for x := l.last; x != nil; x = x.before {
				if x.Position < t.Position {
					prev = x
					break
				}
			}
		} else {
			for prev.after != nil && prev.after.Position < t.Position {
				prev = prev.after
			}
		}
		if prev == nil && l.first != nil && l.first.Position < t.Position {
			prev = l.first
		}
		l.link(t, prev)
		prev = t
		l.enter(t, keys[i])
	}
	if next >= r.To {
		delete(l.refill, tenant)
		return
	}
	l.refill[tenant] = done.Range{From: max(r.From, next), To: r.To}
}
