package assign

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

func members(names ...string) (out []Member) {
	for _, n := range names {
		out = append(out, Member{Name: n})
	}
	return out
}

func items(n int, cost func(i int) int64) (out []Item) {
	for i := range n {
		out = append(out, Item{Key: fmt.Sprintf("orders/0[%d]", i), Cost: cost(i)})
	}
	return out
}

func equal(int) int64 { return 1 }

// zipf is what the lanes of tenants cost: one in a thousand has a third of all.
func zipf(i int) int64 { return Class(1/float64(i+1), 0) }

// loads returns the cost of each member.
func loads(ms []Member, it []Item, targets []int) []int64 {
	out := make([]int64, len(ms))
	for i, m := range targets {
		if m != None {
			out[m] += it[i].Cost
		}
	}
	return out
}

func TestTargetsAreBalanced(t *testing.T) {
	for name, cost := range map[string]func(int) int64{"equal": equal, "zipf": zipf} {
		for _, n := range []int{1, 7, 100, 10_000} {
			t.Run(fmt.Sprintf("%s, %d", name, n), func(t *testing.T) {
				ms, it := members("a", "b", "c", "d", "e", "f"), items(n, cost)
				total, largest := int64(0), int64(0)
				for _, x := range it {
					total += x.Cost
					largest = max(largest, x.Cost)
				}
				for m, load := range loads(ms, it, Targets(ms, it)) {
					// Where that is more than the slack, one item above the share.
					if most := max(float64(total)/6*Slack, float64(total)/6+float64(largest)); float64(load) > most {
						t.Errorf("member %d has %v of %v, want at most %v", m, load, total, most)
					}
				}
			})
		}
	}
}

// TestTargetsMoveLittle: of equal items, who comes takes about its share from the
// others and nothing moves between these; who leaves and comes back gets what
// it had.
func TestTargetsMoveLittle(t *testing.T) {
	it := items(10_000, equal)
	six, five := members("a", "b", "c", "d", "e", "f"), members("a", "b", "c", "d", "e")
	before, without := Targets(six, it), Targets(five, it)
	moved := 0
	for i := range it {
		if before[i] != 5 && before[i] != without[i] {
			moved++
		}
	}
	if moved > 200 { // by the bound only
		t.Errorf("%d of 10,000 items moved between members that stayed, want at most 200", moved)
	}
	if again := Targets(six, it); !slices.Equal(again, before) {
		t.Error("a member that came back does not have what it had")
	}
}

// TestTargetsAgree: the order in which members and items are seen is no part of
// the answer.
func TestTargetsAgree(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		ms, it := members("a", "b", "c", "d")[:1+rng.IntN(4)], items(rng.IntN(60), func(int) int64 { return Class(rng.ExpFloat64(), 0) })
		want := map[string]string{}
		for i, m := range Targets(ms, it) {
			want[it[i].Key] = ms[m].Name
		}
		rng.Shuffle(len(ms), func(i, j int) { ms[i], ms[j] = ms[j], ms[i] })
		rng.Shuffle(len(it), func(i, j int) { it[i], it[j] = it[j], it[i] })
		for i, m := range Targets(ms, it) {
			if ms[m].Name != want[it[i].Key] {
				t.Fatalf("%s is placed on %s, and in another order on %s", it[i].Key, ms[m].Name, want[it[i].Key])
			}
		}
	}
}

func TestTargetsOfThoseWhoTake(t *testing.T) {
	it := items(100, equal)
	ms := members("a", "b", "c")
	ms[0].Takes = func(i int) bool { return i < 50 }
	ms[1].Takes = func(i int) bool { return i < 50 }
	ms[2].Takes = func(i int) bool { return i < 90 }
	for i, m := range Targets(ms, it) {
		switch {
		case i >= 90 && m != None, i < 90 && m == None, i >= 50 && i < 90 && m != 2:
			t.Errorf("item %d is placed on %d", i, m)
		}
	}
	if got := Targets(nil, it[:2]); !slices.Equal(got, []int{None, None}) {
		t.Errorf("without members: %v", got)
	}
}

func TestClass(t *testing.T) {
	for _, tt := range []struct {
		in   float64
		want int64
	}{
		{0, 1}, {-1, 1}, {math.NaN(), 1}, {0.001, 1}, {0.01, 1}, {0.019, 2}, {0.021, 2}, {0.3, 32}, {1, 128}, {5, 512}, {math.Inf(1), 1 << 27},
	} {
		if got := Class(tt.in, 0); got != tt.want {
			t.Errorf("Class(%v) = %v, want %v", tt.in, got, tt.want)
		}
	}
}

// TestTargetsAreCalm: lanes whose costs only swing stay where they are. A cost is
// what the engine tells: an average over half a minute, classed with each
// heartbeat.
func TestTargetsAreCalm(t *testing.T) {
	for _, lanes := range []int{16, 64, 200} {
		r := rand.New(rand.NewPCG(1, 2))
		ms, it := members("w0", "w1", "w2"), items(lanes, equal)
		mean, avg := make([]float64, lanes), make([]float64, lanes)
		for i := range it {
			mean[i] = 0.01 * math.Exp(r.Float64()*4) // 0.01 to 0.55 processors
			avg[i], it[i].Cost = mean[i], Class(mean[i], 0)
		}
		last, moves := Targets(ms, it), 0
		for range 1080 { // an hour
			for i := range it {
				now := mean[i] * math.Exp(r.NormFloat64()*0.3)
				avg[i] += (now - avg[i]) / 9
				it[i].Cost = Class(avg[i], it[i].Cost)
			}
			out := Targets(ms, it)
			for i := range out {
				if out[i] != last[i] {
					moves++
				}
			}
			last = out
		}
		if moves > lanes/4 {
			t.Errorf("%d lanes moved %d times in an hour in which nothing happened", lanes, moves)
		}
	}
}

func BenchmarkTargets(b *testing.B) {
	ms, it := members("a", "b", "c", "d", "e", "f"), items(10_000, zipf)
	for b.Loop() {
		Targets(ms, it)
	}
}

// TestTargetsOfNobody: what no member takes is no part of the load that is shared.
func TestTargetsOfNobody(t *testing.T) {
	takes := func(i int) bool { return i < 20 }
	var items []Item
	for i := range 200 {
		items = append(items, Item{Key: fmt.Sprint(i), Cost: 1})
	}
	load := map[int]int{}
	for _, m := range Targets([]Member{{"a", takes}, {"b", takes}, {"c", takes}, {"d", takes}}, items) {
		load[m]++
	}
	if load[None] != 180 {
		t.Errorf("%d items are nobody's, want 180", load[None])
	}
	for m, n := range load {
		if m != None && n > 6 {
			t.Errorf("member %d has %d of 20 items among 4", m, n)
		}
	}
}
