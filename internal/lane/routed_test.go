package lane_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/internal/done"
	"github.com/fairlead-dev/fairlead/internal/lane"
	"github.com/fairlead-dev/fairlead/internal/race"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/fairlead-dev/fairlead/store/ledger"
	"github.com/fairlead-dev/fairlead/store/memstore"
)

// The rules of who owns an event, each of which one test breaks on purpose.
const (
	viewTooEarly  = "the baseline decides by a ledger that it read before the event"
	beginTooEarly = "a sandbox begins at an end that it read before it reserved"
	closeUnfenced = "commits of a closed sandbox are not refused"
	lanesTooEarly = "a sandbox is closed at checkpoints that were read before"
	notKept       = "the baseline keeps no letter of what it passes over"
	lanesTooLate  = "of a sandbox that is closed the checkpoints of a later registration count"
	freshOnly     = "a letter that is unknown to an older reading of the ledger is released"
	forgetInLog   = "a sandbox is forgotten while events that it has are in the log"
	forgetNeeded  = "a sandbox is forgotten while letters wait for it"
	staleRelease  = "a letter of a later registration is released by a reading that has only the one before"
	keysTooEarly  = "a consumer resolves a key by a ledger that it read before the event"
	bindTooEarly  = "a key is bound at an end that was read before its route was changed"
	bindStale     = "a key is bound to what its route was"
	newestBinding = "a consumer takes what a key's route says now, wherever the event is"
	forgetKeys    = "what a key stood for is forgotten while its events are in the log"
	forgetInHand  = "what a key stood for is forgotten while a sandbox has a page in hand"
)

// A routedWorld is a log, a ledger, a baseline and sandboxes, in which a random number
// says what happens next. Deciding, registering and settling are the real code, the
// stores are real ones; the ledger is memLedger, and reading and committing are what
// an engine does, in small.
type routedWorld struct {
	*memLedger
	t      *testing.T
	rng    *rand.Rand
	broken string
	policy ledger.Policy
	depth  int

	log   [2][]string // the hosts that events are routed to, or key: and a routing key; an event's position is its index and one
	view  *ledger.View
	keys  *ledger.KeyView   // the baseline's
	keyed bool              // events carry routing keys too
	said  map[string]string // the hosts that committed events were taken to be for, as partition/position
	old   []ledger.Sandbox  // a reading of the ledger, for settling

	base  *memstore.Store
	pages [2]basePage
	boxes map[string]*box
	all   []*box
	disks map[string]*memstore.Store

	short  bool              // retention takes what a letter has been kept of
	starts [2]event.Position // of the log: nothing up to there can be read
	forgot int

	times map[string]int  // that an event was processed or parked, as partition/position
	boxed map[string]bool // a sandbox has processed it
	steps int
	nos   int // of pages

	faults []string
}

type basePage struct {
	no       int
	fence    store.Fence
	to, head event.Position
	keys     map[string]*ledger.Key
	hosts    map[string][]ledger.Sandbox
	asked    bool
}

// A box is a process of a sandbox. It may live on when others take it for dead.
type box struct {
	host string
	reg  *ledger.Registration
	id   int64
	disk *memstore.Store
	keys *ledger.KeyView
	hand [2]struct {
		fence store.Fence
		to    event.Position
		mine  []event.Position
		held  bool
	}
}

var (
	routedHosts = []string{"a", "b", "c"}
	routedProc  = store.Processor{Name: "p", Kind: "projection", Collection: "p", Partitions: 2, Builds: store.Builds{Log: "l", LogPartitions: 2}}
)

func base(p int) store.LaneID {
	return store.LaneID{Build: store.Build{Processor: "p", Number: 1}, Partition: p}
}

