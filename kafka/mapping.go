package kafka

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
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

	// Metadata names the headers that become the event's metadata; nil: all do. Those that
	// nobody reads cost about as much as all else that is done for a record, so
	// name few, or none ([]string{}), where a topic must be read as fast as it can be.
	// [event.SchemaKey] always does.
	Metadata []string
}

var defaultNames = tenancy.Presets["fairlead"]

// Decode makes an event of a record.
func (m *Mapping) Decode(r *kgo.Record) (e event.Event, err error) {
	in := interns.Get().(*interned)
	defer interns.Put(in)
	err = m.decode(&e, r, in)
	return e, err
}

// decode is Decode into e, which is zero.
func (m *Mapping) decode(e *event.Event, r *kgo.Record, in *interned) (err error) {
	k := look(r.Headers)
	w := m.names().read(r, in)
	m.outlined(e, r, &k, &w, in)
	if k.contentType != nil && bytes.HasPrefix(k.contentType, []byte("application/cloudevents")) {
		*e, err = m.structured(r, string(k.contentType), *e, &w)
		return err
	}
	if err := m.laidOut(r, e.Tenant, &w); err != nil {
		return err
	}
	if w.fault != tenancy.NoFault {
		return fmt.Errorf("its headers cannot be relied on: %v", w.fault)
	}
	for i, v := range k.times {
		if v == nil {
			continue
		}
		t, err := time.Parse(time.RFC3339Nano, string(v))
		if err != nil {
			return fmt.Errorf("header %q is no time as in RFC 3339: %w", timeHeaders[i], err)
		}
		e.OccurredAt = t.UTC()
		break
	}
	e.Data = r.Value
	return nil
}

// outline is the event without its data and time: what can always be told.
func (m *Mapping) outline(r *kgo.Record) (e event.Event) {
	in := interns.Get().(*interned)
	defer interns.Put(in)
	k := look(r.Headers)
	w := m.names().read(r, in)
	m.outlined(&e, r, &k, &w, in)
	return e
}

func (m *Mapping) outlined(e *event.Event, r *kgo.Record, k *known, w *whose, in *interned) {
	var key string
	e.ID, key, e.Metadata = m.texts(r, k, in)
	e.Class = w.class
	e.Tenant, key = m.tenant(r.Topic, key, w)
	switch {
	case len(r.Key) == 0 || key == "":
		e.Stream = r.Topic + "/" + strconv.Itoa(int(r.Partition))
	case event.CheckStream(key) == nil:
		e.Stream = key
	case len(key) > event.MaxStream/2-1: // an error for its reader: it cannot be written out
		e.Stream = key
	default:
		e.Stream = "0x" + hex.EncodeToString([]byte(key))
	}
	switch {
	case len(k.typ) > 0:
		e.Type = in.of(k.typ)
	case len(k.ceType) > 0:
		e.Type = in.of(k.ceType)
	case r.Value == nil:
		e.Type = TombstoneType
	case m.Type != "":
		e.Type = m.Type
	default:
		e.Type = r.Topic
	}
}

// tenant returns whose a record is by its headers, its topic and its key, and what of the
// key names the stream.
func (m *Mapping) tenant(topic, key string, w *whose) (tenant, stream string) {
	tenant = w.tenant
	if m.KeySeparator != "" && w.sure {
		// With a header or without, a key has one stream.
		if first, rest, ok := strings.Cut(key, m.KeySeparator); ok && (tenant == "" || tenant == first) {
			tenant, key = first, rest
		}
	}
	if m.Layout != nil {
		if of, rest, err := m.Layout.Resolve(topic, key); err == nil {
			tenant, key = of, rest
		}
	}
	if tenant == "" && w.whole {
		tenant = m.Tenant
	}
	return tenant, key
}

// foreign reports whether a filter by tenants leaves a record out, without making an
// event of it: the lane of a tenant passes over all others'. False where only its value
// can tell whose it is.
func (m *Mapping) foreign(f *eventlog.Filter, r *kgo.Record, in *interned) bool {
	for i := range r.Headers {
		if r.Headers[i].Key == "content-type" && bytes.HasPrefix(r.Headers[i].Value, []byte("application/cloudevents")) {
			return false
		}
	}
	w, key := m.names().read(r, in), ""
	if m.KeySeparator != "" || m.Layout != nil {
		key = string(r.Key)
	}
	tenant, _ := m.tenant(r.Topic, key, &w)
	return f.Tenants != nil && !slices.Contains(f.Tenants, tenant) || slices.Contains(f.Exclude, tenant)
}

// laidOut returns an error for a record that belongs to nobody in the layout, or whose
// headers name another tenant than its place.
func (m *Mapping) laidOut(r *kgo.Record, tenant string, w *whose) error {
	if m.Layout == nil {
		return nil
	}
	if _, _, err := m.Layout.Resolve(r.Topic, string(r.Key)); err != nil {
		return err
	}
	if w.sure && w.tenant != "" && w.tenant != tenant {
		return fmt.Errorf("its headers say that it is tenant %q's, and its place that it is %q's", w.tenant, tenant)
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

// whose says who a record belongs to.
type whose struct {
	tenant, class string // "" where the headers name none
	fault         tenancy.Fault
	sure          bool // the headers do not contradict each other: else nothing is guessed
	whole         bool // and nothing of them may be lost: who names nobody has the default tenant
}

// read returns whose a record is by its headers.
func (n names) read(r *kgo.Record, in *interned) (w whose) {
	if len(r.Headers) == 0 {
		return whose{sure: true, whole: true}
	}
	c, whole := n.context(r)
	w.class, w.fault = in.of(c.Class), c.Fault
	if w.sure = c.Fault == tenancy.NoFault; !w.sure {
		return w
	}
	tenant := c.Tenant
	if len(tenant) == 0 && n.plain != "" {
		for i := range r.Headers {
			if r.Headers[i].Key == n.plain {
				tenant = r.Headers[i].Value
			}
		}
	}
	w.tenant, w.whole = in.of(tenant), whole
	return w
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
