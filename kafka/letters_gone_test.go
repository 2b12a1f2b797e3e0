package kafka_test

import (
	"context"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/internal/kafkatest"
	"github.com/fairlead-dev/fairlead/kafka"
	"github.com/fairlead-dev/fairlead/store"
)

// A dead letter whose topic was deleted, or is another one of that name, is published as
// the store has it: the record at that place in the new topic is not the one that was
// parked.
func TestLetterOfATopicThatIsGone(t *testing.T) {
	t.Parallel()
	for _, again := range []bool{false, true} {
		t.Run(map[bool]string{false: "deleted", true: "made again"}[again], func(t *testing.T) {
			t.Parallel()
			topic, letters := kafkatest.Topic(t, 1), kafkatest.Topic(t, 1)
			client := kafkatest.Client(t)
			admin := kadm.NewClient(client)
			if err := client.ProduceSync(t.Context(), record(topic, 0, "acme", "old", "Added", `{"N":1}`)).FirstErr(); err != nil {
				t.Fatal(err)
			}
			to, err := kafka.NewLetters(open(t, kafka.Config{Topic: topic}), letters)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = to.Close() }()
			if _, err := admin.DeleteTopic(t.Context(), topic); err != nil {
				t.Fatal(err)
			}
			if again {
				eventually(t, time.Minute, "the topic is made again", func() bool {
					r, err := admin.CreateTopic(t.Context(), 1, 1, nil, topic)
					return err == nil && r.Err == nil
				})
				if err := kafkatest.Client(t).ProduceSync(t.Context(), record(topic, 0, "acme", "new", "Added", `{"N":2}`)).FirstErr(); err != nil {
					t.Fatal(err)
				}
			}
			d := &store.DeadLetter{
				ID: 7, Build: store.Build{Processor: "p", Number: 1}, Tenant: "acme", Key: "k", State: store.Poison, Reason: "handler", At: time.Now(),
				Event: event.Event{Position: 1, Tenant: "acme", Stream: "old", Type: "Added", Data: []byte(`{"N":1}`)},
			}
			if err := to.PublishLetter(t.Context(), d); err != nil {
				t.Fatal(err)
			}
			out := all(t, letters, 1)
			if len(out) != 1 || string(out[0].Key) != "old" || string(out[0].Value) != `{"N":1}` {
				t.Errorf("published %v", out)
			}
		})
	}
}

// Logs of several topics are told apart in a ledger: their partitions have the numbers
// of a directory each.
func TestLedgerTellsDirectoriesApart(t *testing.T) {
	t.Parallel()
	topics := []string{kafkatest.Topic(t, 1), kafkatest.Topic(t, 1)}
	seen, admin := map[string]bool{}, kadm.NewClient(kafkatest.Client(t))
	for i := range 2 {
		dir := topics[0] + ".directory-" + string(rune('a'+i))
		t.Cleanup(func() {
			_, _ = admin.DeleteTopic(context.WithoutCancel(t.Context()), dir)
		})
		for range 2 {
			l := open(t, kafka.Config{Topics: topics, Directory: dir})
			seen[l.LedgerLog()] = true
			if l.LedgerLog() != l.Identity() {
				t.Errorf("%q in a ledger, %q in a store", l.LedgerLog(), l.Identity())
			}
		}
	}
	if len(seen) != 2 {
		t.Errorf("two directories have the names %v", seen)
	}
}