func newRoutedWorld(t *testing.T, seed uint64, broken string, keyed bool) *routedWorld {
	w := &routedWorld{
		memLedger: &memLedger{
			stores: map[int64]store.Store{}, lanesNow: broken == lanesTooLate, bindStale: broken == bindStale,
			routes: map[string]memRoute{}, bindings: map[string]map[int][]ledger.Binding{},
		},
		keyed: keyed, said: map[string]string{}, t: t, rng: rand.New(rand.NewPCG(seed, 7)), broken: broken,
		base: memstore.New(), boxes: map[string]*box{}, disks: map[string]*memstore.Store{}, times: map[string]int{}, boxed: map[string]bool{},
	}
	w.short = seed%3 == 0
	w.policy = []ledger.Policy{ledger.TakeOver, ledger.TakeOver, ledger.Park}[w.rng.IntN(3)]
	w.view = ledger.NewView(w, "l", "s")
	w.keys = w.keyView()
	w.setup(w.base, event.Beginning)
	return w
}

func (w *routedWorld) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *routedWorld) setup(s store.Store, at event.Position) {
	_, err := lane.Setup(context.Background(), s, routedProc, func(p int) event.Position { return min(at, w.end(p)) })
	w.must(err)
}

func (w *routedWorld) end(p int) event.Position { return event.Position(len(w.log[p])) }

func (w *routedWorld) row(s store.Store, p int) (l store.Lane) {
	w.must(s.View(context.Background(), func(tx store.Tx) (err error) { l, err = tx.Lane(base(p)); return err }))
	return l
}

func (w *routedWorld) count(p int, at event.Position) { w.times[fmt.Sprintf("%d/%d", p, at)]++ }

func (w *routedWorld) keyView() *ledger.KeyView { return ledger.NewKeyView(w, "l", "s", w.head) }

// head is the end of a partition, for who binds keys. Things happen before and after.
func (w *routedWorld) head(_ context.Context, p int) (event.Position, error) {
	w.meanwhile()
	end := w.end(p)
	w.meanwhile()
	return end, nil
}

// keysOf returns what is known of the keys of events of a page that ends at to.
func (w *routedWorld) keysOf(v *ledger.KeyView, p int, after, to, seen event.Position) map[string]*ledger.Key {
	last := map[string]event.Position{}
	for at := after + 1; at <= to; at++ {
		if k, ok := strings.CutPrefix(w.log[p][at-1], "key:"); ok {
			last[k] = at
		}
	}
	if w.broken == keysTooEarly {
		seen += 3
	}
	keys, err := v.Keys(context.Background(), p, last, seen)
	w.must(err)
	return keys
}

// host returns the host that an event is for, "" for none.
func (w *routedWorld) host(keys map[string]*ledger.Key, p int, at event.Position) string {
	name, ok := strings.CutPrefix(w.log[p][at-1], "key:")
	if !ok {
		return name
	}
	if w.broken == newestBinding {
		if keys[name] == nil {
			return ""
		}
		return keys[name].Host
	}
	return string(keys[name].At(p, at))
}

// bind changes a route, removes it, or lets a change take effect that was not bound.
func (w *routedWorld) bind() {
	name, stale := []string{"k", "l"}[w.rng.IntN(2)], [2]event.Position{w.end(0), w.end(1)}
	w.meanwhile()
	if w.rng.IntN(4) > 0 {
		w.put(name, []string{"", "a", "b", "c", "gone"}[w.rng.IntN(5)])
	}
	w.meanwhile()
	if w.rng.IntN(4) == 0 {
		return // who changed it died
	}
	head := w.head
	if w.broken == bindTooEarly {
		head = func(_ context.Context, p int) (event.Position, error) { return stale[p], nil }
	}
	if w.rng.IntN(2) == 0 { // as the keeper does
		w.must(ledger.NewKeyView(w, "l", "s", head).Bind(context.Background(), nil, 2))
		return
	}
	w.must(ledger.Bind(context.Background(), w, "l", "s", nil, 2, head))
}

func (w *routedWorld) forgetKeys() {
	r := w.registrations(nil)
	r.All, _ = w.Sandboxes(context.Background(), "l", "s", nil)
	if w.broken == forgetInHand {
		r.All = nil
	}
	upTo, err := lane.Unread(context.Background(), w.base, r)
	w.must(err)
	if w.broken == forgetKeys {
		upTo = map[int]event.Position{0: event.Unbounded, 1: event.Unbounded}
	}
	w.must(w.ForgetKeys(context.Background(), "l", "s", upTo))
}

