package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/eventlog"
)

// A fault is what is done to a fleet at some time.
type fault struct {
	at  time.Duration
	say string
	do  func(ctx context.Context, f *fleet)
}

// schedule makes the faults of a run: the same for the same seed, length and number
// of workers.
func schedule(seed uint64, length time.Duration, workers int) (all []fault) {
	rng := rand.New(rand.NewPCG(seed, 1))
	ms := func(from, to int) time.Duration { return time.Duration(from+rng.IntN(to-from)) * time.Millisecond }
	poison, at := 0, ms(500, 1500)
	for ; at < length; at += ms(400, 2000) {
		w := rng.IntN(workers)
		add := func(format string, args ...any) *fault {
			all = append(all, fault{at: at, say: fmt.Sprintf(format, args...)})
			return &all[len(all)-1]
		}
		// to does something to a worker, unless something is being done to it.
		to := func(do func(ctx context.Context, p *process)) func(context.Context, *fleet) {
			return func(ctx context.Context, f *fleet) {
				p := f.workers[w]
				if !p.busy.TryLock() {
					return
				}
				defer p.busy.Unlock()
				if p.cmd == nil {
					p.start()
				}
				do(ctx, p)
			}
		}
		switch k := rng.IntN(100); {
		case k < 16:
			away, env := ms(0, 3000), variant(rng)
			add("kill w%d, back after %v as %v", w, away, env).do = to(func(ctx context.Context, p *process) {
				p.kill()
				rest(ctx, away)
				p.start(env...)
			})
		case k < 28:
			d := lease + ms(300, 4000)
			add("stop w%d for %v", w, d).do = to(func(ctx context.Context, p *process) { p.freeze(ctx, d) })
		case k < 40:
			away, env := ms(0, 4000), variant(rng)
			add("w%d leaves, back after %v as %v", w, away, env).do = to(func(ctx context.Context, p *process) {
				p.leave()
				rest(ctx, away)
				p.start(env...)
			})
		case k < 50:
			add("cut w%d", w).do = func(_ context.Context, f *fleet) { f.workers[w].proxy.cut() }
		case k < 58:
			by, d := ms(5, 300), ms(1000, 4000)
			add("slow w%d by %v for %v", w, by, d).do = func(ctx context.Context, f *fleet) { f.workers[w].proxy.slow(ctx, by, d) }
		case k < 68:
			d, cut := ms(500, 7000), rng.IntN(2) == 0
			add("black hole for w%d, %v, cut at the end: %t", w, d, cut).do = func(ctx context.Context, f *fleet) { f.workers[w].proxy.swallow(ctx, d, cut) }
		case k < 76:
			clients, d := rng.IntN(2) == 0, ms(1000, 8000)
			add("half-open connections of w%d, its own side gone: %t, for %v", w, clients, d).do = func(ctx context.Context, f *fleet) { f.workers[w].proxy.halve(ctx, clients, d) }
		case k < 77:
			add("server: fast restart").do = func(_ context.Context, f *fleet) { f.restart(f.server.Fast) }
		case k < 78:
			add("server: immediate restart").do = func(_ context.Context, f *fleet) { f.restart(f.server.Restart) }
		case k < 79:
			add("server: killed").do = func(_ context.Context, f *fleet) { f.restart(f.server.Kill) }
		case k < 84:
			a := rng.IntN(2)
			add("kill a%d", a).do = func(_ context.Context, f *fleet) {
				p := f.loaders[a]
				if p.busy.TryLock() {
					defer p.busy.Unlock()
					p.kill()
					p.start()
				}
			}
		default:
			if poison++; poison > 12 {
				continue
			}
			// Of tenants with few events, so that not most of the run waits behind it.
			p := planted{processors[rng.IntN(len(processors))], tenantName(uint64(20 + rng.IntN(tenants-20))), fmt.Sprintf("stream-%d", rng.IntN(streams))}
			n := rng.Uint64() >> 12
			add("poison for %s in %s %s", p.processor, p.tenant, p.stream).do = func(ctx context.Context, f *fleet) { f.plant(ctx, p, n) }
		}
	}
	return all
}

// variant is what a worker comes back as.
func variant(rng *rand.Rand) []string {
	switch rng.IntN(10) {
	case 0, 1:
		return []string{missingVar + "=" + processors[rng.IntN(len(processors))]}
	case 2:
		return []string{versionVar + "=2"}
	}
	return nil
}

// restart does something to the server, one thing at a time.
func (f *fleet) restart(do func() error) {
	f.serverBusy.Lock()
	defer f.serverBusy.Unlock()
	began := time.Now()
	if err := do(); err != nil {
		f.t.Error(err)
	}
	f.note("server: back after %v", time.Since(began).Round(time.Millisecond))
}

func (f *fleet) plant(ctx context.Context, p planted, n uint64) {
	e := fairlead.MustEvent("added", added{N: n, Poison: p.processor})
	e.ID = fmt.Sprintf("e%d", n)
	a := eventlog.StreamAppend{Tenant: p.tenant, Stream: p.stream, Events: []eventlog.NewEvent{e}}
	f.mu.Lock()
	f.planted = append(f.planted, p)
	f.mu.Unlock()
	for {
		_, err := f.db.Append(ctx, a)
		if err == nil || ctx.Err() != nil {
			return
		}
		if !passing(err) {
			f.t.Errorf("append poison: %v", err)
		}
		rest(ctx, 100*time.Millisecond)
	}
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

// operate moves, pauses and rebuilds tenants until ctx ends.
func (f *fleet) operate(ctx context.Context) {
	rng := rand.New(rand.NewPCG(f.seed, 2))
	z := zipf(rng)
	for ctx.Err() == nil {
		p, tenant := processors[rng.IntN(len(processors))], tenantName(z.Uint64())
		var err error
		switch k := rng.IntN(100); {
		case k < 25:
			err = f.admin.Detach(ctx, p, tenant)
		case k < 55:
			err = f.admin.Merge(ctx, p, tenant)
		case k < 65:
			err = f.admin.Pause(ctx, p, tenant, "chaos")
		case k < 85:
			err = f.admin.Resume(ctx, p, tenant)
		case k < 92:
			err = f.admin.Rebuild(ctx, p, tenant)
		case k < 95:
			err = f.admin.Rebuild(ctx, p, "")
		case k < 96:
			err = f.admin.CancelRebuild(ctx, p)
		default:
			if err = f.admin.Pause(ctx, p, "", "chaos"); err == nil {
				rest(ctx, time.Duration(rng.IntN(1500))*time.Millisecond)
				err = f.admin.Resume(ctx, p, "")
			}
		}
		if err != nil && !errors.Is(err, fairlead.ErrUnknown) && !errors.Is(err, fairlead.ErrState) && !passing(err) && ctx.Err() == nil {
			f.t.Errorf("operate on %s, %s: %v", p, tenant, err)
		}
		rest(ctx, time.Duration(rng.IntN(400))*time.Millisecond)
	}
}
