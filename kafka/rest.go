package kafka

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// A rest keeps records that were fetched and have not been handed out, since a
// broker sends whole batches and a page has so many events. It also knows how
// large records are, so that there is seldom much of it.
type rest struct {
	limit int // bytes

	mu       sync.Mutex
	chunks   []*chunk // the oldest first
	bytes    int
	sizes    map[int]sizes
	raws     []raw            // the oldest first
	rawLimit int              // bytes
	raw      int              // bytes of raws, and of those that are asked for
	flights  map[spot]*flight // fetches whose chunks nobody has asked for yet
	reserved int              // bytes that those will bring, about
	ends     []spot           // of the last fetches: who reads on there reads one after another
}

// A spot is where a chunk begins.
type spot struct {
	partition int
	from      int64
}

// A flight is a fetch ahead of its reader.
type flight struct {
	landed   chan struct{}
	bytes    int
	chains   bool // once the broker has answered, the next fetch begins
	answered spot // where that begins; its zero value: it is not known, or there is none
}

const (
	mostEnds = 128             // places that are remembered
	staleFor = 5 * time.Second // a kept chunk is dropped after, where there is want of room, and takes no more than its own
)

// A raw is what a fetch brought beyond a chunk: batches as they came, since these take
// less room, and to ask for a few at a time costs a broker more than to send them.
type raw struct {
	at   spot
	part *kmsg.FetchResponseTopicPartition
	kept time.Time
	own  bool // its batches are a copy, not a part of what the broker has sent
}

// sizes are averages of a partition, in bytes of a record.
type sizes struct{ sent, kept float64 }

// take returns the chunk that begins at an offset, if there is one.
func (r *rest) take(partition int, from int64) *chunk {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := slices.IndexFunc(r.chunks, func(c *chunk) bool { return c.partition == partition && c.from == from })
	if i < 0 {
		return nil
	}
	c := r.chunks[i]
	r.chunks = slices.Delete(r.chunks, i, i+1)
	r.bytes -= c.bytes
	return c
}

// put keeps the records of a chunk from the i-th on, of which a page ended at an
// offset.
func (r *rest) put(c *chunk, i int, from int64) {
	kept := *c
	c.slabs = nil
	kept.whole, kept.kept = c.whole && i == 0, time.Now()
	kept.from, kept.records = from, c.records[i:]
	kept.holds = c.holds || i > 0
	kept.verdicts, kept.hosts = nil, nil // the ledger is asked again: the rest may be kept for long
	kept.bytes = c.bytes / len(c.records) * len(kept.records)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.keep(&kept)
}

// keep keeps a chunk, and drops the oldest for it. The caller holds mu.
func (r *rest) keep(c *chunk) {
	for _, old := range r.chunks {
		if time.Since(old.kept) < staleFor {
			break
		}
		if old.holds { // nobody is about to take it
			old.records, old.slabs, old.holds = compacted(old.records), nil, false
		}
	}
	r.chunks = append(r.chunks, c)
	for r.bytes += c.bytes; r.bytes > r.limit; r.chunks = r.chunks[1:] {
		r.bytes -= r.chunks[0].bytes
	}
}

// takeRaw returns the batches that begin at an offset, if there are some.
func (r *rest) takeRaw(partition int, from int64) *kmsg.FetchResponseTopicPartition {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := slices.IndexFunc(r.raws, func(x raw) bool { return x.at == spot{partition, from} })
	if i < 0 {
		return nil
	}
	part := r.raws[i].part
	r.raws = slices.Delete(r.raws, i, i+1)
	r.raw -= len(part.RecordBatches)
	return part
}

