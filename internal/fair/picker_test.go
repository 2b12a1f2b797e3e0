package fair

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/slo"
)

var (
	tight = slo.Objective{P99: 100 * ms, Max: time.Second}
	usual = slo.Objective{P99: time.Second, Max: time.Minute}
	lax   = slo.Objective{P99: time.Minute, Max: time.Hour}
)

func TestSlack(t *testing.T) {
	for _, c := range []struct {
		name string
		age  time.Duration
		o    slo.Objective
		want time.Duration
	}{
		{"fresh", 0, usual, time.Second},
		{"from the future", -time.Second, usual, 2 * time.Second},
		{"on time", 700 * ms, usual, 300 * ms},
		{"just late", time.Second, usual, time.Second},
		{"late", 30 * time.Second, usual, time.Second},
		{"near Max", time.Minute - 200*ms, usual, 200 * ms},
		{"at Max", time.Minute, usual, time.Second},
		{"lost", 24 * time.Hour, usual, time.Second},
		{"defaults", 0, slo.Objective{}, time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := Slack(c.age, c.o); got != c.want {
				t.Errorf("Slack(%v) = %v, want %v", c.age, got, c.want)
			}
		})
	}
}

func TestPick(t *testing.T) {
	type proc struct {
		id  string
		age time.Duration
		o   slo.Objective
	}
	for _, c := range []struct {
		name  string
		procs []proc
		want  string
	}{
		{"none", nil, ""},
		{"one", []proc{{"a", 0, usual}}, "a"},
		{"the older of equal objectives", []proc{{"a", 100 * ms, usual}, {"b", 200 * ms, usual}}, "b"},
		{"the tighter of equal ages", []proc{{"a", 50 * ms, usual}, {"b", 50 * ms, tight}}, "b"},
		{"less slack though younger", []proc{{"a", 500 * ms, usual}, {"b", 0, tight}}, "b"},
		{"less slack though laxer", []proc{{"a", 0, tight}, {"b", 950 * ms, usual}}, "b"},
		{"on time before hours behind", []proc{{"a", 9 * time.Hour, usual}, {"b", 10 * ms, usual}}, "b"},
		{"hours behind before laxer", []proc{{"a", time.Second, lax}, {"b", 9 * time.Hour, usual}}, "b"},
		{"about to miss Max before late", []proc{{"a", 3 * time.Second, usual}, {"b", 950 * ms, tight}}, "b"},
		{"equal: the one named first", []proc{{"b", 0, usual}, {"a", 0, usual}}, "b"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := NewPicker[string](0)
			for _, x := range c.procs {
				p.Ready(x.id, epoch.Add(-x.age), x.o)
			}
			if got, ok := p.Pick(epoch); got != c.want || ok != (c.want != "") {
				t.Errorf("picked %q, want %q", got, c.want)
			}
		})
	}
}

func TestReadyReplacesAndIdleRemoves(t *testing.T) {
	p := NewPicker[string](0)
	p.Ready("a", epoch, usual)
	p.Ready("b", epoch.Add(-500*ms), usual)
	p.Ready("b", epoch.Add(500*ms), usual)
	if got, _ := p.Pick(epoch); got != "a" || p.Len() != 2 {
		t.Errorf("picked %q of %d, want a of 2", got, p.Len())
	}
	p.Idle("a")
	p.Idle("nobody")
	if got, _ := p.Pick(epoch); got != "b" || p.Len() != 1 {
		t.Errorf("picked %q of %d, want b of 1", got, p.Len())
	}
	p.Idle("b")
	if got, ok := p.Pick(epoch); ok {
		t.Errorf("picked %q, want none", got)
	}
}

// One processor always has the least slack; every other gets its floor all the
// same, in every window.
func TestFloor(t *testing.T) {
	for _, c := range []struct {
		procs  int
		floor  float64
		window int // in which each is picked at least once
		urgent float64
	}{
		{2, 0, 20, 0.94}, {5, 0, 20, 0.79}, {10, 0, 20, 0.5}, {40, 0, 80, 0.5}, {3, 0.2, 6, 0.65}, {2, 0.2, 5, 0.79},
	} {
		t.Run(fmt.Sprintf("%d processors floor %v", c.procs, c.floor), func(t *testing.T) {
			p := NewPicker[int](c.floor)
			const slots = 4000
			last := make([]int, c.procs)
			count := make([]int, c.procs)
			now := epoch
			for slot := range slots {
				now = now.Add(ms)
				p.Ready(0, now.Add(-99*ms), tight)
				for i := 1; i < c.procs; i++ {
					p.Ready(i, now, lax)
				}
				got, _ := p.Pick(now)
				count[got]++
				for i := range last {
					if slot-last[i] > c.window && slot > 2*(c.window+c.procs) {
						t.Fatalf("slot %d: processor %d had no slot since %d, want one in %d", slot, i, last[i], c.window)
					}
				}
				last[got] = slot
			}
			if got := float64(count[0]) / slots; got < c.urgent {
				t.Errorf("the urgent one had %.3f of the slots, want at least %.2f", got, c.urgent)
			}
		})
	}
}

// A rebuild that is years behind shares with processors that are on time: they
// stay on time, and it gets all that they leave.
func TestRebuildDoesNotMakeOthersLate(t *testing.T) {
	const slotTime = 5 * ms
	rng := rand.New(rand.NewPCG(1, 1))
	p := NewPicker[string](0)
	w := slo.NewWindow(tight, 0, 0)
	p.Ready("rebuild", epoch.Add(-3*365*24*time.Hour), usual)
	waiting := []time.Time{}
	next := epoch
	rebuilt, slots := 0, 0
	for now := epoch; now.Before(epoch.Add(time.Minute)); now = now.Add(slotTime) {
		for !next.After(now) { // an event every 20 ms on average: a quarter of the slots, one each
			waiting = append(waiting, next)
			next = next.Add(time.Duration(rng.ExpFloat64() * 20 * float64(ms)))
		}
		if len(waiting) > 0 {
			p.Ready("account", waiting[0], tight)
		} else {
			p.Idle("account")
		}
		id, _ := p.Pick(now)
		slots++
		if id == "rebuild" {
			rebuilt++
			continue
		}
		w.Record(now.Add(slotTime), now.Add(slotTime).Sub(waiting[0]))
		waiting = waiting[1:]
	}
	s := w.Summary(epoch.Add(time.Minute))
	t.Logf("P50 %v P99 %v max %v of %d events; the rebuild had %d of %d slots", s.P50, s.P99, s.Max, s.Count, rebuilt, slots)
	if !s.Met() || s.Count < 2500 {
		t.Errorf("%d of %d events late, want at most 1 %%", s.LateP99, s.Count)
	}
	if got := float64(rebuilt) / float64(slots); got < 0.70 {
		t.Errorf("the rebuild had %.2f of the slots, want about 0.75", got)
	}
}

func BenchmarkPick(b *testing.B) {
	p := NewPicker[int](0)
	for i := range 20 {
		p.Ready(i, epoch, usual)
	}
	b.ReportAllocs()
	for b.Loop() {
		p.Pick(epoch)
	}
}
