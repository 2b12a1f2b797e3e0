package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/slo"
	"github.com/fairlead-dev/fairlead/sqlite"
	"github.com/fairlead-dev/fairlead/store"
)

// An account is the document of an account.
type account struct {
	Balance int64 `json:"balance"`
	Moves   int64 `json:"moves"`
}

type move struct {
	Amount int64 `json:"amount_halere"`
}

var balances = fairlead.NewProjection("balance",
	fairlead.On("CashDeposited", func(a *account, e fairlead.Event[move]) error {
		a.Balance += e.Data.Amount
		a.Moves++
		return nil
	}),
	fairlead.On("CashWithdrawn", func(a *account, e fairlead.Event[move]) error {
		a.Balance -= e.Data.Amount
		a.Moves++
		return nil
	}))

var balanceObjective = slo.Objective{P99: 100 * time.Millisecond, Max: time.Second}

// A stretch is a part of a run with one rate.
type stretch struct {
	rate float64 // events a second
	time time.Duration
}

// bankIntents makes a Poisson stream of moves on accounts like those of
// bank-accounts: 857 of them at 77 branches, the busiest with most of it.
func bankIntents(rng *rand.Rand, stretches []stretch) ([]intent, map[store.Key]account) {
	zipf := rand.NewZipf(rng, 1.05, 30, 856)
	var intents []intent
	want := map[store.Key]account{}
	from := time.Duration(0)
	for _, s := range stretches {
		poisson(rng, s.rate, from, from+s.time, func(at time.Duration) {
			n := zipf.Uint64()
			in := intent{at: at, tenant: fmt.Sprintf("district-%02d", n%77), stream: fmt.Sprintf("account-%04d", n), typ: "CashDeposited"}
			k := store.Key{Tenant: in.tenant, ID: in.stream}
			a := want[k]
			amount := 1 + rng.Int64N(100_000)
			in.data = fmt.Appendf(nil, `{"transaction":%d,"amount_halere":%d,"purpose":"household"}`, len(intents), amount)
			if rng.IntN(2) == 0 {
				in.typ, amount = "CashWithdrawn", -amount
			}
			a.Balance += amount
			a.Moves++
			want[k] = a
			intents = append(intents, in)
		})
		from += s.time
	}
	return intents, want
}

// A visibleStore notes when each event became visible: when the commit returned
// that wrote its document at its version or a later one.
type visibleStore struct {
	store.Store
	start time.Time

	mu      sync.Mutex
	streams map[store.Key]*visibleStream
	visible []time.Duration // since start, by the event's number; 0: not yet
	left    int
	all     chan struct{}
}

type visibleStream struct {
	numbers []int // of events, by version - 1
	seen    int64
}

func newVisibleStore(s store.Store, intents []intent) *visibleStore {
	v := &visibleStore{Store: s, streams: map[store.Key]*visibleStream{}, visible: make([]time.Duration, len(intents)), left: len(intents), all: make(chan struct{})}
	for i, in := range intents {
		k := store.Key{Tenant: in.tenant, ID: in.stream}
		if v.streams[k] == nil {
			v.streams[k] = &visibleStream{}
		}
		v.streams[k].numbers = append(v.streams[k].numbers, i)
	}
	return v
}

func (v *visibleStore) Commit(ctx context.Context, c *store.Commit) error {
	if err := v.Store.Commit(ctx, c); err != nil {
		return err
	}
	for i := range c.Writes {
		w := &c.Writes[i]
		v.reached(w.Key, w.Version)
	}
	return nil
}

// reached notes that a document is visible with so many events of its stream.
func (v *visibleStore) reached(k store.Key, version int64) {
	now := time.Since(v.start)
	v.mu.Lock()
	defer v.mu.Unlock()
	s := v.streams[k]
	for ; s != nil && s.seen < version; s.seen++ {
		v.visible[s.numbers[s.seen]] = now
		if v.left--; v.left == 0 {
			close(v.all)
		}
	}
}

// late returns how long after these times the events were visible, sorted. Those
// that were not count with what they had waited by now.
func (v *visibleStore) late(since []time.Duration) []time.Duration {
	now := time.Since(v.start)
	v.mu.Lock()
	defer v.mu.Unlock()
	out := make([]time.Duration, len(since))
	for i, at := range since {
		seen := v.visible[i]
		if seen == 0 {
			seen = now
		}
		out[i] = max(seen-at, 0)
	}
	slices.Sort(out)
	return out
}

