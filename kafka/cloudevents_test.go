package kafka

import (
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/fairlead-dev/fairlead/kafka/layout"
)

// Whose a CloudEvent in structured mode is, its place and its headers say before its
// value does, as of any record.
func TestCloudEventOfAnotherTenant(t *testing.T) {
	own, err := layout.New(layout.Config{Own: "{tenant}.jobs"})
	if err != nil {
		t.Fatal(err)
	}
	shared, err := layout.New(layout.Config{Shared: "jobs"})
	if err != nil {
		t.Fatal(err)
	}
	mode := kgo.RecordHeader{Key: "content-type", Value: []byte("application/cloudevents+json")}
	header := func(k, v string) kgo.RecordHeader { return kgo.RecordHeader{Key: k, Value: []byte(v)} }
	for _, tt := range []struct {
		name         string
		m            Mapping
		topic, key   string
		attribute    string
		headers      []kgo.RecordHeader
		tenant, want string // what is in the error; "": there is none
	}{
		{"place and value agree", Mapping{Layout: own}, "acme.jobs", "k", "acme", nil, "acme", ""},
		{"only the place says it", Mapping{Layout: own}, "acme.jobs", "k", "", nil, "acme", ""},
		{"value against the topic", Mapping{Layout: own}, "acme.jobs", "k", "bolt", nil, "acme", `"bolt"`},
		{"value against the topic of the default tenant", Mapping{Layout: own, Tenant: "acme"}, "acme.jobs", "k", "bolt", nil, "acme", `"bolt"`},
		{"header against the topic", Mapping{Layout: own}, "acme.jobs", "k", "", []kgo.RecordHeader{header("fairlead-tenant", "bolt")}, "acme", `"bolt"`},
		{"value against the key", Mapping{Layout: shared}, "jobs", "acme:k", "bolt", nil, "acme", `"bolt"`},
		{"nobody's key", Mapping{Layout: shared}, "jobs", "k", "bolt", nil, "", "does not begin with a tenant"},
		{"headers that contradict each other", Mapping{}, "jobs", "k", "bolt",
			[]kgo.RecordHeader{header("fairlead-tenant", "acme"), header("fairlead-tenant", "evil")}, "", "cannot be relied on"},
		{"header names the default tenant", Mapping{Tenant: "acme"}, "jobs", "k", "bolt", []kgo.RecordHeader{header("fairlead-tenant", "acme")}, "acme", ""},
		{"nothing but the value", Mapping{Tenant: "acme"}, "jobs", "k", "bolt", nil, "bolt", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			value := `{"id":"7","source":"/shop","type":"Paid","data":1`
			if tt.attribute != "" {
				value += `,"tenant":"` + tt.attribute + `"`
			}
			e, err := tt.m.Decode(&kgo.Record{
				Topic: tt.topic, Key: []byte(tt.key), Value: []byte(value + "}"), Headers: append([]kgo.RecordHeader{mode}, tt.headers...),
			})
			if e.Tenant != tt.tenant {
				t.Errorf("tenant %q, want %q", e.Tenant, tt.tenant)
			}
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("error %v, want one with %q", err, tt.want)
			}
		})
	}
}
