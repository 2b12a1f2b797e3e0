package engine

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
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

// fold applies the part of b in hand to the documents in memory. [errAgain]
// means that b must be thrown away, and prepared again after a restart.
func (l *batchLane) fold(ctx context.Context, b *batch) error {
	l.undone = b
	if b.faulty && l.failures(b) {
		return errAgain
	}
	order := b.order()
	l.note(b)
	if l.p.Batch != nil {
		l.hand(b)
	} else {
		if err := l.load(ctx, b); err != nil {
			return err
		}
		dispatch.Run(ctx, l.workers(l.cost.of(len(b.items))), order, func(_, g int) { l.foldGroup(ctx, b, &b.groups[g]) })
		if ctx.Err() != nil {
			return ctx.Err() // some groups may not have run
		}
	}
	if l.failures(b) {
		return errAgain
	}
	l.collect(b)
	return nil
}

// note marks what is known beforehand: events that are poison, and keys that
// are parked.
func (l *batchLane) note(b *batch) {
	if len(l.parked)+len(l.poison) == 0 && !b.spares {
		return
	}
	for i := range b.groups {
		g := &b.groups[i]
		if len(g.letters) > 0 {
			continue // parked as unknown
		}
		parked := l.parked[g.key]
		for _, it := range g.items {
			if !b.items[it].touched.Handled {
				continue
			}
			err, bad := l.poison[mark{b.items[it].e.Position, g.key}]
			if b.spares {
				if spared := spare(b.items[it].e); spared != nil { // whether the key is parked or not: it may not be ours at all
					g.letters = append(g.letters, letter{it, store.Skipped, spared})
					continue
				}
			}
			switch {
			case parked:
				g.letters = append(g.letters, letter{it, store.Waiting, nil})
			case bad && l.p.Poison == SkipAndRecord:
				g.letters = append(g.letters, letter{it, store.Skipped, err})
			case bad:
				g.letters = append(g.letters, letter{it, store.Poison, err})
				parked, g.parks = true, true
			}
		}
	}
}

// load finds the documents of a batch in the cache, or else in the store. One
// that does not decode is its group's alone, and not cached: the events that it
// is to have are poison, and its row stays as it is.
func (l *batchLane) load(ctx context.Context, b *batch) error {
	var missing []store.Key
	var whose []int32 // the group of each
	for i := range b.groups {
		g := &b.groups[i]
		if g.doc = l.cache.get(g.key); g.doc == nil && b.handled(g) {
			missing, whose = append(missing, g.key), append(whose, int32(i))
		}
	}
	if len(missing) == 0 {
		return nil
	}
	found, err := l.st.Load(ctx, l.id.Build, missing)
	if err != nil {
		return fmt.Errorf("lane %v: load %d documents: %w", l.id, len(missing), err)
	}
	var broken map[store.Key]*doc
	for i := range found {
		f := &found[i]
		d := &doc{key: f.Key, version: f.Version, seen: f.Version, position: f.Position, size: len(f.Data), stored: true}
		if d.state, err = l.p.Projection.Decode(f.Data); err == nil {
			l.cache.put(d)
			continue
		}
		d.state, d.broken = nil, &projection.HandlerError{Reason: "state", Err: fmt.Errorf(
			"document %q of tenant %q: %w; mend the type, then retry the dead letters or resume what was stopped; or rebuild the projection",
			f.ID, f.Tenant, err)}
		if broken == nil {
			broken = map[store.Key]*doc{}
		}
		broken[f.Key] = d
	}
	for i, k := range missing {
		d := l.cache.docs[k]
		if d == nil {
			d = broken[k]
		}
		if d == nil {
			d = &doc{key: k}
			l.cache.put(d)
		}
		b.groups[whose[i]].doc = d
	}
	return nil
}

// handled reports whether g has an event to apply.
func (b *batch) handled(g *group) bool {
	for _, i := range g.items {
		if b.items[i].touched.Handled {
			return true
		}
	}
	return false
}

