package shard

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/internal/pagecache"
)

// A Source is a log that several shards of a process read. What one has read the
// others find, so that the log is read once, to a limit in bytes.
type Source struct {
	log   eventlog.Log
	dir   *Directory
	cache *pagecache.Cache[struct{}]
}

// NewSource returns a source that keeps at most limit bytes of pages.
func NewSource(log eventlog.Log, dir *Directory, limit int) *Source {
	return &Source{log: log, dir: dir, cache: pagecache.New[struct{}](limit)}
}

// Of returns the log as a shard sees it: all positions, and the events of its own
// tenants.
func (s *Source) Of(shard string) eventlog.Log {
	l := &shardLog{Log: s.log, source: s, shard: shard}
	if streams, ok := s.log.(eventlog.StreamReader); ok {
		return &streamLog{l, streams}
	}
	return l
}

// A shardLog is the log of one shard.
type shardLog struct {
	eventlog.Log
	source *Source
	shard  string
}

// Barrier implements [eventlog.Sequencer], where the log does.
func (l *shardLog) Barrier(partition int, at event.Position) *eventlog.Barrier {
	if s, ok := l.Log.(eventlog.Sequencer); ok {
		return s.Barrier(partition, at)
	}
	return nil
}

// Moved implements [eventlog.Sequencer], where the log does.
func (l *shardLog) Moved(tenant string) bool {
	s, ok := l.Log.(eventlog.Sequencer)
	return ok && s.Moved(tenant)
}

// MissingReadRights implements [eventlog.RightsLister], where the log does.
func (l *shardLog) MissingReadRights(ctx context.Context) ([]string, error) {
	if r, ok := l.Log.(eventlog.RightsLister); ok {
		return r.MissingReadRights(ctx)
	}
	return nil, nil
}

// A streamLog is a shardLog whose streams can be read.
type streamLog struct {
	*shardLog
	eventlog.StreamReader
}

// Read implements [eventlog.Log]. A page ends before the first event of a tenant
// whose shard is not known: it may be this one. With one of these it begins no page,
// but an error; unless that event is in none of the buckets that are asked for.
func (l *shardLog) Read(ctx context.Context, req eventlog.ReadRequest) (eventlog.Page, error) {
	page, err := l.source.read(ctx, req)
	if err != nil || len(page.Events) == 0 {
		return page, err
	}
	if req.Filter.Buckets != nil { // a log may hand out others too
		page.Events = slices.DeleteFunc(slices.Clone(page.Events), func(e event.Event) bool {
			return !slices.ContainsFunc(req.Filter.Buckets, func(b eventlog.Bucket) bool { return b.Has(e.Tenant, e.Stream) })
		})
	}
	tenants := make([]string, 0, len(page.Events))
	for i := range page.Events {
		if t := page.Events[i].Tenant; len(tenants) == 0 || tenants[len(tenants)-1] != t {
			tenants = append(tenants, t)
		}
	}
	shards, err := l.source.dir.Prefix(ctx, tenants)
	if err != nil && !errors.Is(err, ErrUnresolved) {
		return eventlog.Page{}, err
	}
	n := 0 // which of tenants an event has
	var own []event.Event
	for i := range page.Events {
		if page.Events[i].Tenant != tenants[n] {
			n++
		}
		if n == len(shards) { // err says why
			at := page.Events[i].Position
			if at-1 <= req.After {
				return eventlog.Page{}, fmt.Errorf("event at position %d: %w", at, err)
			}
			page.Next = at - 1
			break
		}
		if shards[n] == l.shard {
			own = append(own, page.Events[i])
		}
	}
	page.Events = own
	return page, nil
}

// read returns a page that nobody may change.
func (s *Source) read(ctx context.Context, req eventlog.ReadRequest) (eventlog.Page, error) {
	if !req.Filter.All() || req.Until != 0 {
		return s.log.Read(ctx, req)
	}
	return s.cache.Read(ctx, req.Partition, req.After, func(struct{}) bool { return true }, func() (page eventlog.Page, _ struct{}, err error) {
		page, err = s.log.Read(ctx, req)
		return page, struct{}{}, err
	})
}
