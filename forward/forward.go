// Package forward is the seam to message brokers: what publishes an event, and
// what a message says of it beside its payload. [fairlead.Forward] makes a
// processor of a Publisher; packages kafka, rabbitmq and nats have one each.
//
// [fairlead.Forward]: https://pkg.go.dev/github.com/fairlead-dev/fairlead#Forward
package forward

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/tenancy"
)

// A Publisher hands an event to a broker.
type Publisher interface {
	// Publish returns nil when the broker has the event for good, as its settings
	// mean that. With an error nothing is known: it may have it or not, and the
	// event comes again under the same id, until it is taken. An error that no
	// repetition heals is a [*RefusedError].
	//
	// Events of one key come one after the other, each when the one before it is
	// done; those of other keys at the same time, from many goroutines.
	Publish(ctx context.Context, e *event.Event, id string) error
}

// ErrRefused is what a [*RefusedError] wraps.
var ErrRefused = errors.New("forward: the broker refuses the event")

// A RefusedError says that a broker will never take an event as it is. The event
// becomes a dead letter, and its key waits.
type RefusedError struct {
	Tenant, Stream string
	Position       event.Position
	Err            error
}

// Refused returns the [*RefusedError] of an event.
func Refused(e *event.Event, err error) error {
	return &RefusedError{Tenant: e.Tenant, Stream: e.Stream, Position: e.Position, Err: err}
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("forward: the broker refuses the event at position %d of stream %q of tenant %q: %v: "+
		"mend the broker's limits and retry the dead letter, or skip it", e.Position, e.Stream, e.Tenant, e.Err)
}

func (e *RefusedError) Unwrap() []error { return []error{ErrRefused, e.Err} }

// The headers of a message beside those of the event's metadata, which have the
// names that they have there, and those of tenant, class and route.
const (
	HeaderID       = "id"       // of the event in its log; a consumer drops what it has seen
	HeaderType     = "type"     // of the event
	HeaderStream   = "stream"   // of the event, without the tenant
	HeaderVersion  = "version"  // of the event in its stream; left out where the log has none
	HeaderOccurred = "occurred" // RFC 3339
)

// Headers returns the headers of an event's message, in a fixed order. id stands in
// where the event has none. names are those of tenant, class and route; the zero
// Names mean the preset "fairlead".
func Headers(e *event.Event, id string, names tenancy.Names) ([]tenancy.Header, error) {
	if names == (tenancy.Names{}) {
		names = tenancy.Presets["fairlead"]
	}
	if e.ID != "" {
		id = e.ID
	}
	own := []tenancy.Header{
		{Key: HeaderID, Value: []byte(id)},
		{Key: HeaderType, Value: []byte(e.Type)},
		{Key: HeaderStream, Value: []byte(e.Stream)},
	}
	if e.Version > 0 {
		own = append(own, tenancy.Header{Key: HeaderVersion, Value: strconv.AppendInt(nil, e.Version, 10)})
	}
	if !e.OccurredAt.IsZero() {
		own = append(own, tenancy.Header{Key: HeaderOccurred, Value: e.OccurredAt.UTC().AppendFormat(nil, time.RFC3339Nano)})
	}
	hs := own
	for _, k := range slices.Sorted(maps.Keys(e.Metadata)) {
		// What the log says of an event is true, whatever its metadata say.
		if !slices.ContainsFunc(own, func(h tenancy.Header) bool { return h.Key == k }) {
			hs = append(hs, tenancy.Header{Key: k, Value: []byte(e.Metadata[k])})
		}
	}
	// The route is that of the metadata, and so is the class of an event without one:
	// what was appended before there were classes may have it there.
	return tenancy.Carry(&names, hs, e.Tenant, e.Class)
}
