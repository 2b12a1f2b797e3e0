// Package letterlog is the dead letters of a store as an event log, so that a
// processor can publish them: it is an outbox, with the letters' ids as positions. A
// letter is there when the commit that parked it is, and the processor's checkpoint
// says which were published.
//
// An id says in which order letters were made, but not in which order their commits
// end: 7 may be seen before 6. Commits that make letters hold their lane's row; so
// once a transaction has had all lanes' rows, everything below an id that was seen
// before it is there, or never will be.
package letterlog

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/store"
)

// Identity is that of such a log: see [eventlog.Identity].
const Identity = "fairlead dead letters"

// Type is the type of its events.
const Type = "DeadLetter"

// NoTenant is the tenant of events whose letter has none, or one with a name that is
// none.
const NoTenant = "none"

const (
	pageLetters = 50          // that a read loads at most: they come with their events
	lookEvery   = time.Second // for new letters, by one small query
)

// A Log is the dead letters of a store. Those of processors that publish letters are
// left out, or one that cannot be published would make another one; and events that
// are a sandbox's for now, which are letters by name only.
type Log struct {
	st store.Store

	mu   sync.Mutex
	safe event.Position // below it no letter can appear any more
}

var (
	_ eventlog.Log      = (*Log)(nil)
	_ eventlog.Identity = (*Log)(nil)
)

// New returns the dead letters of a store.
func New(st store.Store) *Log { return &Log{st: st} }

// Identity implements [eventlog.Identity].
func (l *Log) Identity() string { return Identity }

// Partitions implements [eventlog.Log].
func (l *Log) Partitions(ctx context.Context) (int, error) { return 1, ctx.Err() }

// Letter returns the letter of an event of the log; false: it is there no more.
func (l *Log) Letter(ctx context.Context, p event.Position) (d store.DeadLetter, ok bool, err error) {
	err = l.st.View(ctx, func(tx store.Tx) error {
		found, err := tx.Letters(store.LetterFilter{AfterID: int64(p) - 1, Limit: 1})
		if ok = err == nil && len(found) > 0 && found[0].ID == int64(p); ok {
			d = found[0]
		}
		return err
	})
	return d, ok, err
}

// Read implements [eventlog.Log]. Events have no payload: their letters may be large,
// and are read when they are published.
func (l *Log) Read(ctx context.Context, req eventlog.ReadRequest) (eventlog.Page, error) {
	head, err := l.Head(ctx, req.Partition)
	if err != nil {
		return eventlog.Page{}, err
	}
	limit := pageLetters
	if req.MaxEvents > 0 {
		limit = min(limit, req.MaxEvents)
	}
	end := head
	if req.Until != 0 {
		end = min(end, req.Until)
	}
	p := eventlog.Page{Head: head}
	err = l.st.View(ctx, func(tx store.Tx) error {
		p.Events, p.Next = nil, max(req.After, end)
		own, err := publishers(tx)
		if err != nil {
			return err
		}
		found, err := tx.Letters(store.LetterFilter{AfterID: int64(req.After), Limit: limit})
		if err != nil {
			return err
		}
		for i := range found {
			d := &found[i]
			if event.Position(d.ID) > end {
				return nil
			}
			if e := eventOf(d); !own[d.Processor] && d.Reason != store.Routed && selects(&req.Filter, &e) {
				p.Events = append(p.Events, e)
			}
		}
		if len(found) == limit {
			p.Next = event.Position(found[limit-1].ID)
		}
		return nil
	})
	return p, err
}

// publishers returns the processors whose log is one of letters.
func publishers(tx store.Tx) (map[string]bool, error) {
	ps, err := tx.Processors()
	own := map[string]bool{}
	for i := range ps {
		own[ps[i].Name] = ps[i].Builds.Log == Identity
	}
	return own, err
}

