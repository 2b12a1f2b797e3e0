package eventlog

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/fairlead-dev/fairlead/event"
)

// An Appender is a log that can be written. Its methods may be called from many
// goroutines at once.
type Appender interface {
	// Append stores all events of all appends, or none. The events of one call
	// get ascending positions in the order given. Errors to branch on:
	// [*ConflictError], [*DuplicateError], [*EventError], [event.NameError].
	//
	// It is idempotent by event id: where every event of one StreamAppend that
	// has an id is already in that stream under that id, that StreamAppend
	// changes nothing, conflicts with nothing, and the token covers the events
	// that are there. A StreamAppend without any id is always new. Ids are
	// judged before versions; an id twice in one call is a DuplicateError.
	//
	// A stream may be named more than once in a call: each StreamAppend is
	// judged after those before it. A token has one partition, so streams of
	// several log partitions in one call are an error, and so is no stream.
	//
	// An id that is an [event.DerivedID] is reserved for the event with that
	// tenant, stream and version: no other may be given it (a NameError), so
	// no stream can take the ids of another.
	Append(ctx context.Context, appends ...StreamAppend) (Token, error)

	// Versions returns the current version of each stream, 0 for a new one.
	Versions(ctx context.Context, streams ...StreamRef) ([]int64, error)
}

// A StreamReader is a log that can read one stream.
type StreamReader interface {
	// ReadStream returns at most limit events of a stream with a version above
	// after, in order. Where the next of them is gone, the error is a
	// [*TruncatedError].
	ReadStream(ctx context.Context, stream StreamRef, after int64, limit int) ([]event.Event, error)
}

// A BucketFilter is a log that leaves out, before it sends them, most of what
// [Filter].Buckets does not select. Of another one nobody asks for buckets: each
// process reads a page once for all its lanes then, and its lanes choose.
type BucketFilter interface {
	// FiltersBuckets reports whether it does so.
	FiltersBuckets() bool
}

// A HeadKnower is a log that has learned, when Wait returns, how far it reaches: who
// waited need not ask for the head.
type HeadKnower interface {
	// KnownHead returns the head of a partition as it is known without asking for it, 0
	// where it is not. It may be lower than what Head returns, never higher.
	KnownHead(partition int) event.Position
}

// A Counter is a log that can count cheaply what a lane has still to read.
type Counter interface {
	// Count returns how many events f selects with after < position <= until,
	// counted to at most limit, and when the first of them was recorded (the
	// zero time where n is 0). Until is taken literally: [event.Unbounded] is
	// to the head, 0 selects nothing.
	//
	// With Buckets, what is counted to limit is what the rest of f selects: n is how
	// many of those events are in the buckets, exactly, whatever the log makes of them
	// when it is read. So a small bucket costs no more than the whole.
	Count(ctx context.Context, partition int, f Filter, after, until event.Position, limit int) (n int, oldest time.Time, err error)
}

// A TenantCounter is a log that counts for thousands of tenants in about the time
// that [Counter] takes for one.
type TenantCounter interface {
	// CountTenants is Count of the events of each tenant behind a position of its
	// own, in the order given. A tenant may come more than once.
	CountTenants(ctx context.Context, partition int, tenants []TenantAfter, until event.Position, limit int) ([]Counted, error)
}

// A TenantAfter stands for a tenant's events behind a position.
type TenantAfter struct {
	Tenant string
	After  event.Position
	Bucket *Bucket // only those of it; nil: all
}

// Counted is what was counted: how many events, and when the first of them was
// recorded (the zero time where there is none).
type Counted struct {
	Events int
	Oldest time.Time
}

// A StreamRef names a stream.
type StreamRef struct{ Tenant, Stream string }

// A StreamAppend is what to append to one stream.
type StreamAppend struct {
	Tenant   string
	Stream   string
	Expected Expected // default: any version
	Events   []NewEvent
}

// MaxMetadata is how many bytes the keys and values of one event's metadata may
// have together. Metadata are headers, and come whole with every event:
// [ReadRequest].MaxEventBytes withholds payloads only.
const MaxMetadata = 64 << 10

// A NewEvent is an event to append.
type NewEvent struct {
	ID         string // optional; default [event.DerivedID]
	Type       string
	Class      string         // of traffic; default "", production
	OccurredAt time.Time      // default: now; years 1 to 9999; comes back in UTC, at least to the microsecond
	Metadata   event.Metadata // at most [MaxMetadata] bytes
	Data       []byte         // in the codec of the handlers that will read it; JSON by default
}

// Expected is the version that a stream must have for an append to succeed. The
// zero Expected accepts any version.
type Expected struct {
	kind    uint8
	version int64
}

// AnyVersion accepts every version.
func AnyVersion() Expected { return Expected{} }

// NoStream accepts only a stream without events.
func NoStream() Expected { return Expected{kind: 1} }

