package engine

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/internal/lane"
	"github.com/fairlead-dev/fairlead/projection"
	"github.com/fairlead-dev/fairlead/slo"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/fairlead-dev/fairlead/store/memstore"
)

// choose gives the simulation its processors.
func (s *sim) choose() {
	many := func() int { return 1 + s.rng.IntN(2) }
	chosen := func() Policy { return []Policy{ParkKey, ParkKey, ParkTenant, SkipAndRecord, StopLane}[s.rng.IntN(5)] }
	if s.rng.IntN(2) == 0 {
		switch s.rng.IntN(5) {
		default:
			s.projections()
			return
		case 3:
			s.add(Processor{Name: "streams", Projection: s.projection("streams", false)})
			s.add(Processor{Name: "stops", Projection: s.projection("stops", false), Poison: StopLane, Partitions: many()})
		case 4:
			s.add(Processor{Name: "streams", Projection: s.projection("streams", false)})
			s.add(Processor{Name: "rows", Batch: s.ledger("rows"), Types: []string{"added"}, Partitions: many(), Poison: chosen(), Retry: Retry{Attempts: 2}})
		}
		return
	}
	p := Processor{Name: "calls", Types: []string{"added"}, Partitions: many(), Poison: chosen(), Concurrency: 1 + s.rng.IntN(5), Retry: Retry{Attempts: 2}}
	p.React = func(ctx context.Context, d Delivery) error { return s.reactors["calls"].react(ctx, d) }
	if s.rng.IntN(2) == 0 {
		p.Timeout = time.Second
	}
	if s.rng.IntN(3) == 0 {
		p.Freshness = slo.Objective{P99: 100 * time.Millisecond}
	}
	s.add(p)
	if s.rng.IntN(4) == 0 {
		s.add(Processor{Name: "streams", Projection: s.projection("streams", false)})
	}
}

// projections adds two projections.
func (s *sim) projections() {
	s.add(Processor{Name: "streams", Projection: s.projection("streams", false)})
	switch s.rng.IntN(3) {
	case 0:
		s.add(Processor{Name: "docs", Projection: s.projection("docs", s.logParts == 1), Partitions: 2})
	case 1:
		s.add(Processor{Name: "skips", Projection: s.projection("skips", s.logParts == 1), Poison: SkipAndRecord})
	case 2:
		byTenant := func(e *event.Event) string { return e.Tenant }
		s.add(Processor{Name: "parks", Projection: s.projection("parks", false), Poison: ParkTenant, Partitions: 2, PartitionBy: byTenant})
	}
}

func (s *sim) add(p Processor) {
	p, err := p.WithDefaults()
	if err != nil {
		panic(err)
	}
	if s.logParts > 1 {
		p.Partitions, p.follows = s.logParts, true
	}
	s.procs = append(s.procs, &p)
	if p.React != nil {
		s.reactors[p.Name] = &simReactor{s: s, p: &p, handled: map[int]int{}, exempt: map[int]bool{}, settled: map[int]bool{}, removed: map[int64]store.LaneID{}}
	}
}

// projection returns a fold that notices a lost, repeated or swapped event, and
// deletes its document now and then.
func (s *sim) projection(name string, by bool) *projection.Projection[tally] {
	h := projection.On("added", func(t *tally, e projection.Event[added]) error {
		t.N++
		t.Sum = t.Sum*31 + uint64(e.Data.N)
		if e.Data.Fail && !s.healed {
			return errors.New("told to fail")
		}
		if e.Data.N%23 == 0 {
			return projection.ErrDelete
		}
		return nil
	})
	if by {
		h.ByEach(func(e projection.Event[added]) []string { return strings.Fields(e.Data.Doc) })
	}
	return projection.New(name, h)
}

// ledger returns a batch projector that writes down, for each stream, which
// events it was handed, and in which order.
func (s *sim) ledger(table string) func(context.Context, any, []event.Event) error {
	return func(_ context.Context, tx any, events []event.Event) error {
		t := tx.(*memstore.Tx).Table(table)
		for i := range events {
			e := &events[i]
			row, _ := t.Get(e.Tenant + "/" + e.Stream)
			t.Put(e.Tenant+"/"+e.Stream, fmt.Appendf(row, "%d ", e.Position))
			switch p := s.truth[s.index[e.ID]].payload; {
			case !p.Fail || s.healed:
			case p.N%2 == 0:
				return Permanent(errors.New("told to fail"))
			default:
				return errors.New("told to fail")
			}
		}
		if s.chance(15) {
			return errors.New("injected: not now")
		}
		return nil
	}
}