// eventOf is a letter as an event. Its stream is the letter's ordering key: letters
// of one are published in order.
func eventOf(d *store.DeadLetter) event.Event {
	e := event.Event{
		Position: event.Position(d.ID), ID: strconv.FormatInt(d.ID, 10), Type: Type, OccurredAt: d.At, RecordedAt: d.At,
		Tenant: d.Tenant, Stream: d.Processor + "/" + d.Key,
	}
	if event.CheckTenant(e.Tenant) != nil {
		e.Tenant = NoTenant
	}
	if event.CheckStream(e.Stream) != nil {
		sum := sha256.Sum256([]byte(d.Key))
		e.Stream = d.Processor + "/" + hex.EncodeToString(sum[:])
	}
	return e
}

func selects(f *eventlog.Filter, e *event.Event) bool {
	return (f.Tenants == nil || slices.Contains(f.Tenants, e.Tenant)) && !slices.Contains(f.Exclude, e.Tenant) &&
		(f.Types == nil || slices.Contains(f.Types, e.Type)) && (f.Classes == nil || slices.Contains(f.Classes, e.Class))
}

// Head implements [eventlog.Log].
func (l *Log) Head(ctx context.Context, partition int) (event.Position, error) {
	if partition != 0 {
		return 0, fmt.Errorf("dead letters have one partition, and no partition %d", partition)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	last := l.safe
	err := l.st.View(ctx, func(tx store.Tx) (err error) {
		last, err = Last(tx, l.safe)
		return err
	})
	if err != nil || last == l.safe {
		return l.safe, err
	}
	// Whoever has drawn a number below last holds the row of its lane, or has ended.
	err = l.st.Update(ctx, func(tx store.Tx) error {
		_, err := tx.Lanes("")
		return err
	})
	if err == nil {
		l.safe = last
	}
	return l.safe, err
}

// Last returns the highest id of a letter that is seen, at least after. Each
// look loads one letter, and there are few of them, however many letters there are.
func Last(tx store.Tx, after event.Position) (last event.Position, err error) {
	look := func(above event.Position) (event.Position, bool, error) {
		found, err := tx.Letters(store.LetterFilter{AfterID: int64(above), Limit: 1})
		if err != nil || len(found) == 0 {
			return 0, false, err
		}
		return event.Position(found[0].ID), true, nil
	}
	last = after
	step, none := event.Position(0), event.Unbounded // above none there is no letter
	for {
		if last+step >= none {
			step = (none - last - 1) / 2
		}
		at, ok, err := look(last + step)
		switch {
		case err != nil:
			return after, err
		case ok:
			last, step = at, max(1, 2*step)
		case step == 0:
			return last, nil
		default:
			none = last + step
			step /= 2
		}
	}
}

// Wait implements [eventlog.Log].
func (l *Log) Wait(ctx context.Context, partition int, after event.Position) error {
	if partition != 0 {
		return fmt.Errorf("dead letters have one partition, and no partition %d", partition)
	}
	t := time.NewTicker(lookEvery)
	defer t.Stop()
	for {
		more := false
		err := l.st.View(ctx, func(tx store.Tx) error {
			found, err := tx.Letters(store.LetterFilter{AfterID: int64(after), Limit: 1})
			more = len(found) > 0
			return err
		})
		if err != nil || more {
			return err
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// PositionAt implements [eventlog.Log].
func (l *Log) PositionAt(ctx context.Context, partition int, at time.Time) (event.Position, error) {
	head, err := l.Head(ctx, partition)
	if err != nil {
		return 0, err
	}
	p := head
	err = l.st.View(ctx, func(tx store.Tx) error {
		f := store.LetterFilter{Limit: pageLetters}
		for {
			found, err := tx.Letters(f)
			for i := range found {
				if !found[i].At.Before(at) {
					p = min(head, event.Position(found[i].ID)-1)
					return nil
				}
			}
			if err != nil || len(found) < pageLetters {
				return err
			}
			f.AfterID = found[len(found)-1].ID
		}
	})
	return p, err
}
