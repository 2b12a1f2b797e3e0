// Package eventlog is the seam to event logs: the interface that every log
// adapter implements, and what goes over it. Package eventlogtest is its
// conformance suite, package eventlog/memlog its in-memory implementation.
package eventlog

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/partition"
)

// A Log is an ordered source of events, made of one or more log partitions,
// numbered from 0. All methods may be called from many goroutines at once. A
// partition that does not exist is an error, and so is a context that has ended:
// then nothing is stored.
type Log interface {
	// Partitions returns the number of log partitions. It never shrinks.
	Partitions(ctx context.Context) (int, error)

	// Read returns the next page of a log partition. It never waits for events:
	// at the end of the log the page is empty. A page never goes past the safe
	// head: no event may appear later at a position below Page.Next.
	//
	// Where events after req.After are no longer there, the error is a
	// [*TruncatedError].
	Read(ctx context.Context, req ReadRequest) (Page, error)

	// Head returns the safe head: the position of the last event that can be
	// read, or a later one below which no event can appear any more.
	Head(ctx context.Context, partition int) (event.Position, error)

	// Wait returns nil as soon as Head may have passed after, at the latest when
	// ctx ends (then with its error). It may return early, but not so often that
	// a loop around it is a busy one.
	Wait(ctx context.Context, partition int, after event.Position) error

	// PositionAt returns the position before the first event recorded at or
	// after t; the head where there is none.
	PositionAt(ctx context.Context, partition int, t time.Time) (event.Position, error)
}

// A ReadRequest asks for a page of events.
type ReadRequest struct {
	Partition int
	After     event.Position // exclusive
	Until     event.Position // inclusive; 0 and what is past the head mean to the head
	Filter    Filter
	MaxEvents int // at most so many events; default 1,000
	MaxBytes  int // the page ends after the event that reaches so many bytes by [event.Event.Size]; default 4 MiB

	// MaxEventBytes withholds the payload of larger events: such an event comes
	// with Data nil and Withheld set. 0 means no limit.
	MaxEventBytes int
}

// A Filter selects events by what stands in a log's index. The zero Filter
// selects all. An adapter applies it before it hands out (and, where it can,
// before it reads) an event. Types are those of [event.Event.Type], without a
// schema version. Tenants, Types or Classes that are empty but not nil select
// nothing.
type Filter struct {
	Tenants []string // only these tenants; nil: all
	Exclude []string // not these tenants
	Types   []string // only these types; nil: all
	Classes []string // only these traffic classes, "" for events without one; nil: all

	// Buckets: only events of one of these at least; nil: all. A log may hand out
	// others too (see [BucketFilter]), so whoever needs them gone looks again.
	Buckets []Bucket
}

// All reports whether f selects every event.
func (f *Filter) All() bool {
	return f.Tenants == nil && f.Exclude == nil && f.Types == nil && f.Classes == nil && f.Buckets == nil
}

// A Bucket is the events whose key falls into a bucket of many: those with
// [partition.Bucket](key, Modulus) = Residue. The key is the tenant, or the tenant,
// a zero byte and the stream.
type Bucket struct {
	ByStream         bool
	Modulus, Residue int
}

// Has reports whether the events of a tenant's stream are b's.
func (b *Bucket) Has(tenant, stream string) bool {
	key := tenant
	if b.ByStream {
		key += "\x00" + stream
	}
	return partition.Bucket(key, b.Modulus) == b.Residue
}

// Covers reports whether each event that c has is b's too.
func (b *Bucket) Covers(c *Bucket) bool {
	return b.ByStream == c.ByStream && c.Modulus%b.Modulus == 0 && c.Residue%b.Modulus == b.Residue
}

// A Page is a run of a log partition.
type Page struct {
	// Events are the selected events with After < Position <= Next, in order.
	// They are shared: nobody may change them, unless they are Own.
	Events []event.Event

	// Own says that the slice Events was made for this reader alone, who may hand it on
	// as his. Data and Metadata are shared all the same.
	Own bool

	// Next is the position up to which the log was examined: every selected
	// event up to it is in Events. It is at least the request's After, and above
	// it unless After has reached Until or the safe head, which it never passes.
	// A page without events but with a larger Next skips what is of no interest.
	Next event.Position

	// Head is the safe head as the page was read. Next >= Head: end of the log.
	Head event.Position
}

// ErrGone is wrapped by the error of Read and Wait where a log partition was deleted
// for good, with whatever was not read of it. Its lanes are paused with the reason.
var ErrGone = errors.New("eventlog: the log partition is gone")

// ErrTruncated is what a [*TruncatedError] wraps.
var ErrTruncated = errors.New("eventlog: events are gone")

// A TruncatedError says that events which were still to be read are gone, by
// retention or by hand. The lane stops: going on would skip them silently.
type TruncatedError struct {
	Partition    int
	After, First event.Position // wanted what follows After; the log begins at First
}

func (e *TruncatedError) Error() string {
	return fmt.Sprintf("eventlog: partition %d: events after position %v are gone, the log begins at %v: "+
		"rebuild the read model from another source or move the lane by hand", e.Partition, e.After, e.First)
}

func (e *TruncatedError) Unwrap() error { return ErrTruncated }
