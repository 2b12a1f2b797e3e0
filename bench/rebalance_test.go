package main

import (
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// The figures of rebalance are worth what they find in stamps of which it is known.
func TestRebalanceFigures(t *testing.T) {
	at := func(ms int) int64 { return int64(ms) * int64(time.Millisecond) }
	commits := func(part int, from, to int) (all []stamp) {
		for x := from; x < to; x += 10 {
			all = append(all, stamp{stampCommit, part, int64(x), at(x), at(x)})
		}
		return all
	}
	// Partition 0 stays; 1 moves after 210 ms; 2 has a gap
	// that begins in the window and ends behind it.
	first := slices.Concat(commits(0, 0, 2000), commits(1, 0, 500), commits(2, 0, 590), commits(2, 800, 2000))
	second := commits(1, 700, 2000)
	p := pulses([][]stamp{first, second}, 3, stampCommit)
	var times rebalanceTimes
	if err := times.add(p, window{at(400), at(600)}, window{at(1200), at(1400)}); err != nil {
		t.Fatal(err)
	}
	times.sort()
	if want := []time.Duration{10 * time.Millisecond, 220 * time.Millisecond}; !slices.Equal(times.stayed, want) {
		t.Errorf("partitions that stay have gaps %v, want %v", times.stayed, want)
	}
	if want := []time.Duration{210 * time.Millisecond}; !slices.Equal(times.moved, want) {
		t.Errorf("partitions that move have gaps %v, want %v", times.moved, want)
	}
	if times.usual() != 10*time.Millisecond || len(times.control) != 3 {
		t.Errorf("control windows have gaps %v", times.control)
	}
	if err := times.add(p, window{at(400), at(600)}, window{at(1900), at(2100)}); err == nil || !strings.Contains(err.Error(), "wrong result") {
		t.Errorf("a partition that stands still to the end: got %v, want a wrong result", err)
	}
}

// A pause of partitions that stay is told from what a machine does to all of them, and
// what is no pause is not taken for one.
func TestShiftIsTold(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	run := func(pause time.Duration, one int) []excess {
		longer := make([]excess, 12)
		for i := range longer {
			// All partitions of a window feel what its machine does.
			here, there := time.Duration(random.ExpFloat64()*30e6), time.Duration(random.ExpFloat64()*30e6)
			for range 8 {
				own := time.Duration(random.NormFloat64() * 10e6)
				longer[i].sum += here - there + own
				if longer[i].n++; longer[i].n%one == 0 {
					longer[i].sum += pause
				}
			}
		}
		return longer
	}
	for _, c := range []struct {
		name  string
		pause time.Duration
		one   int // of so many partitions
		found [2]int
	}{
		{"no pause", 0, 1, [2]int{0, 10}},
		{"50 ms each", 50 * time.Millisecond, 1, [2]int{160, 200}},
		{"400 ms one of eight", 400 * time.Millisecond, 8, [2]int{160, 200}},
	} {
		found, below := 0, 0
		for range 200 {
			mean, p, most := shift(run(c.pause, c.one))
			if p <= 0.01 {
				found++
			}
			if most < c.pause/time.Duration(c.one) {
				below++
			}
			if most < mean {
				t.Fatalf("%s: at most %v of %v", c.name, most, mean)
			}
		}
		if found < c.found[0] || found > c.found[1] || below > 10 {
			t.Errorf("%s: found in %d of 200 runs, want %d to %d; the bound is below it in %d, want 2 or so", c.name, found, c.found[0], c.found[1], below)
		}
	}
	if mean, p, most := shift(nil); mean != 0 || p != 1 || most != 0 {
		t.Errorf("nothing: %v %v %v", mean, p, most)
	}
}

// Partitions that stand still in one step of twelve are told, although the mean tells nothing.
func TestPauseInOneStepIsTold(t *testing.T) {
	for _, pause := range []time.Duration{0, time.Second} {
		times := &rebalanceTimes{}
		for step := range 12 {
			g := 50 * time.Millisecond
			if step == 5 {
				g += pause
			}
			times.stayed, times.control = append(times.stayed, g), append(times.control, 60*time.Millisecond)
			times.longer = append(times.longer, excess{g - 60*time.Millisecond, 1})
		}
		times.sort()
		got, p, _ := times.unaffected()
		if want := max(0, pause-10*time.Millisecond); got != want || p <= 0.01 {
			t.Errorf("a pause of %v in one step: got %v, p %v, want %v and no difference in the mean", pause, got, p, want)
		}
	}
}

func TestRepeatsAreTold(t *testing.T) {
	call := func(id int64, from, to int64) []stamp {
		all := []stamp{{stampBegin, 0, id, from, from}}
		if to > 0 {
			all = append(all, stamp{stampEnd, 0, id, from, to})
		}
		return all
	}
	done := func(from, to int64) stamp { return stamp{stampDone, 0, 0, from, to} }
	first := slices.Concat(call(1, 10, 20), call(2, 11, 0), call(3, 30, 80), []stamp{done(25, 28), done(30, 35), done(90, 95)})
	second := slices.Concat(call(1, 100, 110), call(2, 100, 110), call(3, 100, 110), call(4, 100, 110))
	if again, needless := repeats([][]stamp{first, second}); again != 3 || needless != 1 {
		t.Errorf("%d repetitions, %d of calls that were not in flight, want 3 and 1", again, needless)
	}
}

// What a process has written until it was killed is read.
func TestStampsAreRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "stamps")
	f, err := createStamps(path)
	if err != nil {
		t.Fatal(err)
	}
	want := []stamp{{stampCommit, 3, 17, 100, 200}, {stampBegin, 0, 1, 5, 5}}
	for _, x := range want {
		f.add(x)
	}
	if _, err := f.f.WriteString("p 3 18 10"); err != nil {
		t.Fatal(err)
	}
	if err := f.f.Close(); err != nil {
		t.Fatal(err)
	}
	if got, err := readStamps(path); err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
}

