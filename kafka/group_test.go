package kafka_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/internal/kafkatest"
	"github.com/fairlead-dev/fairlead/internal/pgtest"
	"github.com/fairlead-dev/fairlead/kafka"
)

// A fakeWorker is a worker whose lanes end when the test says so.
type fakeWorker struct {
	mu       sync.Mutex
	owns     [][]int
	at       event.Position // of every partition
	released chan struct{}  // nil: at once
}

func (w *fakeWorker) Own(parts []int) <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.owns = append(w.owns, parts)
	if w.released != nil {
		return w.released
	}
	c := make(chan struct{})
	close(c)
	return c
}

func (w *fakeWorker) Quit() <-chan struct{} { return w.Own(nil) }

func (w *fakeWorker) Checkpoints(_ context.Context, parts []int) (map[int]event.Position, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	at := map[int]event.Position{}
	for _, p := range parts {
		at[p] = w.at
	}
	return at, nil
}

func (w *fakeWorker) last() []int {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.owns) == 0 {
		return nil
	}
	return w.owns[len(w.owns)-1]
}

// settled reports whether it has n partitions, and will be told nothing more of how it
// came to them: who gives some up is told so, and told again at the end of the rebalance.
func (w *fakeWorker) settled(n int) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	last := len(w.owns) - 1
	return last >= 0 && len(w.owns[last]) == n && (len(w.owns[0]) == n || last > 0 && len(w.owns[last-1]) == n)
}

func (w *fakeWorker) set(f func(*fakeWorker)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f(w)
}

// join makes w a member, until the result is called.
func join(t *testing.T, cfg kafka.Config, w *fakeWorker) (leave func()) {
	t.Helper()
	l := open(t, cfg)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- l.Assign(ctx, w) }()
	leave = sync.OnceFunc(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Assign = %v", err)
		}
	})
	t.Cleanup(leave)
	return leave
}

// offsets are those that the group has committed, -1 where there is none.
func offsets(t *testing.T, admin *kadm.Client, group, topic string, parts int) []int64 {
	t.Helper()
	got, err := admin.FetchOffsets(t.Context(), group)
	if err != nil {
		t.Fatal(err)
	}
	out := make([]int64, parts)
	for p := range out {
		out[p] = -1
		if o, ok := got.Lookup(topic, int32(p)); ok {
			out[p] = o.At
		}
	}
	return out
}

// Checkpoints are mirrored as offsets while a partition is a member's, once more as
// it goes, and never afterwards: what another member has committed since would be
// overwritten by something older.
func TestOffsetsMirrorCheckpoints(t *testing.T) {
	for _, server := range []bool{false, true} {
		topic := kafkatest.Topic(t, 2)
		admin := kadm.NewClient(kafkatest.Client(t))
		cfg := kafka.Config{Topic: topic, Group: kafkatest.Name(t), ServerProtocol: server, MirrorEvery: 50 * time.Millisecond}
		a := &fakeWorker{at: 7}
		leaveA := join(t, cfg, a)
		eventually(t, 20*time.Second, "a has committed", func() bool { return slices.Equal(offsets(t, admin, cfg.Group, topic, 2), []int64{7, 7}) })
		a.set(func(w *fakeWorker) { w.at = 8 })
		eventually(t, 20*time.Second, "a has committed again", func() bool { return slices.Equal(offsets(t, admin, cfg.Group, topic, 2), []int64{8, 8}) })

		// The lanes of what goes to b take their time; the checkpoint that they leave is mirrored.
		slow := make(chan struct{})
		a.set(func(w *fakeWorker) { w.released = slow })
		b := &fakeWorker{at: 100}
		leaveB := join(t, cfg, b)
		eventually(t, 20*time.Second, "a is to give one up", func() bool { return len(a.last()) == 1 })
		if got := b.last(); len(got) != 0 {
			t.Errorf("b has %v while a's lanes have not ended", got)
		}
		a.set(func(w *fakeWorker) { w.at = 9 })
		close(slow)
		eventually(t, 20*time.Second, "b has one", func() bool { return len(b.last()) == 1 })
		mine, its := a.last()[0], b.last()[0]
		if mine == its {
			t.Fatalf("both have partition %d", mine)
		}
		want := make([]int64, 2)
		want[mine], want[its] = 9, 100
		eventually(t, 20*time.Second, "each commits its own", func() bool { return slices.Equal(offsets(t, admin, cfg.Group, topic, 2), want) })
		// a says a later place for all partitions, and yet b's stays.
		a.set(func(w *fakeWorker) { w.at = 5000 })
		want[mine] = 5000
		eventually(t, 20*time.Second, "a goes on", func() bool { return offsets(t, admin, cfg.Group, topic, 2)[mine] == 5000 })
		if got := offsets(t, admin, cfg.Group, topic, 2); got[its] != 100 {
			t.Errorf("offset of b's partition is %d, want 100", got[its])
		}
		// Whoever leaves commits at last.
		b.set(func(w *fakeWorker) { w.at = 101 })
		leaveB()
		if got := offsets(t, admin, cfg.Group, topic, 2); got[its] != 101 {
			t.Errorf("after b has left its partition is at %d, want 101", got[its])
		}
		leaveA()
	}
}

