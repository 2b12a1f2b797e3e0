package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/fairlead-dev/fairlead/internal/assign"
	"github.com/fairlead-dev/fairlead/internal/lane"
	"github.com/fairlead-dev/fairlead/store"
)

// ownerChanged checks what a member's transaction has done to a lane's owner.
func (f *simFleet) ownerChanged(h *simHost, c *ownerChange) {
	a, b, id := &c.after, &c.before, c.after.LaneID
	f.logf("%s: %v: owner %q -> %q, epoch %d -> %d", h.id, id, b.Owner, a.Owner, b.Epoch, a.Epoch)
	if b.Owner != "" && b.Owner != h.id && c.alive {
		f.fail("%s takes lane %v from %s, whose lease has not ended, for %q", h.id, id, b.Owner, a.Owner)
	}
	if a.Owner != "" && a.Owner != h.id && !c.heir {
		f.fail("%s gives lane %v to %s, which is dead", h.id, id, a.Owner)
	}
	if a.Owner == h.id && a.Epoch <= b.Epoch {
		f.fail("%s acquires lane %v under epoch %d, as it was", h.id, id, a.Epoch)
	}
	if a.Owner != "" && a.Owner != h.id && a.Epoch <= b.Epoch {
		f.fail("%s gives lane %v to %s under epoch %d, as it was", h.id, id, a.Owner, a.Epoch)
	}
	if a.Epoch == b.Epoch {
		return
	}
	if a.Epoch <= f.epochs[id] {
		f.fail("%s acquires lane %v under epoch %d, which is not above %d, under which it was acquired before", h.id, id, a.Epoch, f.epochs[id])
	}
	f.epochs[id] = a.Epoch
	m := f.of(h)
	for _, x := range f.members {
		if a.Owner != h.id && x.h != nil && x.h.id == a.Owner { // it is acquired for its heir
			m = x
		}
	}
	if last := f.worker[id]; last != nil && last != m {
		f.moves[id]++
	}
	f.worker[id] = m
}

// memberTakes reports whether a member would work a lane, by what it has told: without
// the code under test.
func memberTakes(m *store.Member, l *store.Lane, pools map[string]string) bool {
	var n struct {
		Processors, Refuses []string
		Pool                string
		Leaving             bool
	}
	if err := json.Unmarshal([]byte(m.Notes), &n); err != nil {
		return false
	}
	pool := ""
	if l.Tenant != "" {
		pool = pools[l.Tenant]
	}
	return !n.Leaving && n.Pool == pool && slices.Contains(n.Processors, l.Processor) && !slices.Contains(n.Refuses, l.String())
}

// decided checks a decision of a member.
func (f *simFleet) decided(m *simMember, v *view, d *decision) {
	ids, stay := []string{}, []string{}
	for _, x := range v.members {
		ids = append(ids, x.ID)
		if !strings.Contains(x.Notes, `"leaving":true`) { // who says that it leaves has gone
			stay = append(stay, x.ID)
		}
	}
	if !slices.Equal(stay, m.saw) {
		m.saw, m.since = stay, time.Now()
	}
	find := func(id store.LaneID) *store.Lane {
		return &v.lanes[slices.IndexFunc(v.lanes, func(l store.Lane) bool { return l.LaneID == id })]
	}
	for _, o := range d.leave {
		l := find(o.id)
		if o.to != "" {
			i := slices.Index(ids, o.to)
			if i < 0 || !memberTakes(&v.members[i], l, v.pools) {
				f.fail("%s gives lane %v to %s, which does not take it", m.h.id, o.id, o.to)
			}
		}
		mine := l.Tenant == "" && m.pool == "" || l.Tenant != "" && v.pools[l.Tenant] == m.pool
		if calm := time.Since(m.since); mine && calm < f.lease/2 {
			f.fail("%s gives lane %v away, %v after members have come or gone", m.h.id, o.id, calm)
		}
	}
	for _, id := range d.start {
		l := find(id)
		pool := ""
		if l.Tenant != "" {
			pool = v.pools[l.Tenant]
		}
		if pool != m.pool && (f.reactors[id.Processor] == nil || !l.UpdatedAt.IsZero()) {
			f.fail("%s of pool %q takes lane %v of pool %q", m.h.id, m.pool, id, pool)
		}
	}
}

