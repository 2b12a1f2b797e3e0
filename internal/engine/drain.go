package engine

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/internal/lane"
	"github.com/fairlead-dev/fairlead/internal/mutant"
	"github.com/fairlead-dev/fairlead/projection"
	"github.com/fairlead-dev/fairlead/store"
)

const drainLimit = 500 // letters of one commit

// drain applies dead letters of a parked key, in order, as an operator asked.
// The lane has nothing in flight. When the last letter is gone, the key flows
// again from the next batch on. An error other than the store's is recorded
// with the letter, and the key stays parked.
func (l *batchLane) drain(ctx context.Context, k store.ParkedKey) error {
	letters, err := l.queue(ctx, k)
	if err != nil {
		return fmt.Errorf("lane %v: load dead letters of key %q: %w", l.id, k.Key, err)
	}
	for i := range letters {
		if letters[i].Event.Withheld > 0 {
			if err := l.readAgain(ctx, &letters[i].Event); err != nil {
				return err
			}
		}
	}
	if l.p.Batch != nil {
		return l.drainSQL(ctx, letters)
	}
	b, err := l.letterBatch(ctx, k, letters)
	if err != nil {
		return err
	}
	var failed *store.DeadLetter
	for i := range letters {
		if herr := l.applyLetter(b, int32(i)); herr != nil {
			failed = &letters[i]
			failed.Reason, failed.Error = herr.Reason, herr.Error()
			letters = letters[:i]
			break
		}
	}
	if failed != nil && len(b.items) > len(letters) {
		// The failed one may have changed its document: begin again without it.
		l.undo(b)
		if len(letters) == 0 {
			return l.drainFailed(ctx, *failed)
		}
		return l.drainSome(ctx, k, letters, *failed)
	}
	return l.drainCommit(ctx, b, letters)
}

// queue loads the first letters of a parked key, to a limit in number and bytes:
// a key may have any number of them.
func (l *batchLane) queue(ctx context.Context, k store.ParkedKey) (letters []store.DeadLetter, err error) {
	const atOnce = 50
	err = l.st.View(ctx, func(tx store.Tx) error {
		letters = nil
		f := store.LetterFilter{Build: l.id.Build, Partition: &k.Partition, Tenant: k.Tenant, Key: &k.Key, Limit: atOnce}
		for size := 0; len(letters) < drainLimit && size < maxPageBytes; {
			found, err := tx.Letters(f)
			if err != nil {
				return err
			}
			for _, d := range found {
				f.AfterID = d.ID
				if (d.State != store.Skipped || mutant.Is(mutant.DrainSkipped)) && d.Tenant == k.Tenant {
					letters = append(letters, d)
					size += d.Event.Size()
				}
			}
			if len(found) < atOnce {
				break
			}
		}
		return nil
	})
	return letters, err
}

// readAgain gets the payload of an event that was too large as it was parked.
func (l *batchLane) readAgain(ctx context.Context, e *event.Event) error {
	page, err := l.pages.read(ctx, eventlog.ReadRequest{Partition: l.logPart, After: e.Position - 1, Until: e.Position}, nil)
	if err != nil {
		return fmt.Errorf("lane %v: read dead letter at %v again: %w", l.id, e.Position, err)
	}
	foundAgain(e, page.Events)
	return nil
}

// foundAgain replaces the event of a dead letter by what its log hands out now at its
// position. Where that is nothing, or another event, the letter cannot be applied, and
// the event's fault says why.
func foundAgain(e *event.Event, events []event.Event) {
	for i := range events {
		if found := &events[i]; found.ID == e.ID || e.Type == "" { // or its log could not tell anything of it
			*e = *found
			return
		}
	}
	e.Fault = fmt.Errorf("its payload is in the log only, and the log does not hand out the event at position %v to this consumer any more: "+
		"a route or a filter gives it to another one, or it was deleted: retry it where it belongs, or skip it", e.Position)
}

// letterBatch makes a batch of letters, with the documents that they are for.
func (l *batchLane) letterBatch(ctx context.Context, k store.ParkedKey, letters []store.DeadLetter) (*batch, error) {
	b := l.newBatch(l.at)
	b.items = make([]item, len(letters))
	for i := range letters {
		b.items[i].e = &letters[i].Event
		l.enterLetter(b, int32(i), k)
	}
	b.order()
	l.undone = b
	return b, l.load(ctx, b)
}

