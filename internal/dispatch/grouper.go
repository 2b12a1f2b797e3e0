// Package dispatch groups a batch by ordering key and runs the groups, the
// largest first, in parallel.
package dispatch

import (
	"hash/maphash"
	"math"
	"math/bits"
	"time"
)

// A Grouper sorts the items of a batch into groups, one for each ordering key of
// each tenant. It is reused from batch to batch and then allocates nothing.
//
//	g.Reset()
//	for i := range events {
//		g.Add(i, events[i].Tenant, key(&events[i]))
//	}
//	Run(ctx, workers, g.Order(), func(_, group int) {
//		for _, i := range g.Members(group) { ... }
//	})
//
// Groups are numbered from 0 by the arrival of their first item. The zero
// Grouper is ready to use. It is not safe for use by several goroutines at once;
// after Order its reading methods are, until the next Reset or Add.
type Grouper struct {
	seed   maphash.Seed
	seeded bool
	weak   bool // tests only: makes nearly all hashes equal

	// table is an open-addressing hash table of groups, a power of two long and
	// at most half full. A slot holds the upper half of the hash and the group's
	// number + 1; 0 is free.
	table []uint64
	keys  []groupKey
	stats []groupStat

	items  []int32 // in order of Add
	groups []int32 // the group of each of items

	order   []int32 // groups, the largest first
	members []int32 // items by group, groups in the sequence of order
	scratch []int32
	ordered bool

	lastTenant string // a batch has runs of one tenant: hash it once
	lastHash   uint64
}

type groupKey struct {
	tenant, key string
	hash        uint64
}

type groupStat struct {
	cost  int64
	count int32
	end   int32 // of its members; set by Order
}

const minTable = 64

// Reset empties g for the next batch and drops all strings that it holds. The
// slices that Order and Members returned are no longer valid.
func (g *Grouper) Reset() {
	if !g.seeded {
		g.seed, g.seeded = maphash.MakeSeed(), true
	}
	// The last batch says how long a table the next will need: a small batch
	// after a large one does not pay for clearing a large table again and again.
	size := minTable
	for size < 2*len(g.keys) {
		size *= 2
	}
	if size > cap(g.table) {
		g.table = make([]uint64, size)
	} else {
		g.table = g.table[:size]
		clear(g.table)
	}
	clear(g.keys)
	g.keys, g.stats = g.keys[:0], g.stats[:0]
	g.items, g.groups = g.items[:0], g.groups[:0]
	g.order, g.members, g.ordered = g.order[:0], g.members[:0], false
	g.lastTenant, g.lastHash = "", g.hashTenant("")
}

// Add puts an item into the group of (tenant, key) and returns the number of
// that group. All items added so cost the same. The caller chooses what item
// means, usually an index into its batch, at most 2^31-1; an item may go into
// several groups, and into one twice.
func (g *Grouper) Add(item int, tenant, key string) (group int) {
	return g.AddCost(item, tenant, key, 1)
}

// AddCost is Add with an estimate of the time that the item will take. Groups
// are then ordered by the sum of their estimates. A batch uses Add or AddCost,
// not both. Negative estimates count as 0.
func (g *Grouper) AddCost(item int, tenant, key string, cost time.Duration) (group int) {
	if !g.seeded {
		g.Reset()
	}
	hash := g.hash(tenant, key)
	mask := uint64(len(g.table) - 1)
	slot := hash & mask
	for {
		entry := g.table[slot]
		if entry == 0 {
			group = g.insert(slot, tenant, key, hash)
			break
		}
		if entry>>32 == hash>>32 {
			group = int(uint32(entry)) - 1
			// The hash finds a candidate; only the names decide. Two keys in one
			// group would be slow, but two documents in one would be wrong.
			if k := &g.keys[group]; k.key == key && k.tenant == tenant {
				break
			}
		}
		slot = (slot + 1) & mask
	}
	s := &g.stats[group]
	s.count++
	if s.cost += max(int64(cost), 0); s.cost < 0 {
		s.cost = math.MaxInt64
	}
	g.items = append(g.items, int32(item))
	g.groups = append(g.groups, int32(group))
	g.ordered = false
	return group
}

