package engine

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/internal/lane"
	"github.com/fairlead-dev/fairlead/store"
)

// A witness is a reactor that remembers what it was handed, and checks on the
// way that no key has two events in progress.
type witness struct {
	t     *testing.T
	mu    sync.Mutex
	calls []handled
	done  map[string]int // by event id
	order map[string][]int64
	busy  map[string]bool
	most  int
	hook  func(ctx context.Context, d Delivery) error
}

type handled struct {
	tenant, stream string
	version        int64
	attempt        int
	begin, end     time.Time
	err            error
	age            time.Duration // as it ended
}

func newWitness(t *testing.T, hook func(ctx context.Context, d Delivery) error) *witness {
	return &witness{t: t, done: map[string]int{}, order: map[string][]int64{}, busy: map[string]bool{}, hook: hook}
}

func (w *witness) react(ctx context.Context, d Delivery) error {
	key := d.Tenant + "/" + d.Stream
	w.mu.Lock()
	if w.busy[key] {
		w.t.Errorf("two events of %s in progress, one is version %d", key, d.Version)
	}
	w.busy[key] = true
	w.most = max(w.most, len(w.busy))
	w.mu.Unlock()
	c := handled{tenant: d.Tenant, stream: d.Stream, version: d.Version, attempt: d.Attempt, begin: time.Now()}
	if want := "r/" + d.ID; d.IdempotencyKey != want || d.Epoch == 0 || !strings.HasPrefix(d.Lane, "r/0") {
		w.t.Errorf("delivery: key %q, epoch %d, lane %q; want key %q", d.IdempotencyKey, d.Epoch, d.Lane, want)
	}
	func() {
		defer func() {
			if v := recover(); v != nil {
				w.mu.Lock()
				delete(w.busy, key)
				w.mu.Unlock()
				panic(v)
			}
		}()
		if w.hook != nil {
			c.err = w.hook(ctx, d)
		}
	}()
	c.end = time.Now()
	c.age = c.end.Sub(d.RecordedAt)
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.busy, key)
	w.calls = append(w.calls, c)
	if c.err == nil {
		w.done[d.ID]++
		w.order[key] = append(w.order[key], d.Version)
	}
	return c.err
}

func (w *witness) count() (calls, done int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.calls), len(w.done)
}

// check compares what was handled with the log: each event, once but for those
// in again, and in order in its key.
func (w *witness) check(r *rig, again int) {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	page, err := r.log.Read(context.Background(), eventlog.ReadRequest{MaxEvents: 1 << 30, MaxBytes: 1 << 30})
	if err != nil {
		w.t.Fatal(err)
	}
	twice := 0
	for i := range page.Events {
		e := &page.Events[i]
		switch n := w.done[e.ID]; {
		case n == 0:
			w.t.Errorf("event %s at %v was not handled", e.ID, e.Position)
		case n > 1:
			twice += n - 1
		}
	}
	if twice > again {
		w.t.Errorf("%d events were handled again, want at most %d", twice, again)
	}
	for key, versions := range w.order {
		next := int64(1)
		for _, v := range versions {
			if v > next {
				w.t.Errorf("key %s: version %d came before %d", key, v, next)
			}
			if v == next {
				next++
			}
		}
	}
}

func reactor(w *witness, o Processor) Processor {
	o.Name, o.React = "r", w.react
	return o
}

// fill appends n events with Zipf-distributed keys for the tenants.
func (r *rig) fill(rnd *rand.Rand, n, keys int, tenants ...string) (tok eventlog.Token) {
	r.t.Helper()
	z := rand.NewZipf(rnd, 1.2, 1, uint64(keys-1))
	for range n {
		tok = r.append(tenants[rnd.IntN(len(tenants))], fmt.Sprintf("k%d", z.Uint64()), added{})
	}
	tok.Tenants = tenants
	return tok
}

func bubble(t *testing.T, f func(t *testing.T, r *rig)) {
	synctest.Test(t, func(t *testing.T) { f(t, newRig(t)) })
}

