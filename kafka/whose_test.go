package kafka

import (
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/forward"
	"github.com/fairlead-dev/fairlead/tenancy"
	"github.com/twmb/franz-go/pkg/kgo"
)

// TestStreamWithAndWithoutAHeader: a key has one stream, whether or not a producer has
// begun to write headers.
func TestStreamWithAndWithoutAHeader(t *testing.T) {
	m := &Mapping{KeySeparator: ":"}
	for _, x := range []struct{ key, header, tenant, stream string }{
		{"acme:s", "", "acme", "s"},
		{"acme:s", "acme", "acme", "s"},
		{"other:s", "acme", "acme", "other:s"},
		{"s", "acme", "acme", "s"},
	} {
		r := &kgo.Record{Topic: "t", Key: []byte(x.key), Value: []byte("{}")}
		if x.header != "" {
			r.Headers = []kgo.RecordHeader{{Key: "fairlead-tenant", Value: []byte(x.header)}}
		}
		e, err := m.Decode(r)
		if err != nil || e.Tenant != x.tenant || e.Stream != x.stream {
			t.Errorf("key %q, header %q: tenant %q, stream %q, %v", x.key, x.header, e.Tenant, e.Stream, err)
		}
	}
}

// TestForwardedIsRead: what Forward writes of an event is what is read of it.
func TestForwardedIsRead(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)
	was := event.Event{ID: "e", Tenant: "acme", Class: "test", Stream: "s", Type: "Paid", OccurredAt: at, Data: []byte("{}"), Metadata: event.Metadata{"k": "v"}}
	hs, err := forward.Headers(&was, "x", tenancy.Names{})
	if err != nil {
		t.Fatal(err)
	}
	r := &kgo.Record{Topic: "t", Key: []byte("acme:s"), Value: was.Data, Timestamp: at.Add(time.Hour)}
	for _, h := range hs {
		r.Headers = append(r.Headers, kgo.RecordHeader(h))
	}
	e, err := (&Mapping{KeySeparator: ":"}).Decode(r)
	if err != nil || e.ID != was.ID || e.Tenant != was.Tenant || e.Class != was.Class || e.Stream != was.Stream || e.Type != was.Type ||
		!e.OccurredAt.Equal(at) || e.Metadata["k"] != "v" {
		t.Errorf("%+v, %v", e, err)
	}
}

// TestTestTenantsOfKeys: the class that goes by the tenant goes by the tenant that the
// event has.
func TestTestTenantsOfKeys(t *testing.T) {
	router, _, err := tenancy.NewRouter(tenancy.Rules{
		Environment: tenancy.Sandbox, Host: "pr-1", Service: "s", TestTenants: []string{"t1"}, Allowed: []string{"test"},
	})
	if err != nil {
		t.Fatal(err)
	}
	l := &Log{cfg: Config{Router: router}, fallback: &Mapping{KeySeparator: ":"}}
	for key, want := range map[string]bool{"t1:a": true, "t2:a": false} {
		if taken, fault := l.route(&chunk{records: []*kgo.Record{&kgo.Record{Topic: "t", Key: []byte(key)}}}, 0); taken != want || fault != nil {
			t.Errorf("key %q: taken %v, %v", key, taken, fault)
		}
	}
	if taken, _ := l.route(&chunk{records: []*kgo.Record{&kgo.Record{Topic: "t", Key: []byte("k"), Headers: []kgo.RecordHeader{{Key: "tenant", Value: []byte("t1")}}}}}, 0); !taken {
		t.Error("the tenant of another header is not seen")
	}
}
