package brokertest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/forward"
	"github.com/fairlead-dev/fairlead/store"
)

// A Message is what a consumer of a broker got.
type Message struct {
	ID, Tenant, Stream, Type, Version, Trace string
	Data                                     string
}

// An Outbox is a database with events that are to be forwarded.
type Outbox interface {
	eventlog.Log
	eventlog.Appender
	store.Store
}

// A Case is a broker under test.
type Case struct {
	Outbox    Outbox
	Publisher forward.Publisher
	Disturb   func()                               // stops the broker and starts it again
	Receive   func(done func(Message) (more bool)) // hands over what the broker has stored, in its order
	TooLarge  int                                  // bytes of a payload that the broker refuses
	Exactly   bool                                 // the broker drops what it has
}

const (
	trace   = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	tenants = 5
	streams = 8   // of a tenant
	each    = 100 // events of a stream
)

// Forwarding forwards events, has the broker killed meanwhile, and the consumer
// stopped and started, and checks that each event has arrived, in order by stream,
// and that an event which the broker refuses holds up its own stream only.
func Forwarding(t *testing.T, c Case) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	forwarder := fairlead.Forward("out", c.Publisher, fairlead.Options{Timeout: 5 * time.Second, Retry: fairlead.Retry{Max: 500 * time.Millisecond}})
	run := func() (stop func()) {
		consumer, err := fairlead.New(fairlead.Config{Log: c.Outbox, Store: c.Outbox})
		if err != nil {
			t.Fatal(err)
		}
		if err := consumer.Add(ctx, forwarder); err != nil {
			t.Fatal(err)
		}
		running, end := context.WithCancel(ctx)
		ended := make(chan error, 1)
		go func() { ended <- consumer.Run(running) }()
		return func() {
			end()
			if err := <-ended; !errors.Is(err, context.Canceled) {
				t.Errorf("the consumer ended: %v", err)
			}
		}
	}
	var last eventlog.Token
	written := map[string]int{}
	appendAll := func(from, to int) {
		t.Helper()
		for n := from; n < to; n++ {
			var all []eventlog.StreamAppend
			for tenant := range tenants {
				for stream := range streams {
					all = append(all, eventlog.StreamAppend{Tenant: fmt.Sprintf("tenant.%d ü", tenant), Stream: fmt.Sprintf("s-%d", stream), Events: []eventlog.NewEvent{{
						Type: "Counted", Data: fmt.Appendf(nil, `{"n":%d}`, n+1), Metadata: map[string]string{"traceparent": trace},
					}}})
				}
			}
			token, err := c.Outbox.Append(ctx, all...)
			if err != nil {
				t.Fatal(err)
			}
			last = token
		}
		for tenant := range tenants {
			for stream := range streams {
				written[fmt.Sprintf("tenant.%d ü/s-%d", tenant, stream)] = to
			}
		}
	}
	large := func(size int) {
		t.Helper()
		token, err := c.Outbox.Append(ctx, eventlog.StreamAppend{Tenant: "large", Stream: "s", Events: []eventlog.NewEvent{
			{Type: "Counted", Data: fmt.Appendf(nil, `{"n":"%0*d"}`, size, 1)}, {Type: "Counted", Data: []byte(`{"n":2}`)},
		}})
		if err != nil {
			t.Fatal(err)
		}
		last = token
	}
	wait := func() {
		t.Helper()
		consumer, err := fairlead.New(fairlead.Config{Log: c.Outbox, Store: c.Outbox})
		if err != nil {
			t.Fatal(err)
		}
		if err := consumer.WaitFor(ctx, "out", last); err != nil {
			t.Fatalf("not all is forwarded: %v", err)
		}
	}

	appendAll(0, each/4)
	large(c.TooLarge)
	stop := run()
	wait()
	stop()
	appendAll(each/4, each/2)
	stop = run()
	c.Disturb()
	appendAll(each/2, each)
	wait()
	stop()

	letters, err := fairlead.Admin{Log: c.Outbox, Store: c.Outbox}.DeadLetters(ctx, store.LetterFilter{Build: store.Build{Processor: "out"}})
	if err != nil {
		t.Fatal(err)
	}
	if len(letters) != 2 || letters[0].State != store.Poison || letters[1].State != store.Waiting || letters[0].Tenant != "large" {
		t.Errorf("%d dead letters: %+v", len(letters), letters)
	}
	next, ids, twice := map[string]int{}, map[string]bool{}, 0
	total := 0
	for _, n := range written {
		total += n
	}
	c.Receive(func(m Message) bool {
		if m.Trace != trace || m.Type != "Counted" {
			t.Errorf("message %+v: headers are lost", m)
		}
		if ids[m.ID] {
			twice++
			return len(ids) < total
		}
		ids[m.ID] = true
		key := m.Tenant + "/" + m.Stream
		next[key]++
		if m.Data != fmt.Sprintf(`{"n":%d}`, next[key]) || m.Version != fmt.Sprint(next[key]) {
			t.Errorf("%s: version %s with %s came as number %d", key, m.Version, m.Data, next[key])
		}
		return len(ids) < total
	})
	for key, n := range written {
		if next[key] != n {
			t.Errorf("%s: %d of %d events have arrived", key, next[key], n)
		}
	}
	if c.Exactly && twice > 0 {
		t.Errorf("%d messages are there twice", twice)
	}
	t.Logf("%d events, %d messages again", total, twice)
}
