package fairlead

import (
	"context"
	"math"
	"time"

	"github.com/fairlead-dev/fairlead/forward"
)

// Forward returns a processor that publishes each event, in order by stream (or
// [Options.OrderBy]), streams side by side: the outbox of a service whose events are
// in its own database. Each event is published at least once, and again after a
// crash only if it was in flight; its id is the same each time, by which a broker or
// a consumer drops what it has.
//
// While the broker is away nothing is given up: unless [Options.Retry] says how
// often, an event is tried until it is taken. What the broker refuses for good
// ([forward.ErrRefused]) is treated as poison.
func Forward(name string, to forward.Publisher, options ...Options) Processor {
	var o Options
	if len(options) > 0 {
		o = options[0]
	}
	if o.Retry.Attempts == 0 {
		o.Retry.Attempts = math.MaxInt
	}
	if o.Retry.Classify == nil {
		o.Retry.Classify = refusedIsFatal
	}
	if o.Concurrency == 0 {
		o.Concurrency = forwardAtOnce
	}
	if o.Timeout == 0 {
		o.Timeout = forwardTimeout
	}
	return React(name, func(ctx context.Context, d Delivery) error { return to.Publish(ctx, d.Event, d.IdempotencyKey) }, o)
}

const (
	// Of each stream one event is in flight, and brokers take events in batches.
	forwardAtOnce = 1024
	// Longer than a broker needs that elects another leader, and shorter than what
	// an operator would call stuck.
	forwardTimeout = 30 * time.Second
)
