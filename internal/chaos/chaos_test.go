package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// TestChaos is the whole of it. The seed, which is printed with everything that is
// done, fixes what is done, to whom and when; FAIRLEAD_CHAOS_SEED sets it, and
// FAIRLEAD_CHAOS_TIME for how long.
func TestChaos(t *testing.T) {
	short := time.Minute
	if os.Getenv("CI") != "" {
		short = 2 * time.Minute
	}
	length, seed := asked(t, short)
	workers := 4 + rand.New(rand.NewPCG(seed, 0)).IntN(5)
	f := newFleet(t, seed, workers)
	f.workers[0].env = append(f.workers[0].env, poolVar+"="+pool)
	t.Logf("seed %d, %v, %d workers", seed, length, workers)
	f.chaos(t, length, schedule(seed, length, workers, &f.plan))
	if err := f.settle(t, length); err != nil {
		t.Errorf("seed %d: %v", seed, err)
	}
}

// asked returns for how long to disturb and the seed, by the environment.
func asked(t *testing.T, length time.Duration) (time.Duration, uint64) {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if v := os.Getenv("FAIRLEAD_CHAOS_TIME"); v != "" {
		d, err := time.ParseDuration(v)
		if err != nil {
			t.Fatal(err)
		}
		length = d
	}
	if v := os.Getenv("FAIRLEAD_CHAOS_SEED"); v != "" {
		n, err := strconv.ParseUint(v, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		seed = n
	}
	return length, seed
}

// chaos runs a fleet through a schedule.
func (f *fleet) chaos(t *testing.T, length time.Duration, all []fault) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	f.begun = time.Now()
	for _, p := range f.all() {
		p.busy.Lock()
		p.start()
		p.busy.Unlock()
	}
	if f.topic == nil {
		wg.Go(func() { f.tidy(ctx) })
	}
	wg.Go(func() { f.operate(ctx) })
	f.disturb(ctx, all)
	rest(ctx, length-time.Since(f.begun))
	if length >= wholeList {
		f.makeUp(ctx, all, 2*length, f.owed)
	}
}

// settle ends the load, lets everything be applied, and checks all of it.
func (f *fleet) settle(t *testing.T, length time.Duration) error {
	t.Helper()
	ctx := t.Context()
	f.note("the load ends")
	for _, p := range f.loaders {
		p.busy.Lock()
		p.leave()
		p.busy.Unlock()
	}
	for _, w := range f.workers { // with all processors again, in their first version
		w.busy.Lock()
		w.leave()
		w.start()
		w.busy.Unlock()
	}
	if err := f.finish(ctx); err != nil {
		return fmt.Errorf("catch up: %w", err)
	}
	f.note("all is applied")
	c, err := pgx.Connect(ctx, f.server.URL)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close(context.Background()) }()
	out, err := pgx.Connect(ctx, f.outside)
	if err != nil {
		return err
	}
	defer func() { _ = out.Close(context.Background()) }()

	var bad findings
	h, err := readLog(ctx, c, &bad)
	if err != nil {
		return err
	}
	w := onServer(c)
	acks, err := h.acknowledged(f.dir, &bad)
	if err != nil {
		return err
	}
	if err := timely(ctx, c, &bad); err != nil {
		return err
	}
	letters, err := h.letters(ctx, f, &bad)
	if err != nil {
		return err
	}
	sessions, err := f.connections(ctx)
	if err != nil {
		return err
	}
	for name, n := range sessions {
		if strings.HasPrefix(name, "chaos-w") && n > maxConns+1 {
			bad.add("connections", "%s has %d, more than its MaxConns and the one that listens", name, n)
		}
	}
	if err := f.heal(ctx); err != nil {
		return fmt.Errorf("heal: %w", err)
	}
	if err := h.documents(ctx, w, &bad); err != nil {
		return err
	}
	if err := h.audited(ctx, w, &bad); err != nil {
		return err
	}
	commits, err := committed(ctx, w, &bad)
	if err != nil {
		return err
	}
	o, err := h.effects(ctx, out, &bad)
	if err != nil {
		return err
	}
	if err := apart(ctx, c, &bad); err != nil {
		return err
	}
	if err := f.happened(ctx, f.witnessed(w, out), length, &bad); err != nil {
		return err
	}
	for _, w := range f.workers {
		w.busy.Lock()
		w.leave()
		w.busy.Unlock()
	}
	if err := f.none(ctx); err != nil {
		bad.add("connections", "%v", err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, err := range f.ended {
		bad.add("processes", "%v", err)
	}
	f.note("%d events in %d streams, %d acknowledged, %d poison, %d dead letters; %d commits; %d effects, %d of them again, %d refused",
		len(h.events), len(h.streams), acks, len(f.planted), letters, commits, o.effects, o.again, o.refused)
	if len(h.events) < 100 || o.effects < len(h.events) {
		bad.add("load", "%d events, %d effects: too little to prove anything", len(h.events), o.effects)
	}
	return bad.err()
}