func sleeps(d time.Duration) func(context.Context, Delivery) error {
	return func(ctx context.Context, _ Delivery) error {
		if !pause(ctx, d) {
			return ctx.Err()
		}
		return nil
	}
}

func TestStreamOrderPerKey(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		rnd := rand.New(rand.NewPCG(1, 2))
		w := newWitness(t, func(ctx context.Context, d Delivery) error {
			return sleeps(time.Duration(d.Version*7919%20)*time.Millisecond)(ctx, d)
		})
		r.add(reactor(w, Processor{Concurrency: 32}))
		stop := r.run(r.e)
		r.fill(rnd, 2000, 100, "a", "b", "c")
		time.Sleep(100 * time.Millisecond)
		tok := r.fill(rnd, 2000, 100, "a", "b", "c")
		r.wait("r", tok)
		stop()
		w.check(r, 0)
		if w.most < 30 {
			t.Errorf("%d events at once, want about 32", w.most)
		}
	})
}

func TestStreamConcurrency(t *testing.T) {
	for _, tt := range []struct {
		name        string
		events      int
		concurrency int
		want        time.Duration
	}{
		{"all at once", 1000, 1000, 10 * time.Millisecond},
		{"ten rounds", 1000, 100, 100 * time.Millisecond},
		{"one by one", 50, 1, 500 * time.Millisecond},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				w := newWitness(t, sleeps(10*time.Millisecond))
				var tok eventlog.Token
				for i := range tt.events {
					tok = r.append("t", fmt.Sprint("s", i), added{})
				}
				r.add(reactor(w, Processor{Concurrency: tt.concurrency}))
				stop := r.run(r.e)
				defer stop()
				began := time.Now()
				r.wait("r", tok)
				if got := time.Since(began); got < tt.want || got > tt.want+10*time.Millisecond {
					t.Errorf("%d events took %v, want %v", tt.events, got, tt.want)
				}
				w.check(r, 0)
			})
		})
	}
}

func TestStreamBackOffHoldsOnlyItsKey(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		failures := 0
		w := newWitness(t, func(ctx context.Context, d Delivery) error {
			if d.Stream == "bad" && d.Version == 1 && failures < 3 {
				failures++
				return errors.New("not yet")
			}
			return sleeps(time.Millisecond)(ctx, d)
		})
		r.add(reactor(w, Processor{Concurrency: 1, Retry: Retry{Attempts: 5, Min: time.Second, Max: 4 * time.Second}}))
		stop := r.run(r.e)
		defer stop()
		began := time.Now()
		r.append("t", "bad", added{}, added{})
		var tok eventlog.Token
		for i := range 100 {
			tok = r.append("t", fmt.Sprint("s", i), added{})
		}
		for {
			if _, n := w.count(); n >= 100 {
				break
			}
			time.Sleep(time.Millisecond)
		}
		if took := time.Since(began); took > 150*time.Millisecond {
			t.Errorf("100 events of 1 ms beside one in back-off took %v, want about 100 ms", took)
		}
		if st, err := r.e.Stats("r"); err != nil || len(st.Errors) != 1 {
			t.Errorf("Stats while a key is in back-off: %+v, %v; want the error", st, err)
		}
		r.wait("r", tok)
		w.check(r, 0)
		var attempts []int
		for _, c := range w.calls {
			if c.stream == "bad" && c.version == 1 {
				attempts = append(attempts, c.attempt)
			}
		}
		if !slices.Equal(attempts, []int{1, 2, 3, 4}) {
			t.Errorf("attempts %v, want 1 to 4", attempts)
		}
		if took := time.Since(began); took < 3500*time.Millisecond {
			t.Errorf("three back-offs from 1 s took %v", took)
		}
	})
}

func letterStates(letters []store.DeadLetter) (out []string) {
	for _, d := range letters {
		out = append(out, fmt.Sprintf("%s/%s@%d %s %d", d.Tenant, d.Key, d.Event.Version, d.State, d.Attempts))
	}
	return out
}