// foldGroup applies a group to its document. It runs beside the folds of other
// groups and touches only its own.
func (l *batchLane) foldGroup(ctx context.Context, b *batch, g *group) {
	d, def, next := g.doc, l.p.Projection, 0
	if d == nil {
		return
	}
	byStream, byPosition := def.ByStream(), l.comparable(g.key.Tenant)
	for _, i := range g.items {
		it := &b.items[i]
		if next < len(g.letters) && g.letters[next].item == i {
			next++
			continue
		}
		if !it.touched.Handled {
			d.seen = max(d.seen, it.e.Version)
			continue
		}
		if (d.state != nil || d.broken != nil) && !mutant.Is(mutant.ResumeEarly) && (byPosition && it.e.Position <= d.position || byStream && it.e.Version > 0 && it.e.Version <= d.version) {
			g.duplicates++
			continue
		}
		if d.broken != nil {
			g.failed = &failure{i, d.broken}
			return
		}
		if byStream && d.state != nil && it.e.Version > max(d.seen, d.version)+1 {
			if err := l.gap(ctx, it.e, max(d.seen, d.version)); err != nil {
				g.failed = &failure{i, err}
				return
			}
		}
		if d.state == nil {
			d.state = def.Init(g.key.Tenant, g.key.ID)
		}
		if !l.apply(g, d, i, it.e, &it.touched) {
			return
		}
	}
}

// apply applies one event to a document.
func (l *batchLane) apply(g *group, d *doc, i int32, e *event.Event, t *projection.Touched) bool {
	deleted, err := l.p.Projection.Apply(d.state, e, t)
	d.dirty = true
	if err == nil && l.careful && !deleted {
		_, err = l.p.Projection.Encode(d.state)
	}
	if err != nil {
		g.failed = &failure{i, asHandlerError(err)}
		return false
	}
	d.position = e.Position
	if l.p.Projection.ByStream() {
		d.version, d.seen = e.Version, e.Version
	}
	if deleted {
		d.state, d.version, d.seen = nil, 0, 0
	}
	return true
}

// gap returns an error if e does not follow version `after` of its stream. What
// lies between may be events that the projection does not handle, so the log is
// asked.
func (l *batchLane) gap(ctx context.Context, e *event.Event, after int64) *projection.HandlerError {
	if l.streams == nil || l.p.Types != nil {
		return nil
	}
	const most = 100
	from := max(after, e.Version-most)
	between, err := l.streams.ReadStream(ctx, eventlog.StreamRef{Tenant: e.Tenant, Stream: e.Stream}, from, most)
	if err != nil {
		return nil // not known: the position still vouches for the order
	}
	for i := range between {
		v := &between[i]
		if v.Version >= e.Version {
			break
		}
		if v.Version != from+1 {
			break
		}
		from++
	}
	if from+1 == e.Version {
		return nil
	}
	return &projection.HandlerError{Reason: "gap", Err: fmt.Errorf(
		"stream %q of tenant %q jumps from version %d to %d at position %v: events are missing; mend the log, or retry the key to accept the jump",
		e.Stream, e.Tenant, from, e.Version, e.Position)}
}

// failures turns what failed in b into what is known for the next try.
func (l *batchLane) failures(b *batch) (any bool) {
	for i := range b.groups {
		g := &b.groups[i]
		if g.failed == nil {
			continue
		}
		any = true
		l.condemn(b.items[g.failed.item].e, g.key, g.failed.err)
		if l.p.Poison != SkipAndRecord || g.doc == nil || g.doc.broken == nil {
			continue
		}
		for _, i := range g.items { // the document has none of the others either: do not try one by one
			if it := &b.items[i]; i > g.failed.item && it.touched.Handled {
				l.condemn(it.e, g.key, g.failed.err)
			}
		}
	}
	return any
}

