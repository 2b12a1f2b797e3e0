package kafka

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/forward"
	"github.com/fairlead-dev/fairlead/kafka/layout"
	"github.com/fairlead-dev/fairlead/tenancy"
)

// TombstoneType is the type of a record without a value, unless a header says
// another one: in a compacted topic it deletes its key.
const TombstoneType = "Tombstone"

// A Mapping makes events of records. The zero Mapping is ready to use.
//
//   - The tenant is that of the headers that Names says, else what the key has in
//     front of KeySeparator, else Tenant.
//   - The class is that of the headers.
//   - The stream is the key, without the tenant in front of it. A key that is no
//     name in UTF-8 is written as 0x and its bytes in hexadecimal. A record without
//     a key is of the stream TOPIC/PARTITION: Kafka keeps no other order for it.
//   - The type is the header "type" or "ce_type", else [TombstoneType] for a record
//     without a value, else Type, else the topic.
//   - The id is the header "id", or "ce_source" and "ce_id", else
//     TOPIC/PARTITION/OFFSET, which is unique and stays.
//   - It happened at the header "occurred_at", "occurred" or "ce_time" (RFC 3339), else at the
//     record's timestamp.
//   - The data are the value as it is; the metadata are the headers.
//
// Versions are 0: Kafka has none, and order follows from positions. An event in
// CloudEvents' structured mode (content-type application/cloudevents+json) is taken
// apart in the same way.
type Mapping struct {
	Layout       *layout.Layout // says whose a record is, before all else; a header that names another tenant parks it
	Names        *tenancy.Names // of headers; default: the preset "fairlead", and a header "tenant"
	KeySeparator string         // "" (default): the key has no tenant in it
	Tenant       string         // of records that name none; "" (default): they are parked
	Type         string         // of records that name none; default: the topic
}

var defaultNames = tenancy.Presets["fairlead"]

// Decode makes an event of a record.
func (m *Mapping) Decode(r *kgo.Record) (event.Event, error) {
	meta := headersOf(r.Headers)
	if strings.HasPrefix(meta["content-type"], "application/cloudevents") {
		return m.structured(r, meta)
	}
	e := m.outline(r, meta)
	if err := m.laidOut(r, e.Tenant); err != nil {
		return e, err
	}
	if f := m.names().fault(r); f != tenancy.NoFault {
		return e, fmt.Errorf("its headers cannot be relied on: %v", f)
	}
	for _, name := range [...]string{"occurred_at", forward.HeaderOccurred, "ce_time"} {
		v, ok := meta[name]
		if !ok {
			continue
		}
		t, err := time.Parse(time.RFC3339Nano, v)
		if err != nil {
			return e, fmt.Errorf("header %q is no time as in RFC 3339: %w", name, err)
		}
		e.OccurredAt = t.UTC()
		break
	}
	e.Data = r.Value
	return e, nil
}

// outline is the event without its data and time: what can always be told.
func (m *Mapping) outline(r *kgo.Record, meta event.Metadata) event.Event {
	e := event.Event{Metadata: meta}
	var sure, whole bool
	e.Tenant, e.Class, sure, whole = m.names().read(r)
	key := string(r.Key)
	if m.KeySeparator != "" && sure {
		// With a header or without, a key has one stream.
		if tenant, rest, ok := strings.Cut(key, m.KeySeparator); ok && (e.Tenant == "" || e.Tenant == tenant) {
			e.Tenant, key = tenant, rest
		}
	}
	if m.Layout != nil {
		if tenant, rest, err := m.Layout.Resolve(r.Topic, key); err == nil {
			e.Tenant, key = tenant, rest
		}
	}
	if e.Tenant == "" && whole {
		e.Tenant = m.Tenant
	}
	switch place := r.Topic + "/" + strconv.Itoa(int(r.Partition)); {
	case len(r.Key) == 0 || key == "":
		e.Stream = place
	case event.CheckStream(key) == nil:
		e.Stream = key
	case len(key) > event.MaxStream/2-1: // an error for its reader: it cannot be written out
		e.Stream = key
	default:
		e.Stream = "0x" + hex.EncodeToString([]byte(key))
	}
	e.Type = first(meta, "type", "ce_type")
	switch {
	case e.Type != "":
	case r.Value == nil:
		e.Type = TombstoneType
	case m.Type != "":
		e.Type = m.Type
	default:
		e.Type = r.Topic
	}
	e.ID = meta["id"]
	if id := meta["ce_id"]; e.ID == "" && id != "" {
		e.ID = cloudID(meta["ce_source"], id)
	}
	if e.ID == "" {
		e.ID = r.Topic + "/" + strconv.Itoa(int(r.Partition)) + "/" + strconv.FormatInt(r.Offset, 10)
	}
	return e
}