func TestSpilledIsCompared(t *testing.T) {
	tenants := spillTenants()
	s := &spillRun{topic: "orders"}
	for i := range 500 {
		r := orderRecord("orders", 0, 0, i%10, i)
		r.Headers[0].Value = []byte(tenants[i*37%len(tenants)])
		s.records = append(s.records, r)
	}
	c := spillCases()[1]
	var positions []int64
	err := s.spill(c, func(some []spilled) error {
		for _, x := range some {
			e, err := unspill("orders", x.position, x.record)
			if err != nil || e.Tenant != x.tenant || !strings.Contains(string(e.Data), "Long Street") || e.Metadata["traceparent"] == "" {
				t.Fatalf("%+v, %v", e, err)
			}
			positions = append(positions, x.position)
		}
		return nil
	})
	if err != nil || len(positions) != 50 {
		t.Fatalf("%d records, %v, want a tenth of 500", len(positions), err)
	}
	if err := s.check(c, positions); err != nil {
		t.Error(err)
	}
	for name, other := range map[string][]int64{"one is missing": positions[1:], "one is doubled": append([]int64{positions[0]}, positions...), "one too many": append(slices.Clone(positions), 501)} {
		if err := s.check(c, other); err == nil || !strings.Contains(err.Error(), "wrong result") {
			t.Errorf("%s: got %v, want a wrong result", name, err)
		}
	}
	if _, err := unpackRecord(packRecord(&kgo.Record{Key: []byte("k"), Value: []byte("value")})[:4]); err == nil {
		t.Error("a record that was cut is taken")
	}
	if over, each := readAgainCosts(100*2+3, 2*2+3); over < 1.99 || over > 2.01 || each < 2.99 || each > 3.01 || breakEven(over, each, 13) > 0.21 || breakEven(over, each, 2) != 1 {
		t.Errorf("%v and %v, want 2 and 3; %v, want 0.2", over, each, breakEven(over, each, 13))
	}
}
