package kafka_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/internal/kafkatest"
	"github.com/fairlead-dev/fairlead/internal/pgtest"
	"github.com/fairlead-dev/fairlead/kafka"
	"github.com/fairlead-dev/fairlead/kafka/layout"
)

// A mixture is a mixed layout of a test's own, with its tenants.
type mixture struct {
	cfg     kafka.Config
	prefix  string
	tenants *kafka.Tenants
}

func mixtureOf(brokers []string, prefix string) (kafka.Config, error) {
	ly, err := layout.New(layout.Config{Own: prefix + ".{tenant}.own", Shared: prefix + ".all", Dedicated: func(string) bool { return false }})
	return kafka.Config{Brokers: brokers, Layout: ly, Directory: prefix + ".directory"}, err
}

// newMixture has these tenants in a shared topic of two partitions.
func newMixture(t testing.TB, tenants ...string) *mixture {
	t.Helper()
	m := &mixture{prefix: kafkatest.Name(t)}
	var err error
	if m.cfg, err = mixtureOf(kafkatest.Brokers(t), m.prefix); err != nil {
		t.Fatal(err)
	}
	admin := kadm.NewClient(kafkatest.Client(t))
	t.Cleanup(func() {
		all := []string{m.prefix + ".all", m.prefix + ".directory"}
		for _, tenant := range tenants {
			all = append(all, m.own(tenant))
		}
		_, _ = admin.DeleteTopics(context.WithoutCancel(t.Context()), all...)
	})
	m.tenants = m.open(t)
	for _, tenant := range tenants {
		if err := m.tenants.Add(t.Context(), tenant, kafka.AddTenant{Partitions: 2}); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

func (m *mixture) own(tenant string) string { return m.prefix + "." + tenant + ".own" }

// open is what another process has of the tenants.
func (m *mixture) open(t testing.TB) *kafka.Tenants {
	t.Helper()
	tenants, err := kafka.OpenTenants(t.Context(), m.cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tenants.Close() })
	return tenants
}

// A calls is a reactor that writes down with what it was called, per key.
type calls struct {
	mu  sync.Mutex
	all map[tenantStream][]int
}

type tenantStream struct{ tenant, stream string }

func (c *calls) reactor(name string) fairlead.Processor {
	c.all = map[tenantStream][]int{}
	return fairlead.React(name, func(_ context.Context, d fairlead.Delivery) error {
		var n added
		if err := json.Unmarshal(d.Data, &n); err != nil {
			return err
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		k := tenantStream{d.Tenant, d.Stream}
		c.all[k] = append(c.all[k], n.N)
		return nil
	})
}

// done reports whether each key has come to its last event.
func (c *calls) done(want map[tenantStream]*tally) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for k, w := range want {
		if !slices.Contains(c.all[k], w.Count) {
			return false
		}
	}
	return true
}

// check fails unless each key's calls are 1, 2, 3, ..., but for those that came again.
func (c *calls) check(t *testing.T, want map[tenantStream]*tally) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	for k, w := range want {
		next := 1
		for _, n := range c.all[k] {
			if n > next {
				t.Errorf("%v: event %d was delivered when %d was due", k, n, next)
				break
			}
			if n == next {
				next++
			}
		}
		if next != w.Count+1 {
			t.Errorf("%v: delivered to %d of %d", k, next-1, w.Count)
		}
	}
}

// wait lets others work.
func wait(t testing.TB, d time.Duration) {
	t.Helper()
	select {
	case <-time.After(d):
	case <-t.Context().Done():
	}
}

