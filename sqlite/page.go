package sqlite

import (
	"fmt"
	"strconv"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	zs "zombiezen.com/go/sqlite"
)

// A pageBuilder collects events. Payloads share large buffers, and so do ids:
// an event costs no allocation of its own.
type pageBuilder struct {
	c       *conn
	req     *eventlog.ReadRequest
	full    bool // the page must not have more
	maxData int64
	bytes   int
	out     []event.Event
	ids     []byte
	idEnds  []int
	data    []byte // the rest of the current buffer
	share   int    // and its size
	meta    map[string]event.Metadata
	metaBuf []byte

	stream   int64 // the one before, and its names
	names    *eventlog.StreamRef
	typ      int64
	typeName string
	class    string
}

// newPage returns a builder for about want events, if that is sure.
func newPage(c *conn, req *eventlog.ReadRequest, want int64, sure bool) *pageBuilder {
	b := &pageBuilder{c: c, req: req, stream: -1, typ: -1, maxData: 1 << 62}
	if req.MaxEventBytes > 0 {
		b.maxData = int64(req.MaxEventBytes)
	}
	if !sure {
		want = min(want, 64)
	}
	b.out = make([]event.Event, 0, want)
	b.idEnds = make([]int, 0, want)
	b.ids = make([]byte, 0, 32*want)
	return b
}

// events returns what was collected.
func (b *pageBuilder) events() []event.Event {
	ids, start := string(b.ids), 0
	for i, end := range b.idEnds {
		b.out[i].ID = ids[start:end]
		start = end
	}
	return b.out
}

// prepare prepares a statement with eventColumns.
func (b *pageBuilder) prepare(query string) (*zs.Stmt, error) {
	s, err := b.c.Prepare(query)
	if err == nil {
		s.BindInt64(1, b.maxData)
	}
	return s, err
}

// scan looks at the events in (after, until] in order, and returns up to where
// it came.
func (b *pageBuilder) scan(f *rowFilter, after, until event.Position) (event.Position, error) {
	s, err := b.prepare(selectRange)
	if err != nil {
		return after, err
	}
	if after < until-maxExamined {
		until = after + maxExamined
	}
	s.BindInt64(2, int64(after))
	s.BindInt64(3, int64(until))
	for {
		more, err := s.Step()
		if err != nil {
			return after, err
		}
		if !more {
			return until, s.Reset()
		}
		if !f.accepts(s) {
			continue
		}
		if err := b.add(s); err != nil {
			return after, err
		}
		if b.full {
			return b.out[len(b.out)-1].Position, s.Reset()
		}
	}
}

// byTenant is scan for the events of a few tenants, found by the index.
func (b *pageBuilder) byTenant(tenants []int64, f *rowFilter, after, until event.Position, m mark) (event.Position, error) {
	positions, until, err := b.c.tenantPositions(tenants, after, until, b.req.MaxEvents, m)
	if err != nil {
		return after, err
	}
	if last, done, err := b.find(positions, f); err != nil || !done {
		return last, err
	}
	return until, nil
}

// find adds the events at positions that f accepts, which are all of a range
// that it accepts. It returns where it came to, and whether that is the end.
func (b *pageBuilder) find(positions []int64, f *rowFilter) (last event.Position, done bool, err error) {
	if n := len(positions); n > 0 && positions[n-1]-positions[0] < int64(4*n) {
		// Close together: looking at all is faster than one by one.
		end := event.Position(positions[n-1])
		last, err = b.scan(f, event.Position(positions[0])-1, end)
		return last, last == end && !b.full, err
	}
	last, err = b.fetch(positions, f)
	return last, !b.full, err
}

// fetch adds the events at positions until the page is full, and returns the
// last position that it has looked at.
func (b *pageBuilder) fetch(positions []int64, f *rowFilter) (last event.Position, err error) {
	s, err := b.prepare(selectPosition)
	if err != nil {
		return 0, err
	}
	for _, p := range positions {
		s.BindInt64(2, p)
		more, err := s.Step()
		if err != nil {
			return last, err
		}
		if more && f.accepts(s) {
			if err := b.add(s); err != nil {
				return last, err
			}
		}
		if err := s.Reset(); err != nil {
			return last, err
		}
		if last = event.Position(p); b.full {
			break
		}
	}
	return last, nil
}

