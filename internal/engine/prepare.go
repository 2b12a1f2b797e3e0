package engine

import (
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/internal/dispatch"
	"github.com/fairlead-dev/fairlead/internal/mutant"
	"github.com/fairlead-dev/fairlead/projection"
	"github.com/fairlead-dev/fairlead/store"
)

// A batch is a run of the log on its way to one commit. It is prepared and folded
// in parts, mostly one.
type batch struct {
	seq      int64
	from, to event.Position // events in (from, to]
	behind   bool           // the log has a page or more beyond to
	began    time.Time

	// The part in hand; empty once the batch of a projection is sealed.
	items   []item
	groups  []group
	grouper *dispatch.Grouper // which items are whose; the lane's, so valid until its next part
	faulty  bool              // a group failed as it was made
	spares  bool              // it has events that are a sandbox's for now
	run     []event.Event     // the items, where they are a part of a page that is nobody else's

	// What the parts that were folded have come to.
	events  int
	ages    []age
	changed []change
	fresh   float64 // documents that the last part was the first to change, for each of its events
	counts  counts
	took    time.Duration // to fold and seal it

	commit store.Commit
}

// A part of a batch is a page's, or less. It is used again for another batch, of
// whatever lane, because it is most of what a batch needs of memory.
type part struct {
	items  []item
	groups []group
}

var parts = sync.Pool{New: func() any { return new(part) }}

// dropPart gives back the part in hand: nothing of b refers to it.
func (b *batch) dropPart() {
	clear(b.items) // or they would keep pages
	clear(b.groups)
	parts.Put(&part{b.items[:0], b.groups[:0]})
	b.items, b.groups = nil, nil
}

// An age says when the log stored some events.
type age struct {
	at     time.Time
	events int
}

// A change is a document that a batch changes; each is there once.
type change struct {
	doc  *doc
	data []byte // once sealed
}

// An item is an event that the lane is to apply.
type item struct {
	e       *event.Event
	touched projection.Touched
}

// A group is the part of a batch with one ordering key.
type group struct {
	key        store.Key
	items      []int32 // in log order; once the batch is ordered
	doc        *doc
	letters    []letter // in order
	failed     *failure
	parks      bool // it ends parked
	duplicates int32
}

type letter struct {
	item   int32
	state  store.LetterState
	reason *projection.HandlerError // nil: waiting behind another
}

// A failure is an event that its handler refuses.
type failure struct {
	item int32
	err  *projection.HandlerError
}

// empty reports whether committing b would change nothing but the position.
func (b *batch) empty() bool {
	c := &b.commit
	return len(c.Writes)+len(c.Letters)+len(c.Remove)+len(c.Detach)+len(c.Forget) == 0 && c.SQL == nil
}

// prepare makes a batch of the beginning of a page: of at most limit events
// that the lane has to apply. It moves on over events of no interest in bulk.
func (l *batchLane) prepare(page eventlog.Page, limit int) *batch {
	b := l.newBatch(page.Next)
	l.extend(b, page, limit)
	return b
}

// extends reports whether b, all of which is folded, may have another part: not
// where it is out of the ordinary, or demands the end of the batch.
func (l *batchLane) extends(b *batch) bool {
	return l.p.Batch == nil && !l.careful && l.stopAt == nil && !l.stands() && l.singleUntil <= l.at &&
		len(l.leave)+len(b.commit.Detach)+len(b.commit.Letters) == 0
}

