// Package pagecache keeps pages of a log that several readers want, so that one
// reads them for all, to a limit in bytes.
package pagecache

import (
	"cmp"
	"context"
	"slices"
	"sync"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
)

// A Cache keeps pages with what readers have to know of each, a T: which of the
// events it has, say. Safe for concurrent use.
type Cache[T any] struct {
	limit int // bytes

	mu      sync.Mutex
	size    int
	kept    []*page[T] // oldest first
	loading map[key]chan struct{}
}

type key struct {
	partition int
	after     event.Position
}

type page[T any] struct {
	key
	page eventlog.Page
	what T
	size int
}

const maxPages = 128 // at the tail pages are small: bounds the search for one

// New returns a cache of at most limit bytes, by [event.Event.Size].
func New[T any](limit int) *Cache[T] {
	return &Cache[T]{limit: limit, loading: map[key]chan struct{}{}}
}

// Read returns a page that begins with the event after `after`: a kept one that
// fits, whatever it begins with, or what load returns, which is kept. Of those who
// want the same at once one loads. Nobody may change a page.
func (c *Cache[T]) Read(ctx context.Context, partition int, after event.Position, fits func(T) bool, load func() (eventlog.Page, T, error)) (eventlog.Page, error) {
	k := key{partition, after}
	for {
		c.mu.Lock()
		if p, ok := c.find(k, fits); ok {
			c.mu.Unlock()
			return p, nil
		}
		wait, busy := c.loading[k]
		if !busy {
			wait = make(chan struct{})
			c.loading[k] = wait
		}
		c.mu.Unlock()
		if !busy {
			return c.load(k, wait, load)
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return eventlog.Page{}, ctx.Err()
		}
	}
}

func (c *Cache[T]) load(k key, done chan struct{}, load func() (eventlog.Page, T, error)) (eventlog.Page, error) {
	p, what, err := load()
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.loading, k)
	close(done)
	if err != nil || p.Next <= k.after { // one without events is kept: another reader need not find that out again
		return p, err
	}
	n := &page[T]{key: k, page: p, what: what}
	for i := range p.Events {
		n.size += p.Events[i].Size()
	}
	c.kept = append(c.kept, n)
	c.size += n.size
	for len(c.kept) > 0 && (c.size > c.limit || len(c.kept) > maxPages) {
		c.size -= c.kept[0].size
		c.kept[0] = nil
		c.kept = c.kept[1:]
	}
	return p, nil
}

// find looks for a kept page that has what follows k.after.
func (c *Cache[T]) find(k key, fits func(T) bool) (eventlog.Page, bool) {
	for i := len(c.kept) - 1; i >= 0; i-- {
		n := c.kept[i]
		if n.partition != k.partition || k.after < n.after || k.after >= n.page.Next || !fits(n.what) {
			continue
		}
		p := n.page
		from, _ := slices.BinarySearchFunc(p.Events, k.after+1, func(e event.Event, at event.Position) int { return cmp.Compare(e.Position, at) })
		p.Events = p.Events[from:]
		return p, true
	}
	return eventlog.Page{}, false
}
