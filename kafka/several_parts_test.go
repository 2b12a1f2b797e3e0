package kafka_test

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/internal/kafkatest"
	"github.com/fairlead-dev/fairlead/internal/pgtest"
	"github.com/fairlead-dev/fairlead/kafka"
	"github.com/fairlead-dev/fairlead/kafka/layout"
	"github.com/fairlead-dev/fairlead/postgres"
	"github.com/fairlead-dev/fairlead/store"
)

// tenantTopics is a layout of topics of tenants' own, and a log of it.
func tenantTopics(t testing.TB, cfg kafka.Config) (prefix string, _ kafka.Config) {
	t.Helper()
	prefix = kafkatest.Name(t)
	var err error
	if cfg.Layout, err = layout.New(layout.Config{Own: prefix + ".{tenant}"}); err != nil {
		t.Fatal(err)
	}
	cfg.Directory = directory(t)
	return prefix, cfg
}

// numberOf returns the log partition in which a tenant's event is, once it is there.
func numberOf(t testing.TB, l *kafka.Log, tenant string) int {
	t.Helper()
	number := -1
	eventually(t, 30*time.Second, tenant+"'s topic is read", func() bool {
		n, err := l.Partitions(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for p := range n {
			page, err := l.Read(t.Context(), eventlog.ReadRequest{Partition: p, Filter: eventlog.Filter{Tenants: []string{tenant}}})
			if err != nil && !errors.Is(err, eventlog.ErrGone) {
				t.Fatal(err)
			}
			if len(page.Events) > 0 {
				number = p
			}
		}
		return number >= 0
	})
	return number
}

// In a ledger several topics go by their directory: two logs of several topics have
// nothing in common. A tenant signs up while a sandbox is registered: of what is routed
// to that, each event is one's.
func TestLedgerOfSeveralTopics(t *testing.T) {
	ctx, client := t.Context(), kafkatest.Client(t)
	url := pgtest.Database(t)
	l, err := postgres.OpenLedger(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	db, err := postgres.Open(ctx, url, postgres.Options{Schema: schemaOf("pr-1")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	prefix, cfg := tenantTopics(t, kafka.Config{Ledger: l, Router: router(t, "")})
	sandboxed := cfg
	sandboxed.Router = router(t, "pr-1")
	baseline, sandbox := open(t, cfg), open(t, sandboxed)
	if a, b := baseline.LedgerLog(), sandbox.LedgerLog(); a != b {
		t.Errorf("the baseline's log is %q and the sandbox's %q", a, b)
	}
	_, others := tenantTopics(t, kafka.Config{})
	if a, b := baseline.LedgerLog(), open(t, others).LedgerLog(); a == b {
		t.Errorf("another log of several topics is %q too: their positions would be taken for each other's", b)
	}
	routed := func(topic, stream string) *kgo.Record {
		r := tenantRecord(topic, stream, 1)
		r.Headers = append(r.Headers, kgo.RecordHeader{Key: "fairlead-class", Value: []byte("test")}, kgo.RecordHeader{Key: "fairlead-route", Value: []byte("notes=pr-1")})
		return r
	}
	put := func(tenant, stream string) { kafkatest.Produce(t, client, routed(prefix+"."+tenant, stream)) }
	kafkatest.Create(t, client, prefix+".old", 1)
	put("old", "before")
	numberOf(t, baseline, "old")
	reg, err := sandbox.Register(ctx, db, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = reg.Leave(context.WithoutCancel(ctx)) })
	put("old", "after")
	for _, tenant := range []string{"red", "green", "blue"} {
		kafkatest.Create(t, client, prefix+"."+tenant, 1)
		put(tenant, "first")
	}
	owners := func(tenant string) map[string]string {
		t.Helper()
		who := map[string]string{}
		n := numberOf(t, baseline, tenant)
		eventually(t, 10*time.Second, "the sandbox knows of "+tenant, func() bool {
			parts, err := sandbox.Partitions(ctx)
			return err == nil && n < parts
		})
		for name, log := range map[string]*kafka.Log{"sandbox": sandbox, "baseline": baseline} {
			eventually(t, 30*time.Second, tenant+" is read to its end", func() bool {
				page, err := log.Read(ctx, eventlog.ReadRequest{Partition: n})
				if err != nil {
					t.Fatal(err)
				}
				for i := range page.Events {
					e := &page.Events[i]
					if _, reserved := errors.AsType[*event.Reserved](e.Fault); reserved {
						continue
					}
					if was := who[e.Stream]; was != "" && was != name {
						t.Errorf("tenant %s, stream %s: it is the %s's and the %s's", tenant, e.Stream, was, name)
					}
					who[e.Stream] = name
				}
				return page.Next > 0 && page.Next >= page.Head
			})
		}
		return who
	}
	if who := owners("old"); who["before"] != "baseline" || who["after"] != "sandbox" {
		t.Errorf("of the tenant that was there: %v", who)
	}
	for _, tenant := range []string{"red", "green", "blue"} {
		owners(tenant) // the sandbox has a partition that is new from when it reads it first
		put(tenant, "second")
		if who := owners(tenant); who["first"] == "" || who["second"] != "sandbox" {
			t.Errorf("of tenant %s, who came later: %v", tenant, who)
		}
	}
}

// A dead letter of one of several topics says in which topic and partition of Kafka its
// record is, and is published when the topic is there no more.
func TestLettersOfSeveralTopics(t *testing.T) {
	t.Parallel()
	ctx, client := t.Context(), kafkatest.Client(t)
	admin := kadm.NewClient(client)
	prefix, cfg := tenantTopics(t, kafka.Config{})
	topic := prefix + ".red"
	kafkatest.Create(t, client, prefix+".blue", 2)
	kafkatest.Create(t, client, topic, 1)
	kafkatest.Produce(t, client, tenantRecord(prefix+".blue", "s", 1))
	kafkatest.Produce(t, client, tenantRecord(topic, "s", 7))
	l := open(t, cfg)
	n := numberOf(t, l, "red")
	for _, own := range []string{topic, prefix + ".newcomer", cfg.Directory} {
		if letters, err := kafka.NewLetters(l, own); err == nil {
			_ = letters.Close()
			t.Errorf("%s takes dead letters of what is read from it", own)
		}
	}
	dead := kafkatest.Topic(t, 1)
	letters, err := kafka.NewLetters(l, dead)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = letters.Close() })
	d := &store.DeadLetter{
		ID: 1, Build: store.Build{Processor: "p"}, Partition: n, Tenant: "red", State: store.Poison, Reason: "handler", Error: "no",
		Event: event.Event{Tenant: "red", Stream: "s", Type: "Added", Position: 1, Data: []byte(`{"N":7}`)},
	}
	publish := func(position event.Position) map[string]string {
		t.Helper()
		d.Event.Position = position
		if err := letters.PublishLetter(ctx, d); err != nil {
			t.Fatal(err)
		}
		records := all(t, dead, 1)
		said := map[string]string{}
		for _, h := range records[len(records)-1].Headers {
			said[h.Key] = string(h.Value)
		}
		said["value"] = string(records[len(records)-1].Value)
		return said
	}
	check := func(what string, said map[string]string, rebuilt string, offset int) {
		t.Helper()
		if said[kafka.HeaderLetterTopic] != topic || said[kafka.HeaderLetterPartition] != "0" || said[kafka.HeaderLetterRebuilt] != rebuilt ||
			said[kafka.HeaderLetterOffset] != strconv.Itoa(offset) || said["value"] != `{"N":7}` {
			t.Errorf("%s: %v", what, said)
		}
	}
	check("its record is there", publish(1), "", 0)
	if _, err := admin.DeleteTopic(context.WithoutCancel(ctx), topic); err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, "the topic is gone", func() bool {
		if _, err := l.Partitions(ctx); err != nil {
			t.Fatal(err)
		}
		_, err := l.Read(ctx, eventlog.ReadRequest{Partition: n})
		return errors.Is(err, eventlog.ErrGone)
	})
	check("its topic is gone", publish(1), "true", 0)
}

// Where retention has passed a checkpoint, the error names the topic: the number of the
// log partition says nothing to whoever reads it.
func TestTruncatedNamesItsTopic(t *testing.T) {
	client := kafkatest.Client(t)
	prefix, cfg := tenantTopics(t, kafka.Config{})
	topic := prefix + ".red"
	kafkatest.Create(t, client, topic, 1)
	for i := range 4 {
		kafkatest.Produce(t, client, tenantRecord(topic, "s", i))
	}
	l := open(t, cfg)
	n := numberOf(t, l, "red")
	deleteBefore(t, kadm.NewClient(client), topic, 0, 3)
	_, err := open(t, cfg).Read(t.Context(), eventlog.ReadRequest{Partition: n})
	if !errors.Is(err, eventlog.ErrTruncated) || !strings.Contains(err.Error(), strconv.Quote(topic)) {
		t.Errorf("Read = %v, want one that names %q", err, topic)
	}
}
