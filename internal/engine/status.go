package engine

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/internal/lane"
	"github.com/fairlead-dev/fairlead/slo"
	"github.com/fairlead-dev/fairlead/store"
)

// A laneStatus is what a running lane tells of itself. Safe for concurrent use,
// but for chase.
type laneStatus struct {
	position atomic.Int64
	worked   atomic.Int64 // nanoseconds
	chase    chase

	mu  sync.Mutex
	err error
}

func (s *laneStatus) set(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

func (s *laneStatus) clear() { s.set(nil) }

func (s *laneStatus) last() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// procStats are a processor's figures in this process.
type procStats struct {
	mu     sync.Mutex
	window *slo.Window
	events int64
	counts counts
	errs   map[store.LaneID]error
}

func (s *procStats) failed(id store.LaneID, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.errs == nil {
		s.errs = map[store.LaneID]error{}
	}
	s.errs[id] = err
}

// started forgets why a lane ended: it runs again.
func (s *procStats) started(id store.LaneID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.errs, id)
}

// note records what a batch of the live build did, and how long its events took
// from the log to their commit. A rebuild's events are old: they would say
// nothing of how fresh readers see the model.
func (e *Engine) note(p *Processor, b *batch, live bool, now time.Time) {
	a, err := e.processor(p.Name)
	if err != nil || !live {
		return
	}
	a.stats.mu.Lock()
	defer a.stats.mu.Unlock()
	a.stats.counts.add(&b.counts)
	a.stats.events += int64(b.events)
	for _, g := range b.ages {
		a.stats.window.RecordN(now, now.Sub(g.at), g.events)
	}
}

// Stats are the figures of a processor's live build in this process.
type Stats struct {
	Events    int64                  // applied since it was added
	Freshness slo.Summary            // from the log to the commit, over the last five minutes
	Passed    int64                  // of a type, or a tenant, that it does not handle
	Excluded  int64                  // left to another lane, because their tenant has one of its own
	Repeated  int64                  // at or below what their document has reached already
	Lanes     int                    // worked here
	Unowned   int                    // that should be worked and that no live process had when it was last looked; raise an alarm if it stays above 0
	Errors    map[store.LaneID]error // of lanes at work here, or why nobody may work one
}

// Names returns the names of the processors that were added, in byte order.
func (e *Engine) Names() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Sorted(maps.Keys(e.procs))
}

// Stats returns the figures of a processor.
func (e *Engine) Stats(name string) (Stats, error) {
	a, err := e.processor(name)
	if err != nil {
		return Stats{}, err
	}
	st := Stats{Errors: map[store.LaneID]error{}}
	e.mu.Lock()
	st.Unowned = len(a.unowned)
	for id, err := range a.unowned {
		if err != nil {
			st.Errors[id] = err
		}
	}
	for id, o := range a.lanes {
		st.Lanes++
		if err := o.runner.report().last(); err != nil {
			st.Errors[id] = err
		}
	}
	e.mu.Unlock()
	a.stats.mu.Lock()
	defer a.stats.mu.Unlock()
	maps.Copy(st.Errors, a.stats.errs)
	st.Events, st.Freshness = a.stats.events, a.stats.window.Summary(time.Now())
	st.Passed, st.Excluded, st.Repeated = a.stats.counts.passed, a.stats.counts.excluded, a.stats.counts.duplicates
	return st, nil
}

// WaitFor returns when a processor's read model has everything up to token, or
// ctx ends. It works from any process on the same store.
func (e *Engine) WaitFor(ctx context.Context, processor string, token eventlog.Token) error {
	for {
		progress := e.progress.wait()
		ok, err := Reached(ctx, e.log, e.store, processor, token)
		if ok || err != nil {
			return err
		}
		if a, err := e.processor(processor); err == nil {
			for _, o := range e.lanesOf(a) {
				o.runner.flush()
			}
		}
		select {
		case <-progress:
		case <-time.After(5 * time.Millisecond): // another process may have it
		case <-ctx.Done():
			return fmt.Errorf("wait for processor %q to reach position %v: %w", processor, token.Position, ctx.Err())
		}
	}
}

// Reached reports whether a processor has applied everything up to token.
func Reached(ctx context.Context, log eventlog.Log, s store.Store, processor string, token eventlog.Token) (ok bool, err error) {
	logParts, err := log.Partitions(ctx)
	if err != nil {
		return false, err
	}
	err = s.View(ctx, func(tx store.Tx) error {
		p, err := tx.Processor(processor)
		if err != nil {
			return fmt.Errorf("processor %q: %w", processor, err)
		}
		lanes, err := tx.Lanes(processor)
		if err != nil {
			return err
		}
		// The partition may be so new that it has no lanes yet.
		ok = logParts <= 1 || token.Partition < p.Partitions
		if len(token.Tenants) == 0 { // everybody's events
			for _, l := range lanes {
				ok = ok && (l.Number != p.Live || logParts > 1 && l.Partition != token.Partition || l.Position >= token.Position)
			}
		}
		for _, t := range token.Tenants {
			for _, l := range lanes {
				if l.Number != p.Live || l.Tenant != "" || logParts > 1 && l.Partition != token.Partition {
					continue // lanes follow the log's partitions
				}
				ok = ok && lane.Covered(lanes, p.Live, l.Partition, t) >= token.Position
			}
		}
		return nil
	})
	return ok, err
}
