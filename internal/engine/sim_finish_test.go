package engine

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/fairlead-dev/fairlead/internal/lane"
	"github.com/fairlead-dev/fairlead/store"
)

// finish ends all faults, undoes what operators stopped, and lets everything
// come to rest.
func (s *sim) finish() {
	if s.bad != nil {
		return
	}
	s.logf("finish")
	s.calm, s.healed = true, true
	for i := range s.hosts {
		s.hosts[i].dead = true
		s.hosts[i] = s.host(i)
	}
	time.Sleep(time.Hour)
	rested := 0
	for round := 0; round < 400 && s.bad == nil; round++ {
		s.heal(round)
		h := s.hosts[0]
		s.acquire(h)
		h.look()
		h.recut()
		for range 40 {
			time.Sleep(5 * time.Millisecond)
			for _, x := range slices.Clone(h.lanes) {
				h.step(x)
			}
			for _, x := range slices.Clone(h.streams) {
				for range 4 {
					x.step()
				}
			}
			if n := len(h.jobs); n > 0 {
				h.endJob(s.rng.IntN(n))
			}
		}
		// Twice, because by the rows all is done before the lanes know it.
		if rested++; !s.rested() {
			rested = 0
		}
		if rested == 2 {
			s.check()
			s.checkEnd()
			return
		}
	}
	s.fail("not at rest in the end: %s", s.describe())
}

// heal lets go on what operators or policies stopped. What it does disturbs who
// is at work, so it does only what is needed.
func (s *sim) heal(round int) {
	ctx := context.Background()
	for _, p := range s.procs {
		var row store.Processor
		var lanes []store.Lane
		_ = s.mem.View(ctx, func(tx store.Tx) (err error) {
			if row, err = tx.Processor(p.Name); err == nil {
				lanes, err = tx.Lanes(p.Name)
			}
			return err
		})
		if row.Paused || slices.ContainsFunc(lanes, func(l store.Lane) bool { return l.Tenant == "" && l.State == store.Paused }) {
			_ = lane.PauseProcessor(ctx, s.mem, p.Name, false)
		}
		for _, t := range tenants {
			if p.React == nil || slices.ContainsFunc(lanes, func(l store.Lane) bool { return l.Tenant == t && l.State == store.Paused }) {
				_ = s.free(p.Name, t, lane.Resume)
			}
			if round%5 == 0 {
				_ = s.free(p.Name, t, lane.Unpin)
			}
		}
		if p.React == nil || slices.ContainsFunc(s.letters(p.Name), func(d store.DeadLetter) bool { return d.State != store.Skipped && !d.Retry }) {
			_, _ = lane.RetryKey(ctx, s.mem, p.Name, "", "")
		}
		if round > 20 {
			_ = lane.Approve(ctx, s.mem, p.Name)
			_ = s.trySwitch(p.Name)
		}
		if round == 0 && s.rng.IntN(2) == 0 {
			s.logf("%s goes back in the end: %v", p.Name, s.back(p.Name))
		}
	}
}

// rested reports whether every lane has come to the end of the log, with no
// tenant outside, no rebuild under way and no key parked.
func (s *sim) rested() bool { return s.describe() == "" }

func (s *sim) describe() (why string) {
	_ = s.mem.View(context.Background(), func(tx store.Tx) error {
		lanes, _ := tx.Lanes("")
		kept := map[store.Build]bool{}
		ps, _ := tx.Processors()
		for _, p := range ps {
			kept[store.Build{Processor: p.Name, Number: p.Builds.Kept.Number}] = true
		}
		for _, l := range lanes {
			if kept[l.Build] {
				continue
			}
			part := 0
			if s.logParts > 1 {
				part = l.Partition
			}
			if head := s.read[part]; l.Tenant != "" || l.Position < head || l.State != store.Running || l.Want+int(l.Until) != 0 {
				why = fmt.Sprintf("lane %v, %s, at %v, of %d, want %d, until %v, owner %q, head %v", l.LaneID, l.State, l.Position, l.Of, l.Want, l.Until, l.Owner, head)
			}
		}
		for _, p := range ps {
			if keys, _ := tx.Parked(store.Build{Processor: p.Name, Number: p.Live}, ""); len(keys) > 0 || p.Rebuild != 0 || p.Paused {
				why = fmt.Sprintf("processor %+v, parked %+v", p, keys)
			}
		}
		return nil
	})
	return why
}

