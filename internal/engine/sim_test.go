package engine

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/eventlog/memlog"
	"github.com/fairlead-dev/fairlead/internal/lane"
	"github.com/fairlead-dev/fairlead/projection"
	"github.com/fairlead-dev/fairlead/slo"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/fairlead-dev/fairlead/store/memstore"
)

// The simulation runs the real lanes and protocols, single-threaded and in
// virtual time, on a seeded schedule: hosts that crash between any two store
// calls, zombies that go on after their lease, calls of the store and the log
// that fail before or after their effect, handlers that fail or take long,
// operators that detach, merge, pause, rebuild, retry and skip at random. Same
// seed, same run. It runs in a synctest bubble, so time stands still but for
// what sleep adds. The lanes' steps are in sim_batch_test.go and
// sim_stream_test.go, the checkers in check_test.go and check_stream_test.go.
type sim struct {
	seed     uint64
	rng      *rand.Rand
	log      *memlog.Log
	logParts int
	mem      *memstore.Store
	procs    []*Processor
	reactors map[string]*simReactor
	hosts    []*simHost
	healed   bool // no faults any more, and handlers do what they refused
	calm     bool // no faults
	inside   bool // a call of the store is going on, and something else happens beside it
	n        int
	commits  map[fenced]string // who committed under an epoch
	at       map[fenced]event.Position
	trace    []string
	bad      error
	planted  storeBug
	cuts     int                       // of so many operations one is on partitions
	fleet    *simFleet                 // supervisors are at work; see sim_fleet_test.go
	engines  bool                      // real engines are at work too: they switch rebuilds by themselves
	truth    []simEvent                // the log, in the order of the appends
	index    map[string]int            // in truth, by event id
	latest   map[string]int            // in truth, by tenant and stream: the last one that is of interest
	read     []event.Position          // by log partition: what truth has
	served   map[string]event.Position // by processor, partition and tenant: what readers have seen
	stopped  map[simShare]simStop      // tenants that must not run, or not merge, before an operator says so
	given    map[int64]givenLetter     // dead letters that were given up
	made     map[string]bool           // by processor and version: what began a rebuild by itself, or made one
	kept     map[string]simKept        // by processor: the build that is kept, as it was when it was left
	removal  *simRemoval               // tenants are removed, too; see sim_remove_test.go
}

// A simEvent is an event of the log, decoded once.
type simEvent struct {
	event.Event
	part    int // of the log
	payload added
	docs    []string
	prev    int  // in truth, the one before it in its stream, or -1
	gone    bool // its tenant was removed since
}

type fenced struct {
	lane  store.LaneID
	epoch int64
}

// A simShare is a tenant in a partition of a processor.
type simShare struct {
	processor string
	partition int
	tenant    string
}

type simStop struct{ paused, pinned bool }

type simHost struct {
	s         *sim
	id        string
	e         *Engine // only what the shells need of it: it does not run
	st        *simStore
	lanes     []*simLane
	streams   []*simStream
	jobs      []streamJob // reactors' handlers in progress
	dead      bool
	acquiring bool
	recuts    map[store.LaneID]*attempt
	turns     int
	handTo    func(store.LaneID) (to, home string) // to which member an ended lane goes; nil: to nobody
}

var (
	errInjected = errors.New("injected: no answer")
	errCrash    = errors.New("injected: crash")
	tenants     = []string{"a", "b", "c", "d"}
)

func newSim(seed uint64) *sim { return newSimOf(seed, (*sim).choose) }

