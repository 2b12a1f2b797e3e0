package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"time"

	"github.com/fairlead-dev/fairlead/internal/lane"
	"github.com/fairlead-dev/fairlead/store"
)

// The simulation of the fleet is that of the lanes with supervisors: who works
// which lane is not chance but the decision of each member (decide.go), from the
// rows that it sees, carried out one call of the store at a time. On top of the
// faults there, heartbeats come late or fail, members freeze for longer than their
// lease and go on, are killed, leave and come back under their name, lose and gain
// processors, have clocks of their own, and end lanes with errors; calls are on
// their way for longer than a lease; operators move tenants between pools.
//
// The rows are checked with every transaction, the documents as everywhere in
// the simulation, and the end is held against bounds: see check_fleet_test.go.
type simFleet struct {
	*sim
	lease   time.Duration
	members []*simMember
	bug     fleetBug
	equal   bool // all lanes cost the same; then processes are restarted in the end

	epochs map[store.LaneID]int64      // the highest that was acquired
	worker map[store.LaneID]*simMember // who acquired it last
	moves  map[store.LaneID]int
	begun  map[laneEpoch]string // who worked a lane under an epoch
	quiet  bool                 // faults have been over for a lease and a second
}

// A fleetBug is one of the supervisor's shell, planted in the simulation's.
type fleetBug string

const (
	handsOverBusy fleetBug = "hands a lane over without waiting for the batch in flight"
	ownClock      fleetBug = "judges leases by its own clock"
)

const (
	simLease = time.Second
	simRetry = 2 * time.Second // for retryFailed
)

type laneEpoch struct {
	id    store.LaneID
	epoch int64
}

// A simMember is a process: a host of the simulation with a supervisor.
type simMember struct {
	f     *simFleet
	h     *simHost // nil: it is down
	name  string   // lasts over a restart
	pool  string
	shift time.Duration // of its clock
	procs map[string]*procSelf

	fl     fleet
	w      watch
	lanes  map[store.LaneID]*simHeld
	failed map[store.LaneID]time.Time
	worked map[store.LaneID]int64
	todo   []func() // decided and not yet carried out
	busy   bool     // in a call, and something else happens beside it
	frozen time.Time
	look   time.Time // when its supervisor looks, and its heartbeat is due
	beat   time.Time
	known  []string    // notes that the store may have
	ending bool        // it leaves
	told   bool        // and has said so
	then   func() bool // with its lanes, one group after the other; false: not now

	saw   []string // the members that it has seen, for the checks, and since when
	since time.Time
}

// A simHeld is a lane that a member works.
type simHeld struct {
	heldLane
	batch  *simLane
	stream *simStream
	ended  bool
	over   bool // planted: it was handed over, and goes on
}

func newSimFleet(seed uint64, bug fleetBug) *simFleet {
	f := &simFleet{lease: simLease, bug: bug, epochs: map[store.LaneID]int64{}, worker: map[store.LaneID]*simMember{}, moves: map[store.LaneID]int{}, begun: map[laneEpoch]string{}}
	f.sim = newSimOf(seed, func(s *sim) {
		parts := func() int { return 2 + s.rng.IntN(4) }
		s.add(Processor{Name: "streams", Projection: s.projection("streams", false), Partitions: parts()})
		switch s.rng.IntN(3) {
		case 0:
			s.add(Processor{Name: "docs", Projection: s.projection("docs", s.logParts == 1), Partitions: 2})
		case 1:
			p := Processor{Name: "calls", Types: []string{"added"}, Partitions: 2, Concurrency: 3, Retry: Retry{Attempts: 2}}
			p.React = func(ctx context.Context, d Delivery) error { return s.reactors["calls"].react(ctx, d) }
			s.add(p)
		}
	})
	f.hosts, f.equal = nil, f.rng.IntN(3) == 0
	f.fleet = f
	for i := range 2 + f.rng.IntN(3) {
		m := &simMember{f: f, name: fmt.Sprint("w", i)}
		if m.shift = time.Duration(f.rng.IntN(20_000)-10_000) * time.Millisecond; f.rng.IntN(3) == 0 && i > 0 {
			m.pool = "gold"
		}
		f.members = append(f.members, m)
		m.start()
	}
	return f
}

func (m *simMember) now() time.Time { return time.Now().Add(m.shift) }

