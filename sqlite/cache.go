package sqlite

import "sync"

// A cache is a map of bounded size, safe for many goroutines. It forgets what
// was not asked for since the last limit additions: two generations cost one
// map lookup more than none, and no list to keep.
type cache[K comparable, V any] struct {
	limit int

	mu         sync.RWMutex
	young, old map[K]V
}

func newCache[K comparable, V any](limit int) *cache[K, V] {
	return &cache[K, V]{limit: limit}
}

func (c *cache[K, V]) get(k K) (V, bool) {
	c.mu.RLock()
	v, ok := c.young[k]
	if ok {
		c.mu.RUnlock()
		return v, true
	}
	v, ok = c.old[k]
	c.mu.RUnlock()
	if ok {
		c.put(k, v)
	}
	return v, ok
}

func (c *cache[K, V]) put(k K, v V) {
	c.mu.Lock()
	if len(c.young) >= c.limit {
		c.old, c.young = c.young, nil
	}
	if c.young == nil {
		c.young = make(map[K]V)
	}
	c.young[k] = v
	c.mu.Unlock()
}

// clear forgets everything.
func (c *cache[K, V]) clear() {
	c.mu.Lock()
	c.young, c.old = nil, nil
	c.mu.Unlock()
}
