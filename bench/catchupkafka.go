package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/internal/engine"
	"github.com/fairlead-dev/fairlead/kafka"
	"github.com/fairlead-dev/fairlead/postgres"
	"github.com/fairlead-dev/fairlead/sqlite"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/twmb/franz-go/pkg/kgo"
)

// runCatchupKafka compares the engine, reading a topic and writing documents to
// PostgreSQL and to SQLite, with hand-written loops.
func runCatchupKafka(ctx context.Context, b *bench) error {
	return b.onServers(ctx, b.runCatchupKafkaOn)
}

func (b *bench) runCatchupKafkaOn(ctx context.Context, s *kafkaServer, pg *pgServer) error {
	n := 300_000
	if b.quick {
		n = 100_000
	}
	for _, partitions := range []int{1, 12} {
		if err := b.catchupTopic(ctx, s, pg, n, partitions); err != nil {
			return fmt.Errorf("%d partitions: %w", partitions, err)
		}
	}
	return nil
}

func cartTenantNames() []string {
	tenants := make([]string, cartTenants)
	for i := range tenants {
		tenants[i] = fmt.Sprintf("shop-%02d", i)
	}
	return tenants
}

// catchUpTopic runs a consumer over a topic to its end, as catchUpOn does.
func catchUpTopic(ctx context.Context, s *kafkaServer, topic string, ends map[int]event.Position, st store.Store, p fairlead.Processor) (took time.Duration, err error) {
	log, err := kafka.Open(ctx, kafka.Config{Brokers: s.brokers, Topic: topic, Mapping: kafka.Mapping{Metadata: []string{}}}) // the loop reads no other headers either
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	watched := newPartsStore(st, ends)
	c, err := fairlead.New(fairlead.Config{Log: log, Store: watched, Memory: catchupMemory})
	if err != nil {
		return 0, err
	}
	if err := c.Add(ctx, p); err != nil {
		return 0, err
	}
	started := time.Now()
	consumer := start(ctx, c)
	defer func() { err = errors.Join(err, consumer.stop()) }()
	select {
	case <-watched.all:
	case <-consumer.ended:
		return 0, consumer.stop()
	case <-time.After(2 * time.Minute):
		return 0, errors.New("wrong result: not at the end of the topic after 2 minutes")
	}
	for partition, end := range ends {
		for {
			ok, err := engine.Reached(ctx, log, st, p.Name(), eventlog.Token{Partition: partition, Position: end, Tenants: cartTenantNames()})
			if err != nil {
				return 0, err
			}
			if ok {
				break
			}
			if err := rest(ctx, 2*time.Millisecond); err != nil {
				return 0, err
			}
		}
	}
	took = time.Since(started)
	letters, err := fairlead.Admin{Log: log, Store: st}.DeadLetters(ctx, fairlead.LetterFilter{Limit: 1})
	if err == nil && len(letters) > 0 {
		err = fmt.Errorf("wrong result: a dead letter: %s", letters[0].Error)
	}
	return took, err
}

