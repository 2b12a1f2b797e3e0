package engine

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/internal/lane"
	"github.com/fairlead-dev/fairlead/store"
)

const (
	recutEvery  = 20 * time.Millisecond // while lanes stand still for a split or merge
	standAtMost = 2 * time.Minute       // that they do, after some attempts
	recutNear   = 2 * pageEvents        // positions, within which lanes that are to be merged are told where to meet
)

// of returns the modulus of the lane's partition.
func (l *batchLane) of() int { return cmp.Or(l.row.Of, l.p.Partitions) }

func (l *streamLane) of() int { return cmp.Or(l.row.Of, l.p.Partitions) }

// stands reports whether the lane has come to where it stands still, until its
// partition has been merged with the other half.
func (l *batchLane) stands() bool { return l.row.Until != 0 && l.at >= l.row.Until }

func (l *streamLane) stands() bool { return l.row.Until != 0 && l.at >= l.row.Until }

// stand writes down that the lane is where it stands still, and waits for
// another hand to change its row.
func (r *batchRunner) stand(ctx context.Context) error {
	if err := r.checkpoint(ctx); err != nil {
		return err
	}
	select {
	case <-r.kick:
	case <-ctx.Done():
	}
	return nil
}

// cutAt leaves out of a page what lies beyond where the lane stands still: it may
// have been read before that was known.
func (l *streamLane) cutAt(p *streamPage) {
	u := l.row.Until
	if u == 0 || p.page.Next <= u {
		return
	}
	n, _ := slices.BinarySearchFunc(p.page.Events, u+1, func(e event.Event, at event.Position) int { return cmp.Compare(e.Position, at) })
	p.page.Events, p.page.Next = p.page.Events[:n], max(u, p.after)
}

