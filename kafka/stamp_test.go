package kafka_test

import (
	"strings"
	"testing"

	"github.com/fairlead-dev/fairlead/kafka"
	"github.com/fairlead-dev/fairlead/tenancy"
	"github.com/twmb/franz-go/pkg/kgo"
)

func stamped(t *testing.T, preset string, o *tenancy.Origin, headers ...kgo.RecordHeader) *kgo.Record {
	t.Helper()
	hook, ok := kafka.Stamp(tenancy.Presets[preset]).(kgo.HookProduceRecordBuffered)
	if !ok {
		t.Fatal("no hook of produced records")
	}
	r := &kgo.Record{Context: t.Context(), Headers: headers}
	if o != nil {
		r.Context = tenancy.NewContext(t.Context(), *o)
	}
	hook.OnProduceRecordBuffered(r)
	return r
}

func TestStamp(t *testing.T) {
	origin := &tenancy.Origin{Tenant: "acme", Class: "test", Route: map[string]string{"orders": "pr-42"}}
	for preset, names := range tenancy.Presets {
		if preset == "signadot" {
			origin = &tenancy.Origin{Tenant: "acme", Class: "test", Route: map[string]string{"": "pr-42"}}
		}
		r := stamped(t, preset, origin, kgo.RecordHeader{Key: "traceparent", Value: []byte("t")}, kgo.RecordHeader{Key: "baggage", Value: []byte("user=1")})
		c := tenancy.Read(&names, r.Headers)
		if c.Fault != tenancy.NoFault || string(c.Class) != "test" || names.Tenant+names.BaggageTenant != "" && string(c.Tenant) != "acme" || !strings.Contains(string(c.Route), "pr-42") {
			t.Errorf("%s: %+v is read from %v", preset, c, r.Headers)
		}
		if string(r.Headers[0].Value) != "t" {
			t.Errorf("%s: other headers are lost: %v", preset, r.Headers)
		}
		var baggage strings.Builder
		for _, h := range r.Headers {
			if h.Key == "baggage" {
				baggage.WriteString(string(h.Value))
			}
		}
		if !strings.Contains(baggage.String(), "user=1") {
			t.Errorf("%s: other members of the baggage are lost: %q", preset, baggage.String())
		}
		origin = &tenancy.Origin{Tenant: "acme", Class: "test", Route: map[string]string{"orders": "pr-42"}}
	}
	if r := stamped(t, "fairlead", nil, kgo.RecordHeader{Key: "k", Value: []byte("v")}); len(r.Headers) != 1 {
		t.Errorf("without an origin: %v", r.Headers)
	}
}

// TestStampTooLong: a test event must not lose what makes it one.
func TestStampTooLong(t *testing.T) {
	o := &tenancy.Origin{Tenant: "acme", Class: "test", Route: map[string]string{"orders": strings.Repeat("x", tenancy.MaxValue)}}
	for preset, names := range tenancy.Presets {
		r := stamped(t, preset, &tenancy.Origin{Tenant: o.Tenant, Class: o.Class, Route: map[string]string{"orders": strings.Repeat("x", tenancy.MaxValue), "": strings.Repeat("x", tenancy.MaxValue+1)}})
		if c := tenancy.Read(&names, r.Headers); c.Fault == tenancy.NoFault {
			t.Errorf("%s: %+v is read from %d headers", preset, c, len(r.Headers))
		}
	}
}
