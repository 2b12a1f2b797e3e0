package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/eventlog/memlog"
	"github.com/fairlead-dev/fairlead/internal/lane"
	"github.com/fairlead-dev/fairlead/projection"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/fairlead-dev/fairlead/store/memstore"
)

// The simulation runs the real lanes and protocols, single-threaded, on a
// seeded schedule: hosts that crash between any two store calls, zombies that
// go on after their lease, store calls that fail before or after their effect,
// operators that detach, merge, pause, rebuild, retry and skip at random. Same
// seed, same run. The checker is in check_test.go.
type sim struct {
	seed    uint64
	rng     *rand.Rand
	now     time.Time
	log     *memlog.Log
	mem     *memstore.Store
	procs   []*Processor
	hosts   []*simHost
	healed  bool // no faults any more, and handlers do what they refused
	calm    bool // no faults
	n       int
	commits map[fenced]string // who committed under an epoch
	at      map[fenced]event.Position
	trace   []string
	bad     error
	planted storeBug
	truth   []simEvent                // the log
	served  map[string]event.Position // by processor, partition and tenant: what readers have seen
}

// A simEvent is an event of the log, decoded once.
type simEvent struct {
	event.Event
	payload added
	docs    []string
}

type fenced struct {
	lane  store.LaneID
	epoch int64
}

type simHost struct {
	s     *sim
	id    string
	pages *pages
	lanes []*simLane
	st    *simStore
}

// A simLane is a lane that a host believes to own. Its steps are those of
// batchRunner, one at a time.
type simLane struct {
	h       *simHost
	l       *batchLane
	pending *batch // being committed
	cur     *batch // run beside that
	fresh   bool   // restarted
	again   bool   // throw all away after the pending commit
	gone    bool
}

var (
	errInjected = errors.New("injected: the store does not answer")
	errCrash    = errors.New("injected: crash")
	tenants     = []string{"a", "b", "c", "d"}
)

