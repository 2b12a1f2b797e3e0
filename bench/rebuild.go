package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/internal/importer"
	"github.com/fairlead-dev/fairlead/postgres"
	"github.com/fairlead-dev/fairlead/store"
)

// A trafficStore hands the commits of the projection with live traffic to a
// visibleStore, another one for each stretch that is measured.
type trafficStore struct {
	store.Store
	visible atomic.Pointer[visibleStore]
}

func (s *trafficStore) Commit(ctx context.Context, c *store.Commit) error {
	if v := s.visible.Load(); v != nil && c.Lane.Processor == balances.Name() {
		return v.Commit(ctx, c)
	}
	return s.Store.Commit(ctx, c)
}

// A rebuildRun is a database with asset-store in it, and a consumer at work.
type rebuildRun struct {
	db       *postgres.DB
	traffic  *trafficStore
	c        *fairlead.Consumer
	consumer *running
	admin    fairlead.Admin
	n        int // stretches
}

// stretch measures live traffic, on streams of its own, and returns the sorted
// latencies.
func (r *rebuildRun) stretch(ctx context.Context, rate float64, d time.Duration) ([]time.Duration, error) {
	r.n++
	intents, want := bankIntents(mathrand.New(mathrand.NewPCG(uint64(r.n), 9)), []stretch{{rate, d}})
	for i := range intents {
		intents[i].stream = fmt.Sprintf("%s-%d", intents[i].stream, r.n)
	}
	v := newVisibleStore(r.db, intents)
	v.start = time.Now()
	r.traffic.visible.Store(v)
	if err := openLoop(ctx, r.db, v.start, intents, nil); err != nil {
		return nil, err
	}
	select {
	case <-v.all:
	case <-time.After(30 * time.Second):
		return nil, fmt.Errorf("wrong result: %d of %d events are not visible after 30 s", v.left, len(intents))
	case <-r.consumer.ended:
		return nil, r.consumer.stop()
	}
	for k, w := range want {
		got, err := fairlead.Get(ctx, r.db, balances, k.Tenant, fmt.Sprintf("%s-%d", k.ID, r.n))
		if err != nil {
			return nil, err
		}
		if got.State != w {
			return nil, fmt.Errorf("wrong result: account %q of %q: got %+v, want %+v", k.ID, k.Tenant, got.State, w)
		}
	}
	return v.late(intended(intents)), nil
}

// at returns how far the rebuild is, and whether there is one.
func (r *rebuildRun) at(ctx context.Context) (at event.Position, there bool, err error) {
	err = r.db.View(ctx, func(tx store.Tx) error {
		p, err := tx.Processor(assets.Name())
		if err != nil || p.Rebuild == 0 {
			return err
		}
		l, err := tx.Lane(store.LaneID{Build: store.Build{Processor: p.Name, Number: p.Rebuild}})
		at, there = l.Position, true
		return err
	})
	return at, there, err
}

// waitFor waits until everything in the log is applied.
func (r *rebuildRun) waitFor(ctx context.Context, processors ...string) error {
	head, err := r.db.Head(ctx, 0)
	for _, p := range processors {
		if err == nil {
			err = r.c.WaitFor(ctx, p, eventlog.Token{Position: head})
		}
	}
	return err
}

