package kafka_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/internal/kafkatest"
	"github.com/fairlead-dev/fairlead/internal/pgtest"
	"github.com/fairlead-dev/fairlead/kafka"
	"github.com/fairlead-dev/fairlead/postgres"
	"github.com/fairlead-dev/fairlead/store"
)

type added struct{ N int }

// A tally is not idempotent: an event applied twice, left out or out of order shows.
type tally struct {
	Count int
	Fold  uint64
}

func (c *tally) add(n int) {
	c.Count++
	c.Fold = c.Fold*1_000_003 + uint64(n)
}

func tallies() *fairlead.Projection[tally] {
	return fairlead.NewProjection("tallies", fairlead.On("Added", func(c *tally, e fairlead.Event[added]) error {
		c.add(e.Data.N)
		return nil
	}))
}

// A load is records that are written while others read, and what must come of them.
type load struct {
	t      testing.TB
	client *kgo.Client
	topic  string
	parts  int
	rng    *rand.Rand

	onlyNew bool // streams that no other load has, in the upper half of the partitions

	mu   sync.Mutex
	want map[eventlog.StreamRef]*tally
	last map[int]event.Position
}

func newLoad(t testing.TB, client *kgo.Client, topic string, parts int) *load {
	return &load{t: t, client: client, topic: topic, parts: parts, rng: rand.New(rand.NewPCG(1, 2)), want: map[eventlog.StreamRef]*tally{}, last: map[int]event.Position{}}
}

// write produces n records of Zipf-distributed streams.
func (l *load) write(ctx context.Context, n int) error {
	zipf := rand.NewZipf(l.rng, 1.2, 4, 199)
	var records []*kgo.Record
	l.mu.Lock()
	for range n {
		s := int(zipf.Uint64())
		if l.onlyNew {
			s = 1000 + s - s%l.parts + l.parts/2 + s%(l.parts/2)
		}
		ref := eventlog.StreamRef{Tenant: fmt.Sprint("tenant-", s%7), Stream: fmt.Sprint("s", s)}
		w := l.want[ref]
		if w == nil {
			w = &tally{}
			l.want[ref] = w
		}
		w.add(w.Count + 1)
		records = append(records, record(l.topic, s%l.parts, ref.Tenant, ref.Stream, "Added", fmt.Sprintf(`{"N":%d}`, w.Count)))
	}
	l.mu.Unlock()
	rs := l.client.ProduceSync(ctx, records...)
	if err := rs.FirstErr(); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range rs {
		l.last[int(r.Record.Partition)] = max(l.last[int(r.Record.Partition)], event.Position(r.Record.Offset+1))
	}
	return nil
}

// check compares the read model with what was written.
func (l *load) check(s store.Store, p *fairlead.Projection[tally]) {
	l.t.Helper()
	total := 0
	for ref, want := range l.want {
		total += want.Count
		got, err := fairlead.Get(l.t.Context(), s, p, ref.Tenant, ref.Stream)
		if err != nil || got.State != *want {
			l.t.Errorf("%v: document %+v, %v, want %+v", ref, got.State, err, *want)
		}
	}
	if total == 0 {
		l.t.Error("nothing was written")
	}
}

// wait waits until a processor has applied what was written.
func (l *load) wait(c *member, processor string) {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.t.Context(), time.Minute)
	defer cancel()
	for p, at := range l.last {
		if err := c.WaitFor(ctx, processor, eventlog.Token{Partition: p, Position: at, Tenants: l.tenants()}); err != nil {
			stats, _ := c.Stats(processor)
			l.t.Logf("here: %+v", stats)
			lanes, err := fairlead.Admin{Store: c.db, Log: c.log}.Lanes(l.t.Context(), processor)
			for _, x := range lanes {
				l.t.Logf("%v: at %v, %d behind, owner %s (alive %v), epoch %d, state %v %s", x.LaneID, x.Position, x.Behind, x.Owner, x.Alive, x.Epoch, x.State, x.Reason)
			}
			ms, _ := fairlead.Admin{Store: c.db, Log: c.log}.Members(l.t.Context())
			l.t.Logf("%v; assigned here %v; members %+v", err, c.log.Assigned(), ms)
			l.t.Fatalf("partition %d has not come to %v: %v", p, at, err)
		}
	}
}

func (l *load) tenants() (names []string) {
	for i := range 7 {
		names = append(names, fmt.Sprint("tenant-", i))
	}
	return names
}

