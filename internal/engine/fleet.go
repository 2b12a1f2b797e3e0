package engine

import (
	"encoding/json"
	"maps"
	"slices"
	"time"

	"github.com/fairlead-dev/fairlead/internal/assign"
	"github.com/fairlead-dev/fairlead/internal/mutant"
	"github.com/fairlead-dev/fairlead/store"
)

const (
	unservedAtMost = 500 * time.Millisecond // then a lane without an owner is taken by whoever sees it
	handOverAtMost = 5 * time.Second        // that handlers in progress may take before a lane is handed over without their end
	stopOver       = 300 * time.Millisecond // that a reactor's lane stays where its tenant was, to learn what is in progress there
	handOverAtOnce = 16                     // lanes that a process gives away at a time, so that none waits for many others
	tellAtMost     = time.Second            // that a process which is to end takes to say so
	leaveAtMost    = 5 * time.Second        // that it takes then to give its lanes to the others, a few at a time
	leaveAtLeast   = 4                      // lanes that it gives away at a time, however few the others are
	gatherFor      = time.Millisecond       // that a lane which has ended waits for others, to be given up with them
	acquireAtOnce  = 64                     // lanes acquired in one transaction
	awayAtMost     = 10 * time.Minute       // that a member is away and still the same when it comes back
	costWindow     = 30 * time.Second
	placeSteady    = costWindow / 2 // that a lane must have had another place, because of what lanes cost, before it is moved there
)

// memberNotes are what a process tells the others of itself, with its
// heartbeats: which processors it has, what its lanes cost, which it gave up
// after an error, and its pool.
type memberNotes struct {
	Processors []string `json:"processors"`
	// Versions are those of the processors' code; who is not there has none.
	Versions map[string]string `json:"versions,omitempty"`
	Costs    map[string]int64  `json:"costs,omitempty"` // by lane; those that are not there cost 1
	Refuses  []string          `json:"refuses,omitempty"`
	// Partitions are those that the log's own sharing gave to it.
	Partitions []int  `json:"partitions,omitempty"`
	Pool       string `json:"pool,omitempty"` // of which it works the tenants' lanes; "": all others
	// Leaving means that it is about to end, and gives its lanes to the others:
	// nothing is placed on it any more.
	Leaving bool `json:"leaving,omitempty"`
}

func (n *memberNotes) String() string {
	b, err := json.Marshal(n)
	if err != nil { // there is nothing in it that cannot be JSON
		panic(err)
	}
	return string(b)
}

// notes returns what the other members are to know. It is called with every
// heartbeat, so what a lane costs is an average over some of them.
func (e *Engine) notes(now time.Time) *memberNotes {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := &memberNotes{Processors: []string{}, Costs: map[string]int64{}, Pool: e.cfg.Pool, Leaving: e.leaving}
	for name, a := range e.procs {
		if a.gone {
			continue
		}
		n.Processors = append(n.Processors, name)
		if v := version(a.p); v != "" {
			if n.Versions == nil {
				n.Versions = map[string]string{}
			}
			n.Versions[name] = v
		}
		for id, o := range a.lanes {
			o.class = assign.Class(o.cost(now), o.class)
			if o.class > 1 {
				n.Costs[id.String()] = o.class
			}
		}
	}
	if e.assigned != nil {
		n.Partitions = slices.Sorted(maps.Keys(e.assigned.parts))
	}
	slices.Sort(n.Processors)
	for id, at := range e.failed {
		if now.Sub(at) < retryFailed {
			n.Refuses = append(n.Refuses, id.String())
		} else {
			delete(e.failed, id)
		}
	}
	slices.Sort(n.Refuses)
	return n
}

// cost returns what the lane costs, in processors: a moving average.
func (o *owned) cost(now time.Time) float64 {
	worked := time.Duration(o.runner.report().worked.Load())
	took := now.Sub(o.asked)
	if took <= 0 {
		return o.rate
	}
	rate := float64(worked-o.worked) / float64(took)
	o.rate += (rate - o.rate) * min(1, float64(took)/float64(costWindow))
	o.worked, o.asked = worked, now
	return o.rate
}