func (b *bench) catchupTopic(ctx context.Context, s *kafkaServer, pg *pgServer, n, partitions int) error {
	const count = 10_000
	topic, err := s.topic(ctx, "catchup", partitions)
	if err != nil {
		return err
	}
	defer func() { _ = s.drop(ctx, topic) }()
	events, want := cartEvents(n, count)
	err = s.produce(ctx, n, func(i int) *kgo.Record {
		e := &events[i]
		return &kgo.Record{
			Topic: topic, Partition: int32(int(e.stream[len(e.stream)-1]+10*e.stream[len(e.stream)-2]) % partitions), Key: []byte(e.stream), Value: e.data,
			Headers: []kgo.RecordHeader{
				{Key: "fairlead-tenant", Value: []byte(e.tenant)}, {Key: "type", Value: []byte(e.typ)},
				{Key: "traceparent", Value: fmt.Appendf(nil, "00-%032x-%016x-01", i*2654435761, i)},
			},
		}
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
	filled, err := pg.empty(ctx)
	if err == nil {
		err = pgExec(ctx, filled, kafkaLoopSchema)
	}
	if err != nil {
		return err
	}
	defer func() { _ = pg.drop(ctx, filled) }()
	type arm struct {
		rates, cpu []float64
		run        func() (time.Duration, error)
	}
	onPG := func(run func(url string) (time.Duration, error)) func() (time.Duration, error) {
		return func() (time.Duration, error) {
			url, err := pg.create(ctx, filled)
			if err != nil {
				return 0, err
			}
			took, err := run(url)
			return took, errors.Join(err, pg.drop(ctx, url))
		}
	}
	onFile := func(run func(path string) (time.Duration, error)) func() (time.Duration, error) {
		return func() (time.Duration, error) {
			path := filepath.Join(b.dir, s.name("catchup")+".db")
			defer removeDB(path)
			return run(path)
		}
	}
	engineOn := func(db database) (took time.Duration, err error) {
		defer func() { err = errors.Join(err, db.Close()) }()
		if took, err = catchUpTopic(ctx, s, topic, ends, db, fairlead.Project(carts)); err != nil {
			return 0, err
		}
		return took, compareUnversioned(ctx, db, want)
	}
	loopPG := func(overlap bool) func() (time.Duration, error) {
		return onPG(func(url string) (time.Duration, error) {
			took, err := kafkaToPostgres(ctx, s, topic, ends, url, overlap)
			if err != nil {
				return 0, err
			}
			return took, comparePGCarts(ctx, url, want)
		})
	}
	loopFile := func(overlap bool) func() (time.Duration, error) {
		return onFile(func(path string) (time.Duration, error) {
			db, err := sqlite.Open(path)
			if err == nil {
				err = db.Close()
			}
			if err != nil {
				return 0, err
			}
			return kafkaToSQLite(ctx, s, topic, ends, path, overlap, want)
		})
	}
	stores := []struct {
		name                  string
		ours, theirs, waiting *arm
	}{
		{"PostgreSQL", &arm{run: onPG(func(url string) (time.Duration, error) {
			db, err := postgres.Open(ctx, url)
			if err != nil {
				return 0, err
			}
			return engineOn(db)
		})}, &arm{run: loopPG(true)}, &arm{run: loopPG(false)}},
		{"SQLite", &arm{run: onFile(func(path string) (time.Duration, error) {
			db, err := sqlite.Open(path)
			if err != nil {
				return 0, err
			}
			return engineOn(db)
		})}, &arm{run: loopFile(true)}, &arm{run: loopFile(false)}},
	}
	for range runs {
		for _, st := range stores {
			for _, a := range []*arm{st.ours, st.theirs, st.waiting} {
				before := processorTime()
				took, err := a.run()
				if err != nil {
					return fmt.Errorf("%s: %w", st.name, err)
				}
				a.cpu = append(a.cpu, (processorTime() - before).Seconds())
				a.rates = append(a.rates, float64(n)/took.Seconds())
			}
		}
	}
	for _, st := range stores {
		cond := fmt.Sprintf("%s, %d records of %d carts, %d partitions, a document for each, no header becomes metadata; %s", st.name, n, count, partitions, s.settings)
		if st.name == "PostgreSQL" {
			cond += "; " + pg.settings
		}
		r := ratios(st.ours.rates, st.theirs.rates)
		b.add("ratio", median(r), "x", atLeast(0.8), "engine to hand-written loop (polls of %d records, each committed with its offsets while the next is folded, all documents in a map); %s; median of %d interleaved runs, every document compared; %s", catchupBatch, spread(r), runs, cond)
		r = ratios(st.ours.rates, st.waiting.rates)
		b.add("ratio_waiting", median(r), "x", line{}, "engine to the same loop that waits for each commit before it folds on; %s; %s", spread(r), cond)
		b.add("events_per_second", median(st.ours.rates), "events/s", line{}, "engine; %s; %s", spread(st.ours.rates), cond)
		b.add("events_per_second_loop", median(st.theirs.rates), "events/s", line{}, "hand-written loop; %s; %s", spread(st.theirs.rates), cond)
		b.add("processor_time_ratio", median(ratios(st.theirs.cpu, st.ours.cpu)), "x", line{}, "processor time of the hand-written loop to that of the engine, without the servers', with the comparison of the documents; %s", cond)
	}
	return nil
}

// compareUnversioned is compareCarts for a log that has no versions.
func compareUnversioned(ctx context.Context, r store.Reader, want map[store.Key]cart) error {
	left := len(want)
	for _, tenant := range cartTenantNames() {
		for after := ""; ; {
			docs, err := fairlead.List(ctx, r, carts, tenant, after, 1000)
			if err != nil {
				return err
			}
			for _, d := range docs {
				if err := compareCart(want, store.Key{Tenant: d.Tenant, ID: d.ID}, d.State); err != nil {
					return err
				}
				left--
				after = d.ID
			}
			if len(docs) < 1000 {
				break
			}
		}
	}
	if left != 0 {
		return fmt.Errorf("wrong result: %d of %d carts are missing", left, len(want))
	}
	return nil
}
