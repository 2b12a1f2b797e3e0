// Package assign decides which process is to work which lane. It is a pure
// function of what all processes see, so all come to the same answer without
// talking to each other. Where they see different things for a moment, two may
// want one lane, or none may: the fence of the lane makes the first harmless,
// and whoever sees a lane unserved for a while takes it.
//
// It is rendezvous hashing (Thaler and Ravishankar, 1998): a member that comes or
// goes moves only what it takes or had. Its loads are bounded (Mirrokni, Thorup
// and Zadimoghaddam, "Consistent Hashing with Bounded Loads", 2016): no member
// gets more than Slack times its share of the cost.
package assign

import (
	"cmp"
	"math"
	"slices"

	"github.com/cespare/xxhash/v2"
)

// Slack is how much more than an equal share of the cost one member may have. A
// smaller one would move more lanes whenever a cost changes.
const Slack = 1.25

// A Member is a process that can work lanes.
type Member struct {
	// Name is what its place is derived from: one that lasts over a restart
	// gets the same lanes again. Names are distinct.
	Name string
	// Takes reports whether it can work item i; nil: every one.
	Takes func(i int) bool
}

// An Item is a lane to be placed.
type Item struct {
	Key  string // which lane
	Cost int64  // above 0; see [Class]. A whole number, so that sums are exact in any order
}

// None is the place of an item that no member takes.
const None = -1

// Targets returns for each item the index of the member that is to work it, or
// [None]. The order of members and items does not matter.
func Targets(members []Member, items []Item) []int {
	out := make([]int, len(items))
	if len(members) == 0 {
		for i := range out {
			out[i] = None
		}
		return out
	}
	seeds := make([]uint64, len(members))
	for m := range members {
		seeds[m] = xxhash.Sum64String(members[m].Name)
	}
	hashes, order, total := make([]uint64, len(items)), make([]int, 0, len(items)), int64(0)
	for i := range items {
		out[i] = None
		if !slices.ContainsFunc(members, func(m Member) bool { return m.Takes == nil || m.Takes(i) }) {
			continue // it is nobody's load
		}
		hashes[i] = xxhash.Sum64String(items[i].Key)
		order = append(order, i)
		total += items[i].Cost
	}
	// The largest first: they are the hardest to place, and least likely to be
	// moved by a change of the small ones.
	slices.SortFunc(order, func(a, b int) int {
		return cmp.Or(cmp.Compare(items[b].Cost, items[a].Cost), cmp.Compare(hashes[a], hashes[b]), cmp.Compare(items[a].Key, items[b].Key))
	})
	limit := int64(float64(total) / float64(len(members)) * Slack)
	load := make([]int64, len(members))
	for _, i := range order {
		best, fallback := None, None
		var bestScore uint64
		for m := range members {
			if t := members[m].Takes; t != nil && !t(i) {
				continue
			}
			if fallback == None || load[m] < load[fallback] || load[m] == load[fallback] && members[m].Name < members[fallback].Name {
				fallback = m
			}
			if load[m] > 0 && load[m]+items[i].Cost > limit {
				continue
			}
			if s := mix(hashes[i] ^ seeds[m]); best == None || s > bestScore || s == bestScore && members[m].Name < members[best].Name {
				best, bestScore = m, s
			}
		}
		if best == None {
			best = fallback
		}
		if out[i] = best; best != None {
			load[best] += items[i].Cost
		}
	}
	return out
}

// mix is the finalizer of MurmurHash3 (Appleby): each bit of x changes half of
// those of the result.
func mix(x uint64) uint64 {
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	x *= 0xc4ceb9fe1a85ec53
	x ^= x >> 33
	return x
}

// unit is the cost that counts as 1: a hundredth of a processor.
const unit = 0.01

// Cost is what a class stands for, in processors.
func Cost(class int64) float64 { return float64(class) * unit }

// Class makes of a measured cost, in processors, that of an item. It is a power
// of two, and the one before, 0 where there is none, stays until the cost is
// twice or half of it: items are not moved for what is only noise.
func Class(processors float64, before int64) int64 {
	if x := processors / unit; before > 0 && x < 2*float64(before) && x > float64(before)/2 {
		return before
	}
	if !(processors > unit) { // NaN too
		return 1
	}
	return 1 << int(math.Round(math.Log2(min(processors, 1e6)/unit)))
}
