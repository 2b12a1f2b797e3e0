package postgres

import (
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"sync"
	"time"
	"unsafe"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/jackc/pgx/v5/pgtype"
)

const int8Array = pgtype.Int8ArrayOID

// The columns of an event, in the order of eventColumns and behind it the size of
// a payload that is withheld.
const (
	colPosition = iota
	colVersion
	colOccurred
	colRecorded
	colTenant
	colStream
	colType
	colClass
	colID
	colMetadata
	colData
	colRaw
	colWithheld
	colTwice   // of a Mapping: the next event has the same position
	colHeaders // of a Mapping: metadata from other columns
)

// A memory holds what the events of one page share: names and metadata that are
// equal, and large buffers for the payloads, so an event costs few allocations.
type memory struct {
	names *nameCache // from nameCaches; nil until the first
	meta  map[string]event.Metadata
	id    []byte
	data  []byte // the rest of the current buffer
	share int    // and its size

	mapped bool // the rows are of a Mapping
}

// decode decodes a row in PostgreSQL's binary format. V is valid for this call
// only.
func (m *memory) decode(e *event.Event, v [][]byte) (err error) {
	e.Position = event.Position(binary.BigEndian.Uint64(v[colPosition]))
	e.Version = int64(binary.BigEndian.Uint64(v[colVersion]))
	if e.OccurredAt, err = decodeTime(v[colOccurred]); err != nil {
		return err
	}
	if e.RecordedAt, err = decodeTime(v[colRecorded]); err != nil {
		return err
	}
	e.Tenant, e.Stream, e.Type = m.name(v[colTenant]), m.name(v[colStream]), m.name(v[colType])
	if len(v[colClass]) > 0 {
		e.Class = m.name(v[colClass])
	}
	if v[colID] != nil {
		e.ID = string(v[colID])
	} else {
		m.id = appendDerivedID(m.id[:0], e)
		id := m.copy(m.id) // never written to again
		e.ID = unsafe.String(unsafe.SliceData(id), len(id))
	}
	if m.mapped {
		e.Metadata = m.mappedMetadata(v[colMetadata], v[colHeaders])
	} else if e.Metadata, err = m.metadata(v[colMetadata]); err != nil {
		return err
	}
	switch {
	case v[colWithheld] != nil:
		e.Withheld = int64(binary.BigEndian.Uint32(v[colWithheld]))
	case v[colData] != nil:
		e.Data = m.copy(v[colData])
	case v[colRaw] != nil:
		e.Data = m.copy(v[colRaw])
	}
	return nil
}

// decodeTime reads microseconds since 2000.
func decodeTime(b []byte) (time.Time, error) {
	us := int64(binary.BigEndian.Uint64(b))
	if us == 1<<63-1 || us == -1<<63 {
		return time.Time{}, fmt.Errorf("postgres: an infinite time, set by hand")
	}
	const from1970To2000 = 946684800 * 1_000_000
	return time.UnixMicro(us + from1970To2000).UTC(), nil
}

// A nameCache is strings that were met lately, each in the slot that its hash says. So
// the events of one stream, in this page and in those to come, share its name: it is
// not allocated again, and that two names are equal is seen at a glance.
type nameCache [8192]string

const longName = 128 // bytes; longer ones are not kept

var (
	nameCaches = sync.Pool{New: func() any { return new(nameCache) }}
	namesSeed  = maphash.MakeSeed()
)

// name returns b as a string that equal names share.
func (m *memory) name(b []byte) string {
	if len(b) == 0 || len(b) > longName {
		return string(b)
	}
	if m.names == nil {
		m.names = nameCaches.Get().(*nameCache)
	}
	slot := &m.names[maphash.Bytes(namesSeed, b)%uint64(len(m.names))]
	if *slot != string(b) {
		*slot = string(b)
	}
	return *slot
}

// done gives back what other pages may use, after the last event.
func (m *memory) done() {
	if m.names != nil {
		nameCaches.Put(m.names)
		m.names = nil
	}
}

// metadata reads metadata. Equal ones share a map: nobody may change it.
func (m *memory) metadata(b []byte) (event.Metadata, error) {
	if b == nil {
		return nil, nil
	}
	if out, ok := m.meta[string(b)]; ok {
		return out, nil
	}
	out, err := decodeMetadata(b)
	if err != nil {
		return nil, err
	}
	if len(m.meta) < 64 {
		if m.meta == nil {
			m.meta = make(map[string]event.Metadata)
		}
		m.meta[string(b)] = out
	}
	return out, nil
}

// copy returns a copy of b that is not nil. A small payload shares a buffer with
// its neighbours, a large one has its own, so that keeping one event does not
// keep much else. Buffers grow with the page: at the tail, pages are small.
func (m *memory) copy(b []byte) []byte {
	const least, most = 1 << 10, 64 << 10
	n := len(b)
	if n > most/8 || n == 0 {
		return append(make([]byte, 0, n), b...)
	}
	if n > len(m.data) {
		m.share = min(max(2*m.share, least, 2*n), most)
		m.data = make([]byte, m.share)
	}
	out := m.data[:n:n]
	m.data = m.data[n:]
	copy(out, b)
	return out
}