// condemn decides by the poison policy what becomes of an event.
func (l *batchLane) condemn(e *event.Event, key store.Key, err *projection.HandlerError) {
	l.logger.Warn("poison event", "lane", l.id.String(), "tenant", e.Tenant, "stream", e.Stream, "version", e.Version,
		"position", int64(e.Position), "type", e.Type, "key", key.ID, "policy", l.p.Poison.String(), "error", err)
	reason := fmt.Sprintf("poison event %s (type %s) at position %v: %v", e.ID, e.Type, e.Position, err)
	switch {
	case l.p.Poison == ParkTenant && l.id.Tenant == "":
		d := departure{after: e.Position - 1, state: store.Paused, reason: reason}
		if known, ok := l.leave[e.Tenant]; !ok || d.after < known.after {
			l.leave[e.Tenant] = d
		}
	case l.p.Poison == ParkTenant, l.p.Poison == StopLane:
		if l.stopAt == nil || e.Position-1 < l.stopAt.after {
			l.stopAt = &stop{e.Position - 1, reason}
		}
	default:
		l.poison[mark{e.Position, key}] = err
	}
}

// collect keeps what the part in hand has come to, and moves the lane on. The
// part itself is not needed any more.
func (l *batchLane) collect(b *batch) {
	before := len(b.changed)
	for i := range b.groups {
		g := &b.groups[i]
		b.counts.duplicates += int64(g.duplicates)
		for _, x := range g.letters {
			b.commit.Letters = append(b.commit.Letters, l.deadLetter(b.items[x.item].e, g.key, x))
		}
		if g.parks {
			l.parked[g.key] = true
		}
		d := g.doc
		if d == nil || !d.dirty {
			continue
		}
		d.dirty = false
		if d.batch != b.seq {
			d.batch = b.seq
			b.changed = append(b.changed, change{doc: d})
		}
	}
	for i := range b.items { // what was appended together is as old
		at := recorded(b.items[i].e)
		if n := len(b.ages); n > 0 && b.ages[n-1].at.Equal(at) {
			b.ages[n-1].events++
		} else {
			b.ages = append(b.ages, age{at, 1})
		}
	}
	b.events += len(b.items)
	b.fresh = float64(len(b.changed)-before) / float64(max(len(b.items), 1))
	l.at = b.to
}

// seal encodes the documents that b has changed, each once however often it was,
// and makes the commit. [errAgain] is as in fold.
func (l *batchLane) seal(ctx context.Context, b *batch) error {
	bad, err := l.encode(ctx, b)
	switch {
	case bad != nil && !l.careful:
		l.careful = true // the next run finds out which event it is
		return errAgain
	case bad != nil:
		for i := range b.items {
			if e := b.items[i].e; e.Position == bad.position {
				l.condemn(e, bad.key, asHandlerError(err))
			}
		}
		return errAgain
	case err != nil:
		return err
	}
	l.finish(b)
	l.undone = nil
	if l.p.Batch == nil { // whose batch is looked at again if it is refused
		b.dropPart()
	}
	return nil
}

// encode encodes the documents that b has changed. It returns the first that
// cannot be, with the reason; or else ctx's error.
func (l *batchLane) encode(ctx context.Context, b *batch) (bad *doc, err error) {
	if len(b.changed) == 0 {
		return nil, nil
	}
	started := time.Now()
	order := make([]int32, len(b.changed))
	for i := range order {
		order[i] = int32(i)
	}
	var mu sync.Mutex // guards bad and err
	dispatch.Run(ctx, l.workers(l.encoding.of(len(order))), order, func(_, i int) {
		c := &b.changed[i]
		if c.doc.state == nil {
			return
		}
		data, failed := l.p.Projection.Encode(c.doc.state)
		if failed == nil {
			c.data = data
			return
		}
		mu.Lock()
		defer mu.Unlock()
		if bad == nil || c.doc.position < bad.position {
			bad, err = c.doc, failed
		}
	})
	if bad != nil {
		return bad, err
	}
	l.encoding.learn(time.Since(started), len(order))
	return nil, ctx.Err()
}

