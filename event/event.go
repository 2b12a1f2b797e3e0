// Package event is the vocabulary that everything else shares: what an event
// is, where it stands in its log, and which names are acceptable.
package event

import (
	"math"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// A Position says where an event stands in its log partition. Positions are
// totally ordered inside one log partition and mean nothing outside it; they may
// have gaps. The zero Position is before the first event.
type Position int64

const (
	// Beginning is before the first event of every log.
	Beginning Position = 0
	// Unbounded is after every event. As the end of an exclusion it means
	// "until further notice".
	Unbounded Position = math.MaxInt64
)

// String returns p in decimal; [Unbounded] is "∞".
func (p Position) String() string {
	if p == Unbounded {
		return "∞"
	}
	return strconv.FormatInt(int64(p), 10)
}

// Metadata are the headers of an event. Nil is an empty Metadata.
type Metadata map[string]string

// SchemaKey is the metadata key that holds the schema version of an event's
// data. An event of type "Paid" with schema "2" is handled as type "Paid@2".
const SchemaKey = "schema"

// An Event is an immutable fact. Whoever receives one must not change Data or
// Metadata: they are shared between all readers of a page.
type Event struct {
	Position   Position  // where it stands in its log partition
	ID         string    // unique in its log; see [DerivedID]
	Tenant     string    // the customer whose event it is
	Stream     string    // the ordered unit; unique inside its tenant only
	Version    int64     // 1, 2, 3, ... inside one (tenant, stream); 0 where the log has none
	Type       string    // what happened
	Class      string    // of traffic: "prod", "test", ...; "" is the default class, production
	OccurredAt time.Time // when it happened, by its producer's clock
	RecordedAt time.Time // when the log stored it, by the log's clock
	Metadata   Metadata
	Data       []byte // the payload, JSON unless the user chose another codec

	// Withheld is the size in bytes of a payload that the log did not hand out
	// because it is larger than the reader allows; Data is then nil. 0 otherwise.
	Withheld int64

	// Fault is why a log could not decode what it has stored: such an event is
	// parked, if it is of a type that is handled, or its type is not known ("").
	// Its payload is withheld, so that it is read again when that is retried.
	Fault error

	memo *Memo
}

// A Memo keeps what the readers of a shared page have found out about an event,
// one decoded form of its payload above all, so that ten projections at the tail
// decode it once. Safe for concurrent use.
type Memo struct {
	p     atomic.Pointer[remembered]
	valid atomic.Bool // CheckOnce has found no fault
}

type remembered struct{ key, value any }

// Share gives every event of a page that several will read a place for its
// decoded payload, and for the result of [Event.CheckOnce].
func Share(page []Event) {
	memos := make([]Memo, len(page))
	for i := range page {
		page[i].memo = &memos[i]
	}
}

// Decoded returns what [Event.SetDecoded] kept under key, which is comparable.
// Whoever gets it must not change it.
func (e *Event) Decoded(key any) (value any, ok bool) {
	if e.memo == nil {
		return nil, false
	}
	r := e.memo.p.Load()
	if r == nil || r.key != key {
		return nil, false
	}
	return r.value, true
}

// SetDecoded keeps a decoded payload, if the event is shared and has none yet.
func (e *Event) SetDecoded(key, value any) {
	if e.memo != nil {
		e.memo.p.CompareAndSwap(nil, &remembered{key, value})
	}
}

// Size returns about how many bytes of memory e holds.
func (e *Event) Size() int {
	n := 160 + len(e.ID) + len(e.Tenant) + len(e.Stream) + len(e.Type) + len(e.Class) + len(e.Data)
	for k, v := range e.Metadata {
		n += 48 + len(k) + len(v)
	}
	return n
}

// HandledType returns the type under which e is handled: Type, or Type@schema
// where the metadata name a schema version.
func (e *Event) HandledType() string {
	if s, ok := e.Metadata[SchemaKey]; ok && s != "" {
		return e.Type + "@" + s
	}
	return e.Type
}

// DerivedID returns the id of an event that was appended without one. It is
// unique because (tenant, stream, version) is. The length prefixes keep two
// different triples from having one id, whatever the names contain.
func DerivedID(tenant, stream string, version int64) string {
	b := make([]byte, 0, len(tenant)+len(stream)+32)
	b = strconv.AppendInt(b, int64(len(tenant)), 10)
	b = append(b, ':')
	b = append(b, tenant...)
	b = append(b, '/')
	b = append(b, stream...)
	b = append(b, '@')
	b = strconv.AppendInt(b, version, 10)
	return string(b)
}

// ParseDerivedID returns the triple of which id is the [DerivedID], if it is one.
// Such an id is reserved for that event: see eventlog.Appender.
func ParseDerivedID(id string) (tenant, stream string, version int64, ok bool) {
	head, rest, found := strings.Cut(id, ":")
	if !found || len(head) > 4 {
		return "", "", 0, false
	}
	n, err := strconv.Atoi(head)
	if err != nil || n < 0 || n >= len(rest) || rest[n] != '/' {
		return "", "", 0, false
	}
	tenant, rest = rest[:n], rest[n+1:]
	at := strings.LastIndexByte(rest, '@')
	if at < 0 {
		return "", "", 0, false
	}
	stream = rest[:at]
	version, err = strconv.ParseInt(rest[at+1:], 10, 64)
	if err != nil || DerivedID(tenant, stream, version) != id {
		return "", "", 0, false // "+1" and "01" are other spellings of a number
	}
	return tenant, stream, version, true
}
