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

// A tenantReads says how long the reads of one tenant's events took, and how many events the
// longest had. Each takes a while, and each of its events.
type tenantReads struct {
	eventlog.Log
	tenant      string
	took        atomic.Int64
	reads, most atomic.Int64
}

func (l *tenantReads) Read(ctx context.Context, req eventlog.ReadRequest) (eventlog.Page, error) {
	page, err := l.Log.Read(ctx, req)
	if slices.Contains(req.Filter.Tenants, l.tenant) {
		took := 200*time.Microsecond + time.Duration(len(page.Events))*10*time.Microsecond
		time.Sleep(took)
		l.took.Add(int64(took))
		l.reads.Add(1)
		l.most.Store(max(l.most.Load(), int64(len(page.Events))))
	}
	return page, err
}

// While a flood is appended the lane of its tenant, which has enough to do, reads for a small part
// of the time and a little at a time, because the others wait for that; and no worker waits for it.
func TestStreamLaneThatIsFedReadsLittle(t *testing.T) {
	for _, tt := range []struct {
		concurrency, each int // handlers; events every 5 ms, twice what there are handlers for and more
		most              int64
	}{
		{4, 50, feedEvents},
		{64, 160, pageEvents},
	} {
		bubble(t, func(t *testing.T, r *rig) {
			const took, lasts = 4 * time.Millisecond, 2 * time.Second
			keys := 50 * tt.concurrency
			log := &tenantReads{Log: r.log, tenant: "t"}
			r.over(log, r.st)
			w := newWitness(t, sleeps(took))
			r.add(reactor(w, Processor{Concurrency: tt.concurrency}))
			if err := lane.Detach(t.Context(), r.st, "r", "t"); err != nil {
				t.Fatal(err)
			}
			stop := r.run(r.e)
			for i := range 2 * keys {
				r.append("t", fmt.Sprint("k", i%keys), added{})
			}
			time.Sleep(100 * time.Millisecond)
			log.took.Store(0)
			log.most.Store(0)
			_, began := w.count()
			for i := range int(lasts / (5 * time.Millisecond)) {
				time.Sleep(5 * time.Millisecond)
				for j := range tt.each {
					r.append("t", fmt.Sprint("k", (i*tt.each+j)%keys), added{})
				}
			}
			_, done := w.count()
			read, most := time.Duration(log.took.Load()), log.most.Load()
			done -= began
			stop()
			t.Logf("%d workers: read for %v, %d events at most, %d handled", tt.concurrency, read, most, done)
			need := time.Duration(int(lasts/took)*tt.concurrency) * 10 * time.Microsecond // for what is handled
			if limit := max(lasts/feedPart, need*4/3) + 10*time.Millisecond; read > limit {
				t.Errorf("read for %v of %v, want at most %v", read, lasts, limit)
			}
			if most > tt.most {
				t.Errorf("a read of %d events, want at most %d", most, tt.most)
			}
			if want := int(lasts/took) * tt.concurrency * 98 / 100; done < want {
				t.Errorf("%d events were handled, want %d: workers waited", done, want)
			}
		})
	}
}

// A backlog of many keys in a tenant's lane, with a hot key at its end: the hot key is known
// before the others are done, so that one worker is not left with it.
func TestStreamLaneThatIsFedSeesALongKey(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		const many, hot, concurrency = 20_000, 2500, 8
		w := newWitness(t, sleeps(time.Millisecond))
		r.over(&tenantReads{Log: r.log, tenant: "t"}, r.st)
		r.add(reactor(w, Processor{Concurrency: concurrency}))
		if err := lane.Detach(t.Context(), r.st, "r", "t"); err != nil {
			t.Fatal(err)
		}
		for i := range many {
			r.append("t", fmt.Sprint("k", i), added{})
		}
		for range hot {
			r.append("t", "hot", added{})
		}
		began := time.Now()
		defer r.run(r.e)()
		for done := 0; done < many+hot; _, done = w.count() {
			time.Sleep(time.Millisecond)
		}
		took, least := time.Since(began), (many+hot)/concurrency*time.Millisecond
		t.Logf("all done after %v, least possible %v", took, least)
		if took > least*21/20 {
			t.Errorf("the backlog took %v, want at most a twentieth more than the least possible %v", took, least)
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
