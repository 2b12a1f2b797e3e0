package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/eventlog/memlog"
	"github.com/fairlead-dev/fairlead/store"
)

// An awayStore does not answer what is asked about the rows while it is away, after a
// while.
type awayStore struct {
	store.Store
	away  atomic.Bool
	takes time.Duration
}

var errAway = errors.New("no connection")

func (s *awayStore) View(ctx context.Context, f func(store.Tx) error) error {
	if s.away.Load() {
		pause(ctx, s.takes)
		return errAway
	}
	return s.Store.View(ctx, f)
}

// TestAssignedLanesAreTakenWhenTheStoreIsBack: a partition that was given to a process
// while the store is away for longer than lanes may be taken within is taken all the
// same, from an owner that lives and was told nothing. But a process that was frozen
// for so long takes nothing.
func TestAssignedLanesAreTakenWhenTheStoreIsBack(t *testing.T) {
	for _, tt := range []struct {
		name        string
		takes, away time.Duration
		want        string
	}{
		{"errors at once", 0, 3 * takeWithin, "[0:b 1:b 2:a 3:a]"},
		{"errors after a while", 10 * time.Second, 3 * takeWithin, "[0:b 1:b 2:a 3:a]"},
		{"one call that lasts", 2 * takeWithin, takeWithin, "[0:a 1:a 2:a 3:a]"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newSharedRig(t)
				p := tallies("p", false)
				a := r.member("a", Processor{Name: "p", Projection: p})
				l := &sharedLog{Log: r.log, joined: make(chan struct{})}
				s := &awayStore{Store: r.st, takes: tt.takes}
				b, err := New(Config{Log: l, Store: s, Name: "b"})
				if err != nil {
					t.Fatal(err)
				}
				if err := b.Add(t.Context(), Processor{Name: "p", Projection: p}); err != nil {
					t.Fatal(err)
				}
				names := map[*Engine]string{a: "a", b: "b"}
				defer r.run(a)()
				defer r.run(b)()
				r.logs[a].give(0, 1, 2, 3)
				// Not at a full second: there b renews its lease and looks at the rows, and a
				// look that began before the store went away may learn of the partitions.
				time.Sleep(5*time.Second + time.Millisecond)
				synctest.Wait()
				s.away.Store(true)
				l.give(0, 1) // a was told nothing
				time.Sleep(tt.away)
				s.away.Store(false)
				time.Sleep(2*takeWithin + 10*time.Second)
				if got := r.owners(names); got != tt.want {
					t.Errorf("owners %s, want %s", got, tt.want)
				}
			})
		})
	}
}

// TestShutdownDrains: a process that ends lets the handlers of a group's lanes finish,
// and cuts those short that take too long.
func TestShutdownDrains(t *testing.T) {
	for _, tt := range []struct {
		name           string
		handler, least time.Duration
		most           time.Duration
		cut            bool
	}{
		{"handlers of 2 s", 2 * time.Second, 500 * time.Millisecond, 2 * time.Second, false},
		{"handlers of a minute", time.Minute, handOverAtMost, handOverAtMost + time.Second, true},
		{"nothing to do", 0, 0, 100 * time.Millisecond, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newSharedRig(t)
				var done, cut atomic.Int64
				e := r.member("a", Processor{Name: "p", React: func(ctx context.Context, _ Delivery) error {
					if !pause(ctx, tt.handler) {
						cut.Add(1)
						return ctx.Err()
					}
					done.Add(1)
					return nil
				}})
				stop := r.run(e)
				r.logs[e].give(0, 1, 2, 3)
				for i := range 40 {
					r.append("t", fmt.Sprint("s", i), added{})
				}
				time.Sleep(time.Second)
				began := time.Now()
				stop()
				if took := time.Since(began); took < tt.least || took > tt.most {
					t.Errorf("the end took %v, want %v to %v", took, tt.least, tt.most)
				}
				if tt.cut != (cut.Load() == 40) || tt.cut == (done.Load() == 40) {
					t.Errorf("%d handlers were cut short and %d finished, of 40", cut.Load(), done.Load())
				}
				for _, l := range r.lanes("p") {
					if l.Owner != "" {
						t.Errorf("lane %v has the owner %q still", l.LaneID, l.Owner)
					}
				}
			})
		})
	}
}

// A silentLog is a log of which some partitions do not answer.
type silentLog struct {
	*memlog.Log
	silent atomic.Int64 // how many, from the first
}

func (l *silentLog) Head(ctx context.Context, partition int) (event.Position, error) {
	if int64(partition) < l.silent.Load() {
		return 0, fmt.Errorf("partition %d: %w", partition, errAway)
	}
	return l.Log.Head(ctx, partition)
}

// KnownHead knows nothing: else a partition that is silent would be taken for one that answers.
func (l *silentLog) KnownHead(int) event.Position { return 0 }

func (l *silentLog) Wait(ctx context.Context, partition int, after event.Position) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if err := l.Log.Wait(ctx, partition, after); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return nil
}

var _ eventlog.Log = (*silentLog)(nil)

type lines struct {
	mu  sync.Mutex
	all []string
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, string(p))
	return len(p), nil
}

func (l *lines) count(what string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.all {
		if strings.Contains(s, what) {
			n++
		}
	}
	return n
}

// TestSilentLogIsReportedOnce: not every second for every partition, and the end too.
func TestSilentLogIsReportedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &rig{t: t, log: memlog.New(memlog.WithPartitions(4)), st: newRig(t).st}
		l, said := &silentLog{Log: r.log}, &lines{}
		e, err := New(Config{Log: l, Store: r.st, Logger: slog.New(slog.NewTextHandler(said, nil))})
		if err != nil {
			t.Fatal(err)
		}
		defer r.run(e)()
		check := func(begun, over int) {
			t.Helper()
			if b, o := said.count("the log does not answer"), said.count("the log answers again"); b != begun || o != over {
				t.Errorf("%d lines that it does not answer, want %d; %d that it does, want %d", b, begun, o, over)
			}
		}
		time.Sleep(10 * time.Second)
		check(0, 0)
		l.silent.Store(3)
		time.Sleep(50 * time.Second)
		check(1, 0)
		time.Sleep(100 * time.Second)
		check(3, 0) // once a minute
		l.silent.Store(1)
		time.Sleep(10 * time.Second)
		check(3, 0)
		l.silent.Store(0)
		time.Sleep(10 * time.Second)
		check(3, 1)
		l.silent.Store(2)
		time.Sleep(10 * time.Second)
		check(4, 1)
	})
}
