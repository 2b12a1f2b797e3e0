package kafka

import (
	"context"
	"slices"
	"sync"
	"time"
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
	landed chan struct{}
	bytes  int
}

const (
	mostEnds = 128             // places that are remembered
	staleFor = 5 * time.Second // a kept chunk is dropped after, where there is want of room, and takes no more than its own
)

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
			old.records, old.holds = compacted(old.records), false
		}
	}
	r.chunks = append(r.chunks, c)
	for r.bytes += c.bytes; r.bytes > r.limit; r.chunks = r.chunks[1:] {
		r.bytes -= r.chunks[0].bytes
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
	n := min(float64(events), float64(bytes)/max(s.kept, 1))
	return int(max(minFetch, min(maxFetch, n*s.sent)))
}

// readAhead begins the fetch of what follows a chunk, where its reader goes from one
// to the next: while the events of one page are made and worked, the broker has the
// next one ready. It is for nobody in particular: whoever reads there gets it.
func (l *Log) readAhead(c *chunk, events, bytes int) {
	next := spot{c.partition, c.next}
	if l.ctx.Err() != nil {
		return
	}
	f := l.rest.takeOff(spot{c.partition, c.from}, next, events, bytes)
	if f == nil {
		return
	}
	l.wg.Go(func() {
		// Who waits for it fetches again, and learns what is wrong.
		c, err := l.fetch(l.ctx, next.partition, next.from, events, bytes)
		if err != nil {
			c = nil
		}
		l.rest.land(next, f, c)
	})
}

// takeOff notes where a chunk ended, and returns a flight if there is to be one.
func (r *rest) takeOff(at, next spot, events, bytes int) *flight {
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
	if i < 0 || r.flights[next] != nil || slices.ContainsFunc(r.chunks, func(c *chunk) bool { return c.partition == next.partition && c.from == next.from }) {
		return nil
	}
	f := &flight{landed: make(chan struct{}), bytes: r.expect(next.partition, events, bytes)}
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
	r.flights[next] = f
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

// await returns the chunk that is on its way to a place, if there is one and nobody
// takes it before.
func (r *rest) await(ctx context.Context, partition int, from int64) *chunk {
	r.mu.Lock()
	f := r.flights[spot{partition, from}]
	r.mu.Unlock()
	if f == nil {
		return nil
	}
	select {
	case <-f.landed:
		return r.take(partition, from)
	case <-ctx.Done():
		return nil
	}
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