// finish makes the commit of a batch that has been folded.
func (l *batchLane) finish(b *batch) {
	c := &b.commit
	c.Lane, c.Fence, c.Position = l.id, l.sent, b.to
	c.Writes = make([]store.Write, 0, len(b.changed))
	for _, x := range b.changed {
		d := x.doc
		switch {
		case d.state != nil:
			l.cache.resize(d, len(x.data))
			c.Writes = append(c.Writes, store.Write{Document: store.Document{Key: d.key, Version: d.version, Position: d.position, Data: x.data}})
		case d.stored:
			c.Writes = append(c.Writes, store.Write{Document: store.Document{Key: d.key}, Delete: true})
		}
		d.stored = d.state != nil
	}
	slices.SortStableFunc(c.Letters, func(x, y store.DeadLetter) int { return int(x.Event.Position - y.Event.Position) })
	if n := len(b.ages); n > 0 {
		c.AppliedAt = b.ages[n-1].at
	}
	for i := range c.Detach {
		t := c.Detach[i].Tenant
		if l.row.Exclusions == nil {
			l.row.Exclusions = map[string]event.Position{}
		}
		l.row.Exclusions[t] = event.Unbounded
		delete(l.leave, t)
		l.cache.dropTenant(t)
	}
	for _, t := range c.Forget {
		delete(l.row.Exclusions, t)
	}
	l.seq, l.at = b.seq, b.to
	if !b.empty() {
		l.submit(b)
	}
}

// submit makes b the next to be committed.
func (l *batchLane) submit(b *batch) {
	l.sent.Position = b.to
	if len(b.commit.Detach)+len(b.commit.Forget) > 0 {
		l.sent.Revision++
	}
}

func (l *batchLane) deadLetter(e *event.Event, key store.Key, x letter) store.DeadLetter {
	d := store.DeadLetter{
		Build: l.id.Build, Partition: l.id.Partition, Tenant: key.Tenant, Key: key.ID,
		State: x.state, Event: *e, Attempts: 1,
	}
	d.Reason, d.Error = "waiting", "waits behind an earlier event of its key"
	if x.reason != nil {
		d.Reason, d.Error = x.reason.Reason, letterError(x.reason)
	}
	return d
}

// hand gives a batch projector's batch to its function, inside the commit.
func (l *batchLane) hand(b *batch) {
	var skip map[int32]bool
	for i := range b.groups {
		for _, x := range b.groups[i].letters {
			if skip == nil {
				skip = map[int32]bool{}
			}
			skip[x.item] = true
		}
	}
	events := b.run
	if events == nil || skip != nil {
		events = make([]event.Event, 0, len(b.items))
		for i := range b.items {
			if !skip[int32(i)] {
				events = append(events, *b.items[i].e)
			}
		}
	}
	if len(events) == 0 {
		return
	}
	b.commit.SQL = func(ctx context.Context, tx any) error { return call(ctx, l.p, tx, events) }
}

// call runs a batch projector's function, and turns its panic into an error.
func call(ctx context.Context, p *Processor, tx any, events []event.Event) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = Permanent(&projection.HandlerError{Reason: "panic", Err: fmt.Errorf("%v", v), Stack: debug.Stack()})
		}
	}()
	return p.Batch(ctx, tx, events)
}

// refused handles an error of the user's function in a commit. It returns how
// long to wait before the batch is tried again.
func (l *batchLane) refused(b *batch, err error) time.Duration {
	l.attempts++
	if !l.p.Retry.gaveUp(err, l.attempts) {
		return l.p.Retry.pause(l.attempts)
	}
	l.attempts = 0
	first := -1
	for i := range b.groups {
		if first < 0 && len(b.groups[i].letters) == 0 {
			first = i
		}
	}
	if len(b.items) > 1 || first < 0 {
		l.singleUntil = b.to // find out which event it is
		return 0
	}
	l.condemn(b.items[0].e, b.groups[first].key, asHandlerError(err))
	return 0
}

func asHandlerError(err error) *projection.HandlerError {
	if h, ok := errors.AsType[*projection.HandlerError](err); ok {
		return h
	}
	return &projection.HandlerError{Reason: "handler", Err: err}
}
