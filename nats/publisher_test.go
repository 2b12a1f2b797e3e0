package nats_test

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/forward"
	"github.com/fairlead-dev/fairlead/internal/brokertest"
	"github.com/fairlead-dev/fairlead/nats"
	"github.com/fairlead-dev/fairlead/sqlite"
	client "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const most = 200_000

func connect(t *testing.T, url string) (*client.Conn, jetstream.JetStream) {
	t.Helper()
	conn, err := client.Connect(url, client.MaxReconnects(-1), client.ReconnectWait(100*time.Millisecond),
		client.ErrorHandler(func(*client.Conn, *client.Subscription, error) {}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	js, err := jetstream.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	return conn, js
}

func stream(t *testing.T, js jetstream.JetStream) jetstream.Stream {
	t.Helper()
	s, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "all", Subjects: []string{"events.>"}, MaxMsgSize: most, Duplicates: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func publisher(t *testing.T, conn *client.Conn) *nats.Publisher {
	t.Helper()
	p, err := nats.New(nats.Config{Conn: conn})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestForward(t *testing.T) {
	broker := brokertest.NATS(t)
	conn, js := connect(t, broker.URL)
	stream(t, js)
	db, err := sqlite.Open(filepath.Join(t.TempDir(), "outbox.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	brokertest.Forwarding(t, brokertest.Case{
		Outbox: db, Publisher: publisher(t, conn), TooLarge: most, Exactly: true,
		Disturb: func() { broker.Kill(); broker.Start() },
		Receive: func(done func(brokertest.Message) bool) {
			c, err := js.OrderedConsumer(t.Context(), "all", jetstream.OrderedConsumerConfig{})
			if err != nil {
				t.Fatal(err)
			}
			for {
				m, err := c.Next(jetstream.FetchMaxWait(5 * time.Second))
				if err != nil {
					return
				}
				h := m.Headers()
				if !done(brokertest.Message{
					ID: header(h, forward.HeaderID), Tenant: header(h, "fairlead-tenant"), Stream: header(h, forward.HeaderStream), Type: header(h, forward.HeaderType),
					Version: header(h, forward.HeaderVersion), Trace: header(h, "traceparent"), Data: string(m.Data()),
				}) {
					return
				}
			}
		},
	})
}

// JetStream drops what has an id that it has seen, whoever sent it. Events of other
// tenants, logs and forwarders may have equal ids, and none of them may be lost.
func TestEqualIDsAreNotDropped(t *testing.T) {
	conn, js := connect(t, brokertest.NATS(t).URL)
	s := stream(t, js)
	make := func(source string) *nats.Publisher {
		p, err := nats.New(nats.Config{Conn: conn, Source: source})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	eu, us := make("eu"), make("us")
	for i, m := range []struct {
		to        *nats.Publisher
		forwarder string
		e         event.Event
	}{
		{eu, "out", event.Event{ID: "1", Tenant: "acme", Stream: "s", Position: 7}},
		{eu, "out", event.Event{ID: "1", Tenant: "other", Stream: "s", Position: 7}},
		{us, "out", event.Event{ID: "1", Tenant: "acme", Stream: "s", Position: 7}},
		{eu, "audit", event.Event{ID: "1", Tenant: "acme", Stream: "s", Position: 7}},
		{eu, "out", event.Event{ID: "1", Tenant: "acme", Stream: "t", Position: 7}},
		{eu, "out", event.Event{ID: "1", Tenant: "acme", Stream: "s", Position: 8}},
		{eu, "out", event.Event{ID: "1", Tenant: "acme.s", Stream: "", Position: 7}},
	} {
		m.e.Type, m.e.Data = "T", []byte("{}")
		for range 2 { // the second is one that the broker has
			if err := m.to.Publish(t.Context(), &m.e, m.forwarder+"/"+m.e.ID); err != nil {
				t.Fatal(err)
			}
		}
		info, err := s.Info(t.Context())
		if err != nil || info.State.Msgs != uint64(i+1) {
			t.Errorf("after event %d: %d messages, want %d (%v)", i, info.State.Msgs, i+1, err)
		}
	}
}

func header(h client.Header, name string) string {
	if v := h[name]; len(v) > 0 {
		return v[0]
	}
	return ""
}

func TestErrors(t *testing.T) {
	broker := brokertest.NATS(t)
	conn, js := connect(t, broker.URL)
	p := publisher(t, conn)
	publish := func(e event.Event) error {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		return p.Publish(ctx, &e, "id of "+e.Type)
	}
	one := event.Event{Tenant: "acme", Stream: "s", Type: "T", Position: 7, Data: []byte("{}")}
	if err := publish(one); err == nil || errors.Is(err, forward.ErrRefused) || !strings.Contains(err.Error(), "make a stream") {
		t.Errorf("no stream: %v", err)
	}
	s := stream(t, js)
	for range 2 { // the second is one that the broker has
		if err := publish(one); err != nil {
			t.Error(err)
		}
	}
	info, err := s.Info(t.Context())
	if err != nil || info.State.Msgs != 1 {
		t.Errorf("%d messages, %v", info.State.Msgs, err)
	}
	for name, e := range map[string]event.Event{
		"too large for the stream": {Tenant: "acme", Stream: "s", Type: "Large", Position: 7, Data: make([]byte, most+1)},
		"too large for the server": {Tenant: "acme", Stream: "s", Type: "Larger", Position: 7, Data: make([]byte, 2<<20)},
		"line break in metadata":   {Tenant: "acme", Stream: "s", Type: "T", Position: 7, Metadata: event.Metadata{"k": "a\r\nNats-Msg-Id: x"}},
		"command to the server":    {Tenant: "acme", Stream: "s", Type: "T", Position: 7, Metadata: event.Metadata{"nats-Rollup": "all"}},
		"colon in a name":          {Tenant: "acme", Stream: "s", Type: "T", Position: 7, Metadata: event.Metadata{"a:b": "v"}},
	} {
		err := publish(e)
		if !errors.Is(err, forward.ErrRefused) || !strings.Contains(err.Error(), "position 7") || !strings.Contains(err.Error(), "acme") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := nats.New(nats.Config{}); err == nil {
		t.Error("accepted without a connection")
	}
}

func TestTokensOfHostileTenants(t *testing.T) {
	seen := map[string]string{}
	for _, tenant := range []string{"acme", "acme.eu", "acme%2Eeu", ">", "*", "a b", "ü", "a\tb", "%", "Acme"} {
		token := nats.Token(tenant)
		if strings.ContainsAny(token, ".*> \t\r\n") || token == "" {
			t.Errorf("%q is the token %q", tenant, token)
		}
		if other, ok := seen[token]; ok {
			t.Errorf("%q and %q are both %q", tenant, other, token)
		}
		seen[token] = tenant
	}
}
