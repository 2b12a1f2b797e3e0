package engine

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/store"
)

// takeWithin is for how long after a partition was given to this process it may
// take the partition's lanes from a live owner. A process that was frozen and wakes
// up believes that it still has its partitions, but it takes nothing back.
const takeWithin = 30 * time.Second

// assigned is what an [eventlog.Assigner] gave to this process. It is guarded by
// the engine's lock. Nil: the log shares out nothing, or this process belongs to a
// pool, whose tenants' lanes are leased like those on other logs.
type assigned struct {
	single   bool // the log has one partition: all lanes read it, whatever shares of it they work
	parts    map[int]assignment
	standing map[int]bool               // of parts: those that every process has, because no record comes any more
	took     map[store.LaneID]time.Time // lanes that were acquired: when their partition had been given
	released []chan struct{}            // closed when no lane of another partition is worked any more
}

// An assignment is when a partition was given to this process, and until when it may
// take the partition's lanes from a live owner.
type assignment struct{ at, until time.Time }

// of returns the log partition that a lane reads.
func (a *assigned) of(id store.LaneID) int {
	if a.single {
		return 0
	}
	return id.Partition
}

// has reports whether a lane is this process's to work.
func (a *assigned) has(id store.LaneID) bool {
	_, ok := a.parts[a.of(id)]
	return ok
}

// takes reports whether the lane may be taken from a live owner: once, and soon
// after the partition was given. Who had it before has been told, or is out of the
// group. One that took a lane and lost it again was overtaken itself.
func (a *assigned) takes(id store.LaneID, now time.Time) bool {
	g, ok := a.parts[a.of(id)]
	return ok && now.Before(g.until) && a.took[id] != g.at
}

// unanswered notes that the store did not answer what was asked at a time, so that
// nothing could be taken: there is time for it still, once it answers. It is not
// that the process was frozen meanwhile: then it would have been for too long.
func (a *assigned) unanswered(asked, now time.Time) {
	if a == nil || now.Sub(asked) >= takeWithin {
		return
	}
	for p, g := range a.parts {
		if asked.Before(g.until) {
			g.until = now.Add(takeWithin)
			a.parts[p] = g
		}
	}
}

// shared returns the engine's assigned for lanes of a pool; nil: they are leased.
func (me *self) shared(pool string) *assigned {
	if pool != "" {
		return nil
	}
	return me.assigned
}

// lends returns who works a lane instead of the member that has its partition; "":
// that one does. It does not where it has not the processor, or another version of
// its code than the lane is for, and another member has. The log's sharing knows
// nothing of versions, and any member can read any partition: so while a program is
// being replaced, lanes of both versions are worked. Of a partition that every member
// has, it is one of them.
func (a *assigned) lends(v *view, vs versions, p *store.Processor, l *store.Lane) string {
	if a == nil || l.Tenant != "" && v.poolOf(l) != "" {
		return ""
	}
	holder := v.holders()[a.of(l.LaneID)]
	suits := func(n memberNotes) bool {
		return slices.Contains(n.Processors, p.Name) && vs.suits(p, l, n.Versions[p.Name])
	}
	told := v.told()
	if !a.standing[a.of(l.LaneID)] && (holder == "" || suits(told[holder])) {
		return ""
	}
	var heirs []string
	for i := range v.members { // by id
		id := v.members[i].ID
		if n := told[id]; n.Pool == "" && !n.Leaving && suits(n) {
			heirs = append(heirs, id)
		}
	}
	if len(heirs) == 0 {
		return ""
	}
	return heirs[a.of(l.LaneID)%len(heirs)]
}

// holders returns who has a partition by the log's own sharing, as the members say;
// "", where two say so: one was told already that it has not, and the other will be.
func (v *view) holders() map[int]string {
	if v.held == nil {
		v.held = map[int]string{}
		told := v.told()
		for i := range v.members {
			id := v.members[i].ID
			for _, p := range told[id].Partitions {
				if _, twice := v.held[p]; twice {
					v.held[p] = ""
				} else {
					v.held[p] = id
				}
			}
		}
	}
	return v.held
}

// works reports whether a lane is a member's to work, of which heir works it instead
// of the member that has its partition.
func (a *assigned) works(id store.LaneID, heir, self string) bool {
	return heir == self || heir == "" && a.has(id)
}

// takeGiven adds to d what is to be done about a lane that nobody works here and
// that the log's own sharing decides about. Owner is the live one; "": none. Heir is
// who works it instead of the member that has its partition.
func (d *decision) takeGiven(l *store.Lane, a *assigned, owner, heir, self string, now time.Time) {
	works := a.works(l.LaneID, heir, self)
	switch {
	case !works && owner == self:
		d.back = append(d.back, *l)
	case works && (owner == "" || owner == self):
		d.start = append(d.start, l.LaneID)
		if heir != "" {
			if d.lent == nil {
				d.lent = map[store.LaneID]bool{}
			}
			d.lent[l.LaneID] = true
		}
	case works && heir == "" && a.takes(l.LaneID, now):
		d.start = append(d.start, l.LaneID)
		if d.force == nil {
			d.force = map[store.LaneID]bool{}
		}
		d.force[l.LaneID] = true
	case owner == "":
		d.unowned[l.LaneID] = nil
	default:
		d.other = append(d.other, l.LaneID)
	}
}

