package kafkatest_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/fairlead-dev/fairlead/internal/kafkatest"
)

func TestProduce(t *testing.T) {
	topic := kafkatest.Topic(t, 3, "retention.ms=60000")
	c := kafkatest.Client(t)
	for i, r := range kafkatest.Produce(t, c, &kgo.Record{Topic: topic, Partition: 2, Value: []byte("a")}, &kgo.Record{Topic: topic, Partition: 2, Value: []byte("b")}) {
		if r.Offset != int64(i) || r.Partition != 2 {
			t.Errorf("record %d is at %d/%d", i, r.Partition, r.Offset)
		}
	}
}

// A cluster of a test's own does without one of its brokers.
func TestServer(t *testing.T) {
	s := kafkatest.NewServer(t, 3)
	c := kafkatest.ClientOf(t, s.Brokers)
	topic := kafkatest.Name(t)
	kafkatest.Create(t, c, topic, 1)
	produce := func(i int) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
		defer cancel()
		rs := c.ProduceSync(ctx, &kgo.Record{Topic: topic, Value: fmt.Append(nil, i)})
		if r, err := rs.First(); err != nil || r.Offset != int64(i) {
			t.Fatalf("record %d: offset %d, %v", i, r.Offset, err)
		}
	}
	produce(0)
	if err := s.Kill(2); err != nil {
		t.Fatal(err)
	}
	produce(1)
	if err := s.Restart(1); err != nil {
		t.Fatal(err)
	}
	if err := s.Up(); err != nil {
		t.Fatal(err)
	}
	produce(2)
}