// laidOut returns an error for a record that belongs to nobody in the layout, or whose
// headers name another tenant than its place.
func (m *Mapping) laidOut(r *kgo.Record, tenant string) error {
	if m.Layout == nil {
		return nil
	}
	if _, _, err := m.Layout.Resolve(r.Topic, string(r.Key)); err != nil {
		return err
	}
	if said, _, sure, _ := m.names().read(r); sure && said != "" && said != tenant {
		return fmt.Errorf("its headers say that it is tenant %q's, and its place that it is %q's", said, tenant)
	}
	return nil
}

// cloudID is the id of a CloudEvent: it is unique in its source only.
func cloudID(source, id string) string {
	if source == "" {
		return id
	}
	return source + "/" + id
}

// names are where to look for the tenant.
type names struct {
	n     *tenancy.Names
	plain string // one more header
}

func (m *Mapping) names() names {
	if m.Names != nil {
		return names{m.Names, ""}
	}
	return names{&defaultNames, "tenant"}
}

// read returns whose a record is by its headers, "" where they name nobody, and its
// class. They may contradict each other: then it is not guessed, and sure is false.
// Whole: nothing of them may be lost, so who names nobody has the default tenant.
func (n names) read(r *kgo.Record) (tenant, class string, sure, whole bool) {
	if len(r.Headers) == 0 {
		return "", "", true, true
	}
	c, whole := n.context(r)
	class = string(c.Class)
	switch {
	case c.Fault != tenancy.NoFault:
		return "", "", false, false
	case len(c.Tenant) > 0:
		return string(c.Tenant), class, true, whole
	case n.plain == "":
		return "", class, true, whole
	}
	for i := range r.Headers {
		if r.Headers[i].Key == n.plain {
			tenant = string(r.Headers[i].Value)
		}
	}
	return tenant, class, true, whole
}

func (n names) fault(r *kgo.Record) tenancy.Fault {
	if len(r.Headers) == 0 {
		return tenancy.NoFault
	}
	c, _ := n.context(r)
	return c.Fault
}

// context reads the headers. Baggage comes from anybody, and one bad member makes all
// of it doubtful: a record whose class is in a header of its own is not parked for
// that, and has what such headers say. Whole: nothing may be lost.
func (n names) context(r *kgo.Record) (c tenancy.Context, whole bool) {
	c = tenancy.Read(n.n, r.Headers)
	if c.Fault != tenancy.BadBaggage {
		return c, true
	}
	plain := *n.n
	plain.BaggageTenant, plain.BaggageClass, plain.BaggageRoute = "", "", ""
	if own := tenancy.Read(&plain, r.Headers); len(own.Class) > 0 && own.Fault == tenancy.NoFault {
		return own, n.n.BaggageTenant == ""
	}
	return c, false
}

// headersOf returns headers as metadata: of those that come twice, the last.
func headersOf(headers []kgo.RecordHeader) event.Metadata {
	if len(headers) == 0 {
		return nil
	}
	m := make(event.Metadata, len(headers))
	for i := range headers {
		m[headers[i].Key] = string(headers[i].Value)
	}
	return m
}

func first(m event.Metadata, names ...string) string {
	for _, n := range names {
		if v := m[n]; v != "" {
			return v
		}
	}
	return ""
}
