package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/kafka"
	"github.com/fairlead-dev/fairlead/sqlite"
	"github.com/twmb/franz-go/pkg/kgo"
)

// orderRecord is a record as a shop writes it: about 330 bytes of JSON and 110 of
// headers, of a Zipf-distributed stream.
func orderRecord(topic string, partition, tenant, stream, n int) *kgo.Record {
	return &kgo.Record{
		Topic: topic, Partition: int32(partition), Key: fmt.Appendf(nil, "order-%06d", stream),
		Value: fmt.Appendf(nil, `{"order":"order-%06d","customer":"customer-%05d","currency":"EUR","lines":[{"product":"product-%04d","quantity":%d,"price":%d},`+
			`{"product":"product-%04d","quantity":1,"price":%d}],"address":{"street":"Long Street %d","city":"Springfield","zip":"%05d","country":"DE"},"channel":"web","campaign":"spring-%d","note":"leave it at the door, ring twice","sequence":%d}`,
			stream, n*7919%100_000, n*31%5000, 1+n%5, 100+n*17%9900, n*37%5000, 100+n*13%9900, 1+n%200, n*101%100_000, n%9, n),
		Headers: []kgo.RecordHeader{
			{Key: "fairlead-tenant", Value: fmt.Appendf(nil, "tenant-%02d", tenant)},
			{Key: "type", Value: []byte("OrderPlaced")},
			{Key: "traceparent", Value: fmt.Appendf(nil, "00-%032x-%016x-01", n*2654435761, n)},
		},
	}
}

// A consumed is what an arm has seen of a topic.
type consumed struct {
	began          time.Time // the arm's start
	assigned       time.Time // when the group gave it the partitions
	ended          time.Time // the commit of the last record
	records, bytes int64
}

// A consumeTally counts what a handler is given, of many goroutines at once.
type consumeTally struct {
	records, bytes atomic.Int64
}

func (t *consumeTally) add(records, bytes int) {
	t.records.Add(int64(records))
	t.bytes.Add(int64(bytes))
}

// bareConsume is what one would write to consume a topic without any of Fairlead's
// promises: a group member that polls, counts, and lets the client commit.
func bareConsume(ctx context.Context, s *kafkaServer, topic string, want int64) (c consumed, err error) {
	c.began = time.Now()
	client, err := kgo.NewClient(kgo.SeedBrokers(s.brokers...), kgo.ConsumerGroup(s.name("bare")), kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.DisableAutoCommit(),
		kgo.OnPartitionsAssigned(func(_ context.Context, _ *kgo.Client, m map[string][]int32) {
			if len(m[topic]) > 0 {
				c.assigned = time.Now()
			}
		}))
	if err != nil {
		return c, err
	}
	defer client.CloseAllowingRebalance()
	last := time.Now()
	for c.records < want {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return c, err
		}
		fetches.EachRecord(func(r *kgo.Record) {
			c.records++
			c.bytes += int64(len(r.Value))
		})
		if time.Since(last) > 5*time.Second { // as often as the client would by itself
			if err := client.CommitUncommittedOffsets(ctx); err != nil {
				return c, err
			}
			last = time.Now()
		}
	}
	err = client.CommitUncommittedOffsets(ctx)
	c.ended = time.Now()
	return c, err
}

// consume runs Fairlead with one processor over a topic to its end, in a group, with
// its checkpoints in SQLite. There must be nothing in the topic that t did not see.
func (b *bench) consume(ctx context.Context, s *kafkaServer, topic string, ends map[int]event.Position, want int64, t *consumeTally, k engineKind) (c consumed, err error) {
	path := filepath.Join(b.dir, s.name("consume")+".db")
	db, err := sqlite.Open(path)
	if err != nil {
		return c, err
	}
	defer func() { err = errors.Join(err, db.Close()); removeDB(path) }()
	c.began = time.Now()
	log, err := kafka.Open(ctx, kafka.Config{Brokers: s.brokers, Topic: topic, Group: s.name("fairlead"), Mapping: k.mapping})
	if err != nil {
		return c, err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	st := newPartsStore(db, ends)
	consumer, err := fairlead.New(fairlead.Config{Log: log, Store: st})
	if err != nil {
		return c, err
	}
	if err := consumer.Add(ctx, k.processor(t)); err != nil {
		return c, err
	}
	works := start(ctx, consumer)
	defer func() { err = errors.Join(err, works.stop()) }()
	for len(log.Assigned()) == 0 && !works.hasEnded() {
		if err := rest(ctx, time.Millisecond); err != nil {
			return c, err
		}
	}
	c.assigned = time.Now()
	select {
	case <-st.all:
	case <-works.ended:
		return c, works.stop()
	case <-time.After(2 * time.Minute):
		return c, fmt.Errorf("wrong result: %d of %d records after 2 minutes", t.records.Load(), want)
	}
	for t.records.Load() < want { // a tenant may be in a lane of its own
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			return c, ctx.Err()
		}
		if time.Since(c.began) > 2*time.Minute {
			break
		}
	}
	c.ended = time.Now()
	c.records, c.bytes = t.records.Load(), t.bytes.Load()
	return c, nil
}