// sharer returns the log if it shares out its partitions and this process takes part.
func (e *Engine) sharer() eventlog.Assigner {
	if a, ok := e.log.(eventlog.Assigner); ok && a.Shares() && e.cfg.Pool == "" {
		return a
	}
	return nil
}

// follow takes part in the log's sharing until ctx ends. Where the process can take no
// part for good, Run ends with the reason.
func (e *Engine) follow(ctx context.Context, a eventlog.Assigner) {
	for ctx.Err() == nil {
		err := a.Assign(ctx, worker{e})
		if errors.Is(err, eventlog.ErrExcluded) && ctx.Err() == nil {
			e.mu.Lock()
			stop := e.stop
			e.mu.Unlock()
			stop(err)
			return
		}
		if err != nil && ctx.Err() == nil {
			e.logger.Error("no part in the sharing out of the log's partitions", "error", err)
			pause(ctx, 5*startAgain)
		}
	}
}

// A worker is the engine as an [eventlog.Assigner] sees it.
type worker struct{ e *Engine }

// Own implements [eventlog.Worker]. Lanes of partitions that went are ended at
// once, not with the next look at the rows: the others of the group wait for it.
func (w worker) Own(partitions []int) <-chan struct{} {
	e := w.e
	done := make(chan struct{})
	now := time.Now()
	standing := map[int]bool{}
	if s, ok := e.log.(interface{ Standing() []int }); ok {
		for _, p := range s.Standing() {
			standing[p] = true
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	a := e.assigned
	if a == nil { // the engine has ended
		close(done)
		return done
	}
	parts := make(map[int]assignment, len(partitions))
	for _, p := range partitions {
		if g, ok := a.parts[p]; ok {
			parts[p] = g
		} else {
			parts[p] = assignment{now, now.Add(takeWithin)}
		}
	}
	a.parts, a.standing = parts, standing
	maps.DeleteFunc(a.took, func(id store.LaneID, _ time.Time) bool { return !a.has(id) })
	for o := range e.strays() {
		if o.leaving.IsZero() {
			if o.leaving, o.to = now, ""; !o.runner.retire() {
				o.cancel()
			}
		}
	}
	a.released = append(a.released, done)
	e.checkReleased()
	e.news() // the others are to know who has which partition
	e.wake()
	return done
}

// unanswered is [assigned.unanswered] of what was asked at a time.
func (e *Engine) unanswered(asked time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.assigned.unanswered(asked, time.Now())
}

// strays are the lanes that are worked here although their partition is not this
// process's, and was not when they were begun: unless it has none any more, then all
// are. The caller has the lock.
func (e *Engine) strays() func(yield func(*owned) bool) {
	return func(yield func(*owned) bool) {
		for _, a := range e.procs {
			for id, o := range a.lanes {
				if !e.assigned.has(id) && (!o.lent || len(e.assigned.parts) == 0) && !yield(o) {
					return
				}
			}
		}
	}
}

// checkReleased tells those who wait that no stray is left. The caller has the lock.
func (e *Engine) checkReleased() {
	if e.assigned == nil || len(e.assigned.released) == 0 {
		return
	}
	for range e.strays() {
		return
	}
	for _, c := range e.assigned.released {
		close(c)
	}
	e.assigned.released = nil
}

// Checkpoints implements [eventlog.Worker], from the rows: they are what is
// committed.
func (w worker) Checkpoints(ctx context.Context, partitions []int) (map[int]event.Position, error) {
	wanted, procs, a := map[int]bool{}, map[string]bool{}, assigned{}
	for _, p := range partitions {
		wanted[p] = true
	}
	w.e.mu.Lock()
	for name, a := range w.e.procs {
		procs[name] = !a.gone
	}
	if w.e.assigned != nil {
		a.single = w.e.assigned.single
	}
	w.e.mu.Unlock()
	at := map[int]event.Position{}
	err := w.e.store.View(ctx, func(tx store.Tx) error {
		clear(at)
		rows, err := tx.Processors()
		if err != nil {
			return err
		}
		live := map[string]int64{}
		for i := range rows {
			live[rows[i].Name] = rows[i].Live
		}
		lanes, err := tx.Lanes("")
		for i := range lanes {
			l := &lanes[i]
			if !procs[l.Processor] || l.Number != live[l.Processor] || !wanted[a.of(l.LaneID)] {
				continue
			}
			if p, ok := at[a.of(l.LaneID)]; !ok || l.Position < p {
				at[a.of(l.LaneID)] = l.Position
			}
		}
		return err
	})
	return at, err
}
