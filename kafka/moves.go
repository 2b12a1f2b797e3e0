package kafka

import (
	"cmp"
	"slices"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
)

// The moves of tenants, as the directory says them. A move is
//
//	moving  it has begun; who writes by the directory writes nothing for the tenant
//	marked  a mark stands in each partition of the tenant's own topic
//	moved   one stands in its partition of the shared topic too: it has ended
//
// or moved without marks: it was taken back, and counts for nothing. The mark in the
// shared topic decides: once it is there, whoever comes to it may say moved. So no
// reader of the shared topic ever waits for the one who moves the tenant. What a
// tenant has in the partitions that it leaves, up to their marks, comes before what it
// has behind the marks of those to which it goes.
type moves struct {
	of      map[string]*tenantMoves
	borders map[partKey]frontier
}

// A frontier is the borders in a partition. It is never changed: readers have it.
type frontier struct {
	all []border            // by position
	of  map[string][]border // the same, of each tenant
}

func (b border) compare(at event.Position) int { return cmp.Compare(b.at, at) }

// tenantMoves is how far the moves of a tenant are.
type tenantMoves struct {
	last   int64  // the number of the last one
	moving bool   // which has not ended
	own    bool   // where that goes
	marked []mark // in its own topic; nil: not yet
}

// A mark is where a record stands that says that a stay begins or ends there.
type mark struct {
	ID     topicID        `json:"id"`
	Number int32          `json:"number"`
	At     event.Position `json:"at"`
}

// A border is where a tenant's stay in a partition begins or ends.
type border struct {
	at     event.Position
	tenant string
	move   int64
	begins bool
	after  []mark // where it begins: where it was before
	alone  bool   // the partition is of the tenant's own topic
}

// forget drops the borders of a tenant that was removed: what was there of it counts
// no more, and what follows is a new tenant's. The numbers of its moves go on, for
// their marks are still there.
func (m *moves) forget(tenant string) {
	t := m.of[tenant]
	if t == nil {
		return
	}
	*t = tenantMoves{last: t.last}
	for k, f := range m.borders {
		m.borders[k] = newFrontier(slices.DeleteFunc(slices.Clone(f.all), func(b border) bool { return b.tenant == tenant }))
	}
}

func newFrontier(all []border) frontier {
	slices.SortStableFunc(all, func(a, b border) int { return cmp.Compare(a.at, b.at) })
	f := frontier{all, map[string][]border{}}
	for _, b := range all {
		f.of[b.tenant] = append(f.of[b.tenant], b)
	}
	return f
}

// applyMove takes a statement about a move into account. What does not follow from what
// was said before is of somebody who was late, and changes nothing. The caller holds mu.
func (d *directory) applyMove(s *statement) {
	if d.moves.of == nil {
		d.moves.of, d.moves.borders = map[string]*tenantMoves{}, map[partKey]frontier{}
	}
	t := d.moves.of[s.Tenant]
	if t == nil {
		t = &tenantMoves{}
		d.moves.of[s.Tenant] = t
	}
	_, known := d.tenants[s.Tenant]
	switch {
	case !known:
	case s.Kind == "moving":
		if !t.moving && s.Move == t.last+1 {
			*t = tenantMoves{last: s.Move, moving: true, own: s.Own}
		}
	case !t.moving || s.Move != t.last:
	case s.Kind == "marked":
		if t.marked == nil {
			t.marked = s.Marks
		}
	case len(s.Marks) == 0:
		*t = tenantMoves{last: t.last}
	case t.marked != nil:
		from, to := s.Marks, t.marked
		if !t.own {
			from, to = to, from
		}
		for _, x := range from {
			d.moves.put(x, border{at: x.At, tenant: s.Tenant, move: s.Move, alone: !t.own})
		}
		for _, x := range to {
			d.moves.put(x, border{at: x.At, tenant: s.Tenant, move: s.Move, begins: true, after: from, alone: t.own})
		}
		d.tenants[s.Tenant] = tenantState{own: t.own}
		*t = tenantMoves{last: t.last}
	}
}

