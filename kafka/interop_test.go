package kafka_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/internal/kafkatest"
	"github.com/fairlead-dev/fairlead/kafka/layout"
	"github.com/twmb/franz-go/pkg/kgo"
)

// keys are tenant:key of many tenants, some of them beyond ASCII.
func keys() (all []string) {
	for i := range 300 {
		all = append(all, fmt.Sprintf("tenant-%d:order:%d", i, i*7), fmt.Sprintf("größe %d✓:k", i), fmt.Sprintf("%d:", i))
	}
	return all
}

// consumed reads so many records of a topic.
func consumed(t *testing.T, topic string, n int) (all []*kgo.Record) {
	t.Helper()
	c := kafkatest.Client(t, kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for len(all) < n {
		fetches := c.PollFetches(ctx)
		if err := ctx.Err(); err != nil {
			t.Fatalf("%d of %d records: %v", len(all), n, err)
		}
		all = append(all, fetches.Records()...)
	}
	return all
}

// check compares the partitions that another producer chose with the layout's.
func check(t *testing.T, c layout.Config, topic string, partitions, n int) {
	t.Helper()
	l, err := layout.New(c)
	if err != nil {
		t.Fatal(err)
	}
	used := map[int32]bool{}
	for _, r := range consumed(t, topic, n) {
		p := layout.Place{Hash: l.Hash(topic, string(r.Key))}
		if want := p.Partition(partitions); int(r.Partition) != want {
			t.Errorf("key %q: partition %d, the layout says %d", r.Key, r.Partition, want)
		}
		used[r.Partition] = true
	}
	if len(used) != partitions {
		t.Errorf("%d of %d partitions are used: the comparison says little", len(used), partitions)
	}
}

// TestJavaProducer: Kafka's own console producer puts a key where the layout of own
// topics says.
func TestJavaProducer(t *testing.T) {
	const partitions = 27
	topic := kafkatest.Topic(t, partitions)
	ks := keys()
	var in strings.Builder
	for i, k := range ks {
		fmt.Fprintf(&in, "fairlead-class=test,n=%d\t%s\tv%d\n", i, k, i)
	}
	kafkatest.JavaTool(t, "ConsoleProducer", in.String(), "--bootstrap-server", strings.Join(kafkatest.Brokers(t), ","), "--topic", topic,
		"--property", "parse.key=true", "--property", "parse.headers=true", "--property", "headers.key.separator==")
	check(t, layout.Config{Own: "{tenant}.jobs"}, topic, partitions, len(ks))
}

// TestPythonProducer: kafka-python with a partitioner by prefix puts a tenant where
// the layout of shared topics says.
func TestPythonProducer(t *testing.T) {
	t.Parallel()
	const partitions = 27
	topic := kafkatest.Topic(t, partitions)
	ks := keys()
	kafkatest.Python(t, "kafka-python==1.4.7", "testdata/prefix_producer.py", strings.Join(ks, "\tv\n")+"\tv\n", strings.Join(kafkatest.Brokers(t), ","), topic)
	check(t, layout.Config{Shared: topic}, topic, partitions, len(ks))
}