func (g *Grouper) insert(slot uint64, tenant, key string, hash uint64) int {
	group := len(g.keys)
	g.keys = append(g.keys, groupKey{tenant, key, hash})
	g.stats = append(g.stats, groupStat{})
	g.table[slot] = hash>>32<<32 | uint64(group+1)
	if 2*len(g.keys) > len(g.table) {
		g.grow()
	}
	return group
}

func (g *Grouper) grow() {
	size := 2 * len(g.table)
	if size <= cap(g.table) {
		g.table = g.table[:size]
		clear(g.table)
	} else {
		g.table = make([]uint64, size)
	}
	mask := uint64(size - 1)
	for i := range g.keys {
		hash := g.keys[i].hash
		slot := hash & mask
		for g.table[slot] != 0 {
			slot = (slot + 1) & mask
		}
		g.table[slot] = hash>>32<<32 | uint64(i+1)
	}
}

func (g *Grouper) hash(tenant, key string) uint64 {
	if tenant != g.lastTenant {
		g.lastTenant, g.lastHash = tenant, g.hashTenant(tenant)
	}
	// A folded multiplication mixes the two; neither can cancel the other.
	hi, lo := bits.Mul64(g.lastHash^0x9e3779b97f4a7c15, maphash.String(g.seed, key))
	if g.weak {
		return hi & 3 << 40
	}
	return hi ^ lo
}

func (g *Grouper) hashTenant(tenant string) uint64 { return maphash.String(g.seed, tenant) }

// Len returns the number of groups.
func (g *Grouper) Len() int { return len(g.keys) }

// Items returns the number of items added.
func (g *Grouper) Items() int { return len(g.items) }

// Key returns the names of a group.
func (g *Grouper) Key(group int) (tenant, key string) {
	k := &g.keys[group]
	return k.tenant, k.key
}

// Count returns the number of items of a group.
func (g *Grouper) Count(group int) int { return int(g.stats[group].count) }

// Cost returns the sum of the estimates of a group; its count, where the items
// came by Add.
func (g *Grouper) Cost(group int) time.Duration { return time.Duration(g.stats[group].cost) }

// Members returns the items of a group in the order in which they were added.
// Order must have been called after the last Add.
func (g *Grouper) Members(group int) []int32 {
	if !g.ordered {
		panic("dispatch: Members before Order")
	}
	s := &g.stats[group]
	return g.members[s.end-s.count : s.end : s.end]
}

// Order returns all groups, the most expensive first and those of equal cost by
// arrival. So work ends at about the same time on all workers: "longest
// processing time first", Graham 1969.
func (g *Grouper) Order() []int32 {
	if g.ordered {
		return g.order
	}
	n := len(g.keys)
	g.order = grown(g.order, n)
	for i := range g.order {
		g.order[i] = int32(i)
	}
	g.sort()

	// One more pass puts the members of a group side by side, which costs less
	// than following links when they are run.
	end := int32(0)
	for _, group := range g.order {
		s := &g.stats[group]
		s.end = end
		end += s.count
	}
	g.members = grown(g.members, len(g.items))
	for i, group := range g.groups {
		s := &g.stats[group]
		g.members[s.end] = g.items[i]
		s.end++
	}
	g.ordered = true
	return g.order
}

// sort is a radix sort of g.order by falling cost, stable, with 8 bits a pass: one
// or two counting passes for counts, four or five for estimates in nanoseconds.
func (g *Grouper) sort() {
	var highest int64
	for i := range g.stats {
		highest = max(highest, g.stats[i].cost)
	}
	g.scratch = grown(g.scratch, len(g.order))
	for shift := 0; shift < bits.Len64(uint64(highest)) && len(g.order) > 1; shift += 8 {
		var starts [256]int32
		for i := range g.stats {
			starts[uint8(g.stats[i].cost>>shift)]++
		}
		next := int32(0)
		for digit := 255; digit >= 0; digit-- {
			next, starts[digit] = next+starts[digit], next
		}
		for _, group := range g.order {
			at := &starts[uint8(g.stats[group].cost>>shift)]
			g.scratch[*at] = group
			*at++
		}
		g.order, g.scratch = g.scratch, g.order
	}
}

// grown returns s with length n. Its contents are not kept.
func grown(s []int32, n int) []int32 {
	if n > cap(s) {
		return make([]int32, n, n+n/4)
	}
	return s[:n]
}