// says notes for whom a committed event was taken to be.
func (w *routedWorld) says(who string, p int, at event.Position, host string) {
	key := fmt.Sprintf("%d/%d", p, at)
	if before, ok := w.said[key]; ok && before != host {
		w.faults = append(w.faults, fmt.Sprintf("event %s, %q: %s takes it to be for %q, and another did for %q", key, w.log[p][at-1], who, host, before))
	}
	w.said[key] = host
}

// step does one thing.
func (w *routedWorld) step() {
	w.steps++
	p, host := w.rng.IntN(2), routedHosts[w.rng.IntN(len(routedHosts))]
	things, routes := 18, []string{"", "a", "b", "c", "gone"}
	if w.keyed {
		things, routes = 23, []string{"", "a", "b", "gone", "key:k", "key:k", "key:l", "key:new"}
	}
	switch w.rng.IntN(things) {
	case 0, 1:
		for range 1 + w.rng.IntN(3) {
			w.log[p] = append(w.log[p], routes[w.rng.IntN(len(routes))])
		}
	case 2, 3:
		w.fetch(p)
	case 4:
		w.ask(p)
	case 5:
		w.commit(p)
	case 6:
		w.old, _ = w.Sandboxes(context.Background(), "l", "s", nil)
	case 7:
		w.settle()
	case 8:
		w.drain(p)
	case 9:
		w.start(host)
	case 10, 11, 12:
		if len(w.all) > 0 { // zombies too
			w.work(w.all[w.rng.IntN(len(w.all))], p)
		}
	case 13, 14:
		if b := w.boxes[host]; b != nil {
			w.work(b, p)
		}
	case 15:
		w.endBox(host)
	case 16: // retention
		w.starts[p] = max(w.starts[p], w.settled(p)-event.Position(w.rng.IntN(6)))
	case 17:
		w.forget()
	case 18, 19, 20:
		w.bind()
	case 21, 22:
		w.starts[p] = max(w.starts[p], w.settled(p)-event.Position(w.rng.IntN(2)))
		w.forgetKeys()
	}
}

// settled returns up to where the baseline has read a partition and, unless retention is
// short, keeps no letters for sandboxes.
func (w *routedWorld) settled(p int) (to event.Position) {
	if to = w.row(w.base, p).Position; w.short {
		return to
	}
	w.must(w.base.View(context.Background(), func(tx store.Tx) error {
		letters, err := tx.Letters(store.LetterFilter{Partition: &p, Reason: store.Routed})
		for i := range letters {
			to = min(to, letters[i].Event.Position-1)
		}
		return err
	}))
	return to
}

func (w *routedWorld) registrations(all []ledger.Sandbox) lane.Registrations {
	return lane.Registrations{
		All: all, Lanes: w.Lanes,
		Newest: func(ctx context.Context, hosts []string) ([]ledger.Sandbox, error) {
			return w.Sandboxes(ctx, "l", "s", hosts)
		},
		Start: func(_ context.Context, p int) (event.Position, error) { return w.starts[p], nil },
	}
}

// forget has the ledger forget what nothing needs.
func (w *routedWorld) forget() {
	r := w.registrations(w.old)
	s := store.Store(w.base)
	if w.broken == forgetInLog {
		r.Start = func(context.Context, int) (event.Position, error) { return event.Unbounded, nil }
	}
	if w.broken == forgetNeeded {
		for i := range r.All {
			r.All[i].Host = "another"
		}
	}
	ids, err := lane.Forgettable(context.Background(), s, r)
	w.must(err)
	for _, id := range ids {
		w.must(w.Forget(context.Background(), id))
		w.forgot++
	}
}

