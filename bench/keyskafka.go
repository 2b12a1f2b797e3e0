package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/kafka"
	"github.com/fairlead-dev/fairlead/sqlite"
	"github.com/twmb/franz-go/pkg/kgo"
)

const keysKeys = 1000

// A keysCase is handlers that wait so long, so many at once.
type keysCase struct {
	wait        time.Duration
	concurrency int
	records     int
	settings    []pcSetting // of the peer: the best counts
}

// keysCases are sized so that a run takes about so long: the hottest of 1,000 keys has
// 1.3 % of the records, so some 75 handlers can be busy at most.
func keysCases(about time.Duration, quick bool) (out []keysCase) {
	const sync, async = "PERIODIC_CONSUMER_SYNC", "PERIODIC_CONSUMER_ASYNCHRONOUS"
	for _, wait := range []time.Duration{0, time.Millisecond, 10 * time.Millisecond, 100 * time.Millisecond} {
		for _, concurrency := range []int{64, 1000} {
			c := keysCase{wait: wait, concurrency: concurrency}
			if wait == 0 {
				c.records = int(about.Seconds() * 20_000) // what takes the peer some seconds
				c.settings = []pcSetting{{1, 0, async}, {100, 0, async}, {1000, 50_000, async}, {100, 0, sync}}
			} else {
				c.records = int(about.Seconds() / wait.Seconds() * float64(min(concurrency, 75)))
				c.settings = []pcSetting{{1, 0, async}, {1, 20_000, async}}
			}
			if quick {
				c.settings = c.settings[1:2]
			}
			out = append(out, c)
		}
	}
	return out
}

// reactKeys runs Fairlead's reactor over a topic, in a group, with its checkpoints in
// SQLite. The time is from the start of the first handler to the end of the last.
func (b *bench) reactKeys(ctx context.Context, s *kafkaServer, topic string, c keysCase, size int64) (took time.Duration, err error) {
	path := filepath.Join(b.dir, s.name("keys")+".db")
	db, err := sqlite.Open(path)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, db.Close()); removeDB(path) }()
	log, err := kafka.Open(ctx, kafka.Config{Brokers: s.brokers, Topic: topic, Group: s.name("fairlead")})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	var first, handled, bytes, disorder atomic.Int64
	var last time.Time
	all := make(chan struct{})
	done := make(map[string]*atomic.Int64, keysKeys)
	for k := range keysKeys {
		done[fmt.Sprintf("order-%06d", k)] = &atomic.Int64{}
	}
	p := fairlead.React("waiter", func(_ context.Context, d fairlead.Delivery) error {
		if first.Load() == 0 {
			first.CompareAndSwap(0, time.Now().UnixNano())
		}
		if c.wait > 0 {
			handlerWait(c.wait)
		}
		if done[d.Stream].Swap(int64(d.Position)) >= int64(d.Position) {
			disorder.Add(1)
		}
		bytes.Add(int64(len(d.Data)))
		if handled.Add(1) == int64(c.records) {
			last = time.Now()
			close(all)
		}
		return nil
	}, fairlead.Options{Concurrency: c.concurrency})
	consumer, err := fairlead.New(fairlead.Config{Log: log, Store: db})
	if err != nil {
		return 0, err
	}
	if err := consumer.Add(ctx, p); err != nil {
		return 0, err
	}
	works := start(ctx, consumer)
	select {
	case <-all:
	case <-works.ended:
	case <-time.After(5 * time.Minute):
	}
	if err := works.stop(); err != nil {
		return 0, err
	}
	if n := handled.Load(); n != int64(c.records) || bytes.Load() != size || disorder.Load() > 0 {
		return 0, fmt.Errorf("wrong result: %d records of %d bytes, must be %d of %d; %d out of order", n, bytes.Load(), c.records, size, disorder.Load())
	}
	return time.Duration(last.UnixNano() - first.Load()), nil
}

func runKeysKafka(ctx context.Context, b *bench) (err error) {
	s, err := b.kafkaServer(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	peer, err := b.parallelConsumer(ctx)
	if err != nil {
		return err
	}
	about, runs := 3*time.Second, 5
	if b.quick {
		about, runs = 700*time.Millisecond, 2
	}
	for _, c := range keysCases(about, b.quick) {
		if err := b.keysCase(ctx, s, peer, c, runs); err != nil {
			return fmt.Errorf("%v, concurrency %d: %w", c.wait, c.concurrency, err)
		}
	}
	return nil
}

func (b *bench) keysCase(ctx context.Context, s *kafkaServer, peer *parallelConsumer, c keysCase, runs int) error {
	topic, err := s.topic(ctx, "keys", 1)
	if err != nil {
		return err
	}
	defer func() { _ = s.drop(ctx, topic) }()
	keys, size := zipfKeys(c.records, keysKeys), int64(0)
	err = s.produce(ctx, c.records, func(i int) *kgo.Record {
		r := orderRecord(topic, 0, keys[i]%50, keys[i], i)
		size += int64(len(r.Value))
		return r
	})
	if err != nil {
		return err
	}
	ask := func(set pcSetting) (float64, error) {
		got, err := peer.run(ctx, s, topic, c.records, int(c.wait/time.Millisecond), c.concurrency, set, 2)
		if err != nil {
			return 0, err
		}
		r := got[len(got)-1]
		if r.Records != int64(c.records) || r.Bytes != size || r.Disorder != 0 {
			return 0, fmt.Errorf("wrong result of the parallel consumer (%v): %+v, must be %d records of %d bytes", set, r, c.records, size)
		}
		return float64(c.records) / r.Seconds, nil
	}
	best, most := 0, 0.0 // its best setting, by one run each
	for i := range c.settings {
		if peer == nil || len(c.settings) == 1 {
			break
		}
		rate, err := ask(c.settings[i])
		if err != nil {
			return err
		}
		if rate > most {
			best, most = i, rate
		}
	}
	var ours, theirs []float64
	for range runs {
		took, err := b.reactKeys(ctx, s, topic, c, size)
		if err != nil {
			return err
		}
		ours = append(ours, float64(c.records)/took.Seconds())
		if peer == nil {
			continue
		}
		rate, err := ask(c.settings[best])
		if err != nil {
			return err
		}
		theirs = append(theirs, rate)
	}
	cond := fmt.Sprintf("handlers wait %v, concurrency %d, %d records, Zipf keys (1,000), one partition, from the first handler's start to the last one's end, median of %d interleaved runs, records, bytes and order of keys compared; %s",
		c.wait, c.concurrency, c.records, runs, s.settings)
	b.add("records_per_second", median(ours), "records/s", line{}, "Fairlead's reactor, checkpoints in SQLite; %s; %s", spread(ours), cond)
	if peer == nil {
		return nil
	}
	b.add("records_per_second_peer", median(theirs), "records/s", line{}, "Confluent's parallel consumer 0.5.3.3, KEY order, %v (the best of %d settings, by a run of each), the second reading of the topic in a process; %s; %s", c.settings[best], len(c.settings), spread(theirs), cond)
	r := ratios(ours, theirs)
	must := line{">", 1}
	if c.wait == 0 {
		must = atLeast(3)
	}
	b.add("ratio", median(r), "x", must, "records/s of Fairlead to those of the parallel consumer; %s; %s", spread(r), cond)
	return nil
}