// putRaw keeps batches, which begin at an offset.
func (r *rest) putRaw(partition int, from int64, part *kmsg.FetchResponseTopicPartition) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.raws {
		old := &r.raws[i]
		if time.Since(old.kept) < staleFor {
			break
		}
		if !old.own { // nobody is about to take it: it holds no more than it counts
			old.part.RecordBatches, old.own = slices.Clone(old.part.RecordBatches), true
		}
	}
	r.raws = append(r.raws, raw{at: spot{partition, from}, part: part, kept: time.Now()})
	r.raw += len(part.RecordBatches)
}

// reserveRaw returns how many bytes to ask a broker for where so many are wanted now:
// more, if there is room to keep them. Done gives back the room, which what is kept of
// them takes.
func (r *rest) reserveRaw(size int) (once int, done func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.raws) > 0 && r.raw+onceFetch > r.rawLimit && time.Since(r.raws[0].kept) > staleFor {
		r.raw -= len(r.raws[0].part.RecordBatches)
		r.raws = slices.Delete(r.raws, 0, 1)
	}
	if size >= onceFetch || r.raw+onceFetch > r.rawLimit {
		return size, func() {}
	}
	r.raw += onceFetch
	return onceFetch, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.raw -= onceFetch
	}
}

// learn notes how large the records of a fetch were.
func (r *rest) learn(partition, sent int, c *chunk) {
	if len(c.records) == 0 {
		return
	}
	n := float64(len(c.records))
	now := sizes{float64(sent) / n, float64(c.bytes) / n}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.sizes == nil {
		r.sizes = map[int]sizes{}
	}
	if was, ok := r.sizes[partition]; ok {
		now = sizes{(3*was.sent + now.sent) / 4, (3*was.kept + now.kept) / 4}
	}
	r.sizes[partition] = now
}

// guess returns how many bytes of batches make a page.
func (r *rest) guess(partition, events, bytes int) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.size(partition, events, bytes)
}

func (r *rest) size(partition, events, bytes int) int {
	s, ok := r.sizes[partition]
	if !ok {
		return 256 << 10
	}
	// Somewhat less than a page, because what is left over is a page of its own, and small.
	n := 0.95 * min(float64(events), float64(bytes)/max(s.kept, 1))
	return int(max(minFetch, min(maxFetch, n*s.sent)))
}

// readAhead begins the fetch of what follows a chunk, where its reader goes from one
// to the next: while the events of one page are made and worked, the broker has the
// next one ready. It is for nobody in particular: whoever reads there gets it.
//
// Two fetches are ahead of a reader, so that the broker works on one while the records
// of the other are decompressed.
func (l *Log) readAhead(c *chunk, events, bytes int) {
	if l.ctx.Err() != nil {
		return
	}
	at, f := l.rest.takeOff(spot{c.partition, c.from}, spot{c.partition, c.next}, events, bytes)
	l.fly(at, f, events, bytes)
}

// fly fetches ahead; a nil flight is none.
func (l *Log) fly(at spot, f *flight, events, bytes int) {
	if f == nil {
		return
	}
	l.wg.Go(func() {
		answered := func(next, head int64) {
			if next > at.from && next < head && l.ctx.Err() == nil {
				n := spot{at.partition, next}
				l.fly(n, l.rest.answer(f, n, events, bytes), events, bytes)
			}
		}
		// Who waits for it fetches again, and learns what is wrong.
		c, err := l.fetch(l.ctx, at.partition, at.from, events, bytes, answered)
		if err != nil {
			c = nil
		}
		l.rest.land(at, f, c)
	})
}

