package kafka

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/tenancy"
)

func TestMapping(t *testing.T) {
	at := time.Date(2026, 3, 4, 5, 6, 7, 89_000_000, time.UTC)
	uber := tenancy.Presets["uber"]
	h := func(pairs ...string) (hs []kgo.RecordHeader) {
		for i := 0; i < len(pairs); i += 2 {
			hs = append(hs, kgo.RecordHeader{Key: pairs[i], Value: []byte(pairs[i+1])})
		}
		return hs
	}
	for _, tt := range []struct {
		name    string
		mapping Mapping
		key     string
		value   string // "-": none
		headers []kgo.RecordHeader
		want    event.Event
		data    string
		fault   string // in the error; "": none
	}{
		{"headers", Mapping{}, "cart-1", `{"a":1}`, h("tenant", "acme", "type", "Paid", "id", "x1"),
			event.Event{Tenant: "acme", Stream: "cart-1", Type: "Paid", ID: "x1"}, `{"a":1}`, ""},
		{"defaults", Mapping{}, "cart-1", `{}`, h("tenant", "acme"),
			event.Event{Tenant: "acme", Stream: "cart-1", Type: "carts", ID: "carts/3/42"}, `{}`, ""},
		{"its own header before another", Mapping{}, "k", `1`, h("tenant", "other", "fairlead-tenant", "acme"),
			event.Event{Tenant: "acme", Stream: "k", Type: "carts", ID: "carts/3/42"}, `1`, ""},
		{"baggage", Mapping{}, "k", `1`, h("baggage", "fairlead-tenant=acme"),
			event.Event{Tenant: "acme", Stream: "k", Type: "carts", ID: "carts/3/42"}, `1`, ""},
		{"headers that contradict each other", Mapping{}, "k", `1`, h("fairlead-tenant", "acme", "baggage", "fairlead-tenant=bolt"),
			event.Event{Stream: "k", Type: "carts", ID: "carts/3/42"}, ``, "contradiction"},
		{"baggage of others that is broken", Mapping{}, "k", `1`, h("tenant", "acme", "fairlead-class", "prod", "baggage", "nonsense,user=1"),
			event.Event{Tenant: "acme", Class: "prod", Stream: "k", Type: "carts", ID: "carts/3/42"}, `1`, ""},
		{"broken baggage, and the tenant in the key", Mapping{KeySeparator: ":", Tenant: "all"}, "acme:k", `1`, h("fairlead-class", "prod", "baggage", "nonsense"),
			event.Event{Tenant: "acme", Class: "prod", Stream: "k", Type: "carts", ID: "carts/3/42"}, `1`, ""},
		{"broken baggage that may have had the tenant", Mapping{Tenant: "all"}, "k", `1`, h("fairlead-class", "prod", "baggage", "nonsense"),
			event.Event{Class: "prod", Stream: "k", Type: "carts", ID: "carts/3/42"}, `1`, ""},
		{"broken baggage that never has the tenant", Mapping{Names: &uber, Tenant: "all"}, "k", `1`, h("request-tenancy", "prod", "baggage", "nonsense"),
			event.Event{Tenant: "all", Class: "prod", Stream: "k", Type: "carts", ID: "carts/3/42"}, `1`, ""},
		{"broken baggage, and no class beside it", Mapping{}, "k", `1`, h("fairlead-tenant", "acme", "baggage", "nonsense,fairlead-class=prod"),
			event.Event{Stream: "k", Type: "carts", ID: "carts/3/42"}, ``, "bad_baggage"},
		{"broken baggage with another class", Mapping{}, "k", `1`, h("fairlead-tenant", "acme", "fairlead-class", "prod", "baggage", "nonsense,fairlead-class=test"),
			event.Event{Stream: "k", Type: "carts", ID: "carts/3/42"}, ``, "contradiction"},
		{"other names", Mapping{Names: &uber, Tenant: "all"}, "k", `1`, h("tenant", "acme"),
			event.Event{Tenant: "all", Stream: "k", Type: "carts", ID: "carts/3/42"}, `1`, ""},
		{"no tenant", Mapping{}, "k", `1`, nil, event.Event{Stream: "k", Type: "carts", ID: "carts/3/42"}, `1`, ""},
		{"tenant in the key", Mapping{KeySeparator: ":"}, "acme:cart:1", `1`, nil,
			event.Event{Tenant: "acme", Stream: "cart:1", Type: "carts", ID: "carts/3/42"}, `1`, ""},
		{"a key without the separator", Mapping{KeySeparator: ":"}, "acme", `1`, nil,
			event.Event{Stream: "acme", Type: "carts", ID: "carts/3/42"}, `1`, ""},
		{"no key", Mapping{Tenant: "a"}, "", `1`, nil, event.Event{Tenant: "a", Stream: "carts/3", Type: "carts", ID: "carts/3/42"}, `1`, ""},
		{"a binary key", Mapping{Tenant: "a"}, "\x00\xff\x01", `1`, nil, event.Event{Tenant: "a", Stream: "0x00ff01", Type: "carts", ID: "carts/3/42"}, `1`, ""},
		{"tombstone", Mapping{Tenant: "a", Type: "Row"}, "k", "-", nil, event.Event{Tenant: "a", Stream: "k", Type: TombstoneType, ID: "carts/3/42"}, "", ""},
		{"tombstone with a type", Mapping{Tenant: "a"}, "k", "-", h("type", "Deleted"), event.Event{Tenant: "a", Stream: "k", Type: "Deleted", ID: "carts/3/42"}, "", ""},
		{"a type of the mapping", Mapping{Tenant: "a", Type: "Row"}, "k", "1", nil, event.Event{Tenant: "a", Stream: "k", Type: "Row", ID: "carts/3/42"}, "1", ""},
		{"a time", Mapping{Tenant: "a"}, "k", "1", h("occurred_at", "2026-01-02T03:04:05.678901+01:00"),
			event.Event{Tenant: "a", Stream: "k", Type: "carts", ID: "carts/3/42", OccurredAt: time.Date(2026, 1, 2, 2, 4, 5, 678_901_000, time.UTC)}, "1", ""},
		{"no time", Mapping{Tenant: "a"}, "k", "1", h("occurred_at", "yesterday"),
			event.Event{Tenant: "a", Stream: "k", Type: "carts", ID: "carts/3/42"}, "", "RFC 3339"},
		{"CloudEvent, binary", Mapping{}, "k", `{"n":1}`, h("tenant", "a", "ce_specversion", "1.0", "ce_id", "7", "ce_source", "/shop", "ce_type", "Paid", "ce_time", "2026-01-02T03:04:05Z", "content-type", "application/json"),
			event.Event{Tenant: "a", Stream: "k", Type: "Paid", ID: "/shop/7", OccurredAt: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}, `{"n":1}`, ""},
		{"CloudEvent, structured", Mapping{}, "", `{"specversion":"1.0","id":"7","source":"/shop","type":"Paid","tenant":"a","partitionkey":"cart-9","time":"2026-01-02T03:04:05Z","data":{"n":1}}`, h("content-type", "application/cloudevents+json; charset=UTF-8"),
			event.Event{Tenant: "a", Stream: "cart-9", Type: "Paid", ID: "/shop/7", OccurredAt: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}, `{"n":1}`, ""},
		{"CloudEvent, structured, with bytes", Mapping{Tenant: "a"}, "k", `{"id":"7","source":"/shop","type":"Paid","data_base64":"AAH/"}`, h("content-type", "application/cloudevents+json"),
			event.Event{Tenant: "a", Stream: "k", Type: "Paid", ID: "/shop/7"}, "\x00\x01\xff", ""},
		{"CloudEvent, structured, without a type", Mapping{Tenant: "a"}, "k", `{"id":"7","source":"/shop"}`, h("content-type", "application/cloudevents+json"),
			event.Event{Tenant: "a", Stream: "k", ID: "carts/3/42"}, "", "without id, source or type"},
		{"CloudEvent, structured, not JSON", Mapping{Tenant: "a"}, "k", `{`, h("content-type", "application/cloudevents+json"),
			event.Event{Tenant: "a", Stream: "k", ID: "carts/3/42"}, "", "CloudEvent"},
		{"CloudEvent in another format", Mapping{Tenant: "a"}, "k", `x`, h("content-type", "application/cloudevents+avro"),
			event.Event{Tenant: "a", Stream: "k", ID: "carts/3/42"}, "", "only application/cloudevents+json"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := &kgo.Record{Topic: "carts", Partition: 3, Offset: 42, Timestamp: at, Headers: tt.headers, Value: []byte(tt.value)}
			if tt.key != "" {
				r.Key = []byte(tt.key)
			}
			if tt.value == "-" {
				r.Value = nil
			}
			l := Log{decode: tt.mapping.Decode, fallback: &tt.mapping}
			e := eventOf(&l, r)
			if e.Position != 43 || !e.RecordedAt.Equal(at) {
				t.Errorf("position %v, recorded at %v, want 43 and %v", e.Position, e.RecordedAt, at)
			}
			if tt.want.OccurredAt.IsZero() {
				tt.want.OccurredAt = at
			}
			if e.Tenant != tt.want.Tenant || e.Stream != tt.want.Stream || e.Type != tt.want.Type || e.ID != tt.want.ID || !e.OccurredAt.Equal(tt.want.OccurredAt) {
				t.Errorf("got  %q %q %q %q %v\nwant %q %q %q %q %v", e.Tenant, e.Stream, e.Type, e.ID, e.OccurredAt,
					tt.want.Tenant, tt.want.Stream, tt.want.Type, tt.want.ID, tt.want.OccurredAt)
			}
			// Whose it is can be told without making an event of it.
			in := interns.Get().(*interned)
			defer interns.Put(in)
			structured := slices.ContainsFunc(tt.headers, func(h kgo.RecordHeader) bool { return h.Key == "content-type" })
			for _, f := range []eventlog.Filter{{Tenants: []string{"x", e.Tenant}}, {Exclude: []string{"x"}}, {Tenants: []string{e.Tenant}, Exclude: []string{"x"}}} {
				if tt.mapping.foreign(&f, r, in) {
					t.Errorf("a record of %q is foreign to %+v", e.Tenant, f)
				}
			}
			for _, f := range []eventlog.Filter{{Tenants: []string{"x"}}, {Tenants: []string{}}, {Exclude: []string{"x", e.Tenant}}} {
				if !structured && !tt.mapping.foreign(&f, r, in) {
					t.Errorf("a record of %q is not foreign to %+v", e.Tenant, f)
				}
			}
			if string(e.Data) != tt.data {
				t.Errorf("data %q, want %q", e.Data, tt.data)
			}
			if tt.fault == "" && (e.Fault != nil || e.Withheld != 0) || tt.fault != "" && (e.Fault == nil || !strings.Contains(e.Fault.Error(), tt.fault) || e.Withheld == 0) {
				t.Errorf("fault %v, withheld %d, want %q", e.Fault, e.Withheld, tt.fault)
			}
		})
	}
}

