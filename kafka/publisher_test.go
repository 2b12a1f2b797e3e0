package kafka_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/forward"
	"github.com/fairlead-dev/fairlead/internal/brokertest"
	"github.com/fairlead-dev/fairlead/internal/kafkatest"
	"github.com/fairlead-dev/fairlead/kafka"
	"github.com/fairlead-dev/fairlead/kafka/layout"
	"github.com/fairlead-dev/fairlead/partition"
	"github.com/fairlead-dev/fairlead/sqlite"
	"github.com/fairlead-dev/fairlead/tenancy"
	"github.com/twmb/franz-go/pkg/kgo"
)

func newPublisher(t *testing.T, c layout.Config, brokers []string, opts ...kgo.Opt) *kafka.Publisher {
	t.Helper()
	l, err := layout.New(c)
	if err != nil {
		t.Fatal(err)
	}
	p, err := kafka.NewPublisher(l, tenancy.Names{}, append(opts, kgo.SeedBrokers(brokers...))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

func headerOf(r *kgo.Record, name string) string {
	for _, h := range r.Headers {
		if h.Key == name {
			return string(h.Value)
		}
	}
	return ""
}

// TestForward has a broker of its own killed while it forwards.
func TestForward(t *testing.T) {
	t.Parallel()
	const partitions, most = 6, 200_000
	server := kafkatest.NewServer(t, 1)
	c := kafkatest.ClientOf(t, server.Brokers)
	topic := kafkatest.Name(t)
	kafkatest.Create(t, c, topic, partitions, "max.message.bytes=200000")
	db, err := sqlite.Open(filepath.Join(t.TempDir(), "outbox.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	p := newPublisher(t, layout.Config{Shared: topic}, server.Brokers, kgo.ProducerBatchCompression(kgo.NoCompression()))
	brokertest.Forwarding(t, brokertest.Case{
		Outbox: db, Publisher: p, TooLarge: most,
		Disturb: func() {
			if err := errors.Join(server.Kill(1), server.Restart(1)); err != nil {
				t.Fatal(err)
			}
		},
		Receive: func(done func(brokertest.Message) bool) {
			c := kafkatest.ClientOf(t, server.Brokers, kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
			for {
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				fetches := c.PollFetches(ctx)
				cancel()
				if fetches.Empty() {
					return
				}
				for r := range fetches.RecordsAll() {
					tenant, stream, _ := strings.Cut(string(r.Key), ":")
					if want := partition.Kafka([]byte(tenant), partitions); int(r.Partition) != want {
						t.Errorf("a record of %q is in partition %d, want %d", tenant, r.Partition, want)
					}
					if !done(brokertest.Message{
						ID: headerOf(r, forward.HeaderID), Tenant: headerOf(r, "fairlead-tenant"), Stream: stream, Type: headerOf(r, forward.HeaderType),
						Version: headerOf(r, forward.HeaderVersion), Trace: headerOf(r, "traceparent"), Data: string(r.Value),
					}) {
						return
					}
				}
			}
		},
	})
	// A call ends with its context, also while the broker is away.
	if err := server.Kill(1); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	began := time.Now()
	if err := p.Publish(ctx, &event.Event{Tenant: "acme", Stream: "s", Type: "T"}, "id"); err == nil || time.Since(began) > 10*time.Second {
		t.Errorf("without a broker: %v after %v", err, time.Since(began))
	}
}

func TestPublisherErrors(t *testing.T) {
	brokers := kafkatest.Brokers(t)
	topic := kafkatest.Topic(t, 1, "max.message.bytes=1000")
	p := newPublisher(t, layout.Config{Shared: topic}, brokers, kgo.ProducerBatchCompression(kgo.NoCompression()))
	publish := func(p *kafka.Publisher, e event.Event) error {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		return p.Publish(ctx, &e, "id")
	}
	one := event.Event{Tenant: "acme", Stream: "s", Type: "T", Position: 7, Data: []byte("{}")}
	if err := publish(p, one); err != nil {
		t.Error(err)
	}
	for name, e := range map[string]event.Event{
		"too large for the topic": {Tenant: "acme", Stream: "s", Type: "T", Position: 7, Data: make([]byte, 2000)},
		"too large for a batch":   {Tenant: "acme", Stream: "s", Type: "T", Position: 7, Data: make([]byte, 2<<20)},
		"tenant with a separator": {Tenant: "acme:x", Stream: "s", Type: "T", Position: 7},
	} {
		err := publish(p, e)
		if !errors.Is(err, forward.ErrRefused) || !strings.Contains(err.Error(), "position 7") || !strings.Contains(err.Error(), "acme") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := publish(p, one); err != nil {
		t.Errorf("after what was refused: %v", err)
	}
	nowhere := newPublisher(t, layout.Config{Shared: kafkatest.Name(t)}, brokers, kgo.UnknownTopicRetries(1))
	if err := publish(nowhere, one); err == nil || errors.Is(err, forward.ErrRefused) || !strings.Contains(err.Error(), "make the topic") {
		t.Errorf("no topic: %v", err)
	}
	if _, err := kafka.NewPublisher(nil, tenancy.Names{}, kgo.SeedBrokers(brokers...)); err == nil {
		t.Error("a publisher without a layout")
	}
}

// A broker refuses a batch for one record that is too large. Those that were in it by
// chance are no less taken.
func TestOneTooLargeRefusesNoOther(t *testing.T) {
	topic := kafkatest.Topic(t, 1, "max.message.bytes=20000")
	p := newPublisher(t, layout.Config{Shared: topic}, kafkatest.Brokers(t), kgo.ProducerBatchCompression(kgo.NoCompression()))
	old := time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC)
	const n = 200
	errs := make([]error, n)
	var calls sync.WaitGroup
	for i := range n {
		calls.Go(func() {
			e := event.Event{Tenant: "acme", Stream: fmt.Sprint("s", i), Type: "T", Position: event.Position(i + 1), OccurredAt: old, Data: []byte("{}")}
			if i%40 == 7 {
				e.Data = make([]byte, 25_000)
			}
			errs[i] = p.Publish(t.Context(), &e, "id")
		})
	}
	calls.Wait()
	for i, err := range errs {
		if large := i%40 == 7; errors.Is(err, forward.ErrRefused) != large || (err != nil) != large {
			t.Errorf("event %d, too large %v: %v", i, large, err)
		}
	}
	published := all(t, topic, 1)
	if len(published) != n-n/40 {
		t.Errorf("%d records, want %d", len(published), n-n/40)
	}
	// Retention goes by the timestamp: what is old is not to be deleted at once.
	for _, r := range published {
		if time.Since(r.Timestamp) > time.Hour || headerOf(r, forward.HeaderOccurred) != old.Format(time.RFC3339Nano) {
			t.Errorf("timestamp %v, occurred %s", r.Timestamp, headerOf(r, forward.HeaderOccurred))
		}
	}
}
