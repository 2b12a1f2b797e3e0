package main

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"path/filepath"
	"strconv"
	"sync"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/kafka"
	"github.com/fairlead-dev/fairlead/sqlite"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/twmb/franz-go/pkg/kgo"
)

// versionHeader has the version of an event in its stream, so that a probe can tell
// that the order is kept.
const versionHeader = "version"

// A kafkaDB is a topic and a SQLite file, as the log and the store of a benchmark.
// What is appended goes to the partition of its tenant.
type kafkaDB struct {
	eventlog.Log
	store.Store
	client     *kgo.Client
	topic      string
	partitions int
	close      func() error

	mu       sync.Mutex
	versions map[eventlog.StreamRef]int64
}

func (d *kafkaDB) Close() error { return d.close() }

// split returns the two apart: they have interfaces beyond those of a database.
func (d *kafkaDB) split() (eventlog.Log, store.Store) { return d.Log, d.Store }

// Append writes the events with acknowledgement by all replicas. Each stream has one
// appender at a time.
func (d *kafkaDB) Append(ctx context.Context, appends ...eventlog.StreamAppend) (eventlog.Token, error) {
	var records []*kgo.Record
	d.mu.Lock()
	for i := range appends {
		a := &appends[i]
		h := fnv.New32a()
		_, _ = h.Write([]byte(a.Tenant))
		ref := eventlog.StreamRef{Tenant: a.Tenant, Stream: a.Stream}
		for j := range a.Events {
			d.versions[ref]++
			records = append(records, &kgo.Record{
				Topic: d.topic, Partition: int32(h.Sum32() % uint32(d.partitions)), Key: []byte(a.Stream), Value: a.Events[j].Data,
				Headers: []kgo.RecordHeader{{Key: "fairlead-tenant", Value: []byte(a.Tenant)}, {Key: "type", Value: []byte(a.Events[j].Type)},
					{Key: versionHeader, Value: strconv.AppendInt(nil, d.versions[ref], 10)}},
			})
		}
	}
	d.mu.Unlock()
	rs := d.client.ProduceSync(ctx, records...)
	if err := rs.FirstErr(); err != nil {
		return eventlog.Token{}, err
	}
	last := rs[len(rs)-1].Record
	return eventlog.Token{Partition: int(last.Partition), Position: event.Position(last.Offset + 1)}, nil
}

// Versions implements eventlog.Appender.
func (d *kafkaDB) Versions(_ context.Context, streams ...eventlog.StreamRef) ([]int64, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := make([]int64, len(streams))
	for i, s := range streams {
		out[i] = d.versions[s]
	}
	return out, nil
}

// database makes a topic and a file.
func (s *kafkaServer) database(ctx context.Context, b *bench, partitions int) (database, func() error, error) {
	topic, err := s.topic(ctx, "noisy", partitions)
	if err != nil {
		return nil, nil, err
	}
	path := filepath.Join(b.dir, topic+".db")
	db, err := sqlite.Open(path)
	if err != nil {
		return nil, nil, err
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(s.brokers...), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(0))
	if err != nil {
		return nil, nil, errors.Join(err, db.Close())
	}
	var mapping kafka.Mapping
	log, err := kafka.Open(ctx, kafka.Config{Brokers: s.brokers, Topic: topic, Decode: func(r *kgo.Record) (event.Event, error) {
		e, err := mapping.Decode(r)
		if err == nil {
			e.Version, err = strconv.ParseInt(e.Metadata[versionHeader], 10, 64)
		}
		return e, err
	}})
	if err != nil {
		client.Close()
		return nil, nil, errors.Join(err, db.Close())
	}
	d := &kafkaDB{Log: log, Store: db, client: client, topic: topic, partitions: partitions, versions: map[eventlog.StreamRef]int64{}}
	d.close = func() error {
		client.Close()
		return errors.Join(log.Close(), db.Close())
	}
	return d, func() error { removeDB(path); return s.drop(ctx, topic) }, nil
}

// runNoisyKafka is NN-k on a topic with twelve partitions, tenants hashed, and on one
// with one, where all tenants stand in one line.
func runNoisyKafka(ctx context.Context, b *bench) (err error) {
	s, err := b.kafkaServer(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	for _, partitions := range []int{12, 1} {
		b.fresh = func(ctx context.Context) (database, func() error, error) { return s.database(ctx, b, partitions) }
		plan := planNoisyServer(b.quick)
		if partitions == 1 {
			plan.p99 = 3
		}
		if err := b.noisy(ctx, plan, fmt.Sprintf("%d partitions, checkpoints in SQLite, %s", partitions, s.settings)); err != nil {
			return fmt.Errorf("%d partitions: %w", partitions, err)
		}
	}
	return nil
}