func TestStreamPoisonPolicies(t *testing.T) {
	for _, tt := range []struct {
		policy  Policy
		letters []string
		handled map[string]int // by tenant/stream
		state   string         // of the lane that stopped
	}{
		{ParkKey, []string{"t/bad@2 poison 2", "t/bad@3 waiting 0", "t/bad@4 waiting 0"}, map[string]int{"t/bad": 1, "t/good": 4, "u/good": 4}, ""},
		{SkipAndRecord, []string{"t/bad@2 skipped 2"}, map[string]int{"t/bad": 3, "t/good": 4, "u/good": 4}, ""},
		{ParkTenant, nil, map[string]int{"t/bad": 1, "t/good": 3, "u/good": 4}, `r/0["t"] paused`},
		{StopLane, nil, map[string]int{"t/bad": 1, "t/good": 3, "u/good": 3}, "r/0 paused"},
	} {
		t.Run(tt.policy.String(), func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				var healed atomic.Bool
				w := newWitness(t, func(ctx context.Context, d Delivery) error {
					if d.Stream == "bad" && d.Version == 2 && !healed.Load() {
						if d.Attempt == 1 {
							panic("poison")
						}
						return errors.New("poison")
					}
					return sleeps(time.Millisecond)(ctx, d)
				})
				r.add(reactor(w, Processor{Concurrency: 8, Poison: tt.policy, Retry: Retry{Attempts: 2, Min: 20 * time.Millisecond}}))
				stop := r.run(r.e)
				defer func() { stop() }()
				for range 3 {
					r.append("t", "bad", added{})
					r.append("t", "good", added{})
					r.append("u", "good", added{})
				}
				time.Sleep(time.Second)
				r.append("t", "bad", added{})
				r.append("t", "good", added{})
				tok := r.append("u", "good", added{})
				time.Sleep(time.Second)
				if got := letterStates(r.letters()); !slices.Equal(got, tt.letters) {
					t.Errorf("letters %q, want %q", got, tt.letters)
				}
				for key, want := range tt.handled {
					if got := len(w.order[key]); got != want {
						t.Errorf("%s: %d handled, want %d", key, got, want)
					}
				}
				stopped := ""
				for _, l := range r.lanes("r") {
					if l.State == store.Paused {
						stopped = fmt.Sprintf("%v %v", l.LaneID, l.State)
						if l.Pinned {
							stopped += " pinned"
						}
						if !strings.Contains(l.Reason, "poison") {
							t.Errorf("reason %q", l.Reason)
						}
					}
				}
				if stopped != tt.state {
					t.Errorf("stopped lane %q, want %q", stopped, tt.state)
				}
				// After the cause is mended, everything is handled, in order.
				healed.Store(true)
				switch tt.policy {
				case ParkKey:
					if n, err := lane.RetryKey(t.Context(), r.st, "r", "t", "bad"); n != 3 || err != nil {
						t.Errorf("RetryKey = %d, %v; want 3", n, err)
					}
				case ParkTenant:
					if err := lane.Unpin(t.Context(), r.st, "r", "t"); err != nil {
						t.Error(err)
					}
				case StopLane:
					if err := lane.PauseProcessor(t.Context(), r.st, "r", false); err != nil {
						t.Error(err)
					}
				}
				if tt.policy != SkipAndRecord {
					time.Sleep(3 * time.Second)
					r.wait("r", tok)
					w.check(r, 0)
					if got := r.letters(); len(got) > 0 {
						t.Errorf("letters left: %q", letterStates(got))
					}
					if n := len(r.lanes("r")); n != 1 {
						t.Errorf("%d lanes, want 1", n)
					}
				}
			})
		})
	}
}

func TestStreamHostileEventsAreParked(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		w := newWitness(t, nil)
		r.add(reactor(w, Processor{OrderBy: func(e *event.Event) string {
			if e.Stream == "odd" {
				panic("no key")
			}
			return e.Stream
		}}))
		stop := r.run(r.e)
		defer stop()
		r.append("t", "odd", added{})
		tok := r.append("t", "fine", added{})
		r.wait("r", tok)
		got := r.letters()
		if len(got) != 1 || got[0].Reason != "panic" || got[0].Key != "odd" {
			t.Errorf("letters %+v, want one of stream odd", got)
		}
		if calls, _ := w.count(); calls != 1 {
			t.Errorf("%d calls, want 1", calls)
		}
	})
}

