// Package engine runs lanes: it reads a log, groups events by ordering key,
// runs them, and commits what they change under the fence of their lane. The
// decisions are in plain state machines without clock or goroutines (batchLane,
// streamLane, isolation, the queues of package fair); thin shells around them
// do the waiting.
package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/internal/lane"
	"github.com/fairlead-dev/fairlead/partition"
	"github.com/fairlead-dev/fairlead/projection"
	"github.com/fairlead-dev/fairlead/slo"
	"github.com/fairlead-dev/fairlead/store"
)

// Kinds of processors, as they stand in store.Processor.Kind.
const (
	KindProjection = "projection"
	KindBatch      = "batch"
	KindReactor    = "reactor"
)

// A Processor is a named consumer of events, with every default filled in.
// Exactly one of Projection, Batch and React is set.
type Processor struct {
	Name       string
	Projection projection.Definition
	Batch      func(ctx context.Context, tx any, events []event.Event) error
	React      func(ctx context.Context, d Delivery) error

	OrderBy     func(*event.Event) string // ordering key of Batch and React; nil: the stream
	Partitions  int
	PartitionBy func(*event.Event) string // nil: what the documents allow
	Types       []string                  // nil: what the processor handles
	Tenants     []string                  // nil: all
	Classes     []string                  // of traffic; "" for events without one; nil: all
	Start       Start
	Freshness   slo.Objective
	Retry       Retry
	Poison      Policy
	Concurrency int           // handlers at once: reactors; groups of a batch at once: projections
	Timeout     time.Duration // of one call of React; 0: none
	NoIsolation bool          // never detach a tenant automatically

	RebuildChanged bool     // begin a rebuild by itself where the projection's version has changed
	Rebuild        lane.How // how

	follows bool // its partitions are those of the log; set by Engine.Add
}

// logClasses returns the traffic classes that the log is asked for; nil: all.
// Nearly all events are production's, so where those are wanted a page that is
// shared with other lanes is passed through for less than it is read again; the
// few of other classes alone the log has an index of.
func (p *Processor) logClasses() []string {
	if slices.Contains(p.Classes, "") {
		return nil
	}
	return p.Classes
}

// Kind returns the processor's kind.
func (p *Processor) Kind() string {
	switch {
	case p.Projection != nil:
		return KindProjection
	case p.Batch != nil:
		return KindBatch
	}
	return KindReactor
}

// crossTenant reports whether the processor's results belong to no tenant.
func (p *Processor) crossTenant() bool { return p.Projection != nil && p.Projection.CrossTenant() }

// bucket reports whether e, of the log partition that partition i reads, belongs
// to partition i: everything does where the log has partitions of its own, else
// what falls into bucket i of so many.
func (p *Processor) bucket(e *event.Event, i, of int) bool {
	return of <= 1 || p.follows || p.share(e, of) == i
}

// share returns the bucket of e among so many.
func (p *Processor) share(e *event.Event, of int) int {
	var key string
	switch {
	case p.PartitionBy != nil:
		key = p.PartitionBy(e)
	case !p.byStream():
		key = e.Tenant // documents belong to one tenant, so this is always safe
	default:
		key = e.Tenant + "\x00" + e.Stream
	}
	return partition.Bucket(key, of)
}

// logBucket returns the bucket of the log that has all events of a lane's
// partition, so that the log may leave out others; nil where only the whole log
// has them. It is the same for as long as the lane has one owner.
func (p *Processor) logBucket(l *store.Lane) *eventlog.Bucket {
	of := cmp.Or(l.Of, p.Partitions)
	if of <= 1 || p.follows || p.PartitionBy != nil {
		return nil
	}
	return &eventlog.Bucket{ByStream: p.byStream(), Modulus: of, Residue: l.Partition}
}

// shares returns what tells the partitions apart, as it stands in [store.Builds].
func (p *Processor) shares() string {
	switch {
	case p.PartitionBy != nil:
		return lane.SharesOwn
	case p.byStream():
		return lane.SharesStreams
	}
	return lane.SharesTenants
}

// byStream reports whether a stream, and not a whole tenant, is in one partition.
func (p *Processor) byStream() bool { return p.Projection == nil || p.Projection.ByStream() }