func newSim(seed uint64) *sim {
	s := &sim{seed: seed, rng: rand.New(rand.NewPCG(seed, 1)), now: time.Unix(1e9, 0),
		commits: map[fenced]string{}, at: map[fenced]event.Position{}, served: map[string]event.Position{}}
	s.log = memlog.New()
	if s.rng.IntN(2) == 0 {
		s.log = memlog.New(memlog.WithGaps(3))
	}
	s.mem = memstore.New(memstore.WithNow(func() time.Time { return s.now }))
	add := func(p Processor) {
		p, err := p.WithDefaults()
		if err != nil {
			panic(err)
		}
		s.procs = append(s.procs, &p)
	}
	add(Processor{Name: "streams", Projection: s.projection("streams", false)})
	switch s.rng.IntN(3) {
	case 0:
		add(Processor{Name: "docs", Projection: s.projection("docs", true), Partitions: 2})
	case 1:
		add(Processor{Name: "skips", Projection: s.projection("skips", true), Poison: SkipAndRecord})
	case 2:
		add(Processor{Name: "parks", Projection: s.projection("parks", false), Poison: ParkTenant, Partitions: 2, PartitionBy: func(e *event.Event) string { return e.Tenant }})
	}
	for _, p := range s.procs {
		row := store.Processor{Name: p.Name, Kind: p.Kind(), Collection: p.Name, Partitions: p.Partitions}
		if _, err := lane.Setup(context.Background(), s.mem, row, func(int) event.Position { return 0 }); err != nil {
			panic(err)
		}
	}
	for i := range 3 {
		s.hosts = append(s.hosts, s.host(i))
	}
	return s
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

func (s *sim) host(i int) *simHost {
	h := &simHost{s: s, id: fmt.Sprintf("host%d.%d", i, s.n), pages: newPages(s.log, 1<<20)}
	s.n++
	if s.n%2 == 0 {
		h.pages.share(8) // pages are kept for other lanes
	}
	h.st = &simStore{Store: s.mem, h: h}
	return h
}

func (s *sim) logf(format string, args ...any) {
	s.trace = append(s.trace, fmt.Sprintf(format, args...))
}

func (s *sim) fail(format string, args ...any) {
	if s.bad == nil {
		s.bad = fmt.Errorf(format, args...)
		s.logf("FAIL %v", s.bad)
	}
}

// chance is true once in n, while faults are on.
func (s *sim) chance(n int) bool { return !s.calm && s.rng.IntN(n) == 0 }

// run takes so many random steps, heals everything, and checks the end.
func (s *sim) run(steps int) error {
	for i := 0; i < steps && s.bad == nil; i++ {
		s.step()
		if i%16 == 0 {
			s.check()
		}
	}
	s.finish()
	return s.bad
}

func (s *sim) step() {
	s.now = s.now.Add(time.Duration(s.rng.IntN(50)) * time.Millisecond)
	switch n := s.rng.IntN(100); {
	case n < 12:
		s.append()
	case n < 16:
		s.operate()
	case n < 18:
		s.now = s.now.Add(6 * time.Second) // leases end, their owners go on
	case n < 20 && !s.calm:
		i := s.rng.IntN(len(s.hosts))
		s.logf("%s crashes", s.hosts[i].id)
		s.hosts[i] = s.host(i)
	case n < 32:
		s.acquire(s.hosts[s.rng.IntN(len(s.hosts))])
	default:
		h := s.hosts[s.rng.IntN(len(s.hosts))]
		if len(h.lanes) > 0 {
			h.step(h.lanes[s.rng.IntN(len(h.lanes))])
		}
	}
}

func (s *sim) append() {
	tenant := tenants[min(s.rng.IntN(6), 3)]
	a := eventlog.StreamAppend{Tenant: tenant, Stream: fmt.Sprintf("s%d", s.rng.IntN(3))}
	for range 1 + s.rng.IntN(3) {
		s.n++
		p := added{N: s.n, Doc: fmt.Sprintf("d%d d%d", s.rng.IntN(3), s.rng.IntN(3)), Fail: s.rng.IntN(25) == 0}
		data, _ := projection.JSON{}.Encode(&p)
		typ := "added"
		if s.rng.IntN(8) == 0 {
			typ = "ignored"
		}
		a.Events = append(a.Events, eventlog.NewEvent{Type: typ, Data: data})
	}
	after := event.Beginning
	if n := len(s.truth); n > 0 {
		after = s.truth[n-1].Position
	}
	if _, err := s.log.Append(context.Background(), a); err != nil {
		panic(err)
	}
	page, err := s.log.Read(context.Background(), eventlog.ReadRequest{After: after})
	if err != nil {
		panic(err)
	}
	for _, e := range page.Events {
		x := simEvent{Event: e}
		if err := (projection.JSON{}).Decode(e.Data, &x.payload); err != nil {
			panic(err)
		}
		x.docs = strings.Fields(x.payload.Doc)
		slices.Sort(x.docs)
		x.docs = slices.Compact(x.docs)
		s.truth = append(s.truth, x)
	}
}

// operate does what an operator, or another process's automation, may do.
func (s *sim) operate() {
	ctx, p, t := context.Background(), s.procs[s.rng.IntN(len(s.procs))].Name, tenants[s.rng.IntN(len(tenants))]
	var err error
	what := ""
	do := func(name string, e error) { what, err = name, e }
	switch s.rng.IntN(12) {
	case 0, 1:
		do("detach", lane.Detach(ctx, s.mem, p, t))
	case 2, 3:
		do("unpin", lane.Unpin(ctx, s.mem, p, t))
	case 4:
		do("pause", lane.Pause(ctx, s.mem, p, t, "operator"))
	case 5:
		do("resume", lane.Resume(ctx, s.mem, p, t))
	case 6:
		if s.rng.IntN(2) == 0 {
			t = ""
		}
		do("rebuild", lane.StartRebuild(ctx, s.mem, p, t))
	case 7, 8:
		do("switch", lane.TrySwitch(ctx, s.mem, p, ""))
	case 9:
		if s.rng.IntN(4) == 0 {
			do("cancel", lane.CancelRebuild(ctx, s.mem, p))
		} else {
			do("hold", lane.HoldForSwitch(ctx, s.mem, p))
		}
	case 10:
		_, e := lane.RetryKey(ctx, s.mem, p, t, "")
		do("retry", e)
	case 11:
		if ls := s.letters(p); len(ls) > 0 && s.rng.IntN(3) == 0 {
			do("skip", lane.SkipLetter(ctx, s.mem, ls[s.rng.IntN(len(ls))].ID))
		} else {
			_, e := lane.Purge(ctx, s.mem, 2)
			do("purge", e)
		}
	}
	s.logf("%s %s %q: %v", what, p, t, err)
	if err != nil && !errors.Is(err, lane.ErrUnknown) && !errors.Is(err, lane.ErrState) && !errors.Is(err, lane.ErrBehind) {
		s.fail("%s: %v", what, err)
	}
}

// acquire lets a host take lanes that nobody holds, as the supervisor does.
func (s *sim) acquire(h *simHost) {
	ctx := context.Background()
	if lane.Heartbeat(ctx, h.st, store.Member{ID: h.id}, 5*time.Second) != nil {
		return
	}
	var rows []store.Lane
	_ = s.mem.View(ctx, func(tx store.Tx) (err error) { rows, err = tx.Lanes(""); return err })
	for _, row := range rows {
		mine := slices.ContainsFunc(h.lanes, func(x *simLane) bool { return x.l.id == row.LaneID && !x.gone })
		if mine || row.State == store.Paused || s.rng.IntN(2) == 0 {
			continue
		}
		got, err := lane.Acquire(ctx, h.st, row.LaneID, h.id)
		if err != nil {
			continue
		}
		s.logf("%s has %v under epoch %d", h.id, got.LaneID, got.Epoch)
		i := slices.IndexFunc(s.procs, func(p *Processor) bool { return p.Name == row.Processor })
		l := &batchLane{p: s.procs[i], id: got.LaneID, st: h.st, pages: h.pages, streams: s.log,
			workers: func(time.Duration) int { return 1 }, cache: newDocCache([]int{1000, 1 << 20}[s.rng.IntN(2)]), logger: slog.New(slog.DiscardHandler)}
		l.row.Epoch = got.Epoch
		h.lanes = append(h.lanes, &simLane{h: h, l: l})
	}
}

// step does the next thing that the lane's shell would do.
func (h *simHost) step(x *simLane) {
	err := x.next(context.Background())
	fence, isFence := errors.AsType[*store.FenceError](err)
	switch {
	case errors.Is(err, errCrash):
		i := slices.Index(h.s.hosts, h)
		h.s.logf("%s crashes in a call of %v", h.id, x.l.id)
		if i >= 0 {
			h.s.hosts[i] = h.s.host(i)
		}
		return
	case isFence && fence.Lost(), errors.Is(err, errMerged), errors.Is(err, errHalted):
		h.s.logf("%s ends %v: %v", h.id, x.l.id, err)
		x.gone = true
		h.lanes = slices.DeleteFunc(h.lanes, func(y *simLane) bool { return y == x })
		if errors.Is(err, errHalted) {
			_ = lane.Release(context.Background(), h.st, x.l.id, h.id, x.l.row.Epoch)
		}
		return
	case err != nil:
		x.fresh, x.pending, x.cur, x.again = false, nil, nil, false
	}
}

func (x *simLane) next(ctx context.Context) error {
	l, s := x.l, x.h.s
	if !x.fresh {
		if err := l.restart(ctx); err != nil {
			return err
		}
		x.fresh = true
		return nil
	}
	if x.pending != nil && (x.cur != nil || x.again || s.rng.IntN(2) == 0) {
		b := x.pending
		x.pending = nil
		if err := l.commit(ctx, b); err != nil {
			return err
		}
		l.committed(b)
		if x.cur != nil && !x.cur.empty() {
			x.pending = x.cur
		}
		x.cur = nil
		return nil
	}
	if x.again {
		return errAgain
	}
	if s.rng.IntN(6) == 0 && x.stale() { // the supervisor looks now and then
		x.again = true
		return nil
	}
	if x.cur != nil {
		x.pending, x.cur = x.cur, nil
		return nil
	}
	if ok, _ := l.runnable(); !ok {
		if x.pending != nil {
			x.again = true
			return nil
		}
		if l.row.State == store.Held {
			if s.rng.IntN(10) == 0 {
				if err := lane.Unhold(ctx, x.h.st, l.id); err != nil {
					return err
				}
			}
			return errAgain
		}
		return errHalted
	}
	if len(l.retry) > 0 {
		if x.pending != nil {
			x.again = true
			return nil
		}
		if err := l.drain(ctx, l.retry[0]); err != nil {
			return err
		}
		return errAgain
	}
	return x.work(ctx)
}

func (x *simLane) work(ctx context.Context) error {
	l, s := x.l, x.h.s
	if l.stopAt != nil && l.at >= l.stopAt.after {
		if x.pending != nil {
			return nil
		}
		if err := x.checkpoint(ctx); err != nil {
			return err
		}
		if err := lane.Stop(ctx, x.h.st, l.id, l.row.Epoch, l.stopAt.reason); err != nil {
			return err
		}
		l.stopAt = nil
		return errAgain
	}
	page, err := x.h.pages.read(ctx, l.request())
	if err != nil {
		return err
	}
	if page.Next <= l.at || s.rng.IntN(10) == 0 {
		if x.pending != nil {
			return nil
		}
		if err := x.checkpoint(ctx); err != nil {
			return err
		}
		if l.id.Tenant == "" || l.row.Pinned {
			return nil
		}
		switch _, err := lane.TryMerge(ctx, x.h.st, l.id, l.row.Epoch); {
		case err == nil:
			return errMerged
		case errors.Is(err, lane.ErrBehind):
			if s.rng.IntN(3) == 0 {
				return lane.Hold(ctx, x.h.st, l.id)
			}
			return nil
		case errors.Is(err, lane.ErrState):
			return errAgain
		default:
			return err
		}
	}
	if l.id.Tenant == "" && s.chance(8) && len(page.Events) > 0 {
		t := page.Events[s.rng.IntN(len(page.Events))].Tenant
		if !l.row.Excluded(t, event.Unbounded-1) {
			l.leave[t] = departure{after: l.at, state: store.Running}
		}
	}
	b := l.prepare(page, 1+s.rng.IntN(8))
	err = l.fold(ctx, b)
	for err == nil && l.extends(b) && s.rng.IntN(2) == 0 {
		if page, err = x.h.pages.read(ctx, l.request()); err == nil && page.Next > l.at {
			l.extend(b, page, 1+s.rng.IntN(8))
			err = l.fold(ctx, b)
		}
	}
	if err == nil {
		err = l.seal(ctx, b)
	}
	if err != nil {
		if errors.Is(err, errAgain) && x.pending != nil {
			x.again = true
			return nil
		}
		return err
	}
	switch {
	case x.pending != nil:
		x.cur = b
	case !b.empty():
		x.pending = b
	}
	return nil
}

// stale reports whether another hand has changed the row.
func (x *simLane) stale() (yes bool) {
	_ = x.h.s.mem.View(context.Background(), func(tx store.Tx) error {
		row, err := tx.Lane(x.l.id)
		yes = err != nil || row.Revision != x.l.row.Revision
		return nil
	})
	return yes
}

func (x *simLane) checkpoint(ctx context.Context) error {
	l := x.l
	if l.at == l.sent.Position {
		return nil
	}
	b := &batch{seq: l.seq + 1, from: l.sent.Position, to: l.at}
	l.finish(b)
	l.submit(b)
	if err := l.commit(ctx, b); err != nil {
		return err
	}
	l.committed(b)
	return nil
}

// finish ends all faults, undoes what operators stopped, and lets everything
// come to rest.
func (s *sim) finish() {
	if s.bad != nil {
		return
	}
	s.logf("finish")
	ctx := context.Background()
	s.calm, s.healed = true, true
	for i := range s.hosts {
		s.hosts[i] = s.host(i)
	}
	s.now = s.now.Add(time.Hour)
	for round := 0; round < 400 && s.bad == nil; round++ {
		for _, p := range s.procs {
			for _, t := range tenants {
				_ = lane.Resume(ctx, s.mem, p.Name, t)
				if round%5 == 0 {
					_ = lane.Unpin(ctx, s.mem, p.Name, t)
				}
			}
			_, _ = lane.RetryKey(ctx, s.mem, p.Name, "", "")
			if round > 20 {
				_ = lane.TrySwitch(ctx, s.mem, p.Name, "")
			}
		}
		h := s.hosts[0]
		s.acquire(h)
		for range 40 {
			for _, x := range slices.Clone(h.lanes) {
				h.step(x)
			}
		}
		if s.rested() {
			s.check()
			s.checkEnd()
			return
		}
	}
	s.fail("not at rest in the end: %s", s.describe())
}
