package kafka_test

import (
	"context"
	"fmt"
	"hash/fnv"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/eventlog/eventlogtest"
	"github.com/fairlead-dev/fairlead/internal/kafkatest"
	"github.com/fairlead-dev/fairlead/kafka"
)

// open opens a topic, and closes it with the test.
func open(t testing.TB, cfg kafka.Config) *kafka.Log {
	t.Helper()
	if cfg.Brokers == nil {
		cfg.Brokers = kafkatest.Brokers(t)
	}
	l, err := kafka.Open(t.Context(), cfg)
	if err != nil {
		t.Fatalf("run make services-up (or set FAIRLEAD_KAFKA): %v", err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// record is an event as a producer writes it.
func record(topic string, partition int, tenant, stream, typ, data string) *kgo.Record {
	return &kgo.Record{
		Topic: topic, Partition: int32(partition), Key: []byte(stream), Value: []byte(data),
		Headers: []kgo.RecordHeader{{Key: "tenant", Value: []byte(tenant)}, {Key: "type", Value: []byte(typ)}},
	}
}

// recordOf is [record] with all that an event has.
func recordOf(topic string, partition int, tenant, stream string, e *eventlog.NewEvent) *kgo.Record {
	r := record(topic, partition, tenant, stream, e.Type, string(e.Data))
	if e.ID != "" {
		r.Headers = append(r.Headers, kgo.RecordHeader{Key: "id", Value: []byte(e.ID)})
	}
	if e.Class != "" {
		r.Headers = append(r.Headers, kgo.RecordHeader{Key: "fairlead-class", Value: []byte(e.Class)})
	}
	if !e.OccurredAt.IsZero() {
		r.Headers = append(r.Headers, kgo.RecordHeader{Key: "occurred_at", Value: []byte(e.OccurredAt.Format(time.RFC3339Nano))})
	}
	for k, v := range e.Metadata {
		r.Headers = append(r.Headers, kgo.RecordHeader{Key: k, Value: []byte(v)})
	}
	return r
}

// sumOf spreads streams over partitions.
func sumOf(tenant, stream string) int {
	h := fnv.New32a()
	_, _ = fmt.Fprintf(h, "%s\x00%s", tenant, stream)
	return int(h.Sum32())
}

func TestLog(t *testing.T) {
	t.Parallel()
	for _, partitions := range []int{1, 3} {
		t.Run(fmt.Sprint(partitions, " partitions"), func(t *testing.T) {
			t.Parallel()
			client := kafkatest.Client(t)
			admin := kadm.NewClient(client)
			topics := map[eventlog.Log]string{}
			eventlogtest.Run(t, func(t *testing.T) eventlog.Log {
				topic := kafkatest.Topic(t, partitions)
				l := open(t, kafka.Config{Topic: topic})
				topics[l] = topic
				return l
			}, eventlogtest.Features{
				Partitions: partitions, SparseVersions: true,
				Fill: func(t *testing.T, log eventlog.Log, appends ...eventlog.StreamAppend) {
					t.Helper()
					var records []*kgo.Record
					for _, a := range appends {
						for _, e := range a.Events {
							records = append(records, recordOf(topics[log], sumOf(a.Tenant, a.Stream)%partitions, a.Tenant, a.Stream, &e))
						}
					}
					kafkatest.Produce(t, client, records...)
				},
				Truncate: func(t *testing.T, log eventlog.Log, partition int, before event.Position) {
					t.Helper()
					deleteBefore(t, admin, topics[log], partition, before)
				},
				Reopen: func(t *testing.T, log eventlog.Log) eventlog.Log {
					t.Helper()
					_ = log.(*kafka.Log).Close()
					l := open(t, kafka.Config{Topic: topics[log]})
					topics[l] = topics[log]
					return l
				},
			})
		})
	}
}

// deleteBefore deletes the records below a position, as retention does.
func deleteBefore(t testing.TB, admin *kadm.Client, topic string, partition int, before event.Position) {
	t.Helper()
	offsets := kadm.Offsets{}
	offsets.AddOffset(topic, int32(partition), int64(before)-1, -1)
	got, err := admin.DeleteRecords(context.WithoutCancel(t.Context()), offsets)
	if err == nil {
		err = got.Error()
	}
	if err != nil {
		t.Fatalf("delete records of %s/%d before %v: %v", topic, partition, before, err)
	}
}