// replay compares what a rebuild would find out with what happened.
func (w *routedWorld) replay(p int) (faults []string) {
	all, _ := w.Sandboxes(context.Background(), "l", "s", nil)
	keys := w.keysOf(w.keyView(), p, w.starts[p], w.end(p), w.end(p))
	for at := w.starts[p] + 1; at <= w.end(p); at++ {
		host, box := w.host(keys, p, at), false
		of := slices.DeleteFunc(slices.Clone(all), func(s ledger.Sandbox) bool { return s.Host != host })
		if host != "" && ledger.Decide(of, p, at) == ledger.Sandboxes {
			d := &store.DeadLetter{Build: base(p).Build, Partition: p, Event: event.Event{Tenant: "t", Position: at}}
			box = ledger.Settle(of, p, at, func(s *ledger.Sandbox) bool {
				ok, err := lane.Applied(s.Lanes, d, 0)
				w.must(err)
				return ok
			}) == ledger.Done
		}
		key := fmt.Sprintf("%d/%d", p, at)
		if box != w.boxed[key] {
			faults = append(faults, fmt.Sprintf("event %s, routed to %q: a sandbox's %v, and %v when it is read again", key, host, w.boxed[key], box))
		}
		if host != w.said[key] {
			faults = append(faults, fmt.Sprintf("event %s, %q: it was for %q, and is for %q when it is read again", key, w.log[p][at-1], w.said[key], host))
		}
	}
	return faults
}

// meanwhile lets other things happen in the middle of one.
func (w *routedWorld) meanwhile() {
	if w.depth < 3 {
		w.depth++
		for range w.rng.IntN(6) {
			w.step()
		}
		w.depth--
	}
}

func (w *routedWorld) fetch(p int) {
	l := w.row(w.base, p)
	head := w.end(p)
	w.nos++
	w.pages[p] = basePage{
		no: w.nos, fence: store.Fence{Epoch: l.Epoch, Position: l.Position, Revision: l.Revision},
		to: min(head, l.Position+event.Position(w.rng.IntN(6))), head: head,
	}
}

// ask asks the ledger of the page in hand.
func (w *routedWorld) ask(p int) {
	pg := &w.pages[p]
	read := *pg
	keys := w.keysOf(w.keys, p, read.fence.Position, read.to, read.head)
	if pg.no != read.no {
		return // another page was read meanwhile
	}
	pg.keys = keys
	last := map[string]event.Position{}
	for at := pg.fence.Position + 1; at <= pg.to; at++ {
		if h := w.host(keys, p, at); h != "" {
			last[h] = at
		}
	}
	for h, at := range last { // it would wait for what is under way, and time stands still here
		found, _ := w.Sandboxes(context.Background(), "l", "s", []string{h})
		for i := range found {
			if span, ok := found[i].Partitions[p]; ok && span.Pending && found[i].Open {
				return
			}
		}
		_ = at
	}
	seen := pg.head
	if w.broken == viewTooEarly {
		seen += 3
	}
	var err error
	pg.hosts, err = w.view.Registrations(context.Background(), p, last, seen)
	w.must(err)
	pg.asked = true
}

func (w *routedWorld) commit(p int) {
	pg := w.pages[p]
	if !pg.asked {
		return
	}
	w.pages[p] = basePage{}
	c := store.Commit{Lane: base(p), Fence: pg.fence, Position: pg.to}
	var mine []event.Position
	for at := pg.fence.Position + 1; at <= pg.to; at++ {
		h := w.host(pg.keys, p, at)
		switch {
		case h != "" && ledger.Decide(pg.hosts[h], p, at) == ledger.Sandboxes:
			if w.broken != notKept {
				c.Letters = append(c.Letters, store.DeadLetter{
					Build: base(p).Build, Partition: p, Tenant: "t", Key: h, State: store.Skipped, Reason: store.Routed, Error: h,
					Event: event.Event{Position: at, Tenant: "t", Stream: h, Type: "x", ID: fmt.Sprint(p, "/", at)},
				})
			}
		default:
			mine = append(mine, at)
		}
	}
	err := w.base.Commit(context.Background(), &c)
	if errors.Is(err, store.ErrFenced) {
		return
	}
	w.must(err)
	for at := pg.fence.Position + 1; at <= pg.to; at++ {
		w.says("the baseline", p, at, w.host(pg.keys, p, at))
	}
	for _, at := range mine {
		w.count(p, at)
	}
}