// An engineKind is one of the lightest processors.
type engineKind struct {
	name      string
	mapping   kafka.Mapping
	processor func(t *consumeTally) fairlead.Processor
}

var consumeKinds = []engineKind{
	{"batch projector of which no header becomes metadata", kafka.Mapping{Metadata: []string{}}, countBatch},
	{"batch projector", kafka.Mapping{}, countBatch},
	{"reactor", kafka.Mapping{}, func(t *consumeTally) fairlead.Processor {
		return fairlead.React("count", func(_ context.Context, d fairlead.Delivery) error {
			t.add(1, len(d.Data))
			return nil
		})
	}},
}

func countBatch(t *consumeTally) fairlead.Processor {
	return fairlead.ProjectBatch("count", func(_ context.Context, _ any, events []event.Event) error {
		n := 0
		for i := range events {
			n += len(events[i].Data)
		}
		t.add(len(events), n)
		return nil
	})
}

func runConsumeKafka(ctx context.Context, b *bench) (err error) {
	s, err := b.kafkaServer(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	n := 1_000_000
	if b.quick {
		n = 300_000
	}
	for _, partitions := range []int{1, 12} {
		if err := b.consumeTopic(ctx, s, n, partitions); err != nil {
			return fmt.Errorf("%d partitions: %w", partitions, err)
		}
	}
	return nil
}

func (b *bench) consumeTopic(ctx context.Context, s *kafkaServer, n, partitions int) error {
	topic, err := s.topic(ctx, "consume", partitions)
	if err != nil {
		return err
	}
	defer func() { _ = s.drop(ctx, topic) }()
	keys, size := zipfKeys(n, 10_000), int64(0)
	err = s.produce(ctx, n, func(i int) *kgo.Record {
		r := orderRecord(topic, keys[i]%partitions, keys[i]%50, keys[i], i)
		size += int64(len(r.Value))
		return r
	})
	if err != nil {
		return err
	}
	ends, err := s.ends(ctx, topic)
	if err != nil {
		return err
	}
	runs := 5
	if b.quick {
		runs = 3
	}
	check := func(c consumed) error {
		if c.records != int64(n) || c.bytes != size {
			return fmt.Errorf("wrong result: %d records of %d bytes, must be %d of %d", c.records, c.bytes, n, size)
		}
		return nil
	}
	rate := func(c consumed) float64 { return float64(n) / c.ended.Sub(c.assigned).Seconds() }
	whole := func(c consumed) float64 { return float64(n) / c.ended.Sub(c.began).Seconds() }
	type figures struct{ rate, whole, cpu []float64 }
	var bare figures
	ours := make([]figures, len(consumeKinds))
	measure := func(f *figures, run func() (consumed, error)) error {
		before := processorTime()
		c, err := run()
		if err == nil {
			err = check(c)
		}
		if err != nil {
			return err
		}
		f.rate, f.whole = append(f.rate, rate(c)), append(f.whole, whole(c))
		f.cpu = append(f.cpu, float64((processorTime()-before).Nanoseconds())/float64(n))
		return nil
	}
	for range runs {
		if err := measure(&bare, func() (consumed, error) { return bareConsume(ctx, s, topic, int64(n)) }); err != nil {
			return fmt.Errorf("bare loop: %w", err)
		}
		for i, k := range consumeKinds {
			err := measure(&ours[i], func() (consumed, error) {
				t := &consumeTally{}
				return b.consume(ctx, s, topic, ends, int64(n), t, k)
			})
			if err != nil {
				return fmt.Errorf("%s: %w", k.name, err)
			}
		}
	}
	cond := fmt.Sprintf("%d records of %d bytes with 3 headers, %d partitions, Zipf keys, from the group's assignment to the last commit, median of %d interleaved runs, records and bytes compared; %s",
		n, size/int64(n), partitions, runs, s.settings)
	for i, k := range consumeKinds {
		var must line
		if i == 0 {
			must = atLeast(0.85)
		}
		r := ratios(ours[i].rate, bare.rate)
		b.add("ratio", median(r), "x", must, "%s that does nothing, checkpoints in SQLite, to a loop over PollFetches that counts, both members of a group; %s; %s", k.name, spread(r), cond)
		r = ratios(ours[i].whole, bare.whole)
		b.add("ratio_with_start", median(r), "x", line{}, "%s; the same from the start of the client, with joining the group; %s; %s", k.name, spread(r), cond)
		b.add("events_per_second", median(ours[i].rate), "events/s", line{}, "%s; %s; %s", k.name, spread(ours[i].rate), cond)
		b.add("processor_time", median(ours[i].cpu), "ns/event", line{}, "%s; without the broker's; %s", k.name, cond)
	}
	b.add("events_per_second_loop", median(bare.rate), "events/s", line{}, "bare loop; %s; %s", spread(bare.rate), cond)
	b.add("processor_time_loop", median(bare.cpu), "ns/event", line{}, "bare loop; without the broker's; %s", cond)
	return nil
}