// inBucket is bucket where a panic of PartitionBy is an error, and the event is
// partition 0's.
func (p *Processor) inBucket(e *event.Event, i, of int) (mine bool, fault *projection.HandlerError) {
	defer func() {
		if v := recover(); v != nil {
			mine, fault = i == 0, panicOf("partition key", v)
		}
	}()
	return p.bucket(e, i, of), nil
}

// safeOrderKey is orderKey where a panic is an error.
func (p *Processor) safeOrderKey(e *event.Event) (key string, fault *projection.HandlerError) {
	defer func() {
		if v := recover(); v != nil {
			fault = panicOf("ordering key", v)
		}
	}()
	return p.orderKey(e), nil
}

func panicOf(what string, v any) *projection.HandlerError {
	return &projection.HandlerError{Reason: "panic", Err: fmt.Errorf("%s: %v", what, v), Stack: debug.Stack()}
}

// orderKey returns the ordering key of an event of Batch or React.
func (p *Processor) orderKey(e *event.Event) string {
	if p.OrderBy != nil {
		return p.OrderBy(e)
	}
	return e.Stream
}

// checkShared returns an error if events of one document, or of one ordering
// key, may be in several partitions. Whoever sets PartitionBy says that they are
// not; on a log with partitions of its own it says how that one is cut.
func (p *Processor) checkShared() error {
	what := ""
	switch {
	case p.Partitions <= 1 || p.PartitionBy != nil:
	case p.crossTenant():
		what = "folds all tenants into shared documents"
	case p.follows && p.Projection != nil && !p.Projection.ByStream():
		what = "chooses its documents itself, so one may get events from several partitions of the log"
	case p.Projection == nil && p.OrderBy != nil:
		what = "has an ordering key of its own, which several partitions may have"
	}
	if what == "" {
		return nil
	}
	return fmt.Errorf("processor %q: %s: more than one partition needs PartitionBy, which says what keeps them together", p.Name, what)
}

// A Delivery is an event handed to a reactor.
type Delivery struct {
	*event.Event
	// IdempotencyKey is the same each time this processor is handed this event,
	// and for no other: an outside system can refuse what it has seen.
	IdempotencyKey string
	// Epoch is the fencing number of the lane. An outside system that remembers
	// the highest one can refuse a process that lost its lane. It is compared
	// within one lane only.
	Epoch   int64
	Lane    string
	Attempt int // from 1
}

// Start says where a new processor begins.
type Start struct {
	kind     uint8 // 0 beginning, 1 now, 2 position, 3 time, 4 positions
	position event.Position
	time     time.Time
	each     *map[int]event.Position
}

// FromBeginning starts at the first event.
func FromBeginning() Start { return Start{} }

// FromNow starts after the last event there is as the processor is first added.
func FromNow() Start { return Start{kind: 1} }

// FromPosition starts after position p of every log partition.
func FromPosition(p event.Position) Start { return Start{kind: 2, position: p} }

// FromPositions starts after a position of each log partition, and in one that is not
// in the map after the last event that there is.
func FromPositions(m map[int]event.Position) Start { return Start{kind: 4, each: &m} }

// FromTime starts at the first event recorded at or after t.
func FromTime(t time.Time) Start { return Start{kind: 3, time: t} }

func (s Start) resolve(ctx context.Context, log eventlog.Log, partition int) (event.Position, error) {
	switch s.kind {
	case 1:
		return log.Head(ctx, partition)
	case 2:
		return s.position, nil
	case 3:
		return log.PositionAt(ctx, partition, s.time)
	case 4:
		if p, ok := (*s.each)[partition]; ok {
			return p, nil
		}
		return log.Head(ctx, partition)
	}
	return event.Beginning, nil
}

// A Policy says what happens to an event that stays poison after all retries.
type Policy uint8

const (
	// ParkKey moves the event, and all later ones of its ordering key, to the
	// dead letters, in order. Everything else flows on.
	ParkKey Policy = iota
	// ParkTenant stops the event's tenant before the event, until it is resumed.
	ParkTenant
	// SkipAndRecord puts the event into the dead letters; later ones of its key
	// are applied.
	SkipAndRecord
	// StopLane stops the lane before the event, until the processor is resumed;
	// a restart of the process does not.
	StopLane
)

