package chaos

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/internal/pgtest"
)

// A fault is what is done to a fleet at some time.
type fault struct {
	at   time.Duration
	kind string
	say  string
	do   func(ctx context.Context, f *fleet)
}

// A plan is what is to be done to a fleet.
type plan struct {
	kinds   []weight
	operate []string      // what operators do
	outlast time.Duration // how long a process is stopped at least: until it has lost its lanes
	missing bool          // workers may come back without one of the processors
	nets    int           // that a worker has; 0: one
}

var onPostgres = plan{kinds: weighted, operate: operations, outlast: lease, missing: true}

// schedule makes the faults of a run: the same for the same seed, length, number of
// workers and plan.
func schedule(seed uint64, length time.Duration, workers int, plan *plan) (all []fault) {
	weighted := plan.kinds
	rng := rand.New(rand.NewPCG(seed, 1))
	ms := func(from, to int) time.Duration { return time.Duration(from+rng.IntN(to-from)) * time.Millisecond }
	first := rng.Perm(len(weighted))
	kind := func() string {
		if len(first) > 0 { // one of each
			i := first[0]
			first = first[1:]
			return weighted[i].kind
		}
		k, i := rng.IntN(100), 0
		for ; k >= weighted[i].of; i++ {
			k -= weighted[i].of
		}
		return weighted[i].kind
	}
	poison, at := 0, ms(500, 1500)
	for ; at < length; at += ms(400, 2000) {
		w, k, must := rng.IntN(workers), kind(), len(all) < len(weighted)
		add := func(format string, args ...any) *fault {
			all = append(all, fault{at: at, kind: k, say: fmt.Sprintf(format, args...)})
			return &all[len(all)-1]
		}
		// to does something to a worker, unless something is being done to it.
		to := func(do func(ctx context.Context, p *process) bool) func(context.Context, *fleet) {
			return func(ctx context.Context, f *fleet) {
				p := f.workers[w]
				if must {
					p.busy.Lock()
				} else if !p.busy.TryLock() {
					return
				}
				defer p.busy.Unlock()
				if p.cmd == nil {
					p.start()
				}
				if do(ctx, p) {
					f.done(k)
				}
			}
		}
		// net does something to the network between a worker and all that it talks to, or
		// one of it.
		net := func(do func(ctx context.Context, p *proxy) int) func(context.Context, *fleet) {
			which := -1
			if plan.nets > 1 && rng.IntN(3) > 0 {
				which = rng.IntN(plan.nets)
				all[len(all)-1].say += fmt.Sprintf(", network %d only", which)
			}
			return func(ctx context.Context, f *fleet) {
				var wg sync.WaitGroup
				var noticed atomic.Int64
				for i, p := range f.workers[w].nets {
					if which < 0 || i == which {
						wg.Go(func() { noticed.Add(int64(do(ctx, p))) })
					}
				}
				wg.Wait()
				if noticed.Load() > 0 {
					f.done(k)
				}
			}
		}
		server := func(do func(*pgtest.Server) error) func(context.Context, *fleet) {
			return func(_ context.Context, f *fleet) {
				if f.restart(do) {
					f.done(k)
				}
			}
		}
		switch k {
		case killed:
			away, env := ms(0, 3000), variant(rng, plan)
			add("kill w%d, back after %v as %v", w, away, env).do = to(func(ctx context.Context, p *process) bool {
				ok := p.kill()
				rest(ctx, away)
				p.start(env...)
				return ok
			})
		case stopped:
			d := plan.outlast + ms(300, 4000)
			add("stop w%d for %v", w, d).do = to(func(ctx context.Context, p *process) bool { return p.freeze(ctx, d) && ctx.Err() == nil })
		case left:
			away, env := ms(0, 4000), variant(rng, plan)
			add("w%d leaves, back after %v as %v", w, away, env).do = to(func(ctx context.Context, p *process) bool {
				ok := p.leave()
				rest(ctx, away)
				p.start(env...)
				return ok
			})
		case cut:
			add("cut w%d", w).do = net(func(_ context.Context, p *proxy) int { return p.cut() })
		case slowed:
			by, d := ms(5, 300), ms(1000, 4000)
			add("slow w%d by %v for %v", w, by, d).do = net(func(ctx context.Context, p *proxy) int { return p.slow(ctx, by, d) })
		case swallowed:
			d, cut := ms(500, 7000), rng.IntN(2) == 0
			add("black hole for w%d, %v, cut at the end: %t", w, d, cut).do = net(func(ctx context.Context, p *proxy) int { return p.swallow(ctx, d, cut) })
		case halved:
			clients, d := rng.IntN(2) == 0, ms(1000, 8000)
			add("half-open connections of w%d, its own side gone: %t, for %v", w, clients, d).do = net(func(ctx context.Context, p *proxy) int { return p.halve(ctx, clients, d) })
		case serverFast:
			add("server: fast restart").do = server((*pgtest.Server).Fast)
		case serverCrashed:
			add("server: immediate restart").do = server((*pgtest.Server).Restart)
		case serverKilled:
			add("server: killed").do = server((*pgtest.Server).Kill)
		case brokerKilled, brokerRestarted:
			b, away := 1+rng.IntN(brokers), ms(0, 8000)
			if k == brokerKilled {
				add("broker %d: killed, back after %v", b, away).do = func(ctx context.Context, f *fleet) { f.brokerDown(ctx, k, b, away) }
			} else {
				add("broker %d: restarted", b).do = func(ctx context.Context, f *fleet) { f.brokerDown(ctx, k, b, 0) }
			}
		case appenderKilled:
			a := rng.IntN(2)
			add("kill a%d", a).do = func(_ context.Context, f *fleet) {
				p := f.loaders[a]
				if !must && !p.busy.TryLock() {
					return
				} else if must {
					p.busy.Lock()
				}
				defer p.busy.Unlock()
				if p.kill() {
					f.done(k)
				}
				p.start()
			}
		case clock:
			// Hours ahead or behind, back beyond the right time while it runs, and there
			// it stays, over restarts too, as the clock of a machine does.
			sign := 1 - 2*rng.IntN(2)
			by := [2]int{sign * (3600 + rng.IntN(47*3600)), -sign * (3600 + rng.IntN(47*3600))}
			d, appender := ms(1500, 8000), rng.IntN(5) == 0
			name := fmt.Sprintf("w%d", w)
			if appender {
				name = "a0"
			}
			add("clock of %s wrong by %d s, and after %v by %d s", name, by[0], d, by[1]).do = func(ctx context.Context, f *fleet) {
				p := f.workers[w]
				if appender {
					p = f.loaders[0]
				}
				p.setClock(by[0])
				rest(ctx, d)
				p.setClock(by[1])
				f.done(k)
			}
		case poisoned:
			if poison++; poison > 12 {
				continue
			}
			// Of tenants with few events, so that not most of the run waits behind it.
			p := planted{processors[rng.IntN(len(processors))], tenantName(uint64(20 + rng.IntN(tenants-20))), fmt.Sprintf("stream-%d", rng.IntN(streams))}
			n := rng.Uint64() >> 12
			add("poison for %s in %s %s", p.processor, p.tenant, p.stream).do = func(ctx context.Context, f *fleet) {
				if f.plant(ctx, p, n) {
					f.done(k)
				}
			}
		}
	}
	return all
}