// checkBegun checks that no lane is worked twice under one epoch.
func (f *simFleet) checkBegun(m *simMember, row *store.Lane) {
	k := laneEpoch{row.LaneID, row.Epoch}
	if by, ok := f.begun[k]; ok {
		f.fail("%s works lane %v under epoch %d, under which %s has worked it", m.h.id, row.LaneID, row.Epoch, by)
	}
}

// inherit checks to whom a member that leaves gives its lanes.
func (f *simFleet) inherit(m *simMember, v *view, heirs map[store.LaneID]string) {
	for i := range v.lanes {
		l := &v.lanes[i]
		to, ok := heirs[l.LaneID]
		if !ok {
			continue
		}
		j := slices.IndexFunc(v.members, func(x store.Member) bool { return x.ID == to })
		if to == m.h.id || j < 0 || !memberTakes(&v.members[j], l, v.pools) {
			f.fail("%s, which leaves, gives lane %v to %s, which does not take it", m.h.id, l.LaneID, to)
		}
	}
}

// checkEnded checks that in quiet times no lane is lost: it is handed over, in
// good order.
func (f *simFleet) checkEnded(m *simMember, id store.LaneID, x *simHeld) {
	if !f.quiet {
		return
	}
	_ = f.mem.View(context.Background(), func(tx store.Tx) error {
		if l, err := tx.Lane(id); err == nil && l.Owner != "" && l.Owner != m.h.id && (l.Owner != x.to || x.over) {
			f.fail("%s has lost lane %v to %s, and nothing was wrong with it", m.h.id, id, l.Owner)
		}
		return nil
	})
}

// view returns what a member without faults would see.
func (f *simFleet) view() view {
	v, _, err := look(context.Background(), f.mem, "", view{}, true, time.Now(), nil)
	if err != nil {
		panic(err)
	}
	return v
}

// unserved returns why a lane that somebody would work is not worked, by every
// lane for which that is so.
func (f *simFleet) unserved(v *view) map[store.LaneID]string {
	out := map[store.LaneID]string{}
	rows := map[string]*store.Processor{}
	for i := range v.procs {
		rows[v.procs[i].Name] = &v.procs[i]
	}
	for i := range v.lanes {
		l := &v.lanes[i]
		any := slices.ContainsFunc(v.members, func(m store.Member) bool { return memberTakes(&m, l, v.pools) })
		// All members have the same version of the code: none.
		if !workable(rows[l.Processor], l) || !any || !v.versions(v.poolOf(l)).suits(rows[l.Processor], l, "") {
			continue
		}
		why := "nobody has it"
		for _, m := range f.members {
			if m.h == nil || m.h.id != l.Owner {
				continue
			}
			why = fmt.Sprintf("%s has it and does not work it", m.h.id)
			if x := m.lanes[l.LaneID]; x != nil && x.epoch == l.Epoch {
				why = ""
			}
		}
		if why != "" {
			out[l.LaneID] = why + fmt.Sprintf(" (owner %q)", l.Owner)
		}
	}
	return out
}

// pass lets time pass without faults.
func (f *simFleet) pass(d time.Duration) {
	for until := time.Now().Add(d); time.Now().Before(until) && f.bad == nil; {
		f.tick(45 * time.Millisecond)
	}
}

func (f *simFleet) tick(d time.Duration) {
	time.Sleep(d)
	f.n++
	f.gone()
	for _, i := range f.rng.Perm(len(f.members)) {
		m := f.members[i]
		for n := 0; n < 8 && m.act(); n++ {
		}
		if m.h == nil {
			continue
		}
		for _, id := range slices.SortedFunc(maps.Keys(m.lanes), compareLanes) {
			// At rest there is not much to see, but for who is to end.
			for n := 0; m.h != nil && m.lanes[id] != nil; n++ {
				if x := m.lanes[id]; n > 2 || !f.healed && (n > 0 || x.leaving.IsZero() && x.stream == nil && f.n%3 > 0) {
					break
				}
				m.work(id)
			}
		}
		for range min(4, len(m.h.jobs)) {
			m.h.endJob(f.rng.IntN(len(m.h.jobs)))
		}
	}
}

