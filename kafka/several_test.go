package kafka_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/eventlog/eventlogtest"
	"github.com/fairlead-dev/fairlead/internal/kafkatest"
	"github.com/fairlead-dev/fairlead/internal/pgtest"
	"github.com/fairlead-dev/fairlead/kafka"
	"github.com/fairlead-dev/fairlead/kafka/layout"
	"github.com/fairlead-dev/fairlead/store"
)

// directory is the name of a directory, which is deleted when the test ends.
func directory(t testing.TB) string {
	t.Helper()
	name := kafkatest.Name(t) + "-directory"
	admin := kadm.NewClient(kafkatest.Client(t))
	t.Cleanup(func() { _, _ = admin.DeleteTopic(context.WithoutCancel(t.Context()), name) })
	return name
}

// Several topics are a log as one is.
func TestLogOfSeveral(t *testing.T) {
	t.Parallel()
	client := kafkatest.Client(t)
	admin := kadm.NewClient(client)
	type place struct {
		topic     string
		partition int
	}
	configs, places := map[eventlog.Log]kafka.Config{}, map[eventlog.Log][]place{}
	eventlogtest.Run(t, func(t *testing.T) eventlog.Log {
		name := kafkatest.Name(t)
		cfg := kafka.Config{Topics: []string{name + "-a", name + "-b"}, Directory: directory(t)}
		kafkatest.Create(t, client, cfg.Topics[0], 2)
		kafkatest.Create(t, client, cfg.Topics[1], 1)
		l := open(t, cfg)
		configs[l] = cfg
		places[l] = []place{{cfg.Topics[0], 0}, {cfg.Topics[0], 1}, {cfg.Topics[1], 0}}
		return l
	}, eventlogtest.Features{
		Partitions: 3, SparseVersions: true,
		Fill: func(t *testing.T, log eventlog.Log, appends ...eventlog.StreamAppend) {
			t.Helper()
			var records []*kgo.Record
			for _, a := range appends {
				at := places[log][sumOf(a.Tenant, a.Stream)%3]
				for _, e := range a.Events {
					records = append(records, recordOf(at.topic, at.partition, a.Tenant, a.Stream, &e))
				}
			}
			kafkatest.Produce(t, client, records...)
		},
		Truncate: func(t *testing.T, log eventlog.Log, partition int, before event.Position) {
			t.Helper()
			at := places[log][partition]
			deleteBefore(t, admin, at.topic, at.partition, before)
		},
		Reopen: func(t *testing.T, log eventlog.Log) eventlog.Log {
			t.Helper()
			_ = log.(*kafka.Log).Close()
			l := open(t, configs[log])
			configs[l], places[l] = configs[log], places[log]
			return l
		},
	})
}

// tenantRecord is an event in the topic of its tenant, which no header names.
func tenantRecord(topic, stream string, n int) *kgo.Record {
	return &kgo.Record{
		Topic: topic, Key: []byte(stream), Value: fmt.Appendf(nil, `{"N":%d}`, n),
		Headers: []kgo.RecordHeader{{Key: "type", Value: []byte("Added")}},
	}
}

// lanesOf are the lanes of a processor by partition.
func lanesOf(t testing.TB, m *member, processor string) map[int]fairlead.Lane {
	t.Helper()
	lanes, err := fairlead.Admin{Store: m.db, Log: m.log}.Lanes(t.Context(), processor)
	if err != nil {
		t.Fatal(err)
	}
	all := map[int]fairlead.Lane{}
	for _, l := range lanes {
		all[l.Partition] = l
	}
	return all
}