// A tenant is moved to its own topic and back, again and again, while producers write
// and two processes read: each event of each stream is applied once and in order, by a
// projection that is not idempotent and by a reactor, and by those that read the log
// from its beginning afterwards. One command is killed in the middle of a move.
func TestMoveUnderLoad(t *testing.T) {
	t.Parallel()
	tenants := []string{"hot", "cold", "mild"}
	m := newMixture(t, tenants...)
	// The topic is there from the beginning, so that nobody waits until it is found.
	kafkatest.Create(t, kafkatest.Client(t), m.own("hot"), 3)
	cfg := m.cfg
	cfg.Group = kafkatest.Name(t)
	p, reacted := tallies(), &calls{}
	react := reacted.reactor("calls")
	url := pgtest.Database(t)
	a := start(t, url, cfg, fairlead.Project(p), react)
	b := start(t, url, cfg, fairlead.Project(p), react)

	began := time.Now()
	const writers, streams = 3, 5 // of each writer, in each tenant
	want := map[tenantStream]*tally{}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg, promised sync.WaitGroup
	var producers []*kafka.Producer
	for w := range writers {
		// Each is a process of its own: it asks the directory by itself. What the last one
		// writes is on its way for longer than a move waits for.
		linger := 2 * time.Millisecond
		if w == writers-1 {
			linger = 700 * time.Millisecond
		}
		producer, err := m.open(t).NewProducer(kgo.ProducerLinger(linger))
		if err != nil {
			t.Fatal(err)
		}
		producers = append(producers, producer)
		for _, tenant := range tenants {
			counts := make([]*tally, streams)
			for s := range counts {
				counts[s] = &tally{}
				want[tenantStream{tenant, fmt.Sprintf("w%d-s%d", w, s)}] = counts[s]
			}
			wg.Go(func() {
				for i := 0; ctx.Err() == nil; i++ {
					s := i % streams
					counts[s].add(counts[s].Count + 1)
					r := &kgo.Record{Value: fmt.Appendf(nil, `{"N":%d}`, counts[s].Count), Headers: []kgo.RecordHeader{{Key: "type", Value: []byte("Added")}}}
					promised.Add(1)
					err := producer.Produce(t.Context(), tenant, fmt.Sprintf("w%d-s%d", w, s), r, func(_ *kgo.Record, err error) {
						defer promised.Done()
						if err != nil {
							t.Error(err)
						}
					})
					if err != nil {
						t.Error(err)
						return
					}
					if i%10 == 0 {
						wait(t, 10*time.Millisecond)
					}
				}
			})
		}
	}
	wait(t, 200*time.Millisecond)
	for i, own := range []bool{true, false, true, false} {
		if i == 1 {
			m.killed(t, "hot", own)
		}
		if err := m.open(t).Move(t.Context(), "hot", kafka.MoveTenant{Own: own, Partitions: 3}); err != nil {
			t.Fatal(err)
		}
		t.Logf("moved %d times after %v", i+1, time.Since(began).Round(time.Millisecond))
		wait(t, 200*time.Millisecond)
	}
	cancel()
	wg.Wait()
	promised.Wait()
	again, total := int64(0), 0
	for _, x := range producers {
		again += x.Again()
		if err := x.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
	for _, w := range want {
		total += w.Count
	}
	t.Logf("%d records, %d were written again, after %v", total, again, time.Since(began).Round(time.Millisecond))
	check := func(m *member, p *fairlead.Projection[tally], r *calls) {
		t.Helper()
		defer func() {
			if m.say(t); !t.Failed() {
				return
			}
			r.mu.Lock()
			defer r.mu.Unlock()
			for k, w := range want {
				d, err := fairlead.Get(context.WithoutCancel(t.Context()), m.db, p, k.tenant, k.stream)
				if d.State == *w {
					continue
				}
				next := 1
				for _, n := range r.all[k] {
					if n > next {
						break
					}
					if n == next {
						next++
					}
				}
				t.Logf("%v: %+v, %v, want %+v; called up to %d of %d", k, d, err, *w, next-1, len(r.all[k]))
			}
		}()
		eventually(t, 30*time.Second, "all is applied", func() bool {
			for k, w := range want {
				if d, err := fairlead.Get(t.Context(), m.db, p, k.tenant, k.stream); err != nil || d.State.Count < w.Count {
					return false
				}
			}
			return r.done(want)
		})
		for k, w := range want {
			if d, err := fairlead.Get(t.Context(), m.db, p, k.tenant, k.stream); err != nil || d.State != *w {
				t.Errorf("%v: %+v, %v, want %+v", k, d.State, err, *w)
			}
		}
		r.check(t, want)
	}
	check(a, p, reacted)
	t.Logf("all is applied after %v", time.Since(began).Round(time.Millisecond))
	a.stop()
	b.stop()

	// From the beginning, when all has been written: another database, and a group of its own.
	cfg.Group = ""
	p, reacted = tallies(), &calls{}
	c := start(t, pgtest.Database(t), cfg, fairlead.Project(p), reacted.reactor("calls"))
	check(c, p, reacted)
	if letters, err := (fairlead.Admin{Store: c.db}).DeadLetters(t.Context(), fairlead.LetterFilter{Limit: 3}); err != nil || len(letters) > 0 {
		t.Errorf("dead letters: %+v, %v", letters, err)
	}
}

// say logs where all lanes are, if the test has failed.
func (m *member) say(t testing.TB) {
	if !t.Failed() {
		return
	}
	ctx := context.WithoutCancel(t.Context())
	lanes, err := fairlead.Admin{Store: m.db, Log: m.log}.Lanes(ctx, "")
	for _, l := range lanes {
		t.Logf("%s: at %v, %d behind, owner %q, %v %s, excludes %v, barrier %+v", l.LaneID, l.Position, l.Behind, l.Owner, l.State, l.Reason, l.Exclusions, m.log.Barrier(l.Partition, l.Position))
	}
	letters, lerr := (fairlead.Admin{Store: m.db}).DeadLetters(ctx, fairlead.LetterFilter{Limit: 2})
	for _, l := range letters {
		t.Logf("letter %s/%d %s at %v: %s %s", l.Processor, l.Partition, l.Key, l.Event.Position, l.Reason, l.Error)
	}
	t.Log(errors.Join(err, lerr))
}

// killed begins a move in a process of its own, and kills that when the move has begun.
func (m *mixture) killed(t *testing.T, tenant string, own bool) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), moveVar+"="+fmt.Sprint(m.prefix, " ", strings.Join(m.cfg.Brokers, ","), " ", tenant, " ", own))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Wait() }()
	defer func() { _ = cmd.Process.Kill() }()
	eventually(t, 30*time.Second, "the command has begun", func() bool {
		is, err := m.tenants.Stay(t.Context(), tenant)
		return err == nil && is.Moving
	})
}

const moveVar = "FAIRLEAD_TEST_MOVE" // prefix, brokers, tenant and place of what the process is to move

// moveCommand is a process that moves a tenant.
func moveCommand(text string) error {
	args := strings.Fields(text)
	cfg, err := mixtureOf(strings.Split(args[1], ","), args[0])
	if err != nil {
		return err
	}
	tenants, err := kafka.OpenTenants(context.Background(), cfg)
	if err != nil {
		return err
	}
	return tenants.Move(context.Background(), args[2], kafka.MoveTenant{Own: args[3] == "true"})
}