// extend makes the beginning of a page the next part of a batch, whose parts up
// to now have been folded.
func (l *batchLane) extend(b *batch, page eventlog.Page, limit int) {
	l.nextPart(b)
	b.to = page.Next
	if l.singleUntil > l.at {
		limit = 1
	}
	if l.stopAt != nil {
		b.to = min(b.to, l.stopAt.after)
	}
	if l.row.Until != 0 {
		b.to = min(b.to, l.row.Until)
	}
	b.items = slices.Grow(b.items, min(limit, len(page.Events)))
	first, last := 0, -1
	for i := range page.Events {
		e := &page.Events[i]
		if e.Position <= l.at {
			continue
		}
		if e.Position > b.to {
			break
		}
		mine, fault := l.mine(e, b)
		if !mine {
			continue
		}
		if len(b.items) >= limit {
			b.to = e.Position - 1
			break
		}
		if last = i; len(b.items) == 0 {
			first = i
		}
		l.add(b, e, fault)
	}
	if b.run = nil; page.Own && last-first+1 == len(b.items) {
		b.run = page.Events[first : last+1 : last+1]
	}
	b.commit.Detach, b.commit.Forget = nil, nil
	for t, d := range l.leave {
		if d.after > b.to {
			continue
		}
		row := store.Lane{LaneID: l.id, Of: l.row.Of, Epoch: l.sent.Revision + 1, Position: d.after, State: d.state, Reason: d.reason}
		row.Tenant = t
		// Up to here an earlier lane of the tenant has applied its events.
		if until, ok := l.row.Exclusions[t]; ok && until != event.Unbounded {
			row.Position = max(row.Position, until)
		}
		b.commit.Detach = append(b.commit.Detach, row)
	}
	if mutant.Is(mutant.DetachPosition) {
		for i := range b.commit.Detach {
			b.commit.Detach[i].Position = b.to
		}
	}
	slices.SortFunc(b.commit.Detach, func(a, b store.Lane) int { return compareStrings(a.Tenant, b.Tenant) })
	for t, until := range l.row.Exclusions {
		leaves := slices.ContainsFunc(b.commit.Detach, func(d store.Lane) bool { return d.Tenant == t })
		if (until <= b.to || mutant.Is(mutant.ForgetEarly)) && until != event.Unbounded && !leaves {
			b.commit.Forget = append(b.commit.Forget, t)
		}
	}
	slices.Sort(b.commit.Forget)
}

// mine reports whether the lane is to apply e. It decides by what stands in the
// log's index, and decodes nothing. A fault makes the event poison: the user's
// partition key cannot be told.
func (l *batchLane) mine(e *event.Event, b *batch) (mine bool, fault *projection.HandlerError) {
	p := l.p
	switch {
	case l.id.Tenant != "" && e.Tenant != l.id.Tenant:
		return false, nil
	case p.Tenants != nil && !slices.Contains(p.Tenants, e.Tenant),
		p.Classes != nil && !slices.Contains(p.Classes, e.Class),
		p.Types != nil && !slices.Contains(p.Types, e.HandledType()) && !typeUnknown(e):
		b.counts.passed++
		return false, nil
	}
	if mine, fault = p.inBucket(e, l.id.Partition, l.of()); !mine {
		return false, nil
	}
	if l.id.Tenant == "" && l.row.Excluded(e.Tenant, e.Position) {
		b.counts.excluded++
		return false, nil
	}
	if d, ok := l.leave[e.Tenant]; ok && e.Position > d.after {
		b.counts.excluded++
		return false, nil
	}
	return true, fault
}

// add puts an event into its groups.
func (l *batchLane) add(b *batch, e *event.Event, herr *projection.HandlerError) {
	b.items = append(b.items, item{e: e})
	n := int32(len(b.items) - 1)
	it := &b.items[n]
	tenant := l.tenantSpace(e)
	spared := spare(e)
	b.spares = b.spares || spared != nil
	if typeUnknown(e) && spared == nil {
		herr = &projection.HandlerError{Reason: "decode", Err: e.Fault}
		it.touched.Handled = true
		if k, ok := l.streamKey(e); ok { // what follows it in its key must wait
			l.blame(b, b.enter(store.Key{Tenant: tenant, ID: k}, n), n, herr)
			return
		}
	} else if err := e.CheckOnce(); err != nil {
		herr = &projection.HandlerError{Reason: "name", Err: err}
	} else if herr != nil {
		it.touched.Handled = true
	} else if l.p.Batch != nil {
		it.touched.Handled = true
		if spared == nil && l.keyless(b, e) {
			return
		}
		var id string
		if id, herr = l.p.safeOrderKey(e); herr == nil {
			key := store.Key{Tenant: tenant, ID: id}
			g := b.enter(key, n)
			if e.Withheld > 0 && spared == nil { // what follows it in its key must wait
				l.blame(b, g, n, projection.TooLarge(e))
			}
			return
		}
	} else if err := l.p.Projection.Touch(e, &it.touched); err != nil {
		herr = asHandlerError(err)
	}
	switch {
	case herr != nil:
		g := b.enter(store.Key{Tenant: tenant, ID: parkedUnknown + e.Stream}, n)
		if spared != nil {
			g.letters = append(g.letters, letter{n, store.Skipped, spared})
			return
		}
		if l.stops() && herr.Reason != "name" {
			l.blame(b, g, n, herr)
			return
		}
		g.letters = append(g.letters, letter{n, store.Poison, herr})
	case !it.touched.Handled && !l.p.Projection.ByStream():
		b.counts.passed++
	case !it.touched.Handled:
		b.counts.passed++
		b.enter(store.Key{Tenant: tenant, ID: e.Stream}, n)
	default:
		if it.touched.Document != "" {
			b.enter(store.Key{Tenant: tenant, ID: it.touched.Document}, n)
		}
		for _, id := range it.touched.More {
			b.enter(store.Key{Tenant: tenant, ID: id}, n)
		}
	}
}