// enterLetter puts a letter into the groups of the documents that it is for:
// the parked one, or all where they could not be told before.
func (l *batchLane) enterLetter(b *batch, i int32, k store.ParkedKey) {
	it := &b.items[i]
	err := l.p.Projection.Touch(it.e, &it.touched)
	if typeUnknown(it.e) { // it may be one that is handled
		err = projection.TooLarge(it.e)
	}
	if mine, fault := l.p.inBucket(it.e, l.id.Partition, l.of()); fault != nil {
		err = fault
	} else if !mine { // it was parked here because its partition could not be told
		err = &projection.HandlerError{Reason: "partition", Err: errors.New("the event's documents are another partition's: rebuild the projection")}
	}
	if err != nil {
		it.touched.Handled = false
		b.enter(store.Key{Tenant: k.Tenant, ID: k.Key}, i).failed = &failure{i, asHandlerError(err)}
		return
	}
	if !strings.HasPrefix(k.Key, parkedUnknown) {
		b.enter(store.Key{Tenant: k.Tenant, ID: k.Key}, i)
		return
	}
	for _, id := range append([]string{it.touched.Document}, it.touched.More...) {
		if key := (store.Key{Tenant: k.Tenant, ID: id}); id != "" {
			g := b.enter(key, i)
			if l.parked[key] {
				g.letters = append(g.letters, letter{i, store.Waiting, nil})
			}
		}
	}
}

func (l *batchLane) applyLetter(b *batch, i int32) *projection.HandlerError {
	for n := range b.groups {
		g := &b.groups[n]
		if g.failed != nil && g.failed.item == i {
			return g.failed.err
		}
		if g.doc == nil || len(g.letters) > 0 {
			continue
		}
		for _, x := range g.items {
			if x != i {
				continue
			}
			d, it := g.doc, &b.items[i]
			if !it.touched.Handled {
				continue // the projection has no handler for it any more
			}
			if d.broken != nil {
				return d.broken
			}
			if d.state == nil {
				d.state = l.p.Projection.Init(d.key.Tenant, d.key.ID)
			}
			// A document that went on without this event keeps its position.
			at, version := d.position, d.version
			if !l.apply(g, d, i, it.e, &it.touched) {
				return g.failed.err
			}
			d.position, d.version = max(d.position, at), max(d.version, version)
			if d.state == nil {
				continue
			}
			if _, err := l.p.Projection.Encode(d.state); err != nil {
				return asHandlerError(err)
			}
		}
	}
	return nil
}

// drainSome drains the letters before one that failed.
func (l *batchLane) drainSome(ctx context.Context, k store.ParkedKey, letters []store.DeadLetter, failed store.DeadLetter) error {
	b, err := l.letterBatch(ctx, k, letters)
	if err != nil {
		return err
	}
	for i := range letters {
		if herr := l.applyLetter(b, int32(i)); herr != nil {
			l.undo(b)
			return l.drainFailed(ctx, failed) // not the same as before: leave it for another retry
		}
	}
	if err := l.drainCommit(ctx, b, letters); err != nil {
		return err
	}
	return l.drainFailed(ctx, failed)
}

// undo drops the documents that a batch of letters has changed in memory: the
// rows are as they were, and so is the fence.
func (l *batchLane) undo(b *batch) {
	for i := range b.groups {
		if d := b.groups[i].doc; d != nil && d.dirty {
			l.cache.drop(d)
		}
	}
	l.undone = nil
}

func (l *batchLane) drainFailed(ctx context.Context, failed store.DeadLetter) error {
	l.logger.Warn("dead letter failed again", "lane", l.id.String(), "tenant", failed.Tenant, "key", failed.Key,
		"position", int64(failed.Event.Position), "error", failed.Error)
	return lane.RetryFailed(ctx, l.st, failed)
}

func (l *batchLane) drainCommit(ctx context.Context, b *batch, letters []store.DeadLetter) error {
	for i := range letters {
		if !mutant.Is(mutant.DrainUnfenced) {
			b.commit.Remove = append(b.commit.Remove, letters[i].ID)
		}
	}
	at := l.at
	b.to = l.sent.Position // a drain does not move the checkpoint
	l.collect(b)
	if bad, err := l.encode(ctx, b); bad != nil { // it could be, after each letter
		return fmt.Errorf("lane %v: document %q of tenant %q: %w", l.id, bad.key.ID, bad.key.Tenant, err)
	} else if err != nil {
		return err
	}
	l.finish(b)
	l.at = at
	b.commit.AppliedAt = l.row.AppliedAt
	l.undone = nil
	if err := l.commit(ctx, b); err != nil {
		return err
	}
	l.committed(b)
	return nil
}

// drainSQL hands letters to a batch projector, one a commit: which of several
// fails could not be told.
func (l *batchLane) drainSQL(ctx context.Context, letters []store.DeadLetter) error {
	for _, d := range letters {
		if d.Event.Withheld > 0 {
			herr := projection.TooLarge(&d.Event)
			d.Reason, d.Error = herr.Reason, herr.Error()
			return l.drainFailed(ctx, d)
		}
		b := &batch{seq: l.seq + 1, from: l.at, to: l.at}
		b.commit.SQL = func(ctx context.Context, tx any) error { return call(ctx, l.p, tx, []event.Event{d.Event}) }
		err := l.drainCommit(ctx, b, []store.DeadLetter{d})
		if uerr := userError(err); uerr != nil {
			herr := asHandlerError(uerr.Err)
			d.Reason, d.Error = herr.Reason, herr.Error()
			l.seq, l.sent.Position = l.done, l.row.Position
			return l.drainFailed(ctx, d)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
