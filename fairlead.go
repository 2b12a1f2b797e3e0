// Package fairlead turns event logs into read models for many tenants at once:
// in order per stream, fair between tenants, exactly once in effect, from one
// embedded process up to a fleet.
//
// A program opens a log and a store (package sqlite is both, in one file),
// declares projections and reactors, adds them to a [Consumer] and runs it. See
// the example of [New], and docs/guarantees.md for what always holds.
package fairlead

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/internal/engine"
	"github.com/fairlead-dev/fairlead/projection"
	"github.com/fairlead-dev/fairlead/slo"
	"github.com/fairlead-dev/fairlead/store"
)

// Errors to branch on.
var (
	// ErrUnknownProcessor: the consumer has no processor of that name.
	ErrUnknownProcessor = engine.ErrUnknownProcessor
	// ErrExists: the consumer has a processor of that name already.
	ErrExists = engine.ErrExists
	// ErrRunning: the consumer runs already.
	ErrRunning = engine.ErrRunning
)

// Config says what a consumer works on. Log and Store are needed; the zero
// value of everything else works.
type Config struct {
	Log    eventlog.Log
	Store  store.Store
	Name   string        // of this process, for operators; default: the host name
	Logger *slog.Logger  // default: says nothing
	Memory int           // bytes of events and documents kept in memory; default 64 MiB
	Slots  int           // batches run at once; default: the number of CPUs, at least 4
	Lease  time.Duration // after which another process takes over from a dead one; default 10 s

	// Pool names the worker pool that the process belongs to: it works only the
	// lanes of tenants that are given to that pool (see [Admin.SetPool]), of every
	// processor it has. Default: none. Then it works everything else.
	Pool string
}

// A Consumer runs processors in this process. Several consumers, in one process
// or many, may have the same processors on the same store: each lane then has
// one owner among them.
type Consumer struct{ e *engine.Engine }

// New returns a consumer. It starts nothing: see [Consumer.Run].
func New(cfg Config) (*Consumer, error) {
	e, err := engine.New(engine.Config(cfg))
	if err != nil {
		return nil, err
	}
	return &Consumer{e}, nil
}

// Add adds processors, before Run or while it runs; then they start at once. A
// processor that is new to the store gets its rows there.
func (c *Consumer) Add(ctx context.Context, processors ...Processor) error {
	for _, p := range processors {
		if err := c.e.Add(ctx, p.p); err != nil {
			return err
		}
	}
	return nil
}

// Remove stops a processor in this process. Its read model and checkpoint stay;
// see [Admin.Drop] to delete them.
func (c *Consumer) Remove(ctx context.Context, name string) error { return c.e.Remove(ctx, name) }

// Run works until ctx ends, hands its lanes over to other processes if there are
// any, for 6 s at most and working them meanwhile, and returns ctx's error. It ends at
// once with [store.ErrRights] where the store or the log says which rights lack, and with
// [store.ErrNewerSchema] when a newer program has changed the store such that this one
// cannot work on it. When it returns, everything it started has ended and its leases
// are given up.
func (c *Consumer) Run(ctx context.Context) error { return c.e.Run(ctx) }

// WaitFor returns nil as soon as a processor's read model contains the append
// that token stands for, or ctx's error. The processor may run in any process.
func (c *Consumer) WaitFor(ctx context.Context, processor string, token eventlog.Token) error {
	return c.e.WaitFor(ctx, processor, token)
}

// Processors returns the names of the processors that were added, in byte order.
func (c *Consumer) Processors() []string { return c.e.Names() }

// Stats are the figures of a processor in this process.
type Stats = engine.Stats

// Stats returns the figures of a processor of this consumer.
func (c *Consumer) Stats(processor string) (Stats, error) { return c.e.Stats(processor) }

// A Processor is a named consumer of events; see [Project], [ProjectBatch] and
// [React].
type Processor struct{ p engine.Processor }

// Name returns the processor's name.
func (p Processor) Name() string { return p.p.Name }

// From returns the processor with a place to begin, unless its options say one. Like
// [Options.Start] it counts once, when the processor is new to the store.
func (p Processor) From(s Start) Processor {
	if p.p.Start == (Start{}) {
		p.p.Start = s
	}
	return p
}

