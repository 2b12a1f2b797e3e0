package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/slo"
	"github.com/fairlead-dev/fairlead/store"
)

// noisyObjective is what the reactor owes: about ten times the victims' own P50.
var noisyObjective = slo.Objective{P99: 50 * time.Millisecond, Max: time.Second}

// An outcome is what one run of NN-k came to.
type outcome struct {
	late       []time.Duration // of the victims' measured events, sorted
	worst      time.Duration   // the highest P99 of a single victim
	unfinished int             // measured events that did not end in time; they count with what they had waited
	perSecond  float64         // all handlers that ended in the measured time
	noise      float64         // those of the noisy tenant
	most       int64           // handlers at once
	appended   time.Duration   // P99 from the intended time of a victim's event to its being in the log
}

// A probe is the handler of both arms: it waits, and notes what it sees.
type probe struct {
	shape shape
	trace *trace
	start time.Time
	order *orderCheck
	busy  atomic.Int64
	most  atomic.Int64
	fault atomic.Pointer[error]
	fails sync.Map // number of a noisy event -> how often it has failed

	mu          sync.Mutex
	ended       []time.Duration // by the event's number; 0: not yet
	left        int
	all, noise  int // handlers that ended in the measured time
	allMeasured chan struct{}
}

func newProbe(s shape, t *trace) *probe {
	return &probe{shape: s, trace: t, order: newOrderCheck(), ended: make([]time.Duration, len(t.events)), left: t.count, allMeasured: make(chan struct{})}
}

var errNoisy = errors.New("the other system is down")

func (p *probe) handle(e *event.Event) error {
	i, err := strconv.Atoi(string(e.Data))
	if err != nil || i < 0 || i >= len(p.trace.events) {
		err := fmt.Errorf("wrong result: payload %q", e.Data)
		p.fault.CompareAndSwap(nil, &err)
		return nil
	}
	end := p.order.begin(e.Stream, e.Version)
	for n, old := p.busy.Add(1), p.most.Load(); n > old && !p.most.CompareAndSwap(old, n); old = p.most.Load() {
	}
	ev := &p.trace.events[i]
	wait := noisyWait
	if ev.noisy && p.shape.slow {
		wait *= slowFactor
	}
	ioWait(wait)
	p.busy.Add(-1)
	if ev.noisy && p.shape.failing {
		n, _ := p.fails.LoadOrStore(i, new(int))
		if times := n.(*int); *times < failTimes { // one handler at a time has this event
			*times++
			end(false)
			return errNoisy
		}
		p.fails.Delete(i)
	}
	end(true)
	now := time.Since(p.start)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended[i] != 0 {
		err := fmt.Errorf("wrong result: version %d of %q was handled twice", e.Version, e.Stream)
		p.fault.CompareAndSwap(nil, &err)
	}
	p.ended[i] = now
	if now >= p.trace.from && now < p.trace.to {
		p.all++
		if ev.noisy {
			p.noise++
		}
	}
	if ev.measured {
		if p.left--; p.left == 0 {
			close(p.allMeasured)
		}
	}
	return nil
}

// outcome sums up a run that was stopped at a time.
func (p *probe) outcome(stopped time.Duration) (outcome, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var o outcome
	byVictim := make([][]time.Duration, victims)
	for i := range p.trace.events {
		ev := &p.trace.events[i]
		if !ev.measured {
			continue
		}
		ended := p.ended[i]
		if ended == 0 {
			ended = stopped
			o.unfinished++
		}
		o.late = append(o.late, ended-ev.intended)
		byVictim[ev.victim] = append(byVictim[ev.victim], ended-ev.intended)
	}
	slices.Sort(o.late)
	for _, late := range byVictim {
		slices.Sort(late)
		o.worst = max(o.worst, quantile(late, 0.99))
	}
	seconds := (p.trace.to - p.trace.from).Seconds()
	o.perSecond, o.noise = float64(p.all)/seconds, float64(p.noise)/seconds
	o.most = p.most.Load()
	if err := p.fault.Load(); err != nil {
		return o, *err
	}
	if o.most > noisyWorkers {
		return o, fmt.Errorf("wrong result: %d handlers at once, at most %d are allowed", o.most, noisyWorkers)
	}
	return o, p.order.err()
}

// An arm runs a probe over a log until stop is called, which waits for its end.
type arm func(ctx context.Context, db database, p *probe) (stop func() error, err error)

