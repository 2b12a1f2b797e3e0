package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/internal/kafkatest"
	"github.com/fairlead-dev/fairlead/internal/pgtest"
	"github.com/fairlead-dev/fairlead/kafka"
	"github.com/fairlead-dev/fairlead/partition"
	"github.com/fairlead-dev/fairlead/postgres"
	"github.com/fairlead-dev/fairlead/sqlite"
	"github.com/fairlead-dev/fairlead/store"
)

const (
	brokers    = 3
	partitions = 6

	session = 3 * time.Second // of a group's member; the brokers of tests have the same for KIP-848
)

// What is done to fleets on a topic. Rebalances come with each process that comes or
// goes: every second or two.
var (
	onTopic = plan{
		kinds: []weight{
			{killed, 16}, {stopped, 13}, {left, 14}, {cut, 9}, {slowed, 8}, {swallowed, 9}, {halved, 6}, {serverFast, 1}, {serverCrashed, 1},
			{serverKilled, 1}, {appenderKilled, 5}, {brokerKilled, 5}, {brokerRestarted, 2}, {poisoned, 10},
		},
		operate: []string{detached, merged, paused, resumed, allPaused, tenantRebuilt, allRebuilt},
		outlast: session, nets: 1 + brokers,
	}
	onTopicLite = plan{
		kinds:   []weight{{killed, 22}, {stopped, 18}, {left, 20}, {cut, 10}, {slowed, 10}, {swallowed, 12}, {halved, 8}},
		operate: []string{detached, merged, tenantRebuilt},
		outlast: session, nets: brokers,
	}
)

// A topic is the log of fleets.
type topic struct {
	name    string
	brokers []string
	server  *kafkatest.Server // nil: a broker that is left alone
	client  *kgo.Client       // which knows nothing of Fairlead
	admin   *kadm.Client
	busy    sync.Mutex // held while something is done to a broker
}

// newTopic makes a topic on brokers of the run's own, or on the tests' broker.
func newTopic(t *testing.T, server *kafkatest.Server) *topic {
	t.Helper()
	x := &topic{name: kafkatest.Name(t), server: server}
	if x.brokers = kafkatest.Brokers(t); server != nil {
		x.brokers = server.Brokers
	}
	x.client = kafkatest.ClientOf(t, x.brokers)
	x.admin = kadm.NewClient(x.client)
	kafkatest.Create(t, x.client, x.name, partitions)
	return x
}

// partitionOf is where all records of a tenant go, so that a document may be of
// several streams.
func partitionOf(tenant string) int { return partition.Bucket(tenant, partitions) }

// record makes the record of an event, as any producer would.
func record(topic, tenant, stream string, n uint64, data []byte) *kgo.Record {
	header := func(k, v string) kgo.RecordHeader { return kgo.RecordHeader{Key: k, Value: []byte(v)} }
	return &kgo.Record{
		Topic: topic, Partition: int32(partitionOf(tenant)), Key: []byte(stream), Value: data,
		Headers: []kgo.RecordHeader{header("tenant", tenant), header("type", "added"), header("id", fmt.Sprintf("e%d", n))},
	}
}

func (x *topic) plant(ctx context.Context, tenant, stream string, e eventlog.NewEvent) bool {
	var n uint64
	if _, err := fmt.Sscanf(e.ID, "e%d", &n); err != nil {
		return false
	}
	return x.client.ProduceSync(ctx, record(x.name, tenant, stream, n, e.Data)).FirstErr() == nil
}

// newTopicFleet makes a fleet whose read models are on a PostgreSQL server of its own,
// or, lite, in an SQLite file that its processes share.
func newTopicFleet(t *testing.T, seed uint64, workers int, x *topic, lite, serverProtocol bool) *fleet {
	t.Helper()
	f := &fleet{t: t, seed: seed, dir: t.TempDir(), topic: x, plan: onTopic, begun: time.Now(), tally: map[string]int{}, group: kafkatest.Name(t)}
	f.outside = pgtest.Database(t)
	log, err := kafka.Open(t.Context(), kafka.Config{Brokers: x.brokers, Topic: x.name})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = log.Close() })
	var s store.Store
	var env []string
	if lite {
		f.plan = onTopicLite
		name := filepath.Join(f.dir, "read.db")
		db, err := sqlite.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = db.Close() })
		s, env = db, []string{fileVar + "=" + name}
		f.lite = openLite(t, name)
		for _, sql := range insideLite {
			f.lite.exec(t, sql)
		}
	} else {
		f.server = pgtest.NewServer(t)
		db, err := postgres.Open(t.Context(), f.server.URL+"&application_name=operators")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = db.Close() })
		f.db, s = db, db
		statements(t, f.server.URL, append(inside, alsoDone...))
	}
	f.admin = fairlead.Admin{Log: log, Store: s}
	statements(t, f.outside, outside)
	env = append(env, topicVar+"="+x.name, groupVar+"="+f.group)
	if serverProtocol {
		env = append(env, protocolVar+"=1")
	}
	for i := range workers {
		w := &process{f: f, name: fmt.Sprintf("w%d", i)}
		w.env = append(append(w.env, env...), roleVar+"=work", nameVar+"="+w.name, outsideVar+"="+f.outside+"&application_name="+w.name)
		if !lite {
			p, url := newProxyOf(t, f.server.URL)
			w.nets, w.env = append(w.nets, p), append(w.env, urlVar+"="+url)
		}
		var vias []string
		for _, b := range x.brokers {
			p := newProxy(t, b)
			w.nets = append(w.nets, p)
			vias = append(vias, b+"="+p.l.Addr().String())
		}
		w.env = append(w.env, brokersVar+"="+strings.Join(vias, ","))
		if i == 1 && !serverProtocol && seed%2 == 1 {
			w.env = append(w.env, instanceVar+"="+w.name) // a static member
		}
		f.workers = append(f.workers, w)
	}
	t.Cleanup(f.end)
	return f
}