// add appends the event in the current row of s.
func (b *pageBuilder) add(s *zs.Stmt) error {
	b.out = append(b.out, event.Event{})
	e := &b.out[len(b.out)-1]
	e.Position = event.Position(s.ColumnInt64(colPosition))
	e.Version = s.ColumnInt64(colVersion)
	if no := s.ColumnInt64(colStream); no != b.stream {
		names, err := b.c.streamName(no)
		if err != nil {
			return err
		}
		b.stream, b.names = no, names
	}
	e.Tenant, e.Stream = b.names.Tenant, b.names.Stream
	if no := s.ColumnInt64(colType); no != b.typ {
		name, err := b.c.typeName(no)
		if err != nil {
			return err
		}
		b.typ, b.typeName = no, name
	}
	e.Type = b.typeName
	if !s.ColumnIsNull(colClass) {
		if class := s.ColumnText(colClass); class != b.class {
			b.class = class
		}
		e.Class = b.class
	}
	var err error
	if e.OccurredAt, err = columnTime(s, colOccurred); err != nil {
		return fmt.Errorf("event %v: %w", e.Position, err)
	}
	e.RecordedAt = time.Unix(0, s.ColumnInt64(colRecorded)).UTC()

	before := len(b.ids)
	if n := s.ColumnLen(colID); n > 0 {
		b.ids = append(b.ids, make([]byte, n)...)
		s.ColumnBytes(colID, b.ids[before:])
	} else {
		b.ids = appendDerivedID(b.ids, e)
	}
	b.idEnds = append(b.idEnds, len(b.ids))

	if err := b.metadata(s, e); err != nil {
		return fmt.Errorf("event %v: %w", e.Position, err)
	}
	if b.req.MaxEventBytes > 0 && s.ColumnType(colData) == zs.TypeInteger {
		e.Withheld = s.ColumnInt64(colData)
	} else if n := s.ColumnLen(colData); n > 0 {
		e.Data = b.buffer(n)
		s.ColumnBytes(colData, e.Data)
	}
	b.bytes += e.Size() + len(b.ids) - before
	b.full = len(b.out) >= b.req.MaxEvents || b.bytes >= b.req.MaxBytes
	return nil
}

// appendDerivedID appends [event.DerivedID].
func appendDerivedID(b []byte, e *event.Event) []byte {
	b = strconv.AppendInt(b, int64(len(e.Tenant)), 10)
	b = append(b, ':')
	b = append(b, e.Tenant...)
	b = append(b, '/')
	b = append(b, e.Stream...)
	b = append(b, '@')
	return strconv.AppendInt(b, e.Version, 10)
}

// buffer returns n bytes to fill. A small payload shares a buffer with its
// neighbours, a large one has its own, so that keeping one event does not keep
// much else. Buffers grow with the page: at the tail, pages are small.
func (b *pageBuilder) buffer(n int) []byte {
	const least, most = 1 << 10, 64 << 10
	if n > most/8 {
		return make([]byte, n)
	}
	if n > len(b.data) {
		b.share = min(max(2*b.share, least, 2*n), most)
		b.data = make([]byte, b.share)
	}
	out := b.data[:n:n]
	b.data = b.data[n:]
	return out
}

// metadata reads the metadata. Equal ones share a map: nobody may change it.
func (b *pageBuilder) metadata(s *zs.Stmt, e *event.Event) error {
	n := s.ColumnLen(colMetadata)
	if n == 0 {
		return nil
	}
	b.metaBuf = append(b.metaBuf[:0], make([]byte, n)...)
	s.ColumnBytes(colMetadata, b.metaBuf)
	if m, ok := b.meta[string(b.metaBuf)]; ok {
		e.Metadata = m
		return nil
	}
	m, err := decodeMetadata(b.metaBuf, s.ColumnType(colMetadata) == zs.TypeBlob)
	if err != nil {
		return err
	}
	if len(b.meta) < 64 {
		if b.meta == nil {
			b.meta = make(map[string]event.Metadata)
		}
		b.meta[string(b.metaBuf)] = m
	}
	e.Metadata = m
	return nil
}