// Tenants sign up while two processes share the topics out: their topics are found and
// worked by one of them. A topic that is deleted ends its lane with the reason, one
// that is made again is refused, and nothing of the others is held up.
func TestTopicsOfTenants(t *testing.T) {
	t.Parallel()
	for _, server := range []bool{false, true} {
		t.Run(map[bool]string{false: "cooperative-sticky", true: "KIP-848"}[server], func(t *testing.T) {
			t.Parallel()
			prefix, client := kafkatest.Name(t), kafkatest.Client(t)
			admin := kadm.NewClient(client)
			ly, err := layout.New(layout.Config{Own: prefix + ".{tenant}"})
			if err != nil {
				t.Fatal(err)
			}
			cfg := kafka.Config{
				Brokers: kafkatest.Brokers(t), Layout: ly, Directory: directory(t), Group: kafkatest.Name(t), ServerProtocol: server,
			}
			url, p := pgtest.Database(t), tallies()
			a := start(t, url, cfg, fairlead.Project(p)) // nobody has signed up yet
			b := start(t, url, cfg, fairlead.Project(p))
			want := map[string]int{}
			put := func(tenant string) {
				t.Helper()
				want[tenant]++
				kafkatest.Produce(t, client, tenantRecord(prefix+"."+tenant, "s", want[tenant]))
			}
			has := func(tenant string) func() bool {
				return func() bool {
					d, err := fairlead.Get(t.Context(), a.db, p, tenant, "s")
					return err == nil && d.State.Count == want[tenant]
				}
			}
			for _, tenant := range []string{"red", "green", "blue"} {
				kafkatest.Create(t, client, prefix+"."+tenant, 1)
				put(tenant)
			}
			for _, tenant := range []string{"red", "green", "blue"} {
				eventually(t, 90*time.Second, tenant+" is there", has(tenant))
			}
			eventually(t, 60*time.Second, "both have topics, and no topic is both's", func() bool {
				mine, its := a.log.Assigned(), b.log.Assigned()
				return len(mine) > 0 && len(its) > 0 && len(mine)+len(its) == 3 && !slices.ContainsFunc(mine, func(p int) bool { return slices.Contains(its, p) })
			})
			red := -1
			for n, l := range lanesOf(t, a, "tallies") {
				page, err := a.log.Read(t.Context(), eventlog.ReadRequest{Partition: n})
				if err != nil {
					t.Fatal(err)
				}
				if len(page.Events) > 0 && page.Events[0].Tenant == "red" {
					red = n
					if l.Position != 1 {
						t.Errorf("red's lane is at %v, want 1", l.Position)
					}
				}
			}
			if _, err := admin.DeleteTopic(context.WithoutCancel(t.Context()), prefix+".red"); err != nil {
				t.Fatal(err)
			}
			ends := func(reason string) func() bool {
				return func() bool {
					l := lanesOf(t, a, "tallies")[red]
					return l.State == store.Paused && strings.Contains(l.Reason, reason)
				}
			}
			eventually(t, 60*time.Second, "red's lane has ended", ends("was deleted"))
			for _, tenant := range []string{"green", "blue"} {
				put(tenant)
				eventually(t, 30*time.Second, tenant+" goes on", has(tenant))
			}
			if !has("red")() {
				t.Error("what was made of red's events is gone")
			}
			// Made again it is another one: nothing of it is folded onto what the old one left.
			eventually(t, 20*time.Second, "the topic can be made again", func() bool {
				_, err := admin.CreateTopic(t.Context(), 1, 1, nil, prefix+".red")
				return err == nil
			})
			again := kafkatest.Client(t)
			kafkatest.Produce(t, again, tenantRecord(prefix+".red", "s", 77))
			eventually(t, 60*time.Second, "red's lane has ended anew", func() bool {
				if ends(kafka.ErrRecreated.Error())() {
					return true
				}
				if err := (fairlead.Admin{Store: a.db}).Resume(t.Context(), "tallies", ""); err != nil { // until it is seen that there is another one
					t.Error(err)
				}
				return false
			})
			put("green")
			eventually(t, 30*time.Second, "green goes on", has("green"))
			if !has("red")() {
				t.Error("red has another document than before")
			}
			_, err = a.log.Read(t.Context(), eventlog.ReadRequest{Partition: red})
			if !errors.Is(err, kafka.ErrRecreated) || !errors.Is(err, eventlog.ErrGone) {
				t.Errorf("Read of red's = %v, want %v", err, kafka.ErrRecreated)
			}
		})
	}
}
