package engine

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/store"
)

// takeWithin is for how long after a partition was given to this process it may
// take the partition's lanes from a live owner. A process that was frozen and wakes
// up believes that it still has its partitions, but it takes nothing back.
const takeWithin = 30 * time.Second

// A partition that goes to another process is nobody's for as long as the log's
// sharing takes to tell that one: with Kafka's groups until its next heartbeat, some
// seconds. Its lanes go on here meanwhile, and are given to the process that says that
// it has the partition now.
const (
	keptFor    = takeWithin                   // that they go on, if none does
	keptAtEnd  = 7 * time.Second              // the same, when this process ends: longer than a heartbeat of Kafka's groups
	givenAfter = handOverAtMost + time.Second // that a lane is waited for which its owner is about to give; then it is taken
)

// assigned is what an [eventlog.Assigner] gave to this process. It is guarded by
// the engine's lock. Nil: the log shares out nothing, or this process belongs to a
// pool, whose tenants' lanes are leased like those on other logs.
type assigned struct {
	single   bool // the log has one partition: all lanes read it, whatever shares of it they work
	parts    map[int]assignment
	standing map[int]bool               // of parts: those that every process has, because no record comes any more
	took     map[store.LaneID]time.Time // lanes that were acquired: when their partition had been given
	released []released                 // what [worker.Own] has returned
}

// A released is closed when no lane of another partition is worked any more, but for
// those that are kept until somebody wants them, and the others know that.
type released struct {
	c    chan struct{}
	told bool
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
	told := v.told()
	suits := func(n memberNotes) bool {
		return slices.Contains(n.Processors, p.Name) && vs.suits(p, l, n.Versions[p.Name])
	}
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

// next returns which other member is to have a lane that is not member id's any more:
// its heir, or who has its partition; "": nobody says so yet.
func (a *assigned) next(v *view, l *store.Lane, heir, id string) string {
	if heir == "" {
		heir = v.holders()[a.of(l.LaneID)]
	}
	if heir == id || v.told()[heir].Leaving {
		return ""
	}
	return heir
}

// gives reports whether the owner of a lane knows that the partition is another's by
// now: then it gives the lane to whoever says that it is its own.
func (a *assigned) gives(v *view, l *store.Lane, owner string) bool {
	return !slices.Contains(v.told()[owner].Partitions, a.of(l.LaneID))
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
func (d *decision) takeGiven(v *view, l *store.Lane, a *assigned, owner, heir string, me *self, now time.Time) {
	self := me.id
	works := a.works(l.LaneID, heir, self)
	switch {
	case works && owner == self && l.Epoch > me.worked[l.LaneID]: // it was acquired for this process, and handed over
		d.take = append(d.take, *l)
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
	case works && heir == "" && a.takes(l.LaneID, now) && a.gives(v, l, owner) && now.Before(a.parts[a.of(l.LaneID)].at.Add(givenAfter)):
		d.other, d.moving = append(d.other, l.LaneID), true
		d.again(a.parts[a.of(l.LaneID)].at.Add(givenAfter))
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

// Own implements [eventlog.Worker]. Lanes of partitions that went are kept until
// another process says that it has them. Where there is none, or it is not said, they
// are ended at once, not with the next look at the rows: the log waits for it.
func (w worker) Own(partitions []int) <-chan struct{} { return w.own(partitions, false) }

// Quit implements [eventlog.Worker].
func (w worker) Quit() <-chan struct{} { return w.own(nil, true) }

func (w worker) own(partitions []int, quit bool) <-chan struct{} {
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
	keep := e.others && !quit
	for _, p := range e.procs {
		for id, o := range p.lanes {
			if a.has(id) {
				o.kept = time.Time{}
			} else if o.kept.IsZero() && keep {
				o.kept = now.Add(keptFor)
			}
		}
	}
	if !keep {
		e.dropKept(now)
	}
	e.endStrays(now)
	a.released = append(a.released, released{c: done, told: !keep})
	e.checkReleased()
	e.news() // the others are to know who has which partition
	e.wake()
	return done
}

// endStrays ends what is worked here and must not be. The caller has the lock.
func (e *Engine) endStrays(now time.Time) {
	for o := range e.strays() {
		if o.leaving.IsZero() {
			if o.leaving, o.to = now, ""; !o.runner.retire() {
				o.cancel()
			}
		}
	}
}

// dropKept makes strays of the lanes that are kept for others. The caller has the lock.
func (e *Engine) dropKept(now time.Time) {
	for _, p := range e.procs {
		for _, o := range p.lanes {
			if !o.kept.IsZero() {
				o.kept = now
			}
		}
	}
}

// giveKept gives the lanes of this process, which is to end and has left the log's
// sharing, to those that get its partitions, as soon as they say so; for a while, then
// they end. Where it ends because the store is a newer program's by now, it keeps none.
func (e *Engine) giveKept(ended, work context.Context, logParts int) {
	atMost := keptAtEnd
	if errors.Is(context.Cause(ended), store.ErrNewerSchema) {
		atMost = 0
	}
	ctx, cancel := context.WithTimeout(work, atMost)
	defer cancel()
	e.mu.Lock()
	e.leaving = true
	var lanes []<-chan struct{}
	for _, p := range e.procs {
		for _, o := range p.lanes {
			lanes = append(lanes, o.ended)
		}
	}
	e.mu.Unlock()
	if len(lanes) == 0 {
		return
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { e.supervise(ctx, work, logParts) })
	e.news()
	for _, c := range lanes {
		select {
		case <-c:
		case <-ctx.Done():
		}
	}
	cancel()
	select {
	case <-worker{e}.Quit():
	case <-time.After(handOverAtMost):
	}
}

// unanswered is [assigned.unanswered] of what was asked at a time.
func (e *Engine) unanswered(asked time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.assigned.unanswered(asked, time.Now())
}

// strays are the lanes that are worked here although their partition is not this
// process's, and was not when they were begun: unless it has none any more, then all
// are. Those that are kept for another process are none, until they are about to end.
// The caller has the lock.
func (e *Engine) strays() func(yield func(*owned) bool) {
	now := time.Now()
	return func(yield func(*owned) bool) {
		for _, a := range e.procs {
			for id, o := range a.lanes {
				if !e.assigned.has(id) && !now.Before(o.kept) && (!o.lent || len(e.assigned.parts) == 0) && !yield(o) {
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
	e.assigned.released = slices.DeleteFunc(e.assigned.released, func(r released) bool {
		if r.told {
			close(r.c)
		}
		return r.told
	})
}

// untold returns what waits until the others know what this process has.
func (e *Engine) untold() []released {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.assigned == nil {
		return nil
	}
	return slices.Clone(e.assigned.released)
}

// toldAll notes that they know, where these had waited before they were told.
func (e *Engine) toldAll(waited []released) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.assigned == nil {
		return
	}
	for i, r := range e.assigned.released {
		if slices.ContainsFunc(waited, func(x released) bool { return x.c == r.c }) {
			e.assigned.released[i].told = true
		}
	}
	e.checkReleased()
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