// variant is what a worker comes back as.
func variant(rng *rand.Rand, plan *plan) []string {
	switch k := rng.IntN(10); {
	case k < 2 && plan.missing:
		return []string{missingVar + "=" + processors[rng.IntN(len(processors))]}
	case k == 2:
		return []string{versionVar + "=" + otherVersion}
	}
	return nil
}

// restart does something to the server, one thing at a time.
func (f *fleet) restart(do func(*pgtest.Server) error) bool {
	f.serverBusy.Lock()
	defer f.serverBusy.Unlock()
	began := time.Now()
	if err := do(f.server); err != nil {
		f.t.Error(err)
		return false
	}
	f.note("server: back after %v", time.Since(began).Round(time.Millisecond))
	return true
}

func (f *fleet) plant(ctx context.Context, p planted, n uint64) bool {
	e := fairlead.MustEvent("added", added{N: n, Poison: p.processor})
	e.ID = fmt.Sprintf("e%d", n)
	a := eventlog.StreamAppend{Tenant: p.tenant, Stream: p.stream, Events: []eventlog.NewEvent{e}}
	f.mu.Lock()
	f.planted = append(f.planted, p)
	f.mu.Unlock()
	if f.topic != nil {
		return f.topic.plant(ctx, a.Tenant, a.Stream, e)
	}
	for {
		_, err := f.db.Append(ctx, a)
		if err == nil || ctx.Err() != nil {
			return err == nil
		}
		if !passing(err) {
			f.t.Errorf("append poison: %v", err)
		}
		rest(ctx, 100*time.Millisecond)
	}
}