// start begins the process.
func (m *simMember) start() {
	m.h = m.f.host(0)
	m.h.id = fmt.Sprintf("%s.%d", m.name, m.f.n)
	m.h.handTo = func(id store.LaneID) (to, home string) {
		if x := m.lanes[id]; x != nil {
			return x.to, x.home
		}
		return "", ""
	}
	m.fl, m.w, m.todo, m.busy, m.ending, m.told, m.frozen, m.known = fleet{}, newWatch(), nil, false, false, false, time.Time{}, nil
	m.lanes, m.failed, m.procs = map[store.LaneID]*simHeld{}, map[store.LaneID]time.Time{}, map[string]*procSelf{}
	m.worked, m.then = map[store.LaneID]int64{}, nil
	m.w.worked = func(id store.LaneID) int64 { return m.worked[id] }
	for _, p := range m.f.procs {
		m.procs[p.Name] = &procSelf{}
	}
	m.beat, m.look = time.Now(), time.Now().Add(time.Millisecond)
	m.f.hosts = append(m.f.hosts, m.h)
	m.f.logf("%s starts in pool %q, its clock at %v", m.h.id, m.pool, m.shift)
}

// died is told that a host has crashed.
func (f *simFleet) died(h *simHost) {
	f.hosts = slices.DeleteFunc(f.hosts, func(x *simHost) bool { return x == h })
	for _, m := range f.members {
		if m.h == h {
			m.h = nil
		}
	}
	if len(f.hosts) == 0 { // operate wants one to look at
		f.members[f.rng.IntN(len(f.members))].start()
	}
}

// notes are what Engine.notes tells.
func (m *simMember) notes() string {
	n := &memberNotes{Processors: []string{}, Costs: map[string]int64{}, Pool: m.pool, Leaving: m.told}
	for name, p := range m.procs {
		if !p.gone {
			n.Processors = append(n.Processors, name)
		}
	}
	slices.Sort(n.Processors)
	for id := range m.lanes {
		if c := m.f.cost(id); c > 1 {
			n.Costs[id.String()] = c
		}
	}
	for id, at := range m.failed {
		if m.now().Sub(at) < simRetry {
			n.Refuses = append(n.Refuses, id.String())
		}
	}
	slices.Sort(n.Refuses)
	return n.String()
}

// cost is what a lane costs, for good.
func (f *simFleet) cost(id store.LaneID) int64 {
	if f.equal {
		return 1
	}
	h := fnv.New32a()
	_, _ = h.Write([]byte(id.String()))
	return 1 << (h.Sum32() % 4)
}

// call runs a call of the store, beside which the member does nothing else of
// its supervisor's.
func (m *simMember) call(f func() error) {
	h := m.h
	m.busy = true
	err := f()
	if m.h == h {
		m.busy = false
	}
	if err != nil {
		m.f.logf("%s: %v", h.id, err)
	}
}

// act does what is due; false: nothing is.
func (m *simMember) act() bool {
	h, now := m.h, time.Now()
	if h == nil || m.busy || now.Before(m.frozen) {
		return false
	}
	ctx := context.Background()
	switch {
	case !now.Before(m.beat) && (!m.ending || len(m.lanes) > 0):
		m.beat = now.Add(m.f.lease / 3)
		m.call(func() error {
			notes := m.notes()
			has, kept, err := lane.Keep(ctx, h.st, h.id, m.f.lease, m.known...)
			if err != nil || kept && has == notes {
				return err
			}
			return m.join(ctx, h, notes)
		})
	case m.then != nil && m.then():
	case len(m.todo) > 0:
		do := m.todo[0]
		m.todo = m.todo[1:]
		do()
	case m.ending && len(m.todo) == 0 && len(m.lanes) == 0:
		m.call(func() error { return lane.Leave(ctx, h.st, h.id) })
		if m.h == h {
			h.dead = true
			m.f.died(h)
			m.f.logf("%s has left", h.id)
		}
	case !now.Before(m.look) && !m.ending:
		m.look = now.Add(lookEvery)
		rev, err := h.st.Revision(ctx)
		if m.w.latest = rev; err == nil && m.w.due(m.now(), lookEvery) {
			m.call(func() error { return m.decide(ctx) })
		}
	default:
		return false
	}
	return true
}