// takeOff notes where a chunk ended, and returns a flight if there is to be one, and
// to where: what follows the chunk, or what follows that where it is under way.
func (r *rest) takeOff(at, next spot, events, bytes int) (spot, *flight) {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := slices.Index(r.ends, at)
	if i >= 0 {
		r.ends = slices.Delete(r.ends, i, i+1)
	}
	if len(r.ends) >= mostEnds {
		r.ends = slices.Delete(r.ends, 0, 1)
	}
	r.ends = append(r.ends, next)
	if i < 0 {
		return spot{}, nil
	}
	if f := r.flights[next]; f != nil {
		f.chains = true
		if f.answered == (spot{}) {
			return spot{}, nil
		}
		return f.answered, r.begin(f.answered, events, bytes)
	}
	if i := slices.IndexFunc(r.chunks, func(c *chunk) bool { return c.partition == next.partition && c.from == next.from }); i >= 0 {
		c := r.chunks[i]
		if !c.whole || c.next >= c.head {
			return spot{}, nil
		}
		next = spot{c.partition, c.next}
		return next, r.begin(next, events, bytes)
	}
	f := r.begin(next, events, bytes)
	if f != nil {
		f.chains = true
	}
	return next, f
}

// answer notes where what a flight brings ends, and returns a flight to there if there
// is to be one.
func (r *rest) answer(f *flight, next spot, events, bytes int) *flight {
	r.mu.Lock()
	defer r.mu.Unlock()
	if f.answered = next; !f.chains {
		return nil
	}
	return r.begin(next, events, bytes)
}

// begin returns a flight if there is room for what it brings, and none to that place.
// The caller holds mu.
func (r *rest) begin(at spot, events, bytes int) *flight {
	if r.flights[at] != nil || slices.ContainsFunc(r.chunks, func(c *chunk) bool { return c.partition == at.partition && c.from == at.from }) {
		return nil
	}
	f := &flight{landed: make(chan struct{}), bytes: r.expect(at.partition, events, bytes)}
	for len(r.chunks) > 0 && r.bytes+r.reserved+f.bytes > r.limit && time.Since(r.chunks[0].kept) > staleFor {
		r.bytes -= r.chunks[0].bytes
		r.chunks = r.chunks[1:]
	}
	if r.bytes+r.reserved+f.bytes > r.limit {
		return nil
	}
	if r.flights == nil {
		r.flights = map[spot]*flight{}
	}
	r.flights[at] = f
	r.reserved += f.bytes
	return f
}

// land keeps what a flight has brought; nil: nothing.
func (r *rest) land(at spot, f *flight, c *chunk) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.flights, at)
	r.reserved -= f.bytes
	if c != nil && len(c.records) > 0 {
		c.kept = time.Now()
		r.keep(c)
	}
	close(f.landed)
}

// await is take of what may be on its way.
func (r *rest) await(ctx context.Context, partition int, from int64) *chunk {
	r.mu.Lock()
	f := r.flights[spot{partition, from}]
	r.mu.Unlock()
	if f != nil {
		select {
		case <-f.landed:
		case <-ctx.Done():
			return nil
		}
	}
	return r.take(partition, from)
}

// expect returns how much memory a fetch takes, about. The caller holds mu.
func (r *rest) expect(partition, events, bytes int) int {
	s, ok := r.sizes[partition]
	if !ok {
		return 1 << 20
	}
	n := float64(r.size(partition, events, bytes))
	return int(n / max(s.sent, 1) * s.kept)
}

// slabs is where the records of a chunk are, as a [kgo.PoolRecords] of its own. It is
// used again for another chunk once all of its records are events: these have nothing of
// it. A decoder of the user's may keep a record, so where there is one there are none.
type slabs struct{ all [][]kgo.Record }

var freeSlabs = sync.Pool{New: func() any { return new([]kgo.Record) }}

func (s *slabs) GetRecords(n int) []kgo.Record {
	slab := *freeSlabs.Get().(*[]kgo.Record)
	if cap(slab) < n {
		slab = make([]kgo.Record, 0, n)
	}
	s.all = append(s.all, slab)
	return slab
}

// PutRecords is called by who recycles a record, which nobody does.
func (s *slabs) PutRecords([]kgo.Record) {}

func (s *slabs) free() {
	if s == nil {
		return
	}
	for _, slab := range s.all {
		clear(slab[:cap(slab)])
		freeSlabs.Put(&slab)
	}
	s.all = nil
}