func (w *routedWorld) settle() {
	all := w.old
	if w.broken == freshOnly { // what it does not know it takes for gone
		all = nil
		for _, s := range w.old {
			s.Open = false
			all = append(all, s)
		}
	}
	r := w.registrations(all)
	if newest := r.Newest; w.broken == freshOnly || w.broken == staleRelease { // of hosts that it has, it does not ask again
		r.Newest = func(ctx context.Context, hosts []string) (out []ledger.Sandbox, err error) {
			for _, host := range hosts {
				had := slices.DeleteFunc(slices.Clone(all), func(s ledger.Sandbox) bool { return s.Host != host })
				if len(had) == 0 {
					had, err = newest(ctx, []string{host})
				}
				out = append(out, had...)
			}
			return out, err
		}
	}
	_, err := lane.SettleRouted(context.Background(), w.base, w.policy, r)
	w.must(err)
}

// drain processes what was released of a partition, as a retry does; parked letters
// count as parked.
func (w *routedWorld) drain(p int) {
	l := w.row(w.base, p)
	var letters []store.DeadLetter
	w.must(w.base.View(context.Background(), func(tx store.Tx) (err error) {
		letters, err = tx.Letters(store.LetterFilter{Partition: &p, State: store.Poison})
		return err
	}))
	c := store.Commit{Lane: base(p), Fence: store.Fence{Epoch: l.Epoch, Position: l.Position, Revision: l.Revision}, Position: l.Position}
	for _, d := range letters {
		if d.Retry != (w.policy == ledger.TakeOver) && (!w.short || !strings.Contains(d.Error, "nobody knows")) {
			w.t.Errorf("policy %s: letter with retry %v", w.policy, d.Retry)
		}
		c.Remove = append(c.Remove, d.ID)
	}
	w.must(w.base.Commit(context.Background(), &c))
	for _, d := range letters {
		w.count(p, d.Event.Position)
	}
}

// start begins a process of a sandbox, which has a store from before or a new one.
func (w *routedWorld) start(host string) {
	disk := w.disks[host]
	if disk == nil || w.rng.IntN(4) == 0 && w.boxes[host] == nil && w.open(host) == nil {
		disk = memstore.New()
		w.disks[host] = disk
		at := event.Unbounded
		if w.rng.IntN(2) == 0 {
			at = event.Beginning
		}
		w.setup(disk, at)
	}
	b := &box{host: host, disk: disk, keys: w.keyView()}
	stale := [2]event.Position{w.end(0), w.end(1)}
	w.meanwhile()
	reg, err := ledger.Join(context.Background(), w, "l", "s", host, disk, time.Minute, w.rng.IntN(3), func(_ context.Context, p int) (event.Position, error) {
		w.meanwhile()
		end := w.end(p)
		if w.broken == beginTooEarly {
			end = stale[p]
		}
		w.meanwhile()
		return end, nil
	})
	if errors.Is(err, ledger.ErrClosed) {
		return // it was closed as it registered
	}
	if _, ok := errors.AsType[*ledger.HostError](err); ok {
		return
	}
	w.must(err)
	b.reg, b.id = reg, w.open(host).ID
	w.boxes[host] = b
	w.all = append(w.all, b)
}