// A member is a consumer with a log and a store connection of its own, as a process is.
type member struct {
	*fairlead.Consumer
	log  *kafka.Log
	db   *postgres.DB
	stop func()
}

var memberNumber atomic.Int64

func start(t testing.TB, url string, cfg kafka.Config, processors ...fairlead.Processor) *member {
	t.Helper()
	cfg.Logger = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	db, err := postgres.Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	log, err := kafka.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	c, err := fairlead.New(fairlead.Config{Log: log, Store: db, Name: fmt.Sprint("m", memberNumber.Add(1)), Logger: cfg.Logger})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Add(t.Context(), processors...); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	m := &member{Consumer: c, log: log, db: db}
	m.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run = %v", err)
		}
		_ = log.Close()
		_ = db.Close()
	})
	t.Cleanup(m.stop)
	return m
}

// eventually waits for something to become true.
func eventually(t testing.TB, within time.Duration, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	for !ok() {
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			t.Fatalf("not after %v: %s", within, what)
		}
	}
}

// share checks that all partitions are shared out among members.
func share(parts int, members ...*member) func() bool {
	return func() bool {
		seen := map[int]bool{}
		for _, m := range members {
			mine := m.log.Assigned()
			if len(mine) < parts/len(members) {
				return false
			}
			for _, p := range mine {
				if seen[p] {
					return false
				}
				seen[p] = true
			}
		}
		return len(seen) == parts
	}
}

// Members come and go under load, and every event takes effect once, in the order of
// its key.
func TestRebalanceUnderLoad(t *testing.T) {
	t.Parallel()
	for _, server := range []bool{false, true} {
		t.Run(map[bool]string{false: "cooperative-sticky", true: "KIP-848"}[server], func(t *testing.T) {
			t.Parallel()
			const parts = 6
			client := kafkatest.Client(t)
			topic, url := kafkatest.Topic(t, parts), pgtest.Database(t)
			cfg := kafka.Config{Brokers: kafkatest.Brokers(t), Topic: topic, Group: kafkatest.Name(t), ServerProtocol: server, MirrorEvery: 200 * time.Millisecond}
			if !server {
				cfg.SessionTimeout = 3 * time.Second
			}
			p := tallies()
			l := newLoad(t, client, topic, parts)
			if err := l.write(t.Context(), 2000); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			var writer sync.WaitGroup
			writer.Go(func() {
				for ctx.Err() == nil {
					if err := l.write(context.WithoutCancel(ctx), 50); err != nil {
						t.Error(err)
						return
					}
				}
			})
			a := start(t, url, cfg, fairlead.Project(p))
			eventually(t, 30*time.Second, "one member has all partitions", share(parts, a))
			b := start(t, url, cfg, fairlead.Project(p))
			eventually(t, 30*time.Second, "two members share", share(parts, a, b))
			c := start(t, url, cfg, fairlead.Project(p))
			eventually(t, 30*time.Second, "three members share", share(parts, a, b, c))
			a.stop()
			eventually(t, 30*time.Second, "two members share what the one who left had", share(parts, b, c))
			cancel()
			writer.Wait()
			l.wait(b, "tallies")
			db, err := postgres.Open(t.Context(), url)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = db.Close() }()
			l.check(db, p)
			n := 0
			for _, w := range l.want {
				n += w.Count
			}
			t.Logf("%d records", n)
			if letters, err := (fairlead.Admin{Store: db}).DeadLetters(t.Context(), fairlead.LetterFilter{}); err != nil || len(letters) > 0 {
				t.Errorf("dead letters: %v, %v", letters, err)
			}
			// Tools see the checkpoints as the group's offsets.
			admin := kadm.NewClient(client)
			eventually(t, 10*time.Second, "offsets mirror the checkpoints", func() bool {
				got, err := admin.FetchOffsets(t.Context(), cfg.Group)
				if err != nil {
					return false
				}
				for part, at := range l.last {
					if o, ok := got.Lookup(topic, int32(part)); !ok || o.At != int64(at) {
						return false
					}
				}
				return true
			})
		})
	}
}

// tokenAt stands for all that was written to a partition.
func tokenAt(l *load, partition int) eventlog.Token {
	l.mu.Lock()
	defer l.mu.Unlock()
	return eventlog.Token{Partition: partition, Position: l.last[partition], Tenants: l.tenants()}
}