// intended returns the times of intents.
func intended(intents []intent) []time.Duration {
	out := make([]time.Duration, len(intents))
	for i := range intents {
		out[i] = intents[i].at
	}
	return out
}

// freshness runs one open loop on a database of its own, and returns all
// latencies, sorted.
func freshness(ctx context.Context, path string, seed uint64, stretches []stretch) ([]time.Duration, error) {
	intents, want := bankIntents(rand.New(rand.NewPCG(seed, 9)), stretches)
	db, err := sqlite.Open(path)
	if err != nil {
		return nil, err
	}
	defer removeDB(path)
	defer func() { _ = db.Close() }()
	visible := newVisibleStore(db, intents)
	if err := openLoopVisible(ctx, db, db, visible, intents, nil, fairlead.Project(balances, fairlead.Options{Freshness: balanceObjective})); err != nil {
		return nil, err
	}
	for k, w := range want {
		got, err := fairlead.Get(ctx, db, balances, k.Tenant, k.ID)
		if err != nil {
			return nil, err
		}
		if got.State != w {
			return nil, fmt.Errorf("wrong result: account %q of %q: got %+v, want %+v", k.ID, k.Tenant, got.State, w)
		}
	}
	return visible.late(intended(intents)), nil
}

// openLoopVisible runs a consumer of p, appends the intents at their times with
// another log of the same database or the same one, and waits until all of them
// are visible.
func openLoopVisible(ctx context.Context, log eventlog.Log, appender eventlog.Appender, visible *visibleStore, intents []intent, appended func(n int), p fairlead.Processor) error {
	c, err := fairlead.New(fairlead.Config{Log: log, Store: visible})
	if err != nil {
		return err
	}
	if err := c.Add(ctx, p); err != nil {
		return err
	}
	consumer := start(ctx, c)
	defer func() { _ = consumer.stop() }()
	if err := consumer.atWork(c, p.Name()); err != nil {
		return err
	}
	visible.start = time.Now()
	if err := openLoop(ctx, appender, visible.start, intents, appended); err != nil {
		return err
	}
	select {
	case <-visible.all:
	case <-time.After(30 * time.Second):
		return fmt.Errorf("wrong result: %d of %d events are not visible after 30 s", visible.left, len(intents))
	case <-consumer.ended:
		return consumer.stop()
	}
	return consumer.stop()
}

func runLatency(ctx context.Context, b *bench) error {
	const rounds = 5
	unit := 20 * time.Second
	if b.quick {
		unit = 1900 * time.Millisecond
	}
	spike := func(rate float64) []stretch {
		return []stretch{{20, unit / 3}, {rate, unit / 6}, {20, unit / 6}}
	}
	shapes := []struct {
		name      string
		stretches []stretch
	}{
		{"20 events/s", []stretch{{20, unit}}},
		{"60 events/s", []stretch{{60, unit}}},
		{"500 events/s", []stretch{{500, unit}}},
		{"20 events/s with spikes to 60/s and 500/s", slices.Concat(spike(60), spike(500))},
	}
	type figures struct {
		p50, p99 []float64
		max      time.Duration
		events   int
	}
	got := make([]figures, len(shapes))
	for round := range rounds {
		for i, s := range shapes {
			late, err := freshness(ctx, filepath.Join(b.dir, fmt.Sprintf("%d-%d.db", i, round)), uint64(round), s.stretches)
			if err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
			f := &got[i]
			f.p50 = append(f.p50, ms(quantile(late, 0.5)))
			f.p99 = append(f.p99, ms(quantile(late, 0.99)))
			f.max = max(f.max, late[len(late)-1])
			f.events += len(late)
		}
	}
	for i, s := range shapes {
		cond := fmt.Sprintf("%s (Poisson), open loop from the intended time to the return of the commit, account balance over 857 accounts of 77 tenants, log and store in one file, WAL, synchronous=NORMAL, %d rounds, %d events, every balance compared",
			s.name, rounds, got[i].events)
		f := &got[i]
		b.add("p50", median(f.p50), "ms", line{}, "median of the rounds, %s; %s", spread(f.p50), cond)
		b.add("p99", median(f.p99), "ms", atMost(100), "median of the rounds, %s; %s", spread(f.p99), cond)
		b.add("max", ms(f.max), "ms", atMost(1000), "the worst of all rounds; %s", cond)
	}
	return nil
}