// within lets time pass until ok, at most so long; then it fails with why.
func (f *simFleet) within(d time.Duration, why func() string) {
	until := time.Now().Add(d)
	for f.bad == nil {
		w := why()
		if w == "" {
			return
		}
		if !time.Now().Before(until) {
			f.fail("%v later: %s", d, w)
			return
		}
		f.tick(20 * time.Millisecond)
	}
}

// settle ends the faults, and checks that the fleet comes to rest, on time and
// where it should.
func (f *simFleet) settle() {
	if f.bad != nil {
		return
	}
	f.logf("faults end")
	f.calm = true
	shared := false
	for _, m := range f.members {
		m.frozen = time.Time{}
		if m.h == nil && f.rng.IntN(2) == 0 {
			m.start()
		}
		shared = shared || m.h != nil && m.pool == "" && !m.ending
	}
	for _, m := range f.members {
		if !shared && m.pool == "" && m.h == nil {
			m.start()
			shared = true
		}
	}
	if !shared { // the only one is leaving
		f.members[0].crashNow()
		f.members[0].start()
	}
	f.pass(f.lease + time.Second - 300*time.Millisecond)
	f.within(300*time.Millisecond, func() string {
		v := f.view()
		for id, why := range f.unserved(&v) {
			return fmt.Sprintf("a lease and a second after the faults lane %v is not worked: %s", id, why)
		}
		return ""
	})
	f.quiet = true
	f.pass(simRetry + 2*f.lease)
	for _, m := range f.members {
		if m.h != nil {
			f.restore(m) // until here some had fewer
		}
	}
	f.pass(2 * f.lease)
	f.stays()
}

func (m *simMember) crashNow() {
	if m.h != nil {
		m.h.dead = true
		h := m.h
		m.f.hosts = slices.DeleteFunc(m.f.hosts, func(x *simHost) bool { return x == h })
		m.h = nil
	}
}

// stays waits until no lane comes or goes, checks that each is where it should
// be, and that none moves then.
func (f *simFleet) stays() {
	for try := 0; f.bad == nil; try++ {
		before := f.view()
		f.moves = map[store.LaneID]int{}
		f.pass(3 * f.lease)
		after := f.view()
		if !sameLanes(&before, &after) {
			if try == 12 {
				f.fail("lanes still come and go")
			}
			continue
		}
		if try == 0 || len(f.moves) > 0 && try < 3 {
			f.pass(2 * f.lease) // the last that came or went may have made room
			try = max(try, 1)
			continue
		}
		for id, n := range f.moves {
			f.fail("lane %v has moved %d times in three leases in which nothing happened", id, n)
		}
		f.checkPlaces(&after)
		return
	}
}

// sameLanes reports whether two views have the same lanes, in the same states.
func sameLanes(a, b *view) bool {
	return slices.EqualFunc(a.lanes, b.lanes, func(a, b store.Lane) bool { return a.LaneID == b.LaneID && a.State == b.State })
}

