package memlog

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
)

// Append implements [eventlog.Appender]. An append over streams of several
// partitions is refused, because a token has one partition.
func (l *Log) Append(ctx context.Context, appends ...eventlog.StreamAppend) (eventlog.Token, error) {
	if err := ctx.Err(); err != nil {
		return eventlog.Token{}, err
	}
	if len(appends) == 0 {
		return eventlog.Token{}, errors.New("memlog: append: no streams")
	}
	for i := range appends {
		if err := appends[i].Check(); err != nil {
			return eventlog.Token{}, err
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	pl, err := l.plan(appends)
	if err != nil {
		return eventlog.Token{}, err
	}
	return l.apply(pl), nil
}

// Versions implements [eventlog.Appender].
func (l *Log) Versions(ctx context.Context, refs ...eventlog.StreamRef) ([]int64, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([]int64, len(refs))
	for i, ref := range refs {
		if s := l.streams[ref]; s != nil {
			out[i] = s.version()
		}
	}
	return out, nil
}

// A plan is what an append will do. Making one changes nothing.
type plan struct {
	token  eventlog.Token // so far: it covers what was there already
	events []event.Event  // all but position and times
}

// plan checks an append against the log.
func (l *Log) plan(appends []eventlog.StreamAppend) (plan, error) {
	var pl plan
	versions := make(map[eventlog.StreamRef]int64, len(appends)) // with what pl appends
	seen := make(map[string]bool)                                // ids of this call
	for i := range appends {
		a := &appends[i]
		ref := eventlog.StreamRef{Tenant: a.Tenant, Stream: a.Stream}
		switch part := l.partitionOf(ref); {
		case i == 0:
			pl.token.Partition = part
		case part != pl.token.Partition:
			return plan{}, fmt.Errorf("memlog: append to stream %q of tenant %q, in partition %d, and to stream %q of tenant %q, "+
				"in partition %d: one append cannot span partitions",
				appends[0].Stream, appends[0].Tenant, pl.token.Partition, a.Stream, a.Tenant, part)
		}
		if !slices.Contains(pl.token.Tenants, a.Tenant) {
			pl.token.Tenants = append(pl.token.Tenants, a.Tenant)
		}
		repeated, err := l.repeated(a, seen)
		if err != nil {
			return plan{}, err
		}
		if repeated != 0 {
			pl.token.Position = max(pl.token.Position, repeated)
			continue
		}
		version, ok := versions[ref]
		if s := l.streams[ref]; !ok && s != nil {
			version = s.version()
		}
		if !a.Expected.Accepts(version) {
			return plan{}, &eventlog.ConflictError{Stream: ref, Expected: a.Expected, Actual: version}
		}
		for j := range a.Events {
			e := &a.Events[j]
			version++
			own := event.DerivedID(a.Tenant, a.Stream, version)
			if _, _, _, derived := event.ParseDerivedID(e.ID); derived && e.ID != own {
				return plan{}, &event.NameError{Field: "id", Name: e.ID, Why: "is reserved for another event, whose derived id it is"}
			}
			pl.events = append(pl.events, event.Event{
				ID:         cmp.Or(e.ID, own),
				Tenant:     a.Tenant,
				Stream:     a.Stream,
				Version:    version,
				Type:       e.Type,
				Class:      e.Class,
				OccurredAt: e.OccurredAt,
				Metadata:   maps.Clone(e.Metadata),
				Data:       bytes.Clone(e.Data),
			})
		}
		versions[ref] = version
	}
	return pl, nil
}

// repeated returns the position that covers a where it is in the log already, 0
// where it is new, and a [*eventlog.DuplicateError] where it is neither.
func (l *Log) repeated(a *eventlog.StreamAppend, seen map[string]bool) (event.Position, error) {
	ref := eventlog.StreamRef{Tenant: a.Tenant, Stream: a.Stream}
	taken, ids := "", 0
	var last place // of the last event of a that is there
	known, after := 0, 0
	for i := range a.Events {
		id := a.Events[i].ID
		if id == "" {
			after++
			continue
		}
		ids++
		if seen[id] {
			return 0, &eventlog.DuplicateError{Stream: ref, ID: id}
		}
		seen[id] = true
		at, ok := l.ids[id]
		if !ok {
			continue
		}
		if at.stream.ref != ref {
			return 0, &eventlog.DuplicateError{Stream: ref, ID: id}
		}
		known++
		last, after, taken = at, 0, cmp.Or(taken, id)
	}
	switch {
	case known == 0:
		return 0, nil
	case known < ids:
		return 0, &eventlog.DuplicateError{Stream: ref, ID: taken}
	}
	// The events without an id that follow were appended right behind.
	v := min(last.version+int64(after), last.stream.version())
	return last.stream.positions[v-1], nil
}

// apply appends the events of a plan, and wakes up who waits for them.
func (l *Log) apply(pl plan) eventlog.Token {
	if len(pl.events) == 0 {
		return pl.token
	}
	p := l.parts[pl.token.Partition]
	now := time.Now().Round(0).UTC() // Round(0) takes off the monotonic reading
	recorded := now
	if n := len(p.events); n > 0 && p.events[n-1].RecordedAt.After(now) {
		recorded = p.events[n-1].RecordedAt // the clock was set back: keep the order
	}
	for i := range pl.events {
		e := &pl.events[i]
		p.last++
		if l.gaps > 0 && int64(p.last)%int64(l.gaps) == 0 {
			p.last++
		}
		e.Position, e.RecordedAt = p.last, recorded
		if e.OccurredAt.IsZero() {
			e.OccurredAt = now
		}
		e.OccurredAt = e.OccurredAt.Round(0).UTC()

		ref := eventlog.StreamRef{Tenant: e.Tenant, Stream: e.Stream}
		s := l.streams[ref]
		if s == nil {
			s = &stream{ref: ref, partition: pl.token.Partition}
			l.streams[ref] = s
		}
		s.positions = append(s.positions, e.Position)
		l.ids[e.ID] = place{stream: s, version: e.Version}
	}
	p.events = append(p.events, pl.events...)
	pl.token.Position = p.last
	if p.wake != nil {
		close(p.wake)
		p.wake = nil
	}
	return pl.token
}