func (m *simMember) decide(ctx context.Context) error {
	h, now := m.h, m.now()
	same, err := m.w.look(ctx, &fleetView{h.st, m}, h.id, now)
	if err != nil || same || m.h != h {
		return err
	}
	now = m.now()
	me := &self{id: h.id, pool: m.pool, calm: m.f.lease / 2, steady: m.f.lease, retry: simRetry, procs: map[string]procSelf{}, failed: m.failed, worked: m.worked}
	for name, p := range m.procs {
		me.procs[name] = *p
	}
	for _, x := range m.lanes {
		if !x.leaving.IsZero() {
			me.leaving++
		}
	}
	me.lane = func(id store.LaneID) *heldLane {
		if x := m.lanes[id]; x != nil {
			return &x.heldLane
		}
		return nil
	}
	d := m.fl.decide(&m.w.v, now, me)
	m.w.again = d.due
	m.f.decided(m, &m.w.v, &d)
	for _, row := range d.take {
		m.begin(row)
		first := m.w.v.first(&row)
		if x := m.lanes[row.LaneID]; x.stream != nil {
			x.stream.r.first = first
		} else {
			x.batch.l.first = first
		}
	}
	if len(d.take) > 0 {
		m.beat = time.Now() // what lanes cost, see Engine.assign
	}
	for _, l := range d.held {
		x := m.lanes[l.LaneID]
		switch {
		case x.stream != nil && l.Epoch != x.epoch:
			x.stream.r.reread(lost)
		case x.stream != nil:
			x.stream.r.reread(l.Revision)
		case l.Epoch != x.epoch || l.Revision != x.batch.l.row.Revision:
			x.batch.again = true
		}
	}
	for _, o := range d.leave {
		x := m.lanes[o.id]
		x.leaving, x.to, x.home = now, o.to, o.home
		if x.stream != nil {
			x.stream.r.retire()
		}
		if m.f.bug == handsOverBusy {
			x.over = true
			m.todo = append(m.todo, func() {
				m.call(func() error {
					return lane.HandOver(ctx, h.st, h.id, lane.Given{ID: o.id, Epoch: x.epoch, To: o.to, Home: o.home})
				})
			})
		}
	}
	for _, id := range d.rest {
		m.lanes[id].leaving = now
	}
	for _, p := range m.w.v.procs {
		if a, _ := h.e.processor(p.Name); a != nil && m.procs[p.Name] != nil && m.pool == "" && p.Rebuild != 0 && !p.Builds.Making.Claimed {
			m.todo = append(m.todo, func() {
				m.call(func() error { h.e.begin(ctx, a, &p, m.w.v.versions("")); m.w.must = true; return nil })
			})
		}
	}
	if slices.ContainsFunc(m.w.v.lanes, func(l store.Lane) bool { return l.Want != 0 }) {
		m.w.again = earlier(m.w.again, now.Add(recutEvery))
		m.todo = append(m.todo, func() { m.call(func() error { h.recut(); return nil }) })
	}
	for _, id := range d.late {
		if x := m.lanes[id]; x.stream != nil {
			x.stream.cancel()
		}
	}
	for _, l := range d.back {
		m.todo = append(m.todo, func() {
			m.call(func() error { return m.again(lane.Release(ctx, h.st, l.LaneID, h.id, l.Epoch)) })
		})
	}
	for ids := range slices.Chunk(d.start, acquireAtOnce) {
		m.todo = append(m.todo, func() { m.call(func() error { return m.again(m.acquire(ctx, ids)) }) })
	}
	return nil
}

// again looks again soon if a call failed, as Engine.assign does.
func (m *simMember) again(err error) error {
	if err != nil {
		m.w.again = earlier(m.w.again, m.now().Add(startAgain))
	}
	return err
}

// acquire is Engine.start.
func (m *simMember) acquire(ctx context.Context, ids []store.LaneID) error {
	h := m.h
	rows, err := lane.AcquireAll(ctx, h.st, ids, h.id, func(store.LaneID, error) error { return nil })
	if err != nil || m.h != h {
		return err
	}
	for _, row := range rows {
		m.f.logf("%s has %v under epoch %d", h.id, row.LaneID, row.Epoch)
		p := m.procs[row.Processor]
		if p == nil || p.gone {
			m.todo = append(m.todo, func() {
				m.call(func() error { return lane.Release(ctx, h.st, row.LaneID, h.id, row.Epoch) })
			})
			continue
		}
		m.begin(row)
	}
	m.beat = time.Now() // what lanes cost, see Engine.start
	return nil
}

