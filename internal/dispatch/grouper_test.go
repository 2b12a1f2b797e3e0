package dispatch

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// published is the example of the scaling article: 12 events of three keys.
var published = []string{"A", "A", "B", "A", "B", "C", "A", "C", "C", "C", "C", "C"}

func group(g *Grouper, keys []string) {
	g.Reset()
	for i, k := range keys {
		g.Add(i, "t", k)
	}
}

func TestOrderOfThePublishedExample(t *testing.T) {
	var g Grouper
	group(&g, published)
	var got []string
	for _, k := range g.Order() {
		_, key := g.Key(int(k))
		got = append(got, fmt.Sprint(key, g.Members(int(k))))
	}
	want := []string{"C[5 7 8 9 10 11]", "A[0 1 3 6]", "B[2 4]"}
	if !slices.Equal(got, want) {
		t.Errorf("order %v, want %v", got, want)
	}
}

func TestOrder(t *testing.T) {
	type item struct {
		key  string
		cost time.Duration
	}
	for _, c := range []struct {
		name  string
		items []item
		want  []int32 // groups, numbered by arrival
	}{
		{"none", nil, nil},
		{"one", []item{{"a", 5}}, []int32{0}},
		{"equal costs by arrival", []item{{"c", 5}, {"a", 5}, {"b", 5}}, []int32{0, 1, 2}},
		{"zero costs by arrival", []item{{"c", 0}, {"a", 0}}, []int32{0, 1}},
		{"sums", []item{{"a", 7}, {"b", 4}, {"b", 4}}, []int32{1, 0}},
		{"fewer but dearer", []item{{"a", 1}, {"a", 1}, {"a", 1}, {"b", time.Second}}, []int32{1, 0}},
		{"over several digits", []item{{"a", 0x0100ff}, {"b", 0x020000}, {"c", 0x0200ff}, {"d", 0xff}}, []int32{2, 1, 0, 3}},
		{"negative is zero", []item{{"a", -time.Hour}, {"b", 1}}, []int32{1, 0}},
		{"sum does not wrap", []item{{"b", time.Hour}, {"a", math.MaxInt64}, {"a", math.MaxInt64}}, []int32{1, 0}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var g Grouper
			for i, it := range c.items {
				g.AddCost(i, "t", it.key, it.cost)
			}
			if got := g.Order(); !slices.Equal(got, c.want) {
				t.Errorf("order %v, want %v", got, c.want)
			}
		})
	}
}

func TestKeysStayApart(t *testing.T) {
	pairs := [][2]string{{"a", "b"}, {"b", "a"}, {"ab", ""}, {"", "ab"}, {"a", "bb"}, {"aa", "b"}, {"", ""}, {"a", ""}, {"", "a"}}
	for _, weak := range []bool{false, true} {
		t.Run(fmt.Sprintf("weak hash %t", weak), func(t *testing.T) {
			g := Grouper{weak: weak}
			for i := range 3 * len(pairs) {
				p := pairs[i%len(pairs)]
				if got, want := g.Add(i, p[0], p[1]), i%len(pairs); got != want {
					t.Errorf("group of %q is %d, want %d", p, got, want)
				}
			}
		})
	}
}

func TestItemInSeveralGroups(t *testing.T) {
	var g Grouper
	g.Add(7, "t", "a")
	g.Add(7, "t", "b")
	g.Add(9, "t", "a")
	g.Order()
	if a, b := g.Members(0), g.Members(1); !slices.Equal(a, []int32{7, 9}) || !slices.Equal(b, []int32{7}) {
		t.Errorf("members %v and %v, want [7 9] and [7]", a, b)
	}
}

func TestAddAfterOrder(t *testing.T) {
	var g Grouper
	group(&g, published)
	g.Order()
	for i := range 6 {
		g.Add(12+i, "t", "B")
	}
	if got, want := g.Order(), []int32{1, 2, 0}; !slices.Equal(got, want) {
		t.Errorf("order %v, want %v", got, want)
	}
	if got, want := g.Members(1), []int32{2, 4, 12, 13, 14, 15, 16, 17}; !slices.Equal(got, want) {
		t.Errorf("members of B %v, want %v", got, want)
	}
}

func TestMembersBeforeOrderPanics(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("no panic, want one")
		}
	}()
	var g Grouper
	g.Add(0, "t", "a")
	g.Members(0)
}