// newSimOf returns a simulation of the processors that choose adds.
func newSimOf(seed uint64, choose func(*sim)) *sim {
	s := &sim{
		seed: seed, rng: rand.New(rand.NewPCG(seed, 1)), logParts: 1, reactors: map[string]*simReactor{},
		commits: map[fenced]string{}, at: map[fenced]event.Position{}, served: map[string]event.Position{},
		index: map[string]int{}, latest: map[string]int{}, stopped: map[simShare]simStop{}, given: map[int64]givenLetter{}, kept: map[string]simKept{}, made: map[string]bool{},
	}
	var opts []memlog.Option
	if s.rng.IntN(2) == 0 {
		opts = append(opts, memlog.WithGaps(3))
	}
	if s.rng.IntN(4) == 0 {
		s.logParts = 2
		opts = append(opts, memlog.WithPartitions(2))
	}
	s.log = memlog.New(opts...)
	s.read = make([]event.Position, s.logParts)
	s.mem = memstore.New()
	s.cuts = []int{2, 6, 12}[s.rng.IntN(3)]
	choose(s)
	for _, p := range s.procs {
		row := store.Processor{Name: p.Name, Kind: p.Kind(), Partitions: p.Partitions, Builds: store.Builds{LogPartitions: s.logParts}}
		if p.Projection != nil {
			row.Collection = p.Name
		}
		if _, err := lane.Setup(context.Background(), s.mem, row, func(int) event.Position { return 0 }); err != nil {
			panic(err)
		}
	}
	for i := range 1 + s.rng.IntN(3) {
		s.hosts = append(s.hosts, s.host(i))
	}
	if s.rng.IntN(4) == 0 {
		for range 40 {
			s.append() // a backlog
		}
	}
	return s
}

func (s *sim) host(i int) *simHost {
	h := &simHost{s: s, id: fmt.Sprintf("host%d.%d", i, s.n), recuts: map[store.LaneID]*attempt{}}
	s.n++
	h.st = &simStore{Store: s.mem, h: h}
	var err error
	if h.e, err = New(Config{Log: &simLog{s.log, h}, Store: h.st, Name: h.id, Memory: 4 << 20}); err != nil {
		panic(err)
	}
	if s.n%2 == 0 {
		h.e.pages.share(map[int]int{0: 8}) // pages are kept for other lanes
	}
	for _, p := range s.procs {
		h.e.procs[p.Name] = &active{p: p, lanes: map[store.LaneID]*owned{}, stats: procStats{window: slo.NewWindow(p.Freshness, 1, time.Hour)}}
	}
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
	if len(s.reactors) > 0 {
		steps /= 2 // larger ones
	}
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
	if s.fleet != nil {
		s.fleet.step()
		return
	}
	s.sleep()
	switch n := s.rng.IntN(100); {
	case n < 10:
		s.append()
	case n < 14:
		s.operate()
	case n < 16:
		if len(s.reactors) > 0 && s.rng.IntN(3) > 0 {
			break
		}
		s.logf("leases end") // and their owners go on
		time.Sleep(6 * time.Second)
	case n < 18 && !s.calm && (len(s.reactors) == 0 || s.rng.IntN(4) == 0):
		s.crash(s.hosts[s.rng.IntN(len(s.hosts))])
	case n < 28:
		s.acquire(s.hosts[s.rng.IntN(len(s.hosts))])
	case n < 40:
		h := s.hosts[s.rng.IntN(len(s.hosts))]
		h.look()
		h.recut()
	default:
		s.act()
	}
	if len(s.reactors) > 0 && !s.inside {
		for range 10 { // a lane takes many small steps for each event
			s.sleep()
			switch s.rng.IntN(90) {
			case 0, 1, 2, 3:
				s.operate()
			case 4, 5, 6:
				s.append()
			case 7, 8:
				s.hosts[s.rng.IntN(len(s.hosts))].look()
			case 9:
				s.hosts[s.rng.IntN(len(s.hosts))].recut()
			default:
				s.act()
			}
		}
	}
}

// sleep lets some time pass. At least so much, that handlers are never taken
// for cheap: how many of these run at once depends on the number of CPUs.
func (s *sim) sleep() {
	time.Sleep(50*time.Microsecond + time.Duration(s.rng.IntN(20))*time.Millisecond)
}

// act lets a host do something, if there is anything to do.
func (s *sim) act() {
	for range 4 {
		if s.hosts[s.rng.IntN(len(s.hosts))].act() {
			return
		}
	}
}

// beside lets something else happen while a host's call of the store is under way.
func (s *sim) beside(h *simHost) {
	if s.inside || !s.chance(6) {
		return
	}
	s.inside = true
	defer func() { s.inside = false }()
	if s.rng.IntN(5) > 0 {
		s.step()
		return
	}
	s.operate() // and the host works by that at once
	if s.fleet != nil {
		return
	}
	s.acquire(h)
}

