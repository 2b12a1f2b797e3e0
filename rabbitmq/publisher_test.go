package rabbitmq_test

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/forward"
	"github.com/fairlead-dev/fairlead/internal/brokertest"
	"github.com/fairlead-dev/fairlead/rabbitmq"
	"github.com/fairlead-dev/fairlead/sqlite"
	amqp "github.com/rabbitmq/amqp091-go"
)

const (
	exchange = "events"
	queue    = "all"
	most     = 200_000
)

func channel(t *testing.T, url string) *amqp.Channel {
	t.Helper()
	conn, err := amqp.Dial(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	ch, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	return ch
}

func declare(t *testing.T, url string, bind bool) *amqp.Channel {
	t.Helper()
	ch := channel(t, url)
	err := ch.ExchangeDeclare(exchange, "topic", true, false, false, false, nil)
	if err == nil {
		_, err = ch.QueueDeclare(queue, true, false, false, false, nil)
	}
	if err == nil && bind {
		err = ch.QueueBind(queue, "#", exchange, false, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	return ch
}

func publisher(t *testing.T, url string) *rabbitmq.Publisher {
	t.Helper()
	p, err := rabbitmq.New(rabbitmq.Config{URL: url, Exchange: exchange, MaxBytes: most})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

func text(v any) string { s, _ := v.(string); return s }

func TestForward(t *testing.T) {
	broker := brokertest.RabbitMQ(t)
	declare(t, broker.URL, true)
	db, err := sqlite.Open(filepath.Join(t.TempDir(), "outbox.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	brokertest.Forwarding(t, brokertest.Case{
		Outbox: db, Publisher: publisher(t, broker.URL), TooLarge: most + 1,
		Disturb: func() { broker.Kill(); broker.Start() },
		Receive: func(done func(brokertest.Message) bool) {
			ds, err := channel(t, broker.URL).Consume(queue, "", true, false, false, false, nil)
			if err != nil {
				t.Fatal(err)
			}
			for {
				select {
				case d := <-ds:
					if !done(brokertest.Message{
						ID: d.MessageId, Tenant: text(d.Headers["fairlead-tenant"]), Stream: text(d.Headers[forward.HeaderStream]), Type: d.Type,
						Version: text(d.Headers[forward.HeaderVersion]), Trace: text(d.Headers["traceparent"]), Data: string(d.Body),
					}) {
						return
					}
				case <-time.After(5 * time.Second):
					return
				}
			}
		},
	})
}

func TestErrors(t *testing.T) {
	broker := brokertest.RabbitMQ(t)
	p := publisher(t, broker.URL)
	publish := func(e event.Event) error {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		return p.Publish(ctx, &e, "id")
	}
	one := event.Event{Tenant: "acme", Stream: "s", Type: "T", Position: 7, Data: []byte("{}")}
	if err := publish(one); err == nil || errors.Is(err, forward.ErrRefused) || !strings.Contains(err.Error(), exchange) {
		t.Errorf("no exchange: %v", err)
	}
	ch := declare(t, broker.URL, false)
	if err := publish(one); err == nil || errors.Is(err, forward.ErrRefused) || !strings.Contains(err.Error(), "bind a queue") {
		t.Errorf("no queue: %v", err)
	}
	if err := ch.QueueBind(queue, "#", exchange, false, nil); err != nil {
		t.Fatal(err)
	}
	if err := publish(one); err != nil {
		t.Errorf("after that: %v", err)
	}
	for name, e := range map[string]event.Event{
		"too large":          {Tenant: "acme", Stream: "s", Type: "T", Position: 7, Data: make([]byte, most+1)},
		"long metadata name": {Tenant: "acme", Stream: "s", Type: "T", Position: 7, Metadata: event.Metadata{strings.Repeat("k", 256): "v"}},
	} {
		err := publish(e)
		if !errors.Is(err, forward.ErrRefused) || !strings.Contains(err.Error(), "position 7") || !strings.Contains(err.Error(), "acme") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if err := publish(one); err == nil {
		t.Error("published after Close")
	}
	if _, err := rabbitmq.New(rabbitmq.Config{URL: "amqp://u:secret%eim@h/"}); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("a password that is not encoded: %v", err)
	}
	for _, c := range []rabbitmq.Config{{URL: "http://x"}, {URL: broker.URL, Exchange: strings.Repeat("x", 256)}, {URL: broker.URL, MaxBytes: -1}} {
		if _, err := rabbitmq.New(c); err == nil {
			t.Errorf("%+v is accepted", c)
		}
	}
	wrong, err := rabbitmq.New(rabbitmq.Config{URL: strings.Replace(broker.URL, "guest:guest", "guest:secret1", 1)})
	if err != nil {
		t.Fatal(err)
	}
	if err := wrong.Publish(t.Context(), &one, "id"); err == nil || strings.Contains(err.Error(), "secret1") {
		t.Errorf("wrong password: %v", err)
	}
}

// TestBrokerThatDoesNotAnswer: whoever publishes meanwhile is told in time, however many
// there are.
func TestBrokerThatDoesNotAnswer(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	p := publisher(t, "amqp://guest:guest@"+l.Addr().String()+"/")
	var all sync.WaitGroup
	began := time.Now()
	for range 50 {
		all.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			if err := p.Publish(ctx, &event.Event{Tenant: "acme", Stream: "s", Type: "T"}, "id"); err == nil {
				t.Error("published")
			}
		})
	}
	all.Wait()
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("the last one was told after %v", took)
	}
}