func (f *simFleet) checkPlaces(v *view) {
	for id, why := range f.unserved(v) {
		f.fail("in the end lane %v is not worked: %s", id, why)
	}
	targets, _ := place(v)
	load, total, largest, members := map[string]int64{}, map[string]int64{}, map[string]int64{}, map[string]int64{}
	pools, rows := map[string]string{}, map[string]*store.Processor{} // of members; of processors
	for i := range v.procs {
		rows[v.procs[i].Name] = &v.procs[i]
	}
	for i := range v.members {
		pools[v.members[i].ID] = PoolOf(&v.members[i])
		members[PoolOf(&v.members[i])]++
	}
	for i := range v.lanes {
		l := &v.lanes[i]
		to, ok := targets[l.LaneID]
		j := slices.IndexFunc(v.members, func(m store.Member) bool { return m.ID == l.Owner })
		switch {
		case !ok && workable(rows[l.Processor], l) && j >= 0 && l.Tenant != "" && v.pools[l.Tenant] != pools[l.Owner]:
			f.fail("in the end lane %v of pool %q is with %s of pool %q", l.LaneID, v.pools[l.Tenant], l.Owner, pools[l.Owner])
		case !ok:
			continue
		case l.Owner != to || j < 0 || !memberTakes(&v.members[j], l, v.pools):
			f.fail("in the end lane %v is with %q, and is to be with %s", l.LaneID, l.Owner, to)
		}
		pool := pools[l.Owner]
		load[l.Owner] += f.cost(l.LaneID)
		total[pool] += f.cost(l.LaneID)
		largest[pool] = max(largest[pool], f.cost(l.LaneID))
	}
	for id, pool := range pools {
		share := float64(total[pool]) / float64(members[pool])
		if most := max(share*assign.Slack, share+float64(largest[pool])); float64(load[id]) > most {
			f.fail("%s has %d of %d among %d, want at most %.1f", id, load[id], total[pool], members[pool], most)
		}
	}
}

// restart replaces one process after the other, and checks how often lanes move.
// What lanes cost is told by their owners, so of a process that has left nobody
// knows it for a moment: the bound is for lanes that cost the same.
func (f *simFleet) restart() {
	if len(f.hosts) < 2 {
		return // another one would start in its place, see died
	}
	f.moves = map[store.LaneID]int{}
	before := f.view()
	for _, m := range f.members {
		if m.h == nil || f.bad != nil {
			continue
		}
		id := m.h.id
		f.logf("%s is restarted", id)
		m.leave()
		f.within(time.Second, func() string {
			if m.h != nil && m.h.id == id {
				return id + " has not left"
			}
			return ""
		})
		for _, x := range f.view().members {
			if x.ID == id {
				f.fail("%s has left and is a member all the same", id)
			}
		}
		f.within(200*time.Millisecond, func() string {
			v := f.view()
			for id, why := range f.unserved(&v) {
				return fmt.Sprintf("a process has left, and lane %v is not worked: %s", id, why)
			}
			return ""
		})
		if m.h == nil {
			m.start()
		}
		f.pass(2*f.lease + f.lease/2)
	}
	v := f.view()
	if !sameLanes(&before, &v) {
		return // one more or less to share out
	}
	for id, n := range f.moves {
		if l := slices.IndexFunc(v.lanes, func(l store.Lane) bool { return l.LaneID == id }); n > 2 && l >= 0 && !v.lanes[l].UpdatedAt.IsZero() {
			f.fail("lane %v moved %d times in a rolling restart", id, n)
		}
	}
}

// run takes so many random steps, lets the fleet come to rest, and checks the end.
func (f *simFleet) run(steps int) error {
	for i := 0; i < steps && f.bad == nil; i++ {
		f.step()
		if i%32 == 0 {
			f.check()
		}
	}
	f.settle()
	if f.equal {
		f.restart()
	}
	f.end()
	return f.bad
}

// end is finish, with the supervisors.
func (f *simFleet) end() {
	if f.bad != nil {
		return
	}
	f.logf("finish")
	f.healed = true
	for _, t := range tenants {
		_ = f.clearPool(t)
	}
	rested := 0
	for round := 0; round < 150 && f.bad == nil; round++ {
		f.cancelOthers()
		f.heal(round)
		for _, m := range f.members {
			if m.h != nil {
				m.h.look()
			}
		}
		f.pass(400 * time.Millisecond)
		if rested++; !f.rested() {
			rested = 0
		}
		if rested == 2 {
			f.check()
			f.checkEnd()
			return
		}
	}
	f.fail("not at rest in the end: %s", f.describe())
}

// cancelOthers gives up rebuilds with a version of the code that no member has.
func (f *simFleet) cancelOthers() {
	for _, p := range f.view().procs {
		if p.Rebuild != 0 && p.Builds.Making.Version != "" {
			f.logf("cancel %s: %v", p.Name, lane.CancelRebuild(context.Background(), f.mem, p.Name))
		}
	}
}
