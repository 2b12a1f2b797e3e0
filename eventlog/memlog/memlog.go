// Package memlog is the event log in memory: for tests, simulations and the
// first minutes with Fairlead. It forgets everything with its process.
package memlog

import (
	"context"
	"fmt"
	"hash/fnv"
	"slices"
	"sort"
	"sync"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
)

// A Log is an [eventlog.Log] in memory. It is an [eventlog.Appender], an
// [eventlog.StreamReader], an [eventlog.Counter] and an [eventlog.TenantCounter] too. It has no goroutine of
// its own, never blocks with its lock held, and reads the time with time.Now, so
// it works in a testing/synctest bubble. Equal calls in equal order give equal
// positions.
type Log struct {
	gaps int // every gaps-th number is left out; 0: none

	mu      sync.Mutex
	parts   []*partition
	streams map[eventlog.StreamRef]*stream
	ids     map[string]place
}

// A partition is one log partition. Its events are never changed once they are
// there, because pages share them.
type partition struct {
	events []event.Event  // by position
	last   event.Position // of the last event that was ever appended
	gone   event.Position // of the last event that was dropped
	wake   chan struct{}  // closed by the next append; nil: nobody waits
}

// A stream is what is known of one stream, dropped events included.
type stream struct {
	ref       eventlog.StreamRef
	partition int
	positions []event.Position // of version 1, 2, 3, ...
}

func (s *stream) version() int64 { return int64(len(s.positions)) }

// A place is where an event id is.
type place struct {
	stream  *stream
	version int64
}

// An Option changes what [New] makes.
type Option func(*Log)

// WithPartitions gives the log n partitions; the default is 1. A stream belongs
// to the partition that a hash of its tenant and name selects.
func WithPartitions(n int) Option {
	if n < 1 {
		panic(fmt.Sprintf("memlog: %d partitions, want at least 1", n))
	}
	return func(l *Log) { l.parts = make([]*partition, n) }
}

// WithGaps leaves out every k-th position (k at least 2), as a log does in which
// transactions roll back, so that nobody comes to rely on dense positions.
func WithGaps(k int) Option {
	if k < 2 {
		panic(fmt.Sprintf("memlog: a gap at every %d positions, want at least 2", k))
	}
	return func(l *Log) { l.gaps = k }
}

// New returns an empty log.
func New(opts ...Option) *Log {
	l := &Log{
		parts:   make([]*partition, 1),
		streams: make(map[eventlog.StreamRef]*stream),
		ids:     make(map[string]place),
	}
	for _, o := range opts {
		o(l)
	}
	for i := range l.parts {
		l.parts[i] = new(partition)
	}
	return l
}

// Truncate drops the events of a partition at positions below before, as
// retention does. Versions and event ids are remembered.
func (l *Log) Truncate(partition int, before event.Position) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	p, err := l.partition(partition)
	if err != nil {
		return err
	}
	n := p.after(before - 1)
	if n == 0 {
		return nil
	}
	p.gone = p.events[n-1].Position
	p.events = slices.Clone(p.events[n:]) // a clone, so that the others can be freed
	return nil
}

// Partitions implements [eventlog.Log].
func (l *Log) Partitions(ctx context.Context) (int, error) {
	return len(l.parts), ctx.Err()
}

// Head implements [eventlog.Log].
func (l *Log) Head(ctx context.Context, partition int) (event.Position, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	p, err := l.partition(partition)
	if err != nil {
		return 0, err
	}
	return p.last, nil
}

// KnownHead implements [eventlog.HeadKnower].
func (l *Log) KnownHead(partition int) event.Position {
	l.mu.Lock()
	defer l.mu.Unlock()
	p, err := l.partition(partition)
	if err != nil {
		return 0
	}
	return p.last
}

// Wait implements [eventlog.Log]. It does not return early.
func (l *Log) Wait(ctx context.Context, partition int, after event.Position) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		l.mu.Lock()
		p, err := l.partition(partition)
		if err != nil || p.last > after {
			l.mu.Unlock()
			return err
		}
		if p.wake == nil {
			// Made here and not in New: a channel belongs to the synctest bubble
			// of its maker, and a log may be older than the bubble.
			p.wake = make(chan struct{})
		}
		wake := p.wake
		l.mu.Unlock()
		select {
		case <-wake:
		case <-ctx.Done():
		}
	}
}

// PositionAt implements [eventlog.Log].
func (l *Log) PositionAt(ctx context.Context, partition int, t time.Time) (event.Position, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	p, err := l.partition(partition)
	if err != nil {
		return 0, err
	}
	i := sort.Search(len(p.events), func(i int) bool { return !p.events[i].RecordedAt.Before(t) })
	if i == len(p.events) {
		return p.last, nil
	}
	return p.events[i].Position - 1, nil
}

// partition returns a partition, for a caller that holds the lock.
func (l *Log) partition(i int) (*partition, error) {
	if i < 0 || i >= len(l.parts) {
		return nil, fmt.Errorf("memlog: no partition %d, the log has %d", i, len(l.parts))
	}
	return l.parts[i], nil
}

// partitionOf returns the number of a stream's partition. The tenant's length
// comes first, so that ("a", "bc") and ("ab", "c") need not share one.
func (l *Log) partitionOf(ref eventlog.StreamRef) int {
	h := fnv.New32a()
	fmt.Fprintf(h, "%d:%s/%s", len(ref.Tenant), ref.Tenant, ref.Stream)
	return int(h.Sum32() % uint32(len(l.parts)))
}

// after returns the index of the first event with a position above x.
func (p *partition) after(x event.Position) int {
	return sort.Search(len(p.events), func(i int) bool { return p.events[i].Position > x })
}

// truncated returns a [*eventlog.TruncatedError] where an event that follows
// after is gone.
func (p *partition) truncated(partition int, after event.Position) error {
	if after >= p.gone {
		return nil
	}
	first := p.gone + 1
	if len(p.events) > 0 {
		first = p.events[0].Position
	}
	return &eventlog.TruncatedError{Partition: partition, After: after, First: first}
}
