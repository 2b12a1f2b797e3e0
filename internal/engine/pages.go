package engine

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/internal/pagecache"
	"github.com/fairlead-dev/fairlead/internal/shard"
)

// pages is a process's view of a log: pages that several lanes want are read
// once and kept, to a limit in bytes, and one watcher per log partition tells
// all lanes of new events.
//
// Where a log can leave out buckets, pages have those that the process's lanes
// want. Which these are may change at any time, and a lane that found a page
// without its events would skip them: so each page says what it has, and a lane
// takes none that does not have its bucket.
type pages struct {
	log        eventlog.Log
	limit      int
	eventLimit int
	reads      atomic.Int64 // pages read from the log
	pageBytes  atomic.Int64 // of one page

	filters bool // the log can leave out buckets

	cache *pagecache.Cache[[]eventlog.Bucket] // with the buckets that a page has; nil: all

	lanes atomic.Pointer[map[int]int] // of the process, by log partition

	mu     sync.Mutex
	wanted []eventlog.Bucket // of all lanes; nil: the whole log
	tails  map[int]*tail
	grew   time.Time // when a partition was seen to
}

// mostOfIt is the share of the log from which on it is read whole: a log that is
// asked for buckets looks at each event all the same.
const mostOfIt = 0.75

// want says which buckets the process's lanes have; nil: they need the whole log.
func (p *pages) want(buckets []eventlog.Bucket) {
	if !p.filters || shareOfLog(buckets) > mostOfIt {
		buckets = nil
	}
	p.mu.Lock()
	p.wanted = buckets
	p.mu.Unlock()
}

// shareOfLog returns about how much of a log some buckets have; of all (nil), 1.
func shareOfLog(buckets []eventlog.Bucket) float64 {
	if buckets == nil {
		return 1
	}
	// Buckets of one modulus do not overlap. Others fall as if by chance.
	out := map[eventlog.Bucket]float64{}
	for _, b := range buckets {
		out[eventlog.Bucket{ByStream: b.ByStream, Modulus: b.Modulus}] += 1 / float64(b.Modulus)
	}
	none := 1.0
	for _, x := range out {
		none *= 1 - min(x, 1)
	}
	return 1 - none
}

// have reports whether a page of these buckets (nil: all) has all of b (nil: all).
func have(buckets []eventlog.Bucket, b *eventlog.Bucket) bool {
	return buckets == nil || b != nil && slices.ContainsFunc(buckets, func(x eventlog.Bucket) bool { return x.Covers(b) })
}

// A tail is what is known of the end of a log partition.
type tail struct {
	head event.Position
	more chan struct{} // closed as head grows
	gone atomic.Bool   // there is nothing to wait for
}

const (
	pageEvents   = 5000
	maxPageBytes = 4 << 20
	minPageBytes = 64 << 10
)

func newPages(log eventlog.Log, limit int) *pages {
	filters, ok := log.(eventlog.BucketFilter)
	p := &pages{filters: ok && filters.FiltersBuckets(), log: log, limit: limit, eventLimit: max(limit/2, 1<<20), tails: map[int]*tail{}, cache: pagecache.New[[]eventlog.Bucket](limit)}
	p.share(map[int]int{})
	return p
}

// share sets the size of pages such that the lanes, so many of each log partition,
// each with the page that it works on and the next one, hold at most twice as much as
// is kept: half of the memory budget.
func (p *pages) share(lanes map[int]int) {
	p.lanes.Store(&lanes)
	all := 0
	for _, n := range lanes {
		all += n
	}
	p.pageBytes.Store(int64(min(maxPageBytes, max(minPageBytes, p.limit/max(all, 1)))))
}

// solo reports whether there is one lane that reads a log partition: nothing is kept
// for others.
func (p *pages) solo(partition int) bool { return (*p.lanes.Load())[partition] <= 1 }

// crowd reports whether there are several processors' lanes that read a log partition:
// what one reads, others want.
func (p *pages) crowd(partition int) bool { return (*p.lanes.Load())[partition] > 3 }

// full reports whether a page has about as much as one may have of which there are few. How much is
// behind it its Head does not say: positions may be far apart.
func full(page *eventlog.Page) bool {
	if len(page.Events) >= pageEvents/2 {
		return true
	}
	bytes := 0
	for i := range page.Events {
		bytes += page.Events[i].Size()
	}
	return bytes >= maxPageBytes/4
}