// work lets a process of a sandbox read, or commit what it has in hand.
func (w *routedWorld) work(b *box, p int) {
	hand := &b.hand[p]
	if hand.held {
		hand.held = false
		if w.broken != closeUnfenced && !w.isOpen(b.id) { // the guard, in the commit's transaction
			return
		}
		err := b.disk.Commit(context.Background(), &store.Commit{Lane: base(p), Fence: hand.fence, Position: hand.to})
		if errors.Is(err, store.ErrFenced) {
			return
		}
		w.must(err)
		for _, at := range hand.mine {
			w.says("sandbox "+b.host, p, at, b.host)
			w.count(p, at)
			w.boxed[fmt.Sprintf("%d/%d", p, at)] = true
		}
		return
	}
	if w.rng.IntN(3) == 0 { // it takes the lane, from another process of the sandbox perhaps
		w.must(b.disk.Update(context.Background(), func(tx store.Tx) error {
			l, err := tx.Lane(base(p))
			if err == nil {
				l.Epoch++
				err = tx.PutLane(l)
			}
			return err
		}))
	}
	l := w.row(b.disk, p)
	seen := w.end(p)
	to := min(seen, l.Position+event.Position(w.rng.IntN(6)))
	if w.keyed {
		w.meanwhile()
	}
	keys := w.keysOf(b.keys, p, l.Position, to, seen)
	from, err := b.reg.From(context.Background(), p)
	if errors.Is(err, ledger.ErrClosed) {
		return
	}
	w.must(err)
	hand.fence, hand.to, hand.mine, hand.held = store.Fence{Epoch: l.Epoch, Position: l.Position, Revision: l.Revision}, to, nil, true
	for at := l.Position + 1; at <= to; at++ {
		if w.host(keys, p, at) == b.host && at > from {
			hand.mine = append(hand.mine, at)
		}
	}
}

// endBox ends a sandbox in one of the ways that there are. Its process may not know.
func (w *routedWorld) endBox(host string) {
	b := w.boxes[host]
	if b == nil || w.rng.IntN(3) > 0 {
		return
	}
	delete(w.boxes, host)
	if w.rng.IntN(3) == 0 {
		return // it died: nobody knows yet
	}
	if s := w.open(host); s != nil {
		w.close(s.ID)
	}
}

// close is what [ledger.Ledger.End] does, in one transaction.
func (w *routedWorld) close(id int64) {
	if w.broken == lanesTooEarly {
		lanes, err := w.Lanes(context.Background(), id)
		w.must(err)
		w.meanwhile()
		w.endAt(id, lanes)
		return
	}
	_, err := w.End(context.Background(), id, ledger.Always)
	w.must(err)
}

// history lets things happen, ends all sandboxes, and returns what is wrong.
func (w *routedWorld) history(steps int) (faults []string) {
	for w.steps < steps {
		w.step()
	}
	w.depth = 3 // from here on nothing happens meanwhile
	for _, host := range routedHosts {
		for s := w.open(host); s != nil; s = w.open(host) {
			w.close(s.ID)
		}
	}
	for _, b := range w.all { // zombies
		for p := range 2 {
			w.work(b, p)
		}
	}
	for p := range 2 {
		for w.row(w.base, p).Position < w.end(p) {
			w.fetch(p)
			w.ask(p)
			w.commit(p)
		}
	}
	w.old, _ = w.Sandboxes(context.Background(), "l", "s", nil)
	w.settle()
	for p := range 2 {
		w.drain(p)
		for i := range w.log[p] {
			if n := w.times[fmt.Sprintf("%d/%d", p, i+1)]; n != 1 {
				faults = append(faults, fmt.Sprintf("event %d/%d, routed to %q: %d owners", p, i+1, w.log[p][i], n))
			}
		}
		faults = append(faults, w.replay(p)...)
	}
	// In the end nothing needs any of them.
	w.starts = [2]event.Position{w.end(0), w.end(1)}
	w.old, _ = w.Sandboxes(context.Background(), "l", "s", nil)
	for name := range w.routes {
		w.put(name, "")
	}
	w.must(ledger.Bind(context.Background(), w, "l", "s", nil, 2, w.head))
	w.forgetKeys()
	if len(w.routes)+len(w.bindings) > 0 {
		faults = append(faults, fmt.Sprintf("routes %v and bindings %v are left", w.routes, w.bindings))
	}
	w.forget()
	if left, _ := w.Sandboxes(context.Background(), "l", "s", nil); len(left) > 0 {
		faults = append(faults, fmt.Sprintf("%d registrations are left, the first %+v", len(left), left[0]))
	}
	return append(w.faults, faults...)
}