// put notes a border.
func (m *moves) put(x mark, b border) {
	k := partKey{x.ID, x.Number}
	m.borders[k] = newFrontier(append(slices.Clone(m.borders[k].all), b))
}

// A stay is where a tenant is by the directory, and since which move; and whether it is
// about to leave.
type stay struct {
	own    bool
	moving bool
	move   int64 // the last that has ended
}

// stay returns where a tenant is. One that nobody has added is in the shared topic, or
// in its own where there is no other.
func (d *directory) stay(tenant string) stay {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.stayNow(tenant)
}

// stayNow is stay for callers that hold mu.
func (d *directory) stayNow(tenant string) stay {
	s := stay{own: d.tenants[tenant].own}
	if t := d.moves.of[tenant]; t != nil {
		s.moving, s.move = t.moving, t.last
		if t.moving {
			s.move--
		}
	}
	return s
}

// endAfter returns where the stay ended that a tenant had after a move, in a partition of
// a topic; false: it has not ended there. The caller holds mu.
func (d *directory) endAfter(tenant string, move int64, topic string, number int32) (event.Position, bool) {
	for i := range d.parts {
		p := &d.parts[i]
		if p.topic != topic || p.number != number || p.closed {
			continue
		}
		for _, b := range d.moves.borders[partKey{p.id, number}].of[tenant] {
			if b.move > move && !b.begins {
				return b.at, true
			}
		}
	}
	return 0, false
}

// partsOf returns the partitions of a topic that is not closed.
func (d *directory) partsOf(topic string) (parts []part) {
	for _, p := range d.numbered() {
		if p.topic == topic && !p.closed {
			parts = append(parts, p)
		}
	}
	return parts
}

// move returns what is known of the last move of a tenant.
func (d *directory) move(tenant string) tenantMoves {
	d.mu.Lock()
	defer d.mu.Unlock()
	if t := d.moves.of[tenant]; t != nil {
		return *t
	}
	return tenantMoves{}
}

// settled reports whether it is known what became of a move, and whether it has begun.
func (d *directory) settled(tenant string, move int64) (settled, begun bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	t := d.moves.of[tenant]
	if t == nil || move > t.last {
		return false, false
	}
	return move < t.last || !t.moving, true
}

// Barrier implements [eventlog.Sequencer].
func (l *Log) Barrier(partition int, at event.Position) *eventlog.Barrier {
	b := l.bordersOf(partition)
	if b == nil {
		return nil
	}
	i, _ := slices.BinarySearchFunc(b.all, at, border.compare)
	for ; i < len(b.all) && b.all[i].at == at; i++ {
		if x := &b.all[i]; x.begins {
			return &eventlog.Barrier{Tenant: x.tenant, Alone: x.alone, After: l.several.dir.numbersOf(x.after)}
		}
	}
	return nil
}

// Moved implements [eventlog.Sequencer].
func (l *Log) Moved(tenant string) bool {
	if l.several == nil {
		return false
	}
	d := l.several.dir
	d.mu.Lock()
	defer d.mu.Unlock()
	if tenant == "" {
		return len(d.moves.of) > 0
	}
	return d.moves.of[tenant] != nil
}

// numbersOf returns marks by the numbers of their partitions in the log.
func (d *directory) numbersOf(marks []mark) map[int]event.Position {
	d.mu.Lock()
	defer d.mu.Unlock()
	after := map[int]event.Position{}
	for _, m := range marks {
		n := slices.IndexFunc(d.parts, func(p part) bool { return p.id == m.ID && p.number == m.Number })
		after[n] = m.At // -1: it is not numbered, which cannot be; nobody passes it
	}
	return after
}

var _ eventlog.Sequencer = (*Log)(nil)
