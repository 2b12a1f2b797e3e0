package kafka

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/internal/kafkatest"
	"github.com/twmb/franz-go/pkg/kgo"
)

// A broker that cannot be reached any more is not waited for: those who wait are to ask
// who leads their partitions now.
func TestUnreachableBrokerIsGivenUp(t *testing.T) {
	topic := kafkatest.Topic(t, 1)
	var mu sync.Mutex
	var conns []net.Conn
	var away atomic.Bool
	var dials atomic.Int64
	dial := kgo.Dialer(func(ctx context.Context, network, address string) (net.Conn, error) {
		if away.Load() { // as where the host is gone: no answer
			dials.Add(1)
			pause(ctx, 8*time.Second) // by default it is 10 s
			return nil, context.DeadlineExceeded
		}
		c, err := new(net.Dialer).DialContext(ctx, network, address)
		if err == nil {
			mu.Lock()
			conns = append(conns, c)
			mu.Unlock()
		}
		return c, err
	})
	l, err := Open(t.Context(), Config{Brokers: kafkatest.Brokers(t), Topic: topic, Options: []kgo.Opt{dial}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	l.pollAgain = time.Millisecond
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	told := make(chan error, 1)
	go func() { told <- l.Wait(ctx, 0, 0) }()
	untilPolled(ctx, l)
	pause(ctx, 200*time.Millisecond)
	away.Store(true)
	mu.Lock()
	for _, c := range conns {
		_ = c.Close()
	}
	mu.Unlock()
	began := time.Now()
	for polled := true; polled && ctx.Err() == nil; {
		pause(ctx, time.Millisecond)
		l.mu.Lock()
		polled = len(l.pollers) > 0
		l.mu.Unlock()
	}
	took := time.Since(began)
	t.Logf("given up after %v, %d dials", took, dials.Load())
	if took > 6*time.Second {
		t.Errorf("who waits was told after %v", took)
	}
	if dials.Load() == 0 {
		t.Error("it has not been tried")
	}
	cancel()
	if err := <-told; err != nil && !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