// read returns a page. One without a filter may be shared, and then begins with
// the event after `after`, whatever the kept page begins with. It has all events
// of the lane's bucket (nil: all events), and others.
func (p *pages) read(ctx context.Context, req eventlog.ReadRequest, own *eventlog.Bucket) (eventlog.Page, error) {
	req.MaxEvents, req.MaxBytes, req.MaxEventBytes = cmp.Or(req.MaxEvents, pageEvents), int(p.pageBytes.Load()), p.eventLimit
	page, err := p.readAny(ctx, req, own)
	if t := p.tail(req.Partition); err == nil && t.gone.Load() {
		p.setGone(t, false)
	}
	if own != nil && errors.Is(err, shard.ErrUnresolved) {
		// It is not known whose event comes next, but it may be no business of this lane.
		req.Filter.Buckets = []eventlog.Bucket{*own}
		p.reads.Add(1)
		return p.log.Read(ctx, req)
	}
	return page, err
}

// readAny is read of what the lanes of the process want.
func (p *pages) readAny(ctx context.Context, req eventlog.ReadRequest, own *eventlog.Bucket) (eventlog.Page, error) {
	if !req.Filter.All() || req.Until != 0 || p.solo(req.Partition) {
		if own != nil && p.filters && req.Filter.All() {
			req.Filter.Buckets = []eventlog.Bucket{*own}
		}
		p.reads.Add(1)
		return p.log.Read(ctx, req)
	}
	page, err := p.cache.Read(ctx, req.Partition, req.After, func(buckets []eventlog.Bucket) bool { return have(buckets, own) },
		func() (eventlog.Page, []eventlog.Bucket, error) {
			p.mu.Lock()
			if req.Filter.Buckets = nil; have(p.wanted, own) {
				req.Filter.Buckets = p.wanted
			}
			p.mu.Unlock()
			p.reads.Add(1)
			page, err := p.log.Read(ctx, req)
			page.Own = false
			event.Share(page.Events)
			return page, req.Filter.Buckets, err
		})
	if err != nil {
		return page, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if t := p.tails[req.Partition]; t != nil {
		page.Head = max(page.Head, t.head)
	}
	return page, nil
}

// watch tells the lanes of a partition of new events until ctx ends, and told whether
// the log answers.
func (p *pages) watch(ctx context.Context, partition int, told func(error)) {
	t, waits := p.tail(partition), true
	knows, _ := p.log.(eventlog.HeadKnower)
	var head event.Position
	for ctx.Err() == nil {
		before := head
		var err error
		if knows != nil && waits && before > 0 { // it has just been told
			head = knows.KnownHead(partition)
		}
		if head <= before {
			head, err = p.log.Head(ctx, partition)
		}
		if err == nil {
			p.grown(t, head)
			if waits { // else it has not answered all that it is asked
				told(nil)
			}
			err = p.log.Wait(ctx, partition, head)
			waits = err == nil
		}
		if errors.Is(err, eventlog.ErrGone) { // its lanes see it as they read
			p.setGone(t, true)
			pause(ctx, goneEvery)
			continue
		}
		if err != nil && ctx.Err() == nil && !errors.Is(err, context.Canceled) {
			told(err)
		}
	}
}

// goneEvery is between two looks whether a log partition that is gone is so still.
const goneEvery = time.Second

// setGone makes the lanes of a partition read, although it does not grow any more:
// what they get is the reason why they end. Once one has read something it is not gone.
func (p *pages) setGone(t *tail, gone bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if t.gone.Store(gone); gone {
		close(t.more)
		t.more = make(chan struct{})
	}
}

// grown notes how far a partition reaches.
func (p *pages) grown(t *tail, head event.Position) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if head > t.head {
		if t.head > 0 { // else it is seen for the first time
			p.grew = time.Now()
		}
		t.head = head
		close(t.more)
		t.more = make(chan struct{})
	}
}

func (p *pages) tail(partition int) *tail {
	p.mu.Lock()
	defer p.mu.Unlock()
	t := p.tails[partition]
	if t == nil {
		t = &tail{more: make(chan struct{})}
		p.tails[partition] = t
	}
	return t
}

// more returns a channel that is closed once the partition has events after
// `after`; nil if it has them already.
func (p *pages) more(partition int, after event.Position) <-chan struct{} {
	t := p.tail(partition)
	p.mu.Lock()
	defer p.mu.Unlock()
	if t.head > after || t.gone.Load() {
		return nil
	}
	return t.more
}

// head returns the last known head of a partition.
func (p *pages) head(partition int) event.Position {
	t := p.tail(partition)
	p.mu.Lock()
	defer p.mu.Unlock()
	return t.head
}