// A fleet is what the supervisor remembers of the other members. It is the
// supervisor's alone.
type fleet struct {
	ids      []string                   // alive, as they were seen last
	met      map[string]meeting         // by name; see settled
	changed  time.Time                  // since when they are these
	calm     time.Time                  // when that will have been so for long enough
	unserved map[store.LaneID]time.Time // since when a lane has had no owner
	targets  map[store.LaneID]wantedBy  // of the lanes that this process works
	moving   bool                       // lanes are about to be given to this process
}

// A wantedBy is the member that a lane is placed on, and since when.
type wantedBy struct {
	to    string
	since time.Time
}

// A meeting is when a member of a name was first seen, and when last. One that is
// away for longer than awayAtMost is a new one when it comes.
type meeting struct{ first, last time.Time }

// see notes who is alive. It returns when that will have been so for long enough:
// only then are lanes moved that have an owner. While members come and go, only
// what nobody owns is placed, so that a deployment moves each lane once or twice
// and not once for every step of it. When one has gone it is longer, because it
// may be restarted, and what is placed without it is placed anew when it is back.
func (f *fleet) see(members []store.Member, now time.Time, calm time.Duration) (from time.Time) {
	ids := make([]string, len(members))
	for i := range members {
		ids[i] = members[i].ID
	}
	if f.ids == nil || !slices.Equal(ids, f.ids) {
		wait := calm
		for _, id := range f.ids {
			if !slices.Contains(ids, id) {
				wait = 2 * calm
			}
		}
		f.ids, f.changed, f.calm = ids, now, now.Add(wait)
	}
	return f.calm
}

// meet notes who is there, and who is away and has lanes that belong to it: this one
// may itself have come while that one was away.
func (f *fleet) meet(v *view, now time.Time) {
	met := map[string]meeting{}
	for name, m := range f.met {
		if now.Sub(m.last) < awayAtMost {
			met[name] = m
		}
	}
	see := func(name string) {
		m, known := met[name]
		if !known {
			m.first = now
		}
		met[name] = meeting{m.first, now}
	}
	for _, name := range namesOf(v.members) {
		see(name)
	}
	for _, name := range namesOf(v.staying()) {
		see(name)
	}
	for i := range v.lanes {
		if h := v.lanes[i].Home; h != "" {
			see(h)
		}
	}
	f.met = met
}

// settled returns from when on a lane may be moved to its other place, if that is so
// until then. To the member that it belongs to, or that came after this one had the
// lane, it need not have been so for longer than members must be the same: except that
// a lane which has just come home stays, because who has come may have been away, too.
// Otherwise it is what lanes cost, which is an average over costWindow: while load
// begins or ends, or members come and go, what is told of lanes that cost the same
// differs by half, and each move has the events read again that its owner had before
// it. So a rolling restart, in which the members are the same in the end, moves a lane
// away from its home and back, whatever lanes seem to cost meanwhile.
// A lane that this member took because nobody else did is none that costs move.
func (f *fleet) settled(w wantedBy, l *store.Lane, names map[string]string, o *heldLane, me *self) time.Time {
	name := names[w.to]
	came := w.since.Before(f.calm) && (o.stray && w.since.Sub(o.since) < me.calm || o.since.Before(f.met[name].first)) && (l.Home != names[me.id] || w.since.Sub(o.since) > me.steady)
	if came || name == l.Home {
		return w.since.Add(me.calm)
	}
	since := w.since
	if f.changed.After(since) {
		since = f.changed
	}
	return since.Add(max(me.calm, me.steady))
}

// namesOf returns the names, by id, from which the members' places are derived, and
// by which lanes belong to them. It is one that lasts over a restart, where no other
// member has the same.
func namesOf(members []store.Member) map[string]string {
	names, many := make(map[string]string, len(members)), map[string]int{}
	for i := range members {
		many[members[i].Host]++
	}
	for i := range members {
		m := &members[i]
		if names[m.ID] = m.Host; m.Host == "" || many[m.Host] > 1 {
			names[m.ID] = m.ID
		}
	}
	return names
}

