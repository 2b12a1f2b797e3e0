package postgres

import (
	"encoding/binary"
	"fmt"
	"time"

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
	names map[string]string
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
		e.ID = string(m.id)
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

// name returns b as a string that equal names share.
func (m *memory) name(b []byte) string {
	if s, ok := m.names[string(b)]; ok {
		return s
	}
	s := string(b)
	if len(m.names) < 1024 {
		if m.names == nil {
			m.names = make(map[string]string)
		}
		m.names[s] = s
	}
	return s
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
