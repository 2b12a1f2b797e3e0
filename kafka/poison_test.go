package kafka_test

import (
	"errors"
	"strings"
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
)

// A record that cannot be decoded parks its key and nothing else. When the decoder
// is better, a retry decodes the record again, and what waited behind it follows.
func TestUndecodableRecordParksItsKey(t *testing.T) {
	client := kafkatest.Client(t)
	topic, url := kafkatest.Topic(t, 1), pgtest.Database(t)
	var better atomic.Bool
	mapping := new(kafka.Mapping)
	cfg := kafka.Config{Brokers: kafkatest.Brokers(t), Topic: topic, Decode: func(r *kgo.Record) (event.Event, error) {
		e, err := mapping.Decode(r)
		if strings.HasPrefix(string(e.Data), "<") {
			if !better.Load() {
				return event.Event{}, errors.New("no schema 7")
			}
			e.Data = []byte(strings.Trim(string(e.Data), "<>"))
		}
		return e, err
	}}
	p := tallies()
	m := start(t, url, cfg, fairlead.Project(p))
	records := kafkatest.Produce(t, client,
		record(topic, 0, "a", "bad", "Added", `{"N":1}`), record(topic, 0, "a", "bad", "Added", `<{"N":2}>`), record(topic, 0, "a", "bad", "Added", `{"N":3}`),
		record(topic, 0, "a", "good", "Added", `{"N":1}`), record(topic, 0, "", "nobody's", "Added", `{"N":1}`), record(topic, 0, "a", "good", "Added", `{"N":2}`))
	end := event.Position(records[len(records)-1].Offset + 1)
	if err := m.WaitFor(t.Context(), "tallies", eventlog.Token{Position: end, Tenants: []string{"a"}}); err != nil {
		t.Fatal(err)
	}
	want := func(stream string, n int) {
		t.Helper()
		var w tally
		for i := range n {
			w.add(i + 1)
		}
		if got, err := fairlead.Get(t.Context(), m.db, p, "a", stream); err != nil || got.State != w {
			t.Errorf("%s = %+v, %v, want %+v", stream, got.State, err, w)
		}
	}
	want("good", 2)
	want("bad", 1)
	admin := fairlead.Admin{Store: m.db, Log: m.log}
	letters, err := admin.DeadLetters(t.Context(), fairlead.LetterFilter{})
	if err != nil || len(letters) != 3 {
		t.Fatalf("dead letters %+v, %v, want three", letters, err)
	}
	for _, l := range letters {
		switch {
		case l.Event.Position == 2 && l.Reason == "decode" && strings.Contains(l.Error, "no schema 7") && strings.Contains(l.Error, topic+"/0/1") && l.Tenant == "a":
		case l.Event.Position == 3 && l.State == "waiting":
		case l.Event.Position == 5 && l.Reason == "name" && strings.Contains(l.Error, "tenant"):
		default:
			t.Errorf("letter %+v", l)
		}
	}
	better.Store(true)
	key := letters[0].Key
	if _, err := admin.Retry(t.Context(), "tallies", "a", key); err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, "the key is applied", func() bool {
		got, err := fairlead.Get(t.Context(), m.db, p, "a", "bad")
		return err == nil && got.State.Count == 3
	})
	want("bad", 3)
}

// A processor that stopped does not go on in a topic that was made anew.
func TestProcessorRefusesRecreatedTopic(t *testing.T) {
	client := kafkatest.Client(t)
	admin := kadm.NewClient(client)
	topic, url := kafkatest.Topic(t, 2), pgtest.Database(t)
	cfg := kafka.Config{Brokers: kafkatest.Brokers(t), Topic: topic, Group: kafkatest.Name(t)}
	l := newLoad(t, client, topic, 2)
	if err := l.write(t.Context(), 100); err != nil {
		t.Fatal(err)
	}
	m := start(t, url, cfg, fairlead.Project(tallies()))
	l.wait(m, "tallies")
	m.stop()
	if _, err := admin.DeleteTopic(t.Context(), topic); err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, "the topic can be made again", func() bool {
		_, err := admin.CreateTopic(t.Context(), 2, 1, nil, topic)
		return err == nil
	})
	l = newLoad(t, kafkatest.Client(t), topic, 2)
	if err := l.write(t.Context(), 1000); err != nil {
		t.Fatal(err)
	}
	db, err := postgres.Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	c, err := fairlead.New(fairlead.Config{Log: open(t, cfg), Store: db})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Add(t.Context(), fairlead.Project(tallies())); err == nil || !strings.Contains(err.Error(), "another log") {
		t.Errorf("Add = %v, want that the positions are of another log", err)
	}
}

// Partitions that are added while processes run are worked from their first record.
func TestProcessorFollowsAddedPartitions(t *testing.T) {
	t.Parallel()
	client := kafkatest.Client(t)
	topic, url := kafkatest.Topic(t, 2), pgtest.Database(t)
	cfg := kafka.Config{Brokers: kafkatest.Brokers(t), Topic: topic, Group: kafkatest.Name(t), Options: []kgo.Opt{kgo.MetadataMaxAge(3 * time.Second), kgo.MetadataMinAge(time.Second)}}
	p := tallies()
	l := newLoad(t, client, topic, 2)
	if err := l.write(t.Context(), 100); err != nil {
		t.Fatal(err)
	}
	a, b := start(t, url, cfg, fairlead.Project(p)), start(t, url, cfg, fairlead.Project(p))
	l.wait(a, "tallies")
	if _, err := kadm.NewClient(client).UpdatePartitions(t.Context(), 4, topic); err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, "the broker knows of the new partitions", func() bool {
		topics, err := kadm.NewClient(client).ListTopics(t.Context(), topic)
		return err == nil && len(topics[topic].Partitions) == 4
	})
	client = kafkatest.Client(t) // one that has not heard of two partitions: it would not ask again
	eventually(t, 20*time.Second, "the new partitions can be written", func() bool {
		return client.ProduceSync(t.Context(), record(topic, 3, "a", "s", "Other", "1")).FirstErr() == nil
	})
	grown := newLoad(t, client, topic, 4)
	grown.onlyNew = true
	if err := grown.write(t.Context(), 500); err != nil {
		t.Fatal(err)
	}
	grown.wait(b, "tallies")
	grown.check(b.db, p)
	l.check(b.db, p)
	eventually(t, 30*time.Second, "the group shares out four partitions", share(4, a, b))
}
