package engine

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/internal/lane"
)

// A tenantReads counts the reads of one tenant's events, and the most of one.
type tenantReads struct {
	eventlog.Log
	tenant      string
	reads, most atomic.Int64
}

func (l *tenantReads) Read(ctx context.Context, req eventlog.ReadRequest) (eventlog.Page, error) {
	page, err := l.Log.Read(ctx, req)
	if slices.Contains(req.Filter.Tenants, l.tenant) && len(page.Events) > 0 {
		l.reads.Add(1)
		l.most.Store(max(l.most.Load(), int64(len(page.Events))))
	}
	return page, err
}

// While a flood is appended the lane of its tenant, which has enough to do, reads seldom and little
// at a time, because the others wait for that; and no worker waits for it.
func TestStreamLaneThatIsFedReadsLittle(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		const each, took, keys, concurrency = 50, 4 * time.Millisecond, 200, 4
		log := &tenantReads{Log: r.log, tenant: "t"}
		r.over(log, r.st)
		w := newWitness(t, sleeps(took))
		r.add(reactor(w, Processor{Concurrency: concurrency}))
		if err := lane.Detach(t.Context(), r.st, "r", "t"); err != nil {
			t.Fatal(err)
		}
		stop := r.run(r.e)
		for i := range 2 * keys {
			r.append("t", fmt.Sprint("k", i%keys), added{})
		}
		time.Sleep(100 * time.Millisecond)
		log.reads.Store(0)
		log.most.Store(0)
		_, began := w.count()
		for i := range 400 { // ten times as many as there are workers for, for two seconds
			time.Sleep(5 * time.Millisecond)
			for j := range each {
				r.append("t", fmt.Sprint("k", (i*each+j)%keys), added{})
			}
		}
		_, done := w.count()
		reads, most := log.reads.Load(), log.most.Load()
		done -= began
		stop()
		t.Logf("%d reads, %d events at most, %d handled", reads, most, done)
		if reads > 30 {
			t.Errorf("%d reads in 2 s, want at most 30", reads)
		}
		if most > 500 {
			t.Errorf("a read of %d events, want at most 500", most)
		}
		if want := int(2*time.Second/took) * concurrency * 98 / 100; done < want {
			t.Errorf("%d events were handled, want %d: workers waited", done, want)
		}
	})
}

// A tenant's lane whose events all wait for one key leaves its workers without work: it
// reads what comes for other keys at once, or where some of them wait for a worker, soon.
func TestStreamLaneWithOneLongKeyReadsAtOnce(t *testing.T) {
	for _, tt := range []struct {
		down  bool
		gap   time.Duration // from one other key to the next, in the mean
		worst time.Duration
	}{
		{false, 7 * time.Millisecond, 5 * time.Millisecond},
		{true, 7 * time.Millisecond, 5 * time.Millisecond},
		{false, 1600 * time.Microsecond, 3 * feedEvery}, // some of them wait for a worker
	} {
		down := tt.down
		bubble(t, func(t *testing.T, r *rig) {
			w := newWitness(t, func(ctx context.Context, d Delivery) error {
				if d.Stream == "hot" && down {
					return errors.New("down")
				}
				return sleeps(4*time.Millisecond)(ctx, d)
			})
			r.add(reactor(w, Processor{Concurrency: 4, Retry: Retry{Attempts: 1000, Min: time.Second}}))
			if err := lane.Detach(t.Context(), r.st, "r", "t"); err != nil {
				t.Fatal(err)
			}
			stop := r.run(r.e)
			r.append("t", "warm", added{})
			time.Sleep(time.Second)
			for range 400 {
				r.append("t", "hot", added{})
			}
			time.Sleep(100 * time.Millisecond)
			began := map[string]time.Time{}
			random := rand.New(rand.NewPCG(1, 2))
			for i := range int(700 * time.Millisecond / tt.gap) {
				gap := tt.gap
				if gap < 4*time.Millisecond {
					gap = time.Duration(random.ExpFloat64() * float64(gap))
				}
				time.Sleep(gap)
				key := fmt.Sprint("k", i)
				began[key] = time.Now()
				r.append("t", key, added{})
			}
			time.Sleep(500 * time.Millisecond)
			stop()
			w.mu.Lock()
			defer w.mu.Unlock()
			var all, worst time.Duration
			n := 0
			for _, c := range w.calls {
				if at, ok := began[c.stream]; ok {
					n++
					late := c.begin.Sub(at)
					all += late
					worst = max(worst, late)
				}
			}
			if n == 0 {
				t.Fatal("no event was handled")
			}
			t.Logf("hot key down %v: %d events of other keys began after %v in the mean, %v at worst", down, n, all/time.Duration(n), worst)
			if worst > tt.worst {
				t.Errorf("hot key down %v: an event waited %v to be read, want %v at most", down, worst, tt.worst)
			}
		})
	}
}
