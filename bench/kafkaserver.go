package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// A kafkaServer is the broker of a benchmark: one of its own, in the scratch
// folder, or those of -kafka.
type kafkaServer struct {
	brokers  []string
	settings string // for the conditions
	jars     string // where Kafka's own are
	dir      string // the broker's folder; "": it is not this benchmark's
	client   *kgo.Client
	admin    *kadm.Client
	remove   func() error
	n        int
}

// kafkaServer starts the broker. The caller closes it.
func (b *bench) kafkaServer(ctx context.Context) (_ *kafkaServer, err error) {
	root, err := moduleRoot()
	if err != nil {
		return nil, err
	}
	s := &kafkaServer{remove: func() error { return nil }}
	sh := filepath.Join(root, "scripts", "kafka.sh")
	if s.jars = os.Getenv("FAIRLEAD_KAFKA_JARS"); s.jars == "" {
		out, err := exec.CommandContext(ctx, sh, "jars").Output()
		if err != nil {
			return nil, fmt.Errorf("scripts/kafka.sh jars: %w", err)
		}
		s.jars = strings.TrimSpace(string(out))
	}
	where := "brokers that others may use"
	if s.brokers = b.kafka; s.brokers == nil {
		if err := s.start(sh, b.scratch); err != nil {
			return nil, err
		}
		where = "one broker of its own, 512 MB of heap"
	}
	if s.client, err = kgo.NewClient(kgo.SeedBrokers(s.brokers...), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchMaxBytes(kafkaBatch)); err != nil {
		return nil, errors.Join(err, s.remove())
	}
	s.admin = kadm.NewClient(s.client)
	if err := s.client.Ping(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("no broker at %v: %w", s.brokers, err), s.close())
	}
	s.settings = fmt.Sprintf("Kafka on the same machine, %s, batches of at most %d KiB, snappy", where, kafkaBatch>>10)
	return s, nil
}

// kafkaBatch is what a producer puts into one batch at most, before it is compressed.
const kafkaBatch = 64 << 10

// start starts a broker with its files below scratch ("" is the system's folder for
// such), on ports that nobody has now and that the system gives to no connection.
func (s *kafkaServer) start(sh, scratch string) error {
	dir, err := os.MkdirTemp(scratch, "fairlead-bench-kafka-")
	if err != nil {
		return err
	}
	port := 0
	for range 100 {
		try := 26_000 + rand.IntN(4000)
		if freePort(try) && freePort(try+100) {
			port = try
			break
		}
	}
	if port == 0 {
		return errors.New("no free ports from 26000 to 30100")
	}
	run := func(command string) error {
		return service(sh, dir, command, "FAIRLEAD_KAFKA_JARS="+s.jars, "FAIRLEAD_KAFKA_PORT="+strconv.Itoa(port), "FAIRLEAD_KAFKA_BROKERS=1")
	}
	s.dir, s.remove = dir, func() error { return errors.Join(run("remove"), os.RemoveAll(dir)) }
	if err := run("up"); err != nil {
		return errors.Join(err, s.remove())
	}
	s.brokers = []string{net.JoinHostPort("127.0.0.1", strconv.Itoa(port))}
	return nil
}

func freePort(port int) bool {
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	return err == nil && l.Close() == nil
}

func (s *kafkaServer) close() error {
	s.client.Close()
	return s.remove()
}

// name returns a name, of a topic or a group, that nothing else has.
func (s *kafkaServer) name(of string) string {
	s.n++
	return fmt.Sprintf("bench-%s-%d-%d", of, os.Getpid(), s.n)
}

// topic makes a topic, and waits until its partitions have leaders.
func (s *kafkaServer) topic(ctx context.Context, of string, partitions int) (string, error) {
	name := s.name(of)
	if _, err := s.admin.CreateTopic(ctx, int32(partitions), -1, nil, name); err != nil {
		return "", fmt.Errorf("create topic %s: %w", name, err)
	}
	for range 500 {
		topics, err := s.admin.ListTopics(ctx, name)
		led := 0
		if err == nil {
			for _, p := range topics[name].Partitions {
				if p.Err == nil && p.Leader >= 0 {
					led++
				}
			}
		}
		if led == partitions {
			return name, nil
		}
		if err := rest(ctx, 20*time.Millisecond); err != nil {
			return "", err
		}
	}
	return "", fmt.Errorf("topic %s has no leaders", name)
}

// ends returns the positions behind the last records of a topic.
func (s *kafkaServer) ends(ctx context.Context, topic string) (map[int]event.Position, error) {
	offsets, err := s.admin.ListEndOffsets(ctx, topic)
	if err == nil {
		err = offsets.Error()
	}
	ends := map[int]event.Position{}
	offsets.Each(func(o kadm.ListedOffset) {
		if o.Offset > 0 {
			ends[int(o.Partition)] = event.Position(o.Offset)
		}
	})
	return ends, err
}

// drop deletes a topic.
func (s *kafkaServer) drop(ctx context.Context, topic string) error {
	_, err := s.admin.DeleteTopic(context.WithoutCancel(ctx), topic)
	return err
}

// produce writes n records that make returns, each to its partition.
func (s *kafkaServer) produce(ctx context.Context, n int, record func(i int) *kgo.Record) error {
	failed := make(chan error, 1)
	for i := range n {
		s.client.Produce(ctx, record(i), func(_ *kgo.Record, err error) {
			if err != nil {
				select {
				case failed <- err:
				default:
				}
			}
		})
	}
	if err := s.client.Flush(ctx); err != nil {
		return err
	}
	select {
	case err := <-failed:
		return err
	default:
		return nil
	}
}

// A partsStore tells when the base lanes of all partitions are committed to these
// positions, so that to wait for it costs a run nothing.
type partsStore struct {
	store.Store

	mu   sync.Mutex
	ends map[int]event.Position // of partitions that are not there yet
	all  chan struct{}          // closed when none is left
}

func newPartsStore(st store.Store, ends map[int]event.Position) *partsStore {
	return &partsStore{Store: st, ends: maps.Clone(ends), all: make(chan struct{})}
}

func (s *partsStore) Commit(ctx context.Context, c *store.Commit) error {
	err := s.Store.Commit(ctx, c)
	if err != nil || c.Lane.Tenant != "" {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if end, ok := s.ends[c.Lane.Partition]; ok && c.Position >= end {
		if delete(s.ends, c.Lane.Partition); len(s.ends) == 0 {
			close(s.all)
		}
	}
	return nil
}

// zipfKeys returns n numbers below keys, by the Zipf-Mandelbrot law of the reactor's
// benchmark: the most frequent has under one percent.
func zipfKeys(n, keys int) []int {
	zipf := rand.NewZipf(rand.New(rand.NewPCG(5, 5)), 1.1, 30, uint64(keys-1))
	out := make([]int, n)
	for i := range out {
		out[i] = int(zipf.Uint64())
	}
	return out
}

// onServers runs a benchmark with a broker and a PostgreSQL server.
func (b *bench) onServers(ctx context.Context, run func(context.Context, *kafkaServer, *pgServer) error) (err error) {
	k, err := b.kafkaServer(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, k.close()) }()
	pg, err := b.postgresServer(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, pg.close()) }()
	return run(ctx, k, pg)
}
