package engine

import (
	"time"

	"github.com/fairlead-dev/fairlead/store"
)

// recently is how many events ago another tenant must have been read, for a
// tenant to be in anybody's way.
const recently = 20_000

// isolate lets the tenant leave that has most of the window, if the window is
// full, so that nothing can be read that is behind, or if its events need so
// much time that the checkpoint, which the others wait for in WaitFor, would
// pass the objective. Inside the window the fair queue is enough.
func (l *streamLane) isolate(full bool, now time.Time) {
	if l.id.Tenant != "" || l.p.NoIsolation || l.row.Want != 0 || l.halted || l.undone == 0 {
		return
	}
	var top *laneTenant
	for _, t := range l.tenants {
		if l.leave[t.name] == nil && (top == nil || t.bytes > top.bytes || t.bytes == top.bytes && t.name < top.name) {
			top = t
		}
	}
	if top == nil || full && l.first != nil && float64(top.bytes) <= isolateShare*float64(l.held()) {
		// Nobody has most of it: then whoever holds the checkpoint back.
		if top = nil; full && l.first != nil && l.leave[l.first.Tenant] == nil {
			top = l.tenants[l.first.Tenant]
		}
	}
	if top == nil || !l.othersThan(top.name) || l.isolated.full(&l.row, func(t string) bool { return l.leave[t] != nil }) {
		return
	}
	behind := l.estimate(top)
	if !full && (behind <= l.p.Freshness.P99/2 || float64(top.undone) <= isolateShare*float64(l.undone)) {
		return
	}
	l.notes = append(l.notes, note{false, "tenant leaves its base lane", []any{
		"lane", l.id.String(), "tenant", top.name, "events", top.undone, "bytes", top.bytes, "behind", behind, "window full", full,
	}})
	l.depart(top.name, leaving{state: store.Running, reason: backlog, since: now})
	l.isolated.add(top.name)
}

// othersThan reports whether events of another tenant were read of late.
func (l *streamLane) othersThan(tenant string) bool {
	g := l.recent[0]
	if g.tenant == tenant {
		g = l.recent[1]
	}
	return g.at > 0 && l.seen-g.at < recently
}

// estimate returns how long a tenant's events will take, at its share of the
// workers.
func (l *streamLane) estimate(t *laneTenant) time.Duration {
	cost := l.queue.fair.UnitCost(t.name)
	workers := max(1, l.p.Concurrency/max(1, l.queue.fair.Active()))
	all := time.Duration(t.undone) * cost / time.Duration(min(workers, max(1, t.keys)))
	if all > l.p.Freshness.P99/2 || t.undone < 100 {
		return all
	}
	longest := 0 // a hot key is as slow as its queue is long
	for _, k := range l.keys {
		if k.tenant == t {
			longest = max(longest, k.length)
		}
	}
	return max(all, time.Duration(longest)*cost)
}

// orphanStuck lets a tenant leave whose last events in progress do not end: their
// time limit has passed long ago. In this process no other lane starts an event
// of their keys until they do.
func (l *streamLane) orphanStuck() {
	if l.stuck == 0 || len(l.leave) == 0 {
		return
	}
	for t := l.runs.first; t != nil; t = t.later {
		if !t.stuck {
			break
		}
		d := l.leave[t.Tenant]
		if d == nil || t.key == nil || t.key.orphan {
			continue
		}
		if t.letter == 0 {
			d.first = min(d.first, t.Position)
		}
		l.disown(t.key)
	}
}
