package engine

import (
	"container/list"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/internal/mutant"
	"github.com/fairlead-dev/fairlead/projection"
	"github.com/fairlead-dev/fairlead/store"
)

// A doc is a document in memory. Because its lane is its only writer, it is as
// good as the row until the lane loses its fence.
type doc struct {
	key      store.Key
	state    any // nil: there is no document, or it is broken
	version  int64
	position event.Position
	seen     int64 // the last stream version that went by, handled or not
	size     int
	stored   bool                     // there is a row of it, once every sealed batch is committed
	batch    int64                    // the last batch that changed it
	dirty    bool                     // changed by what is being folded
	broken   *projection.HandlerError // its row does not decode; never cached, nor written
	used     bool                     // since it was last looked at for eviction
	elem     *list.Element
}

// A docCache holds the documents of one lane, to a limit in bytes. What an
// uncommitted batch has changed stays: the row would be older.
type docCache struct {
	limit int
	size  int
	sized int // documents whose size is known: what was never encoded has none
	docs  map[store.Key]*doc
	order list.List // of *doc; front: came last, or was given another round
}

const docOverhead = 256 // bytes of a doc, its key, map slot and list element

func newDocCache(limit int) *docCache {
	return &docCache{limit: limit, docs: map[store.Key]*doc{}}
}

// average returns the size of a document of this lane; 0: not known.
func (c *docCache) average() int {
	if c.sized == 0 {
		return 0
	}
	return c.size / c.sized
}

func (c *docCache) get(k store.Key) *doc {
	d := c.docs[k]
	if d != nil {
		d.used = true // to move it in the list would touch its neighbours' memory too
	}
	return d
}

func (c *docCache) put(d *doc) {
	c.docs[d.key] = d
	d.elem = c.order.PushFront(d)
	c.size += d.size + docOverhead
	c.sized += min(d.size, 1)
}

// resize notes how large a document has become.
func (c *docCache) resize(d *doc, size int) {
	c.size += size - d.size
	c.sized += min(size, 1) - min(d.size, 1)
	d.size = size
}

func (c *docCache) drop(d *doc) {
	delete(c.docs, d.key)
	c.order.Remove(d.elem)
	c.size -= d.size + docOverhead
	c.sized -= min(d.size, 1)
}

// trim evicts what was not used lately until the limit is kept (second chance: what
// was used since it was looked at last goes round once more), but nothing that a
// batch after committed has changed.
func (c *docCache) trim(committed int64) {
	for e := c.order.Back(); e != nil && c.size > c.limit; {
		d, before := e.Value.(*doc), e.Prev()
		if d.used {
			d.used = false
			c.order.MoveToFront(e)
			if before == nil { // it is the only one
				before = e
			}
		} else if d.batch <= committed || mutant.Is(mutant.EvictedEarly) {
			c.drop(d)
		}
		e = before
	}
}

// clear forgets all documents.
func (c *docCache) clear() {
	for _, d := range c.docs {
		c.drop(d)
	}
}

// dropTenant forgets the documents of a tenant that changes lanes.
func (c *docCache) dropTenant(tenant string) {
	if mutant.Is(mutant.CacheKept) {
		return
	}
	for k, d := range c.docs {
		if k.Tenant == tenant {
			c.drop(d)
		}
	}
}
