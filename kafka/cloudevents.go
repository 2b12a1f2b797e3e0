package kafka

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/tenancy"
)

// structured takes an event apart that is in the structured mode of CloudEvents
// 1.0 (its JSON format and Kafka binding): attributes and data in one value. The
// attribute "tenant" names the tenant where the record does not, and its other
// attributes come as metadata, as ce_NAME, like those of the binary mode. What its
// headers and its place say counts as for any record: nothing in the value can give it
// to another tenant than the layout does.
func (m *Mapping) structured(r *kgo.Record, kind string, e event.Event, w *whose) (event.Event, error) {
	meta := e.Metadata
	e.Type = "" // until it is known
	if err := m.laidOut(r, e.Tenant, w); err != nil {
		return e, err
	}
	if w.fault != tenancy.NoFault {
		return e, fmt.Errorf("its headers cannot be relied on: %v", w.fault)
	}
	if !strings.HasPrefix(kind, "application/cloudevents+json") {
		return e, fmt.Errorf("content-type %q: of CloudEvents in structured mode only application/cloudevents+json is read", kind)
	}
	var attributes map[string]json.RawMessage
	if err := json.Unmarshal(r.Value, &attributes); err != nil {
		return e, fmt.Errorf("a CloudEvent: %w", err)
	}
	e.Metadata = make(event.Metadata, len(meta)+len(attributes))
	maps.Copy(e.Metadata, meta)
	text := map[string]string{}
	for name, raw := range attributes {
		if name == "data" || name == "data_base64" || string(raw) == "null" {
			continue
		}
		v := string(raw)
		if raw[0] == '"' {
			if err := json.Unmarshal(raw, &v); err != nil {
				return e, fmt.Errorf("a CloudEvent: attribute %q: %w", name, err)
			}
		}
		text[name], e.Metadata["ce_"+name] = v, v
	}
	if kind, ok := text["datacontenttype"]; ok {
		e.Metadata["content-type"] = kind
	}
	if text["id"] == "" || text["type"] == "" || text["source"] == "" {
		return e, fmt.Errorf("a CloudEvent without id, source or type")
	}
	e.ID, e.Type = cloudID(text["source"], text["id"]), text["type"]
	switch said := text["tenant"]; {
	case m.Layout != nil && said != "" && said != e.Tenant:
		return e, fmt.Errorf("a CloudEvent: its attribute says that it is tenant %q's, and its place that it is %q's", said, e.Tenant)
	case m.Layout != nil:
	case e.Tenant == "" || e.Tenant == m.Tenant && said != "" && w.tenant == "":
		e.Tenant = said
	}
	if len(r.Key) == 0 && text["partitionkey"] != "" {
		e.Stream = text["partitionkey"]
	}
	if v := text["time"]; v != "" {
		t, err := time.Parse(time.RFC3339Nano, v)
		if err != nil {
			return e, fmt.Errorf("a CloudEvent: its time: %w", err)
		}
		e.OccurredAt = t.UTC()
	}
	switch data, ok := attributes["data"]; {
	case ok:
		e.Data = data
	case attributes["data_base64"] != nil:
		var coded string
		err := json.Unmarshal(attributes["data_base64"], &coded)
		if err == nil {
			e.Data, err = base64.StdEncoding.DecodeString(coded)
		}
		if err != nil {
			return e, fmt.Errorf("a CloudEvent: data_base64: %w", err)
		}
	}
	return e, nil
}