// crash ends a host, and another one takes its place. Of a handler in progress
// nobody knows whether it did its work.
func (s *sim) crash(h *simHost) {
	i := slices.Index(s.hosts, h)
	if h.dead || i < 0 {
		return
	}
	s.logf("%s crashes", h.id)
	h.dead = true
	for _, j := range h.jobs {
		if s.rng.IntN(2) == 0 {
			s.reactors[j.key.lane.id.Processor].call(h, &j)
		}
	}
	if s.fleet != nil {
		s.fleet.died(h)
		return
	}
	s.hosts[i] = s.host(i)
}

// act does the next thing of one of the host's lanes or handlers; false: it
// waits.
func (h *simHost) act() bool {
	n := len(h.lanes) + 6*len(h.streams) + len(h.jobs)
	if n == 0 {
		return false
	}
	switch i := h.s.rng.IntN(n); {
	case i < len(h.lanes):
		h.step(h.lanes[i])
	case i < len(h.lanes)+6*len(h.streams):
		return h.streams[(i-len(h.lanes))/6].step()
	default:
		h.endJob(i - len(h.lanes) - 6*len(h.streams))
	}
	return true
}

// look is what the supervisor and the watchers of the log do now and then.
func (h *simHost) look() {
	for i := range h.s.logParts {
		if head, err := h.s.log.Head(context.Background(), i); err == nil {
			h.e.pages.grown(h.e.pages.tail(i), head)
		}
	}
	for _, x := range h.streams {
		_ = h.s.mem.View(context.Background(), func(tx store.Tx) error {
			row, err := tx.Lane(x.r.id)
			if err == nil {
				x.r.reread(row.Revision)
			}
			return err
		})
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
	tok, err := s.log.Append(context.Background(), a)
	if err != nil {
		panic(err)
	}
	page, err := s.log.Read(context.Background(), eventlog.ReadRequest{Partition: tok.Partition, After: s.read[tok.Partition]})
	if err != nil {
		panic(err)
	}
	for _, e := range page.Events {
		x := simEvent{Event: e, part: tok.Partition, prev: -1}
		if err := (projection.JSON{}).Decode(e.Data, &x.payload); err != nil {
			panic(err)
		}
		x.docs = strings.Fields(x.payload.Doc)
		slices.Sort(x.docs)
		x.docs = slices.Compact(x.docs)
		n := len(s.truth)
		s.index[e.ID] = n
		if e.Type == "added" {
			if last, ok := s.latest[e.Tenant+"/"+e.Stream]; ok {
				x.prev = last
			}
			s.latest[e.Tenant+"/"+e.Stream] = n
		}
		s.truth = append(s.truth, x)
		s.read[tok.Partition] = e.Position
	}
}

// acquire lets a host take lanes that nobody holds, as the supervisor does.
func (s *sim) acquire(h *simHost) {
	if h.acquiring || s.fleet != nil {
		return
	}
	h.acquiring = true
	defer func() { h.acquiring = false }()
	ctx := context.Background()
	_, kept, err := lane.Keep(ctx, h.st, h.id, 5*time.Second, "")
	if err != nil || !kept && lane.Join(ctx, h.st, store.Member{ID: h.id}, 5*time.Second) != nil {
		return
	}
	var rows []store.Lane
	paused := map[string]bool{}
	_ = s.mem.View(ctx, func(tx store.Tx) (err error) {
		if rows, err = tx.Lanes(""); err != nil {
			return err
		}
		ps, err := tx.Processors()
		for _, p := range ps {
			paused[p.Name] = p.Paused
		}
		return err
	})
	for _, row := range rows {
		mine := slices.ContainsFunc(h.lanes, func(x *simLane) bool { return x.l.id == row.LaneID && !x.gone }) ||
			slices.ContainsFunc(h.streams, func(x *simStream) bool { return x.r.id == row.LaneID })
		if mine || row.State == store.Paused || row.State == store.Recut || paused[row.Processor] || s.rng.IntN(2) == 0 {
			continue
		}
		got, err := lane.Acquire(ctx, h.st, row.LaneID, h.id)
		if err != nil || h.dead {
			continue
		}
		s.logf("%s has %v under epoch %d", h.id, got.LaneID, got.Epoch)
		i := slices.IndexFunc(s.procs, func(p *Processor) bool { return p.Name == row.Processor })
		if s.procs[i].React != nil {
			h.startStream(s.procs[i], got)
		} else {
			h.startLane(s.procs[i], got)
		}
	}
}