// begin is Engine.work.
func (m *simMember) begin(row store.Lane) {
	h := m.h
	delete(m.failed, row.LaneID)
	m.worked[row.LaneID] = row.Epoch
	m.f.checkBegun(m, &row)
	m.f.begun[laneEpoch{row.LaneID, row.Epoch}] = h.id
	x := &simHeld{heldLane: heldLane{epoch: row.Epoch, since: m.now()}}
	m.lanes[row.LaneID] = x
	i := slices.IndexFunc(m.f.procs, func(p *Processor) bool { return p.Name == row.Processor })
	if m.f.procs[i].React != nil {
		h.startStream(m.f.procs[i], row)
		x.stream = h.streams[len(h.streams)-1]
	} else {
		h.startLane(m.f.procs[i], row)
		x.batch = h.lanes[len(h.lanes)-1]
	}
}

// work does the next thing of a lane.
func (m *simMember) work(id store.LaneID) {
	h, x := m.h, m.lanes[id]
	if x == nil || x.ended || time.Now().Before(m.frozen) {
		return
	}
	switch {
	case x.stream != nil:
		x.stream.step()
		m.reap(h, id, x, !slices.Contains(h.streams, x.stream))
	case x.batch.busy:
	case !x.leaving.IsZero() && !x.over:
		m.end(id, x, nil)
	case m.f.chance(400):
		m.end(id, x, errInjected)
	default:
		h.step(x.batch)
		m.reap(h, id, x, x.batch.gone)
	}
}

func (m *simMember) reap(h *simHost, id store.LaneID, x *simHeld, gone bool) {
	if gone && m.h == h && m.lanes[id] == x {
		x.ended = true
		delete(m.lanes, id)
		m.f.checkEnded(m, id, x)
		m.w.must = true // Engine.wake
	}
}

// end is the end of a projection's lane that was told to: the commit in flight is
// waited for, and the row goes to whom it was promised.
func (m *simMember) end(id store.LaneID, x *simHeld, failed error) {
	h, ctx := m.h, context.Background()
	x.ended, x.batch.busy, x.batch.gone = true, true, true
	if b := x.batch.pending; b != nil {
		_ = x.batch.l.commit(ctx, b)
	}
	if m.h != h {
		return
	}
	h.lanes = slices.DeleteFunc(h.lanes, func(y *simLane) bool { return y == x.batch })
	m.f.logf("%s ends %v for %q: %v", h.id, id, x.to, failed)
	err := lane.HandOver(ctx, h.st, h.id, lane.Given{ID: id, Epoch: x.epoch, To: x.to, Home: x.home})
	if m.h != h {
		return
	}
	if err != nil {
		m.f.logf("%s: %v was not released: %v", h.id, id, err)
	}
	delete(m.lanes, id)
	if failed != nil {
		m.failed[id] = m.now()
		m.beat = time.Now()
	}
	m.w.must = true
}

// remove is Engine.Remove.
func (m *simMember) remove(name string) {
	m.procs[name].gone = true
	m.beat = time.Now()
	m.stop(name)
}

// join is Engine.join.
func (m *simMember) join(ctx context.Context, h *simHost, notes string) error {
	m.known = append(m.known[:min(len(m.known), 2)], notes)
	err := lane.Join(ctx, h.st, store.Member{ID: h.id, Host: m.name, Notes: notes}, m.f.lease)
	if err == nil {
		m.known = []string{notes}
	}
	return err
}

// leave is the end of Engine.Run, with Engine.handAll: where a call fails the lanes
// are just given up.
func (m *simMember) leave() {
	m.ending, m.told, m.todo = true, true, nil
	ctx, h := context.Background(), m.h
	m.todo = append(m.todo, func() {
		m.call(func() error {
			err := m.join(ctx, h, m.notes())
			var v view
			if err == nil && m.h == h {
				v, _, err = look(ctx, &fleetView{h.st, m}, h.id, view{}, true, m.now(), nil)
			}
			if err != nil || m.h != h {
				m.stop("")
				return err
			}
			heirs := v.heirs(h.id)
			homes := v.homes(h.id, heirs)
			m.f.inherit(m, &v, heirs)
			groups := handOverOrder(slices.SortedFunc(maps.Keys(m.lanes), compareLanes), heirs, func(p string) bool { return m.f.reactors[p] != nil })
			n := 0 // groups that are to go, of which the last is going
			m.then = func() bool {
				if n > 0 && slices.ContainsFunc(groups[n-1], func(id store.LaneID) bool { return m.lanes[id] != nil }) {
					return false
				}
				if n == len(groups) {
					m.then = nil
					m.stop("") // what came meanwhile
					return false
				}
				m.handOver(groups[n], heirs, homes)
				n++
				return true
			}
			return nil
		})
	})
}