// Options tunes a processor. The zero Options is ready to use.
type Options struct {
	// Partitions cuts the work of a new processor into so many lanes by the hash
	// of a partition key, so that processes can share it; default 1. Those of a
	// processor that is there already are split and merged by operators, see
	// [Admin.SplitPartition]. On a log with partitions of its own leave it out.
	Partitions int
	// PartitionBy chooses the partition key. Events that touch one document, or
	// have one ordering key, must share it. Default: the stream, or the tenant
	// for projections that choose their documents themselves. See also
	// [ByTenant].
	PartitionBy func(*event.Event) string
	// Types, Tenants and Classes select events; default: all that are handled.
	// Classes are traffic classes, "" for the events without one, which are
	// production's.
	Types   []string
	Tenants []string
	Classes []string
	// Start says where a new processor begins; default: at the first event.
	Start Start
	// Freshness is the objective for the time from an event's recording to its
	// effect. The processor with the least slack goes first.
	Freshness slo.Objective
	// Retry is for functions with side effects, and errors of a batch
	// projector; default 5 attempts from 50 ms to 10 s apart.
	Retry Retry
	// Poison says what becomes of an event that cannot be applied; default
	// [ParkKey].
	Poison Policy
	// Concurrency is how many calls of a reactor run at once, default 64; for
	// projections how many documents of a batch are folded at once.
	Concurrency int
	// Timeout limits one call of a reactor; default none.
	Timeout time.Duration
	// OrderBy is the ordering key of reactors and batch projectors; default the
	// stream. Projections are ordered by document.
	OrderBy func(*event.Event) string
	// NoIsolation keeps a tenant with a backlog in its base lane; by default it
	// leaves for a lane of its own while it puts the others' objective at risk.
	NoIsolation bool
	// RebuildChanged begins a rebuild of a projection by itself, once, where its
	// version is another than that of its documents, and was never before: an old
	// program that runs beside the new ones does not begin one back.
	RebuildChanged bool
	// Rebuild says how such a rebuild is made.
	Rebuild RebuildOptions
}

// Start says where a new processor begins.
type Start = engine.Start

// Where a processor may start.
var (
	FromBeginning = engine.FromBeginning
	FromNow       = engine.FromNow
	FromPosition  = engine.FromPosition
	FromPositions = engine.FromPositions
	FromTime      = engine.FromTime
)

// Retry says how often, and with what pauses, a failing call is repeated.
type Retry = engine.Retry

// A Class is what [Retry.Classify] makes of an error.
type Class = engine.Class

// The classes of errors.
const (
	Transient = engine.Transient // try again
	Fatal     = engine.Fatal     // poison at once
)

// Permanent marks an error that no repetition heals.
func Permanent(err error) error { return engine.Permanent(err) }

// Policy says what becomes of an event that cannot be applied.
type Policy = engine.Policy

// The policies.
const (
	ParkKey       = engine.ParkKey
	ParkTenant    = engine.ParkTenant
	SkipAndRecord = engine.SkipAndRecord
	StopLane      = engine.StopLane
)

// Delivery is an event handed to a reactor.
type Delivery = engine.Delivery

// ByTenant is the partition key that keeps a tenant's events together, and, for
// [Projection.By], the choice of one document for each tenant, with its name.
func ByTenant(e *event.Event) string { return e.Tenant }

// Project returns the processor of a projection: it keeps one document for each
// key that the projection chooses, in the collection of the projection's name.
func Project(p projection.Definition, options ...Options) Processor {
	ep := processor(p.Name(), options)
	ep.Projection = p
	return Processor{ep}
}

// ProjectBatch returns a processor that hands f each batch, in order, with the
// open transaction of the store (for package sqlite: a *sqlite.Tx), in which
// the checkpoint moves too. f may be called again with the same events after an
// error, and then sees none of what it did before. It must not change them, nor their
// order.
func ProjectBatch(name string, f func(ctx context.Context, tx any, events []event.Event) error, options ...Options) Processor {
	ep := processor(name, options)
	ep.Batch = f
	return Processor{ep}
}

// React returns a processor that calls f for each event: in order by ordering
// key, keys side by side. f is called at least once for each event; after a
// crash only what was in flight comes again, under the same idempotency key.
func React(name string, f func(ctx context.Context, d Delivery) error, options ...Options) Processor {
	ep := processor(name, options)
	ep.React = f
	return Processor{ep}
}

func processor(name string, options []Options) engine.Processor {
	var o Options
	if len(options) > 0 {
		o = options[0]
	}
	return engine.Processor{
		Name: name, OrderBy: o.OrderBy, Partitions: o.Partitions, PartitionBy: o.PartitionBy,
		Types: o.Types, Tenants: o.Tenants, Classes: o.Classes, Start: o.Start, Freshness: o.Freshness, Retry: o.Retry,
		Poison: o.Poison, Concurrency: o.Concurrency, Timeout: o.Timeout, NoIsolation: o.NoIsolation,
		RebuildChanged: o.RebuildChanged, Rebuild: o.Rebuild.how(),
	}
}

// MustEvent returns an event to append, with v as JSON. It panics if v cannot
// be JSON, which is a fault of the program.
func MustEvent(typ string, v any) eventlog.NewEvent {
	data, err := projection.JSON{}.Encode(v)
	if err != nil {
		panic(fmt.Sprintf("fairlead: event of type %q: %v", typ, err))
	}
	return eventlog.NewEvent{Type: typ, Data: data}
}
