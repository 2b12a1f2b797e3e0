package shard

import (
	"context"
	"sync"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
)

// A Source is a log that several shards of a process read. What one has read the
// others find, so that the log is read once, to a limit in bytes.
type Source struct {
	log   eventlog.Log
	dir   *Directory
	limit int

	mu      sync.Mutex
	size    int
	kept    []*keptPage // oldest first
	loading map[pageKey]chan struct{}
}

type pageKey struct {
	partition int
	after     event.Position
}

type keptPage struct {
	pageKey
	page eventlog.Page
	size int
}

const keptPages = 64 // bounds the search for one

// NewSource returns a source that keeps at most limit bytes of pages.
func NewSource(log eventlog.Log, dir *Directory, limit int) *Source {
	return &Source{log: log, dir: dir, limit: limit, loading: map[pageKey]chan struct{}{}}
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

// A streamLog is a shardLog whose streams can be read.
type streamLog struct {
	*shardLog
	eventlog.StreamReader
}

// Read implements [eventlog.Log].
func (l *shardLog) Read(ctx context.Context, req eventlog.ReadRequest) (eventlog.Page, error) {
	page, err := l.source.read(ctx, req)
	if err != nil || len(page.Events) == 0 {
		return page, err
	}
	tenants := make([]string, 0, len(page.Events))
	for i := range page.Events {
		if t := page.Events[i].Tenant; len(tenants) == 0 || tenants[len(tenants)-1] != t {
			tenants = append(tenants, t)
		}
	}
	shards, err := l.source.dir.Find(ctx, tenants...)
	if err != nil {
		return eventlog.Page{}, err
	}
	n := 0 // which of tenants an event has
	var own []event.Event
	for i := range page.Events {
		if page.Events[i].Tenant != tenants[n] {
			n++
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
	key := pageKey{req.Partition, req.After}
	for {
		s.mu.Lock()
		if page, ok := s.find(key, req.MaxEvents); ok {
			s.mu.Unlock()
			return page, nil
		}
		wait, busy := s.loading[key]
		if !busy {
			wait = make(chan struct{})
			s.loading[key] = wait
		}
		s.mu.Unlock()
		if !busy {
			return s.load(ctx, req, key, wait)
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return eventlog.Page{}, ctx.Err()
		}
	}
}

func (s *Source) load(ctx context.Context, req eventlog.ReadRequest, key pageKey, done chan struct{}) (eventlog.Page, error) {
	page, err := s.log.Read(ctx, req)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.loading, key)
	close(done)
	if err != nil || len(page.Events) == 0 {
		return page, err
	}
	k := &keptPage{pageKey: key, page: page}
	for i := range page.Events {
		k.size += page.Events[i].Size()
	}
	s.kept = append(s.kept, k)
	s.size += k.size
	for len(s.kept) > 1 && (s.size > s.limit || len(s.kept) > keptPages) {
		s.size -= s.kept[0].size
		s.kept[0] = nil
		s.kept = s.kept[1:]
	}
	return page, nil
}

// find returns what a kept page has behind key. An empty page is not kept, since
// the log may have grown since, and what was at its end then is not taken either.
func (s *Source) find(key pageKey, most int) (eventlog.Page, bool) {
	for _, k := range s.kept {
		if k.partition != key.partition || key.after < k.after || key.after >= k.page.Next {
			continue
		}
		page := k.page
		from := 0
		for from < len(page.Events) && page.Events[from].Position <= key.after {
			from++
		}
		page.Events = page.Events[from:]
		if most > 0 && len(page.Events) > most {
			continue
		}
		return page, true
	}
	return eventlog.Page{}, false
}