// runRebuild measures what a rebuild does to live traffic on PostgreSQL: the
// latency of another projection's events, in turns without and with a rebuild of
// asset-store beside it.
func runRebuild(ctx context.Context, b *bench) (err error) {
	rate, unit, rounds, events := 200.0, 15*time.Second, 5, 0
	if b.quick {
		unit, rounds, events = 4*time.Second, 2, 200_000
	}
	server, err := b.postgresServer(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.close()) }()
	url, err := server.create(ctx, "")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.drop(ctx, url)) }()
	db, err := postgres.Open(ctx, url)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	set, err := b.openSet("asset-store")
	if err != nil {
		return err
	}
	defer func() { _ = set.Close() }()
	var in io.Reader = set
	if events > 0 {
		in = &head{r: bufio.NewReaderSize(set, 1<<20), left: events}
	}
	im := importer.Importer{Log: db}
	if err := im.Import(ctx, "asset-store", in); err != nil {
		return err
	}
	r := &rebuildRun{db: db, traffic: &trafficStore{Store: db}, admin: fairlead.Admin{Log: db, Store: db}}
	if r.c, err = fairlead.New(fairlead.Config{Log: db, Store: r.traffic}); err != nil {
		return err
	}
	if err := r.c.Add(ctx, fairlead.Project(assets), fairlead.Project(balances, fairlead.Options{Freshness: balanceObjective})); err != nil {
		return err
	}
	r.consumer = start(ctx, r.c)
	defer func() { err = errors.Join(err, r.consumer.stop()) }()
	if err := r.waitFor(ctx, assets.Name(), balances.Name()); err != nil {
		return err
	}
	if _, err := r.stretch(ctx, rate, unit/3); err != nil { // warm
		return err
	}
	var alone, beside, ratios, speed []float64
	for round := range rounds {
		without, err := r.stretch(ctx, rate, unit)
		if err != nil {
			return err
		}
		if err := r.admin.Rebuild(ctx, assets.Name(), "", fairlead.RebuildOptions{Review: true, Keep: -1}); err != nil {
			return err
		}
		began := time.Now()
		with, err := r.stretch(ctx, rate, unit)
		if err != nil {
			return err
		}
		at, there, err := r.at(ctx)
		if err != nil {
			return err
		}
		if head, err := db.Head(ctx, 0); err != nil || !there || at >= head {
			return errors.Join(err, fmt.Errorf("the rebuild was through before the stretch was: at %v of %v", at, head))
		}
		speed = append(speed, float64(at)/time.Since(began).Seconds())
		alone, beside = append(alone, ms(quantile(without, 0.99))), append(beside, ms(quantile(with, 0.99)))
		ratios = append(ratios, beside[round]/alone[round])
		if round < rounds-1 {
			if err := r.admin.CancelRebuild(ctx, assets.Name()); err != nil {
				return err
			}
			if err := r.purged(ctx); err != nil {
				return err
			}
		}
	}
	if err := r.through(ctx); err != nil {
		return err
	}
	cond := fmt.Sprintf("%d events of asset-store rebuilt beside %v events/s of account moves (Poisson, open loop from the intended time to the return of the commit), log and store in one PostgreSQL database, %d rounds of %v without and with the rebuild in turns, every balance compared, the rebuilt documents compared with the old ones",
		im.Counts.Appended, rate, rounds, unit)
	b.add("live P99 without", median(alone), "ms", line{}, "median of the rounds, %s; %s", spread(alone), cond)
	b.add("live P99 beside it", median(beside), "ms", line{}, "median of the rounds, %s; %s", spread(beside), cond)
	b.add("ratio of the P99", median(ratios), "times", atMost(2), "median of the rounds, %s; %s", spread(ratios), cond)
	b.add("rebuilt beside traffic", median(speed), "events/s", line{}, "median of the rounds, %s; %s", spread(speed), cond)
	return nil
}

// purged waits until the documents of the cancelled rebuild are deleted, so that
// this disturbs nothing that is measured.
func (r *rebuildRun) purged(ctx context.Context) error {
	for {
		ps, err := r.admin.Processors(ctx)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(ps, func(p store.Processor) bool { return len(p.Retired) > 0 }) {
			return nil
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// through lets the last rebuild come to its end, and compares it.
func (r *rebuildRun) through(ctx context.Context) error {
	head, err := r.db.Head(ctx, 0)
	if err != nil {
		return err
	}
	for {
		at, there, err := r.at(ctx)
		if err != nil || !there {
			return errors.Join(err, errors.New("the rebuild is not there any more"))
		}
		if at >= head {
			break
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-r.consumer.ended:
			return r.consumer.stop()
		}
	}
	c, err := r.admin.CompareRebuild(ctx, assets.Name(), "", fairlead.CompareOptions{})
	if err != nil {
		return err
	}
	if c.Differences() != 0 || c.InMotion != 0 || c.Equal == 0 {
		return fmt.Errorf("wrong result: the rebuilt documents: %+v %+v", c.Counts, c.Samples)
	}
	return nil
}
