package engine

import (
	"fmt"
	"time"

	"github.com/fairlead-dev/fairlead/internal/lane"
	"github.com/fairlead-dev/fairlead/internal/mutant"
	"github.com/fairlead-dev/fairlead/store"
)

// What a member of the fleet does about the lanes that it sees is decided here:
// a view of the rows and a time go in, actions come out. There is no clock, lock,
// goroutine or store in it. The supervisor carries the actions out, and so does
// the simulation.

// A self is what a member knows of itself when it decides.
type self struct {
	id, pool string
	calm     time.Duration // that members must have been the same before lanes are moved
	steady   time.Duration // that a lane must have had another place before it is moved there, where the members are not the reason
	retry    time.Duration // before a lane that ended with an error is tried again
	procs    map[string]procSelf
	lane     func(store.LaneID) *heldLane // that it works; nil: it does not
	leaving  int                          // lanes that are being given away
	worked   map[store.LaneID]int64       // the last epoch under which it worked a lane
	failed   map[store.LaneID]time.Time   // lanes that ended with an error here, and when
	assigned *assigned                    // by the log's own sharing; nil: there is none
}

// A procSelf is a processor that the member has.
type procSelf struct {
	gone    bool   // being removed
	version string // of its code
}

// A heldLane is a lane that the member works.
type heldLane struct {
	epoch   int64
	since   time.Time // when it was acquired
	leaving time.Time // since when it is being given to another process; zero: it is not
	to      string    // which one; "": whoever wants it
	kept    time.Time // until when it is worked although its partition is not this member's, if nobody says that it is its own; zero: it is
	home    string    // see [lane.Given]
	stray   bool      // it had its place elsewhere when it was acquired, and nobody worked it
}

// A decision is what a member is to do now.
type decision struct {
	start []store.LaneID        // acquire and work these
	force map[store.LaneID]bool // of them, those that may be taken from a live owner
	lent  map[store.LaneID]bool // of them, those whose partition is another member's
	stray map[store.LaneID]bool // of them, those that have their place elsewhere
	take  []store.Lane          // work these: they were handed to this member, and so acquired for it
	back  []store.Lane          // its own by the rows, but not worked: give them back
	leave []handOver            // give these away, when what they have in hand is done
	rest  []store.LaneID        // these end by themselves for a split or merge; their handlers have so long
	late  []store.LaneID        // of those that are to end: end the contexts of their handlers
	held  []store.Lane          // the rows of the lanes that it works
	other []store.LaneID        // another member works them
	// moving means that the log's own sharing has given to this member what another is about to give.
	moving bool
	costs  map[string]int64

	// unowned are the lanes of its processors that should be worked and that
	// nobody has, with the reason if it is that nobody may.
	unowned map[store.LaneID]error

	due time.Time // when to decide again although no row has changed; zero: no hurry
}

// A handOver is a lane that is to go to another member, or ("") to whoever takes it.
type handOver struct {
	id   store.LaneID
	to   string
	home string // see [lane.Given]
}

func (d *decision) again(at time.Time) {
	if d.due.IsZero() || at.Before(d.due) {
		d.due = at
	}
}