// operate does what an operator, or another process's automation, may do.
func (s *sim) operate() {
	ctx, p, t := context.Background(), s.procs[s.rng.IntN(len(s.procs))].Name, tenants[s.rng.IntN(len(tenants))]
	// What hurts is a tenant that leaves while events of it are in progress, and
	// has another lane in the same process at once.
	if h := s.hosts[s.rng.IntN(len(s.hosts))]; len(h.jobs) > 0 && s.rng.IntN(2) == 0 {
		j := &h.jobs[s.rng.IntN(len(h.jobs))]
		p, t = j.key.lane.id.Processor, j.task.Tenant
		defer s.acquire(h)
		if j.task.letter != 0 && s.rng.IntN(2) == 0 {
			s.skipBehind(j)
			return
		}
	}
	var err error
	what := ""
	do := func(name string, e error) { what, err = name, e }
	if s.removal != nil && s.rng.IntN(12) == 0 {
		s.logf("remove tenant %q: %v", t, s.removeTenant(t))
		return
	}
	if s.rng.IntN(s.cuts) == 0 {
		s.operateParts(p)
		return
	}
	n := s.rng.IntN(20)
	if s.reactors[p] != nil && (n >= 6 && n <= 9 || n > 15) { // there is nothing to rebuild
		n = []int{1, 15}[n%2]
	}
	if s.cuts == 2 && (n < 2 || n == 4) && s.rng.IntN(4) > 0 { // partitions are merged when tenants are at home
		n = 2
	}
	switch n {
	case 0:
		do("detach", lane.Detach(ctx, s.mem, p, t))
	case 1:
		if do("bounce", lane.Detach(ctx, s.mem, p, t)); err == nil {
			err = s.free(p, t, lane.Unpin) // it may leave and come back unseen
		}
	case 2, 3, 13, 14:
		do("unpin", s.free(p, t, lane.Unpin))
	case 4:
		do("pause", lane.Pause(ctx, s.mem, p, t, "operator"))
	case 5:
		do("resume", s.free(p, t, lane.Resume))
	case 6:
		if s.rng.IntN(2) == 0 {
			t = ""
		}
		do("rebuild", lane.StartRebuild(ctx, s.mem, p, t, s.how()))
	case 7, 8:
		do("switch", s.trySwitch(p))
	case 16, 17, 18, 19:
		what, err = s.operateBuilds(p, n)
	case 9:
		if s.rng.IntN(4) == 0 {
			do("cancel", s.cancel(p))
		} else {
			do("hold", lane.HoldForSwitch(ctx, s.mem, p))
		}
	case 10:
		_, e := lane.RetryKey(ctx, s.mem, p, t, "")
		do("retry", e)
	case 11:
		if ls := s.letters(p); len(ls) > 0 && (s.rng.IntN(3) == 0 || s.reactors[p] != nil) {
			do("skip", s.skip(p, ls[s.rng.IntN(len(ls))]))
		} else {
			_, e := lane.Purge(ctx, s.mem, 2)
			do("purge", e)
		}
	case 15:
		id := store.LaneID{Build: store.Build{Processor: p, Number: 1}, Partition: s.rng.IntN(2), Tenant: t}
		if err := lane.Hold(ctx, s.mem, id); !errors.Is(err, store.ErrNotFound) {
			do("hold for merge", err)
		}
	case 12:
		if s.rng.IntN(8) == 0 {
			do("stop", lane.PauseProcessor(ctx, s.mem, p, true))
		} else {
			do("start", lane.PauseProcessor(ctx, s.mem, p, false))
		}
	}
	s.logf("%s %s %q: %v", what, p, t, err)
	if err != nil && !errors.Is(err, lane.ErrUnknown) && !errors.Is(err, lane.ErrState) && !errors.Is(err, lane.ErrBehind) {
		s.fail("%s: %v", what, err)
	}
}