// engineArm is Fairlead: a reactor with its defaults, but for the objective.
func engineArm(ctx context.Context, db database, p *probe) (stop func() error, err error) {
	cfg := fairlead.Config{Log: db, Store: db}
	if two, ok := db.(interface {
		split() (eventlog.Log, store.Store)
	}); ok {
		cfg.Log, cfg.Store = two.split()
	}
	c, err := fairlead.New(cfg)
	if err != nil {
		return nil, err
	}
	r := fairlead.React("probe", func(_ context.Context, d fairlead.Delivery) error { return p.handle(d.Event) }, fairlead.Options{
		Concurrency: noisyWorkers, Freshness: noisyObjective,
		Retry: fairlead.Retry{Attempts: failTimes + 3, Min: 20 * time.Millisecond, Max: time.Second},
	})
	if err := c.Add(ctx, r); err != nil {
		return nil, err
	}
	consumer := start(ctx, c)
	if err := consumer.atWork(c, "probe"); err != nil {
		return nil, errors.Join(err, consumer.stop())
	}
	return consumer.stop, nil
}

// fifoArm is the first-in, first-out consumer. It repeats a call that fails
// where it stands, with the same pauses.
func fifoArm(ctx context.Context, db database, p *probe) (stop func() error, err error) {
	ctx, cancel := context.WithCancel(ctx)
	f := fifo{handle: func(e *event.Event) {
		for pause := 20 * time.Millisecond; ctx.Err() == nil && p.handle(e) != nil; pause *= 2 {
			handlerWait(pause)
		}
	}}
	ended := make(chan error, 1)
	go func() { ended <- f.run(ctx, db, noisyWorkers) }()
	return func() error {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			return err
		}
		return nil
	}, nil
}

// noisyRun runs one arm on one trace, on a database of its own.
func (b *bench) noisyRun(ctx context.Context, run arm, s shape, t *trace, drain time.Duration) (o outcome, err error) {
	db, remove, err := b.fresh(ctx)
	if err != nil {
		return o, err
	}
	defer func() { err = errors.Join(err, db.Close(), remove()) }()
	p := newProbe(s, t)
	p.start = time.Now().Add(time.Hour) // until the load begins nothing is handled
	stop, err := run(ctx, db, p)
	if err != nil {
		return o, err
	}
	p.start = time.Now()
	// The noisy tenant does not stand in the victims' way before the log: it
	// has an appender of its own.
	noise := make(chan error, 1)
	lctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { noise <- openLoop(lctx, db, p.start, t.noise, nil) }()
	var appended []time.Duration // the victims': from the intended time to in the log
	err = openLoop(ctx, db, p.start, t.intents, func(n int) {
		now := time.Since(p.start)
		for range n {
			if at := t.intents[len(appended)].at; at >= t.from {
				appended = append(appended, now-at)
			} else {
				appended = append(appended, 0)
			}
		}
	})
	if err != nil {
		cancel()
		return o, errors.Join(err, <-noise, stop())
	}
	select {
	case <-p.allMeasured:
	case <-time.After(time.Until(p.start.Add(t.to + drain))):
	}
	stopped := time.Since(p.start)
	cancel() // what is left of the noise is of no interest
	if err := <-noise; err != nil && !errors.Is(err, context.Canceled) {
		return o, errors.Join(err, stop())
	}
	if err := stop(); err != nil {
		return o, err
	}
	o, err = p.outcome(stopped)
	slices.Sort(appended)
	o.appended = quantile(appended, 0.99)
	return o, err
}

// backlogRate measures how many events a second an arm handles of a backlog of
// so many tenants.
func (b *bench) backlogRate(ctx context.Context, run arm, tenants, events int) (perSecond float64, err error) {
	db, remove, err := b.fresh(ctx)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, db.Close(), remove()) }()
	t := &trace{to: time.Hour, count: events}
	for i := range events {
		tenant := fmt.Sprintf(victimsTenant, i%tenants)
		t.intents = append(t.intents, intent{tenant: tenant, stream: fmt.Sprintf("%s/%d", tenant, i/tenants%100),
			typ: "Happened", data: strconv.AppendInt(nil, int64(i), 10)})
		t.events = append(t.events, noisyEvent{measured: true})
	}
	if err := openLoop(ctx, db, time.Now(), t.intents, nil); err != nil {
		return 0, err
	}
	p := newProbe(shape{}, t)
	p.start = time.Now()
	stop, err := run(ctx, db, p)
	if err != nil {
		return 0, err
	}
	select {
	case <-p.allMeasured:
	case <-time.After(time.Minute + 4*time.Duration(events)*noisyWait/noisyWorkers):
	}
	if err := stop(); err != nil {
		return 0, err
	}
	if _, err := p.outcome(0); err != nil {
		return 0, err
	}
	if p.left > 0 {
		return 0, fmt.Errorf("wrong result: %d of %d events of a backlog were not handled", p.left, events)
	}
	// From the end of the first handler to that of the last: the start of the
	// consumer is not a part of it.
	return float64(events-1) / (slices.Max(p.ended) - slices.Min(p.ended)).Seconds(), nil
}