// spare returns why an event is not run here where it is a sandbox's for now; else
// nil. It is kept as a letter that nothing waits for.
func spare(e *event.Event) *projection.HandlerError {
	host, ok := e.ReservedFor()
	if !ok {
		return nil
	}
	return &projection.HandlerError{Reason: store.Routed, Err: errors.New(host)}
}

// letterError is what a dead letter says of an error.
func letterError(err *projection.HandlerError) string {
	if err.Reason == store.Routed {
		return err.Err.Error() // the host alone, for those who settle it
	}
	return err.Error()
}

// keyless reports whether nobody needs to know the ordering key of a batch projector's
// event: nothing of the batch before it, and nothing before the batch, is parked or
// poison, and so no key waits. If the function refuses the batch, its events come
// again one by one, with their keys.
func (l *batchLane) keyless(b *batch, e *event.Event) bool {
	return l.p.OrderBy == nil && e.Withheld == 0 && !b.faulty && len(l.parked)+len(l.poison) == 0 && l.singleUntil <= l.at
}

// typeUnknown reports whether a log could not even say of what type an event is. So
// it may be one that a processor handles.
func typeUnknown(e *event.Event) bool { return e.Fault != nil && e.Type == "" }

// streamKey returns the ordering key of an event whose payload cannot be read, if it
// can be told.
func (l *batchLane) streamKey(e *event.Event) (key string, ok bool) {
	if event.CheckTenant(e.Tenant) != nil || event.CheckStream(e.Stream) != nil {
		return "", false
	}
	if l.p.Batch != nil {
		key, herr := l.p.safeOrderKey(e)
		return key, herr == nil
	}
	return e.Stream, l.p.Projection.ByStream()
}

// blame notes before the batch is run that an item is poison in a group.
func (l *batchLane) blame(b *batch, g *group, item int32, err *projection.HandlerError) {
	switch {
	case !l.stops():
		l.poison[mark{b.items[item].e.Position, g.key}] = err
	case g.failed == nil:
		g.failed, b.faulty = &failure{item, err}, true
	}
}

// stops reports whether the poison policy stops a lane.
func (l *batchLane) stops() bool { return l.p.Poison == ParkTenant || l.p.Poison == StopLane }

// newBatch returns an empty batch from where the lane is.
func (l *batchLane) newBatch(to event.Position) *batch {
	b := &batch{seq: l.seq + 1, from: l.at, to: to, began: time.Now(), grouper: &l.grouper}
	l.nextPart(b)
	return b
}

// nextPart gives b an empty part.
func (l *batchLane) nextPart(b *batch) {
	most := l.grouper.Len() // as many groups as last time, more or less
	l.grouper.Reset()
	if b.groups != nil {
		b.dropPart()
	}
	p := parts.Get().(*part)
	b.items, b.groups = p.items, slices.Grow(p.groups, most+16)
}

// enter puts an item into the group of a key.
func (b *batch) enter(k store.Key, item int32) *group {
	i := b.grouper.Add(int(item), k.Tenant, k.ID)
	if i == len(b.groups) {
		b.groups = append(b.groups, group{key: k})
	}
	return &b.groups[i]
}

// order gives the groups their items, and returns them largest first, those of
// equal size in the order in which they came.
func (b *batch) order() []int32 {
	order := b.grouper.Order()
	for i := range b.groups {
		g := &b.groups[i]
		g.items = b.grouper.Members(i)
		if mutant.Is(mutant.GroupsReordered) {
			g.items = slices.Clone(g.items)
			slices.Reverse(g.items)
		}
	}
	return order
}

// recorded returns when the log stored e, as far as it says so.
func recorded(e *event.Event) time.Time {
	if e.RecordedAt.IsZero() {
		return e.OccurredAt
	}
	return e.RecordedAt
}

func compareStrings(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}
