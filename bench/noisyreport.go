package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/fairlead-dev/fairlead/postgres"
	"github.com/fairlead-dev/fairlead/sqlite"
)

// noisyPlan is what a run of the benchmark does.
type noisyPlan struct {
	warm, measured, drain time.Duration
	repeats               int
	shapes                []shape // for the engine
	fifo                  []shape // for the other arm, once each
	backlog               int     // events to calibrate with
	tax                   int     // events of the single tenant
	p99                   float64 // line of the index; 0: 2
}

func planNoisy(quick bool) noisyPlan {
	sustained := func(k float64) shape { return shape{name: "sustained", k: k} }
	burst := func(k float64) shape { return shape{name: "burst", k: k, burst: true} }
	slow := func(k float64) shape { return shape{name: "slow", k: k, slow: true} }
	if quick {
		return noisyPlan{
			warm: 600 * time.Millisecond, measured: 3 * time.Second, drain: 1500 * time.Millisecond, repeats: 1,
			shapes:  []shape{sustained(100), sustained(1000), burst(100), burst(1000), slow(100)},
			fifo:    []shape{sustained(100), sustained(1000)},
			backlog: 1500, tax: 400,
		}
	}
	p := noisyPlan{warm: 2 * time.Second, measured: 10 * time.Second, drain: 10 * time.Second, repeats: 5, backlog: 10_000, tax: 4000}
	for _, k := range []float64{10, 100, 1000} {
		p.shapes = append(p.shapes, sustained(k), burst(k), slow(k),
			shape{name: "failing", k: k, failing: true}, shape{name: "hot key", k: k, oneK: true})
	}
	p.fifo = p.shapes
	return p
}

func runNoisy(ctx context.Context, b *bench) error {
	n := 0
	b.fresh = func(context.Context) (database, func() error, error) {
		n++
		path := filepath.Join(b.dir, fmt.Sprintf("noisy-%d.db", n))
		db, err := sqlite.Open(path)
		return db, func() error { removeDB(path); return nil }, err
	}
	return b.noisy(ctx, planNoisy(b.quick), "embedded store")
}