// produces adds the processes that write to the topic.
func (f *fleet) produces() {
	for i := range 2 {
		l := &process{f: f, name: fmt.Sprintf("a%d", i)}
		l.env = []string{
			roleVar + "=produce", nameVar + "=" + l.name, outsideVar + "=" + f.outside + "&application_name=" + l.name, topicVar + "=" + f.topic.name,
			brokersVar + "=" + strings.Join(f.topic.brokers, ","), acksVar + "=" + filepath.Join(f.dir, "acks-"+l.name),
		}
		f.loaders = append(f.loaders, l)
	}
}

// TestChaosKafka is [TestChaos] on a topic of three brokers, with two consumer groups
// beside each other: one has its read models in PostgreSQL, the other in SQLite. One
// is cooperative-sticky, the other of KIP-848: which, is the seed's.
func TestChaosKafka(t *testing.T) {
	length, seed := asked(t, 45*time.Second)
	if os.Getenv("CI") != "" && os.Getenv("FAIRLEAD_CHAOS_TIME") == "" {
		length = 2 * time.Minute
	}
	rng := rand.New(rand.NewPCG(seed, 3))
	n, lites, server := 3+rng.IntN(2), 2+rng.IntN(2), rng.IntN(2) == 0
	t.Logf("seed %d, %v, %d workers on PostgreSQL (KIP-848: %t), %d on SQLite", seed, length, n, server, lites)
	x := newTopic(t, kafkatest.NewServer(t, brokers))
	f, g := newTopicFleet(t, seed, n, x, false, server), newTopicFleet(t, seed+1, lites, x, true, !server)
	f.produces()
	mirrors := []*mirror{{fleet: f}, {fleet: g}}
	for _, m := range mirrors {
		m.watch()
		defer m.stop()
	}
	var both sync.WaitGroup
	for i, f := range []*fleet{f, g} {
		both.Go(func() { f.chaos(t, length, schedule(seed+uint64(i), length, len(f.workers), &f.plan)) })
	}
	both.Wait()
	f.endLoad()
	for i, fl := range []*fleet{f, g} {
		both.Go(func() {
			if err := fl.settleTopic(t, length, mirrors[i], f.dir); err != nil {
				t.Errorf("seed %d, %s: %v", seed, fl.kind(), err)
			}
		})
	}
	both.Wait()
}

// kind says which of the fleets on a topic it is.
func (f *fleet) kind() string {
	if f.lite != nil {
		return "SQLite"
	}
	return "PostgreSQL"
}

// endLoad ends the processes that write.
func (f *fleet) endLoad() {
	f.note("the load ends")
	for _, p := range f.loaders {
		p.busy.Lock()
		p.leave()
		p.busy.Unlock()
	}
}

// brokerDown kills a broker, and starts it again after a while, or restarts it as an
// operator does. The next one waits until all replicas are in sync again.
func (f *fleet) brokerDown(ctx context.Context, kind string, broker int, away time.Duration) {
	x := f.topic
	if x.server == nil {
		return
	}
	if !x.busy.TryLock() {
		if !f.never(kind) {
			return
		}
		x.busy.Lock()
	}
	defer x.busy.Unlock()
	if !x.insync(ctx, 40*time.Second) {
		return // the run has ended, or it is too slow for more
	}
	began := time.Now()
	var err error
	if kind == brokerRestarted {
		err = x.server.Restart(broker)
	} else if err = x.server.Kill(broker); err == nil {
		rest(ctx, away)
		err = x.server.Up()
	}
	if err != nil {
		f.t.Error(err)
		return
	}
	f.note("broker %d: back after %v", broker, time.Since(began).Round(time.Millisecond))
	f.done(kind)
}

// insync waits until every replica of the topic has everything.
func (x *topic) insync(ctx context.Context, within time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	for {
		all, err := x.admin.ListTopics(ctx, x.name)
		ok := err == nil && all[x.name].Err == nil
		for _, p := range all[x.name].Partitions {
			ok = ok && p.Err == nil && len(p.ISR) == len(p.Replicas)
		}
		if ok {
			return true
		}
		if rest(ctx, 200*time.Millisecond); ctx.Err() != nil {
			return false
		}
	}
}