// handOver is Engine.endLanes.
func (m *simMember) handOver(ids []store.LaneID, heirs, homes map[store.LaneID]string) {
	for _, id := range ids {
		x := m.lanes[id]
		if x == nil {
			continue
		}
		if x.to, x.home = heirs[id], homes[id]; x.leaving.IsZero() {
			x.leaving = m.now()
		}
		if x.stream != nil {
			x.stream.cancel()
		}
	}
}

// stop ends the lanes of a processor, or of all.
func (m *simMember) stop(name string) {
	for id, x := range m.lanes {
		if name != "" && id.Processor != name {
			continue
		}
		if x.to, x.home = "", ""; x.leaving.IsZero() {
			x.leaving = m.now()
		}
		if x.stream != nil {
			x.stream.cancel()
		}
	}
}

// step lets some time pass and something happen.
func (f *simFleet) step() {
	time.Sleep(time.Millisecond + time.Duration(f.rng.IntN(30))*time.Millisecond)
	if f.inside {
		f.turn(1)
		return
	}
	switch n := f.rng.IntN(100); {
	case n < 8:
		f.append()
	case n < 11:
		f.operate()
	case n < 13:
		f.movePool()
	case n < 16:
		f.disturb()
	}
	f.turn(2)
}

// turn lets every member do something, in any order.
func (f *simFleet) turn(lanes int) {
	for _, i := range f.rng.Perm(len(f.members)) {
		m := f.members[i]
		if m.h == nil || f.chance(4) {
			continue
		}
		m.act()
		f.workSome(m, lanes)
	}
}

func (f *simFleet) workSome(m *simMember, n int) {
	if m.h == nil {
		return
	}
	ids := slices.SortedFunc(maps.Keys(m.lanes), compareLanes)
	for range min(n, len(ids)) {
		if m.h != nil {
			m.work(ids[f.rng.IntN(len(ids))])
		}
	}
	if m.h != nil && len(m.h.jobs) > 0 && !time.Now().Before(m.frozen) {
		m.h.endJob(f.rng.IntN(len(m.h.jobs)))
	}
	if m.h != nil && f.rng.IntN(4) == 0 {
		m.h.look()
	}
}

func compareLanes(a, b store.LaneID) int {
	return cmp.Or(cmp.Compare(a.Processor, b.Processor), cmp.Compare(a.Number, b.Number), cmp.Compare(a.Partition, b.Partition), cmp.Compare(a.Tenant, b.Tenant))
}

// late lets a call be on its way for longer than a lease, now and then.
func (f *simFleet) late() {
	if f.inside || !f.chance(250) {
		return
	}
	f.inside = true
	defer func() { f.inside = false }()
	until := time.Now().Add(time.Duration(f.rng.Int64N(int64(2 * f.lease))))
	f.logf("a call takes until %v", until.Format("05.000"))
	for time.Now().Before(until) && f.bad == nil {
		time.Sleep(20 * time.Millisecond)
		f.step()
	}
}

// movePool is an operator's.
func (f *simFleet) movePool() {
	ctx, t := context.Background(), tenants[f.rng.IntN(len(tenants))]
	var err error
	what := "pool set"
	if f.rng.IntN(2) == 0 {
		_, err = lane.SetPool(ctx, f.mem, t, "gold")
	} else {
		what, err = "pool clear", f.clearPool(t)
	}
	f.logf("%s %s: %v", what, t, err)
	if err != nil && !errors.Is(err, lane.ErrUnknown) && !errors.Is(err, lane.ErrState) { // partitions are to be merged
		f.fail("%s: %v", what, err)
	}
}