// makeUp does again what has had no effect yet, as a cut of a network that had no
// connections, until nothing is owed or the time is over. On a slow machine operators
// do less, too: theirs is waited for. All of it is still done under load, to a fleet
// that was disturbed for as long as it should be.
func (f *fleet) makeUp(ctx context.Context, all []fault, atMost time.Duration, owed func(context.Context) []string) {
	ctx, cancel := context.WithTimeout(ctx, atMost)
	defer cancel()
	for turn := 0; ; turn++ {
		kinds := owed(ctx)
		if len(kinds) == 0 || ctx.Err() != nil {
			return
		}
		var wg sync.WaitGroup
		for _, k := range kinds {
			of := slices.DeleteFunc(slices.Clone(all), func(x fault) bool { return x.kind != k })
			if len(of) > 0 {
				x := of[turn%len(of)]
				f.note("again: %s", x.say)
				wg.Go(func() { x.do(ctx, f) })
			}
		}
		wg.Wait()
		rest(ctx, 500*time.Millisecond)
	}
}

// TestWhatHadNoEffectIsDoneAgain: until it has one, or the time is over.
func TestWhatHadNoEffectIsDoneAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fleet{t: t, begun: time.Now(), tally: map[string]int{}}
		tried := map[string]int{}
		try := func(kind, what string, works int) fault {
			return fault{kind: kind, say: what, do: func(_ context.Context, f *fleet) {
				f.mu.Lock()
				tried[what]++
				n := tried[what]
				f.mu.Unlock()
				if n == works {
					f.done(kind)
				}
			}}
		}
		all := []fault{try(cut, "an idle network", 0), try(killed, "a process", 1), try(cut, "a network", 2)}
		owed := func(context.Context) (kinds []string) {
			for _, k := range []string{cut, killed} {
				if f.never(k) {
					kinds = append(kinds, k)
				}
			}
			return kinds
		}
		f.makeUp(t.Context(), all, time.Minute, owed)
		if want := map[string]int{"an idle network": 2, "a process": 1, "a network": 2}; !maps.Equal(tried, want) || len(owed(t.Context())) > 0 {
			t.Errorf("done: %v, want %v", tried, want)
		}
		began := time.Now()
		f.makeUp(t.Context(), nil, time.Minute, func(context.Context) []string { return []string{""} })
		if d := time.Since(began); d != time.Minute {
			t.Errorf("what never comes was waited for for %v, want a minute", d)
		}
	})
}

// disturb does the faults of a schedule, and returns when the last has ended.
func (f *fleet) disturb(ctx context.Context, all []fault) {
	var wg sync.WaitGroup
	for _, x := range all {
		rest(ctx, x.at-time.Since(f.begun))
		if ctx.Err() != nil {
			break
		}
		f.note("%s", x.say)
		wg.Go(func() { x.do(ctx, f) })
	}
	wg.Wait()
}
