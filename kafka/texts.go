package kafka

import (
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/forward"
)

// What a record's texts cost decides how fast a topic is read, so headers are gone
// through once, names that come again and again are kept, and the other texts of a
// few records share one allocation. Nothing here refers to the bytes of the record: a name
// that somebody keeps must not keep a batch in memory.

// known are the values of the headers that a mapping looks for, of those that come
// twice the last; nil: it is not there.
type known struct {
	typ, ceType, id, ceSource, ceID, contentType []byte
	times                                        [len(timeHeaders)][]byte
}

var timeHeaders = [...]string{"occurred_at", forward.HeaderOccurred, "ce_time"}

func look(headers []kgo.RecordHeader) (k known) {
	for i := range headers {
		v := headers[i].Value
		switch headers[i].Key {
		case "type":
			k.typ = v
		case "ce_type":
			k.ceType = v
		case "id":
			k.id = v
		case "ce_source":
			k.ceSource = v
		case "ce_id":
			k.ceID = v
		case "content-type":
			k.contentType = v
		case timeHeaders[0]:
			k.times[0] = present(v)
		case timeHeaders[1]:
			k.times[1] = present(v)
		case timeHeaders[2]:
			k.times[2] = present(v)
		}
	}
	return k
}

// present makes an empty value one that is there.
func present(v []byte) []byte {
	if v == nil {
		return []byte{}
	}
	return v
}

// texts returns the id of a record, its key, and its headers as metadata: of those that
// come twice, the last.
func (m *Mapping) texts(r *kgo.Record, k *known, in *interned) (id, key string, meta event.Metadata) {
	var buf [64]byte
	place := buf[:0]
	size := len(r.Key)
	switch {
	case len(k.id) > 0:
		size += len(k.id)
	case len(k.ceID) > 0:
		size += len(k.ceSource) + 1 + len(k.ceID)
	default:
		place = strconv.AppendInt(append(place, '/'), int64(r.Partition), 10)
		place = strconv.AppendInt(append(place, '/'), r.Offset, 10)
		size += len(r.Topic) + len(place)
	}
	wanted := 0
	for i := range r.Headers {
		if m.wants(r.Headers[i].Key) {
			size += len(r.Headers[i].Value)
			wanted++
		}
	}
	all := in.room(size)
	begin := all.Len()
	switch {
	case len(k.id) > 0:
		all.Write(k.id)
	case len(k.ceID) > 0:
		if len(k.ceSource) > 0 {
			all.Write(k.ceSource)
			all.WriteByte('/')
		}
		all.Write(k.ceID)
	default:
		all.WriteString(r.Topic)
		all.Write(place)
	}
	ends := all.Len()
	all.Write(r.Key)
	keyEnds := all.Len()
	for i := range r.Headers {
		if wanted > 0 && m.wants(r.Headers[i].Key) {
			all.Write(r.Headers[i].Value)
		}
	}
	text := all.String()
	id, key, text = text[begin:ends], text[ends:keyEnds], text[keyEnds:]
	if wanted == 0 {
		return id, key, nil
	}
	meta = make(event.Metadata, wanted)
	for i := range r.Headers {
		if h := &r.Headers[i]; m.wants(h.Key) {
			n := len(h.Value)
			meta[h.Key], text = text[:n], text[n:]
		}
	}
	return id, key, meta
}

// wants reports whether a header becomes metadata.
func (m *Mapping) wants(header string) bool {
	return m.Metadata == nil || header == event.SchemaKey || slices.Contains(m.Metadata, header)
}

// interned are names that come again and again, of tenants, types and classes, and
// room for those that do not.
type interned struct {
	names  map[string]string
	recent [64]string // of names, by a hash: most are found here
	texts  strings.Builder
}

const (
	mostInterned = 1 << 12 // names; then it begins anew

	// textBlock is what the texts of some records share. Somebody who keeps one of them
	// keeps no more than this.
	textBlock = 256
)

var interns = sync.Pool{New: func() any { return &interned{names: map[string]string{}} }}

func (in *interned) of(name []byte) string {
	n := len(name)
	if n == 0 {
		return ""
	}
	at := &in.recent[(n+int(name[n-1])*7+int(name[n/2])*31+int(name[max(0, n-2)])*13)%len(in.recent)]
	if *at == string(name) {
		return *at
	}
	s, ok := in.names[string(name)]
	if !ok {
		s = string(name)
		if n > event.MaxTenant {
			return s
		}
		if len(in.names) >= mostInterned {
			clear(in.names)
		}
		in.names[s] = s
	}
	*at = s
	return s
}

// room returns what has room for so many bytes, and is not copied as they are written.
func (in *interned) room(size int) *strings.Builder {
	if in.texts.Cap()-in.texts.Len() < size {
		in.texts.Reset()
		in.texts.Grow(max(size, textBlock))
	}
	return &in.texts
}