// runNoisyPostgres is NN-k on PostgreSQL: fewer shapes for a shorter time.
func runNoisyPostgres(ctx context.Context, b *bench) (err error) {
	s, err := b.postgresServer(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	template, err := s.empty(ctx)
	if err != nil {
		return err
	}
	b.fresh = func(ctx context.Context) (database, func() error, error) {
		url, err := s.create(ctx, template)
		if err != nil {
			return nil, nil, err
		}
		db, err := postgres.Open(ctx, url)
		return db, func() error { return s.drop(ctx, url) }, err
	}
	return b.noisy(ctx, planNoisyServer(b.quick), s.settings)
}

// planNoisyServer is the plan where the log is a server: fewer shapes for a shorter time.
func planNoisyServer(quick bool) noisyPlan {
	plan := planNoisy(quick)
	if quick {
		plan.shapes = []shape{{name: "sustained", k: 1000}, {name: "burst", k: 1000, burst: true}}
		plan.fifo = plan.shapes[:1]
	} else {
		plan.warm, plan.measured, plan.drain, plan.repeats = time.Second, 5*time.Second, 5*time.Second, 3
		plan.backlog, plan.tax = 6000, 2000
		plan.shapes = []shape{
			{name: "sustained", k: 10}, {name: "sustained", k: 100}, {name: "sustained", k: 1000},
			{name: "burst", k: 1000, burst: true}, {name: "slow", k: 100, slow: true},
		}
		plan.fifo = plan.shapes[1:4]
	}
	return plan
}

// noisy runs a plan on databases that fresh makes.
func (b *bench) noisy(ctx context.Context, plan noisyPlan, where string) error {
	var capacities []float64
	for range max(3, plan.repeats) {
		c, err := b.backlogRate(ctx, engineArm, victims, plan.backlog/max(3, plan.repeats))
		if err != nil {
			return fmt.Errorf("capacity: %w", err)
		}
		capacities = append(capacities, c)
	}
	capacity := median(capacities)
	cond := fmt.Sprintf("%s, %d workers, handlers wait %v, %d victims share 0.5 C, C = %.0f events/s (%s), objective %v",
		where, noisyWorkers, noisyWait, victims, capacity, spread(capacities), noisyObjective)
	b.add("capacity", capacity, "events/s", line{}, "backlog of %d equal tenants; %s", victims, cond)
	if err := b.noisyTax(ctx, plan, cond); err != nil {
		return fmt.Errorf("single tenant: %w", err)
	}
	cond = fmt.Sprintf("%s; %v measured after %v, lag from the intended time to the handler's end, order of every key asserted", cond, plan.measured, plan.warm)
	return b.noisyShapes(ctx, plan, capacity, cond)
}

// noisyTax compares the two arms on a tenant that has the system for itself.
func (b *bench) noisyTax(ctx context.Context, plan noisyPlan, cond string) error {
	const runs = 5
	var on, off []float64
	for range runs {
		for _, a := range []struct {
			run   arm
			rates *[]float64
		}{{engineArm, &on}, {fifoArm, &off}} {
			v, err := b.backlogRate(ctx, a.run, 1, plan.tax)
			if err != nil {
				return err
			}
			*a.rates = append(*a.rates, v)
		}
	}
	tax := ratios(on, off)
	for i := range tax {
		tax[i] = 100 * (1 - tax[i])
	}
	b.add("single_tenant_tax", median(tax), "%", atMost(3), "one tenant's backlog of %d events, the engine against the loop without a scheduler (first in, first out) of the same binary; %s; median of %d interleaved runs; %s",
		plan.tax, spread(tax), runs, cond)
	return nil
}

// noisyShapes runs every shape in both arms, beside the victims alone.
func (b *bench) noisyShapes(ctx context.Context, plan noisyPlan, capacity float64, cond string) error {
	alone := shape{name: "alone"}
	outcomes := make([][]outcome, len(plan.shapes)) // by shape and repeat
	var quiet []outcome
	for repeat := range plan.repeats {
		o, err := b.noisyRun(ctx, engineArm, alone, noisyTrace(alone, capacity, plan.warm, plan.measured, uint64(repeat)), plan.drain)
		if err != nil {
			return fmt.Errorf("alone: %w", err)
		}
		quiet = append(quiet, o)
		for i, s := range plan.shapes {
			o, err := b.noisyRun(ctx, engineArm, s, noisyTrace(s, capacity, plan.warm, plan.measured, uint64(repeat)), plan.drain)
			if err != nil {
				return fmt.Errorf("%v: %w", s, err)
			}
			outcomes[i] = append(outcomes[i], o)
		}
	}
	b.add("p99_alone", medianOf(quiet, p99), "ms", line{}, "victims alone: %s; %d repeats; %s", brief(quiet), plan.repeats, cond)
	for i, s := range plan.shapes {
		b.noisyFigures("", s, plan, outcomes[i], quiet, capacity, fmt.Sprintf("engine, %d repeats; %s", plan.repeats, cond))
	}
	o, err := b.noisyRun(ctx, fifoArm, alone, noisyTrace(alone, capacity, plan.warm, plan.measured, 0), plan.drain)
	if err != nil {
		return fmt.Errorf("first in, first out, alone: %w", err)
	}
	quiet = []outcome{o}
	b.add("fifo_p99_alone", medianOf(quiet, p99), "ms", line{}, "victims alone: %s; first in, first out, once; %s", brief(quiet), cond)
	for _, s := range plan.fifo {
		o, err := b.noisyRun(ctx, fifoArm, s, noisyTrace(s, capacity, plan.warm, plan.measured, 0), plan.drain)
		if err != nil {
			return fmt.Errorf("first in, first out, %v: %w", s, err)
		}
		b.noisyFigures("fifo_", s, plan, []outcome{o}, quiet, capacity, "first in, first out, once; "+cond)
	}
	return nil
}

// noisyFigures prints what one shape did to the victims. Lines are the engine's.
func (b *bench) noisyFigures(prefix string, s shape, plan noisyPlan, got, alone []outcome, capacity float64, cond string) {
	index := func(f func(outcome) float64) float64 {
		r := make([]float64, len(got))
		for i := range got {
			r[i] = f(got[i]) / f(alone[i])
		}
		return median(r)
	}
	var hold50, hold99, holdExcess, holdWork line
	if prefix == "" {
		switch {
		case s.slow:
			holdExcess = atMost(2 * ms(slowFactor*noisyWait))
		case !s.failing && !s.oneK: // sustained and burst
			hold50, hold99 = atMost(1.5), atMost(cmp.Or(plan.p99, 2))
		}
		holdWork = atLeast(0.95)
	}
	cond = fmt.Sprintf("%v: %s; %s", s, brief(got), cond)
	b.add(prefix+"p50_index", index(p50), "x", hold50, "%s", cond)
	b.add(prefix+"p99_index", index(p99), "x", hold99, "%s", cond)
	b.add(prefix+"excess_p99", medianOf(got, p99)-medianOf(alone, p99), "ms", holdExcess, "%s", cond)
	// Work is conserved where there is more than enough of it, of events that
	// cost what the capacity was measured with. A burst is over too soon.
	if !s.slow && !s.failing && !s.oneK && !s.burst && victimShare*(1+s.k/victims) > 1.2 {
		b.add(prefix+"work_conservation", medianOf(got, func(o outcome) float64 { return o.perSecond / capacity }), "x", holdWork, "handlers that ended in the measured time to C; %s", cond)
	}
}

func p50(o outcome) float64 { return ms(quantile(o.late, 0.5)) }
func p99(o outcome) float64 { return ms(quantile(o.late, 0.99)) }

func medianOf(got []outcome, f func(outcome) float64) float64 {
	v := make([]float64, len(got))
	for i := range got {
		v[i] = f(got[i])
	}
	return median(v)
}

// brief says what victims felt, in milliseconds.
func brief(got []outcome) string {
	unfinished, worst := 0, 0.0
	for _, o := range got {
		unfinished += o.unfinished
		worst = max(worst, ms(o.late[len(o.late)-1]))
	}
	return fmt.Sprintf("victims' P50 %s P99 %s max %s worst victim's P99 %s ms, %d of theirs unfinished, in the log P99 %s ms, noisy tenant %s events/s, all %s events/s",
		number(medianOf(got, p50)), number(medianOf(got, p99)), number(worst), number(medianOf(got, func(o outcome) float64 { return ms(o.worst) })), unfinished,
		number(medianOf(got, func(o outcome) float64 { return ms(o.appended) })),
		number(medianOf(got, func(o outcome) float64 { return o.noise })), number(medianOf(got, func(o outcome) float64 { return o.perSecond })))
}