// fit makes a processor work the partitions that it has in the store.
func (e *Engine) fit(ctx context.Context, p *Processor, row store.Processor) error {
	if p.follows {
		if p.Partitions != row.Partitions {
			return fmt.Errorf("processor %q has %d partitions in the store, and the log has %d: use a new name: %w", p.Name, row.Partitions, p.Partitions, lane.ErrState)
		}
		return nil
	}
	if p.Partitions != row.Partitions {
		e.logger.Info("the processor was made with another number of partitions: split or merge them to change it",
			"processor", p.Name, "made", row.Partitions, "program", p.Partitions)
	}
	most := row.Partitions
	err := e.store.View(ctx, func(tx store.Tx) error {
		lanes, err := tx.Lanes(p.Name)
		for i := range lanes {
			most = max(most, lane.Modulus(row, &lanes[i]))
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("processor %q: %w", p.Name, err)
	}
	p.Partitions = row.Partitions
	return p.divisible(most)
}

// divisible returns an error unless the processor's events can be worked in so
// many shares.
func (p *Processor) divisible(shares int) error {
	x := *p
	x.Partitions = shares
	return x.checkShared()
}

// An attempt is what the supervisor remembers of a split or merge that was asked
// for.
type attempt struct {
	since time.Time // lanes have been standing still for it; zero: they are not
	next  time.Time // not before
	tries int
}

// recuts brings the splits and merges of partitions nearer to their end that
// operators want. It returns when to look again, 0 for no hurry.
//
// Lanes that stand still for too long are let go, and it is tried again later,
// for twice as long each time: what a reactor has read takes as long as its
// handlers take.
func (e *Engine) recuts(ctx context.Context, v *view, attempts map[store.LaneID]*attempt) (soon time.Duration) {
	procs := map[string]*store.Processor{}
	for i := range v.procs {
		procs[v.procs[i].Name] = &v.procs[i]
	}
	again := func(d time.Duration) {
		if soon == 0 || d < soon {
			soon = d
		}
	}
	wanted := map[store.LaneID]bool{}
	for i := range v.lanes {
		l := &v.lanes[i]
		p := procs[l.Processor]
		a, _ := e.processor(l.Processor)
		if a == nil || p == nil || l.Want == 0 || l.Tenant != "" || l.Number != p.Live || l.Want < lane.Modulus(*p, l) && l.Partition >= l.Want {
			continue
		}
		wanted[l.LaneID] = true
		if err := e.cannot(a.p); err != nil {
			e.logger.Error("partition is not split", "lane", l.String(), "error", err)
			if err := lane.RefuseRecut(ctx, e.store, l.LaneID, "not split or merged: "+err.Error()); err != nil && ctx.Err() == nil {
				e.logger.Error("the request to split a partition was not refused", "lane", l.String(), "error", err)
				again(startAgain)
			}
			continue
		}
		t := attempts[l.LaneID]
		first := foremost(v.members, l.Processor, e.id)
		if t == nil {
			t = &attempt{}
			if !first {
				t.next = time.Now().Add(unservedAtMost)
			}
			attempts[l.LaneID] = t
		}
		// While nothing stands still for it, it is tried whenever rows have
		// changed, and now and then: lanes that come nearer change none.
		now := time.Now()
		if now.Before(t.next) {
			again(t.next.Sub(now))
			continue
		}
		stand := l.Until != 0 || l.State == store.Recut
		if stand {
			again(recutEvery)
		}
		if !first {
			t.next = now.Add(unservedAtMost)
		}
		done, err := lane.TryRecut(ctx, e.store, l.LaneID, shareOf(a.p), recutNear)
		switch {
		case done:
			e.logger.Info("partition was cut", "lane", l.String(), "of", lane.Modulus(*p, l), "now", l.Want)
			delete(attempts, l.LaneID)
			e.progress.broadcast()
			e.wake()
			continue
		case errors.Is(err, lane.ErrUnknown): // another process has done it
			continue
		case err != nil:
			if ctx.Err() == nil {
				e.logger.Error("split or merge of a partition", "lane", l.String(), "error", err)
			}
			t.next = now.Add(holdEvery)
			again(holdEvery)
			continue
		}
		if !stand {
			t.since = time.Time{}
			if p.Rebuild == 0 && !p.Paused && !away(v.lanes, l) { // else a row changes first
				again(unservedAtMost)
			}
			continue
		}
		if t.since.IsZero() {
			t.since = now
		}
		if now.Sub(t.since) < min(standAtMost, heldAtMost<<min(t.tries, 10)) {
			continue
		}
		t.tries++
		t.since, t.next = time.Time{}, now.Add(holdEvery)
		again(holdEvery)
		if err := lane.LetGo(ctx, e.store, l.LaneID); err != nil && ctx.Err() == nil {
			e.logger.Error("lanes that stand still for a split or merge were not let go", "lane", l.String(), "error", err)
		}
	}
	for id := range attempts {
		if !wanted[id] {
			delete(attempts, id)
		}
	}
	return soon
}

// away reports whether a tenant of one of the partitions that are to be merged is
// in a lane of its own: the merge waits for that.
func away(lanes []store.Lane, low *store.Lane) bool {
	return slices.ContainsFunc(lanes, func(l store.Lane) bool {
		return l.Tenant != "" && l.Build == low.Build && (l.Partition == low.Partition || l.Partition == low.Partition+low.Want)
	})
}

// foremost reports whether the process is the first of those that have a processor
// and are not about to end: it does what one of them is to do. The others do it now
// and then, in case that it does not.
func foremost(members []store.Member, processor, id string) bool {
	for i := range members {
		var n memberNotes
		_ = json.Unmarshal([]byte(members[i].Notes), &n) // of another version: it has nothing
		if !n.Leaving && slices.Contains(n.Processors, processor) {
			return members[i].ID == id
		}
	}
	return true
}

// cannot returns why the processor's partitions cannot be split or merged.
func (e *Engine) cannot(p *Processor) error {
	if p.follows {
		return fmt.Errorf("processor %q follows the log's own partitions", p.Name)
	}
	return p.divisible(2)
}

// shareOf returns the share of an event among so many; false where the user's
// function panics: such an event stays where it is.
func shareOf(p *Processor) func(e *event.Event, of int) (int, bool) {
	return func(e *event.Event, of int) (i int, ok bool) {
		defer func() {
			if v := recover(); v != nil {
				i, ok = 0, false
			}
		}()
		return p.share(e, of), true
	}
}