// Lanes that do not end in time do not hold the group up.
func TestRevokeDoesNotWaitForEver(t *testing.T) {
	topic := kafkatest.Topic(t, 2)
	cfg := kafka.Config{Topic: topic, Group: kafkatest.Name(t), DrainTimeout: 300 * time.Millisecond}
	a := &fakeWorker{released: make(chan struct{})}
	join(t, cfg, a)
	eventually(t, 20*time.Second, "a has both", func() bool { return len(a.last()) == 2 })
	b := &fakeWorker{}
	join(t, cfg, b)
	eventually(t, 20*time.Second, "b has one", func() bool { return len(b.last()) == 1 })
}

// A static member that is back in time has its partitions without a rebalance: the
// others are told nothing.
func TestStaticMember(t *testing.T) {
	topic := kafkatest.Topic(t, 4)
	cfg := kafka.Config{Topic: topic, Group: kafkatest.Name(t), SessionTimeout: 20 * time.Second}
	other := &fakeWorker{}
	ocfg := cfg
	ocfg.InstanceID = "other"
	join(t, ocfg, other)
	cfg.InstanceID = "one"
	first := &fakeWorker{}
	leave := join(t, cfg, first)
	eventually(t, 30*time.Second, "both have two", func() bool { return len(first.last()) == 2 && other.settled(2) })
	had := first.last()
	other.set(func(w *fakeWorker) { w.owns = nil })
	leave()
	again := &fakeWorker{}
	join(t, cfg, again)
	eventually(t, 30*time.Second, "it has its partitions again", func() bool { return slices.Equal(again.last(), had) })
	if got := other.last(); got != nil {
		t.Errorf("the other one was told of %v", got)
	}
}

// Two processes under one instance id: one of them is told, and does not go on as if
// nothing were.
func TestInstanceIDTwice(t *testing.T) {
	topic := kafkatest.Topic(t, 1)
	cfg := kafka.Config{Topic: topic, Group: kafkatest.Name(t), InstanceID: "one", SessionTimeout: 5 * time.Second}
	l := open(t, cfg)
	done := make(chan error, 1)
	w := &fakeWorker{}
	go func() { done <- l.Assign(t.Context(), w) }()
	eventually(t, 20*time.Second, "it has the partition", func() bool { return len(w.last()) == 1 })
	join(t, cfg, &fakeWorker{})
	select {
	case err := <-done:
		if !errors.Is(err, kerr.FencedInstanceID) {
			t.Errorf("Assign = %v, want %v", err, kerr.FencedInstanceID)
		}
	case <-time.After(30 * time.Second):
		t.Error("the one who was replaced goes on")
	}
	if got := w.last(); len(got) != 0 {
		t.Errorf("it still has %v", got)
	}
}

// A broker that is restarted is waited for, and nothing is lost or doubled.
func TestBrokerRestarts(t *testing.T) {
	t.Parallel()
	s := kafkatest.NewServer(t, 1)
	client := kafkatest.ClientOf(t, s.Brokers)
	topic, url := kafkatest.Name(t), pgtest.Database(t)
	kafkatest.Create(t, client, topic, 4)
	cfg := kafka.Config{Brokers: s.Brokers, Topic: topic, Group: kafkatest.Name(t), SessionTimeout: 3 * time.Second}
	p := tallies()
	l := newLoad(t, client, topic, 4)
	if err := l.write(t.Context(), 500); err != nil {
		t.Fatal(err)
	}
	a, b := start(t, url, cfg, fairlead.Project(p)), start(t, url, cfg, fairlead.Project(p))
	l.wait(a, "tallies")
	for _, stop := range []func() error{
		func() error { return s.Restart(0) },
		func() error { return errors.Join(s.Kill(0), s.Up()) },
	} {
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		err := l.write(ctx, 500)
		cancel()
		if err != nil {
			t.Fatal(err)
		}
		l.wait(b, "tallies")
	}
	l.check(b.db, p)
	eventually(t, time.Minute, "both share again", share(4, a, b))
}