func (p Policy) String() string {
	return [...]string{"park key", "park tenant", "skip and record", "stop"}[p]
}

// Retry says how often, and with what pauses, a failing call is repeated.
type Retry struct {
	Attempts int           // calls in all
	Min, Max time.Duration // the first pause, and the longest; each is twice the one before
	// Classify tells errors that a repetition cannot heal from others; nil:
	// only those made by [Permanent].
	Classify func(error) Class
}

// A Class is what a [Retry] makes of an error.
type Class uint8

const (
	Transient Class = iota // try again
	Fatal                  // poison at once
)

type permanentError struct{ error }

func (e permanentError) Unwrap() error { return e.error }

// Permanent marks an error that no repetition heals.
func Permanent(err error) error { return permanentError{err} }

// gaveUp reports whether an error after so many attempts is final.
func (r Retry) gaveUp(err error, attempts int) bool {
	if attempts >= r.Attempts {
		return true
	}
	if r.Classify != nil {
		return r.Classify(err) == Fatal
	}
	_, permanent := errors.AsType[permanentError](err)
	return permanent
}

// pause returns the wait after the n-th attempt (from 1), with full jitter in
// its upper half, so that what failed together does not come back together.
func (r Retry) pause(n int) time.Duration {
	d := r.Max
	if n < 32 {
		d = min(r.Max, r.Min<<(n-1))
	}
	if d <= 0 {
		return 0
	}
	return d/2 + rand.N(d/2+1)
}

// WithDefaults returns p with its defaults, or all that is wrong with it.
func (p Processor) WithDefaults() (Processor, error) {
	var errs []error
	fail := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("processor %q: "+format, append([]any{p.Name}, args...)...))
	}
	if p.Name == "" {
		fail("has no name")
	}
	set := 0
	for _, has := range []bool{p.Projection != nil, p.Batch != nil, p.React != nil} {
		if has {
			set++
		}
	}
	if set != 1 {
		fail("needs exactly one of a projection, a batch function and a reactor function")
	}
	if p.Projection != nil {
		if err := p.Projection.Err(); err != nil {
			errs = append(errs, err)
		}
		if p.Types == nil && !p.Projection.ByStream() {
			p.Types = p.Projection.Types()
		}
	}
	if p.RebuildChanged && p.Projection == nil {
		fail("keeps no documents, so there is nothing to rebuild when it changes")
	}
	if p.Partitions < 0 || p.Partitions > 1024 {
		fail("%d partitions; 1 to 1,024 are possible", p.Partitions)
	}
	if p.Concurrency < 0 || p.Retry.Attempts < 0 || p.Retry.Min < 0 || p.Retry.Max < 0 || p.Timeout < 0 {
		fail("a negative concurrency, time-out, number of attempts or pause")
	}
	if p.crossTenant() && p.Poison == ParkTenant {
		fail("folds all tenants into shared documents, so it cannot park a tenant")
	}
	if err := p.checkShared(); err != nil {
		errs = append(errs, err)
	}
	for _, t := range p.Tenants {
		if err := event.CheckTenant(t); err != nil {
			errs = append(errs, err)
		}
	}
	for _, c := range p.Classes {
		if err := event.CheckClass(c); err != nil {
			errs = append(errs, fmt.Errorf("processor %q: %w", p.Name, err))
		}
	}
	if err := p.Freshness.Validate(); err != nil {
		fail("%w", err)
	}
	p.Partitions = max(p.Partitions, 1)
	p.Freshness = p.Freshness.WithDefaults()
	if p.Retry.Attempts == 0 {
		p.Retry.Attempts = 5
	}
	if p.Retry.Min == 0 {
		p.Retry.Min = 50 * time.Millisecond
	}
	if p.Retry.Max == 0 {
		p.Retry.Max = 10 * time.Second
	}
	if p.Concurrency == 0 && p.React != nil {
		p.Concurrency = 64
	}
	return p, errors.Join(errs...)
}