// checkGroups compares g with a grouping by a map and a stable sort.
func checkGroups(t *testing.T, g *Grouper, tenants, keys []string, costs []time.Duration) {
	t.Helper()
	type name struct{ tenant, key string }
	var names []name
	members := map[name][]int32{}
	cost := map[name]time.Duration{}
	g.Reset()
	for i := range keys {
		n := name{tenants[i], keys[i]}
		if members[n] == nil {
			names = append(names, n)
		}
		members[n] = append(members[n], int32(i))
		var got int
		if costs == nil {
			cost[n]++
			got = g.Add(i, tenants[i], keys[i])
		} else {
			cost[n] += costs[i]
			got = g.AddCost(i, tenants[i], keys[i], costs[i])
		}
		if want := slices.Index(names, n); got != want {
			t.Fatalf("item %d went to group %d, want %d", i, got, want)
		}
	}
	if g.Len() != len(names) || g.Items() != len(keys) {
		t.Fatalf("%d groups of %d items, want %d of %d", g.Len(), g.Items(), len(names), len(keys))
	}
	want := slices.Clone(names)
	slices.SortStableFunc(want, func(a, b name) int { return int(cost[b] - cost[a]) })
	order := g.Order()
	for i, n := range want {
		group := int(order[i])
		if tenant, key := g.Key(group); (name{tenant, key}) != n {
			t.Fatalf("place %d has %q %q, want %q", i, tenant, key, n)
		}
		if !slices.Equal(g.Members(group), members[n]) || g.Count(group) != len(members[n]) || g.Cost(group) != cost[n] {
			t.Fatalf("group of %q: %v, %d items, cost %d, want %v, cost %d",
				n, g.Members(group), g.Count(group), g.Cost(group), members[n], cost[n])
		}
	}
}

// One Grouper through batches of all sizes, with and without costs: every item
// is in exactly one group, in order, and the groups are in order.
func TestGrouperAgainstAMap(t *testing.T) {
	for _, weak := range []bool{false, true} {
		g := &Grouper{weak: weak}
		for seed := range uint64(300) {
			rng := rand.New(rand.NewPCG(seed, 7))
			n := int(math.Exp(rng.Float64() * 7)) // 1 to 1,096
			distinct := 1 + rng.IntN(n)
			tenants, keys := make([]string, n), make([]string, n)
			var costs []time.Duration
			if seed%2 == 0 {
				costs = make([]time.Duration, n)
			}
			for i := range keys {
				tenants[i] = fmt.Sprint("t", rng.IntN(3))
				keys[i] = fmt.Sprint(rng.IntN(distinct))
				if costs != nil {
					costs[i] = time.Duration(rng.Int64N(1 << (1 + rng.IntN(34))))
				}
			}
			checkGroups(t, g, tenants, keys, costs)
			if t.Failed() {
				t.Fatalf("seed %d", seed)
			}
		}
	}
}

func FuzzGrouper(f *testing.F) {
	f.Add([]byte("aabacbacccc"), uint8(0))
	f.Add([]byte{0, 1, 2, 3, 0xff, 0xfe, 0}, uint8(3))
	f.Fuzz(func(t *testing.T, data []byte, mode uint8) {
		g := &Grouper{weak: mode&1 != 0}
		tenants, keys := make([]string, len(data)), make([]string, len(data))
		var costs []time.Duration
		if mode&2 != 0 {
			costs = make([]time.Duration, len(data))
		}
		for i, b := range data {
			tenants[i], keys[i] = string(data[:b&3%uint8(min(len(data), 4))]), fmt.Sprint(b>>2)
			if costs != nil {
				costs[i] = time.Duration(b) << (i % 30)
			}
		}
		checkGroups(t, g, tenants, keys, costs)
		checkGroups(t, g, keys, tenants, costs) // again, reused
	})
}

func TestGrouperHoldsNoStringsAfterReset(t *testing.T) {
	var g Grouper
	group(&g, published)
	g.Reset()
	for i, k := range g.keys[:cap(g.keys)] {
		if k.key != "" || k.tenant != "" {
			t.Errorf("slot %d still holds %q %q", i, k.tenant, k.key)
		}
	}
}

func TestGrouperAllocatesNothing(t *testing.T) {
	keys := zipfKeys(5000, 10_000)
	var g Grouper
	batch := func() {
		group(&g, keys)
		g.Order()
	}
	batch()
	batch()
	if got := testing.AllocsPerRun(10, batch); got != 0 {
		t.Errorf("%v allocations a batch, want 0", got)
	}
}

func zipfKeys(n, distinct int) []string {
	rng := rand.New(rand.NewPCG(1, 2))
	z := rand.NewZipf(rng, 1.1, 1, uint64(distinct-1))
	keys := make([]string, n)
	for i := range keys {
		keys[i] = fmt.Sprintf("order-%08d", z.Uint64())
	}
	return keys
}