func TestStreamCrashRepeatsOnlyWhatWasInFlight(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		release := make(chan struct{})
		var first atomic.Bool
		first.Store(true)
		w := newWitness(t, func(ctx context.Context, d Delivery) error {
			if d.Stream == "slow" && first.Load() {
				select {
				case <-release:
				case <-ctx.Done():
					return ctx.Err()
				}
			}
			return nil
		})
		r.add(reactor(w, Processor{Concurrency: 16}))
		stop := r.run(r.e)
		r.append("t", "slow", added{})
		var tok eventlog.Token
		for i := range 10_000 {
			tok = r.append("t", fmt.Sprint("s", i%500), added{})
		}
		time.Sleep(2 * time.Second)
		if _, n := w.count(); n != 10_000 {
			t.Fatalf("%d events handled beside the slow one, want 10000", n)
		}
		row := r.lanes("r")[0]
		if row.Position != 0 || len(row.Done) == 0 || len(row.Done) > 64 {
			t.Errorf("row at %v with %d bytes of Done, want at 0, with one run", row.Position, len(row.Done))
		}
		stop()
		first.Store(false)
		close(release)
		r.e = r.engine("b")
		r.add(reactor(w, Processor{Concurrency: 16}))
		stop = r.run(r.e)
		defer stop()
		r.wait("r", tok)
		w.check(r, 0)
		if row := r.lanes("r")[0]; row.Position != tok.Position || len(row.Done) != 0 {
			t.Errorf("row %+v, want at %v without Done", row, tok.Position)
		}
		if calls, _ := w.count(); calls != 10_002 {
			t.Errorf("%d calls, want 10002: one again", calls)
		}
	})
}

func TestStreamStuckHandlerIsReported(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		release := make(chan struct{})
		w := newWitness(t, func(ctx context.Context, d Delivery) error {
			if d.Stream == "stuck" {
				<-release // ignores its context
			}
			return nil
		})
		r.add(reactor(w, Processor{Concurrency: 2, Timeout: time.Second}))
		stop := r.run(r.e)
		r.append("t", "stuck", added{}, added{})
		for i := range 200 {
			r.append("u", fmt.Sprint("s", i%7), added{})
			time.Sleep(20 * time.Millisecond)
		}
		if _, n := w.count(); n != 200 {
			t.Errorf("%d events handled beside the stuck one, want 200", n)
		}
		st, err := r.e.Stats("r")
		if err != nil {
			t.Fatal(err)
		}
		found := false
		for _, err := range st.Errors {
			stuck, ok := errors.AsType[*StuckError](err)
			found = ok && stuck.Tenant == "t" && stuck.Stream == "stuck" && stuck.Position == 1
		}
		if !found {
			t.Errorf("errors %v, want a StuckError of t/stuck at 1", st.Errors)
		}
		close(release)
		time.Sleep(2 * time.Second)
		if st, _ := r.e.Stats("r"); len(st.Errors) != 0 {
			t.Errorf("errors %v after the handler returned, want none", st.Errors)
		}
		stop()
		w.check(r, 0)
	})
}

func TestStreamTimeout(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		w := newWitness(t, func(ctx context.Context, d Delivery) error {
			if d.Attempt == 1 {
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		})
		r.add(reactor(w, Processor{Timeout: 300 * time.Millisecond}))
		stop := r.run(r.e)
		defer stop()
		began := time.Now()
		r.wait("r", r.append("t", "s", added{}))
		if took := time.Since(began); took < 300*time.Millisecond || took > 500*time.Millisecond {
			t.Errorf("took %v, want the time limit and a first back-off", took)
		}
		w.check(r, 0)
	})
}