// clearPool gives a tenant back, and with it what was pinned before.
func (f *simFleet) clearPool(tenant string) error {
	err := lane.ClearPool(context.Background(), f.mem, tenant)
	for k, stop := range f.stopped {
		if k.tenant == tenant && err == nil {
			if l := f.lanesOf(k.processor)[k]; !l.Pinned {
				stop.pinned = false
				f.stopped[k] = stop
			}
		}
	}
	return err
}

// disturb does something to a member.
func (f *simFleet) disturb() {
	m := f.members[f.rng.IntN(len(f.members))]
	if m.h == nil {
		m.start()
		return
	}
	p := f.procs[f.rng.IntN(len(f.procs))].Name
	switch f.rng.IntN(8) {
	case 0:
		f.crash(m.h)
	case 1:
		if len(f.hosts) > 1 && !m.ending {
			f.logf("%s leaves", m.h.id)
			m.leave()
		}
	case 2, 3:
		m.frozen = time.Now().Add(time.Duration(f.rng.Int64N(int64(3 * f.lease))))
		f.logf("%s freezes until %v", m.h.id, m.frozen.Format("05.000"))
	case 4:
		m.beat = m.beat.Add(time.Duration(f.rng.Int64N(int64(f.lease)))) // the next heartbeat is late
	case 5, 6:
		if m.procs[p] != nil && !m.procs[p].gone && !m.ending {
			f.logf("%s removes %s", m.h.id, p)
			m.remove(p)
		}
	case 7:
		f.restore(m)
	}
	f.gone()
}

// gone forgets processors that were removed and have no lane any more.
func (f *simFleet) gone() {
	for _, m := range f.members {
		for name, p := range m.procs {
			if p.gone && !slices.ContainsFunc(slices.Collect(maps.Keys(m.lanes)), func(id store.LaneID) bool { return id.Processor == name }) {
				delete(m.procs, name)
			}
		}
	}
}

// restore adds the processors that a member has removed.
func (f *simFleet) restore(m *simMember) {
	f.gone()
	for _, p := range f.procs {
		if m.procs[p.Name] == nil {
			m.procs[p.Name] = &procSelf{}
			m.beat, m.w.must = time.Now(), true
			f.logf("%s adds %s", m.name, p.Name)
		}
	}
}

// fleetTx is a member's transaction; its writes of lanes are noted.
type fleetTx struct {
	store.Tx
	shift time.Duration // planted
	notes []ownerChange
}

// An ownerChange is what a transaction did to a lane's owner or epoch.
type ownerChange struct {
	before, after store.Lane
	alive         bool // the owner before
	heir          bool // the owner after
}

func (tx *fleetTx) Now() time.Time { return tx.Tx.Now().Add(tx.shift) }

func (tx *fleetTx) PutLane(l store.Lane) error {
	before, err := tx.Lane(l.LaneID)
	if err == nil && (before.Owner != l.Owner || before.Epoch != l.Epoch) {
		alive, err := lane.Alive(tx.Tx)
		if err != nil {
			return err
		}
		tx.notes = append(tx.notes, ownerChange{before, l, alive[before.Owner], alive[l.Owner]})
	}
	return tx.Tx.PutLane(l)
}

// update is a member's Update.
func (f *simFleet) update(ctx context.Context, s *simStore, fn func(store.Tx) error) error {
	var tx *fleetTx
	err := s.Store.Update(ctx, func(inner store.Tx) error {
		tx = &fleetTx{Tx: inner}
		if f.bug == ownClock {
			tx.shift = f.of(s.h).shift
		}
		return fn(tx)
	})
	if err == nil {
		for _, c := range tx.notes {
			f.ownerChanged(s.h, &c)
		}
	}
	return err
}

// fleetView is a member's way to look.
type fleetView struct {
	store.Store
	m *simMember
}

func (s *fleetView) View(ctx context.Context, fn func(store.Tx) error) error {
	return s.Store.View(ctx, func(tx store.Tx) error {
		if s.m.f.bug == ownClock {
			return fn(&fleetTx{Tx: tx, shift: s.m.shift})
		}
		return fn(tx)
	})
}

// of returns the member of a host, also of one that has just died.
func (f *simFleet) of(h *simHost) *simMember {
	for _, m := range f.members {
		if m.h == h {
			return m
		}
	}
	return &simMember{f: f, name: h.id}
}