// A user's decoder that panics makes poison of the record, and nothing worse.
func TestDecoderPanics(t *testing.T) {
	l := Log{decode: func(*kgo.Record) (event.Event, error) { panic("oops") }, fallback: &Mapping{}}
	e := eventOf(&l, &kgo.Record{Topic: "t", Offset: 1, Key: []byte("k"), Headers: []kgo.RecordHeader{{Key: "tenant", Value: []byte("a")}, {Key: "fairlead-class", Value: []byte("test")}}})
	if e.Class != "test" {
		t.Errorf("class %q", e.Class)
	}
	if e.Fault == nil || !strings.Contains(e.Fault.Error(), "oops") || e.Tenant != "a" || e.Stream != "k" || e.Withheld != 1 {
		t.Errorf("event %+v", e)
	}
}

// Only the headers that are asked for become metadata, and the schema's version always.
func TestMetadataOfSomeHeaders(t *testing.T) {
	r := &kgo.Record{Topic: "carts", Key: []byte("k"), Value: []byte("1"), Headers: []kgo.RecordHeader{
		{Key: "tenant", Value: []byte("acme")}, {Key: "type", Value: []byte("Paid")}, {Key: "id", Value: []byte("7")},
		{Key: "schema", Value: []byte("2")}, {Key: "trace", Value: []byte("t1")}, {Key: "trace", Value: []byte("t2")},
	}}
	for _, tt := range []struct {
		names []string
		want  event.Metadata
	}{
		{nil, event.Metadata{"tenant": "acme", "type": "Paid", "id": "7", "schema": "2", "trace": "t2"}},
		{[]string{}, event.Metadata{"schema": "2"}},
		{[]string{"trace", "none"}, event.Metadata{"schema": "2", "trace": "t2"}},
	} {
		e, err := (&Mapping{Metadata: tt.names}).Decode(r)
		if err != nil || e.Tenant != "acme" || e.ID != "7" || e.HandledType() != "Paid@2" || !maps.Equal(e.Metadata, tt.want) {
			t.Errorf("%q: %q %q %q %v, %v, want metadata %v", tt.names, e.Tenant, e.ID, e.HandledType(), e.Metadata, err, tt.want)
		}
	}
}

func eventOf(l *Log, r *kgo.Record) (e event.Event) {
	l.event(&e, r, nil, &interned{names: map[string]string{}})
	return e
}