// ExactVersion accepts only a stream whose last event has version v (0: none).
func ExactVersion(v int64) Expected { return Expected{kind: 1, version: v} }

// Accepts reports whether a stream at version v may be appended to.
func (e Expected) Accepts(v int64) bool { return e.kind == 0 || e.version == v }

// Version returns the one version that e accepts; ok is false where it accepts
// any. For logs that compare on their server.
func (e Expected) Version() (v int64, ok bool) { return e.version, e.kind != 0 }

func (e Expected) String() string {
	switch {
	case e.kind == 0:
		return "any version"
	case e.version == 0:
		return "no stream"
	}
	return fmt.Sprintf("version %d", e.version)
}

// A Token stands for an append: whoever has applied everything up to it has
// applied the append.
type Token struct {
	Partition int
	Position  event.Position // of the last event appended
	Tenants   []string       // of the events appended, without repeats
}

// ErrConflict is what a [*ConflictError] wraps.
var ErrConflict = errors.New("eventlog: stream has another version")

// A ConflictError says that a stream does not have the expected version.
// Nothing was appended. Read the stream again, decide again, append again.
type ConflictError struct {
	Stream   StreamRef
	Expected Expected
	Actual   int64
}

func (e *ConflictError) Error() string {
	return fmt.Sprintf("eventlog: append to stream %q of tenant %q: expected %v, found version %d",
		e.Stream.Stream, e.Stream.Tenant, e.Expected, e.Actual)
}

func (e *ConflictError) Unwrap() error { return ErrConflict }

// ErrDuplicate is what a [*DuplicateError] wraps.
var ErrDuplicate = errors.New("eventlog: event id exists")

// A DuplicateError says that an event id is taken: in another stream, or by
// only a part of the events of one append. Nothing was appended.
type DuplicateError struct {
	Stream StreamRef
	ID     string
}

func (e *DuplicateError) Error() string {
	return fmt.Sprintf("eventlog: append to stream %q of tenant %q: event id %q is taken by another append",
		e.Stream.Stream, e.Stream.Tenant, e.ID)
}

func (e *DuplicateError) Unwrap() error { return ErrDuplicate }

// An EventError says which event of an append no log stores, and why. Nothing
// was appended, and nothing will be until the event is another.
type EventError struct {
	Stream StreamRef
	Event  int // its place in [StreamAppend].Events, from 0
	Why    string
}

func (e *EventError) Error() string {
	return fmt.Sprintf("eventlog: append to stream %q of tenant %q: event %d of the append %s",
		e.Stream.Stream, e.Stream.Tenant, e.Event+1, e.Why)
}

// Check returns the first fault of a, if any: names, no events, a time outside
// the years 1 to 9999, metadata above [MaxMetadata]. Whether a payload is JSON is left to the adapter.
func (a *StreamAppend) Check() error {
	if err := event.CheckTenant(a.Tenant); err != nil {
		return err
	}
	if err := event.CheckStream(a.Stream); err != nil {
		return err
	}
	if len(a.Events) == 0 {
		return fmt.Errorf("eventlog: append to stream %q of tenant %q: no events", a.Stream, a.Tenant)
	}
	for i := range a.Events {
		e := &a.Events[i]
		if err := event.CheckType(e.Type); err != nil {
			return err
		}
		if err := event.CheckClass(e.Class); err != nil {
			return err
		}
		if e.ID != "" {
			if err := event.CheckID(e.ID); err != nil {
				return err
			}
		}
		why := oddTime(e.OccurredAt)
		if why == "" {
			why = largeMetadata(e.Metadata)
		}
		if why != "" {
			return &EventError{StreamRef{a.Tenant, a.Stream}, i, why}
		}
	}
	return nil
}

// oddTime returns what is wrong with the time of an event, or "". JSON, SQL and
// RFC 3339 have no other years, so what reads such an event could not say when it
// happened, and no producer means one.
func oddTime(t time.Time) string {
	t = t.UTC()
	switch y := t.Year(); {
	case t.IsZero():
		return ""
	case y > 9999:
		return fmt.Sprintf("occurred at %s, want a year from 1 to 9999: milliseconds, or a finer unit, were probably taken for seconds", t.Format(time.RFC3339))
	case y < 1:
		return fmt.Sprintf("occurred at %s, want a year from 1 to 9999: it was probably computed from another unit or epoch; the zero time stands for now", t.Format(time.RFC3339))
	}
	return ""
}

// largeMetadata returns what is wrong with the metadata of an event, or "".
func largeMetadata(m event.Metadata) string {
	n := 0
	for k, v := range m {
		n += len(k) + len(v)
	}
	if n <= MaxMetadata {
		return ""
	}
	return fmt.Sprintf("has %d bytes of metadata, more than %d: what is large belongs into the data", n, MaxMetadata)
}
