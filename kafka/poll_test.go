package kafka

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/internal/kafkatest"
	"github.com/twmb/franz-go/pkg/kgo"
)

// A partition whose leader moved and moved back has been with two pollers. What the
// one of them drops, the other one must do without.
func TestLeaderMovesBackAndForth(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	l := &Log{ctx: ctx, leaders: []int32{1}, watched: map[int]*watched{}, pollers: map[int32]*poller{}}
	wait := func() *watched {
		w := &watched{more: make(chan struct{}), waiting: 1, last: time.Now()}
		l.watched[0] = w
		return w
	}
	first := &poller{parts: map[int]bool{0: true}}
	l.pollers[1] = first
	wait()
	l.leaders[0] = 2
	second := &poller{parts: map[int]bool{0: true}}
	l.pollers[2] = second
	if froms := l.begin(2, second, func() {}); len(froms) != 1 {
		t.Fatalf("the new leader is asked for %v", froms)
	}
	l.leaders[0] = 1
	w := l.watched[0]
	if froms := l.begin(2, second, func() {}); froms != nil {
		t.Errorf("broker 2 is asked for %v, and leads nothing any more", froms)
	}
	select {
	case <-w.more:
	default:
		t.Error("who waits is not told that its leader has moved")
	}
	if froms := l.begin(1, first, func() {}); froms != nil {
		t.Errorf("broker 1 is asked for %v, and nobody waits", froms)
	}
	if len(l.pollers) != 0 {
		t.Errorf("pollers %v are left", l.pollers)
	}
	// Who waits again is polled for again.
	l.cancel = cancel
	wait()
	l.ctx, cancel = context.WithCancel(t.Context())
	cancel() // no goroutine is started
	l.watch(0)
	if p := l.pollers[1]; p == nil || !p.parts[0] {
		t.Error("nobody polls for who waits")
	}
}

// A request in flight is for partitions that somebody waits for: one more partition does
// not end it before it has had the time in which it is answered where these are busy, and
// never the request after it.
func TestOnePartitionMoreLeavesOthersAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &Log{ctx: t.Context(), leaders: []int32{1, 1, 1}, watched: map[int]*watched{}, pollers: map[int32]*poller{}}
		for i := range l.leaders {
			l.watched[i] = &watched{more: make(chan struct{}), waiting: 1, last: time.Now()}
		}
		p := &poller{parts: map[int]bool{0: true}}
		l.pollers[1] = p
		var ended [2]atomic.Int64
		l.begin(1, p, func() { ended[0].Add(1) })
		l.watch(1)
		l.watch(2)
		time.Sleep(busyEvery - time.Millisecond)
		if ended[0].Load() != 0 {
			t.Fatal("the request in flight was ended at once")
		}
		if froms := l.begin(1, p, func() { ended[1].Add(1) }); len(froms) != 3 { // it was answered
			t.Errorf("the next request is for %v, want three partitions", froms)
		}
		time.Sleep(time.Second)
		if ended[0].Load() != 1 || ended[1].Load() != 0 {
			t.Errorf("the first request was ended %d times and the second %d times, want 1 and 0", ended[0].Load(), ended[1].Load())
		}
		// Where nothing comes, the new partition does not wait for the broker's time to be over.
		p.parts = map[int]bool{0: true}
		l.watch(1)
		time.Sleep(2 * busyEvery)
		if ended[1].Load() != 1 {
			t.Error("a request that is not answered goes on without the new partition")
		}
	})
}

// A connection that dies under a request costs those who wait nothing: the broker is
// asked again at once.
func TestDeadConnectionIsNoPause(t *testing.T) {
	topic := kafkatest.Topic(t, 2)
	var mu sync.Mutex
	var conns []net.Conn
	dial := kgo.Dialer(func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, network, address)
		mu.Lock()
		defer mu.Unlock()
		conns = append(conns, c)
		return c, err
	})
	l, err := Open(t.Context(), Config{Brokers: kafkatest.Brokers(t), Topic: topic, Options: []kgo.Opt{dial}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	l.pollAgain = time.Hour
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for i := range 3 {
		told := make(chan error, 1)
		go func() { told <- l.Wait(ctx, 0, event.Position(i)) }()
		untilPolled(ctx, l)
		mu.Lock()
		for _, c := range conns {
			_ = c.Close()
		}
		conns = nil
		mu.Unlock()
		kafkatest.Produce(t, kafkatest.Client(t), &kgo.Record{Topic: topic, Value: []byte("{}")})
		if err := <-told; err != nil {
			t.Fatalf("round %d: %v", i+1, err)
		}
	}
}

// untilPolled waits until a request is in flight, with somebody who waits for partition 0.
func untilPolled(ctx context.Context, l *Log) {
	for inFlight := false; !inFlight && ctx.Err() == nil; {
		pause(ctx, time.Millisecond)
		l.mu.Lock()
		p := l.pollers[l.leaders[0]]
		inFlight = p != nil && p.cancel != nil && l.watched[0] != nil && l.watched[0].waiting > 0
		l.mu.Unlock()
	}
}
