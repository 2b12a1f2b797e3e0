package main

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/fairlead-dev/fairlead/eventlog"
)

// An intent is an event that is to be appended at a time, whether the log is
// ready for it or not. Latencies count from then (no coordinated omission).
type intent struct {
	at             time.Duration // since the start
	tenant, stream string
	typ            string
	data           []byte
}

// maxDue is the most events in one append of an open loop.
const maxDue = 200

// openLoop appends the intents at their times, those that are due together in
// one append. It returns when all are appended, or with the first error.
// Appended, where not nil, is told how many more of them are in the log now.
func openLoop(ctx context.Context, log eventlog.Appender, start time.Time, intents []intent, appended func(n int)) error {
	var batch []eventlog.StreamAppend
	for len(intents) > 0 {
		if wait := intents[0].at - time.Since(start); wait > 0 {
			select {
			case <-time.After(wait):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		due := time.Since(start)
		batch = batch[:0]
		for len(intents) > 0 && intents[0].at <= due && len(batch) < maxDue {
			in := &intents[0]
			batch = append(batch, eventlog.StreamAppend{Tenant: in.tenant, Stream: in.stream,
				Events: []eventlog.NewEvent{{Type: in.typ, Data: in.data}}})
			intents = intents[1:]
		}
		if len(batch) == 0 {
			continue
		}
		if _, err := log.Append(ctx, batch...); err != nil {
			return err
		}
		if appended != nil {
			appended(len(batch))
		}
	}
	return nil
}

// poisson calls f with the times of a Poisson process in [from, to).
func poisson(rng *rand.Rand, perSecond float64, from, to time.Duration, f func(at time.Duration)) {
	if perSecond <= 0 {
		return
	}
	at := from
	for {
		at += time.Duration(rng.ExpFloat64() / perSecond * float64(time.Second))
		if at >= to {
			return
		}
		f(at)
	}
}
