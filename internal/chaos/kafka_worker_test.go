package chaos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/kafka"
	"github.com/fairlead-dev/fairlead/postgres"
	"github.com/fairlead-dev/fairlead/sqlite"
	"github.com/fairlead-dev/fairlead/store"
)

// Of processes on a topic.
const (
	topicVar    = "FAIRLEAD_CHAOS_TOPIC"
	brokersVar  = "FAIRLEAD_CHAOS_BROKERS" // of workers broker=proxy, and so on
	groupVar    = "FAIRLEAD_CHAOS_GROUP"
	protocolVar = "FAIRLEAD_CHAOS_KIP848"
	instanceVar = "FAIRLEAD_CHAOS_INSTANCE"
	fileVar     = "FAIRLEAD_CHAOS_FILE" // of SQLite, instead of a server
)

// connectTopic opens a topic, by way of the proxies to its brokers, and the store.
func connectTopic(ctx context.Context, name string, logger *slog.Logger) (eventlog.Log, store.Store, func() error, error) {
	vias, seeds := map[string]string{}, []string{}
	for pair := range strings.SplitSeq(os.Getenv(brokersVar), ",") {
		broker, via, _ := strings.Cut(pair, "=")
		vias[broker], seeds = via, append(seeds, broker)
	}
	cfg := kafka.Config{
		Brokers: seeds, Topic: os.Getenv(topicVar), Group: os.Getenv(groupVar), InstanceID: os.Getenv(instanceVar),
		ServerProtocol: os.Getenv(protocolVar) != "", DrainTimeout: 3 * time.Second, MirrorEvery: 300 * time.Millisecond, Logger: logger,
		Options: []kgo.Opt{kgo.Dialer(func(ctx context.Context, network, host string) (net.Conn, error) {
			via, ok := vias[host]
			if !ok {
				return nil, fmt.Errorf("no way to %s", host)
			}
			return new(net.Dialer).DialContext(ctx, network, via)
		})},
	}
	if !cfg.ServerProtocol {
		cfg.SessionTimeout = session
	}
	var s store.Store
	var closeStore func() error
	if file := os.Getenv(fileVar); file != "" {
		db, err := sqlite.Open(file)
		if err != nil {
			return nil, nil, nil, err
		}
		s, closeStore = db, db.Close
	} else {
		db, err := postgres.Open(ctx, os.Getenv(urlVar)+"&application_name="+name, postgres.Options{MaxConns: maxConns, Timeout: 4 * time.Second, NoMigrate: true})
		if err != nil {
			return nil, nil, nil, err
		}
		s, closeStore = db, db.Close
	}
	log, err := kafka.Open(ctx, cfg)
	if err != nil {
		return nil, nil, nil, errors.Join(err, closeStore())
	}
	return log, s, func() error { return errors.Join(log.Close(), closeStore()) }, nil
}

// passingOnTopic reports whether an error is the brokers', the network's to them, or
// of a file whose lock somebody has, for now.
func passingOnTopic(err error) bool {
	_, network := errors.AsType[net.Error](err)
	_, eof := errors.AsType[*kgo.ErrFirstReadEOF](err)
	return network || eof || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, context.DeadlineExceeded) ||
		kerr.IsRetriable(err) || kgo.IsRetryableBrokerErr(err) || errors.Is(err, sqlite.ErrLocked)
}

// passing is [passing] for what a fleet works on.
func (f *fleet) passing(err error) bool { return passing(err) || f.topic != nil && passingOnTopic(err) }

// produce writes to the topic from several clients until SIGTERM. The producer is
// idempotent, and a record is written when two brokers have it.
func produce() error {
	ctx, stop := untilTold()
	defer stop()
	seed, err := strconv.ParseUint(os.Getenv(seedVar), 10, 64)
	if err != nil {
		return err
	}
	acks, err := os.OpenFile(os.Getenv(acksVar), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer acks.Close()
	c, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(os.Getenv(brokersVar), ",")...), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(0))
	if err != nil {
		return err
	}
	defer c.Close()
	topic := os.Getenv(topicVar)
	var mu sync.Mutex
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(seed, uint64(i)))
			whose := zipf(rng)
			for ctx.Err() == nil {
				var records []*kgo.Record
				var ns []uint64
				tenant, stream := tenantName(whose.Uint64()), fmt.Sprintf("stream-%d", rng.IntN(streams))
				for range 1 + rng.IntN(5) {
					n := rng.Uint64() >> 12
					ns = append(ns, n)
					records = append(records, record(topic, tenant, stream, n, fairlead.MustEvent("added", added{N: n}).Data))
				}
				// What is under way ends: whether it was written is to be known.
				pctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Minute)
				err := c.ProduceSync(pctx, records...).FirstErr()
				cancel()
				if err != nil {
					fmt.Fprintln(os.Stderr, "produce:", err)
				} else {
					mu.Lock()
					for _, n := range ns {
						fmt.Fprintln(acks, n)
					}
					mu.Unlock()
				}
				rest(ctx, time.Duration(rng.IntN(2*pauseMs))*time.Millisecond)
			}
		})
	}
	wg.Wait()
	return nil
}