// told returns what the live members have told of themselves, by id.
func (v *view) told() map[string]memberNotes {
	if v.notes == nil {
		v.notes = make(map[string]memberNotes, len(v.members))
		for i := range v.members {
			var n memberNotes
			_ = json.Unmarshal([]byte(v.members[i].Notes), &n) // of a version without notes, or with others: it takes nothing
			v.notes[v.members[i].ID] = n
		}
	}
	return v.notes
}

// PoolOf returns the worker pool of a member, "" for the shared processes.
func PoolOf(m *store.Member) string {
	v := view{members: []store.Member{*m}}
	return v.told()[m.ID].Pool
}

// VersionOf returns which version of a processor's code a member has; false: it does
// not have the processor.
func VersionOf(m *store.Member, processor string) (string, bool) {
	v := view{members: []store.Member{*m}}
	n := v.told()[m.ID]
	return n.Versions[processor], slices.Contains(n.Processors, processor)
}

// staying returns the live members that are not about to end.
func (v *view) staying() []store.Member {
	told := v.told()
	return slices.DeleteFunc(slices.Clone(v.members), func(m store.Member) bool { return told[m.ID].Leaving })
}

// place says who is to work which lane, of all that can be worked: the same in
// every process that sees the same rows. It also returns what lanes cost. Each
// pool's lanes are shared out among its members, those of the tenants in no pool
// and the base lanes among the others. A lane that belongs to one of them, and is with
// another only because that one was away, has its place there.
func place(v *view) (targets map[store.LaneID]string, costs map[string]int64) {
	rows := map[string]*store.Processor{}
	for i := range v.procs {
		rows[v.procs[i].Name] = &v.procs[i]
	}
	told, costs, targets := v.told(), map[string]int64{}, map[store.LaneID]string{}
	members, staying := map[string][]*store.Member{}, v.staying()
	names := namesOf(staying)
	for i := range v.members {
		m := &v.members[i]
		n := told[m.ID]
		for lane, c := range n.Costs {
			costs[lane] = max(costs[lane], c)
		}
		if n.Leaving {
			continue // what its lanes cost counts: they are to be placed
		}
		if mutant.Is(mutant.PoolIgnored) {
			n.Pool = ""
		}
		members[n.Pool] = append(members[n.Pool], m)
	}
	lanes := map[string][]*store.Lane{}
	for i := range v.lanes {
		if l := &v.lanes[i]; workable(rows[l.Processor], l) {
			pool := v.poolOf(l)
			lanes[pool] = append(lanes[pool], l)
		}
	}
	for pool, ms := range members {
		placeAmong(ms, lanes[pool], rows, v.versions(pool), told, names, costs, targets)
	}
	return targets, costs
}

// placeAmong adds to targets who of the members is to work which of the lanes.
func placeAmong(ms []*store.Member, lanes []*store.Lane, rows map[string]*store.Processor, vs versions, told map[string]memberNotes,
	names map[string]string, costs map[string]int64, targets map[store.LaneID]string,
) {
	items := make([]assign.Item, len(lanes))
	for i, l := range lanes {
		key := l.String()
		items[i] = assign.Item{Key: key, Cost: max(1, costs[key])}
	}
	members := make([]assign.Member, len(ms))
	for i, m := range ms {
		n := told[m.ID]
		members[i].Name = names[m.ID]
		members[i].Takes = func(i int) bool {
			l, p := lanes[i], lanes[i].Processor
			return slices.Contains(n.Processors, p) && (!slices.Contains(n.Refuses, items[i].Key) || mutant.Is(mutant.RefusesIgnored)) &&
				vs.suits(rows[p], l, n.Versions[p])
		}
	}
	for i, m := range assign.Targets(members, items) {
		l := lanes[i]
		for k := range members {
			if l.Home == members[k].Name && l.Owner != ms[k].ID && members[k].Takes(i) {
				m = k
			}
		}
		if m != assign.None {
			targets[l.LaneID] = ms[m].ID
		}
	}
}

// workable reports whether a lane of a processor, nil where its row is gone, is
// to be worked by anybody.
func workable(p *store.Processor, l *store.Lane) bool {
	return p != nil && !p.Paused && l.State != store.Paused && l.State != store.Recut && (l.Number == p.Live || l.Number == p.Rebuild)
}