// decide says what is to be done about the lanes in v.
func (f *fleet) decide(v *view, now time.Time, me *self) (d decision) {
	rows, alive, owners := map[string]*store.Processor{}, map[string]bool{}, map[store.LaneID]string{}
	for i := range v.procs {
		rows[v.procs[i].Name] = &v.procs[i]
	}
	for _, m := range v.members {
		alive[m.ID] = true
	}
	for i := range v.lanes {
		if l := &v.lanes[i]; alive[l.Owner] {
			owners[l.LaneID] = l.Owner
		}
	}
	f.meet(v, now)
	from := f.see(v.staying(), now, me.calm)
	calm := !now.Before(from) && alive[me.id] || mutant.Is(mutant.MovesAnyTime)
	if len(v.members) > 1 && !calm && alive[me.id] { // else: when it is alive again, which is a change
		d.again(from)
	}
	f.moving = false
	var targets map[store.LaneID]string
	targets, d.costs = place(v)
	names := namesOf(v.staying())
	d.unowned = map[store.LaneID]error{}
	unserved, targeted := map[store.LaneID]time.Time{}, map[store.LaneID]wantedBy{}
	vs, leaving := v.versions(me.pool), me.leaving
	for i := range v.lanes {
		l := &v.lanes[i]
		p, ok := me.procs[l.Processor]
		o := me.lane(l.LaneID)
		owner := owners[l.LaneID]
		if !ok || p.gone && o == nil {
			if owner == me.id && !mutant.Is(mutant.BackForgotten) { // it was handed over when this process had the processor
				d.back = append(d.back, *l)
			}
			continue
		}
		if p.gone {
			continue
		}
		target, placed := targets[l.LaneID]
		pool := v.poolOf(l)
		mine := pool == me.pool
		if o != nil {
			d.held = append(d.held, *l)
			// What lanes cost is told now and then, and not by all at once. While it
			// changes, a target may be another one for a moment.
			wanted := f.targets[l.LaneID]
			if wanted.to != target {
				wanted = wantedBy{target, now}
			}
			targeted[l.LaneID] = wanted
			switch {
			case l.State == store.Recut && o.leaving.IsZero():
				d.rest = append(d.rest, l.LaneID)
				d.again(now.Add(handOverAtMost))
			case !o.leaving.IsZero():
				if late := o.leaving.Add(handOverAtMost); now.Before(late) {
					d.again(late)
				} else {
					d.late = append(d.late, l.LaneID)
				}
			case me.shared(pool) != nil:
				heir := me.assigned.lends(v, vs, rows[l.Processor], l)
				to := me.assigned.next(v, l, heir, me.id)
				switch {
				case me.assigned.works(l.LaneID, heir, me.id):
				case to == "" && now.Before(o.kept): // it is nobody's yet
					d.again(o.kept)
				default:
					d.leave = append(d.leave, handOver{id: l.LaneID, to: to})
					d.again(now.Add(handOverAtMost))
				}
			case mine && (!placed || target == me.id || !calm):
			case mine && now.Sub(o.since) < me.calm && !mutant.Is(mutant.MovesAnyTime):
				d.again(o.since.Add(me.calm))
			case mine && now.Before(f.settled(wanted, l, names, o, me)) && !mutant.Is(mutant.MovesAnyTime):
				d.again(f.settled(wanted, l, names, o, me))
			case !mine && untouched(rows[l.Processor], l) && now.Sub(o.since) < stopOver:
				d.again(o.since.Add(stopOver))
			case leaving < handOverAtOnce: // the others, as soon as these have gone
				// A lane that is not its own to work goes at once, also in
				// unstable times, and to nobody if nobody of its pool lives.
				h := handOver{l.LaneID, target, lane.NoHome}
				if names[target] == l.Home {
					h.home = l.Home
				}
				d.leave = append(d.leave, h)
				leaving++
				d.again(now.Add(handOverAtMost))
			}
			continue
		}
		switch {
		case !workable(rows[l.Processor], l):
			// It was handed over, and then paused or is to be cut: whoever waits for it to
			// be at rest must not wait for this member's end.
			if owner == me.id {
				d.back = append(d.back, *l)
			}
			continue
		case mine && !vs.suits(rows[l.Processor], l, p.version): // it is for another version of the code
			if owner == "" || owner == me.id {
				d.unowned[l.LaneID] = nil
			}
			if owner == me.id {
				d.back = append(d.back, *l)
			}
			continue
		case now.Sub(me.failed[l.LaneID]) < me.retry:
			d.again(me.failed[l.LaneID].Add(me.retry))
			if owner == "" || owner == me.id {
				d.unowned[l.LaneID] = nil
			}
			if owner == me.id { // who handed it over did not know that yet
				d.back = append(d.back, *l)
			}
			continue
		case me.shared(pool) != nil:
			d.takeGiven(v, l, me.assigned, owner, me.assigned.lends(v, vs, rows[l.Processor], l), me, now)
			continue
		case owner == me.id && mine: // it was handed over to this process
			switch {
			case mutant.Is(mutant.HandedIgnored):
			case l.Epoch > me.worked[l.LaneID] || mutant.Is(mutant.TakenTwice):
				d.take = append(d.take, *l)
				d.again(now.Add(me.calm)) // no row changes by it, and it may have another place since
			default: // it was to be given up, and that failed: what is in flight must not count
				d.start = append(d.start, l.LaneID)
			}
			continue
		case owner == me.id: // and went to another pool since
			d.back = append(d.back, *l)
			continue
		case owner != "":
			d.other = append(d.other, l.LaneID)
			// It may be about to be given away: soon, unless it is for what lanes cost.
			n := v.told()[owner]
			soon := calm && (l.Home == names[me.id] || now.Sub(f.changed) < 3*me.calm)
			f.moving = f.moving || target == me.id && (soon || n.Pool != pool || n.Leaving)
			continue
		}
		// A tenant that has just left its base lane is first of all the business
		// of the process in which events of it may still be in progress: of
		// another pool only if they are a reactor's, and to be handed over at once.
		if base := owners[l.Base()]; l.Tenant != "" && base != "" && (pool == "" || placed && untouched(rows[l.Processor], l)) {
			target = base
		}
		since, known := f.unserved[l.LaneID]
		if !known {
			since = now
		}
		switch {
		case target == me.id, mine && now.Sub(since) >= unservedAtMost:
			d.start = append(d.start, l.LaneID)
			if target != me.id {
				if d.stray == nil {
					d.stray = map[store.LaneID]bool{}
				}
				d.stray[l.LaneID] = true
			}
			continue
		case !placed:
			d.unowned[l.LaneID] = v.nobody(l, pool)
		default:
			d.unowned[l.LaneID] = nil
		}
		if unserved[l.LaneID] = since; mine {
			d.again(since.Add(unservedAtMost))
		}
	}
	f.unserved, f.targets = unserved, targeted
	f.moving = f.moving || d.moving
	return d
}

// untouched reports whether a lane is a reactor's, and has not committed yet. So
// the tenant may have left its base lane just now.
func untouched(p *store.Processor, l *store.Lane) bool {
	return p.Kind == KindReactor && l.UpdatedAt.IsZero()
}

// poolOf returns the pool whose members work a lane, "" for the shared processes.
func (v *view) poolOf(l *store.Lane) string {
	if l.Tenant == "" || mutant.Is(mutant.PoolIgnored) {
		return ""
	}
	return v.pools[l.Tenant]
}

// nobody returns why no member takes a lane, nil if that is not the pools' doing.
func (v *view) nobody(l *store.Lane, pool string) error {
	if pool != "" {
		return fmt.Errorf("lane %v: tenant %q is given to the pool %q, of which no live process takes the lane: "+
			"start one that has processor %q in that pool, or clear the tenant's pool", l.LaneID, l.Tenant, pool, l.Processor)
	}
	for _, n := range v.told() {
		if n.Pool == "" && !n.Leaving {
			return nil
		}
	}
	if len(v.members) == 0 {
		return nil
	}
	return fmt.Errorf("lane %v: all live processes belong to pools: start one without a pool that has processor %q", l.LaneID, l.Processor)
}