// free does what ends an operator's stop of a tenant.
func (s *sim) free(p, tenant string, f func(context.Context, store.Store, string, string) error) error {
	err := f(context.Background(), s.mem, p, tenant)
	if err != nil {
		return err
	}
	lanes := s.lanesOf(p)
	for k, stop := range s.stopped {
		if k.processor != p || k.tenant != tenant {
			continue
		}
		l := lanes[k]
		if stop.paused = stop.paused && l.State == store.Paused; !l.Pinned {
			stop.pinned = false
		}
		s.stopped[k] = stop
	}
	return nil
}

// lanesOf returns the tenant lanes of the live build of a processor.
func (s *sim) lanesOf(p string) map[simShare]store.Lane {
	out := map[simShare]store.Lane{}
	_ = s.mem.View(context.Background(), func(tx store.Tx) error {
		row, err := tx.Processor(p)
		if err != nil {
			return err
		}
		lanes, err := tx.Lanes(p)
		for _, l := range lanes {
			if l.Number == row.Live && l.Tenant != "" {
				out[simShare{p, l.Partition, l.Tenant}] = l
			}
		}
		return err
	})
	return out
}

// checkStops checks that a tenant which was paused or pinned is so until an
// operator says otherwise, whatever became of the build that it was in.
func (s *sim) checkStops(p string) {
	lanes := s.lanesOf(p)
	for k, stop := range s.stopped {
		if k.processor != p {
			continue
		}
		if l := lanes[k]; stop.paused && l.State != store.Paused || stop.pinned && !l.Pinned {
			s.fail("%s/%d: tenant %q was stopped (%+v), and nobody has let it go on; its lane is %+v", p, k.partition, k.tenant, stop, l)
		}
	}
	for k, l := range lanes {
		if l.State == store.Paused || l.Pinned {
			s.stopped[k] = simStop{paused: l.State == store.Paused, pinned: l.Pinned}
		}
	}
}

// trySwitch tries the switch of a rebuild.
func (s *sim) trySwitch(p string) error {
	ctx := context.Background()
	var before store.Processor
	_ = s.mem.View(ctx, func(tx store.Tx) (err error) { before, err = tx.Processor(p); return err })
	s.checkStops(p)
	s.checkGiven(p)
	err := lane.TrySwitch(ctx, s.mem, p)
	if err != nil {
		return err
	}
	s.logf("%s: build %d of tenant %q is live", p, before.Rebuild, before.RebuildTenant)
	s.switched(&before)
	return nil
}

// A givenLetter is whose a dead letter is that was given up.
type givenLetter struct {
	store.Build
	tenant, event string
}

// skip gives up a dead letter.
func (s *sim) skip(p string, d store.DeadLetter) error {
	err := lane.SkipLetter(context.Background(), s.mem, d.ID)
	if r := s.reactors[p]; r != nil && err == nil {
		r.exempt[s.index[d.Event.ID]] = true
	}
	s.checkGiven(p)
	return err
}

// skipBehind gives up a dead letter of the key of which j handles another one, as
// both may be in the lane's queue already.
func (s *sim) skipBehind(j *streamJob) {
	p := j.key.lane.id.Processor
	ls := s.letters(p)
	ls = slices.DeleteFunc(ls, func(d store.DeadLetter) bool {
		return d.Tenant != j.key.id.Tenant || d.Key != j.key.id.ID || d.ID <= j.task.letter || d.State == store.Skipped
	})
	if len(ls) == 0 {
		return
	}
	d := ls[s.rng.IntN(len(ls))]
	s.logf("skip behind %d: %d of %s %q: %v", j.task.letter, d.ID, p, d.Tenant, s.skip(p, d))
}

// checkGiven checks that a dead letter which was given up stays so.
func (s *sim) checkGiven(p string) {
	now := map[int64]givenLetter{}
	exists := s.builds(p)
	for _, d := range s.lettersOf(store.Build{Processor: p}) {
		if d.State == store.Skipped {
			now[d.ID] = givenLetter{d.Build, d.Tenant, d.Event.ID}
		}
	}
	for id, g := range s.given {
		if r := s.reactors[p]; r != nil && r.handled[s.index[g.event]] > 0 {
			continue // it was in progress as it was given up
		}
		if g.Processor == p && !exists[g.Number] {
			delete(s.given, id) // it went with its build
			continue
		}
		if _, ok := now[id]; !ok && g.Processor == p && !s.engines {
			s.fail("%s: dead letter %d of tenant %q was given up, and is not on record any more", p, id, g.tenant)
		}
	}
	maps.Copy(s.given, now)
}