func TestOneOwner(t *testing.T) {
	for _, keyed := range []bool{false, true} {
		t.Run(map[bool]string{false: "routes", true: "routing keys"}[keyed], func(t *testing.T) {
			events, boxes := 0, 0
			most := uint64(2500)
			if testing.Short() || race.Enabled {
				most = 500
			}
			for seed := range most {
				w := newRoutedWorld(t, seed, "", keyed)
				if faults := w.history(120 + int(seed%200)); len(faults) > 0 {
					t.Fatalf("seed %d: %q", seed, faults)
				}
				events, boxes = events+len(w.times), boxes+len(w.all)
			}
			t.Logf("%d events, %d processes of sandboxes", events, boxes)
			if boxes < int(most) {
				t.Errorf("only %d processes of sandboxes registered", boxes)
			}
		})
	}
}

// TestOneOwnerFinds breaks each rule and sees that it is missed.
func TestOneOwnerFinds(t *testing.T) {
	keys := []string{staleRelease, keysTooEarly, bindTooEarly, bindStale, newestBinding, forgetKeys, forgetInHand}
	for _, broken := range append([]string{viewTooEarly, beginTooEarly, closeUnfenced, lanesTooEarly, notKept, lanesTooLate, freshOnly, forgetInLog, forgetNeeded}, keys...) {
		t.Run(broken, func(t *testing.T) {
			first := uint64(0)
			switch broken { // they take many
			case lanesTooLate:
				first = 2600
			case staleRelease:
				first = 1500
			case forgetInHand:
				first = 2700
			}
			for seed := first; seed < first+4000; seed++ {
				if faults := newRoutedWorld(t, seed, broken, slices.Contains(keys, broken)).history(200); len(faults) > 0 {
					t.Logf("seed %d: %s", seed, faults[0])
					return
				}
			}
			t.Error("not found")
		})
	}
}

// TestApplied tells what the lanes of another store have done.
func TestApplied(t *testing.T) {
	var beyond done.Set
	beyond.Add(12)
	lanes := []store.Lane{
		{LaneID: base(0), Of: 2, Position: 10, Done: beyond.MarshalAfter(10), Exclusions: map[string]event.Position{"out": event.Unbounded, "back": 11}},
		{LaneID: store.LaneID{Build: base(0).Build, Tenant: "out"}, Of: 2, Position: 5},
		{LaneID: base(1), Of: 2, Position: 3},
	}
	for _, tt := range []struct {
		tenant        string
		p             event.Position
		partition, of int
		want          bool
	}{
		{"t", 10, 0, 0, true},
		{"t", 11, 0, 0, false},
		{"t", 12, 0, 0, true}, // out of order
		{"out", 5, 0, 0, true},
		{"out", 6, 0, 0, false}, // the base lane is past it, and it is not the base lane's
		{"back", 11, 0, 0, true},
		{"back", 13, 0, 0, false},
		{"t", 4, 1, 0, false},
		{"t", 3, 2, 0, false}, // no such partition
		{"t", 10, 0, 2, true},
		{"t", 10, 0, 4, false}, // another cut: not all are past it
		{"t", 3, 0, 4, true},
	} {
		d := &store.DeadLetter{Build: base(0).Build, Partition: tt.partition, Event: event.Event{Tenant: tt.tenant, Position: tt.p}}
		if got, err := lane.Applied(lanes, d, tt.of); got != tt.want || err != nil {
			t.Errorf("tenant %q at %v of partition %d (modulus %d): %v, %v, want %v", tt.tenant, tt.p, tt.partition, tt.of, got, err, tt.want)
		}
	}
	if got, err := lane.Applied(nil, &store.DeadLetter{}, 0); got || err != nil {
		t.Errorf("without lanes: %v, %v", got, err)
	}
}
