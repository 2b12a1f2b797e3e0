package kafka

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/kafka/layout"
)

// buffered notes what is given to a client, and where it is to go.
type buffered struct{ all []string }

func (b *buffered) OnProduceRecordBuffered(r *kgo.Record) {
	stay, _ := stayOf(r)
	b.all = append(b.all, fmt.Sprintf("%s to %s, stay %d", r.Value, r.Topic, stay))
}

// TestWrittenAgainBehindOneOnItsWay: of two records that follow each other the first is still
// on its way to where its tenant was after a move, as the second is seen to be behind the mark
// of the move before. The second waits for it. No broker: what brokers say is said here.
func TestWrittenAgainBehindOneOnItsWay(t *testing.T) {
	l, err := layout.New(layout.Config{Own: "own.{tenant}", Shared: "shared", Dedicated: func(string) bool { return false }})
	if err != nil {
		t.Fatal(err)
	}
	d := &directory{}
	say := func(s statement) {
		t.Helper()
		data, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		if err := d.apply(data); err != nil {
			t.Fatal(err)
		}
	}
	own, shared := topicID{1}, topicID{2}
	say(statement{Kind: "topic", Topic: "own.t", ID: own, Partitions: 1})
	say(statement{Kind: "topic", Topic: "shared", ID: shared, Partitions: 1})
	say(statement{Kind: "tenant", Tenant: "t"})
	sent := &buffered{}
	client, err := kgo.NewClient(kgo.SeedBrokers("127.0.0.1:1"), kgo.WithHooks(sent), kgo.ProducerLinger(time.Minute), kgo.RecordPartitioner(Partitioner(l)))
	if err != nil {
		t.Fatal(err)
	}
	p := &Producer{t: &Tenants{dir: d, layout: l}, client: client, tenants: map[string]*underWay{}, read: time.Now().Add(time.Hour), confirming: true}
	p.ctx, p.cancel = context.WithCancel(t.Context())
	defer p.end()
	var promised []string
	put := func(value string) *placed {
		t.Helper()
		x := &placed{ctx: t.Context(), r: &kgo.Record{Value: []byte(value)}, tenant: "t", key: "k", promise: func(r *kgo.Record, err error) {
			promised = append(promised, fmt.Sprintf("%s %v", r.Value, err))
		}}
		if !p.enter(x) {
			t.Fatalf("%s has to wait", value)
		}
		if err := p.send(x); err != nil {
			t.Fatal(err)
		}
		return x
	}
	first, second := put("first"), put("second")
	move := func(n int64, toOwn bool, ownAt, sharedAt int) {
		say(statement{Kind: "moving", Tenant: "t", Move: n, Own: toOwn})
		say(statement{Kind: "marked", Tenant: "t", Move: n, Marks: []mark{{own, 0, event.Position(ownAt)}}})
		say(statement{Kind: "moved", Tenant: "t", Move: n, Marks: []mark{{shared, 0, event.Position(sharedAt)}}})
	}
	there := func(x *placed, topic string, offset int64) {
		p.mu.Lock()
		x.r.Topic, x.r.Partition, x.r.Offset, x.there = topic, 0, offset, true
		p.mu.Unlock()
		p.settle(p.arrived())
	}
	move(1, true, 1, 1)
	there(first, "shared", 1) // behind the mark
	move(2, false, 2, 3)
	there(second, "shared", 2) // behind the mark of move 1, while the first is on its way to the own topic
	there(first, "own.t", 2)   // behind the mark of move 2
	want := []string{"first to shared, stay 0", "second to shared, stay 0", "first to own.t, stay 1", "first to shared, stay 2", "second to shared, stay 2"}
	if !slices.Equal(sent.all, want) {
		t.Errorf("sent %q, want %q", sent.all, want)
	}
	there(first, "shared", 4)
	there(second, "shared", 5)
	if want := []string{"first <nil>", "second <nil>"}; !slices.Equal(promised, want) || p.left() > 0 {
		t.Errorf("promised %q, want %q, %d are left", promised, want, p.left())
	}
}
